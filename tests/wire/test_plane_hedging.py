"""Races through the whole gateway: a second attempt beside a slow one, the first content wins, and the loser costs nobody anything.

Time is pushed by hand. Providers write when they are told to, so that who is first is the test's choice and not the machine's.
"""

import asyncio
import socket

import pytest

from tests.wire.plane import (
    DONE,
    ROLE,
    SSE,
    STOP,
    STREAM_BODY,
    answer,
    chat,
    chunked,
    delta,
    error_of,
    plane,
    serving,
    settled,
    whole_request,
)
from tests.wire.test_plane_timers import pass_time
from tests.wire.upstream_script import moved_time, turns

ONE = [ROLE, delta(content="I am one"), STOP, DONE]
TWO = [ROLE, delta(content="I am two"), STOP, DONE]
BEGUN = SSE + chunked(ROLE, end=False)
LATE = [BEGUN, chunked(*ONE[1:])]
"""A stream that shows life, and its content when it is told to."""
PATIENCE_S = 10.0


class Slow:
    """A provider that answers one request, piece by piece as it is told to, and knows when it is left."""

    def __init__(self, *pieces):
        self.pieces = list(pieces)
        self.there = asyncio.Event()
        self.gone = asyncio.Event()

    async def __call__(self, visit):
        await whole_request(visit)
        self.visit = visit
        self.there.set()
        await visit.gone()
        self.gone.set()

    async def next(self):
        """Write the next piece, and let it arrive."""
        self.visit.write(self.pieces.pop(0))
        await turns(20)


def racing(hedge="after: 500ms", rest=""):
    """A policy under which every request pays for a hedge."""
    budget = "" if "budget" in hedge else ", budget: 100%"
    return f"{{backoff: {{base: 1ms, cap: 2ms}}, hedge: {{{hedge}{budget}}}{', ' if rest else ''}{rest}}}"


async def soon(event):
    async with asyncio.timeout(PATIENCE_S):
        await event.wait()


def sample(stage, name, **labels):
    """The sum of a metric's samples with these labels."""
    total = 0.0
    for line in stage.gateway.metrics()[0].decode().splitlines():
        if line.startswith(f"{name}{{") and all(f'{label}="{value}"' in line for label, value in labels.items()):
            total += float(line.rpartition(" ")[2])
    return total


def hedges(stage):
    """Hedges by result, without zeros."""
    found = {
        name: sample(stage, "gateway_hedges_total", result=name) for name in ("won", "lost", "failed", "no_target", "no_budget")
    }
    return {name: number for name, number in found.items() if number}


def kinds(record):
    return [(attempt.kind.value, attempt.verdict) for attempt in record.attempts]


async def begin(stage, request, first):
    """Send a request and wait until the first provider has it."""
    client = await stage.connect()
    client.send(request)
    await soon(first.there)
    return client


@moved_time
async def test_the_second_providers_content_wins_and_the_firsts_connection_is_closed_at_once():
    one = Slow(*LATE)
    async with plane(one, serving(SSE + chunked(*TWO)), policy=racing()) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        await one.next()
        await pass_time(0.45)
        assert not stage.upstreams[1].visits
        await pass_time(0.1)
        response = await client.response()
        await soon(one.gone)
        record = await stage.watch.ended_all(1)
        assert stage.closed_breakers()
        assert hedges(stage) == {"won": 1}
        assert sample(stage, "gateway_wasted_tokens_total", provider="one") == len(STREAM_BODY) // 4
        assert sample(stage, "gateway_wasted_tokens_total", provider="two") == 0
        assert sample(stage, "gateway_saved_requests_total", by="hedge") == 1
        assert sample(stage, "gateway_attempts_total", provider="one", kind="first", verdict="cancelled") == 1
    assert (response.status, response.body) == (200, b"".join(TWO))
    assert (response.get(b"x-gateway-provider"), response.get(b"x-gateway-attempts")) == (b"two", b"2")
    trail = response.get(b"x-gateway-trail").split(b", ")
    assert [entry.partition(b"/")[0] for entry in trail] == [b"one:cancelled", b"two:ok"]
    assert (record.ending, record.saved_by, kinds(record)) == ("ok", "hedge", [("first", "cancelled"), ("hedge", "ok")])


@moved_time
async def test_the_first_may_win_after_all():
    one, two = Slow(*LATE), Slow(BEGUN)
    async with plane(one, two, policy=racing()) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        await one.next()
        await pass_time(0.6)
        await soon(two.there)
        await two.next()
        assert not stage.watch.attempts
        await one.next()
        response = await client.response()
        await soon(two.gone)
        record = await stage.watch.ended_all(1)
        assert stage.closed_breakers()
        assert hedges(stage) == {"lost": 1}
        assert sample(stage, "gateway_wasted_tokens_total", provider="two") == len(STREAM_BODY) // 4
        assert sample(stage, "gateway_wasted_tokens_total", provider="one") == 0
    assert response.body == b"".join(ONE)
    assert (response.get(b"x-gateway-provider"), response.get(b"x-gateway-attempts")) == (b"one", b"2")
    trail = response.get(b"x-gateway-trail").split(b", ")
    assert [entry.partition(b"/")[0] for entry in trail] == [b"one:ok", b"two:cancelled"]
    assert (record.ending, record.saved_by, kinds(record)) == ("ok", None, [("first", "ok"), ("hedge", "cancelled")])


@moved_time
@pytest.mark.parametrize("pieces", range(1, 4))
async def test_no_piece_of_the_loser_gets_into_the_stream_however_much_of_it_was_there(pieces):
    """The loser's life is there before the winner's, and its content would come in the very same turn."""
    one = Slow(BEGUN, chunked(b": ping\n\n", end=False), chunked(delta(content=""), end=False))
    two = Slow(SSE + chunked(*TWO))
    async with plane(one, two, policy=racing()) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        for _ in range(pieces):
            await one.next()
        await pass_time(0.6)
        await soon(two.there)
        one.visit.write(chunked(*ONE[1:]))
        await two.next()
        response = await client.response()
    winner = ONE if response.get(b"x-gateway-provider") == b"one" else TWO
    assert response.body.endswith(b"".join(winner[1:]))
    other = b"I am two" if winner is ONE else b"I am one"
    assert other not in response.body
    assert response.body.count(b'"role"') == 1


@moved_time
async def test_an_error_while_another_attempt_is_under_way_is_not_the_end():
    one = Slow(BEGUN, chunked(b'data: {"error": {"message": "no", "code": "server_error"}}\n\n'))
    two = Slow(SSE + chunked(*TWO))
    async with plane(one, two, policy=racing()) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        await one.next()
        await pass_time(0.6)
        await soon(two.there)
        await one.next()
        await settled(lambda: len(stage.watch.attempts), above=0)
        assert not stage.watch.records
        await two.next()
        response = await client.response()
        record = await stage.watch.ended_all(1)
        assert hedges(stage) == {"won": 1}
        assert sample(stage, "gateway_wasted_tokens_total") == 0
    assert response.body == b"".join(TWO)
    assert (record.saved_by, kinds(record)) == ("hedge", [("first", "server_error"), ("hedge", "ok")])


@moved_time
async def test_where_both_fail_the_client_hears_of_it_once():
    one, two = Slow(BEGUN), Slow(BEGUN)
    async with plane(one, two, policy=racing(rest="attempts: 2")) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        await pass_time(0.6)
        await soon(two.there)
        two.visit.reset()
        await settled(lambda: len(stage.watch.attempts), above=0)
        assert not stage.watch.records
        one.visit.reset()
        response = await client.response()
        record = await stage.watch.ended_all(1)
        assert hedges(stage) == {"failed": 1}
    assert (response.status, response.get(b"x-gateway-reason")) == (502, b"attempts_exhausted")
    assert error_of(response)["code"] == "attempts_exhausted"
    assert kinds(record) == [("first", "server_error"), ("hedge", "server_error")]


@moved_time
async def test_the_callers_own_fault_ends_the_race():
    """A 400 says that the request is wrong: no other provider's answer to it is waited for."""
    wrong = answer(b'{"error": {"message": "no such parameter", "code": "unknown_parameter"}}', status=b"400 Bad Request")
    one, two = Slow(wrong), Slow(BEGUN)
    async with plane(one, two, policy=racing()) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        await pass_time(0.6)
        await soon(two.there)
        await one.next()
        response = await client.response()
        await soon(two.gone)
        assert hedges(stage) == {"lost": 1}
        assert stage.closed_breakers()
    assert (response.status, response.body) == (400, wrong.partition(b"\r\n\r\n")[2])


@moved_time
async def test_a_failure_before_the_hedge_is_due_is_failed_over_at_once_and_costs_no_hedge():
    refusal = serving(answer(b"{}", status=b"503 Service Unavailable"))
    async with plane(refusal, serving(SSE + chunked(*TWO)), policy=racing()) as stage:
        response = await stage.ask(chat(STREAM_BODY))
        record = await stage.watch.ended_all(1)
        assert hedges(stage) == {}
    assert response.get(b"x-gateway-provider") == b"two"
    assert kinds(record) == [("first", "overloaded"), ("failover", "ok")]


@moved_time
async def test_the_second_choice_may_be_hedged_by_the_third():
    two = Slow(*LATE)
    refusal = serving(answer(b"{}", status=b"503 Service Unavailable"))
    async with plane(refusal, two, serving(SSE + chunked(*TWO)), policy=racing()) as stage:
        client = await begin(stage, chat(STREAM_BODY), two)
        await pass_time(0.6)
        response = await client.response()
        await soon(two.gone)
        record = await stage.watch.ended_all(1)
    assert (response.get(b"x-gateway-provider"), response.get(b"x-gateway-attempts")) == (b"three", b"3")
    assert kinds(record) == [("first", "overloaded"), ("failover", "cancelled"), ("hedge", "ok")]


@moved_time
async def test_as_many_hedges_as_the_policy_says():
    one, two, three = Slow(BEGUN), Slow(BEGUN), Slow(SSE + chunked(*TWO))
    async with plane(one, two, three, policy=racing("after: 500ms, max: 2")) as stage:
        stage.gateway._registry.hedges("chat").deposit(1.0)
        client = await begin(stage, chat(STREAM_BODY), one)
        await pass_time(0.6)
        await soon(two.there)
        await pass_time(0.6)
        await soon(three.there)
        await pass_time(2.0)
        await three.next()
        response = await client.response()
        await soon(one.gone)
        await soon(two.gone)
        record = await stage.watch.ended_all(1)
        assert hedges(stage) == {"won": 1, "lost": 1}
        assert stage.closed_breakers()
    assert response.get(b"x-gateway-provider") == b"three"
    assert [kind for kind, _ in kinds(record)] == ["first", "hedge", "hedge"]


@moved_time
async def test_a_hedge_that_cannot_connect_changes_nothing():
    one = Slow(*LATE)
    async with plane(one, "http://nowhere.invalid/v1", policy=racing()) as stage:

        async def resolver(host, port):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        stage.gateway._pool.names._resolver = resolver
        client = await begin(stage, chat(STREAM_BODY), one)
        await pass_time(0.6)
        await settled(lambda: len(stage.watch.attempts), above=0)
        await one.next()
        await one.next()
        response = await client.response()
        assert hedges(stage) == {"failed": 1}
    assert (response.body, response.get(b"x-gateway-provider")) == (b"".join(ONE), b"one")
    assert b"two:connect/" in response.get(b"x-gateway-trail")


@moved_time
async def test_a_client_that_leaves_during_a_race_leaves_nothing_behind():
    one, two = Slow(BEGUN), Slow(BEGUN)
    async with plane(one, two, policy=racing()) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        await one.next()
        await pass_time(0.6)
        await soon(two.there)
        await two.next()
        now = asyncio.get_running_loop().time()
        client.reset()
        await soon(one.gone)
        await soon(two.gone)
        record = await stage.watch.ended_all(1)
        assert asyncio.get_running_loop().time() - now < 1.0
        assert stage.closed_breakers()
        assert sample(stage, "gateway_wasted_tokens_total") == 0
    assert (record.ending, kinds(record)) == ("client_gone", [("first", "cancelled"), ("hedge", "cancelled")])


@moved_time
async def test_a_deadline_during_a_race_ends_both():
    one, two = Slow(BEGUN), Slow(BEGUN)
    async with plane(one, two, policy=racing(rest="deadline: 2s")) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        await pass_time(0.6)
        await soon(two.there)
        await pass_time(1.5)
        response = await client.response()
        await soon(one.gone)
        await soon(two.gone)
    assert (response.status, response.get(b"x-gateway-reason")) == (504, b"deadline")


@moved_time
async def test_the_winners_connection_is_used_again():
    one = Slow()
    async with plane(one, serving(SSE + chunked(*TWO)), policy=racing()) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        await pass_time(0.6)
        await client.response()
        await soon(one.gone)
        assert [(stats.busy, stats.idle) for stats in stage.gateway._pool.stats() if stats.busy + stats.idle] == [(0, 1)]
