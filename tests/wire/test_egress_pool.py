"""Who gets which connection: reuse, limits, waiting, stale connections, cancelling, back-pressure and closing."""

from __future__ import annotations

import asyncio

import pytest

from gateway.config.snapshot import Origin
from gateway.core.verdicts import IOFault
from gateway.egress.pool import Pool
from tests.wire.upstream_script import (
    HEAD,
    OK,
    Heard,
    Upstream,
    Visit,
    answering,
    ask,
    both_loops,
    moved_time,
    running_pool,
    skip,
    turns,
    upstream,
)


def counts(pool: Pool) -> tuple[int, int, int, int]:
    """Idle, busy, connecting and waiting of the only origin."""
    (stats,) = pool.stats()
    return stats.idle, stats.busy, stats.connecting, stats.waiting


async def exchange(pool: Pool, up: Upstream) -> str:
    heard = Heard()
    ask(pool, up.origin(), heard)
    return await heard.outcome()


async def open_lines(pool: Pool, up: Upstream, count: int) -> None:
    """Have this many idle connections; the script answers their first requests together."""
    all_heard = [Heard() for _ in range(count)]
    for heard in all_heard:
        ask(pool, up.origin(), heard)
    for heard in all_heard:
        assert await heard.outcome() == "200 hi"
    assert counts(pool) == (count, 0, 0, 0)


# Reuse.


@both_loops
async def test_an_idle_connection_is_written_at_once_and_the_newest_first() -> None:
    order: list[int] = []
    both = asyncio.Barrier(2)

    async def script(visit: Visit) -> None:
        await visit.request()
        await both.wait()
        if visit.number == 0:
            await newest_last.wait()
        visit.write(OK)
        while True:
            await visit.request()
            order.append(visit.number)
            visit.write(OK)

    newest_last = asyncio.Event()
    async with upstream(script) as up, running_pool() as pool:
        all_heard = [Heard(), Heard()]
        for heard in all_heard:
            ask(pool, up.origin(), heard)
            assert heard.events == []  # connecting takes a turn of the loop
        while counts(pool) != (1, 1, 0, 0):
            await turns()
        newest_last.set()
        for heard in all_heard:
            assert await heard.outcome() == "200 hi"
        for _ in range(3):
            heard = Heard()
            ask(pool, up.origin(), heard)
            assert heard.events == ["sending"]
            await heard.outcome()
        assert order == [0] * 3
        assert counts(pool) == (2, 0, 0, 0)


@both_loops
async def test_equal_origins_share_connections_and_different_ones_do_not() -> None:
    async with upstream(answering(OK)) as up, running_pool() as pool:
        for origin in (up.origin(), up.origin(), up.origin(server_name="other")):
            heard = Heard()
            ask(pool, origin, heard)
            await heard.outcome()
        assert len(up.visits) == 2
        assert len(pool.stats()) == 2


@both_loops
async def test_idle_connections_expire_and_unused_origins_are_forgotten() -> None:
    three = asyncio.Barrier(3)

    async def script(visit: Visit) -> None:
        await visit.request()
        await three.wait()
        visit.write(OK)
        await visit.gone()

    async with upstream(script) as up, running_pool(idle_s=55.0) as pool:
        await open_lines(pool, up, 3)
        now = asyncio.get_running_loop().time()
        pool.sweep(now + 54.0)
        assert counts(pool) == (3, 0, 0, 0)
        await turns()
        pool.sweep(now + 56.0)
        assert pool.stats() == []


@moved_time
async def test_the_pool_sweeps_by_itself() -> None:
    closed = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.request()
        visit.write(OK)
        await visit.gone()
        closed.set()

    async with upstream(script) as up, running_pool(idle_s=55.0) as pool:
        await exchange(pool, up)
        skip(30.0)
        await turns()
        assert counts(pool) == (1, 0, 0, 0)
        skip(31.0)
        await closed.wait()
        assert pool.stats() == []


@pytest.mark.parametrize(
    "unasked", [b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n", b"x", b""], ids=["408", "x", "EOF"]
)
@both_loops
async def test_bytes_or_an_end_on_an_idle_connection_drop_it(unasked: bytes) -> None:
    speak = asyncio.Event()
    closed = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.request()
        visit.write(OK)
        await speak.wait()
        if visit.number == 0:
            visit.write(unasked)
            if not unasked:
                visit.writer.write_eof()
        await visit.gone()
        closed.set()

    async with upstream(script) as up, running_pool() as pool:
        assert await exchange(pool, up) == "200 hi"
        speak.set()
        await closed.wait()
        assert counts(pool) == (0, 0, 0, 0)
        assert await exchange(pool, up) == "200 hi"
        assert len(up.visits) == 2


# Limits and waiting.


@both_loops
async def test_calls_beyond_the_limit_wait_their_turn_in_order() -> None:
    class Numbered(Heard):
        def sending(self) -> None:
            super().sending()
            order.append(self)

    order: list[Heard] = []
    async with upstream(answering(OK)) as up, running_pool() as pool:
        all_heard = [Numbered() for _ in range(8)]
        for heard in all_heard:
            ask(pool, up.origin(), heard, limit=2)
        assert counts(pool) == (0, 0, 2, 8)
        for heard in all_heard:
            assert await heard.outcome() == "200 hi"
        # The two dials run beside each other, and either may be done first; from then on it goes by the line.
        assert set(order[:2]) == set(all_heard[:2])
        assert order[2:] == all_heard[2:]
        assert len(up.visits) <= 2


@both_loops
async def test_a_connection_that_is_not_kept_makes_room_for_the_next_in_line() -> None:
    async with upstream(answering(OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"))) as up, running_pool() as pool:
        all_heard = [Heard() for _ in range(3)]
        for heard in all_heard:
            ask(pool, up.origin(), heard, limit=1)
        for heard in all_heard:
            assert await heard.outcome() == "200 hi"
        assert len(up.visits) == 3


@moved_time
async def test_waiting_for_a_connection_longer_than_connect_s_is_a_pool_timeout_and_nothing_was_sent() -> None:
    async def script(visit: Visit) -> None:
        await visit.gone()

    async with upstream(script) as up, running_pool() as pool:
        holder, waiter = Heard(), Heard()
        call = ask(pool, up.origin(), holder, limit=1)
        await holder.until("sending")
        ask(pool, up.origin(), waiter, limit=1, connect_s=5.0)
        skip(4.9)
        await turns()
        assert waiter.events == []
        skip(0.2)
        assert await waiter.outcome() == "pool_timeout"
        assert waiter.sent is False
        assert waiter.detail == f"no free connection to 127.0.0.1:{up.port} within 5 s, limit 1"
        call.cancel()


@both_loops
async def test_a_connection_freed_while_another_is_dialled_is_used_and_the_new_one_is_kept() -> None:
    answer = asyncio.Event()

    async def script(visit: Visit) -> None:
        while True:
            await visit.request()
            if visit.number == 0:
                await answer.wait()
            visit.write(OK)

    resolve = asyncio.Event()
    asked = 0

    async def resolver(host: str, port: int) -> list[object]:
        nonlocal asked
        asked += 1
        if asked > 1:
            await resolve.wait()
        return await asyncio.get_running_loop().getaddrinfo("127.0.0.1", port)

    async with upstream(script) as up, running_pool(resolver=resolver) as pool:
        first, second, third = Heard(), Heard(), Heard()
        origin = up.origin(host="provider.test")
        ask(pool, origin, first)
        await first.until("sending")
        pool.names._entries.clear()  # so that the other dials hang in the resolver
        ask(pool, origin, second)
        ask(pool, origin, third)
        answer.set()
        assert await first.outcome() == "200 hi"
        assert second.events == ["sending"]
        assert third.events == []
        assert await second.outcome() == "200 hi"
        assert await third.outcome() == "200 hi"
        assert len(up.visits) == 1
        assert counts(pool) == (1, 0, 2, 0)
        resolve.set()
        while counts(pool) != (3, 0, 0, 0):
            await turns()


# Connections that turn out to be closed.


async def stale(visit: Visit, end: str) -> None:
    await visit.request()
    visit.write(OK)
    if visit.number == 0:
        await visit.request()
        visit.reset() if end == "reset" else visit.close()
    else:
        await visit.gone()


@pytest.mark.parametrize("end", ["close", "reset"])
@both_loops
async def test_a_stale_connection_is_replaced_once_and_unseen(end: str) -> None:
    async with upstream(lambda visit: stale(visit, end)) as up, running_pool() as pool:
        assert await exchange(pool, up) == "200 hi"
        heard = Heard()
        ask(pool, up.origin(), heard, limit=1)
        assert await heard.outcome() == "200 hi"
        assert heard.events.count("sending") == 1
        assert len(up.visits) == 2


@both_loops
async def test_a_replacement_uses_no_other_pooled_connection_and_is_not_replaced_again() -> None:
    both = asyncio.Barrier(2)

    async def script(visit: Visit) -> None:
        if visit.number < 2:
            await visit.request()
            await both.wait()
            visit.write(OK)
        await visit.request()
        visit.close()

    async with upstream(script) as up, running_pool() as pool:
        await open_lines(pool, up, 2)
        heard = Heard()
        ask(pool, up.origin(), heard)
        assert await heard.outcome() == "reset"
        assert heard.sent is True
        assert len(up.visits) == 3
        assert counts(pool) == (1, 0, 0, 0)


@both_loops
async def test_a_replacement_waits_for_its_own_dial_when_a_pooled_connection_comes_free() -> None:
    both = asyncio.Barrier(2)
    answer = asyncio.Event()
    resolve = asyncio.Event()
    asked = 0

    async def resolver(host: str, port: int) -> list[object]:
        nonlocal asked
        asked += 1
        if asked > 1:
            await resolve.wait()
        return await asyncio.get_running_loop().getaddrinfo("127.0.0.1", port)

    async def script(visit: Visit) -> None:
        if visit.number < 2:
            await visit.request()
            await both.wait()
            visit.write(OK)
        request = await visit.request()
        if request.endswith(b"go"):
            visit.close()
            return
        if visit.number < 2:
            await answer.wait()
        visit.write(OK)
        await visit.gone()

    async with upstream(script) as up, running_pool(resolver=resolver) as pool:
        origin = up.origin(host="provider.test")
        all_heard = [Heard(), Heard()]
        for heard in all_heard:
            ask(pool, origin, heard)
        for heard in all_heard:
            assert await heard.outcome() == "200 hi"
        pool.names._entries.clear()
        replaced, other = Heard(), Heard()
        ask(pool, origin, other)
        call = ask(pool, origin, replaced, body=[b"go"])
        while counts(pool) != (0, 1, 1, 0):
            await turns()
        answer.set()
        assert await other.outcome() == "200 hi"
        assert counts(pool) == (1, 0, 1, 0)
        assert replaced.events == ["sending"]
        call.cancel()
        assert counts(pool) == (1, 0, 0, 0)
        resolve.set()


@both_loops
async def test_a_fresh_connection_that_closes_is_an_ambiguous_failure() -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        visit.close()

    async with upstream(script) as up, running_pool() as pool:
        heard = Heard()
        ask(pool, up.origin(), heard)
        assert await heard.outcome() == "reset"
        assert heard.sent is True
        assert heard.detail == f"127.0.0.1:{up.port} closed the connection before the answer"
        assert len(up.visits) == 1


@both_loops
async def test_a_reused_connection_that_closes_after_a_byte_is_not_replaced() -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        visit.write(OK)
        await visit.request()
        visit.write(b"H")
        visit.close()

    async with upstream(script) as up, running_pool() as pool:
        await exchange(pool, up)
        assert await exchange(pool, up) == "reset"
        assert len(up.visits) == 1


@both_loops
async def test_a_request_whose_body_is_still_coming_is_not_replaced() -> None:
    async with upstream(lambda visit: stale(visit, "close")) as up, running_pool() as pool:
        await exchange(pool, up)
        heard = Heard()
        call = ask(pool, up.origin(), heard, body=[], whole=False)
        call.write(b"hi")
        call.end_of_body()
        assert await heard.outcome() == "reset"
        assert heard.sent is True


@moved_time
async def test_a_reused_connection_that_closes_later_than_a_second_is_not_replaced() -> None:
    close = asyncio.Event()
    asked = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.request()
        visit.write(OK)
        await visit.request()
        asked.set()
        await close.wait()
        visit.close()

    async with upstream(script) as up, running_pool() as pool:
        await exchange(pool, up)
        heard = Heard()
        ask(pool, up.origin(), heard)
        await asked.wait()
        skip(1.1)
        close.set()
        assert await heard.outcome() == "reset"
        assert heard.sent is True


@both_loops
async def test_a_replacement_that_cannot_connect_tells_that_the_request_may_have_been_seen() -> None:
    closing = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.request()
        visit.write(OK)
        await visit.request()
        await closing.wait()
        visit.close()

    async with running_pool() as pool:
        heard = Heard()
        async with upstream(script) as up:
            await exchange(pool, up)
            ask(pool, up.origin(), heard)
        assert await heard.outcome() == "connect"
        assert heard.sent is True
        assert heard.events == ["sending", "failed"]


# Cancelling.


@both_loops
async def test_cancelling_a_sent_call_closes_its_connection() -> None:
    closed = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.gone()
        closed.set()

    async with upstream(script) as up, running_pool() as pool:
        heard = Heard()
        call = ask(pool, up.origin(), heard)
        await heard.until("sending")
        call.cancel()
        await closed.wait()
        call.cancel()
        assert heard.events == ["sending"]
        assert counts(pool) == (0, 0, 0, 0)


@both_loops
async def test_cancelling_before_a_connection_stops_the_dial() -> None:
    async with upstream(answering(OK)) as up, running_pool() as pool:
        heard = Heard()
        call = ask(pool, up.origin(), heard)
        assert counts(pool) == (0, 0, 1, 1)
        call.cancel()
        assert counts(pool) == (0, 0, 0, 0)
        assert await exchange(pool, up) == "200 hi"
        assert heard.events == []
        assert len(up.visits) == 1


@both_loops
async def test_cancelling_in_the_queue_lets_the_others_move_up() -> None:
    answer = asyncio.Event()

    async def script(visit: Visit) -> None:
        while True:
            await visit.request()
            await answer.wait()
            visit.write(OK)

    async with upstream(script) as up, running_pool() as pool:
        holder, leaver, patient = Heard(), Heard(), Heard()
        ask(pool, up.origin(), holder, limit=1)
        leaving = ask(pool, up.origin(), leaver, limit=1)
        ask(pool, up.origin(), patient, limit=1)
        leaving.cancel()
        answer.set()
        assert await patient.outcome() == "200 hi"
        assert leaver.events == []
        assert len(up.visits) == 1


@both_loops
async def test_a_cancelled_dial_is_kept_for_whoever_waits() -> None:
    async with upstream(answering(OK)) as up, running_pool() as pool:
        leaver, patient = Heard(), Heard()
        leaving = ask(pool, up.origin(), leaver, limit=1)
        ask(pool, up.origin(), patient, limit=1)
        leaving.cancel()
        assert await patient.outcome() == "200 hi"
        assert leaver.events == []
        assert len(up.visits) == 1


# Bodies and back-pressure.


@both_loops
async def test_a_streamed_body_is_framed_in_chunks_and_the_connection_is_kept() -> None:
    seen: list[bytes] = []

    async def script(visit: Visit) -> None:
        while True:
            seen.append(await visit.request())
            visit.write(OK)

    head = HEAD.replace(b"Content-Length: 2", b"Transfer-Encoding: chunked")
    async with upstream(script) as up, running_pool() as pool:
        for _ in range(2):
            heard = Heard()
            call = ask(pool, up.origin(), heard, head=head, body=[b"ab"], whole=False, chunked=True)
            call.write(b"c" * 17)
            call.write(b"")
            call.end_of_body()
            assert await heard.outcome() == "200 hi"
        heard = Heard()
        ask(pool, up.origin(), heard, head=head, body=[b"ab", b"", b"cd"], chunked=True)
        assert await heard.outcome() == "200 hi"
        assert seen[0] == seen[1] == head + b"2\r\nab\r\n11\r\n" + b"c" * 17 + b"\r\n0\r\n\r\n"
        assert seen[2] == head + b"2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n"
        assert len(up.visits) == 1


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@both_loops
async def test_a_large_whole_body_arrives_whole(chunked: bool) -> None:
    body = [bytes([number]) * 700_001 for number in range(5)]
    total = b"".join(body)
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(total)
    seen: list[int] = []

    async def script(visit: Visit) -> None:
        while True:
            head = await visit.reader.readuntil(b"\r\n\r\n")
            assert framing in head
            if chunked:
                received = b""
                while size := int(await visit.reader.readline(), 16):
                    received += await visit.reader.readexactly(size)
                    assert await visit.reader.readline() == b"\r\n"
                await visit.reader.readline()
            else:
                received = await visit.reader.readexactly(len(total))
            assert received == total
            seen.append(len(received))
            visit.write(OK)

    async with upstream(script) as up, running_pool() as pool:
        for _ in range(2):
            heard = Heard()
            ask(pool, up.origin(), heard, head=HEAD.replace(b"Content-Length: 2", framing), body=body, chunked=chunked)
            assert await heard.outcome() == "200 hi"
            assert heard.events == ["sending", "head", "data", "ended"]
        assert seen == [len(total)] * 2
        assert len(up.visits) == 1


@both_loops
async def test_a_provider_that_does_not_read_blocks_the_writer_until_it_does() -> None:
    read = asyncio.Event()
    chunk = b"x" * 65536
    total = 0

    async def script(visit: Visit) -> None:
        await visit.reader.readuntil(b"\r\n\r\n")
        await read.wait()
        await visit.reader.readexactly(total)
        visit.write(OK)

    async with upstream(script) as up, running_pool() as pool:
        heard = Heard()
        head = HEAD.replace(b"Content-Length: 2", b"Content-Length: %d" % (64 * 1024 * 1024))
        call = ask(pool, up.origin(), heard, head=head, body=[], whole=False)
        await heard.until("sending")
        while "blocked" not in heard.events:
            call.write(chunk)
            total += len(chunk)
            await turns(3)
        assert total < 32 * 1024 * 1024
        read.set()
        await heard.until("unblocked")
        assert await heard.outcome() == "200 hi"
        assert heard.events.count("blocked") == heard.events.count("unblocked") == 1


@both_loops
async def test_a_call_without_a_connection_blocks_its_writer_and_then_sends_all_in_order() -> None:
    seen: list[bytes] = []
    resolve = asyncio.Event()

    async def resolver(host: str, port: int) -> list[object]:
        await resolve.wait()
        return await asyncio.get_running_loop().getaddrinfo("127.0.0.1", port)

    async def script(visit: Visit) -> None:
        seen.append(await visit.request())
        visit.write(OK)
        await visit.gone()

    chunks = [bytes([number]) * 30_000 for number in range(6)]
    body = [b"first"]
    head = HEAD.replace(b"Content-Length: 2", b"Content-Length: 180009")
    async with upstream(script) as up, running_pool(resolver=resolver) as pool:
        heard = Heard()
        call = ask(pool, up.origin(host="provider.test"), heard, head=head, body=body, whole=False)
        for chunk in chunks:
            call.write(chunk)
        assert heard.events == []
        await heard.until("blocked")
        resolve.set()
        await heard.until("unblocked")
        call.write(b"last")
        call.end_of_body()
        assert await heard.outcome() == "200 hi"
        assert seen == [head + b"first" + b"".join(chunks) + b"last"]
        assert body == [b"first"]


@both_loops
async def test_a_paused_call_stops_the_provider_and_a_resumed_one_loses_nothing() -> None:
    size = 32 * 1024 * 1024
    written = 0
    stuck = asyncio.Event()

    async def script(visit: Visit) -> None:
        nonlocal written
        await visit.request()
        visit.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        piece = b"x" * 65536
        for _ in range(size // len(piece)):
            visit.write(piece)
            drained = asyncio.ensure_future(visit.writer.drain())
            await turns(3)
            if not drained.done():
                stuck.set()
            await drained
            written += len(piece)
        await visit.gone()

    class Counting(Heard):
        count = 0

        def data(self, chunk: bytes) -> None:
            self.count += len(chunk)
            if self.count == len(chunk):
                call.pause()

    async with upstream(script) as up, running_pool() as pool:
        heard = Counting()
        call = ask(pool, up.origin(), heard)
        await stuck.wait()
        call.pause()
        taken = heard.count
        await turns(20)
        assert heard.count == taken < size / 2
        assert written < size / 2
        call.resume()
        call.resume()
        await heard.outcome()
        assert heard.count == size
        assert counts(pool) == (1, 0, 0, 0)


@both_loops
async def test_a_call_that_ends_while_paused_leaves_a_connection_that_is_read_again() -> None:
    class Pausing(Heard):
        def head(self, head: object) -> None:
            super().head(head)  # type: ignore[arg-type]
            call.pause()

    async with upstream(answering(OK)) as up, running_pool() as pool:
        heard = Pausing()
        call = ask(pool, up.origin(), heard)
        assert await heard.outcome() == "200 hi"
        assert await exchange(pool, up) == "200 hi"
        assert len(up.visits) == 1


# The pool itself.


@both_loops
async def test_closing_fails_what_is_under_way_and_what_comes_after() -> None:
    async def script(visit: Visit) -> None:
        await visit.gone()

    async with upstream(script) as up, running_pool() as pool:
        sent, queued, dialling, late = Heard(), Heard(), Heard(), Heard()
        ask(pool, up.origin(), sent, limit=1)
        await sent.until("sending")
        ask(pool, up.origin(), queued, limit=1)
        ask(pool, up.origin(server_name="other"), dialling)
        await pool.close()
        assert (sent.fault, sent.sent) == (IOFault.RESET, True)
        assert (queued.fault, queued.sent) == (IOFault.CONNECT, False)
        assert (dialling.fault, dialling.sent) == (IOFault.CONNECT, False)
        ask(pool, up.origin(), late)
        assert late.events == []
        assert await late.outcome() == "connect"


@pytest.mark.parametrize("head_request", [False, True], ids=["POST", "HEAD"])
@both_loops
async def test_a_receiver_that_fails_is_reported_and_its_connection_closed(head_request: bool) -> None:
    class Failing(Heard):
        def head(self, head: object) -> None:
            raise KeyError("a bug in the driver")

    reported: list[BaseException] = []
    async with upstream(answering(OK)) as up, running_pool() as pool:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
        heard = Failing()
        ask(pool, up.origin(), heard, head_request=head_request)
        assert await heard.outcome() == "reset"
        assert [type(exc) for exc in reported] == [KeyError]
        assert counts(pool) == (0, 0, 0, 0)


@both_loops
async def test_reprs_are_readable_and_tell_no_secret() -> None:
    async with upstream(answering(OK)) as up, running_pool() as pool:
        await exchange(pool, up)
        proxied = Origin("https", "api.example.com", 443, proxy="http://user:s3cret@127.0.0.1:9")
        ask(pool, proxied, Heard()).cancel()
        text = repr(pool)
        assert f"<Place http://127.0.0.1:{up.port}, idle: 1, busy: 0, connecting: 0, waiting: 0>" in text
        assert "https://api.example.com:443 via 127.0.0.1:9" in text
        (connection,) = pool._places[up.origin()]._open
        assert repr(connection) == f"<Connection 127.0.0.1:{up.port}, IDLE, calls: 1>"
        assert repr(pool._places[proxied]._proxy) == "<Proxy 127.0.0.1:9>"
        assert "s3cret" not in text + repr(pool.stats())
