"""What the client of one exchange gets: the head, bytes, a refusal, or an error within its stream.

Everything that is written to a client goes through here, so that the record counts it, and so that nothing of our own account is
quoted to it (law 12). What to write, and when, is the driver's to say.
"""

from __future__ import annotations

from typing import Final

from gateway.config.snapshot import Snapshot
from gateway.core.actions import Break, Refuse, Relay
from gateway.core.attempt import Attempt
from gateway.core.message import ResponseHead
from gateway.core.record import ExchangeRecord
from gateway.dialects.base import StreamReader
from gateway.dialects.client_limits import limit_lines
from gateway.dialects.errors import refusal_body
from gateway.egress.answer import Answer
from gateway.egress.heads import advice_lines, answer_lines, gateway_lines, keys_of, masked
from gateway.egress.request import Request
from gateway.egress.sink import Sink
from gateway.egress.surroundings import Surroundings

KEEP_ALIVE: Final = b": keep-alive\n\n"
"""A comment, which event streams allow anywhere between events and readers ignore (WHATWG HTML, section 9.2.6)."""


class Delivery:
    """The client's side of one exchange."""

    __slots__ = ("_record", "_request", "_sink", "_snapshot", "_surroundings", "done", "early")

    def __init__(
        self, surroundings: Surroundings, snapshot: Snapshot, record: ExchangeRecord, request: Request, sink: Sink
    ) -> None:
        self._surroundings = surroundings
        self._snapshot = snapshot
        self._record = record
        self._request = request
        self._sink = sink
        self.early = False
        """The head of an event stream is out, before any answer."""
        self.done = False
        """The client has all it will get."""

    def open(self, answer: Answer, head: ResponseHead) -> None:
        """Write the head of an attempt's answer, unless one was written early."""
        if self.early:
            return
        attempt = answer.attempt
        own_limits = self._request.account is not None
        lines, phrase = answer_lines(head, stream=answer.reader is not None, own_limits=own_limits), head.phrase
        if head.status >= 300:
            lines, phrase = self._without_keys(attempt, lines, phrase)
        self._head(head.status, phrase, lines, self._length(answer, head), attempt.content_at or attempt.head_at)

    def open_early(self) -> None:
        """Promise a stream: whoever waits between us and the client sees that somebody is there."""
        self.early = True
        lines = [b"Content-Type: text/event-stream\r\nCache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"]
        self._head(200, b"", lines, None, self._record.opened_at)

    def write(self, data: bytes) -> None:
        """Write body bytes."""
        self._record.bytes_out += len(data)
        self._sink.write(data)

    def end(self) -> None:
        """The answer is whole."""
        self.done = True
        self._sink.end()

    def abort(self) -> None:
        """Cut the answer off."""
        self.done = True
        self._sink.abort()

    def relay(self, relay: Relay, answer: Answer) -> None:
        """Give the client a provider's own error answer, with our advice."""
        head = answer.response
        assert head is not None  # noqa: S101 - only an answer can be relayed
        body = masked(b"".join(answer.held), keys_of(self._snapshot.providers[relay.attempt.provider]))
        if answer.error_status:
            lines, status, phrase = [b"Content-Type: application/json\r\n", *advice_lines(relay.advice)], answer.error_status, b""
        else:
            status = head.status
            lines = answer_lines(head, advice=relay.advice, own_limits=self._request.account is not None)
            lines, phrase = self._without_keys(relay.attempt, lines, head.phrase)
        length = len(body) if self._request.head.method != b"HEAD" else head.content_length
        self._head(status, phrase, lines, length, self._record.ended_at)
        if body:
            self.write(body)
        self.end()

    def refuse(self, refuse: Refuse) -> None:
        """Say no, in the shape that the client reads."""
        shape, request_id = self._request.inbound.shape, self._record.request_id
        body = refusal_body(refuse.reason.value, refuse.message, refuse.status, shape=shape, request_id=request_id)
        lines = [b"Content-Type: application/json\r\n", *advice_lines(refuse.advice)]
        self._head(refuse.status, b"", lines, len(body), self._record.ended_at)
        self.write(body)
        self.end()

    def fail(self, action: Break, speaker: StreamReader | None) -> None:
        """End a stream in an error event, or cut it off where there is none who could put one into it."""
        if speaker is None:
            self.abort()
        else:
            self.write(speaker.error_event(action.code, action.message))
            self.end()

    def _head(self, status: int, phrase: bytes, lines: list[bytes], length: int | None, at: float) -> None:
        record = self._record
        if not record.opened_at:
            record.opened_at = at
        lines.append(gateway_lines(record, at, record.reason))
        account = self._request.account
        if account is not None:
            now, now_unix = self._surroundings.clock(), self._surroundings.unix()
            lines += limit_lines(account.quota.buckets, self._request.inbound.shape, now=now, now_unix=now_unix)
        self._sink.open(status, phrase, lines, length=length)
        record.status = status

    def _length(self, answer: Answer, head: ResponseHead) -> int | None:
        """Return the exact size of the body that will be written, or None where only its end will tell."""
        if answer.whole:
            return sum(map(len, answer.held)) or (head.content_length if self._request.head.method == b"HEAD" else 0)
        return None if answer.reader is not None else head.content_length

    def _without_keys(self, attempt: Attempt, lines: list[bytes], phrase: bytes) -> tuple[list[bytes], bytes]:
        """Take out what an answer other than a good one may quote of our own account."""
        secrets = keys_of(self._snapshot.providers[attempt.provider])
        return [masked(line, secrets) for line in lines], masked(phrase, secrets)
