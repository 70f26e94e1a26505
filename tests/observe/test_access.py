"""One line per exchange: its fields, and what cannot get into it."""

import json
import os

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.plan import Priority
from gateway.core.record import Ending, Kind
from gateway.errors import Reason
from gateway.observe.access import AccessLog, line
from gateway.observe.metrics import Metrics
from gateway.observe.observer import Observer
from tests.observe.records import attempt, exchange

STAMP = "2026-11-22T05:00:00.000Z"


def fields(record, first_token_s=None, overhead_s=None):
    return json.loads(line(record, STAMP, first_token_s, overhead_s))


def test_a_saved_stream_reads_as_it_happened():
    record = exchange(
        attempt(verdict="server_error", status=500, started=100.0, ended=100.42),
        attempt(2, Kind.FAILOVER, "azure", "gpt-4o-prod", started=100.42, content=100.9, ended=101.25),
        client="search",
        stream=True,
        opened=100.91,
        ended=101.26,
        saved_by=Kind.FAILOVER,
        usage=(1200, 34),
    )
    record.bytes_in, record.bytes_out = 2048, 8192
    assert fields(record, 0.91, None) == {
        "ts": STAMP,
        "request_id": "req-1",
        "client": "search",
        "route": "chat",
        "family": "chat",
        "method": "POST",
        "path": "/v1/chat/completions",
        "model": "gpt-4o",
        "stream": True,
        "priority": "standard",
        "status": 200,
        "outcome": "ok",
        "reason": "none",
        "provider": "azure",
        "trail": "openai:server_error/0.42s, azure:ok/0.83s",
        "attempts": 2,
        "saved_by": "failover",
        "spilled_from": "",
        "hedge": "",
        "upstream_status": 200,
        "upstream_code": "",
        "duration_ms": pytest.approx(1260, abs=0.01),
        "first_token_ms": 910.0,
        "overhead_ms": None,
        "queue_ms": None,
        "bytes_in": 2048,
        "bytes_out": 8192,
        "input_tokens": 1200,
        "output_tokens": 34,
        "usage_partial": False,
    }


def test_a_request_that_had_to_wait_tells_where_and_how_long():
    record = exchange(attempt(provider="azure"))
    record.priority = Priority.BATCH
    record.waits = [("openai", "gpt-4o", 1.25), ("mistral", "large", 0.5)]
    record.spills = [("openai", "gpt-4o"), ("mistral", "large")]
    found = fields(record)
    assert (found["priority"], found["queue_ms"]) == ("batch", 1750.0)
    assert found["spilled_from"] == "openai, mistral"
    assert found.keys() == fields(exchange()).keys()


def test_a_refusal_has_no_upstream():
    found = fields(exchange(route="", ending=Ending.REFUSED, reason=Reason.UNKNOWN_CLIENT, status=401))
    assert found["outcome"] == "refused"
    assert found["reason"] == "unknown_client"
    assert (found["provider"], found["trail"], found["attempts"]) == ("", "", 0)
    assert found["upstream_status"] is None
    assert found["input_tokens"] is None


def test_without_a_winner_the_last_attempt_speaks():
    failed = attempt(verdict="connect", status=0, code="dns", sent=0.0)
    found = fields(exchange(failed, answered=False, ending=Ending.FAILED, reason=Reason.ATTEMPTS_EXHAUSTED, status=502))
    assert (found["provider"], found["upstream_status"], found["upstream_code"]) == ("openai", None, "dns")


def test_the_winner_speaks_even_where_another_attempt_came_later():
    record = exchange(attempt(), attempt(2, Kind.FAILOVER, "azure", verdict="cancelled", status=0))
    record.winner = record.attempts[0]
    found = fields(record)
    assert (found["provider"], found["upstream_status"]) == ("openai", 200)


@given(st.text(), st.text())
def test_whatever_a_client_names_stays_one_line_of_printable_ascii(path, model):
    record = exchange(attempt())
    record.path, record.model = path, model
    rendered = line(record, STAMP, None, None)
    assert rendered.endswith(b"}\n")
    assert all(0x20 <= byte < 0x7F for byte in rendered[:-1])
    found = orjson.loads(rendered)
    assert found["path"] == path[:512].encode("utf-8", "replace").decode()
    assert found["model"] == model.encode("utf-8", "replace").decode()


@pytest.mark.parametrize("trick", ['"}\n{"status":200', "\x1b[2J", "\x9b2J", "\u2028", "\x7f", "\udc80", "\0"])
def test_no_client_can_forge_a_line_or_steer_a_terminal(trick):
    record = exchange(attempt())
    record.path = f"/v1/{trick}"
    rendered = line(record, STAMP, None, None).decode("ascii")
    assert len(rendered.splitlines()) == 1
    assert rendered[:-1].isprintable()
    assert json.loads(rendered)["status"] == 200


def test_a_long_path_is_cut():
    record = exchange(attempt())
    record.path = "/" + "a" * 70_000
    assert len(line(record, STAMP, None, None)) < 1_500


def test_the_time_stamp_is_utc_with_milliseconds():
    reader, writer = os.pipe()
    log = AccessLog(writer)
    for now in (1_795_323_600.0, 1_795_323_600.0625, 1_795_323_601.999):
        log.write(exchange(attempt()), now, None, None)
    assert log.close(10)
    os.close(writer)
    with os.fdopen(reader, "rb") as lines:
        stamps = [json.loads(each)["ts"] for each in lines]
    assert stamps == ["2026-11-22T05:00:00.000Z", "2026-11-22T05:00:00.062Z", "2026-11-22T05:00:01.999Z"]


def test_the_observer_logs_each_end_once_with_what_it_measured():
    reader, writer = os.pipe()
    log = AccessLog(writer)
    metrics = Metrics()
    observer = Observer(metrics, log, lambda: 1_795_323_600.0)
    record = exchange(attempt(content=100.401, heard=100.4), stream=True, opened=100.401)
    observer.began(record)
    observer.attempt_ended(record, record.attempts[0])
    observer.ended(record)
    assert log.close(10)
    os.close(writer)
    with os.fdopen(reader, "rb") as lines:
        (found,) = map(json.loads, lines)
    assert found["first_token_ms"] == pytest.approx(401, abs=0.01)
    assert found["overhead_ms"] == pytest.approx(3, abs=0.01)


def test_lost_lines_appear_in_the_metrics():
    reader, writer = os.pipe()
    os.close(reader)
    metrics = Metrics()
    log = AccessLog(writer)
    observer = Observer(metrics, log, lambda: 0.0)
    for _ in range(3):
        observer.ended(exchange(attempt()))
    assert log.close(10)
    os.close(writer)
    assert b"\ngateway_log_lines_dropped_total 3\n" in metrics.expose()[0]


def test_turned_off_it_writes_and_loses_nothing():
    log = AccessLog(None)
    log.write(exchange(attempt()), 0.0, None, None)
    assert log.dropped == 0
    assert log.close(0)
