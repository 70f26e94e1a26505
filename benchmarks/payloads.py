"""The bytes of the benchmark: what clients ask and what the upstream answers.

The law here: every contender is sent and sends back the same bytes, rendered once. They have the shape of real traffic (the headers
of an official SDK, the rate-limit headers of a real provider), because a gateway that reads them must pay for reading them. Apart
from the generator and the stub because both need them and neither may depend on the other.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

CHUNKS_HEADER: Final = b"x-bench-chunks: "
DELAY_HEADER: Final = b"x-bench-delay-ms: "
BODY_BYTES_LARGE: Final = 1_000_000

_SENTENCE: Final = 'The quick brown fox jumps over the lazy dog; 0123456789 \\ "quoted" and a line break.\n'

_CLIENT_HEADERS: Final = (
    "authorization: Bearer bench-client-key\r\n"
    "content-type: application/json\r\n"
    "accept: application/json\r\n"
    "accept-encoding: gzip, deflate\r\n"
    "user-agent: OpenAI/Python 3.54.0\r\n"
    "x-stainless-lang: python\r\n"
    "x-stainless-package-version: 3.54.0\r\n"
    "x-stainless-os: Linux\r\n"
    "x-stainless-arch: x64\r\n"
    "x-stainless-runtime: CPython\r\n"
    "x-stainless-runtime-version: 3.11.7\r\n"
    "x-stainless-async: async:asyncio\r\n"
    "x-stainless-retry-count: 0\r\n"
    "x-stainless-read-timeout: 600\r\n"
)

# The advertised limits are out of reach: a gateway that learns quotas from answers must not start to shape the benchmark's load.
_PROVIDER_HEADERS: Final = (
    "date: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
    "x-request-id: req_0123456789abcdef0123456789abcdef\r\n"
    "openai-organization: bench\r\n"
    "openai-processing-ms: 12\r\n"
    "openai-version: 2020-10-01\r\n"
    "x-ratelimit-limit-requests: 1000000000\r\n"
    "x-ratelimit-limit-tokens: 1000000000000\r\n"
    "x-ratelimit-remaining-requests: 999999999\r\n"
    "x-ratelimit-remaining-tokens: 999999999999\r\n"
    "x-ratelimit-reset-requests: 1ms\r\n"
    "x-ratelimit-reset-tokens: 1ms\r\n"
)


def _render(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _text(size: int) -> str:
    return (_SENTENCE * (size // len(_SENTENCE) + 1))[:size]


def _fit(size: int, messages: list[dict[str, Any]]) -> bytes:
    """A chat body of exactly `size` bytes: the last message is lengthened to fit (plain letters, one byte each)."""
    body = {"model": "bench-model", "stream": False, "messages": messages}
    messages[-1]["content"] += "x" * (size - len(_render(body)))
    rendered = _render(body)
    assert len(rendered) == size
    return rendered


def _answer_body() -> bytes:
    completion = {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion",
        "created": 1_767_225_600,
        "model": "bench-model",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 250, "completion_tokens": 220, "total_tokens": 470},
        "system_fingerprint": "fp_0123456789",
    }
    choice = completion["choices"]
    assert isinstance(choice, list)
    choice[0]["message"]["content"] = "x" * (1_200 - len(_render(completion)))
    return _render(completion)


ANSWER_BODY: Final = _answer_body()

ANSWER: Final = (
    f"HTTP/1.1 200 OK\r\n{_PROVIDER_HEADERS}content-type: application/json\r\ncontent-length: {len(ANSWER_BODY)}\r\n\r\n"
).encode() + ANSWER_BODY

STREAM_HEAD: Final = (
    f"HTTP/1.1 200 OK\r\n{_PROVIDER_HEADERS}content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
).encode()


def _event(content: str, finish: str | None) -> bytes:
    completion = {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": 1_767_225_600,
        "model": "bench-model",
        "system_fingerprint": "fp_0123456789",
        "choices": [{"index": 0, "delta": {"content": content}, "logprobs": None, "finish_reason": finish}],
    }
    return b"data: " + _render(completion) + b"\n\n"


EVENT: Final = _event(" benchmark", None)
DONE: Final = b"data: [DONE]\n\n"
_LAST: Final = _event("", "stop") + DONE


def _chunk(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


STREAM_CHUNK: Final = _chunk(EVENT)
STREAM_END: Final = _chunk(_LAST) + b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Ask:
    """A rendered request, and by what its answer is known to be whole: a size at least, and bytes near its end."""

    request: bytes
    answer_bytes: int
    ending: bytes


def _head(body: bytes) -> bytes:
    return f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n{_CLIENT_HEADERS}content-length: {len(body)}\r\n".encode()


def _plain(body: bytes) -> Ask:
    return Ask(_head(body) + b"\r\n" + body, len(ANSWER_BODY), b"")


def chat() -> Ask:
    """One request for a whole answer, with a body of 1 KB."""
    messages = [{"role": "system", "content": _text(200)}, {"role": "user", "content": _text(500)}]
    return _plain(_fit(1_000, messages))


def picture() -> Ask:
    """One request of 1 MB that is nearly all one picture, as a data URL: base64, without a quote in it."""
    parts = [
        {"type": "text", "text": _text(200)},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBORw0KGgoAAAANSUhEUg" * 45_000}},
    ]
    return _plain(_fit(BODY_BYTES_LARGE, [{"role": "user", "content": parts}, {"role": "user", "content": _text(200)}]))


def long_strings() -> Ask:
    """One request of 1 MB in four long messages: a document pasted into a prompt."""
    return _plain(_fit(BODY_BYTES_LARGE, [{"role": "user", "content": _text(230_000)} for _ in range(4)]))


def many_messages() -> Ask:
    """One request of 1 MB in some four thousand messages: an agent's history, the dearest shape for whoever parses it."""
    return _plain(_fit(BODY_BYTES_LARGE, [{"role": "user", "content": _text(200)} for _ in range(4_100)]))


def stream(chunks: int, delay_ms: int) -> Ask:
    """One request for a stream of `chunks` writes, `delay_ms` apart; the plan travels in headers that only the stub reads."""
    body = _render({"model": "bench-model", "stream": True, "messages": [{"role": "user", "content": _text(800)}]})
    plan = CHUNKS_HEADER + b"%d\r\n" % chunks + DELAY_HEADER + b"%d\r\n" % delay_ms
    return Ask(_head(body) + plan + b"\r\n" + body, (chunks - 1) * len(EVENT) + len(_LAST), DONE)
