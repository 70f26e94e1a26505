"""What became of an exchange's hedges, and what the races probably cost.

The core records attempts and why they were made; how a race ended is read from that here, for the metrics and the access log alike.
Law 6: nobody calls this for an exchange with a single attempt, in which there was no race. Usage is never invented: what a loser
was billed for is known to nobody here, so that it is estimated apart from the tokens that providers report, and called so.
"""

from __future__ import annotations

from typing import Final

from gateway.core.record import AttemptRecord, ExchangeRecord, Kind

WON: Final = "won"
LOST: Final = "lost"
FAILED: Final = "failed"
RESULTS: Final = (WON, LOST, FAILED, "no_target", "no_budget")
"""How a hedge ended, or why one that was due was not sent (`ExchangeRecord.hedge_skipped`)."""

BYTES_PER_TOKEN: Final = 4
"""English text in OpenAI's vocabularies; JSON around it and other languages move this by half either way."""

_CANCELLED: Final = "cancelled"


def results(record: ExchangeRecord) -> list[str]:
    """Return the result of every hedge that was sent: it gave the client its answer, was called off, or failed itself."""
    return [_result(record, attempt) for attempt in record.attempts if attempt.kind is Kind.HEDGE and _sent(attempt)]


def summary(record: ExchangeRecord) -> str:
    """Return one word for the log: `won` where a hedge did, else the last one's result, else why none was sent; mostly empty."""
    if len(record.attempts) < 2:
        return record.hedge_skipped
    found = results(record)
    if not found:
        return record.hedge_skipped
    return WON if WON in found else found[-1]


def wasted(record: ExchangeRecord) -> list[tuple[str, int]]:
    """Return (provider, tokens) for every attempt that lost a race: an estimate of its prompt from the request's size.

    Its answer is not in it: how much of one was made by the time the connection closed, nobody says. Where no race was decided,
    because the client left or its time was up, nothing is counted.
    """
    if not any(attempt.kind is Kind.HEDGE for attempt in record.attempts):
        return []
    tokens = record.bytes_in // BYTES_PER_TOKEN
    return [(attempt.provider, tokens) for attempt in record.attempts if _overtaken(record, attempt)]


def _result(record: ExchangeRecord, attempt: AttemptRecord) -> str:
    if attempt.verdict not in ("ok", _CANCELLED):
        return FAILED
    return WON if attempt is record.winner else LOST


def _overtaken(record: ExchangeRecord, attempt: AttemptRecord) -> bool:
    if attempt.verdict != _CANCELLED or not _sent(attempt) or attempt is record.winner:
        return False
    # With a stream that is held back the race is decided before anybody's answer is the client's.
    # An error that is relayed has overtaken nobody.
    return (record.winner is not None and record.winner.content_at > 0.0) or attempt.ended_at < record.ended_at


def _sent(attempt: AttemptRecord) -> bool:
    # One that was called off before it had a connection is no attempt, in no metric.
    return attempt.sent_at > 0.0 or attempt.verdict != _CANCELLED
