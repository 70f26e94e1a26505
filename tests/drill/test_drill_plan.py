"""Which fault strikes: by time, count, load and dice; and the same again with the same seed."""

from __future__ import annotations

import random

import pytest

from gateway.drill.faults import (
    Bimodal,
    Call,
    Cut,
    ErrorEvent,
    Fault,
    Html,
    Latency,
    LoadSensitive,
    Mix,
    Only,
    Oscillate,
    RateLimit,
    Stall,
    Status,
)
from gateway.drill.plan import Denial, Effects, FaultPlan, Step

CHAT = Call("POST", "/v1/chat/completions", "chat", "sk-1", "gpt-4o", tokens=100, inference=True)
STREAM = Call("POST", "/v1/chat/completions", "chat", "sk-1", "gpt-4o", stream=True, tokens=100, inference=True)


class Bench:
    """A plan whose time a test sets."""

    def __init__(self, *faults: Fault, seed: int = 1) -> None:
        self.now = 0.0
        self.plan = FaultPlan(random.Random(seed), lambda: self.now)
        self.plan.set(*faults)

    def at(self, now: float, call: Call = CHAT) -> Effects:
        self.now = now
        return self.plan.choose(call)

    def struck(self, now: float, call: Call = CHAT) -> bool:
        return self.at(now, call).instead is not None


def test_the_same_seed_gives_the_same_story_and_another_seed_another() -> None:
    def story(seed: int) -> list[object]:
        bench = Bench(Latency(Bimodal(0.1, 5.0, 0.5)), Mix((Status(500), Html()), (1, 1), probability=0.5), seed=seed)
        return [(effects.delay_s, effects.instead) for effects in (bench.at(float(turn)) for turn in range(200))]

    assert story(3) == story(3)
    assert story(3) != story(4)


def test_a_filter_that_does_not_match_casts_no_die() -> None:
    """Otherwise unrelated traffic would change what happens to the rest."""
    other = Call("GET", "/v1/models", "other")
    quiet, noisy = (Bench(Status(500, probability=0.5, only=Only(family="chat"))) for _ in range(2))
    for turn in range(100):
        noisy.at(turn, other)
        assert quiet.struck(turn) == noisy.struck(turn)


def test_probability_is_a_share_of_requests() -> None:
    bench = Bench(Status(500, probability=0.3))
    assert sum(bench.struck(0.0) for _ in range(3000)) == pytest.approx(900, abs=90)


def test_times_counts_matching_requests_only() -> None:
    bench = Bench(Status(500, times=2, only=Only(stream=True)))
    assert [bench.struck(0, call) for call in (CHAT, STREAM, CHAT, STREAM, STREAM)] == [False, True, False, True, False]


def test_delays_add_up_and_the_first_answer_wins_without_using_up_the_second() -> None:
    bench = Bench(Latency(1.0), Status(500, times=1), Html(times=1), Latency(0.5))
    first, second, third = (bench.at(0) for _ in range(3))
    assert (first.delay_s, first.instead) == (1.5, Status(500, times=1))
    assert second.instead == Html(times=1)
    assert third.instead is None
    assert first.names == ["latency", "status", "latency"]


def test_stream_faults_leave_other_answers_alone_and_keep_their_count() -> None:
    bench = Bench(Cut(after_events=1, times=1), Stall(after_events=2, times=1), ErrorEvent(times=1))
    plain = bench.at(0, CHAT)
    assert (plain.cut, plain.stall, plain.error_event, plain.names) == (None, None, None, [])
    assert bench.at(0, STREAM).names == ["cut", "stall", "error_event"]


def test_oscillation_fails_for_the_duty_share_of_every_period() -> None:
    bench = Bench()
    bench.now = 100.0
    bench.plan.set(Oscillate(Html(), period_s=10, duty=0.3))
    assert [bench.struck(100 + s) for s in (0, 2.9, 3, 9.9, 10, 12, 13)] == [True, True, False, False, True, True, False]


def test_a_load_sensitive_provider_fails_only_what_is_too_much() -> None:
    bench = Bench(LoadSensitive(Status(502), base_per_s=10, factor=1.1))
    assert not any(bench.struck(turn / 10) for turn in range(100))
    storm = [bench.struck(20 + turn / 50) for turn in range(50)]
    assert storm.index(True) == 11
    assert all(storm[11:])
    assert not bench.struck(30)


def test_a_mix_keeps_its_weights() -> None:
    bench = Bench(Mix((Status(500), Status(502)), (0.7, 0.3)))
    assert sum(bench.at(0).instead == Status(500) for _ in range(2000)) == pytest.approx(1400, abs=100)


def test_a_step_holds_in_its_window_from_when_the_script_began() -> None:
    bench = Bench()
    bench.now = 50.0
    bench.plan.play([Step(Html(), 10.0, 20.0)])
    assert [bench.struck(50 + s) for s in (0, 9.9, 10, 19.9, 20)] == [False, False, True, True, False]


def test_a_ramp_rises_linearly() -> None:
    bench = Bench()
    bench.plan.play([Step(Html(), 0.0, 100.0, (0.0, 1.0))])
    assert sum(bench.struck(25.0) for _ in range(2000)) == pytest.approx(500, abs=80)
    assert sum(bench.struck(90.0) for _ in range(2000)) == pytest.approx(1800, abs=80)


def test_a_rate_limit_refuses_exactly_what_is_over_it_and_charges_nothing_for_refusals() -> None:
    bench = Bench(RateLimit(requests=60))
    assert not any(bench.struck(0) for _ in range(60))
    for _ in range(100):
        denial = bench.at(0).instead
        assert isinstance(denial, Denial)
        assert denial.wait_s == pytest.approx(1.0)
    assert not bench.struck(1.0)
    assert bench.struck(1.0)
    assert sum(not bench.struck(31.0) for _ in range(100)) == 30


def test_a_token_limit_names_the_scarce_resource_and_knows_what_never_fits() -> None:
    bench = Bench(RateLimit(requests=1000, tokens=600))
    assert not any(bench.struck(0) for _ in range(6))
    effects = bench.at(0)
    assert isinstance(effects.instead, Denial)
    assert (effects.instead.resource, effects.instead.wait_s) == ("tokens", pytest.approx(10.0))
    assert [(meter.resource, meter.limit, round(meter.remaining)) for meter in effects.meters] == [
        ("requests", 1000, 994),
        ("tokens", 600, 0),
    ]
    huge = bench.at(0, Call("POST", "/v1/responses", "responses", tokens=601, inference=True)).instead
    assert isinstance(huge, Denial)
    assert huge.wait_s == float("inf")


def test_a_rate_limit_may_be_per_key_and_leaves_other_endpoints_alone() -> None:
    bench = Bench(RateLimit(requests=1, per="key"))
    other = Call("POST", CHAT.path, "chat", "sk-2", inference=True)
    assert [bench.struck(0, call) for call in (CHAT, CHAT, other, other)] == [False, True, False, True]
    assert not bench.struck(0, Call("GET", "/v1/models", "other", "sk-1"))


def test_clear_and_set_begin_anew() -> None:
    bench = Bench(Status(500, times=1))
    assert [bench.struck(0), bench.struck(0)] == [True, False]
    bench.plan.set(Status(500, times=1))
    bench.plan.add(Latency(1.0))
    assert (bench.struck(0), bench.at(0).delay_s) == (True, 1.0)
    bench.plan.clear()
    assert bench.at(0).names == []
