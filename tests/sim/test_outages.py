"""Past outages replayed: what status pages published, minute by minute, against two providers and then against one.

Status mixes and times are those of the public reports of 2023-11-08, 2024-12-04, 2025-01-23, 2026-03-09 and 2026-04-28; percentages
that they do not state are assumptions. A second, healthy provider must keep clients at 99 % success and give them back to the first
one afterwards; without one, the gateway must not add to the outage. Times are virtual minutes. What each run came to is printed.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from gateway.core.plan import Policy
from tests.sim.bare import Bare
from tests.sim.clock import BEGIN_S
from tests.sim.invariants import verify
from tests.sim.ledger import Visit
from tests.sim.provider import SimulatedProvider, Spell
from tests.sim.retrying import at_once, like_an_sdk, served, success
from tests.sim.rush import BOTH, chat
from tests.sim.storm import ALPHA_KEYS, BETA_KEYS
from tests.sim.world import Ways, World

MIN = 60.0
CALM_MIN = 4
CALM_EVERY_S = 2.5
ONE: Ways = (("chat", ("gpt-4o",), (("alpha", None),)),)


def _but_models(visit: Visit) -> bool:
    return not visit.path.endswith("/models")


def _world(weather: list[Spell], ways: Ways, *, betas: list[Spell] | None = None, base_per_s: float = 1e9, seed: int = 7) -> World:
    providers = (
        SimulatedProvider("alpha", keys=ALPHA_KEYS, weather=weather, base_per_s=base_per_s),
        SimulatedProvider("beta", azure=True, keys=BETA_KEYS, weather=betas or []),
    )
    return World(seed, providers, ways, policy=Policy())


def _steadily(world: World, *, until_s: float, every_s: float) -> World:
    """Run the world with a request every so often, every other one a stream."""
    count = round(until_s / every_s)
    return world.run([chat(f"c{number}", number * every_s, stream=number % 2 == 0) for number in range(count)])


def _outage(weather: list[Spell], ways: Ways, *, minutes: float, every_s: float, base_per_s: float = 1e9) -> World:
    world = _world(weather, ways, base_per_s=base_per_s)
    stormy = [number * every_s for number in range(int(minutes * MIN / every_s))]
    calm = [minutes * MIN + number * CALM_EVERY_S for number in range(int(CALM_MIN * MIN / CALM_EVERY_S))]
    world.run([chat(f"c{number}", at_s, stream=number % 2 == 0) for number, at_s in enumerate(stormy + calm)])
    verify(world)
    return world


def _back_home(world: World, last: int = 20) -> bool:
    """Whether the last requests were all served by the preferred provider, each at once."""
    by_client = world.by_client()
    return all([visit.provider for visit in by_client[name]] == ["alpha"] for name in list(world.clients)[-last:])


def _home_after(world: World, end_s: float) -> float:
    """Return the seconds from the end of an outage until the preferred provider served again a request made after that."""
    asked = world.by_client()
    return min(
        client.done_at - BEGIN_S - end_s
        for name, client in world.clients.items()
        if client.errand.at_s >= end_s and served(client) and [visit.provider for visit in asked[name]] == ["alpha"]
    )


def _attempts_per_request(world: World, since_s: float = 0.0, until_s: float = float("inf")) -> float:
    names = {name for name, client in world.clients.items() if since_s <= client.errand.at_s < until_s}
    return sum(visit.client in names for visit in world.visits) / len(names)


S1_2023_11_08 = [
    Spell(0, 80 * MIN, {"502": 0.71, "503": 0.24}, covers=_but_models),
    Spell(80 * MIN, 115 * MIN, {"come_back": 1.0}),
    Spell(115 * MIN, 120 * MIN, {"come_back": 0.5}),
    Spell(120 * MIN, 130 * MIN, {"come_back": 0.2}),
]
S3_2024_12_04 = [
    Spell(0, 4 * MIN, {"html_530": 1.0}),
    Spell(19 * MIN, 49 * MIN, {"hang_up": 0.45, "stall_30": 0.55}),
]
S6_2025_01_23 = [
    Spell(0, 15 * MIN, {"html_502": 0.15}),
    *(Spell((15 + 5 * turn) * MIN, (18 + 5 * turn) * MIN, {"502": 0.8}) for turn in range(9)),
]
S10_2025_11_18 = [Spell(10 * turn * MIN, (10 * turn + 5) * MIN, {"html_502": 1.0}) for turn in range(7)]
S13_2026_03_09 = [Spell(5 * MIN, 65 * MIN, {"400": 0.35, "rate_bare": 0.15})]
S14_2026_04_28 = [Spell(2 * MIN, 80 * MIN, {"401": 1.0})]
S15_2026_06_02 = [Spell(2 * MIN, 62 * MIN, {"rate_false": 0.8})]


@pytest.mark.parametrize(
    ("weather", "minutes", "every_s", "base_per_s"),
    [
        (S1_2023_11_08, 130, 8.0, 1e9),
        (S3_2024_12_04, 49, 3.0, 1e9),
        (S6_2025_01_23, 60, 4.0, 0.5),
        (S10_2025_11_18, 70, 5.0, 1e9),
        (S13_2026_03_09, 65, 2.0, 1e9),
        (S14_2026_04_28, 80, 5.0, 1e9),
        (S15_2026_06_02, 62, 4.0, 1e9),
    ],
    ids=[
        "2023-11-08 everything answers 502, then 429",
        "2024-12-04 pages, then stalls",
        "2025-01-23 crash loop under load",
        "2025-11-18 good and bad every five minutes",
        "2026-03-09 400 to a third of the requests",
        "2026-04-28 valid keys are refused",
        "2026-06-02 rate limits that are none",
    ],
)
def test_with_a_second_provider_clients_outlive_the_outage(weather, minutes, every_s, base_per_s, figures):
    """And the first provider serves again within a minute; a bench alone would keep its keys away for a quarter of an hour."""
    world = _outage(weather, BOTH, minutes=minutes, every_s=every_s, base_per_s=base_per_s)
    back_s = _home_after(world, minutes * MIN)
    figures(f"{success(world):.2%} served by {_attempts_per_request(world):.2f} attempts each, back after {back_s:.0f} s")
    assert success(world) >= 0.99
    assert back_s <= 60.0
    assert _back_home(world)


def test_a_minute_of_outage_is_not_noticed_and_is_over_when_it_is_over(figures):
    """A request every two seconds; the worst of twenty runs."""
    worst_s = 0.0
    for seed in range(20):
        world = _steadily(_world([Spell(20.0, 80.0, {"503": 1.0})], BOTH, seed=seed), until_s=180.0, every_s=2.0)
        verify(world)
        assert success(world) == 1.0
        assert _back_home(world)
        worst_s = max(worst_s, _home_after(world, 80.0))
    figures(f"back after {worst_s:.0f} s at worst")
    assert worst_s <= 30.0


@pytest.mark.parametrize(
    ("every_s", "changes", "per_s", "most"), [(20.0, 20, 10.0, 4), (300.0, 14, 0.5, 14)], ids=["20 seconds", "5 minutes"]
)
def test_an_oscillating_provider_does_not_toss_the_traffic_about(every_s, changes, per_s, most, figures):
    """How often most of the traffic changes sides. What comes and goes within half a minute is left alone."""
    spells = [Spell(turn * every_s, (turn + 1) * every_s, {"502": 1.0}) for turn in range(1, changes, 2)]
    world = _steadily(_world(spells, BOTH), until_s=changes * every_s, every_s=1 / per_s)
    verify(world)
    parts: dict[int, Counter[str]] = {}
    for visit in world.visits:
        if visit.whole:
            parts.setdefault(int((visit.started_at - BEGIN_S) / 10.0), Counter())[visit.provider] += 1
    sides = [part.most_common(1)[0][0] for _, part in sorted(parts.items())]
    switches = sum(one != other for one, other in pairwise(sides))
    figures(f"every {every_s:.0f} s: {switches} changes of sides, the provider made {changes - 1}")
    assert success(world) == 1.0
    assert switches <= most


@pytest.mark.parametrize("patience_s", [15, 30])
def test_a_provider_that_hangs_is_found_out_by_impatient_clients(patience_s, figures):
    """It accepts everything and answers nothing for ten minutes; nobody waits as long as the policy would."""
    world = _world([Spell(MIN, 11 * MIN, {"silent": 1.0})], BOTH)
    lines = ((b"x-stainless-read-timeout", b"%d" % patience_s),)
    world.run([chat(f"c{number}", float(number), stream=True, lines=lines) for number in range(15 * 60)])
    verify(world)
    lost = [client.errand.at_s for client in world.clients.values() if not served(client)]
    figures(f"{len(lost)} of 600 lost, {sum(at_s > 2 * MIN + patience_s for at_s in lost)} after the first minute")
    assert sum(at_s < MIN + patience_s + 10 for at_s in lost) <= patience_s + 10
    assert success(world, 2 * MIN + patience_s, 11 * MIN) >= 0.95
    assert _back_home(world)


# -- without alternative ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["503", "refused", "silent", "rate_bare"])
def test_a_total_outage_without_alternative_is_not_multiplied(trouble, figures):
    """Upstream requests per client request, at five requests a second for two minutes."""
    world = _outage([Spell(0, 2 * MIN, {trouble: 1.0})], ONE, minutes=2, every_s=0.2)
    all_along, later = _attempts_per_request(world, 0, 2 * MIN), _attempts_per_request(world, MIN, 2 * MIN)
    figures(f"{trouble}: {all_along:.2f}x, in the second minute {later:.2f}x")
    assert all_along <= 1.1
    assert _back_home(world)


@pytest.mark.parametrize("trouble", ["503", "refused", "500"])
def test_a_total_outage_of_both_providers_is_not_multiplied(trouble, figures):
    """At five requests a second for two minutes."""
    world = _steadily(
        _world([Spell(0, 2 * MIN, {trouble: 1.0})], BOTH, betas=[Spell(0, 2 * MIN, {trouble: 1.0})]), until_s=120.0, every_s=0.2
    )
    verify(world)
    all_along, later = _attempts_per_request(world), _attempts_per_request(world, 30.0)
    figures(f"{trouble}: {all_along:.2f}x, after half a minute {later:.2f}x")
    assert all_along <= 1.1
    assert later <= 0.7


def test_two_hundred_callers_in_a_total_outage_are_refused_cleanly(figures):
    """200 at a time for ten seconds, each asking once a second."""
    world = _world([Spell(0, MIN, {"503": 1.0})], BOTH, betas=[Spell(0, MIN, {"503": 1.0})])
    world.run([chat(f"c{number}", number / 200, stream=number % 2 == 0) for number in range(2000)])
    verify(world)
    all_along, later = _attempts_per_request(world), _attempts_per_request(world, 5.0)
    figures(f"{all_along:.2f}x, after five seconds {later:.2f}x")
    assert all_along <= 1.1
    assert all("x-should-retry" in client.fields or client.record.reason == "retry_budget" for client in world.clients.values())


def test_a_provider_that_fails_more_when_asked_more_recovers_with_us_and_not_with_naive_retries(figures):
    """It bears five requests a second and crashes beyond five and a half; four and a half are offered; 20 s of outage begin it."""
    crash = [Spell(10.0, 30.0, {"502": 1.0})]
    ours = _steadily(_world(crash, ONE, base_per_s=5.0), until_s=300.0, every_s=1 / 4.5)
    verify(ours)
    naive = _bare(_world(crash, ONE, base_per_s=5.0))
    naive.follow_up = at_once
    _steadily(naive, until_s=300.0, every_s=1 / 4.5)
    with_us, without = success(ours, 240.0), success(naive, 240.0)
    figures(f"in the last minute {with_us:.0%} served with us, {without:.0%} with three immediate retries")
    assert with_us >= 0.99
    assert without <= 0.5


@pytest.mark.parametrize("trouble", ["503", "500", "refused"])
def test_half_of_the_only_provider_is_no_worse_with_us_than_without(trouble, figures):
    """Clients that retry twice, as the official SDKs do, at five requests a second for two minutes; the same ones without us."""
    ours, bare = _world([Spell(0, MIN * 9, {trouble: 0.5})], ONE), _bare(_world([Spell(0, MIN * 9, {trouble: 0.5})], ONE))
    for world in (ours, bare):
        world.follow_up = like_an_sdk(1)
        _steadily(world, until_s=120.0, every_s=0.2)
    verify(ours)
    with_us, without = success(ours), success(bare)
    ours_x, bare_x = (len(world.visits) / (120.0 / 0.2) for world in (ours, bare))
    figures(f"{trouble}: {with_us:.1%} served with us by {ours_x:.2f} attempts each, {without:.1%} by {bare_x:.2f} without")
    assert with_us >= without


def _bare(world: World) -> World:
    """Take the gateway away."""
    world.door = Bare(world.desk, world.providers["alpha"])
    world.providers["alpha"].keys = ()
    return world


@pytest.fixture
def figures(capsys):
    """Print a figure to watch, whatever pytest does with output."""

    def say(text: str) -> None:
        with capsys.disabled():
            print(f" {text}", end="")  # noqa: T201 - a figure to watch

    return say
