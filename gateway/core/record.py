"""What an exchange leaves behind: the records that metrics, access log and headers are made from.

Written by `core.exchange` (decisions) and `egress.driver` (times and bytes seen on the wire), read by `observe` and `ingress`.
All times are the loop's monotonic seconds; 0.0 means "did not happen".
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from gateway.core.plan import Family, Priority
from gateway.errors import Reason


class Kind(StrEnum):
    """Why an attempt was made."""

    FIRST = "first"
    RETRY = "retry"
    FAILOVER = "failover"
    HEDGE = "hedge"
    RESUME = "resume"


class Ending(StrEnum):
    """How an exchange ended, for `requests_total{outcome}`."""

    OK = "ok"
    CALLER_ERROR = "caller_error"
    FAILED = "failed"
    REFUSED = "refused"
    CLIENT_GONE = "client_gone"


_OTHER: Final = Family.OTHER
_FAILED: Final = Ending.FAILED
_NONE: Final = Reason.NONE
_STANDARD: Final = Priority.STANDARD
"""Python 3.11 is slow to find an enumeration's members; these are needed for every request."""


class AttemptRecord:
    """One upstream request."""

    __slots__ = (
        "broken",
        "bytes_in",
        "code",
        "content_at",
        "ended_at",
        "estimate",
        "head_at",
        "heard_at",
        "kind",
        "model",
        "model_label",
        "number",
        "provider",
        "sent_at",
        "started_at",
        "status",
        "usage",
        "verdict",
    )

    def __init__(self, number: int, kind: Kind, provider: str, model: str, model_label: str, now: float) -> None:
        self.number = number
        """1 for the exchange's first attempt."""
        self.kind = kind
        self.provider = provider
        self.model = model
        """The model's name as sent to this provider; empty where the request names none."""
        self.model_label = model_label
        """The same, bounded for metrics: `*` for a name that no route lists."""
        self.started_at = now
        self.sent_at = 0.0
        """When the request was first handed to a connected socket."""
        self.heard_at = 0.0
        """When the last byte of the answer came; the driver keeps it up to date chunk by chunk."""
        self.head_at = 0.0
        self.content_at = 0.0
        """First content of a stream, or first body byte of another answer."""
        self.ended_at = 0.0
        self.status = 0
        self.verdict = ""
        """`ok`, a fault's name, or `cancelled`; empty while under way."""
        self.code = ""
        """The provider's error code or the I/O fault's name."""
        self.bytes_in = 0
        self.estimate = 0.0
        """Tokens of the prompt as estimated before it was sent; 0 where no limit counts tokens."""
        self.usage: tuple[int, int] | None = None
        """(input tokens, output tokens) as this provider reported them; None where it reported none."""
        self.broken = False
        """A stream that broke off when the client had begun to read it, whatever the fault was."""


class ExchangeRecord:
    """One client request and its end."""

    __slots__ = (
        "attempts",
        "bytes_in",
        "bytes_out",
        "client",
        "ended_at",
        "ending",
        "family",
        "frames_dropped",
        "hedge_skipped",
        "hold_overflowed",
        "method",
        "model",
        "model_label",
        "opened_at",
        "path",
        "priority",
        "reason",
        "received_at",
        "request_id",
        "route",
        "saved_by",
        "shed",
        "spills",
        "status",
        "stream",
        "stream_broken",
        "usage",
        "usage_partial",
        "waits",
        "winner",
    )

    def __init__(self, request_id: str, now: float) -> None:
        self.request_id = request_id
        self.received_at = now
        """When the request's head was complete."""
        self.opened_at = 0.0
        """When the response head was written."""
        self.ended_at = 0.0
        self.method = ""
        self.path = ""
        """Without the query, which may hold a key."""
        self.family = _OTHER
        self.route = ""
        self.client = ""
        """The authenticated client's name; empty where there are no `clients`."""
        self.model = ""
        """As the client named it; bounded to 256 characters."""
        self.model_label = "*"
        self.stream = False
        """An event stream was asked for."""
        self.attempts: list[AttemptRecord] = []
        self.winner: AttemptRecord | None = None
        """The attempt whose answer the client got, good or bad; of a resumed stream the last. None for our own answers."""
        self.ending = _FAILED
        self.reason = _NONE
        self.saved_by: Kind | None = None
        """Kind of the winning attempt, where the first one was not `ok` and the client got a whole, good answer."""
        self.status = 0
        self.hedge_skipped = ""
        """Why a hedge that was due was not sent: `no_target` or `no_budget`."""
        self.frames_dropped = 0
        """Frames of a stream that were no JSON and were left out."""
        self.hold_overflowed = False
        """More was held back than may be, and the rest delivered as it came."""
        self.stream_broken = False
        """A stream broke after its commit."""
        self.bytes_in = 0
        self.bytes_out = 0
        self.usage: tuple[int, int] | None = None
        """(input tokens, output tokens) as reported by the provider; None where it reported none."""
        self.priority = _STANDARD
        """Whose turn it is in a queue."""
        self.waits: list[tuple[str, str, float]] | None = None
        """(provider, model or group, seconds) of every time it stood in a queue; mostly none."""
        self.spills: list[tuple[str, str]] | None = None
        """(provider, model) where it would have gone, had there been room in time."""
        self.shed: list[tuple[str, str, Reason]] | None = None
        """(provider, model or group, why) of the queues that sent it away."""
        self.usage_partial = False
        """One of several providers of a resumed stream reported none, so that more was used than `usage` says."""


def trail(attempts: list[AttemptRecord], now: float) -> str:
    """Render `x-gateway-trail`: `openai:server_error/0.42s, azure:ok/0.81s`.

    An attempt under way counts until `now`: its answer is good so far, or it is still waited for.
    """
    return ", ".join(
        [
            f"{a.provider}:{a.verdict or ('ok' if a.content_at else 'waiting')}/{_hundredths((a.ended_at or now) - a.started_at)}s"
            for a in attempts
        ]
    )


def _hundredths(seconds: float) -> str:
    """Write seconds with two digits; formatting them as a float costs three times as much, twice per request."""
    hundredths = int(max(seconds, 0.0) * 100.0 + 0.5)
    return f"{hundredths // 100}.{str(100 + hundredths % 100)[1:]}"
