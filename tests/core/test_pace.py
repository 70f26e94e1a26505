"""Pace: peaks at once, forgetting slowly, and no reward for failing fast."""

from math import exp, inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.pace import CEILING_S, LEAST_S, LIMIT_S, PENALTY_S, TAU_S, Pace

NOW = 1000.0
ALLOWED_S = 120.0


def paced(*answers):
    pace = Pace()
    for at, seconds in answers:
        pace.add(NOW + at, seconds)
    return pace


def test_nothing_is_known_of_a_target_that_never_answered():
    assert Pace().seconds(NOW) is None


def test_the_first_answer_is_the_pace():
    assert paced((0, 0.8)).seconds(NOW) == 0.8


def test_a_slower_answer_counts_at_once_and_in_full():
    assert paced((0, 0.8), (1, 9.0)).seconds(NOW + 1) == 9.0


def test_quicker_answers_count_by_the_time_that_has_passed():
    left = exp(-10 / TAU_S)
    assert paced((0, 9.0), (10, 1.0)).seconds(NOW + 10) == pytest.approx(9.0 * left + 1.0 * (1 - left))


def test_a_crowd_of_quick_answers_at_one_moment_does_not_outvote_a_slow_one():
    assert paced((0, 9.0), *[(0, 0.1)] * 1000).seconds(NOW) == pytest.approx(9.0)


def test_a_target_that_was_slow_once_is_looked_at_again():
    pace = paced((0, 9.0))
    assert pace.seconds(NOW + TAU_S) == pytest.approx(9.0 / exp(1))
    assert pace.seconds(NOW + 3600) == LEAST_S


def test_reading_changes_nothing():
    read, unread = paced((0, 9.0)), paced((0, 9.0))
    for at in range(20):
        read.seconds(NOW + at)
    read.add(NOW + 20, 1.0)
    unread.add(NOW + 20, 1.0)
    assert read.seconds(NOW + 20) == unread.seconds(NOW + 20)


def test_a_clock_that_steps_back_lets_nothing_grow():
    assert paced((0, 9.0)).seconds(NOW - 100) == 9.0


def test_an_answer_in_no_time_is_still_a_time():
    assert paced((0, -1e-9)).seconds(NOW) == LEAST_S


@pytest.mark.parametrize(("limit_s", "cost_s"), [(120.0, 120.0), (0.5, PENALTY_S), (inf, LIMIT_S)])
def test_where_nothing_else_is_known_a_failure_is_an_answer_as_late_as_was_allowed(limit_s, cost_s):
    pace = Pace()
    pace.failed(NOW, limit_s)
    assert pace.seconds(NOW) == cost_s


def test_an_accident_among_many_good_answers_adds_what_it_cost_on_average():
    """Ten answers a second of 1 s, one failure in a hundred at a limit of 120 s: one and 1.2 seconds."""
    pace, seen = Pace(), []
    for step in range(6000):
        at = NOW + step / 10
        if step % 100 == 50:
            pace.failed(at, ALLOWED_S)
        else:
            pace.add(at, 1.0)
        seen.append(pace.seconds(at))
    assert sum(seen[3000:]) / 3000 == pytest.approx(1.0 + 0.01 * (ALLOWED_S - 1.0), rel=0.05)


def test_failures_in_a_row_are_no_accident_and_double_without_delay():
    pace = paced((0, 0.02))
    seen = []
    for _ in range(16):
        pace.failed(NOW, ALLOWED_S)
        seen.append(pace.seconds(NOW))
    assert seen == pytest.approx([0.02, *[min(PENALTY_S * 2**n, CEILING_S) for n in range(15)]])


def test_a_target_that_has_failed_all_the_time_is_looked_at_again_within_minutes():
    pace = Pace()
    for _ in range(1000):
        pace.failed(NOW, ALLOWED_S)
    assert pace.seconds(NOW) == CEILING_S
    assert pace.seconds(NOW + 480) < 1.0


def test_a_good_answer_ends_the_row_but_not_the_memory():
    pace = paced((0, 1.0))
    pace.failed(NOW, ALLOWED_S)
    pace.failed(NOW, ALLOWED_S)
    pace.add(NOW, 1.0)
    pace.failed(NOW, ALLOWED_S)
    assert pace.seconds(NOW) == pytest.approx(PENALTY_S)


@given(
    st.lists(
        st.tuples(st.floats(0.0, 100.0), st.booleans(), st.floats(0.0, 600.0)),
        min_size=1,
        max_size=40,
    )
)
def test_the_pace_lies_between_the_least_and_the_slowest_there_was(story):
    pace, now, slowest = Pace(), NOW, LEAST_S
    for pause_s, good, seconds in story:
        now += pause_s
        if good:
            pace.add(now, seconds)
            slowest = max(slowest, seconds)
        else:
            before = pace.seconds(now) or 0.0
            pace.failed(now, seconds)
            slowest = CEILING_S
            assert pace.seconds(now) >= before * (1 - 1e-12), "a failure never makes a target look quicker"
        assert LEAST_S <= pace.seconds(now) <= slowest * (1 + 1e-12)
