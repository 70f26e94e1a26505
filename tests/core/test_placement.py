"""Where the next attempt goes: failover free and at once, repetition late and paid, waiting short, breakers last (laws 8 and 9)."""

import pytest

from gateway.core.breaker import State
from gateway.core.plan import BackoffPlan, Family, Jitter
from gateway.core.verdicts import FAULTS, Again, Fault
from tests.core.build import NOW, World, policy, provider, shut

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


# -- rate limits ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "wait"), [(0.0, 3.0), (1.0, 4.5)])
def test_a_preferred_target_is_waited_for_where_the_wait_is_short_and_never_less_than_stated(share, wait):
    world = World("a", "b")
    world.chance.share = share
    world.key("a").park(world.now, "gpt-4o", 3.0)
    story = world.exchange()
    assert story.start() == []
    assert story.waits == wait
    assert story.wakes() == ["first a"]


@pytest.mark.parametrize(
    ("stated", "limit", "patience"),
    [(3.1, 3.0, 600.0), (0.1, 0.0, 600.0), (2.0, 3.0, 3.0), (11.0, 30.0, 600.0)],
)
def test_a_preferred_target_is_not_waited_for_where_the_wait_is_long(stated, limit, patience):
    world = World("a", "b")
    world.key("a").park(world.now, "gpt-4o", stated)
    assert world.exchange(policy=policy(rate_limit_wait=limit), patience=patience).start() == ["first b"]


def test_waiting_for_a_preferred_target_after_its_429_is_a_paid_repetition():
    world = World("a", "b")
    story = world.exchange()
    story.start()
    assert story.fails("rate_limited", delay=2.0) == []
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
    world.key("a").park(world.now, "gpt-4o", 2.0)
    assert story.wakes() == ["first b"]


def test_where_nothing_else_can_serve_a_rate_limit_is_waited_for_up_to_ten_seconds():
    world = World("a")
    story = world.exchange(policy=NO_WAIT)
    story.start()
    assert story.fails("rate_limited", delay=6.0) == []
    assert story.wakes() == ["retry a"]
    assert story.fails("rate_limited", delay=6.0) == ["relay a"]
    assert (story.end, story.advised()) == ("failed: rate_limited", (True, 6.0))


def test_of_several_limits_the_one_that_ends_first_is_waited_for():
    world = World("a", "b")
    world.key("a").park(world.now, "gpt-4o", 9.0)
    world.key("b").park(world.now, "gpt-4o", 5.0)
    story = world.exchange()
    assert (story.start(), story.waits) == ([], 5.0)
    assert story.wakes() == ["first b"]


def test_where_one_wait_cannot_be_paid_a_later_free_one_is_taken():
    world = World("a", "b")
    world.spend("a")
    world.key("b").park(world.now, "gpt-4o", 8.0)
    story = world.exchange(policy=NO_WAIT)
    story.start()
    assert (story.fails("rate_limited", delay=4.0), story.waits) == ([], 8.0)
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
    story.fails("rate_limited", delay=2.0)
    for _ in range(3):
        world.key().park(world.now, "gpt-4o", world.key().usable_at("gpt-4o") - world.now + 1.0)
        assert story.wakes() == []
    assert (story.wakes(), round(world.budget(), 1)) == (["retry a"], 10.0)  # one token, long since trickled back
    world.spend(leave=1.0)
    story.fails("rate_limited", delay=1.0)
    world.key().park(world.now, "gpt-4o", 2.0)
    assert (story.wakes(), story.wakes()) == ([], ["retry a"])


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
    assert (story.end, story.advised(), world.key().usable_at("gpt-4o")) == ("failed: attempts_exhausted", (False, None), 0.0)


def test_a_stated_delay_is_kept_by_all_even_where_the_provider_forbids_this_client_to_repeat():
    world = World("a")
    story = world.exchange()
    story.start()
    story.fails("rate_limited", retry_same=False, delay=5.0)
    assert world.key().usable_at("gpt-4o") == NOW + 5.0


def test_a_429_touches_no_breaker():
    world = World("a")
    for _ in range(30):
        story = world.exchange(policy=policy(attempts=1))
        story.start()
        story.fails("rate_limited", delay=0.0)
        world.now += 1.0
    assert (world.moves, world.breaker("a").failing(world.now)) == ([], 0.0)


def test_a_retry_after_an_error_waits_out_a_rate_limit_that_others_ran_into():
    world = World("a")
    story = world.exchange()
    story.start()
    story.fails("server_error")
    world.key().park(world.now, "gpt-4o", 4.0)
    assert (story.wakes(), story.waits) == ([], 4.0)
    assert (story.wakes(), world.budget()) == (["retry a"], pytest.approx(10.0))


def test_a_retry_after_an_error_does_not_wait_out_a_long_rate_limit():
    world = World("a")
    story = world.exchange()
    story.start()
    world.key().park(world.now, "gpt-4o", 40.0)
    assert story.fails("server_error") == ["relay a"]
    assert (story.end, story.advised()) == ("failed: rate_limited", (True, 40.0))


# -- keys -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["credential", "billing"])
def test_a_refused_key_is_benched_and_the_providers_next_key_serves_the_same_request(fault):
    world = World("a", "b", keys=("key-1", "key-2"))
    world.spend("a")
    story = world.exchange()
    story.start()
    assert story.attempt.credential == "key-1"
    assert story.fails(fault, retry_same=False) == ["retry a"]
    assert story.attempt.credential == "key-2"
    assert story.fails(fault) == ["failover b"]
    assert world.registry.providers["a"].benched(world.now) == 2
    later = world.exchange()
    assert later.start() == ["first b"]


def test_a_key_at_its_limit_gives_way_to_the_next_key_at_once_and_for_free():
    world = World("a", keys=("key-1", "key-2"))
    world.spend(leave=5.0)
    story = world.exchange()
    story.start()
    assert story.fails("rate_limited", delay=20.0) == ["retry a"]
    assert (story.attempt.credential, budgets(world, "a")) == ("key-2", (5.2,))


def test_a_request_too_large_for_one_keys_limit_is_not_tried_with_the_next():
    story = World("a", keys=("key-1", "key-2")).exchange()
    story.start()
    assert story.fails("rate_limited", retry_same=False) == ["relay a"]


def test_a_key_that_this_exchange_has_asked_is_no_other_key_when_the_next_one_is_refused():
    story = World("a", keys=("key-1", "key-2")).exchange(already_retried=True)
    story.start()
    assert story.fails("rate_limited", delay=1.0) == ["retry a"]
    assert story.fails("billing") == ["relay a"]
    assert story.trail == ["a:rate_limited", "a:billing"]


def test_a_benched_key_is_not_used_for_any_model_until_its_time_is_up():
    world = World("a", keys=("key-1", "key-2"))
    world.key().bench(world.now)
    story = world.exchange()
    story.start()
    assert story.attempt.credential == "key-2"
    world.now += 60.0
    story = world.exchange()
    story.start()
    assert story.attempt.credential == "key-1"


@pytest.mark.parametrize(
    ("trouble", "refusal", "delay"),
    [
        (lambda key: key.bench(NOW), "refuse 503 credentials_benched", 60.0),
        (lambda key: key.park(NOW, "gpt-4o", 20.0), "refuse 429 rate_limited", 20.0),
        (lambda key: key.park(NOW, "gpt-4o", 7200.0), "refuse 429 rate_limited", 60.0),
    ],
)
def test_with_every_key_out_of_use_the_client_is_told_when_to_come_back(trouble, refusal, delay):
    world = World("a", keys=("key-1", "key-2"))
    for name in ("key-1", "key-2"):
        trouble(world.key(key=name))
    story = world.exchange()
    assert story.start() == [refusal]
    assert (story.advised(), story.record.ending) == ((True, delay), "refused")


def test_advice_is_spread_and_at_least_a_second_and_at_most_a_minute():
    for stated, low, high in [(20.0, 20.0, 25.0), (50.0, 50.0, 60.0)]:
        for share, expected in [(0.0, low), (1.0, high)]:
            world = World("a")
            world.chance.share = share
            world.key().park(world.now, "gpt-4o", stated)
            story = world.exchange()
            story.start()
            assert story.advised() == (True, expected)
    world = World("a")
    world.key().park(world.now, "gpt-4o", 0.4)
    story = world.exchange(patience=0.5)
    assert (story.start(), story.advised()) == (["refuse 429 rate_limited"], (True, 1.0))


def test_one_parked_and_one_benched_key_make_a_rate_limit():
    world = World("a", keys=("key-1", "key-2"))
    world.key(key="key-1").bench(world.now)
    world.key(key="key-2").park(world.now, "gpt-4o", 30.0)
    story = world.exchange()
    assert (story.start(), story.advised()) == (["refuse 429 rate_limited"], (True, 30.0))


def test_a_passed_through_keys_limit_is_its_own():
    world = World("a", keys=())
    story = world.exchange(foreign_key="hash-1")
    story.start()
    assert story.attempt.credential is None
    story.fails("rate_limited", delay=30.0)
    refused = world.exchange(foreign_key="hash-1")
    assert (refused.start(), refused.advised()) == (["refuse 429 rate_limited"], (True, 30.0))
    assert world.exchange(foreign_key="hash-2").start() == ["first a"]


def test_a_provider_without_keys_is_asked_without_one():
    story = World("a", keys=()).exchange()
    story.start()
    assert story.attempt.credential is None
    assert story.fails("rate_limited", delay=0.0) == []
    assert story.wakes() == ["retry a"]
    assert story.answers() == ["open a", "commit a", "finish"]


def test_an_exchange_under_way_keeps_to_the_keys_it_began_with_when_a_reload_changes_them():
    world = World("a")
    story = world.exchange()
    story.start()
    world.registry.adopt([provider("a", keys=("key-9",))], world.now)
    story.fails("server_error")
    assert (story.wakes(), story.attempt.credential) == (["retry a"], "key-1")
    assert story.fails("credential") == ["relay a"]
    assert world.registry.providers["a"].benched(world.now) == 0


def test_a_key_that_a_reload_took_away_may_still_finish_what_it_began():
    world = World("a")
    story = world.exchange()
    story.start()
    world.registry.adopt([provider("a", keys=("key-9",))], world.now)
    assert story.answers() == ["open a", "commit a", "finish"]


def test_the_limit_of_a_clients_own_key_is_waited_for_at_nobody_elses_expense():
    world = World("a", keys=())
    world.spend()
    story = world.exchange(foreign_key="hash-1")
    story.start()
    assert story.fails("rate_limited", delay=2.0) == []
    assert story.wakes() == ["retry a"]
    world.spend()
    assert story.fails("server_error") == ["relay a"]
    assert story.end == "failed: retry_budget"


def test_requests_without_any_key_share_one_account_and_its_limits():
    world = World("a", keys=())
    story = world.exchange()
    story.start()
    assert story.fails("rate_limited", delay=30.0) == ["relay a"]
    later = world.exchange()
    assert (later.start(), later.advised()) == (["refuse 429 rate_limited"], (True, 30.0))


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
    breaker.admit(world.now).success(world.now)
    world.now += 15.0
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
    assert refused.advised() == (True, 7.5)  # six seconds, and a quarter more by jitter
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
    assert refused.advised() == (True, 6.25)


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
    assert (story.end, story.advised()) == ("failed: breakers_open", (True, 7.5))


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
