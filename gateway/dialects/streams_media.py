"""Streams of pictures, speech and transcripts: what their last event is, so that one cut off in good order is not taken for whole.

OpenAI's API reference names the events, in an `event` line and in `type`: pictures end with `image_generation.completed` or
`image_edit.completed` after any number of `.partial_image`, speech with `speech.audio.done` after `.delta`, transcripts with
`transcript.text.done` after `.delta` or `.segment`. Some compatible providers put `data: [DONE]` behind that. The law here (law 5):
who has used these words must say the last one; a stream in words of a provider's own is whole when its body ends.

Apart because its events are unlike text: few, and often longer than anything that is held, so that they come in parts.
"""

from __future__ import annotations

import re
from typing import Any, Final

from gateway.core.sse import BLANK, data_of, name_of
from gateway.dialects.base import Part
from gateway.dialects.streams_generic import BROKEN, CONTENT, END, ERROR, LIFE, GenericStream, object_of
from gateway.dialects.usage import last_usage

_TAIL_BYTES: Final = 4096
"""What follows the picture in an event is far shorter."""

_SOUND: Final = ("speech.audio.", "transcript.text.")
_WORDS: Final = ("image_generation.", "image_edit.", *_SOUND)
_ENDS: Final = (".completed", ".done")
_MORE: Final = (".delta", ".segment")
"""Beside these, whatever is called `partial_something`: an image, or one that succeeded or failed of several (BytePlus)."""

_KIND: Final = re.compile(rb'"type"\s*:\s*"((?:image_generation|image_edit|speech\.audio|transcript\.text)\.\w+)"')
_FIRST_PART: Final = re.compile(rb'"partial_image_index"\s*:\s*0\b')


class MediaStream(GenericStream):
    """Image generation and edits, speech, transcription.

    `END` is reported for `[DONE]` only: behind a picture may come the next one (`n` > 1), and behind the last event of speech and
    transcripts a `[DONE]` that belongs to the client; there, `ended` says that a cut does no harm. Pictures that were begun are
    counted by their first partial image: the stream has finished when as many were completed.
    """

    __slots__ = ("_begun", "_known", "_long", "_made", "_speaking", "_tail")

    def __init__(self) -> None:
        super().__init__()
        self.finished = False
        """Nothing at all is no answer either."""
        self._known = False
        """One of the published words was used."""
        self._speaking = False
        """Speech or a transcript is under way: more of it changes nothing."""
        self._begun = 0
        self._made = 0
        self._tail: bytes | None = None
        """The last bytes so far of an event that comes in parts; None between events."""
        self._long = ""
        """What that event is, as far as its beginning tells."""

    def read(self, event: bytes) -> Part:
        data = data_of(event)
        if not data:
            return LIFE
        if data.startswith(b"[DONE]"):
            self.ended = self.finished
            return END if self.finished else BROKEN
        document = object_of(data)
        if self.is_error(event, document, data):
            return ERROR
        kind = _kind_of(event, document)
        if document is None and not event.endswith((b"\n", b"\r")):
            # What it means counts when it is whole; whoever relays knows that it is not.
            self._tail, self._long = event[-_TAIL_BYTES:], kind
            return CONTENT
        if b'"usage"' in data:
            self.usage = last_usage(data) or self.usage
        self._note(kind, begins=document is not None and document.get("partial_image_index") == 0)
        return LIFE if kind == "transcript.text.delta" and document is not None and document.get("delta") == "" else CONTENT

    def skim(self, events: bytes) -> Part:
        if self._tail is not None:
            return self._skim_part(events)
        if self._speaking and events.endswith((b"\n", b"\r")):
            text = events.decode("latin-1")
            if "error" not in text and ".done" not in text and "[DONE]" not in text:
                return CONTENT
        # Of pictures there are few, and searching a large one for several words takes longer than parsing it.
        return self.skim_each(events)

    def _skim_part(self, block: bytes) -> Part:
        """Go on with an event that comes in parts; whole events may follow its end."""
        tail = self._tail or b""
        blank = BLANK.search(block)
        cut = blank.end() if blank else len(block)
        tail = (tail + block[max(0, cut - _TAIL_BYTES) : cut])[-_TAIL_BYTES:]
        if blank is None:
            self._tail = tail
            return CONTENT
        self._tail = None
        self.usage = last_usage(tail) or self.usage
        found = _KIND.search(tail)
        self._note(self._long or (found[1].decode("latin-1") if found else ""), begins=_FIRST_PART.search(tail) is not None)
        rest = block[cut:]
        if not rest:
            return CONTENT
        part = self.skim(rest)
        self.good_bytes += cut
        return part

    def _note(self, kind: str, *, begins: bool) -> None:
        """Note what one event means for the end. `begins`: it is the first partial image of another picture."""
        if not kind.startswith(_WORDS):
            self.finished = self.finished or not self._known
            return
        self._known = True
        sound = kind.startswith(_SOUND)
        if kind.endswith(_MORE) or ".partial_" in kind:
            self._begun += begins
            self.finished = False
            self._speaking = sound
        elif kind.endswith(_ENDS):
            self._made += 1
            self.ended = sound
            self.finished = sound or self._made >= self._begun
            self._speaking = False


def _kind_of(event: bytes, document: dict[str, Any] | None) -> str:
    """Return what an event is: by its data, else by its name."""
    if document is not None:
        kind = document.get("type")
        if isinstance(kind, str):
            return kind
    else:
        found = _KIND.search(event, 0, 256)
        if found:
            return found[1].decode("latin-1")
    return name_of(event).decode("latin-1")
