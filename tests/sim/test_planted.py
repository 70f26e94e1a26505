"""Every invariant has a planted bug that it catches, or it would be a comment.

Each plant changes one behaviour of the core or the driver, as a slip of an editor's hand might. Within a bounded number of seeds
some run must then break the plant's invariant, and no other but those that the same bug breaks by its nature, its company.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import chain

import pytest

from gateway.core import breaker, exchange
from gateway.core.attempt import Ask, Attempt
from gateway.core.breaker import Breaker
from gateway.core.budget import Budget
from gateway.core.exchange import Exchange
from gateway.core.placement import Placement
from gateway.core.plan import Family
from gateway.core.record import Ending
from gateway.core.registry import CredentialState
from gateway.core.verdicts import Scope
from gateway.egress import driver, heads
from gateway.egress.answer import Answer
from gateway.egress.driver import Driver
from gateway.ingress.admission import Intake
from gateway.observe.observer import Observer
from tests.sim import mischief
from tests.sim.invariants import ALL, breaches, law_11
from tests.sim.storm import storm

SEEDS = range(40)

Plant = Callable[[pytest.MonkeyPatch], None]
PLANTS: list[tuple[str, frozenset[str], Plant]] = []


def plant(invariant: str, *company: str) -> Callable[[Plant], Plant]:
    """Register a planted bug: the invariant that must catch it, and those that may."""

    def registered(bug: Plant) -> Plant:
        PLANTS.append((invariant, frozenset(company), bug))
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

    _around(patch, Driver, "_length", length)


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


@plant("delays_kept")
def _nothing_is_parked(patch):
    patch.setattr(CredentialState, "park", lambda _self, _now, _model, _delay_s: None)


@plant("delays_kept")
def _a_late_success_lifts_a_fresh_park(patch):
    _around(patch, CredentialState, "served", lambda original, self, model, *_began: original(self, model))


@plant("paid_work_not_repeated")
def _everything_is_repeated(patch):
    patch.setattr(exchange, "INFERENCE", frozenset(Family))


@plant("objects_stay")
def _objects_go_anywhere(patch):
    _around(patch, Intake, "_candidates", lambda original, self, places, *, pinned: original(self, places, pinned=False))


@plant("keys_stay")
def _the_clients_key_goes_along(patch):
    original = driver.upstream_head
    patch.setattr(driver, "upstream_head", lambda *args, **more: original(*args, **{**more, "own_account": False}))


@plant(
    "abandoned_are_cancelled",
    *("sink_contract", "nothing_crashes", "metrics_equal_the_ledger", "saved_equals_the_ledger", "bytes_pass_through"),
)
def _the_cancel_is_dropped(patch):
    patch.setattr(Answer, "cancel", lambda self: setattr(self, "_over", True))


_TWO_IN_ONE = ("sink_contract", "bytes_pass_through", "deadlines_kept", "truncation_never_looks_clean")


@plant("nothing_after_commit", "one_answer", *_TWO_IN_ONE)
def _the_commit_is_forgotten(patch):
    def failed(original, self, answer, verdict):
        answer.committed = False
        original(self, answer, verdict)

    _around(patch, Driver, "failed", failed)


@plant("one_answer", "nothing_after_commit", *_TWO_IN_ONE)
def _a_broken_stream_is_taken_up_by_somebody_else(patch):
    _the_commit_is_forgotten(patch)
    _around(patch, Driver, "_open", lambda original, self, attempt: None if self._sink.opened_at else original(self, attempt))


@plant("deadlines_kept")
def _the_deadline_is_forgotten(patch):
    _around(patch, Ask, "__init__", lambda original, self, **more: original(self, **{**more, "deadline_at": float("inf")}))


@plant("truncation_never_looks_clean")
def _a_broken_stream_ends_like_a_whole_one(patch):
    def broken(original, self, action):
        if self._answer.reader is None:
            original(self, action)
        else:
            self._sink.end()

    _around(patch, Driver, "_break", broken)


@plant("truncation_never_looks_clean")
def _the_terminator_follows_the_error(patch):
    def broken(original, self, action):
        if self._answer.reader is None:
            original(self, action)
        else:
            self.flow(self._answer.reader.error_event(action.code, action.message) + b"data: [DONE]\n\n")
            self._sink.end()

    _around(patch, Driver, "_break", broken)


@plant("requests_arrive_intact")
def _a_longer_name_is_not_counted(patch):
    _around(patch, Driver, "_body_for", lambda original, self, *args: (original(self, *args)[0], 0))


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


def _name(bug: Plant) -> str:
    return bug.__name__.strip("_")


@pytest.mark.parametrize(("invariant", "company", "bug"), PLANTS, ids=[_name(bug) for _, _, bug in PLANTS])
def test_a_planted_bug_is_caught(invariant, company, bug, monkeypatch):
    bug(monkeypatch)
    broken = set()
    for seed in SEEDS:
        world, errands = storm(seed)
        broken |= {breach.invariant for breach in breaches(world.run(errands))}
        if invariant in broken:
            break
    assert invariant in broken, f"{len(SEEDS)} storms, and nobody noticed; only {broken}"
    assert broken <= {invariant, *company}


def _leaving_counts_as_failure(patch):
    def settle(original, self, now, scope, *args, **more):
        original(self, now, Scope.TARGET if scope is Scope.NOBODY else scope, *args, **more)

    _around(patch, Attempt, "settle", settle)


def _all_clients_keys_are_one(patch):
    patch.setattr(Placement, "_unowned", lambda _self, place: place.provider.foreign("everybody"))


@pytest.mark.parametrize("bug", [_leaving_counts_as_failure, _all_clients_keys_are_one], ids=_name)
def test_a_bug_that_lets_clients_hurt_each_other_is_caught_by_law_11(bug, monkeypatch):
    bug(monkeypatch)
    runs = ((mischief.run(seed, beside_a_bad_one=True), mischief.run(seed, beside_a_bad_one=False)) for seed in range(5))
    assert next(chain.from_iterable(law_11(*each) for each in runs), None) is not None


def test_every_invariant_has_a_plant():
    assert {invariant for invariant, _, _ in PLANTS} == {each.__name__ for each in ALL}
