"""What an operator has set about limits, queues and shares: the part of a configuration that shaping adds to a `World`.

Apart from the world, which compiles it into its snapshot as it does with `Delivery`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping

from gateway.config.snapshot import Client
from gateway.core.plan import Balance, ClientPlan, Priority, ProviderPlan, QuotaPlan, RatePlan, Resource

MINUTE_S = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Shaping:
    """The settings; those that are left out are the gateway's own defaults."""

    quotas: Mapping[str, QuotaPlan] = dataclasses.field(default_factory=dict)
    """By provider."""
    queue_wait_s: float = 10.0
    queue_depth: int = 1000
    balance: Balance = Balance.ORDERED
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Of targets, by provider."""

    def over(self, plan: ProviderPlan) -> ProviderPlan:
        """Return a provider's plan with these settings in it."""
        quota = self.quotas.get(plan.name, QuotaPlan())
        return dataclasses.replace(plan, quota=quota, queue_wait_s=self.queue_wait_s, queue_depth=self.queue_depth)


def per_minute(requests: float | None, tokens: float | None, burst_s: float) -> QuotaPlan:
    """Return a quota of so many requests and tokens a minute, with bursts of so many seconds' worth."""
    rates = [
        RatePlan(resource, amount, MINUTE_S, max(1.0, amount * burst_s / MINUTE_S))
        for resource, amount in ((Resource.REQUESTS, requests), (Resource.TOKENS, tokens))
        if amount is not None
    ]
    return QuotaPlan(tuple(rates))


def key_of(name: str) -> str:
    """Return a client's key."""
    return f"gw-{name}"


def known(name: str, *, weight: float = 1.0, priority: Priority = Priority.STANDARD) -> Client:
    """Return a client as the configuration names it."""
    digest = hashlib.sha256(key_of(name).encode()).digest()
    return Client(name, digest, plan=ClientPlan(name, priority=priority, weight=weight))


def equals(count: int) -> tuple[Client, ...]:
    """Return so many clients with nothing to tell them apart but their names."""
    return tuple(known(f"team{number}") for number in range(count))


def names(clients: Iterable[Client]) -> tuple[str, ...]:
    """Return the clients' names, in order."""
    return tuple(client.name for client in clients)
