"""What the machine may ask its driver to do. Each action is carried out once, in the order returned.

Actions say what, never how: the driver knows sockets and bytes, the machine knows none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.core.attempt import Attempt
from gateway.core.turns import Turn
from gateway.errors import Reason


class Advice:
    """What we tell the client about coming back."""

    __slots__ = ("delay_s", "retry")

    def __init__(self, *, retry: bool | None = None, delay_s: float | None = None) -> None:
        self.retry = retry
        """`x-should-retry`; None leaves the upstream's (or none)."""
        self.delay_s = delay_s
        """For `retry-after` and `retry-after-ms`; None leaves the upstream's only where `retry` is None too."""


UPSTREAMS_OWN: Final = Advice()


class Send:
    """Begin this attempt."""

    __slots__ = ("attempt",)

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt


class Queue:
    """Join this turn to the queue of its gate; `room` is told when it is called, `sent_away` when it has to go."""

    __slots__ = ("turn",)

    def __init__(self, turn: Turn) -> None:
        self.turn = turn


class Cancel:
    """Close this attempt's connection; nothing more is heard of it."""

    __slots__ = ("attempt",)

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt


class Open:
    """Write the response head of this attempt's answer: status and headers are fixed from here on."""

    __slots__ = ("attempt",)

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt


class OpenEarly:
    """Write the response head of an event stream though there is no answer yet: what fails from now on is told in the stream."""

    __slots__ = ()


class Comfort:
    """Write a comment into the stream, so that nobody between us and the client takes it for dead."""

    __slots__ = ()


class Commit:
    """Release this attempt's body bytes to the client: what was held so far, then as they come."""

    __slots__ = ("attempt",)

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt


class Relay:
    """Give the client this failed attempt's answer, verbatim, with our advice; the exchange is over."""

    __slots__ = ("advice", "attempt")

    def __init__(self, attempt: Attempt, advice: Advice) -> None:
        self.attempt = attempt
        self.advice = advice


class Refuse:
    """Answer the client in the gateway's own words; the exchange is over."""

    __slots__ = ("advice", "message", "reason", "status")

    def __init__(self, status: int, reason: Reason, message: str, advice: Advice) -> None:
        self.status = status
        self.reason = reason
        self.message = message
        self.advice = advice


class Break:
    """End the committed answer so that it cannot be taken for whole; the exchange is over."""

    __slots__ = ("code", "message")

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = message


class Finish:
    """The exchange is over: the answer is whole, or there is nobody left to answer."""

    __slots__ = ()


Action = Send | Queue | Cancel | Open | OpenEarly | Comfort | Commit | Relay | Refuse | Break | Finish
Actions = Sequence[Action]
NOTHING: Final[Actions] = ()
FINISH: Final[Actions] = (Finish(),)
COMFORT: Final[Actions] = (Comfort(),)
