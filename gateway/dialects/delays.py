"""One parser for every way in which providers say "come back later".

Seen in the wild: float seconds, HTTP dates (RFC 9110 section 10.2.3), RFC 3339 dates, Go durations (`6m0s`, `250ms`), epoch seconds
and milliseconds, `-1` and nothing at all; in headers, in the error's message, in Google's `RetryInfo`. A delay that cannot be
understood is no delay (None), never an error: a client must not suffer for a provider's typo.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from gateway.core.message import Header

MAX_DELAY_S = 86_400.0

_NUMBER = re.compile(r"[+-]?(?:\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})", re.ASCII)
_GO_DURATION = re.compile(r"(?:(?:\d{1,15}(?:\.\d{0,15})?|\.\d{1,15})(?:ns|us|µs|μs|ms|s|m|h))+", re.ASCII)
_GO_TERM = re.compile(r"([\d.]+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_GO_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}

_EPOCH_S = 1e9
"""From here on a number is a moment (2001), not a duration (31 years)."""
_EPOCH_MS = 1e12

_HINT = re.compile(
    r"""(?:\b(?:try\ again|retry|wait)(?:\ (?:again\ )?(?:in|after|for))?|retryDelay["':\s]{1,4})\s*
        (\d{1,12}(?:\.\d{1,9})?)\s?
        (milliseconds?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|h|days?|d)\b""",
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)
_GO_HINT = re.compile(r"\b(?:try again|retry) (?:in|after) ((?:\d[\d.]{0,15}(?:ms|s|m|h))+)", re.IGNORECASE | re.ASCII)
_HINT_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def parse_delay(value: str, *, now_unix: float) -> float | None:
    """Return the seconds to stay away, clamped to [0, 86400]; None for garbage, negatives and moments that have passed.

    A bare number is seconds, or from 1e9 on a moment in epoch seconds, from 1e12 on in epoch milliseconds.
    """
    text = value.strip()
    if not text or len(text) > 64:
        return None
    if _NUMBER.fullmatch(text):
        number = float(text)
        if number >= _EPOCH_MS:
            return _clamp(number / 1000 - now_unix)
        return _clamp(number - now_unix if number >= _EPOCH_S else number)
    if _GO_DURATION.fullmatch(text):
        return _clamp(_go_seconds(text))
    moment = _moment(text)
    return None if moment is None else _clamp(moment - now_unix)


def delay_of(headers: Iterable[Header], body_message: str, now_unix: float) -> float | None:
    """Return the delay that an answer states: `retry-after-ms`, `x-ms-retry-after-ms`, `retry-after`, then its message.

    The order is the official SDKs'. The first one that can be understood counts.
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
        delay = _clamp(float(stated) / 1000) if in_ms else parse_delay(stated, now_unix=now_unix)
        if delay is not None:
            return delay
    return _hinted(body_message)


_RETRY_AFTER = b"retry-after"
_HEADERS = (b"retry-after-ms", b"x-ms-retry-after-ms", _RETRY_AFTER)


def _hinted(message: str) -> float | None:
    go = _GO_HINT.search(message)
    if go and _GO_DURATION.fullmatch(go[1]):
        return _clamp(_go_seconds(go[1]))
    hint = _HINT.search(message)
    if hint is None:
        return None
    unit = hint[2].lower()
    if unit.startswith(("ms", "millis")):
        return _clamp(float(hint[1]) / 1000)
    return _clamp(float(hint[1]) * _HINT_UNITS[unit[0]])


def _go_seconds(text: str) -> float:
    total = 0.0
    for number, unit in _GO_TERM.findall(text):
        total += float(number) * _GO_UNITS[unit]
    return total


def _moment(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text) if text[:4].isdecimal() else parsedate_to_datetime(text)
        # A date without a zone is UTC; the local zone would be this machine's, not the provider's.
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _clamp(seconds: float) -> float | None:
    if not seconds >= 0:
        return None
    return min(seconds, MAX_DELAY_S)
