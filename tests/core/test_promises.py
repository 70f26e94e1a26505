"""Promises: whoever heeds the advice gets in, and no more is promised than half of what can be served."""

import random
from bisect import insort
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gateway.core import promises
from gateway.core.promises import CLIENT_SHARE, EARLY_S, GRACE_S, HORIZON_S, Promises

NOW = 1000.0


def give(kept, client="a", *, now=NOW, wait_s=0.0, tokens=100.0, tokens_per_s=None, requests_per_s=None):
    return kept.give(now, client, wait_s=wait_s, tokens=tokens, tokens_per_s=tokens_per_s, requests_per_s=requests_per_s)


@pytest.mark.parametrize(
    ("wait_s", "told"), [(0.0, 1.0), (0.2, 1.0), (7.5, 7.5), (HORIZON_S, HORIZON_S), (HORIZON_S + 0.1, None), (float("inf"), None)]
)
@pytest.mark.parametrize("rate", [None, 1e6])
def test_the_first_is_told_what_it_would_have_waited_and_at_least_a_second(wait_s, told, rate):
    assert give(Promises(), wait_s=wait_s, tokens_per_s=rate, requests_per_s=rate) == told


def test_without_a_known_rate_everybody_is_told_the_same():
    kept = Promises()
    assert [give(kept, wait_s=2.0) for _ in range(3)] == [2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("rates", "apart"),
    [
        ({"tokens_per_s": 100.0}, 2.0),
        ({"requests_per_s": 4.0}, 0.5),
        ({"tokens_per_s": 100.0, "requests_per_s": 4.0}, 2.0),
        ({"tokens_per_s": 1000.0, "requests_per_s": 4.0}, 0.5),
    ],
)
def test_half_of_the_scarcer_rate_is_promised(rates, apart):
    kept = Promises()
    assert [give(kept, **rates) for _ in range(4)] == pytest.approx([1.0 + apart * each for each in range(4)])


def test_what_cannot_be_served_is_not_promised():
    kept = Promises()
    assert give(kept, tokens_per_s=0.0) is None
    assert give(kept, tokens_per_s=10.0, requests_per_s=0.0) is None
    assert len(kept) == 0


def test_a_promise_comes_due_a_little_early_and_holds_for_a_while():
    for at, due in [
        (5.0 - EARLY_S - 0.01, False),
        (5.0 - EARLY_S, True),
        (5.0, True),
        (5.0 + GRACE_S, True),
        (5.1 + GRACE_S, False),
    ]:
        kept = Promises()
        assert give(kept, wait_s=5.0) == 5.0
        assert not kept.redeem(NOW + at, "another")
        assert kept.redeem(NOW + at, "a") is due
        assert not kept.redeem(NOW + at, "a")


def test_each_request_that_comes_uses_up_the_earliest_promise():
    kept = Promises()
    for wait_s in (9.0, 3.0, 6.0):
        give(kept, wait_s=wait_s)
    assert [kept.redeem(NOW + 6.0, "a") for _ in range(3)] == [True, True, False]
    assert kept.redeem(NOW + 9.0, "a")
    assert len(kept) == 0


def test_a_client_with_a_long_wait_does_not_push_back_one_with_a_short_one():
    kept = Promises()
    for _ in range(5):
        give(kept, "flood", wait_s=20.0, requests_per_s=1.0)
    assert give(kept, "b", requests_per_s=1.0) == 1.0
    assert give(kept, "c", requests_per_s=1.0) == 3.0
    assert give(kept, "d", wait_s=19.0, requests_per_s=1.0) == 30.0  # where no two seconds are free before


def test_what_fits_between_two_promises_is_put_there():
    kept = Promises()
    assert give(kept, wait_s=10.0, requests_per_s=1.0) == 10.0
    assert give(kept, wait_s=14.0, requests_per_s=1.0) == 14.0
    assert give(kept, wait_s=10.0, tokens=3.0, tokens_per_s=2.0) == 16.0
    assert give(kept, wait_s=10.0, tokens=2.0, tokens_per_s=2.0) == 12.0
    assert give(kept, wait_s=10.0, tokens=1.0, tokens_per_s=2.0) == 19.0


def test_gaps_too_short_to_be_of_use_are_closed_on_both_sides():
    kept = Promises()
    for wait_s in (10.0, 14.04, 7.96, 12.02):
        assert give(kept, wait_s=wait_s, requests_per_s=1.0) == pytest.approx(wait_s)
    assert (kept._begins, kept._ends) == ([pytest.approx(NOW + 7.96)], [pytest.approx(NOW + 16.04)])


def test_a_client_books_half_of_the_horizon_and_leaves_the_rest_to_the_others():
    kept = Promises()
    told = [give(kept, "flood", requests_per_s=1.0) for _ in range(1000)]
    assert sum(each is not None for each in told) == CLIENT_SHARE * HORIZON_S / 2
    assert give(kept, "b", requests_per_s=1.0) == 1.0 + CLIENT_SHARE * HORIZON_S
    assert kept.redeem(NOW + 1.0, "flood")
    assert give(kept, "flood", now=NOW + 1.0, requests_per_s=1.0) is not None


def test_one_that_takes_longer_than_the_horizon_has_it_to_itself():
    kept = Promises()
    assert give(kept, tokens=1e6, tokens_per_s=1.0) == 1.0
    assert give(kept, "b", requests_per_s=1.0) is None
    assert give(kept, "b", now=NOW + 5, requests_per_s=1.0) == 1.0 + HORIZON_S - 5


@pytest.mark.interpreted
def test_so_many_are_kept_and_no_more(monkeypatch):
    monkeypatch.setattr(promises, "MOST", 3)
    kept = Promises()
    assert [give(kept, str(client)) for client in range(4)] == [1.0, 1.0, 1.0, None]
    assert give(kept, "4", now=NOW + 1.1 + GRACE_S) == 1.0
    assert len(kept) == 1


def test_what_comes_due_is_told_in_tokens_and_number():
    kept = Promises()
    for client, wait_s, tokens in [("a", 2.0, 10.0), ("b", 5.0, 20.0), ("a", 9.0, 40.0)]:
        give(kept, client, wait_s=wait_s, tokens=tokens)
    assert kept.due(NOW, 1.0) == (0, 0)
    assert kept.due(NOW, 5.0) == (30.0, 2)
    assert kept.due(NOW + 3, 5.0) == (30.0, 2)  # the first may still come
    assert kept.due(NOW + 2.1 + GRACE_S, 0.0) == (60.0, 2)
    assert kept.redeem(NOW + 2.1 + GRACE_S, "b")
    assert kept.due(NOW + 2.1 + GRACE_S, 0.0) == (40.0, 1)


def test_nothing_is_kept_of_clients_that_did_not_come():
    kept = Promises()
    for client in range(100):
        give(kept, str(client), requests_per_s=1000.0)
    assert kept.due(NOW + 2 * HORIZON_S, HORIZON_S) == (0, 0)
    assert (kept._kept, kept._clients, kept._booked, kept._begins, kept._ends) == ([], {}, {}, [], [])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_whoever_heeds_the_advice_gets_in(seed):
    chance = random.Random(seed)
    kept, told, now = Promises(), [], NOW
    for _ in range(200):
        now += chance.uniform(0.0, 0.5)
        while told and told[0][0] <= now:
            assert kept.redeem(*told.pop(0))
        client = chance.choice("abc")
        delay = give(
            kept, client, now=now, wait_s=chance.uniform(0.0, 30.0), tokens_per_s=200.0, requests_per_s=chance.choice([None, 2.0])
        )
        if delay is not None:
            # Advice is jittered upwards, and a timer may be early by a little.
            insort(told, (now + delay + chance.uniform(-EARLY_S, GRACE_S) * 0.99, client))
    assert told
    for at, back in told:
        assert kept.redeem(at, back)


class PromisesAgainstModel(RuleBasedStateMachine):
    """The model keeps everything for ever and looks at all of it each time."""

    @initialize(tokens_per_s=st.sampled_from([None, 40.0, 1000.0]), requests_per_s=st.sampled_from([None, 0.5, 5.0]))
    def begin(self, tokens_per_s, requests_per_s):
        self.now, self.kept = NOW, Promises()
        self.rates = {"tokens_per_s": tokens_per_s, "requests_per_s": requests_per_s}
        self.given = []

    def takes_s(self, tokens):
        takes = [0.0]
        if self.rates["tokens_per_s"]:
            takes.append(2 * tokens / self.rates["tokens_per_s"])
        if self.rates["requests_per_s"]:
            takes.append(2 / self.rates["requests_per_s"])
        return max(takes)

    def alive(self, client=None):
        return [each for each in self.given if not each[3] and each[0] + GRACE_S >= self.now and client in {None, each[1]}]

    @rule(seconds=st.sampled_from([0.0517321, 0.5312347, 3.1713523, 20.3091871]))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(client=st.sampled_from("ab"), wait_s=st.sampled_from([0.0, 2.0, 11.0, 58.0]), tokens=st.sampled_from([1.0, 40.0, 200.0]))
    def refuse(self, client, wait_s, tokens):
        told = give(self.kept, client, now=self.now, wait_s=wait_s, tokens=tokens, **self.rates)
        soonest, takes_s = max(wait_s, 1.0), self.takes_s(tokens)
        held = [self.takes_s(each[2]) for each in self.alive(client)]
        if told is None:
            # Either it holds enough, or its time is full: no span as long, and a crumb at each end, is free where it could come.
            spans = sorted((each[0], each[0] + self.takes_s(each[2])) for each in self.given)
            at, free = self.now + soonest, []
            for begins, ends in spans:
                free.append(begins - at)
                at = max(at, ends)
            assert (held and sum(held) + takes_s > CLIENT_SHARE * HORIZON_S - 1e-6) or (
                max(free, default=0.0) < takes_s + 2 * promises.CRUMB_S
                and at > self.now + HORIZON_S - promises.CRUMB_S * len(spans)
            )
            return
        assert soonest <= told + 1e-9
        assert told <= HORIZON_S + 1e-9
        assert not held or sum(held) + takes_s <= CLIENT_SHARE * HORIZON_S + 1e-6
        self.given.append([self.now + told, client, tokens, False])

    @rule(client=st.sampled_from("abc"))
    def come_back(self, client):
        due = sorted(each for each in self.alive(client) if each[0] <= self.now + EARLY_S)
        assert self.kept.redeem(self.now, client) is bool(due)
        if due:
            due[0][3] = True

    @rule(within_s=st.sampled_from([0.0, 5.0, 60.0]))
    def look_ahead(self, within_s):
        due = [each for each in self.alive() if each[0] <= self.now + within_s]
        assert self.kept.due(self.now, within_s) == (pytest.approx(sum(each[2] for each in due)), len(due))
        assert len(self.kept) == len(self.alive())

    @invariant()
    def no_time_is_promised_twice(self):
        """From which it follows that no more comes due in any time than is served in it at half the rate, and one request."""
        booked = sorted((each[0], each[0] + self.takes_s(each[2])) for each in self.given)
        for (_, ends), (begins, _) in pairwise(booked):
            assert ends <= begins + 1e-6

    @invariant()
    def bookings_are_in_order_and_apart(self):
        spans = [edge for span in zip(self.kept._begins, self.kept._ends, strict=True) for edge in span]
        assert spans == sorted(spans)


PromisesAgainstModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPromisesAgainstModel = PromisesAgainstModel.TestCase
