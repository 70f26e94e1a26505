"""How quickly a target shows content lately, as one number: what `balance: fastest` compares.

The number is Finagle's peak-sensitive average (PeakEwma): a slower answer replaces it at once, quicker ones pull it down by the
time that has passed. Separate from `core.latency`, whose quantiles say what is usual: this one says what the next request must
fear. Two things differ from Finagle. It forgets in 10 s, which fits calls of milliseconds; first tokens take seconds. And a failure
is no quick answer: a target that fails in 20 ms would look like the fastest there is, and swallow everything (the black hole).
"""

from __future__ import annotations

from math import exp
from typing import Final

TAU_S: Final = 45.0
"""The average forgets with this time constant: an answer must still count when the next one comes, and those take seconds."""
LEAST_S: Final = 0.001
"""The average decays no further: targets that nobody asked for hours are all alike, and told apart by what is under way."""
PENALTY_S: Final = 5.0
"""Two failures in a row count as no less than this."""
LIMIT_S: Final = 600.0
"""One failure counts as no more than this, however long it was allowed to take."""
CEILING_S: Final = 36_000.0
"""Nor all together as more than this: worse than a target that is slow and has a thousand requests under way, and yet forgotten
within eight minutes, since forgetting takes a logarithm of it."""


class Pace:
    """The peak-sensitive moving average of one target's times to first content, or to whole answers."""

    __slots__ = ("_at", "_failures", "_seconds")

    def __init__(self) -> None:
        self._seconds: float | None = None
        self._at = 0.0
        """When it was counted last."""
        self._failures = 0
        """In a row."""

    def add(self, now: float, seconds: float) -> None:
        """Count an answer: seconds from its send to its first content where it is a stream, else to its end."""
        self._failures = 0
        before = self._seconds
        if before is not None and seconds < before:
            kept = self._kept(now)
            seconds = before * kept + seconds * (1.0 - kept)
        self._seconds, self._at = seconds, now

    def failed(self, now: float, limit_s: float) -> None:
        """Count a failure, as an answer that took as long as the attempt was allowed to (seconds; may be infinite).

        It weighs by the time since the last answer and is no peak: one accident among many good answers adds what it cost on
        average, and does not send everybody elsewhere for minutes. From the second in a row on it is no accident, and each doubles
        the number: however busy the other targets are, this one looks worse soon.
        """
        self._failures += 1
        before = self._seconds
        cost = min(max(limit_s, PENALTY_S), LIMIT_S)
        if before is None:
            self._seconds, self._at = cost, now
            return
        kept = self._kept(now)
        seconds = before * kept + cost * (1.0 - kept)
        if self._failures > 1:
            seconds = max(seconds, PENALTY_S, 2.0 * before * kept)
        self._seconds, self._at = min(seconds, CEILING_S), now

    def seconds(self, now: float) -> float | None:
        """Return the average in seconds, or None where nothing was counted yet. Changes nothing.

        It decays while nothing is counted (to no less than a millisecond), so that a target that was slow once is looked at again.
        """
        if self._seconds is None:
            return None
        return max(LEAST_S, self._seconds * self._kept(now))

    def _kept(self, now: float) -> float:
        """Return how much of the average is left after the time since it was counted."""
        return exp(min(0.0, self._at - now) / TAU_S)
