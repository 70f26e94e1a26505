"""Reads the model from a multipart form (audio uploads, image edits): RFC 7578, RFC 2046 section 5.1.

Files inside a form are skipped by one search for the boundary each, never looked into. As with JSON (law 4), a form that two
readers could read differently is refused: grammar is taken strictly, a second `model`, a `model` that is a file and an encoded
field name are errors. The edit itself is in `body`.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.dialects.body import BodyFacts

_BOUNDARY: Final = re.compile(rb';[ \t]*boundary=(?:"([^"\r\n]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
_PARAMETER: Final = re.compile(rb';[ \t]*([^=;\s"]+)[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"|[^;]*)', re.DOTALL)
_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)

_MOST_FIELDS: Final = 256
_LONGEST_HEAD: Final = 8192
_LONGEST_PADDING: Final = 80
_LONGEST_VALUE: Final = 1024


class Field:
    """One part of a form."""

    __slots__ = ("end", "name", "plain", "start")

    def __init__(self, head: bytes, start: int, end: int) -> None:
        self.start = start
        self.end = end
        """The value is `body[start:end]`."""
        dispositions: list[bytes] = []
        self.plain = True
        """Neither a file nor transfer-encoded."""
        for line in head.split(b"\r\n"):
            key, _, value = line.partition(b":")
            key = key.strip().lower()
            if key == b"content-disposition":
                dispositions.append(value)
            elif key == b"content-transfer-encoding":
                self.plain = False
        names: list[bytes | None] = []
        for parameter in _PARAMETER.finditer(b"".join(dispositions)):
            key, value = parameter[1].lower(), parameter[2]
            if key == b"name":
                names.append(_ESCAPED.sub(rb"\1", value[1:-1]) if len(value) > 1 and value.startswith(b'"') else value.strip())
            elif key == b"name*":
                names.append(None)
            elif key.startswith(b"filename"):
                self.plain = False
        self.name = names[0] if len(names) == 1 else None
        """Unescaped; None where it is missing, repeated or encoded (`name*=`), so that readers may differ."""


def read_multipart(body: bytes, content_type: bytes, *, whole: bool = True) -> BodyFacts:
    """Read a form: its fields `model` and `stream`. With `whole=False` the body may break off; only complete fields count."""
    boundary = _boundary_of(content_type)
    fields = _read_form(body, boundary, whole=whole) if boundary else None
    if fields is None:
        return BodyFacts(valid=False, error="The body is not a well-formed multipart form.")
    facts = BodyFacts()
    streams = 0
    for field in fields:
        if field.name is None:
            return BodyFacts(error="The form has a field without one plain name.")
        value = body[field.start : field.end] if field.end - field.start <= _LONGEST_VALUE else b""
        if field.name == b"stream":
            streams += 1
            facts.stream = value.strip().lower() in {b"true", b"1"}
        elif field.name == b"model":
            if facts.model_span is not None:
                return BodyFacts(error="The form has the duplicate field `model`.")
            try:
                facts.model = value.decode("utf-8")
            except UnicodeDecodeError:
                facts.model = None
            if not facts.model or not field.plain:
                return BodyFacts(error="The form's `model` must be a short text field.")
            facts.model_span = (field.start, field.end)
    if streams > 1:
        return BodyFacts(error="The form has the duplicate field `stream`.")
    return facts


def _boundary_of(content_type: bytes) -> bytes | None:
    """Return the boundary that a `multipart/form-data` content type names."""
    found = _BOUNDARY.search(content_type)
    return (found[1] or found[2]) if found else None


def _read_form(body: bytes, boundary: bytes, *, whole: bool = True) -> list[Field] | None:
    """Return the fields in order, or None where the form breaks the grammar.

    With `whole=False` the body may break off anywhere: the fields that are complete are returned.
    """
    delimiter = b"\r\n--" + boundary
    at = len(delimiter) - 2
    if not body.startswith(delimiter[2:]):
        return None
    fields: list[Field] = []
    while body[at : at + 2] != b"--":
        line = body.find(b"\r\n", at, at + _LONGEST_PADDING)
        # A part without headers has its blank line right here, hence the searches from the end of the delimiter's line.
        blank = body.find(b"\r\n\r\n", line, line + _LONGEST_HEAD)
        end = body.find(delimiter, line)
        if line < 0 or blank < 0 or end < 0:
            return None if whole else fields
        if body[at:line].strip(b" \t") or end < blank + 2 or len(fields) == _MOST_FIELDS:
            return None
        fields.append(Field(body[line:blank], min(blank + 4, len(body)), max(end, blank + 4)))
        at = end + len(delimiter)
    return fields
