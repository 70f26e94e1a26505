"""What images, audio and files in a request will count as, in tokens: they are most of its bytes and little of its text.

The rules are those that providers publish for some of their models, and none of them is exact for all; a metric tells how far the
estimates are off. OpenAI's for images ("Images and vision", calculating costs, GPT-4o): at low detail 85; else scaled into a square
of 2048, then to a shortest side of 768, 85 and 170 for each tile of 512. Anthropic's ("Vision"): width times height by 750, scaled
to at most some 1600. Apart from `prompt`, which only adds up, because these rules change when models do.

Nothing here raises: a part that is not what it says counts as what is usual for its kind.
"""

from __future__ import annotations

import re
from binascii import Error as NotBase64
from binascii import a2b_base64
from collections.abc import Iterable
from math import ceil
from typing import Any, Final

LOW_DETAIL: Final = 85.0
TILE: Final = 170.0
USUAL_IMAGE: Final = 765.0
"""Four tiles: what a square of 1024 counts as, and an image of which nothing is known."""
MOST_ANTHROPIC: Final = 1600.0
PIXELS_PER_TOKEN: Final = 750.0

AUDIO_PER_S: Final = 10.0
"""Of sound that a model listens to, OpenAI's."""
_PCM_BYTES_PER_S: Final = 48_000.0
"""16 bits at 24 kHz, the form of OpenAI's own."""
_PACKED_BYTES_PER_S: Final = 16_000.0
"""MP3 at 128 kbit/s."""
_PCM: Final = frozenset({"wav", "pcm16", "pcm", "x-wav", "wave"})

FILE_BYTES_PER_TOKEN: Final = 4.0
MOST_OF_A_FILE: Final = 20_000.0
"""Of one that is no text: most of its bytes are fonts and pictures."""
USUAL_FILE: Final = 5_000.0
"""Of one that is only referred to: a guess at a dozen pages."""

_BYTES_PER_CHARACTER: Final = 0.75
_DATA_URL: Final = re.compile(r"data:([\w.+-]{0,64})/?([\w.+-]{0,100})(?:;[\w=.+-]{1,100}){0,4};base64,", re.ASCII)
_TEXTUAL: Final = frozenset({"json", "xml", "yaml", "csv", "javascript", "x-yaml", "x-ndjson", "markdown"})
_TEXT_NAME: Final = re.compile(
    r"\.(?:txt|md|csv|tsv|json|jsonl|xml|ya?ml|html?|py|js|ts|c|h|cpp|java|go|rs|sql|sh|log|toml|ini)$", re.IGNORECASE
)
_ROUNDING: Final = 1e-9
_DEPTH: Final = 4
_BELOW: Final = ("content", "output")


class Media:
    """What in a request is no text."""

    __slots__ = ("bytes", "tokens")

    def __init__(self) -> None:
        self.bytes = 0
        """Of the body, about."""
        self.tokens = 0.0
        """Estimated."""

    def add(self, size: int, tokens: float) -> None:
        """Count one part."""
        self.bytes += size
        self.tokens += tokens

    def __repr__(self) -> str:
        return f"<Media {self.bytes} B, {self.tokens} tokens>"


def media_of(document: dict[str, Any]) -> Media | None:
    """Return what the parts of a request's messages or of its input come to; None where all of them are text."""
    media: Media | None = None
    for key in ("messages", "input"):
        items = document.get(key)
        # Most messages are plain text.
        if isinstance(items, list) and (
            rich := [item for item in items if isinstance(item, dict) and not isinstance(item.get("content"), str)]
        ):
            media = media or Media()
            _read_items(media, rich, _DEPTH)
    return media if media is not None and media.bytes else None


def _read_items(media: Media, items: Iterable[Any], depth: int) -> None:
    for item in items:
        if not isinstance(item, dict):
            continue
        kind = item.get("type")
        part = _PARTS.get(kind) if isinstance(kind, str) else None
        if part is not None:
            part(media, item)
        elif depth > 0:
            for key in _BELOW:
                below = item.get(key)
                if isinstance(below, list):
                    _read_items(media, below, depth - 1)
                elif isinstance(below, dict):
                    _read_items(media, (below,), 0)


def _read_image(media: Media, part: dict[str, Any]) -> None:
    """Chat's `image_url`, an object or just the address; Responses' `input_image`."""
    inner = part.get("image_url")
    detail = part.get("detail")
    if isinstance(inner, dict):
        detail = inner.get("detail", detail)
        inner = inner.get("url")
    url = inner if isinstance(inner, str) else ""
    media.add(max(len(url), 1), image_tokens(url, low=detail == "low"))


def _read_audio(media: Media, part: dict[str, Any]) -> None:
    inner = part.get("input_audio")
    data, form = (inner.get("data"), inner.get("format")) if isinstance(inner, dict) else ("", "")
    size = len(data) if isinstance(data, str) else 0
    media.add(max(size, 1), audio_tokens(size, form if isinstance(form, str) else ""))


def _read_file(media: Media, part: dict[str, Any]) -> None:
    """Chat's `file`, Responses' `input_file`."""
    inner = part.get("file")
    source = inner if isinstance(inner, dict) else part
    data, name = source.get("file_data"), source.get("filename")
    if isinstance(data, str) and data:
        media.add(len(data), file_tokens(data[:_LONGEST_URL_HEAD], len(data), name if isinstance(name, str) else ""))
    else:
        media.add(1, USUAL_FILE)


def _read_source(media: Media, part: dict[str, Any]) -> None:
    """Anthropic's `image` and `document`: the first is counted by its pixels."""
    source = part.get("source")
    data, kind = (source.get("data"), source.get("media_type")) if isinstance(source, dict) else (None, None)
    image = part.get("type") == "image"
    if isinstance(data, str) and data:
        media.add(len(data), pixel_tokens(data) if image else file_tokens(f"data:{kind};base64,", len(data), ""))
    else:
        media.add(1, MOST_ANTHROPIC if image else USUAL_FILE)


_PARTS: Final = {
    "image_url": _read_image,
    "input_image": _read_image,
    "computer_screenshot": _read_image,
    "input_audio": _read_audio,
    "file": _read_file,
    "input_file": _read_file,
    "image": _read_source,
    "document": _read_source,
}
_LONGEST_URL_HEAD: Final = 256


def data_tokens(head: str, size: int, *, low: bool = False) -> float:
    """Return what a data URL of `size` characters counts as; `head` is its beginning, a few hundred of them."""
    found = _DATA_URL.match(head)
    kind, form = (found[1].lower(), found[2].lower()) if found else ("", "")
    if kind == "image":
        return image_tokens(head, low=low)
    return audio_tokens(size, form) if kind == "audio" else file_tokens(head, size, "")


def image_tokens(url: str, *, low: bool) -> float:
    """Return what an image counts as by OpenAI's rule, with its size if its data begin with that; JPEG's do not."""
    if low:
        return LOW_DETAIL
    found = _DATA_URL.match(url)
    size = _image_size(url[found.end() : found.end() + _HEADER_CHARACTERS]) if found else None
    if size is None:
        return USUAL_IMAGE
    width, height = size
    scale = min(1.0, 2048.0 / max(width, height), 768.0 / min(width, height))
    return LOW_DETAIL + TILE * ceil(width * scale / 512.0 - _ROUNDING) * ceil(height * scale / 512.0 - _ROUNDING)


def pixel_tokens(data: str) -> float:
    """Return what an image counts as by Anthropic's rule; `data` is its base64."""
    size = _image_size(data[:_HEADER_CHARACTERS])
    return MOST_ANTHROPIC if size is None else max(1.0, min(size[0] * size[1] / PIXELS_PER_TOKEN, MOST_ANTHROPIC))


def audio_tokens(size: int, form: str) -> float:
    """Return what `size` characters of base64 count as, by the time they last."""
    per_s = _PCM_BYTES_PER_S if form.lower() in _PCM else _PACKED_BYTES_PER_S
    return size * _BYTES_PER_CHARACTER / per_s * AUDIO_PER_S


def file_tokens(head: str, size: int, name: str) -> float:
    """Return what a file of `size` characters of base64 counts as, at most; `head` is the beginning of its data URL."""
    tokens = size * _BYTES_PER_CHARACTER / FILE_BYTES_PER_TOKEN
    found = _DATA_URL.match(head)
    kind, form = (found[1].lower(), found[2].lower()) if found else ("", "")
    textual = kind == "text" or form in _TEXTUAL or _TEXT_NAME.search(name[-16:]) is not None
    return tokens if textual else min(tokens, MOST_OF_A_FILE)


_HEADER_CHARACTERS: Final = 48
"""Of base64: 36 bytes, which hold the size in all these formats."""


def _image_size(encoded: str) -> tuple[int, int] | None:
    """Return width and height as a PNG (RFC 2083 section 4.1.1), GIF89a or WebP (RFC 9649) states them at its very beginning."""
    try:
        raw = a2b_base64(encoded.encode("ascii"))
    except (NotBase64, UnicodeEncodeError):
        return None
    width = height = 0
    if len(raw) >= 30:
        if raw.startswith(b"\x89PNG\r\n\x1a\n"):
            width, height = int.from_bytes(raw[16:20], "big"), int.from_bytes(raw[20:24], "big")
        elif raw.startswith((b"GIF87a", b"GIF89a")):
            width, height = int.from_bytes(raw[6:8], "little"), int.from_bytes(raw[8:10], "little")
        elif raw.startswith(b"RIFF") and raw[8:12] == b"WEBP":
            width, height = _webp_size(raw)
    return (width, height) if width > 0 and height > 0 else None


def _webp_size(raw: bytes) -> tuple[int, int]:
    kind = raw[12:16]
    if kind == b"VP8 ":
        return int.from_bytes(raw[26:28], "little") & 0x3FFF, int.from_bytes(raw[28:30], "little") & 0x3FFF
    if kind == b"VP8L":
        bits = int.from_bytes(raw[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        return int.from_bytes(raw[24:27], "little") + 1, int.from_bytes(raw[27:30], "little") + 1
    return 0, 0
