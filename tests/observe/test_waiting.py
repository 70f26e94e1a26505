"""What requests count for that had to wait for a provider's limits, went elsewhere for want of room, or were turned away."""

import pytest

from gateway.config.snapshot import Client
from gateway.core.plan import ClientPlan, Priority, QuotaPlan
from gateway.core.record import Ending
from gateway.errors import Reason
from tests.observe.records import attempt, exchange, moved, samples, snapshot, value

PLACE = {"provider": "openai", "model": "gpt-4o"}


def run(observer, record):
    observer.began(record)
    for each in record.attempts:
        observer.attempt_ended(record, each)
    observer.ended(record)


def increase(metrics, observer, record, *names):
    """What a record adds to the samples of these metrics."""
    before = samples(metrics)
    run(observer, record)
    after = samples(metrics)
    changed = {key: number - before.get(key, 0) for key, number in after.items() if number != before.get(key, 0)}
    return {
        (name, *(dict(pairs)[label] for label in sorted(dict(pairs)))): by for (name, pairs), by in changed.items() if name in names
    }


def test_a_request_that_waited_counts_by_place_and_priority_however_well_it_ended(metrics, observer):
    record = exchange(attempt())
    record.priority = Priority.INTERACTIVE
    record.waits = [("openai", "gpt-4o", 1.5), ("azure", "gpt-4o-prod", 0.25), ("openai", "gpt-4o", 0.5)]
    run(observer, record)
    found = samples(metrics)
    waited = {**PLACE, "priority": "interactive"}
    assert value(found, "gateway_queue_wait_seconds_count", **waited) == 2
    assert value(found, "gateway_queue_wait_seconds_sum", **waited) == pytest.approx(2.0)
    assert value(found, "gateway_queue_wait_seconds_bucket", **waited, le="0.5") == 1
    assert value(found, "gateway_queue_wait_seconds_count", provider="azure", model="gpt-4o-prod", priority="interactive") == 1
    assert value(found, "gateway_throttle_seconds_total", provider="openai") == pytest.approx(2.0)
    assert value(found, "gateway_throttle_seconds_total", provider="azure") == pytest.approx(0.25)


def test_waits_of_a_minute_still_have_a_bucket(metrics, observer):
    record = exchange(ending=Ending.FAILED, reason=Reason.DEADLINE, status=504)
    record.waits = [("openai", "gpt-4o", 59.0)]
    run(observer, record)
    found = samples(metrics)
    assert value(found, "gateway_queue_wait_seconds_bucket", **PLACE, priority="standard", le="60.0") == 1
    assert value(found, "gateway_queue_wait_seconds_bucket", **PLACE, priority="standard", le="30.0") == 0


def test_a_spill_counts_for_where_there_was_no_room(metrics, observer):
    record = exchange(attempt(provider="azure"))
    record.spills = [("openai", "gpt-4o")]
    run(observer, record)
    found = samples(metrics)
    assert value(found, "gateway_spills_total", route="chat", provider="openai") == 1
    assert value(found, "gateway_spills_total", route="chat", provider="azure") is None


def test_a_request_that_a_queue_sent_away_counts_by_its_priority_and_why(metrics, observer):
    record = exchange(ending=Ending.REFUSED, reason=Reason.SHED, status=429)
    record.priority = Priority.BATCH
    record.waits = [("openai", "gpt-4o", 0.0), ("azure", "gpt-4o-prod", 2.0)]
    record.shed = [("openai", "gpt-4o", Reason.QUEUE_FULL), ("azure", "gpt-4o-prod", Reason.SHED)]
    run(observer, record)
    found = samples(metrics)
    assert value(found, "gateway_sheds_total", **PLACE, priority="batch", reason="queue_full") == 1
    assert value(found, "gateway_sheds_total", provider="azure", model="gpt-4o-prod", priority="batch", reason="shed") == 1


def test_a_request_at_once_leaves_none_of_these_behind(metrics, observer):
    run(observer, exchange(attempt(), usage=(11, 7)))
    names = {name for name, _ in moved(samples(metrics))}
    assert not [name for name in names if "queue" in name or "throttle" in name or "spill" in name or "shed" in name]
    assert "gateway_token_estimate_ratio_count" not in names
    assert "gateway_error_responses_total" not in names


@pytest.mark.parametrize(
    ("estimate", "usage", "ratio"),
    [(50.0, (100, 7), 0.5), (100.0, (100, 0), 1.0), (0.0, (100, 7), None), (50.0, None, None), (50.0, (0, 7), None)],
)
def test_an_estimate_is_judged_where_the_provider_tells_what_it_was(metrics, observer, estimate, usage, ratio):
    made = attempt()
    made.estimate, made.usage = estimate, usage
    run(observer, exchange(made))
    found = samples(metrics)
    assert value(found, "gateway_token_estimate_ratio_count", **PLACE) == (None if ratio is None else 1)
    if ratio is not None:
        assert value(found, "gateway_token_estimate_ratio_sum", **PLACE) == ratio
        assert value(found, "gateway_token_estimate_ratio_bucket", **PLACE, le=repr(ratio)) == 1


def test_an_exact_estimate_lies_in_the_middle_of_the_buckets(metrics, observer):
    made = attempt()
    made.estimate, made.usage = 8.0, (8, 1)
    run(observer, exchange(made))
    buckets = {
        dict(pairs)["le"]: n for (name, pairs), n in samples(metrics).items() if name == "gateway_token_estimate_ratio_bucket"
    }
    below = [edge for edge, count in buckets.items() if not count]
    above = [edge for edge, count in buckets.items() if count and edge not in ("1.0", "+Inf")]
    assert len(below) == len(above)


def test_429s_that_clients_get_are_told_from_those_that_providers_give(metrics, observer):
    """A provider's 429 that another target made good is no client's; our own refusal is no provider's."""
    refused = attempt(verdict="rate_limited", status=429)
    both = "gateway_upstream_responses_total", "gateway_error_responses_total"
    saved = increase(metrics, observer, exchange(refused, attempt(2, provider="azure")), *both)
    assert saved == {(both[0], "429", "openai"): 1, (both[0], "200", "azure"): 1}
    ours = exchange(client="search", ending=Ending.REFUSED, reason=Reason.RATE_LIMITED, status=429)
    assert increase(metrics, observer, ours, *both) == {(both[1], "search", "429", "chat"): 1}
    relayed = exchange(refused, ending=Ending.FAILED, reason=Reason.ATTEMPTS_EXHAUSTED, status=429)
    assert increase(metrics, observer, relayed, *both) == {(both[0], "429", "openai"): 1, (both[1], "", "429", "chat"): 1}


@pytest.mark.parametrize(("status", "code"), [(400, "400"), (599, "599"), (999, "other"), (399, None), (0, None)])
def test_error_answers_have_bounded_codes(metrics, observer, status, code):
    run(observer, exchange(attempt(verdict="caller", status=status), ending=Ending.CALLER_ERROR, status=status))
    found = moved(samples(metrics))
    assert [dict(pairs)["code"] for name, pairs in found if name == "gateway_error_responses_total"] == ([code] if code else [])


def test_an_unknown_key_counts_as_a_request_refused_for_that_reason(metrics, observer):
    metrics.prepare(snapshot(clients=("search",)))
    refused = {"route": "", "client": "", "outcome": "refused", "reason": "unknown_client"}
    assert value(samples(metrics), "gateway_requests_total", **refused) == 0
    run(observer, exchange(route="", ending=Ending.REFUSED, reason=Reason.UNKNOWN_CLIENT, status=401))
    found = samples(metrics)
    assert value(found, "gateway_requests_total", **refused) == 1
    assert value(found, "gateway_error_responses_total", route="", client="", code="401") == 1


def test_a_loaded_configuration_starts_the_rates_of_waiting_at_zero(metrics):
    metrics.prepare(snapshot(clients=("search",)))
    found = samples(metrics)
    for model in ("gpt-4o", "*"):
        place = {"provider": "openai", "model": model}
        for priority in ("standard", "batch"):
            assert value(found, "gateway_queue_wait_seconds_count", **place, priority=priority) == 0
            for reason in ("queue_full", "shed"):
                assert value(found, "gateway_sheds_total", **place, priority=priority, reason=reason) == 0
        assert value(found, "gateway_token_estimate_ratio_count", **place) == 0
    for provider in ("openai", "azure"):
        assert value(found, "gateway_throttle_seconds_total", provider=provider) == 0
        assert value(found, "gateway_spills_total", route="chat", provider=provider) == 0
    assert value(found, "gateway_error_responses_total", route="chat", client="search", code="429") == 0
    for reason in ("rate_limited", "queue_full", "shed", "throttled"):
        refused = {"route": "chat", "client": "search", "outcome": "refused", "reason": reason}
        assert value(found, "gateway_requests_total", **refused) == 0


def client(name, priority=Priority.STANDARD, models=None, **quota):
    return Client(name=name, digest=b"\0" * 32, models=models, plan=ClientPlan(name, priority, quota=QuotaPlan(**quota)))


def test_what_only_some_clients_can_meet_is_there_for_them_alone(metrics):
    metrics.prepare(snapshot(clients=(client("free"), client("bound", concurrent=3), client("narrow", models=("gpt-4o",)))))
    found = samples(metrics)
    limits = {name: value(found, "gateway_requests_total", route="chat", client=name, outcome="refused", reason="client_limit")
              for name in ("free", "bound", "narrow")}  # fmt: skip
    assert limits == {"free": None, "bound": 0, "narrow": None}
    models = {name: value(found, "gateway_requests_total", route="", client=name, outcome="refused", reason="model_not_allowed")
              for name in ("free", "bound", "narrow")}  # fmt: skip
    assert models == {"free": None, "bound": None, "narrow": 0}


@pytest.mark.parametrize("highest", list(Priority))
def test_a_priority_that_nobody_has_or_may_take_has_no_series(metrics, highest):
    metrics.prepare(snapshot(clients=(client("a", highest), client("b", Priority.BATCH))))
    found = samples(metrics)
    shown = {dict(pairs)["priority"] for name, pairs in found if name == "gateway_queue_wait_seconds_count"}
    assert shown == {priority.label for priority in Priority if priority >= highest}
