"""How long to wait before the same target is asked again.

The formulas are those of the AWS architecture blog's backoff simulator, "Exponential Backoff And Jitter": full jitter makes the
fewest calls under contention, which is what counts where calls cost money, and is the default. Chance is injected.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.core.plan import BackoffPlan, Jitter


def backoff(plan: BackoffPlan, retry: int, previous_s: float, uniform: Callable[[float, float], float]) -> float:
    """Return the seconds to wait before retry number `retry` (0 for the first).

    With `expo = min(cap, 2**retry * base)`: full = uniform(0, expo); equal = expo/2 + uniform(0, expo/2);
    decorrelated = min(cap, uniform(base, 3 * previous)), where `previous_s` is the wait before (0 at first, taken as base).
    """
    expo = min(plan.cap_s, plan.base_s * 2.0 ** min(retry, 32))
    if plan.jitter is Jitter.FULL:
        return uniform(0.0, expo)
    if plan.jitter is Jitter.EQUAL:
        return expo / 2 + uniform(0.0, expo / 2)
    return min(plan.cap_s, uniform(plan.base_s, max(previous_s, plan.base_s) * 3))
