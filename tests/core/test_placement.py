"""Where the next attempt goes: failover free and at once, repetition late and paid, breakers last (laws 8 and 9).

Rate limits, keys, quick tries and doubts have files of their own.
"""

import pytest

from gateway.core.breaker import State
from gateway.core.plan import BackoffPlan, Family, Jitter
from gateway.core.verdicts import FAULTS, Again, Fault
from tests.core.build import World, policy, serve, shut

LAST_RESORT = sorted(fault.value for fault in Fault if FAULTS[fault].again is Again.LAST_RESORT)
ELSEWHERE = sorted(fault.value for fault in Fault if FAULTS[fault].elsewhere)
FINAL = sorted(fault.value for fault in Fault if not FAULTS[fault].elsewhere)
NO_WAIT = policy(rate_limit_wait=0.0)


def budgets(world, *names):
    return tuple(round(world.budget(name), 6) for name in names)


# -- failover ---------------------------------------------------------------------------------------------------------------------


def test_the_first_target_in_order_serves():
    story = World("a", "b").exchange()
    assert story.start() == ["first a"]
    assert story.answers() == ["open a", "commit a", "finish"]
    assert (story.end, story.record.saved_by) == ("ok: none", None)


@pytest.mark.parametrize("fault", ELSEWHERE)
def test_a_failure_goes_to_the_next_target_at_once_and_for_free(fault):
    world = World("a", "b")
    world.spend("a")
    world.spend("b")
    story = world.exchange(policy=NO_WAIT)
    story.start()
    before = world.budget("a")
    assert story.fails(fault, ambiguous=True) == ["failover b"]
    assert budgets(world, "a", "b") == (before, 0.0)
    story.answers()
    assert (story.end, story.record.saved_by, story.trail) == ("ok: none", "failover", [f"a:{fault}", "b:ok"])


@pytest.mark.parametrize("fault", FINAL)
def test_the_callers_own_faults_go_nowhere_else(fault):
    story = World("a", "b").exchange()
    story.start()
    assert story.fails(fault) == ["relay a"]
    assert (story.end, story.advised()) == ("caller_error: caller", (None, None))


def test_no_more_attempts_are_made_than_the_policy_allows():
    story = World("a", "b", "c").exchange(policy=policy(attempts=2))
    story.start()
    assert story.fails("server_error") == ["failover b"]
    assert story.fails("server_error") == ["relay b"]
    assert story.end == "failed: attempts_exhausted"


def test_a_route_without_targets_for_the_request_refuses():
    story = World("a?context_length").exchange()
    assert story.start() == ["refuse 503 no_target"]
    assert (story.end, story.advised()) == ("refused: no_target", (False, None))


# -- the same target again --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", LAST_RESORT)
def test_a_lone_target_is_asked_again_after_a_backoff_for_one_token(fault):
    world = World("a")
    world.chance.share = 0.5
    world.spend(leave=5.0)
    story = world.exchange()
    story.start()
    assert story.fails(fault) == []
    assert (story.waits, budgets(world, "a")) == (0.25, (4.2,))  # 5, and 0.2 for the first attempt, less 1
    assert story.wakes() == ["retry a"]
    story.answers()
    assert (story.end, story.record.saved_by) == ("ok: none", "retry")


@pytest.mark.parametrize("fault", sorted({fault.value for fault in Fault} - set(LAST_RESORT) - {"rate_limited"}))
def test_faults_that_a_repetition_cannot_mend_are_not_repeated(fault):
    world = World("a")
    story = world.exchange()
    story.start()
    assert story.fails(fault, answered=True)[0].startswith(("relay a", "refuse"))
    assert (story.machine.done, budgets(world, "a")) == (True, (10.0,))


def test_a_repetition_that_may_be_billed_twice_costs_twice():
    world = World("a")
    story = world.exchange(policy=policy(attempts=2))
    story.start()
    story.fails("server_error", ambiguous=True)
    assert budgets(world, "a") == (8.0,)


def test_a_lone_target_is_asked_as_often_as_the_policy_says_and_backs_off_longer_each_time():
    world = World("a")
    world.chance.share = 1.0
    story = world.exchange()
    story.start()
    waits = []
    for _ in range(3):
        assert story.fails("overloaded") == []
        waits.append(story.waits)
        assert story.wakes() == ["retry a"]
    assert story.fails("overloaded") == ["relay a"]
    assert (waits, story.end) == ([0.5, 1.0, 2.0], "failed: attempts_exhausted")


def test_decorrelated_backoff_remembers_the_wait_before():
    world = World("a")
    world.chance.share = 1.0
    story = world.exchange(policy=policy(backoff=BackoffPlan(jitter=Jitter.DECORRELATED)))
    story.start()
    waits = []
    for _ in range(3):
        story.fails("overloaded")
        waits.append(story.waits)
        story.wakes()
    assert waits == [1.5, 4.5, 8.0]


def test_other_targets_come_first_and_the_first_tried_is_the_first_repeated():
    story = World("a", "b").exchange()
    story.start()
    assert story.fails("server_error") == ["failover b"]
    assert story.fails("server_error") == []
    assert story.wakes() == ["retry a"]


def test_a_target_that_must_not_be_repeated_leaves_the_repetition_to_one_that_may():
    story = World("a", "b").exchange()
    story.start()
    story.fails("server_error", retry_same=False)
    story.fails("server_error")
    assert story.wakes() == ["retry b"]


def test_an_upstream_that_forbids_retries_forbids_itself_and_never_another():
    story = World("a", "b").exchange()
    story.start()
    assert story.fails("server_error", retry_same=False) == ["failover b"]
    assert story.fails("overloaded", retry_same=False) == ["relay b"]
    assert story.end == "failed: attempts_exhausted"


@pytest.mark.parametrize(("share", "wait"), [(0.0, 4.0), (1.0, 6.0)])
def test_a_stated_delay_is_never_undercut_by_the_backoff(share, wait):
    world = World("a")
    world.chance.share = share
    story = world.exchange()
    story.start()
    story.fails("overloaded", delay=4.0)
    assert story.waits == wait


def test_a_repetition_that_would_come_too_late_is_not_paid_for():
    world = World("a")
    story = world.exchange(patience=30.0)
    story.start()
    assert story.fails("overloaded", delay=30.0) == ["relay a"]
    assert (story.end, story.advised(), budgets(world, "a")) == ("failed: deadline", (False, 30.0), (10.0,))


def test_with_the_budget_empty_the_client_may_try_itself():
    world = World("a")
    world.spend()
    story = world.exchange()
    story.start()
    assert story.fails("server_error") == ["relay a"]
    assert (story.end, story.advised()) == ("failed: retry_budget", (None, None))


def test_where_one_budget_is_empty_another_targets_may_pay():
    world = World("a", "b")
    story = world.exchange()
    story.start()
    story.fails("server_error")
    world.spend("a")
    story.fails("server_error")
    assert story.wakes() == ["retry b"]


def test_a_first_attempt_against_an_open_breaker_deposits_nothing():
    world = World("a")
    world.spend(leave=5.0)
    shut(world.breaker("a"), world.now)
    assert (world.exchange().start(), budgets(world, "a")) == (["first a"], (5.0,))


def test_a_first_attempt_deposits_and_no_later_one_does():
    world = World("a", "b")
    world.spend("a", leave=5.0)
    world.spend("b", leave=5.0)
    story = world.exchange()
    story.start()
    story.fails("server_error")
    assert budgets(world, "a", "b") == (5.2, 5.0)


# -- a client that is retrying itself ---------------------------------------------------------------------------------------------


def test_a_clients_own_retry_deposits_nothing_and_is_not_multiplied():
    world = World("a")
    world.spend(leave=5.0)
    story = world.exchange(already_retried=True)
    assert story.start() == ["first a"]
    assert budgets(world, "a") == (5.0,)
    assert story.fails("server_error") == ["relay a"]
    assert (story.end, budgets(world, "a")) == ("failed: attempts_exhausted", (5.0,))


def test_a_clients_own_retry_fails_over_like_any_other():
    story = World("a", "b").exchange(already_retried=True)
    story.start()
    assert story.fails("rate_limited", delay=1.0) == ["failover b"]


def test_a_clients_own_retry_is_never_refused_for_being_one():
    world = World("a")
    world.spend()
    shut(world.breaker("a"), world.now)
    assert world.exchange(already_retried=True).start() == ["first a"]


def test_a_clients_own_retry_may_be_followed_by_another_of_its_own():
    story = World("a").exchange(already_retried=True)
    story.start()
    story.fails("server_error")
    assert story.advised() == (None, None)


# -- targets for one fault --------------------------------------------------------------------------------------------------------


def test_a_context_that_is_too_long_goes_only_to_targets_declared_for_it():
    story = World("a", "b", "a/big?context_length", "c?content_policy").exchange()
    story.start()
    assert story.fails("context_length") == ["failover a/big"]
    story.answers()
    assert story.end == "ok: none"


def test_what_fits_nowhere_is_relayed_as_the_provider_said_it():
    story = World("a", "b/big?context_length").exchange()
    story.start()
    story.fails("context_length")
    assert story.fails("context_length") == ["relay b/big"]
    assert (story.end, story.advised()) == ("caller_error: caller", (None, None))


def test_a_target_for_one_fault_that_is_down_does_not_hide_what_the_caller_must_know():
    story = World("a", "b/big?context_length").exchange(policy=policy(attempts=2))
    story.start()
    story.fails("context_length")
    assert story.fails("server_error") == ["relay a"]
    assert story.end == "caller_error: caller"


def test_once_a_fault_narrowed_the_choice_no_ordinary_target_is_repeated():
    story = World("a", "b", "c/big?context_length").exchange()
    story.start()
    story.fails("server_error")
    assert story.fails("context_length") == ["failover c/big"]
    assert story.fails("server_error") == []
    assert story.wakes() == ["retry c/big"]


@pytest.mark.parametrize(("failover", "actions"), [(False, ["relay a"]), (True, ["failover b"])])
def test_a_content_filter_is_final_unless_the_policy_fails_over(failover, actions):
    story = World("a", "b").exchange(policy=policy(failover_content_policy=failover))
    story.start()
    assert story.fails("content_policy") == actions


def test_a_content_filter_everywhere_is_the_callers():
    story = World("a", "b").exchange(policy=policy(failover_content_policy=True))
    story.start()
    story.fails("content_policy")
    assert story.fails("content_policy") == ["relay b"]
    assert story.end == "caller_error: caller"


# -- breakers ---------------------------------------------------------------------------------------------------------------------


def test_an_open_breaker_diverts():
    world = World("a", "b")
    shut(world.breaker("a"), world.now)
    assert world.exchange().start() == ["first b"]


def test_a_providers_open_breaker_diverts_from_all_its_targets():
    world = World("a", "a/other", "b")
    shut(world.registry.providers["a"].breaker, world.now)
    assert world.exchange().start() == ["first b"]


@pytest.mark.parametrize(("drawn", "actions"), [(0.49, ["first a"]), (0.5, ["first b"])])
def test_a_ramping_target_gets_its_share(drawn, actions):
    world = World("a", "b")
    breaker = world.breaker("a")
    shut(breaker, world.now)
    world.now += 10.0
    serve(breaker, *[world.now + step for step in range(10)])
    world.now += 15.0
    breaker.admit(world.now).ignore()
    world.chance.share = drawn
    assert world.exchange().start() == actions


def test_without_an_alternative_requests_go_through_an_open_breaker():
    world = World("a")
    world.spend()
    shut(world.breaker("a"), world.now)
    story = world.exchange()
    assert story.start() == ["first a"]
    assert story.attempt.probe is False


def test_of_several_open_targets_the_one_that_fails_least_is_asked():
    world = World("a", "b")
    shut(world.breaker("a"), world.now, good=5)
    shut(world.breaker("b"), world.now, good=20)
    assert world.exchange().start() == ["first b"]


def test_going_to_an_open_target_after_a_failure_is_paid():
    world = World("a", "b")
    shut(world.breaker("b"), world.now)
    story = world.exchange()
    story.start()
    assert story.fails("timeout") == ["failover b"]
    assert budgets(world, "a", "b") == (10.0, 9.0)


def test_an_open_target_that_cannot_be_paid_is_not_asked_after_a_failure():
    world = World("a", "b")
    shut(world.breaker("b"), world.now)
    world.spend("b")
    story = world.exchange()
    story.start()
    assert story.fails("timeout", answered=True) == ["relay a"]
    assert (story.end, story.advised()) == ("failed: retry_budget", (None, None))


def test_a_hopeless_target_gets_a_trickle_and_everyone_else_is_told_when_it_is_probed():
    world = World("a")
    world.chance.share = 1.0
    shut(world.breaker("a"), world.now, good=0)
    assert world.exchange().start() == ["first a"]
    refused = world.exchange()
    assert refused.start() == ["refuse 503 breakers_open"]
    assert refused.advised() == (True, 6.25)  # five seconds, and a quarter more by jitter
    assert refused.end == "refused: breakers_open"
    world.now += 1.0
    assert world.exchange().start() == ["first a"]


def test_of_several_hopeless_targets_the_first_probe_is_announced():
    world = World("a", "b")
    world.chance.share = 1.0
    shut(world.breaker("b"), world.now - 1.0, good=0)
    shut(world.breaker("a"), world.now, good=0)
    world.exchange().start()
    refused = world.exchange()
    refused.start()
    assert refused.advised() == (True, 5.0)


def test_a_hopeless_provider_holds_all_its_targets_to_one_trickle():
    world = World("a", "a/other")
    world.chance.share = 1.0
    shut(world.registry.providers["a"].breaker, world.now, good=0)
    assert world.exchange().start() == ["first a"]
    assert world.exchange().start() == ["refuse 503 breakers_open"]


def test_a_lone_target_is_still_retried_though_its_breaker_has_opened():
    world = World("a")
    story = world.exchange()
    story.start()
    shut(world.breaker("a"), world.now)
    assert story.fails("server_error") == []
    assert story.wakes() == ["retry a"]
    assert budgets(world, "a") == (9.0,)


def test_a_retry_decided_on_before_the_breaker_opened_is_made_all_the_same_and_paid_once():
    world = World("a")
    story = world.exchange()
    story.start()
    story.fails("server_error")
    shut(world.breaker("a"), world.now)
    assert story.wakes() == []
    assert story.wakes() == ["retry a"]
    assert budgets(world, "a") == (9.0,)


def test_a_hopeless_target_is_not_retried_and_the_client_is_told_when_to_come_back():
    world = World("a")
    world.chance.share = 1.0
    story = world.exchange()
    story.start()
    shut(world.breaker("a"), world.now, good=0)
    world.exchange().start()  # takes the trickle
    assert story.fails("server_error") == ["relay a"]
    assert (story.end, story.advised()) == ("failed: breakers_open", (True, 6.25))


def test_half_open_breakers_let_one_probe_pass_and_everyone_else_go_elsewhere():
    world = World("a", "b")
    shut(world.breaker("a"), world.now)
    world.now += 5.0
    probe = world.exchange()
    assert probe.start() == ["first a"]
    assert probe.attempt.probe
    assert world.exchange().start() == ["first b"]
    probe.answers()
    assert world.breaker("a").state is State.RAMP


def test_families_of_a_target_are_kept_apart():
    world = World("a", "b")
    shut(world.breaker("a"), world.now)
    assert world.exchange(family=Family.EMBEDDINGS).start() == ["first a"]
