"""Clients with limits of their own, on real sockets: who is let in, who is told to come back, and in whose words."""

import json

import pytest

from tests.wire.plane import ANSWER, BODY, CHAT, Seen, answer, chat, error_of, plane, post, serving, settled, whole_request
from tests.wire.upstream_script import both_loops, moved_time, skip, turns

KEY = b"Authorization: Bearer team-key"


def clients(limits: str, *, priority: str = "standard") -> str:
    return f"clients: [{{name: team, key: team-key, priority: {priority}, limits: {limits}}}, {{name: other, key: other-key}}]"


def field(response, name: str) -> str:
    return (response.get(name.encode()) or b"").decode()


def used(prompt: int, output: int) -> bytes:
    document = json.loads(ANSWER)
    document["usage"] = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
    return json.dumps(document).encode()


@both_loops
async def test_a_client_beyond_its_limit_gets_429_with_advice_and_the_others_none_of_it():
    async with plane(serving(answer()), clients=clients("{requests: {rate: 6/min, burst: 1}}")) as stage:
        first, second = await stage.ask(chat(BODY, KEY)), await stage.ask(chat(BODY, KEY))
        other = await stage.ask(chat(BODY, b"Authorization: Bearer other-key"))
    assert (first.status, second.status, other.status) == (200, 429, 200)
    assert error_of(second)["code"] == "client_limit"
    assert field(second, "x-gateway-reason") == "client_limit"
    assert field(second, "x-should-retry") == "true"
    assert 9_000 <= int(field(second, "retry-after-ms")) <= 11_000
    assert field(second, "x-ratelimit-limit-requests") == "6"
    assert field(second, "x-ratelimit-remaining-requests") == "0"
    assert field(other, "x-ratelimit-limit-requests") == ""


@moved_time
async def test_who_comes_back_when_it_was_told_to_is_let_in():
    async with plane(serving(answer()), clients=clients("{requests: {rate: 6/min, burst: 1}}")) as stage:
        await stage.ask(chat(BODY, KEY))
        told = await stage.ask(chat(BODY, KEY))
        skip(int(field(told, "retry-after-ms")) / 1000)
        again = await stage.ask(chat(BODY, KEY))
    assert (told.status, again.status) == (429, 200)


@moved_time
async def test_a_wait_of_more_than_a_minute_is_not_advised():
    async with plane(serving(answer()), clients=clients("{requests: {rate: 10/h, burst: 1}}")) as stage:
        await stage.ask(chat(BODY, KEY))
        told = await stage.ask(chat(BODY, KEY))
    assert (told.status, field(told, "x-should-retry")) == (429, "false")
    assert field(told, "retry-after") == ""


ACCOUNT = (b"x-ratelimit-limit-requests: 500", b"x-ratelimit-remaining-requests: 499", b"X-RateLimit-Limit-Tokens: 30000")


@both_loops
async def test_a_client_with_limits_hears_of_its_own_and_not_of_the_accounts():
    async with plane(serving(answer(ANSWER, *ACCOUNT)), clients=clients("{requests: 600/min}")) as stage:
        team = await stage.ask(chat(BODY, KEY))
        other = await stage.ask(chat(BODY, b"Authorization: Bearer other-key"))
    assert field(team, "x-ratelimit-limit-requests") == "600"
    assert field(team, "x-ratelimit-remaining-requests") == "59"
    assert 0 < int(field(team, "x-ratelimit-reset-requests").removesuffix("ms")) <= 100
    assert field(team, "x-ratelimit-limit-tokens") == ""
    assert field(other, "x-ratelimit-limit-requests") == "500"
    assert field(other, "x-ratelimit-limit-tokens") == "30000"


@moved_time
async def test_an_anthropic_client_hears_of_its_limits_in_anthropics_words():
    async with plane(serving(answer()), clients=clients("{requests: {rate: 6/min, burst: 1}, tokens: 60k/min}")) as stage:
        request = post(b"/v1/messages", BODY, b"x-api-key: team-key", b"anthropic-version: 2023-06-01")
        await stage.ask(request)
        told = await stage.ask(request)
    assert told.status == 429
    assert json.loads(told.body)["type"] == "error"
    assert field(told, "anthropic-ratelimit-requests-limit") == "6"
    assert field(told, "anthropic-ratelimit-requests-remaining") == "0"
    assert field(told, "anthropic-ratelimit-requests-reset").endswith("Z")
    assert field(told, "anthropic-ratelimit-tokens-limit") == "60000"


@moved_time
async def test_tokens_are_charged_as_used_once_that_is_known():
    limits = "{tokens: {rate: 60k/min, burst: 10000}}"
    async with plane(serving(answer(used(40, 60))), clients=clients(limits)) as stage:
        ask = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9_000}).encode()
        first = await stage.ask(chat(ask, KEY))
        second = await stage.ask(chat(ask, KEY))
    # Reserved was nearly all of the bucket, used a hundred tokens.
    assert (first.status, second.status) == (200, 200)


@moved_time
async def test_a_request_that_was_not_carried_out_takes_no_tokens():
    refusal = answer(b'{"error": {"message": "too long", "code": "context_length_exceeded"}}', status=b"400 Bad")
    limits = "{tokens: {rate: 60k/min, burst: 10000}}"
    async with plane(serving(refusal, answer()), clients=clients(limits)) as stage:
        ask = json.dumps({"model": "gpt-4o", "messages": [], "max_tokens": 9_900}).encode()
        assert [(await stage.ask(chat(ask, KEY))).status for _ in range(2)] == [400, 200]


@moved_time
async def test_so_many_at_the_same_time_and_no_more():
    held = []

    async def slow(visit):
        await whole_request(visit)
        held.append(visit)
        await visit.gone()

    async with plane(slow, clients=clients("{concurrent: 2}")) as stage:
        busy = [await stage.connect() for _ in range(2)]
        for client in busy:
            client.send(chat(BODY, KEY))
        await settled(lambda: len(held), above=1)
        refused = await stage.ask(chat(BODY, KEY))
        assert (refused.status, field(refused, "x-gateway-reason")) == (429, "client_limit")
        assert 1_000 <= int(field(refused, "retry-after-ms")) <= 1_100
        await busy[0].close()
        await turns(20)
        third = await stage.connect()
        third.send(chat(BODY, KEY))
        await settled(lambda: len(held), above=2)


@moved_time
@pytest.mark.parametrize(
    ("wish", "status", "priority"),
    [
        (None, 200, "interactive"),
        (b"batch", 200, "batch"),
        (b"Standard ", 200, "standard"),
        (b"interactive", 200, "interactive"),
        (b"urgent", 400, "standard"),
        (b"", 400, "standard"),
    ],
)
async def test_a_request_may_lower_its_clients_priority(wish, status, priority):
    log: list[Seen] = []
    async with plane(serving(answer(), log=log), clients=clients("{requests: 600/min}", priority="interactive")) as stage:
        lines = [KEY] if wish is None else [KEY, b"x-gateway-priority: " + wish]
        response = await stage.ask(chat(BODY, *lines))
    assert (response.status, stage.watch.records[0].priority.label) == (status, priority)
    assert all(request.get(b"x-gateway-priority") is None for request in log)


@moved_time
async def test_nobody_raises_a_priority():
    async with plane(serving(answer()), clients=clients("{requests: 600/min}", priority="batch")) as stage:
        await stage.ask(chat(BODY, KEY, b"x-gateway-priority: interactive"))
    assert stage.watch.records[0].priority.label == "batch"


CARRIERS = {
    "bearer": KEY,
    "x-api-key": b"x-api-key: team-key",
    "api-key": b"api-key: team-key",
    "google": b"x-goog-api-key: team-key",
    "subprotocol": b"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.team-key, openai-beta.realtime-v1",
}
STRANGERS = {
    "no key": b"Accept: */*",
    "another": b"Authorization: Bearer team-key2",
    "half of one": b"x-api-key: team-ke",
    "an empty offer": b"Sec-WebSocket-Protocol: openai-insecure-api-key.",
    "another offer": b"Sec-WebSocket-Protocol: realtime, team-key",
}


@moved_time
@pytest.mark.parametrize("how", CARRIERS)
async def test_a_key_is_taken_wherever_a_dialect_carries_it(how):
    async with plane(serving(answer()), clients=clients("{requests: 600/min}")) as stage:
        response = await stage.ask(post(CHAT, BODY, CARRIERS[how]))
    assert (response.status, stage.watch.records[0].client) == (200, "team")


@moved_time
@pytest.mark.parametrize("how", STRANGERS)
async def test_a_stranger_learns_nothing_and_is_counted(how):
    async with plane(serving(answer()), clients=clients("{requests: 600/min}")) as stage:
        response = await stage.ask(post(CHAT, BODY, STRANGERS[how]))
        text = stage.gateway.metrics()[0].decode()
    assert response.status == 401
    assert error_of(response)["message"] == "The gateway does not accept these credentials."
    counted = [line for line in text.splitlines() if line.startswith("gateway_requests_total{") and "unknown_client" in line]
    assert [line.rpartition(" ")[2] for line in counted] == ["1"]
