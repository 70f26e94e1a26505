"""How a second stream is made the continuation of a first one that broke (`stream.resume`): which splicer, and that of chat.

The client reads one answer: the first one's id, model and time, one role, text without a seam, one finish, one terminator and one
usage. What has no place in it (another choice, a refusal, an unknown kind of content) ends the splice, and the stream breaks
in-band as if there had been none (law 5). The second answer's thoughts are left out: they do not belong to the first one's words.
"""

from __future__ import annotations

from typing import Any, Final

from gateway.core.plan import Prefill
from gateway.dialects.splice_generic import NOTHING, Splicer, dump
from gateway.dialects.splice_responses import ResponsesSplicer
from gateway.dialects.transcript import LABELS, REASONING, ChatTranscript, ResponsesTranscript, is_lone

_DONE: Final = b"data: [DONE]\n\n"
_CALLS: Final = frozenset({"tool_calls", "function_call"})


def seam(provider: str) -> bytes:
    """Return the comment that declares a splice; it goes before the first bytes of the second answer that reach the client."""
    return b": gateway resumed on %b\n\n" % provider.encode()


def splicer_for(transcript: ChatTranscript | ResponsesTranscript, prefill: Prefill) -> Splicer:
    """Return what makes another stream the continuation of this transcript; `prefill`: how its provider was asked."""
    if isinstance(transcript, ResponsesTranscript):
        return ResponsesSplicer(transcript, prefill)
    return ChatSplicer(transcript, prefill)


class ChatSplicer(Splicer):
    """Continues chat completions."""

    __slots__ = ("_introduced",)

    def __init__(self, transcript: ChatTranscript, prefill: Prefill) -> None:
        super().__init__(transcript, prefill)
        self._introduced = transcript.introduced

    def _end(self) -> bytes | None:
        if not self.finished:
            return None
        self.ended = True
        return _DONE

    def _splice(self, document: dict[str, Any]) -> bytes | None:
        reported = any([self._add_usage(document), self._add_usage(document.get("x_groq"))])
        choices = document.get("choices")
        choices = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
        if len(choices) > 1:
            return None
        kept = None
        if choices and not self.finished:
            kept = self._splice_choice(choices[0])
            if kept is None:
                return None
        document["choices"] = [kept] if kept else []
        if not kept and not (reported and self._overlap.settled):
            return NOTHING
        # A fingerprint tells which backend made an answer, so that equal seeds can be compared; no single one made this.
        document.pop("system_fingerprint", None)
        return b"data: " + dump(document | self._transcript.head) + b"\n\n"

    def _splice_choice(self, choice: dict[str, Any]) -> dict[str, Any] | None:
        """Return what of a choice is new, maybe nothing (empty)."""
        delta, reason = choice.get("delta"), choice.get("finish_reason")
        if not is_lone(choice) or reason == "error":
            return None
        kept = self._splice_delta(delta if isinstance(delta, dict) else {})
        if kept is None:
            return None
        if reason:
            if not self._overlap.settled:
                return None
            self.finished = True
        elif not kept:
            return {}
        if not self._introduced:
            self._introduced = True
            kept = {"role": "assistant", **kept}
        return choice | {"delta": kept}

    def _splice_delta(self, delta: dict[str, Any]) -> dict[str, Any] | None:
        kept = {}
        content = delta.get("content")
        if content:
            new = self._overlap.past(content) if isinstance(content, str) else None
            if new is None:
                return None
            if new:
                kept["content"] = new
        for key, value in delta.items():
            if not value or key == "content" or key in LABELS or key in REASONING:
                continue
            if key not in _CALLS or not self._overlap.passed:
                return None
            kept[key] = value
        return kept
