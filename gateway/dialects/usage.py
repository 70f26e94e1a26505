"""Reads token counts as providers report them; nothing is ever estimated (a wrong number is worse than none).

Separate because whole answers and streams share the shapes: chat's `prompt_tokens`/`completion_tokens`, and
`input_tokens`/`output_tokens` of responses, images and transcriptions.
"""

from __future__ import annotations

import json
from typing import Any, Final, TypeGuard

import orjson

_PARSE_WHOLE_BYTES: Final = 64 * 1024
_SCAN_FIRST_BYTES: Final = 4096
"""Below this, parsing costs no more than looking whether it is worth it."""
_USAGE_BYTES: Final = 4096
_DECODER: Final = json.JSONDecoder()


def usage_of(usage: Any) -> tuple[int, int] | None:
    """Return (input, output) tokens of a usage object, or None where it is none. Embeddings have no output: 0."""
    if not isinstance(usage, dict):
        return None
    for inputs, outputs in (("prompt_tokens", "completion_tokens"), ("input_tokens", "output_tokens")):
        given, made = usage.get(inputs), usage.get(outputs, 0)
        if _is_count(given) and _is_count(made):
            return given, made
    return None


def usage_of_body(body: bytes) -> tuple[int, int] | None:
    """Return (input, output) tokens reported by a whole JSON answer, or None.

    Large answers (embeddings, images) are not parsed: their last object named `usage` is. Inside JSON text quotes are escaped, so
    what a model wrote cannot be mistaken for one.
    """
    if len(body) <= _PARSE_WHOLE_BYTES:
        if len(body) > _SCAN_FIRST_BYTES and b'"usage"' not in body:
            return None
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError:
            return None
        return usage_of(document.get("usage")) if isinstance(document, dict) else None
    return last_usage(body)


def last_usage(text: bytes) -> tuple[int, int] | None:
    """Return the counts of the last object named `usage` in a piece of JSON that need not be whole."""
    at = text.rfind(b'"usage"')
    brace = text.find(b"{", at, at + 16)
    if at < 0 or brace < 0 or text[at + 7 : brace].strip() != b":":
        return None
    piece = text[brace : brace + _USAGE_BYTES].decode("latin-1")
    try:
        return usage_of(_DECODER.raw_decode(piece)[0])
    except (ValueError, RecursionError):
        return None


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
