"""Every panel of the dashboard shows something when a real Prometheus scrapes a real gateway on a bad day."""

from __future__ import annotations

import asyncio
import importlib.util
import math
import os
import signal
from typing import Any

import openai
import pytest

from gateway.drill.faults import Cut, Latency, Status
from tests.e2e import prometheus
from tests.e2e.process import PATIENCE_S, ROOT
from tests.e2e.shapes import account, ask, config
from tests.e2e.test_failover import App

QUIET_AT_ZERO = {"Dropped log lines"}
"""Panels whose good news is a line at zero."""
SCRAPES = 4
RACING = {"hedge": {"after": "1s", "budget": "10%"}, "stream": {"hold": "1ms"}}
"""Only routes that hedge or hold streams back have samples of it."""


@pytest.fixture
def binary() -> str:
    found = prometheus.find()
    if found is None:
        message = "no prometheus: install the Debian package of that name, or set PROMETHEUS_BIN"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found


@pytest.fixture
def queries() -> list[tuple[str, str]]:
    spec = importlib.util.spec_from_file_location("grafana_generate", ROOT / "config" / "grafana" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    return generate.queries(generate.dashboard(), "1m")


@pytest.mark.slow
async def test_every_panel_has_data_after_an_outage(binary: str, queries: Any, start: Any, serve: Any, sdk: Any) -> None:
    primary, second = await start("primary", latency=0.01), await start("second", latency=0.01)
    breaker = {"consecutive": 3, "min_requests": 5, "open": "1s", "max_open": "1s", "ramp": "1s"}
    tight = await start("tight", latency=0.01)
    gateway = await serve(with_a_tight_one(config(primary, second, policy=RACING, provider_defaults={"breaker": breaker}), tight))
    client = sdk(gateway)
    async with prometheus.running(f"127.0.0.1:{gateway.admin_port}", binary=binary) as server:
        await server.until('up{job="gateway"} == 1')
        await scrapes(server)
        async with App(client, {"primary": primary.voice, "second": second.voice}, workers=4) as app:
            await app.more(40, of="primary")
            primary.faults.set(Status(502))
            await gateway.until_metric("gateway_breaker_transitions_total", lambda value: value > 0, to="open")
            await app.more(20, of="second")
            primary.faults.set(Cut(after_bytes=200, how="close"))
            await gateway.until_metric("gateway_streams_broken_total", lambda value: value > 0)
            primary.faults.clear()
            await app.more(40, of="primary")
            primary.faults.set(Latency(3.0))
            await gateway.until_metric("gateway_hedges_total", lambda value: value > 0, result="won")
            primary.faults.clear()
        assert app.surprises == []
        for _ in range(3):
            with pytest.raises(openai.BadRequestError):
                await client.post("/chat/completions", cast_to=object, body={"model": "gpt-4o"})
        await crowd(client)
        gateway.process.signal(signal.SIGHUP)
        await gateway.process.err.saying("reloaded")
        stream = await sdk(gateway).chat.completions.create(**ask(stream=True))
        await stream.close()
        await scrapes(server)
        empty, zero = [], []
        for title, expr in queries:
            values = [float(sample["value"][1]) for sample in await server.query(expr)]
            if not [value for value in values if not math.isnan(value)]:
                empty.append((title, expr))
            elif title not in QUIET_AT_ZERO and not any(values):
                zero.append(title)
        assert empty == []
        assert len(queries) > 30
        # Data means more than a series: what happened today is to be seen.
        happened = {
            "Requests by outcome",
            "Saved requests by means",
            "Failed attempts by provider and verdict",
            "Broken answers",
            "Breaker transitions",
            "Hedges by result",
            "Wasted tokens, estimated",
            "Queue wait by priority",
            "Limits by source: what is left",
            "Limits by source: what is allowed",
            "Seconds waited for limits, per second",
            "Spills",
            "Sheds by reason",
            "Client-side throttle",
            "Token estimates by reported tokens",
            "Error answers by code",
            "Tokens",
            "Configuration reloads",
        }
        assert happened & set(zero) == set()
        requests = await gateway.metric("gateway_requests_total")
        assert await value(server, "sum(gateway_requests_total)") == requests
        rate = await value(server, "sum(increase(gateway_requests_total[1m]))")
        assert requests * 0.5 < rate < requests * 2


def with_a_tight_one(settings: dict[str, Any], tight: Any) -> dict[str, Any]:
    """Add a provider that takes four requests a second and lets two wait, behind two routes of its own."""
    quota = {"requests": {"rate": "4/s", "burst": 1}, "tokens": "10M/min", "concurrent": 50}
    paced = [
        {"name": "paced", "match": {"models": ["paced"]}, "targets": ["tight"]},
        {"name": "spilling", "match": {"models": ["spilling"]}, "targets": [{"provider": "tight", "model": "paced"}, "second"]},
    ]
    settings["providers"]["tight"] = account(tight, quota=quota, queue={"depth": 2})
    return {**settings, "routes": [*paced, *settings["routes"]]}


async def crowd(client: Any) -> None:
    """More at once than the tight one takes: one is served, two wait, the others are refused; and where another can, it serves."""
    asked = [client.chat.completions.create(**ask(model="paced")) for _ in range(6)]
    told = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(isinstance(each, openai.RateLimitError) for each in told) == 3
    assert sum(isinstance(each, BaseException) for each in told) == 3
    await asyncio.gather(*[client.chat.completions.create(**ask(model="spilling")) for _ in range(4)])


async def scrapes(server: prometheus.Prometheus, count: int = SCRAPES) -> None:
    """Wait until Prometheus has looked so many more times: `rate` wants two samples on each side of what happened."""
    asked = 'sum(count_over_time(up{job="gateway"}[5m]))'
    until = await value(server, asked) + count
    async with asyncio.timeout(PATIENCE_S):
        await server.until(f"{asked} >= {until}", PATIENCE_S)


async def value(server: prometheus.Prometheus, expr: str) -> float:
    (sample,) = await server.query(expr)
    return float(sample["value"][1])
