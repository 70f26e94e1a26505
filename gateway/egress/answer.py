"""One attempt's answer as it comes in: what is held, what is sniffed, what flows through (law 5).

    error status              collected whole, judged on status, headers and body
    JSON of inference paths   held until complete, so that a cut is mended unseen; past `HOLD_BYTES` it flows
    event streams             held until the first content event, then relayed event-aligned and skimmed for their end
    everything else           flows from its first byte

Each mode is one method that takes a chunk; `head` picks the first. What an event means for the exchange is told to the driver.
"""

from __future__ import annotations

from asyncio import TimerHandle
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import orjson

from gateway.config.snapshot import Provider
from gateway.core.attempt import Attempt
from gateway.core.limits import Stated
from gateway.core.message import ResponseHead
from gateway.core.plan import INFERENCE, Family
from gateway.core.sse import EventSplitter, data_of, events
from gateway.core.verdicts import FAULTS, Fault, IOFault, Outcome, Verdict
from gateway.dialects.base import Part, StreamReader
from gateway.dialects.limits import read_limits, states_limits
from gateway.egress.heads import holds_key, keys_of, masked
from gateway.egress.surroundings import Surroundings
from gateway.egress.upstream import Call

_LIFE: Final = Part.LIFE
_CONTENT: Final = Part.CONTENT
_ERROR: Final = Part.ERROR
_BROKEN: Final = Part.BROKEN
_NOISE: Final = Part.NOISE
_END: Final = Part.END
"""Looked up once, for the hot path: CPython 3.11 finds a member of an enum slowly."""

HOLD_BYTES: Final = 8 * 1024 * 1024
"""Of one answer that is held back; all held streams together are bound by the memory for replays."""
ERROR_BYTES: Final = 1024 * 1024
"""An error answer longer than this is judged by its beginning and not shown to the client."""
PRELUDE_BYTES: Final = 1024 * 1024
"""Lifecycle events and comments held before the first content; beyond, the stream flows."""
LINGER_S: Final = 1.0
"""How long a finished stream's connection may take to end its body before it is closed instead of pooled."""


class Reports(Protocol):
    """What an answer tells its driver."""

    def sending(self, answer: Answer) -> None: ...

    def head(self, answer: Answer, status: int, *, streaming: bool) -> None: ...

    def stated(self, answer: Answer, limits: Sequence[Stated]) -> None:
        """The head says something about the account's limits."""
        ...

    def content(self, answer: Answer) -> None: ...

    def flow(self, chunk: bytes) -> None:
        """Committed bytes for the client."""
        ...

    def overflowed(self, answer: Answer) -> None:
        """A stream that is held back has outgrown what may be held."""
        ...

    def dropped(self) -> None:
        """A frame that is no JSON was left out."""
        ...

    def finished(self, answer: Answer) -> None: ...

    def failed(self, answer: Answer, verdict: Verdict) -> None:
        """Before or after the commit; the driver knows which."""
        ...

    def upload_blocked(self) -> None: ...

    def upload_unblocked(self) -> None: ...

    def crashed(self) -> None:
        """Called while handling an exception that nobody foresaw."""
        ...


class Answer:
    """The receiver of one attempt."""

    __slots__ = (
        "_clock",
        "_collecting",
        "_driver",
        "_family",
        "_guarded",
        "_holding",
        "_linger",
        "_over",
        "_provider",
        "_reserved",
        "_size",
        "_splitter",
        "_surroundings",
        "_take",
        "attempt",
        "call",
        "committed",
        "error_status",
        "held",
        "reader",
        "response",
        "usage",
        "whole",
    )

    def __init__(
        self,
        driver: Reports,
        attempt: Attempt,
        provider: Provider,
        family: Family,
        surroundings: Surroundings,
        *,
        guarded: bool,
    ) -> None:
        self._driver = driver
        self._clock = surroundings.clock
        self._surroundings = surroundings
        self._family = family
        self._provider = provider
        self._guarded = guarded
        """Clients authenticate to us, so that no key of theirs is ever sent."""
        self._over = False
        self._take: Callable[[bytes], None] = self._collect
        self._collecting = False
        self._holding = False
        self._size = 0
        self._reserved = 0
        """Bytes of a stream held back, counted with the memory for replays."""
        self._splitter: EventSplitter | None = None
        self._linger: TimerHandle | None = None
        self.attempt = attempt
        self.call: Call | None = None
        self.committed = False
        self.response: ResponseHead | None = None
        self.reader: StreamReader | None = None
        """Set for event streams that we read."""
        self.held: list[bytes] = []
        """Body bytes that the client has not got: the whole answer, an error, or the events before the first content."""
        self.error_status = 0
        """For an error event inside a 200 stream: the status it would have had."""
        self.usage: tuple[int, int] | None = None
        self.whole = False
        """Everything there will ever be is in `held`: the client can be told the exact length."""

    # -- the receiver ---------------------------------------------------------------------------------------------------------

    def sending(self) -> None:
        self._driver.sending(self)

    def head(self, head: ResponseHead) -> None:
        try:
            self._read_head(head)
        except Exception:  # noqa: BLE001 - logged and answered
            self._driver.crashed()

    def data(self, chunk: bytes) -> None:
        attempt = self.attempt
        attempt.heard_at = self._clock()
        attempt.bytes_in += len(chunk)
        try:
            self._take(chunk)
        except Exception:  # noqa: BLE001 - logged and answered
            self._driver.crashed()

    def ended(self) -> None:
        self.call = None
        try:
            self._end_of_answer()
        except Exception:  # noqa: BLE001 - logged and answered
            self._driver.crashed()

    def failed(self, fault: IOFault, detail: str, *, sent: bool) -> None:
        self.call = None
        try:
            self._cut_off(fault, detail, sent=sent)
        except Exception:  # noqa: BLE001 - logged and answered
            self._driver.crashed()

    def blocked(self) -> None:
        self._driver.upload_blocked()

    def unblocked(self) -> None:
        self._driver.upload_unblocked()

    # -- what the driver asks for ---------------------------------------------------------------------------------------------

    def commit(self) -> list[bytes]:
        """Hand over what was held; from now on bytes flow."""
        held, self.held = self.held, []
        self.committed = True
        self._release()
        if self.reader is not None and not self._over:
            self._take = self._events
        return held

    def between_events(self) -> bool:
        """Whether an event of our own can stand after what was relayed last."""
        return self.reader is not None and self._splitter is not None and self._splitter.aligned and not self._over

    def mid_event(self) -> bool:
        """Whether a part of an event too long to be held is out, so that no further event can follow it; for the end only."""
        splitter = self._splitter
        if splitter is None:
            return False
        splitter.take_rest()
        return not splitter.aligned

    def cancel(self) -> None:
        """Close the connection; nothing more is heard."""
        self._end()
        self._stop_lingering()
        self._close()

    # -- events ---------------------------------------------------------------------------------------------------------------

    def _read_head(self, head: ResponseHead) -> None:
        self.response = head
        status = head.status
        if states_limits(head.names) and (status >= 400 or self.attempt.reservation.curious(self._clock())):
            self._driver.stated(self, read_limits(head, now_unix=self._surroundings.unix()))
        streaming = False
        inference = self._family in INFERENCE
        content_type = head.value(b"content-type").lower() if inference else b""
        if not 200 <= status < (300 if inference else 400) or content_type.startswith(b"text/html"):
            self._collecting = True
        elif content_type.startswith(b"text/event-stream"):
            self._take = self._flow_from_here
            if head.value(b"content-encoding").lower() in (b"", b"identity"):
                # One that is compressed all the same cannot be read: neither held back, nor joined to anything, nor commented.
                streaming = True
                self.reader = self._provider.dialect.stream(self._family)
                self._splitter = EventSplitter()
                self._take = self._sniff
        elif b"json" in content_type:
            self._holding = True
            self._take = self._hold
        else:
            self._take = self._flow_from_here
        self._driver.head(self, status, streaming=streaming)

    def _end_of_answer(self) -> None:
        if self._over:
            self._stop_lingering()
        elif self.reader is not None:
            self._end_of_events(self.reader)
        elif self._collecting:
            self._judge(complete=True)
        elif self._holding:
            self._whole()
        else:
            self.whole = not self.committed
            self._finish()

    def _cut_off(self, fault: IOFault, detail: str, *, sent: bool) -> None:
        if self._over:
            self._stop_lingering()
        elif self._collecting:
            # The head of an error says enough; its broken-off body is not shown.
            self._judge(complete=False)
        elif self.reader is not None and self.reader.ended:
            self._finish()
        elif self.response is not None:
            self._fail(_broken_off(fault, detail))
        else:
            self._fail(self._classify(Outcome(io=fault, sent=sent, detail=detail)))

    # -- modes ----------------------------------------------------------------------------------------------------------------

    def _collect(self, chunk: bytes) -> None:
        self.held.append(chunk)
        self._size += len(chunk)
        if self._size > ERROR_BYTES:
            self._judge(complete=False)

    def _hold(self, chunk: bytes) -> None:
        self.held.append(chunk)
        self._size += len(chunk)
        if self._size > HOLD_BYTES:
            self._holding = False
            self._take = self._driver.flow
            self._driver.content(self)

    def _flow_from_here(self, chunk: bytes) -> None:
        self.held.append(chunk)
        self._take = self._driver.flow
        self._driver.content(self)

    def _sniff(self, chunk: bytes) -> None:
        assert self._splitter is not None  # noqa: S101 - set with the mode
        assert self.reader is not None  # noqa: S101 - set with the mode
        block = self._splitter.feed(chunk)
        if not block:
            return
        pieces = events(block)
        for index, event in enumerate(pieces):
            part = self._keep(self.reader, event)
            if self._over:
                return
            if (part is not _LIFE and part is not _NOISE) or self._size > PRELUDE_BYTES:
                self._take = self._hold_events
                self._driver.content(self)
                rest = pieces[index + 1 :]
                if part is _END:
                    self._finish()
                elif not self.committed:
                    self._hold_back(rest)
                elif rest and not self._over:
                    block = b"".join(rest)
                    self._last_events(block, self.reader.skim(block))
                return

    def _keep(self, reader: StreamReader, event: bytes) -> Part:
        """Read an event that the client does not get yet, and hold it. What is no JSON is left out; a failure ends the answer."""
        part = reader.read(event)
        if part is _ERROR or part is _BROKEN:
            self._break(part, reader)
        elif part is _NOISE:
            self._driver.dropped()
        else:
            self.held.append(event)
            self._size += len(event)
        return part

    def _hold_events(self, chunk: bytes) -> None:
        """Keep what comes after the first content, where the policy holds streams back; the commit ends it."""
        assert self._splitter is not None  # noqa: S101 - set with the mode
        block = self._splitter.feed(chunk)
        if block:
            self._hold_back(events(block))

    def _hold_back(self, pieces: list[bytes]) -> None:
        assert self._splitter is not None  # noqa: S101 - set with the mode
        assert self.reader is not None  # noqa: S101 - set with the mode
        for event in pieces:
            part = self._keep(self.reader, event)
            if part is _END:
                self._finish()
            if self._over:
                return
        if self._size > HOLD_BYTES or not self._splitter.aligned or not self._reserve():
            self._driver.overflowed(self)

    def _reserve(self) -> bool:
        """Count what is held back with everything else that is kept; tell whether there was room."""
        grown = self._size - self._reserved
        if not self._surroundings.memory.take(grown):
            return False
        self._reserved += grown
        return True

    def _release(self) -> None:
        if self._reserved:
            self._surroundings.memory.give_back(self._reserved)
            self._reserved = 0

    def _events(self, chunk: bytes) -> None:
        """Relay events after the commit: the hot path of every stream."""
        splitter: EventSplitter = self._splitter  # type: ignore[assignment]  # set with the mode
        if splitter.between and chunk.endswith(b"\n\n"):
            block = chunk
        else:
            block = splitter.feed(chunk)
            if not block:
                return
        part = self.reader.skim(block)  # type: ignore[union-attr]  # set with the mode
        if part is _CONTENT:
            self._driver.flow(block)
        else:
            self._last_events(block, part)

    def _last_events(self, block: bytes, part: Part) -> None:
        """Relay a block in which the stream ends or fails, as `skim` has found."""
        reader = self.reader
        assert reader is not None  # noqa: S101 - set with the mode
        if part is _ERROR or part is _BROKEN:
            # The provider's shape may be one that SDKs do not raise on: what came before passes, the error goes out in ours.
            if reader.good_bytes:
                self._driver.flow(block[: reader.good_bytes])
            self._break(part, reader)
            return
        self._driver.flow(block)
        if part is _END:
            self._finish()

    # -- ends -----------------------------------------------------------------------------------------------------------------

    def _end_of_events(self, reader: StreamReader) -> None:
        rest = self._splitter.take_rest() if self._splitter is not None else b""
        data = data_of(rest)
        half = self.mid_event()
        if _is_json(data) or (data == b"[DONE]" and reader.read(rest) is _END):
            # Only its blank line is missing: harmless at the end.
            self._take(rest.rstrip(b"\r\n") + b"\n\n")
            if self._over:
                return
        elif data and data != b"[DONE]":
            # Half an event is dropped. Where a finish was seen and is enough, nothing of the answer is lost with it.
            half = half or not reader.terminator()
        if half or not reader.finished:
            self._fail(_no_terminator())
        else:
            if not self.committed and not self.attempt.content_at:
                self._driver.content(self)
            terminator = reader.terminator()
            if terminator and not self._over:
                if self.committed:
                    self._driver.flow(terminator)
                else:
                    self.held.append(terminator)
            self._finish()

    def _whole(self) -> None:
        """A held answer is complete: judge it, since some errors come in the clothes of a 200 (OpenRouter)."""
        head = self.response
        assert head is not None  # noqa: S101 - a message ends after its head
        body = self.held[0] if len(self.held) == 1 else b"".join(self.held)
        self.held = [body] if body else []
        if head.content_length is None and not head.chunked and not _is_json(body):
            # Delimited by the end of the connection, which is how a cut looks too.
            self._fail(_broken_off(IOFault.RESET, "the answer ended in the middle"))
            return
        dialect = self._provider.dialect
        if dialect.suspects(body):
            verdict = self._classify(Outcome(status=head.status, headers=head.headers, body=body))
            if verdict.fault is not None:
                self.error_status = FAULTS[verdict.fault].status
                self.attempt.answered = True
                self._fail(verdict)
                return
        self.usage = dialect.usage(body)
        self.whole = True
        self._finish()

    def _judge(self, *, complete: bool) -> None:
        head = self.response
        assert head is not None  # noqa: S101 - only a response is judged
        body = b"".join(self.held)
        self.held = [body] if body else []
        verdict = self._classify(Outcome(status=head.status, headers=head.headers, body=body))
        if verdict.fault is None:
            # Not an error after all, but something an inference path does not usually say: the client's to read.
            self.whole = True
            self._finish()
            return
        html = head.value(b"content-type").lower().startswith(b"text/html")
        self.attempt.answered = complete and not (html and self._family in INFERENCE)
        self._close()
        self._fail(verdict)

    def _close(self) -> None:
        if self.call is not None:
            self.call.cancel()
            self.call = None

    def _classify(self, outcome: Outcome) -> Verdict:
        provider = self._provider
        secrets = keys_of(provider)
        outcome.body = masked(outcome.body, secrets)
        # A key among the configured headers is ours as well.
        own_key = self._guarded or self.attempt.credential is not None or holds_key(provider.headers)
        return provider.dialect.classify(outcome, own_key=own_key, now_unix=self._surroundings.unix(), errors=provider.errors)

    def _break(self, part: Part, reader: StreamReader) -> None:
        """End a stream in which an event says that it failed, or that it is over when it cannot be."""
        if part is _ERROR:
            self._fail_in_stream(reader)
        else:
            self._close()
            self._fail(_no_terminator())

    def _fail_in_stream(self, reader: StreamReader) -> None:
        payload = reader.error_payload()
        verdict = self._classify(Outcome(status=200, body=payload, in_stream=True))
        if verdict.fault is None:
            verdict = Verdict(Fault.SERVER_ERROR, code="in_stream_error", ambiguous=True)
        self.error_status = FAULTS[verdict.fault or Fault.SERVER_ERROR].status
        if not self.committed:
            self.held = [payload]
            self.attempt.answered = payload.startswith(b"{")
        self._close()
        self._fail(verdict)

    def _end(self) -> None:
        """Nothing that still comes matters; without its bound method the answer is freed at once, not by a later collection."""
        self._over = True
        self._take = _drop
        self._release()

    def _finish(self) -> None:
        if self._over:
            # Let go of while it was being relayed.
            return
        self._end()
        if self.reader is not None:
            self.usage = self.reader.usage
            if self.call is not None:
                self._linger = self._surroundings.loop.call_later(LINGER_S, self._cut_linger)
        self._driver.finished(self)

    def _fail(self, verdict: Verdict) -> None:
        if self._over:
            return
        self._end()
        self._driver.failed(self, verdict)

    def _cut_linger(self) -> None:
        self._linger = None
        self._close()

    def _stop_lingering(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None


def _no_terminator() -> Verdict:
    return Verdict(Fault.STREAM_BROKEN, code="no_terminator", ambiguous=True)


def _broken_off(fault: IOFault, detail: str) -> Verdict:
    """Return the verdict on an answer that had begun: whatever ended it, operators count what broke off, and what was mended."""
    return Verdict(Fault.STREAM_BROKEN, code=fault.value, message=detail, ambiguous=True)


def _is_json(body: bytes) -> bool:
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return True


def _drop(_chunk: bytes) -> None:
    pass
