"""What refusals teach, against a provider that keeps its limit to itself: does the rate find it, at which price, and what is forgotten.

The runs are the model of `hidden_limit`, seeded, in virtual time. What is asked of the learner: near the limit within a minute, then
no more than one refusal in fifty and most of the limit used; and no lasting harm from refusals that are about something else.
"""

from statistics import fmean

import pytest

from gateway.core.bucket import FREE, Cost, Source
from gateway.core.ceiling import Ceiling
from gateway.core.learner import CUT, FADE_S, MEMORY_S, Curve, Learner, Tally
from gateway.core.plan import QuotaPlan, Resource
from gateway.core.quota import Quota
from tests.core.hidden_limit import START, Hidden, Run

REQUESTS, TOKENS, INPUT, OUTPUT = Resource.REQUESTS, Resource.TOKENS, Resource.INPUT_TOKENS, Resource.OUTPUT_TOKENS
SIZES = (200.0, 4000.0)
MEAN = sum(SIZES) / 2
MINUTE, END = 60.0, 600.0
SEEDS = (1, 2, 3)


def hidden(counts, per_s, burst_s):
    """`per_s` requests of mean size; a burst in seconds' worth, but never less than the largest request."""
    one, largest = (1.0, 1.0) if counts is REQUESTS else (MEAN, SIZES[1])
    return Hidden(per_s * one, max(largest, per_s * one * burst_s))


def runs(counts, per_s, burst_s, *, says, end=END):
    for seed in SEEDS:
        run = Run(hidden(counts, per_s, burst_s), offered_per_s=3 * per_s, counts=counts, tokens=SIZES, says=says, seed=seed)
        yield run.run(end)


# -- a hidden limit ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("says", [True, False])
@pytest.mark.parametrize("burst_s", [1.0, 10.0, 60.0])
@pytest.mark.parametrize("per_s", [2.0, 10.0])
@pytest.mark.parametrize("counts", [REQUESTS, TOKENS])
def test_a_hidden_limit_is_used_and_hardly_ever_run_into(counts, per_s, burst_s, says):
    done = list(runs(counts, per_s, burst_s, says=says))
    assert max(run.refusals(MINUTE) for run in done) <= 0.02
    assert min(run.use(MINUTE, END) for run in done) >= 0.85


@pytest.mark.parametrize("says", [True, False])
@pytest.mark.parametrize("burst_s", [1.0, 10.0, 60.0])
@pytest.mark.parametrize("counts", [REQUESTS, TOKENS])
def test_a_large_one_too(counts, burst_s, says):
    run = next(runs(counts, 50.0, burst_s, says=says, end=180.0))
    assert run.refusals(MINUTE) <= 0.02
    assert run.use(MINUTE, 180.0) >= 0.85


@pytest.mark.parametrize("counts", [REQUESTS, TOKENS])
@pytest.mark.parametrize("burst_s", [1.0, 10.0, 60.0])
def test_one_of_a_request_in_two_seconds_takes_longer_to_find_and_is_used_all_the_same(counts, burst_s):
    # Some 270 requests in all: one refusal more or less is a third of a percent, and a request unlike the others is a lesson.
    done = list(runs(counts, 0.5, burst_s, says=True))
    assert fmean(run.refusals(MINUTE) for run in done) <= 0.02
    assert fmean(run.use(MINUTE, END) for run in done) >= 0.85


@pytest.mark.parametrize("burst_s", [1.0, 10.0, 60.0])
@pytest.mark.parametrize("per_s", [2.0, 10.0])
def test_the_learned_rate_comes_within_a_tenth_of_the_limit(per_s, burst_s):
    for run in runs(REQUESTS, per_s, burst_s, says=True):
        assert run.rate(MINUTE) == pytest.approx(per_s, rel=0.1)


def test_a_limit_that_is_raised_is_found_within_two_minutes_and_one_that_is_lowered_at_once():
    class Stepped(Hidden):
        def lets(self, now, amount):
            self.per_s = 10.0 if now - START < 200.0 else 20.0 if now - START < 400.0 else 5.0
            return super().lets(now, amount)

    run = Run(Stepped(10.0, 20.0), offered_per_s=40.0, says=True, seed=1).run(END)
    assert run.served(320.0, 400.0) / 80.0 >= 0.85 * 20.0
    assert run.served(420.0, END) / 180.0 >= 0.85 * 5.0
    assert run.refusals(420.0) <= 0.02


# -- refusals that are no limit ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("says", [True, False])
@pytest.mark.parametrize("limit", [None, 10.0])
def test_minutes_of_nothing_but_refusals_do_not_drive_the_rate_to_nothing(limit, says):
    provider = None if limit is None else Hidden(limit, 2 * limit)
    run = Run(provider, offered_per_s=10.0, tokens=SIZES, says=says, down=(200.0, 380.0), seed=1).run(500.0)
    requests = [at - START for at, what, _ in run.log if what == "served"]
    assert not [at for at in requests if 200.0 <= at < 380.0]
    # Thirty seconds after its end it is over.
    assert sum(410.0 <= at < 500.0 for at in requests) / 90.0 >= 8.5


def test_one_refusal_of_an_almost_idle_target_does_not_hold_back_what_comes_a_minute_later():
    class Moody(Hidden):
        asked = 0

        def lets(self, now, amount):
            self.asked += 1
            return self.asked != 2

    def offered(seconds):
        return 1.0 if seconds < 3.0 else 50.0 if seconds % 60.0 < 1.0 else 0.0

    run = Run(Moody(1.0, 1.0), offered_per_s=offered, seed=1).run(300.0)
    assert [what for _, what, _ in run.log].count("refused") == 1
    for minute in range(1, 5):
        came = [at - START - 60.0 * minute for at, what, _ in run.log if 60 * minute <= at - START < 60 * minute + 60]
        assert len(came) > 30
        assert max(came) <= 1.5


def test_one_false_refusal_in_a_steady_stream_costs_seconds():
    class Liar(Hidden):
        asked = 0

        def lets(self, now, amount):
            self.asked += 1
            return self.asked != 2000

    run = Run(Liar(1.0, 1.0), offered_per_s=100.0, seed=1).run(80.0)
    assert run.refusals(0.0) < 0.001
    assert run.served(50.0, 80.0) / 30.0 >= 90.0


# -- single lessons ---------------------------------------------------------------------------------------------------------------


def sent_at(learner, count, per_s, begin=0.0, tokens=0.0):
    """Have so many sent evenly; return the tallies of each."""
    tallies, sent = [], Tally(begin)
    for i in range(count):
        at = begin + (i + 1) / per_s
        learner.watch(at, sent)
        sent = sent.plus(at, tokens, 0.0)
        tallies.append(sent)
    return tallies


ONE = Tally(0.0, 1)


def test_a_first_refusal_cuts_what_was_sent_lately():
    learner = Learner(0.0)
    last = sent_at(learner, 100, 10.0)[-1]
    assert learner.refused(10.1, ONE, last, {REQUESTS: 0.0}) == [REQUESTS]
    assert learner.curve(REQUESTS).value(10.1) == pytest.approx(7.0, rel=0.05)


def test_a_first_refusal_after_next_to_nothing_teaches_nothing():
    learner = Learner(0.0)
    assert not learner.refused(10.1, ONE, sent_at(learner, 3, 1.0)[-1], {REQUESTS: 0.0})


def test_who_left_before_a_lesson_is_in_its_shadow_and_teaches_nothing():
    learner = Learner(0.0)
    tallies = sent_at(learner, 100, 10.0)
    learner.refused(10.1, ONE, tallies[-2], {REQUESTS: 0.0})
    rate = learner.curve(REQUESTS).value(10.2)
    for late in tallies[-20:]:
        assert learner.shadows(late)
        assert not learner.refused(10.2, ONE, late, {REQUESTS: rate})
    assert learner.curve(REQUESTS).value(10.2) == rate


def test_a_few_requests_in_a_row_do_not_say_for_long_what_a_refusal_was_about():
    learner, sent, now, suspects = Learner(0.0), Tally(0.0), 0.0, []
    # More got through when tokens were suspected; then came sixteen at half that rate.
    for count, per_s in [(100, 10.0), (500, 5.0), (800, 8.0), (16, 4.0), (500, 5.0), (800, 8.0)]:
        for _ in range(count):
            now += 1.0 / per_s
            learner.watch(now, sent)
            sent = sent.plus(now, 100.0, 0.0)
        learner.refused(now + 0.1, Tally(0.0, 1, 100.0), sent, {REQUESTS: per_s, TOKENS: 100.0 * per_s})
        suspects.append(learner._suspect)
        now += 0.1
    assert suspects == [REQUESTS, TOKENS, TOKENS, REQUESTS, TOKENS, TOKENS]


def test_where_nothing_was_measured_the_suspect_stays():
    learner, sent, now = Learner(0.0), Tally(0.0), 0.0
    for pause_s in (0.0, MEMORY_S):
        now += pause_s
        for _ in range(100):
            now += 0.1
            learner.watch(now, sent)
            sent = sent.plus(now, 100.0, 0.0)
        assert learner.refused(now + 0.1, Tally(0.0, 1, 100.0), sent, {REQUESTS: 0.0, TOKENS: 0.0})
        assert learner._suspect is REQUESTS


def test_what_got_through_is_believed_over_what_was_known_before():
    learner, sent, now = Learner(0.0), Tally(0.0), 0.0
    for count, per_s in [(100, 10.0), (600, 20.0)]:
        for _ in range(count):
            now += 1.0 / per_s
            learner.watch(now, sent)
            sent = sent.plus(now, 100.0, 0.0)
        learner.refused(now + 0.1, ONE, sent, {REQUESTS: 5.0})
        now += 0.1
    # A provider that let 20/s through for half a minute is not held to the 5/s that were known.
    assert learner.curve(REQUESTS).value(now) == pytest.approx(CUT * 20.0, rel=0.02)


def test_a_refusal_is_remembered_for_five_minutes():
    learner = Learner(0.0)
    assert not learner.remembers(0.0)
    learner.refused(10.1, ONE, sent_at(learner, 100, 10.0)[-1], {REQUESTS: 0.0})
    assert learner.remembers(10.1 + MEMORY_S - 0.1)
    assert not learner.remembers(10.1 + MEMORY_S)


def test_a_lesson_fades_before_it_is_forgotten_and_its_limit_with_it():
    quota = Quota(QuotaPlan(), 0.0)
    reservations = [quota.reserve(i / 10.0, FREE) for i in range(1, 101)]
    reservations[-1].refused(10.1)
    reservations[-1].denied(10.1, REQUESTS)
    (bucket,) = quota.buckets
    assert bucket.source is Source.LEARNED
    quota.ready_at(10.1 + FADE_S, Cost(1e9))
    rates = []
    for age_s in range(0, int(MEMORY_S), 10):
        bucket.correct(10.1 + age_s, 0.0)
        quota.ready_at(10.1 + age_s, FREE)
        rates.append(bucket.per_s)
    assert rates[1:] == sorted(rates[1:])
    assert rates[-1] > 100.0 * rates[0]
    bucket.correct(10.1 + MEMORY_S, -1e9)
    assert quota.ready_at(10.1 + MEMORY_S, FREE) <= 10.1 + MEMORY_S
    assert not quota.buckets


def test_tallies_know_each_resource():
    tally = Tally(0.0).plus(1.0, 30.0, 12.0)
    assert [tally.of(resource) for resource in (REQUESTS, TOKENS, INPUT, OUTPUT)] == [1.0, 42.0, 30.0, 12.0]
    assert tally.since(tally, TOKENS) == 0.0


def test_a_curve_is_the_formula():
    curve = Curve()
    curve.cut(100.0, 10.0, CUT, 20.0)
    assert curve.value(100.0) == pytest.approx(9.5)
    assert curve.value(110.0) == pytest.approx(10.0 * (1 - 0.05 / 8))
    assert curve.value(120.0) == pytest.approx(10.0)
    assert curve.value(140.0) == pytest.approx(10.5)
    assert curve.early(109.9)
    assert not curve.early(110.1)
    curve.hold(120.0)
    assert curve.value(120.0) == pytest.approx(9.5)


def test_a_ceiling_of_nothing_is_none():
    assert Ceiling().value(0.0) is None
