"""The same target again: once and quickly after what looks like an accident, and never giving up sooner than an SDK (laws 8 and 9)."""

import pytest

from gateway.core.plan import BackoffPlan
from gateway.core.record import Kind
from tests.core.build import World, policy, shut


def served_lately(*targets, **settings):
    world = World(*targets, **settings)
    world.serves(targets[0])
    return world


def begun(world, **settings):
    story = world.exchange(**settings)
    story.start()
    return story


# -- one quick try ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("drawn", "wait"), [(0.0, 0.0), (1.0, 0.05)])
@pytest.mark.parametrize("fault", ["server_error", "connect", "stream_broken"])
def test_an_accident_of_a_healthy_target_is_tried_again_quickly_for_one_token(fault, drawn, wait):
    world = served_lately("a", "b")
    world.spend(leave=5.0)
    story = begun(world)
    world.chance.share = drawn
    assert story.fails(fault, after=0.4, quick=True) == []
    assert (story.waits, world.budget()) == (wait, pytest.approx(5.0 + 0.2 - 1.0 + 0.4 * 0.3))
    assert story.wakes() == ["retry a"]
    story.answers()
    assert (story.end, story.record.saved_by) == ("ok: none", Kind.RETRY)


def test_what_may_have_been_billed_costs_two_tokens():
    world = served_lately("a", "b")
    story = begun(world)
    story.fails("server_error", quick=True, ambiguous=True)
    assert world.budget() == 8.0


def test_there_is_one_quick_try_and_then_it_goes_elsewhere():
    story = begun(served_lately("a", "b"))
    assert (story.fails("server_error", quick=True), story.wakes()) == ([], ["retry a"])
    assert story.fails("server_error", quick=True) == ["failover b"]
    story.answers()
    assert story.record.saved_by is Kind.FAILOVER


def test_one_quick_try_in_all_and_not_one_for_each_target():
    world = served_lately("a", "b")
    world.serves("b")
    story = begun(world)
    story.fails("server_error", quick=True)
    story.wakes()
    assert story.fails("server_error", quick=True) == ["failover b"]
    assert story.fails("server_error", quick=True) == []
    assert story.waits > 0.05


def test_where_the_first_target_gave_no_occasion_the_second_may():
    world = served_lately("a", "b")
    world.serves("b")
    story = begun(world)
    assert story.fails("overloaded") == ["failover b"]
    assert (story.fails("server_error", quick=True), story.waits, story.wakes()) == ([], 0.0, ["retry b"])


@pytest.mark.parametrize(
    ("case", "verdict"),
    [
        ("the verdict does not speak for it", {"quick": False}),
        ("the provider forbids it", {"retry_same": False}),
        ("it took long to fail", {"after": 1.01}),
        ("the client is retrying itself", {}),
        ("nothing was ever served", {}),
        ("nothing was served lately", {}),
        ("the one before failed too", {}),
        ("the breaker is open", {}),
        ("the breaker is on its way back", {}),
        ("the provider's breaker is open", {}),
        ("the budget is empty", {}),
        ("the budget has one token for a cost of two", {"ambiguous": True}),
        ("its key is at its limit meanwhile", {}),
        ("it would be the last attempt", {}),
    ],
)
def test_there_is_no_quick_try_where(case, verdict):
    world = World("a", "b")
    if case != "nothing was ever served":
        world.serves("a")
    if case == "nothing was served lately":
        world.now += 30.1
    if case == "the one before failed too":
        begun(world).fails("server_error")
    story = begun(
        world,
        already_retried=case == "the client is retrying itself",
        policy=policy(attempts=2 if case == "it would be the last attempt" else 4),
    )
    if case == "the breaker is open":
        shut(world.breaker("a"), world.now)
    elif case == "the breaker is on its way back":
        shut(world.breaker("a"), world.now - 10.0)
        world.serves("a")
    elif case == "the provider's breaker is open":
        shut(world.state().breaker, world.now)
    elif case.startswith("the budget"):
        world.spend(leave=1.5 if "one token" in case else 0.5)
    elif case == "its key is at its limit meanwhile":
        world.key().park(world.now, "gpt-4o", 5.0)
    before = world.budget()
    assert story.fails("server_error", **{"quick": True, **verdict}) == ["failover b"]
    assert world.budget() == pytest.approx(min(10.0, before + 0.3 * verdict.get("after", 0.0))), "nothing was paid"


@pytest.mark.parametrize(("took", "quickly"), [(0.0, True), (1.0, True), (1.1, False)])
def test_what_counts_is_how_long_the_attempt_took_and_not_the_exchange(took, quickly):
    world = served_lately("c", "a", "b")
    world.serves("a")
    story = begun(world)
    assert story.fails("timeout", after=20.0) == ["failover a"]
    assert story.fails("server_error", quick=True, after=took) == ([] if quickly else ["failover b"])


def test_a_success_of_somebody_else_in_between_makes_a_failure_an_accident():
    world = World("a", "b")
    begun(world).fails("server_error")
    world.serves("a")
    assert begun(world).fails("server_error", quick=True) == []


def test_a_failure_that_is_known_to_others_while_the_quick_try_waits_does_not_stop_it():
    world = served_lately("a", "b")
    world.chance.share = 1.0
    story = begun(world)
    story.fails("server_error", quick=True)
    begun(world).fails("server_error")
    assert story.wakes() == ["retry a"]


def test_a_quick_try_whose_target_is_diverted_from_meanwhile_goes_elsewhere():
    world = served_lately("a", "b")
    story = begun(world)
    story.fails("server_error", quick=True)
    shut(world.breaker("a"), world.now)
    assert story.wakes() == ["failover b"]


def test_a_quick_try_and_its_failure_count_once_against_the_target():
    world = served_lately("a", "b")
    story = begun(world)
    story.fails("server_error", quick=True)
    story.wakes()
    story.fails("server_error", quick=True)
    assert world.failures("a") == 1


def test_a_lone_target_has_its_quick_try_and_then_its_backoff():
    world = served_lately("a")
    world.chance.share = 0.5
    story = begun(world)
    waits = []
    for _ in range(3):
        assert story.fails("server_error", quick=True) == []
        waits.append(story.waits)
        assert story.wakes() == ["retry a"]
    assert waits == [0.025, 0.25, pytest.approx(1.3125 - 0.275)]  # the last as late as an SDK's would be


# -- never giving up sooner than an SDK -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("drawn", "latest"), [(0.0, 1.125), (0.1, 1.1625)])
@pytest.mark.parametrize("attempts", [2, 3, 4, 6])
def test_the_last_attempt_at_a_lone_target_comes_no_sooner_than_an_sdks_last(attempts, drawn, latest):
    world = World("a")
    world.chance.share = drawn
    story = begun(world, policy=policy(attempts=attempts, backoff=BackoffPlan(base_s=0.01)))
    begun_at = world.now
    while not story.machine.done:
        actions = story.fails("server_error")
        if not actions:
            assert story.wakes() == ["retry a"]
    assert len(story.trail) == attempts
    assert story.attempt.started_at == pytest.approx(begun_at + latest)


def test_only_the_last_attempt_is_put_off():
    story = begun(World("a"))
    for expected in (0.0, 0.0, 1.125):
        assert story.fails("overloaded") == []
        assert story.waits == expected
        story.wakes()


def test_time_counts_from_the_first_failure_and_what_has_passed_is_not_waited_again():
    story = begun(World("a"), policy=policy(attempts=3))
    story.fails("overloaded", after=50.0)
    story.wakes()
    assert story.fails("overloaded", after=0.9) == []
    assert story.waits == pytest.approx(0.225)
    story = begun(World("a"), policy=policy(attempts=2))
    assert (story.fails("overloaded", after=50.0), story.waits) == ([], 1.125)
    story = begun(World("a"), policy=policy(attempts=3))
    story.fails("overloaded")
    story.wakes()
    assert (story.fails("overloaded", after=5.0), story.waits) == ([], 0.0)


def test_a_longer_backoff_stands():
    world = World("a")
    world.chance.share = 1.0
    story = begun(world, policy=policy(attempts=2, backoff=BackoffPlan(base_s=6.0)))
    assert (story.fails("overloaded"), story.waits) == ([], 6.0)


@pytest.mark.parametrize(("patience", "wait"), [(1.2, 1.125), (1.125, 0.0), (0.6, 0.0)])
def test_near_the_deadline_a_last_attempt_comes_while_it_still_can(patience, wait):
    story = begun(World("a"), policy=policy(attempts=2), patience=patience)
    assert (story.fails("overloaded"), story.waits) == ([], wait)
    assert story.wakes() == ["retry a"]


def test_another_target_is_never_put_off():
    story = begun(World("a", "b"), policy=policy(attempts=2))
    assert story.fails("overloaded") == ["failover b"]


def test_where_all_targets_failed_the_last_repetition_is_put_off_too():
    story = begun(World("a", "b"), policy=policy(attempts=3))
    story.fails("overloaded")
    assert (story.fails("overloaded", after=0.5), story.waits) == ([], 0.625)
    assert story.wakes() == ["retry a"]


def test_so_it_is_where_the_breaker_has_opened_meanwhile():
    world = World("a")
    story = begun(world, policy=policy(attempts=2))
    shut(world.breaker("a"), world.now)
    assert (story.fails("overloaded"), story.waits) == ([], 1.125)


@pytest.mark.parametrize(("patience", "stated", "waits"), [(0.6, None, 0.5), (0.4, None, 0.2), (0.1, None, 0.05), (0.4, 0.5, None)])
def test_a_backoff_that_is_longer_than_the_patience_is_cut_but_never_a_stated_delay(patience, stated, waits):
    world = World("a")
    world.chance.share = 1.0
    story = world.exchange(patience=patience)
    story.start()
    actions = story.fails("overloaded", delay=stated)
    if waits is None:
        assert (actions, story.end) == (["relay a"], "failed: deadline")
    else:
        assert (actions, story.waits) == ([], pytest.approx(waits))
        assert story.wakes() == ["retry a"]
