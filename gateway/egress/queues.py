"""Keeps the queues in front of gates moving: calls whose turn it is, when there is room.

Order and room are the core's; here is the clock. One timer per gate with a queue, set to when its first is expected to have room;
whoever ends a request pokes the gate, because that may have made some sooner. Turns are called from the loop and never from
within another exchange's event, so that no exchange is entered twice.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, Handle
from collections.abc import Callable

from gateway.core.gate import Gate
from gateway.core.turns import Turn, called, look_at
from gateway.errors import Reason


class Queues:
    """All queues of a process."""

    __slots__ = ("_clock", "_loop", "_pending")

    def __init__(self, loop: AbstractEventLoop, clock: Callable[[], float]) -> None:
        self._loop = loop
        self._clock = clock
        self._pending: dict[Gate, tuple[float, Handle]] = {}
        """When each gate will be looked at."""

    def join(self, turn: Turn) -> None:
        """Enter a turn whose `wake` is set; somebody may have to go for it, or it may itself."""
        gone = turn.gate.queue.join(self._clock(), turn)
        if isinstance(gone, Turn):
            self._loop.call_soon(self._send_away, gone, Reason.QUEUE_FULL)
        self.poke(turn.gate)

    def poke(self, gate: Gate) -> None:
        """Something has changed at this gate: look at it soon."""
        self._look(gate, 0.0)

    def _look(self, gate: Gate, at: float) -> None:
        known = self._pending.get(gate)
        if known is not None:
            if known[0] <= at:
                return
            known[1].cancel()
        call = self._loop.call_at(at, self._call, gate) if at else self._loop.call_soon(self._call, gate)
        self._pending[gate] = at, call

    def _call(self, gate: Gate) -> None:
        del self._pending[gate]
        for gone in gate.queue.shed(self._clock()):
            if isinstance(gone, Turn):
                self._send_away(gone, Reason.SHED)
        while True:
            turn = called(gate, self._clock())
            if turn is None:
                break
            if turn.wake is not None:
                turn.wake(None)
        if gate.queue:
            self._look(gate, look_at(gate, self._clock()))

    @staticmethod
    def _send_away(turn: Turn, reason: Reason) -> None:
        if turn.wake is not None:
            turn.wake(reason)
