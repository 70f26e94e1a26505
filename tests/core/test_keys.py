"""What an exchange does when a key is refused, out of credit or without rights, and when it is the provider that refuses them all."""

import pytest

from gateway.core.breaker import State
from gateway.core.plan import Family
from gateway.core.verdicts import Scope
from tests.core.build import NOW, World, provider


def budgets(world, *names):
    return tuple(round(world.budget(name), 6) for name in names)


# -- one key and the next ---------------------------------------------------------------------------------------------------------


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


def test_a_clients_own_retry_does_not_meet_the_key_it_has_asked_again_because_that_one_came_free_first():
    world = World("a", keys=("key-1", "key-2"))
    world.key(key="key-2").park(world.now, "gpt-4o", 2.0)
    story = world.exchange(already_retried=True)
    story.start()
    assert (story.fails("rate_limited", delay=5.0), story.waits) == (["queue a"], 2.0)
    world.key(key="key-1").forget()
    story.wakes()
    assert [attempt.credential for attempt in story.record.attempts].count("key-1") == 1


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
        (lambda key: key.bench(NOW), "refuse 503 credentials_benched", None),  # it is known only when we look again
        (lambda key: key.park(NOW, "gpt-4o", 20.0), "refuse 429 rate_limited", 20.0),
        (lambda key: key.park(NOW, "gpt-4o", 7200.0), "refuse 429 rate_limited", 60.0),
    ],
)
def test_with_every_key_out_of_use_the_client_is_told_when_to_come_back_if_that_is_known(trouble, refusal, delay):
    world = World("a", keys=("key-1", "key-2"))
    for name in ("key-1", "key-2"):
        trouble(world.key(key=name))
    story = world.exchange()
    assert story.start() == [refusal]
    assert (story.advised(), story.record.ending) == ((delay is not None, delay), "refused")


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
    story = world.exchange(patience=0.4)
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
    assert story.fails("rate_limited", delay=0.0) == ["queue a"]
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


def test_a_probe_whose_key_a_reload_took_away_leaves_nothing_behind():
    world = World("a", "b")
    world.key().bench(world.now - 60.0)
    story = world.exchange()
    story.start()
    assert story.attempt.proving
    world.registry.adopt([provider("a", keys=("key-9",)), provider("b")], world.now)
    assert story.fails("credential") == ["failover b"]
    assert world.state().benched(world.now) == 0


def test_the_limit_of_a_clients_own_key_is_waited_for_at_nobody_elses_expense():
    world = World("a", keys=())
    world.spend()
    story = world.exchange(foreign_key="hash-1")
    story.start()
    assert story.fails("rate_limited", delay=2.0) == ["queue a"]
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


def test_a_key_without_rights_to_one_model_serves_the_others():
    world = World("a", "a/other", "b")
    story = world.exchange()
    story.start()
    assert story.fails("credential", scope=Scope.KEY_ON_MODEL) == ["failover a/other"]
    assert (story.answers()[-1], world.state().benched(world.now), world.moves) == ("finish", 0, [])
    assert [world.usable_in(model=model) for model in ("gpt-4o", "other")] == [60.0, 0.0]
    assert world.exchange().start() == ["first a/other"]


def test_where_no_key_has_rights_to_a_model_the_client_is_told_that_it_is_the_keys():
    world = World("a")
    world.key().bench(world.now, "gpt-4o")
    story = world.exchange()
    assert (story.start(), story.advised()) == (["refuse 503 credentials_benched"], (False, None))


def test_rights_that_one_key_lacks_the_next_may_have():
    world = World("a", keys=("key-1", "key-2"))
    story = world.exchange()
    story.start()
    assert story.fails("credential", scope=Scope.KEY_ON_MODEL) == ["retry a"]
    assert story.attempt.credential == "key-2"


@pytest.mark.parametrize("family", [Family.FILES, Family.OTHER])
def test_off_the_inference_paths_a_refusal_benches_nothing(family):
    world = World("a")
    story = world.exchange(family=family, safe=True)
    story.start()
    story.fails("credential")
    assert (world.usable_in(), world.moves) == (0.0, [])


def test_a_benched_key_is_tested_by_one_request_and_called_back_when_it_serves():
    world = World("a", "b", keys=("key-1", "key-2"))
    world.key().bench(world.now)
    world.now += 60.0
    probe, bystander = world.exchange(), world.exchange()
    assert (probe.start(), bystander.start()) == (["first a"], ["first a"])
    assert (probe.attempt.credential, bystander.attempt.credential) == ("key-1", "key-2")
    probe.answers()
    after = world.exchange()
    after.start()
    assert after.attempt.credential == "key-1"


def test_a_benched_key_that_is_refused_again_stays_away_for_longer():
    world = World("a", "b", keys=("key-1", "key-2"))
    world.key().bench(world.now)
    world.now += 60.0
    probe = world.exchange()
    probe.start()
    assert probe.fails("credential") == ["retry a"]
    assert [world.usable_in(key=key) for key in ("key-1", "key-2")] == [120.0, 0.0]


def test_the_client_does_not_wait_for_a_benched_key_where_another_target_can_serve():
    world = World("a", "b")
    world.key("a").bench(world.now - 58.0)
    assert (world.usable_in(), world.exchange().start()) == (2.0, ["first b"])


# -- every key refused: law 7 -----------------------------------------------------------------------------------------------------


def refused(world, fault="credential", **verdict):
    """One exchange in which every key that is asked is refused."""
    story = world.exchange()
    actions = story.start()
    while actions and actions[-1] in {"first a", "retry a"}:
        actions = story.fails(fault, **verdict)
    return story, actions


def test_every_key_refused_opens_the_providers_breaker_and_its_pace_is_that_of_the_keys():
    world = World("a", "b", keys=("key-1", "key-2"))
    world.chance.share = 1.0
    story, actions = refused(world)
    assert (story.trail, actions) == (["a:credential", "a:credential", "b:"], ["failover b"])
    assert world.moves == ["a: open"]
    assert [world.usable_in(key=key) for key in ("key-1", "key-2")] == [5.0, 5.0]
    assert world.state().breaker.reopens_in(world.now) == 5.0


def test_all_targets_of_a_provider_that_refuses_every_key_are_left_alone():
    world = World("a", "a/other", "b")
    world.chance.share = 1.0
    story = world.exchange()
    story.start()
    assert story.fails("credential") == ["failover b"]
    assert world.exchange().start() == ["first b"]


def test_a_provider_that_refused_every_key_is_probed_at_its_breakers_pace_and_comes_back():
    world = World("a", "b", keys=("key-1", "key-2"))
    world.chance.share = 1.0
    refused(world)
    lengths = []
    for _ in range(4):
        lengths.append(world.state().breaker.reopens_in(world.now))
        world.now += lengths[-1] - 0.1
        assert world.exchange().start() == ["first b"]
        world.now += 0.1
        story, actions = refused(world)
        assert (story.trail, actions) == (["a:credential", "a:credential", "b:"], ["failover b"])
    assert lengths == pytest.approx([5.0, 10.0, 20.0, 30.0])
    world.now += 30.0
    probe = world.exchange()
    assert probe.start() == ["first a"]
    assert world.exchange().start() == ["first b"], "one probe, and not one for each key"
    probe.answers()
    assert (world.state().breaker.state, world.state().benched(world.now), world.usable_in()) == (State.RAMP, 0, 0.0)


def test_one_refused_key_of_two_is_benched_and_nothing_else_happens():
    world = World("a", "b", keys=("key-1", "key-2"))
    story = world.exchange()
    story.start()
    assert story.fails("credential") == ["retry a"]
    story.answers()
    assert (world.moves, world.state().benched(world.now), world.usable_in(key="key-1")) == ([], 1, 60.0)


@pytest.mark.parametrize(
    ("fault", "verdict"),
    [("billing", {}), ("credential", {"scope": Scope.KEY_ON_MODEL}), ("rate_limited", {"delay": 30.0})],
)
def test_empty_wallets_missing_rights_and_limits_of_every_key_are_not_the_providers_failure(fault, verdict):
    world = World("a", "b", keys=("key-1", "key-2"))
    story, actions = refused(world, fault, **verdict)
    assert (story.trail[:2], actions, world.moves) == ([f"a:{fault}"] * 2, ["failover b"], [])


def test_an_empty_wallet_beside_a_refused_key_is_not_every_key_refused():
    world = World("a", "b", keys=("key-1", "key-2"))
    story = world.exchange()
    story.start()
    story.fails("billing")
    assert (story.fails("credential"), world.moves) == (["failover b"], [])


def test_what_a_client_is_told_of_its_own_key_says_nothing_about_ours():
    world = World("a", keys=())
    for client in "abcdef":
        story = world.exchange(client=client, foreign_key=client)
        story.start()
        story.fails("credential", status=401)
    assert world.moves == []


def test_nobody_waits_for_a_provider_that_refuses_every_key_nor_is_told_to_come_back():
    world = World("a")
    world.chance.share = 1.0
    story, actions = refused(world)
    assert (actions, story.advised()) == (["refuse 503 attempts_exhausted"], (False, None))
    later = world.exchange()
    assert (later.start(), later.advised()) == (["refuse 503 credentials_benched"], (False, None))


@pytest.mark.parametrize("left_s", [59.0, 2.0])
def test_nobody_waits_for_a_benched_key_but_a_rate_limit_beside_it_is_waited_for(left_s):
    world = World("a", "b")
    world.key("a").bench(world.now - 60.0 + left_s)
    world.key("b").park(world.now, "gpt-4o", 5.0)
    story = world.exchange()
    assert (story.start(), story.waits) == (["queue b"], 5.0)
    assert story.wakes() == ["first b"] if left_s > 5.0 else ["first a"]
