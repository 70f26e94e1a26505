"""Reads what routing needs from a request's JSON body, and changes its model's name by one surgical edit.

What is read as `model` is exactly what the provider will read (law 4): every JSON reader agrees on an object without duplicate
keys, so a body whose top level has two `model`s or two `stream`s, in whatever spelling, is refused. The bytes around the edited
name stay as they are. Forms are read in `forms`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import product
from json.decoder import scanstring  # type: ignore[attr-defined]  # CPython's own C scanner; typeshed leaves it out
from typing import Any, Final

import orjson

from gateway.dialects.leap import Unseen, outline
from gateway.dialects.media import Media, media_of

Span = tuple[int, int]

_DECODER: Final = json.JSONDecoder(strict=False)
_SPACE: Final = re.compile(r"[ \t\n\r]*")
_MODEL_KEY: Final = b'"model"'
_STREAM_KEY: Final = b'"stream"'
_MODEL_VALUE: Final = re.compile(rb'"model"[ \t\n\r]*+:[ \t\n\r]*+("(?:[^"\\]++|\\.)*+")', re.DOTALL)

_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")

_ESCAPED: Final = b"\\u00"
_ESCAPED_LETTERS: Final = (b"\\u006", b"\\u007")
"""Every letter of `model` and `stream` escapes to one of these; a body without them spells the keys plainly."""


def _other_cases(word: str) -> Iterator[str]:
    cases = ((letter, letter.upper(), "\u017f") if letter == "s" else (letter, letter.upper()) for letter in word)
    return (spelt for letters in product(*cases) if (spelt := "".join(letters)) != word)


_LOOKALIKES: Final = frozenset([*_other_cases("model"), *_other_cases("stream")])
"""Some providers match keys regardless of case, Go's by Unicode's folding, where the long s is an s; beside the plain spelling
these would make two readers disagree."""

_PINS: Final = frozenset({"file_id", "file_ids", "vector_store_ids", "encrypted_content"})
"""Keys whose values are ids, or ciphertext, of one account."""
_PINNING: Final = frozenset({"previous_response_id", "conversation", "background", "store", "input", "tools", "tool_resources"})
"""Keys of a request under which such references stand, besides `messages`."""
_DOUBTFUL: Final = frozenset(
    key.encode() for key in (*_PINS, "item_reference", "previous_response_id", "conversation", "background", "store")
)
"""Strings in a large body that make parsing it worth while."""
LARGE_BYTES: Final = 64 * 1024
"""A longer body is not parsed where that can be avoided, and not searched for what is no text."""
_STRING_VALUE: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_SOUGHT: Final = frozenset({b"model", b"stream"})
_BOUNDS: Final = ("max_completion_tokens", "max_output_tokens", "max_tokens")
"""Keys that bound an answer's length; the first that is there counts."""
_NOTED: Final = frozenset(key.encode() for key in (*_BOUNDS, "n", "best_of"))
_INTEGER: Final = re.compile(rb"[0-9]{1,18}(?=[ \t\r\n,}])")
_REFERENCES: Final = (b"file_id", b"vector_store_ids", b"encrypted_content", b"item_reference", b"\\u00")
"""One of these stands in whatever refers to an account's object. The last begins an escaped letter of one of the others."""
_MANY: Final = 1000
"""With more messages, it is cheaper to search the body for what refers to an object than to look through them."""
_DEPTH: Final = 12
_CONTAINERS: Final = (dict, list)


class BodyFacts:
    """What a request's body says."""

    __slots__ = ("error", "max_output", "media", "model", "model_span", "pins", "stream", "valid")

    def __init__(
        self,
        *,
        model: str | None = None,
        stream: bool = False,
        valid: bool = True,
        error: str = "",
        model_span: Span | None = None,
        pins: bool = False,
        max_output: int | None = None,
        media: Media | None = None,
    ) -> None:
        self.model = model
        """None where the body names none."""
        self.stream = stream
        self.valid = valid
        """False: this is no body of a model call; elsewhere it may be just right."""
        self.error = error
        """A sentence for the caller. With `valid`, the body is ambiguous and must not be sent anywhere."""
        self.model_span = model_span
        """Where the model's value stands: a JSON string with its quotes, or a form field's raw value."""
        self.pins = pins
        """The body refers to objects of one account, or creates one: no other account can serve it or its successors."""
        self.max_output = max_output
        """Tokens that all answers together may have at most; None where the body sets no bound."""
        self.media = media
        """What in a body of at most `LARGE_BYTES` is no text, else None: `prompt.measure` looks for it in a longer one."""


def read_json(body: bytes) -> BodyFacts:
    """Read a whole JSON body.

    Not `valid`: anything but an object whose `model`, if it has one, is a string. Valid with an `error`: two keys at the top level
    that readers could take for the same. Of a large body, what does not matter to these answers may go unread.
    """
    if len(body) > LARGE_BYTES:
        facts = _read_in_leaps(body)
        if facts is not None:
            return facts
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as problem:
        document = _load_leniently(body)
        if document is None:
            return BodyFacts(valid=False, error=f"The body is not valid JSON: {problem}" if body else "The body is empty.")
    if not isinstance(document, dict):
        return BodyFacts(valid=False, error="The body must be a JSON object.")
    if not _LOOKALIKES.isdisjoint(document):
        return BodyFacts(error="The body has a key that differs from `model` or `stream` only in case.")
    model = document.get("model")
    if "model" in document and not _is_text(model):
        return BodyFacts(valid=False, error="`model` must be a string.")
    span: Span | None = None
    # Every scan of a rich megabyte costs a good part of parsing it. Backwards they cost a third of forwards.
    last = body.rfind(_MODEL_KEY) if model is not None else -1
    escaped = b"\\" in body and body.rfind(_ESCAPED) >= 0 and any(body.rfind(letter) >= 0 for letter in _ESCAPED_LETTERS)
    if escaped or (last > 0 and body.rfind(_MODEL_KEY, 0, last) >= 0) or ("stream" in document and _repeats(body, _STREAM_KEY)):
        spans = top_level_spans(body.decode("latin-1"), {"model", "stream"})
        twice = [key for key, found in spans.items() if len(found) > 1]
        if twice:
            return BodyFacts(error=f"The body has the duplicate key `{twice[0]}`.")
        span = spans["model"][0] if spans["model"] else None
    elif model is not None:
        # The only spelling of the key in the body must be the one that was parsed.
        value = _MODEL_VALUE.match(body, last)
        span = value.span(1) if value else None
    rich: list[Any] = []
    facts = BodyFacts(
        model=model,
        stream=document.get("stream") is True,
        model_span=span,
        pins=_pins(document, body, rich),
    )
    if "max_completion_tokens" in document or "max_output_tokens" in document or "max_tokens" in document:
        facts.max_output = _max_output(document)
    if (rich or facts.pins or "input" in document) and len(body) <= LARGE_BYTES:
        facts.media = media_of(document)
    return facts


def _read_in_leaps(body: bytes) -> BodyFacts | None:
    """Read a large body that is plain enough not to be parsed; a provider would refuse one that is no JSON between its keys."""
    found = outline(body, _SOUGHT, _DOUBTFUL, noted=_NOTED)
    if found is None or any(_may_refer(body, unseen) for unseen in found.unseen):
        return None
    model: str | None = None
    span: Span | None = None
    stream = False
    seen = set()
    for key, at in found.keys:
        if key == b"model":
            value = _STRING_VALUE.match(body, at)
            if value is None:
                return None
            span = value.span()
            try:
                model = orjson.loads(value[0])
            except orjson.JSONDecodeError:
                return None
        elif key == b"stream":
            stream = body.startswith(b"true", at)
        if key.lower() in _SOUGHT:
            if key not in _SOUGHT or key in seen:
                return None
            seen.add(key)
    numbers = _numbers(body, found.noted) if found.noted else {}
    facts = BodyFacts(model=model, stream=stream, model_span=span)
    if found.rest is None:
        facts.max_output = _max_output(numbers) if numbers else None
        return facts
    return _with_rest(facts, seen, body, found.rest, numbers)


def _numbers(body: bytes, noted: list[tuple[bytes, int]]) -> dict[str, int]:
    """Return what these keys count; the last of several, as a parser would."""
    return {key.decode(): int(value[0]) for key, at in noted if (value := _INTEGER.match(body, at))}


def _max_output(counts: Mapping[str, Any]) -> int | None:
    """Return how many tokens all answers together may have; what is no count at all counts for nothing."""
    for key in _BOUNDS:
        most = counts.get(key)
        if type(most) is int and most >= 0:
            # A bool is no number here, though Python takes it for one. Of `best_of` answers `n` are returned.
            times = [count for count in (counts.get("n"), counts.get("best_of")) if type(count) is int]
            return most * max(1, *times) if times else most
    return None


def _with_rest(facts: BodyFacts, seen: set[bytes], body: bytes, at: int, numbers: dict[str, int]) -> BodyFacts | None:
    """Add what the end of the body says, from a key on; None where it is no JSON object, or says something again."""
    ending = body[at:]
    rest = read_json(b"{" + ending)
    if rest.error or rest.pins or (rest.model_span and b"model" in seen):
        return None
    if b"stream" in seen and (_STREAM_KEY in ending or _ESCAPED in ending):
        return None
    if rest.model_span:
        facts.model = rest.model
        facts.model_span = rest.model_span[0] + at - 1, rest.model_span[1] + at - 1
    facts.stream = facts.stream or rest.stream
    facts.max_output = rest.max_output
    if numbers:
        # The bound may stand on one side, and how many answers it is for on the other.
        facts.max_output = _max_output({**numbers, **(_load_leniently(b"{" + ending) or {})})
    return facts


def _repeats(body: bytes, word: bytes) -> bool:
    return body.rfind(word, 0, max(body.rfind(word), 0)) >= 0


def _may_refer(body: bytes, unseen: Unseen) -> bool:
    if unseen.key == b"messages" and unseen.ends == 0:
        # Only the parts of a message can refer to anything, and they would be a list.
        return False
    return _mentions(body, unseen.start, unseen.end)


def _mentions(body: bytes, start: int, end: int) -> bool:
    """Whether a reference to an account's object is possible here; cheaper than to look for one in many small lists."""
    return body.find(b'"', start, end) >= 0 and any(body.rfind(word, start, end) >= 0 for word in _REFERENCES)


def read_json_prefix(prefix: bytes) -> BodyFacts | None:
    """Read the model from the first part of a body too long to be held, or None if it is not in there.

    Best effort: keys after the prefix are unknown, so `stream` may be missed and duplicates go unnoticed.
    """
    facts: BodyFacts | None = None
    stream = False
    text = prefix.decode("latin-1")
    for key, (start, end) in _walk(text):
        if key == "stream":
            stream = text[start:end] == "true"
        elif key == "model":
            if facts is not None:
                return BodyFacts(error="The body has the duplicate key `model`.")
            try:
                model = orjson.loads(prefix[start:end])
            except orjson.JSONDecodeError:
                return None
            if not _is_text(model):
                return BodyFacts(valid=False, error="`model` must be a string.")
            facts = BodyFacts(model=model, model_span=(start, end))
    if facts is not None:
        facts.stream = stream
    return facts


def replace_model(body: bytes, span: Span, new: str) -> bytes:
    """Return the body with another model name; `span` as read from it, JSON or form. Every other byte stays."""
    return body[: span[0]] + (new.encode("utf-8") if _is_form(body) else orjson.dumps(new)) + body[span[1] :]


def insert_model(body: bytes, new: str) -> bytes:
    """Return the body with a model name before everything else, for a valid JSON object or form that has none."""
    if _is_form(body):
        delimiter = body[: body.index(b"\r\n")].rstrip(b" \t")
        field = b'\r\nContent-Disposition: form-data; name="model"\r\n\r\n' + new.encode("utf-8") + b"\r\n"
        return delimiter + field + body
    brace = body.index(b"{") + 1
    empty = body[brace : brace + 1024].lstrip(b" \t\n\r").startswith(b"}")
    return body[:brace] + b'"model":' + orjson.dumps(new) + (b"" if empty else b",") + body[brace:]


def _is_form(body: bytes) -> bool:
    """A form that was read begins with its delimiter, which no JSON does."""
    return body.startswith(b"--")


def top_level_spans(text: str, keys: set[str]) -> dict[str, list[Span]]:
    """Return where the values of these keys stand at the top level of a JSON object, duplicates and escaped spellings included.

    `text` is the body decoded as Latin-1, so that positions are byte offsets.
    """
    spans: dict[str, list[Span]] = {key: [] for key in keys}
    for key, span in _walk(text):
        if key in keys:
            spans[key].append(span)
    return spans


def _walk(text: str) -> Iterator[tuple[str, Span]]:
    """Yield key and value span of each top-level entry; ends quietly where the text breaks off."""
    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        return
    at = _skip(text, at + 1)
    while text[at : at + 1] == '"':
        try:
            key, at = scanstring(text, at + 1, False)
            at = _skip(text, at)
            if text[at : at + 1] != ":":
                return
            start = _skip(text, at + 1)
            at = _DECODER.raw_decode(text, start)[1]
        except (ValueError, RecursionError):
            return
        yield key, (start, at)
        at = _skip(text, at)
        if text[at : at + 1] != ",":
            return
        at = _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and (value.isascii() or not _SURROGATE.search(value))


def _load_leniently(body: bytes) -> Any:
    """Parse what the standard library takes and orjson does not (lone surrogates, NaN): some providers take it too."""
    try:
        return json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        return None


def _pins(document: dict[str, Any], body: bytes, rich: list[Any] | None = None) -> bool:
    """Whether a body is bound to one account; until it is known to be, messages with parts are added to `rich`."""
    messages = document.get("messages")
    if isinstance(messages, list) and (len(messages) < _MANY or _mentions(body, 0, len(body))):
        for message in messages:
            # Only the parts of a message can refer to anything, and most messages are plain text.
            if isinstance(message, dict) and isinstance(content := message.get("content"), list):
                if rich is not None:
                    rich.append(message)
                if _refers(content, _DEPTH):
                    return True
    if _PINNING.isdisjoint(document):
        return False
    if document.get("previous_response_id") or document.get("conversation") or document.get("background") is True:
        return True
    if document.get("store") is True and messages is None:
        # `store` of a response; chat completions have one too, but nothing else depends on it.
        return True
    parts = (document.get(part) for part in ("input", "tools", "tool_resources"))
    return any(_refers(part, _DEPTH) for part in parts if isinstance(part, list | dict))


def _refers(value: list[Any] | dict[str, Any], depth: int) -> bool:
    """Whether an account's object is referred to somewhere below. A tool's schema may name such keys, but gives them no value."""
    if isinstance(value, dict):
        if value.get("type") == "item_reference":
            return True
        if not _PINS.isdisjoint(value) and any(value.get(key) and isinstance(value[key], str | list) for key in _PINS):
            return True
        value = list(value.values())
    if depth == 0:
        return False
    return any(_refers(item, depth - 1) for item in value if isinstance(item, list | dict))
