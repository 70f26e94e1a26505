"""`stream.resume` as an app sees it: the official SDKs read one whole answer from two providers, or an exception, never half of one."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from gateway.drill.faults import Cut, ErrorEvent, Stall, Status
from tests.e2e.process import PATIENCE_S
from tests.e2e.shapes import MODEL, PROMPT, account, ask, said, until_error, until_error_sync

BROKEN_AFTER = 6
"""Events of the first provider that arrive: in either kind of stream some of them are text."""


def config(first: Any, second: Any, *, prefill: str = "plain", **policy: Any) -> dict[str, Any]:
    """A route over two providers that resumes streams; they may be of one name, and so of one voice."""
    return {
        "providers": {"first": account(first), "second": account(second)},
        "routes": [{"name": "all", "match": {}, "targets": ["first", {"provider": "second", "prefill": prefill}]}],
        "policies": {"default": {"backoff": {"base": "10ms", "cap": "20ms"}, "stream": {"resume": "on"}, **policy}},
    }


def beginning(first: Any, prompt: Any, whole: str) -> str:
    """As much of an answer as is the first provider's."""
    own = first.voice.text(prompt)
    return whole[: next((at for at, (a, b) in enumerate(zip(whole, own, strict=False)) if a != b), len(own))]


def continued(first: Any, second: Any, prompt: Any, whole: str) -> None:
    """The answer is the first one's beginning and what the second one goes on with from exactly there."""
    messages = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    begun = beginning(first, prompt, whole)
    assert begun
    # The first character of the second one may by chance be the first one's next.
    assert whole in {
        begun[:size] + second.voice.text([*messages, {"role": "assistant", "content": begun[:size]}])
        for size in (len(begun), len(begun) - 1)
    }


FAULTS = [
    Cut(after_events=BROKEN_AFTER, how="rst"),
    Cut(after_events=BROKEN_AFTER, how="close"),
    Cut(after_events=BROKEN_AFTER, how="clean"),
    ErrorEvent(after_events=BROKEN_AFTER),
    Stall(after_events=BROKEN_AFTER),
]
IDS = ["reset", "closed", "ended without terminator", "error event", "stall"]


@pytest.mark.parametrize("fault", FAULTS, ids=IDS)
async def test_the_sdks_read_one_chat_answer(start: Any, serve: Any, sdk: Any, sync_sdk: Any, fault: Any) -> None:
    first, second = await start("first"), await start("second")
    gateway = await serve(config(first, second, timeouts={"stall": "300ms"}))
    first.faults.set(fault)
    stream = await sdk(gateway).chat.completions.create(**ask(stream=True))
    blocking = sync_sdk(gateway)
    for chunks in (
        [chunk async for chunk in stream],
        await asyncio.to_thread(lambda: list(blocking.chat.completions.create(**ask(stream=True)))),
    ):
        continued(first, second, PROMPT, said(chunks))
        assert len({(chunk.id, chunk.model, chunk.created) for chunk in chunks}) == 1
        assert "first" in chunks[0].id
        choices = [choice for chunk in chunks for choice in chunk.choices]
        assert [choice.delta.role for choice in choices if choice.delta.role] == ["assistant"]
        assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]
    lines = await gateway.access(2)
    assert {(line["outcome"], line["saved_by"], line["attempts"]) for line in lines} == {("ok", "resume", 2)}
    if isinstance(fault, Stall):
        assert all(line["first_token_ms"] < line["duration_ms"] - 250 for line in lines), "the first token was the first one's"
    assert await gateway.metric("gateway_saved_requests_total", by="resume") == 2
    assert await gateway.metric("gateway_streams_broken_total", provider="first", recovered="true") == 2
    assert await gateway.metric("gateway_attempts_total", provider="second", kind="resume", verdict="ok") == 2
    async with asyncio.timeout(PATIENCE_S):
        await first.ledger.until(lambda ledger: ledger.inflight == 0)


@pytest.mark.parametrize("fault", FAULTS, ids=IDS)
async def test_the_sdks_read_one_response(start: Any, serve: Any, sdk: Any, sync_sdk: Any, fault: Any) -> None:
    first, second = await start("first"), await start("second")
    gateway = await serve(config(first, second, timeouts={"stall": "300ms"}))
    first.faults.set(fault)
    async with sdk(gateway).responses.stream(model=MODEL, input="Hello") as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))

    def read() -> Any:
        with sync_sdk(gateway).responses.stream(model=MODEL, input="Hello") as stream:
            stream.until_done()
            return stream.get_final_response()

    for response in (final, await asyncio.to_thread(read)):
        continued(first, second, "Hello", response.output_text)
        assert "first" in response.id
        assert len(response.output) == 1
    assert await gateway.metric("gateway_saved_requests_total", by="resume") == 2


async def test_the_helper_that_puts_a_completion_together_gets_one(start: Any, serve: Any, sdk: Any) -> None:
    first, second = await start("first"), await start("second")
    gateway = await serve(config(first, second))
    first.faults.set(Cut(after_events=BROKEN_AFTER, how="rst"))
    async with sdk(gateway).chat.completions.stream(**ask()) as stream:
        completion = await stream.get_final_completion()
    continued(first, second, PROMPT, completion.choices[0].message.content)


@pytest.mark.parametrize("prefill", ["none", "plain"])
async def test_who_takes_no_beginning_is_asked_again_and_says_the_same(start: Any, serve: Any, sdk: Any, prefill: str) -> None:
    # Of one name: the same prompt gets the same answer from both.
    first, second = await start("twin"), await start("twin")
    gateway = await serve(config(first, second, prefill=prefill))
    first.faults.set(Cut(after_events=BROKEN_AFTER, how="close"))
    if prefill == "plain":
        second.faults.set(Status(400, body={"error": {"message": "The last message must be a user's."}}, times=1))
    for _ in range(2):
        chunks = [chunk async for chunk in await sdk(gateway).chat.completions.create(**ask(stream=True))]
        assert said(chunks) == first.voice.text(PROMPT)
    lines = await gateway.access(2)
    assert [line["attempts"] for line in lines] == [2 + (prefill == "plain"), 2]
    assert {line["outcome"] for line in lines} == {"ok"}


@pytest.mark.parametrize("how", ["other words", "broken too", "JSON mode"])
async def test_what_cannot_be_mended_raises(start: Any, serve: Any, sdk: Any, sync_sdk: Any, how: str) -> None:
    first, second = await start("first"), await start("second")
    gateway = await serve(config(first, second, prefill="plain" if how == "broken too" else "none"))
    first.faults.set(Cut(after_events=BROKEN_AFTER, how="clean"))
    if how == "broken too":
        second.faults.set(Status(500))
    more = {"response_format": {"type": "json_object"}} if how == "JSON mode" else {}
    seen, error = await until_error(await sdk(gateway).chat.completions.create(**ask(stream=True, **more)))
    assert type(error) is openai.APIError
    assert first.voice.text(PROMPT).startswith(said(seen))
    assert said(seen)
    blocking = sync_sdk(gateway)
    seen, error = await asyncio.to_thread(lambda: until_error_sync(blocking.chat.completions.create(**ask(stream=True, **more))))
    assert first.voice.text(PROMPT).startswith(said(seen))
    lines = await gateway.access(2)
    assert {(line["outcome"], line["reason"], line["saved_by"]) for line in lines} == {("failed", "stream_broken", None)}
    assert await gateway.metric("gateway_streams_broken_total", provider="first", recovered="false") == 2
