"""A configuration changes under traffic and a process leaves under traffic, and no client can tell."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import Any

import httpx2
import openai
import pytest

from gateway.drill.faults import Stall, Status
from gateway.drill.ledger import End
from tests.drill.peers import RawPeer
from tests.e2e.process import PATIENCE_S, POLL_S, Gateway
from tests.e2e.shapes import PROMPT, ask, config, said, until_error
from tests.e2e.test_failover import App

ENDLESS = {"tokens": 600, "token_delay_s": 0.05}
"""Thirty seconds of stream; `token_delay_s = 0` ends it at once."""
BROKEN = "providers: {primary: {dialect: openai, base_url: 12, api_kee: x}}\n"


async def dial(gateway: Gateway) -> RawPeer:
    return RawPeer(*await asyncio.open_connection("127.0.0.1", gateway.port))


async def until_refused(gateway: Gateway) -> None:
    """Wait until nobody listens any more."""
    for _ in range(round(PATIENCE_S / POLL_S)):
        try:
            peer = await dial(gateway)
        except ConnectionRefusedError:
            return
        peer.leave()
        await asyncio.sleep(POLL_S)
    raise AssertionError("still listening")


async def test_a_reload_under_traffic_moves_it_and_loses_nothing(start: Any, serve: Any, sdk: Any) -> None:
    primary, second = await start("primary", token_delay_s=0.002), await start("second", token_delay_s=0.002)
    gateway = await serve(config(primary, second))
    hashes = {(await gateway.admin("/metrics"))[1].split('gateway_config_info{hash="')[1][:12]}
    async with App(sdk(gateway), {"primary": primary.voice, "second": second.voice}) as app:
        for turn, order in enumerate([(second, primary), (primary, second), (second, primary), (primary, second)], 1):
            await app.more(20)
            await gateway.reconfigure(config(*order))
            gateway.process.signal(signal.SIGHUP)
            await gateway.until_metric("gateway_config_reloads_total", lambda value, turn=turn: value == turn, result="ok")
            hashes.add((await gateway.admin("/metrics"))[1].split('gateway_config_info{hash="')[1][:12])
            await app.more(20, of=order[0].name)
    assert app.surprises == app.broken == []
    assert len(hashes) == 2
    assert await gateway.until_metric("gateway_requests_total", lambda value: value == app.answers.total(), outcome="ok")
    assert await gateway.metric("gateway_requests_total") == app.answers.total()
    assert await gateway.metric("gateway_attempts_total") == app.answers.total()
    assert await gateway.metric("gateway_inflight_requests") == 0


async def test_a_reload_keeps_connections_and_breakers(start: Any, serve: Any, sdk: Any) -> None:
    primary, second = await start("primary"), await start("second")
    settings = config(primary, second, provider_defaults={"breaker": {"consecutive": 3, "open": "60s", "max_open": "60s"}})
    gateway = await serve(settings)
    client = sdk(gateway)
    second_before = await client.chat.completions.create(**ask())
    assert second_before.choices[0].message.content == primary.voice.text(PROMPT)
    primary.faults.set(Status(500))
    async with App(client, {"primary": primary.voice, "second": second.voice}, workers=2):
        await gateway.until_metric("gateway_breaker_share", lambda share: share == 1, provider="primary")
    primary.faults.clear()
    attempts, connections = len(primary.ledger), {entry.connection for entry in second.ledger}
    await gateway.reconfigure({**settings, "policies": {"default": {"attempts": 3}}})
    status, text = await gateway.admin("/admin/reload", "POST")
    assert (status, json.loads(text)["result"]) == (200, "ok")
    for _ in range(5):
        raw = await client.chat.completions.with_raw_response.create(**ask())
        assert raw.headers["x-gateway-provider"] == "second"
    assert len(primary.ledger) == attempts
    assert {entry.connection for entry in second.ledger} == connections


async def test_streams_go_on_by_the_configuration_they_began_with(start: Any, serve: Any, sdk: Any) -> None:
    primary, second = await start("primary", **ENDLESS), await start("second")
    gateway = await serve(config(primary))
    client = sdk(gateway)
    stream = await client.chat.completions.create(**ask(stream=True))
    chunks = [await anext(stream)]
    await gateway.reconfigure(config(second))
    gateway.process.signal(signal.SIGHUP)
    await gateway.process.err.saying("reloaded")
    raw = await client.chat.completions.with_raw_response.create(**ask())
    assert raw.headers["x-gateway-provider"] == "second"
    primary.token_delay_s = 0.0
    chunks += [chunk async for chunk in stream]
    assert said(chunks) == primary.voice.text(PROMPT)


async def test_a_broken_file_never_replaces_a_good_one(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary")
    gateway = await serve(config(primary))
    client = sdk(gateway)
    await gateway.reconfigure(BROKEN)
    gateway.process.signal(signal.SIGHUP)
    await gateway.process.err.saying("reload rejected")
    await gateway.process.err.saying("gateway.yaml:1:")
    assert await gateway.metric("gateway_config_reloads_total", result="rejected") == 1
    status, text = await gateway.admin("/admin/reload", "POST")
    assert (status, json.loads(text)["result"]) == (422, "rejected")
    problems = json.loads(text)["problems"]
    assert [problem.split(": ")[1] for problem in problems] == ["providers.primary.base_url", "providers.primary.api_kee"]
    gateway.config.unlink()
    status, text = await gateway.admin("/admin/reload", "POST")
    assert status == 422
    assert await gateway.metric("gateway_config_reloads_total", result="rejected") == 3
    assert await gateway.metric("gateway_config_reloads_total", result="ok") == 0
    assert (await gateway.admin("/readyz"))[0] == 200
    answer = await client.chat.completions.create(**ask())
    assert answer.choices[0].message.content == primary.voice.text(PROMPT)
    await gateway.reconfigure(config(primary))
    gateway.process.signal(signal.SIGHUP)
    assert await gateway.until_metric("gateway_config_reloads_total", lambda value: value == 1, result="ok")


async def test_a_changed_address_is_said_to_need_a_restart(start: Any, serve: Any) -> None:
    primary = await start("primary")
    gateway = await serve(config(primary))
    await gateway.reconfigure({**config(primary), "server": {"listen": "127.0.0.1:1"}})
    status, text = await gateway.admin("/admin/reload", "POST")
    assert status == 200
    assert any("server.listen changed" in note for note in json.loads(text)["notes"])


async def test_a_drain_under_traffic_lets_every_answer_end(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary", **ENDLESS)
    gateway = await serve(config(primary))
    client, count = sdk(gateway), 20

    async def one(number: int) -> bool:
        arguments = ask(messages=[{"role": "user", "content": f"Number {number}"}], stream=True)
        text = said([chunk async for chunk in await client.chat.completions.create(**arguments)])
        return text == primary.voice.text(arguments["messages"])

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        answers = [group.create_task(one(number)) for number in range(count)]
        await primary.ledger.until(lambda ledger: sum(entry.tokens_out > 0 for entry in ledger) == count)
        gateway.process.signal(signal.SIGTERM)
        await until_refused(gateway)
        status, text = await gateway.admin("/readyz")
        assert (status, json.loads(text)) == (503, {"status": "draining"})
        assert (await gateway.admin("/healthz"))[0] == 200
        assert primary.ledger.inflight == count
        assert gateway.process.status is None
        primary.token_delay_s = 0.0
    assert all(answer.result() for answer in answers)
    assert await gateway.process.ended() == 0
    assert {line["outcome"] for line in await gateway.access(count)} == {"ok"}
    assert "Traceback" not in gateway.process.err.text


async def test_before_the_listener_closes_load_balancers_have_time_to_notice(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary")
    gateway = await serve({**config(primary), "server": {"drain": {"delay": "60s", "timeout": "10s"}}})
    client = sdk(gateway)
    gateway.process.signal(signal.SIGTERM)
    await gateway.until_admin("/readyz", lambda status, _: status == 503)
    for stream in (False, True):
        raw = await client.chat.completions.with_raw_response.create(**ask(stream=stream))
        assert raw.headers["x-gateway-provider"] == "primary"
        assert "connection" not in raw.headers
    gateway.process.signal(signal.SIGHUP)
    await gateway.process.err.saying("not reloading")
    gateway.process.signal(signal.SIGTERM)
    assert await gateway.process.ended() == 130


async def test_the_next_request_on_a_kept_connection_is_sent_elsewhere_with_advice(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary", **ENDLESS)
    gateway = await serve(config(primary))
    idle, late = await dial(gateway), await dial(gateway)
    for peer in (idle, late):
        peer.ask("/v1/models", "GET")
        status, headers, _ = await peer.answer()
        assert (status, headers.get("connection")) == (200, None)
    late.writer.write(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n")
    # What holds the drain up, and shows by its answer that what was written before has been read.
    stream = await sdk(gateway).chat.completions.create(**ask(stream=True))
    await anext(stream)
    gateway.process.signal(signal.SIGTERM)
    await until_refused(gateway)
    assert await idle.rest() == b""
    late.writer.write(b"\r\n")
    status, headers, body = await late.answer()
    assert status == 503
    assert json.loads(body)["error"]["code"] == headers["x-gateway-reason"] == "draining"
    assert (headers["connection"], headers["x-should-retry"]) == ("close", "true")
    assert 1 <= int(headers["retry-after"]) <= 60
    assert 0 < int(headers["retry-after-ms"]) <= 1000 * int(headers["retry-after"])
    assert await late.rest() == b""
    idle.leave()
    late.leave()
    primary.token_delay_s = 0.0
    async for _ in stream:
        pass
    assert await gateway.process.ended() == 0


async def test_whoever_has_no_answer_at_the_drains_end_is_told_so(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary", **ENDLESS)
    gateway = await serve({**config(primary), "server": {"drain": {"delay": "0s", "timeout": "500ms"}}})
    client = sdk(gateway)

    async def streaming() -> list[Any]:
        seen, error = await until_error(await client.chat.completions.create(**ask(stream=True)))
        assert (type(error), error.code) == (openai.APIError, "draining")
        return seen

    streams = [asyncio.create_task(streaming()) for _ in range(5)]
    async with asyncio.timeout(PATIENCE_S):
        await primary.ledger.until(lambda ledger: sum(entry.tokens_out > 0 for entry in ledger) == 5)
        primary.faults.set(Stall(before="head"))
        waiting = asyncio.create_task(client.chat.completions.create(**ask()))
        await primary.ledger.until(lambda ledger: any("stall" in entry.faults for entry in ledger))
        gateway.process.signal(signal.SIGTERM)
        with pytest.raises(openai.InternalServerError) as caught:
            await waiting
        assert all([said(await stream) for stream in streams])
    headers = caught.value.response.headers
    assert (caught.value.status_code, headers["x-gateway-reason"], headers["x-should-retry"]) == (503, "draining", "true")
    assert await gateway.process.ended() == 0
    async with asyncio.timeout(PATIENCE_S):
        await primary.ledger.until(lambda ledger: ledger.inflight == 0)
    assert {entry.end for entry in primary.ledger} == {End.PEER_LEFT}
    lines = await gateway.access(6)
    assert sorted((line["outcome"], line["reason"]) for line in lines) == [("failed", "draining")] * 5 + [("refused", "draining")]


async def test_an_idle_gateway_leaves_at_once_on_a_keyboard_interrupt(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary")
    gateway = await serve({**config(primary), "server": {"drain": {"delay": "60s", "timeout": "60s"}}})
    await sdk(gateway).chat.completions.create(**ask())
    gateway.process.signal(signal.SIGINT)
    # Neither the delay nor the SDK's kept connection hold it up.
    assert await gateway.process.ended() == 0
    assert "Traceback" not in gateway.process.err.text
    assert gateway.process.err.all[-1].endswith("stopped")


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
async def test_a_second_signal_ends_it_at_once(start: Any, serve: Any, sdk: Any, which: signal.Signals) -> None:
    primary = await start("primary", **ENDLESS)
    gateway = await serve({**config(primary), "server": {"drain": {"delay": "0s", "timeout": "60s"}}})
    stream = await sdk(gateway).chat.completions.create(**ask(stream=True))
    await anext(stream)
    gateway.process.signal(which)
    await gateway.process.err.saying("once more to exit at once")
    gateway.process.signal(signal.SIGINT)
    assert await gateway.process.ended() == 130
    # A stream is not presented as whole because its gateway was in a hurry.
    with pytest.raises((openai.APIError, httpx2.TransportError)):
        async for _ in stream:
            pass
