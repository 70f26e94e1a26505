"""Reads the model from a multipart form (audio uploads, image edits), and changes it by one surgical edit.

Files inside the form are skipped by one search for the boundary each, never looked into. As with JSON (law 4), a form that two
readers could read differently is refused: a second `model`, a `model` that is a file, an encoded name. RFC 7578; RFC 2046
section 5.1.
"""

from __future__ import annotations

import re

from gateway.dialects.body import BodyFacts, Span

_BOUNDARY = re.compile(rb';[ \t]*boundary=(?:"([^"\r\n]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
_NAME = re.compile(rb';[ \t]*name=(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))', re.IGNORECASE | re.DOTALL)
_OTHER_NAME = re.compile(rb";[ \t]*(?:filename\*?|name\*)[ \t]*=", re.IGNORECASE)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)

_MOST_PARTS = 256
_LONGEST_HEAD = 8192
_LONGEST_VALUE = 1024


class _Part:
    __slots__ = ("disposition", "encoded", "end", "start")

    def __init__(self, head: bytes, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.disposition = b""
        self.encoded = False
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            name = name.strip().lower()
            if name == b"content-disposition":
                self.disposition = value
            self.encoded = self.encoded or name == b"content-transfer-encoding"

    def name(self) -> bytes:
        found = _NAME.search(self.disposition)
        if found is None:
            return b""
        return _ESCAPED.sub(rb"\1", found[1]) if found[1] is not None else found[2]


def read_multipart(body: bytes, content_type: bytes) -> BodyFacts:
    """Read a whole form. `model_span` is the raw value of the field `model`."""
    boundary = _boundary(content_type)
    if boundary is None:
        return BodyFacts(valid=False, error="The form's content type names no boundary.")
    parts = _parts(body, boundary)
    if parts is None:
        return BodyFacts(valid=False, error="The form is malformed.")
    facts = BodyFacts()
    streams = 0
    for part in parts:
        name = part.name()
        if b"name*" in part.disposition.lower():
            return BodyFacts(valid=False, error="The form has an encoded field name.")
        value = body[part.start : part.end] if part.end - part.start <= _LONGEST_VALUE else b""
        if name == b"stream":
            streams += 1
            facts.stream = value.strip().lower() in {b"true", b"1"}
        if name != b"model":
            continue
        if facts.model_span is not None:
            return BodyFacts(valid=False, error="The form has the duplicate field `model`.")
        if _OTHER_NAME.search(part.disposition) or part.encoded or not value:
            return BodyFacts(valid=False, error="The form's `model` must be a plain text field.")
        try:
            facts.model = value.decode("utf-8")
        except UnicodeDecodeError:
            return BodyFacts(valid=False, error="The form's `model` is not UTF-8.")
        facts.model_span = (part.start, part.end)
    if streams > 1:
        return BodyFacts(valid=False, error="The form has the duplicate field `stream`.")
    return facts


def replace_form_model(body: bytes, span: Span, new: str) -> bytes:
    """Return the form with another model name; `span` as read from it."""
    return body[: span[0]] + new.encode("utf-8") + body[span[1] :]


def insert_form_model(body: bytes, content_type: bytes, new: str) -> bytes:
    """Return the form with a field `model` before its first part, for a valid form that has none."""
    boundary = _boundary(content_type)
    if boundary is None:
        raise ValueError("the content type names no boundary")
    at = 0 if body.startswith(b"--" + boundary) else body.index(b"\r\n--" + boundary) + 2
    field = b"--" + boundary + b'\r\nContent-Disposition: form-data; name="model"\r\n\r\n' + new.encode("utf-8") + b"\r\n"
    return body[:at] + field + body[at:]


def _boundary(content_type: bytes) -> bytes | None:
    found = _BOUNDARY.search(content_type)
    return (found[1] or found[2]) if found else None


def _parts(body: bytes, boundary: bytes) -> list[_Part] | None:
    """Return the form's parts, or None where it does not follow the grammar to its closing delimiter."""
    delimiter = b"\r\n--" + boundary
    if body.startswith(delimiter[2:]):
        at = len(delimiter) - 2
    else:
        at = body.find(delimiter)
        if at < 0:
            return None
        at += len(delimiter)
    parts: list[_Part] = []
    while body[at : at + 2] != b"--":
        line = body.find(b"\r\n", at, at + 80)
        if line < 0 or body[at:line].strip(b" \t") or len(parts) == _MOST_PARTS:
            return None
        # A part without headers has its blank line here, hence the search from the line's own end.
        blank = body.find(b"\r\n\r\n", line, line + _LONGEST_HEAD)
        end = body.find(delimiter, line)
        if blank < 0 or end < 0 or end < blank + 2:
            return None
        parts.append(_Part(body[line:blank], blank + 4, max(end, blank + 4)))
        at = end + len(delimiter)
    return parts
