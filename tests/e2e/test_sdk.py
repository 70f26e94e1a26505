"""The official SDK, unmodified, against the real process: what it sends arrives, and what it gets is what the provider said."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

import httpx2
import openai
import pytest

from gateway.drill.faults import Hangup, Html, Latency, Status
from gateway.drill.ledger import End
from tests.drill.peers import RawPeer
from tests.e2e.process import PATIENCE_S
from tests.e2e.shapes import MODEL, PROMPT, account, ask, config, said

ERRORS = [
    (400, openai.BadRequestError),
    (401, openai.AuthenticationError),
    (403, openai.PermissionDeniedError),
    (404, openai.NotFoundError),
    (409, openai.ConflictError),
    (422, openai.UnprocessableEntityError),
    (429, openai.RateLimitError),
    (500, openai.InternalServerError),
    (503, openai.InternalServerError),
]
HEADERS = {
    "x-gateway-request-id",
    "x-gateway-route",
    "x-gateway-provider",
    "x-gateway-model",
    "x-gateway-attempts",
    "x-gateway-trail",
}


async def test_the_synchronous_sdk_gets_whole_answers_and_streams(start: Any, serve: Any, sync_sdk: Any) -> None:
    primary = await start("primary")
    client = sync_sdk(await serve(config(primary)))

    def calls() -> tuple[str, str]:
        answer = client.chat.completions.create(**ask())
        with client.chat.completions.create(**ask(stream=True)) as stream:
            return answer.choices[0].message.content, said(list(stream))

    assert await asyncio.to_thread(calls) == (primary.voice.text(PROMPT),) * 2
    assert [entry.stream for entry in primary.ledger] == [False, True]


async def test_the_sdk_reads_its_base_url_from_the_environment(start: Any, serve: Any, monkeypatch: Any) -> None:
    primary = await start("primary")
    gateway = await serve(config(primary))
    monkeypatch.setenv("OPENAI_BASE_URL", gateway.url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-anything")
    async with openai.AsyncOpenAI() as client:
        answer = await client.chat.completions.create(**ask())
    assert answer.choices[0].message.content == primary.voice.text(PROMPT)


async def test_every_kind_of_inference_call_passes(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary")
    client = sdk(await serve(config(primary)))
    text = primary.voice.text("Hello")
    assert (await client.responses.create(model=MODEL, input="Hello")).output_text == text
    events = [event async for event in await client.responses.create(model=MODEL, input="Hello", stream=True)]
    assert events[-1].type == "response.completed"
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == text
    assert (await client.completions.create(model=MODEL, prompt="Hello")).choices[0].text == text
    assert len((await client.embeddings.create(model="text-embedding-3-small", input=["one", "two"])).data) == 2
    assert (await client.moderations.create(model="omni-moderation-latest", input="Hello")).results
    assert {entry.family for entry in primary.ledger} == {"responses", "chat", "embeddings", "moderations"}


async def test_stored_objects_stay_with_the_account_that_made_them(start: Any, serve: Any, sdk: Any) -> None:
    primary, second = await start("primary"), await start("second")
    client = sdk(await serve(config(primary, second)))
    made = await client.responses.create(model=MODEL, input="Hello")
    assert (await client.responses.retrieve(made.id)).output_text == made.output_text
    await client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(made.id)
    assert len(second.ledger) == 0


async def test_the_body_and_the_answer_pass_byte_for_byte(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary", keep_bodies=True)
    client = sdk(await serve(config(primary)))
    raw = await client.chat.completions.with_raw_response.create(**ask(extra_body={"unknown": {"é": [1.0, None]}}))
    entry = primary.ledger[0]
    assert entry.body == raw.http_response.request.content
    assert hashlib.sha256(raw.content).hexdigest() == entry.answer_sha256
    assert (entry.header("accept-encoding"), entry.header("host")) == ("identity", f"127.0.0.1:{primary.port}")


async def test_every_answer_says_what_happened(start: Any, serve: Any, sdk: Any) -> None:
    primary, second = await start("primary"), await start("second")
    client = sdk(await serve(config(primary, second)))
    good = (await client.chat.completions.with_raw_response.create(**ask())).headers
    assert good.keys() >= HEADERS
    assert (good["x-gateway-route"], good["x-gateway-provider"], good["x-gateway-model"]) == ("all", "primary", MODEL)
    assert good["x-gateway-attempts"] == "1"
    assert good["x-gateway-trail"].startswith("primary:ok/")
    assert good["x-request-id"] == primary.ledger[0].request_id
    primary.faults.set(Status(503))
    saved = (await client.chat.completions.with_raw_response.create(**ask())).headers
    assert (saved["x-gateway-provider"], saved["x-gateway-attempts"]) == ("second", "2")
    trail = saved["x-gateway-trail"].split(", ")
    assert [entry.partition("/")[0] for entry in trail] == ["primary:overloaded", "second:ok"]


async def test_a_lone_500_from_a_target_that_is_well_gets_one_quick_try(start: Any, serve: Any, sdk: Any) -> None:
    primary, second = await start("primary"), await start("second")
    client = sdk(await serve(config(primary, second)))
    await client.chat.completions.create(**ask())
    primary.faults.set(Status(500))
    saved = (await client.chat.completions.with_raw_response.create(**ask())).headers
    trail = [entry.partition("/")[0] for entry in saved["x-gateway-trail"].split(", ")]
    assert trail == ["primary:server_error", "primary:server_error", "second:ok"]
    again = (await client.chat.completions.with_raw_response.create(**ask())).headers
    assert [entry.partition("/")[0] for entry in again["x-gateway-trail"].split(", ")] == ["primary:server_error", "second:ok"]


async def test_the_clients_request_id_is_kept(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary")
    gateway = await serve(config(primary))
    client = sdk(gateway)
    raw = await client.chat.completions.with_raw_response.create(**ask(extra_headers={"x-request-id": "mine-1"}))
    assert raw.headers["x-gateway-request-id"] == "mine-1"
    assert (await gateway.access(1))[0]["request_id"] == "mine-1"


@pytest.mark.parametrize("mode", ["whole", "stream", "sync"])
async def test_errors_reach_the_sdk_as_its_own_exceptions_with_the_providers_words(
    start: Any, serve: Any, sdk: Any, sync_sdk: Any, mode: str
) -> None:
    primary = await start("primary")
    gateway = await serve(
        {
            # The client's own key goes through, so that 401 and 403 are about the client's account.
            "providers": {"primary": {"dialect": "openai", "base_url": primary.url}},
            "policies": {"default": {"attempts": 1}},
        }
    )
    client, blocking = sdk(gateway), sync_sdk(gateway)
    for status, expected in ERRORS:
        body = {"error": {"message": f"words for {status}", "type": "some_type", "param": "p", "code": f"code_{status}"}}
        primary.faults.set(Status(status, body=body, headers={"x-mine": "kept"}))
        with pytest.raises(openai.APIStatusError) as caught:
            if mode == "sync":
                await asyncio.to_thread(blocking.chat.completions.create, **ask())
            else:
                await client.chat.completions.create(**ask(stream=mode == "stream"))
        error = caught.value
        assert type(error) is expected
        assert error.status_code == status
        assert error.response.json() == body
        assert (error.code, error.type, error.param) == (f"code_{status}", "some_type", "p")
        assert error.response.headers["x-mine"] == "kept"
        assert hashlib.sha256(error.response.content).hexdigest() == primary.ledger[-1].answer_sha256


async def test_what_the_gateway_itself_refuses_is_json_with_a_reason(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary")
    gateway = await serve(
        {
            "providers": {"primary": account(primary)},
            "routes": [{"name": "gpt", "match": {"models": ["gpt-*"]}, "targets": ["primary"]}],
            "clients": [{"name": "team", "key": "sk-client", "models": ["gpt-4*", "claude-*"]}],
        }
    )
    cases = [
        ("no_route", openai.NotFoundError, {}, ask(model="claude-4")),
        ("model_not_allowed", openai.PermissionDeniedError, {}, ask(model="gpt-3.5-turbo")),
        ("unknown_client", openai.AuthenticationError, {"api_key": "sk-stranger"}, ask()),
        ("bad_request", openai.BadRequestError, {}, ask(extra_headers={"x-gateway-timeout": "soon"})),
    ]
    for reason, expected, settings, arguments in cases:
        with pytest.raises(expected) as caught:
            await sdk(gateway, **settings).chat.completions.create(**arguments)
        error = caught.value
        assert error.response.headers["x-gateway-reason"] == reason
        assert error.response.headers["content-type"] == "application/json"
        assert error.code == reason
        assert error.message
        assert error.response.headers["x-gateway-request-id"]
    assert len(primary.ledger) == 0
    lines = await gateway.access(len(cases))
    assert sorted(line["reason"] for line in lines) == sorted(case[0] for case in cases)
    assert "sk-stranger" not in gateway.process.out.text


async def test_an_edges_html_page_never_reaches_the_client(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary")
    client = sdk(await serve(config(primary, policy={"attempts": 1})))
    for status in (502, 403, 200):
        primary.faults.set(Html(status))
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(**ask())
        response = caught.value.response
        assert response.status_code >= 500
        assert response.headers["content-type"] == "application/json"
        assert "<" not in response.text
        assert response.json()["error"]["code"] == response.headers["x-gateway-reason"]


async def test_a_thousand_calls_on_one_connection(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary", tokens=2)
    gateway = await serve(config(primary))
    client, addresses = sdk(gateway), set()
    for number in range(1000):
        raw = await client.chat.completions.with_raw_response.create(**ask(stream=number % 10 == 0))
        stream = raw.http_response.extensions["network_stream"]
        addresses.add(stream.get_extra_info("client_addr"))
        if number % 10 == 0:
            assert said([chunk async for chunk in raw.parse()]) == primary.voice.text(PROMPT)
        else:
            assert raw.parse().choices[0].message.content == primary.voice.text(PROMPT)
    assert len(addresses) == 1
    assert (len(primary.ledger), primary.ledger.connections) == (1000, 1)
    assert await gateway.metric("gateway_requests_total", outcome="ok") == 1000


async def test_an_idle_connection_that_the_provider_closed_is_replaced_unseen(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary")
    gateway = await serve(config(primary))
    client = sdk(gateway)
    primary.faults.set(Hangup())
    for _ in range(20):
        raw = await client.chat.completions.with_raw_response.create(**ask())
        assert raw.headers["x-gateway-attempts"] == "1"
    assert len(primary.ledger) == 20
    assert primary.ledger.connections == 20
    assert await gateway.metric("gateway_attempts_total", verdict="ok") == 20
    assert await gateway.metric("gateway_attempts_total") == 20


async def test_models_of_one_provider_and_its_other_addresses(start: Any, serve: Any, sdk: Any) -> None:
    primary, second = await start("primary", models=["gpt-4o"]), await start("second", models=["gpt-4.1"])
    gateway = await serve(config(primary, second))
    client = sdk(gateway, base_url=f"{gateway.origin}/providers/second/v1")
    assert [model.id async for model in client.models.list()] == ["gpt-4.1"]
    raw = await client.chat.completions.with_raw_response.create(**ask(model="gpt-4.1"))
    assert (raw.headers["x-gateway-provider"], raw.headers["x-gateway-route"]) == ("second", "direct")
    with pytest.raises(openai.NotFoundError) as caught:
        await sdk(gateway, base_url=f"{gateway.origin}/providers/nobody/v1").models.list()
    assert caught.value.response.headers["x-gateway-reason"] == "no_route"
    assert len(primary.ledger) == 0


async def test_the_azure_client_talks_to_an_openai_provider(start: Any, serve: Any) -> None:
    primary = await start("primary")
    gateway = await serve(config(primary))
    async with openai.AsyncAzureOpenAI(
        azure_endpoint=gateway.origin, api_key="sk-azure", api_version="2024-10-21", max_retries=0
    ) as client:
        answer = await client.chat.completions.create(**ask())
        stream = await client.chat.completions.create(**ask(stream=True))
        assert said([chunk async for chunk in stream]) == answer.choices[0].message.content == primary.voice.text(PROMPT)
    assert {(entry.target, entry.model) for entry in primary.ledger} == {("/v1/chat/completions", MODEL)}
    assert all(entry.header("api-key") is None for entry in primary.ledger)


@pytest.mark.parametrize(
    ("version", "target", "model_in_body"),
    [
        ("2024-10-21", "/openai/deployments/gpt-4o-prod/chat/completions?api-version=2024-10-21", MODEL),
        (None, "/openai/v1/chat/completions", "gpt-4o-prod"),
    ],
)
async def test_an_azure_provider_is_spoken_to_in_its_dialect(
    start: Any, serve: Any, sdk: Any, version: str | None, target: str, model_in_body: str
) -> None:
    primary = await start("primary")
    azure = await start("azure", keep_bodies=True, keys=["azure-secret"])
    entry = {"dialect": "azure", "base_url": azure.origin, "api_key": "azure-secret"}
    gateway = await serve(
        {
            "providers": {"primary": account(primary), "azure": entry | ({"api_version": version} if version else {})},
            "routes": [{"name": "all", "match": {}, "targets": ["primary", {"provider": "azure", "model": "gpt-4o-prod"}]}],
        }
    )
    client = sdk(gateway)
    primary.faults.set(Status(503))
    answer = await client.chat.completions.create(**ask())
    assert answer.choices[0].message.content == azure.voice.text(PROMPT)
    stream = await client.chat.completions.create(**ask(stream=True))
    assert said([chunk async for chunk in stream]) == azure.voice.text(PROMPT)
    assert [seen.target for seen in azure.ledger] == [target, target]
    assert [json.loads(seen.body or b"")["model"] for seen in azure.ledger] == [model_in_body] * 2
    assert azure.ledger[0].header("api-key") == "azure-secret"
    assert azure.ledger[0].header("authorization") is None


async def test_a_target_may_rename_the_model(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary", keep_bodies=True)
    gateway = await serve(
        {
            "providers": {"primary": account(primary)},
            "routes": [
                {"name": "alias", "match": {"models": ["fast"]}, "targets": [{"provider": "primary", "model": "gpt-4o-mini"}]}
            ],
        }
    )
    raw = await sdk(gateway).chat.completions.with_raw_response.create(**ask(model="fast"))
    sent = raw.http_response.request.content
    assert primary.ledger[0].body == sent.replace(b'"fast"', b'"gpt-4o-mini"')
    assert raw.headers["x-gateway-model"] == "gpt-4o-mini"


async def test_the_clients_own_key_goes_to_the_provider_it_was_meant_for_and_no_other(start: Any, serve: Any, sdk: Any) -> None:
    primary, second = await start("primary"), await start("second")
    gateway = await serve(
        {
            "providers": {"primary": {"dialect": "openai", "base_url": primary.url}, "second": account(second)},
            "routes": [{"name": "all", "match": {}, "targets": ["primary", "second"]}],
            "policies": {"default": {"attempts": 2, "backoff": {"base": "10ms", "cap": "20ms"}}},
        }
    )
    client = sdk(gateway, api_key="sk-canary-client", organization="org-canary")
    await client.chat.completions.create(**ask())
    assert primary.ledger[0].header("authorization") == "Bearer sk-canary-client"
    assert primary.ledger[0].header("openai-organization") == "org-canary"
    primary.faults.set(Status(500))
    with pytest.raises(openai.InternalServerError):
        await client.chat.completions.create(**ask())
    primary.faults.clear()
    await primary.refuse()
    with pytest.raises(openai.APIStatusError) as caught:
        await client.chat.completions.create(**ask())
    assert "canary" not in caught.value.response.text + str(caught.value.response.headers)
    assert len(second.ledger) == 0


async def test_no_key_appears_anywhere_but_at_its_own_provider(start: Any, serve: Any, sdk: Any) -> None:
    primary, second = await start("primary", keys=["sk-canary-primary"]), await start("second", keys=["sk-other"])
    providers = {
        "primary": account(primary, api_key="sk-canary-primary"),
        "second": account(second, api_key="sk-canary-second", headers={"x-team": "canary-header"}),
    }
    gateway = await serve(
        {
            "providers": providers,
            "routes": [{"name": "all", "match": {}, "targets": ["primary", "second"]}],
            "clients": [{"name": "team", "key": "sk-canary-client"}],
            "admin": {"token": "canary-token"},
            "policies": {"default": {"attempts": 2}},
        }
    )
    client = sdk(gateway, api_key="sk-canary-client", organization="org-canary", default_headers={"cookie": "canary=1"})
    shown = []
    await client.chat.completions.create(**ask())
    primary.faults.set(Status(500))
    # The second provider refuses our key, and quotes it in its own error.
    with pytest.raises(openai.APIStatusError) as caught:
        await client.chat.completions.create(**ask())
    shown.append(caught.value.response.text + str(caught.value.response.headers))
    with pytest.raises(openai.AuthenticationError) as caught:
        await sdk(gateway, api_key="sk-canary-stranger").chat.completions.create(**ask())
    shown.append(caught.value.response.text + str(caught.value.response.headers))
    assert (await gateway.admin("/metrics"))[0] == 401
    headers = {"authorization": "Bearer canary-token"}
    async with httpx2.AsyncClient() as http:
        page = await http.get(f"http://127.0.0.1:{gateway.admin_port}/metrics", headers=headers)
    assert page.status_code == 200
    shown.append(page.text)
    await gateway.access(3)
    assert await gateway.stop() == 0
    shown += [gateway.process.out.text, gateway.process.err.text]
    assert not [text for text in shown if "canary" in text]
    for provider, own in ((primary, "primary"), (second, "second")):
        seen = str([entry.headers for entry in provider.ledger])
        assert f"sk-canary-{own}" in seen
        assert "client" not in seen
        assert "org-canary" not in seen
        assert "canary=1" not in seen
        assert ("sk-canary-second" in seen, "sk-canary-primary" in seen) == (own == "second", own == "primary")


BIG = 100_000_000


@pytest.mark.parametrize("path", ["/v1/files", "/v1/audio/transcriptions"])
async def test_an_upload_of_a_hundred_megabytes_passes_and_is_not_kept(start: Any, serve: Any, sdk: Any, path: str) -> None:
    primary, second = await start("primary"), await start("second")
    gateway = await serve(config(primary, second))
    client = sdk(gateway, timeout=120)
    before = await gateway.metric("process_resident_memory_bytes")
    file = ("big.bin", b"0123456789" * (BIG // 10))
    if path == "/v1/files":
        primary.faults.set(Status(200, body={"id": "file-1", "object": "file", "bytes": BIG}))
        raw = await client.files.with_raw_response.create(file=file, purpose="batch")
        assert raw.parse().bytes == BIG
    else:
        primary.faults.set(Status(200, body={"text": "said"}))
        raw = await client.audio.transcriptions.with_raw_response.create(file=file, model="whisper-1")
        assert raw.parse().text == "said"
    digest = hashlib.sha256()
    async for piece in raw.http_response.request.stream:
        digest.update(piece)
    entry = primary.ledger[0]
    assert (entry.path, entry.body_sha256, len(primary.ledger), len(second.ledger)) == (path, digest.hexdigest(), 1, 0)
    assert (await gateway.access(1))[0]["bytes_in"] == entry.body_bytes > BIG
    # What may be kept for a second attempt is 32 MiB; the rest is the allocator's and the sockets'.
    assert await gateway.metric("process_resident_memory_bytes") - before < BIG


async def test_an_upload_that_is_refused_before_its_end_gives_the_sdk_the_refusal(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary")
    gateway = await serve({"providers": {"primary": {"dialect": "openai", "base_url": primary.url}}})
    primary.faults.set(Status(401, early=True))
    for size in (1_000_000, 10_000_000):
        with pytest.raises(openai.AuthenticationError):
            await sdk(gateway).files.create(file=("some.bin", b"x" * size), purpose="batch")


async def test_a_client_that_leaves_its_upload_takes_the_attempt_with_it(start: Any, serve: Any) -> None:
    primary, second = await start("primary"), await start("second")
    gateway = await serve(config(primary, second))
    # It only makes the ledger tell that the head has come.
    primary.faults.set(Latency(0.0, early=True))
    peer = RawPeer(*await asyncio.open_connection("127.0.0.1", gateway.port))
    peer.writer.write(b"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n" + b"x" * 1000)
    async with asyncio.timeout(PATIENCE_S):
        await primary.ledger.until(lambda ledger: any(entry.faults for entry in ledger))
        peer.leave()
        await primary.ledger.until(lambda ledger: ledger.inflight == 0)
    assert primary.ledger[0].end is End.PEER_LEFT
    assert (await gateway.access(1))[0]["outcome"] == "client_gone"
    assert len(second.ledger) == 0


async def test_a_kept_upload_is_repeated_elsewhere_whole(start: Any, serve: Any, sdk: Any) -> None:
    primary, second = await start("primary"), await start("second")
    gateway = await serve(config(primary, second))
    primary.faults.set(Status(503))
    second.faults.set(Status(200, body={"text": "said"}))
    raw = await sdk(gateway).audio.transcriptions.with_raw_response.create(file=("a.wav", b"x" * 5_000_000), model="whisper-1")
    assert raw.parse().text == "said"
    assert primary.ledger[0].body_sha256 == second.ledger[0].body_sha256 != ""
