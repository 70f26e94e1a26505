"""An exchange that stands in a queue: from when it joins until it is called, sent away, or leaves by itself.

Apart from the exchange, most of which never wait: made when one does, and gone afterwards. What the wait came to is noted here, for
the bound on all waiting of the exchange and for its record.
"""

from __future__ import annotations

from typing import Final

from gateway.core.bucket import NEVER
from gateway.core.record import ExchangeRecord
from gateway.core.room import Room
from gateway.core.turns import Turn
from gateway.errors import Reason

LOOK_S: Final = 0.5
"""Who waits in a queue looks this often whether another target has come free."""


class Standing:
    """One exchange's stay in one queue."""

    __slots__ = ("_record", "_room", "look_at", "turn")

    def __init__(self, now: float, turn: Turn, room: Room, record: ExchangeRecord, *, looks_around: bool) -> None:
        self.turn = turn
        self._room = room
        self._record = record
        self.look_at = now + LOOK_S if looks_around and not turn.lenient else NEVER
        """When to look around; one that could go elsewhere at once, and waits because this place is preferred, does not."""

    @property
    def wake_at(self) -> float:
        """When something is to be done about it, if nobody calls before."""
        return min(self.look_at, self.turn.until)

    def leave(self, now: float) -> None:
        """Go away by itself."""
        self.turn.gate.queue.leave(self.turn)
        self.over(now)

    def over(self, now: float) -> None:
        """It is out of the queue, for whatever reason."""
        turn = self.turn
        turn.wake = None
        self._room.waited(turn, now)
        self._record.waits = [*(self._record.waits or ()), (turn.place.provider.name, turn.label, now - turn.since)]

    def sent_away(self, now: float, reason: Reason) -> None:
        """The queue will not have it. Whose time to wait is over is let go as well, and that is nothing to be counted."""
        turn = self.turn
        self.over(now)
        if now < turn.until:
            self._room.closed(turn, reason)
            self._record.shed = [*(self._record.shed or ()), (turn.place.provider.name, turn.label, reason)]
