"""The data port: listening sockets, the connections on them, and the one sweep that times them all.

Law: a client can occupy only what the plan grants it. Time limits are kept by one coarse sweep a second over all connections
instead of a timer each; a limit therefore ends up to two seconds late and never early. `Server` is the door to the rest of
ingress: `connection` reads one connection's bytes, `turn` frames one answer, `framing` holds the pure checks.
"""

from __future__ import annotations

import asyncio
import errno
import math
import random
import socket
from typing import Any, Final, Protocol

from gateway.config.snapshot import ServerPlan
from gateway.core.message import RequestHead
from gateway.egress.sink import Sink, Source
from gateway.errors import Reason, Refused
from gateway.ingress.connection import Connection
from gateway.ingress.heads import KnownHeads
from gateway.ingress.turn import refusal

SWEEP_S: Final = 1.0
LINGER_S: Final = 5.0
"""How long a closed connection may take to hear of it."""
SURPLUS: Final = 256
"""Connections over the limit that may be closing at once with their answer assured; beyond, they are closed outright."""
BACKLOG: Final = 2048
MAX_RETRY_S: Final = 60.0


class Service(Protocol):
    """What the server serves with."""

    def begin(self, head: RequestHead, sink: Sink) -> Source:
        """Take a request whose head is complete and checked, and return what takes in its body.

        May answer through `sink` before it returns, or raise `Refused`. Raised from here or from the Source's `data` and
        `end_of_body`, `Refused` is answered by the server, and nothing more is called on the Source.
        """
        ...


class Server:
    """Serves HTTP/1.1 on any number of sockets. Belongs to one event loop."""

    def __init__(self, service: Service, plan: ServerPlan, loop: asyncio.AbstractEventLoop) -> None:
        self.service = service
        self.loop = loop
        self.plan = plan
        self.known_heads = KnownHeads()
        self.draining = False
        self.idle_due = self.head_due = self.body_due = self.linger_due = 0.0
        """When a connection that begins to idle (send a head, a body, close) now has taken too long; the sweep moves them."""
        self._now = loop.time()
        self._retry_after_s = 0.0
        self._listeners: list[asyncio.Server] = []
        self._connections: set[Connection] = set()
        self._surplus: set[Connection] = set()
        self._ticking: asyncio.TimerHandle | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._set_dues()

    @property
    def connections(self) -> int:
        """Open connections, without those that are being turned away."""
        return len(self._connections)

    async def listen(self, host: str, port: int) -> list[tuple[str, int]]:
        """Listen on every address of `host` (empty: all) and return the (address, port) pairs bound.

        Port 0 takes one free port for all of them. Raises OSError when an address cannot be bound; an address family that
        this machine lacks is passed over unless it is the only one.
        """
        infos = await self.loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        sockets: list[socket.socket] = []
        addresses = list(dict.fromkeys((info[0], info[4]) for info in infos))
        try:
            for left, (family, address) in enumerate(addresses, 1 - len(addresses)):
                taken = sockets[0].getsockname()[1] if sockets else port
                try:
                    sockets.append(_bound(family, (address[0], taken, *address[2:])))
                except OSError as error:
                    lacking = error.errno in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}
                    if not lacking or (left == 0 and not sockets):
                        raise
            listeners = [await self.loop.create_server(self._connection, sock=each, backlog=BACKLOG) for each in sockets]
        except BaseException:
            for each in sockets:
                each.close()
            raise
        self._listeners += listeners
        if self._ticking is None:
            self._ticking = self.loop.call_later(SWEEP_S, self._tick)
        return [each.getsockname()[:2] for each in sockets]

    def reconfigure(self, plan: ServerPlan) -> None:
        """Use other limits and timeouts for what begins from now on; connections stay."""
        self.plan = plan
        self._set_dues()

    async def close_listener(self) -> None:
        """Stop listening; connections stay."""
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.close()

    def start_drain(self, retry_after_s: float) -> None:
        """Answer every further request with 503 and the advice to come back after about `retry_after_s`; close what is idle.

        Requests under way go on to their end, and their connections then close.
        """
        self.draining = True
        self._retry_after_s = retry_after_s
        for connection in tuple(self._connections):
            if connection.idle:
                connection.close_idle()

    async def closed(self) -> None:
        """Wait until no connection is left; after `start_drain`, that is when the last answer is out."""
        if self._connections:
            waiting = self.loop.create_future()
            self._waiting.append(waiting)
            await waiting

    def abort_all(self) -> None:
        """End every connection at once and stop the sweep; each request under way is told that its client is gone."""
        for connection in (*self._connections, *self._surplus):
            connection.abort()
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None

    def sweep(self, now: float) -> None:
        """End what has taken too long by `now` (the event loop's clock, seconds), and send heads that wait for their body."""
        self._now = now
        self._set_dues()
        for connection in (*self._connections, *self._surplus):
            if connection.due <= now:
                connection.expire()
            else:
                connection.flush()

    # What connections call.

    def joined(self, connection: Connection) -> None:
        """Count a new connection in, or turn it away."""
        if len(self._connections) < self.plan.connections:
            self._connections.add(connection)
            return
        if len(self._surplus) >= SURPLUS:
            connection.abort()
            return
        self._surplus.add(connection)
        refused = Refused(503, Reason.CONNECTION_LIMIT, "The gateway has as many connections as it allows.")
        connection.refuse_at_once(refusal(refused, []))

    def left(self, connection: Connection) -> None:
        """Count a connection out."""
        self._connections.discard(connection)
        self._surplus.discard(connection)
        if not self._connections:
            waiting, self._waiting = self._waiting, []
            for each in waiting:
                if not each.done():
                    each.set_result(None)

    def advice(self) -> bytes:
        """Return the retry advice of one refusal while draining, spread over half as long again so that no herd returns."""
        delay_s = min(self._retry_after_s * (1 + random.random() / 2), MAX_RETRY_S)  # noqa: S311 - spreads, hides nothing
        whole_s, ms = math.ceil(delay_s), math.ceil(delay_s * 1000)
        return f"x-should-retry: true\r\nretry-after: {whole_s}\r\nretry-after-ms: {ms}\r\n".encode("ascii")

    def _connection(self) -> Connection:
        return Connection(self)

    def _set_dues(self) -> None:
        # A connection's clock starts up to one sweep after `_now`.
        start = self._now + SWEEP_S
        self.idle_due = start + self.plan.keepalive_s
        self.head_due = start + self.plan.header_s
        self.body_due = start + self.plan.body_idle_s
        self.linger_due = start + LINGER_S

    def _tick(self) -> None:
        busy = self._listeners or self._connections or self._surplus
        self._ticking = self.loop.call_later(SWEEP_S, self._tick) if busy else None
        self.sweep(self.loop.time())


def _bound(family: int, address: tuple[Any, ...]) -> socket.socket:
    """Return a socket bound to the address; each family has its own, because a dual one would collide with the other's."""
    # With the protocol named, event loops see that what is accepted here is TCP, and turn Nagle's algorithm off.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound
