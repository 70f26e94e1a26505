"""Successes and failures of the recent past, in time buckets.

Separate from the breaker because it decides nothing: it counts, and forgets what is older than its length (resilience4j's
time-based sliding window).
"""

from __future__ import annotations

from typing import Final

BUCKETS: Final = 10


class Window:
    """Successes and failures of the last `window_s` seconds, in ten time buckets (resilience4j's time-based window)."""

    __slots__ = ("_bucket_s", "_failures", "_slot", "_successes")

    def __init__(self, window_s: float) -> None:
        self._bucket_s = window_s / BUCKETS
        self._successes = [0] * BUCKETS
        self._failures = [0] * BUCKETS
        self._slot = 0

    def _advance(self, now: float) -> int:
        slot = int(now / self._bucket_s)
        behind = slot - self._slot
        if behind > 0:
            for i in range(min(behind, BUCKETS)):
                index = (slot - i) % BUCKETS
                self._successes[index] = self._failures[index] = 0
            self._slot = slot
        return self._slot % BUCKETS

    def success(self, now: float) -> None:
        """Count a success."""
        self._successes[self._advance(now)] += 1

    def failure(self, now: float) -> None:
        """Count a failure."""
        self._failures[self._advance(now)] += 1

    def totals(self, now: float) -> tuple[int, int]:
        """Return (results, failures) within the window."""
        self._advance(now)
        failures = sum(self._failures)
        return sum(self._successes) + failures, failures

    def clear(self) -> None:
        """Forget everything."""
        self._successes = [0] * BUCKETS
        self._failures = [0] * BUCKETS
