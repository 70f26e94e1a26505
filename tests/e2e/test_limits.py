"""Rate limits as apps, clients and operators meet them: nobody is refused who could have waited, and nobody waits for another's flood.

The law here: the simulated provider has a true token bucket of its own, and its ledger says how often that was overrun; what the app
saw is told by its SDK and by the access log. No bound is on how long anything takes: waits are compared with each other, and where a
limit is to be met its rate is so low that it is met however slow the machine is.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any

import openai
import pytest

from gateway.drill import refusals
from gateway.drill.faults import RateLimit
from gateway.drill.provider import SimulatedProvider
from tests.e2e.crowd import App, show
from tests.e2e.process import Gateway, run
from tests.e2e.shapes import MODEL, PROMPT, account, ask, config

BURST = 60
PER_S, LEFT = 10, 10
LIMIT = RateLimit(requests=60 * PER_S)
"""By the minute, as OpenAI states its limits."""
SHORT = RateLimit(requests=60 * PER_S, burst=LEFT / (60 * PER_S))
"""As fast, with less room."""
QUOTA = {"requests": {"rate": f"{PER_S}/s", "burst": LEFT}}
"""The same in the configuration's words."""
RARE = 0.05
"""So many of all attempts may overrun a limit that is known: two clocks, and connections that overtake each other."""


async def at_once(client: openai.AsyncOpenAI, count: int, **more: Any) -> list[Any]:
    """So many calls at the same moment; the exceptions of those that failed stand in the list."""
    calls = [client.chat.completions.with_raw_response.create(**ask(**more)) for _ in range(count)]
    return await asyncio.gather(*calls, return_exceptions=True)


def failures(answers: Sequence[Any]) -> list[Any]:
    return [answer for answer in answers if isinstance(answer, BaseException)]


def served_by(answers: Sequence[Any]) -> Counter[str]:
    return Counter(answer.headers["x-gateway-provider"] for answer in answers)


def overruns(provider: SimulatedProvider) -> int:
    return len(provider.ledger.select(status=429))


async def status_of(gateway: Gateway) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((await gateway.admin("/status.json"))[1])
    return document


async def limits_at(gateway: Gateway, source: str) -> dict[str, dict[str, Any]]:
    """What the first provider's first key is known to be let through, by resource."""
    (gate,) = [gate for gate in (await status_of(gateway))["providers"][0]["limits"] if gate["model"]]
    return {limit["resource"]: limit for limit in gate["keys"][0]["limits"] if limit["source"] == source}


@pytest.fixture
def mute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the simulated providers keep their limits to themselves: no header states them."""
    monkeypatch.setattr(refusals, "meter_lines", lambda _meters, _azure: [])


# -- pacing -------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_burst_beyond_a_limit_that_the_provider_states_is_answered_without_a_429(
    start: Any, serve: Any, sdk: Any, capsys: Any
) -> None:
    primary = await start("primary")
    primary.faults.set(LIMIT)
    gateway = await serve(config(primary))
    await used_up(primary, LEFT)
    client = sdk(gateway, max_retries=2)
    await client.chat.completions.create(**ask())
    answers = await at_once(client, BURST)
    await all_unseen(gateway, primary, answers, 1 + BURST, capsys, "stated in headers")


async def used_up(provider: SimulatedProvider, left: int) -> None:
    """Somebody else has used this account's minute, but for so many requests."""
    async with App(provider.url) as other:
        for _ in range(PER_S):
            await asyncio.gather(*(other.ask() for _ in range(60 - left // PER_S)))
    assert overruns(provider) == 0
    provider.ledger.clear()


@pytest.mark.slow
@pytest.mark.usefixtures("mute")
async def test_a_burst_beyond_a_configured_quota_is_answered_without_a_429(start: Any, serve: Any, sdk: Any, capsys: Any) -> None:
    primary = await start("primary")
    primary.faults.set(SHORT)
    gateway = await serve(config(primary, provider_defaults={"quota": QUOTA}))
    answers = await at_once(sdk(gateway, max_retries=2), BURST)
    await all_unseen(gateway, primary, answers, BURST, capsys, "configured only")


async def all_unseen(gateway: Gateway, primary: SimulatedProvider, answers: list[Any], calls: int, capsys: Any, how: str) -> None:
    """Everybody was answered at the first asking, and the provider hardly ever had to say no."""
    show(
        capsys,
        f"burst of {BURST} at {PER_S}/s, {how}: {BURST - len(failures(answers))} answered, {overruns(primary)} refused upstream",
    )
    assert failures(answers) == []
    assert {answer.headers["x-gateway-provider"] for answer in answers} == {"primary"}
    lines = await gateway.access(calls)
    assert len(lines) == calls
    assert {line["status"] for line in lines} == {200}
    assert overruns(primary) <= RARE * calls
    # It is a burst only if most of it had to wait.
    assert sum(bool(line["queue_ms"]) for line in lines) > BURST // 2
    assert await gateway.metric("gateway_upstream_responses_total", provider="primary", code="429") == overruns(primary)


async def test_the_same_burst_without_a_gateway_bounces(start: Any, capsys: Any) -> None:
    primary = await start("primary")
    primary.faults.set(SHORT)
    async with openai.AsyncOpenAI(base_url=primary.url, api_key="sk-client", max_retries=2) as client:
        answers = await at_once(client, BURST)
    show(
        capsys,
        f"burst of {BURST} at {PER_S}/s, the SDK alone: {BURST - len(failures(answers))} answered, {overruns(primary)} refused",
    )
    assert overruns(primary) > BURST // 2


# -- clients ------------------------------------------------------------------------------------------------------------------


async def fresh_client(name: str) -> tuple[str, str]:
    """What `gateway key new` hands out: the key, and the line for the file as it was printed."""
    status, out, err = await run("key", "new", "--name", name)
    assert (status, err) == (0, "")
    key, digest, line = out.splitlines()
    assert key.startswith("key:")
    assert digest.startswith("hash:")
    assert digest.split()[1] in line
    return key.split()[1], line


def file_of(provider: SimulatedProvider, *clients: str) -> str:
    """A configuration as somebody types it."""
    return "\n".join(
        (
            "server: {listen: 127.0.0.1:{port}}",
            "admin: {listen: 127.0.0.1:{admin_port}}",
            f"providers: {{primary: {json.dumps(account(provider))}}}",
            "clients:",
            *clients,
        )
    )


async def test_a_fresh_key_lets_its_client_in_and_nobody_else(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary", keep_bodies=True)
    key, line = await fresh_client("search-team")
    other, _ = await fresh_client("search-team")
    gateway = await serve(file_of(primary, line))
    client = sdk(gateway, api_key=key)
    answer = await client.chat.completions.create(**ask(extra_headers={"x-gateway-priority": "batch"}))
    assert answer.choices[0].message.content == primary.voice.text(PROMPT)
    assert [model.id async for model in await client.models.list()]
    assert [entry.header("x-gateway-priority") for entry in primary.ledger] == [None, None]
    for stranger in (other, key[:-1], key.upper(), line.split('"')[-2]):
        with pytest.raises(openai.AuthenticationError) as caught:
            await sdk(gateway, api_key=stranger).chat.completions.create(**ask())
        assert caught.value.code == "unknown_client"
        assert stranger not in caught.value.response.text
    lines = await gateway.access(6)
    assert [(line["client"], line["status"], line["priority"]) for line in lines[:2]] == [
        ("search-team", 200, "batch"),
        ("search-team", 200, "standard"),
    ]
    assert [(line["client"], line["status"]) for line in lines[2:]] == [("", 401)] * 4
    assert await gateway.metric("gateway_requests_total", reason="unknown_client") == 4
    said = gateway.process.out.text + gateway.process.err.text + (await gateway.admin("/status.json"))[1]
    assert key not in said
    assert len(primary.ledger) == 2


async def test_a_clients_own_limit_is_told_in_words_that_its_sdk_understands(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary")
    key, line = await fresh_client("nightly")
    gateway = await serve(file_of(primary, f"{line[:-1]}, limits: {{requests: {{rate: 2/min, burst: 2}}}}}}"))
    client = sdk(gateway, api_key=key)
    # What the account says of itself is not for the client, that has limits of its own.
    primary.faults.set(RateLimit(requests=5000))
    let_in = [await client.chat.completions.with_raw_response.create(**ask()) for _ in range(2)]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in let_in] == ["1", "0"]
    assert {answer.headers["x-ratelimit-limit-requests"] for answer in let_in} == {"2"}
    with pytest.raises(openai.RateLimitError) as caught:
        await client.chat.completions.create(**ask())
    headers = caught.value.response.headers
    assert (caught.value.code, headers["x-gateway-reason"]) == ("client_limit", "client_limit")
    assert headers["content-type"] == "application/json"
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("2", "0")
    assert headers["x-ratelimit-reset-requests"].endswith("s")
    assert headers["x-should-retry"] == "true"
    assert 1 <= int(headers["retry-after"]) <= 34
    assert 1000 * (int(headers["retry-after"]) - 1) <= int(headers["retry-after-ms"]) <= 1000 * int(headers["retry-after"])
    assert len(primary.ledger) == 2
    assert (await gateway.access(3))[2]["reason"] == "client_limit"
    assert await gateway.metric("gateway_requests_total", client="nightly", outcome="refused", reason="client_limit") == 1
    assert await gateway.metric("gateway_error_responses_total", client="nightly", code="429") == 1


async def test_an_sdk_that_waits_as_advised_gets_in(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary")
    key, line = await fresh_client("nightly")
    gateway = await serve(file_of(primary, f"{line[:-1]}, limits: {{requests: {{rate: 60/min, burst: 1}}}}}}"))
    client = sdk(gateway, api_key=key, max_retries=2)
    for _ in range(2):
        await client.chat.completions.create(**ask())
    # One wait is enough: the advice was right.
    assert [(line["status"], line["reason"]) for line in await gateway.access(3)] == [
        (200, "none"),
        (429, "client_limit"),
        (200, "none"),
    ]
    assert len(primary.ledger) == 2


async def test_a_client_has_so_many_requests_under_way_and_no_more(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary", tokens=600, token_delay_s=0.05)
    key, line = await fresh_client("few")
    gateway = await serve(file_of(primary, f"{line[:-1]}, limits: {{concurrent: 2}}}}"))
    client = sdk(gateway, api_key=key)
    streams = [await client.chat.completions.create(**ask(stream=True)) for _ in range(2)]
    with pytest.raises(openai.RateLimitError) as caught:
        await client.chat.completions.create(**ask())
    assert caught.value.code == "client_limit"
    assert int(caught.value.response.headers["retry-after"]) <= 2
    primary.token_delay_s = 0.0
    for stream in streams:
        async for _ in stream:
            pass
    await gateway.until_metric("gateway_inflight_requests", lambda value: value == 0)
    assert failures(await at_once(client, 2)) == []


async def test_a_flood_waits_behind_itself(start: Any, serve: Any, sdk: Any, capsys: Any) -> None:
    primary = await start("primary")
    gateway = await serve(
        config(
            primary,
            provider_defaults={"quota": {"requests": {"rate": "30/s", "burst": 2}}},
            clients=[
                {"name": "app", "key": "sk-app", "priority": "interactive"},
                {"name": "nightly", "key": "sk-nightly", "priority": "batch"},
            ],
        )
    )
    app = sdk(gateway, api_key="sk-app")
    flood = asyncio.create_task(at_once(sdk(gateway, api_key="sk-nightly"), BURST))
    await gateway.until_metric("gateway_queue_depth", lambda depth: depth > BURST // 2, priority="batch")
    for _ in range(5):
        await app.chat.completions.create(**ask())
    assert await gateway.metric("gateway_queue_depth", priority="batch") > 0
    assert failures(await flood) == []
    waits: dict[str, list[float]] = {"app": [], "nightly": []}
    for line in await gateway.access(5 + BURST):
        waits[line["client"]].append(line["queue_ms"] or 0.0)
    show(
        capsys,
        f"interactive calls during a batch flood of {BURST} waited {max(waits['app']):.0f} ms at most, the flood {median(waits['nightly']):.0f} ms",
    )
    assert max(waits["app"]) < median(waits["nightly"]) / 2
    assert await gateway.metric("gateway_sheds_total") == 0


# -- elsewhere ----------------------------------------------------------------------------------------------------------------


async def test_what_has_no_room_in_time_goes_to_another_provider(start: Any, serve: Any, sdk: Any) -> None:
    primary, second = await start("primary"), await start("second")
    settings = config(primary, second, policy={"rate_limit_wait": "500ms"})
    settings["providers"]["primary"]["quota"] = {"requests": {"rate": "8/s", "burst": 4}}
    gateway = await serve(settings)
    answers = await at_once(sdk(gateway), 30)
    assert failures(answers) == []
    went = served_by(answers)
    assert set(went) == {"primary", "second"}
    assert went == {"primary": len(primary.ledger), "second": len(second.ledger)}
    lines = await gateway.access(30)
    assert {line["spilled_from"] for line in lines if line["provider"] == "second"} == {"primary"}
    assert {line["attempts"] for line in lines} == {1}
    assert await gateway.metric("gateway_spills_total", route="all", provider="primary") == went["second"]
    assert await gateway.metric("gateway_spills_total") == went["second"]


async def test_a_route_spreads_its_load_as_it_says(start: Any, serve: Any, sdk: Any) -> None:
    quick, slow = await start("quick"), await start("slow", latency=0.1)
    gateway = await serve(
        {
            "providers": {"quick": account(quick), "slow": account(slow)},
            "routes": [
                {
                    "name": "weighted",
                    "match": {"models": ["weighted"]},
                    "targets": [{"provider": "slow", "weight": 3}, {"provider": "quick", "weight": 1}],
                    "balance": "weighted",
                },
                *(
                    {"name": name, "match": {"models": [name]}, "targets": ["slow", "quick"], "balance": name}
                    for name in ("fastest", "least_busy")
                ),
            ],
        }
    )
    client = sdk(gateway)
    went: dict[str, Counter[str]] = {name: Counter() for name in ("weighted", "fastest", "least_busy")}
    for name, turns, width in (("weighted", 3, 40), ("fastest", 20, 1), ("least_busy", 8, 6)):
        for _ in range(turns):
            answers = await at_once(client, width, model=name)
            assert failures(answers) == []
            went[name] += served_by(answers)
    # 90 of 120 on average, by dice: 24 is five standard deviations.
    assert 66 <= went["weighted"]["slow"] <= 114
    assert went["fastest"]["quick"] > went["fastest"]["slow"] > 0
    assert went["least_busy"]["quick"] >= 8 * 6 // 3
    assert went["least_busy"]["slow"] > 0


# -- a reload -----------------------------------------------------------------------------------------------------------------


async def test_a_reload_gives_no_client_more_than_it_had(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary")
    client_of = {"name": "nightly", "key": "sk-nightly", "limits": {"requests": {"rate": "60/h", "burst": 3}, "tokens": "60k/h"}}
    settings = config(primary, clients=[client_of])
    gateway = await serve(settings)
    client = sdk(gateway, api_key="sk-nightly")
    assert failures(await at_once(client, 3)) == []
    before = {limit["resource"]: limit for limit in (await status_of(gateway))["clients"][0]["limits"]}
    assert before["requests"]["remaining"] < 1
    assert before["tokens"]["remaining"] < before["tokens"]["burst"]
    await gateway.reconfigure({**settings, "policies": {"default": {"attempts": 3}}})
    gateway.process.signal(signal.SIGHUP)
    await gateway.until_metric("gateway_config_reloads_total", lambda value: value == 1, result="ok")
    after = {limit["resource"]: limit for limit in (await status_of(gateway))["clients"][0]["limits"]}
    for resource, limit in before.items():
        # An hour's limit gains next to nothing in a test.
        assert limit["remaining"] <= after[resource]["remaining"] < limit["remaining"] + limit["limit"] / 60
    with pytest.raises(openai.RateLimitError):
        await client.chat.completions.create(**ask())
    larger = {**client_of, "limits": {"requests": {"rate": "60/h", "burst": 10}}}
    await gateway.reconfigure({**settings, "clients": [larger]})
    assert (await gateway.admin("/admin/reload", "POST"))[0] == 200
    limits = (await status_of(gateway))["clients"][0]["limits"]
    assert [(limit["resource"], limit["burst"]) for limit in limits] == [("requests", 10)]
    assert limits[0]["remaining"] < 2


async def test_a_reload_keeps_what_the_provider_stated(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary")
    primary.faults.set(RateLimit(requests=100, tokens=100_000, period_s=3600.0))
    settings = config(primary)
    gateway = await serve(settings)
    assert failures(await at_once(sdk(gateway), 20)) == []
    before = await limits_at(gateway, "header")
    assert set(before) == {"requests", "tokens"}
    assert (before["requests"]["limit"], before["tokens"]["limit"]) == (100, 100_000)
    assert 79 <= before["requests"]["remaining"] < 82
    await gateway.reconfigure({**settings, "policies": {"default": {"attempts": 3}}})
    gateway.process.signal(signal.SIGHUP)
    await gateway.until_metric("gateway_config_reloads_total", lambda value: value == 1, result="ok")
    after = await limits_at(gateway, "header")
    for resource, limit in before.items():
        assert after[resource]["limit"] == limit["limit"]
        assert limit["remaining"] <= after[resource]["remaining"] < limit["remaining"] + limit["limit"] / 60


@pytest.mark.usefixtures("mute")
async def test_a_reload_keeps_what_refusals_taught(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary")
    settings = {"providers": {"primary": account(primary, dialect="azure", base_url=primary.origin)}}
    gateway = await serve(settings)
    primary.faults.set(RateLimit(requests=PER_S, period_s=1.0))
    assert failures(await at_once(sdk(gateway, max_retries=2), 20)) == []
    assert overruns(primary) > 0
    before = await limits_at(gateway, "learned")
    assert before
    await gateway.reconfigure({**settings, "policies": {"default": {"attempts": 3}}})
    assert (await gateway.admin("/admin/reload", "POST"))[0] == 200
    after = await limits_at(gateway, "learned")
    assert set(after) == set(before)


# -- what shows ---------------------------------------------------------------------------------------------------------------


async def test_operators_see_limits_and_queues(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary")
    primary.faults.set(RateLimit(tokens=1_000_000))
    settings = config(primary, provider_defaults={"quota": {"requests": {"rate": "600/min", "burst": 3}, "concurrent": 50}})
    settings["routes"][0]["match"] = {"models": [MODEL]}
    gateway = await serve(settings)
    labels = {"provider": "primary", "model": MODEL}
    assert await gateway.metric("gateway_quota_limit", **labels) == 0
    waiting = asyncio.create_task(at_once(sdk(gateway), 15))
    await gateway.until_metric("gateway_queue_depth", lambda depth: depth > 5, **labels, priority="standard")
    (gate,) = [gate for gate in (await status_of(gateway))["providers"][0]["limits"] if gate["model"]]
    assert gate["queue"]["standard"] > 0
    assert failures(await waiting) == []
    queued = [line["queue_ms"] / 1000 for line in await gateway.access(15) if line["queue_ms"]]
    assert len(queued) >= 10
    page = (await gateway.admin("/metrics"))[1]
    assert "gateway_queue_wait_seconds_bucket" in page
    assert await gateway.metric("gateway_queue_wait_seconds_count", **labels, priority="standard") == len(queued)
    assert await gateway.metric("gateway_throttle_seconds_total", provider="primary") == pytest.approx(sum(queued), abs=0.1)
    assert await gateway.metric("gateway_quota_limit", **labels, resource="requests", source="configured") == 10
    assert await gateway.metric("gateway_quota_burst", **labels, resource="requests", source="configured") == 3
    assert await gateway.metric("gateway_quota_remaining", **labels, resource="requests", source="configured") <= 3
    assert await gateway.metric("gateway_quota_remaining", **labels, resource="concurrent", source="configured") == 50
    assert await gateway.metric("gateway_quota_limit", **labels, resource="tokens", source="header") == pytest.approx(1e6 / 60)
    assert await gateway.metric("gateway_queue_depth", **labels) == 0
    (gate,) = [gate for gate in (await status_of(gateway))["providers"][0]["limits"] if gate["model"]]
    kinds = {(limit["resource"], limit["source"]) for limit in gate["keys"][0]["limits"]}
    assert kinds == {("requests", "configured"), ("concurrent", "configured"), ("tokens", "header")}
    assert (gate["queue"]["standard"], gate["keys"][0]["inflight"]) == (0, 0)


# -- leaving ------------------------------------------------------------------------------------------------------------------


async def test_whoever_waits_when_the_gateway_leaves_is_told_to_come_back(start: Any, serve: Any) -> None:
    primary = await start("primary")
    settings = config(primary, provider_defaults={"quota": {"requests": {"rate": "10/min", "burst": 1}}, "queue": {"wait": "60s"}})
    gateway = await serve({**settings, "server": {"drain": {"delay": "0s", "timeout": "500ms"}}})
    async with App(gateway.url) as app:
        waiting = [asyncio.create_task(app.ask()) for _ in range(4)]
        await gateway.until_metric("gateway_queue_depth", lambda depth: depth == 3)
        gateway.process.signal(signal.SIGTERM)
        told = [await one for one in waiting]
    assert sorted((one.status, one.reason) for one in told) == [(200, "")] + [(503, "draining")] * 3
    assert all(one.worth_retrying for one in told if one.status != 200)
    assert await gateway.process.ended() == 0
    assert len(primary.ledger) == 1
