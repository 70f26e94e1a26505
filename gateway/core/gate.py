"""The gate in front of a target: what its keys let through, who waits, and who comes back when.

One gate for each provider and model, or group of models that share their limits; the keys of clients that pass their own on have
gates of their own (law 11). Families share a gate, as they share the account's limits. A gate decides nothing about an exchange: it
says from when on a request of some size has room, keeps the queue of those that wait, and names whose turn it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from gateway.core.bucket import NEVER, Bucket
from gateway.core.plan import Priority, QuotaPlan, Resource
from gateway.core.promises import Promises
from gateway.core.queue import Queue, Waiter
from gateway.core.quota import Quota
from gateway.core.throttle import Throttle
from gateway.core.tokens import Ratio

LOOK_S: Final = 0.5
"""A gate with a queue is looked at this often, whatever it expects: limits are learned and forgotten meanwhile."""
USUAL_CALL_S: Final = 2.0
"""How long a request is taken to last where none has ended yet."""
EASE: Final = 8.0
"""Where no limit is known, a target with so many requests under way counts as half full."""
SMOOTHING: Final = 0.1
"""What the last call weighs in the mean of all."""

_REQUESTS: Final = Resource.REQUESTS


class Gate:
    """What stands between all exchanges and one target's limits."""

    __slots__ = ("_plan", "call_s", "grouped", "label", "pending", "promises", "provider", "queue", "quotas", "ratio", "throttle")

    def __init__(self, provider: str, label: str, plan: QuotaPlan, depth: int, *, grouped: bool = False) -> None:
        self.provider = provider
        self.grouped = grouped
        """It stands before a group of models, and is labelled by that."""
        self.label = label
        """Model or group, for metrics."""
        self._plan = plan
        self.quotas: dict[str | None, Quota] = {}
        """By the key's id; None: the client's own, or none."""
        self.queue = Queue(depth)
        self.promises = Promises()
        self.throttle = Throttle()
        self.ratio = Ratio()
        self.pending = 0
        """Attempts under way."""
        self.call_s = USUAL_CALL_S
        """How long attempts are under way; kept by whoever ends them, smoothed by `SMOOTHING`."""

    def replan(self, now: float, plan: QuotaPlan, depth: int, keys: Collection[str | None]) -> None:
        """Take over new settings on reload; what is known of keys that are no longer there is forgotten, unless they are in use."""
        self._plan = plan
        self.queue.depth = depth
        for key in [key for key, quota in self.quotas.items() if key not in keys and not quota.inflight]:
            del self.quotas[key]
        for quota in self.quotas.values():
            quota.replan(now, plan)

    def quota(self, now: float, key: str | None) -> Quota:
        """Return the limits of this key."""
        quota = self.quotas.get(key)
        if quota is None:
            quota = self.quotas[key] = Quota(self._plan, now)
        return quota

    @property
    def idle(self) -> bool:
        """Whether nobody would miss it."""
        return not self.pending and not self.queue

    @property
    def paced(self) -> bool:
        """Whether a limit on a rate is known: what waits for that adds nothing to the load."""
        return any(quota.buckets for quota in self.quotas.values())

    @property
    def counts_tokens(self) -> bool:
        """Whether what a request takes of tokens matters here."""
        for quota in self.quotas.values():
            if quota.counts_tokens:
                return True
        return not self.quotas and any(rate.resource is not _REQUESTS for rate in self._plan.rates)

    # -- what is to be expected -----------------------------------------------------------------------------------------------

    def rates(self, now: float, keys: Iterable[str | None]) -> tuple[float | None, float | None]:
        """Return the (tokens, requests) per second that these keys let through together; None where that is not bound."""
        tokens = requests = 0.0
        for key in keys:
            quota = self.quota(now, key)
            token_rates, request_rates = _rates(quota)
            limit = quota.limit(now)
            if limit is not None:
                request_rates.append(limit / max(self.call_s, 0.001))
            tokens += min(token_rates, default=NEVER)
            requests += min(request_rates, default=NEVER)
        return (tokens if tokens < NEVER else None), (requests if requests < NEVER else None)

    def wait_s(self, now: float, waiter: Waiter, keys: tuple[str | None, ...], ready_at: float) -> float:
        """Return for how long a newcomer would wait: until there is room at all, and for those before it.

        `ready_at`: when there is room for it, were nobody else waiting.
        """
        tokens_per_s, requests_per_s = self.rates(now, keys)
        queued_s = self.queue.wait(
            client=waiter.client,
            weight=waiter.weight,
            priority=waiter.priority,
            tokens=waiter.tokens,
            tokens_per_s=tokens_per_s,
            requests_per_s=requests_per_s,
        )
        if ready_at == NEVER:
            # Some request under way must end first; they end one after the other.
            ready_at = now + 1.0 / requests_per_s if requests_per_s else now
        # What there is room for is theirs first.
        return max(0.0, ready_at - now) + queued_s

    def promise(self, now: float, waiter: Waiter, keys: tuple[str | None, ...], wait_s: float) -> tuple[float | None, bool]:
        """Return in how many seconds a client that is refused will be let in, None where that cannot be told.

        And whether that time is booked for it: where no rate is known, others may have been told the same.
        """
        tokens_per_s, requests_per_s = self.rates(now, keys)
        delay_s = self.promises.give(
            now,
            waiter.client,
            wait_s=wait_s,
            tokens=waiter.tokens,
            tokens_per_s=tokens_per_s,
            requests_per_s=requests_per_s,
            share=self.queue.share(waiter.client, waiter.weight, waiter.priority),
        )
        return delay_s, tokens_per_s is not None or requests_per_s is not None

    def busy(self, now: float) -> float:
        """Return how full it is, 0 to 1: the tightest of its known limits; of several keys, the emptiest."""
        known = [share for quota in self.quotas.values() if (share := _busy(quota, now)) is not None]
        return min(known) if known else self.pending / (self.pending + EASE)

    def priority_depths(self) -> Iterable[tuple[Priority, int]]:
        """Yield how many wait of each class."""
        return zip(Priority, self.queue.depths(), strict=True)


def _rates(quota: Quota) -> tuple[list[float], list[float]]:
    tokens = [bucket.per_s for bucket in quota.buckets if bucket.resource is not _REQUESTS]
    return tokens, [bucket.per_s for bucket in quota.buckets if bucket.resource is _REQUESTS]


def _busy(quota: Quota, now: float) -> float | None:
    shares = [_used(bucket, now) for bucket in quota.known(now)]
    limit = quota.limit(now)
    if limit is not None:
        shares.append(min(1.0, quota.inflight / limit))
    return max(shares) if shares else None


def _used(bucket: Bucket, now: float) -> float:
    return min(1.0, max(0.0, 1.0 - bucket.level(now) / bucket.burst))
