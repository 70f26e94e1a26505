"""The retry budget of one provider: why there is one, and how it is counted.

A maximum of retries per request does not stop a retry storm: when everything fails, every request is multiplied. A budget ties
repetition to the traffic that did not repeat itself (Finagle's RetryBudget, tower's `tps_budget`). Here it is a token bucket: each
first attempt deposits `ratio`, `floor` tokens per ten seconds come by themselves so that a lone client gets its retries, and the
cap keeps hours of good weather from paying for a storm. Failover to a different, admitted target is free (law 9); a retry at the
same target costs one token, two where the failed attempt may have been carried out and billed.
"""

from __future__ import annotations

from typing import Final

from gateway.core.plan import BudgetPlan

CAP: Final = 10.0
FLOOR_PERIOD_S: Final = 10.0


class Budget:
    """A token bucket; starts full."""

    __slots__ = ("_tokens", "_updated_at", "plan")

    def __init__(self, plan: BudgetPlan, now: float) -> None:
        self.plan = plan
        self._tokens = CAP
        self._updated_at = now

    def balance(self, now: float) -> float:
        """Return the tokens there are at `now`."""
        trickle = max(0.0, now - self._updated_at) * self.plan.floor / FLOOR_PERIOD_S
        return min(CAP, self._tokens + trickle)

    def replan(self, now: float, plan: BudgetPlan) -> None:
        """Take over new settings on reload; what has trickled in so far did so under the old ones."""
        self._tokens = self.balance(now)
        self._updated_at = now
        self.plan = plan

    def deposit(self) -> None:
        """Count one first attempt. Needs no time: the trickle and the deposit add up in either order, below the cap."""
        self._tokens = min(CAP, self._tokens + self.plan.ratio)

    def withdraw(self, now: float, cost: float) -> bool:
        """Take `cost` tokens if they are there; tell whether they were."""
        balance = self.balance(now)
        if balance < cost:
            return False
        self._tokens = balance - cost
        self._updated_at = now
        return True
