"""Carries out what an exchange decides: sends attempts, opens and commits answers, keeps the one timer.

The driver holds the hands of one `core.Exchange`: it turns what happens on sockets into events, and actions into bytes. It decides
nothing. All of it runs in callbacks of the event loop: no task and no queue per exchange, and so no cancellation to race with.
"""

from __future__ import annotations

import sys
from asyncio import TimerHandle
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from gateway.config.snapshot import Snapshot
from gateway.core.actions import Actions, Break, Cancel, Comfort, Commit, Finish, Open, Queue, Refuse, Relay, Send
from gateway.core.attempt import Attempt
from gateway.core.exchange import Exchange
from gateway.core.limits import Stated
from gateway.core.record import Ending
from gateway.core.turns import Turn
from gateway.core.verdicts import Fault, Scope, Verdict
from gateway.dialects.base import StreamReader
from gateway.egress.alarms import SOON_S
from gateway.egress.answer import Answer
from gateway.egress.delivery import KEEP_ALIVE, Delivery
from gateway.egress.request import Request
from gateway.egress.resumption import Resumption
from gateway.egress.sink import Sink
from gateway.egress.surroundings import Surroundings
from gateway.errors import Reason

_NO_CONTINUATION: Final = Verdict(Fault.STREAM_BROKEN, code="no_continuation", ambiguous=True, scope=Scope.NOBODY)
"""A good answer for all we know, but another one than the client has the beginning of."""
_NO_FINISH: Final = Verdict(Fault.STREAM_BROKEN, code="no_finish", ambiguous=True)
"""A terminator behind a text that was never said to be finished."""


class Driver:
    """The hands of one exchange."""

    __slots__ = (
        "_answer",
        "_answers",
        "_client_blocked",
        "_delivery",
        "_exchange",
        "_family",
        "_on_end",
        "_request",
        "_resumption",
        "_rivals",
        "_snapshot",
        "_surroundings",
        "_timer",
    )

    def __init__(
        self,
        surroundings: Surroundings,
        snapshot: Snapshot,
        exchange: Exchange,
        request: Request,
        sink: Sink,
        on_end: Callable[[Driver], None],
    ) -> None:
        self._surroundings = surroundings
        self._snapshot = snapshot
        self._exchange = exchange
        self._request = request
        self._family = exchange.record.family
        self._delivery = Delivery(surroundings, snapshot, exchange.record, request, sink)
        self._on_end: Callable[[Driver], None] | None = on_end
        self._answer: Answer | None = None
        """The attempt under way that was sent last, or the one the client is getting."""
        self._rivals: list[Answer] = []
        """Others under way beside it, while a hedge runs."""
        self._resumption: Resumption | None = None
        """Of a committed stream that may be resumed."""
        self._answers: dict[Attempt, Answer] = {}
        """Failed ones that may yet be the client's answer."""
        self._client_blocked = False
        self._timer: TimerHandle | None = None

    def start(self) -> None:
        """Begin."""
        try:
            self._surroundings.observer.began(self._exchange.record)
            self._perform(self._exchange.start(self._surroundings.clock()))
        except Exception:  # noqa: BLE001 - logged and answered
            self.crashed()

    # -- from the client ------------------------------------------------------------------------------------------------------

    def body_arrived(self) -> None:
        """More of the request's body came: the upload is alive, and may no longer be repeatable."""
        if self._answer is not None:
            self._answer.attempt.heard_at = self._surroundings.clock()
        self._exchange.intact = self._request.body.intact

    def body_ended(self) -> None:
        """The request's body is whole: from now on the provider owes an answer."""
        answer = self._answer
        if answer is not None and answer.attempt.uploading:
            answer.attempt.uploading = False
            if answer.attempt.sent_at:
                if not answer.attempt.head_at:
                    answer.attempt.heard_at = 0.0
                self._exchange.sending(self._surroundings.clock(), answer.attempt)
                self._rearm()

    def blocked(self) -> None:
        """The client reads slowly: stop reading from the provider."""
        self._client_blocked = True
        if self._answer is not None and self._answer.committed and self._answer.call is not None:
            self._answer.call.pause()

    def unblocked(self) -> None:
        """The client has caught up. The pause was not the provider's silence."""
        self._client_blocked = False
        if self._answer is not None:
            self._still_heard(self._answer.attempt, self._surroundings.clock())
            if self._answer.call is not None:
                self._answer.call.resume()

    def gone(self) -> None:
        """The client left."""
        self._delivery.done = True
        try:
            self._perform(self._exchange.client_gone(self._surroundings.clock()))
        except Exception:  # noqa: BLE001 - logged; every exchange ends
            self.crashed()

    def drain(self) -> None:
        """The gateway will wait no longer."""
        try:
            self._perform(self._exchange.drain(self._surroundings.clock()))
        except Exception:  # noqa: BLE001 - logged; every exchange ends
            self.crashed()

    def crashed(self) -> None:
        """Something of ours failed; called while handling it. Nobody may wait for ever because of it."""
        self._complain("an exchange failed")
        try:
            if self._exchange.done and not self._delivery.done:
                # What was decided was not carried out.
                self._delivery.abort()
            self._perform(self._exchange.crash(self._surroundings.clock()))
        except Exception:  # noqa: BLE001 - logged, and the end of it
            self._complain("an exchange could not be ended in good order")
            self._delivery.abort()
            self._end()

    def _complain(self, what: str) -> None:
        """Tell the loop's handler of the exception being handled: it logs, and no test can miss it."""
        self._surroundings.loop.call_exception_handler({"message": what, "exception": sys.exception()})

    # -- from the attempt (`answer.Reports`) ----------------------------------------------------------------------------------

    def sending(self, answer: Answer) -> None:
        self._exchange.sending(self._surroundings.clock(), answer.attempt)
        if answer.attempt.uploading:
            self._request.body.flow_on()
        if answer.call is not None:
            # Else we are within `_send`, and `_perform` will see to it.
            self._rearm()

    def head(self, answer: Answer, status: int, *, streaming: bool) -> None:
        self._exchange.head(self._surroundings.clock(), answer.attempt, status, streaming=streaming)

    def stated(self, answer: Answer, limits: Sequence[Stated]) -> None:
        attempt = answer.attempt
        self._exchange.stated(self._surroundings.clock(), attempt, limits)
        if attempt.gate.queue.count:
            self._surroundings.queues.poke(attempt.gate)

    def content(self, answer: Answer) -> None:
        if answer.attempt.gate.queue.count:
            # Its key may have been on trial.
            self._surroundings.queues.poke(answer.attempt.gate)
        self._perform(self._exchange.content(self._surroundings.clock(), answer.attempt))

    def flow(self, chunk: bytes) -> None:
        if self._resumption is not None:
            chunk = self._followed(self._resumption, chunk)
            if not chunk:
                return
        self._delivery.write(chunk)

    def _followed(self, resumption: Resumption, events: bytes) -> bytes:
        """Return what of a committed stream's events the client gets; none where this stream turns out not to continue it."""
        followed = resumption.relay(events)
        self._exchange.record.frames_dropped += resumption.take_dropped()
        answer = self._answer
        if followed is not None or answer is None:
            return followed or b""
        answer.cancel()
        self._broke(answer, _NO_CONTINUATION)
        return b""

    def dropped(self) -> None:
        self._exchange.record.frames_dropped += 1

    def overflowed(self, answer: Answer) -> None:
        self._perform(self._exchange.overflowed(self._surroundings.clock(), answer.attempt))

    def finished(self, answer: Answer) -> None:
        record, resumption = self._exchange.record, self._resumption
        record.usage = answer.attempt.usage = answer.usage
        if resumption is not None:
            if not resumption.whole:
                self._broke(answer, _NO_CONTINUATION if resumption.spliced else _NO_FINISH)
                return
            record.usage = resumption.usage or record.usage
            record.usage_partial = not resumption.usage_complete
        self._perform(self._exchange.finished(self._surroundings.clock(), answer.attempt))

    def failed(self, answer: Answer, verdict: Verdict) -> None:
        self._request.body.detach()
        self._exchange.intact = self._request.body.intact
        if answer in self._rivals:
            self._rivals.remove(answer)
        if answer.committed:
            self._broke(answer, verdict)
        else:
            self._answers[answer.attempt] = answer
            self._perform(self._exchange.failed(self._surroundings.clock(), answer.attempt, verdict))

    def _broke(self, answer: Answer, verdict: Verdict) -> None:
        resumption = self._resumption
        self._exchange.resumable = resumption is not None and resumption.possible and (resumption.spliced or not answer.mid_event())
        self._perform(self._exchange.broke(self._surroundings.clock(), answer.attempt, verdict))

    def upload_blocked(self) -> None:
        self._request.body.blocked()

    def upload_unblocked(self) -> None:
        self._request.body.unblocked()

    # -- actions --------------------------------------------------------------------------------------------------------------

    def _perform(self, actions: Actions) -> None:
        for action in actions:
            # The happy path's own come first.
            if isinstance(action, Send):
                self._send(action.attempt)
            elif isinstance(action, Open):
                self._open(action.attempt)
            elif isinstance(action, Commit):
                self._commit()
            elif isinstance(action, Finish):
                self._finish()
            elif isinstance(action, Queue):
                self._queue(action.turn)
            elif isinstance(action, Cancel):
                self._cancel(action.attempt)
            elif isinstance(action, Relay):
                self._delivery.relay(action, self._answers[action.attempt])
            elif isinstance(action, Refuse):
                self._delivery.refuse(action)
            elif isinstance(action, Break):
                self._break(action)
            elif isinstance(action, Comfort):
                self._comfort()
            else:
                self._delivery.open_early()
        exchange = self._exchange
        if exchange.ended_attempts:
            self._report()
        if exchange.done:
            self._end()
        else:
            self._rearm()

    def _send(self, attempt: Attempt) -> None:
        request, surroundings = self._request, self._surroundings
        body = request.body
        provider = self._snapshot.providers[attempt.provider]
        chunks, grown = request.body_for(attempt, provider, asks_usage=provider.stream_usage and self._exchange.resumes)
        if self._resumption is not None:
            whole = b"".join(chunks)
            chunks = [self._resumption.begin(attempt, whole)]
            grown += len(chunks[0]) - len(whole)
        head, chunked = request.head_for(attempt, provider, grown, surroundings.via)
        answer = Answer(self, attempt, provider, self._family, surroundings, guarded=self._snapshot.clients is not None)
        attempt.uploading = not body.complete
        if self._answer is not None and not self._answer.attempt.ended_at:
            self._rivals.append(self._answer)
        self._answer = answer
        call = answer.call = surroundings.upstream.call(
            provider.origin,
            head,
            chunks,
            answer,
            whole=body.complete,
            chunked=chunked,
            head_request=request.head.method == b"HEAD",
            connect_s=provider.connect_s,
            limit=provider.pool,
        )
        if not body.complete:
            body.attach(call)
            self._exchange.intact = body.intact

    def _queue(self, turn: Turn) -> None:
        turn.wake = partial(self._called, turn)
        self._surroundings.queues.join(turn)

    def _called(self, turn: Turn, reason: Reason | None) -> None:
        """There is room for this exchange, or (with a reason) no longer a place in the queue."""
        now, exchange = self._surroundings.clock(), self._exchange
        try:
            self._perform(exchange.room(now, turn) if reason is None else exchange.sent_away(now, turn, reason))
        except Exception:  # noqa: BLE001 - logged and answered
            self.crashed()

    def _cancel(self, attempt: Attempt) -> None:
        answer = self._answer
        if answer is not None and answer.attempt is attempt:
            self._request.body.detach()
            answer.cancel()
            return
        for rival in self._rivals:
            if rival.attempt is attempt:
                self._rivals.remove(rival)
                rival.cancel()
                return

    def _open(self, attempt: Attempt) -> None:
        answer = self._answer
        if answer is None or answer.attempt is not attempt:
            # A hedge has lost to the one it was meant to overtake.
            (answer,) = [rival for rival in self._rivals if rival.attempt is attempt]
            self._rivals.clear()
            self._answer = answer
        head = answer.response
        assert head is not None  # noqa: S101 - content comes after a head
        self._delivery.open(answer, head)

    def _commit(self) -> None:
        answer = self._answer
        assert answer is not None  # noqa: S101 - only an attempt under way is committed
        exchange, body = self._exchange, self._request.body
        if self._resumption is None and answer.reader is not None and exchange.resumes and body.intact and body.complete:
            asked = self._snapshot.providers[answer.attempt.provider].stream_usage
            # One that was held back to its end has nothing left to break.
            self._resumption = Resumption.of(self._family, b"".join(body.chunks), asked=asked, over=exchange.done)
        for chunk in answer.commit():
            self.flow(chunk)
            if self._answer is not answer or self._delivery.done:
                # It did not continue what went before.
                return
        if self._client_blocked and answer.call is not None:
            answer.call.pause()

    def _comfort(self) -> None:
        """Send a comment, where one can stand; a client that is behind has enough to read."""
        answer = self._answer
        if not self._client_blocked and (answer is None or not answer.committed or answer.between_events()):
            self._delivery.write(KEEP_ALIVE)

    def _break(self, action: Break) -> None:
        self._delivery.fail(action, self._speaker())

    def _speaker(self) -> StreamReader | None:
        """Return who can put an error into the client's stream, where an event can stand in it; None where none can."""
        answer = self._answer
        committed = answer is not None and answer.committed
        # What a splice gives the client are whole events, whatever its provider is in the middle of, or has not even begun.
        spliced = self._resumption is not None and self._resumption.spliced
        if spliced or (self._delivery.early and not committed):
            record = self._exchange.record
            name = record.attempts[-1].provider if record.attempts else next(iter(self._snapshot.providers))
            return self._snapshot.providers[name].dialect.stream(self._family)
        return answer.reader if answer is not None and not answer.mid_event() else None

    def _finish(self) -> None:
        if self._exchange.record.ending is Ending.OK:
            self._delivery.end()

    # -- time and the end -----------------------------------------------------------------------------------------------------

    def stir(self, now: float) -> None:
        """The coarse sweep came by (`alarms.Sleeper`)."""
        if self._timer is None and self._exchange.wake_at - now < SOON_S:
            self._surroundings.alarms.forget(self)
            self._rearm()

    def _rearm(self) -> None:
        """See that we are woken by `wake_at`; a timer that rings too early is left alone and set anew then."""
        wake_at = self._exchange.wake_at
        timer = self._timer
        if timer is not None:
            if timer.when() <= wake_at:
                return
            timer.cancel()
            self._timer = None
        if wake_at - self._surroundings.clock() >= SOON_S:
            self._surroundings.alarms.watch(self)
        else:
            self._surroundings.alarms.forget(self)
            self._timer = self._surroundings.loop.call_at(wake_at, self._ring)

    def _ring(self) -> None:
        self._timer = None
        now, answer = self._surroundings.clock(), self._answer
        if self._client_blocked and answer is not None:
            self._still_heard(answer.attempt, now)
        resumption = self._resumption
        if resumption is not None and answer is not None and answer.committed:
            # It may have stalled.
            self._exchange.resumable = resumption.possible and (resumption.spliced or answer.between_events())
        try:
            self._perform(self._exchange.timer(now))
        except Exception:  # noqa: BLE001 - logged and answered
            self.crashed()

    @staticmethod
    def _still_heard(attempt: Attempt, now: float) -> None:
        """We had stopped reading, so the silence was ours; before the first byte there is none to speak of."""
        if attempt.heard_at:
            attempt.heard_at = now

    def _report(self) -> None:
        ended, self._exchange.ended_attempts = self._exchange.ended_attempts, []
        for attempt in ended:
            self._surroundings.observer.attempt_ended(self._exchange.record, attempt)
            if attempt.gate.queue.count:
                self._surroundings.queues.poke(attempt.gate)

    def _end(self) -> None:
        self._surroundings.alarms.forget(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._on_end is None:
            return
        on_end, self._on_end = self._on_end, None
        record = self._exchange.record
        record.bytes_in = self._request.body.size
        self._request.body.release()
        # No cycle is left behind: everything of this exchange is freed here, not by a later collection.
        self._answer = None
        self._rivals.clear()
        self._answers.clear()
        on_end(self)
        self._surroundings.observer.ended(record)
