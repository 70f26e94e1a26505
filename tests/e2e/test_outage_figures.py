"""What an outage costs with the gateway in between: figures, taken on real sockets and printed, each with the bound it must keep."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from gateway.drill.faults import LoadSensitive, Mix, Status
from gateway.drill.plan import Step
from gateway.drill.provider import SimulatedProvider
from gateway.drill.script import Script
from tests.e2e.crowd import App, Told, p50_ms, per_second, show
from tests.e2e.shapes import account, config

RETRY_TRUE = {"breakers_open", "throttled", "rate_limited", "credentials_benched", "draining"}
"""Refusals that know when to come back."""
RETRY_FALSE = {"attempts_exhausted", "deadline"}
"""Our attempts or time are spent. For `retry_budget` the SDK's own retry is not forbidden: it was not made on its behalf."""


async def test_a_primary_that_refuses_connections_costs_next_to_nothing(start: Any, serve: Any, capsys: Any) -> None:
    primary, second = await start("primary"), await start("second")
    gateway = await serve(
        {
            "providers": {"primary": account(primary), "second": account(second)},
            "routes": [
                {"name": "pair", "match": {"models": ["pair"]}, "targets": ["primary", "second"]},
                {"name": "alone", "match": {"models": ["alone"]}, "targets": ["second"]},
            ],
        }
    )
    async with App(gateway.url) as app:
        for _ in range(5):
            assert (await app.ask(model="pair")).said_by(primary.voice)
            assert (await app.ask(model="alone")).said_by(second.voice)
        await primary.refuse()
        pair, alone = [], []
        for _ in range(200):
            pair.append(await app.ask(model="pair"))
            alone.append(await app.ask(model="alone"))
    assert [told for told in pair if not told.said_by(second.voice)] == []
    learning = [told for told in pair if told.attempts > 1]
    opened = pair.index(learning[-1]) + 1
    added_ms = p50_ms(pair[opened:]) - p50_ms(alone[opened:])
    show(
        capsys,
        f"primary refuses connections: 200 of 200 answered; open after {opened} calls of {p50_ms(learning):.1f} ms; "
        f"then added p50 {added_ms:+.2f} ms ({p50_ms(pair[opened:]):.2f} against {p50_ms(alone[opened:]):.2f})",
    )
    assert opened <= 50
    assert max(told.attempts for told in learning) <= 3
    assert all(told.trail == ["second:ok"] for told in pair[opened:])
    assert added_ms < 5
    assert await gateway.metric("gateway_breaker_transitions_total", provider="primary", family="", to="open") == 1
    assert await gateway.metric("gateway_requests_total", route="pair", outcome="ok") == 205


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "weather_s"), [(1, 0), (2, 2)], ids=["one provider from the start", "two providers after good weather"]
)
async def test_a_total_outage_is_not_multiplied(start: Any, serve: Any, capsys: Any, count: int, weather_s: int) -> None:
    providers = [await start(name) for name in ("primary", "second")[:count]]
    # No delays of its own in the policy: this is what a user gets who wrote nothing about it.
    gateway = await serve(config(*providers, policies={}))
    seconds = 10
    for provider in providers:
        provider.faults.play([Step(Status(503), weather_s)])
    began_s = asyncio.get_running_loop().time() + weather_s
    async with App(gateway.url, pace=0.05) as app:
        await app.crowd(200, weather_s + seconds, pause_s=0.25)
    arrivals = [began_s_of(provider) + entry.arrived_s for provider in providers for entry in provider.ledger]
    offered = per_second((told.at_s for told in app.told), began_s, seconds)
    attempts = per_second(arrivals, began_s, seconds)
    refused = [told for told in app.told if told.status != 200]
    reasons = Counter(told.reason for told in refused)
    show(
        capsys,
        f"{count} provider(s) answer 503 {f'after {weather_s} s of good weather' if weather_s else 'from the start'}, 200 callers: "
        f"{sum(offered)} requests, {sum(attempts)} attempts: x{sum(attempts) / sum(offered):.3f}; "
        f"p50 {p50_ms(refused):.0f} ms; {dict(reasons)}\n"
        f"    requests a second {offered}\n    attempts a second {attempts}",
    )
    assert [complaint for told in refused if (complaint := unclean(told))] == []
    assert sum(offered) > 200 * seconds / 2
    assert sum(attempts) <= 1.1 * sum(offered)
    assert sum(attempts[5:]) <= 0.25 * sum(offered[5:])
    assert sum(attempts[5:]) > 0, "nobody would notice that it is over"
    assert await gateway.metric("gateway_attempts_total") == len(arrivals)
    assert await gateway.metric("gateway_requests_total") == len(app.told)
    assert await gateway.metric("gateway_requests_total", outcome="ok") == len(app.told) - len(refused)
    lines = await gateway.access(len(app.told))
    assert sum(line["attempts"] for line in lines) == len(arrivals)
    assert Counter(line["reason"] for line in lines if line["status"] != 200) == reasons


def began_s_of(provider: SimulatedProvider) -> float:
    """The loop's time at which a provider's clock started."""
    return asyncio.get_running_loop().time() - provider.now()


def unclean(told: Told) -> str:
    """What is wrong with an answer that must be a clean error with advice; empty if nothing is."""
    advice = (told.headers.get("x-should-retry"), told.headers.get("retry-after"), told.headers.get("retry-after-ms"))
    try:
        error = told.error
    except (AssertionError, KeyError, ValueError) as wrong:
        return f"{told.status} {wrong!r}"
    if told.status != 503 or not error["message"]:
        return f"{told.status} {error}"
    if told.reason in RETRY_TRUE and (advice[0] != "true" or None in advice):
        return f"{told.reason}: no word when to come back: {advice}"
    # What was a retry already is tried once by us, and not forbidden its next: the SDK counts for itself.
    if told.reason in RETRY_FALSE and advice[0] != (None if told.retry else "false"):
        return f"{told.reason}: {advice}"
    if advice[1] is not None and not (advice[1].isdigit() and 1 <= int(advice[1]) <= 60):
        return f"retry-after: {advice[1]}"
    if advice[2] is not None and not (advice[2].isdigit() and 0 < int(advice[2]) <= 60_000):
        return f"retry-after-ms: {advice[2]}"
    return "" if told.reason in RETRY_TRUE | RETRY_FALSE | {"retry_budget"} else f"reason {told.reason!r}"


OUTAGE_S = 60
SPACING_S = 2.0
CALM_S = 4
BACK_WITHIN_S = 30


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_an_outage_of_a_minute_is_not_noticed_and_soon_over(start: Any, serve: Any, capsys: Any) -> None:
    primary, second = await start("primary"), await start("second")
    gateway = await serve(config(primary, second, policies={}))
    loop = asyncio.get_running_loop()
    half = CALM_S + OUTAGE_S // 2
    ending = CALM_S + OUTAGE_S
    script = {
        "steps": [
            {"from": f"{CALM_S}s", "to": f"{half}s", "fault": {"kind": "status", "status": 503}},
            {"from": f"{half}s", "to": f"{ending}s", "fault": {"kind": "refuse"}},
        ]
    }
    began_s = loop.time()
    primary.play(Script.of(script))
    async with App(gateway.url) as app:
        for turn in range(round((ending + BACK_WITHIN_S) / SPACING_S) + 1):
            await asyncio.sleep(max(0.0, began_s + turn * SPACING_S - loop.time()))
            await app.ask(stream=turn % 2 == 1)
            if loop.time() - began_s > ending and app.told[-1].provider == "primary":
                break
    recovered_s = began_s + ending
    voices = {"primary": primary.voice, "second": second.voice}
    assert [told for told in app.told if not told.said_by(voices[told.provider])] == []
    back = [told.at_s - recovered_s for told in app.told if told.provider == "primary" and told.at_s > recovered_s]
    during = [told for told in app.told if CALM_S < told.at_s - began_s < ending]
    tried = sum(step.startswith("primary:") for told in during for step in told.trail)
    show(
        capsys,
        f"outage of {OUTAGE_S} s, a request every {SPACING_S:.0f} s: {len(app.told)} of {len(app.told)} answered, slowest "
        f"{1000 * max(told.took_s for told in during):.0f} ms; {tried} attempts at the primary meanwhile; "
        f"back on it {f'{back[0]:.1f} s' if back else 'not at all'} after its recovery",
    )
    assert len(during) >= 29
    assert all(told.provider == "second" for told in during)
    assert back
    assert back[0] <= BACK_WITHIN_S
    assert tried <= len(during) // 2


BASE_PER_S = 40
OFFERED_PER_S = 34
LOAD_WINDOW_S = 2.0
"""Long enough that a busy machine's hiccup of a third of a second is no overload."""
HEALTHY_S = 2.0
KICK_S = 5.0
RECOVERY_S = 9.0
BUDGET_CAP = 10
"""What good weather may have saved up in a retry budget."""
GOOD_S = 2.0
"""Every call of so many seconds was answered: that is a recovery."""


@pytest.mark.slow
async def test_a_provider_that_fails_more_when_asked_more_recovers_with_us_only(start: Any, serve: Any, capsys: Any) -> None:
    # The same provider three times, with the same dice, at 85 % of what it can bear, until something kicks it.
    quiet, eager, alone = [await start(name) for name in ("quiet", "eager", "alone")]
    gateway = await serve(
        {
            "providers": {"quiet": account(quiet), "eager": account(eager)},
            "routes": [{"name": name, "match": {"models": [name]}, "targets": [name]} for name in ("quiet", "eager")],
        }
    )
    overload = Mix((Status(503), Status(502)), (0.5, 0.5))
    loop = asyncio.get_running_loop()
    async with (
        App(gateway.url, retries=0) as once,
        # Hand-made retries: three, at once, and the provider never learns that they are some.
        App(gateway.url, retries=3, pace=0.0, counts=False) as naive,
        App(alone.url, retries=3, pace=0.0, counts=False) as without,
    ):
        lanes = {
            "with us": Lane(once, quiet),
            "with us, and naive retries": Lane(naive, eager),
            "naive retries": Lane(without, alone),
        }
        for lane in lanes.values():
            weak = LoadSensitive(overload, base_per_s=BASE_PER_S, factor=1.0, window_s=LOAD_WINDOW_S)
            lane.provider.faults.play([Step(weak), Step(Status(503), HEALTHY_S, HEALTHY_S + KICK_S)])
        over_s = loop.time() + HEALTHY_S + KICK_S
        until_s = over_s + RECOVERY_S + GOOD_S
        await asyncio.gather(*(lane.offer(OFFERED_PER_S, until_s) for lane in lanes.values()))
    for name, lane in lanes.items():
        after_s = lane.recovered(until_s)
        show(
            capsys,
            f"load-sensitive provider ({BASE_PER_S}/s, offered {OFFERED_PER_S}/s) after {KICK_S:.0f} s of failures; {name}: "
            + (f"recovered after {after_s - over_s:.1f} s" if after_s is not None else f"not recovered after {RECOVERY_S:.0f} s")
            + f"\n    answers a second  {per_second(lane.answered, over_s - KICK_S, round(until_s - over_s + KICK_S))}"
            + f"\n    attempts a second {per_second(lane.asked(), over_s - KICK_S, round(until_s - over_s + KICK_S))}",
        )
    recovered = {name: lane.recovered(until_s) is not None for name, lane in lanes.items()}
    assert recovered == {"with us": True, "with us, and naive retries": True, "naive retries": False}
    # The kick is a total outage like any other, only that it comes after good weather.
    for lane in (lanes["with us"], lanes["with us, and naive retries"]):
        offered, asked = ([at_s for at_s in times if over_s - KICK_S <= at_s < over_s] for times in (lane.offered(), lane.asked()))
        assert len(asked) <= 1.1 * len(offered) + BUDGET_CAP
    assert await gateway.metric("gateway_attempts_total") == len(quiet.ledger) + len(eager.ledger)


class Lane:
    """One app before one provider, asking at a steady rate whatever becomes of it."""

    def __init__(self, app: App, provider: SimulatedProvider) -> None:
        self.app = app
        self.provider = provider
        self.answered: list[float] = []
        self.good_since: float | None = None
        """From when on every call that ended was answered."""

    async def offer(self, per_s: float, until_s: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        async with asyncio.TaskGroup() as calls:
            while due < until_s:
                calls.create_task(self._call())
                # What a hiccup has missed is not made up for: that would be more than the rate.
                due = max(due + 1 / per_s, loop.time())
                await asyncio.sleep(due - loop.time())

    async def _call(self) -> None:
        told = await self.app.insist(model=self.provider.name)
        now = asyncio.get_running_loop().time()
        if not told.said_by(self.provider.voice):
            self.good_since = None
            return
        self.answered.append(now)
        if self.good_since is None:
            self.good_since = now

    def recovered(self, until_s: float) -> float | None:
        """When it began to go well for good; None where it does not, or not for long enough."""
        return self.good_since if self.good_since is not None and until_s - self.good_since >= GOOD_S else None

    def offered(self) -> list[float]:
        """When the app asked, in the loop's time; its own retries included."""
        return [told.at_s for told in self.app.told]

    def asked(self) -> list[float]:
        """When the provider was asked, in the loop's time."""
        origin_s = began_s_of(self.provider)
        return [origin_s + entry.arrived_s for entry in self.provider.ledger]
