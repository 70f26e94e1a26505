"""How many requests may be under way at the same time, where only refusals tell.

The learner's other half (AIMD of Netflix concurrency-limits, with CUBIC's way back): `core.learner` is about rates, and goes by
what was let through between two refusals; this is about numbers, and goes by how many were beside those served and those refused.
Driven by refusals alone, never by latency: long answers take long.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from gateway.core.learner import MEMORY_S, Curve

CUT: Final = 0.7
CURVE_S: Final = 30.0
NOISE: Final = 0.1
"""Refused with fewer beside it than what was served, less this share: then it is not about how many there are."""
REFUSALS: Final = 4096
"""So many are remembered, at most."""
EVIDENCE: Final = 3
"""Requests that must have been served lately, to be compared with those that were refused."""

_INFINITE: Final = float("inf")


class Ceiling:
    """What one key's refusals by an overloaded provider have taught.

    Learned only where refusals are about that: nearly all that were refused had more beside them than any that was served. A
    provider that refuses a part of everything, or all of it, is not asked too much at once; it fails, which is its breaker's
    business, and what was believed before is forgotten. Who was about to be refused does not count as being beside anybody.
    """

    __slots__ = ("_above", "_among", "_curve", "_cut_at", "_least", "_least_before", "_most", "_most_before", "_period",
                 "_refusals", "_served", "_served_before")  # fmt: skip

    def __init__(self) -> None:
        self._curve = Curve()
        self._cut_at = -_INFINITE
        self._most = self._most_before = 0
        """With so many under way, at most, a request was sent that was served: in this period, and in the one before."""
        self._least = self._least_before = _INFINITE
        """With so many, at least, one that was refused."""
        self._among = self._above = 0
        """Refused with no more beside them than one that was served, and with more: since the last change of mind."""
        self._served = self._served_before = 0
        self._period = 0
        self._refusals: deque[tuple[float, float]] = deque(maxlen=REFUSALS)
        """When the last ones were sent, and when they were refused."""

    def served(self, now: float, *, sent_at: float, beside: int) -> None:
        """A request was carried out that was sent then, when so many were under way, itself among them."""
        self._turn(now)
        self._served += 1
        self._most = max(self._most, self._really(sent_at, beside))

    def refused(self, now: float, *, sent_at: float, beside: int) -> None:
        """A request was refused that was sent then, when so many were under way, itself among them."""
        self._turn(now)
        beside = self._really(sent_at, beside)
        self._refusals.append((sent_at, now))
        proven = max(self._most, self._most_before)
        self._least = min(self._least, beside)
        if beside <= proven:
            self._among += 1
        else:
            self._above += 1
        apart = min(self._least, self._least_before) >= (1.0 - NOISE) * proven
        if not apart or (self._among >= EVIDENCE and self._among > self._above):
            self._cut_at = -_INFINITE
            self._among = self._above = 0
        elif sent_at > self._cut_at and self._served + self._served_before >= EVIDENCE:
            top = max(beside - 1, proven)
            self._curve.cut(now, top, max(CUT, (1.0 - NOISE) * proven / top), CURVE_S)
            self._cut_at = now

    def value(self, now: float) -> int | None:
        """Return the number, at least 1; None where there is none (any more)."""
        if now - self._cut_at >= MEMORY_S:
            return None
        return max(1, int(self._curve.value(now)))

    @property
    def until(self) -> float:
        """When it will be forgotten, unless it is confirmed."""
        return self._cut_at + MEMORY_S

    def stale(self, now: float) -> bool:
        """Whether nothing is believed, and nothing is left to judge by: as if it had never been."""
        return now - self._cut_at >= MEMORY_S and int(now / CURVE_S) > self._period + 1

    def _really(self, at: float, beside: int) -> int:
        """Return how many of those under way at a moment were not about to be refused, as far as is known by now."""
        for sent_at, refused_at in reversed(self._refusals):
            if refused_at <= at:
                break
            beside -= sent_at < at
        return max(1, beside)

    def _turn(self, now: float) -> None:
        period = int(now / CURVE_S)
        if period > self._period:
            follows = period == self._period + 1
            self._most_before, self._most = (self._most if follows else 0), 0
            self._least_before, self._least = (self._least if follows else _INFINITE), _INFINITE
            self._served_before, self._served = (self._served if follows else 0), 0
            self._period = period
