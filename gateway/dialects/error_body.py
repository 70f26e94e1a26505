"""Reads error bodies of any provider into one form: what the error calls itself, and its sentence.

Separate from the tables because the shapes vary more than the meanings: OpenAI's `{"error": {...}}`, Azure's with `innererror`,
xAI's `{"code", "error": "text"}`, Mistral's flat object, FastAPI's `detail`, Google's one-element array with `details`,
OpenRouter's integer codes, the `response` inside a `response.failed` event, and HTML from the edge. Nothing here raises,
whatever the bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import orjson

from gateway.core.message import Header, first

_LONGEST_BODY: Final = 1024 * 1024
_LONGEST_MESSAGE: Final = 2000
_LONGEST_NAME: Final = 100
_LONGEST_CODE: Final = 64
_ITEMS: Final = 20

_PAGE: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html|head)\b", re.IGNORECASE)
_UNPRINTABLE: Final = re.compile(r"[^\x20-\x7e]")


class ErrorBody:
    """One error, read."""

    __slots__ = ("code", "headers", "message", "names", "retry_delay", "shaped", "status")

    def __init__(self) -> None:
        self.code = ""
        """The most telling of its names; printable ASCII, at most 64 characters."""
        self.names: set[str] = set()
        """Every name it gives itself, in lower case."""
        self.message = ""
        self.retry_delay = ""
        """Google's `RetryInfo.retryDelay`, e.g. `31s`."""
        self.shaped = False
        """A known error shape was recognised."""
        self.status = 0
        """An HTTP status stated as the error's code; 0 if it states none."""
        self.headers: list[Header] = []
        """Headers that the error quotes; OpenRouter tells the state of its own rate limits that way."""


def is_page(headers: Iterable[Header], body: bytes) -> bool:
    """Whether an answer is an HTML page, by its content type or, where that does not say JSON, by its first bytes."""
    kind = (first(headers, b"content-type") or b"").lower()
    if kind.startswith((b"text/html", b"application/xhtml")):
        return True
    return b"json" not in kind and _PAGE.match(body) is not None


def read_error(body: bytes) -> ErrorBody:
    """Read an error body, or the payload of an error event."""
    error = ErrorBody()
    document: Any = None
    if len(body) <= _LONGEST_BODY:
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError:
            error.message = body[:_LONGEST_MESSAGE].decode("utf-8", "replace").strip()
    if isinstance(document, list) and document:
        document = document[0]
    if isinstance(document, dict):
        _read_document(error, document)
    return error


def _read_document(error: ErrorBody, document: dict[str, Any]) -> None:
    inner: Any = document.get("error")
    response = document.get("response")
    if inner is None and isinstance(response, dict):
        inner = response.get("error")
    if inner is None and isinstance(document.get("detail"), dict):
        inner = document["detail"]
        inner = inner.get("error", inner)
    if isinstance(inner, dict):
        error.shaped = True
        _read_object(error, inner)
        return
    if isinstance(inner, str):
        error.shaped = True
        _read_object(error, document)
        error.message = inner[:_LONGEST_MESSAGE]
        return
    detail = document.get("detail")
    if isinstance(detail, list) and detail and isinstance(detail[0], dict):
        detail = detail[0].get("msg")
    error.shaped = isinstance(document.get("message"), str) or isinstance(detail, str) or document.get("object") == "error"
    if error.shaped:
        _read_object(error, document)
        if isinstance(detail, str) and not error.message:
            error.message = detail[:_LONGEST_MESSAGE]


def _read_object(error: ErrorBody, source: dict[str, Any]) -> None:
    message = source.get("message")
    if isinstance(message, str):
        error.message = message[:_LONGEST_MESSAGE]
    code, kind, status = (_name(source.get(key)) for key in ("code", "type", "status"))
    if code.isascii() and code.isdecimal() and len(code) == 3 and "400" <= code <= "599":
        error.status = int(code)
    named = "" if code.isascii() and code.isdecimal() else code
    error.code = _UNPRINTABLE.sub("", named or (status if not status.isdecimal() else "") or kind or code)[:_LONGEST_CODE]
    for name in (code, kind, status):
        _add(error, name)
    for key in ("innererror", "inner_error"):
        below = source.get(key)
        if isinstance(below, dict):
            _add(error, _name(below.get("code")))
    _read_metadata(error, source.get("metadata"))
    _read_details(error, source.get("details"))


def _read_metadata(error: ErrorBody, metadata: Any) -> None:
    """OpenRouter's: where a limit lies and how it stands, and whether its moderation refused the input."""
    if not isinstance(metadata, dict):
        return
    _add(error, _name(metadata.get("limit_source")))
    if "flagged_input" in metadata:
        error.names.add("flagged_input")
    quoted = metadata.get("headers")
    if isinstance(quoted, dict):
        for key, value in list(quoted.items())[:_ITEMS]:
            name = key[:_LONGEST_NAME].encode()
            error.headers.append((name.lower(), name, _name(value).encode()))


def _read_details(error: ErrorBody, details: Any) -> None:
    """Google's `ErrorInfo`, `QuotaFailure` and `RetryInfo`; Anthropic's `error_code`."""
    if isinstance(details, dict):
        _add(error, _name(details.get("error_code")))
    if not isinstance(details, list):
        return
    for detail in details[:_ITEMS]:
        if not isinstance(detail, dict):
            continue
        _add(error, _name(detail.get("reason")))
        delay = detail.get("retryDelay")
        if isinstance(delay, str):
            error.retry_delay = delay[:_LONGEST_NAME]
        violations = detail.get("violations")
        for violation in violations[:_ITEMS] if isinstance(violations, list) else ():
            quota = _name(violation.get("quotaId")).lower() if isinstance(violation, dict) else ""
            if "perday" in quota:
                error.names.add("quota_per_day_and_model" if "permodel" in quota else "quota_per_day")


def _name(value: Any) -> str:
    if isinstance(value, str):
        return value[:_LONGEST_NAME]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return ""


def _add(error: ErrorBody, name: str) -> None:
    if name:
        error.names.add(name.lower())
