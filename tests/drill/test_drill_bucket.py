"""The limit that a gateway must keep has to be exact: one formula, checked against a naive count."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.drill.bucket import Bucket, go_duration


def test_it_starts_full_and_refills_at_its_rate() -> None:
    bucket = Bucket(3, 0.5, 100.0)
    for _ in range(3):
        assert bucket.wait(1, 100.0) == 0.0
        bucket.take(1, 100.0)
    assert bucket.wait(1, 100.0) == pytest.approx(2.0)
    assert bucket.wait(1, 101.5) == pytest.approx(0.5)
    assert bucket.wait(1, 102.0) == 0.0
    assert bucket.full_in(102.0) == pytest.approx(4.0)
    assert bucket.level(1000.0) == 3


def test_what_can_never_fit_waits_for_ever() -> None:
    assert math.isinf(Bucket(3, 1, 0.0).wait(3.5, 0.0))


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 4)), max_size=60), st.integers(4, 10), st.floats(0.1, 5))
def test_over_any_span_no_more_is_taken_than_capacity_plus_rate_times_time(
    steps: list[tuple[float, int]], capacity: int, per_s: float
) -> None:
    bucket, now, taken = Bucket(capacity, per_s, 0.0), 0.0, []
    for pause, amount in steps:
        now += pause
        if bucket.wait(amount, now) == 0.0:
            bucket.take(amount, now)
            taken.append((now, amount))
    for first in range(len(taken)):
        span = taken[first:]
        for last in range(len(span)):
            assert sum(amount for _, amount in span[: last + 1]) <= capacity + per_s * (span[last][0] - span[0][0]) + 1e-6


@given(st.integers(1, 10), st.floats(0.1, 5), st.floats(0, 5))
def test_waiting_as_long_as_it_says_is_enough(amount: int, per_s: float, pause: float) -> None:
    bucket = Bucket(10, per_s, 0.0)
    bucket.take(10, 0.0)
    later = pause + bucket.wait(amount, pause)
    assert bucket.wait(amount, later) <= 1e-6


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.012, "12ms"),
        (1, "1s"),
        (360, "6m0s"),
        (59.56, "59.56s"),
        (179.56, "2m59.56s"),
        (7.66, "7.66s"),
        (3723.5, "1h2m3.5s"),
    ],
)
def test_durations_look_as_go_prints_them(seconds: float, text: str) -> None:
    """`6m0s`, `1s`, `2m59.56s`, `7.66s` are captured values of the published headers."""
    assert go_duration(seconds) == text
