"""A token bucket, and the way OpenAI writes durations.

Apart from the fault that uses it, because a limit that is not exact would let a gateway pass that overruns it: level, waiting time
and time to full refill come from one formula, `level(t) = min(capacity, level(t0) + (t - t0) * rate)`, and `now` is an argument.
"""

from __future__ import annotations

import math

_SLACK = 1e-9
"""Amounts are summed in floating point: what is short by less than this is there."""


class Bucket:
    """Holds up to `capacity`, starts full, gains `per_s` a second."""

    __slots__ = ("_at", "_level", "capacity", "per_s")

    def __init__(self, capacity: float, per_s: float, now: float) -> None:
        self.capacity = capacity
        self.per_s = per_s
        self._level = capacity
        self._at = now

    def level(self, now: float) -> float:
        """What is in it."""
        return min(self.capacity, self._level + max(0.0, now - self._at) * self.per_s)

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` could be taken: 0 now, infinity if it can never fit."""
        if amount > self.capacity + _SLACK:
            return math.inf
        short = amount - self.level(now)
        return short / self.per_s if short > _SLACK else 0.0

    def take(self, amount: float, now: float) -> None:
        """Take what `wait` said is there."""
        self._level = max(0.0, self.level(now) - amount)
        self._at = now

    def full_in(self, now: float) -> float:
        """Seconds until it is full again: what the published `x-ratelimit-reset-*` headers mean."""
        return (self.capacity - self.level(now)) / self.per_s


def go_duration(seconds: float) -> str:
    """Seconds as Go prints a time.Duration, in whole milliseconds rounded up: `6m0s`, `1.5s`, `12ms`, `0s`."""
    ms = math.ceil(round(seconds * 1000, 6))
    if ms == 0:
        return "0s"
    if ms < 1000:
        return f"{ms}ms"
    minutes, ms = divmod(ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{ms / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text
