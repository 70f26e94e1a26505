"""Framing of event streams (WHATWG HTML, section 9.2.6 "Interpreting an event stream"), without looking into events.

A relay may cut or switch a stream only between events, so chunks are realigned here to event boundaries; the bytes themselves
are never changed (law 4). The usual chunk is one or more whole events ending in LF LF and passes through as the same object.
"""

from __future__ import annotations

import re
from typing import Final

MAX_EVENT_BYTES: Final = 1024 * 1024

BLANK: Final = re.compile(rb"(?:\r\n?+|\n)(?:\r\n?+|\n)++")
"""The end of a line and the blank lines after it."""

_BLANK_OR_START: Final = re.compile(rb"(?:\A|\r\n?+|\n)(?:\r\n?+|\n)++")
"""The same, where the bytes begin at a boundary: blank lines at the very start are a boundary too."""

_BOM: Final = b"\xef\xbb\xbf"


class EventSplitter:
    """Cuts a stream of chunks at event boundaries.

    The concatenation of everything `feed` returns, and of `take_rest` at the end, is the concatenation of the chunks. An event
    longer than `max_event` bytes is not held: its parts are handed out as they come, with `aligned` false until it ends. A CR at
    the end of a chunk waits for the next byte, which may be the LF that belongs to it.
    """

    __slots__ = ("_adrift", "_max_event", "_tail", "aligned", "between")

    def __init__(self, max_event: int = MAX_EVENT_BYTES) -> None:
        self._tail = bytearray()
        self._max_event = max_event
        self._adrift = False
        self.aligned = True
        """Whether what `feed` has returned ends at a boundary; it does not between the parts of an event too long to be held."""
        self.between = True
        """Nothing is held and the next byte begins an event: `feed` would return a chunk that ends in LF LF as it is."""

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes; return all events that are complete now, possibly none (empty)."""
        if not self._tail and chunk.endswith(b"\n\n"):
            self.aligned = not self._adrift
            self._adrift = False
            self.between = self.aligned
            return chunk
        return self._feed_slowly(chunk)

    def take_rest(self) -> bytes:
        """Return the bytes after the last boundary; at the end of a stream, an incomplete event or nothing."""
        rest = bytes(self._tail)
        self._tail.clear()
        self.aligned = not self._adrift
        self.between = self.aligned
        return rest

    def _feed_slowly(self, chunk: bytes) -> bytes:
        tail = self._tail
        # A boundary may have begun in the last bytes of the tail, never earlier: a whole one would have been cut there.
        cut = self._last_boundary(max(0, len(tail) - 3), tail, chunk)
        if cut:
            self.aligned = not self._adrift
            self._adrift = False
        elif self._adrift or len(tail) > self._max_event:
            # Line ends stay behind: with those that follow they may make the boundary.
            cut = len(tail.rstrip(b"\r\n"))
            self.aligned = False
            self._adrift = True
        out = bytes(tail[:cut])
        del tail[:cut]
        self.between = self.aligned and not self._adrift and not tail
        return out

    def _last_boundary(self, start: int, tail: bytearray, chunk: bytes) -> int:
        tail += chunk
        if tail.find(b"\r", start) < 0:
            cut = tail.rfind(b"\n\n", start) + 2
            if cut == 1 and not start and not self._adrift and tail.startswith(b"\n"):
                return 1
            return cut if cut > 1 else 0
        pattern = BLANK if self._adrift else _BLANK_OR_START
        end = len(tail) - 1 if tail.endswith(b"\r") else len(tail)
        cut = 0
        for found in pattern.finditer(tail, start, end):
            cut = found.end()
        return cut


def events(block: bytes) -> list[bytes]:
    """Split whole events; each keeps its blank line. A last one without a blank line is returned too; stray blank lines are not."""
    if block.find(b"\n\n") == len(block) - 2 and b"\r" not in block:
        return [block] if block.strip(b"\n") else []
    found: list[bytes] = []
    at = 0
    for blank in _BLANK_OR_START.finditer(block):
        if blank.start():
            found.append(block[at : blank.end()])
            at = blank.end()
    rest = block[at:]
    if rest.strip(b"\r\n"):
        found.append(rest)
    return found


def data_of(event: bytes) -> bytes:
    """Return the `data` lines of one event, joined by LF; empty where it has none. A byte order mark before it is skipped."""
    if event.startswith(b"data: ") and event.endswith(b"\n\n") and event.find(b"\n") == len(event) - 2 and b"\r" not in event:
        return event[6:-2]
    return b"\n".join(_values(event, b"data"))


def name_of(event: bytes) -> bytes:
    """Return the last `event` field of one event; empty where it has none."""
    if event.startswith(b"data:") and b"\nevent" not in event and b"\revent" not in event:
        return b""
    names = _values(event, b"event")
    return names[-1] if names else b""


def _values(event: bytes, field: bytes) -> list[bytes]:
    values = []
    for line in event.removeprefix(_BOM).splitlines():
        name, _, value = line.partition(b":")
        if name == field:
            values.append(value.removeprefix(b" "))
    return values
