"""Histories: what they know, what they forget, and how little they claim."""

from __future__ import annotations

import random
from statistics import quantiles

import pytest

from gateway.core.latency import MIN_SAMPLES, REFRESH_S, WINDOW_S, WINDOWS, History, Latency, size_class

NOW = 1000.0


def filled(values, now=NOW):
    history = History()
    for value in values:
        history.add(now, value)
    return history


def test_too_few_samples_tell_nothing():
    history = filled([0.5] * (MIN_SAMPLES - 1))
    assert history.quantile(NOW, 0.95) is None
    history.add(NOW, 0.5)
    assert history.quantile(NOW + REFRESH_S, 0.95) == pytest.approx(0.5, rel=0.01)


def test_a_high_percentile_needs_a_sample_beyond_it():
    history = filled([0.5] * 99)
    assert history.quantile(NOW, 0.95) == pytest.approx(0.5, rel=0.01)
    assert history.quantile(NOW, 0.99) is None
    history.add(NOW, 0.5)
    assert history.quantile(NOW, 0.99) == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99])
def test_quantiles_are_within_a_percent_or_two_of_the_truth_from_milliseconds_to_minutes(share):
    dice = random.Random(7)
    values = [dice.lognormvariate(0.0, 1.5) for _ in range(5000)]
    exact = quantiles(values, n=100)[round(share * 100) - 1]
    assert filled(values).quantile(NOW, share) == pytest.approx(exact, rel=0.03)


def test_a_quantile_is_reckoned_anew_only_after_a_while():
    history = filled([1.0] * 50)
    assert history.quantile(NOW, 0.5) == pytest.approx(1.0, rel=0.01)
    for _ in range(200):
        history.add(NOW, 9.0)
    assert history.quantile(NOW + REFRESH_S - 0.1, 0.5) == pytest.approx(1.0, rel=0.01)
    assert history.quantile(NOW + REFRESH_S, 0.5) == pytest.approx(9.0, rel=0.01)


def test_the_past_is_forgotten_window_by_window():
    history = filled([9.0] * 100)
    for _ in range(50):
        history.add(NOW + WINDOW_S, 1.0)
    assert history.quantile(NOW + WINDOW_S, 0.5) == pytest.approx(9.0, rel=0.01)
    assert history.quantile(NOW + WINDOWS * WINDOW_S, 0.9) == pytest.approx(1.0, rel=0.01)
    assert history.quantile(NOW + 9 * WINDOWS * WINDOW_S, 0.5) is None


def test_a_clock_that_rounds_below_zero_counts_as_zero():
    assert filled([-1e-9] * MIN_SAMPLES).quantile(NOW, 0.5) == 0.0


@pytest.mark.parametrize(("size", "expected"), [(0, 0), (4095, 0), (4096, 1), (32_768, 2), (262_144, 3), (10**9, 3)])
def test_size_classes(size, expected):
    assert size_class(size) == expected


def test_sizes_and_streams_have_histories_of_their_own():
    latency = Latency()
    assert latency.of(100, stream=True) is latency.of(200, stream=True)
    assert latency.of(100, stream=True) is not latency.of(100, stream=False)
    assert latency.of(100, stream=True) is not latency.of(100_000, stream=True)
