"""Opens one connection to an origin: name, TCP by happy eyeballs, the proxy's tunnel, TLS.

`Dial` is the only place where the operating system's errors become an `IOFault`, each with a sentence an operator can act on and
no secret in it. It knows nothing of pools and sets no time limit: whoever dials cancels, and `stage` says what it was waiting for.
The CONNECT exchange runs on the bare socket, so that the TLS transport is made once and the same way on asyncio and uvloop.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import ssl
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import unquote_to_bytes, urlsplit

from aiohappyeyeballs import AddrInfoType, start_connection

from gateway.config.snapshot import Origin
from gateway.core.verdicts import IOFault
from gateway.egress.names import Names, UnknownName

EYEBALLS_DELAY_S: Final = 0.25
"""RFC 8305 section 5: the recommended Connection Attempt Delay."""
PROXY_HEAD_BYTES: Final = 16 * 1024
"""A proxy's answer to CONNECT may be this long."""
_KEEPALIVE: Final = (("TCP_KEEPIDLE", 60), ("TCP_KEEPALIVE", 60), ("TCP_KEEPINTVL", 60), ("TCP_KEEPCNT", 5))
"""Seconds idle (Linux's name, macOS's name), seconds between probes, probes: firewalls forget flows after some minutes."""
_PROXY_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r]")

C = TypeVar("C", bound=asyncio.BaseProtocol)


class DialFault(Exception):  # noqa: N818 - carries a fault, in the core's words
    """No connection came about: which fault, and a sentence for the log."""

    def __init__(self, fault: IOFault, detail: str) -> None:
        super().__init__(detail)
        self.fault = fault
        self.detail = detail


class Proxy:
    """An outbound proxy, parsed. Its repr leaves out the userinfo."""

    __slots__ = ("authorization", "host", "port")

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise DialFault(IOFault.CONNECT, f"unsupported proxy: scheme {parts.scheme!r}, only http://host:port can be used")
        self.host = parts.hostname
        self.port = parts.port or 80
        self.authorization = b""
        """A whole `Proxy-Authorization` line, or nothing."""
        if parts.username is not None:
            userinfo = unquote_to_bytes(parts.username) + b":" + unquote_to_bytes(parts.password or "")
            self.authorization = b"Proxy-Authorization: Basic " + b64encode(userinfo) + b"\r\n"

    def __repr__(self) -> str:
        return f"<Proxy {endpoint(self.host, self.port)}>"


class Trust:
    """TLS settings, one context per CA file and version of it: the system's trust store, plus that file."""

    __slots__ = ("_contexts",)

    def __init__(self) -> None:
        self._contexts: dict[str | None, tuple[int, ssl.SSLContext]] = {}

    def context(self, ca_file: str | None) -> ssl.SSLContext:
        """Return the context for this CA file, loaded anew when the file changed; raises DialFault if it cannot be read."""
        try:
            changed = Path(ca_file).stat().st_mtime_ns if ca_file else 0
            known = self._contexts.get(ca_file)
            if known is not None and known[0] == changed:
                return known[1]
            context = ssl.create_default_context()
            context.set_alpn_protocols(["http/1.1"])
            if ca_file:
                context.load_verify_locations(ca_file)
        except OSError as exc:  # ssl.SSLError is one
            raise DialFault(IOFault.TLS, f"CA file {ca_file}: {exc.strerror or exc}") from exc
        self._contexts[ca_file] = changed, context
        return context


class Dial:
    """One attempt to open a connection."""

    __slots__ = ("_loop", "_names", "_origin", "_proxy", "_trust", "stage")

    def __init__(self, loop: asyncio.AbstractEventLoop, origin: Origin, proxy: Proxy | None, names: Names, trust: Trust) -> None:
        self._loop = loop
        self._origin = origin
        self._proxy = proxy
        self._names = names
        self._trust = trust
        self.stage = "starting"
        """What is being waited for, as a phrase for an error's detail."""

    async def connect(self, factory: Callable[[], C]) -> C:
        """Return a connected protocol, TLS included; raises DialFault. Cancelling it closes whatever was open."""
        origin, proxy, loop = self._origin, self._proxy, self._loop
        context = self._trust.context(origin.ca_file) if origin.scheme == "https" else None
        sock = await self._tcp(*((proxy.host, proxy.port) if proxy else (origin.host, origin.port)))
        try:
            if context is None:
                return (await loop.create_connection(factory, sock=sock))[1]
            if proxy:
                await self._tunnel(sock, proxy)
            where = endpoint(origin.host, origin.port)
            self.stage = f"TLS handshake with {where}"
            name = (origin.server_name or origin.host).rstrip(".")
            try:
                return (await loop.create_connection(factory, sock=sock, ssl=context, server_hostname=name))[1]
            except ssl.SSLCertVerificationError as exc:
                raise DialFault(IOFault.TLS, f"certificate of {where} refused: {exc.verify_message}") from exc
            except ssl.SSLError as exc:
                raise DialFault(IOFault.TLS, f"TLS handshake with {where} failed: {exc.reason or exc}") from exc
            except OSError as exc:
                raise DialFault(IOFault.TLS, f"TLS handshake with {where} cut off: {_words(exc)}") from exc
        except BaseException:
            sock.close()
            raise

    async def _tcp(self, host: str, port: int) -> socket.socket:
        self.stage = f"resolving {host}"
        try:
            addresses = await self._names.addresses(host, port)
        except UnknownName as exc:
            raise DialFault(IOFault.DNS, f"cannot resolve {host}: {exc}") from exc
        self.stage = f"connecting to {endpoint(host, port)}"
        tried: list[AddrInfoType] = []

        def new_socket(address: AddrInfoType) -> socket.socket:
            tried.append(address)
            sock = socket.socket(address[0], address[1], address[2])
            _tune(sock)
            return sock

        try:
            sock = await start_connection(
                addresses,
                happy_eyeballs_delay=EYEBALLS_DELAY_S,
                interleave=1,
                loop=self._loop,
                socket_factory=new_socket,
            )
        except (OSError, RuntimeError) as exc:  # uvloop raises RuntimeError for an address it cannot use
            self._names.suspect(host, port)
            spots = ", ".join(endpoint(*address[4][:2]) for address in tried)
            raise DialFault(IOFault.CONNECT, f"{_words(exc)} by {spots}") from exc
        if len(tried) > 1:
            peer = sock.getpeername()
            self._names.demote(address for address in tried if address[4] != peer)
        return sock

    async def _tunnel(self, sock: socket.socket, proxy: Proxy) -> None:
        """Have the proxy connect us through: RFC 9110 section 9.3.6, any 2xx and nothing after its head."""
        origin = self._origin
        target = endpoint(origin.host, origin.port).encode("ascii")
        where = f"proxy {endpoint(proxy.host, proxy.port)}"
        self.stage = f"{where} connecting to {endpoint(origin.host, origin.port)}"
        answer = b""
        try:
            request = b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (target, target, proxy.authorization)
            await self._loop.sock_sendall(sock, request)
            while (end := answer.find(b"\r\n\r\n")) < 0:
                if len(answer) > PROXY_HEAD_BYTES:
                    raise DialFault(IOFault.CONNECT, f"{where} sent an endless answer to CONNECT")
                chunk = await self._loop.sock_recv(sock, 4096)
                if not chunk:
                    raise DialFault(IOFault.CONNECT, f"{where} closed the connection instead of answering CONNECT")
                answer += chunk
        except OSError as exc:
            raise DialFault(IOFault.CONNECT, f"{where}: {_words(exc)}") from exc
        status = _PROXY_STATUS.match(answer)
        if status is None:
            raise DialFault(IOFault.CONNECT, f"{where} did not answer CONNECT in HTTP")
        if not status[1].startswith(b"2"):
            raise DialFault(IOFault.CONNECT, f"{where} answered CONNECT with status {status[1].decode()}")
        if end + 4 != len(answer):
            raise DialFault(IOFault.CONNECT, f"{where} sent bytes of its own into the tunnel")


def endpoint(host: str, port: int) -> str:
    """Return `host:port`, with brackets round IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _tune(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        number = getattr(socket, option, None)
        if number is not None:
            sock.setsockopt(socket.IPPROTO_TCP, number, value)


def _words(exc: OSError | RuntimeError) -> str:
    """Say an error the way `strerror` does, without the numbers and addresses that loops put round it."""
    number = getattr(exc, "errno", None)
    if number == errno.ECONNREFUSED:
        return "connection refused"
    if number:
        return os.strerror(number).lower()
    return str(exc).lower() or type(exc).__name__
