"""A listening address that can be taken away and given back: how a simulated provider refuses connections.

The law here: between `refuse` and `accept` the port stays ours. A socket that is bound but does not listen lets the kernel refuse
every connection, and keeps any other process from being given the port meanwhile.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable

from aiohttp import web

from gateway.drill.wire import reset

_MOST_HEAD_BYTES = 128 * 1024


class Listener:
    """One HTTP server on one port. `settled` returns when every request has been accounted for."""

    def __init__(
        self,
        serve: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        settled: Callable[[], Awaitable[None]],
    ) -> None:
        self._serve = serve
        self._settled = settled
        self._server: web.Server | None = None
        self._listening: asyncio.Server | None = None
        self._reserved: socket.socket | None = None
        self.host = ""
        self.port = 0
        self.leaving = False
        """While connections are being dropped: a request that ends now was dropped by us, its peer did not leave."""

    @property
    def refusing(self) -> bool:
        """Whether nobody listens."""
        return self._listening is None

    async def open(self, host: str, port: int) -> None:
        """Listen; port 0 takes a free one. Raises OSError if the address cannot be had."""
        self._reserved = _bound(host, port)
        self.host, self.port = host, self._reserved.getsockname()[1]
        self._server = web.Server(
            self._serve,
            handler_cancellation=True,
            auto_decompress=False,
            access_log=None,
            max_line_size=_MOST_HEAD_BYTES,
            max_field_size=_MOST_HEAD_BYTES,
            max_headers=1024,
            lingering_time=2.0,
        )
        await self.accept()

    async def close(self) -> None:
        """Stop listening and reset every connection."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None
        await self._drop(None)
        if self._server is not None:
            await self._server.shutdown(0.5)
            self._server = None

    async def refuse(self, spare: asyncio.BaseTransport | None) -> None:
        """Stop listening and reset every connection but `spare`; idempotent."""
        if self._listening is None:
            return
        self._listening.close()
        self._listening = None
        self._reserved = await _bound_again(self.host, self.port)
        await self._drop(spare)

    async def accept(self) -> None:
        """Listen on the port that is ours; idempotent."""
        if self._reserved is None or self._server is None:
            return
        taken, self._reserved = self._reserved, None
        self._listening = await asyncio.get_running_loop().create_server(self._server, sock=taken, backlog=1024)

    async def _drop(self, spare: asyncio.BaseTransport | None) -> None:
        if self._server is None:
            return
        for _ in range(3):
            # A connection accepted just now needs a few turns of the loop before it is in the list.
            await asyncio.sleep(0)
        self.leaving = True
        for connection in self._server.connections:
            if connection.transport is not None and connection.transport is not spare:
                reset(connection.transport)
        try:
            await self._settled()
        finally:
            self.leaving = False


def _bound(host: str, port: int) -> socket.socket:
    """A socket with the address, not listening yet. SO_REUSEADDR: connections in TIME_WAIT do not matter."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


async def _bound_again(host: str, port: int) -> socket.socket:
    """The same address after its listener was closed: uvloop lets go of it only some turns later."""
    for _ in range(100):
        try:
            return _bound(host, port)
        except OSError as busy:
            if busy.errno != errno.EADDRINUSE:
                raise
            await asyncio.sleep(0.001)
    raise OSError(errno.EADDRINUSE, f"port {port} was not released")
