"""How a provider is asked to go on with an answer that another one began: the request with the beginning in its mouth.

OpenAI's wire format has no such thing, but many who speak it take a last message of the assistant for the beginning of their own
answer, each with another sign. Whether a target does is declared, never assumed: one that does not would answer the sentence
instead of finishing it. The client's JSON stays byte for byte around what is added (law 4).
"""

from __future__ import annotations

import re
from typing import Final

import orjson

from gateway.core.plan import Prefill
from gateway.dialects.body import top_level_spans
from gateway.dialects.transcript import Transcript

_HALF: Final = re.compile(r"[\ud800-\udbff]\Z")
_FINAL: Final = b',"add_generation_prompt":false,"continue_final_message":true'
_FINAL_KEYS: Final = ("add_generation_prompt", "continue_final_message")
_PREFIXED: Final = frozenset({Prefill.PREFIX, Prefill.PREFIX_ECHOED})


def continuation_body(body: bytes, transcript: Transcript, prefill: Prefill) -> bytes | None:
    """Return the request that asks for the rest of the answer.

    `body` is the request as it would be sent to that target. None: send it unchanged, and splice with `Prefill.NONE`. So it is
    where there is no text yet, where the conversation ends in a message of the assistant already (the client's own prefill), and
    where a key that matters stands in the body twice.
    """
    text = beginning(transcript.text)
    if prefill is Prefill.NONE or not text:
        return None
    key, flags = transcript.prompt, _FINAL if prefill is Prefill.CONTINUE_FINAL else b""
    spans = top_level_spans(body.decode("latin-1"), {key, *_FINAL_KEYS})
    if len(spans[key]) != 1 or (flags and any(spans[flag] for flag in _FINAL_KEYS)):
        return None
    message = {"role": "assistant", "content": text}
    try:
        begun = orjson.dumps(message | {"prefix": True} if prefill in _PREFIXED else message)
    except TypeError:
        # A lone half of a surrogate pair, which UTF-8 has no bytes for.
        return None
    start, end = spans[key][0]
    prompt = _with_message(body[start:end], begun)
    if prompt is None:
        return None
    rest = body[end:]
    brace = rest.rindex(b"}")
    return body[:start] + prompt + rest[:brace] + flags + rest[brace:]


def beginning(text: str) -> str:
    """Return as much of a text as a model can be made to begin with: not the space at its end, nor half a character.

    Anthropic's models refuse such a beginning, chat templates cut it off, and words of most vocabularies begin with their space, so
    that after one a model goes on badly. The space is expected at the beginning of its answer instead.
    """
    return _HALF.sub("", text).rstrip()


def _with_message(prompt: bytes, message: bytes) -> bytes | None:
    """Add a message to the JSON of a list of messages, or to the text that stands for a list of one."""
    said = orjson.loads(prompt)
    if isinstance(said, str):
        return b'[{"role":"user","content":' + prompt + b"}," + message + b"]"
    if not isinstance(said, list) or not said or not isinstance(said[-1], dict) or said[-1].get("role") == "assistant":
        return None
    return prompt[:-1] + b"," + message + b"]"
