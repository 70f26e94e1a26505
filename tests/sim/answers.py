"""What providers say, written from the published shapes and never through our dialects.

OpenAI's API reference for chat completions, responses, embeddings, files and error objects; Cloudflare's pages; the bodies that
status pages and captures of past outages show. A fact misread by the gateway must not be misread here in the same way, so nothing of
the gateway is imported. Every answer carries a tag, `<provider#number>`, by which its words are recognised at the client.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial, wraps

Lines = tuple[tuple[bytes, bytes], ...]

JSON: Lines = ((b"Content-Type", b"application/json"),)
EVENTS: Lines = ((b"Content-Type", b"text/event-stream; charset=utf-8"), (b"Cache-Control", b"no-cache"))
HTML: Lines = ((b"Content-Type", b"text/html; charset=UTF-8"), (b"Server", b"cloudflare"))

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that is none: status, headers, body."""

    status: int
    lines: Lines
    body: bytes


def _error(status: int, message: str, kind: str, code: str | None, *extra: tuple[bytes, bytes]) -> Refusal:
    body = json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}, indent=2).encode()
    return Refusal(status, (*JSON, *extra), body)


_SORRY = "The server had an error while processing your request. Sorry about that!"
_PAGE = b"<!DOCTYPE html>\n<html><head><title>%b</title></head><body><h1>%b</h1>cloudflare</body></html>\n"

REFUSALS: dict[str, Refusal] = {
    "400": _error(400, "Invalid request.", "invalid_request_error", None),
    "401": _error(401, "Incorrect API key provided: sk-****.", "invalid_request_error", "invalid_api_key"),
    "context": _error(
        400,
        "This model's maximum context length is 128000 tokens. However, your messages resulted in 150000 tokens.",
        "invalid_request_error",
        "context_length_exceeded",
        (b"x-should-retry", b"false"),
    ),
    "400_drained": _error(400, "The pool for this model is drained.", "invalid_request_error", "pool_drained"),
    "no_prefill": _error(400, "Prefilling assistant messages is not supported for this model.", "invalid_request_error", None),
    "403": _error(403, "You are not allowed to sample from this model.", "invalid_request_error", None),
    "404": _error(404, "The model does not exist or you do not have access to it.", "invalid_request_error", "model_not_found"),
    "billing": _error(
        429,
        "You exceeded your current quota, please check your plan and billing details.",
        "insufficient_quota",
        "insufficient_quota",
    ),
    "rate_bare": _error(429, "Rate limit reached for requests", "requests", "rate_limit_exceeded"),
    "rate_false": _error(
        429,
        "Rate limit reached for requests",
        "requests",
        "rate_limit_exceeded",
        (b"x-ratelimit-limit-requests", b"500"),
        (b"x-ratelimit-remaining-requests", b"499"),
        (b"x-ratelimit-remaining-tokens", b"29000"),
    ),
    "come_back": Refusal(429, JSON, b'{"status":"come back later"}'),
    "500": _error(500, _SORRY, "server_error", None),
    "500_final": _error(500, _SORRY, "server_error", None, (b"x-should-retry", b"false")),
    "502": Refusal(502, JSON, b'{"error":{"message":"Bad gateway.","type":"cf_bad_gateway","param":null,"code":null}}'),
    "503": _error(503, "The server is currently overloaded with other requests.", "service_unavailable_error", None),
    "504": _error(504, "The request timed out upstream.", "server_error", None),
    "529": _error(529, "Overloaded", "overloaded_error", None),
    "html_502": Refusal(502, HTML, _PAGE % (b"502 Bad Gateway", b"502 Bad Gateway")),
    "html_403": Refusal(403, HTML, _PAGE % (b"Just a moment...", b"Checking your browser")),
    "html_530": Refusal(530, HTML, _PAGE % (b"Error 1033", b"Error 1033: Argo Tunnel error")),
    "html_200": Refusal(200, HTML, _PAGE % (b"Sign in", b"Sign in to this network")),
    "error_200": Refusal(200, JSON, b'{"error":{"message":"Provider returned error","code":502},"user_id":"user_1"}'),
}


def rate_limited(delay_s: float, *, millis: bool) -> Refusal:
    """A rate limit that says when to come back."""
    stated = (b"retry-after-ms", b"%d" % round(delay_s * 1000)) if millis else (b"retry-after", b"%d" % round(delay_s))
    return _error(429, "Rate limit reached for requests", "requests", "rate_limit_exceeded", stated)


def overloaded(delay_s: float) -> Refusal:
    """An overload that says when to come back."""
    message = "The server is currently overloaded with other requests."
    return _error(503, message, "service_unavailable_error", None, (b"retry-after", b"%d" % round(delay_s)))


# -- good answers -------------------------------------------------------------------------------------------------------------


_TAG = "<tag#0>"
AGREED = "Er sagte: «Ça va?» 🙂 und ging dann heim."
"""What every provider says to a request that asks for a reproducible answer, each in pieces of its own."""

Pieces = tuple[str, ...]


def own_words(count: int) -> Pieces:
    """Return so many pieces of text that only the provider whose tag they bear would say."""
    return tuple(f" {_TAG} {word}" for word in range(count))


def cut(text: str, size: int) -> Pieces:
    """Return a text in pieces of so many characters."""
    return tuple(text[at : at + size] for at in range(0, len(text), size))


def _events(tell: Callable[[Pieces, str], list[bytes]]) -> Callable[..., list[bytes]]:
    """Tell every stream once, and put each visit's own tag in: making JSON takes longer than all else here."""
    told = cache(tell)

    @wraps(tell)
    def retold(tag: str, pieces: Pieces, manner: str = "") -> list[bytes]:
        return [event.replace(_TAG.encode(), tag.encode()) for event in told(pieces, manner)]

    return retold


def _body(tell: Callable[[str], bytes]) -> Callable[[str], bytes]:
    """Tell a body once, and put each visit's own tag in."""
    told = cache(partial(tell, _TAG))
    return wraps(tell)(lambda tag: told().replace(_TAG.encode(), tag.encode()))


@_events
def chat_events(pieces: Pieces, manner: str) -> list[bytes]:
    """A chat stream up to and without `[DONE]`: the role, the pieces, the finish.

    `manner` may hold `calls` (the pieces are the arguments of a tool call), `usage` (it was asked for: one chunk more) and `running`
    (the usage so far beside every piece, as vLLM does when told to).
    """
    head = {"id": f"chatcmpl-{_TAG}", "object": "chat.completion.chunk", "created": 1700000000, "model": "gpt-4o-2024-08-06"}
    if "calls" in manner:
        call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}
        deltas: list[dict[str, object]] = [{"role": "assistant", "content": None}]
        deltas += [{"tool_calls": [call | {"function": {"arguments": piece}}]} for piece in pieces]
        reason = "tool_calls"
    else:
        deltas = [{"role": "assistant", "content": "", "refusal": None}, *({"content": piece} for piece in pieces)]
        reason = "stop"
    documents: list[dict[str, object]] = []
    for number, delta in enumerate([*deltas, {}]):
        over = number == len(deltas)
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason if over else None}
        usage = {"usage": _chat_usage(number) if "running" in manner else None} if "usage" in manner else {}
        documents.append(head | {"choices": [choice]} | usage)
    if "usage" in manner:
        documents.append(head | {"choices": [], "usage": _chat_usage(len(pieces))})
    return [f"data: {json.dumps(document, separators=(',', ':'))}\n\n".encode() for document in documents]


def _chat_usage(made: int) -> dict[str, int]:
    return {"prompt_tokens": 9, "completion_tokens": made, "total_tokens": 9 + made}


def chat_error() -> bytes:
    """An error in the middle of a chat stream."""
    return f'data: {{"error":{{"message":"{_SORRY}","type":"server_error","param":null,"code":null}}}}\n\n'.encode()


@_body
def chat_body(tag: str) -> bytes:
    """A chat completion."""
    return json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1700000000,
            "model": "gpt-4o-2024-08-06",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": f"Hello {tag}"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21},
        },
    ).encode()


def _response(status: str, output: list[dict[str, object]], made: int = 0) -> dict[str, object]:
    usage = {"input_tokens": 9, "output_tokens": made, "total_tokens": 9 + made} if status == "completed" else None
    return {"id": f"resp_{_TAG}", "object": "response", "status": status, "error": None, "output": output, "usage": usage}


def _message(text: str) -> dict[str, object]:
    return {"type": "message", "id": f"msg_{_TAG}", "status": "completed", "role": "assistant", "content": [_text(text)]}


def _text(text: str) -> dict[str, object]:
    return {"type": "output_text", "text": text, "annotations": []}


@_events
def response_events(pieces: Pieces, manner: str) -> list[bytes]:
    """A stream of the Responses API, whole: its last event is the terminator. `manner` may hold `calls`, as with chat."""
    text = "".join(pieces)
    documents: list[dict[str, object]] = [
        {"type": "response.created", "response": _response("in_progress", [])},
        {"type": "response.in_progress", "response": _response("in_progress", [])},
    ]
    if "calls" in manner:
        item: dict[str, object] = {"type": "function_call", "id": f"fc_{_TAG}", "call_id": "call_1", "name": "f", "arguments": text}
        where = {"item_id": item["id"], "output_index": 0}
        documents.append({"type": "response.output_item.added", "output_index": 0, "item": item | {"arguments": ""}})
        documents += [{"type": "response.function_call_arguments.delta", **where, "delta": piece} for piece in pieces]
        documents.append({"type": "response.function_call_arguments.done", **where, "arguments": text})
    else:
        item = _message(text)
        where = {"item_id": item["id"], "output_index": 0, "content_index": 0}
        documents.append({"type": "response.output_item.added", "output_index": 0, "item": item | {"content": []}})
        documents.append({"type": "response.content_part.added", **where, "part": _text("")})
        documents += [{"type": "response.output_text.delta", **where, "delta": piece} for piece in pieces]
        documents.append({"type": "response.output_text.done", **where, "text": text})
        documents.append({"type": "response.content_part.done", **where, "part": _text(text)})
    documents.append({"type": "response.output_item.done", "output_index": 0, "item": item})
    documents.append({"type": "response.completed", "response": _response("completed", [item], len(pieces))})
    return [
        f"event: {document['type']}\ndata: {json.dumps(document | {'sequence_number': number})}\n\n".encode()
        for number, document in enumerate(documents)
    ]


def response_error() -> bytes:
    """An error in the middle of a stream of the Responses API: flat, with the event's own name."""
    document = {"type": "error", "code": "server_error", "message": _SORRY, "param": None, "sequence_number": 9}
    return f"event: error\ndata: {json.dumps(document)}\n\n".encode()


@_body
def response_body(tag: str) -> bytes:
    """A response, not streamed."""
    return json.dumps(_response("completed", [_message(f"Hello {tag}")], 12)).encode()


@_events
def image_events(pieces: Pieces, _manner: str) -> list[bytes]:
    """A stream of image generation, whole: its last event is the picture."""
    documents = [
        {"type": "image_generation.partial_image", "b64_json": "aGk=", "partial_image_index": part, "prompt": _TAG}
        for part in range(len(pieces))
    ]
    documents.append({"type": "image_generation.completed", "b64_json": "aGk=", "prompt": _TAG})
    return [f"event: {document['type']}\ndata: {json.dumps(document)}\n\n".encode() for document in documents]


@_body
def embedding_body(tag: str) -> bytes:
    """One embedding."""
    return json.dumps(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}],
            "model": f"text-embedding-3-small {tag}",
            "usage": {"prompt_tokens": 8, "total_tokens": 8},
        },
    ).encode()


@_body
def object_body(tag: str) -> bytes:
    """A file, a batch, a job: anything with an id."""
    return json.dumps({"id": "file-abc123", "object": "file", "bytes": 120, "filename": tag, "purpose": "batch"}).encode()
