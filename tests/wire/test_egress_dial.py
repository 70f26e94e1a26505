"""How a connection comes about, or does not: names, addresses, TLS, proxies; each failure with its fault and a useful sentence."""

from __future__ import annotations

import asyncio
import base64
import os
import pathlib
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trustme

from gateway.config.snapshot import Origin
from gateway.egress.names import Names, UnknownName
from tests.wire.upstream_script import (
    HEAD,
    OK,
    Heard,
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

# Names.


class Resolver:
    """Answers, fails or hangs, as told; counts the questions."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.error: OSError | None = None
        self.asked = 0
        self.free = asyncio.Event()
        self.free.set()

    async def __call__(self, host: str, port: int) -> list[Any]:
        self.asked += 1
        await self.free.wait()
        if self.error is not None:
            raise self.error
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))
            for address in self.addresses
        ]


@asynccontextmanager
async def cache(*addresses: str) -> AsyncIterator[tuple[Names, Resolver]]:
    resolver = Resolver(*addresses)
    names = Names(asyncio.get_running_loop(), resolver)
    yield names, resolver
    await names.close()


async def ask_name(names: Names) -> list[str]:
    return [address[4][0] for address in await names.addresses("api.test", 443)]


@moved_time
async def test_a_name_is_asked_for_once_in_30_s_and_then_in_the_background() -> None:
    async with cache("192.0.2.1") as (names, resolver):
        assert await ask_name(names) == ["192.0.2.1"]
        skip(29.0)
        assert await ask_name(names) == ["192.0.2.1"]
        assert resolver.asked == 1
        resolver.addresses = ("192.0.2.2",)
        resolver.free.clear()
        skip(2.0)
        assert await ask_name(names) == ["192.0.2.1"]
        resolver.free.set()
        await turns()
        assert await ask_name(names) == ["192.0.2.2"]
        assert resolver.asked == 2


@moved_time
async def test_an_answer_long_unused_is_asked_for_again_before_it_is_used() -> None:
    async with cache("192.0.2.1") as (names, resolver):
        await ask_name(names)
        resolver.addresses = ("192.0.2.2",)
        skip(61.0)
        assert await ask_name(names) == ["192.0.2.2"]


@moved_time
async def test_lookups_of_one_name_are_shared_and_outlive_the_one_that_began_them() -> None:
    async with cache("192.0.2.1") as (names, resolver):
        resolver.free.clear()
        impatient = asyncio.ensure_future(ask_name(names))
        await turns()
        patient = asyncio.ensure_future(ask_name(names))
        await turns()
        impatient.cancel()
        await turns()
        resolver.free.set()
        assert await patient == ["192.0.2.1"]
        assert resolver.asked == 1


@moved_time
async def test_a_failing_resolver_leaves_the_old_answer_in_use_for_a_day() -> None:
    async with cache("192.0.2.1") as (names, resolver):
        await ask_name(names)
        resolver.error = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        skip(23 * 3600.0)
        assert await ask_name(names) == ["192.0.2.1"]
        skip(3600.0)
        with pytest.raises(UnknownName, match="temporary failure in name resolution"):
            await ask_name(names)


@moved_time
async def test_a_hanging_resolver_holds_an_old_answer_back_for_a_second_and_only_once() -> None:
    async with cache("192.0.2.1") as (names, resolver):
        await ask_name(names)
        resolver.free.clear()
        skip(120.0)
        waiting = asyncio.ensure_future(ask_name(names))
        await turns()
        assert not waiting.done()
        skip(1.1)
        assert await waiting == ["192.0.2.1"]
        again = asyncio.ensure_future(ask_name(names))
        await turns()
        assert again.done()
        assert await again == ["192.0.2.1"]
        assert resolver.asked == 2


@moved_time
async def test_a_failure_is_believed_for_one_second() -> None:
    async with cache() as (names, resolver):
        resolver.error = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        for _ in range(3):
            with pytest.raises(UnknownName, match="name or service not known"):
                await ask_name(names)
        assert resolver.asked == 1
        skip(1.1)
        resolver.error = None
        with pytest.raises(UnknownName, match="no address"):
            await ask_name(names)
        resolver.addresses = ("192.0.2.1",)
        skip(1.1)
        assert await ask_name(names) == ["192.0.2.1"]


@moved_time
async def test_an_address_is_nobodys_business_to_resolve() -> None:
    async with cache() as (names, resolver):
        assert await names.addresses("192.0.2.7", 1) == [
            (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("192.0.2.7", 1)),
        ]
        assert (await names.addresses("::1", 1))[0][4] == ("::1", 1, 0, 0)
        assert resolver.asked == 0


@moved_time
async def test_an_address_that_did_not_connect_is_tried_last_for_a_minute() -> None:
    async with cache("192.0.2.1", "192.0.2.2") as (names, _):
        addresses = await names.addresses("api.test", 443)
        names.demote(addresses[:1])
        assert await ask_name(names) == ["192.0.2.2", "192.0.2.1"]
        skip(61.0)
        assert await ask_name(names) == ["192.0.2.1", "192.0.2.2"]


# Connecting.


def closed_port() -> int:
    """A port of loopback nobody listens at."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@both_loops
async def test_a_name_that_cannot_be_resolved_is_a_dns_fault() -> None:
    async with running_pool(resolver=Resolver()) as pool:
        heard = Heard()
        ask(pool, Origin("https", "api.test", 443), heard)
        assert await heard.outcome() == "dns"
        assert heard.sent is False
        assert heard.detail == "cannot resolve api.test: no address"
        assert heard.events == ["failed"]


@both_loops
async def test_the_systems_resolver_is_used_by_default() -> None:
    async with upstream(answering(OK)) as up, running_pool() as pool:
        heard = Heard()
        ask(pool, up.origin(host="localhost"), heard)
        assert await heard.outcome() == "200 hi"


@both_loops
async def test_a_refused_connection_is_a_connect_fault_and_the_name_is_looked_up_again() -> None:
    port = closed_port()
    resolver = Resolver("127.0.0.1")
    async with running_pool(resolver=resolver) as pool:
        for _ in range(2):
            heard = Heard()
            ask(pool, Origin("http", "api.test", port), heard)
            assert await heard.outcome() == "connect"
            assert heard.sent is False
            assert heard.detail == f"connection refused by 127.0.0.1:{port}"
            await turns()
        assert resolver.asked == 2


@both_loops
async def test_the_next_address_is_tried_and_the_dead_one_goes_last_from_then_on() -> None:
    async with upstream(answering(OK)) as up, running_pool(resolver=Resolver("127.0.0.2", "127.0.0.1")) as pool:
        heard = Heard()
        ask(pool, up.origin(host="api.test"), heard)
        assert await heard.outcome() == "200 hi"
        addresses = await pool.names.addresses("api.test", up.port)
        assert [address[4][0] for address in addresses] == ["127.0.0.1", "127.0.0.2"]


@both_loops
async def test_sockets_send_at_once_and_keep_flows_alive() -> None:
    async with upstream(answering(OK)) as up, running_pool() as pool:
        heard = Heard()
        ask(pool, up.origin(), heard)
        await heard.outcome()
        (connection,) = pool._places[up.origin()]._open
        sock = connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_KEEPIDLE"):
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 60
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 5


@moved_time
async def test_connecting_is_bounded_from_the_name_to_the_end() -> None:
    resolver = Resolver("127.0.0.1")
    resolver.free.clear()
    async with running_pool(resolver=resolver) as pool:
        heard = Heard()
        ask(pool, Origin("https", "api.test", 443), heard, connect_s=5.0)
        await turns()
        skip(5.1)
        assert await heard.outcome() == "connect_timeout"
        assert heard.sent is False
        assert heard.detail == "resolving api.test took longer than 5 s"
        assert pool.stats()[0].connecting == 0


@moved_time
async def test_a_silent_tls_server_is_a_connect_timeout() -> None:
    greeted = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.reader.readexactly(1)
        greeted.set()
        await visit.gone()

    async with upstream(script) as up, running_pool() as pool:
        heard = Heard()
        ask(pool, up.origin("https"), heard, connect_s=5.0)
        await greeted.wait()
        skip(5.1)
        assert await heard.outcome() == "connect_timeout"
        assert heard.detail == f"TLS handshake with 127.0.0.1:{up.port} took longer than 5 s"


# TLS.

AUTHORITY = trustme.CA()


@pytest.fixture
def ca_file(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(str(path))
    return str(path)


def server_tls(*names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert(*names).configure_cert(context)
    return context


@both_loops
async def test_an_extra_ca_is_trusted_and_connections_are_reused(ca_file: str) -> None:
    protocols: list[str | None] = []
    context = server_tls("127.0.0.1")
    context.set_alpn_protocols(["h2", "http/1.1"])

    async def script(visit: Visit) -> None:
        protocols.append(visit.writer.get_extra_info("ssl_object").selected_alpn_protocol())
        await answering(OK)(visit)

    async with upstream(script, tls=context) as up, running_pool() as pool:
        for _ in range(2):
            heard = Heard()
            ask(pool, up.origin("https", ca_file=ca_file), heard)
            assert await heard.outcome() == "200 hi"
        assert protocols == ["http/1.1"]


@both_loops
async def test_a_certificate_of_an_unknown_authority_is_refused() -> None:
    async with upstream(answering(OK), tls=server_tls("127.0.0.1")) as up, running_pool() as pool:
        heard = Heard()
        ask(pool, up.origin("https"), heard)
        assert await heard.outcome() == "tls"
        assert heard.sent is False
        assert heard.detail.startswith(f"certificate of 127.0.0.1:{up.port} refused: ")
        await turns()


@both_loops
async def test_a_certificate_for_another_name_is_refused(ca_file: str) -> None:
    resolver = Resolver("127.0.0.1")
    async with upstream(answering(OK), tls=server_tls("other.test")) as up, running_pool(resolver=resolver) as pool:
        heard = Heard()
        ask(pool, up.origin("https", "api.test", ca_file=ca_file), heard)
        assert await heard.outcome() == "tls"
        assert "certificate is not valid for 'api.test'" in heard.detail
        await turns()


@both_loops
async def test_a_name_with_its_final_dot_is_checked_without_it(ca_file: str) -> None:
    resolver = Resolver("127.0.0.1")
    async with upstream(answering(OK), tls=server_tls("api.test")) as up, running_pool(resolver=resolver) as pool:
        heard = Heard()
        ask(pool, up.origin("https", "api.test.", ca_file=ca_file), heard)
        assert await heard.outcome() == "200 hi"


@both_loops
async def test_server_name_overrides_what_is_asked_for_and_checked(ca_file: str) -> None:
    asked: list[str | None] = []
    context = server_tls("inner.test")
    context.sni_callback = lambda _, name, __: asked.append(name)
    async with upstream(answering(OK), tls=context) as up, running_pool() as pool:
        heard = Heard()
        ask(pool, up.origin("https", ca_file=ca_file, server_name="inner.test"), heard)
        assert await heard.outcome() == "200 hi"
        assert asked == ["inner.test"]


@both_loops
async def test_a_server_without_tls_is_a_tls_fault() -> None:
    async def script(visit: Visit) -> None:
        visit.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
        await visit.gone()

    async with upstream(script) as up, running_pool() as pool:
        heard = Heard()
        ask(pool, up.origin("https"), heard)
        assert await heard.outcome() == "tls"
        assert heard.detail.startswith(f"TLS handshake with 127.0.0.1:{up.port} failed: ")


@both_loops
async def test_a_server_that_closes_in_the_handshake_is_a_tls_fault() -> None:
    async def script(visit: Visit) -> None:
        await visit.reader.readexactly(1)
        visit.reset()

    async with upstream(script) as up, running_pool() as pool:
        heard = Heard()
        ask(pool, up.origin("https"), heard)
        assert await heard.outcome() == "tls"
        assert heard.detail.startswith(f"TLS handshake with 127.0.0.1:{up.port} cut off: ")


@both_loops
async def test_an_unreadable_ca_file_is_a_tls_fault_that_names_it(tmp_path: pathlib.Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("not a certificate")
    async with running_pool() as pool:
        for path in (tmp_path / "absent.pem", broken):
            heard = Heard()
            ask(pool, Origin("https", "127.0.0.1", 9, ca_file=str(path)), heard)
            assert await heard.outcome() == "tls"
            assert heard.detail.startswith(f"CA file {path}: ")


@both_loops
async def test_a_changed_ca_file_is_read_again(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "rotating.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    async with upstream(answering(OK), tls=server_tls("127.0.0.1")) as up, running_pool() as pool:
        origin = up.origin("https", ca_file=str(path))
        heard = Heard()
        ask(pool, origin, heard)
        assert await heard.outcome() == "tls"
        AUTHORITY.cert_pem.write_to_path(str(path))
        os.utime(path, ns=(1, 1))
        heard = Heard()
        ask(pool, origin, heard)
        assert await heard.outcome() == "200 hi"
        await turns()


@both_loops
async def test_a_body_without_a_length_over_tls_needs_the_closing_alert(ca_file: str) -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        visit.write(b"HTTP/1.1 200 OK\r\n\r\nhi")
        if visit.number == 0:
            visit.close()
            await visit.gone()
        elif visit.number == 1:
            await heard.until("data")
            visit.writer.transport.abort()  # FIN without the alert
        else:
            await heard.until("data")
            visit.reset()

    async with upstream(script, tls=server_tls("127.0.0.1")) as up, running_pool() as pool:
        for outcome in ("200 hi", "reset", "reset"):
            heard = Heard()
            ask(pool, up.origin("https", ca_file=ca_file), heard)
            assert await heard.outcome() == outcome


# Proxies.


@asynccontextmanager
async def proxy(answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n") -> AsyncIterator[tuple[str, list[bytes]]]:
    """A proxy that gives this answer to CONNECT and tunnels if it is a 2xx; yields its URL and the heads it saw."""
    heads: list[bytes] = []

    async def script(visit: Visit) -> None:
        head = await visit.reader.readuntil(b"\r\n\r\n")
        heads.append(head)
        visit.write(answer)
        if not answer.startswith(b"HTTP/1.1 2"):
            if answer:
                visit.close()
            await visit.gone()
            return
        port = head.split(b" ")[1].rsplit(b":", 1)[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        try:
            await asyncio.gather(pump(visit.reader, writer), pump(reader, visit.writer))
        finally:
            writer.transport.abort()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async with upstream(script) as up:
        yield f"http://user:p%40ss@127.0.0.1:{up.port}", heads


@both_loops
async def test_https_goes_through_a_tunnel(ca_file: str) -> None:
    nobody = Resolver()  # the name is the proxy's to resolve
    tls = server_tls("api.test")
    async with upstream(answering(OK), tls=tls) as up, proxy() as (url, heads), running_pool(resolver=nobody) as pool:
        for _ in range(2):
            heard = Heard()
            ask(pool, up.origin("https", "api.test", ca_file=ca_file, proxy=url), heard)
            assert await heard.outcome() == "200 hi"
        userinfo = base64.b64encode(b"user:p@ss")
        target = b"api.test:%d" % up.port
        assert heads == [b"CONNECT %b HTTP/1.1\r\nHost: %b\r\nProxy-Authorization: Basic %b\r\n\r\n" % (target, target, userinfo)]


PROXY_ANSWERS = {
    b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n": "answered CONNECT with status 407",
    b"HTTP/1.1 503 Service Unavailable\r\n\r\n": "answered CONNECT with status 503",
    b"SSH-2.0-OpenSSH\r\n\r\n": "did not answer CONNECT in HTTP",
    b"HTTP/1.1 200 OK\r\n\r\nhello": "sent bytes of its own into the tunnel",
    b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000: "sent an endless answer to CONNECT",
    b"HTTP/1.1 4": "closed the connection instead of answering CONNECT",
}


@pytest.mark.parametrize("answer", PROXY_ANSWERS, ids=list(PROXY_ANSWERS.values()))
@both_loops
async def test_a_proxy_that_does_not_connect_is_a_connect_fault(answer: bytes) -> None:
    async with proxy(answer) as (url, _), upstream(answering(OK)) as up, running_pool() as pool:
        heard = Heard()
        ask(pool, up.origin("https", proxy=url), heard)
        assert await heard.outcome() == "connect"
        assert heard.sent is False
        where = url.rsplit("@")[1]
        assert heard.detail == f"proxy {where} {PROXY_ANSWERS[answer]}"
        await turns()


@moved_time
async def test_a_proxy_that_hangs_is_a_connect_timeout() -> None:
    async with proxy(b"") as (url, heads), running_pool() as pool:
        heard = Heard()
        ask(pool, Origin("https", "api.test", 443, proxy=url), heard)
        while not heads:
            await turns()
        skip(5.1)
        assert await heard.outcome() == "connect_timeout"
        assert heard.detail == f"proxy {url.rsplit('@')[1]} connecting to api.test:443 took longer than 5 s"


@both_loops
async def test_plain_http_is_sent_to_the_proxy_in_absolute_form() -> None:
    seen: list[bytes] = []

    async def script(visit: Visit) -> None:
        seen.append(await visit.request())
        visit.write(OK)
        await visit.gone()

    async with upstream(script) as up, running_pool() as pool:
        heard = Heard()
        ask(pool, Origin("http", "vllm.test", 8000, proxy=f"http://user:p%40ss@127.0.0.1:{up.port}"), heard)
        assert await heard.outcome() == "200 hi"
        userinfo = base64.b64encode(b"user:p@ss")
        line = b"POST http://vllm.test:8000/v1/chat/completions HTTP/1.1\r\nProxy-Authorization: Basic %b\r\n" % userinfo
        assert seen == [line + HEAD.split(b"\r\n", 1)[1] + b"hi"]


@pytest.mark.parametrize("url", ["socks5://127.0.0.1:1080", "https://127.0.0.1:1080", "http://"])
@both_loops
async def test_a_proxy_that_cannot_be_used_fails_the_call_from_the_loop(url: str) -> None:
    async with running_pool() as pool:
        heard = Heard()
        ask(pool, Origin("https", "api.test", 443, proxy=url), heard)
        assert heard.events == []
        assert await heard.outcome() == "connect"
        assert heard.detail.startswith("unsupported proxy: ")
