"""The gateway's own errors, and the one list of reasons for which it says no.

Lowest layer: everything may import it, it imports nothing of ours. A `Reason` is used verbatim as metric label, log field,
response header (`x-gateway-reason`) and test assertion, so that what an operator reads in one place can be searched in all.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why an exchange ended otherwise than with a good answer."""

    NONE = "none"

    # The request itself is at fault; refused before any routing.
    BAD_REQUEST = "bad_request"
    HEADERS_TOO_LARGE = "headers_too_large"
    TARGET_TOO_LONG = "target_too_long"
    BODY_TOO_LARGE = "body_too_large"
    NOT_IMPLEMENTED = "not_implemented"
    HTTP_VERSION = "http_version"
    REQUEST_TIMEOUT = "request_timeout"
    EXPECTATION = "expectation"
    LOOP_DETECTED = "loop_detected"

    # The gateway's own limits and states.
    CONNECTION_LIMIT = "connection_limit"
    DRAINING = "draining"
    UNKNOWN_CLIENT = "unknown_client"
    CLIENT_LIMIT = "client_limit"
    """The client's own limit, as the configuration sets it."""
    MODEL_NOT_ALLOWED = "model_not_allowed"
    NO_ROUTE = "no_route"
    INTERNAL = "internal"

    # What the core decided about an exchange.
    DEADLINE = "deadline"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    RETRY_BUDGET = "retry_budget"
    NOT_RETRYABLE = "not_retryable"
    NO_TARGET = "no_target"
    BREAKERS_OPEN = "breakers_open"
    CREDENTIALS_BENCHED = "credentials_benched"
    RATE_LIMITED = "rate_limited"
    """No room at any target within the time this request may wait: refused before it waited, or after."""
    QUEUE_FULL = "queue_full"
    """The queue in front of the target is full, and this request was the one to go."""
    SHED = "shed"
    """The queue has stood for too long, and what could not be answered in time was let go."""
    THROTTLED = "throttled"
    """The provider refuses nearly everything it is sent, so that only a trickle is."""
    STREAM_BROKEN = "stream_broken"
    CLIENT_GONE = "client_gone"
    CALLER = "caller"


class GatewayError(Exception):
    """Root of everything the gateway raises on purpose."""


class Refused(GatewayError):  # noqa: N818 - a refusal is an answer, not a malfunction
    """The gateway itself says no to a request: the HTTP status, the reason, and a sentence for the caller."""

    def __init__(self, status: int, reason: Reason, message: str, *, delay_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.delay_s = delay_s
        """When the caller may come back, where that is known."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a configuration file; `line` and `column` count from 1, 0 where there is no file position."""

    file: str
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}: " if self.line else f"{self.file}: "
        return where + (f"{self.path}: {self.message}" if self.path else self.message)


class ConfigError(GatewayError):
    """A configuration that cannot be used: every problem found, in file order."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems
