"""Comments against silence: in a committed stream, and before that where the route wants it, at a price (law 5)."""

import pytest

from gateway.core.bucket import NEVER
from gateway.core.plan import HedgePlan
from tests.core.build import NOW, World, policy, shut

LATER = policy(keepalive=15.0)
EARLY = policy(keepalive=15.0, early_keepalive=45.0, attempts=2)


def waiting(*targets, rule=EARLY, world=None, **settings):
    """An exchange that waits for its first content, whose client has been told that it will be a stream."""
    told = (world or World(*(targets or ("a", "b")))).exchange(policy=rule, stream=True, **settings)
    told.start()
    told.sent()
    assert told.waits == 45.0
    assert told.wakes() == ["open early", "comfort"]
    return told


def flowing(*, rule=LATER, streaming=True):
    told = World("a", "b").exchange(policy=rule, stream=True)
    told.start()
    told.sent().begins(after=1.0, streaming=streaming)
    return told


# -- after the commit -------------------------------------------------------------------------------------------------------------


def test_silence_after_the_commit_is_filled_with_comments():
    told = flowing()
    assert told.waits == 15.0
    assert told.timer(after=14.9) == []
    assert told.timer(after=0.1) == ["comfort"]
    assert told.waits == 15.0
    assert told.wakes() == ["comfort"]
    assert (told.record.opened_at, told.machine.done) == (NOW + 1.0, False)


def test_a_stream_that_flows_gets_none():
    told = flowing()
    for _ in range(20):
        told.heard(after=10.0)
        assert told.timer() == []


def test_comments_are_no_life_of_the_provider():
    told = flowing(rule=policy(keepalive=15.0, stall=40.0))
    assert [told.wakes() for _ in range(3)] == [["comfort"], ["comfort"], ["cancel a", "break stalled"]]
    assert told.world.now == NOW + 41.0


def test_without_a_keepalive_there_are_none():
    assert flowing(rule=policy()).waits == 120.0


def test_an_answer_that_is_no_stream_gets_none():
    assert flowing(streaming=False).waits == 120.0


def test_nobody_who_did_not_ask_for_a_stream_gets_any():
    told = World("a").exchange(policy=EARLY, stream=False)
    told.start()
    assert told.sent().waits == 600.0


def test_before_the_commit_there_are_none_unless_the_route_wants_them():
    told = World("a").exchange(policy=LATER, stream=True)
    told.start()
    assert told.sent().waits == 120.0


# -- before the commit ------------------------------------------------------------------------------------------------------------


def test_an_early_comment_opens_a_stream_and_others_follow():
    told = waiting()
    assert (told.record.opened_at, told.record.winner, told.machine.done) == (NOW + 45.0, None, False)
    assert [(told.waits, told.wakes()) for _ in range(3)] == [(15.0, ["comfort"])] * 3


def test_the_answer_that_comes_then_is_committed_as_ever():
    told = waiting()
    assert told.begins(after=5.0) == ["open a", "commit a"]
    assert (told.record.opened_at, told.record.winner) == (NOW + 45.0, told.attempt)
    assert told.waits == 15.0
    assert told.finished(after=1.0) == ["finish"]
    assert (told.end, told.record.stream_broken, told.record.saved_by) == ("ok: none", False, None)


def test_comments_go_on_while_content_is_held():
    told = waiting(rule=policy(hold=NEVER, keepalive=15.0, early_keepalive=45.0))
    assert told.begins(after=5.0) == []
    assert (told.waits, told.wakes()) == (10.0, ["comfort"])
    assert told.finished(after=1.0) == ["open a", "commit a", "finish"]


def test_they_begin_though_nobody_could_be_asked_yet():
    world = World("a", queue_wait=100.0)
    world.key().park(world.now, "gpt-4o", 50.0)
    told = world.exchange(policy=EARLY, stream=True)
    assert told.start() == ["queue a"]
    assert told.wakes() == ["open early", "comfort"]
    assert told.wakes() == ["first a"]


def test_they_are_counted_from_when_the_request_came():
    told = World("a").exchange(policy=EARLY, stream=True)
    told.record.received_at -= 30.0
    told.start()
    assert told.sent().waits == 15.0


# -- what fails then --------------------------------------------------------------------------------------------------------------


def test_what_fails_then_goes_elsewhere_as_ever():
    told = waiting()
    assert told.fails("server_error") == ["failover b"]
    assert told.sent().begins(after=1.0) == ["open b", "commit b"]
    assert told.finished() == ["finish"]
    assert (told.end, told.record.saved_by, told.record.stream_broken) == ("ok: none", "failover", False)


@pytest.mark.parametrize(
    ("fault", "end"),
    [
        ("server_error", "failed: attempts_exhausted"),
        ("connect", "failed: attempts_exhausted"),
        ("billing", "failed: attempts_exhausted"),
        ("caller", "caller_error: caller"),
        ("content_policy", "caller_error: caller"),
    ],
)
@pytest.mark.parametrize("answered", [True, False])
def test_the_last_failure_is_told_in_the_stream(fault, end, answered):
    told = waiting(rule=policy(early_keepalive=45.0, attempts=1))
    assert told.fails(fault, answered=answered, status=400 * (fault == "caller")) == [f"break {end.split()[1]}"]
    assert (told.end, told.record.winner, told.record.stream_broken, told.advice) == (end, None, True, None)


@pytest.mark.parametrize(
    ("fault", "said", "told_so"),
    [
        ("caller", "Unknown parameter.", "Unknown parameter."),
        ("overloaded", "", "No provider could serve this request; what went wrong: overloaded."),
        ("billing", "Your key sk-x is out of credit.", "No provider could serve this request; what went wrong: billing."),
    ],
)
def test_what_the_provider_said_is_told_where_it_may_be(fault, said, told_so):
    told = waiting(rule=policy(early_keepalive=45.0, attempts=1))
    told.fails(fault, status=400 * (fault == "caller"), message=said)
    assert told.message == told_so


def test_patience_that_ends_is_told_in_the_stream():
    told = waiting(patience=50.0)
    assert told.waits == 5.0
    assert told.wakes() == ["cancel a", "break deadline"]
    assert (told.end, told.record.stream_broken) == ("failed: deadline", True)


def test_a_refusal_is_told_in_the_stream():
    told = waiting("a", rule=policy(early_keepalive=45.0, rate_limit_wait=0.0))
    assert told.fails("rate_limited", delay=50.0) == ["break rate_limited"]
    world = World("a", queue_wait=100.0)
    world.key().park(world.now, "gpt-4o", 50.0)
    told = world.exchange(policy=EARLY, stream=True)
    told.start()
    assert told.wakes() == ["open early", "comfort"]
    shut(world.breaker("a"), world.now + 4.9, good=0)
    world.breaker("a").trickle(world.now + 5.0)
    world.chance.share = 1.0
    assert (told.wakes(), world.now) == (["break breakers_open"], NOW + 50.0)
    assert (told.end, told.record.stream_broken) == ("refused: breakers_open", True)


@pytest.mark.parametrize(("event", "reason"), [("drain", "draining"), ("crash", "internal")])
def test_the_gateways_own_end_is_told_in_the_stream(event, reason):
    told = waiting()
    assert getattr(told, event)() == ["cancel a", f"break {reason}"]
    assert (told.end, told.record.stream_broken) == (f"failed: {reason}", True)


def test_a_client_that_leaves_then_is_nobodys_failure():
    told = waiting()
    assert told.gone() == ["cancel a", "finish"]
    assert (told.end, told.record.stream_broken) == ("client_gone: client_gone", False)


@pytest.mark.parametrize("whole", [True, False])
def test_an_answer_that_is_no_stream_is_of_no_use_then_and_another_target_is_asked(whole):
    told = waiting()
    told.head()
    assert (told.finished() if whole else told.content()) == ["cancel a", "failover b"]
    assert (told.trail, told.record.attempts[0].code) == (["a:server_error", "b:"], "no_stream")
    assert told.sent().begins() == ["open b", "commit b"]


def test_it_is_nobodys_failure_and_not_asked_for_twice():
    world = World("a")
    told = waiting(world=world, rule=policy(early_keepalive=45.0))
    told.head()
    assert told.finished() == ["cancel a", "break attempts_exhausted"]
    assert (world.failures("a"), world.state().breaker._window.totals(world.now)) == (0, (0, 0))


# -- with a hedge -----------------------------------------------------------------------------------------------------------------


def test_two_may_be_under_way_and_the_one_that_streams_wins():
    world = World("a", "b")
    world.hedges.deposit(3.0)
    told = world.exchange(policy=policy(early_keepalive=1.0, hedge=HedgePlan(after_s=2.0)), stream=True)
    told.start()
    told.sent()
    assert [told.wakes(), told.wakes()] == [["open early", "comfort"], ["hedge b"]]
    told.sent()
    assert told.answers(of="a") == ["cancel a"], "no stream, so the other may win"
    assert told.under_way == ["b"]
    assert told.begins(of="b") == ["open b", "commit b"]
    told.finished()
    assert (told.end, told.trail, told.record.saved_by) == ("ok: none", ["a:server_error", "b:ok"], "hedge")


# -- the one timer ----------------------------------------------------------------------------------------------------------------


def test_the_timer_wants_to_ring_for_whatever_comes_first():
    """All clocks of an exchange at once: each rings at its own moment, and early calls do nothing."""
    world = World("a", "b")
    world.hedges.deposit(3.0)
    rule = policy(
        first_token=20.0, stall=30.0, hold=4.0, keepalive=6.0, early_keepalive=5.0, hedge=HedgePlan(after_s=2.0), attempts=2
    )
    told = world.exchange(policy=rule, stream=True, patience=60.0)
    rung = [(0.0, told.start())]
    told.sent()

    def rings():
        assert told.timer() == []
        words = told.wakes()
        rung.append((round(world.now - NOW, 6), words))
        return words

    assert rings() == ["hedge b"]
    told.sent(after=0.5)
    while rings() != ["cancel a"]:
        pass
    told.begins(after=0.1)
    while told.machine._held is not None:
        rings()
    while not told.machine.done:
        rings()
    assert rung == [
        (0.0, ["first a"]),
        (2.0, ["hedge b"]),
        (5.0, ["open early", "comfort"]),
        (11.0, ["comfort"]),
        (17.0, ["comfort"]),
        (20.0, ["cancel a"]),
        (23.0, ["comfort"]),
        (24.1, ["open b", "commit b"]),
        (29.0, ["comfort"]),
        (35.0, ["comfort"]),
        (41.0, ["comfort"]),
        (47.0, ["comfort"]),
        (50.1, ["cancel b", "break stalled"]),
    ]


def test_what_is_due_at_one_moment_rings_one_after_the_other():
    world = World("a", "b")
    world.hedges.deposit(3.0)
    told = world.exchange(policy=policy(early_keepalive=2.0, hedge=HedgePlan(after_s=2.0)), stream=True)
    told.start()
    told.sent()
    assert told.timer(after=10.0) == ["hedge b"]
    assert told.waits < 0.0
    assert told.timer() == ["open early", "comfort"]
    assert told.waits > 0.0
