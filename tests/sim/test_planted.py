"""Every invariant has a planted bug that it catches, or it would be a comment.

Each plant changes one behaviour of the core or the driver, as a slip of an editor's hand might. Within a bounded number of seeds
some run must then break the plant's invariant, and no other but those that the same bug breaks by its nature, its company.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from itertools import chain

import pytest

from gateway.core import breaker, credentials, lessons, placement
from gateway.core.actions import UPSTREAMS_OWN, Advice
from gateway.core.attempt import Ask, Attempt, Place
from gateway.core.breaker import Breaker
from gateway.core.budget import Budget
from gateway.core.credentials import CredentialState
from gateway.core.exchange import Exchange
from gateway.core.farewell import Farewell
from gateway.core.hedge import HedgeBudget
from gateway.core.placement import Placement
from gateway.core.plan import Family, HedgePlan, Prefill, StreamPlan
from gateway.core.record import Ending
from gateway.core.registry import ProviderState, Registry
from gateway.core.steps import Go, Stuck, Wait
from gateway.core.suspicion import Rejections, Silence
from gateway.core.verdicts import Fault, Scope, Verdict
from gateway.dialects import splice_generic, transcript
from gateway.egress import delivery, driver, heads, request, resumption
from gateway.egress.answer import Answer
from gateway.egress.driver import Driver
from gateway.egress.request import Request
from gateway.egress.resumption import Resumption
from gateway.errors import Reason
from gateway.ingress.admission import Intake
from gateway.observe import observer
from gateway.observe.observer import Observer
from tests.sim import mischief
from tests.sim.client import Errand
from tests.sim.delivery import Delivery
from tests.sim.invariants import ALL, breaches, law_11
from tests.sim.rush import rush
from tests.sim.storm import accidents, breaking, false_limits, hanging, no_rights, sluggish, storm, strange_400s
from tests.sim.world import World

SEEDS = range(40)

Plant = Callable[[pytest.MonkeyPatch], None]
Run = Callable[[int], tuple[World, list[Errand]]]
PLANTS: list[tuple[str, frozenset[str], Run, Plant]] = []


EVERYBODY = frozenset({"alpha", "beta", "gamma"})
HEDGED = Delivery(hedge=HedgePlan(after_s=0.5, floor_s=0.1, budget=0.5), stand_ins=EVERYBODY)
HEDGED_MEANLY = dataclasses.replace(HEDGED, hedge=HedgePlan(after_s=0.5, floor_s=0.1, budget=0.05))
RESUMED = Delivery(stream=StreamPlan(resume=True), asks_usage=EVERYBODY, counts=EVERYBODY)
BEGUN = dataclasses.replace(RESUMED, prefill=dict.fromkeys(EVERYBODY, Prefill.PLAIN), habits=dict.fromkeys(EVERYBODY, "refuses"))
KEPT_ALIVE = Delivery(stream=StreamPlan(keepalive_s=1.0, early_keepalive_s=2.0))
HELD = Delivery(stream=StreamPlan(hold_s=0.5))


def delivered(way: Delivery, special: Callable[..., object] = breaking) -> Run:
    """Return storms that are delivered in this way."""
    return partial(storm, special=special, deliver=lambda _dice: way)  # type: ignore[arg-type]


def plant(invariant: str, *company: str, run: Run = storm) -> Callable[[Plant], Plant]:
    """Register a planted bug: the invariant that must catch it, those that may, and the runs that show it."""

    def registered(bug: Plant) -> Plant:
        PLANTS.append((invariant, frozenset(company), run, bug))
        return bug

    return registered


def _around(patch, owner, name, wrapper):
    """Replace a method by `wrapper(original, self, ...)`."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda self, *args, **more: wrapper(original, self, *args, **more))


@plant("nothing_crashes")
def _the_observer_stumbles_over_clients_that_left(patch):
    def ended(original, self, record):
        original(self, record)
        if record.ending is Ending.CLIENT_GONE:
            raise KeyError(record.client)

    _around(patch, Observer, "ended", ended)


@plant("one_ending")
def _a_broken_answer_is_left_hanging(patch):
    patch.setattr(Driver, "_break", lambda _self, _action: None)


@plant("sink_contract")
def _the_length_is_one_off(patch):
    def length(original, self, *args):
        exact = original(self, *args)
        return None if exact is None else exact + 1

    _around(patch, delivery.Delivery, "_length", length)


@plant("sink_contract", "abandoned_are_cancelled", "one_ending", "metrics_equal_the_ledger")
def _a_client_that_left_goes_unnoticed(patch):
    patch.setattr(Driver, "gone", lambda _self: None)


@plant("attempts_within_limit")
def _the_limit_of_attempts_is_ignored(patch):
    def init(original, self, ask, *args):
        ask.policy = dataclasses.replace(ask.policy, attempts=99)
        original(self, ask, *args)

    _around(patch, Exchange, "__init__", init)


@plant("repeats_within_budget")
def _the_budget_is_never_empty(patch):
    patch.setattr(Budget, "withdraw", lambda _self, _now, _cost: True)


@plant("already_retried_not_repeated")
def _the_clients_own_retries_are_overlooked(patch):
    def init(original, self, *, already_retried, **more):
        del already_retried
        original(self, already_retried=False, **more)

    _around(patch, Ask, "__init__", init)


@plant("delays_kept", "one_probe_of_a_key")
def _nothing_is_parked(patch):
    patch.setattr(CredentialState, "park", lambda _self, _now, _model, _delay_s, **_more: None)


@plant("delays_kept", "one_probe_of_a_key", "benched_keys_rest")
def _a_late_success_lifts_a_fresh_park(patch):
    _around(patch, CredentialState, "served", lambda original, self, model, _began_at: original(self, model, float("inf")))


@plant("overloads_left_alone")
def _an_overloads_delay_is_not_heard(patch):
    def init(original, self, fault, *, delay=None, **more):
        original(self, fault, delay=None if fault is Fault.OVERLOADED else delay, **more)

    _around(patch, Verdict, "__init__", init)


@plant("overloads_left_alone")
def _a_provider_that_forbids_retries_is_not_heard(patch):
    _around(patch, Verdict, "__init__", lambda original, self, fault, **more: original(self, fault, **{**more, "retry_same": True}))


@plant("benched_keys_rest", "one_probe_of_a_key")
def _benches_are_short(patch):
    patch.setattr(credentials, "BENCH_S", 5.0)


@plant("one_probe_of_a_key")
def _a_key_is_tested_by_everybody(patch):
    patch.setattr(CredentialState, "take", lambda _self, _now, _model: 0.0)


@plant("keys_in_order", "first_choice_first", "one_probe_of_a_key", run=partial(storm, special=no_rights))
def _a_key_without_rights_for_one_model_is_benched_for_all(patch):
    _around(patch, CredentialState, "bench", lambda original, self, now, _model=None, **_more: original(self, now, refused=False))


@plant("elsewhere_at_once")
def _there_is_a_sleep_before_a_failover(patch):
    def then(original, self, now):
        step = original(self, now)
        return Wait(step.place, step.kind, now + 0.3) if isinstance(step, Go) and self._tried else step

    _around(patch, Placement, "next", then)


@plant("one_quick_try", run=partial(storm, special=accidents))
def _slow_failures_are_tried_again(patch):
    patch.setattr(placement, "QUICK_WITHIN_S", float("inf"))


@plant("one_quick_try", "elsewhere_at_once")
def _quick_tries_are_not_counted(patch):
    def remember(original, self, *args):
        self._hurried = False
        original(self, *args)

    _around(patch, Placement, "remember", remember)
    patch.setattr(Place, "isolated_failure", lambda _self, _now: True)


@plant("alternatives_are_used", "as_persistent_as_the_sdk")
def _one_failure_is_enough(patch):
    _around(
        patch,
        Placement,
        "next",
        lambda original, self, now: Stuck(Reason.ATTEMPTS_EXHAUSTED) if self._tried else original(self, now),
    )


@plant("first_choice_first", run=partial(storm, special=false_limits))
def _a_doubtful_rate_limit_is_believed(patch):
    def park(original, self, now, model, delay_s, *, quota_left=False):
        original(self, now, model, 60.0 if quota_left else delay_s)

    _around(patch, CredentialState, "park", park)


@plant("second_opinions")
def _every_400_is_suspect(patch):
    patch.setattr(Rejections, "suspect", property(lambda _self: True))


@plant("second_opinions", run=partial(storm, special=strange_400s, guarded=True))
def _one_clients_400s_are_enough(patch):
    _around(patch, Rejections, "rejected", lambda original, self, now, _client: original(self, now, str(self._rejected)))


@plant("as_persistent_as_the_sdk")
def _three_short_waits_are_enough(patch):
    patch.setattr(placement, "PERSISTENCE_S", (0.0, 0.0))


@plant("openings_grow")
def _each_opening_is_the_first(patch):
    def opened(original, self, now):
        self._opened = 0
        original(self, now)

    _around(patch, Breaker, "_open", opened)


@plant("open_is_spared", "first_choice_first")
def _a_third_goes_to_what_is_open(patch):
    _around(patch, Breaker, "share", lambda original, self, now: original(self, now) or 0.3)


@plant("ramps_are_gentle", run=rush)
def _the_way_back_is_a_step(patch):
    patch.setattr(Breaker, "_ramp", lambda _self, _now: 0.99)


@plant("ramps_are_gentle", run=rush)
def _the_ramp_does_not_wait_for_successes(patch):
    patch.setattr(Breaker, "_ramp", lambda self, now: min(1.0, 0.1 + (now - self._since) / 5.0))


@plant("providers_open_for_a_cause", "first_choice_first")
def _one_target_speaks_for_all(patch):
    _around(
        patch,
        Registry,
        "_suspect_provider",
        lambda _original, self, opened: self.providers[opened.provider].breaker.trip(opened.breaker.opened_at),
    )


@plant("silence_is_noticed", run=partial(storm, special=hanging))
def _who_leaves_says_nothing(patch):
    patch.setattr(Silence, "gave_up", lambda _self, *_args, **_more: False)


@plant("hardly_ever_refused", "as_persistent_as_the_sdk")
def _half_is_hopeless(patch):
    patch.setattr(placement, "HOPELESS", 0.4)
    patch.setattr(Breaker, "trickle", lambda _self, _now: False)


@plant("advice_follows_the_table")
def _the_providers_advice_is_passed_on(patch):
    patch.setattr(Farewell, "_advice", lambda _self, _stuck, _verdict: UPSTREAMS_OWN)


@plant("advice_follows_the_table", "as_persistent_as_the_sdk")
def _whoever_is_refused_must_not_come_back(patch):
    def never(original, self, delay_s, *, booked):
        return Advice(retry=False, delay_s=original(self, delay_s, booked=booked).delay_s)

    _around(patch, Farewell, "_come_back", never)


@plant("paid_work_not_repeated", "benched_keys_rest", "one_probe_of_a_key", "keys_in_order")
def _everything_is_repeated(patch):
    patch.setattr(lessons, "INFERENCE", frozenset(Family))


@plant("objects_stay")
def _objects_go_anywhere(patch):
    _around(patch, Intake, "_candidates", lambda original, self, places, *, pinned: original(self, places, pinned=False))


@plant("keys_stay")
def _the_clients_key_goes_along(patch):
    original = request.upstream_head
    patch.setattr(request, "upstream_head", lambda *args, **more: original(*args, **{**more, "own_account": False}))


@plant(
    "abandoned_are_cancelled",
    *("sink_contract", "nothing_crashes", "metrics_equal_the_ledger", "saved_equals_the_ledger", "bytes_pass_through"),
)
def _the_cancel_is_dropped(patch):
    patch.setattr(Answer, "cancel", lambda self: setattr(self, "_over", True))


_TWO_IN_ONE = (
    *("nothing_crashes", "sink_contract", "bytes_pass_through", "deadlines_kept", "truncation_never_looks_clean"),
    *("metrics_equal_the_ledger", "saved_equals_the_ledger", "splices_are_seamless", "usage_is_what_was_reported"),
)


@plant("resumed_where_it_may_be", "one_answer", *_TWO_IN_ONE)
def _the_commit_is_forgotten(patch):
    def failed(original, self, answer, verdict):
        answer.committed = self._exchange._committed = False
        original(self, answer, verdict)

    _around(patch, Driver, "failed", failed)


@plant("one_answer", "resumed_where_it_may_be", *_TWO_IN_ONE)
def _a_broken_stream_is_taken_up_by_somebody_else(patch):
    _the_commit_is_forgotten(patch)
    _around(patch, delivery.Delivery, "open", lambda original, self, *args: None if self._sink.opened_at else original(self, *args))


@plant("deadlines_kept")
def _the_deadline_is_forgotten(patch):
    _around(patch, Ask, "__init__", lambda original, self, **more: original(self, **{**more, "deadline_at": float("inf")}))


@plant("truncation_never_looks_clean")
def _a_broken_stream_ends_like_a_whole_one(patch):
    def broken(original, self, action):
        if self._answer.reader is None:
            original(self, action)
        else:
            self._delivery.end()

    _around(patch, Driver, "_break", broken)


@plant("truncation_never_looks_clean")
def _the_terminator_follows_the_error(patch):
    def broken(original, self, action):
        if self._answer.reader is None:
            original(self, action)
        else:
            self.flow(self._answer.reader.error_event(action.code, action.message) + b"data: [DONE]\n\n")
            self._delivery.end()

    _around(patch, Driver, "_break", broken)


@plant("requests_arrive_intact")
def _a_longer_name_is_not_counted(patch):
    _around(patch, Request, "body_for", lambda original, self, *args, **more: (original(self, *args, **more)[0], 0))


@plant("bytes_pass_through")
def _an_answer_is_tidied_up(patch):
    _around(
        patch,
        Driver,
        "flow",
        lambda original, self, chunk: original(self, chunk.replace(b"gpt-4o-2024-08-06", b"gpt-4o-2024-11-20")),
    )


@plant("metrics_equal_the_ledger")
def _attempts_that_never_connected_are_not_counted(patch):
    _around(
        patch,
        Observer,
        "attempt_ended",
        lambda original, self, record, attempt: attempt.sent_at and original(self, record, attempt),
    )


@plant("saved_equals_the_ledger")
def _savings_are_not_recorded(patch):
    def finished(original, self, *args):
        actions = original(self, *args)
        self.record.saved_by = None
        return actions

    _around(patch, Exchange, "finished", finished)


@plant("trail_equals_the_ledger")
def _the_trail_begins_in_the_middle(patch):
    original = heads.trail
    patch.setattr(heads, "trail", lambda attempts, now: original(attempts[-1:], now))


@plant("home_again")
def _a_probe_that_says_nothing_keeps_its_place(patch):
    patch.setattr(Breaker, "ignored", lambda _self, _permit: None)
    patch.setattr(breaker, "PROBE_S", float("inf"))


@plant("hedges_where_they_may", "hedges_within_budget", run=delivered(HEDGED, sluggish))
def _what_the_client_declines_is_not_heard(patch):
    patch.setattr(Intake, "_may_hedge", lambda _self, policy, _facts: policy.hedge is not None)


@plant("hedges_within_budget", run=delivered(HEDGED_MEANLY, sluggish))
def _hedges_cost_nothing(patch):
    patch.setattr(HedgeBudget, "balance", property(lambda _self: 1.0))
    patch.setattr(HedgeBudget, "withdraw", lambda _self: True)


@plant("losers_are_let_go", "abandoned_are_cancelled", "hedges_are_told", *_TWO_IN_ONE, run=delivered(HEDGED, sluggish))
def _losers_are_forgotten(patch):
    def cancel(original, self, attempt):
        if self._answer is not None and self._answer.attempt is attempt:
            original(self, attempt)

    _around(patch, Driver, "_cancel", cancel)


@plant("losing_is_no_failure", "first_choice_first", run=delivered(HEDGED, sluggish))
def _losing_counts_as_failure(patch):
    _around(patch, Exchange, "_cancel", lambda original, self, now, attempt, _scope: original(self, now, attempt, Scope.TARGET))


@plant("hedges_are_told", run=delivered(HEDGED, sluggish))
def _hedges_are_not_counted(patch):
    patch.setattr(observer, "results", lambda _record: [])


@plant("comments_stand_between_events", "bytes_pass_through", run=delivered(KEPT_ALIVE))
def _a_comment_runs_into_the_next_event(patch):
    patch.setattr(driver, "KEEP_ALIVE", b": keep-alive\n")


@plant("streams_are_kept_alive", run=delivered(KEPT_ALIVE))
def _comments_are_forgotten(patch):
    patch.setattr(Driver, "_comfort", lambda _self: None)


@plant("early_heads_keep_their_word", run=delivered(KEPT_ALIVE))
def _a_stream_that_was_promised_is_cut_off(patch):
    def broken(original, self, action):
        if self._delivery.early and (self._answer is None or not self._answer.committed):
            self._delivery.abort()
        else:
            original(self, action)

    _around(patch, Driver, "_break", broken)


@plant("held_until_it_is_sure", run=delivered(HELD))
def _nothing_is_held_back(patch):
    def init(original, self, ask, *args):
        ask.policy = dataclasses.replace(ask.policy, stream=dataclasses.replace(ask.policy.stream, hold_s=0.0))
        original(self, ask, *args)

    _around(patch, Exchange, "__init__", init)


@plant("resumed_where_it_may_be", run=delivered(RESUMED))
def _json_is_continued(patch):
    patch.setattr(transcript, "_is_text_format", lambda _asked: True)


@plant("broken_streams_are_resumed", run=delivered(RESUMED))
def _nothing_is_resumed(patch):
    patch.setattr(Resumption, "possible", property(lambda _self: False))


@plant("splices_are_seamless", run=delivered(RESUMED))
def _what_the_client_has_is_said_again(patch):
    def past(original, self, delta):
        new = original(self, delta)
        return new if new is None else delta

    _around(patch, splice_generic.Overlap, "past", past)


@plant("splices_are_seamless", "one_answer", run=delivered(RESUMED))
def _another_answer_is_joined_on(patch):
    _around(patch, splice_generic.Overlap, "past", lambda original, self, delta: original(self, delta) or delta)


@plant("splices_are_seamless", "one_answer", run=delivered(RESUMED))
def _a_splice_is_not_declared(patch):
    patch.setattr(resumption, "seam", lambda _provider: b"")


@plant("refused_beginnings_are_remembered", run=delivered(BEGUN))
def _a_refused_beginning_is_offered_again(patch):
    def resume(original, self, now, attempt, verdict):
        go = original(self, now, attempt, verdict)
        attempt.place.state.prefill_refused = False
        return go

    _around(patch, Exchange, "_resume", resume)


@plant("usage_is_what_was_reported", run=delivered(RESUMED))
def _only_the_last_report_counts(patch):
    patch.setattr(splice_generic, "total", lambda _before, report: report)


def _name(bug: Plant) -> str:
    return bug.__name__.strip("_")


@pytest.mark.interpreted
@pytest.mark.parametrize(("invariant", "company", "run", "bug"), PLANTS, ids=[_name(bug) for *_, bug in PLANTS])
def test_a_planted_bug_is_caught(invariant, company, run, bug, monkeypatch):
    bug(monkeypatch)
    broken = set()
    for seed in SEEDS:
        world, errands = run(seed)
        broken |= {breach.invariant for breach in breaches(world.run(errands))}
        if invariant in broken:
            break
    assert invariant in broken, f"{len(SEEDS)} runs, and nobody noticed; only {broken}"
    assert broken <= {invariant, *company}


def _leaving_counts_as_failure(patch):
    def settle(original, self, now, scope, *args, **more):
        original(self, now, Scope.TARGET if scope is Scope.NOBODY else scope, *args, **more)

    _around(patch, Attempt, "settle", settle)


def _all_clients_keys_are_one(patch):
    _around(patch, ProviderState, "foreign", lambda original, self, _key: original(self, "everybody"))


@pytest.mark.interpreted
@pytest.mark.parametrize("bug", [_leaving_counts_as_failure, _all_clients_keys_are_one], ids=_name)
def test_a_bug_that_lets_clients_hurt_each_other_is_caught_by_law_11(bug, monkeypatch):
    bug(monkeypatch)
    runs = ((mischief.run(seed, beside_a_bad_one=True), mischief.run(seed, beside_a_bad_one=False)) for seed in range(5))
    assert next(chain.from_iterable(law_11(*each) for each in runs), None) is not None


def test_every_invariant_has_a_plant():
    assert {invariant for invariant, *_ in PLANTS} == {each.__name__ for each in ALL}
