"""What all splices have in common: what the second answer has to repeat, and what was used in all.

Not a character goes out that is not known to come next. Asked the same again, the second answer has to repeat what the client has,
character by character, before anything of it is passed on; asked to go on from a beginning, only the space that that one lacks.
Characters are Unicode's: halves of surrogate pairs, which providers that count in UTF-16 may cut text between, are put together
before they are compared. Apart from `splice` and `splice_responses`, which know the two kinds of streams.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any, Final

import orjson

from gateway.core.plan import Prefill
from gateway.core.sse import data_of, name_of
from gateway.core.sse import events as split
from gateway.dialects.prefill import beginning
from gateway.dialects.streams_generic import document_of
from gateway.dialects.transcript import Transcript, joined
from gateway.dialects.usage import usage_of

NOTHING: Final = b""
"""What the client gets of an event that it has got already, or should not see."""


_HIGH: Final = (chr(0xD800), chr(0xDBFF))
"""The first and the last of the units that begin a surrogate pair."""


class Splicer(ABC):
    """Rewrites one stream so that it continues a transcript; one instance per attempt.

    What it returns is relayed and, like every byte relayed, fed to the transcript: it may break and be continued, too.
    """

    __slots__ = ("_before", "_fed", "_given_up", "_overlap", "_report", "_transcript", "ended", "finished")

    def __init__(self, transcript: Transcript, prefill: Prefill) -> None:
        self.finished = False
        """The answer was closed: if its stream ends now, it lacks no more than its terminator."""
        self.ended = False
        """The terminator went out."""
        self._transcript = transcript
        self._overlap = Overlap(transcript.text, prefill)
        self._before = transcript.usage
        self._report: dict[str, Any] | None = None
        self._fed = False
        self._given_up = False

    @property
    def joined(self) -> bool:
        """The second answer has caught up: what follows is new to the client."""
        return self._overlap.passed

    @property
    def usage(self) -> tuple[int, int] | None:
        """(input, output) tokens that the providers of all parts reported together; None if none did."""
        return usage_of(total(self._before, self._report))

    @property
    def usage_complete(self) -> bool:
        """False: a provider of one part reported none, so that `usage` is less than what was used."""
        return self._transcript.usage_complete and self._report is not None

    def feed(self, events: bytes) -> bytes | None:
        """Take complete raw events of the second stream; return those for the client, maybe none.

        None: this stream cannot continue the answer. Nothing of these events may be relayed then, and nothing after them.
        """
        if not self._fed:
            self._fed = True
            self._transcript.resumed()
        out = []
        for event in split(events):
            made = None if self._given_up else self._splice_event(event)
            if made is None:
                self._given_up = True
                return None
            out.append(made)
        return b"".join(out)

    def _splice_event(self, event: bytes) -> bytes | None:
        data = data_of(event)
        if not data:
            # Of a comment too long to be held, the parts would be no comments.
            return event if event.startswith(b":") and event.endswith((b"\n", b"\r")) else NOTHING
        if self.ended:
            return NOTHING
        if data.startswith(b"[DONE]"):
            return self._end()
        document = document_of(data)
        if document is None:
            # What is no JSON is dropped from every stream that is parsed; but part of an event too long to be held may be anything.
            return NOTHING if event.endswith((b"\n", b"\r")) else None
        if document.get("error") or "error" in (document.get("type"), document.get("object")) or name_of(event) == b"error":
            return None
        return self._splice(document)

    @abstractmethod
    def _end(self) -> bytes | None:
        """Return the terminator at `[DONE]`; None where the answer is not whole."""

    @abstractmethod
    def _splice(self, document: dict[str, Any]) -> bytes | None:
        """Return what one event becomes for the client, maybe nothing; None where it cannot continue the answer."""

    def _add_usage(self, holder: Any) -> bool:
        """Put the sum of all reports in the place of this one, if there is one."""
        if not isinstance(holder, dict) or not usage_of(holder.get("usage")):
            return False
        self._report = holder["usage"]
        holder["usage"] = total(self._before, self._report)
        return True


class Overlap:
    """The text that the client has and the second answer has to repeat."""

    __slots__ = ("_at", "_half", "_held", "_owed", "_spare")

    def __init__(self, text: str, prefill: Prefill) -> None:
        start = len(beginning(text))
        self._half = text[-1:] if _is_high(text[-1:]) else ""
        """Half a character at the end of what the client has."""
        text = text.removesuffix(self._half)
        again = prefill in {Prefill.NONE, Prefill.PREFIX_ECHOED}
        self._owed = text if again else text[start:]
        self._spare = 0 if prefill is Prefill.NONE else len(text) - start
        """So many characters at the end the answer may leave out where it ends at once: it was not asked to repeat them."""
        self._at = 0
        self._held = ""

    @property
    def passed(self) -> bool:
        """All was repeated."""
        return self._at == len(self._owed) and not self._half

    @property
    def settled(self) -> bool:
        """The answer may end here: not within what it has to repeat, nor in half a character."""
        return self._at >= len(self._owed) - self._spare and not self._half and not self._held

    def past(self, delta: str) -> str | None:
        """Return what of the answer's next piece the client has not got; None where it differs from what the client has."""
        text = joined(self._held + delta)
        self._held = text[-1:] if _is_high(text[-1:]) else ""
        text = text.removesuffix(self._held)
        size = min(len(text), len(self._owed) - self._at)
        if not self._owed.startswith(text[:size], self._at):
            return None
        self._at += size
        new = text[size:]
        if new and self._half:
            high, low = _halves(new[0])
            if high != self._half:
                return None
            self._half = ""
            new = low + new[1:]
        return new


def dump(document: dict[str, Any]) -> bytes:
    """Return the JSON of an object; halves of surrogate pairs, which UTF-8 has no bytes for, are escaped, and so meet again."""
    try:
        return orjson.dumps(document)
    except TypeError:
        return json.dumps(document, separators=(",", ":")).encode()


def total(before: dict[str, Any] | None, report: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the sum of two usage objects, count by count, details too; what only one of them says is taken from it."""
    if before is None or report is None:
        return report or before
    return {**before, **{key: _add(before.get(key), value) for key, value in report.items()}}


def _add(before: Any, value: Any) -> Any:
    if isinstance(before, dict) and isinstance(value, dict):
        return total(before, value)
    if _is_count(before) and _is_count(value):
        return before + value
    return before if value is None else value


def _is_count(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_high(character: str) -> bool:
    return _HIGH[0] <= character <= _HIGH[1]


def _halves(character: str) -> tuple[str, str]:
    """Return the two UTF-16 units of a character beyond the basic plane; any other as it is."""
    beyond = ord(character) - 0x10000
    return (chr(0xD800 + (beyond >> 10)), chr(0xDC00 + (beyond & 0x3FF))) if beyond >= 0 else (character, "")
