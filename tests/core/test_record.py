"""Records: what is true of an exchange before anything happened, and how its attempts are told in one header."""

import pytest

from gateway.core.record import AttemptRecord, Ending, ExchangeRecord, Kind, trail
from gateway.errors import Reason


def attempt(provider, verdict, started, ended):
    record = AttemptRecord(1, Kind.FIRST, provider, "gpt-4o", "gpt-4o", started)
    record.verdict, record.ended_at = verdict, ended
    return record


@pytest.mark.parametrize(
    ("attempts", "text"),
    [
        ([], ""),
        ([attempt("openai", "ok", 10.0, 10.8125)], "openai:ok/0.81s"),
        (
            [attempt("openai", "server_error", 10.0, 10.42), attempt("azure", "ok", 10.42, 11.23)],
            "openai:server_error/0.42s, azure:ok/0.81s",
        ),
        ([attempt("openai", "", 10.0, 0.0)], "openai:waiting/2.00s"),
        ([attempt("openai", "ok", 10.0, 10.004)], "openai:ok/0.00s"),
        ([attempt("openai", "ok", 10.0, 10.996)], "openai:ok/1.00s"),
        ([attempt("openai", "ok", 10.0, 610.05)], "openai:ok/600.05s"),
        ([attempt("openai", "ok", 10.0, 9.9)], "openai:ok/0.00s"),
    ],
)
def test_the_trail_names_each_attempt_its_verdict_and_its_seconds(attempts, text):
    assert trail(attempts, 12.0) == text


def test_a_new_record_claims_nothing():
    record = ExchangeRecord("req-1", 10.0)
    assert (record.request_id, record.received_at, record.attempts) == ("req-1", 10.0, [])
    assert (record.ending, record.reason) == (Ending.FAILED, Reason.NONE)
    assert (record.winner, record.saved_by, record.usage, record.model_label) == (None, None, None, "*")
    assert not any([record.opened_at, record.ended_at, record.status, record.stream, record.stream_broken])
