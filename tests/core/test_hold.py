"""Holding streams back: what breaks meanwhile stays unseen, the race is over all the same, and nothing waits longer than it may."""

import pytest

from gateway.core.breaker import State
from gateway.core.bucket import NEVER
from gateway.core.plan import HedgePlan
from tests.core.build import NOW, World, policy, shut

BRIEFLY = policy(hold=0.5, stall=20.0, max_stream=100.0)
WHOLE = policy(hold=NEVER, stall=20.0, max_stream=100.0)
EITHER = pytest.mark.parametrize("rule", [BRIEFLY, WHOLE])


def held(*targets, rule=BRIEFLY, world=None, **settings):
    """An exchange whose first content came, one second after it was sent, and is held back."""
    told = (world or World(*(targets or ("a", "b")))).exchange(policy=rule, stream=True, **settings)
    assert told.start() == ["first a"]
    assert told.sent().begins(after=1.0) == []
    return told


# -- how long ---------------------------------------------------------------------------------------------------------------------


def test_the_first_content_is_held_for_its_time_and_then_committed():
    told = held()
    assert (told.waits, told.record.opened_at, told.record.winner) == (0.5, 0.0, None)
    assert told.timer(after=0.4) == []
    assert told.timer(after=0.1) == ["open a", "commit a"]
    assert (told.record.opened_at, told.record.winner) == (NOW + 1.5, told.attempt)
    assert told.attempt.content_at == NOW + 1.0
    assert told.finished(after=5.0) == ["finish"]
    assert (told.end, told.record.hold_overflowed) == ("ok: none", False)


def test_nothing_is_held_where_the_policy_says_so():
    told = World("a").exchange(policy=policy(), stream=True)
    told.start()
    assert told.sent().begins() == ["open a", "commit a"]


@EITHER
def test_an_answer_that_is_no_stream_is_not_held_once_it_flows(rule):
    told = World("a").exchange(policy=rule, stream=True)
    told.start()
    assert told.sent().begins(streaming=False) == ["open a", "commit a"]


@EITHER
def test_an_answer_that_is_whole_meanwhile_is_delivered_at_once(rule):
    told = held(rule=rule)
    assert told.finished(after=0.3) == ["open a", "commit a", "finish"]
    assert (told.end, told.record.opened_at, told.record.saved_by) == ("ok: none", NOW + 1.3, None)


def test_until_it_is_whole_may_take_as_long_as_a_stream_may():
    told = held(rule=WHOLE)
    while told.world.now < NOW + 85.0:
        told.heard(after=15.0)
        assert told.timer() == []
    assert told.waits == 9.0
    assert told.wakes() == ["cancel a", "failover b"]
    assert told.trail == ["a:timeout", "b:"]


@EITHER
def test_more_than_may_be_held_is_delivered_as_it_comes_and_that_is_noted(rule):
    told = held(rule=rule)
    assert told.overflowed(after=0.2) == ["open a", "commit a"]
    assert (told.record.hold_overflowed, told.record.opened_at, told.waits) == (True, NOW + 1.2, 19.8)
    assert told.timer(after=10.0) == [], "what it was held until is forgotten"
    assert told.broke() == ["break stream_broken"]


# -- what breaks meanwhile --------------------------------------------------------------------------------------------------------


@EITHER
@pytest.mark.parametrize("fault", ["stream_broken", "overloaded", "server_error"])
def test_what_breaks_while_it_is_held_goes_elsewhere_unseen(rule, fault):
    told = held(rule=rule)
    assert told.fails(fault, after=0.2) == ["failover b"]
    assert told.sent().begins(after=0.3) == []
    assert told.finished(after=0.1) == ["open b", "commit b", "finish"]
    assert (told.end, told.trail, told.record.saved_by) == ("ok: none", [f"a:{fault}", "b:ok"], "failover")
    assert told.world.failures("a") == 1
    assert (told.record.stream_broken, told.record.winner.provider) == (False, "b")


def test_the_next_one_is_held_for_its_own_time():
    told = held()
    told.fails("stream_broken", after=0.4)
    told.sent()
    assert told.waits == 120.0
    assert told.begins(after=2.0) == []
    assert told.waits == 0.5
    assert told.wakes() == ["open b", "commit b"]


def test_with_nowhere_else_to_go_it_is_asked_again():
    told = held("a")
    assert told.fails("stream_broken", after=0.2) == []
    assert told.wakes() == ["retry a"]


def test_what_ends_the_exchange_while_it_is_held_is_a_clean_error():
    told = held("a", rule=policy(hold=0.5, attempts=1))
    assert told.fails("stream_broken", after=0.2) == ["refuse 502 attempts_exhausted"]
    assert (told.end, told.record.stream_broken) == ("failed: attempts_exhausted", False)


def test_a_callers_fault_while_it_is_held_is_the_answer():
    told = held()
    assert told.fails("content_policy", after=0.2) == ["relay a"]
    assert told.end == "caller_error: caller"


def test_silence_while_it_is_held_is_a_stall():
    told = held(rule=WHOLE)
    told.heard(after=5.0)
    assert told.waits == 20.0
    assert told.wakes() == ["cancel a", "failover b"]
    assert told.trail == ["a:stalled", "b:"]


def test_what_breaks_after_its_time_is_seen():
    told = held()
    told.wakes()
    assert told.broke() == ["break stream_broken"]
    assert (told.end, told.record.stream_broken) == ("failed: stream_broken", True)


# -- other ends -------------------------------------------------------------------------------------------------------------------


def test_what_is_held_for_a_while_is_delivered_before_patience_ends():
    told = held(patience=1.2)
    assert told.waits == pytest.approx(0.2)
    assert told.wakes() == ["open a", "commit a"]


def test_patience_that_ends_before_it_is_whole_ends_the_exchange():
    told = held(rule=WHOLE, patience=9.0)
    assert told.waits == pytest.approx(8.0)
    assert told.wakes() == ["cancel a", "refuse 504 deadline"]
    assert (told.end, told.trail, told.world.failures("a")) == ("failed: deadline", ["a:cancelled"], 0)


def test_once_it_is_delivered_patience_ends_nothing():
    told = held(patience=2.0)
    told.wakes()
    told.heard(after=5.0)
    assert told.timer() == []
    assert told.finished() == ["finish"]


@EITHER
def test_a_client_that_leaves_while_it_is_held_is_nobodys_failure(rule):
    told = held(rule=rule)
    assert told.gone() == ["cancel a", "finish"]
    assert (told.end, told.world.failures("a"), told.machine.wake_at) == ("client_gone: client_gone", 0, NEVER)


@EITHER
def test_draining_while_it_is_held_refuses(rule):
    told = held(rule=rule)
    assert told.drain() == ["cancel a", "refuse 503 draining"]
    assert told.record.stream_broken is False


# -- life and races ---------------------------------------------------------------------------------------------------------------


def test_content_that_is_held_is_life_all_the_same():
    world = World("a", "b")
    shut(world.breaker("a"), world.now)
    world.now += 5.0
    told = held(world=world)
    assert told.attempt.probe
    assert world.breaker("a").state is State.RAMP


def test_content_that_is_held_proves_a_key():
    world = World("a", "b")
    world.key().park(world.now, "gpt-4o", None)
    world.now += 1.0
    held(world=world)
    assert world.exchange().start() == ["first a"]


@EITHER
def test_the_race_is_over_at_the_first_content_though_it_is_held(rule):
    world = World("a", "b", "c")
    world.hedges.deposit(3.0)
    hedged = policy(hold=rule.stream.hold_s, hedge=HedgePlan(after_s=2.0))
    told = world.exchange(policy=hedged, stream=True)
    told.start()
    assert told.sent().wakes() == ["hedge b"]
    assert told.sent().begins(after=0.5) == ["cancel a"]
    assert (told.under_way, told.machine._race.hedge_at) == (["b"], NEVER)
    assert told.finished(after=0.3) == ["open b", "commit b", "finish"]
    assert (told.record.saved_by, told.trail) == ("hedge", ["a:cancelled", "b:ok"])


def test_a_winner_that_breaks_while_it_is_held_is_followed_by_another_and_the_loser_is_not_lost():
    world = World("a", "b", "c")
    world.hedges.deposit(3.0)
    told = world.exchange(policy=policy(hold=NEVER, hedge=HedgePlan(after_s=2.0)), stream=True)
    told.start()
    told.sent().wakes()
    told.sent().begins(after=0.5)
    world.breaker("c").trip(world.now)
    assert told.fails("stream_broken", after=1.0) == ["failover a"], "it was overtaken, and has not failed"
    told.sent()
    assert told.waits == 120.0, "and there was a hedge already"


def test_no_other_is_asked_beside_one_whose_content_is_held():
    world = World("a", "b")
    world.hedges.deposit(3.0)
    told = world.exchange(policy=policy(hold=NEVER, hedge=HedgePlan(after_s=2.0)), stream=True)
    told.start()
    told.sent().begins(after=1.0)
    assert told.timer(after=50.0) == []
    assert told.under_way == ["a"]
