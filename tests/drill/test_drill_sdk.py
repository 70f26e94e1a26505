"""The official SDK is the judge of the provider's good answers and of its published errors."""

from __future__ import annotations

import hashlib
from typing import Any

import httpx2
import openai
import pytest

from gateway.drill.answers import prompt_tokens
from gateway.drill.faults import Cut, ErrorEvent, Html, RateLimit, Status


async def test_chat_is_the_answer_that_was_foretold(start: Any, sdk: Any, prompt: Any) -> None:
    provider = await start("primary", tokens=5)
    raw = await sdk(provider).chat.completions.with_raw_response.create(model="gpt-4o", messages=prompt)
    answer = raw.parse()
    text = answer.choices[0].message.content
    assert text == provider.voice.text(prompt)
    assert text.startswith("primary:")
    assert (answer.model, answer.choices[0].finish_reason, answer.system_fingerprint) == ("gpt-4o", "stop", "fp_primary")
    assert answer.usage.completion_tokens == 5
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 5
    entry = provider.ledger[0]
    assert raw.headers["x-request-id"] == entry.request_id
    assert raw.headers["openai-version"] == "2020-10-01"
    assert entry.answer_sha256 == hashlib.sha256(raw.content).hexdigest()
    assert (entry.answer_bytes, entry.tokens_out, entry.billed) == (len(raw.content), 5, True)


async def test_two_providers_and_two_prompts_never_share_a_piece(start: Any, prompt: Any) -> None:
    one, two = await start("one"), await start("two")
    texts = [one.voice.text(prompt), two.voice.text(prompt), one.voice.text([{"role": "user", "content": "?"}])]
    pieces = [set(text.split()) for text in texts]
    assert not pieces[0] & pieces[1]
    assert not pieces[0] & pieces[2]


async def test_a_request_may_ask_for_less_and_for_several_choices(start: Any, sdk: Any, prompt: Any) -> None:
    provider = await start(tokens=10)
    answer = await sdk(provider).chat.completions.create(model="gpt-4o", messages=prompt, max_completion_tokens=2, n=2)
    assert [choice.message.content for choice in answer.choices] == [
        provider.voice.text(prompt, 2, 0),
        provider.voice.text(prompt, 2, 1),
    ]
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 4


async def test_a_stream_with_usage_ends_in_a_chunk_without_choices(start: Any, sdk: Any, prompt: Any) -> None:
    provider = await start(tokens=4)
    stream = await sdk(provider).chat.completions.create(
        model="gpt-4o", messages=prompt, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == provider.voice.text(prompt)
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 4
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1
    entry = provider.ledger[0]
    assert (entry.stream, entry.events, entry.tokens_out, entry.billed) == (True, 1 + 4 + 1 + 1 + 1, 4, True)


async def test_a_stream_without_usage_has_no_such_chunk(start: Any, sdk: Any, prompt: Any) -> None:
    provider = await start(tokens=2)
    stream = await sdk(provider).chat.completions.create(model="gpt-4o", messages=prompt, stream=True)
    chunks = [chunk async for chunk in stream]
    assert [len(chunk.choices) for chunk in chunks] == [1, 1, 1, 1]
    assert "usage" not in chunks[0].model_fields_set


async def test_completions_answer_and_stream(start: Any, sdk: Any) -> None:
    provider = await start(tokens=3)
    client = sdk(provider)
    answer = await client.completions.create(model="gpt-3.5-turbo-instruct", prompt="Once")
    assert answer.choices[0].text == provider.voice.text("Once")
    stream = await client.completions.create(model="gpt-3.5-turbo-instruct", prompt="Once", stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == provider.voice.text("Once")


async def test_responses_answer_and_can_be_fetched_and_deleted(start: Any, sdk: Any) -> None:
    provider, other = await start("primary", tokens=3), await start("other")
    client = sdk(provider)
    answer = await client.responses.create(model="gpt-4o", input="Hello")
    assert answer.output_text == provider.voice.text("Hello")
    assert (answer.status, answer.usage.output_tokens) == ("completed", 3)
    assert (await client.responses.retrieve(answer.id)).output_text == answer.output_text
    with pytest.raises(openai.NotFoundError):
        await sdk(other).responses.retrieve(answer.id)
    await client.responses.delete(answer.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(answer.id)


async def test_a_responses_stream_is_numbered_and_ends_completed(start: Any, sdk: Any) -> None:
    provider = await start(tokens=3)
    stream = await sdk(provider).responses.create(model="gpt-4o", input="Hello", stream=True)
    events = [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 3,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == provider.voice.text("Hello")
    assert events[-1].response.output_text == provider.voice.text("Hello")
    assert provider.ledger[0].tokens_out == 3


async def test_a_responses_stream_that_is_too_short_ends_incomplete(start: Any, sdk: Any) -> None:
    stream = await sdk(await start()).responses.create(model="gpt-4o", input="Hello", stream=True, max_output_tokens=16)
    last = [event async for event in stream][-1]
    assert (last.type, last.response.incomplete_details.reason) == ("response.incomplete", "max_output_tokens")


async def test_embeddings_come_in_the_encoding_asked_for(start: Any, sdk: Any) -> None:
    client = sdk(await start())
    packed = await client.embeddings.create(model="text-embedding-3-small", input=["a", "b"], dimensions=5)
    plain = await client.embeddings.create(model="text-embedding-3-small", input=["a", "b"], dimensions=5, encoding_format="float")
    assert [item.index for item in packed.data] == [0, 1]
    assert [item.embedding for item in packed.data] == [item.embedding for item in plain.data]
    assert packed.data[0].embedding != packed.data[1].embedding
    assert len(packed.data[0].embedding) == 5
    assert len((await client.embeddings.create(model="text-embedding-3-small", input=[1, 2, 3])).data) == 1


async def test_models_moderations_and_files(start: Any, sdk: Any) -> None:
    client = sdk(await start("primary", models=["gpt-4o", "o1"]))
    assert [model.id async for model in client.models.list()] == ["gpt-4o", "o1"]
    assert (await client.models.retrieve("o1")).owned_by == "primary"
    assert not (await client.moderations.create(model="o1", input="nice")).results[0].flagged
    made = await client.files.create(file=("notes.jsonl", b"12345\r\n"), purpose="batch")
    assert (made.filename, made.bytes, made.purpose) == ("notes.jsonl", 7, "batch")
    assert (await client.files.retrieve(made.id)).id == made.id
    assert [item.id async for item in client.files.list()] == [made.id]
    assert (await client.files.delete(made.id)).deleted


async def test_an_unknown_key_is_refused_and_not_shown_whole(start: Any, sdk: Any, prompt: Any) -> None:
    provider = await start(keys={"sk-good"})
    with pytest.raises(openai.AuthenticationError) as raised:
        await sdk(provider, api_key="sk-bad-0123456789abcdef").chat.completions.create(model="gpt-4o", messages=prompt)
    assert (raised.value.code, raised.value.type) == ("invalid_api_key", "invalid_request_error")
    assert "0123456789ab" not in str(raised.value)
    assert "cdef" in str(raised.value)
    await sdk(provider, api_key="sk-good").chat.completions.create(model="gpt-4o", messages=prompt)
    assert [entry.billed for entry in provider.ledger] == [False, True]


async def test_an_unknown_model_and_a_missing_parameter(start: Any, sdk: Any, prompt: Any) -> None:
    client = sdk(await start(models=["gpt-4o"]))
    with pytest.raises(openai.NotFoundError) as missing:
        await client.chat.completions.create(model="gpt-5", messages=prompt)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        await client.post("/chat/completions", cast_to=object, body={"model": "gpt-4o"})
    assert (bad.value.code, bad.value.param) == ("missing_required_parameter", "messages")


async def test_a_status_fault_raises_what_the_sdk_makes_of_it(start: Any, sdk: Any, prompt: Any) -> None:
    provider = await start()
    client = sdk(provider)
    provider.faults.set(Status(503, times=1, headers={"retry-after-ms": "250"}), Status(429, {"status": "come back later"}))
    with pytest.raises(openai.InternalServerError) as first:
        await client.chat.completions.create(model="gpt-4o", messages=prompt)
    assert (first.value.code, first.value.type) == ("server_is_overloaded", "service_unavailable_error")
    assert first.value.response.headers["retry-after-ms"] == "250"
    with pytest.raises(openai.RateLimitError) as second:
        await client.chat.completions.create(model="gpt-4o", messages=prompt)
    assert second.value.response.json() == {"status": "come back later"}
    assert not provider.ledger.billed


@pytest.mark.parametrize("status", [200, 403, 502, 503, 530])
async def test_a_page_of_an_edge_network_is_html_without_the_providers_headers(
    start: Any, sdk: Any, prompt: Any, status: int
) -> None:
    provider = await start()
    provider.faults.set(Html(status))
    async with httpx2.AsyncClient() as client:
        answer = await client.post(f"{provider.url}/chat/completions", json={"model": "gpt-4o", "messages": prompt})
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.text.startswith("<!DOCTYPE html>")
    assert "x-request-id" not in answer.headers


async def test_an_error_inside_a_stream_reaches_the_sdk_as_an_error(start: Any, sdk: Any, prompt: Any) -> None:
    provider = await start()
    provider.faults.set(ErrorEvent(after_events=3))
    stream = await sdk(provider).chat.completions.create(model="gpt-4o", messages=prompt, stream=True)
    seen = []
    with pytest.raises(openai.APIError) as raised:
        async for chunk in stream:
            seen.append(chunk)  # noqa: PERF401 - what came before the error counts
    assert len(seen) == 3
    assert raised.value.code == "server_error"


async def test_an_error_inside_a_responses_stream_is_flat(start: Any, sdk: Any) -> None:
    provider = await start()
    provider.faults.set(ErrorEvent(after_events=2))
    stream = await sdk(provider).responses.create(model="gpt-4o", input="Hello", stream=True)
    events = [event async for event in stream]
    assert [event.type for event in events] == ["response.created", "response.in_progress", "error"]
    assert events[-1].sequence_number == 2


async def test_a_clean_cut_is_a_truncation_that_the_sdk_does_not_see(start: Any, sdk: Any, prompt: Any) -> None:
    provider = await start(tokens=10)
    provider.faults.set(Cut(after_events=4))
    stream = await sdk(provider).chat.completions.create(model="gpt-4o", messages=prompt, stream=True)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == provider.voice.text(prompt, 3)


async def test_the_rate_limit_shows_its_meters_and_says_when_to_come_back(start: Any, sdk: Any, prompt: Any) -> None:
    now = [0.0]
    provider = await start(clock=lambda: now[0])
    provider.faults.set(RateLimit(requests=3, tokens=60_000))
    client = sdk(provider).chat.completions.with_raw_response
    rest = 1000 - prompt_tokens({"messages": prompt})
    good = [(await client.create(model="gpt-4o", messages=prompt, max_tokens=rest)).headers for _ in range(3)]
    assert [headers["x-ratelimit-remaining-requests"] for headers in good] == ["2", "1", "0"]
    assert good[0]["x-ratelimit-limit-requests"] == "3"
    assert good[0]["x-ratelimit-reset-requests"] == "20s"
    assert good[2]["x-ratelimit-reset-requests"] == "1m0s"
    assert good[0]["x-ratelimit-limit-tokens"] == "60000"
    assert good[0]["x-ratelimit-remaining-tokens"] == "59000"
    assert good[0]["x-ratelimit-reset-tokens"] == "1s"
    now[0] = 10.5
    with pytest.raises(openai.RateLimitError) as raised:
        await client.create(model="gpt-4o", messages=prompt)
    headers = raised.value.response.headers
    assert (raised.value.code, raised.value.type) == ("rate_limit_exceeded", "requests")
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("10", "9500")
    assert "Please try again in 9.5s." in str(raised.value)
    assert headers["x-ratelimit-remaining-requests"] == "0"
    now[0] = 20.0
    await client.create(model="gpt-4o", messages=prompt)
    assert [entry.status for entry in provider.ledger] == [200, 200, 200, 429, 200]


async def test_a_request_that_can_never_fit_is_told_so_without_a_delay(start: Any, sdk: Any, prompt: Any) -> None:
    provider = await start()
    provider.faults.set(RateLimit(tokens=1000))
    with pytest.raises(openai.RateLimitError) as raised:
        await sdk(provider).chat.completions.create(model="gpt-4o", messages=prompt, max_tokens=5000)
    assert raised.value.type == "tokens"
    assert "Request too large" in str(raised.value)
    assert "retry-after" not in raised.value.response.headers


@pytest.mark.parametrize("dated", [True, False])
async def test_azure_clients_find_their_deployment(start: Any, prompt: Any, dated: bool) -> None:
    provider = await start("azure", keys={"secret"}, models=["prod"], tokens=3)
    if dated:
        client: Any = openai.AsyncAzureOpenAI(
            azure_endpoint=provider.origin, api_key="secret", api_version="2024-10-21", max_retries=0
        )
    else:
        client = openai.AsyncOpenAI(base_url=f"{provider.origin}/openai/v1", api_key="secret", max_retries=0)
    async with client:
        answer = await client.chat.completions.with_raw_response.create(model="prod", messages=prompt)
        assert answer.parse().choices[0].message.content == provider.voice.text(prompt)
        assert answer.headers["apim-request-id"] == provider.ledger[0].request_id
        stream = await client.chat.completions.create(model="prod", messages=prompt, stream=True)
        chunks = [chunk async for chunk in stream]
        assert chunks[0].choices == []
        with pytest.raises(openai.NotFoundError) as missing:
            await client.chat.completions.create(model="test", messages=prompt)
        assert missing.value.code == "DeploymentNotFound"
        provider.faults.set(RateLimit(requests=1))
        limited = await client.chat.completions.with_raw_response.create(model="prod", messages=prompt)
        assert limited.headers["x-ratelimit-reset-requests"] == "60"
        with pytest.raises(openai.RateLimitError, match="Please retry after 60 seconds"):
            await client.chat.completions.create(model="prod", messages=prompt)
    entry = provider.ledger[0]
    assert (entry.path, entry.family, entry.model) == ("/v1/chat/completions", "chat", "prod")
    assert entry.target == (
        "/openai/deployments/prod/chat/completions?api-version=2024-10-21" if dated else "/openai/v1/chat/completions"
    )


async def test_azures_addresses_refuse_a_wrong_key_and_a_missing_version(start: Any, prompt: Any) -> None:
    provider = await start(keys={"secret"})
    address = f"{provider.origin}/openai/deployments/prod/chat/completions"
    async with httpx2.AsyncClient() as client:
        wrong = await client.post(f"{address}?api-version=1", json={"messages": prompt}, headers={"api-key": "x"})
        v1 = await client.get(f"{provider.origin}/openai/v1/models", headers={"api-key": "secret"})
        lost = await client.post(address, json={"messages": prompt}, headers={"api-key": "secret"})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "401")
    assert v1.status_code == 200
    assert (lost.status_code, lost.json()["error"]["message"]) == (404, "Resource not found")
