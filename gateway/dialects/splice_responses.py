"""How a second response is made the continuation of a first one: the same message, numbered on, and closed as one.

A response is more than its text: items with ids and places, each opened and closed, and an object at the end that says it all once
more. So the second one's lifecycle is left out as far as the client has seen it, its text goes on in the first one's message, and
what closes text, part, message and response says the whole of it under the first one's ids. Items that come whole behind the
message, such as tool calls, are passed on behind it. An event that is not known here is not passed on in another response's name.
"""

from __future__ import annotations

from typing import Any

from gateway.core.plan import Prefill
from gateway.dialects.splice_generic import NOTHING, Splicer, dump
from gateway.dialects.transcript import RESPONSE_ENDS, RESPONSE_LIFE, ResponsesTranscript


class ResponsesSplicer(Splicer):
    """Continues a stream of the Responses API."""

    __slots__ = (
        "_head",
        "_message",
        "_message_at",
        "_next",
        "_number",
        "_part",
        "_part_at",
        "_place",
        "_places",
        "_said",
        "_thoughts",
    )

    def __init__(self, transcript: ResponsesTranscript, prefill: Prefill) -> None:
        super().__init__(transcript, prefill)
        self._head = transcript.head
        self._number = transcript.sequence
        self._next = transcript.next_index
        self._thoughts = [transcript.thoughts[index] for index in sorted(transcript.thoughts)]
        self._message = transcript.message
        self._place = transcript.output_index
        self._part = transcript.content_index
        self._said = [transcript.text]
        self._places: dict[int, int | None] = {}
        """Where the second response's items stand in the client's; None: left out."""
        self._message_at: int | None = None
        self._part_at: int | None = None
        """Where message and text stand in the second response, once they were added there."""

    def _end(self) -> bytes | None:
        # Whoever puts `[DONE]` behind every stream of this API, which has none, puts it behind one that broke off, too.
        return None

    def _splice(self, document: dict[str, Any]) -> bytes | None:
        kind, index = document.get("type"), document.get("output_index")
        if not isinstance(kind, str):
            return None
        if kind in RESPONSE_LIFE:
            return NOTHING
        if kind in RESPONSE_ENDS:
            return self._close(document)
        if not isinstance(index, int):
            return None
        if kind == "response.output_item.added":
            return self._open_item(document, index)
        if index not in self._places:
            return None
        place = self._places[index]
        if place is None:
            return NOTHING
        document["output_index"] = place
        return self._splice_message(document, kind) if index == self._message_at else self._send(document)

    def _open_item(self, document: dict[str, Any], index: int) -> bytes | None:
        item = document.get("item")
        if not isinstance(item, dict) or index in self._places:
            return None
        kind = item.get("type")
        if kind == "reasoning":
            self._places[index] = None
            return NOTHING
        if kind == "message" and self._message_at is None:
            self._message_at = index
            if self._message is not None:
                self._places[index] = self._place
                return NOTHING
            self._message, self._place = item.get("id"), self._next
        elif not self._overlap.passed:
            return None
        self._places[index] = document["output_index"] = self._next
        self._next += 1
        return self._send(document)

    def _splice_message(self, document: dict[str, Any], kind: str) -> bytes | None:
        """Continue the message that the client has, or was just given."""
        if kind == "response.content_part.added":
            return self._open_part(document)
        if document.get("content_index", self._part_at) != self._part_at:
            return None
        if "item_id" in document:
            document["item_id"] = self._message
            document["content_index"] = self._part
        if kind == "response.output_text.delta":
            return self._say(document)
        if not self._overlap.settled:
            return None
        if kind == "response.output_text.done" and not document.get("logprobs"):
            document["text"] = self._whole
        elif kind == "response.content_part.done" and (part := self._whole_part(document.get("part"))):
            document["part"] = part
        elif kind == "response.output_item.done" and (item := self._whole_message(document.get("item"))):
            document["item"] = item
        else:
            # A refusal; a citation, whose place in the text would be wrong.
            return None
        return self._send(document)

    def _open_part(self, document: dict[str, Any]) -> bytes | None:
        part, at = document.get("part"), document.get("content_index")
        if self._part_at is not None or not isinstance(at, int) or not isinstance(part, dict):
            return None
        if part.get("type") != "output_text" or part.get("text"):
            return None
        self._part_at = at
        if self._part is not None:
            return NOTHING
        self._part = at
        document["item_id"] = self._message
        return self._send(document)

    def _say(self, document: dict[str, Any]) -> bytes | None:
        delta = document.get("delta")
        if not isinstance(delta, str) or document.get("logprobs"):
            return None
        new = self._overlap.past(delta)
        if not new:
            return None if new is None else NOTHING
        self._said.append(new)
        document["delta"] = new
        return self._send(document)

    def _close(self, document: dict[str, Any]) -> bytes | None:
        """Return the last event, whose response is the whole one."""
        response = document.get("response")
        if document["type"] == "response.failed" or not isinstance(response, dict) or not self._overlap.settled:
            return None
        if self._message is not None and self._message_at is None:
            # The client's message would stay open.
            return None
        output = response.get("output")
        if isinstance(output, list):
            whole = self._whole_output(output)
            if whole is None:
                return None
            response["output"] = whole
        self._add_usage(response)
        document["response"] = response | self._head
        self.finished = self.ended = True
        return self._send(document)

    def _whole_output(self, output: list[Any]) -> list[Any] | None:
        items: list[Any] = [*self._thoughts]
        message = False
        for item in output:
            kind = item.get("type") if isinstance(item, dict) else None
            if kind == "reasoning":
                continue
            if kind == "message" and not message:
                message = True
                whole = self._whole_message(item)
                if whole is None:
                    return None
                items.append(whole)
            else:
                items.append(item)
        return items

    def _whole_message(self, item: Any) -> dict[str, Any] | None:
        content = item.get("content") if isinstance(item, dict) else None
        if not isinstance(content, list) or len(content) != 1:
            return None
        part = self._whole_part(content[0])
        return item | {"id": self._message, "content": [part]} if part else None

    def _whole_part(self, part: Any) -> dict[str, Any] | None:
        if not isinstance(part, dict) or part.get("type") != "output_text" or part.get("annotations") or part.get("logprobs"):
            return None
        return part | {"text": self._whole}

    @property
    def _whole(self) -> str:
        return "".join(self._said)

    def _send(self, document: dict[str, Any]) -> bytes:
        self._number += 1
        document["sequence_number"] = self._number
        return b"event: %b\ndata: %b\n\n" % (str(document["type"]).encode(), dump(document))
