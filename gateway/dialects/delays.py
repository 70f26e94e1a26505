"""One parser for every way in which providers say "come back later".

Seen in the wild: float seconds, HTTP dates (RFC 9110 section 10.2.3), RFC 3339 dates, Go durations (`6m0s`, `250ms`), epoch seconds
and milliseconds, `-1` and nothing at all; in headers, in the error's message, in Google's `RetryInfo`. A delay that cannot be
understood is no delay (None), never an error: a client must not suffer for a provider's typo. Beside it, what the counters of a
limit say about a refusal that names no delay: when an exhausted one begins anew, and whether there was anything left.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from gateway.core.message import Header, first

MAX_DELAY_S: Final = 86_400.0

_NUMBER: Final = re.compile(r"[+-]?(?:\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})", re.ASCII)
_GO_DURATION: Final = re.compile(r"(?:(?:\d{1,15}(?:\.\d{0,15})?|\.\d{1,15})(?:ns|us|µs|μs|ms|s|m|h))+", re.ASCII)
_GO_TERM: Final = re.compile(r"([\d.]+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_GO_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}

_LONGEST: Final = 64
_EPOCH_S: Final = 1e9
"""From here on a number is a moment (2001), not a duration (31 years)."""
_EPOCH_MS: Final = 1e12

_HINT: Final = re.compile(
    r"""(?:\b(?:try\ again|retry|wait)(?:\ (?:again\ )?(?:in|after|for))?|retryDelay["':\s]{1,4})\s*
        (\d{1,12}(?:\.\d{1,9})?)\s?
        (milliseconds?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|h|days?|d)\b""",
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)
_GO_HINT: Final = re.compile(r"\b(?:try again|retry) (?:in|after) ((?:\d[\d.]{0,15}(?:ms|s|m|h))+)\b", re.IGNORECASE | re.ASCII)
_HINT_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def parse_delay(value: str, *, now_unix: float) -> float | None:
    """Return the seconds to stay away, clamped to [0, 86400]; None for garbage, negatives and moments that have passed.

    A bare number is seconds, or from 1e9 on a moment in epoch seconds, from 1e12 on in epoch milliseconds.
    """
    seconds = parse_duration(value)
    if seconds is not None:
        return seconds
    moment = parse_moment(value)
    return None if moment is None else clamped(moment - now_unix)


def parse_duration(value: str) -> float | None:
    """Return the seconds of a duration, clamped to [0, 86400]: a bare number below 1e9, a Go duration; None for anything else."""
    text = value.strip()
    if not text or len(text) > _LONGEST:
        return None
    if _NUMBER.fullmatch(text):
        number = float(text)
        return clamped(number) if number < _EPOCH_S else None
    return clamped(_go_seconds(text)) if _GO_DURATION.fullmatch(text) else None


def parse_moment(value: str) -> float | None:
    """Return a moment in seconds since the epoch: a bare number from 1e9 on, a date; None for anything else."""
    text = value.strip()
    if not text or len(text) > _LONGEST:
        return None
    if not _NUMBER.fullmatch(text):
        return _date(text)
    number = float(text)
    if number < _EPOCH_S:
        return None
    return number / 1000 if number >= _EPOCH_MS else number


def parse_amount(value: str) -> float | None:
    """Return a plain decimal number that is not negative; None for anything else, `-1` among it."""
    text = value.strip()
    count = float(text) if _NUMBER.fullmatch(text) else -1.0
    return count if count >= 0 else None


def delay_of(headers: Iterable[Header], body_message: str, now_unix: float, *, retry_info: str = "") -> float | None:
    """Return the delay that an answer states: `retry-after-ms`, `x-ms-retry-after-ms`, `retry-after`, `retry_info`, its message.

    The headers' order is the official SDKs'; `retry_info` is a field of the body made for it (Google's `retryDelay`). The first one
    that can be understood counts.
    """
    found: dict[bytes, str] = {}
    for name, _, value in headers:
        if name in _HEADERS and name not in found:
            found[name] = value.decode("latin-1")
    for name in _HEADERS:
        stated = found.get(name)
        if stated is None:
            continue
        in_ms = name is not _RETRY_AFTER and _NUMBER.fullmatch(stated.strip()) is not None
        delay = clamped(float(stated) / 1000) if in_ms else parse_delay(stated, now_unix=now_unix)
        if delay is not None:
            return delay
    delay = parse_delay(retry_info, now_unix=now_unix)
    return delay if delay is not None else _hinted(body_message)


def next_window(headers: Iterable[Header], now_unix: float) -> float | None:
    """Return the seconds until an exhausted limit begins anew: a moment in `x-ratelimit-reset` beside `x-ratelimit-remaining: 0`.

    Only a moment (OpenRouter's, in epoch milliseconds) is one. The resets of OpenAI and its followers, which name their resource
    and are durations, tell when the limit will be whole again: long after there is room for one request.
    """
    fields = list(headers)
    moment = (first(fields, b"x-ratelimit-reset") or b"").decode("latin-1").strip()
    remaining = parse_amount((first(fields, b"x-ratelimit-remaining") or b"").decode("latin-1"))
    if remaining != 0.0 or not _NUMBER.fullmatch(moment) or float(moment) < _EPOCH_S:
        return None
    return parse_delay(moment, now_unix=now_unix)


def quota_left(headers: Iterable[Header]) -> bool:
    """Whether the headers count at least one limit, and something is left of every limit they count.

    Read are `x-ratelimit-remaining` with or without a resource behind it, and `anthropic-ratelimit-*-remaining`. `-1`, which Azure
    sends, and what is no number tell nothing.
    """
    counts = [
        parse_amount(value.decode("latin-1"))
        for name, _, value in headers
        if name.startswith(b"x-ratelimit-remaining") or (name.startswith(b"anthropic-ratelimit-") and name.endswith(b"-remaining"))
    ]
    known = [count for count in counts if count is not None]
    return bool(known) and min(known) > 0


_RETRY_AFTER: Final = b"retry-after"
_HEADERS: Final = (b"retry-after-ms", b"x-ms-retry-after-ms", _RETRY_AFTER)


def _hinted(message: str) -> float | None:
    go = _GO_HINT.search(message)
    if go and _GO_DURATION.fullmatch(go[1]):
        return clamped(_go_seconds(go[1]))
    hint = _HINT.search(message)
    if hint is None:
        return None
    unit = hint[2].lower()
    if unit.startswith(("ms", "millis")):
        return clamped(float(hint[1]) / 1000)
    return clamped(float(hint[1]) * _HINT_UNITS[unit[0]])


def _go_seconds(text: str) -> float:
    total = 0.0
    for number, unit in _GO_TERM.findall(text):
        total += float(number) * _GO_UNITS[unit]
    return total


def _date(text: str) -> float | None:
    try:
        # RFC 3339 section 5.6 allows a small `z`, Python does not.
        moment = datetime.fromisoformat(text.upper()) if text[:4].isdecimal() else parsedate_to_datetime(text)
        # A date without a zone is UTC; the local zone would be this machine's, not the provider's.
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def clamped(seconds: float) -> float | None:
    """Return a delay of at most a day; None for one that is negative, or no number."""
    if not seconds >= 0:
        return None
    return min(seconds, MAX_DELAY_S)
