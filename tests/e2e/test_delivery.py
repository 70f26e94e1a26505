"""The official SDK reads hedged, held, commented and failed streams without surprise, and raises where one broke for good."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from gateway.drill.faults import Cut, ErrorEvent, Latency, Stall, Status
from gateway.drill.ledger import End
from tests.e2e.process import PATIENCE_S
from tests.e2e.shapes import MODEL, PROMPT, ask, config, said, until_error, until_error_sync

HEDGE = {"hedge": {"after": "300ms", "budget": "100%"}}
HOLD = {"stream": {"hold": "all"}}
EARLY = {"stream": {"early_keepalive": "1s", "keepalive": "1s"}}
LATE = Latency(1.5)
SLOW = Latency(60.0)
INPUT = "Tell me something that survives."
BREAKS = [
    Cut(after_events=6, how="clean"),
    Cut(after_events=6, how="close"),
    Cut(after_events=6, how="rst"),
    ErrorEvent(after_events=6),
]


def respond(**more: Any) -> dict[str, Any]:
    """The arguments of a response."""
    return {"model": MODEL, "input": INPUT, **more}


def spoken(events: list[Any]) -> str:
    """The text of a streamed response, whose events are numbered one by one."""
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.completed"
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


async def whole(client: openai.AsyncOpenAI, kind: str) -> str:
    """Ask in one of the ways that the SDK has; return the text."""
    if kind == "chat":
        chunks = [chunk async for chunk in await client.chat.completions.create(**ask(stream=True))]
        assert len({chunk.id for chunk in chunks}) == 1
        assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] == ["stop"]
        return said(chunks)
    if kind == "chat helper":
        async with client.chat.completions.stream(**ask()) as stream:
            return (await stream.get_final_completion()).choices[0].message.content or ""
    if kind == "responses":
        return spoken([event async for event in await client.responses.create(**respond(stream=True))])
    async with client.responses.stream(**respond()) as stream:
        return (await stream.get_final_response()).output_text


KINDS = ["chat", "chat helper", "responses", "responses helper"]


def text_of(provider: Any, kind: str) -> str:
    """What this provider says to that."""
    text: str = provider.voice.text(PROMPT if kind.startswith("chat") else INPUT)
    return text


@pytest.mark.parametrize("kind", KINDS)
async def test_a_hedged_stream_is_read_like_any_other(start: Any, serve: Any, sdk: Any, kind: str) -> None:
    primary, second = await start("primary"), await start("second")
    gateway = await serve(config(primary, second, policy=HEDGE))
    primary.faults.set(SLOW)
    assert await whole(sdk(gateway), kind) == text_of(second, kind)
    async with asyncio.timeout(PATIENCE_S):
        await primary.ledger.until(lambda ledger: ledger.inflight == 0)
    assert primary.ledger[0].end is End.PEER_LEFT
    (line,) = await gateway.access(1)
    assert (line["hedge"], line["saved_by"], line["attempts"], line["outcome"]) == ("won", "hedge", 2, "ok")
    assert line["trail"].startswith("primary:cancelled/")
    assert await gateway.metric("gateway_hedges_total", result="won") == 1
    assert await gateway.metric("gateway_wasted_tokens_total", provider="primary") == line["bytes_in"] // 4


async def test_a_hedged_answer_without_a_stream(start: Any, serve: Any, sdk: Any) -> None:
    primary, second = await start("primary"), await start("second")
    gateway = await serve(config(primary, second, policy={"hedge": {**HEDGE["hedge"], "non_stream": True}}))
    primary.faults.set(SLOW)
    raw = await sdk(gateway).chat.completions.with_raw_response.create(**ask())
    assert raw.parse().choices[0].message.content == second.voice.text(PROMPT)
    assert (raw.headers["x-gateway-provider"], raw.headers["x-gateway-attempts"]) == ("second", "2")


async def test_who_declines_waits(start: Any, serve: Any, sdk: Any) -> None:
    primary, second = await start("primary"), await start("second")
    gateway = await serve(config(primary, second, policy=HEDGE))
    primary.faults.set(Latency(0.8))
    stream = await sdk(gateway).chat.completions.create(**ask(stream=True, extra_headers={"x-gateway-hedge": "off"}))
    assert said([chunk async for chunk in stream]) == primary.voice.text(PROMPT)
    assert len(second.ledger) == 0
    assert primary.ledger[0].header("x-gateway-hedge") is None


@pytest.mark.parametrize("kind", KINDS)
async def test_what_breaks_in_a_stream_held_back_is_never_seen(start: Any, serve: Any, sdk: Any, kind: str) -> None:
    primary, second = await start("primary"), await start("second")
    gateway = await serve(config(primary, second, policy={**HOLD, "attempts": 2}, provider_defaults=NEVER_OPEN))
    client = sdk(gateway)
    for number, fault in enumerate(BREAKS, 1):
        primary.faults.set(fault)
        # Neither a quick second try at the same provider.
        text = await whole(client.with_options(default_headers={"x-stainless-retry-count": "1"}), kind)
        assert text == text_of(second, kind)
        assert await gateway.until_metric("gateway_saved_requests_total", lambda value, saved=number: value == saved)
    assert len(primary.ledger) == len(second.ledger) == len(BREAKS)


NEVER_OPEN = {"breaker": {"consecutive": 100, "min_requests": 1000}}


async def test_what_is_whole_is_held_no_longer(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary")
    client = sdk(await serve(config(primary, policy=HOLD)))
    for kind in KINDS:
        assert await whole(client, kind) == text_of(primary, kind)


@pytest.mark.parametrize("fault", BREAKS)
async def test_a_held_stream_that_nobody_can_give_is_an_ordinary_error(
    start: Any, serve: Any, sdk: Any, sync_sdk: Any, fault: Any
) -> None:
    primary = await start("primary")
    gateway = await serve(config(primary, policy={**HOLD, "attempts": 1}))
    primary.faults.set(fault)
    for arguments in (
        sdk(gateway).chat.completions.create(**ask(stream=True)),
        sdk(gateway).responses.create(**respond(stream=True)),
    ):
        with pytest.raises(openai.InternalServerError) as caught:
            await arguments
        assert caught.value.status_code == 502
    with pytest.raises(openai.InternalServerError):
        await asyncio.to_thread(sync_sdk(gateway).chat.completions.create, **ask(stream=True))


@pytest.mark.parametrize("fault", BREAKS)
async def test_a_stream_that_breaks_after_its_hold_raises(start: Any, serve: Any, sdk: Any, sync_sdk: Any, fault: Any) -> None:
    primary, second = await start("primary", tokens=20, token_delay_s=0.02), await start("second")
    gateway = await serve(config(primary, second, policy={"stream": {"hold": "10ms"}}, provider_defaults=NEVER_OPEN))
    primary.faults.set(fault)
    seen, error = await until_error(await sdk(gateway).chat.completions.create(**ask(stream=True)))
    assert said(seen)
    assert error.message
    events, error = await until_error(await sdk(gateway).responses.create(**respond(stream=True)))
    assert events
    assert error.message
    stream = await asyncio.to_thread(sync_sdk(gateway).chat.completions.create, **ask(stream=True))
    seen, _ = await asyncio.to_thread(until_error_sync, stream)
    assert said(seen)
    assert len(second.ledger) == 0


async def test_comments_in_a_silence_are_never_seen(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary")
    gateway = await serve(config(primary, policy={"stream": {"keepalive": "1s"}}))
    client = sdk(gateway)
    primary.faults.set(Stall(after_events=5, for_s=1.5))
    texts = await asyncio.gather(*[whole(client, kind) for kind in KINDS])
    assert texts == [text_of(primary, kind) for kind in KINDS]
    sent = sum(line["bytes_out"] for line in await gateway.access(len(KINDS)))
    comments, rest = divmod(sent - sum(entry.answer_bytes for entry in primary.ledger), len(b": keep-alive\n\n"))
    assert (comments >= len(KINDS), rest) == (True, 0)


async def test_a_stream_joins_what_was_opened_early(start: Any, serve: Any, sdk: Any) -> None:
    primary, second = await start("primary"), await start("second")
    gateway = await serve(config(primary, second, policy=EARLY, provider_defaults=NEVER_OPEN))
    client = sdk(gateway)
    for faults, provider in (((LATE,), primary), ((LATE, Status(503)), second)):
        primary.faults.set(*faults)
        texts = await asyncio.gather(*[whole(client, kind) for kind in KINDS])
        assert texts == [text_of(provider, kind) for kind in KINDS]
    assert await gateway.metric("gateway_saved_requests_total", by="failover") == len(KINDS)


async def test_an_early_head_says_what_was_known_by_then(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary", tokens=7)
    gateway = await serve(config(primary, policy=EARLY))
    primary.faults.set(LATE)
    options = {"stream_options": {"include_usage": True}}
    raw = await sdk(gateway).chat.completions.with_raw_response.create(**ask(stream=True, **options))
    assert (raw.headers["x-gateway-attempts"], "x-gateway-provider" in raw.headers) == ("1", False)
    usage = [chunk async for chunk in raw.parse()][-1].usage
    (line,) = await gateway.access(1)
    assert (line["output_tokens"], line["provider"], line["status"]) == (usage.completion_tokens, "primary", 200)


@pytest.mark.parametrize("fault", [Status(500), Status(400), Cut(after_events=0), ErrorEvent(), ErrorEvent(after_events=1)])
async def test_a_failure_behind_an_early_head_raises(start: Any, serve: Any, sdk: Any, sync_sdk: Any, fault: Any) -> None:
    primary = await start("primary")
    gateway = await serve(config(primary, policy={**EARLY, "attempts": 1}))
    primary.faults.set(LATE, fault)
    client, blocking = sdk(gateway), sync_sdk(gateway)

    def blocked() -> tuple[list[Any], openai.APIError]:
        return until_error_sync(blocking.chat.completions.create(**ask(stream=True)))

    async def streamed(stream: Any) -> tuple[list[Any], openai.APIError]:
        return await until_error(await stream)

    for seen, error in await asyncio.gather(
        streamed(client.chat.completions.create(**ask(stream=True))),
        streamed(client.responses.create(**respond(stream=True))),
        asyncio.to_thread(blocked),
    ):
        assert seen == []
        assert type(error) is openai.APIError
        assert error.message
    lines = await gateway.access(3)
    assert [line["status"] for line in lines] == [200] * 3
    assert not {line["outcome"] for line in lines} & {"ok"}


async def test_a_whole_answer_is_never_opened_early(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary")
    client = sdk(await serve(config(primary, policy=EARLY)))
    primary.faults.set(LATE, Status(400))
    with pytest.raises(openai.BadRequestError):
        await client.chat.completions.create(**ask())
