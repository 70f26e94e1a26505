"""What an exchange does about a rate limit: short stated waits for a preferred target, elsewhere at once, one probe afterwards.

Whoever waits for a limit stands in a queue, and is called when there is room; what else there is to queues is `test_waiting`'s.
"""

import pytest

from gateway.core.credentials import LOOK_S
from gateway.core.plan import Family
from gateway.core.turns import called
from gateway.core.verdicts import Scope
from tests.core.build import NOW, World, policy, provider, shut

NO_WAIT = policy(rate_limit_wait=0.0)


def budgets(world, *names):
    return tuple(round(world.budget(name), 6) for name in names)


# -- waiting ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_preferred_target_is_waited_for_where_the_wait_is_short_and_never_less_than_stated(share):
    world = World("a", "b")
    world.chance.share = share
    world.key("a").park(world.now, "gpt-4o", 3.0)
    story = world.exchange()
    assert story.start() == ["queue a"]
    assert story.waits == 3.0
    assert (story.wakes(), world.now) == (["first a"], NOW + 3.0)


@pytest.mark.parametrize(
    ("stated", "limit", "patience"),
    [(3.1, 3.0, 600.0), (0.1, 0.0, 600.0), (2.0, 3.0, 2.0), (11.0, 30.0, 600.0)],
)
def test_a_preferred_target_is_not_waited_for_where_the_wait_is_long(stated, limit, patience):
    world = World("a", "b")
    world.key("a").park(world.now, "gpt-4o", stated)
    assert world.exchange(policy=policy(rate_limit_wait=limit), patience=patience).start() == ["first b"]


def test_waiting_for_a_preferred_target_after_its_429_is_a_paid_repetition():
    world = World("a", "b")
    story = world.exchange()
    story.start()
    assert story.fails("rate_limited", delay=2.0) == ["queue a"]
    assert (story.waits, budgets(world, "a")) == (2.0, (9.0,))
    assert story.wakes() == ["retry a"]


def test_a_preferred_target_is_waited_for_once_and_then_the_others_have_their_turn():
    story = World("a", "b").exchange()
    story.start()
    story.fails("rate_limited", delay=0.5)
    assert story.wakes() == ["retry a"]
    assert story.fails("rate_limited", delay=0.5) == ["failover b"]


@pytest.mark.parametrize("delay", [0.0, 0.5])
def test_a_policy_that_never_waits_uses_the_next_target_even_after_a_short_429(delay):
    story = World("a", "b").exchange(policy=NO_WAIT)
    story.start()
    assert story.fails("rate_limited", delay=delay) == ["failover b"]


def test_a_preferred_target_whose_repetition_cannot_be_paid_is_not_waited_for():
    world = World("a", "b")
    world.spend("a")
    story = world.exchange()
    story.start()
    assert story.fails("rate_limited", delay=1.0) == ["failover b"]


def test_a_preferred_target_held_back_by_its_breaker_is_not_waited_for():
    world = World("a", "b")
    world.key("a").park(world.now, "gpt-4o", 2.0)
    shut(world.breaker("a"), world.now)
    assert world.exchange().start() == ["first b"]


def test_a_target_that_others_drove_to_its_limit_again_meanwhile_is_left_for_the_next():
    world = World("a", "b")
    world.key("a").park(world.now, "gpt-4o", 1.0)
    story = world.exchange()
    story.start()
    world.key("a").park(world.now, "gpt-4o", 5.0)
    assert (story.wakes(), world.now) == (["first b"], NOW + 3.0)


def test_where_nothing_else_can_serve_a_rate_limit_is_waited_for_up_to_ten_seconds():
    world = World("a")
    story = world.exchange(policy=NO_WAIT)
    story.start()
    assert story.fails("rate_limited", delay=6.0) == ["queue a"]
    assert story.wakes() == ["retry a"]
    assert story.fails("rate_limited", delay=6.0) == ["relay a"]
    assert (story.end, story.advised()) == ("failed: rate_limited", (True, 6.0))


def test_of_several_limits_the_one_that_ends_first_is_waited_for():
    world = World("a", "b")
    world.key("a").park(world.now, "gpt-4o", 9.0)
    world.key("b").park(world.now, "gpt-4o", 5.0)
    story = world.exchange()
    assert (story.start(), story.waits) == (["queue b"], 5.0)
    assert story.wakes() == ["first b"]


def test_where_one_wait_cannot_be_paid_a_later_free_one_is_taken():
    world = World("a", "b")
    world.spend("a")
    world.key("b").park(world.now, "gpt-4o", 8.0)
    story = world.exchange(policy=NO_WAIT)
    story.start()
    assert (story.fails("rate_limited", delay=4.0), story.waits) == (["queue b"], 8.0)
    assert story.wakes() == ["failover b"]


def test_a_rate_limited_target_whose_repetition_cannot_be_paid_leaves_it_to_the_client():
    world = World("a")
    world.spend()
    story = world.exchange()
    story.start()
    assert story.fails("rate_limited", delay=4.0) == ["relay a"]
    assert (story.end, story.advised()) == ("failed: retry_budget", (None, 4.0))


def test_a_wait_that_came_to_nothing_is_not_paid_twice():
    world = World("a")
    story = world.exchange()
    story.start()
    assert (story.fails("rate_limited", delay=2.0), budgets(world, "a")) == (["queue a"], (9.0,))
    for _ in range(3):
        # Others met the limit again in the moment it was called.
        world.key().park(world.now, "gpt-4o", world.usable_in() + 1.0)
        assert (story.room(), budgets(world, "a")) == (["queue a"], (9.0,))
    assert story.wakes() == ["retry a"]
    world.spend(leave=1.0)
    assert (story.fails("rate_limited", delay=1.0), budgets(world, "a")) == (["queue a"], (0.0,))
    world.key().park(world.now, "gpt-4o", 2.0)
    assert (story.room(), story.wakes()) == (["queue a"], ["retry a"])


def test_a_rate_limited_target_whose_breaker_opened_meanwhile_neither_spins_nor_drains_the_budget():
    world = World("a")
    story = world.exchange()
    story.start()
    story.fails("rate_limited", delay=1.0)
    shut(world.breaker("a"), world.now)
    assert story.wakes() == ["retry a"]
    assert world.budget() > 9.0


def test_a_request_too_large_for_a_limit_waits_for_nothing_and_parks_nothing():
    world = World("a")
    story = world.exchange()
    story.start()
    assert story.fails("rate_limited", retry_same=False) == ["relay a"]
    assert (story.end, story.advised(), world.usable_in()) == ("failed: attempts_exhausted", (False, None), 0.0)


def test_a_stated_delay_is_kept_by_all_even_where_the_provider_forbids_this_client_to_repeat():
    world = World("a")
    story = world.exchange()
    story.start()
    story.fails("rate_limited", retry_same=False, delay=5.0)
    assert world.usable_in() == 5.0


def test_a_429_touches_no_breaker():
    world = World("a")
    herd = [world.exchange(policy=policy(attempts=1)) for _ in range(30)]
    assert [story.start() for story in herd] == [["first a"]] * 30  # at once: those to come will wait for what these have met
    for story in herd:
        assert story.fails("rate_limited", delay=0.0, after=1.0) == ["relay a"]
    assert (world.moves, world.breaker("a").failing(world.now)) == ([], 0.0)


def test_a_retry_after_an_error_waits_out_a_rate_limit_that_others_ran_into():
    world = World("a")
    story = world.exchange()
    story.start()
    story.fails("server_error")
    world.key().park(world.now, "gpt-4o", 4.0)
    assert (story.wakes(), story.waits) == (["queue a"], 4.0)
    assert (story.wakes(), world.budget()) == (["retry a"], pytest.approx(10.0))


def test_a_retry_after_an_error_does_not_wait_out_a_long_rate_limit():
    world = World("a")
    story = world.exchange()
    story.start()
    world.key().park(world.now, "gpt-4o", 40.0)
    assert story.fails("server_error") == ["relay a"]
    assert (story.end, story.advised()) == ("failed: rate_limited", (True, 40.0))


# -- stated or not ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("delay", "limit", "actions"),
    [
        (2.0, 3.0, ["queue a"]),
        (3.0, 3.0, ["queue a"]),
        (0.0, 3.0, ["queue a"]),
        (3.1, 3.0, ["failover b"]),
        (None, 3.0, ["failover b"]),  # a second, by our own guess: no reason to let the client wait
        (None, 60.0, ["failover b"]),
        (2.0, 0.0, ["failover b"]),
        (0.0, 0.0, ["failover b"]),
        (None, 0.0, ["failover b"]),
    ],
)
def test_only_a_stated_delay_within_the_policys_limit_is_waited_for_where_another_target_can_serve(delay, limit, actions):
    story = World("a", "b").exchange(policy=policy(rate_limit_wait=limit))
    story.start()
    assert story.fails("rate_limited", delay=delay) == actions


@pytest.mark.parametrize(("delay", "actions"), [(2.0, ["queue a"]), (None, ["first b"])])
def test_the_same_holds_for_a_limit_that_others_ran_into(delay, actions):
    world = World("a", "b")
    world.key("a").park(world.now, "gpt-4o", delay)
    assert world.exchange().start() == actions


def test_an_unstated_limit_is_waited_for_where_nothing_else_can_serve():
    world = World("a")
    story = world.exchange(policy=NO_WAIT)
    story.start()
    waits = []
    for _ in range(3):
        assert story.fails("rate_limited") == ["queue a"]
        waits.append(story.waits)
        assert story.wakes() == ["retry a"]
    assert waits == [1.0, 2.0, 4.0]


def test_a_refusal_that_leaves_quota_is_over_within_a_second_each_time():
    world = World("a")
    story = world.exchange()
    story.start()
    for _ in range(3):
        assert story.fails("rate_limited", quota_left=True) == ["queue a"]
        assert story.waits == 1.0
        assert story.wakes() == ["retry a"]


def test_a_limit_said_to_concern_the_whole_key_parks_it_for_every_model():
    world = World("a", "a/other")
    story = world.exchange()
    story.start()
    assert story.fails("rate_limited", delay=20.0, scope=Scope.CREDENTIAL) == ["relay a"]
    assert [world.usable_in(model=model) for model in ("gpt-4o", "other")] == [20.0, 20.0]


def test_a_limit_concerns_one_model_and_the_same_account_may_serve_another():
    world = World("a", "a/other")
    story = world.exchange()
    story.start()
    assert story.fails("rate_limited", delay=20.0) == ["failover a/other"]
    assert [world.usable_in(model=model) for model in ("gpt-4o", "other")] == [20.0, 0.0]


@pytest.mark.parametrize(
    ("queue_wait", "stated", "actions"), [(10.0, 10.1, "relay a"), (4.0, 4.1, "relay a"), (4.0, 4.0, "queue a")]
)
def test_no_longer_is_waited_than_the_providers_queue_allows(queue_wait, stated, actions):
    story = World("a", queue_wait=queue_wait).exchange()
    story.start()
    assert story.fails("rate_limited", delay=stated) == [actions]


def test_a_longer_wait_is_taken_where_its_provider_allows_more():
    world = World("a", "b")
    impatient = provider("a", queue_wait=1.0)
    world.plans["a"] = impatient
    world.registry.adopt(world.plans.values(), world.now)
    world.key("a").park(world.now, "gpt-4o", 2.0)
    world.key("b").park(world.now, "gpt-4o", 5.0)
    story = world.exchange()
    assert (story.start(), story.waits) == (["queue b"], 5.0)


def test_of_waits_that_are_all_too_long_the_shortest_is_announced():
    world = World("a", "b", "c")
    world.key("a").bench(world.now - 50.0)
    world.key("b").park(world.now, "gpt-4o", 20.0)
    world.key("c").park(world.now, "gpt-4o", 30.0)
    story = world.exchange()
    assert (story.start(), story.advised()) == (["refuse 429 rate_limited"], (True, 20.0))


def test_all_waits_of_an_exchange_together_are_bound():
    story = World("a", queue_wait=5.0).exchange()
    story.start()
    assert (story.fails("rate_limited", delay=2.0), story.wakes()) == (["queue a"], ["retry a"])
    assert (story.fails("rate_limited", delay=2.0), story.wakes()) == (["queue a"], ["retry a"])
    assert story.fails("rate_limited", delay=2.0) == ["relay a"]
    assert story.advised() == (True, 2.0)


# -- the probe --------------------------------------------------------------------------------------------------------------------


def probing(*targets, stated=5.0, **settings):
    """A limit at `a` is over, and the first request since then is its probe."""
    world = World(*targets, **settings)
    world.key().park(world.now, "gpt-4o", stated)
    world.now += stated or 1.0
    probe = world.exchange()
    assert probe.start() == ["first a"]
    return world, probe


def test_after_an_unstated_limit_one_request_goes_and_the_others_go_elsewhere():
    world, probe = probing("a", "b", stated=None)
    assert [world.exchange().start() for _ in range(5)] == [["first b"]] * 5
    probe.answers()
    assert world.exchange().start() == ["first a"]


@pytest.mark.parametrize("rule", [policy(), NO_WAIT])
def test_after_a_stated_limit_nobody_waits_for_somebody_elses_probe(rule):
    world, probe = probing("a", "b")
    assert [world.exchange(policy=rule).start() for _ in range(5)] == [["first b"]] * 5
    probe.answers()
    assert world.exchange(policy=rule).start() == ["first a"]


def test_of_those_who_waited_for_a_stated_limit_one_is_the_probe_and_the_others_go_elsewhere():
    world = World("a", "b")
    world.key().park(world.now, "gpt-4o", 2.0)
    herd = [world.exchange() for _ in range(5)]
    assert [story.start() for story in herd] == [["queue a"]] * 5
    assert [story.wakes() for story in herd] == [["first a"]] + [["first b"]] * 4
    assert world.now == NOW + 3.0  # as long as the policy lets them wait for a preferred target


def test_with_nowhere_else_to_go_the_others_wait_for_the_probe():
    world, probe = probing("a")
    herd = [world.exchange() for _ in range(5)]
    assert [story.start() for story in herd] == [["queue a"]] * 5
    assert [story.waits for story in herd] == [LOOK_S] * 5
    world.now += 1.75
    assert not any(called(story.turn.gate, world.now) for story in herd)
    probe.answers()
    assert [story.wakes() for story in herd] == [["first a"]] * 5
    assert world.now == NOW + 5.0 + 1.75


def test_with_nowhere_else_to_go_one_of_those_who_wait_joins_a_probe_that_is_a_long_answer():
    world, _ = probing("a")
    herd = [world.exchange() for _ in range(3)]
    for story in herd:
        story.start()
    assert (herd[0].wakes(), world.now) == (["first a"], NOW + 5.0 + 2.0)
    assert [story.queued for story in herd] == [False, True, True]
    assert called(herd[1].turn.gate, world.now) is None


def test_whoever_waits_for_a_probe_waits_no_longer_than_the_queue_allows():
    world, _ = probing("a", queue_wait=1.0)
    told = world.exchange()
    assert told.start() == ["queue a"]
    assert (told.wakes(), world.now) == (["refuse 429 rate_limited"], NOW + 5.0 + 1.0)
    assert told.advised() == (True, 1.0)


def test_a_probe_that_meets_the_limit_again_sends_the_others_elsewhere():
    world, probe = probing("a", "b", stated=None)
    assert probe.fails("rate_limited") == ["failover b"]
    assert world.usable_in() == 2.0
    assert world.exchange().start() == ["first b"]


@pytest.mark.parametrize("lost", ["client gone", "server error", "caller", "draining", "crash", "too large", "cut by the clock"])
def test_a_probe_that_is_lost_frees_the_place(lost):
    world, probe = probing("a", "b", stated=None)
    assert world.exchange().start() == ["first b"]
    if lost == "client gone":
        probe.gone()
    elif lost == "server error":
        probe.fails("server_error")
    elif lost == "caller":
        probe.fails("caller")
    elif lost == "draining":
        probe.drain()
    elif lost == "crash":
        probe.crash()
    elif lost == "too large":
        probe.fails("rate_limited", retry_same=False)
    else:
        probe.sent()
        probe.wakes()
    after = world.exchange()
    assert after.start() == ["first a"]
    assert after.attempt.proving
    assert world.exchange().start() == ["first b"]


def test_a_probe_that_was_not_refused_within_two_seconds_is_joined_by_another():
    world, hanging = probing("a", "b", stated=None)
    world.now += 1.9
    assert world.exchange().start() == ["first b"]
    world.now += 0.1
    second = world.exchange()
    assert (second.start(), world.exchange().start()) == (["first a"], ["first b"])
    hanging.gone()
    assert world.exchange().start() == ["first b"], "the second still has the place"
    second.answers()
    assert world.exchange().start() == ["first a"]


def test_the_first_content_of_a_stream_is_proof_enough():
    world, probe = probing("a", "b", stated=None)
    probe.sent().head(streaming=True).content(0.5)
    assert world.exchange().start() == ["first a"]
    assert probe.broke() == ["break stream_broken"]
    assert world.exchange().start() == ["first a"]


def test_a_request_for_another_family_of_the_model_heeds_the_same_limit():
    world, _ = probing("a", "b", stated=None)
    assert world.exchange(family=Family.RESPONSES).start() == ["first b"]


def test_a_request_that_was_under_way_before_the_limit_does_not_prove_that_it_is_over():
    world = World("a", "b")
    early = world.exchange()
    early.start()
    world.key().park(world.now, "gpt-4o", None)
    world.now += 1.0
    world.exchange().start()
    early.answers()
    assert world.exchange().start() == ["first b"]
