"""What a client may occupy, and for how long: times, connections, reload and drain. Time is given to the sweep, nobody waits."""

import asyncio
import dataclasses
import socket

import orjson
import pytest

from gateway.config.snapshot import ServerPlan
from gateway.ingress import http1
from tests.wire.raw import TEXT, Bench, Client, Exchange, served
from tests.wire.test_ingress_connection import stuff

GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
PLAN = ServerPlan(header_s=10, body_idle_s=30, keepalive_s=75)


async def arrived(bench: Bench, client: Client, data: bytes) -> None:
    """Send bytes that do not make a request, and wait until the server holds them."""
    [connection] = bench.server._connections
    client.send(data)
    async with asyncio.timeout(20):
        while connection.idle:
            turn = bench.server.loop.create_future()
            bench.server.loop.call_soon(turn.set_result, None)
            await turn


async def test_a_head_that_takes_too_long_is_a_408() -> None:
    async with served(PLAN) as bench:
        client = await bench.connect()
        await bench.echo(client)
        await arrived(bench, client, b"GET / HTTP/1.1\r\nHo")
        bench.later(9)
        client.send(b"st: a\r\n")
        bench.later(12)
        response = await client.response()
        assert (response.status, response.get(b"x-gateway-reason")) == (408, b"request_timeout")
        assert response.get(b"connection") == b"close"
        assert await client.rest() == b""
        assert len(bench.service.seen) == 1


@pytest.mark.parametrize("trickle", [b"\r", b"G"])
async def test_one_byte_is_the_beginning_of_a_head(trickle: bytes) -> None:
    async with served(PLAN) as bench:
        client = await bench.connect()
        await bench.echo(client)
        await arrived(bench, client, trickle)
        bench.later(12)
        assert (await client.response()).status == 408


async def test_an_idle_connection_is_closed_without_a_word() -> None:
    async with served(PLAN) as bench:
        client = await bench.connect()
        await bench.echo(client)
        bench.later(74)
        await bench.echo(client)
        bench.later(74 + 77)
        assert await client.rest() == b""
        await bench.server.closed()


@pytest.mark.parametrize("framing", [b"Content-Length: 9\r\n\r\nhalf", b"Transfer-Encoding: chunked\r\n\r\n9\r\nhalf"])
async def test_a_body_that_falls_silent_is_a_408_and_its_client_gone(framing: bytes) -> None:
    async with served(PLAN) as bench:
        client = await bench.connect()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + framing)
        await bench.service.until(lambda: bool(bench.service.seen) and bool(bench.service.seen[0].body))
        bench.later(29)
        client.send(b"x")
        await bench.service.until(lambda: bench.service.seen[0].body == b"halfx")
        bench.later(29 + 29)
        assert bench.service.seen[0].events == ["data", "data"]
        bench.later(29 + 32)
        response = await client.response()
        assert (response.status, response.get(b"x-gateway-reason")) == (408, b"request_timeout")
        assert bench.service.seen[0].events == ["data", "data", "gone"]
        assert await client.rest() == b""


async def test_a_body_that_never_begins_is_a_408_too() -> None:
    async with served(PLAN) as bench:
        client = await bench.connect()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
        await bench.service.until(lambda: bool(bench.service.seen))
        bench.later(32)
        assert (await client.response()).status == 408
        assert bench.service.seen[0].events == ["gone"]


async def test_a_silent_body_behind_an_open_answer_cuts_it() -> None:
    async with served(PLAN) as bench:
        bench.service.on_begin = lambda exchange: (exchange.sink.open(200, b"", TEXT, length=9), exchange.sink.write(b"part"))
        client = await bench.connect()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
        await bench.service.until(lambda: bool(bench.service.seen))
        bench.later(32)
        response = await client.response()
        assert (response.status, response.body, response.whole) == (200, b"", False)
        assert bench.service.seen[0].events == ["gone"]


async def test_a_pending_answer_has_no_time_limit_here() -> None:
    async with served(PLAN) as bench:
        bench.service.on_end = lambda exchange: None
        client = await bench.connect()
        client.send(GET)
        await bench.service.until(lambda: bool(bench.service.seen))
        bench.later(100_000)
        bench.service.seen[0].answer(b"late")
        assert (await client.response()).body == b"late"


async def test_a_client_that_stops_reading_its_answer_is_cut_in_the_end() -> None:
    async with served(PLAN) as bench:
        bench.service.on_end = lambda exchange: exchange.answer(b"x" * 50_000_000)
        client = await bench.connect(receive_buffer=4096)
        client.writer.transport.pause_reading()
        client.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await bench.service.until(lambda: bool(bench.service.seen))
        bench.later(10)
        bench.later(80)
        assert bench.server.connections == 1
        bench.later(10 + 77 + 77)
        await bench.server.closed()
        assert "gone" not in bench.service.seen[0].events


async def test_a_client_that_stops_reading_in_the_middle_of_its_answer_is_cut_in_the_end() -> None:
    async with served(PLAN) as bench:

        def half(exchange: Exchange) -> None:
            exchange.sink.open(200, b"OK", [], length=100_000_000)
            exchange.sink.write(b"x" * 50_000_000)

        bench.service.on_end = half
        client = await bench.connect(receive_buffer=4096)
        client.writer.transport.pause_reading()
        client.send(GET)
        await bench.service.until(lambda: bool(bench.service.seen) and "blocked" in bench.service.seen[0].events)
        bench.later(10)
        bench.later(80)
        assert bench.server.connections == 1
        bench.later(10 + 77 + 77)
        await bench.service.until(lambda: "gone" in bench.service.seen[0].events)


async def test_a_slow_reader_of_its_last_answer_gets_all_of_it() -> None:
    async with served(PLAN) as bench:
        bench.service.on_end = lambda exchange: exchange.answer(b"x" * 30_000_000)
        client = await bench.connect()
        client.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await client.reader.readuntil(b"\r\n\r\n")
        [connection] = bench.server._connections
        read = later = 0
        while unsent := connection._transport.get_write_buffer_size():
            while connection._transport.get_write_buffer_size() == unsent:
                read += len(await client.reader.read(65536))
            later += 70
            bench.later(later)
        assert later > 700
        assert read + len(await client.rest()) == 30_000_000


async def test_connections_over_the_limit_are_told_so() -> None:
    async with served(dataclasses.replace(PLAN, connections=2)) as bench:
        first, second = [await bench.connect() for _ in range(2)]
        await bench.echo(first)
        await bench.echo(second)
        third = await bench.connect()
        third.send(GET)
        response = await third.response()
        assert (response.status, response.get(b"x-gateway-reason")) == (503, b"connection_limit")
        assert response.get(b"connection") == b"close"
        assert orjson.loads(response.body)["error"]["code"] == "connection_limit"
        assert await third.rest() == b""
        assert bench.server.connections == 2
        assert b"/a" not in bench.service.targets

        await first.close()
        while bench.server.connections == 2:
            await bench.echo(second)
        await bench.echo(await bench.connect())


@pytest.mark.interpreted
async def test_a_flood_over_the_limit_occupies_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "SURPLUS", 3)
    async with served(dataclasses.replace(PLAN, connections=0)) as bench:
        clients = [await bench.connect() for _ in range(6)]
        answered = [bool(await client.rest()) for client in clients]
        assert answered.count(True) == 3
        assert (len(bench.server._surplus), bench.server.connections) == (3, 0)
        bench.later(7)
        await bench.server.closed()


async def test_a_reload_changes_limits_and_times_of_what_comes() -> None:
    async with served(PLAN) as bench:
        client = await bench.connect()
        await bench.echo(client)
        bench.server.reconfigure(dataclasses.replace(PLAN, header_s=2, body_bytes=3))
        await arrived(bench, client, b"GET / HTTP/1.1\r\n")
        bench.later(4)
        assert (await client.response()).status == 408
        client = await bench.connect()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody")
        assert (await client.response()).status == 413


async def test_the_sweep_runs_by_itself_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "SWEEP_S", 0.0)
    async with served(dataclasses.replace(PLAN, keepalive_s=0.0)) as bench:
        client = await bench.connect()
        assert await client.rest() == b""
    assert bench.server._ticking is None


# Drain.


async def test_while_draining_further_requests_get_advice_and_the_rest_goes_on() -> None:
    async with served(PLAN) as bench:
        bench.service.on_end = lambda exchange: None
        busy, idle, begun = [await bench.connect() for _ in range(3)]
        busy.send(GET)
        idle.send(GET)
        begun.send(GET)
        await bench.service.until(lambda: len(bench.service.seen) == 3)
        bench.service.seen[1].answer()
        bench.service.seen[2].answer()
        await idle.response()
        await begun.response()
        begun.send(b"POST /late HTTP/1.1\r\nHost: a\r\nCont")
        connections = list(bench.server._connections)
        async with asyncio.timeout(20):
            while sum(connection.idle for connection in connections) != 1:
                turn = bench.server.loop.create_future()
                bench.server.loop.call_soon(turn.set_result, None)
                await turn

        await bench.server.close_listener()
        bench.server.start_drain(4.0)

        assert await idle.rest() == b""
        begun.send(b"ent-Length: 4\r\n\r\nbody")
        response = await begun.response()
        assert (response.status, response.get(b"x-gateway-reason")) == (503, b"draining")
        assert response.get(b"connection") == b"close"
        assert response.get(b"x-should-retry") == b"true"
        assert 4000 <= int(response.get(b"retry-after-ms")) <= 6000
        assert 4 <= int(response.get(b"retry-after")) <= 6
        assert await begun.rest() == b""
        with pytest.raises(ConnectionRefusedError):
            await bench.connect()

        bench.service.seen[0].answer(b"whole")
        response = await busy.response()
        assert (response.body, response.get(b"connection")) == (b"whole", b"close")
        assert await busy.rest() == b""
        await bench.server.closed()
        assert len(bench.service.seen) == 3


async def test_an_answer_opened_before_the_drain_closes_its_connection_after_it() -> None:
    async with served(PLAN) as bench:
        bench.service.on_end = lambda exchange: exchange.sink.open(200, b"OK", TEXT, length=None)
        client = await bench.connect()
        client.send(GET)
        await bench.service.until(lambda: bool(bench.service.seen))
        bench.server.start_drain(1)
        bench.service.seen[0].sink.write(b"x")
        bench.service.seen[0].sink.end()
        assert (await client.response()).body == b"x"
        assert await client.rest() == b""
        await bench.server.closed()


async def test_closing_the_listener_leaves_idle_connections_in_use() -> None:
    async with served(PLAN) as bench:
        client = await bench.connect()
        await bench.echo(client)
        await bench.server.close_listener()
        await bench.echo(client)


async def test_abort_all_ends_everything_and_says_so() -> None:
    async with served(PLAN) as bench:
        bench.service.on_end = lambda exchange: None
        client = await bench.connect()
        client.send(GET)
        await bench.service.until(lambda: bool(bench.service.seen))
        bench.server.abort_all()
        await bench.server.closed()
        assert bench.service.seen[0].events == ["end", "gone"]
        assert await client.rest() == b""


# Listening.


async def test_a_host_name_is_served_on_all_its_addresses_with_one_port() -> None:
    async with served(PLAN) as bench:
        bound = await bench.server.listen("localhost", 0)
        assert len({port for _, port in bound}) == 1
        for address in bound:
            bench.address = address
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            with socket.socket(family) as sock:
                sock.setblocking(False)
                await asyncio.get_running_loop().sock_connect(sock, address)


async def test_a_port_in_use_is_an_error_and_leaves_nothing_behind() -> None:
    async with served(PLAN) as bench:
        with pytest.raises(OSError, match="in use"):
            await bench.server.listen(*bench.address)
        await bench.echo(await bench.connect())


async def test_an_address_of_another_machine_is_an_error() -> None:
    async with served(PLAN) as bench:
        with pytest.raises(OSError, match=r"[Aa]ssign"):
            await bench.server.listen("192.0.2.1", 0)


async def test_a_freed_port_can_be_bound_again_at_once() -> None:
    async with served(PLAN) as bench:
        client = await bench.connect()
        await bench.echo(client)
        await bench.server.close_listener()
        bench.server.abort_all()
        await bench.server.closed()
        assert await bench.server.listen(*bench.address) == [bench.address]
        await bench.echo(await bench.connect())


async def test_unread_bytes_do_not_destroy_a_refusal() -> None:
    async with served(dataclasses.replace(PLAN, connections=0)) as bench:
        client = await bench.connect()
        await stuff(client, b"x" * 1_000_000)
        assert (await client.response()).status == 503
