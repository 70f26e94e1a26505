"""What a healthy provider answers, in OpenAI's published shapes: pure functions from a parsed request to bytes.

Two laws. A fact misread once must not pass every test, so nothing here comes from the gateway's own knowledge of the wire: the
shapes are those of OpenAI's API reference and of Azure's. And every piece of text carries a fingerprint of provider and prompt, so
that one foreign piece in an answer is seen: `Voice.text` says beforehand what the answer to a prompt will be.
"""

from __future__ import annotations

import base64
import email
import email.policy
import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

DONE = b"data: [DONE]\n\n"
_DIMENSIONS = 8


@dataclass(slots=True)
class Whole:
    """A complete answer. `pieces`: how many pieces of text it holds, as a bill counts them."""

    status: int
    body: bytes
    pieces: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    content_type: str = "application/json"


@dataclass(slots=True)
class Events:
    """A stream: each event as its bytes, and whether it carries a piece of text."""

    events: Iterator[tuple[bytes, bool]]
    flat_errors: bool = False
    """Errors inside the stream are `event: error` with a flat object (Responses), not `{"error": ...}` (chat)."""


@dataclass(frozen=True, slots=True)
class Voice:
    """Who answers, and at what length: what makes one provider's answer differ from another's."""

    name: str
    tokens: int = 20
    """Pieces of text in an answer, unless the request allows fewer."""

    def fingerprint(self, prompt: Any, index: int = 0) -> str:
        """Eight hex digits that only this provider gives to this prompt and choice."""
        material = b"%b\0%d\0%b" % (self.name.encode(), index, orjson.dumps(prompt, option=orjson.OPT_SORT_KEYS))
        return hashlib.sha256(material).hexdigest()[:8]

    def pieces(self, prompt: Any, count: int, index: int = 0) -> list[str]:
        """The answer's pieces: the name first, then the fingerprint with the piece's number."""
        mark = self.fingerprint(prompt, index)
        return [f"{self.name}:{mark}", *(f" {mark}.{number}" for number in range(1, count))][:count]

    def text(self, prompt: Any, tokens: int | None = None, index: int = 0) -> str:
        """The whole answer to `messages` (chat), `prompt` (completions) or `input` (responses), as JSON values."""
        return "".join(self.pieces(prompt, self.tokens if tokens is None else tokens, index))


@dataclass(frozen=True, slots=True)
class Ask:
    """One request that is going to be answered well."""

    voice: Voice
    number: int
    """The provider's number for it, from which object ids are made: ids of two requests never meet."""
    now: int
    """Unix seconds, for `created`."""
    model: str
    body: dict[str, Any]
    azure: bool = False

    def length(self) -> tuple[int, bool]:
        """How many pieces the answer has, and whether the request's own limit cut it short."""
        asked = [self.body.get(name) for name in ("max_completion_tokens", "max_tokens", "max_output_tokens")]
        limit = min((value for value in asked if isinstance(value, int) and value > 0), default=self.voice.tokens)
        return min(limit, self.voice.tokens), limit < self.voice.tokens

    def id(self, prefix: str, joint: str = "-") -> str:
        """A new object's id, which names its provider."""
        return f"{prefix}{joint}{self.voice.name}{self.number:06d}"


def estimate(body: dict[str, Any], default: int) -> int:
    """What a tokens-per-minute limit charges in advance: a quarter of the prompt's size plus `max_tokens`, times the choices."""
    asked = [body.get(name) for name in ("max_completion_tokens", "max_tokens", "max_output_tokens")]
    longest = max((value for value in asked if isinstance(value, int) and value > 0), default=default)
    choices = body.get("n")
    return prompt_tokens(body) + longest * (choices if isinstance(choices, int) and choices > 0 else 1)


def prompt_tokens(body: dict[str, Any]) -> int:
    """A quarter of the prompt's JSON size, at least 1."""
    prompt = next((body[name] for name in ("messages", "input", "prompt") if name in body), "")
    return max(1, len(orjson.dumps(prompt)) // 4)


def sse(data: Any, event: str | None = None) -> bytes:
    """One server-sent event."""
    line = data.encode() if isinstance(data, str) else orjson.dumps(data)
    return (b"event: %b\n" % event.encode() if event else b"") + b"data: %b\n\n" % line


def _usage(ask: Ask, pieces: int) -> dict[str, Any]:
    prompt = prompt_tokens(ask.body)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": pieces,
        "total_tokens": prompt + pieces,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _choices(ask: Ask) -> int:
    count = ask.body.get("n")
    return count if isinstance(count, int) and count > 0 else 1


def _wants_usage(ask: Ask) -> bool:
    options = ask.body.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


_AZURE_FILTER = {name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")}


def chat(ask: Ask) -> Whole | Events:
    """`POST /v1/chat/completions`."""
    prompt = ask.body["messages"]
    count, short = ask.length()
    finish = "length" if short else "stop"
    common = {
        "id": ask.id("chatcmpl"),
        "object": "chat.completion",
        "created": ask.now,
        "model": ask.model,
        "service_tier": "default",
        "system_fingerprint": f"fp_{ask.voice.name}",
    }
    if ask.body.get("stream") is True:
        return Events(_chat_events(ask, common | {"object": "chat.completion.chunk"}, count, finish))
    choices: list[dict[str, Any]] = [
        {
            "index": index,
            "message": {
                "role": "assistant",
                "content": ask.voice.text(prompt, count, index),
                "refusal": None,
                "annotations": [],
            },
            "logprobs": None,
            "finish_reason": finish,
        }
        for index in range(_choices(ask))
    ]
    pieces = count * len(choices)
    answer = common | {"choices": choices, "usage": _usage(ask, pieces)}
    if ask.azure:
        for choice in choices:
            choice["content_filter_results"] = _AZURE_FILTER
        answer["prompt_filter_results"] = [{"prompt_index": 0, "content_filter_results": _AZURE_FILTER}]
    return Whole(200, orjson.dumps(answer), pieces)


def _chat_events(ask: Ask, common: dict[str, Any], count: int, finish: str) -> Iterator[tuple[bytes, bool]]:
    """A role chunk per choice, one chunk per piece, a finishing chunk per choice, the usage chunk if asked for, `[DONE]`.

    With `include_usage` every other chunk says `"usage": null`. Azure puts a chunk without choices first: its filter's word on the
    prompt.
    """
    if _wants_usage(ask):
        common = common | {"usage": None}
    if ask.azure:
        head = {"id": "", "object": "", "created": 0, "model": ""}
        yield (
            sse(head | {"choices": [], "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": _AZURE_FILTER}]}),
            False,
        )

    def chunk(index: int, delta: dict[str, Any], reason: str | None = None) -> bytes:
        return sse(common | {"choices": [{"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}]})

    choices = range(_choices(ask))
    for index in choices:
        yield chunk(index, {"role": "assistant", "content": "", "refusal": None}), False
    texts = [ask.voice.pieces(ask.body["messages"], count, index) for index in choices]
    for number in range(count):
        for index in choices:
            yield chunk(index, {"content": texts[index][number]}), True
    for index in choices:
        yield chunk(index, {}, finish), False
    if _wants_usage(ask):
        yield sse(common | {"choices": [], "usage": _usage(ask, count * len(choices))}), False
    yield DONE, False


def completions(ask: Ask) -> Whole | Events:
    """`POST /v1/completions`, the older endpoint: text instead of messages."""
    prompt = ask.body["prompt"]
    count, short = ask.length()
    finish = "length" if short else "stop"
    common = {
        "id": ask.id("cmpl"),
        "object": "text_completion",
        "created": ask.now,
        "model": ask.model,
        "system_fingerprint": f"fp_{ask.voice.name}",
    }
    if ask.body.get("stream") is True:
        return Events(_completion_events(ask, common, count, finish))
    choices = [
        {"text": ask.voice.text(prompt, count, index), "index": index, "logprobs": None, "finish_reason": finish}
        for index in range(_choices(ask))
    ]
    pieces = count * len(choices)
    return Whole(200, orjson.dumps(common | {"choices": choices, "usage": _usage(ask, pieces)}), pieces)


def _completion_events(ask: Ask, common: dict[str, Any], count: int, finish: str) -> Iterator[tuple[bytes, bool]]:
    if _wants_usage(ask):
        common = common | {"usage": None}
    choices = range(_choices(ask))
    texts = [ask.voice.pieces(ask.body["prompt"], count, index) for index in choices]
    for number in range(count):
        for index in choices:
            choice = {"text": texts[index][number], "index": index, "logprobs": None, "finish_reason": None}
            yield sse(common | {"choices": [choice]}), True
    for index in choices:
        yield sse(common | {"choices": [{"text": "", "index": index, "logprobs": None, "finish_reason": finish}]}), False
    if _wants_usage(ask):
        yield sse(common | {"choices": [], "usage": _usage(ask, count * len(choices))}), False
    yield DONE, False


def response_object(ask: Ask) -> dict[str, Any]:
    """The finished object of the Responses API, as `GET /v1/responses/{id}` gives it again."""
    count, short = ask.length()
    part = {"type": "output_text", "text": ask.voice.text(ask.body["input"], count), "annotations": [], "logprobs": []}
    message = {"type": "message", "id": ask.id("msg", "_"), "status": "completed", "role": "assistant", "content": [part]}
    prompt = prompt_tokens(ask.body)
    return {
        "id": ask.id("resp", "_"),
        "object": "response",
        "created_at": ask.now,
        "status": "incomplete" if short else "completed",
        "background": False,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if short else None,
        "instructions": ask.body.get("instructions"),
        "max_output_tokens": ask.body.get("max_output_tokens"),
        "model": ask.model,
        "output": [message],
        "parallel_tool_calls": True,
        "previous_response_id": ask.body.get("previous_response_id"),
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": ask.body.get("store") is not False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": count,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + count,
        },
        "user": None,
        "metadata": ask.body.get("metadata") or {},
    }


def responses(ask: Ask) -> Whole | Events:
    """`POST /v1/responses`."""
    if ask.body.get("stream") is True:
        return Events(_response_events(ask), flat_errors=True)
    return Whole(200, orjson.dumps(response_object(ask)), ask.length()[0])


def _response_events(ask: Ask) -> Iterator[tuple[bytes, bool]]:
    """Numbered events from `response.created` to `response.completed` (or `.incomplete`); there is no `[DONE]`."""
    done = response_object(ask)
    message, part = done["output"][0], done["output"][0]["content"][0]
    begun = done | {"status": "in_progress", "incomplete_details": None, "output": [], "usage": None}
    place = {"item_id": message["id"], "output_index": 0, "content_index": 0}
    number = 0

    def event(kind: str, **values: Any) -> bytes:
        nonlocal number
        number += 1
        return sse({"type": kind, "sequence_number": number - 1, **values}, kind)

    yield event("response.created", response=begun), False
    yield event("response.in_progress", response=begun), False
    item = message | {"status": "in_progress", "content": []}
    yield event("response.output_item.added", output_index=0, item=item), False
    yield event("response.content_part.added", **place, part=part | {"text": ""}), False
    for piece in ask.voice.pieces(ask.body["input"], ask.length()[0]):
        yield event("response.output_text.delta", **place, delta=piece, logprobs=[]), True
    yield event("response.output_text.done", **place, text=part["text"], logprobs=[]), False
    yield event("response.content_part.done", **place, part=part), False
    yield event("response.output_item.done", output_index=0, item=message), False
    yield event(f"response.{done['status']}", response=done), False


def embeddings(ask: Ask) -> Whole:
    """`POST /v1/embeddings`: unit-free vectors made from a digest; base64 of little-endian float32 if asked for, as SDKs do."""
    given = ask.body["input"]
    tokens = isinstance(given, list) and given and isinstance(given[0], int)
    inputs = given if isinstance(given, list) and not tokens else [given]
    size = ask.body.get("dimensions")
    size = size if isinstance(size, int) and size > 0 else _DIMENSIONS
    packed = ask.body.get("encoding_format") == "base64"
    data = []
    for index, one in enumerate(inputs):
        stream = hashlib.shake_256(ask.voice.fingerprint(one).encode()).digest(size)
        vector = [byte / 128 - 1 for byte in stream]
        value = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode() if packed else vector
        data.append({"object": "embedding", "index": index, "embedding": value})
    used = prompt_tokens(ask.body)
    usage = {"prompt_tokens": used, "total_tokens": used}
    return Whole(200, orjson.dumps({"object": "list", "data": data, "model": ask.model, "usage": usage}))


_CATEGORIES = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic",
)  # fmt: skip


def moderations(ask: Ask) -> Whole:
    """`POST /v1/moderations`: nothing is ever flagged."""
    given = ask.body["input"]
    count = len(given) if isinstance(given, list) else 1
    result = {
        "flagged": False,
        "categories": dict.fromkeys(_CATEGORIES, False),
        "category_scores": dict.fromkeys(_CATEGORIES, 0.0),
        "category_applied_input_types": {name: ["text"] for name in _CATEGORIES},
    }
    return Whole(200, orjson.dumps({"id": ask.id("modr"), "model": ask.model, "results": [result] * count}))


def model_object(name: str, owner: str) -> dict[str, Any]:
    """One model, as `GET /v1/models/{model}` gives it."""
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": owner}


def file_object(ask: Ask, size: int, filename: str, purpose: str) -> dict[str, Any]:
    """An uploaded file, as `POST /v1/files` and `GET /v1/files/{id}` give it."""
    return {
        "id": ask.id("file"),
        "object": "file",
        "bytes": size,
        "created_at": ask.now,
        "expires_at": None,
        "filename": filename,
        "purpose": purpose,
        "status": "processed",
        "status_details": None,
    }


def upload(content_type: str, body: bytes) -> tuple[int, str, str]:
    """Size of the file, its name and its purpose, from a multipart/form-data body (RFC 7578); zeros where it is none."""
    message = email.message_from_bytes(
        b"content-type: %b\r\n\r\n%b" % (content_type.encode("latin-1"), body), policy=email.policy.HTTP
    )
    size, filename, purpose = 0, "", ""
    for part in message.iter_parts() if message.is_multipart() else ():
        name = part.get_param("name", header="content-disposition")
        data = part.get_payload(decode=True)
        if not isinstance(data, bytes):
            continue
        if name == "file":
            size, filename = len(data), part.get_filename() or ""
        elif name == "purpose":
            purpose = data.decode(errors="replace")
    return size, filename, purpose
