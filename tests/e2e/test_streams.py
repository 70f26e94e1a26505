"""Streams through the real process: as early as the provider sends them, never silently short, and cancelled with their client."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from gateway.drill.faults import Cut, ErrorEvent, Stall
from gateway.drill.ledger import End
from tests.e2e.process import PATIENCE_S
from tests.e2e.shapes import MODEL, PROMPT, ask, config, said, until_error, until_error_sync

PARALLEL = 200
ENDLESS = {"tokens": 2000, "token_delay_s": 0.05}
"""A stream of which the end is not in sight."""


async def test_an_event_is_there_before_the_next_one_is_made(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary")
    gateway = await serve(config(primary))
    primary.faults.set(Stall(after_events=3))
    async with asyncio.timeout(PATIENCE_S):
        stream = await sdk(gateway).chat.completions.create(**ask(stream=True))
        chunks = [await anext(stream) for _ in range(3)]
    # The provider is silent for good after its third event, and all three are here.
    assert primary.voice.text(PROMPT).startswith(said(chunks))
    assert said(chunks)
    assert (primary.ledger[0].events, primary.ledger[0].end) == (3, End.OPEN)
    await stream.close()


async def test_a_stream_passes_byte_for_byte(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary", tokens=50)
    client = sdk(await serve(config(primary)))
    async with client.chat.completions.with_streaming_response.create(**ask(stream=True)) as raw:
        body = await raw.read()
    assert raw.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert raw.headers["x-accel-buffering"] == "no"
    assert body.endswith(b"data: [DONE]\n\n")
    assert len(body) == primary.ledger[0].answer_bytes
    assert body.count(b"data: ") == primary.ledger[0].events


async def test_two_hundred_streams_at_once_are_all_whole_and_never_mixed(start: Any, serve: Any, sdk: Any) -> None:
    primary, second = await start("primary", tokens=60, token_delay_s=1.0), await start("second")
    gateway = await serve(config(primary, second))
    client = sdk(gateway, timeout=60)
    all_begun = asyncio.Barrier(PARALLEL + 1)

    async def one(number: int) -> bool:
        messages = [{"role": "user", "content": f"Number {number}, please."}]
        stream = await client.chat.completions.create(model=MODEL, messages=messages, stream=True)
        chunks = [await anext(stream)]
        await all_begun.wait()
        chunks += [chunk async for chunk in stream]
        return said(chunks) == primary.voice.text(messages)

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        streams = [group.create_task(one(number)) for number in range(PARALLEL)]
        await all_begun.wait()
        assert primary.ledger.inflight == PARALLEL
        assert await gateway.metric("gateway_inflight_requests", route="all") == PARALLEL
        primary.token_delay_s = 0.0
    assert all(stream.result() for stream in streams)
    assert (primary.ledger.most_inflight, len(second.ledger)) == (PARALLEL, 0)
    assert await gateway.until_metric("gateway_requests_total", lambda value: value == PARALLEL, outcome="ok")
    assert await gateway.metric("gateway_inflight_requests") == 0
    assert await gateway.metric("gateway_first_token_seconds_count") == PARALLEL


@pytest.mark.parametrize("how", ["close", "cancel", "leave"])
async def test_a_client_that_leaves_a_stream_is_seen_to_leave_by_the_provider(start: Any, serve: Any, sdk: Any, how: str) -> None:
    primary, second = await start("primary", **ENDLESS), await start("second")
    gateway = await serve(config(primary, second))
    client = sdk(gateway)
    begun = asyncio.Event()

    async def reading() -> None:
        stream = await client.chat.completions.create(**ask(stream=True))
        async for _ in stream:
            begun.set()
            if how == "close":
                await stream.close()
                return

    task, waiting = asyncio.create_task(reading()), asyncio.create_task(begun.wait())
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        assert begun.is_set(), task
        at_s = primary.now()
        if how == "cancel":
            task.cancel()
        elif how == "leave":
            await client.close()
        await asyncio.wait([task])
        await primary.ledger.until(lambda ledger: ledger.inflight == 0)
    entry = primary.ledger[0]
    assert entry.end is End.PEER_LEFT
    assert entry.left_s - at_s < 1.0
    line = (await gateway.access(1))[0]
    assert (line["outcome"], line["reason"], line["stream"]) == ("client_gone", "client_gone", True)
    assert await gateway.metric("gateway_requests_total", outcome="client_gone") == 1
    assert await gateway.metric("gateway_attempts_total", provider="primary", verdict="cancelled") == 1
    assert await gateway.metric("gateway_attempts_total") == 1
    assert await gateway.metric("gateway_breaker_share", provider="primary") >= 1
    assert await gateway.metric("gateway_inflight_requests") == 0
    assert len(second.ledger) == 0


async def test_clients_that_leave_in_numbers_open_no_breaker(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary", **ENDLESS)
    gateway = await serve(config(primary))
    client = sdk(gateway)
    for _ in range(30):
        stream = await client.chat.completions.create(**ask(stream=True))
        await anext(stream)
        await stream.close()
    async with asyncio.timeout(PATIENCE_S):
        await primary.ledger.until(lambda ledger: ledger.inflight == 0)
    assert {entry.end for entry in primary.ledger} == {End.PEER_LEFT}
    assert await gateway.until_metric("gateway_requests_total", lambda value: value == 30, outcome="client_gone")
    assert await gateway.metric("gateway_breaker_transitions_total") == 0


async def test_a_client_that_leaves_before_any_answer_cancels_the_attempt(start: Any, serve: Any, sdk: Any) -> None:
    primary, second = await start("primary"), await start("second")
    gateway = await serve(config(primary, second))
    primary.faults.set(Stall(before="head"))
    task = asyncio.create_task(sdk(gateway).chat.completions.create(**ask()))
    async with asyncio.timeout(PATIENCE_S):
        await primary.ledger.until(lambda ledger: any("stall" in entry.faults for entry in ledger))
        task.cancel()
        await primary.ledger.until(lambda ledger: ledger.inflight == 0)
    assert primary.ledger[0].end is End.PEER_LEFT
    assert (await gateway.access(1))[0]["outcome"] == "client_gone"
    assert len(second.ledger) == 0


@pytest.mark.parametrize(
    "fault",
    [
        Cut(after_events=4, how="rst"),
        Cut(after_events=4, how="close"),
        Cut(after_events=4, how="clean"),
        Cut(after_bytes=1200, how="close"),
        ErrorEvent(after_events=4),
        ErrorEvent(after_events=4, payload={"type": "error", "code": "overloaded", "message": "flat"}, event="error"),
    ],
    ids=["reset", "closed", "ended without terminator", "cut inside an event", "error event", "flat error event"],
)
async def test_a_stream_that_breaks_after_its_first_content_raises_in_the_sdk(
    start: Any, serve: Any, sdk: Any, sync_sdk: Any, fault: Any
) -> None:
    primary, second = await start("primary"), await start("second")
    gateway = await serve(config(primary, second))
    primary.faults.set(fault)
    seen, error = await until_error(await sdk(gateway).chat.completions.create(**ask(stream=True)))
    assert type(error) is openai.APIError
    assert error.message
    assert error.code
    assert said(seen)
    assert primary.voice.text(PROMPT).startswith(said(seen))
    blocking = sync_sdk(gateway)
    seen, error = await asyncio.to_thread(lambda: until_error_sync(blocking.chat.completions.create(**ask(stream=True))))
    assert type(error) is openai.APIError
    assert primary.voice.text(PROMPT).startswith(said(seen))
    assert len(second.ledger) == 0
    lines = await gateway.access(2)
    assert {(line["outcome"], line["reason"]) for line in lines} == {("failed", "stream_broken")}
    assert await gateway.metric("gateway_streams_broken_total", provider="primary", recovered="false") == 2


async def test_a_responses_stream_that_breaks_raises_too(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary")
    gateway = await serve(config(primary))
    for fault in (Cut(after_events=6, how="clean"), Cut(after_events=6, how="rst"), ErrorEvent(after_events=6)):
        primary.faults.set(fault)
        seen, _ = await until_error(await sdk(gateway).responses.create(model=MODEL, input="Hello", stream=True))
        events = [event.type for event in seen]
        assert "response.output_text.delta" in events
        assert "response.completed" not in events


@pytest.mark.parametrize(
    "fault",
    [
        Cut(after_events=0, how="clean"),
        Cut(after_events=1, how="rst"),
        Cut(after_events=1, how="close"),
        ErrorEvent(after_events=0),
        ErrorEvent(after_events=1),
        ErrorEvent(after_events=0, payload={"error": {"message": "busy", "code": 502}}),
    ],
    ids=["empty", "reset", "closed", "error at once", "error after the role", "error with a number"],
)
async def test_a_stream_that_breaks_before_its_first_content_is_begun_elsewhere_unseen(
    start: Any, serve: Any, sdk: Any, fault: Any
) -> None:
    primary, second = await start("primary"), await start("second")
    gateway = await serve(config(primary, second))
    primary.faults.set(fault)
    raw = await sdk(gateway).chat.completions.with_raw_response.create(**ask(stream=True))
    chunks = [chunk async for chunk in raw.parse()]
    assert said(chunks) == second.voice.text(PROMPT)
    assert len({chunk.id for chunk in chunks}) == 1
    assert raw.headers["x-gateway-provider"] == "second"
    assert await gateway.until_metric("gateway_saved_requests_total", lambda value: value == 1, by="failover")
    assert (len(primary.ledger), len(second.ledger)) == (1, 1)


async def test_a_stream_that_says_nothing_in_time_is_begun_elsewhere(start: Any, serve: Any, sdk: Any) -> None:
    primary, second = await start("primary"), await start("second")
    gateway = await serve(config(primary, second, policy={"timeouts": {"first_token": "300ms"}}))
    primary.faults.set(Stall(after_events=1, comments_every_s=0.05))
    raw = await sdk(gateway).chat.completions.with_raw_response.create(**ask(stream=True))
    assert said([chunk async for chunk in raw.parse()]) == second.voice.text(PROMPT)
    assert raw.headers["x-gateway-trail"].startswith("primary:timeout/")
    async with asyncio.timeout(PATIENCE_S):
        await primary.ledger.until(lambda ledger: ledger.inflight == 0)
    assert primary.ledger[0].end is End.PEER_LEFT


async def test_a_stream_that_stalls_after_its_first_content_ends_in_an_error(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary")
    gateway = await serve(config(primary, policy={"timeouts": {"stall": "300ms"}}))
    primary.faults.set(Stall(after_events=4))
    seen, _ = await until_error(await sdk(gateway).chat.completions.create(**ask(stream=True)))
    assert said(seen)
    async with asyncio.timeout(PATIENCE_S):
        await primary.ledger.until(lambda ledger: ledger.inflight == 0)


async def test_the_usage_of_a_stream_is_counted(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary", tokens=7)
    gateway = await serve(config(primary))
    stream = await sdk(gateway).chat.completions.create(**ask(stream=True, stream_options={"include_usage": True}))
    usage = [chunk async for chunk in stream][-1].usage
    line = (await gateway.access(1))[0]
    assert (line["input_tokens"], line["output_tokens"]) == (usage.prompt_tokens, 7)
    assert await gateway.metric("gateway_tokens_total", type="output") == 7
