"""Balancing: who is tried first and how often, and that nobody is ever left out."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.balance import TRIAL, order
from gateway.core.pace import Pace
from gateway.core.plan import Balance, ProviderPlan, Target
from gateway.core.verdicts import Fault

NOW = 1000.0
BALANCED = [Balance.WEIGHTED, Balance.FASTEST, Balance.LEAST_BUSY]
PLAN = ProviderPlan("a", "a")


class Stand:
    """A place as far as balancing looks at it."""

    def __init__(self, name, *, weight=1.0, share=1.0, pace=None, whole=None, pending=0, busy=0.0, only_for=()):
        self.name = name
        self.target = Target(PLAN, weight=weight, only_for=frozenset(only_for))
        self.admitted = share
        self.state = SimpleNamespace(pace=(Pace(), Pace()), pending=pending)
        self.gate = SimpleNamespace(busy=lambda _now: busy)
        for kind, seconds in enumerate((whole, pace)):
            if seconds is not None:
                self.state.pace[kind].add(NOW, seconds)

    def share(self, _now):
        return self.admitted

    def __repr__(self):
        return self.name


class Chance:
    """A dice that always shows the same."""

    def __init__(self, share):
        self.share = share

    def random(self):
        return self.share


def names(balance, places, chance, *, now=NOW, stream=True):
    return "".join(place.name for place in order(balance, places, now=now, chance=chance, stream=stream))


def firsts(balance, places, rounds=20_000, *, stream=True):
    """How often each came first, as a share."""
    dice = random.Random(11)
    count = Counter(order(balance, places, now=NOW, chance=dice, stream=stream)[0].name for _ in range(rounds))
    return {place.name: count[place.name] / rounds for place in places}


def test_an_ordered_route_is_left_alone():
    places = [Stand("a"), Stand("b")]
    assert order(Balance.ORDERED, places, now=NOW, chance=random.Random(1), stream=True) is places


@pytest.mark.parametrize("balance", BALANCED)
def test_what_admits_or_weighs_nothing_comes_after_the_rest_and_what_is_for_special_faults_at_the_very_end(balance):
    special, shut, idle = Stand("s", only_for=[Fault.CONTEXT_LENGTH]), Stand("h", share=0.0), Stand("w", weight=0.0)
    places = [special, shut, idle, Stand("a", pace=9.0, busy=0.9)]
    assert names(balance, places, random.Random(1)) == "ahws"


@st.composite
def stands(draw):
    return Stand(
        draw(st.text("abc", min_size=1, max_size=3)),
        weight=draw(st.sampled_from([0.0, 0.1, 1.0, 7.0])),
        share=draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])),
        pace=draw(st.none() | st.floats(0.0, 100.0)),
        whole=draw(st.none() | st.floats(0.0, 100.0)),
        pending=draw(st.integers(0, 1000)),
        busy=draw(st.floats(0.0, 1.0)),
        only_for=draw(st.sampled_from([(), (Fault.CONTEXT_LENGTH,)])),
    )


@given(st.lists(stands(), max_size=6), st.sampled_from(BALANCED), st.integers(0, 1000), st.booleans())
def test_every_place_comes_once_and_its_turn_depends_on_the_dice_alone(places, balance, seed, stream):
    tried = list(order(balance, places, now=NOW, chance=random.Random(seed), stream=stream))
    assert sorted(map(id, tried)) == sorted(map(id, places))
    assert tried == list(order(balance, places, now=NOW, chance=random.Random(seed), stream=stream))
    classes = [2 if place.target.only_for else int(not place.admitted or not place.target.weight) for place in tried]
    assert classes == sorted(classes), "balanced ones, then what admits nothing, then what is for special faults"
    for rank in (1, 2):
        of_rank = [place for place, its in zip(tried, classes, strict=True) if its == rank]
        assert of_rank == [place for place in places if place in of_rank], "in the order of the file"


@given(st.lists(stands(), max_size=6), st.sampled_from(BALANCED), st.sampled_from([0.0, 1.0]))
def test_dice_at_their_edges_break_nothing(places, balance, edge):
    assert len(order(balance, places, now=NOW, chance=Chance(edge), stream=True)) == len(places)


# -- weighted -------------------------------------------------------------------------------------------------------------------


def test_first_choices_are_as_the_weights():
    shares = firsts(Balance.WEIGHTED, [Stand("a", weight=5), Stand("b", weight=3), Stand("c", weight=2)])
    assert shares == pytest.approx({"a": 0.5, "b": 0.3, "c": 0.2}, abs=0.01)


def test_second_choices_are_as_the_weights_that_are_left():
    dice = random.Random(5)
    places = [Stand("a", weight=5), Stand("b", weight=3), Stand("c", weight=2)]
    orders = Counter(names(Balance.WEIGHTED, places, dice) for _ in range(20_000))
    assert orders["abc"] / 20_000 == pytest.approx(0.5 * 3 / 5, abs=0.015)
    assert orders["cba"] / 20_000 == pytest.approx(0.2 * 3 / 8, abs=0.015)


def test_a_recovering_place_keeps_its_weight_for_the_walk_asks_the_dice_about_its_share():
    shares = firsts(Balance.WEIGHTED, [Stand("a", weight=2, share=0.25), Stand("b", weight=2)])
    assert shares == pytest.approx({"a": 0.5, "b": 0.5}, abs=0.01)


# -- fastest --------------------------------------------------------------------------------------------------------------------


def test_of_two_the_less_loaded_is_always_first():
    places = [Stand("a", pace=2.0, pending=1), Stand("b", pace=0.5, pending=4)]
    assert firsts(Balance.FASTEST, places, 100) == {"a": 0.0, "b": 1.0}


def test_streams_and_whole_answers_are_measured_apart():
    places = [Stand("a", pace=2.0, whole=3.0), Stand("b", pace=0.5, whole=30.0)]
    assert names(Balance.FASTEST, places, random.Random(1), stream=True) == "ba"
    assert names(Balance.FASTEST, places, random.Random(1), stream=False) == "ab"


def test_of_many_two_are_drawn_so_that_not_everybody_goes_to_the_best():
    places = [Stand("d", pace=4.0), Stand("b", pace=2.0), Stand("a", pace=1.0), Stand("c", pace=3.0)]
    shares = firsts(Balance.FASTEST, places)
    assert shares == pytest.approx({"a": 1 / 2, "b": 1 / 3, "c": 1 / 6, "d": 0.0}, abs=0.01)


def test_the_rest_follow_by_load():
    places = [Stand("d", pace=4.0), Stand("b", pace=2.0), Stand("a", pace=1.0), Stand("c", pace=3.0)]
    dice = random.Random(3)
    assert {names(Balance.FASTEST, places, dice) for _ in range(200)} == {"abcd", "bacd", "cabd"}


def test_equals_take_turns():
    assert firsts(Balance.FASTEST, [Stand("a", pace=1.0), Stand("b", pace=1.0)]) == pytest.approx({"a": 0.5, "b": 0.5}, abs=0.015)


def test_a_newcomer_is_tried_at_once_but_by_one_request_and_a_few():
    known = Stand("a", pace=0.1)
    assert firsts(Balance.FASTEST, [known, Stand("b")], 100)["b"] == 1.0
    assert firsts(Balance.FASTEST, [known, Stand("b", pending=1)])["b"] == pytest.approx(TRIAL, abs=0.005)


def test_of_two_newcomers_under_trial_the_one_with_less_under_way_is_first():
    assert names(Balance.FASTEST, [Stand("a", pending=3), Stand("b", pending=2)], Chance(0.5)) == "ba"


def test_a_newcomer_looks_better_than_what_has_only_failed_and_gets_its_part_where_others_are_busy():
    failing = Stand("f")
    for _ in range(20):
        failing.state.pace[True].failed(NOW, 120.0)
    busy = Stand("b", pace=10.0, pending=500)
    assert names(Balance.FASTEST, [failing, Stand("n", pending=300)], Chance(0.5)) == "nf"
    assert names(Balance.FASTEST, [busy, Stand("n", pending=50)], Chance(0.5)) == "nb"
    assert names(Balance.FASTEST, [busy, Stand("n", pending=100)], Chance(0.5)) == "bn"


def test_a_recovering_place_is_ranked_by_its_load_and_admitted_by_the_walk():
    assert names(Balance.FASTEST, [Stand("a", pace=2.0), Stand("b", pace=1.0, share=0.1)], random.Random(1)) == "ba"


def race(good, bad, *, seed=1, per_s=50.0, seconds=120.0):
    """Poisson arrivals go where `order` says; a target is (seconds to answer, share of failures). Return who got how many."""
    dice = random.Random(seed)
    places = [Stand("good"), Stand("bad")]
    ways = {"good": good, "bad": bad}
    now, under_way, got = NOW, [], Counter()
    while now < NOW + seconds:
        now += dice.expovariate(per_s)
        while under_way and under_way[0][0] <= now:
            at, number, fails, took_s = heapq.heappop(under_way)
            state = places[number].state
            state.pending -= 1
            if fails:
                state.pace[True].failed(at, 120.0)
            else:
                state.pace[True].add(at, took_s)
        first = order(Balance.FASTEST, places, now=now, chance=dice, stream=True)[0]
        first.state.pending += 1
        answer_s, failures = ways[first.name]
        fails = dice.random() < failures
        took_s = 0.02 if fails else answer_s * dice.uniform(0.8, 1.2)
        heapq.heappush(under_way, (now + took_s, places.index(first), fails, took_s))
        got[first.name] += 1
    return got


@pytest.mark.parametrize("answer_s", [0.3, 2.0, 10.0])
def test_a_target_that_fails_in_no_time_is_no_black_hole(answer_s):
    """Also where the good one has hundreds under way, and the failing one none."""
    got = race((answer_s, 0.0), (0.02, 1.0))
    assert got["bad"] / got.total() < 0.01


@pytest.mark.parametrize("failures", [0.4, 0.7])
def test_nor_is_one_that_fails_often_enough_to_hurt_and_too_seldom_for_its_breaker(failures):
    got = race((2.0, 0.0), (2.0, failures))
    assert got["bad"] / got.total() < 0.02


def test_an_accident_in_a_thousand_does_not_give_the_fastest_away():
    got = race((0.5, 0.001), (3.0, 0.0))
    assert got["good"] / got.total() > 0.7


def test_load_is_shared_in_proportion_to_how_quick_targets_are():
    got = race((1.0, 0.0), (2.0, 0.0))
    assert got["good"] / got["bad"] == pytest.approx(4.0, rel=0.3)  # half the time, and half as many under way


# -- least busy -----------------------------------------------------------------------------------------------------------------


def test_the_least_busy_is_first_in_proportion_to_its_weight():
    places = [Stand("a", busy=0.5), Stand("b", busy=0.4), Stand("c", busy=0.6, weight=2), Stand("d", busy=0.0, share=0)]
    assert names(Balance.LEAST_BUSY, places, random.Random(1)) == "cbad"


def test_the_idle_take_turns_by_weight():
    shares = firsts(Balance.LEAST_BUSY, [Stand("a", weight=3), Stand("b")])
    assert shares == pytest.approx({"a": 0.75, "b": 0.25}, abs=0.01)
