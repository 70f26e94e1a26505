"""What became of hedges, from records as the exchange leaves them: results, the log's word, and what the races probably cost."""

import json

import pytest

from gateway.core.plan import HedgePlan, Policy, StreamPlan
from gateway.core.record import Ending, Kind
from gateway.errors import Reason
from gateway.observe.access import line
from tests.observe.records import attempt, exchange, moved, samples, snapshot, value

BYTES = 4_003
TOKENS = 1_000


def race(first, *hedges, winner=None, skipped="", **more):
    """A record with a first attempt and hedges, each given by what differs; `winner` is the number of the one that was answered by."""
    attempts = [attempt(1, Kind.FIRST, "openai", **first)]
    attempts += [attempt(number, Kind.HEDGE, "azure", **hedge) for number, hedge in enumerate(hedges, 2)]
    record = exchange(*attempts, **more)
    record.winner = attempts[winner - 1] if winner else None
    record.hedge_skipped = skipped
    record.bytes_in = BYTES
    return record


CANCELLED = {"verdict": "cancelled", "status": 0}
UNSENT = {"verdict": "cancelled", "status": 0, "sent": 0.0}
FAILED = {"verdict": "server_error", "status": 500}
OK = {"verdict": "ok"}
GONE = {"ending": Ending.CLIENT_GONE, "reason": Reason.CLIENT_GONE}

CASES = {
    "the hedge wins": (race(CANCELLED, OK, winner=2, saved_by=Kind.HEDGE), {"won": 1}, {"openai": TOKENS}, "won"),
    "the hedge loses": (race(OK, CANCELLED, winner=1), {"lost": 1}, {"azure": TOKENS}, "lost"),
    "the hedge fails, the first is good": (race(OK, FAILED, winner=1), {"failed": 1}, {}, "failed"),
    "the first fails, the hedge is good": (race(FAILED, OK, winner=2, saved_by=Kind.HEDGE), {"won": 1}, {}, "won"),
    "both fail, and the hedge's error is the answer": (
        race(FAILED, FAILED, winner=2, ending=Ending.FAILED, reason=Reason.ATTEMPTS_EXHAUSTED),
        {"failed": 1},
        {},
        "failed",
    ),
    "the hedge wins and breaks after its commit": (
        race(CANCELLED, {"verdict": "stream_broken"}, winner=2, ending=Ending.FAILED, reason=Reason.STREAM_BROKEN),
        {"failed": 1},
        {"openai": TOKENS},
        "failed",
    ),
    "the client leaves in the middle of the hedge's answer": (
        race(CANCELLED, {"verdict": "cancelled"}, winner=2, **GONE),
        {"won": 1},
        {"openai": TOKENS},
        "won",
    ),
    "the client leaves before anybody has content": (
        race(CANCELLED | {"ended": 100.61}, CANCELLED | {"ended": 100.61}, **GONE),
        {"lost": 1},
        {},
        "lost",
    ),
    "the client leaves while the winner is held back": (
        race(CANCELLED | {"ended": 100.5}, CANCELLED | {"ended": 100.61}, **GONE),
        {"lost": 1},
        {"openai": TOKENS},
        "lost",
    ),
    "the hedge is called off before it has a connection": (race(OK, UNSENT, winner=1), {}, {}, ""),
    "the first is overtaken before it has a connection": (race(UNSENT, OK, winner=2), {"won": 1}, {}, "won"),
    "two hedges": (race(CANCELLED, OK, CANCELLED, winner=2), {"won": 1, "lost": 1}, {"openai": TOKENS, "azure": TOKENS}, "won"),
    "no other target": (race(OK, winner=1, skipped="no_target"), {"no_target": 1}, {}, "no_target"),
    "no budget": (race(OK, winner=1, skipped="no_budget"), {"no_budget": 1}, {}, "no_budget"),
    "one sent, one not": (race(OK, FAILED, winner=1, skipped="no_target"), {"failed": 1, "no_target": 1}, {}, "failed"),
    "no hedge": (race(OK, winner=1), {}, {}, ""),
}


@pytest.mark.parametrize("name", CASES)
def test_every_hedge_counts_once_and_only_the_overtaken_are_waste(metrics, observer, name):
    record, results, tokens, word = CASES[name]
    observer.ended(record)
    found = moved(samples(metrics))
    assert {dict(of)["result"]: n for (metric, of), n in found.items() if metric == "gateway_hedges_total"} == results
    assert {dict(of)["provider"]: n for (metric, of), n in found.items() if metric == "gateway_wasted_tokens_total"} == tokens
    assert json.loads(line(record, "", None, None))["hedge"] == word


def test_a_hedge_that_was_due_and_a_failover_later_are_told_apart(metrics, observer):
    record = exchange(attempt(verdict="timeout", status=0), attempt(2, Kind.FAILOVER, "azure"), saved_by=Kind.FAILOVER)
    record.hedge_skipped, record.bytes_in = "no_budget", BYTES
    observer.ended(record)
    found = samples(metrics)
    assert value(found, "gateway_hedges_total", route="chat", result="no_budget") == 1
    assert not [key for key in found if key[0] == "gateway_wasted_tokens_total"]
    assert json.loads(line(record, "", None, None))["hedge"] == "no_budget"


def test_attempts_cancelled_without_a_race_are_no_waste(metrics, observer):
    record = exchange(attempt(verdict="cancelled", status=0), attempt(2, Kind.FAILOVER, "azure"))
    record.bytes_in = BYTES
    observer.ended(record)
    assert not [key for key in samples(metrics) if key[0] in ("gateway_wasted_tokens_total", "gateway_hedges_total")]


def test_a_request_saved_by_a_hedge_is_counted_as_such(metrics, observer):
    observer.ended(CASES["the hedge wins"][0])
    assert value(samples(metrics), "gateway_saved_requests_total", route="chat", by="hedge") == 1


def test_a_held_stream_that_outgrew_its_bound_is_counted(metrics, observer):
    record = exchange(attempt(), stream=True)
    record.hold_overflowed = True
    observer.ended(record)
    assert value(samples(metrics), "gateway_held_streams_overflowed_total", route="chat") == 1


def test_only_routes_that_hedge_hold_or_resume_have_such_samples_from_the_start(metrics):
    names = ("plain", "hedging", "holding", "resuming")
    routes = [(name, ("gpt-4o",), ((f"{name}-provider", None), ("both", None))) for name in names]
    policies = {
        "hedging": Policy(hedge=HedgePlan()),
        "holding": Policy(stream=StreamPlan(hold_s=0.5)),
        "resuming": Policy(stream=StreamPlan(resume=True)),
    }
    metrics.prepare(snapshot(routes, policies=policies))
    found = samples(metrics)
    assert not moved(found)

    def seen(metric, label, **labels):
        pairs = [dict(of) for name, of in found if name == metric]
        return {pair[label] for pair in pairs if labels.items() <= pair.items()}

    assert seen("gateway_hedges_total", "result", route="hedging") == {"won", "lost", "failed", "no_target", "no_budget"}
    assert seen("gateway_hedges_total", "route") == {"hedging"}
    assert seen("gateway_wasted_tokens_total", "provider") == {"hedging-provider", "both"}
    assert seen("gateway_held_streams_overflowed_total", "route") == {"holding"}
    for metric, label in (("gateway_saved_requests_total", "by"), ("gateway_attempts_total", "kind")):
        assert seen(metric, "route", **{label: "hedge"}) == {"hedging"}
        assert seen(metric, "route", **{label: "resume"}) == {"resuming"}
        assert seen(metric, "route", **{label: "failover"}) == set(names)
