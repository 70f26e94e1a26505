"""What the events of OpenAI's streams mean: the first content, the finish, the terminator, errors inside a 200.

After commit a relay must know only four things of each chunk: error, end, finish, usage. They are looked for by substring scans,
and an event is parsed only when a scan hits. That is safe, because inside JSON every quote of a model's text is escaped: the bytes
`"error"` with bare quotes can only be a key or a whole value, never part of a text. What a scan cannot tell is confirmed by
parsing. A stream is whole only if it says so (law 5): the terminators are `data: [DONE]` (chat, completions) and
`response.completed`, `.incomplete` or `.failed` (responses); those of pictures and sound stand in `streams_media`.
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

from gateway.core.plan import Family
from gateway.core.sse import data_of, name_of
from gateway.dialects.base import Part, StreamReader
from gateway.dialects.streams_generic import (
    BROKEN,
    CONTENT,
    END,
    ERROR,
    LIFE,
    NOISE,
    GenericStream,
    document_of,
    error_object,
    is_noise,
    object_of,
)
from gateway.dialects.streams_media import MediaStream
from gateway.dialects.usage import last_usage, usage_of

DONE: Final = b"data: [DONE]\n\n"

_COMPACT: Final = ('"finish_reason":"', '"index":1', '"usage":{')
_SPACED: Final = ('"finish_reason": "', '"index": 1', '"usage": {')
"""A finish, a choice after the first, token counts: JSON written without and with a space after colons."""

_BOUNDARIES: Final = (b"\n\n", b"\r\n", b"\r\r", b"\n\r")


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
            return LIFE
        if data.startswith(b"[DONE]"):
            self.ended = True
            return END
        document = document_of(data)
        if self.is_error(event, document, data):
            return ERROR
        if document is None:
            return NOISE if is_noise(event, data) else CONTENT
        self._note_usage(document)
        choices = document.get("choices")
        if not isinstance(choices, list):
            return LIFE
        if choices and b'"choices": ' in data:
            self._finish, self._second, self._usage = _SPACED
        return self._read_choices(choices, data)

    def skim(self, events: bytes) -> Part:
        # Searching text takes half as long: `in` for bytes first tries, and fails, to take what it looks for as a number.
        text = events.decode("latin-1")
        if (
            self._finish in text
            or self._second in text
            or self._usage in text
            or '"error"' in text
            or "[DONE]" in text
            or "\nevent:" in text
            or text.startswith("event:")
        ):
            return self.skim_each(events)
        return CONTENT

    def terminator(self) -> bytes:
        return DONE if self.finished and not self.ended else b""

    def _note_usage(self, document: dict[str, Any]) -> None:
        usage = document.get("usage")
        if usage is None:
            groq = document.get("x_groq")
            usage = groq.get("usage") if isinstance(groq, dict) else None
        self.usage = usage_of(usage) or self.usage

    def _read_choices(self, choices: list[Any], data: bytes) -> Part:
        part = LIFE
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
                self.note_error(data)
                return ERROR
            if reason:
                self._open.discard(index)
                part = CONTENT
            elif choice.get("text") or _has_content(choice.get("delta")):
                part = CONTENT
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
            return LIFE
        if data.startswith(b"[DONE]"):
            # Whoever puts it behind every stream puts it behind one that broke off, too.
            return END if self.ended else BROKEN
        document: dict[str, Any] | None = object_of(data)
        if document is None:
            if self.is_error(event, document, data):
                return ERROR
            return NOISE if is_noise(event, data) else self._read_part(event, data)
        kind = document.get("type")
        if isinstance(kind, str) and kind in _RESPONSE_ENDS:
            response = document.get("response")
            self._finish(usage_of(response.get("usage")) if isinstance(response, dict) else None)
            if kind == "response.failed":
                self.note_error(data)
                return ERROR
            return END
        if self.is_error(event, document, data):
            return ERROR
        if not isinstance(kind, str):
            return CONTENT
        if kind in _RESPONSE_LIFE or kind.endswith(_LIFE_ENDINGS) or document.get("delta") == "":
            return LIFE
        return CONTENT

    def skim(self, events: bytes) -> Part:
        if self._ending:
            if not events.endswith(_BOUNDARIES):
                return CONTENT
            self._finish(last_usage(events))
            return END
        text = events.decode("latin-1")
        if '"error"' in text or '"response":' in text or "[DONE]" in text:
            # Only lifecycle events, the terminators among them, carry the response itself.
            return self.skim_each(events)
        return CONTENT

    def error_event(self, code: str, message: str) -> bytes:
        # SDKs raise on a nested `error` only; readers of raw events look for the documented flat fields.
        flat = {"type": "error", "code": code, "message": message, "param": None, "error": error_object(code, message)}
        return b"event: error\ndata: " + orjson.dumps(flat) + b"\n\n"

    def _read_part(self, event: bytes, data: bytes) -> Part:
        """Read data that is no JSON: mostly the first part of an event that was too long to be held."""
        if self.is_error(event, None, data):
            return ERROR
        kind = name_of(event) or _TYPE_FIRST.sub(rb"\1", data[:64])
        if kind.decode("latin-1") in _RESPONSE_ENDS:
            self._ending = True
        return CONTENT

    def _finish(self, usage: tuple[int, int] | None) -> None:
        self._ending = False
        self.ended = self.finished = True
        self.usage = usage or self.usage


_TYPE_FIRST: Final = re.compile(rb'^\{\s*"type"\s*:\s*"([^"]*)".*', re.DOTALL)

_RESPONSE_LIFE: Final = frozenset({"response.created", "response.in_progress", "response.queued", "keepalive", "ping"})
_LIFE_ENDINGS: Final = (".added", ".in_progress", ".searching", ".generating", ".interpreting")
_RESPONSE_ENDS: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})

_NOT_CONTENT: Final = frozenset({"role", "name", "id", "index", "type"})
"""Keys of a chat delta which say who speaks, not what is said."""


def reader_for(family: Family) -> StreamReader:
    """Return a fresh reader for one streamed answer."""
    if family in {Family.CHAT, Family.COMPLETIONS}:
        return ChatStream()
    if family is Family.RESPONSES:
        return ResponsesStream()
    if family in {Family.IMAGES, Family.AUDIO}:
        return MediaStream()
    return GenericStream()


def _has_content(delta: Any) -> bool:
    return isinstance(delta, dict) and any(value and key not in _NOT_CONTENT for key, value in delta.items())
