"""Measures a request for the estimate of its tokens: its text in bytes, what is no text in tokens, and the bound of its answer.

Called only where a limit on tokens is known, so that who has none pays nothing. A small body was parsed when it was read, and its
facts hold all there is. A large one was not, and what is no text in it is found here by its base64, unread but for its first bytes:
what a message merely quotes has its quotes escaped and is text. Bytes become tokens elsewhere, by a ratio that is learned.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from gateway.core.plan import Family
from gateway.dialects.body import LARGE_BYTES, BodyFacts
from gateway.dialects.media import Media, audio_tokens, data_tokens, file_tokens, pixel_tokens

_SPEAKING: Final = frozenset({Family.CHAT, Family.COMPLETIONS, Family.RESPONSES, Family.MESSAGES})
"""Whose answers count as tokens that the request may bound."""
_SILENT: Final = frozenset({Family.EMBEDDINGS, Family.MODERATIONS, Family.IMAGES, Family.AUDIO})
_MESSAGES: Final = Family.MESSAGES
_COMPLETIONS: Final = Family.COMPLETIONS

_URL_HEAD: Final = 256
_AROUND: Final = 160
_LOW: Final = re.compile(rb'"detail"[ \t\r\n]*+:[ \t\r\n]*+"low"')
_AUDIO_FORM: Final = re.compile(rb'"format"[ \t\r\n]*+:[ \t\r\n]*+"(\w{1,16})"')
_DATA: Final = re.compile(rb'"data"[ \t\r\n]*+:[ \t\r\n]*+"')
_KIND: Final = re.compile(rb'"media_type"[ \t\r\n]*+:[ \t\r\n]*+"([\w./+\\-]{1,100})"')
_BACKSLASH: Final = ord("\\")


class Prompt:
    """A request, measured."""

    __slots__ = ("max_output", "media_tokens", "text_bytes")

    def __init__(self, text_bytes: int, media_tokens: float, max_output: int | None) -> None:
        self.text_bytes = text_bytes
        """Of the body, all but what is no text."""
        self.media_tokens = media_tokens
        """For what is no text; estimated."""
        self.max_output = max_output
        """Tokens that all its answers together may have at most; None: as many as the model likes."""

    def __repr__(self) -> str:
        return f"<Prompt {self.text_bytes} B + {self.media_tokens}, up to {self.max_output}>"


def measure(size: int, chunks: Sequence[bytes], facts: BodyFacts | None, family: Family) -> Prompt:
    """Measure a request's body of `size` bytes, which `chunks` hold and `facts` tell about, None where nobody could read it."""
    if family in _SILENT:
        return Prompt(size, 0.0, 0)
    if facts is None:
        return Prompt(size, 0.0, None)
    media = facts.media
    if media is None and size > LARGE_BYTES and family in _SPEAKING and family is not _COMPLETIONS:
        media = find_media(chunks[0] if len(chunks) == 1 else b"".join(chunks), family)
    if media is None:
        return Prompt(size, 0.0, facts.max_output)
    return Prompt(max(size - media.bytes, 0), media.tokens, facts.max_output)


def find_media(body: bytes, family: Family) -> Media | None:
    """Return what in an unparsed JSON body is no text; what it only refers to, by an address or a name, goes unseen."""
    media = Media()
    if family is _MESSAGES:
        _find_sources(body, media)
    else:
        _find_data_urls(body, media)
        _find_audio(body, media)
    return media if media.bytes else None


def _places(body: bytes, marker: bytes) -> Iterator[tuple[int, int]]:
    """Yield each place of a marker, and that of the next one behind it; from the end, which costs a third of the other way."""
    behind, at = len(body), body.rfind(marker)
    while at >= 0:
        yield at, behind
        behind, at = at, body.rfind(marker, 0, at)


def _find_data_urls(body: bytes, media: Media) -> None:
    for at, _ in _places(body, b";base64,"):
        quote = body.rfind(b'"', max(at - _URL_HEAD, 0), at)
        if quote > 0 and body.startswith(b"data:", quote + 1) and body[quote - 1] != _BACKSLASH:
            end = _end(body, at)
            head = _plain(body[quote + 1 : min(quote + _URL_HEAD, end)])
            media.add(end - quote - 1, data_tokens(head, end - at, low=_is_low(body, quote, end)))


def _is_low(body: bytes, quote: int, end: int) -> bool:
    """Whether the object in which an image's address stands asks for low detail."""
    before = body[max(quote - _AROUND, 0) : quote].rpartition(b"{")[2]
    behind = body[end : end + _AROUND].partition(b"}")[0]
    return _LOW.search(behind) is not None or _LOW.search(before) is not None


def _find_audio(body: bytes, media: Media) -> None:
    # The word is the part's type and the key of its object; the data follow the later of the two.
    for at, behind in _places(body, b'"input_audio"'):
        found = _DATA.search(body, at, min(at + _AROUND, behind))
        if found is not None:
            end = _end(body, found.end())
            form = _AUDIO_FORM.search(body[at : found.start()] + body[end : end + _AROUND].partition(b"}")[0])
            media.add(max(end - found.end(), 1), audio_tokens(end - found.end(), form[1].decode() if form else ""))


def _find_sources(body: bytes, media: Media) -> None:
    """Anthropic's: `{"type": "base64", "media_type": "image/png", "data": "..."}`, with its keys in this order."""
    for at, behind in _places(body, b'"base64"'):
        found = _DATA.search(body, at, min(at + _AROUND, behind))
        if found is not None:
            end = _end(body, found.end())
            kind = _KIND.search(body, max(at - _AROUND, 0), found.start())
            name = _plain(kind[1]) if kind else "image/"
            size = end - found.end()
            if name.startswith("image/"):
                tokens = pixel_tokens(_plain(body[found.end() : min(found.end() + _URL_HEAD, end)]))
            else:
                tokens = file_tokens(f"data:{name};base64,", size, "")
            media.add(max(size, 1), tokens)


def _plain(text: bytes) -> str:
    """Some writers of JSON, PHP's first of all, escape every slash."""
    return text.replace(b"\\/", b"/").decode("latin-1")


def _end(body: bytes, at: int) -> int:
    """Return where the string ends that goes on here; base64 has neither quotes nor backslashes in it."""
    end = body.find(b'"', at)
    return end if end >= 0 else len(body)
