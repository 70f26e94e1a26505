"""Providers fail in every way there is, and the app sees nothing but answers."""

from __future__ import annotations

import asyncio
import re
import sys
from collections import Counter
from dataclasses import replace
from typing import Any, Self

import openai
import orjson
import pytest

from gateway.drill.answers import Voice
from gateway.drill.faults import Cut, Html, Latency, Only, RateLimit, Raw, Reset, Stall, Status, WrongLength
from gateway.drill.ledger import End
from tests.e2e.process import PATIENCE_S, ROOT, environment
from tests.e2e.shapes import MODEL, PROMPT, account, ask, config, said

BRISK = {"timeouts": {"answer": "500ms", "first_token": "500ms"}}


class App:
    """Some workers that ask on and on, each answer checked to its last word; what was not an answer is kept."""

    def __init__(self, client: openai.AsyncOpenAI, voices: dict[str, Any], workers: int = 8) -> None:
        self.client = client
        self.voices = voices
        self.answers: Counter[str] = Counter()
        self.broken: list[openai.APIError] = []
        """Streams that ended in an error after their first words: what a death mid-sentence looks like, and nothing can mend."""
        self.surprises: list[Any] = []
        """Whatever else was not an answer."""
        self._answered = asyncio.Event()
        self._over = False
        self._workers = workers

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._work(number)) for number in range(self._workers)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over = True
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*self._tasks)

    async def more(self, count: int, of: str = "") -> None:
        """Wait for so many answers from now on, of one provider or of any."""
        until = self._count(of) + count
        async with asyncio.timeout(PATIENCE_S * 2):
            while self._count(of) < until and not self.surprises:
                self._answered.clear()
                await self._answered.wait()

    def _count(self, of: str) -> int:
        return self.answers[of] if of else self.answers.total()

    async def _work(self, number: int) -> None:
        turn = number
        while not self._over:
            turn, chunks = turn + 1, []
            try:
                raw = await self.client.chat.completions.with_raw_response.create(**ask(stream=turn % 2 == 0))
                parsed = raw.parse()
                if turn % 2 == 0:
                    async for chunk in parsed:
                        chunks.append(chunk)  # noqa: PERF401 - what came before an error is kept
                text = said(chunks) if turn % 2 == 0 else parsed.choices[0].message.content
            except Exception as error:
                cut = type(error) is openai.APIError and said(chunks)
                (self.broken if cut else self.surprises).append(error)
            else:
                provider = raw.headers["x-gateway-provider"]
                if text == self.voices[provider].text(PROMPT):
                    self.answers[provider] += 1
                else:
                    self.surprises.append((provider, text))
            self._answered.set()


async def test_the_primary_dies_mid_traffic_and_the_app_sees_nothing_but_answers(start: Any, serve: Any, sdk: Any) -> None:
    primary, second = await start("primary", latency=0.02), await start("second", latency=0.02)
    gateway = await serve(config(primary, second, provider_defaults={"breaker": {"open": "500ms", "max_open": "1s", "ramp": "1s"}}))
    async with App(sdk(gateway), {"primary": primary.voice, "second": second.voice}) as app:
        await app.more(60, of="primary")
        await primary.refuse()
        await app.more(100, of="second")
        await primary.accept()
        await app.more(30, of="primary")
    assert app.surprises == []
    # Only a stream of which the first words were out at that very moment may have been cut: at most one for each worker.
    assert len(app.broken) <= 4
    assert await gateway.until_metric("gateway_requests_total", lambda value: value == app.answers.total(), outcome="ok")
    assert await gateway.metric("gateway_requests_total") == app.answers.total() + len(app.broken)
    assert await gateway.metric("gateway_saved_requests_total", by="failover") > 0
    assert await gateway.metric("gateway_inflight_requests") == 0
    assert {line["provider"] for line in await gateway.access(app.answers.total())} == {"primary", "second"}


async def test_a_provider_that_is_killed_as_a_process_is_survived_too(start: Any, serve: Any, sdk: Any) -> None:
    second = await start("second")
    async with provider_process("primary") as primary:
        entry = {"dialect": "openai", "base_url": primary["url"], "api_key": "sk-primary"}
        gateway = await serve(
            {
                "providers": {"primary": entry, "second": account(second)},
                "routes": [{"name": "all", "match": {}, "targets": ["primary", "second"]}],
            }
        )
        async with App(sdk(gateway), {"primary": Voice("primary", 20), "second": second.voice}) as app:
            await app.more(40, of="primary")
            primary["process"].kill()
            await app.more(60, of="second")
    assert app.surprises == []
    assert len(app.broken) <= 4


FAULTS = {
    "502": Status(502),
    "500 with a word": Status(500, body={"error": {"message": "The server had an error", "type": "server_error"}}),
    "503": Status(503, headers={"retry-after": "1"}),
    "529": Status(529),
    "html 502": Html(502),
    "html 403": Html(403),
    "html 200": Html(200),
    "429": Status(429, headers={"retry-after": "30"}),
    "out of money": Status(429, body={"error": {"message": "quota", "type": "insufficient_quota", "code": "insufficient_quota"}}),
    "key refused": Status(401),
    "model gone": Status(404, body={"error": {"message": "no model", "type": "x", "param": None, "code": "model_not_found"}}),
    "reset before the head": Reset(),
    "reset in the head": Reset(after_bytes=20),
    "reset in the body": Reset(after_bytes=20, part="body"),
    "body cut": Cut(after_bytes=100, how="close"),
    "too long announced": WrongLength(by=50),
    "not http": Raw("SSH-2.0-OpenSSH_9.6\r\n"),
    "hung up on": Raw(""),
    "half a head": Raw("HTTP/1.1 200 OK\r\nContent-Le"),
    "error as 200": Status(200, body={"error": {"message": "Provider returned error", "code": 502}}),
    "silence": Stall(before="head"),
    "silence after the head": Stall(before="body"),
    "slow": Latency(30.0),
}


async def test_whatever_the_first_provider_does_the_second_answers(start: Any, serve: Any, sdk: Any) -> None:
    primary, second = await start("primary"), await start("second")
    # One account for every fault, so that nothing learned from one is known to another.
    names = {f"account-{number}": name for number, name in enumerate(FAULTS)}
    gateway = await serve(
        {
            "providers": {
                **{name: account(primary, api_key=f"sk-{name}") for name in names},
                "second": account(second),
            },
            "routes": [{"name": name, "match": {"models": [name]}, "targets": [name, "second"]} for name in names],
            "policies": {"default": BRISK},
        }
    )
    client = sdk(gateway)
    primary.faults.set(*(replace(FAULTS[names[name]], only=Only(key=f"sk-{name}")) for name in names))

    async def one(model: str) -> str:
        try:
            raw = await client.chat.completions.with_raw_response.create(**ask(model=model))
            text, headers = raw.parse().choices[0].message.content, raw.headers
            if (headers["x-gateway-provider"], headers["x-gateway-attempts"]) != ("second", "2"):
                return headers["x-gateway-trail"]
            stream = await client.chat.completions.create(**ask(model=model, stream=True))
            streamed = said([chunk async for chunk in stream])
        except openai.OpenAIError as error:
            return repr(error)
        # A stream that has ended is whole, whatever its provider had announced.
        allowed = [second.voice.text(PROMPT), *([primary.voice.text(PROMPT)] if names[model] == "too long announced" else [])]
        return "" if text == second.voice.text(PROMPT) and streamed in allowed else f"{text}\n{streamed}"

    results = await asyncio.gather(*map(one, names))
    assert {name: said for name, said in zip(FAULTS, results, strict=True) if said} == {}


async def test_an_error_in_the_clothes_of_a_200_is_an_error_to_the_sdk(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary")
    gateway = await serve(config(primary, policy={"attempts": 1}))
    body = {"error": {"message": "Provider returned error", "code": 502, "metadata": {"provider_name": "x"}}}
    primary.faults.set(Status(200, body=body))
    with pytest.raises(openai.InternalServerError) as caught:
        await sdk(gateway).chat.completions.create(**ask())
    assert caught.value.status_code >= 500
    assert caught.value.response.json() == body
    assert (await gateway.access(1))[0]["outcome"] == "failed"


async def test_a_dead_provider_without_an_alternative_is_an_error_the_sdk_understands(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary")
    gateway = await serve(config(primary))
    await primary.refuse()
    with pytest.raises(openai.InternalServerError) as caught:
        await sdk(gateway).chat.completions.create(**ask())
    headers = caught.value.response.headers
    assert (caught.value.status_code, headers["content-type"]) == (502, "application/json")
    assert int(headers["x-gateway-attempts"]) > 1
    assert set(re.findall(r"primary:(\w+)/", headers["x-gateway-trail"])) == {"connect"}
    await primary.accept()
    answer = await sdk(gateway, max_retries=2).chat.completions.create(**ask())
    assert answer.choices[0].message.content == primary.voice.text(PROMPT)


async def test_a_short_rate_limit_is_waited_out(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary")
    gateway = await serve(config(primary))
    primary.faults.set(RateLimit(requests=60, period_s=60, burst=1 / 60))
    client = sdk(gateway)
    for _ in range(3):
        answer = await client.chat.completions.create(**ask())
        assert answer.choices[0].message.content == primary.voice.text(PROMPT)


async def test_a_refused_key_is_benched_and_the_next_one_serves(start: Any, serve: Any, sdk: Any) -> None:
    primary, second = await start("primary", keys=["sk-good"]), await start("second")
    settings = config(primary, second)
    settings["providers"]["primary"]["api_key"] = ["sk-bad", "sk-good"]
    gateway = await serve(settings)
    client, served = sdk(gateway), []
    for _ in range(3):
        raw = await client.chat.completions.with_raw_response.create(**ask())
        assert raw.parse().choices[0].message.content
        served.append(raw.headers["x-gateway-provider"])
    assert served[1:] == ["primary", "primary"]
    assert [entry.status for entry in primary.ledger] == [401, 200, 200, 200][: len(primary.ledger)]
    assert await gateway.metric("gateway_credentials_benched", provider="primary") == 1


async def test_a_key_in_a_file_is_read_again_when_it_changes(start: Any, serve: Any, sdk: Any, tmp_path: Any) -> None:
    primary = await start("primary", keys=["sk-new"])
    secret = tmp_path / "secret"
    secret.write_text("sk-old\n")
    settings = config(primary)
    settings["providers"]["primary"]["api_key"] = f"file:{secret}"
    gateway = await serve(settings)
    with pytest.raises(openai.APIStatusError) as caught:
        await sdk(gateway).chat.completions.create(**ask())
    assert caught.value.status_code == 503
    assert "sk-old" not in caught.value.response.text
    secret.write_text("sk-new\n")
    await gateway.process.err.saying("a key was read anew")
    answer = await sdk(gateway).chat.completions.create(**ask())
    assert answer.choices[0].message.content == primary.voice.text(PROMPT)


async def test_a_gateway_that_was_pointed_at_itself_says_so(serve: Any, sdk: Any) -> None:
    gateway = await serve(
        "server: {listen: '127.0.0.1:{port}'}\n"
        "admin: {listen: '127.0.0.1:{admin_port}'}\n"
        "providers: {self: {dialect: openai, base_url: 'http://127.0.0.1:{port}/v1', api_key: sk-x}}\n"
    )
    with pytest.raises(openai.APIStatusError) as caught:
        await sdk(gateway).chat.completions.create(**ask())
    assert caught.value.response.json()["error"]["code"] == "loop_detected"
    assert 1 <= await gateway.metric("gateway_requests_total", reason="loop_detected") <= 4


async def test_a_single_provider_is_asked_again(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary")
    gateway = await serve(config(primary))
    client = sdk(gateway)
    # The reset comes first: on a connection that had been idle it would be taken for a stale one, and mended below any attempt.
    faults = [Reset(times=1), Status(500, times=1), Cut(after_bytes=50, how="rst", times=1)]
    for fault in faults:
        primary.faults.set(fault)
        raw = await client.chat.completions.with_raw_response.create(**ask())
        assert raw.parse().choices[0].message.content == primary.voice.text(PROMPT)
        assert raw.headers["x-gateway-attempts"] == "2"
    assert await gateway.until_metric("gateway_saved_requests_total", lambda value: value == len(faults), by="retry")
    assert len(primary.ledger) == 2 * len(faults)


async def test_an_answer_cut_in_the_middle_is_mended_unseen(start: Any, serve: Any, sdk: Any) -> None:
    primary, second = await start("primary", tokens=2000), await start("second", tokens=2000)
    gateway = await serve(config(primary, second))
    for how in ("rst", "close"):
        primary.faults.set(Cut(after_bytes=5000, how=how))
        raw = await sdk(gateway).chat.completions.with_raw_response.create(**ask())
        assert raw.parse().choices[0].message.content == second.voice.text(PROMPT)
        assert "primary:stream_broken/" in raw.headers["x-gateway-trail"]
        assert (primary.ledger[-1].end, primary.ledger[-1].status) == (End.CUT, 200)
    assert await gateway.until_metric("gateway_streams_broken_total", lambda value: value == 2, recovered="true")


async def test_when_all_fail_the_sdk_is_told_not_to_try_again(start: Any, serve: Any, sdk: Any) -> None:
    primary, second = await start("primary"), await start("second")
    gateway = await serve(config(primary, second, policy={"attempts": 2}))
    body = {"error": {"message": "the last words", "type": "server_error", "param": None, "code": "last"}}
    primary.faults.set(Status(500))
    second.faults.set(Status(503, body=body, headers={"x-should-retry": "true", "retry-after": "700"}))
    with pytest.raises(openai.InternalServerError) as caught:
        await sdk(gateway, max_retries=2).chat.completions.create(**ask())
    response = caught.value.response
    assert (response.status_code, response.json()) == (503, body)
    assert (response.headers["x-should-retry"], response.headers["x-gateway-attempts"]) == ("false", "2")
    assert int(response.headers["retry-after"]) <= 60
    # The SDK was willing to repeat, and obeyed.
    assert (len(primary.ledger), len(second.ledger)) == (1, 1)
    assert (await gateway.access(1))[0]["reason"] == "attempts_exhausted"


async def test_the_callers_own_mistakes_are_answered_once_and_count_against_nobody(start: Any, serve: Any, sdk: Any) -> None:
    primary, second = await start("primary"), await start("second")
    gateway = await serve(config(primary, second))
    client = sdk(gateway, max_retries=2)
    for _ in range(12):
        with pytest.raises(openai.BadRequestError):
            await client.post("/chat/completions", cast_to=object, body={"model": MODEL})
    assert (len(primary.ledger), len(second.ledger)) == (12, 0)
    assert await gateway.metric("gateway_requests_total", outcome="caller_error") == 12
    assert await gateway.metric("gateway_breaker_transitions_total") == 0


async def test_a_client_in_a_hurry_gets_its_answer_about_time_in_time(start: Any, serve: Any, sdk: Any) -> None:
    primary, second = await start("primary"), await start("second")
    gateway = await serve(config(primary, second))
    primary.faults.set(Stall(before="head"))
    with pytest.raises(openai.APIStatusError) as caught:
        await sdk(gateway).chat.completions.create(**ask(extra_headers={"x-gateway-timeout": "200ms"}))
    assert caught.value.status_code == 504
    assert caught.value.response.headers["x-gateway-reason"] == "deadline"
    # The same from the SDK's own patience, which the gateway must not outstay: a timeout of the SDK's own would be retried.
    with pytest.raises(openai.APIStatusError) as caught:
        await sdk(gateway, timeout=2.0).chat.completions.create(**ask())
    assert caught.value.response.headers["x-gateway-reason"] == "deadline"
    assert primary.ledger[0].header("x-gateway-timeout") is None
    assert await gateway.metric("gateway_breaker_transitions_total") == 0


async def test_a_rate_limited_provider_hands_over_and_is_left_alone(start: Any, serve: Any, sdk: Any) -> None:
    primary, second = await start("primary"), await start("second")
    gateway = await serve(config(primary, second, policy={"rate_limit_wait": "0s"}))
    primary.faults.set(RateLimit(requests=3, period_s=60))
    client = sdk(gateway)
    served = []
    for _ in range(10):
        raw = await client.chat.completions.with_raw_response.create(**ask())
        served.append(raw.headers["x-gateway-provider"])
    assert served == ["primary"] * 3 + ["second"] * 7
    # What it said of its limit told it all: not one refusal was needed.
    assert len(primary.ledger) == 3


async def test_a_failing_provider_is_left_alone_after_a_while_and_asked_again_later(start: Any, serve: Any, sdk: Any) -> None:
    primary, second = await start("primary"), await start("second")
    breaker = {"consecutive": 3, "open": "1s", "max_open": "1s", "ramp": "200ms"}
    gateway = await serve(config(primary, second, provider_defaults={"breaker": breaker}))
    primary.faults.set(Status(500))
    async with App(sdk(gateway), {"primary": primary.voice, "second": second.voice}, workers=2) as app:
        await gateway.until_metric(
            "gateway_breaker_transitions_total", lambda value: value >= 1, provider="primary", family="chat", to="open"
        )
        primary.faults.clear()
        await app.more(20, of="primary")
    assert app.surprises == []
    assert await gateway.metric("gateway_breaker_transitions_total", provider="second") == 0
    assert re.search(r"breaker of primary/\*/chat: open", gateway.process.err.text)


class provider_process:
    """`python -m gateway.drill.provider` until the end of the block: its line of JSON, and its process."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def __aenter__(self) -> dict[str, Any]:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway.drill.provider", "--name", self._name,
            cwd=ROOT, env=environment(), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            line = await self._process.stdout.readline()
        return {**orjson.loads(line), "process": self._process}

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.communicate()
