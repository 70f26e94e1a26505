"""What the events of OpenAI's streams mean: the first content, the finish, the terminator, errors inside a 200.

After commit a relay must know only four things of each chunk: error, end, finish, usage. They are looked for by substring scans,
and an event is parsed only when a scan hits. That is safe, because inside JSON every quote of a model's text is escaped: the bytes
`"error"` with bare quotes can only be a key or a whole value, never part of a text. What a scan cannot tell is confirmed by
parsing. A stream is whole only if it says so (law 5): the terminators are `data: [DONE]` (chat, completions) and
`response.completed`, `.incomplete` or `.failed` (responses).
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from gateway.core.plan import Family
from gateway.core.sse import data_of, events, name_of
from gateway.dialects.base import Part, StreamReader
from gateway.dialects.usage import last_usage, usage_of

DONE = b"data: [DONE]\n\n"

_COMPACT = (b'"finish_reason":"', b'"index":1', b'"usage":{')
_SPACED = (b'"finish_reason": "', b'"index": 1', b'"usage": {')
"""A finish, a choice after the first, token counts: JSON written without and with a space after colons."""

_BOUNDARIES = (b"\n\n", b"\r\n", b"\r\r", b"\n\r")


class GenericStream:
    """Event streams of other endpoints: whatever carries data is content, and the end of the body is a clean end.

    Speech, transcription and image streams end with their last event and have no common terminator, so `finished` is true from
    the start and `END` is never reported. Errors inside a 200 look the same everywhere.
    """

    __slots__ = ("_payload", "ended", "finished", "usage")

    def __init__(self) -> None:
        self.finished = True
        self.ended = False
        self.usage: tuple[int, int] | None = None
        self._payload = b""

    def read(self, event: bytes) -> Part:
        data = data_of(event)
        if not data:
            return Part.LIFE
        if self._is_error(event, _object(data), data):
            return Part.ERROR
        if b'"usage"' in data:
            self.usage = last_usage(data) or self.usage
        return Part.CONTENT

    def skim(self, events: bytes) -> Part:
        if b'"error"' in events or b"event: error" in events or b"event:error" in events:
            return self._skim_each(events)
        if b'"usage"' in events:
            self.usage = last_usage(events) or self.usage
        return Part.CONTENT

    def error_payload(self) -> bytes:
        return self._payload

    def terminator(self) -> bytes:
        return b""

    def error_event(self, code: str, message: str) -> bytes:
        return _nested_error(code, message)

    def _skim_each(self, block: bytes) -> Part:
        for event in events(block):
            if self.read(event) is Part.ERROR:
                return Part.ERROR
        return Part.END if self.ended else Part.CONTENT

    def _is_error(self, event: bytes, document: dict[str, Any] | None, data: bytes) -> bool:
        """Whether an event is an error: by its name, or by what stands at the top level of its data."""
        if (b"event" in event and name_of(event) == b"error") or (document is not None and _says_error(document)):
            self._payload = data
            return True
        return False


class ChatStream(GenericStream):
    """Chat completions and completions: choices with deltas (or text), a finish reason each, then `data: [DONE]`."""

    __slots__ = ("_finish", "_open", "_second", "_seen", "_usage")

    def __init__(self) -> None:
        super().__init__()
        self.finished = False
        self._seen: set[int] = set()
        self._open: set[int] = set()
        self._finish, self._second, self._usage = _COMPACT
        """What `skim` looks for, as this provider spells it; learned from the events before commit."""

    def read(self, event: bytes) -> Part:
        data = data_of(event)
        if not data:
            return Part.LIFE
        if data.startswith(b"[DONE]"):
            self.ended = True
            return Part.END
        document = _object(data)
        if self._is_error(event, document, data):
            return Part.ERROR
        if document is None:
            return Part.CONTENT
        self._note_usage(document)
        choices = document.get("choices")
        if not isinstance(choices, list):
            return Part.LIFE
        if choices and b'"choices": ' in data:
            self._finish, self._second, self._usage = _SPACED
        return self._read_choices(choices, data)

    def skim(self, events: bytes) -> Part:
        if (
            self._finish in events
            or self._second in events
            or self._usage in events
            or b'"error"' in events
            or b"[DONE]" in events
            or b"\nevent:" in events
            or events.startswith(b"event:")
        ):
            return self._skim_each(events)
        return Part.CONTENT

    def terminator(self) -> bytes:
        return DONE if self.finished and not self.ended else b""

    def _note_usage(self, document: dict[str, Any]) -> None:
        usage = document.get("usage")
        if usage is None:
            groq = document.get("x_groq")
            usage = groq.get("usage") if isinstance(groq, dict) else None
        self.usage = usage_of(usage) or self.usage

    def _read_choices(self, choices: list[Any], data: bytes) -> Part:
        part = Part.LIFE
        for choice in choices:
            if not isinstance(choice, dict):
                continue
            index = choice.get("index")
            index = index if isinstance(index, int) else 0
            if index not in self._seen:
                self._seen.add(index)
                self._open.add(index)
            reason = choice.get("finish_reason")
            if reason == "error":
                self._payload = data
                return Part.ERROR
            if reason:
                self._open.discard(index)
                part = Part.CONTENT
            elif choice.get("text") or _has_content(choice.get("delta")):
                part = Part.CONTENT
        self.finished = bool(self._seen) and not self._open
        return part


class ResponsesStream(GenericStream):
    """Responses: named events, each with its `type`; the last one carries the whole response and the usage."""

    __slots__ = ("_ending",)

    def __init__(self) -> None:
        super().__init__()
        self.finished = False
        self._ending = False
        """The terminator began, in an event too long to be held; the stream has ended when that event has."""

    def read(self, event: bytes) -> Part:
        data = data_of(event)
        if not data:
            return Part.LIFE
        document = _object(data)
        if document is None:
            return self._read_part(event, data)
        kind = document.get("type")
        if isinstance(kind, str) and kind in _RESPONSE_ENDS:
            response = document.get("response")
            self._finish(usage_of(response.get("usage")) if isinstance(response, dict) else None)
            if kind == "response.failed":
                self._payload = data
                return Part.ERROR
            return Part.END
        if self._is_error(event, document, data):
            return Part.ERROR
        if not isinstance(kind, str):
            return Part.CONTENT
        if kind in _RESPONSE_LIFE or kind.endswith(_LIFE_ENDINGS) or document.get("delta") == "":
            return Part.LIFE
        return Part.CONTENT

    def skim(self, events: bytes) -> Part:
        if self._ending:
            if not events.endswith(_BOUNDARIES):
                return Part.CONTENT
            self._finish(last_usage(events))
            return Part.END
        if b'"error"' in events or b'"response":' in events:
            # Only lifecycle events, the terminators among them, carry the response itself.
            return self._skim_each(events)
        return Part.CONTENT

    def error_event(self, code: str, message: str) -> bytes:
        # SDKs raise on a nested `error` only; readers of raw events look for the documented flat fields.
        flat = {"type": "error", "code": code, "message": message, "param": None, "error": _error_object(code, message)}
        return b"event: error\ndata: " + orjson.dumps(flat) + b"\n\n"

    def _read_part(self, event: bytes, data: bytes) -> Part:
        """Read data that is no JSON: mostly the first part of an event that was too long to be held."""
        if self._is_error(event, None, data):
            return Part.ERROR
        kind = name_of(event) or _TYPE_FIRST.sub(rb"\1", data[:64])
        if kind.decode("latin-1") in _RESPONSE_ENDS:
            self._ending = True
        return Part.CONTENT

    def _finish(self, usage: tuple[int, int] | None) -> None:
        self._ending = False
        self.ended = self.finished = True
        self.usage = usage or self.usage


_TYPE_FIRST = re.compile(rb'^\{\s*"type"\s*:\s*"([^"]*)".*', re.DOTALL)

_RESPONSE_LIFE = frozenset({"response.created", "response.in_progress", "response.queued", "keepalive", "ping"})
_LIFE_ENDINGS = (".added", ".in_progress", ".searching", ".generating", ".interpreting")
_RESPONSE_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed"})

_NOT_CONTENT = frozenset({"role", "name", "id", "index", "type"})
"""Keys of a chat delta which say who speaks, not what is said."""


def reader_for(family: Family) -> StreamReader:
    """Return a fresh reader for one streamed answer."""
    if family in {Family.CHAT, Family.COMPLETIONS}:
        return ChatStream()
    if family is Family.RESPONSES:
        return ResponsesStream()
    return GenericStream()


def _has_content(delta: Any) -> bool:
    return isinstance(delta, dict) and any(value and key not in _NOT_CONTENT for key, value in delta.items())


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def _says_error(document: dict[str, Any]) -> bool:
    return bool(document.get("error")) or document.get("type") == "error" or document.get("object") == "error"


def _error_object(code: str, message: str) -> dict[str, Any]:
    return {"message": message, "type": "upstream_error", "param": None, "code": code}


def _nested_error(code: str, message: str) -> bytes:
    return b"data: " + orjson.dumps({"error": _error_object(code, message)}) + b"\n\n"
