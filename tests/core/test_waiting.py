"""Waiting in front of targets: who spills, who queues and for how long, who is refused, and that nobody is left behind.

`test_rate_limits` tells what an exchange makes of a refusal; here limits are known beforehand, and the queue decides. Figures are
worked out from the limits: at one request a second, the third in a queue waits three seconds.
"""

import pytest

from gateway.core.actions import NOTHING
from gateway.core.breaker import State
from gateway.core.bucket import Cost
from gateway.core.gate import USUAL_CALL_S
from gateway.core.limits import Stated
from gateway.core.plan import Balance, HedgePlan, Priority, Resource
from gateway.core.quota import Quota
from gateway.core.standing import LOOK_S
from gateway.core.turns import called
from gateway.errors import Reason
from tests.core.build import NOW, Prompt, World, limits, policy, provider, shut

ONE_PER_S = limits(1.0)
NEVER_WAIT = policy(rate_limit_wait=0.0)


def busy(*targets, until=2.0, quota=ONE_PER_S, **settings):
    """A world in which the first target's limit has room for the next request after so many seconds."""
    world = World(*targets, quotas={"a": quota}, **settings)
    world.drains(until=until)
    return world


def full(world, count=1, **settings):
    """So many exchanges that wait in front of `a`."""
    herd = [world.exchange(**settings) for _ in range(count)]
    assert [story.start() for story in herd] == [["queue a"]] * count
    return herd


def nobody_waits(world, name="a"):
    return not world.gate(name).queue


def spilled(story):
    return story.record.spills


def waited(story):
    return [(name, round(seconds, 6)) for name, _, seconds in story.record.waits or ()]


# -- elsewhere, or here -----------------------------------------------------------------------------------------------------------


def test_a_target_with_room_is_asked_at_once_and_nothing_is_noted():
    world = World("a", "b", quotas={"a": ONE_PER_S})
    story = world.exchange()
    assert story.start() == ["first a"]
    assert (spilled(story), story.record.waits, story.record.shed) == (None, None, None)


@pytest.mark.parametrize(("until", "rule"), [(3.1, policy()), (0.1, NEVER_WAIT)])
def test_a_target_without_room_spills_to_the_next_one_that_has_some(until, rule):
    world = busy("a", "b", until=until)
    story = world.exchange(policy=rule)
    assert story.start() == ["first b"]
    assert spilled(story) == [("a", "gpt-4o")]
    assert (story.record.waits, nobody_waits(world)) == (None, True)


def test_a_spill_is_named_by_the_target_preferred_most():
    world = World("a", "b", "c", quotas={"a": ONE_PER_S, "b": ONE_PER_S})
    world.drains("a", until=5.0)
    world.drains("b", until=4.0)
    story = world.exchange()
    assert (story.start(), spilled(story)) == (["first c"], [("a", "gpt-4o")])


def test_a_preferred_target_is_waited_for_as_long_as_the_policy_says():
    world = busy("a", "b", until=3.0)
    story = world.exchange()
    assert (story.start(), story.waits) == (["queue a"], 3.0)
    assert (story.wakes(), world.now) == (["first a"], NOW + 3.0)
    assert (waited(story), spilled(story)) == ([("a", 3.0)], None)


def test_whoever_waits_for_a_preferred_target_spills_when_that_is_not_enough():
    world = busy("a", "b", until=2.0)
    story = world.exchange()
    story.start()
    world.drains(until=8.0)
    assert (story.wakes(), world.now) == (["first b"], NOW + 3.0)
    assert (waited(story), spilled(story), nobody_waits(world)) == ([("a", 3.0)], [("a", "gpt-4o")], True)


def test_a_preferred_target_is_never_waited_for_longer_than_its_queue_allows():
    world = busy("a", "b", until=2.0, queue_wait=5.0)
    story = world.exchange(policy=policy(rate_limit_wait=30.0))
    story.start()
    world.drains(until=40.0)
    assert (story.wakes(), world.now) == (["first b"], NOW + 5.0)


def test_whoever_prefers_to_wait_does_not_look_elsewhere_meanwhile():
    world = busy("a", "b", until=3.0)
    story = world.exchange()
    story.start()
    assert (story.timer(after=1.0), story.queued) == ([], True)
    assert story.wakes() == ["first a"]


@pytest.mark.parametrize("balance", [Balance.WEIGHTED, Balance.FASTEST, Balance.LEAST_BUSY])
def test_where_targets_are_balanced_none_is_preferred(balance):
    world = busy("a", "b", until=0.5, weights={"a": 1e9})
    assert world.exchange(balance=balance).start() == ["first b"]


def test_those_before_it_count_as_well():
    world = busy("a", "b", until=1.0)
    herd = [world.exchange() for _ in range(4)]
    assert [story.start() for story in herd] == [["queue a"]] * 3 + [["first b"]]
    assert [(story.wakes(), round(world.now - NOW, 6)) for story in herd[:3]] == [
        (["first a"], 1.0),
        (["first a"], 2.0),
        (["first a"], 3.0),
    ]


def test_nobody_passes_those_who_wait_though_there_is_room():
    world = busy("a", until=1.0)
    (first,) = full(world)
    world.now += 1.0
    (second,) = full(world)
    assert [first.wakes(), second.wakes()] == [["first a"], ["first a"]]
    assert [round(story.record.attempts[0].started_at - NOW, 6) for story in (first, second)] == [1.0, 2.0]


def test_the_small_do_not_pass_the_large_either():
    world = busy("a", until=2.0, quota=limits(tokens=10.0, token_burst=20.0))
    large, small = world.exchange(prompt=Prompt(20)), world.exchange(prompt=Prompt(1))
    assert (large.start(), small.start()) == (["queue a"], ["queue a"])
    assert [large.wakes(), small.told_meanwhile] == [["first a"], []]


# -- no alternative ---------------------------------------------------------------------------------------------------------------


def test_without_an_alternative_the_wait_is_bounded_by_the_queue():
    world = busy("a", until=10.0)
    story = world.exchange(policy=NEVER_WAIT)
    assert (story.start(), story.wakes(), world.now) == (["queue a"], ["first a"], NOW + 10.0)
    assert waited(story) == [("a", 10.0)]


@pytest.mark.parametrize(
    ("until", "patience", "advice"), [(10.1, 600.0, 10.1), (4.0, 4.0, 4.0), (0.2, 0.1, 1.0), (59.0, 600.0, 59.0)]
)
def test_what_does_not_fit_is_refused_at_once_and_told_when_there_will_be_room(until, patience, advice):
    world = busy("a", until=until)
    story = world.exchange(patience=patience)
    assert story.start() == ["refuse 429 rate_limited"]
    assert (story.end, story.advised(), nobody_waits(world)) == ("refused: rate_limited", (True, advice), True)
    assert "rate limit" in story.message


def test_advice_further_away_than_a_minute_is_none():
    world = busy("a", until=61.0)
    story = world.exchange()
    assert (story.start(), story.advised()) == (["refuse 429 rate_limited"], (None, None))


def test_those_who_are_refused_are_not_all_told_the_same_time():
    world = busy("a", until=20.0)
    told = []
    for number in range(4):
        story = world.exchange(client=f"client {number}")
        story.start()
        told.append(story.advised()[1])
    assert told == [20.0, 22.0, 24.0, 26.0]  # half of one request a second is given away


def test_the_target_with_the_shortest_wait_is_queued_for():
    world = World("a", "b", quotas={"a": ONE_PER_S, "b": ONE_PER_S})
    world.drains("a", until=6.0)
    world.drains("b", until=5.0)
    assert world.exchange().start() == ["queue b"]


def test_a_wait_that_grows_too_long_ends_in_a_refusal():
    world = busy("a", until=4.0)
    (story,) = full(world)
    world.drains(until=30.0)
    assert (story.wakes(), world.now) == (["refuse 429 rate_limited"], NOW + 10.0)
    assert (story.advised(), nobody_waits(world), story.record.shed) == ((True, 20.0), True, None)


def test_all_waits_together_are_bounded():
    world = busy("a", "b", until=4.0)
    story = world.exchange(policy=policy(rate_limit_wait=5.0))
    assert (story.start(), story.wakes()) == (["queue a"], ["first a"])
    assert story.fails("rate_limited", delay=5.0, retry_same=False) == ["failover b"]
    story = world.exchange(policy=NEVER_WAIT)
    world.drains(until=4.0)
    world.key("b").park(world.now, "gpt-4o", 60.0)
    world.key("a").forget()
    assert (story.start(), story.wakes()) == (["queue a"], ["first a"])
    assert story.fails("rate_limited", delay=6.0) == ["queue a"]
    assert (story.wakes(), waited(story)) == (["retry a"], [("a", 4.0), ("a", 6.0)])
    world.key("a").forget()
    world.drains(until=0.5)
    assert story.fails("server_error", quick=True) == ["relay a"]
    assert story.end == "failed: rate_limited"


def test_a_queue_is_not_joined_for_the_rounding_error_that_is_left_of_a_wait():
    world = busy("a", until=4.0)
    story, other = full(world, 2)
    assert story.timer(after=9.9999) == []
    world.drains(until=0.00005)
    assert story.room() == ["refuse 429 rate_limited"]
    assert other.queued


def test_the_deadline_ends_a_wait():
    world = busy("a", until=4.0)
    story = world.exchange(patience=5.0)
    story.start()
    world.drains(until=9.0)
    assert (story.wakes(), world.now) == (["refuse 504 deadline"], NOW + 5.0)
    assert (waited(story), nobody_waits(world)) == ([("a", 5.0)], True)


def test_there_is_no_queue_where_its_wait_is_nothing():
    world = busy("a", until=0.1, queue_wait=0.0)
    assert world.exchange().start() == ["refuse 429 rate_limited"]


def test_nobody_waits_for_a_benched_key():
    world = busy("a", until=1.0)
    world.key().bench(world.now - 59.0)
    story = world.exchange()
    assert (story.start(), story.advised()) == (["refuse 503 credentials_benched"], (False, None))
    assert len(world.gate().promises) == 0


def test_a_rate_limit_beside_a_benched_key_is_what_the_client_is_told_of():
    world = World("a", "b", quotas={"b": ONE_PER_S})
    world.key("a").bench(world.now - 59.0)
    world.drains("b", until=30.0)
    story = world.exchange()
    assert (story.start(), story.advised()) == (["refuse 429 rate_limited"], (True, 30.0))


# -- those who are promised a turn ------------------------------------------------------------------------------------------------


def promised(world, **settings):
    """A client that was refused, and comes back when it was told."""
    story = world.exchange(client="promised", **settings)
    assert story.start() == ["refuse 429 rate_limited"]
    world.now += story.advised()[1]
    return story


def test_who_comes_back_when_told_gets_in_though_the_wait_is_too_long_for_others():
    world = busy("a", until=12.0)
    promised(world)
    world.drains(until=11.0)
    assert world.exchange().start() == ["refuse 429 rate_limited"]
    back = world.exchange(client="promised")
    assert back.start() == ["queue a"]
    assert back.turn.promised
    assert (len(world.gate().promises), world.exchange(client="promised").start()) == (1, ["refuse 429 rate_limited"])


def test_who_comes_back_when_told_goes_before_those_who_wait_and_is_never_sent_away():
    world = busy("a", until=12.0, queue_depth=1)
    promised(world)
    world.drains(until=1.0)
    (waiting,) = full(world)
    back = world.exchange(client="promised")
    assert (back.start(), back.evicted) == (["queue a"], None)
    assert (back.wakes(), waiting.queued) == (["first a"], True)


@pytest.mark.parametrize("may_be_back", [True, False])
def test_what_its_sdk_says_to_be_new_was_not_told_to_come_back(may_be_back):
    world = busy("a", until=12.0)
    promised(world)
    world.drains(until=11.0)
    fresh = world.exchange(client="promised", may_be_back=may_be_back)
    assert fresh.start() == (["queue a"] if may_be_back else ["refuse 429 rate_limited"])


def test_a_promise_is_one_clients_own():
    world = busy("a", until=12.0)
    promised(world)
    world.drains(until=11.0)
    assert world.exchange(client="another").start() == ["refuse 429 rate_limited"]


def test_a_promised_turn_still_ends_with_the_queues_time():
    world = busy("a", until=12.0)
    promised(world)
    world.drains(until=40.0)
    back = world.exchange(client="promised")
    back.start()
    began = world.now
    assert (back.wakes(), world.now - began) == (["refuse 429 rate_limited"], 10.0)


def test_nobody_is_promised_what_is_not_told():
    world = World("a", "a/big?context_length", quotas={"a": ONE_PER_S})
    story = world.exchange()
    story.start()
    big = world.place("a/big?context_length").gate
    big.quota(world.now, "key-1").buckets[0].correct(world.now, -20.0)
    assert (story.fails("context_length", status=400), story.end) == (["relay a"], "caller_error: caller")
    assert len(big.promises) == 0
    world = busy("a", until=5.0)
    story = world.exchange(stream=True, policy=policy(early_keepalive=1.0, keepalive=50.0))
    story.start()
    assert story.wakes() == ["open early", "comfort"]
    world.drains(until=30.0)
    assert story.wakes() == ["break rate_limited"]
    assert len(world.gate().promises) == 0


# -- full, and sick ---------------------------------------------------------------------------------------------------------------


def test_a_full_queue_refuses_the_newcomer_and_says_so():
    world = busy("a", until=3.0, queue_depth=2)
    herd = full(world, 2)
    late = world.exchange()
    assert (late.start(), late.evicted) == (["queue a"], late)
    assert late.sent_away() == ["refuse 429 queue_full"]
    assert (late.end, late.advised(), late.record.shed) == (
        "refused: queue_full",
        (True, 5.0),
        [("a", "gpt-4o", Reason.QUEUE_FULL)],
    )
    assert "already wait" in late.message
    assert [story.queued for story in herd] == [True, True]


def test_who_has_to_go_for_a_higher_priority_is_refused():
    world = busy("a", until=3.0, queue_depth=1)
    (batch,) = full(world, priority=Priority.BATCH)
    urgent = world.exchange(priority=Priority.INTERACTIVE)
    assert (urgent.start(), urgent.evicted) == (["queue a"], batch)
    assert (batch.sent_away(after=0.5), batch.end) == (["refuse 429 queue_full"], "refused: queue_full")
    assert (waited(batch), urgent.wakes()) == ([("a", 0.5)], ["first a"])


@pytest.mark.parametrize(("reason", "told"), [(Reason.QUEUE_FULL, "queue_full"), (Reason.SHED, "shed")])
def test_who_is_sent_away_goes_elsewhere_if_it_can(reason, told):
    world = busy("a", "b", until=2.0)
    story = world.exchange()
    story.start()
    assert (story.sent_away(reason), spilled(story)) == (["first b"], [("a", "gpt-4o")])
    assert story.record.shed == [("a", "gpt-4o", reason)]
    story = world.exchange()
    world.drains("a", until=2.0)
    world.key("b").park(world.now, "gpt-4o", 50.0)
    story.start()
    assert (story.sent_away(reason), story.end) == ([f"refuse 429 {told}"], f"refused: {told}")


def test_a_queue_that_sent_an_exchange_away_is_not_joined_by_it_again():
    world = busy("a", "b", until=2.0)
    world.key("b").park(world.now, "gpt-4o", 4.0)
    story = world.exchange()
    assert story.start() == ["queue a"]
    assert story.sent_away(Reason.SHED) == ["queue b"]
    assert story.sent_away(Reason.QUEUE_FULL) == ["refuse 429 shed"]
    assert (story.advised(), [reason for *_, reason in story.record.shed]) == ((True, 2.0), ["shed", "queue_full"])


def test_a_place_whose_queue_sent_the_exchange_away_may_serve_it_when_nobody_waits_there():
    world = busy("a", "b", until=2.0)
    world.key("b").park(world.now, "gpt-4o", 4.0)
    story = world.exchange()
    story.start()
    story.sent_away(Reason.SHED)
    assert (story.wakes(), world.now, waited(story)) == (["first a"], NOW + 2.0, [("a", 0.0), ("b", 2.0)])


def test_a_retry_does_not_join_a_queue_that_sent_the_exchange_away():
    world = busy("a", until=2.0)
    (story,) = full(world)
    assert story.wakes() == ["first a"]
    story.fails("rate_limited", delay=1.0)
    assert story.sent_away(Reason.SHED) == ["relay a"]
    assert (story.end, story.record.winner) == ("failed: shed", story.record.attempts[0])


def test_who_is_let_go_when_its_time_is_over_was_not_shed():
    world = busy("a", "b", until=2.0)
    story = world.exchange()
    story.start()
    world.drains(until=8.0)
    assert story.sent_away(Reason.SHED, after=3.0) == ["first b"]
    assert (story.record.shed, spilled(story)) == (None, [("a", "gpt-4o")])
    alone = busy("a", until=2.0)
    (story,) = full(alone)
    alone.drains(until=30.0)
    assert (story.sent_away(Reason.SHED, after=10.0), story.record.shed) == (["refuse 429 rate_limited"], None)


# -- another target comes free ----------------------------------------------------------------------------------------------------


def both_busy(*more):
    """`a` has room after 6 s, and `b` after 8 s: it is waited for at `a`."""
    world = World("a", "b", *more, quotas={"a": ONE_PER_S, "b": ONE_PER_S})
    world.drains("a", until=6.0)
    world.drains("b", until=8.0)
    story = world.exchange()
    assert story.start() == ["queue a"]
    return world, story


def test_whoever_waits_goes_elsewhere_when_that_comes_free():
    world, story = both_busy()
    assert (story.timer(after=LOOK_S), story.queued) == ([], True)
    world.drains("b", until=0.0)
    assert story.timer(after=LOOK_S) == ["first b"]
    assert (waited(story), spilled(story), nobody_waits(world)) == ([("a", 1.0)], [("a", "gpt-4o")], True)


def test_what_comes_free_is_left_to_those_who_wait_there():
    world, story = both_busy()
    assert world.exchange().start() == ["queue a"]
    world.drains("a", until=9.0)
    there = world.exchange()
    assert there.start() == ["queue b"]
    world.drains("b", until=0.0)
    assert (story.timer(after=LOOK_S), story.queued) == ([], True)
    assert there.wakes() == ["first b"]


def test_what_is_on_trial_is_no_alternative_for_those_who_wait():
    world, story = both_busy()
    world.drains("b", until=0.0)
    shut(world.breaker("b"), world.now)
    assert (story.timer(after=LOOK_S), story.queued) == ([], True)


def test_whoever_waits_does_not_go_back_to_what_has_failed_nor_to_what_is_for_others():
    world = World("a", "b", "c?context_length", quotas={"a": ONE_PER_S})
    world.drains("a", until=5.0)
    story = world.exchange(policy=NEVER_WAIT)
    assert story.start() == ["first b"]
    assert story.fails("server_error") == ["queue a"]
    assert (story.timer(after=LOOK_S), story.queued) == ([], True)
    assert story.wakes() == ["failover a"]


def test_with_one_target_there_is_nothing_to_look_for():
    world = busy("a", until=4.0)
    (story,) = full(world)
    assert story.machine.wake_at == NOW + 10.0


# -- when the turn comes ----------------------------------------------------------------------------------------------------------


def test_room_whose_breaker_opened_meanwhile_is_no_room():
    world = busy("a", "b", until=2.0)
    story = world.exchange()
    story.start()
    shut(world.breaker("a"), world.now)
    assert story.wakes() == ["first b"]


def test_room_that_others_took_meanwhile_is_waited_for_again():
    world = busy("a", until=2.0)
    (story,) = full(world)
    world.now += 2.0
    assert called(world.gate(), world.now) is story.turn
    world.key().park(world.now, "gpt-4o", 3.0)
    assert story.told(story.machine.room(world.now, story.turn)) == ["queue a"]
    assert (story.wakes(), waited(story)) == (["first a"], [("a", 2.0), ("a", 3.0)])


def test_whose_turn_it_is_decides_the_queue_and_one_request_a_second_goes():
    world = busy("a", until=1.0)
    herd = full(world, 5)
    for story in herd:
        assert story.wakes() == ["first a"]
    assert [round(story.attempt.started_at - NOW, 6) for story in herd] == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_call_that_comes_too_late_changes_nothing():
    world = busy("a", "b", until=2.0)
    story = world.exchange()
    story.start()
    turn = story.turn
    assert story.sent_away() == ["first b"]
    assert story.machine.room(world.now, turn) is NOTHING
    assert story.machine.sent_away(world.now, turn, Reason.SHED) is NOTHING


def test_a_key_of_several_that_has_room_is_used_and_limits_are_each_keys_own():
    world = World("a", keys=("key-1", "key-2"), quotas={"a": ONE_PER_S})
    stories = [world.exchange() for _ in range(3)]
    assert [story.start() for story in stories] == [["first a"], ["first a"], ["queue a"]]
    assert [story.attempt.credential for story in stories[:2]] == ["key-1", "key-2"]
    assert (stories[2].wakes(), world.now) == (["first a"], NOW + 1.0)


# -- leaving ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("leaves", "told"),
    [
        ("gone", ["finish"]),
        ("drain", ["refuse 503 draining"]),
        ("crash", ["refuse 500 internal"]),
        ("deadline", ["refuse 504 deadline"]),
    ],
)
def test_whoever_leaves_leaves_the_queue(leaves, told):
    world = busy("a", until=3.0)
    story = world.exchange(patience=4.0)
    story.start()
    (behind,) = full(world)
    world.now += 1.0
    if leaves == "deadline":
        world.drains(until=20.0)
        assert story.wakes() == told
    else:
        assert getattr(story, leaves)() == told
    assert (len(world.gate().queue), story.queued, story.turn.wake) == (1, False, None)
    assert waited(story) == [("a", 4.0 if leaves == "deadline" else 1.0)]
    assert behind.queued


def test_the_driver_learns_nothing_more_of_a_turn_that_is_over():
    world = busy("a", until=1.0)
    (story,) = full(world)
    story.turn.wake = told = []  # whoever carries it out sets this
    assert story.turn.wake is told
    story.wakes()
    assert story.turn.wake is None


# -- retries and queues -----------------------------------------------------------------------------------------------------------


def test_a_retry_stands_in_line_with_the_others():
    world = World("a", quotas={"a": ONE_PER_S})
    story = world.exchange()
    story.start()
    waiting = full(world, 2)
    assert story.fails("server_error", after=0.1) == []
    assert story.wakes() == ["queue a"]
    assert (story.wakes(), [each.told_meanwhile for each in waiting]) == (["retry a"], [[["first a"]], [["first a"]]])
    assert round(world.now - NOW, 6) == 3.0


def test_a_retry_that_would_wait_too_long_is_none_and_the_client_hears_when_to_come_back():
    world = World("a", quotas={"a": ONE_PER_S})
    story = world.exchange()
    story.start()
    full(world, 9)
    world.drains(until=5.0)
    assert story.fails("server_error") == ["relay a"]
    assert (story.end, story.advised()) == ("failed: rate_limited", (True, 14.0))


def test_a_retry_whose_line_has_grown_too_long_meanwhile_gives_up():
    world = World("a", quotas={"a": ONE_PER_S})
    story = world.exchange()
    story.start()
    assert story.fails("server_error") == []
    world.drains(until=30.0)
    assert (story.wakes(), story.end) == (["relay a"], "failed: rate_limited")


def test_a_quick_try_is_none_where_there_is_no_room():
    world = busy("a", "b", until=0.0)
    story = world.exchange()
    story.start()
    assert story.fails("server_error", quick=True) == ["failover b"]


# -- what never waits -------------------------------------------------------------------------------------------------------------


def test_a_hedge_never_waits_and_never_passes_those_who_do():
    world = World("a", "b", quotas={"b": limits(tokens=10.0, token_burst=100.0)})
    rule = policy(hedge=HedgePlan(after_s=1.0))
    world.hedges.deposit(3.0)
    world.drains("b", until=0.0)
    story = world.exchange(policy=rule, prompt=Prompt(50))
    story.start()
    assert (story.sent().wakes(), story.record.hedge_skipped) == ([], "no_target")
    world.now += 100.0
    story = world.exchange(policy=rule, prompt=Prompt(0))
    story.start()
    story.sent()
    world.key("a").park(world.now, "gpt-4o", 60.0)
    world.quota("b").buckets[0].correct(world.now, 20.0)
    large = world.exchange(prompt=Prompt(90))
    assert large.start() == ["queue b"]
    assert (story.wakes(), story.record.hedge_skipped) == ([], "no_target")
    large.gone()


def test_a_second_opinion_never_waits():
    world = World("a", "b", quotas={"b": ONE_PER_S})
    world.drains("b", until=1.0)
    for name in ("a", "b"):
        world.place(name).state.rejections.served += 30
    for client in ("two", "three") * 5:
        world.place("a").state.rejections.rejected(world.now, client)
    story = world.exchange()
    story.start()
    assert (story.fails("caller", status=400), nobody_waits(world, "b")) == (["relay a"], True)


# -- what a request takes ---------------------------------------------------------------------------------------------------------


def test_a_request_larger_than_a_bucket_goes_when_the_bucket_is_full_and_the_next_pays_for_it():
    world = World("a", quotas={"a": limits(tokens=10.0, token_burst=20.0)})
    large = world.exchange(prompt=Prompt(50, 20))
    assert large.start() == ["first a"]
    after = world.exchange(prompt=Prompt(10))
    assert (after.start(), after.waits) == (["queue a"], 6.0)  # 20 - 70 = -50, and 10 are needed
    again = world.exchange(prompt=Prompt(70))
    assert (again.start(), again.waits) == (["queue a"], 7.0)
    assert [(story.wakes(), round(world.now - NOW, 6)) for story in (after, again)] == [(["first a"], 6.0), (["first a"], 8.0)]


def test_a_request_is_measured_once_and_only_where_tokens_matter():
    measured = 0

    class Counted(Prompt):
        def __init__(self):
            nonlocal measured
            measured += 1
            super().__init__(10.0)

    world = World("a", "b", quotas={"b": limits(tokens=10.0, token_burst=20.0)})
    story = world.exchange(prompt=Prompt(0))
    story.machine._ask.measure = Counted
    assert (story.start(), measured, story.attempt.estimate) == (["first a"], 0, 0.0)
    assert story.fails("server_error") == ["failover b"]
    assert (measured, story.attempt.estimate) == (1, 10.0)
    story.wakes()
    assert measured == 1


def test_what_was_told_to_have_been_used_is_settled_and_teaches_the_estimate():
    world = World("a", quotas={"a": limits(tokens=10.0, token_burst=100.0)})
    prompt = Prompt(0, 50)
    prompt.text_bytes = 40
    story = world.exchange(prompt=prompt)
    story.start()
    # The guess, and what is reserved: a fifth more, and the answer.
    assert (story.attempt.estimate, round(world.quota().buckets[0].level(world.now), 6)) == (10.0, 38.0)
    story.attempt.usage = (20, 5)
    story.answers()
    assert world.quota().buckets[0].level(world.now) == 75.0
    again = world.exchange(prompt=prompt)
    again.start()
    assert again.attempt.estimate > 10.0


def test_what_no_limit_counts_teaches_nothing():
    world = World("a")
    prompt = Prompt(0, 50)
    prompt.text_bytes = 40
    story = world.exchange(prompt=prompt)
    story.start()
    story.attempt.usage = (2000, 5)
    story.answers()
    world.quota().counts_tokens = True
    assert world.gate().ratio.cost(prompt).guess == 10.0


def test_requests_under_way_count_until_they_end():
    world = World("a", quotas={"a": limits(concurrent=2)})
    stories = [world.exchange() for _ in range(3)]
    assert [story.start() for story in stories] == [["first a"], ["first a"], ["queue a"]]
    stories[0].answers(0.5)
    assert (stories[2].wakes(), world.now) == (["first a"], NOW + 0.5)
    assert world.quota().inflight == 2


def test_what_waits_for_the_end_of_others_is_estimated_from_how_long_they_take():
    world = World("a", quotas={"a": limits(concurrent=1)})
    story = world.exchange()
    story.start()
    waits = int(10.0 / USUAL_CALL_S)
    full(world, waits)
    late = world.exchange()
    assert (late.start(), late.advised()) == (["refuse 429 rate_limited"], (True, (1 + waits) * USUAL_CALL_S))


@pytest.mark.parametrize(
    "ending", ["served", "cancelled", "cancelled unsent", "never sent", "refused", "broken", "crashed", "client gone"]
)
def test_whatever_becomes_of_an_attempt_its_place_is_free_again(ending):
    world = World("a", quotas={"a": limits(concurrent=1)})
    story = world.exchange(policy=policy(attempts=1), stream=True)
    story.start()
    (waiting,) = full(world)
    if ending == "served":
        story.answers()
    elif ending == "cancelled":
        story.sent().drain()
    elif ending == "cancelled unsent":
        story.drain()
    elif ending == "never sent":
        story.fails("connect", sent=False)
    elif ending == "refused":
        story.fails("caller", status=400)
    elif ending == "broken":
        story.sent().begins()
        story.broke()
    elif ending == "crashed":
        story.crash()
    else:
        story.sent().gone()
    assert (world.gate().pending, world.quota().inflight, world.place("a").state.pending) == (0, 0, 0)
    assert waiting.wakes() == ["first a"]


def test_what_never_left_or_was_refused_is_given_back():
    quota = limits(1.0, burst=10.0, tokens=1.0, token_burst=100.0)

    def left(fault, *, sent):
        world = World("a", quotas={"a": quota})
        story = world.exchange(policy=policy(attempts=1), prompt=Prompt(30))
        story.start()
        story.fails(fault, sent=sent)
        return [round(bucket.level(world.now), 6) for bucket in world.quota().buckets[:2]]

    assert left("connect", sent=False) == [10.0, 100.0]
    assert left("overloaded", sent=True) == [9.0, 100.0]  # counted by the provider as a request, all the same
    assert left("server_error", sent=True) == [9.0, 70.0]


def test_an_overload_teaches_how_many_may_be_under_way():
    world = World("a")
    stories = [world.exchange(policy=policy(attempts=1)) for _ in range(10)]
    for story in stories:
        story.start()
    stories[9].fails("overloaded")
    assert world.exchange(policy=policy(attempts=1)).start() == ["first a"]  # one refusal says nothing
    for story in stories[:3]:
        story.answers()
    stories[8].fails("overloaded")
    # Those served had one to three under way, with themselves; refused was the ninth.
    assert world.quota().limit(world.now) == 5


def test_what_the_head_says_of_limits_is_believed_before_the_answer_ends():
    world = World("a")
    story = world.exchange()
    story.start()
    story.sent()
    story.machine.stated(world.now, story.attempt, [Stated(Resource.REQUESTS, 60.0, 0.0, period_s=60.0)])
    assert (world.exchange().start(), world.quota().buckets[0].source) == (["queue a"], "header")


# -- law 11 -----------------------------------------------------------------------------------------------------------------------


def test_a_clients_own_key_has_a_gate_of_its_own():
    world = World("a", keys=(), quotas={"a": ONE_PER_S})
    stories = [world.exchange(foreign_key="hash-1", client="hash-1") for _ in range(2)]
    assert [story.start() for story in stories] == [["first a"], ["queue a"]]
    assert world.exchange(foreign_key="hash-2", client="hash-2").start() == ["first a"]
    assert world.exchange().start() == ["first a"]
    assert [len(world.gate(foreign=key).queue) for key in ("hash-1", "hash-2", "")] == [1, 0, 0]
    assert (stories[1].wakes(), stories[1].attempt.credential) == (["first a"], None)


def test_a_client_that_floods_hurts_only_itself():
    world = busy("a", until=1.0, queue_depth=3)
    flood = full(world, 3, client="flood")
    quiet = world.exchange(client="quiet")
    assert (quiet.start(), quiet.evicted) == (["queue a"], flood[2])
    assert flood[2].sent_away() == ["refuse 429 queue_full"]
    assert [quiet.wakes(), round(world.now - NOW, 6)] == [["first a"], 2.0]


# -- throttle ---------------------------------------------------------------------------------------------------------------------


def refusing(*targets):
    """A provider that has refused all that was sent to it, and has no limit that could be learned."""
    world = World(*targets)
    throttle = world.gate().throttle
    throttle.watch(world.now)
    for _ in range(40):
        throttle.sent(world.now)
        throttle.refused(world.now, sent_at=world.now)
    world.chance.share = 1.0
    return world


def test_what_refuses_nearly_everything_is_spared_where_another_can_serve():
    assert refusing("a", "b").exchange().start() == ["first b"]


def test_and_gets_a_trickle_where_no_other_can():
    world = refusing("a")
    stories = [world.exchange() for _ in range(3)]
    assert [story.start() for story in stories] == [["first a"], ["refuse 503 throttled"], ["refuse 503 throttled"]]
    assert (stories[1].end, stories[1].advised()[0]) == ("refused: throttled", True)
    assert 1.0 <= stories[1].advised()[1] <= 60.0


def test_going_past_a_key_that_is_out_of_use_is_no_spill_and_measures_nothing():
    world = World("a", "b")
    world.key("a").bench(world.now)
    story, measured = world.exchange(), []
    story.machine._ask.measure = lambda: measured.append("the body") or Prompt(10)
    assert (story.start(), measured) == (["first b"], [])
    assert story.record.spills is None


def test_an_overload_that_is_long_over_leaves_nothing_to_reckon_with():
    world = World("a")
    story = world.exchange(policy=policy(attempts=1))
    story.start()
    story.fails("overloaded")
    quota = world.quota()
    assert quota.bound
    world.now += 600.0
    world.exchange().start()
    assert not quota.bound


def test_a_stream_that_begins_is_news_to_the_throttle():
    world = World("a")
    throttle = world.gate().throttle
    throttle.watch(world.now)
    for _ in range(9):
        story = world.exchange(stream=True)
        story.start()
        assert throttle.watching
        story.sent()
        story.begins()
    assert not throttle.watching  # so many in a row end the matter


def test_where_one_target_fails_and_the_other_has_no_room_in_time_the_sooner_of_both_is_told():
    world = World("a", "b")
    world.chance.share = 1.0
    shut(world.breaker("a"), world.now, good=0)
    assert world.place("a").worse_breaker(world.now).trickle(world.now)
    world.key("b").park(world.now, "gpt-4o", 3.0)
    story = world.exchange(patience=2.0)
    assert story.start() == ["refuse 429 rate_limited"]
    assert 3.0 <= story.advised()[1] < 5.0


# -- balance, and the client's own limits -----------------------------------------------------------------------------------------


def test_the_order_is_drawn_once():
    world = World("a", "b", "c", weights={"a": 1.0, "b": 1.0, "c": 0.0})
    story = world.exchange(balance=Balance.WEIGHTED)
    story.start()
    drawn = story.machine._ask.candidates
    assert [place.provider.name for place in drawn][-1] == "c"
    story.fails("server_error")
    assert story.machine._ask.candidates is drawn
    assert [attempt.provider for attempt in story.record.attempts] == [place.provider.name for place in drawn[:2]]


def test_an_order_that_is_given_is_left_alone():
    world = World("a", "b")
    story = world.exchange()
    given = story.machine._ask.candidates
    story.start()
    assert story.machine._ask.candidates is given


@pytest.mark.parametrize("outcome", ["served", "served without usage", "failed"])
def test_the_fastest_is_known_by_its_first_content_and_by_its_failures(outcome):
    world = World("a")
    story = world.exchange(balance=Balance.FASTEST, policy=policy(attempts=1))
    story.start()
    if outcome == "failed":
        story.fails("server_error", after=1.0)
        assert world.place("a").state.pace[False].seconds(world.now) >= 1.0
    else:
        story.sent().begins(0.5, streaming=False)
        assert world.place("a").state.pace[False].seconds(world.now) == pytest.approx(0.5)
    assert world.place("a").state.pace[True].seconds(world.now) is None


def booked(world, tokens=100.0):
    """A client's own limits, and what one request has taken of them."""
    own = Quota(limits(1.0, burst=10.0, tokens=1.0, token_burst=1000.0), world.now)
    return own, own.reserve(world.now, Cost(tokens, 0.0))


@pytest.mark.parametrize(
    ("ending", "left"),
    [
        ("served", [9.0, 970.0]),
        ("served without usage", [9.0, 900.0]),
        ("broken", [9.0, 900.0]),
        ("client gone", [9.0, 900.0]),
        ("failed", [9.0, 1000.0]),
        ("refused", [9.0, 1000.0]),
    ],
)
def test_what_a_client_was_charged_becomes_what_it_took(ending, left):
    world = World("a")
    own, booking = booked(world)
    story = world.exchange(booking=booking, policy=policy(attempts=1), stream=True)
    if ending == "refused":
        world.key().park(world.now, "gpt-4o", 50.0)
    story.start()
    if ending == "served":
        story.record.usage = (20, 10)
        story.answers()
    elif ending == "served without usage":
        story.answers()
    elif ending == "broken":
        story.sent().begins()
        story.broke()
    elif ending == "client gone":
        story.sent().gone()
    elif ending == "failed":
        story.fails("server_error")
    assert [bucket.level(world.now) for bucket in own.buckets] == left
    assert (own.inflight, booking.ended) == (0, True)


# -- reload -----------------------------------------------------------------------------------------------------------------------


def test_a_reload_changes_the_limits_of_those_who_wait():
    world = busy("a", until=9.0)
    (story,) = full(world)
    world.registry.adopt([provider("a", quota=limits(10.0), queue_depth=0)], world.now)
    assert story.wakes() == ["first a"]
    assert world.now - NOW < 2.0
    assert world.gate().queue.depth == 0


def test_breakers_do_not_move_for_want_of_room():
    world = busy("a", until=20.0)
    assert [world.exchange(client=str(number)).start() for number in range(30)] == [["refuse 429 rate_limited"]] * 30
    assert (world.moves, world.breaker("a").state) == ([], State.CLOSED)
