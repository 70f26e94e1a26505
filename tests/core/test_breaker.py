"""The breaker: when it opens, whom it lets probe, what it counts, when it is hopeless (law 8). The way back has its own file."""

import pytest

from gateway.core.breaker import Breaker, State
from gateway.core.plan import BreakerPlan
from tests.core.build import Chance, fail, serve, shut

PLAN = BreakerPlan()


@pytest.fixture
def moves():
    return []


@pytest.fixture
def breaker(moves):
    return Breaker(PLAN, Chance(1.0).uniform, lambda state: moves.append(state.value))


def half_open(breaker, now=100.0):
    """A breaker that opened just long enough ago to be probed; returns the moment."""
    shut(breaker, now)
    assert breaker.state is State.OPEN
    return now + 5.0


def ramping(breaker, now=100.0):
    at = half_open(breaker, now)
    breaker.admit(at).success(at)
    assert breaker.state is State.RAMP
    return at


# -- opening ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("story", "times", "state"),
    [
        ("five in a row over a second", [100.0, 100.3, 100.5, 100.8, 101.0], State.OPEN),
        ("five in one burst are one event", [100.0] * 5, State.CLOSED),
        ("five within less than a second", [100.0, 100.2, 100.4, 100.6, 100.99], State.CLOSED),
        ("a burst that goes on", [*[100.0] * 9, 101.0], State.OPEN),
        ("four in a row", [100.0, 101.0, 102.0, 103.0], State.CLOSED),
        ("twenty at once: half of twenty results failed", [100.0] * 20, State.OPEN),
    ],
)
def test_failures_open_when_they_are_an_outage(breaker, story, times, state):
    fail(breaker, *times)
    assert breaker.state is state, story


def test_a_success_in_between_begins_the_row_anew(breaker):
    fail(breaker, 100.0, 100.5, 101.0, 101.5)
    serve(breaker, 101.6)
    fail(breaker, 102.0, 102.5, 103.0, 103.5)
    assert breaker.state is State.CLOSED
    fail(breaker, 104.0)
    assert breaker.state is State.OPEN


def test_half_of_twenty_results_open_and_a_little_less_does_not(breaker):
    for at in range(9):
        serve(breaker, 100.0 + at)
        fail(breaker, 100.5 + at)
    serve(breaker, 109.0)
    assert (breaker.state, breaker.failing(109.0)) == (State.CLOSED, pytest.approx(9 / 19))
    fail(breaker, 109.5)
    assert breaker.state is State.OPEN


def test_failures_older_than_the_window_are_forgotten(breaker):
    fail(breaker, *[100.0] * 19)
    serve(breaker, 100.0)
    fail(breaker, 131.0)
    assert (breaker.state, breaker.failing(131.0)) == (State.CLOSED, 0.0)


def test_one_failure_more_than_a_buckets_length_later_still_counts_the_rest_of_the_window(breaker):
    serve(breaker, *[100.0] * 4)
    fail(breaker, *[110.0] * 4)
    assert breaker.failing(120.0) == 0.5
    assert breaker.failing(132.0) == 0.0  # four results are too few to tell


def test_ignored_attempts_count_neither_way(breaker):
    for at in range(100):
        breaker.admit(100.0 + at / 10).ignore()
    fail(breaker, 110.0, 110.5, 111.0, 111.5)
    assert (breaker.state, breaker.share(112.0)) == (State.CLOSED, 1.0)


def test_a_permit_ends_exactly_once(breaker):
    permit = breaker.admit(100.0)
    permit.success(100.0)
    for ending in (permit.ignore, lambda: permit.dropped(100.0), lambda: permit.success(100.0)):
        with pytest.raises(AssertionError, match="exactly once"):
            ending()


# -- open, half-open --------------------------------------------------------------------------------------------------------------


def test_open_admits_nothing_until_its_time_is_up_and_then_one_probe(breaker, moves):
    shut(breaker, 100.0)
    assert (breaker.share(104.9), breaker.reopens_in(101.0)) == (0.0, 4.0)
    assert (breaker.share(105.0), breaker.reopens_in(105.0)) == (1.0, 0.0)
    probe = breaker.admit(105.0)
    assert (probe.probe, breaker.share(105.0)) == (True, 0.0)
    assert not breaker.admit(105.0).probe
    assert moves == ["open", "half_open"]


def test_leave_can_be_had_though_the_breaker_is_open(breaker):
    shut(breaker, 100.0)
    permit = breaker.admit(101.0)
    permit.success(101.0)
    assert (permit.probe, breaker.state) == (False, State.OPEN)


def test_first_content_is_enough_for_a_probe_and_its_stream_goes_on_counting(breaker):
    at = half_open(breaker)
    probe = breaker.admit(at)
    probe.alive(at + 1.0)
    assert breaker.state is State.RAMP
    probe.alive(at + 1.1)
    probe.dropped(at + 9.0)
    fail(breaker, at + 9.1)
    assert breaker.state is State.OPEN


def test_life_of_an_attempt_that_is_no_probe_proves_nothing(breaker):
    at = half_open(breaker)
    bystander = breaker.admit(at - 1.0)
    bystander.alive(at)
    assert breaker.state is State.OPEN


def test_a_probe_that_says_nothing_makes_room_for_another(breaker):
    at = half_open(breaker)
    breaker.admit(at).ignore()
    assert (breaker.share(at), breaker.state) == (1.0, State.HALF_OPEN)
    assert breaker.admit(at).probe


def test_a_probe_that_hangs_is_joined_by_another_which_may_prove_health(breaker):
    at = half_open(breaker)
    hanging = breaker.admit(at)
    assert breaker.share(at + 9.9) == 0.0
    assert breaker.share(at + 10.0) == 1.0
    second = breaker.admit(at + 10.0)
    assert (second.probe, breaker.share(at + 19.9)) == (True, 0.0)
    hanging.ignore()
    assert breaker.share(at + 19.9) == 0.0
    second.success(at + 19.9)
    assert breaker.state is State.RAMP


def test_while_half_open_only_the_probe_counts(breaker):
    at = half_open(breaker)
    probe, bystander, other = breaker.admit(at), breaker.admit(at), breaker.admit(at)
    bystander.dropped(at)
    other.success(at)
    assert breaker.state is State.HALF_OPEN
    probe.dropped(at + 1.0)
    assert breaker.state is State.OPEN


def test_a_bystander_that_ends_without_a_word_leaves_the_probe_its_place(breaker):
    at = half_open(breaker)
    probe, bystander = breaker.admit(at), breaker.admit(at)
    bystander.ignore()
    assert breaker.share(at) == 0.0
    probe.ignore()
    assert breaker.share(at) == 1.0


def test_looking_changes_nothing(breaker, moves):
    shut(breaker, 100.0)
    assert [breaker.shown_share(at) for at in (100.0, 104.0, 200.0)] == [0.0, 0.0, 0.0]
    assert (breaker.state, moves) == (State.OPEN, ["open"])
    breaker.share(200.0)
    assert (breaker.state, breaker.shown_share(200.0)) == (State.HALF_OPEN, 0.0)


def test_a_closed_breaker_shows_a_share_of_one(breaker):
    assert (breaker.shown_share(100.0), breaker.reopens_in(100.0)) == (1.0, 0.0)


# -- epochs -----------------------------------------------------------------------------------------------------------------------


def test_attempts_from_before_the_outage_do_not_end_it(breaker):
    old = breaker.admit(90.0)
    at = half_open(breaker)
    probe = breaker.admit(at)
    old.success(at)
    assert (breaker.state, breaker.share(at)) == (State.HALF_OPEN, 0.0)
    probe.ignore()


def test_attempts_from_before_the_recovery_do_not_end_it(breaker):
    old = [breaker.admit(90.0) for _ in range(50)]
    at = ramping(breaker)
    for permit in old[:25]:
        permit.dropped(at + 1.0)
    assert breaker.state is State.RAMP
    assert breaker.failing(at + 1.0) == 0.0
    fail(breaker, at + 2.0)
    assert breaker.state is State.RAMP
    for permit in old[25:]:
        permit.success(at + 2.5)
    fail(breaker, at + 3.0)
    assert breaker.state is State.OPEN


def test_results_under_way_while_open_still_tell_how_hopeless_it_is(breaker):
    under_way = [breaker.admit(99.0) for _ in range(400)]
    shut(breaker, 100.0)
    assert breaker.failing(100.0) == 0.2
    for permit in under_way:
        permit.dropped(101.0)
    assert breaker.failing(101.0) == pytest.approx(405 / 425)
    assert breaker.reopens_in(101.0) == pytest.approx(4.0), "and do not keep it open for longer"


def test_a_probe_overtaken_by_another_outage_proves_nothing(breaker):
    at = half_open(breaker)
    probe = breaker.admit(at)
    probe.alive(at)
    fail(breaker, at + 1.0, at + 1.1)
    at = at + 1.1 + breaker.reopens_in(at + 1.1)
    assert breaker.share(at) == 1.0
    probe.success(at)
    assert breaker.state is State.HALF_OPEN


def test_a_stale_probe_that_ends_without_a_word_frees_nobody_elses_place(breaker):
    at = half_open(breaker)
    first = breaker.admit(at)
    first.alive(at)
    fail(breaker, at + 1.0, at + 1.1)
    second = breaker.admit(at + 60.0)
    first.ignore()
    assert (second.probe, breaker.share(at + 60.0)) == (True, 0.0)


# -- hopeless ---------------------------------------------------------------------------------------------------------------------


def test_too_few_results_are_never_hopeless(breaker):
    fail(breaker, *[100.0] * 4)
    assert breaker.failing(100.0) == 0.0
    fail(breaker, 100.0)
    assert breaker.failing(100.0) == 1.0


def test_good_weather_before_it_opened_does_not_say_how_hopeless_it_is(breaker):
    serve(breaker, *[90.0] * 1000)
    fail(breaker, 100.0, 100.5, 101.0, 101.5, 102.0)
    assert (breaker.state, breaker.failing(102.0)) == (State.OPEN, 0.0)
    fail(breaker, *[103.0] * 5)
    assert breaker.failing(103.0) == 1.0


def test_what_was_learned_while_it_was_open_is_known_after_a_failed_probe_too(breaker):
    shut(breaker, 100.0, good=0)
    fail(breaker, 105.0)
    assert (breaker.state, breaker.failing(105.0)) == (State.OPEN, 1.0)
    breaker.admit(115.0).success(115.0)
    fail(breaker, 115.1, 115.2)
    assert (breaker.state, breaker.failing(115.2)) == (State.OPEN, 0.0)


def test_the_trickle_is_one_a_second_without_luck():
    breaker = Breaker(PLAN, Chance(1.0).uniform)
    passed = [at for at in range(0, 1000, 5) if breaker.trickle(100.0 + at / 100)]
    assert passed == list(range(0, 1000, 100))


def test_the_trickle_is_a_tenth_where_that_is_more():
    draws = iter([i / 10 for i in range(10)] * 100)
    breaker = Breaker(PLAN, lambda _a, _b: next(draws))
    passed = sum(breaker.trickle(100.0 + at / 1000) for at in range(1000))
    assert 100 <= passed <= 102


# -- reload -----------------------------------------------------------------------------------------------------------------------


def test_a_reload_keeps_state_and_counts_and_begins_a_window_of_another_length_anew(breaker):
    fail(breaker, *[100.0] * 5)
    breaker.replan(BreakerPlan(max_open_s=60.0))
    assert breaker.failing(100.0) == 1.0
    breaker.replan(BreakerPlan(window_s=60.0))
    assert breaker.failing(100.0) == 0.0
    shut(breaker, 110.0, good=0)
    breaker.replan(PLAN)
    assert (breaker.state, breaker.share(110.0)) == (State.OPEN, 0.0)
