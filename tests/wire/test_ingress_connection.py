"""One connection over its life: order, flow control, bodies that are not read, and clients that leave."""

import asyncio
import socket

import pytest

from gateway.config.snapshot import ServerPlan
from gateway.ingress.connection import LINGER_BYTES, PIPELINE_BYTES, WRITE_HIGH
from tests.wire.raw import TEXT, Bench, Client, Exchange, served

GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
NOTHING = lambda exchange: None  # noqa: E731 - reads better in an assignment


def get(target: int) -> bytes:
    return b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % target


def post(length: int, more: bytes = b"") -> bytes:
    return b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n%b\r\n" % (length, more)


CHUNKED = b"POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


async def stuff(client: Client, data: bytes) -> int:
    """Send as much as the server and the kernel take in; returns how much."""
    client.writer.transport.set_write_buffer_limits(high=0)
    sent = 0
    sock = client.sock
    loop = asyncio.get_running_loop()
    dup = sock.dup()
    dup.setblocking(False)
    try:
        idle = 0
        while sent < len(data) and idle < 20:
            try:
                sent += dup.send(data[sent : sent + 65536])
                idle = 0
            except BlockingIOError:
                idle += 1
            except ConnectionError:
                break
            # One turn of the loop: the server reads what it wants to read.
            turn = loop.create_future()
            loop.call_soon(turn.set_result, None)
            await turn
    finally:
        dup.close()
    return sent


# Order.


async def test_pipelined_requests_are_answered_in_order_and_one_at_a_time() -> None:
    async with served() as bench:
        bench.service.on_end = NOTHING
        client = await bench.connect()
        client.send(b"".join(get(n) for n in range(5)))
        for n in range(5):
            await bench.service.until(lambda n=n: len(bench.service.seen) == n + 1)
            bench.service.seen[n].answer(b"%d" % n)
            response = await client.response()
            assert response.body == b"%d" % n
        assert bench.service.targets == [b"/0", b"/1", b"/2", b"/3", b"/4"]


async def test_thousands_of_pipelined_requests_need_no_stack() -> None:
    async with served() as bench:
        client = await bench.connect()
        client.send(b"".join(get(n) for n in range(3000)))
        for _ in range(3000):
            assert (await client.response()).status == 200
        assert bench.service.targets == [b"/%d" % n for n in range(3000)]


async def test_later_requests_wait_in_bounded_memory() -> None:
    async with served() as bench:
        bench.service.on_end = NOTHING
        client = await bench.connect()
        flood = b"".join(get(n) for n in range(400_000))
        sent = await stuff(client, flood)
        assert sent < len(flood)
        [connection] = bench.server._connections
        assert not connection._transport.is_reading()
        assert PIPELINE_BYTES < len(connection._inbox) <= PIPELINE_BYTES + 256 * 1024
        assert len(bench.service.seen) == 1

        bench.service.on_end = lambda exchange: exchange.answer(b"x")
        bench.service.seen[0].answer(b"first")
        assert (await client.response()).body == b"first"
        for _ in range(2000):
            assert (await client.response()).body == b"x"


async def test_a_client_that_reads_no_answers_gets_no_further_ones_into_memory() -> None:
    answer = b"x" * 32 * 1024
    async with served() as bench:
        bench.service.on_end = lambda exchange: exchange.answer(answer)
        client = await bench.connect(receive_buffer=4096)
        client.writer.transport.pause_reading()
        await stuff(client, GET * 4000)
        [connection] = bench.server._connections
        served_now = len(bench.service.seen)
        assert served_now < 1000
        assert connection._transport.get_write_buffer_size() <= WRITE_HIGH + 2 * len(answer)

        client.writer.transport.resume_reading()
        for _ in range(served_now + 10):
            assert (await client.response()).body == answer
        assert len(bench.service.seen) > served_now


async def test_a_body_is_never_read_as_a_request() -> None:
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    async with served() as bench:
        client = await bench.connect()
        client.send(post(len(smuggled)) + smuggled + CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(smuggled), smuggled))
        for _ in range(2):
            assert (await client.response()).body == smuggled
        await bench.echo(client)
        assert b"/smuggled" not in bench.service.targets


# Bodies and flow control.


async def test_bodies_arrive_in_pieces_as_they_come() -> None:
    async with served() as bench:
        client = await bench.connect()
        client.send(post(10) + b"01")
        await bench.service.until(lambda: bool(bench.service.seen) and bench.service.seen[0].body == b"01")
        assert bench.service.seen[0].events == ["data"]
        client.send(b"234567")
        await bench.service.until(lambda: bench.service.seen[0].body == b"01234567")
        client.send(b"89" + CHUNKED + b"5\r\nhel")
        assert (await client.response()).body == b"0123456789"
        await bench.service.until(lambda: len(bench.service.seen) == 2 and bench.service.seen[1].body == b"hel")
        client.send(b"lo\r\n0\r\n\r\n")
        assert (await client.response()).body == b"hello"


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_paused_body_stays_in_the_kernel(chunked: bool) -> None:
    size = 30_000_000

    def pause(exchange: Exchange) -> None:
        exchange.sink.pause_body()
        exchange.sink.pause_body()

    async with served() as bench:
        bench.service.on_data = pause
        bench.service.on_end = lambda exchange: exchange.answer(b"%d" % len(exchange.body))
        client = await bench.connect()
        body = b"x" * size
        whole = CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (size, body) if chunked else post(size) + body
        sent = await stuff(client, whole)
        [exchange] = bench.service.seen
        assert exchange.events == ["data"]
        assert len(exchange.body) <= 256 * 1024
        assert sent < size
        bench.later(1000)
        assert exchange.events == ["data"], "a pause of ours is no silence of the client's"

        bench.service.on_data = NOTHING
        client.send(whole[sent:])
        exchange.sink.resume_body()
        exchange.sink.resume_body()
        assert (await client.response()).body == b"%d" % size


@pytest.mark.parametrize("request_", [post(4) + b"body", CHUNKED + b"4\r\nbody\r\n0\r\n\r\n"], ids=["length", "chunked"])
async def test_a_body_paused_from_the_beginning_is_held_back_though_it_is_there(request_: bytes) -> None:
    async with served() as bench:
        bench.service.on_begin = lambda exchange: exchange.sink.pause_body()
        client = await bench.connect()
        client.send(request_)
        await bench.service.until(lambda: bool(bench.service.seen))
        [exchange] = bench.service.seen
        assert exchange.events == []
        exchange.sink.resume_body()
        assert exchange.events == [], "data and flow control never nest"
        assert (await client.response()).body == b"body"


async def test_a_slow_client_blocks_and_unblocks_the_source() -> None:
    async with served() as bench:
        bench.service.on_end = NOTHING
        client = await bench.connect(receive_buffer=4096)
        client.writer.transport.pause_reading()
        client.send(GET)
        await bench.service.until(lambda: bool(bench.service.seen))
        [exchange] = bench.service.seen
        exchange.sink.open(200, b"OK", TEXT, length=None)
        written = 0
        while "blocked" not in exchange.events:
            exchange.sink.write(b"x" * 65536)
            written += 65536
            assert written < 100_000_000
        exchange.sink.write(b"y" * 1000)
        client.writer.transport.resume_reading()
        read = asyncio.ensure_future(client.response())
        await bench.service.until(lambda: "unblocked" in exchange.events)
        exchange.sink.end()
        response = await read
        assert (len(response.body), response.whole) == (written + 1000, True)
        assert exchange.events == ["end", "blocked", "unblocked"]


async def test_a_source_that_begins_blocked_is_told_so() -> None:
    def flood(exchange: Exchange) -> None:
        exchange.sink.open(200, b"OK", TEXT, length=None)
        exchange.sink.write(b"x" * 50_000_000)

    async with served() as bench:
        bench.service.on_begin = flood
        bench.service.on_end = NOTHING
        client = await bench.connect(receive_buffer=4096)
        client.send(GET)
        await bench.service.until(lambda: bool(bench.service.seen) and bool(bench.service.seen[0].events))
        assert bench.service.seen[0].events[0] == "blocked"


# Expect: 100-continue.

EXPECT = post(4, b"Expect: 100-continue\r\n")


async def test_100_continue_is_sent_by_default() -> None:
    async with served() as bench:
        client = await bench.connect()
        client.send(EXPECT)
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"body")
        response = await client.response()
        assert (response.body, response.interim) == (b"body", [])


async def test_100_continue_waits_until_the_body_is_wanted() -> None:
    async with served() as bench:
        bench.service.on_begin = lambda exchange: exchange.sink.pause_body()
        client = await bench.connect()
        client.send(EXPECT)
        await bench.service.until(lambda: bool(bench.service.seen))
        [connection] = bench.server._connections
        assert connection._wants_continue
        bench.service.seen[0].sink.resume_body()
        bench.service.seen[0].sink.resume_body()
        client.send(b"body")
        response = await client.response()
        assert (response.body, response.interim) == (b"body", [100])


@pytest.mark.parametrize(
    "request_",
    [EXPECT + b"body", EXPECT.replace(b"1.1", b"1.0") + b"body", post(0, b"Expect: 100-continue\r\n")],
    ids=["body already there", "HTTP/1.0", "no body"],
)
async def test_100_continue_is_not_sent_where_nobody_waits_for_it(request_: bytes) -> None:
    async with served() as bench:
        client = await bench.connect()
        client.send(request_)
        assert (await client.response()).interim == []


async def test_a_final_answer_replaces_100_continue() -> None:
    async with served() as bench:
        bench.service.on_begin = lambda exchange: exchange.answer(b"no", 413)
        client = await bench.connect()
        client.send(EXPECT)
        response = await client.response()
        assert (response.status, response.interim, response.get(b"connection")) == (413, [], b"close")


# Answers before the body's end.


async def test_an_early_answer_is_readable_and_the_rest_of_the_body_is_no_request() -> None:
    async with served() as bench:
        bench.service.on_data = lambda exchange: exchange.answer(b"enough", 400)
        client = await bench.connect()
        client.send(post(3_000_000) + b"x" * 100_000)
        await bench.service.until(lambda: bool(bench.service.seen) and bool(bench.service.seen[0].events))
        # The client goes on sending, answer or not; then it looks.
        client.send(b"x" * 1_000_000 + GET * 100)
        await client.writer.drain()
        response = await client.response()
        assert (response.status, response.body, response.get(b"connection")) == (400, b"enough", b"close")
        assert await client.rest() == b""
        assert len(bench.service.seen) == 1
        assert bench.service.seen[0].events == ["data"]


async def test_an_early_answer_may_stream_while_the_body_comes() -> None:
    async with served() as bench:
        bench.service.on_begin = lambda exchange: exchange.sink.open(200, b"OK", TEXT, length=None)
        bench.service.on_data = lambda exchange: exchange.sink.write(exchange.body)
        bench.service.on_end = lambda exchange: exchange.sink.end()
        client = await bench.connect()
        client.send(post(3) + b"a")
        await client.reader.readuntil(b"1\r\na\r\n")
        client.send(b"bc")
        assert await client.rest() == b"3\r\nabc\r\n0\r\n\r\n"
        assert bench.service.seen[0].events == ["data", "data", "end"]


async def test_the_lingering_close_is_bounded_in_bytes() -> None:
    async with served(ServerPlan(body_bytes=10)) as bench:
        client = await bench.connect()
        client.send(post(2**40))
        assert (await client.response()).status == 413
        assert LINGER_BYTES <= await stuff(client, bytes(4 * LINGER_BYTES)) < 4 * LINGER_BYTES
        await bench.server.closed()


async def test_the_lingering_close_is_bounded_in_time() -> None:
    async with served() as bench:
        client = await bench.connect()
        client.send(b"rubbish\r\n\r\n")
        assert (await client.response()).status == 400
        assert await client.rest() == b""
        bench.later(0)
        assert bench.server.connections == 1
        bench.later(7)
        await bench.server.closed()


async def test_the_server_half_closes_first_and_the_client_decides() -> None:
    async with served() as bench:
        client = await bench.connect()
        client.send(b"rubbish\r\n\r\n")
        assert (await client.response()).status == 400
        assert await client.rest() == b""
        await client.close()
        await bench.server.closed()


# Clients that leave.


async def leave(bench: Bench, client: Client, how: str) -> None:
    if how == "half-close":
        client.half_close()
    elif how == "reset":
        client.reset()
    else:
        await client.close()


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
@pytest.mark.parametrize("when", ["waiting", "streaming", "sending"])
async def test_a_client_that_leaves_is_reported_gone_once(how: str, when: str) -> None:
    async with served() as bench:
        bench.service.on_end = NOTHING
        client = await bench.connect()
        client.send(post(10) + b"half" if when == "sending" else GET)
        await bench.service.until(lambda: bool(bench.service.seen) and bool(bench.service.seen[0].events))
        [exchange] = bench.service.seen
        before = list(exchange.events)
        if when == "streaming":
            exchange.sink.open(200, b"OK", TEXT, length=None)
            exchange.sink.write(b"x")
            await client.reader.readuntil(b"1\r\nx\r\n")
        await leave(bench, client, how)
        await bench.service.until(lambda: "gone" in exchange.events)
        await bench.server.closed()
        assert exchange.events == [*before, "gone"]
        exchange.sink.write(b"late")
        exchange.sink.end()
        if how == "half-close":
            assert await client.rest() == b""


async def test_a_client_that_leaves_between_requests_is_no_news() -> None:
    async with served() as bench:
        client = await bench.connect()
        await bench.echo(client)
        await client.close()
        await bench.server.closed()
        assert bench.service.seen[0].events == ["data", "end"]


@pytest.mark.parametrize("part", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: a\r\n"])
async def test_half_a_head_and_the_end_is_no_request(part: bytes) -> None:
    async with served() as bench:
        client = await bench.connect()
        client.send(part)
        client.half_close()
        assert await client.rest() == b""
        assert bench.service.seen == []


async def test_a_small_pipelined_request_does_not_hide_that_the_client_leaves() -> None:
    async with served() as bench:
        bench.service.on_end = NOTHING
        client = await bench.connect()
        client.send(GET + GET)
        await bench.service.until(lambda: bool(bench.service.seen))
        client.reset()
        await bench.service.until(lambda: "gone" in bench.service.seen[0].events)
        await bench.server.closed()
        assert len(bench.service.seen) == 1


async def test_a_broken_body_behind_an_open_answer_cuts_it() -> None:
    async with served() as bench:
        bench.service.on_begin = lambda exchange: (
            exchange.sink.open(200, b"OK", TEXT, length=None),
            exchange.sink.write(b"half"),
        )
        client = await bench.connect()
        client.send(CHUNKED + b"rubbish\r\n" + GET)
        response = await client.response()
        assert (response.status, response.whole) == (200, False)
        assert bench.service.seen[0].events == ["gone"]
        assert len(bench.service.seen) == 1


async def test_nagle_is_off() -> None:
    async with served() as bench:
        client = await bench.connect()
        await bench.echo(client)
        [connection] = bench.server._connections
        sock = connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
