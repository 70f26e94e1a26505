"""Clients that leave, at every moment: the provider's work stops at once, it is nobody's failure, and nothing is left behind."""

import asyncio

import pytest

from gateway.core.record import Ending
from gateway.errors import Reason
from tests.wire.plane import (
    BODY,
    CHAT,
    DONE,
    ROLE,
    SSE,
    STOP,
    STREAM_BODY,
    answer,
    chat,
    chunked,
    delta,
    get,
    plane,
    post,
    settled,
    whole_request,
)
from tests.wire.upstream_script import both_loops, moved_time, skip, turns

HELLO = delta(content="hello")
GOOD = ROLE + HELLO + STOP + DONE


class Stage:
    """A provider that goes as far as it is told and then waits for the gateway to hang up; afterwards it serves well."""

    def __init__(self, *pieces, read=True):
        self.pieces = pieces
        self.read = read
        self.there = asyncio.Event()
        self.left = asyncio.Event()
        self.calls = 0

    async def __call__(self, visit):
        self.calls += 1
        if self.calls > 1:
            while True:
                await whole_request(visit)
                visit.write(answer())
        if self.read:
            await whole_request(visit)
        else:
            await visit.reader.readuntil(b"\r\n\r\n")
        for piece in self.pieces:
            visit.write(piece)
        self.there.set()
        await visit.gone()
        self.left.set()


MOMENTS = {
    "before the head": ((), chat()),
    "after the head": ((b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n",), chat()),
    "in a held answer": ((answer()[:-5],), chat()),
    "in a held stream": ((SSE, chunked(b": ping\n\n", ROLE, end=False)), chat(STREAM_BODY)),
    "in a stream": ((SSE, chunked(ROLE, HELLO, end=False)), chat(STREAM_BODY)),
    "in half an event": ((SSE, chunked(ROLE, HELLO, HELLO[:20], end=False)), chat(STREAM_BODY)),
    "in a flowing answer": ((b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",), get(b"/v1/files/f/content")),
    "in an error": ((answer(b"{}", status=b"500 No")[:-1],), chat()),
    "in an upload": ((), post(b"/v1/files", b"abc", b"Content-Length: 1000", length=False)),
    "in an answer during an upload": (
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",),
        post(b"/v1/files", b"abc", b"Content-Length: 1000", length=False),
    ),
}


def leave(client, how):
    if how == "fin":
        client.writer.close()
    elif how == "half":
        client.half_close()
    else:
        client.reset()


def assert_nobodys_failure(stage, record, *, attempts=1):
    assert (record.ending, record.reason) == (Ending.CLIENT_GONE, Reason.CLIENT_GONE)
    assert [attempt.verdict for attempt in record.attempts] == ["cancelled"] * attempts
    assert stage.closed_breakers()
    assert stage.memory == 0
    assert not stage.admission.active


@both_loops
@pytest.mark.parametrize("how", ["fin", "half", "rst"])
@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_client_that_leaves_ends_the_providers_work_at_once(moment, how):
    pieces, request = MOMENTS[moment]
    provider = Stage(*pieces, read=b"/v1/files " not in request)
    async with plane(provider) as stage:
        client = await stage.connect()
        client.send(request)
        await provider.there.wait()
        await turns(10)
        leave(client, how)
        async with asyncio.timeout(20):
            await provider.left.wait()
        record = await stage.watch.ended_all(1)
        assert_nobodys_failure(stage, record)
        response = await stage.ask(chat())
        assert (response.status, response.get(b"x-gateway-attempts")) == (200, b"1")
        assert len(stage.upstreams[0].visits) == 2


@both_loops
@pytest.mark.parametrize("how", ["fin", "half", "rst"])
@pytest.mark.parametrize(
    "sent", [chat()[:-3], chat().removesuffix(BODY), post(CHAT, b"10\r\n{", b"Transfer-Encoding: chunked", length=False)]
)
async def test_a_client_that_leaves_before_its_body_is_in_reaches_no_provider(sent, how):
    provider = Stage()
    async with plane(provider) as stage:
        client = await stage.connect()
        client.send(sent)
        await settled(lambda: len(stage.admission.active), above=0)
        leave(client, how)
        record = await stage.watch.ended_all(1)
        assert_nobodys_failure(stage, record, attempts=0)
        assert stage.watch.began_count == 0
    assert provider.calls == 0


@both_loops
async def test_a_client_that_leaves_while_a_connection_is_made_leaves_no_attempt_behind():
    answering = asyncio.get_running_loop().create_future()
    asked = asyncio.Event()

    async def resolver(host, port):
        asked.set()
        return await answering

    provider = Stage()
    async with plane("http://slow.invalid/v1", provider) as stage:
        stage.gateway._pool.names._resolver = resolver
        client = await stage.connect()
        client.send(chat())
        await asked.wait()
        assert stage.busy() > 0
        client.reset()
        record = await stage.watch.ended_all(1)
        assert_nobodys_failure(stage, record)
        await stage.quiet()
    assert provider.calls == 0


@moved_time
async def test_a_client_that_leaves_during_the_backoff_leaves_no_timer_behind():
    calls = 0

    async def failing(visit):
        nonlocal calls
        while True:
            await whole_request(visit)
            calls += 1
            visit.write(answer(b"{}", status=b"500 No"))

    async with plane(failing, policy="{backoff: {base: 10s, cap: 10s, jitter: equal}}") as stage:
        client = await stage.connect()
        client.send(chat())
        await settled(lambda: len(stage.watch.attempts), above=0)
        client.reset()
        record = await stage.watch.ended_all(1)
        assert (record.ending, [attempt.verdict for attempt in record.attempts]) == ("client_gone", ["server_error"])
        skip(30)
        await turns(20)
    assert calls == 1


@both_loops
async def test_a_client_that_leaves_in_the_queue_for_a_connection_gives_up_its_place():
    go = asyncio.Event()
    served = []

    async def script(visit):
        while True:
            served.append((await whole_request(visit)).split(b"\r\n\r\n")[1])
            await go.wait()
            visit.write(answer())

    bodies = [b'{"model": "gpt-4o", "n": %d}' % number for number in range(4)]
    async with plane(script, provider="pool: 1") as stage:
        clients = []
        for number, body in enumerate(bodies):
            clients.append(await stage.connect())
            clients[-1].send(chat(body))
            await stage.watch.until(lambda number=number: stage.watch.began_count > number)
        await settled(lambda: len(served), above=0)
        clients[1].reset()
        record = await stage.watch.ended_all(1)
        assert_nobodys_failure_of_one(record)
        go.set()
        assert [(await clients[index].response()).status for index in (0, 2, 3)] == [200] * 3
        assert len(stage.upstreams[0].visits) == 1
    assert served == [bodies[0], bodies[2], bodies[3]]


def assert_nobodys_failure_of_one(record):
    assert (record.ending, [attempt.verdict for attempt in record.attempts]) == ("client_gone", ["cancelled"])


@both_loops
async def test_pipelined_requests_behind_one_that_was_left_are_never_begun():
    provider = Stage()
    async with plane(provider) as stage:
        client = await stage.connect()
        client.send(chat() * 5)
        await provider.there.wait()
        client.reset()
        await provider.left.wait()
        await stage.watch.ended_all(1)
        assert stage.watch.began_count == 1
    assert provider.calls == 1


@both_loops
async def test_a_client_that_leaves_with_a_full_socket_stops_the_provider():
    sent = 0
    left = asyncio.Event()

    async def script(visit):
        nonlocal sent
        await whole_request(visit)
        visit.write(SSE)
        try:
            while True:
                visit.write(chunked(delta(content="x" * 65536), end=False))
                await visit.writer.drain()
                sent += 1
        finally:
            left.set()

    async with plane(script) as stage:
        client = await stage.connect(receive_buffer=8192)
        client.writer.transport.pause_reading()
        client.send(chat(STREAM_BODY))
        await settled(lambda: sent, above=1)
        client.reset()
        async with asyncio.timeout(20):
            await left.wait()
        record = await stage.watch.ended_all(1)
        assert_nobodys_failure(stage, record)


@both_loops
async def test_a_hundred_clients_that_leave_at_once_leave_nothing():
    there = 0

    async def script(visit):
        nonlocal there
        await whole_request(visit)
        visit.write(SSE + chunked(ROLE, HELLO, end=False))
        there += 1
        await visit.gone()

    async with plane(script) as stage:
        clients = [await stage.connect() for _ in range(100)]
        for client in clients:
            client.send(chat(STREAM_BODY))
        await settled(lambda: there, above=99)
        for number, client in enumerate(clients):
            leave(client, ("fin", "rst")[number % 2])
        await stage.watch.ended_all(100)
        assert {record.ending for record in stage.watch.records} == {Ending.CLIENT_GONE}
        assert stage.closed_breakers()
        await stage.quiet()


@both_loops
async def test_a_client_that_has_its_whole_answer_has_not_left():
    async with plane(Stage()) as stage:
        hung = await stage.connect()  # by the first call of a `Stage`
        hung.send(chat())
        await settled(stage.busy, above=0)
        client = await stage.connect()
        client.send(post(CHAT, BODY, b"Connection: close"))
        assert (await client.response()).status == 200
        assert await client.rest() == b""
        record = await stage.watch.ended_all(1)
        assert record.ending == Ending.OK
