"""Turns the records of exchanges into metrics and log lines.

Law 6 holds here: the core and the driver only fill in records, and three calls per exchange make everything else of them, together
8 us with the log line and 2.4 us without (least of several runs); the cells of an event are found by one dictionary lookup. Law 11:
an attempt that never left and was called off is no attempt. Separate from `metrics`, so that what an event means can be read
without how it is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.core.record import AttemptRecord, Ending, ExchangeRecord
from gateway.observe.access import AccessLog
from gateway.observe.hedges import results, wasted
from gateway.observe.metrics import Metrics

ERROR: Final = 400
"""Statuses from here on say that a request did not succeed (RFC 9110, section 15)."""

_BROKEN: Final = "stream_broken"
_OK: Final = "ok"


class Observer:
    """Consumes records, on the event loop's thread. `clock_unix` returns seconds since the epoch, for the log's time stamps."""

    def __init__(self, metrics: Metrics, access: AccessLog, clock_unix: Callable[[], float]) -> None:
        self._metrics = metrics
        self._access = access
        self._clock_unix = clock_unix
        metrics.watch_log(lambda: access.dropped)

    def began(self, record: ExchangeRecord) -> None:
        """An exchange has its route and is under way. One refused before that is never announced here, only to `ended`."""
        self._metrics.enter(record)

    def attempt_ended(self, record: ExchangeRecord, attempt: AttemptRecord) -> None:
        """An attempt ended: counted if it was sent, or failed before it could be; one cancelled unsent never happened."""
        sent_at, verdict, metrics = attempt.sent_at, attempt.verdict, self._metrics
        if not sent_at and verdict in ("", "cancelled"):
            return
        key = (record.route, attempt.provider, attempt.model_label, attempt.kind, verdict, attempt.status or attempt.code)
        cells = metrics.attempt_cells.get(key) or metrics.bind_attempt(key)
        attempts, duration, responses = cells
        attempts.value += 1
        if responses is not None:
            responses.value += 1
        if duration is not None and sent_at:
            duration.add(attempt.ended_at - sent_at)
        if attempt.estimate and attempt.usage is not None and attempt.usage[0]:
            metrics.estimated(attempt.provider, attempt.model_label, attempt.estimate / attempt.usage[0])

    def ended(self, record: ExchangeRecord) -> None:
        """An exchange ended, in whatever way: its one terminal event."""
        metrics, ending = self._metrics, record.ending
        metrics.leave(record)

        key = (record.route, record.client, ending, record.reason, record.stream)
        cells = metrics.end_cells.get(key) or metrics.bind_end(key)
        cells.requests.value += 1
        if cells.duration is not None:
            cells.duration.add(record.ended_at - record.received_at)
        first_token_s, overhead_s = first_token(record), overhead(record)
        if first_token_s is not None:
            cells.first_token.add(first_token_s)
        if overhead_s is not None:
            cells.overhead.add(overhead_s)

        winner = record.winner
        if record.usage is not None and winner is not None:
            place = (winner.provider, winner.model_label)
            tokens_in, tokens_out = metrics.token_cells.get(place) or metrics.bind_tokens(place)
            tokens_in.value += record.usage[0]
            tokens_out.value += record.usage[1]
        if (
            len(record.attempts) != 1
            or winner is None
            or winner.verdict != _OK
            or record.hedge_skipped
            or record.hold_overflowed
            or record.frames_dropped
            or record.waits is not None
            or record.spills is not None
        ):
            self._eventful(record)

        self._access.write(record, self._clock_unix(), first_token_s, overhead_s)

    def _eventful(self, record: ExchangeRecord) -> None:
        """Count what an exchange does not have whose first and only attempt gave a whole, good answer in time."""
        metrics, route = self._metrics, record.route
        if record.status >= ERROR:
            metrics.errored(route, record.client, record.status)
        for provider, model, seconds in record.waits or ():
            metrics.queued(provider, model, record.priority, seconds)
        for provider, _ in record.spills or ():
            metrics.spilled(route, provider)
        for provider, model, reason in record.shed or ():
            metrics.shed(provider, model, record.priority, reason)
        if record.saved_by is not None:
            metrics.saved(route, record.saved_by)
        for attempt in record.attempts:
            if attempt.verdict == _BROKEN or attempt.broken or (record.stream_broken and attempt is record.winner):
                metrics.stream_broken(attempt.provider, attempt.model_label, recovered=record.ending is Ending.OK)
        if record.hedge_skipped:
            metrics.hedged(route, record.hedge_skipped)
        if record.hold_overflowed:
            metrics.hold_overflowed(route)
        if record.frames_dropped:
            metrics.frames_dropped(route, record.frames_dropped)
        if len(record.attempts) > 1:
            for result in results(record):
                metrics.hedged(route, result)
            for provider, tokens in wasted(record):
                metrics.wasted(provider, tokens)


def first_token(record: ExchangeRecord) -> float | None:
    """Return the seconds from the request's head to the first content the client could see; None but for good streams."""
    winner = record.winner
    if not record.stream or winner is None or not winner.content_at or winner.status >= 400:
        return None
    if len(record.attempts) > 1:
        # The first one that the client read: a resumed stream has more.
        winner = next((attempt for attempt in record.attempts if attempt.broken), winner)
    return max(winner.content_at, record.opened_at) - record.received_at


def overhead(record: ExchangeRecord) -> float | None:
    """Return the seconds that the gateway itself added to an answered exchange; None where it waited or tried again.

    A stream that was held back, or whose head went out before it to keep the connection alive, waited because its policy says so.

    Before: from the request's head until the one attempt was handed to a connected socket; the client's sending of a body that
    had to be read first, and a new connection, are in it. After: from what the provider's answer had to bring until the response
    head went out. That is the whole answer where it was held back to the end, else its first content, else its head.
    """
    winner = record.winner
    if winner is None or len(record.attempts) != 1 or not winner.sent_at or not record.opened_at or record.waits is not None:
        return None
    opened_at = record.opened_at
    if record.stream and winner.content_at and winner.content_at != opened_at:
        return None
    for heard_at in (winner.heard_at, winner.content_at, winner.head_at):
        if 0.0 < heard_at <= opened_at:
            return winner.sent_at - record.received_at + opened_at - heard_at
    return None
