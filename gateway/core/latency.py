"""How long targets take to their first content, from their own recent past: what hedging and learned limits go by.

Quantiles come from DDSketch (Masson, Rim, Lee: "DDSketch: a fast and fully-mergeable quantile sketch with relative-error
guarantees", VLDB 2019), the authors' library: 1 % relative error from microseconds to years, unlike a histogram whose range
somebody had to guess (Finagle's backup requests stop working beyond two seconds). Three sketches take turns, so that the past is
forgotten within minutes; a quantile is reckoned at most every few seconds. Long prompts take longer, so each size has a history of
its own.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from ddsketch import DDSketch

WINDOWS: Final = 3
WINDOW_S: Final = 100.0
REFRESH_S: Final = 3.0
"""A quantile that was reckoned less than this ago is good enough."""
MIN_SAMPLES: Final = 20
"""A percentile of fewer than so many is a guess; a high one needs as many as leave one sample beyond it: p99 a hundred."""
SIZES: Final = (4_096, 32_768, 262_144)
"""Bounds of the classes of request bodies, in bytes."""


def size_class(size: int) -> int:
    """Return the class of a request body of so many bytes: 0 for the smallest."""
    return bisect_right(SIZES, size)


class History:
    """Seconds to first content of one target, for one class of requests, over the last few minutes."""

    __slots__ = ("_period", "_reckoned", "_sketches")

    def __init__(self) -> None:
        self._sketches: list[DDSketch] = []
        """The newest last; empty ones are not kept."""
        self._period = 0
        self._reckoned: dict[float, tuple[float, float | None]] = {}

    def add(self, now: float, seconds: float) -> None:
        """Note that a first content took so long."""
        self._turn(now)
        self._sketches[-1].add(max(seconds, 0.0))

    def quantile(self, now: float, share: float) -> float | None:
        """Return the seconds within which this share (0 to 1) of first contents came, or None where too few did to tell."""
        until, seconds = self._reckoned.get(share, (float("-inf"), None))
        if now < until:
            return seconds
        self._turn(now)
        if sum(sketch.count for sketch in self._sketches) < max(MIN_SAMPLES, round(1.0 / max(1.0 - share, 0.001))):
            return None
        whole = DDSketch()
        for sketch in self._sketches:
            whole.merge(sketch)
        seconds = whole.get_quantile_value(share)
        self._reckoned[share] = (now + REFRESH_S, seconds)
        return seconds

    def _turn(self, now: float) -> None:
        period = int(now / WINDOW_S)
        behind = period - self._period
        if not self._sketches or behind >= WINDOWS:
            self._sketches = [DDSketch()]
        elif behind > 0:
            self._sketches += [DDSketch() for _ in range(behind)]
            del self._sketches[:-WINDOWS]
        self._period = period


class Latency:
    """The histories of one target, streams and whole answers apart."""

    __slots__ = ("_histories",)

    def __init__(self) -> None:
        self._histories: dict[tuple[int, bool], History] = {}

    def of(self, size: int, *, stream: bool) -> History:
        """Return the history of requests of this size in bytes."""
        key = (size_class(size), stream)
        history = self._histories.get(key)
        if history is None:
            history = self._histories[key] = History()
        return history
