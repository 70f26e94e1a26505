"""The access log: one JSON object per line and exchange, with always the same keys.

Law 12 holds here: a line is made from the record's named fields alone, so that no key, header, query or body can get into it.
Whatever a client chose (path, model) is a JSON string of printable ASCII: control characters, line separators of any alphabet and
bytes that are no UTF-8 are escaped, and no client can forge a line or steer a terminal. Separate from `writer`, which knows how
lines reach a file, and not what is in them. Rendering with `orjson` costs 2-3 us; `logging` with a JSON formatter cost 11.
"""

from __future__ import annotations

import json
import time
from typing import Any, Final

import orjson

from gateway.core.record import ExchangeRecord, trail
from gateway.observe.hedges import summary
from gateway.observe.table import PRIORITIES
from gateway.observe.writer import LineWriter

PATH_CHARS: Final = 512
"""Longer paths are cut: ten thousand lines wait in memory while a reader stalls, and a path may be as long as a head."""


class AccessLog:
    """Writes a line for every exchange to `fd`; None turns it off."""

    def __init__(self, fd: int | None = 1, *, capacity: int = 10_000) -> None:
        self._writer = None if fd is None else LineWriter(fd, capacity=capacity)
        self._second = -1
        self._stamp = ""

    @property
    def dropped(self) -> int:
        """Lines lost because the reader stalled or left."""
        return 0 if self._writer is None else self._writer.dropped

    def write(self, record: ExchangeRecord, now_unix: float, first_token_s: float | None, overhead_s: float | None) -> None:
        """Log an exchange that ended at `now_unix` (seconds since the epoch). Never blocks."""
        if self._writer is None:
            return
        second = int(now_unix)
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        stamp = f"{self._stamp}.{int((now_unix - second) * 1000):03d}Z"
        self._writer.append(line(record, stamp, first_token_s, overhead_s))

    def close(self, timeout_s: float) -> bool:
        """Write what is queued, waiting for at most `timeout_s` seconds; return whether all of it was handled."""
        return True if self._writer is None else self._writer.close(timeout_s)


def line(record: ExchangeRecord, stamp: str, first_token_s: float | None, overhead_s: float | None) -> bytes:
    """Render one line, with its line feed.

    `provider`, `upstream_status` and `upstream_code` are those of the attempt whose answer the client got, else of the last one.
    `queue_ms` is all waiting for providers' limits together, `spilled_from` names the providers that had no room in time. Times are
    milliseconds; what did not happen is null.
    """
    attempts = record.attempts
    last = record.winner or (attempts[-1] if attempts else None)
    tokens_in, tokens_out = record.usage or (None, None)
    waits, spills = record.waits, record.spills
    fields: dict[str, Any] = {
        "ts": stamp,
        "request_id": record.request_id,
        "client": record.client,
        "route": record.route,
        "family": record.family,
        "method": record.method,
        "path": record.path[:PATH_CHARS],
        "model": record.model,
        "stream": record.stream,
        "priority": PRIORITIES[record.priority],
        "status": record.status,
        "outcome": record.ending,
        "reason": record.reason,
        "provider": "" if last is None else last.provider,
        "trail": trail(attempts, record.ended_at),
        "attempts": len(attempts),
        "saved_by": record.saved_by,
        "spilled_from": "" if spills is None else ", ".join([provider for provider, _ in spills]),
        "hedge": record.hedge_skipped if len(attempts) < 2 else summary(record),
        "upstream_status": None if last is None or not last.status else last.status,
        "upstream_code": "" if last is None else last.code,
        # Whole microseconds; `round` to three digits costs three times as much.
        "duration_ms": int((record.ended_at - record.received_at) * 1e6) / 1e3,
        "first_token_ms": None if first_token_s is None else int(first_token_s * 1e6) / 1e3,
        "overhead_ms": None if overhead_s is None else int(overhead_s * 1e6) / 1e3,
        "queue_ms": None if waits is None else int(sum([seconds for _, _, seconds in waits]) * 1e6) / 1e3,
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
        "input_tokens": tokens_in,
        "output_tokens": tokens_out,
        "usage_partial": record.usage_partial,
    }
    try:
        rendered = orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        # A lone surrogate: a byte of the request that is no UTF-8.
        return _ascii_line(fields)
    return rendered if rendered.isascii() and b"\x7f" not in rendered else _ascii_line(fields)


def _ascii_line(fields: dict[str, Any]) -> bytes:
    clean = {name: _whole(value) if isinstance(value, str) else value for name, value in fields.items()}
    text = json.dumps(clean, separators=(",", ":"), ensure_ascii=True).replace("\x7f", "\\u007f")
    return text.encode("ascii") + b"\n"


def _whole(text: str) -> str:
    return str(text).encode("utf-8", "replace").decode("utf-8")
