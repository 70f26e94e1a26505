"""The way back of a breaker is not a step: the ramp, relapses, and providers that come and go (laws 7 and 8)."""

import pytest

from gateway.core.breaker import Breaker, State
from gateway.core.plan import BreakerPlan
from tests.core.build import Chance, fail, serve, shut

PLAN = BreakerPlan()
GOOD = [0.01 * step for step in range(30)]
"""When thirty attempts are served within a third of a second: more than a ramp asks for."""


@pytest.fixture
def moves():
    return []


@pytest.fixture
def breaker(moves):
    return Breaker(PLAN, Chance(1.0).uniform, lambda state: moves.append(state.value))


def ramping(breaker, now=100.0):
    """Let it open and its probe go well; returns the moment at which the ramp began."""
    shut(breaker, now)
    at = now + breaker.reopens_in(now)
    serve(breaker, at)
    assert breaker.state is State.RAMP
    return at


def recover(breaker, at):
    """Let it open at this time and recover wholly; returns for how long it was open, and when it closed."""
    shut(breaker, at)
    length = breaker.reopens_in(at)
    at += length
    serve(breaker, *[at + step for step in range(12)])
    assert breaker.share(at + 30.0) == 1.0
    assert breaker.state is State.CLOSED
    return pytest.approx(length), at + 30.0


# -- the share --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("served", "seconds", "share"),
    [
        (0, 0.5, 0.1),
        (0, 29.0, 0.1),  # time alone allows no more
        (0, 1000.0, 0.1),
        (30, 0.5, 0.1),  # nor do successes alone
        (30, 3.0, 0.1),
        (30, 15.0, 0.5),
        (30, 24.0, 0.8),
        (1, 15.0, 0.2),
        (4, 15.0, 0.5),
        (5, 15.0, 0.5),
        (7, 29.0, 0.8),
        (9, 29.9, pytest.approx(29.9 / 30)),
    ],
)
def test_the_share_grows_no_faster_than_time_and_no_faster_than_it_has_served(breaker, served, seconds, share):
    at = ramping(breaker)
    serve(breaker, *([at + moment for moment in GOOD][:served]))
    assert breaker.shown_share(at + seconds) == pytest.approx(share)
    breaker.admit(at + seconds - 0.2).ignore()
    assert breaker.share(at + seconds) == pytest.approx(share)


def test_the_ramp_ends_when_both_time_and_successes_allow_everything(breaker, moves):
    at = ramping(breaker)
    serve(breaker, *[at + step for step in range(1, 9)])
    assert (breaker.share(at + 8.5), breaker.share(at + 60.0)) == (pytest.approx(8.5 / 30), 1.0)
    assert (breaker.state, breaker.shown_share(at + 60.0)) == (State.RAMP, pytest.approx(0.9))
    serve(breaker, at + 60.0)
    assert (breaker.state, breaker.share(at + 60.0), breaker.state) == (State.RAMP, 1.0, State.CLOSED)
    assert moves == ["open", "half_open", "ramp", "closed"]


def test_one_request_in_two_seconds_passes_whatever_the_share(breaker):
    at = ramping(breaker)
    assert breaker.share(at + 1.9) == 0.1
    assert breaker.share(at + 2.0) == 1.0
    assert breaker.share(at + 2.0) == 1.0, "reading it takes nothing"
    breaker.admit(at + 2.0)
    assert breaker.share(at + 3.9) == pytest.approx(0.1)
    assert breaker.share(at + 4.0) == 1.0
    assert breaker.shown_share(at + 2.0) == 0.1
    assert breaker.state is State.RAMP


def test_a_request_every_two_seconds_comes_back_wholly(breaker):
    at = ramping(breaker)
    for step in range(1, 15):
        assert breaker.share(at + 2.0 * step) == 1.0, "all of them are admitted"
        serve(breaker, at + 2.0 * step)
    assert (breaker.share(at + 30.0), breaker.state) == (1.0, State.CLOSED)


def test_a_stream_that_has_begun_lets_the_ramp_grow_and_counts_once(breaker):
    at = ramping(breaker)
    streams = [breaker.admit(at + 0.1) for _ in range(3)]
    for stream in streams:
        stream.alive(at + 1.0)
        stream.alive(at + 2.0)
    assert breaker.shown_share(at + 25.0) == pytest.approx(0.4)
    for stream in streams:
        stream.success(at + 25.0)
    assert breaker.shown_share(at + 25.0) == pytest.approx(0.4)


def test_life_between_two_failures_of_the_ramp_keeps_it(breaker):
    at = ramping(breaker)
    stream = breaker.admit(at + 0.1)
    fail(breaker, at + 1.0)
    stream.alive(at + 1.1)
    fail(breaker, at + 1.2)
    assert breaker.state is State.RAMP
    stream.alive(at + 1.3)
    fail(breaker, at + 1.4)
    assert breaker.state is State.OPEN, "one stream shows it once"


def test_only_what_began_during_the_ramp_lets_it_grow(breaker):
    old = [breaker.admit(90.0) for _ in range(20)]
    shut(breaker, 100.0)
    against_it = [breaker.admit(101.0) for _ in range(20)]
    serve(breaker, 105.0)
    for permit in [*old, *against_it]:
        permit.alive(106.0)
        permit.success(107.0)
    assert (breaker.state, breaker.shown_share(130.0)) == (State.RAMP, pytest.approx(0.1))


def test_a_ramp_of_no_length_is_a_step():
    breaker = Breaker(BreakerPlan(ramp_s=0.0), Chance(1.0).uniform)
    at = ramping(breaker)
    assert (breaker.shown_share(at), breaker.share(at), breaker.state) == (1.0, 1.0, State.CLOSED)


# -- relapses ---------------------------------------------------------------------------------------------------------------------


def test_two_failures_in_a_row_end_the_ramp_and_one_does_not(breaker):
    at = ramping(breaker)
    fail(breaker, at + 1.0)
    serve(breaker, at + 2.0)
    fail(breaker, at + 3.0)
    assert breaker.state is State.RAMP
    fail(breaker, at + 3.1)
    assert breaker.state is State.OPEN


def test_a_failure_rate_ends_the_ramp_though_no_two_failures_meet(breaker):
    at = ramping(breaker)
    for step in range(9):
        serve(breaker, at + step / 10)
        fail(breaker, at + step / 10)
    assert breaker.state is State.RAMP  # ten good ones with the probe, nine bad
    fail(breaker, at + 1.0)
    assert breaker.state is State.OPEN


def test_a_failure_of_the_ramp_that_ends_when_it_is_over_is_counted_but_opens_nothing_alone(breaker):
    at = ramping(breaker)
    late = breaker.admit(at + 1.0)
    serve(breaker, *[at + moment for moment in GOOD])
    assert (breaker.share(at + 30.0), breaker.state) == (1.0, State.CLOSED)
    late.dropped(at + 31.0)
    fail(breaker, *[at + 32.0] * 4)
    assert (breaker.state, breaker._window.totals(at + 32.0)[1]) == (State.CLOSED, 5)


def test_a_ramp_after_a_relapse_has_to_earn_its_share_anew(breaker):
    at = ramping(breaker)
    serve(breaker, *[at + moment for moment in GOOD])
    fail(breaker, at + 1.0, at + 1.1)
    at = at + 1.1 + breaker.reopens_in(at + 1.1)
    serve(breaker, at)
    assert (breaker.state, breaker.shown_share(at + 25.0)) == (State.RAMP, pytest.approx(0.1))


@pytest.mark.parametrize(("share", "length"), [(0.0, 3.75), (0.5, 4.375), (1.0, 5.0)])
def test_opening_times_are_spread_so_that_many_gateways_do_not_probe_in_step(share, length):
    breaker = Breaker(PLAN, Chance(share).uniform)
    shut(breaker, 100.0)
    assert breaker.reopens_in(100.0) == pytest.approx(length)


def test_each_failed_probe_opens_for_twice_as_long_up_to_a_bound(breaker):
    at, lengths = 100.0, []
    shut(breaker, at)
    for _ in range(5):
        lengths.append(breaker.reopens_in(at))
        at += lengths[-1]
        fail(breaker, at)
    assert lengths == pytest.approx([5.0, 10.0, 20.0, 30.0, 30.0])


# -- providers that come and go ---------------------------------------------------------------------------------------------------


def test_a_provider_that_comes_and_goes_is_left_alone_for_longer_each_time(breaker):
    at, lengths = 100.0, []
    for _ in range(5):
        length, closed_at = recover(breaker, at)
        lengths.append(length)
        at = closed_at + 60.0
    assert lengths == [5.0, 10.0, 20.0, 30.0, 30.0]


@pytest.mark.parametrize(("good", "length"), [(149.0, 10.0), (151.0, 5.0)])
def test_relapses_are_forgotten_only_after_a_long_good_while(breaker, good, length):
    _, closed_at = recover(breaker, 100.0)
    shut(breaker, closed_at + good)
    assert breaker.reopens_in(closed_at + good) == pytest.approx(length)


def test_it_is_the_time_closed_that_counts_and_not_the_time_since_it_opened(breaker):
    shut(breaker, 100.0)
    serve(breaker, 400.0)
    fail(breaker, 800.0, 800.1)
    assert breaker.reopens_in(800.1) == pytest.approx(10.0)


def test_a_breaker_that_never_opened_opens_for_the_shortest_time_however_early(breaker):
    shut(breaker, 1.0)
    assert breaker.reopens_in(1.0) == pytest.approx(5.0)


# -- on evidence from elsewhere ---------------------------------------------------------------------------------------------------


def test_it_can_be_opened_on_evidence_from_elsewhere(breaker, moves):
    breaker.trip(100.0)
    assert (breaker.state, breaker.reopens_in(100.0), breaker.share(104.0), moves) == (State.OPEN, 5.0, 0.0, ["open"])


def test_evidence_does_not_keep_open_what_is_open(breaker, moves):
    shut(breaker, 100.0)
    breaker.trip(104.0)
    assert (breaker.reopens_in(104.0), moves) == (1.0, ["open"])


@pytest.mark.parametrize("way_back", ["half_open", "ramp"])
def test_evidence_on_the_way_back_is_a_relapse(breaker, way_back):
    shut(breaker, 100.0)
    assert breaker.share(105.0) == 1.0
    if way_back == "ramp":
        serve(breaker, 105.0)
    assert breaker.state == way_back
    breaker.trip(106.0)
    assert (breaker.state, breaker.reopens_in(106.0)) == (State.OPEN, 10.0)


# -- what stands alone ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "isolated"),
    [
        ("served lately", True),
        ("a stream that has begun lately", True),
        ("served as long ago as the window reaches", True),
        ("served longer ago", False),
        ("never served", False),
        ("one before it failed too", False),
        ("one before it failed, another served in between", True),
        ("closing", False),
        ("open", False),
    ],
)
def test_a_failure_stands_alone_where_the_one_before_was_none_and_the_target_has_served_lately(breaker, case, isolated):
    if case == "closing":
        ramping(breaker, 94.0)
    elif case == "open":
        shut(breaker, 99.0)
    elif case == "a stream that has begun lately":
        breaker.admit(99.0).alive(99.0)
    elif case != "never served":
        serve(breaker, {"served as long ago as the window reaches": 70.0, "served longer ago": 69.9}.get(case, 98.0))
    if case.startswith("one before"):
        fail(breaker, 98.5)
    if case.endswith("in between"):
        serve(breaker, 99.0)
    fail(breaker, 100.0)
    assert breaker.isolated(100.0) is isolated
