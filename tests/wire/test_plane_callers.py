"""Laws 5, 11 and 12 seen from the caller's side: whose key goes where, which models may be named, and what the log says of a refusal."""

import gzip
import json

import pytest

from gateway.ingress import admission
from gateway.observe import access
from tests.wire.plane import BODY, CHAT, Seen, answer, chat, error_of, get, plane, post, serving, settled, whole_request
from tests.wire.upstream_script import both_loops, moved_time, skip

BOOM = answer(b'{"error": {"message": "boom"}}', status=b"500 Oops")
CLIENTS = "clients: [{name: team, key: team-key}, {name: small, key: small-key, models: [gpt-4o-mini]}]"


@both_loops
@pytest.mark.parametrize(
    ("query", "passed"),
    [
        (b"?key=CANARY", b""),
        (b"?a=%20b&api-key=CANARY&c", b"?a=%20b&c"),
        (b"?api%2Dkey=CANARY&key=CANARY&a=1", b"?a=1"),
        (b"?monkey=1&key_id=2", b"?monkey=1&key_id=2"),
    ],
)
async def test_a_key_in_the_query_stays_here_where_ours_goes_upstream(query, passed):
    log: list[Seen] = []
    async with plane(serving(answer(), log=log), clients=CLIENTS) as stage:
        response = await stage.ask(post(CHAT + query, BODY, b"Authorization: Bearer team-key"))
        assert (await stage.ask(get(b"/v1/models" + query, b"Authorization: Bearer team-key"))).status == 200
    assert response.status == 200
    assert [request.target for request in log] == [CHAT + passed, b"/v1/models" + passed]


@both_loops
async def test_a_clients_own_key_in_the_query_goes_to_its_provider_and_no_other():
    log: list[Seen] = []
    second: list[Seen] = []
    policy = "{attempts: 2, backoff: {base: 1ms, cap: 2ms}}"
    async with plane(serving(BOOM, log=log), serving(answer(), log=second), key=False, policy=policy) as stage:
        response = await stage.ask(post(CHAT + b"?api-key=own&a=1", BODY))
    assert response.status == 500
    assert {request.target for request in log} == {CHAT + b"?api-key=own&a=1"}
    assert not second


SMALL = b"Authorization: Bearer small-key"
GZIP = b"Content-Encoding: gzip"
UNREADABLE = {
    "compressed": post(CHAT, gzip.compress(BODY), GZIP, SMALL),
    "compressed, at a new address": post(b"/v1/new", gzip.compress(BODY), GZIP, SMALL),
    "another spelling of the address": post(CHAT + b"/", BODY, SMALL),
    "no object, at a new address": post(b"/v1/new", b"[" + BODY + b"]", SMALL),
}


@moved_time
@pytest.mark.parametrize("how", UNREADABLE)
async def test_a_client_held_to_some_models_cannot_hide_which_one_it_calls(how):
    log: list[Seen] = []
    async with plane(serving(answer(), log=log), clients=CLIENTS) as stage:
        response = await stage.ask(UNREADABLE[how])
        assert (response.status, error_of(response)["code"]) == (403, "model_not_allowed")
        assert not log
        assert (await stage.ask(UNREADABLE[how].replace(b"small-key", b"team-key"))).status == 200
        # What calls no model stays open to it.
        assert (await stage.ask(get(b"/v1/models", b"Authorization: Bearer small-key"))).status == 200
        assert (await stage.ask(post(b"/v1/files", b"x", b"Authorization: Bearer small-key"))).status == 200


@moved_time
async def test_a_refusal_is_logged_with_the_status_and_the_bytes_that_the_client_got():
    lines = []
    async with plane(serving(answer()), clients=CLIENTS) as stage:
        inner = stage.watch._inner
        stage.watch._inner = Lines(inner, lines)
        response = await stage.ask(chat(BODY, b"Authorization: Bearer wrong"))
    assert response.status == 401
    (line,) = lines
    assert (line["status"], line["bytes_out"], line["reason"]) == (401, len(response.body), "unknown_client")


class Lines:
    """An observer that renders the log line when an exchange ends, as the real one does."""

    def __init__(self, inner, lines):
        self._inner = inner
        self._lines = lines

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def ended(self, record):
        self._lines.append(json.loads(access.line(record, "", None, None)))
        self._inner.ended(record)


@moved_time
async def test_what_is_remembered_of_requests_is_bounded_in_bytes():
    async with plane(serving(answer())) as stage:
        admission.patience.cache_clear()
        router = stage.admission._router
        for number in range(3):
            junk = b"%d" % number + b"x" * 10_000
            assert (await stage.ask(get(b"/v1/" + junk, b"x-stainless-read-timeout: " + junk))).status == 200
        assert admission.patience.cache_info().currsize <= 1
        assert sum(len(key[0]) for key in router._remembered) < 10_000


@moved_time
async def test_a_body_at_an_unknown_address_gets_no_model_that_it_did_not_name():
    log: list[Seen] = []
    async with plane(serving(answer(), log=log), targets="{provider: one, model: prod}") as stage:
        await stage.ask(post(b"/v1/new", b'{"a": 1}'))
        await stage.ask(post(CHAT, b'{"a": 1}'))
    assert [request.body for request in log] == [b'{"a": 1}', b'{"model":"prod","a": 1}']


@moved_time
async def test_what_comes_of_a_body_after_its_attempt_fell_silent_is_kept_for_the_next():
    # The first provider falls silent in the middle of the upload, the second is at its rate limit for a while yet.
    log: list[Seen] = []

    async def first(visit):
        if visit.number:
            await visit.reader.readuntil(b"\r\n\r\n")
            await visit.gone()
        await whole_request(visit)
        visit.write(BOOM)
        await visit.gone()

    limited = answer(b'{"error": {"message": "slow down"}}', b"Retry-After: 12", status=b"429 Too Many")
    policy = "{timeouts: {stall: 4s}, rate_limit_wait: 0s, attempts: 2}"
    server = "  limits: {replay_bytes: 64KiB, replay_total: 1MiB}"
    body = bytes(60_000) + b"1" * 200_000
    async with plane(first, serving(limited, answer(), log=log), server=server, policy=policy) as stage:
        assert (await stage.ask(post(CHAT, BODY, GZIP))).status == 429
        client = await stage.connect()
        head = [b"Content-Encoding: gzip", b"Content-Length: %d" % len(body)]
        client.send(post(CHAT, b"", *head, length=False) + body[:60_000])
        await settled(lambda: stage.memory, above=50_000)
        skip(4.5)
        await settled(lambda: len(stage.watch.attempts), above=2)
        client.send(body[60_000:])
        await settled(lambda: stage.memory)
        assert len(log) == 1
        skip(20.0)
        response = await client.response()
    assert response.status == 200
    assert log[1].body == body
