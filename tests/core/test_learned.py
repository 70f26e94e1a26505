"""Learned limits: what a target usually takes decides how long it may take, within bounds the operator chose."""

import pytest

from gateway.core.latency import MIN_SAMPLES
from gateway.core.plan import Learned, Policy, Timeouts
from tests.core.build import World, policy, shut

LEARNED = Learned()
STREAMS = policy(learned_first_token=LEARNED)
ANSWERS = policy(learned_answer=LEARNED)


def limit(world, *, rule=STREAMS, stream=True, **settings):
    """For how long an exchange's first attempt may be silent."""
    told = world.exchange(policy=rule, stream=stream, **settings)
    told.start()
    return told.sent().waits


def test_until_there_is_enough_data_it_is_the_number():
    world = World("a")
    world.knows("a", 30.0, times=99)
    assert limit(world) == 120.0
    world.knows("a", 30.0, times=1)
    assert limit(world) == pytest.approx(90.0, rel=0.02)


@pytest.mark.parametrize(
    ("learned", "usual", "expected"),
    [
        (Learned(), 30.0, 90.0),
        (Learned(), 1.0, 20.0),
        (Learned(), 100.0, 300.0),  # longer than the number, where the target is slow by nature
        (Learned(factor=2.0), 30.0, 60.0),
        (Learned(floor_s=5.0), 1.0, 5.0),
        (Learned(floor_s=1.0), 1.0, 3.0),
    ],
)
def test_it_is_a_multiple_of_what_is_usual_and_never_below_the_floor(learned, usual, expected):
    world = World("a")
    world.knows("a", usual)
    assert limit(world, rule=policy(learned_first_token=learned)) == pytest.approx(expected, rel=0.02)


def test_what_is_usual_is_a_quantile():
    world = World("a")
    world.knows("a", *[float(second) for second in range(10, 110)], times=1)
    for quantile, expected in [(0.5, 60.0), (0.99, 108.0)]:
        rule = policy(learned_first_token=Learned(quantile=quantile, factor=1.0))
        assert limit(world, rule=rule) == pytest.approx(expected, rel=0.03)


def test_streams_and_whole_answers_have_limits_and_histories_of_their_own():
    world = World("a")
    world.knows("a", 30.0)
    world.knows("a", 50.0, stream=False)
    assert limit(world, rule=STREAMS) == pytest.approx(90.0, rel=0.02)
    assert limit(world, rule=STREAMS, stream=False) == 600.0
    assert limit(world, rule=ANSWERS) == 120.0
    assert limit(world, rule=ANSWERS, stream=False) == pytest.approx(150.0, rel=0.02)


def test_larger_requests_have_a_history_of_their_own():
    world = World("a")
    world.knows("a", 10.0)
    world.knows("a", 60.0, size=300_000)
    assert limit(world) == pytest.approx(30.0, rel=0.02)
    assert limit(world, size=300_000) == pytest.approx(180.0, rel=0.02)
    assert limit(world, size=10_000) == 120.0


def test_each_attempt_goes_by_its_own_targets_history():
    world = World("a", "b")
    world.knows("a", 10.0)
    world.knows("b", 40.0)
    told = world.exchange(policy=STREAMS, stream=True)
    told.start()
    assert told.sent().waits == pytest.approx(30.0, rel=0.02)
    assert told.wakes() == ["cancel a", "failover b"]
    assert told.sent().waits == pytest.approx(120.0, rel=0.02)
    assert told.trail == ["a:timeout", "b:"]


def test_a_probe_has_no_longer_than_ever():
    world = World("a", "b")
    world.knows("a", 30.0)
    shut(world.breaker("a"), world.now)
    world.now += 5.0
    assert limit(world) == 10.0


@pytest.mark.parametrize(("rule", "stream"), [(STREAMS, True), (ANSWERS, False), (ANSWERS, True)])
def test_it_is_learned_from_what_was_served(rule, stream):
    world = World("a")
    for _ in range(MIN_SAMPLES):
        told = world.exchange(policy=rule, stream=stream)
        told.start()
        told.sent(after=0.5)
        if stream:
            told.begins(after=2.0)
        told.answers(after=4.0)
    expected = 2.0 if stream else 4.0
    assert world.history(stream=stream).quantile(world.now, 0.9) == pytest.approx(expected, rel=0.02), "from its sending on"
    assert world.history(stream=not stream).quantile(world.now, 0.9) is None


def test_where_nothing_is_learned_nothing_is_measured():
    assert [
        Policy(timeouts=Timeouts(**each)).measures for each in ({}, {"learned_first_token": LEARNED}, {"learned_answer": LEARNED})
    ] == [
        False,
        True,
        True,
    ]
    world = World("a")
    told = world.exchange(stream=True)
    told.start()
    told.sent().begins(after=1.0)
    assert world.history()._sketches == []
