"""A blind byte relay: accept, connect, copy both ways, understand nothing.

The law here: this is the floor under every proxy written in Python on this loop. What a contender costs above it is what reading
HTTP and deciding cost; what it costs itself is the kernel's and the loop's, and no work on the gateway can gain it back. It honours
back-pressure, because a relay without it would be cheaper than any proxy may be.
"""

import argparse
import asyncio
from typing import cast

import uvloop


class _End(asyncio.Protocol):
    """One end of a relayed connection; whatever it reads is written to its peer."""

    __slots__ = ("_early", "peer", "transport")

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.peer: _End | None = None
        self._early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def join(self, peer: "_End") -> None:
        """Ties both ends together and passes on what was read before there was a peer."""
        self.peer, peer.peer = peer, self
        if self.transport.is_closing():
            peer.transport.close()
        elif self._early:
            peer.transport.write(self._early)
            self._early = b""

    def data_received(self, data: bytes) -> None:
        if self.peer is None:
            self._early += data
        else:
            self.peer.transport.write(data)

    def pause_writing(self) -> None:
        if self.peer is not None:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None and not self.peer.transport.is_closing():
            self.peer.transport.resume_reading()

    def connection_lost(self, _exc: Exception | None) -> None:
        if self.peer is not None:
            self.peer.transport.close()


class _Front(_End):
    """The client's end: opens its own upstream connection as soon as it is accepted."""

    __slots__ = ("_port", "_tasks")

    def __init__(self, upstream_port: int, tasks: set[asyncio.Task[None]]) -> None:
        super().__init__()
        self._port = upstream_port
        self._tasks = tasks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        task = asyncio.get_running_loop().create_task(self._connect())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> None:
        try:
            _, back = await asyncio.get_running_loop().create_connection(_End, "127.0.0.1", self._port)
        except OSError:
            self.transport.abort()
            return
        self.join(back)


async def _serve(port: int, upstream_port: int) -> None:
    tasks: set[asyncio.Task[None]] = set()
    server = await asyncio.get_running_loop().create_server(lambda: _Front(upstream_port, tasks), "127.0.0.1", port, backlog=4_096)
    await server.serve_forever()


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.relay", description="A blind byte relay on loopback.")
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--upstream-port", type=int, required=True)
    parsed = arguments.parse_args()
    uvloop.run(_serve(parsed.port, parsed.upstream_port))


if __name__ == "__main__":
    main()
