"""The extra chunk that tells a chat stream's usage: asking for it on the gateway's own account, and taking it out again.

A chat stream reports its usage only when asked (`stream_options.include_usage`), in one chunk more, with no choices. Where the
gateway needs the figure and the client did not ask, the client gets the stream it asked for. Separate from `usage`, which reads
counts wherever they stand.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.core.sse import data_of
from gateway.core.sse import events as split
from gateway.dialects.body import top_level_spans
from gateway.dialects.streams_generic import object_of

_NO_CHOICES: Final = re.compile(rb'"choices"\s*:\s*\[\s*\]')
"""Who was asked puts `"usage": null` into every other chunk, which need not be parsed."""
_ASKED: Final = b'"stream_options":{"include_usage":true},'


def ask_for_usage(body: bytes) -> bytes | None:
    """Return a chat request's JSON object with the question in it; None where it says anything about that itself."""
    # A key may be spelt with escapes; without any, and without the word, there is nothing to walk through the body for.
    spelt = body.find(b"stream_options") >= 0 or body.find(b"\\u") >= 0
    if spelt and top_level_spans(body.decode("latin-1"), {"stream_options"})["stream_options"]:
        return None
    brace = body.index(b"{") + 1
    return body[:brace] + _ASKED + body[brace:]


def without_usage(events: bytes) -> bytes:
    """Return complete raw events without the extra chunk; everything else stays byte for byte."""
    if b'"usage"' not in events:
        return events
    return b"".join([event for event in split(events) if not _is_extra(event)])


def _is_extra(event: bytes) -> bool:
    if b'"usage"' not in event or not _NO_CHOICES.search(event):
        return False
    document = object_of(data_of(event))
    return document is not None and document.get("choices") == [] and isinstance(document.get("usage"), dict)
