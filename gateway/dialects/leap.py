"""Finds the top-level keys of a large JSON body in leaps from quote to quote.

Large bodies are mostly few long strings: documents, images. Finding the next quote costs a hundredth of parsing what lies between,
so such a body need not be parsed, and is still read exactly: every string is seen, with its depth. Whatever makes that doubtful
(many strings, escapes in a key, brackets that do not match) ends the walk with None, and the body is parsed after all.
"""

from __future__ import annotations

MOST_LEAPS = 512
"""Quotes looked at, escaped ones among them; beyond this many, parsing is no dearer."""
LONGEST_KEY = 64
_BACKSLASH = ord("\\")


def top_level_keys(body: bytes, doubtful: frozenset[bytes]) -> list[tuple[bytes, int]] | None:
    """Return each top-level key, raw, with the place behind its colon; None where only parsing can tell.

    `doubtful`: strings that are to be looked at by parsing, wherever they stand.
    """
    keys: list[tuple[bytes, int]] = []
    depth = at = 0
    leaps = iter(range(MOST_LEAPS))
    for _ in leaps:
        start = body.find(b'"', at)
        gap = body[at:] if start < 0 else body[at:start]
        if at == 0 and gap.strip() != b"{":
            return None
        depth += gap.count(b"{") + gap.count(b"[") - gap.count(b"}") - gap.count(b"]")
        if start < 0:
            return keys if depth == 0 else None
        if depth < 1:
            return None
        end = body.find(b'"', start + 1)
        while end > 0 and body[end - 1] == _BACKSLASH and _escaped(body, end):
            end = body.find(b'"', end + 1) if next(leaps, None) is not None else -1
        if end < 0:
            return None
        at = end + 1
        if end - start <= LONGEST_KEY:
            text = body[start + 1 : end]
            if text in doubtful:
                return None
            # At the top level a string is a key exactly if a colon follows it.
            behind = body[at : at + 16].lstrip(b" \t\r\n") if depth == 1 else b""
            if behind.startswith(b":"):
                if b"\\" in text:
                    return None
                keys.append((text, body.index(b":", at) + 1))
            elif depth == 1 and not behind:
                return None
    return None


def _escaped(body: bytes, quote: int) -> bool:
    """Whether the quote at this place is escaped: an odd number of backslashes stands before it."""
    at = quote
    while at > 0 and body[at - 1] == _BACKSLASH:
        at -= 1
    return (quote - at) % 2 == 1
