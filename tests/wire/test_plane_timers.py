"""Time and connections through the whole gateway: what is too slow, unreachable or used up, and what the client is told of it.

Time is pushed by hand: the gateway's clock is the loop's.
"""

import asyncio
import socket

import pytest

from tests.wire.plane import (
    ANSWER,
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
    get,
    plane,
    serving,
    settled,
    whole_request,
)
from tests.wire.upstream_script import both_loops, moved_time, skip, turns

HELLO = delta(content="hello")
STREAM = [ROLE, HELLO, STOP, DONE]


class Slow:
    """A provider that writes each piece when it is told to; afterwards its connection stays as it is."""

    def __init__(self, *pieces):
        self.pieces = pieces
        self.there = asyncio.Event()
        self.written = 0
        self.may = 0
        self._more = asyncio.Event()
        self.gone = asyncio.Event()

    async def __call__(self, visit):
        await whole_request(visit)
        self.there.set()
        for number, piece in enumerate(self.pieces):
            while self.may <= number:
                self._more.clear()
                await self._more.wait()
            visit.write(piece)
            self.written += 1
        await visit.gone()
        self.gone.set()

    async def next(self):
        self.may += 1
        self._more.set()
        while self.written < self.may:
            await turns(1)
        await turns(20)


async def pass_time(seconds):
    """Let time pass, in steps, as sweeps and timers would see it."""
    for _ in range(4):
        skip(seconds / 4)
        await turns(5)


POLICY = "{{timeouts: {{{timeouts}}}, backoff: {{base: 1ms, cap: 2ms}}}}"


@moved_time
async def test_a_stream_without_content_in_time_is_failed_over_whatever_life_it_shows():
    slow = Slow(SSE + chunked(b": ping\n\n", end=False), chunked(ROLE, end=False), chunked(b": ping\n\n", end=False))
    policy = POLICY.format(timeouts="first_token: 4s, stall: 60s, answer: 60s")
    async with plane(slow, serving(SSE + chunked(*STREAM)), policy=policy) as stage:
        client = await stage.connect()
        client.send(chat(STREAM_BODY))
        await slow.there.wait()
        for _ in range(3):
            await slow.next()
            await pass_time(1.5)
        response = await client.response()
        record = await stage.watch.ended_all(1)
        async with asyncio.timeout(20):
            await slow.gone.wait()
    assert (response.body, response.get(b"x-gateway-provider")) == (b"".join(STREAM), b"two")
    assert [attempt.verdict for attempt in record.attempts] == ["timeout", "ok"]


@moved_time
@pytest.mark.parametrize("pieces", [(), (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n",), (answer()[:-9],)])
async def test_an_answer_that_is_not_whole_in_time_is_failed_over(pieces):
    slow = Slow(*pieces)
    policy = POLICY.format(timeouts="first_token: 60s, stall: 60s, answer: 4s")
    async with plane(slow, serving(answer()), policy=policy) as stage:
        client = await stage.connect()
        client.send(chat())
        await slow.there.wait()
        for _ in pieces:
            await slow.next()
        await pass_time(3.9)
        assert not stage.watch.attempts
        await pass_time(0.2)
        response = await client.response()
        async with asyncio.timeout(20):
            await slow.gone.wait()
    assert (response.status, response.body, response.get(b"x-gateway-provider")) == (200, ANSWER, b"two")
    assert b"one:timeout/" in response.get(b"x-gateway-trail")


@moved_time
async def test_silence_in_a_held_answer_is_failed_over_and_every_byte_counts():
    body = answer()
    slow = Slow(body[:-30], body[-30:-20], body[-20:-10])
    policy = POLICY.format(timeouts="first_token: 60s, stall: 4s, answer: 60s")
    async with plane(slow, serving(answer()), policy=policy) as stage:
        client = await stage.connect()
        client.send(chat())
        await slow.there.wait()
        for _ in range(3):
            await pass_time(3)
            await slow.next()
        assert not stage.watch.attempts
        await pass_time(4.1)
        response = await client.response()
    assert (response.body, response.get(b"x-gateway-provider")) == (ANSWER, b"two")
    assert b"one:stalled/" in response.get(b"x-gateway-trail")


@moved_time
@pytest.mark.parametrize("last", ["stall: 4s, max_stream: 60s", "stall: 60s, max_stream: 4s"])
async def test_a_stream_that_falls_silent_or_never_ends_ends_in_an_error(last):
    slow = Slow(SSE + chunked(ROLE, HELLO, end=False))
    async with plane(slow, serving(SSE + chunked(*STREAM)), policy=POLICY.format(timeouts=last)) as stage:
        client = await stage.connect()
        client.send(chat(STREAM_BODY))
        await slow.there.wait()
        await slow.next()
        await pass_time(4.1)
        response = await client.response()
        record = await stage.watch.ended_all(1)
        async with asyncio.timeout(20):
            await slow.gone.wait()
    assert response.whole
    assert response.body.startswith(ROLE + HELLO + b'data: {"error"')
    assert b"[DONE]" not in response.body
    assert (record.ending, record.reason, record.stream_broken) == ("failed", "stream_broken", True)


@moved_time
async def test_pings_keep_a_stream_alive():
    slow = Slow(SSE + chunked(ROLE, HELLO, end=False), *[chunked(b": ping\n\n", end=False)] * 4, chunked(STOP, DONE))
    async with plane(slow, policy=POLICY.format(timeouts="stall: 4s, first_token: 4s")) as stage:
        client = await stage.connect()
        client.send(chat(STREAM_BODY))
        await slow.there.wait()
        for _ in range(6):
            await slow.next()
            await pass_time(3)
        response = await client.response()
    assert response.body == ROLE + HELLO + b": ping\n\n" * 4 + STOP + DONE


@moved_time
@pytest.mark.parametrize("patience", [b"x-gateway-timeout: 2s", b"x-gateway-timeout: 2", b"x-stainless-read-timeout: 2.1", None])
async def test_a_clients_patience_ends_in_a_504_with_advice(patience):
    slow = Slow()
    policy = "{}" if patience else "{deadline: 2s}"
    async with plane(slow, policy=policy) as stage:
        client = await stage.connect()
        client.send(chat(STREAM_BODY, *([patience] if patience else [])))
        await slow.there.wait()
        await pass_time(1.9)
        assert not stage.watch.records
        await pass_time(0.2)
        response = await client.response()
        record = await stage.watch.ended_all(1)
        async with asyncio.timeout(20):
            await slow.gone.wait()
        assert stage.closed_breakers()
    assert (response.status, response.get(b"x-gateway-reason"), response.get(b"x-should-retry")) == (504, b"deadline", b"false")
    assert error_of(response)["code"] == "deadline"
    assert (record.ending, [attempt.verdict for attempt in record.attempts]) == ("failed", ["cancelled"])


@moved_time
async def test_after_the_commit_no_patience_ends_a_stream():
    slow = Slow(SSE + chunked(ROLE, HELLO, end=False), chunked(STOP, DONE))
    async with plane(slow) as stage:
        client = await stage.connect()
        client.send(chat(STREAM_BODY, b"x-gateway-timeout: 2s"))
        await slow.there.wait()
        await slow.next()
        await pass_time(30)
        await slow.next()
        response = await client.response()
    comforts = response.body.count(b": keep-alive\n\n")
    assert comforts in (1, 2)
    assert response.body.replace(b": keep-alive\n\n", b"") == b"".join(STREAM)


@moved_time
@pytest.mark.parametrize("wrong", [b"soon", b"-1", b"0", b""])
async def test_a_patience_that_cannot_be_read_is_refused(wrong):
    async with plane(serving(answer())) as stage:
        response = await stage.ask(chat(STREAM_BODY, b"x-gateway-timeout: " + wrong))
    assert (response.status, error_of(response)["code"]) == (400, "bad_request")


# Connections.


@both_loops
async def test_a_refused_connection_is_failed_over_and_nobody_waits():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening
        dead = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        async with plane(dead, serving(answer())) as stage:
            response = await stage.ask(chat())
            record = await stage.watch.ended_all(1)
        assert (response.status, response.get(b"x-gateway-provider")) == (200, b"two")
        assert (record.attempts[0].verdict, record.attempts[0].code, record.attempts[0].sent_at) == ("connect", "connect", 0.0)
        async with plane(dead) as stage:
            alone = await stage.ask(get(b"/v1/models"))
    assert alone.status == 502
    error_of(alone)


@both_loops
async def test_a_name_without_an_address_is_failed_over():
    async def resolver(host, port):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async with plane("http://nowhere.invalid/v1", serving(answer())) as stage:
        stage.gateway._pool.names._resolver = resolver
        response = await stage.ask(chat())
        record = await stage.watch.ended_all(1)
    assert (response.status, response.get(b"x-gateway-provider")) == (200, b"two")
    assert (record.attempts[0].verdict, record.attempts[0].code) == ("connect", "dns")


@moved_time
async def test_a_connection_that_takes_too_long_is_failed_over():
    asked = asyncio.Event()

    async def resolver(host, port):
        asked.set()
        await asyncio.get_running_loop().create_future()

    async with plane("http://slow.invalid/v1", serving(answer()), provider="connect: 3s") as stage:
        stage.gateway._pool.names._resolver = resolver
        client = await stage.connect()
        client.send(chat())
        await asked.wait()
        await pass_time(2.9)
        assert not stage.watch.attempts
        await pass_time(0.2)
        response = await client.response()
        record = await stage.watch.ended_all(1)
    assert (response.status, response.get(b"x-gateway-provider")) == (200, b"two")
    assert (record.attempts[0].verdict, record.attempts[0].code) == ("connect", "connect_timeout")


@both_loops
async def test_a_stale_connection_is_replaced_unseen():
    async def script(visit):
        await whole_request(visit)
        visit.write(answer())
        if visit.number < 3:
            # Close when the next request comes, without a word: it crossed our closing.
            await visit.reader.readexactly(1)
            return
        while True:
            await whole_request(visit)
            visit.write(answer())

    async with plane(script) as stage:
        client = await stage.connect()
        for _ in range(5):
            client.send(chat())
            response = await client.response()
            assert (response.status, response.get(b"x-gateway-attempts")) == (200, b"1")
        assert stage.closed_breakers()
        assert len(stage.upstreams[0].visits) == 4


@both_loops
async def test_a_pool_of_one_serves_in_the_order_of_arrival():
    served = []

    async def script(visit):
        while True:
            served.append((await whole_request(visit)).split(b"\r\n\r\n")[1])
            await turns(3)
            visit.write(answer())

    bodies = [b'{"model": "gpt-4o", "n": %d}' % number for number in range(20)]
    async with plane(script, provider="pool: 1") as stage:
        clients = []
        for number, body in enumerate(bodies):
            clients.append(await stage.connect())
            clients[-1].send(chat(body))
            await stage.watch.until(lambda number=number: stage.watch.began_count > number)
        assert [(await client.response()).status for client in clients] == [200] * 20
        assert len(stage.upstreams[0].visits) == 1
    assert served == bodies


@moved_time
async def test_who_waits_too_long_for_a_connection_goes_elsewhere():
    slow = Slow()
    async with plane(slow, serving(answer()), provider="pool: 1, connect: 3s") as stage:
        first, second = await stage.connect(), await stage.connect()
        first.send(chat())
        await slow.there.wait()
        second.send(chat())
        await stage.watch.until(lambda: stage.watch.began_count == 2)
        await pass_time(3.1)
        response = await second.response()
        record = await stage.watch.ended_all(1)
    assert (response.status, response.get(b"x-gateway-provider")) == (200, b"two")
    assert record.attempts[0].code == "pool_timeout"


@moved_time
async def test_idle_connections_do_not_outlive_the_providers_patience():
    async with plane(serving(answer())) as stage:
        assert (await stage.ask(chat())).status == 200
        assert stage.gateway._pool.stats()[0].idle == 1
        for _ in range(13):
            skip(5)
            await turns(3)
        assert stage.gateway._pool.stats() == []
        assert (await stage.ask(chat())).status == 200
        assert len(stage.upstreams[0].visits) == 2


@moved_time
async def test_a_drained_gateway_ends_streams_in_band_and_refuses_with_advice():
    slow = Slow(SSE + chunked(ROLE, HELLO, end=False))
    waiting = Slow()
    number = 0

    async def script(visit):
        nonlocal number
        number += 1
        await (slow if number == 1 else waiting)(visit)

    async with plane(script) as stage:
        streaming = await stage.connect()
        streaming.send(chat(STREAM_BODY))
        await slow.there.wait()
        await slow.next()
        asking = await stage.connect()
        asking.send(chat())
        await waiting.there.wait()
        uploading = await stage.connect()
        uploading.send(chat()[:-5])
        await settled(lambda: len(stage.admission.active), above=2)
        stage.admission.drain()
        broken, refused, unread = await streaming.response(), await asking.response(), await uploading.response()
        async with asyncio.timeout(20):
            await slow.gone.wait()
            await waiting.gone.wait()
    assert broken.body.startswith(ROLE + HELLO + b'data: {"error"')
    for response in (refused, unread):
        assert (response.status, response.get(b"x-gateway-reason"), response.get(b"x-should-retry")) == (503, b"draining", b"true")
        assert 1 <= int(response.get(b"retry-after")) <= 60
        error_of(response)


@both_loops
async def test_a_rate_limit_moves_on_and_its_advice_is_ours():
    limited = answer(
        b'{"error": {"message": "Rate limit reached", "type": "requests", "code": "rate_limit_exceeded"}}',
        b"Retry-After: 50",
        b"x-should-retry: true",
        status=b"429 Too Many Requests",
    )
    async with plane(serving(limited), serving(answer())) as stage:
        assert (await stage.ask(chat())).get(b"x-gateway-provider") == b"two"
    async with plane(serving(limited)) as stage:
        first = await stage.ask(chat())
        second = await stage.ask(chat())
    assert (first.status, second.status) == (429, 429)
    assert b"Rate limit reached" in first.body
    for response in (first, second):
        assert response.get(b"x-should-retry") == b"true"
        assert 40 <= int(response.get(b"retry-after")) <= 60
    assert second.get(b"x-gateway-attempts") == b"0"
