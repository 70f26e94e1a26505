"""The text form of plain cells, read back by the client library's own parser."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from gateway.observe.series import Counts, Shape, Spec, Spreads, gauge_text

BOUNDS = (0.1, 1.0, 10.0)


def counts(limit=10):
    return Counts(Spec("gateway_x_total", Shape.COUNTER, ("a", "b"), "Help."), limit)


def spreads():
    return Spreads(Spec("gateway_y_seconds", Shape.HISTOGRAM, ("a",), "Help.", BOUNDS))


def parsed(text):
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_as_a_label_value(value):
    series = counts()
    series.at(value, "z").value += 3
    (sample,) = parsed(series.text())
    assert (sample.labels, sample.value) == ({"a": value, "b": "z"}, 3)


def test_a_lone_surrogate_in_a_label_still_renders_as_utf8():
    series = counts()
    series.at("\udcff", "").value += 1
    series.text().encode("utf-8")


@given(st.lists(st.floats(min_value=0, max_value=100)))
def test_buckets_agree_with_counting_by_hand(values):
    series = spreads()
    for value in values:
        series.at("r").add(value)
    if not values:
        assert parsed(series.text()) == []
        return
    found = {(s.name, s.labels.get("le")): s.value for s in parsed(series.text())}
    for bound in BOUNDS:
        assert found["gateway_y_seconds_bucket", str(bound)] == sum(value <= bound for value in values)
    assert found["gateway_y_seconds_bucket", "+Inf"] == found["gateway_y_seconds_count", None] == len(values)
    total = 0.0
    for value in values:
        total += value
    assert found["gateway_y_seconds_sum", None] == total


def test_a_value_equal_to_a_bound_is_below_it_and_a_negative_one_is_zero():
    cell = spreads().at("r")
    cell.add(1.0)
    cell.add(-5.0)
    assert cell.counts == [1, 1, 0, 0]
    assert cell.total == 1.0


def test_label_sets_beyond_the_limit_share_one_cell_and_no_count_is_lost():
    series = counts(limit=3)
    for number in range(50):
        series.at(str(number), "b").value += 1
    found = {sample.labels["a"]: sample.value for sample in parsed(series.text())}
    assert found == {"0": 1, "1": 1, "2": 1, "*": 47}


def test_the_same_labels_always_find_the_same_cell():
    series = counts()
    assert series.at("a", "b") is series.at("a", "b")
    assert series.at("a", "b") is not series.at("b", "a")


def test_a_gauge_never_has_one_label_set_twice_and_shows_the_worst():
    spec = Spec("gateway_breaker_share", Shape.GAUGE, ("model",), "Help.")
    found = parsed(gauge_text(spec, [(("*",), 1.0), (("*",), 0.25), (("*",), 0.5), (("m",), 1.0)]))
    assert {sample.labels["model"]: sample.value for sample in found} == {"*": 0.25, "m": 1.0}
