"""How many requests may be under way, learned from an overloaded provider; and that one which merely fails teaches nothing."""

import pytest

from gateway.core.ceiling import CURVE_S, CUT, EVIDENCE, Ceiling
from gateway.core.learner import FADE_S, MEMORY_S
from tests.core.build import NOW

PERIOD = CURVE_S
START = NOW - NOW % PERIOD
"""Where a period begins."""


def taught(*served, refused=(), now=START, ceiling=None):
    """A ceiling after requests were served, and others refused, that had so many beside them, themselves among them."""
    ceiling = ceiling or Ceiling()
    for beside in served:
        ceiling.served(now, sent_at=now, beside=beside)
    for beside in refused:
        ceiling.refused(now, sent_at=now, beside=beside)
    return ceiling


def test_a_new_one_knows_nothing():
    assert Ceiling().value(NOW) is None
    assert Ceiling().until < NOW


@pytest.mark.parametrize(
    ("served", "refused", "value"),
    [
        ((1, 2, 3), (10,), 6),  # nothing between is proven: cut by a share
        ((3, 6, 8), (10,), 7),  # not far below what is proven
        ((9, 9, 9), (10,), 8),
        ((10, 10, 10), (9,), 9),  # close enough: requests overtake each other
        ((1, 1, 1), (2,), 1),
        ((1, 1, 1), (100,), 69),
    ],
)
def test_a_refusal_beside_more_than_was_ever_served_beside_cuts(served, refused, value):
    ceiling = taught(*served, refused=refused)
    assert ceiling.value(START) == value
    assert ceiling.until == START + MEMORY_S


@pytest.mark.parametrize("served", [(), (2,), (2, 3)])
def test_with_too_little_served_to_compare_with_nothing_is_learned(served):
    assert len(served) < EVIDENCE
    assert taught(*served, refused=[10]).value(START) is None


@pytest.mark.parametrize(
    ("served", "refused"), [((10, 10, 10), (8,)), ((1, 2, 12), (10,)), ((4, 5, 6), (10, 3)), ((4, 5, 6), (5,))]
)
def test_refusals_among_what_is_served_are_about_something_else(served, refused):
    assert taught(*served, refused=refused).value(START) is None


def test_what_turns_out_to_be_about_something_else_lifts_what_was_learned():
    ceiling = taught(1, 2, 3, refused=[10])
    assert ceiling.value(START) is not None
    taught(refused=[2], ceiling=ceiling)
    assert ceiling.value(START) is None


def test_one_overload_is_one_lesson_however_many_it_refuses():
    ceiling = taught(1, 2, 3, refused=[20])
    once = ceiling.value(START)
    for _ in range(10):
        ceiling.refused(START + 0.05, sent_at=START, beside=12)
    assert ceiling.value(START + 0.05) == once
    ceiling.refused(START + 0.5, sent_at=START + 0.1, beside=12)
    assert ceiling.value(START + 0.5) < once


def test_it_comes_back_to_where_it_was_cut_and_goes_beyond_that():
    ceiling = taught(1, 1, 1, refused=[101])
    values = [ceiling.value(START + age) for age in (0.0, 0.5 * PERIOD, PERIOD, 1.5 * PERIOD, 3 * PERIOD)]
    assert values == sorted(values)
    assert (values[0], values[2]) == (int(100 * CUT), 100)
    assert values[4] > 150


def test_it_lets_go_bit_by_bit_and_is_forgotten_then():
    ceiling = taught(90, 90, 90, refused=[100])
    last = ceiling.value(START + FADE_S)
    later = [ceiling.value(START + FADE_S + seconds) for seconds in (10.0, 20.0, 30.0)]
    assert later == sorted(later)
    assert later[0] > 1.9 * last
    assert later[2] > 7.6 * last
    assert ceiling.value(START + MEMORY_S) is None


def test_who_was_about_to_be_refused_is_beside_nobody():
    ceiling = taught(1, 2, 3)
    for _ in range(10):
        ceiling.refused(START + 0.2, sent_at=START, beside=30)
    # Eleven were sent then, and ten of them were only there until they were refused.
    ceiling.served(START + 1.0, sent_at=START + 0.1, beside=13)
    ceiling.refused(START + 1.0, sent_at=START + 0.9, beside=5)
    assert ceiling.value(START + 1.0) is not None, "with five it was refused, and with three it was served"
    ceiling.served(START + 1.0, sent_at=START + 0.9, beside=6)
    ceiling.refused(START + 1.0, sent_at=START + 0.9, beside=5)
    assert ceiling.value(START + 1.0) is None


@pytest.mark.parametrize(("periods", "remembered"), [(0.9, True), (1.0, True), (1.9, True), (2.0, False), (5.5, False)])
def test_what_was_served_is_evidence_in_its_period_and_the_next(periods, remembered):
    ceiling = taught(4, 4, 4)
    ceiling.refused(START + periods * PERIOD, sent_at=START + periods * PERIOD, beside=8)
    assert (ceiling.value(START + periods * PERIOD) is not None) is remembered


@pytest.mark.parametrize(("periods", "learns"), [(1.0, False), (2.0, True)])
def test_what_was_refused_is_remembered_as_long(periods, learns):
    ceiling = taught(refused=[2])
    later = START + periods * PERIOD
    taught(4, 4, 4, refused=[8], now=later, ceiling=ceiling)
    assert (ceiling.value(later) is not None) is learns


def test_an_outage_leaves_nothing_behind():
    ceiling = taught(*range(1, 21))
    for tenth in range(600):
        ceiling.refused(START + tenth / 10, sent_at=START + tenth / 10, beside=1 + tenth % 20)
    assert ceiling.value(START + PERIOD * 2) is None


def overloaded_provider(hidden, *, wanted, seconds, call_s=2.0, step_s=0.05):
    """Clients that always want `wanted` requests under way, at a provider that serves `hidden` of them; (served, refused) by second."""
    ceiling, under_way, log = Ceiling(), [], []
    for step in range(int(seconds / step_s)):
        now = START + step * step_s
        if step % int(1 / step_s) == 0:
            log.append([0, 0])
        for call in [call for call in under_way if call[0] <= now]:
            under_way.remove(call)
            _, sent_at, beside = call
            ceiling.served(now, sent_at=sent_at, beside=beside)
            log[-1][0] += 1
        allowed = ceiling.value(now)
        while len(under_way) < (wanted if allowed is None else min(wanted, allowed)):
            beside = len(under_way) + 1
            if beside > hidden:
                log[-1][1] += 1
                ceiling.refused(now, sent_at=now, beside=beside)
                break
            under_way.append((now + call_s * (0.5 + (step * 7 + beside * 3) % 10 / 10), now, beside))
    return ceiling, log


@pytest.mark.parametrize("hidden", [3, 12, 40])
def test_it_comes_to_stand_close_to_what_the_provider_can_do(hidden):
    ceiling, log = overloaded_provider(hidden, wanted=2 * hidden, seconds=240)
    now = START + 239.0
    assert int(0.7 * hidden) <= ceiling.value(now) <= 1.3 * hidden
    served, refused = (sum(second[which] for second in log[60:]) for which in (0, 1))
    assert refused <= 0.02 * served, "refusals are the price of knowing, and a small one"
    alone = sum(second[0] for second in overloaded_provider(hidden, wanted=hidden, seconds=240)[1][60:])
    assert served >= 0.85 * alone, "and the provider is put to use"


def test_without_an_overload_nothing_is_learned():
    ceiling, log = overloaded_provider(10, wanted=10, seconds=60)
    assert (ceiling.value(START + 60.0), sum(second[1] for second in log)) == (None, 0)
