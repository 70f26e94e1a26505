"""Numbers with units: every spelling, every refusal, and what is written can be read back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import units
from gateway.config.units import Mistake


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("250ms", 0.25),
        ("2s", 2.0),
        ("0.5s", 0.5),
        ("1m", 60.0),
        ("60m", 3600.0),
        ("1h", 3600.0),
        ("1m30s", 90.0),
        ("1h2m3s4ms", 3723.004),
        ("0s", 0.0),
        ("0ms", 0.0),
    ],
)
def test_durations_are_seconds(written, seconds):
    assert units.duration(written) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (8080, 'durations need a unit, e.g. "8080ms" or "8s"'),
        (30, 'durations need a unit, e.g. "30s" or "30ms"'),
        (0, 'durations need a unit, e.g. "0s" or "0ms"'),
        (1.5, 'durations need a unit, e.g. "1.5s" or "1.5ms"'),
        ("31", 'not a duration; write a number and one of ms, s, m, h, e.g. "30s"'),
        ("", 'not a duration; write a number and one of ms, s, m, h, e.g. "30s"'),
        ("1s1m", 'not a duration; write a number and one of ms, s, m, h, e.g. "30s"'),
        ("-1s", 'not a duration; write a number and one of ms, s, m, h, e.g. "30s"'),
        ("٣s", 'not a duration; write a number and one of ms, s, m, h, e.g. "30s"'),
        (True, 'not a duration; write a number and one of ms, s, m, h, e.g. "30s"'),
        (["1s"], 'not a duration; write a number and one of ms, s, m, h, e.g. "30s"'),
        ("9000h", "longer than a year"),
    ],
)
def test_a_duration_without_its_unit_is_refused_with_a_hint(value, message):
    with pytest.raises(Mistake) as caught:
        units.duration(value)
    assert caught.value.message == message


def test_a_duration_that_must_be_positive_is():
    assert units.positive_duration("1ms") == 0.001
    with pytest.raises(Mistake, match="longer than nothing"):
        units.positive_duration("0s")


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("512B", 512),
        ("64KiB", 65536),
        ("10MB", 10_000_000),
        ("10 MB", 10_000_000),
        ("1.5kb", 1500),
        ("1GiB", 2**30),
        ("1TB", 10**12),
    ],
)
def test_sizes_are_bytes(written, number):
    assert units.size(written) == number


@pytest.mark.parametrize("value", [1024, "2048", "10M", "0B", "", "1PiB", False, "9999999TiB"])
def test_what_is_not_a_size_is_refused(value):
    with pytest.raises(Mistake):
        units.size(value)


@pytest.mark.parametrize(
    ("written", "amount", "period", "burst"),
    [
        ("8/s", 8, 1, 1),
        ("600/min", 600, 60, 60),
        ("100/10s", 100, 10, 10),
        ("10k/h", 10_000, 3600, 1000),
        ("2M/min", 2_000_000, 60, 200_000),
        ("1/day", 1, 86400, 1),
    ],
)
def test_rates_are_an_amount_per_period_with_a_tenth_as_burst(written, amount, period, burst):
    rate = units.rate(written)
    assert (rate.amount, rate.period_s, rate.burst) == (amount, period, burst)


@pytest.mark.parametrize("value", [600, "601", "600/", "/min", "0/s", "5/0s", "5/fortnight", None])
def test_what_is_not_a_rate_is_refused(value):
    with pytest.raises(Mistake):
        units.rate(value)


@pytest.mark.parametrize(("written", "share"), [("0%", 0.0), ("50%", 0.5), ("0.5%", 0.005), ("100 %", 1.0)])
def test_percentages_are_shares(written, share):
    assert units.share(written) == share


@pytest.mark.parametrize(("value", "hint"), [(0.5, '"50%"'), (50, '"50%"'), ("101%", "0% to 100%"), ("half", "not a percentage")])
def test_a_percentage_without_its_sign_is_refused_with_a_hint(value, hint):
    with pytest.raises(Mistake) as caught:
        units.share(value)
    assert hint in caught.value.message


@pytest.mark.parametrize(("written", "share"), [("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("p50.0", 0.5)])
def test_percentiles_are_shares(written, share):
    assert units.percentile(written, 50) == units.Percentile(share)


@pytest.mark.parametrize("value", ["p49", "p100", "p99.9", "p0", "p999999999999999"])
def test_a_percentile_stays_within_its_bounds(value):
    with pytest.raises(Mistake) as caught:
        units.percentile(value, 50)
    assert caught.value.message == "percentiles are whole and go from p50 to p99"


@pytest.mark.parametrize("value", ["96", 95, "P95", "p", "p-5", "95%", "", None, True, ["p95"]])
def test_what_is_not_written_like_a_percentile_is_none(value):
    assert units.percentile(value, 10) is None


@pytest.mark.parametrize(
    ("written", "share", "factor"),
    [
        ("p99 x 3", 0.99, 3),
        ("p99x3", 0.99, 3),
        ("p99 \u00d7 3", 0.99, 3),
        ("p50\u00d71", 0.5, 1),
        ("p95  x 2.5", 0.95, 2.5),
        ("p90 x 100", 0.9, 100),
    ],
)
def test_a_multiple_is_a_percentile_and_a_factor(written, share, factor):
    assert units.multiple(written, 50) == units.Multiple(units.Percentile(share), factor)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("p99", 'write a percentile and a factor, e.g. "p99 x 3"'),
        ("3 x p99", 'write a percentile and a factor, e.g. "p99 x 3"'),
        ("p99 x", 'write a percentile and a factor, e.g. "p99 x 3"'),
        ("p99 x 3s", 'write a percentile and a factor, e.g. "p99 x 3"'),
        ("p99 x -3", 'write a percentile and a factor, e.g. "p99 x 3"'),
        (99, 'write a percentile and a factor, e.g. "p99 x 3"'),
        (True, 'write a percentile and a factor, e.g. "p99 x 3"'),
        ("p49 x 3", "percentiles are whole and go from p50 to p99"),
        ("p99.9 x 3", "percentiles are whole and go from p50 to p99"),
        ("p99 x 0.9", "the factor goes from 1 to 100"),
        ("p99 x 101", "the factor goes from 1 to 100"),
    ],
)
def test_what_is_not_a_multiple_says_how_to_write_one(value, message):
    with pytest.raises(Mistake) as caught:
        units.multiple(value, 50)
    assert caught.value.message == message


@pytest.mark.parametrize(("value", "number"), [(3, 3), ("4", 4), (3.0, 3)])
def test_counts_are_whole_numbers_also_from_the_environment(value, number):
    assert units.integer(value, 1, 10) == number


@pytest.mark.parametrize("value", [0, 11, "eleven", 1.5, True, None, "1" * 5000, float("nan"), float("inf")])
def test_counts_stay_within_their_bounds(value):
    with pytest.raises(Mistake):
        units.integer(value, 1, 10)


@pytest.mark.parametrize(
    ("value", "on"), [(True, True), (False, False), ("on", True), ("off", False), ("OFF", False), ("true", True)]
)
def test_switches_are_read_as_yaml_made_them_or_as_words(value, on):
    assert units.switch(value) is on


@pytest.mark.parametrize(
    ("value", "part"),
    [(90, "a number: put it in quotes"), (True, "the boolean true: put it in quotes"), ([], "not a list"), (None, "not nothing")],
)
def test_a_string_that_yaml_took_for_something_else_is_refused(value, part):
    with pytest.raises(Mistake) as caught:
        units.text(value)
    assert part in caught.value.message


def test_near_misses_get_a_proposal():
    with pytest.raises(Mistake, match='did you mean "ordered"'):
        units.one_of("orderd", ("ordered", "fastest"))
    with pytest.raises(Mistake) as caught:
        units.one_of("xyz", ("ordered", "fastest"))
    assert caught.value.message == "must be one of ordered, fastest"


@pytest.mark.parametrize(
    ("written", "shown"),
    [("8/s", "8/s"), ("600 / 60s", "600/min"), ("100/10s", "100/10s"), ("10000/hour", "10k/h"), ("2M/min", "2M/min"),
     ("1.5k/90s", "1500/90s"), ("1.5M/d", "1500k/d"), ("0.25/s", "0.25/s"), ("5/7200s", "5/2h"), ("3/250ms", "3/250ms")],
)  # fmt: skip
def test_a_rate_is_shown_as_short_as_it_can_be_written(written, shown):
    assert units.show_rate(units.rate(written)) == shown


@given(
    st.decimals(min_value="0.001", max_value=10**6, places=3),
    st.sampled_from("kM "),
    st.integers(1, 86400),
    st.sampled_from(["ms", "s"]),
)
def test_a_rate_shown_can_be_read(amount, scale, count, unit):
    rate = units.rate(f"{amount}{scale.strip()}/{count}{unit}")
    again = units.rate(units.show_rate(rate))
    assert (again.amount, again.period_s) == pytest.approx((rate.amount, rate.period_s))


@pytest.mark.parametrize(("value", "number"), [(2, 2.0), (0.5, 0.5), ("0.01", 0.01), (1000, 1000.0)])
def test_weights_are_numbers_also_from_the_environment(value, number):
    assert units.weight(value) == number


@pytest.mark.parametrize("value", [0, -1, 0.001, 1001, 10**400, "1e2", True, None, float("nan"), float("inf")])
def test_weights_stay_within_their_bounds(value):
    with pytest.raises(Mistake):
        units.weight(value)


@given(st.integers(0, 366 * 86400 * 1000))
def test_a_duration_written_can_be_read(milliseconds):
    assert units.duration(units.show_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@given(st.one_of(st.text(max_size=20), st.floats(), st.integers(), st.none(), st.booleans(), st.lists(st.integers(), max_size=2)))
def test_readers_return_a_sane_number_or_refuse(value):
    for reader, top in ((units.duration, 366 * 86400), (units.share, 1), (units.size, 10**15), (units.weight, 1000)):
        try:
            number = reader(value)
        except Mistake:
            continue
        assert 0 <= number <= top
