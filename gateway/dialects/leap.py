"""Finds the top-level keys of a large JSON object without parsing what stands under them.

Law 4 asks for one thing only: that no reader finds another `model` than we do. Parsing a megabyte to know that costs more than all
else a proxy does with it, so the top level is read strictly, byte for byte, and a list or object under a key is skipped:

- in leaps from quote to quote, every string seen, as long as the strings are long;
- else by looking at each bracket that could end it, in or out of a string: behind the true end stands the object's end or another
  key, so where no such bracket is followed by a key that matters, there is none. Where one is, the rest has to be parsed.

Whatever a lenient reader could read otherwise (comments, other quotes, escaped keys, a second document) ends the walk with None,
and the body is parsed after all. What was skipped is not validated: no reader finds other keys there, and the provider refuses
what is no JSON.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from functools import lru_cache
from typing import Final, NamedTuple

_LONGEST_KEY: Final = 64
_FREE_LEAPS: Final = 64
_LEAP_BYTES: Final = 2048
"""Leaps from quote to quote are taken while they are as long as this on average, after a few free ones."""
_LONGEST_GAP: Final = 256
_LONGEST_SPELLING: Final = 128
"""Of a doubtful string, its letters escaped."""
_FREE_BRACKETS: Final = 256
_BRACKET_BYTES: Final = 192
"""Brackets are looked at while there are not more than one in so many bytes; with more, parsing is no dearer."""
_LONGEST_REST: Final = 64 * 1024
_TAIL: Final = 1024
_BACKSLASH: Final = ord("\\")

_S = rb"[ \t\r\n]*+"
_OPENING: Final = re.compile(_S + rb"\{")
_PLAIN: Final = rb"[ !#-\[\]-~]{0,%d}" % _LONGEST_KEY
_KEY: Final = re.compile(_S + rb'"(' + _PLAIN + rb')"' + _S + rb":" + _S)
_SCALAR: Final = re.compile(rb"(?:true|false|null|-?+(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?+[0-9]++)?+)(?=[ \t\r\n,}])")
_COMMA: Final = re.compile(_S + rb",")
_END: Final = re.compile(_S + rb"\}")
_LAST: Final = re.compile(_S + rb"\}" + _S + rb"\Z")
_CLOSING: Final = re.compile(rb"[\]}]")

_BEHIND: Final = re.compile(
    # The end of the object and of the body; of the object only; a key.
    (_S + rb"(?:(?P<last>\}" + _S + rb"\Z)|(?P<end>[,;]?+" + _S + rb"\})|,(?P<key>)" + _S + rb'"' + _PLAIN + rb'"' + _S + rb":|")
    # A comment; or behind a comma another one, other quotes, bytes that some readers skip, a key without quotes;
    + (rb"(?P<doubt>#|/[/*]|[,;]" + _S + rb"(?:['/#,;\x00-\x1f\x7f-\xff]|\\u|[A-Za-z_$][\w$]*+" + _S + rb"[:=]|")
    # a key with escapes in it, or too long to be looked at, or before a comment or another sign than the colon.
    + (rb'"[^"\\]{0,400}+(?:\\.[^"\\]{0,400}+){0,100}+(?:"' + _S + rb"[:=/#]|[^\"]))))|")
    # Behind a line break, which stands in no string, what JSON does not have there.
    + (rb"[ \t]*+[\r\n]" + _S + rb"(?P<line>[^,\]} \t\r\n])"),
    re.DOTALL,
)
"""What could stand behind a bracket that ends a value of the top level: the end, an end too early, a key, or what is doubtful."""

_ESCAPED_LETTER: Final = re.compile(rb"\\u00(?:[67]|5[fF])")
_OUTSIDE_STRINGS: Final = b" \t\r\n{}[]:,+-.0123456789eEtrufalsn"
_BRACKETS: Final = re.compile(rb"[\[\]{}]")


class _Chain(Enum):
    """Where the plain values lead that stand behind a bracket."""

    LIST = auto()
    OBJECT = auto()
    END = auto()
    """The object's, but not the body's: one who reads several documents, or the first of them, would stop."""
    LAST = auto()
    SOUGHT = auto()
    DOUBT = auto()


class Unseen(NamedTuple):
    """A stretch of the body of which not every string was seen; the value of `key` and perhaps of harmless keys behind it."""

    key: bytes
    start: int
    end: int
    ends: int
    """How many lists may have ended in it that are values of an object, its last not counted."""


class Outline(NamedTuple):
    """The top level of a body."""

    keys: list[tuple[bytes, int]]
    """Each key, and where its value begins. Behind an unseen stretch, keys of no interest may be missing."""
    unseen: list[Unseen]
    rest: int | None
    """Where a key begins that was not looked at, and whether it stands at the top level. It does in a body that is JSON, if a brace
    with all that follows here is JSON: then just one brace is closed behind it."""
    noted: list[tuple[bytes, int]]
    """Of the noted keys those that were seen, and where their values begin. Behind an unseen stretch one of another object may be
    among them: good enough for an estimate, and for nothing else."""


def outline(
    body: bytes,
    sought: frozenset[bytes],
    doubtful: frozenset[bytes],
    noted: frozenset[bytes] = frozenset(),
) -> Outline | None:
    """Return the keys of a JSON object; None where only parsing can tell.

    `sought`: the keys of interest, in lower case; spelt in any case, none is missing. `doubtful`: strings that are to be looked at
    by parsing, as keys of the top level, and wherever else every string is seen. `noted`: keys that are reported where they are
    come by, and for which nothing else is done.
    """
    opening = _OPENING.match(body)
    return None if opening is None else _Walk(body, sought, doubtful, noted).run(opening.end())


class _Walk:
    __slots__ = ("body", "doubtful", "found", "leaps", "noted", "rest", "sought", "unseen")

    def __init__(self, body: bytes, sought: frozenset[bytes], doubtful: frozenset[bytes], noted: frozenset[bytes]) -> None:
        self.body = body
        self.sought = sought
        self.doubtful = doubtful
        self.noted = noted
        self.found: list[tuple[bytes, int]] = []
        self.leaps = 0
        self.unseen: list[Unseen] = []
        self.rest: int | None = None

    def run(self, at: int) -> Outline | None:
        body = self.body
        keys: list[tuple[bytes, int]] = []
        while found := _KEY.match(body, at):
            key, at = found[1], found.end()
            if key in self.doubtful:
                return None
            keys.append((key, at))
            if key in self.noted:
                self.found.append((key, at))
            if body[at : at + 1] in (b"[", b"{"):
                end, closed = self._leap(at)
                if not closed:
                    end = self._stride(key, end, objects=body.startswith(b"{", at))
            else:
                end = self._scalar(at)
            if end < 0:
                return None
            comma = None if self.rest else _COMMA.match(body, end)
            if comma is None:
                return Outline(keys, self.unseen, self.rest, self.found) if self.rest or _LAST.match(body, end) else None
            at = comma.end()
        return None

    def _affordable(self, at: int) -> bool:
        """Take one more leap, if so many lead this far."""
        self.leaps += 1
        return self.leaps <= _FREE_LEAPS + at // _LEAP_BYTES

    def _scalar(self, at: int) -> int:
        """Return where a string, number or literal ends; -1 where there is none, or too many quotes in it."""
        if self.body[at : at + 1] == b'"':
            return self._string(at)
        value = _SCALAR.match(self.body, at)
        return value.end() if value else -1

    def _string(self, at: int) -> int:
        body = self.body
        end = body.find(b'"', at + 1)
        while end > 0 and body[end - 1] == _BACKSLASH and _escaped(body, end):
            end = body.find(b'"', end + 1) if self._affordable(end) else -1
        return end + 1 if end > 0 else -1

    def _leap(self, at: int) -> tuple[int, bool]:
        """Return where the list or object ends that begins here; (place, False): not before this place; -1: unreadable."""
        body, doubtful = self.body, self.doubtful
        depth = 0
        while self._affordable(at):
            start = body.find(b'"', at, at + _LONGEST_GAP)
            gap = body[at : start if start >= 0 else at + _LONGEST_GAP]
            brackets = _brackets(gap)
            if brackets is None:
                return -1, True
            lowest, net = brackets
            if depth + lowest <= 0:
                return at + _end(gap, depth), True
            if start < 0:
                break
            depth += net
            end = body.find(b'"', start + 1) + 1
            if body[end - 2] == _BACKSLASH:
                end = self._string(start)
            if end <= 0:
                return start, False
            if end - start <= _LONGEST_SPELLING:
                text = body[start + 1 : end - 1]
                if text in doubtful or (_BACKSLASH in text and _ESCAPED_LETTER.search(text)):
                    return -1, True
            at = end
        return at, False

    def _stride(self, key: bytes, at: int, *, objects: bool) -> int:
        """Return where the list or object of `key` ends, or a later one with nothing of interest between; -1: unknown.

        `objects`: it is an object, which ends with a curly bracket.
        """
        body, start = self.body, at
        ends, early = 0, False
        brackets = _FREE_BRACKETS
        while brackets > 0:
            if objects:
                closing = _CLOSING.search(body, at)
                behind = closing.end() if closing else 0
            else:
                behind = body.find(b"]", at) + 1
            if behind == 0:
                break
            brackets += (behind - at) // _BRACKET_BYTES - 1
            at = behind
            found = _BEHIND.match(body, at)
            if found is None:
                continue
            if found.lastgroup == "key":
                chain = self._chain(found.end("key"))
                if chain is _Chain.SOUGHT and not early and len(body) - at <= _LONGEST_REST:
                    self.rest = found.end("key")
                elif chain is _Chain.SOUGHT or chain is _Chain.DOUBT:
                    break
                last = chain is _Chain.SOUGHT or chain is _Chain.LAST
                early = early or chain is _Chain.END
                objects = objects or chain is _Chain.OBJECT
            elif found.lastgroup == "end":
                last = False
                if not early and self._seeks_in_tail():
                    break
                early = True
            elif found.lastgroup == "last":
                last = True
            else:
                break
            if last:
                self.unseen.append(Unseen(key, start, at, ends))
                return at
            ends += 1
        return -1

    def _chain(self, at: int) -> _Chain:
        """Read on from a key over plain values: to a key of interest, another list or object, or the end."""
        body = self.body
        while found := _KEY.match(body, at):
            if found[1].lower() in self.sought:
                return _Chain.SOUGHT
            if found[1] in self.doubtful:
                break
            at = found.end()
            if found[1] in self.noted:
                self.found.append((found[1], at))
            if body.startswith((b"[", b"{"), at):
                return _Chain.OBJECT if body.startswith(b"{", at) else _Chain.LIST
            at = self._scalar(at)
            if at < 0:
                break
            comma = _COMMA.match(body, at)
            if comma is None:
                return _Chain.LAST if _LAST.match(body, at) else _Chain.END if _END.match(body, at) else _Chain.DOUBT
            at = comma.end()
        return _Chain.DOUBT

    def _seeks_in_tail(self) -> bool:
        """Whether a key of interest may stand near the end, which an early end makes doubtful."""
        tail = self.body[-_TAIL:].lower()
        return any(b'"' + key + b'"' in tail for key in self.sought)


@lru_cache(maxsize=512)
def _brackets(gap: bytes) -> tuple[int, int] | None:
    """Return how deep the brackets between two strings lead at their lowest, and in the end; None: this is no JSON."""
    if gap.strip(_OUTSIDE_STRINGS):
        return None
    lowest, net = _LONGEST_GAP, 0
    for bracket in _BRACKETS.findall(gap):
        net += 1 if bracket in b"[{" else -1
        lowest = min(lowest, net)
    return lowest, net


def _end(gap: bytes, depth: int) -> int:
    """Return the place behind the bracket that ends what is this deep."""
    for bracket in _BRACKETS.finditer(gap):
        depth += 1 if bracket[0] in b"[{" else -1
        if depth == 0:
            return bracket.end()
    raise AssertionError


def _escaped(body: bytes, quote: int) -> bool:
    """Whether the quote at this place is escaped: an odd number of backslashes stands before it."""
    at = quote
    while at > 0 and body[at - 1] == _BACKSLASH:
        at -= 1
    return (quote - at) % 2 == 1
