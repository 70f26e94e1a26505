"""What is common to the readers of event streams: errors inside a 200, usage, and how an error of ours is put.

Errors look the same in every stream of OpenAI's shapes, whatever else is said in it; and a stream of which nobody published how it
ends can only be believed when its body ends. Apart from the readers that know an endpoint's own words (`streams`, `streams_media`),
which build on this one.
"""

from __future__ import annotations

import json
from typing import Any, Final

import orjson

from gateway.core.sse import data_of, events, name_of
from gateway.dialects.base import Part
from gateway.dialects.usage import last_usage

CONTENT: Final = Part.CONTENT
LIFE: Final = Part.LIFE
ERROR: Final = Part.ERROR
END: Final = Part.END
BROKEN: Final = Part.BROKEN
NOISE: Final = Part.NOISE
"""Looked up once: CPython 3.11 takes longer to find a member of an enum than to search a chunk for a word."""


class GenericStream:
    """Event streams of other endpoints: whatever carries data is content, and the end of the body is a clean end.

    `finished` is true from the start and `END` is never reported.
    """

    __slots__ = ("_payload", "ended", "finished", "good_bytes", "usage")

    def __init__(self) -> None:
        self.finished = True
        self.ended = False
        self.usage: tuple[int, int] | None = None
        self.good_bytes = 0
        self._payload = b""

    def read(self, event: bytes) -> Part:
        data = data_of(event)
        if not data:
            return LIFE
        if self.is_error(event, object_of(data), data):
            return ERROR
        if b'"usage"' in data:
            self.usage = last_usage(data) or self.usage
        return CONTENT

    def skim(self, events: bytes) -> Part:
        if b'"error"' in events or b"event: error" in events or b"event:error" in events:
            return self.skim_each(events)
        if b'"usage"' in events:
            self.usage = last_usage(events) or self.usage
        return CONTENT

    def error_payload(self) -> bytes:
        return self._payload

    def terminator(self) -> bytes:
        return b""

    def error_event(self, code: str, message: str) -> bytes:
        return b"data: " + orjson.dumps({"error": error_object(code, message)}) + b"\n\n"

    def skim_each(self, block: bytes) -> Part:
        """Read the events of a block one by one, up to one that breaks the stream."""
        at, end = 0, False
        for event in events(block):
            part = self.read(event)
            if part is ERROR or part is BROKEN:
                self.good_bytes = at
                return part
            at += len(event)
            end = end or part is END
        return END if end else CONTENT

    def is_error(self, event: bytes, document: dict[str, Any] | None, data: bytes) -> bool:
        """Whether an event is an error: by its name, or by what stands at the top level of its data. Keeps its payload."""
        if (b"event" in event and name_of(event) == b"error") or (document is not None and _says_error(document)):
            self.note_error(data)
            return True
        return False

    def note_error(self, data: bytes) -> None:
        """Keep the payload of an error event."""
        self._payload = data


def object_of(data: bytes) -> dict[str, Any] | None:
    """Return the JSON object that the data of an event are; None for anything else."""
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def document_of(data: bytes) -> dict[str, Any] | None:
    """Return the JSON object that the data of an event are, None for anything else.

    Providers that cut text between UTF-16 units write half a surrogate pair in each of two events, which strict readers refuse.
    """
    document = object_of(data)
    if document is not None or b"\\u" not in data:
        return document
    try:
        lenient = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return lenient if isinstance(lenient, dict) else None


def is_noise(event: bytes, data: bytes) -> bool:
    """Whether these are the data of a whole event, not of a part of one too long to be held, and no JSON."""
    if not (event.startswith((b"data:", b"event:")) and event.endswith((b"\n", b"\r"))):
        return False
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return True
    return False


def without_noise(block: bytes) -> tuple[bytes, int]:
    """Return complete raw events without those whose data are no JSON, and how many these were."""
    pieces = events(block)
    kept = [event for event in pieces if not _says_nothing(event)]
    return (block, 0) if len(kept) == len(pieces) else (b"".join(kept), len(pieces) - len(kept))


def _says_nothing(event: bytes) -> bool:
    data = data_of(event)
    return bool(data) and not data.startswith(b"[DONE]") and object_of(data) is None and is_noise(event, data)


def error_object(code: str, message: str) -> dict[str, Any]:
    """Return an error object of OpenAI's shape."""
    return {"message": message, "type": "upstream_error", "param": None, "code": code}


def _says_error(document: dict[str, Any]) -> bool:
    return bool(document.get("error")) or document.get("type") == "error" or document.get("object") == "error"
