"""What a client has got so far of one streamed answer, in case that the stream breaks and another one is to continue it.

Only plain text can be continued (law 5: nothing silent): in half a tool call, a JSON document, a sound or a signed thought a second
model cannot go on, and where nothing is known of a part of the answer, nothing is assumed. So both the request and the stream are
read by lists of what may be in them, and anything else ends the transcript. It is fed what was relayed, so that it is exact by
construction, also where a continued stream breaks again. Apart from the readers of `streams`, which every stream passes: this
parses each event, and only routes that resume pay for it.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import Any, Final

from gateway.core.plan import Family
from gateway.core.sse import data_of
from gateway.core.sse import events as split
from gateway.dialects.streams_generic import document_of, object_of
from gateway.dialects.usage import usage_of

MAX_TEXT_BYTES: Final = 4 * 1024 * 1024
"""More text than this, in UTF-8, is not kept."""

REASONING: Final = frozenset({"reasoning_content", "reasoning", "reasoning_details"})
"""Keys of a chat delta that hold thoughts: DeepSeek's and vLLM's; Groq's and OpenRouter's; OpenRouter's."""
LABELS: Final = frozenset({"role", "name", "id", "index", "type"})
"""Keys of a chat delta which say who speaks, not what is said."""

RESPONSE_LIFE: Final = frozenset({"response.created", "response.in_progress", "response.queued", "keepalive", "ping"})
RESPONSE_ENDS: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})

_SEALED: Final = ("signature", "encrypted_content", "data")
"""Keys of a thought that hold what only its provider can read or vouch for."""
_FORMS: Final = frozenset(
    {
        *("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs"),  # vLLM
        *("regex", "ebnf", "json_schema"),  # SGLang
        "grammar",  # llama.cpp
    },
)
"""Keys of compatible servers' requests that force a form on the answer."""
_CHAT_HEAD: Final = ("id", "model", "created")
_RESPONSE_HEAD: Final = ("id", "model", "created_at")
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")


class Transcript(ABC):
    """One streamed answer, as far as the client has got it."""

    __slots__ = ("_lost", "_reported", "_text", "finished", "head", "usage", "usage_complete")

    prompt = ""
    """The key of the request under which the conversation stands."""

    def __init__(self) -> None:
        self.head: dict[str, Any] = {}
        """What says which answer this is: its id, model and time, as the client read them first."""
        self.finished = False
        """The text was said to be whole: nothing is left to be continued. Whether the stream is, its reader knows."""
        self.usage: dict[str, Any] | None = None
        """The usage object the client was last told."""
        self.usage_complete = True
        """False: a stream that went before the present one ended without a word on its usage."""
        self._text = bytearray()
        self._lost = False
        self._reported = False

    def feed(self, events: bytes) -> None:
        """Take complete raw events, exactly those which were relayed to the client; after a splice, those of the splicer."""
        for event in split(events):
            if self._lost or self.finished:
                return
            data = data_of(event)
            if data and not data.startswith(b"[DONE]"):
                document = document_of(data)
                if document is None or not self._hear(document):
                    self._lost = True
                    self._text.clear()

    @property
    def resumable(self) -> bool:
        """Whether another stream could continue this one if it broke now."""
        return not (self._lost or self.finished)

    @property
    def text(self) -> str:
        """All text so far; empty if it is not resumable. It may end in half a surrogate pair, where the stream was cut there."""
        return joined(self._text.decode("utf-8", "surrogatepass"))

    def resumed(self) -> None:
        """Another stream begins to continue this one."""
        self.usage_complete = self.usage_complete and self._reported
        self._reported = False

    @abstractmethod
    def _hear(self, document: dict[str, Any]) -> bool:
        """Note what one event says; False where that cannot be continued."""

    def _say(self, text: Any) -> bool:
        if not isinstance(text, str):
            return text is None
        self._text += text.encode("utf-8", "surrogatepass")
        return len(self._text) <= MAX_TEXT_BYTES

    def _note_usage(self, holder: Any) -> None:
        if isinstance(holder, dict) and usage_of(usage := holder.get("usage")):
            self.usage = usage
            self._reported = True

    def _note_head(self, source: dict[str, Any], keys: tuple[str, ...]) -> None:
        # Azure's first chunk names none of them, in empty strings and zeros.
        self.head = {key: source[key] for key in keys if source.get(key)} | self.head


class ChatTranscript(Transcript):
    """A stream of chat completions."""

    __slots__ = ("introduced",)

    prompt = "messages"

    def __init__(self) -> None:
        super().__init__()
        self.introduced = False
        """The client got a delta that names the role."""

    def _hear(self, document: dict[str, Any]) -> bool:
        if len(self.head) < len(_CHAT_HEAD):
            self._note_head(document, _CHAT_HEAD)
        if document.get("usage"):
            self._note_usage(document)
        if "x_groq" in document:
            self._note_usage(document["x_groq"])
        choices = document.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                continue
            delta = choice.get("delta")
            if not is_lone(choice) or (isinstance(delta, dict) and not self._hear_delta(delta)):
                return False
            if choice.get("finish_reason"):
                self.finished = True
        return True

    def _hear_delta(self, delta: dict[str, Any]) -> bool:
        for key, value in delta.items():
            if not value:
                continue
            if key == "content":
                known = self._say(value)
            elif key in REASONING:
                known = not _is_sealed(value)
            else:
                known = key in LABELS
                self.introduced = self.introduced or key == "role"
            if not known:
                return False
        return True


class ResponsesTranscript(Transcript):
    """A stream of the Responses API: thoughts, if any, and then one message of one part of text."""

    __slots__ = ("content_index", "message", "next_index", "output_index", "sequence", "thoughts")

    prompt = "input"

    def __init__(self) -> None:
        super().__init__()
        self.sequence = -1
        """The last `sequence_number`."""
        self.next_index = 0
        """The first `output_index` that no item has."""
        self.thoughts: dict[int, dict[str, Any] | None] = {}
        """Reasoning items by index; None while one is not done."""
        self.message: str | None = None
        """Id of the message, once it was added."""
        self.output_index = 0
        self.content_index: int | None = None
        """Where the text stands, once its part was added."""

    @property
    def resumable(self) -> bool:
        # Nobody could complete a thought that was begun here, and a response is not whole with an item left open.
        return super().resumable and None not in self.thoughts.values()

    def _hear(self, document: dict[str, Any]) -> bool:
        kind = document.get("type")
        if not isinstance(kind, str):
            return False
        number = document.get("sequence_number")
        if isinstance(number, int):
            self.sequence = number
        if kind in RESPONSE_LIFE:
            response = document.get("response")
            if isinstance(response, dict):
                self._note_head(response, _RESPONSE_HEAD)
            return True
        if kind in RESPONSE_ENDS:
            self.finished = True
            return True
        index = document.get("output_index")
        if not isinstance(index, int):
            return False
        if kind == "response.output_item.added":
            return self._hear_item(document.get("item"), index)
        if index in self.thoughts:
            item = document.get("item")
            if kind == "response.output_item.done" and isinstance(item, dict):
                self.thoughts[index] = item
                return not _is_sealed(item)
            return True
        if index != self.output_index or self.message is None:
            return False
        if kind == "response.content_part.added":
            return self._hear_part(document)
        if kind == "response.output_text.delta" and document.get("content_index") == self.content_index:
            return not document.get("logprobs") and self._say(document.get("delta"))
        self.finished = kind == "response.output_text.done"
        return self.finished

    def _hear_item(self, item: Any, index: int) -> bool:
        if not isinstance(item, dict):
            return False
        self.next_index = max(self.next_index, index + 1)
        if item.get("type") == "reasoning":
            self.thoughts[index] = None
            return not _is_sealed(item)
        if item.get("type") != "message" or self.message is not None or not isinstance(item.get("id"), str):
            return False
        self.message = item["id"]
        self.output_index = index
        return not item.get("content")

    def _hear_part(self, document: dict[str, Any]) -> bool:
        part, at = document.get("part"), document.get("content_index")
        if self.content_index is not None or not isinstance(at, int):
            return False
        self.content_index = at
        return isinstance(part, dict) and part.get("type") == "output_text" and not part.get("text")


def transcript_for(family: Family, body: bytes) -> ChatTranscript | ResponsesTranscript | None:
    """Return an empty transcript for the answer to this request; None where its answer can never be continued."""
    if family not in {Family.CHAT, Family.RESPONSES}:
        return None
    request = object_of(body)
    if request is None or request.get("top_logprobs") or any(request.get(key) for key in _FORMS):
        return None
    if family is Family.CHAT:
        return ChatTranscript() if _asks_for_text(request) else None
    text = request.get("text")
    plain = text is None or (isinstance(text, dict) and _is_text_format(text.get("format")))
    include = request.get("include")
    traced = isinstance(include, list) and "message.output_text.logprobs" in include
    return ResponsesTranscript() if plain and not traced and isinstance(request.get("input"), str | list) else None


def joined(text: str) -> str:
    """Return the text with the halves of surrogate pairs put together, where they stand side by side."""
    if text.isascii() or not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def is_lone(choice: dict[str, Any]) -> bool:
    """Whether this is the first choice of a chat chunk, without log probabilities: those of a spliced text mean nothing."""
    if choice.get("index"):
        return False
    logprobs = choice.get("logprobs")
    return not logprobs or (isinstance(logprobs, dict) and not any(logprobs.values()))


def _asks_for_text(request: dict[str, Any]) -> bool:
    modalities = request.get("modalities")
    return (
        isinstance(request.get("messages"), list)
        and (request.get("n") or 1) == 1
        and not request.get("logprobs")
        and _is_text_format(request.get("response_format"))
        and (modalities is None or modalities == ["text"])
        and not request.get("audio")
    )


def _is_text_format(asked: Any) -> bool:
    return asked is None or (isinstance(asked, dict) and asked.get("type") == "text")


def _is_sealed(thought: Any) -> bool:
    if isinstance(thought, list):
        return any(_is_sealed(part) for part in thought)
    return isinstance(thought, dict) and any(thought.get(key) for key in _SEALED)
