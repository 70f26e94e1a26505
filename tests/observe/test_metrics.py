"""What records count for, read back from the exposition; and what a loaded configuration creates at zero."""

import collections

import pytest

from gateway import __version__
from gateway.core.record import Ending, Kind
from gateway.core.verdicts import Fault
from gateway.errors import Reason
from gateway.observe.metrics import Metrics
from gateway.observe.table import TABLE
from tests.observe.records import KEY, attempt, exchange, moved, samples, snapshot, value


def run(observer, record):
    observer.began(record)
    for each in record.attempts:
        observer.attempt_ended(record, each)
    observer.ended(record)


def labels(**values):
    return frozenset(values.items())


def test_a_good_answer_moves_exactly_these_samples(metrics, observer):
    run(observer, exchange(attempt(), client="search", usage=(11, 7)))
    place = labels(provider="openai", model="gpt-4o")
    assert moved(samples(metrics)) == {
        ("gateway_requests_total", labels(route="chat", client="search", outcome="ok", reason="none")): 1,
        ("gateway_request_duration_seconds_count", labels(route="chat", stream="false")): 1,
        ("gateway_request_duration_seconds_sum", labels(route="chat", stream="false")): pytest.approx(0.61),
        ("gateway_overhead_seconds_count", labels(route="chat")): 1,
        ("gateway_overhead_seconds_sum", labels(route="chat")): pytest.approx(0.003),
        (
            "gateway_attempts_total",
            labels(route="chat", provider="openai", model="gpt-4o", kind="first", verdict="ok"),
        ): 1,
        ("gateway_attempt_duration_seconds_count", place): 1,
        ("gateway_attempt_duration_seconds_sum", place): pytest.approx(0.598),
        ("gateway_upstream_responses_total", labels(provider="openai", code="200")): 1,
        ("gateway_tokens_total", place | labels(type="input")): 11,
        ("gateway_tokens_total", place | labels(type="output")): 7,
    }


def test_a_saved_request_counts_once_as_ok_and_every_attempt_by_its_own_verdict(metrics, observer):
    failed = attempt(verdict="server_error", status=500)
    good = attempt(2, Kind.FAILOVER, "azure", "gpt-4o-prod", sent=100.2)
    run(observer, exchange(failed, good, saved_by=Kind.FAILOVER))
    found = samples(metrics)
    assert value(found, "gateway_requests_total", route="chat", client="", outcome="ok", reason="none") == 1
    assert value(found, "gateway_saved_requests_total", route="chat", by="failover") == 1
    attempts = {key: number for key, number in moved(found).items() if key[0] == "gateway_attempts_total"}
    assert attempts == {
        (
            "gateway_attempts_total",
            labels(route="chat", provider="openai", model="gpt-4o", kind="first", verdict="server_error"),
        ): 1,
        (
            "gateway_attempts_total",
            labels(route="chat", provider="azure", model="gpt-4o-prod", kind="failover", verdict="ok"),
        ): 1,
    }
    assert value(found, "gateway_overhead_seconds_count", route="chat") == 0


def test_first_token_counts_for_good_streams_alone(metrics, observer):
    run(observer, exchange(attempt(content=100.4), stream=True, opened=100.41))
    run(observer, exchange(attempt(content=100.4), stream=False))
    run(observer, exchange(attempt(status=400, verdict="caller"), stream=True, ending=Ending.CALLER_ERROR, reason=Reason.CALLER))
    run(observer, exchange(stream=True, ending=Ending.FAILED, reason=Reason.DEADLINE))
    found = samples(metrics)
    assert value(found, "gateway_first_token_seconds_count", route="chat") == 1
    assert value(found, "gateway_first_token_seconds_sum", route="chat") == pytest.approx(0.41)


def test_overhead_is_measured_from_what_the_answer_waited_for(metrics, observer):
    # A stream goes out at its first content while more comes; its last byte lies after the opening.
    run(observer, exchange(attempt(head=100.3, content=100.4, heard=105.0), stream=True, opened=100.4))
    # The chunk with the first content is all there is so far.
    run(observer, exchange(attempt(head=100.3, content=100.401, heard=100.4), stream=True, opened=100.401))
    # No stream: opened at the head, before any content.
    run(observer, exchange(attempt(head=100.3, content=100.4, heard=105.0), opened=100.305))
    found = samples(metrics)
    assert value(found, "gateway_overhead_seconds_count", route="chat") == 3
    assert value(found, "gateway_overhead_seconds_sum", route="chat") == pytest.approx(0.002 + 0.002 + 0.001 + 0.002 + 0.005)


@pytest.mark.parametrize("opened", [100.9, 100.3])
def test_waiting_that_the_policy_asks_for_is_no_overhead(metrics, observer, opened):
    """Held back for half a second; and a head that went out before any content, to keep the connection alive."""
    run(observer, exchange(attempt(head=100.2, content=100.4, heard=105.0), stream=True, opened=opened, ended=105.0))
    assert value(samples(metrics), "gateway_overhead_seconds_count", route="chat") == 0


def test_refusals_have_no_duration_and_other_ends_do(metrics, observer):
    run(observer, exchange(ending=Ending.REFUSED, reason=Reason.BREAKERS_OPEN, status=503))
    run(observer, exchange(attempt(verdict="cancelled", status=0), ending=Ending.CLIENT_GONE, reason=Reason.CLIENT_GONE))
    found = samples(metrics)
    assert value(found, "gateway_requests_total", route="chat", client="", outcome="refused", reason="breakers_open") == 1
    assert value(found, "gateway_request_duration_seconds_count", route="chat", stream="false") == 1


@pytest.mark.parametrize(
    ("made", "counted", "code"),
    [
        (attempt(verdict="connect", status=0, code="dns", sent=0.0), True, "dns"),
        (attempt(verdict="cancelled", status=0, sent=0.0), False, None),
        (attempt(verdict="", status=0, sent=0.0), False, None),
        (attempt(verdict="cancelled", status=0), True, None),
        (attempt(verdict="cancelled", status=200), True, "200"),
        (attempt(verdict="timeout", status=0, code="timeout"), True, "timeout"),
        (attempt(verdict="stream_broken", status=200, code="reset"), True, "200"),
        (attempt(verdict="rate_limited", status=429, code="insufficient_" * 5), True, "429"),
        (attempt(verdict="unknown", status=0, code="what a provider made up"), True, "other"),
        (attempt(verdict="unknown", status=999), True, "other"),
    ],
)
def test_an_attempt_counts_if_it_was_sent_or_failed_before(metrics, observer, made, counted, code):
    observer.attempt_ended(exchange(made), made)
    found = moved(samples(metrics))
    assert sum(n for (name, _), n in found.items() if name == "gateway_attempts_total") == int(counted)
    codes = {dict(pairs)["code"] for name, pairs in found if name == "gateway_upstream_responses_total"}
    assert codes == ({code} if code else set())


def test_neither_cancelled_nor_unsent_attempts_have_a_duration(metrics, observer):
    for made in (attempt(verdict="cancelled"), attempt(verdict="connect", status=0, code="connect", sent=0.0)):
        observer.attempt_ended(exchange(made), made)
    assert not [key for key in moved(samples(metrics)) if key[0].startswith("gateway_attempt_duration")]


def test_inflight_follows_what_began_and_never_goes_below_zero(metrics, observer):
    first, second, never_begun = exchange(attempt()), exchange(attempt()), exchange(route="")
    observer.began(first)
    observer.began(second)
    assert value(samples(metrics), "gateway_inflight_requests", route="chat") == 2
    first.route = "renamed"
    observer.ended(first)
    observer.ended(second)
    observer.ended(never_begun)
    found = samples(metrics)
    assert value(found, "gateway_inflight_requests", route="chat") == 0
    assert sum(n for (name, _), n in found.items() if name == "gateway_inflight_requests") == 0


def test_a_broken_answer_is_recovered_only_where_the_client_got_a_whole_one(metrics, observer):
    broken = attempt(verdict="stream_broken", status=200, code="reset")
    run(observer, exchange(broken, attempt(2, Kind.RETRY), saved_by=Kind.RETRY))
    lost = attempt(verdict="stalled", status=200)
    record = exchange(lost, stream=True, ending=Ending.FAILED, reason=Reason.STREAM_BROKEN)
    record.stream_broken = True
    run(observer, record)
    found = samples(metrics)
    assert value(found, "gateway_streams_broken_total", provider="openai", model="gpt-4o", recovered="true") == 1
    assert value(found, "gateway_streams_broken_total", provider="openai", model="gpt-4o", recovered="false") == 1


def test_frames_that_were_left_out_are_counted_however_well_the_stream_ended(metrics, observer):
    metrics.prepare(snapshot())
    record = exchange(attempt(), stream=True)
    record.frames_dropped = 3
    assert value(samples(metrics), "gateway_frames_dropped_total", route="chat") == 0
    run(observer, record)
    assert value(samples(metrics), "gateway_frames_dropped_total", route="chat") == 3


def test_a_loaded_configuration_starts_every_rate_at_zero(metrics):
    metrics.prepare(snapshot(clients=("search", "batch")))
    found = samples(metrics)
    assert not moved(found)
    for client in ("search", "batch"):
        for outcome, reason in (("ok", "none"), ("failed", "attempts_exhausted"), ("refused", "breakers_open")):
            assert value(found, "gateway_requests_total", route="chat", client=client, outcome=outcome, reason=reason) == 0
    assert value(found, "gateway_requests_total", route="", client="", outcome="refused", reason="unknown_client") == 0
    for provider, model in (("openai", "gpt-4o"), ("openai", "*"), ("azure", "gpt-4o-prod")):
        for kind in ("first", "retry", "failover"):
            for verdict in ("ok", *Fault, "cancelled"):
                assert (
                    value(
                        found,
                        "gateway_attempts_total",
                        route="chat",
                        provider=provider,
                        model=model,
                        kind=kind,
                        verdict=str(verdict),
                    )
                    == 0
                )
        assert value(found, "gateway_attempt_duration_seconds_count", provider=provider, model=model) == 0
        assert value(found, "gateway_tokens_total", provider=provider, model=model, type="output") == 0
        assert value(found, "gateway_streams_broken_total", provider=provider, model=model, recovered="false") == 0
    assert value(found, "gateway_upstream_responses_total", provider="azure", code="529") == 0
    assert value(found, "gateway_upstream_responses_total", provider="azure", code="connect_timeout") == 0
    assert value(found, "gateway_breaker_transitions_total", provider="azure", model="", family="", to="open") == 0
    assert value(found, "gateway_request_duration_seconds_count", route="chat", stream="true") == 0
    assert value(found, "gateway_first_token_seconds_count", route="chat") == 0
    assert value(found, "gateway_overhead_seconds_count", route="chat") == 0
    assert value(found, "gateway_saved_requests_total", route="chat", by="failover") == 0
    assert value(found, "gateway_inflight_requests", route="chat") == 0
    assert value(found, "gateway_config_reloads_total", result="rejected") == 0
    assert value(found, "gateway_config_info", hash="0123456789ab") == 1
    assert value(found, "gateway_log_lines_dropped_total") == 0


def test_what_a_configuration_creates_is_bounded_and_keeps_the_likeliest(metrics):
    routes = [(f"route-{n}", ("a", "b", "c*"), (("p1", None), ("p2", None), ("p3", None))) for n in range(120)]
    metrics.prepare(snapshot(routes, clients=tuple(f"client-{n}" for n in range(40))))
    found = samples(metrics)
    per_metric = {name: sum(key[0] == name for key in found) for name in TABLE}
    assert max(per_metric.values()) <= 2_100
    assert value(found, "gateway_requests_total", route="route-0", client="client-0", outcome="ok", reason="none") == 0
    first = {"kind": "first", "verdict": "ok", "model": "*", "provider": "p3"}
    assert value(found, "gateway_attempts_total", route="route-119", **first) == 0


def test_random_names_cannot_grow_the_metrics(metrics, observer):
    for number in range(12_000):
        run(observer, exchange(attempt(provider=f"p{number}", label=f"m{number}"), client=f"c{number}", usage=(1, 1)))
    text, _ = metrics.expose()
    # Three counters of 10,000, tokens twice; one histogram of 1,000 label sets with 19 lines each.
    assert text.count(b"\n") < 65_000
    sums = collections.Counter()
    for line in text.decode().splitlines():
        sums[line.partition("{")[0]] += 0 if line.startswith("#") else float(line.rpartition(" ")[2])
    assert sums["gateway_requests_total"] == sums["gateway_attempts_total"] == 12_000
    assert sums["gateway_attempt_duration_seconds_count"] == 12_000
    assert sums["gateway_tokens_total"] == 24_000
    assert max(map(len, (metrics.end_cells, metrics.attempt_cells, metrics.token_cells))) <= 10_000


def test_a_reload_makes_room_for_its_own_names_and_keeps_what_is_under_way(metrics, observer):
    under_way = exchange(attempt(provider="p1", label="m1"), client="c1")
    observer.began(under_way)
    for number in range(6_000):
        run(observer, exchange(attempt(provider=f"p{number}", label=f"m{number}"), client=f"c{number}"))
    metrics.prepare(snapshot())
    found = samples(metrics)
    assert value(found, "gateway_inflight_requests", route="chat") == 1
    assert not any(dict(pairs).get("provider") == "p7" for name, pairs in found if name == "gateway_attempts_total")
    for each in under_way.attempts:
        observer.attempt_ended(under_way, each)
    observer.ended(under_way)
    found = samples(metrics)
    assert value(found, "gateway_inflight_requests", route="chat") == 0
    assert value(found, "gateway_requests_total", route="chat", client="c1", outcome="ok", reason="none") == 1
    place = {"provider": "p1", "model": "m1"}
    assert value(found, "gateway_attempts_total", route="chat", **place, kind="first", verdict="ok") == 1


def test_a_reload_never_forgets_what_is_under_way(metrics, observer):
    records = [exchange(route=f"route-{number}") for number in range(5_100)]
    for record in records:
        observer.began(record)
    metrics.prepare(snapshot())
    assert sum(n for (name, _), n in samples(metrics).items() if name == "gateway_inflight_requests") == 5_100
    for record in records:
        observer.ended(record)
    assert sum(n for (name, _), n in samples(metrics).items() if name == "gateway_inflight_requests") == 0


class Live:
    """What is asked of the registry; see `test_limits` for the registry itself."""

    def __init__(self, breakers=(), budgets=(), benched=()):
        self.parts = list(breakers), list(budgets), list(benched)

    def queues(self):
        return []

    def quotas(self, _listed):
        return []

    throttles = queues

    def breakers(self):
        return self.parts[0]

    def budgets(self):
        return self.parts[1]

    def benched(self):
        return self.parts[2]


def test_live_state_is_read_at_scrape_time(metrics):
    metrics.prepare(snapshot())
    live = Live()
    metrics.watch(live)
    samples(metrics)
    live.parts = [("openai", "gpt-4o", "chat", 0.25), ("openai", "", "", 1.0)], [("openai", 2.5)], [("openai", 1)]
    found = samples(metrics)
    assert value(found, "gateway_breaker_share", provider="openai", model="gpt-4o", family="chat") == 0.25
    assert value(found, "gateway_breaker_share", provider="openai", model="", family="") == 1.0
    assert value(found, "gateway_retry_budget_balance", provider="openai") == 2.5
    assert value(found, "gateway_credentials_benched", provider="openai") == 1


def test_models_that_no_route_lists_share_one_breaker_sample_and_show_the_worst(metrics):
    metrics.prepare(snapshot())
    metrics.watch(Live([("openai", f"o{n}", "chat", share) for n, share in enumerate((1.0, 0.0, 0.5))]))
    metrics.breaker_moved("openai", "o1", "chat", "open")
    metrics.breaker_moved("openai", "o2-private-name", "chat", "open")
    found = samples(metrics)
    assert value(found, "gateway_breaker_share", provider="openai", model="*", family="chat") == 0.0
    assert value(found, "gateway_breaker_transitions_total", provider="openai", model="*", family="chat", to="open") == 2
    assert b"private" not in metrics.expose()[0]


def test_reloads_and_the_configuration_in_force(metrics):
    metrics.prepare(snapshot())
    metrics.config_reloaded("rejected")
    metrics.config_info("ffff00001111")
    found = samples(metrics)
    assert value(found, "gateway_config_reloads_total", result="rejected") == 1
    infos = [dict(pairs)["hash"] for name, pairs in found if name == "gateway_config_info"]
    assert infos == ["ffff00001111"]
    with pytest.raises(ValueError, match="not the result"):
        metrics.config_reloaded("maybe")


def test_loop_lag_build_and_process(metrics):
    metrics.loop_lag(0.004)
    found = samples(metrics)
    assert value(found, "gateway_loop_lag_seconds_bucket", le="0.0025") == 0
    assert value(found, "gateway_loop_lag_seconds_bucket", le="0.005") == 1
    assert any(name == "gateway_build_info" and dict(pairs)["version"] == __version__ for name, pairs in found)
    assert (value(found, "process_open_fds") or 0) > 0
    assert any(name == "python_info" for name, _ in found)


def test_the_exposition_declares_the_table_and_nothing_else_of_ours(metrics, observer):
    metrics.prepare(snapshot())
    run(observer, exchange(attempt()))
    text = metrics.expose()[0].decode()
    declared = {line.split()[2]: line.split()[3] for line in text.splitlines() if line.startswith("# TYPE gateway_")}
    assert declared == {name: str(spec.shape) for name, spec in TABLE.items()}
    assert "_created" not in text
    for name, pairs in samples(metrics):
        if name.startswith("gateway_"):
            base = name if name in TABLE else name.rsplit("_", 1)[0]
            assert {label for label, _ in pairs} - {"le"} == set(TABLE[base].labels)


def test_the_table_is_the_published_one():
    published = {
        "requests_total": "route client outcome reason",
        "error_responses_total": "route client code",
        "request_duration_seconds": "route stream",
        "first_token_seconds": "route",
        "overhead_seconds": "route",
        "inflight_requests": "route",
        "saved_requests_total": "route by",
        "attempts_total": "route provider model kind verdict",
        "attempt_duration_seconds": "provider model",
        "upstream_responses_total": "provider code",
        "breaker_share": "provider model family",
        "breaker_transitions_total": "provider model family to",
        "credentials_benched": "provider",
        "retry_budget_balance": "provider",
        "queue_depth": "provider model priority",
        "queue_wait_seconds": "provider model priority",
        "throttle_seconds_total": "provider",
        "quota_limit": "provider model resource source",
        "quota_burst": "provider model resource source",
        "quota_remaining": "provider model resource source",
        "throttle_share": "provider model",
        "spills_total": "route provider",
        "sheds_total": "provider model priority reason",
        "token_estimate_ratio": "provider model",
        "tokens_total": "provider model type",
        "streams_broken_total": "provider model recovered",
        "hedges_total": "route result",
        "wasted_tokens_total": "provider",
        "held_streams_overflowed_total": "route",
        "frames_dropped_total": "route",
        "config_reloads_total": "result",
        "config_info": "hash",
        "build_info": "version python build",
        "loop_lag_seconds": "",
        "log_lines_dropped_total": "",
    }
    assert {name: spec.labels for name, spec in TABLE.items()} == {
        f"gateway_{name}": tuple(labels.split()) for name, labels in published.items()
    }


def test_no_secret_of_the_configuration_reaches_the_exposition(observer, metrics):
    metrics.prepare(snapshot())
    run(observer, exchange(attempt()))
    assert KEY not in metrics.expose()[0].decode()


def test_two_instances_share_nothing():
    one, other = Metrics(), Metrics()
    one.loop_lag(0.5)
    assert value(samples(other), "gateway_loop_lag_seconds_count") == 0
