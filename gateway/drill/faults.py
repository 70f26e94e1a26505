"""What can be made to go wrong, said as data.

The law here: a fault is a frozen value without state, time or chance. How often it fired, which bucket it drains and what the dice
said live in `plan.py`; how it looks on the wire lives in `wire.py`. So the same value serves a test, a script file, the control
endpoint and a log line, and two providers may share one.
"""

from __future__ import annotations

import hashlib
import math
import random
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal, Protocol


class SpecError(ValueError):
    """A fault or a script that cannot be understood; the message says where and what would do."""


@dataclass(frozen=True, slots=True)
class Call:
    """What a provider knows of a request when it decides how to treat it."""

    method: str
    path: str
    """Without Azure's prefix: always as OpenAI spells it, `/v1/...`."""
    family: str
    key: str = ""
    """The credential in clear; empty if there was none."""
    model: str = ""
    stream: bool = False
    tokens: int = 0
    """What a limiter charges in advance: an estimate of the prompt plus the most the answer may have."""
    inference: bool = False


@dataclass(frozen=True, slots=True)
class Only:
    """Which requests a fault is for; what is not said does not matter. `path` and `model` are globs."""

    family: str | None = None
    path: str | None = None
    model: str | None = None
    method: str | None = None
    stream: bool | None = None
    key: str | None = None
    key_share: tuple[float, float] | None = None
    """Keys whose hash falls into [low, high) of 0 to 1: (0, 0.4) takes the same 40 % of all keys every time."""

    def takes(self, call: Call) -> bool:
        """Whether every condition named holds for this call."""
        return (
            self.family in {None, call.family}
            and (self.path is None or fnmatchcase(call.path, self.path))
            and (self.model is None or fnmatchcase(call.model, self.model))
            and self.method in {None, call.method}
            and self.stream in {None, call.stream}
            and self.key in {None, call.key}
            and (self.key_share is None or self.key_share[0] <= share_of(call.key) < self.key_share[1])
        )


def share_of(key: str) -> float:
    """A key's fixed place in [0, 1), from its SHA-256."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") / 2**32


ANY = Only()

Lines = tuple[tuple[str, str], ...] | Mapping[str, str]
"""Extra header lines of an answer: pairs, where a name may come twice, or a mapping."""


def pairs(lines: Lines) -> list[tuple[str, str]]:
    """Header lines as pairs, whichever way they were written."""
    return list(lines.items()) if isinstance(lines, Mapping) else list(lines)


class Delay(Protocol):
    """A distribution of seconds."""

    def draw(self, rng: random.Random) -> float:
        """One sample, never negative."""
        ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always the same."""

    s: float

    def draw(self, rng: random.Random) -> float:  # noqa: ARG002 - one shape for all distributions
        return self.s


@dataclass(frozen=True, slots=True)
class Uniform:
    """Anything between `low_s` and `high_s` alike."""

    low_s: float
    high_s: float

    def draw(self, rng: random.Random) -> float:
        return rng.uniform(self.low_s, self.high_s)


@dataclass(frozen=True, slots=True)
class LogNormal:
    """The usual shape of service times: `median_s * exp(sigma * z)`, z normal; sigma 1 puts p99 at ten times the median."""

    median_s: float
    sigma: float = 0.5

    def draw(self, rng: random.Random) -> float:
        return rng.lognormvariate(math.log(self.median_s), self.sigma)


@dataclass(frozen=True, slots=True)
class Bimodal:
    """Mostly `fast_s`, and `slow_s` for a share of the requests: a cache miss, one bad host of many."""

    fast_s: float
    slow_s: float
    slow_share: float = 0.05

    def draw(self, rng: random.Random) -> float:
        return self.slow_s if rng.random() < self.slow_share else self.fast_s


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What every fault has: how probable it is, for which requests, for how many of them, and whether the work is billed."""

    kind: ClassVar[str] = ""
    probability: float = 1.0
    times: int | None = None
    """Only the first so many matching requests; None: no end."""
    only: Only = ANY
    early: bool = False
    """Acts on the request's head, before its body is read; then model and stream are not known yet and match as empty.

    For answers in place of the real one, and what comes before any answer. While an unread body fills the buffers, a peer that
    leaves is not seen to leave: that is what not reading means.
    """
    billed: bool | None = None
    """Overrides what the ledger would say of the bill: a lost answer may have been paid for, or not."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability <= 1.0:
            raise SpecError(f"probability is {self.probability}, not between 0 and 1")
        if self.early and not _acts_on_heads(self):
            raise SpecError(f"{self.kind} cannot be early: it shapes an answer that waits for the request's body")


@dataclass(frozen=True)
class Status(Fault):
    """Answer with this status. `body`: text as it is, anything else as JSON, None for the published error object."""

    kind: ClassVar[str] = "status"
    status: int
    body: Any = None
    headers: Lines = ()
    """Sent as written, in this order, duplicates and all."""
    content_type: str = "application/json"


@dataclass(frozen=True)
class Html(Fault):
    """A page of an edge network instead of an answer: 403 a block, 200 a captive portal, 5xx a dead origin."""

    kind: ClassVar[str] = "html"
    status: int = 502
    headers: Lines = ()


@dataclass(frozen=True)
class Raw(Fault):
    """Exactly these bytes instead of an HTTP answer, then the end of the connection, or silence (`hold`)."""

    kind: ClassVar[str] = "raw"
    data: str
    """Latin-1, so that every byte can be written."""
    then: Literal["close", "rst", "hold"] = "close"


@dataclass(frozen=True)
class Latency(Fault):
    """Wait before the head, or before the first event of a stream whose head went out at once."""

    kind: ClassVar[str] = "latency"
    delay: Delay | float
    before: Literal["head", "events"] = "head"


@dataclass(frozen=True)
class Stall(Fault):
    """Fall silent: before the head, before the body, or after so many events of a stream; for good, or for `for_s` seconds."""

    kind: ClassVar[str] = "stall"
    before: Literal["head", "body"] = "head"
    after_events: int | None = None
    """Overrides `before`; answers that are no streams are left alone then."""
    for_s: float | None = None
    comments_every_s: float | None = None
    """Keep a silent stream's connection busy with SSE comments, as some providers do while they queue."""


@dataclass(frozen=True)
class Reset(Fault):
    """RST after so many bytes of the head or of the body (payload bytes; chunk framing is not counted)."""

    kind: ClassVar[str] = "reset"
    after_bytes: int = 0
    part: Literal["head", "body"] = "head"


@dataclass(frozen=True)
class Cut(Fault):
    """End an answer too soon: after n events of a stream, or after k bytes of any body.

    `rst` resets, `close` ends the connection without the last chunk, and `clean` ends a chunked stream properly, only without the
    dialect's own terminator: the truncation that no HTTP library can see. A cut by bytes cannot be `clean`; it closes.
    """

    kind: ClassVar[str] = "cut"
    after_events: int | None = None
    after_bytes: int | None = None
    how: Literal["rst", "close", "clean"] = "clean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.after_events is None) == (self.after_bytes is None):
            raise SpecError("cut takes after_events or after_bytes, one of them")


@dataclass(frozen=True)
class ErrorEvent(Fault):
    """An error inside a stream whose status was 200: this payload after n events, then a proper end without terminator."""

    kind: ClassVar[str] = "error_event"
    after_events: int = 0
    payload: Any = None
    """None: the published shape of the endpoint's dialect. A string is sent as the data line, as it is."""
    event: str | None = None
    """The name on an `event:` line, if any; with a default payload, the endpoint's own habit."""


@dataclass(frozen=True)
class Drip(Fault):
    """Send the head, or everything, a few bytes at a time."""

    kind: ClassVar[str] = "drip"
    every_s: float = 1.0
    size_bytes: int = 1
    part: Literal["head", "all"] = "head"


@dataclass(frozen=True)
class WrongLength(Fault):
    """Announce a length that is off by so many bytes. Too long: the connection ends early. Too short: stray bytes follow."""

    kind: ClassVar[str] = "wrong_length"
    by: int = 10


@dataclass(frozen=True)
class Hangup(Fault):
    """Answer, and close the connection afterwards without having announced it: what a pool finds out at its next request."""

    kind: ClassVar[str] = "hangup"


@dataclass(frozen=True)
class RateLimit(Fault):
    """A true token bucket with the published headers on every answer; refused requests take nothing out of it.

    Limits are amounts per `period_s`; a bucket starts full and holds `burst` periods' worth. A call is charged one request and its
    estimated tokens at once, or refused with 429 and the time until it would fit.
    """

    kind: ClassVar[str] = "rate_limit"
    requests: float | None = None
    tokens: float | None = None
    period_s: float = 60.0
    burst: float = 1.0
    per: Literal["account", "key", "model"] = "account"
    advice: Literal["both", "ms", "seconds", "text"] = "both"
    """Which delay headers a 429 has; `text` leaves only the sentence in its message."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.requests is None and self.tokens is None:
            raise SpecError("rate_limit takes requests, tokens or both")


@dataclass(frozen=True)
class Refuse(Fault):
    """No listener at all: connections are refused. Only a script can say this, since no request ever arrives."""

    kind: ClassVar[str] = "refuse"


@dataclass(frozen=True)
class Oscillate(Fault):
    """Another fault by turns: for the first `duty` share of every period, counted from when the plan began."""

    kind: ClassVar[str] = "oscillate"
    fault: Fault
    period_s: float
    duty: float = 0.5


@dataclass(frozen=True)
class LoadSensitive(Fault):
    """Another fault while more than `base_per_s * factor` requests a second arrive: what a retry storm does to a weak provider."""

    kind: ClassVar[str] = "load_sensitive"
    fault: Fault
    base_per_s: float
    factor: float = 1.1
    window_s: float = 1.0


@dataclass(frozen=True)
class Mix(Fault):
    """One of several faults, by weight: `Mix((Status(500), Status(502)), (0.7, 0.3))`."""

    kind: ClassVar[str] = "mix"
    faults: tuple[Fault, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.faults) != len(self.weights) or not self.faults:
            raise SpecError("mix takes as many weights as faults, and at least one")


KINDS: dict[str, type[Fault]] = {
    kind.kind: kind
    for kind in (
        Status, Html, Raw, Latency, Stall, Reset, Cut, ErrorEvent, Drip, WrongLength, Hangup,
        RateLimit, Refuse, Oscillate, LoadSensitive, Mix,
    )
}  # fmt: skip
DELAYS: dict[str, type[Any]] = {"fixed": Fixed, "uniform": Uniform, "lognormal": LogNormal, "bimodal": Bimodal}


def _acts_on_heads(fault: Fault) -> bool:
    match fault:
        case Status() | Html() | Raw():
            return True
        case Latency() | Stall(after_events=None):
            return fault.before == "head"
        case Reset():
            return fault.part == "head" and fault.after_bytes == 0
        case Oscillate() | LoadSensitive():
            return _acts_on_heads(fault.fault)
        case Mix():
            return all(map(_acts_on_heads, fault.faults))
        case _:
            return False


def as_delay(value: Any) -> Delay:
    """A delay from a number of seconds, a ready distribution, or `{"dist": "lognormal", "median_s": 0.4, "sigma": 0.8}`.

    Raises SpecError.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Fixed(float(value))
    if isinstance(value, tuple(DELAYS.values())):
        return typing.cast("Delay", value)
    if isinstance(value, Mapping):
        spec = dict(value)
        kind = _known(str(spec.pop("dist", "")), DELAYS, "dist")
        return typing.cast("Delay", _built(kind, spec, str(value["dist"])))
    raise SpecError(f"a delay is a number of seconds or an object with `dist`, not {value!r}")


def as_fault(value: Any) -> Fault:
    """A fault from its JSON or YAML form: `{"kind": "status", "status": 503, "probability": 0.5, "only": {"family": "chat"}}`.

    Raises SpecError for unknown kinds, unknown or missing fields, and values outside their choices.
    """
    if isinstance(value, Fault):
        return value
    if not isinstance(value, Mapping):
        raise SpecError(f"a fault is an object with `kind`, not {value!r}")
    spec = dict(value)
    kind = _known(str(spec.pop("kind", "")), KINDS, "kind")
    return typing.cast("Fault", _built(kind, spec, kind.kind))


def _known(name: str, table: Mapping[str, type[Any]], what: str) -> type[Any]:
    if name in table:
        return table[name]
    near = get_close_matches(name, table, 1)
    raise SpecError(f"unknown {what} {name!r}" + (f", did you mean {near[0]!r}?" if near else f"; one of {', '.join(table)}"))


def _built(kind: type[Any], spec: dict[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind)
    known = {field.name: field for field in fields(kind)}
    for name in spec:
        if name not in known:
            near = get_close_matches(name, known, 1)
            raise SpecError(f"{where} has no {name!r}" + (f", did you mean {near[0]!r}?" if near else ""))
    for name, field in known.items():
        if name not in spec and field.default is MISSING:
            raise SpecError(f"{where} needs {name!r}")
    return kind(**{name: _value(value, hints[name], f"{where}.{name}") for name, value in spec.items()})


def _value(value: Any, hint: Any, where: str) -> Any:
    """Check and convert one field. The annotations of the classes above are the schema: there is no second one to keep in step."""
    if hint is Any:
        return value
    if hint is Delay:
        return as_delay(value)
    if hint is Fault:
        return as_fault(value)
    if hint is Only:
        if not isinstance(value, Mapping):
            raise SpecError(f"{where} is an object such as {{family: chat}}, not {value!r}")
        return _built(Only, dict(value), where)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return None if value is None else _value(value, next(i for i in inner if i is not type(None)), where)
    if origin is Literal:
        if value not in inner:
            raise SpecError(f"{where} is {value!r}, not one of {', '.join(map(str, inner))}")
        return value
    if origin is tuple:
        items = list(value.items()) if isinstance(value, Mapping) else value
        if not isinstance(items, list | tuple):
            raise SpecError(f"{where} is a list, not {value!r}")
        each = [inner[0]] * len(items) if inner[-1] is Ellipsis else inner
        if len(each) != len(items):
            raise SpecError(f"{where} has {len(items)} items, not {len(each)}")
        return tuple(_value(item, one, where) for item, one in zip(items, each, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise SpecError(f"{where} is a {hint.__name__}, not {value!r}")
    return value
