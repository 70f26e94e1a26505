"""What one key may hold: a reader for each kind of value, bound to what an editor should know of it.

Names, patterns, keys, headers and addresses are read here, one value at a time; which key holds which stands in `schema`. Secrets
and certificates are opened while they are read, so that a missing file is reported at the line that names it.
"""

from __future__ import annotations

import math
import re
import warnings
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema

from gateway.config import addresses, clientkeys, secrets, units
from gateway.config.snapshot import Secret
from gateway.config.units import Mistake
from gateway.core.plan import Prefill
from gateway.core.verdicts import Fault, Scope

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", re.ASCII)
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_OURS: Final = frozenset(
    {
        "authorization",
        "api-key",
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "upgrade",
        "expect",
    },
)
"""Headers that the gateway writes itself: framing, hop-by-hop, and the credential."""


def name(value: object) -> str:
    """Read a name of ours: it becomes a metric label, a header's part and a path segment."""
    written = units.text(value)
    if not _NAME.fullmatch(written):
        raise Mistake("not a name; use up to 64 letters, digits, `.`, `_`, `-` and `@`, beginning with a letter or digit")
    return written


def _model(value: object) -> str:
    written = units.text(value)
    if not written or len(written) > 256 or any(char <= " " or char == "\x7f" for char in written):
        raise Mistake("not a model's name: it has 1 to 256 characters and no spaces")
    return written


def _glob(value: object) -> str:
    written = _model(value)
    if re.search(r"\[(?![!]?[^\]]+\])", written):
        raise Mistake("the pattern's `[` is never closed by `]`")
    return written


def _path_glob(value: object) -> str:
    written = _glob(value)
    if not written.startswith("/"):
        raise Mistake("paths begin with `/`, e.g. /v1/chat/completions")
    return written


def _client_key(value: object) -> bytes:
    written = secrets.secret_text(value)
    if written.startswith("sha256:"):
        digest = written.removeprefix("sha256:")
        if not re.fullmatch(r"[0-9a-f]{64}", digest, re.ASCII):
            raise Mistake("`sha256:` is followed by 64 lower-case hexadecimal digits, the hash of the key", quote=False)
        return bytes.fromhex(digest)
    return clientkeys.digest(secrets.secret(written).reveal())


def _keys(value: object) -> tuple[Secret, ...]:
    keys = tuple(map(secrets.secret, value if isinstance(value, list) else [value]))
    if not keys:
        raise Mistake("the list has no key; leave `api_key` out to pass on the client's own", quote=False)
    if len({key.id for key in keys}) < len(keys):
        raise Mistake("the same key stands here twice", quote=False)
    return keys


def _headers(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise Mistake("a mapping of header names and values is expected", quote=False)
    headers: dict[str, str] = {}
    for header, content in value.items():
        lower = header.lower()
        if not _TOKEN.fullmatch(header):
            raise Mistake("a header's name has only letters, digits and dashes", quote=False)
        if lower in _OURS or lower.startswith("x-gateway-"):
            raise Mistake(
                f"{lower} is the gateway's to write" + ("; use `api_key`" if lower in {"authorization", "api-key"} else "")
            )
        if lower in headers:
            raise Mistake(f"{lower} stands here twice")
        try:
            written = secrets.secret_text(content)
        except Mistake as mistake:
            raise Mistake(f"{lower}: {mistake.message}") from None
        if not all(char == "\t" or " " <= char <= "~" for char in written):
            raise Mistake(f"{lower}: a header's value has only printable ASCII characters")
        headers[lower] = written.strip()
    return headers


def _certificates(value: object) -> str:
    path = units.text(value)
    if not path.startswith("/"):
        raise Mistake("write the absolute path of a PEM file")
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - pathlib cannot read a bounded part
            head = file.read(1024 * 1024)
    except OSError as error:
        raise Mistake(f"cannot be read: {(error.strerror or 'unknown error').lower()}") from None
    if b"-----BEGIN CERTIFICATE-----" not in head:
        raise Mistake("holds no PEM certificate")
    return path


def _fault(value: object) -> Fault:
    return Fault(units.one_of(value, tuple(Fault)))


RULED_FAULTS: Final[tuple[Fault, ...]] = tuple(
    fault for fault in Fault if fault not in {Fault.CONNECT, Fault.TIMEOUT, Fault.STALLED, Fault.STREAM_BROKEN, Fault.UNKNOWN}
)
"""What an error answer may be ruled to be: not what happens to a connection without any answer, and not that nobody knows."""


def _ruled_fault(value: object) -> Fault:
    if value == Fault.UNKNOWN:
        raise Mistake(f"that rules nothing; must be one of {', '.join(RULED_FAULTS)}")
    if isinstance(value, str) and value in tuple(Fault) and value not in RULED_FAULTS:
        raise Mistake(f"that happens to connections, an answer cannot say it; must be one of {', '.join(RULED_FAULTS)}")
    return Fault(units.one_of(value, RULED_FAULTS))


_STATUS_RANGE: Final = re.compile(r"(?P<hundreds>\d)xx|(?P<low>\d{3})(?:-(?P<high>\d{3}))?", re.ASCII)


def _statuses(value: object) -> tuple[int, int]:
    """Read `429`, `5xx` or `500-599` as a range, both ends included."""
    written = str(value) if isinstance(value, int) else value
    found = _STATUS_RANGE.fullmatch(written) if isinstance(written, str) else None
    if found is None:
        raise Mistake('an error status is expected: a number from 400 to 599, "5xx" or "500-599"')
    if found["hundreds"]:
        low = int(found["hundreds"]) * 100
        high = low + 99
    else:
        low = int(found["low"])
        high = int(found["high"] or low)
    if low < 400 or high > 599:
        raise Mistake("error statuses go from 400 to 599")
    if low > high:
        raise Mistake("the range ends before it begins")
    return low, high


_LONGEST_PATTERN: Final = 1000
_PATTERN_PIECE: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{\d*,?\d*\}|.", re.DOTALL | re.ASCII)
_UNBOUNDED: Final = re.compile(r"[+*]|\{\d*,\}", re.ASCII)


def _body_pattern(value: object) -> re.Pattern[bytes]:
    written = units.text(value)
    if not 0 < len(written) <= _LONGEST_PATTERN:
        raise Mistake(f"a regular expression of 1 to {_LONGEST_PATTERN} characters is expected", quote=False)
    if _multiplies(written):
        raise Mistake("a repetition inside a repetition can take for ever on the wrong text: bound the outer one, e.g. {1,9}")
    try:
        with warnings.catch_warnings(action="ignore"):
            return re.compile(written.encode())
    except re.error as error:
        # Names that the pattern gives its groups are left out: they may come from the environment.
        complaint = re.sub(r" '.*?'(?= |$)", "", error.msg) + ("" if error.pos is None else f" at position {error.pos}")
    except (RecursionError, OverflowError):
        complaint = "too large"
    raise Mistake(f"not a regular expression: {complaint}")


def _multiplies(pattern: str) -> bool:
    """Whether a repetition without bound stands inside another one, which takes exponential time on a text that nearly fits.

    Counted is what is written: `+`, `*` and `{n,}` behind a group in which there is another of them, whatever separates its turns.
    """
    groups = [False]
    closed = False
    for piece in _PATTERN_PIECE.findall(pattern):
        unbounded = _UNBOUNDED.fullmatch(piece) is not None
        if unbounded and closed:
            return True
        closed = False
        groups[-1] |= unbounded
        if piece == "(":
            groups.append(False)
        elif piece == ")" and len(groups) > 1:
            closed = groups.pop()
            groups[-1] |= closed
    return False


def as_list(value: object) -> object:
    """Let one value stand for the list of it."""
    return value if isinstance(value, list) else [value]


def _api_version(value: object) -> str:
    written = units.text(value)
    if not re.fullmatch(r"[A-Za-z0-9.-]{1,32}", written, re.ASCII):
        raise Mistake('not an API version, e.g. "2024-10-21"')
    return written


def _duration_or(value: object, otherwise: str) -> float:
    """Read a duration above zero; what else could stand here is said behind what is wrong."""
    try:
        return units.positive_duration(value)
    except Mistake as mistake:
        raise Mistake(f"{mistake.message}; or {otherwise}") from None


def _hold(value: object) -> float:
    """Read how long content is held back: seconds, infinite for `all`."""
    if value == "none":
        return 0.0
    return math.inf if value == "all" else _duration_or(value, "none, or all")


_SHORTEST_PULSE_S: Final = 1.0


def _pulse(value: object) -> float:
    """Read after how much silence something is sent: seconds, infinite for `off`."""
    if value is False or value == "off":
        return math.inf
    seconds = _duration_or(value, "off")
    if seconds < _SHORTEST_PULSE_S:
        raise Mistake("must be at least 1s; or off")
    return seconds


def _hedge_after(value: object) -> units.Percentile | float:
    """Read when to hedge: at a percentile, or after so many seconds."""
    percentile = units.percentile(value, 10)
    return _duration_or(value, "a percentile, e.g. p95") if percentile is None else percentile


def short_for(key: str, **rest: None) -> BeforeValidator:
    """Let a bare value stand for the mapping that has this key, whose reader then judges it, and the `rest`."""
    return BeforeValidator(lambda value: value if isinstance(value, dict) else {key: value, **rest})


def _off(value: object) -> object:
    if value is True:
        raise Mistake("`on` says too little: write the mapping, e.g. {after: p95, floor: 300ms, budget: 5%}")
    return None if value is False or value == "off" else value


def _pattern(pattern: str, *examples: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    if pattern:
        # A reference is allowed wherever a string is; what it will hold, an editor cannot know.
        schema["pattern"] = rf"^(?:{pattern}|.*\$\{{.*)$"
    if examples:
        schema["examples"] = list(examples)
    return schema


def _string(pattern: str = "", *examples: str) -> WithJsonSchema:
    return WithJsonSchema(_pattern(pattern, *examples))


def count(low: int, high: int) -> tuple[PlainValidator, WithJsonSchema]:
    """Describe a whole number within bounds."""
    schema: dict[str, Any] = {
        "anyOf": [{"type": "integer", "minimum": low, "maximum": high}, {"type": "string", "pattern": r"\$\{"}]
    }
    return PlainValidator(lambda value: units.integer(value, low, high)), WithJsonSchema(schema)


def choice(*choices: str) -> tuple[PlainValidator, WithJsonSchema]:
    """Describe one word of a few."""
    return PlainValidator(lambda value: units.one_of(value, choices)), WithJsonSchema({"enum": list(choices)})


_NUMBER: Final = r"\d+(?:\.\d+)?"
_SPAN: Final = rf"(?:{_NUMBER}(?:h|m|s|ms))+"
_SWITCH: Final = WithJsonSchema({"anyOf": [{"type": "boolean"}, {"enum": ["on", "off"]}, {"type": "string", "pattern": r"\$\{"}]})
_SECRET: Final = WithJsonSchema({"type": "string", "minLength": 1})

DURATION: Final = _pattern(_SPAN, "250ms", "2s", "1m", "1h")
"""A duration in an editor's eyes."""
Duration = Annotated[float, PlainValidator(units.duration), WithJsonSchema(DURATION)]
PositiveDuration = Annotated[float, PlainValidator(units.positive_duration), WithJsonSchema(DURATION)]
Size = Annotated[int, PlainValidator(units.size), _string(r"\d+(?:\.\d+)? ?[kKMmGgTt]?i?[bB]", "64KiB", "10MB")]
Share = Annotated[float, PlainValidator(units.share), _string(r"\d+(?:\.\d+)? ?%", "20%")]
PositiveShare = Annotated[float, PlainValidator(units.positive_share), _string(r"\d+(?:\.\d+)? ?%", "50%")]
Rate = Annotated[
    units.Rate,
    PlainValidator(units.rate),
    _string(r"\d+(?:\.\d+)?[kM]? ?/ ?\d*(?:ms|s|sec|m|min|h|hour|d|day)", "8/s", "600/min", "100/10s", "10k/h"),
]
_WEIGHT: Final[dict[str, Any]] = {"type": "number", "minimum": units.LEAST_WEIGHT, "maximum": units.LARGEST_WEIGHT}
Weight = Annotated[
    float, PlainValidator(units.weight), WithJsonSchema({"anyOf": [_WEIGHT, {"type": "string", "pattern": r"\$\{"}]})
]
Switch = Annotated[bool, PlainValidator(units.switch), _SWITCH]
Name = Annotated[str, PlainValidator(name), _string(r"[A-Za-z0-9][A-Za-z0-9._@\-]{0,63}")]
Model = Annotated[str, PlainValidator(_model), _string()]
Glob = Annotated[str, PlainValidator(_glob), _string("", "gpt-*", "claude-*")]
PathGlob = Annotated[str, PlainValidator(_path_glob), _string("/.*", "/v1/chat/completions", "/v1/files*")]
Address = Annotated[addresses.Listen, PlainValidator(addresses.listen), _string(r".+:\d+", "127.0.0.1:8080", "[::1]:8080")]

Token = Annotated[Secret | None, PlainValidator(secrets.optional_secret), _SECRET]
ClientKey = Annotated[bytes, PlainValidator(_client_key), _SECRET]
Keys = Annotated[
    tuple[Secret, ...],
    PlainValidator(_keys),
    WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]
Headers = Annotated[
    dict[str, str], PlainValidator(_headers), WithJsonSchema({"type": "object", "additionalProperties": {"type": "string"}})
]
BaseUrl = Annotated[
    addresses.BaseUrl | None, PlainValidator(addresses.base_url), _string("https?://.*", "https://api.openai.com/v1")
]
Proxy = Annotated[
    str | None,
    PlainValidator(addresses.proxy),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": r"^(?:http://.*|file:/.*|off|.*\$\{.*)$"}, {"const": False}]}),
]
Certificates = Annotated[str, PlainValidator(_certificates), _string("/.*")]
Label = Annotated[str, PlainValidator(name), _string()]
ApiVersion = Annotated[str, PlainValidator(_api_version), _string()]
FaultName = Annotated[Fault, PlainValidator(_fault), WithJsonSchema({"enum": list(Fault)})]
RuledFault = Annotated[Fault, PlainValidator(_ruled_fault), WithJsonSchema({"enum": list(RULED_FAULTS)})]
ScopeName = Annotated[
    Scope, PlainValidator(lambda value: Scope(units.one_of(value, tuple(Scope)))), WithJsonSchema({"enum": list(Scope)})
]
_STATUS: Final[dict[str, Any]] = {
    "anyOf": [
        {"type": "integer", "minimum": 400, "maximum": 599},
        {"type": "string", "pattern": r"^(?:[45]xx|[45]\d\d(?:-[45]\d\d)?|.*\$\{.*)$", "examples": ["5xx", "500-599"]},
    ]
}
Statuses = Annotated[
    tuple[Annotated[tuple[int, int], PlainValidator(_statuses)], ...],
    BeforeValidator(as_list),
    Field(min_length=1),
    WithJsonSchema({"anyOf": [*_STATUS["anyOf"], {"type": "array", "items": _STATUS, "minItems": 1}]}),
]
BodyPattern = Annotated[re.Pattern[bytes], PlainValidator(_body_pattern), _string("", "(?i)capacity|no healthy upstream")]
HedgeAfter = Annotated[units.Percentile | float, PlainValidator(_hedge_after), _string(rf"p[1-9][0-9]|{_SPAN}", "p95", "800ms")]
Learned = Annotated[
    units.Multiple,
    PlainValidator(lambda value: units.multiple(value, 50)),
    _string(rf"p[5-9][0-9]\s*[x\u00d7]\s*{_NUMBER}", "p99 x 3"),
]
Hold = Annotated[float, PlainValidator(_hold), _string(rf"none|all|{_SPAN}", "none", "500ms", "all")]
Pulse = Annotated[
    float, PlainValidator(_pulse), WithJsonSchema({"anyOf": [_pattern(rf"off|{_SPAN}", "15s", "45s"), {"const": False}]})
]
PrefillName = Annotated[
    Prefill, PlainValidator(lambda value: Prefill(units.one_of(value, tuple(Prefill)))), WithJsonSchema({"enum": list(Prefill)})
]
OFF: Final = BeforeValidator(_off)
"""Lets `off` stand for the absence of a section."""
