"""Outcomes and verdicts: what happened to an attempt, and what may be done about it.

Classification is data (law 3): a dialect turns an error answer into an `ErrorFacts`, `match` walks a table of `Rule`s over it, and
`FAULTS` says once, for every fault, what it allows. No other place in the gateway decides what a status code means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from gateway.core.message import Header

if TYPE_CHECKING:
    # `plan` builds on this module.
    from gateway.core.limits import Stated
    from gateway.core.plan import Resource


class Fault(StrEnum):
    """What was wrong with an attempt."""

    CONNECT = "connect"
    TIMEOUT = "timeout"
    STALLED = "stalled"
    OVERLOADED = "overloaded"
    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"
    BILLING = "billing"
    CREDENTIAL = "credential"
    MODEL_GONE = "model_gone"
    CONTEXT_LENGTH = "context_length"
    CONTENT_POLICY = "content_policy"
    CALLER = "caller"
    STREAM_BROKEN = "stream_broken"
    EDGE_BLOCKED = "edge_blocked"
    UNKNOWN = "unknown"


class IOFault(StrEnum):
    """How an attempt failed below HTTP; raised by egress, in the terms of the operating system."""

    DNS = "dns"
    CONNECT = "connect"
    CONNECT_TIMEOUT = "connect_timeout"
    TLS = "tls"
    POOL_TIMEOUT = "pool_timeout"
    RESET = "reset"
    """The connection ended before the answer was whole."""
    MALFORMED = "malformed"
    """What came back is not HTTP, or contradicts itself."""
    TIMEOUT = "timeout"
    """The exchange's own limit for a first token or a whole answer ran out."""
    STALLED = "stalled"
    """Bytes came, then silence for longer than the policy's `stall`."""


class Scope(StrEnum):
    """Whose failure a fault is (law 7)."""

    NOBODY = "nobody"
    CREDENTIAL = "credential"
    """The key, whatever it is used for."""
    KEY_ON_MODEL = "key_on_model"
    """The key, for this model."""
    TARGET = "target"
    PROVIDER = "provider"


class Again(StrEnum):
    """Whether the same target may be asked once more in the same exchange."""

    NEVER = "never"
    LAST_RESORT = "last_resort"
    """Only where no other target can serve."""
    WAIT = "wait"
    """After the delay the provider stated."""


class Parked(StrEnum):
    """How long a fault keeps everybody away from what failed, beside the breaker."""

    NOT = "not"
    STATED = "stated"
    """The stated delay, at most a minute; where none was stated, a second that doubles. Then one request is the probe."""
    BENCHED = "benched"
    """A minute that doubles up to a quarter of an hour, or until the configuration changes. Then one request is the probe."""


@dataclass(frozen=True, slots=True)
class FaultRule:
    """What one fault allows: again at the same target, elsewhere, how long to stay away, and whose failure it is."""

    again: Again
    elsewhere: bool
    scope: Scope
    """Where the verdict names no other."""
    status: int
    """What the client gets when the gateway must answer for this fault in its own words."""
    parked: Parked = Parked.NOT
    relayed: bool = True
    """Whether the provider's own answer may be the client's. Not our account's troubles, whose text may quote the key, and not
    pages made for browsers."""


FAULTS: Final[dict[Fault, FaultRule]] = {
    Fault.CONNECT: FaultRule(Again.LAST_RESORT, True, Scope.PROVIDER, 502),
    Fault.TIMEOUT: FaultRule(Again.NEVER, True, Scope.TARGET, 504),
    Fault.STALLED: FaultRule(Again.NEVER, True, Scope.TARGET, 504),
    Fault.OVERLOADED: FaultRule(Again.LAST_RESORT, True, Scope.TARGET, 503),
    Fault.RATE_LIMITED: FaultRule(Again.WAIT, True, Scope.KEY_ON_MODEL, 429, Parked.STATED),
    Fault.SERVER_ERROR: FaultRule(Again.LAST_RESORT, True, Scope.TARGET, 502),
    Fault.BILLING: FaultRule(Again.NEVER, True, Scope.CREDENTIAL, 503, Parked.BENCHED, relayed=False),
    Fault.CREDENTIAL: FaultRule(Again.NEVER, True, Scope.CREDENTIAL, 503, Parked.BENCHED, relayed=False),
    Fault.MODEL_GONE: FaultRule(Again.NEVER, True, Scope.TARGET, 404),
    Fault.CONTEXT_LENGTH: FaultRule(Again.NEVER, False, Scope.NOBODY, 400),
    Fault.CONTENT_POLICY: FaultRule(Again.NEVER, False, Scope.NOBODY, 400),
    Fault.CALLER: FaultRule(Again.NEVER, False, Scope.NOBODY, 400),
    Fault.STREAM_BROKEN: FaultRule(Again.LAST_RESORT, True, Scope.TARGET, 502),
    Fault.EDGE_BLOCKED: FaultRule(Again.NEVER, True, Scope.PROVIDER, 502, relayed=False),
    Fault.UNKNOWN: FaultRule(Again.LAST_RESORT, True, Scope.TARGET, 502),
}
"""The one table of what each fault allows. Elsewhere means at once and without a sleep. The table in the documentation is made from
this one."""


class Outcome:
    """What happened to an attempt, raw. Either a response (`status` > 0) or an I/O fault, or both when a body broke off."""

    __slots__ = ("body", "detail", "headers", "in_stream", "io", "sent", "status")

    def __init__(
        self,
        *,
        status: int = 0,
        headers: list[Header] | None = None,
        body: bytes = b"",
        io: IOFault | None = None,
        sent: bool = True,
        in_stream: bool = False,
        detail: str = "",
    ) -> None:
        self.status = status
        self.headers: list[Header] = headers if headers is not None else []
        self.body = body
        """The error body, or its first part; for `in_stream`, the payload of the error event."""
        self.io = io
        self.sent = sent
        """Whether a byte of the request may have reached the provider."""
        self.in_stream = in_stream
        """The error came as an event inside a 200 stream."""
        self.detail = detail
        """A sentence for the log; never shown to clients verbatim, never a secret."""


class Verdict:
    """An outcome classified. `fault` is None for a good answer."""

    __slots__ = (
        "ambiguous",
        "code",
        "delay",
        "fault",
        "message",
        "quick",
        "quota_left",
        "resource",
        "retry_same",
        "scope",
        "stated",
    )

    def __init__(
        self,
        fault: Fault | None,
        *,
        code: str = "",
        message: str = "",
        delay: float | None = None,
        retry_same: bool = True,
        ambiguous: bool = False,
        scope: Scope | None = None,
        quick: bool = False,
        quota_left: bool = False,
        resource: Resource | None = None,
        stated: Sequence[Stated] = (),
    ) -> None:
        self.fault = fault
        self.code = code
        """The provider's own error code, or the I/O fault's name; bounded to 64 characters, for the log."""
        self.message = message
        self.delay = delay
        """Seconds the provider asked us to stay away, clamped to [0, 86400]; None if it named none."""
        self.retry_same = retry_same
        """False where the provider said `x-should-retry: false`: forbids the same target, never another."""
        self.ambiguous = ambiguous
        """The provider may have done (and billed) the work: repeating it costs the budget double."""
        self.scope = scope if scope is not None else Scope.NOBODY if fault is None else FAULTS[fault].scope
        """Whose failure it is."""
        self.quick = quick
        """Often gone at the next try: one quick try at a target that is otherwise well may spare the way elsewhere."""
        self.quota_left = quota_left
        """A rate limit whose own headers say that quota remains, and that names no delay."""
        self.resource = resource
        """What a rate limit has run out of, if it says so."""
        self.stated = stated
        """What a rate limit's text says about limits, and the headers that it quotes; not the answer's own headers."""

    def __repr__(self) -> str:
        return f"<Verdict {self.fault or 'ok'} {self.code}>"


OK: Final = Verdict(None)
