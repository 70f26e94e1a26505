"""The window counts, and forgets in tenths of its length."""

import pytest

from gateway.core.window import Window


@pytest.fixture
def window():
    return Window(30.0)


def test_a_new_window_is_empty(window):
    assert window.totals(1000.0) == (0, 0)


def test_results_and_failures_are_counted_apart(window):
    for _ in range(3):
        window.success(1000.0)
    window.failure(1000.0)
    assert window.totals(1001.0) == (4, 1)


@pytest.mark.parametrize(("later", "totals"), [(0.0, (2, 1)), (26.9, (2, 1)), (30.0, (0, 0)), (1e6, (0, 0))])
def test_what_is_older_than_the_window_is_forgotten(window, later, totals):
    window.success(999.0)
    window.failure(999.0)
    assert window.totals(999.0 + later) == totals


def test_it_is_forgotten_by_tenths_and_not_all_at_once(window):
    for step in range(10):
        window.failure(900.0 + 3.0 * step)
    assert [window.totals(at)[0] for at in (927.0, 929.9, 930.0, 933.0, 956.9, 957.0)] == [10, 10, 9, 8, 1, 0]


def test_a_pause_forgets_what_lies_in_between_and_no_more(window):
    window.success(900.0)
    window.failure(912.0)
    window.failure(936.0)
    assert window.totals(936.0) == (2, 2)


def test_a_moment_that_has_passed_counts_as_now(window):
    window.failure(930.0)
    window.failure(900.0)
    assert (window.totals(900.0), window.totals(957.0)) == ((2, 2), (2, 2))


def test_clearing_forgets_everything(window):
    window.success(1000.0)
    window.failure(1000.0)
    window.clear()
    assert window.totals(1000.0) == (0, 0)
    window.failure(1000.0)
    assert window.totals(1000.0) == (1, 1)
