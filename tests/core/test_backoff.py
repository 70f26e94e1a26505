"""Backoff: the three published formulas, at both ends of chance."""

from random import Random

import pytest

from gateway.core.backoff import backoff
from gateway.core.plan import BackoffPlan, Jitter

PLAN = {jitter: BackoffPlan(base_s=0.5, cap_s=8.0, jitter=jitter) for jitter in Jitter}


def shortest(a, b):
    return a


def longest(a, b):
    return b


@pytest.mark.parametrize(
    ("jitter", "retry", "previous", "low", "high"),
    [
        (Jitter.FULL, 0, 0.0, 0.0, 0.5),
        (Jitter.FULL, 1, 0.3, 0.0, 1.0),
        (Jitter.FULL, 3, 0.3, 0.0, 4.0),
        (Jitter.FULL, 4, 0.3, 0.0, 8.0),
        (Jitter.FULL, 5, 0.3, 0.0, 8.0),
        (Jitter.FULL, 5000, 0.3, 0.0, 8.0),
        (Jitter.EQUAL, 0, 0.0, 0.25, 0.5),
        (Jitter.EQUAL, 2, 0.3, 1.0, 2.0),
        (Jitter.EQUAL, 9, 0.3, 4.0, 8.0),
        (Jitter.DECORRELATED, 0, 0.0, 0.5, 1.5),
        (Jitter.DECORRELATED, 1, 1.2, 0.5, 3.6),
        (Jitter.DECORRELATED, 2, 7.0, 0.5, 8.0),
    ],
)
def test_a_wait_lies_between_the_formulas_ends(jitter, retry, previous, low, high):
    assert backoff(PLAN[jitter], retry, previous, shortest) == pytest.approx(low)
    assert backoff(PLAN[jitter], retry, previous, longest) == pytest.approx(high)


def test_decorrelated_waits_walk_but_never_leave_base_and_cap():
    random, previous = Random(7), 0.0
    for retry in range(200):
        previous = backoff(PLAN[Jitter.DECORRELATED], retry, previous, random.uniform)
        assert 0.5 <= previous <= 8.0
