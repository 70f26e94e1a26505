"""Wakes drivers when their exchanges want it: to the millisecond when that is soon, by one coarse sweep when it is far off.

Nearly every exchange ends long before its deadline, so a timer of its own would be set and cancelled for nothing.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from typing import Final, Protocol

SWEEP_S: Final = 1.0
SOON_S: Final = 2.0 * SWEEP_S
"""What is due within this time gets a timer of its own: the sweep would come too late for it."""


class Sleeper(Protocol):
    """Who wants to be woken."""

    def stir(self, now: float) -> None:
        """The sweep came by: set a timer of your own if your time is near."""
        ...


class Alarms:
    """The sleepers of one event loop whose time is far off. The sweep runs only while there are any."""

    __slots__ = ("_clock", "_loop", "_sweep", "far")

    def __init__(self, loop: AbstractEventLoop, clock: Callable[[], float]) -> None:
        self._loop = loop
        self._clock = clock
        self._sweep: TimerHandle | None = None
        self.far: set[Sleeper] = set()

    def watch(self, sleeper: Sleeper) -> None:
        """Let the sweep stir this one until it is forgotten."""
        self.far.add(sleeper)
        if self._sweep is None:
            self._sweep = self._loop.call_later(SWEEP_S, self._round)

    def forget(self, sleeper: Sleeper) -> None:
        """Leave it alone from now on."""
        self.far.discard(sleeper)

    def _round(self) -> None:
        self._sweep = self._loop.call_later(SWEEP_S, self._round) if self.far else None
        now = self._clock()
        for sleeper in tuple(self.far):
            sleeper.stir(now)
