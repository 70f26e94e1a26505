"""Storm after storm: every invariant holds after each of them, whatever seed, weather and manners."""

from __future__ import annotations

import dataclasses

import pytest

from gateway.config.snapshot import Snapshot
from tests.sim import delivery
from tests.sim.clock import BEGIN_S
from tests.sim.invariants import ALL, Broken, law_11, verify
from tests.sim.invariants.races import opened_early
from tests.sim.mischief import run
from tests.sim.rush import rush
from tests.sim.storm import STORM_S, storm

SEEDS = range(60)
MANY_SEEDS = range(1000, 2000)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_storm_breaks_no_invariant(seed):
    world, errands = storm(seed)
    verify(world.run(errands))


@pytest.mark.slow
@pytest.mark.parametrize("seed", MANY_SEEDS)
def test_many_storms_break_no_invariant(seed):
    world, errands = storm(seed)
    verify(world.run(errands))


@pytest.mark.parametrize("seed", range(4))
def test_a_rush_breaks_no_invariant(seed):
    world, errands = rush(seed)
    verify(world.run(errands))
    assert any(move.state == "ramp" for move in world.transitions)


@pytest.mark.parametrize("seed", range(6))
def test_a_client_that_misbehaves_changes_nothing_for_others(seed):
    with_, without = run(seed, beside_a_bad_one=True), run(seed, beside_a_bad_one=False)
    verify(with_)
    worse = list(law_11(with_, without))
    assert not worse, f"seed {seed}: {worse[0].text}\n{with_.story(worse[0].client)}\nalone:\n{without.story(worse[0].client)}"


@pytest.mark.parametrize("seed", range(100, 106))
def test_a_reload_and_drains_in_between_break_no_invariant(seed):
    """The reload takes one of alpha's keys away; drains end whatever is under way, and say so."""
    world, errands = storm(seed)
    world.loop.call_at(BEGIN_S + STORM_S / 3, world.admission.adopt, _without_a_key(world.snapshot))
    for part in range(10):
        world.loop.call_at(BEGIN_S + STORM_S * part / 10, world.admission.drain)
    verify(world.run(errands))
    assert ("draining",) in world.total("gateway_requests_total", "reason")


def _without_a_key(snapshot: Snapshot) -> Snapshot:
    alpha = snapshot.providers["alpha"]
    first = alpha.credentials[:1]
    plan = dataclasses.replace(alpha.plan, credentials=(first[0].id,))
    providers = {**snapshot.providers, "alpha": dataclasses.replace(alpha, credentials=first, plan=plan)}
    routes = tuple(
        dataclasses.replace(
            route,
            targets=tuple(dataclasses.replace(target, provider=providers[target.provider.name].plan) for target in route.targets),
        )
        for route in snapshot.routes
    )
    return dataclasses.replace(snapshot, providers=providers, routes=routes)


def test_the_same_seed_is_the_same_run_to_the_byte():
    stories = []
    for _ in range(2):
        world, errands = storm(5)
        stories.append(world.run(errands).desk.log)
    assert stories[0] == stories[1]


def test_storms_are_rough_enough_to_mean_something():
    """Runs in which nothing happens would hold every invariant: the weather must bring all kinds of trouble and of ends."""
    verdicts, reasons, states, models = set(), set(), set(), set()
    for seed in range(20):
        world, errands = storm(seed)
        world.run(errands)
        verdicts |= {verdict for (verdict,), number in world.total("gateway_attempts_total", "verdict").items() if number}
        reasons |= {reason for (reason,), number in world.total("gateway_requests_total", "reason").items() if number}
        states |= {move.state for move in world.transitions}
        models |= {visit.model for visit in world.visits}
    assert verdicts >= {
        *("ok", "cancelled", "connect", "timeout", "stalled", "overloaded", "rate_limited", "server_error", "billing"),
        *("credential", "context_length", "caller", "stream_broken", "edge_blocked"),
    }
    assert reasons >= {"none", "attempts_exhausted", "deadline", "client_gone", "retry_budget", "stream_broken", "not_retryable"}
    assert states == {"open", "half_open", "ramp", "closed"}
    assert models == {"", "gpt-4o", "gpt-4o-prod", "gpt-4.1", "solo", "own", "text-embedding-3-small"}


def test_deliveries_are_various_enough_to_mean_something():
    """In some storms there are hedges that win, lose and fail, streams that are mended and not, and answers that come early."""
    results, kinds, early = set(), set(), 0
    for seed in [seed for seed in SEEDS if delivery.drawn(seed) is not None]:
        world, errands = storm(seed)
        world.run(errands)
        results |= {result for (result,), number in world.total("gateway_hedges_total", "result").items() if number}
        kinds |= {by for (by,), number in world.total("gateway_saved_requests_total", "by").items() if number}
        early += sum(opened_early(world, name) for name in world.clients)
    assert results == {"won", "lost", "failed", "no_target", "no_budget"}
    assert kinds == {"retry", "failover", "hedge", "resume"}
    assert early > 10


def test_a_failure_tells_its_seed_and_its_story(monkeypatch):
    world, errands = storm(3)
    world.run(errands)
    monkeypatch.setattr(world.clients["c1"], "endings", ["ended", "ended"])
    with pytest.raises(Broken, match=r"seed 3: one_ending: c1: ended 2 times[^$]+--seed 3\)\n +[\d.]+ s  the client asks "):
        verify(world)


def test_every_invariant_says_what_it_means():
    assert all(each.__doc__ for each in ALL)
