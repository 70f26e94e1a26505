"""What an exchange may do next: send, wait for a time or in a queue, give up. `placement` decides on it, `exchange` takes it."""

from __future__ import annotations

from gateway.core.attempt import Place
from gateway.core.record import Kind
from gateway.core.turns import Turn
from gateway.errors import Reason


class Go:
    """Send to this place, now, with this key (None: the client's own, or none)."""

    __slots__ = ("admitted", "credential", "kind", "place")

    def __init__(self, place: Place, kind: Kind, credential: str | None, *, admitted: bool = True) -> None:
        self.place = place
        self.kind = kind
        self.credential = credential
        self.admitted = admitted
        """False: it goes though its breaker admits nothing, because there is nothing else."""


class Wait:
    """Send to this place, but not before `at`; what it costs is paid."""

    __slots__ = ("against_breaker", "at", "kind", "place")

    def __init__(self, place: Place, kind: Kind, at: float, *, against_breaker: bool = False) -> None:
        self.place = place
        self.kind = kind
        self.at = at
        self.against_breaker = against_breaker
        """Decided on though its breaker holds it back: there is nothing else."""


class Queued:
    """Wait in front of a place until there is room, in turn; what it costs is paid."""

    __slots__ = ("turn",)

    def __init__(self, turn: Turn) -> None:
        self.turn = turn


class Stuck:
    """No further attempt can be made, and why; `delay_s` is when it may be worth coming back, None if unknown."""

    __slots__ = ("booked", "delay_s", "reason", "turn")

    def __init__(self, reason: Reason, delay_s: float | None = None, turn: Turn | None = None) -> None:
        self.reason = reason
        self.delay_s = delay_s
        self.turn = turn
        """The place in a queue that there was no hope in: who comes back in time is to be let in there."""
        self.booked = False
        """The delay was promised to this client alone."""
