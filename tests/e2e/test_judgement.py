"""Each kind of failure gets what it deserves, as seen from outside: by the provider's ledger, the client's answer, log and metrics."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import Any

import openai
import pytest

from gateway.drill.faults import Html, Only, Stall, Status
from gateway.drill.ledger import key_hash
from tests.e2e.crowd import App, show
from tests.e2e.shapes import PROMPT, account, ask, config, said

REVOKED = "sk-revoked-0123456789abcdefghij"
GOOD = "sk-good"
AFTERWARDS = 50
"""Calls after the first one: a key that is out of use must not be met by any of them."""
EMPTY_WALLET = Status(
    429,
    body={
        "error": {
            "message": "You exceeded your current quota, please check your plan and billing details.",
            "type": "insufficient_quota",
            "param": None,
            "code": "insufficient_quota",
        }
    },
)
NO_ACCESS = {
    "error": {
        "message": "Project `proj_1` does not have permission to use this model.",
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }
}


# -- keys and wallets ---------------------------------------------------------------------------------------------------------


async def test_a_revoked_key_is_asked_once_and_the_next_key_serves(start: Any, serve: Any, capsys: Any) -> None:
    primary, second = await start("primary", keys=[GOOD]), await start("second")
    settings = config(primary, second)
    settings["providers"]["primary"]["api_key"] = [REVOKED, GOOD]
    gateway = await serve(settings)
    async with App(gateway.url) as app:
        first = await app.ask()
        rest = [await app.ask(stream=turn % 2 == 0) for turn in range(AFTERWARDS)]
    assert first.said_by(primary.voice)
    assert first.trail == ["primary:credential", "primary:ok"]
    assert [told for told in rest if not told.said_by(primary.voice) or told.trail != ["primary:ok"]] == []
    revoked = primary.ledger.select(key=key_hash(REVOKED))
    show(
        capsys,
        f"revoked key, another beside it: {len(revoked)} attempt with it in {1 + AFTERWARDS} calls, all answered by its neighbour",
    )
    assert [entry.status for entry in revoked] == [401]
    assert len(second.ledger) == 0
    assert await gateway.metric("gateway_credentials_benched", provider="primary") == 1
    assert await gateway.metric("gateway_attempts_total", provider="primary", verdict="credential") == 1
    assert await gateway.metric("gateway_breaker_transitions_total") == 0
    lines = await gateway.access(1 + AFTERWARDS)
    assert (lines[0]["attempts"], lines[0]["saved_by"], lines[0]["upstream_status"]) == (2, "retry", 200)
    await unseen(gateway, REVOKED, [first, *rest])


async def test_the_only_key_is_revoked_and_the_next_target_serves(start: Any, serve: Any, capsys: Any) -> None:
    primary, second = await start("primary", keys=[GOOD]), await start("second")
    settings = config(primary, second)
    settings["providers"]["primary"]["api_key"] = REVOKED
    gateway = await serve(settings)
    async with App(gateway.url) as app:
        first = await app.ask()
        rest = [await app.ask(stream=turn % 2 == 0) for turn in range(AFTERWARDS)]
    assert first.said_by(second.voice)
    assert first.trail == ["primary:credential", "second:ok"]
    assert [told for told in rest if not told.said_by(second.voice) or told.trail != ["second:ok"]] == []
    show(
        capsys, f"only key revoked, another provider: {len(primary.ledger)} attempt with it in {1 + AFTERWARDS} calls, all answered"
    )
    assert [(entry.status, entry.key) for entry in primary.ledger] == [(401, key_hash(REVOKED))]
    assert await gateway.metric("gateway_credentials_benched", provider="primary") == 1
    # Every key it has was refused: that may be the provider's own trouble, and its breaker decides when to look again.
    assert await gateway.metric("gateway_breaker_transitions_total", provider="primary", family="", to="open") == 1
    await unseen(gateway, REVOKED, [first, *rest])


async def test_the_only_key_of_the_only_provider_is_revoked(start: Any, serve: Any, capsys: Any) -> None:
    primary = await start("primary", keys=[GOOD])
    settings = config(primary)
    settings["providers"]["primary"]["api_key"] = REVOKED
    gateway = await serve(settings)
    async with App(gateway.url) as app:
        told = [await app.ask(stream=turn % 2 == 1) for turn in range(1 + AFTERWARDS)]
    asked, slowest_s = sum(one.attempts for one in told), max(one.took_s for one in told)
    show(
        capsys,
        f"only key of the only provider revoked: {asked} attempts in {len(told)} calls, slowest {slowest_s:.2f} s; {told[-1].status} {told[-1].reason}",
    )
    assert [one.status for one in told if one.status != 503] == []
    assert all(one.error["message"] for one in told)
    assert len(primary.ledger) == asked <= 2
    # No SDK waits for a refused key to be accepted, so nobody is made to wait for it here.
    assert slowest_s < 2
    await unseen(gateway, REVOKED, told)


async def test_a_403_on_one_model_keeps_the_key_for_the_others(start: Any, serve: Any) -> None:
    primary, second = await start("primary"), await start("second")
    gateway = await serve(config(primary, second))
    primary.faults.set(Status(403, body=NO_ACCESS, only=Only(model="forbidden")))
    async with App(gateway.url) as app:
        forbidden = [await app.ask(model="forbidden") for _ in range(10)]
        allowed = [await app.ask(model="allowed") for _ in range(10)]
    assert [told.trail for told in forbidden] == [["primary:credential", "second:ok"]] + [["second:ok"]] * 9
    assert [told.trail for told in allowed] == [["primary:ok"]] * 10
    assert len(primary.ledger.select(model="forbidden")) == 1


async def test_an_empty_wallet_is_asked_once_and_never_waited_for(start: Any, serve: Any, capsys: Any) -> None:
    primary, second = await start("primary"), await start("second")
    gateway = await serve(config(primary, second))
    # Even where it comes with the headers of a rate limit that will soon be over.
    headers = {"retry-after": "1", "retry-after-ms": "600", "x-ratelimit-remaining-requests": "4999"}
    primary.faults.set(Status(429, body=EMPTY_WALLET.body, headers=headers))
    async with App(gateway.url) as app:
        first = await app.ask()
        rest = [await app.ask(stream=turn % 2 == 0) for turn in range(AFTERWARDS)]
    show(
        capsys,
        f"empty wallet: {len(primary.ledger)} attempt in {1 + AFTERWARDS} calls, the first answered in {1000 * first.took_s:.1f} ms",
    )
    assert first.trail == ["primary:billing", "second:ok"]
    assert first.took_s < 0.6
    assert [told for told in rest if told.trail != ["second:ok"]] == []
    assert all(told.said_by(second.voice) for told in (first, *rest))
    assert len(primary.ledger) == 1
    assert await gateway.metric("gateway_credentials_benched", provider="primary") == 1
    assert await gateway.metric("gateway_attempts_total", provider="primary", kind="retry") == 0
    assert await gateway.metric("gateway_breaker_transitions_total") == 0


async def test_an_empty_wallet_without_alternative_is_told_at_once(start: Any, serve: Any) -> None:
    primary = await start("primary")
    gateway = await serve(config(primary))
    primary.faults.set(EMPTY_WALLET)
    async with App(gateway.url) as app:
        told = [await app.ask(stream=turn % 2 == 1) for turn in range(10)]
    assert [one.attempts for one in told] == [1] + [0] * 9
    assert len(primary.ledger) == 1
    assert all(one.status == 503 and one.error["message"] for one in told)
    assert max(one.took_s for one in told) < 2
    assert not told[0].worth_retrying


async def test_nobody_is_told_to_wait_for_a_wallet_to_be_filled(start: Any, serve: Any) -> None:
    """An SDK that is asked to come back in a minute does so twice, and keeps its app for two; alone it gives up after 1.5 s."""
    primary = await start("primary")
    gateway = await serve(config(primary))
    primary.faults.set(EMPTY_WALLET)
    async with App(gateway.url) as app:
        told = [await app.ask() for _ in range(3)]
    assert [(one.reason, one.headers["x-should-retry"], one.retried_after_s) for one in told if one.worth_retrying] == []


async def test_a_429_that_leaves_quota_keeps_nobody_away_for_long(start: Any, serve: Any, capsys: Any) -> None:
    primary, second = await start("primary"), await start("second")
    gateway = await serve(config(primary, second))
    left = {"x-ratelimit-limit-requests": "5000", "x-ratelimit-remaining-requests": "4999", "x-ratelimit-remaining-tokens": "90000"}
    primary.faults.set(Status(429, headers=left, times=1))
    async with App(gateway.url) as app:
        told = await app.ask()
        assert told.trail == ["primary:rate_limited", "second:ok"]
        async with asyncio.timeout(10):
            while (again := await app.ask()).provider != "primary":
                assert again.trail == ["second:ok"]
    away_s = again.at_s - told.at_s
    show(
        capsys,
        f"false 429, quota left: back on the primary after {away_s:.2f} s, {len(app.told)} of {len(app.told)} calls answered",
    )
    assert away_s < 1.5
    assert all(one.status == 200 for one in app.told)


async def unseen(gateway: Any, secret: str, told: list[Any]) -> None:
    """No part of a key is anywhere that anybody but its provider looks; OpenAI's 401 shows both ends of it."""
    shown = re.compile(f"{secret}|{re.escape(secret[:4])}\\*+|\\*{{4,}}{secret[-4:]}")
    places = {
        "answers": " ".join(f"{dict(one.headers)} {one.body!r}" for one in told),
        "log": gateway.process.out.text + gateway.process.err.text,
        "metrics": (await gateway.admin("/metrics"))[1],
        "status": (await gateway.admin("/status.json"))[1],
    }
    assert {name: found[0] for name, text in places.items() if (found := shown.search(text))} == {}


# -- pages --------------------------------------------------------------------------------------------------------------------

PAGES = {"bad-gateway": Html(502), "blocked": Html(403), "unknown": Html(520), "challenge": Html(503), "captive": Html(200)}


async def test_a_page_of_the_edge_is_never_an_answer(start: Any, serve: Any) -> None:
    """A page on one target leads elsewhere; a page on all of them is told in JSON, to streams too."""
    one, two, well = await start("one"), await start("two"), await start("well")
    edges = {f"{name}-{number}": provider for name in PAGES for number, provider in enumerate((one, two))}
    targets = {f"{name}-one": [f"{name}-0", "well"] for name in PAGES} | {
        f"{name}-all": [f"{name}-0", f"{name}-1"] for name in PAGES
    }
    gateway = await serve(
        {
            # Accounts of their own, so that nothing learned from one page is known of another.
            "providers": {"well": account(well)}
            | {name: account(provider, api_key=f"sk-{name}") for name, provider in edges.items()},
            "routes": [{"name": name, "match": {"models": [name]}, "targets": asked} for name, asked in targets.items()],
        }
    )
    for number, provider in enumerate((one, two)):
        provider.faults.set(*(replace(page, only=Only(key=f"sk-{name}-{number}")) for name, page in PAGES.items()))
    async with App(gateway.url) as app:
        for name in PAGES:
            for stream in (False, True):
                told = await app.ask(model=f"{name}-one", stream=stream)
                assert told.said_by(well.voice)
                assert told.trail == [f"{name}-0:edge_blocked", "well:ok"]
            for turn in range(8):
                told = await app.ask(model=f"{name}-all", stream=turn % 2 == 1)
                assert told.status >= 500
                assert told.error["message"]
                assert b"<" not in told.body
                assert not [line for line in told.headers.items() if "cloudflare" in line[1] or line[0].lower() == "cf-ray"]
    assert await gateway.metric("gateway_requests_total", outcome="ok") == 2 * len(PAGES)


# -- the official SDK ---------------------------------------------------------------------------------------------------------

SEED = 5
CALLS = 16


async def test_a_flaky_provider_is_no_worse_through_us_than_for_the_sdk_alone(
    start: Any, serve: Any, sdk: Any, sync_sdk: Any, capsys: Any
) -> None:
    """One sole provider, half of whose answers are 503: four times the same dice, for both SDKs, with and without us."""
    lanes = {name: await start("primary", seed=SEED) for name in ("async through us", "sync through us", "async", "sync")}
    for provider in lanes.values():
        provider.faults.set(Status(503, probability=0.5))
    through = {"a": account(lanes["async through us"]), "s": account(lanes["sync through us"])}
    gateway = await serve(
        {
            "providers": through,
            "routes": [{"name": name, "match": {"models": [name]}, "targets": [name]} for name in through],
        }
    )
    ours = {"max_retries": openai.DEFAULT_MAX_RETRIES}
    clients = {
        "async through us": (sdk(gateway, **ours), "a"),
        "sync through us": (sync_sdk(gateway, **ours), "s"),
        "async": (sdk(gateway, **ours, base_url=lanes["async"].url), "a"),
        "sync": (sync_sdk(gateway, **ours, base_url=lanes["sync"].url), "s"),
    }
    answered = dict(
        zip(clients, await asyncio.gather(*(succeed(client, model) for client, model in clients.values())), strict=True)
    )
    show(
        capsys,
        f"sole provider, half of it 503, {CALLS} calls of the SDK: "
        + "; ".join(f"{name} {answered[name]} ({len(lanes[name].ledger)} attempts)" for name in lanes),
    )
    assert answered["async"] == answered["sync"] < CALLS, "the dice never made the SDK give up: nothing was compared"
    assert answered["async through us"] >= answered["async"]
    assert answered["sync through us"] >= answered["sync"]
    assert (
        await gateway.metric("gateway_requests_total", outcome="ok") == answered["async through us"] + answered["sync through us"]
    )


async def succeed(client: openai.AsyncOpenAI | openai.OpenAI, model: str) -> int:
    """Make the calls one after the other; return how many were answered."""
    answered = 0
    for _ in range(CALLS):
        try:
            if isinstance(client, openai.OpenAI):
                answer: Any = await asyncio.to_thread(client.chat.completions.create, **ask(model=model))
            else:
                answer = await client.chat.completions.create(**ask(model=model))
        except openai.InternalServerError:
            continue
        assert answer.choices[0].message.content
        answered += 1
    return answered


async def test_what_is_a_retry_already_is_not_retried_by_us_too(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary")
    gateway = await serve(config(primary))
    primary.faults.set(Status(503))
    with pytest.raises(openai.InternalServerError) as caught:
        await sdk(gateway).chat.completions.create(**ask(extra_headers={"x-stainless-retry-count": "1"}))
    assert (caught.value.response.headers["x-gateway-attempts"], len(primary.ledger)) == ("1", 1)
    assert caught.value.response.headers.get("x-should-retry") != "false", "its SDK has one more retry, which is not ours to forbid"
    assert primary.ledger[0].header("x-stainless-retry-count") in {None, "1"}
    with pytest.raises(openai.InternalServerError) as caught:
        await sdk(gateway).chat.completions.create(**ask())
    assert int(caught.value.response.headers["x-gateway-attempts"]) > 1


PATIENCE_S = 3.0


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_the_sdk_is_answered_before_it_gives_up(
    start: Any, serve: Any, sdk: Any, sync_sdk: Any, capsys: Any, stream: bool
) -> None:
    silent, second = await start("silent"), await start("second")
    gateway = await serve(
        {
            "providers": {"silent": account(silent), "second": account(second)},
            "routes": [
                {"name": "sole", "match": {"models": ["sole"]}, "targets": ["silent"]},
                {"name": "pair", "match": {"models": ["pair"]}, "targets": ["silent", "second"], "policy": "brisk"},
            ],
            "policies": {"brisk": {"timeouts": {"answer": "1s", "first_token": "1s"}}},
        }
    )
    silent.faults.set(Stall(before="head"))
    hurried = {"timeout": PATIENCE_S, "max_retries": openai.DEFAULT_MAX_RETRIES}
    clients = {"async": sdk(gateway, **hurried), "sync": sync_sdk(gateway, **hurried)}
    loop = asyncio.get_running_loop()

    async def call(client: Any, model: str) -> tuple[float, Any, str]:
        began_s, arguments, text = loop.time(), ask(model=model, stream=stream), ""
        try:
            if isinstance(client, openai.OpenAI):
                answer: Any = await asyncio.to_thread(client.chat.completions.with_raw_response.create, **arguments)
                parsed = answer.parse()
                text = said(await asyncio.to_thread(list, parsed)) if stream else parsed.choices[0].message.content
            else:
                answer = await client.chat.completions.with_raw_response.create(**arguments)
                parsed = answer.parse()
                text = said([chunk async for chunk in parsed]) if stream else parsed.choices[0].message.content
        except openai.APIError as error:
            answer = error
        return loop.time() - began_s, answer, text

    results = await asyncio.gather(*(call(client, model) for client in clients.values() for model in ("sole", "pair")))
    for took_s, answer, _ in results[::2]:
        # A timeout of the SDK's own would be an APITimeoutError, after three times as long.
        assert isinstance(answer, openai.InternalServerError), repr(answer)
        assert (answer.status_code, answer.response.headers["x-gateway-reason"]) == (504, "deadline")
        assert answer.response.json()["error"]["message"]
        assert took_s < PATIENCE_S
    for took_s, answer, text in results[1::2]:
        assert text == second.voice.text(PROMPT), repr(answer)
        assert answer.headers["x-gateway-provider"] == "second"
        assert took_s < PATIENCE_S
    show(
        capsys,
        f"silent provider, timeout={PATIENCE_S:.0f}: told after {results[0][0]:.2f} s; with another provider answered after {results[1][0]:.2f} s",
    )
    assert len(silent.ledger) == len(results)
