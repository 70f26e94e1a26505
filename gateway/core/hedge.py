"""Hedging: a second attempt beside a first one that is slow to show content, and what it may cost.

From "The Tail at Scale" (Dean and Barroso, CACM 2013): a copy sent after the time that most requests need cuts the tail at little
extra load. Which time that is, a target's own history says (`core.latency`); without enough of it there is no hedge. The extra load
is bound by a token bucket per route, filled by a share of its requests: when everything is slow, hedges are the last thing needed.
"""

from __future__ import annotations

from typing import Final

from gateway.core.latency import History
from gateway.core.plan import HedgePlan

CAP: Final = 10.0
"""Hedges that good times may save up for bad ones."""


class HedgeBudget:
    """What one route may spend on hedges; begins empty."""

    __slots__ = ("_tokens",)

    def __init__(self) -> None:
        self._tokens = 0.0

    @property
    def balance(self) -> float:
        """Hedges that may be sent now."""
        return self._tokens

    def deposit(self, share: float) -> None:
        """Count one request that may be hedged."""
        self._tokens = min(CAP, self._tokens + share)

    def withdraw(self) -> bool:
        """Take the price of one hedge if it is there; tell whether it was."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


def hedge_delay(plan: HedgePlan, history: History, now: float) -> float | None:
    """Return the seconds to give an attempt before it is hedged, or None where not enough is known of its target."""
    if plan.after_s is not None:
        return max(plan.after_s, plan.floor_s)
    usual_s: float | None = history.quantile(now, plan.quantile)
    return None if usual_s is None else max(usual_s, plan.floor_s)
