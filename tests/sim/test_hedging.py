"""Hedging pays for itself: the tail is cut, the price is bound, and nobody is worse off for it."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from gateway.core.plan import HedgePlan
from tests.sim.hedging.plot import svg
from tests.sim.hedging.race import SLOW_S, Race, TailedProvider, bimodal, log_normal, race
from tests.sim.hedging.sweep import TAILS, sweep
from tests.sim.provider import Spell

REQUESTS = 1_000
FEW = 500
ALWAYS = (0.0, 1e9)
USUAL = HedgePlan()
"""What a route gets that says `hedge:` and no more: p95, not before 300 ms, one request in twenty."""
SOON = HedgePlan(floor_s=0.1)


def _all_served(run):
    clients = run.world.clients.values()
    assert all((client.status, client.endings) == (200, ["ended"]) for client in clients)
    assert run.world.deadlock is None
    assert not run.world.loop.crashes


@pytest.mark.parametrize("seed", range(2))
def test_the_classic_tail_is_cut_for_less_than_one_request_in_twenty(seed):
    hedged = race(bimodal, USUAL, seed=seed, requests=REQUESTS)
    _all_served(hedged)
    alone = race(bimodal, None, seed=seed, requests=REQUESTS)
    assert alone.percentile(99.5) == pytest.approx(SLOW_S)
    assert hedged.percentile(99.5) < 0.5
    assert 0.0 < hedged.extra <= 0.05


def test_a_tail_without_two_modes_is_cut_too():
    alone, hedged = (race(log_normal, plan, requests=3_000) for plan in (None, USUAL))
    _all_served(hedged)
    assert hedged.percentile(99.0) < 0.9 * alone.percentile(99.0)
    assert hedged.percentile(99.5) < 0.9 * alone.percentile(99.5)
    assert hedged.extra <= 0.05


@pytest.mark.parametrize("tail", [bimodal, log_normal])
@pytest.mark.parametrize("budget", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("quantile", [0.5, 0.95])
def test_at_no_moment_were_more_hedges_sent_than_the_budget_had(tail, budget, quantile):
    run = race(tail, HedgePlan(quantile=quantile, floor_s=0.001, budget=budget), requests=FEW)
    _within(run, budget)
    assert run.hedges > 0


def _within(run: Race, budget: float) -> None:
    asked: set[str] = set()
    hedges = 0
    for visit in run.world.visits:
        hedges += visit.client in asked
        asked.add(visit.client)
        assert hedges <= budget * len(asked) + 1e-6


def test_when_everything_is_slow_hedges_stay_within_their_budget():
    """Both targets take ten times as long for a while: whoever hedged without a bound would double the load."""
    run = race(lambda dice, at_s: log_normal(dice, at_s) * (10.0 if 8.0 <= at_s < 16.0 else 1.0), SOON, requests=REQUESTS)
    _all_served(run)
    _within(run, SOON.budget)
    assert "no_budget" in {client.record.hedge_skipped for client in run.world.clients.values()}


def test_every_loser_is_called_off_and_every_answer_comes_from_one_provider():
    run = race(bimodal, SOON, requests=REQUESTS)
    _all_served(run)
    assert run.hedges > 10
    for name, visits in run.world.by_client().items():
        client = run.world.clients[name]
        (winner,) = [visit for visit in visits if visit.end == "finished"]
        assert bytes(client.body) == bytes(winner.wrote)
        assert [(visit.end, visit.closed_at) for visit in visits if visit is not winner] == [("cancelled", client.opened_at)] * (
            len(visits) - 1
        )


def test_losing_is_no_failure():
    """The first target loses each of its races, and stays everybody's first choice."""
    run = race(lambda dice, at_s: 2.0 if dice.random() < 0.04 else 0.05, SOON, requests=REQUESTS)
    assert run.hedges > 20
    assert not run.world.transitions
    assert {visits[0].provider for visits in run.world.by_client().values()} == {"first"}


TROUBLES = (
    *("500", "503", "529", "refused", "connect_timeout", "reset", "silent", "stall", "cut", "clean_end", "stream_error"),
    *("error_200", "html_502", "rate", "rate_bare", "401", "403", "billing", "404", "400", "context", "slow"),
)


@pytest.fixture(scope="module")
def alone():
    return race(bimodal, None, requests=FEW)


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_second_target_that_fails_makes_nobody_wait_longer(trouble, alone):
    run = race(bimodal, SOON, requests=FEW, second=TailedProvider("second", bimodal, [Spell(*ALWAYS, {trouble: 1.0})]))
    _all_served(run)
    assert run.hedges > 0
    assert all(run.waits_s[name] <= alone.waits_s[name] + 1e-6 for name in alone.waits_s)


def test_the_curve_shows_that_hedging_sooner_than_the_budget_bears_is_waste():
    """One in fifty is slow: the budget of 5 % is spent on them where p95 says when, and on anybody where p50 does."""
    points = sweep(REQUESTS, 1, quantiles=(0.5, 0.95), budgets=(0.05,), processes=0)
    for tail in TAILS:
        never, sooner, later = (point for point in points if point.tail == tail)
        assert later.p99_s < 0.9 * sooner.p99_s
        assert later.extra <= sooner.extra <= 0.05
        assert later.p99_s < 0.9 * never.p99_s
    picture = ET.fromstring(svg(points, "a <quick> look"))
    shapes = [element.tag.rpartition("}")[2] for element in picture.iter()]
    assert (shapes.count("polyline"), shapes.count("circle")) == (4, 9)
