"""What one client may send, as the configuration says: its own limits, in front of everything else.

The same arithmetic as for providers (`core.quota`), with the opposite consequence: what a provider's limit has no room for waits or
goes elsewhere, what a client's own limit has no room for is refused, and the client is told when to come back. Counts are those of
the client's requests, however many attempts they take.
"""

from __future__ import annotations

from typing import Final

from gateway.core.bucket import NEVER, Cost
from gateway.core.plan import ClientPlan
from gateway.core.quota import Quota, Reservation

FULL_S: Final = 1.0
"""A client with too many requests under way is told to come back after so long: nobody knows when one of them will end."""


class Full:
    """A limit that leaves no room now."""

    __slots__ = ("delay_s", "limit")

    def __init__(self, limit: str, delay_s: float) -> None:
        self.limit = limit
        """In words, for the client."""
        self.delay_s = delay_s
        """Seconds until there will be room for this request, as far as can be told."""


class Account:
    """One client with limits."""

    __slots__ = ("plan", "quota")

    def __init__(self, plan: ClientPlan, now: float) -> None:
        self.plan = plan
        self.quota = Quota(plan.quota, now)

    def replan(self, now: float, plan: ClientPlan) -> None:
        """Take over new settings on reload."""
        self.plan = plan
        self.quota.replan(now, plan.quota)

    def admit(self, now: float, cost: Cost) -> Reservation | Full:
        """Let a request in, or say which limit is reached, and for how long."""
        quota = self.quota
        ready_at = quota.ready_at(now, cost)
        if ready_at <= now:
            return quota.reserve(now, cost)
        if ready_at == NEVER:
            return Full(f"{quota.concurrent} at the same time", FULL_S)
        tightest = max(quota.buckets, key=lambda bucket: bucket.ready_at(cost.of(bucket.resource)))
        what = tightest.resource.value.replace("_", " ")
        return Full(f"{tightest.amount:g} {what} in {tightest.period_s:g} s, {tightest.burst:g} at once", ready_at - now)
