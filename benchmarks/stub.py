"""A provider as cheap as one can be: one fixed answer, or a stream of equal events at a fixed pace.

The law here: the stub must never be what is measured, so it parses no more than where a request ends and writes bytes that were
rendered beforehand. Each event of a stream is one write, so that it reaches a contender as one chunk to relay. It is no simulated
provider: it knows no faults, and its answers prove nothing about correctness.
"""

import argparse
import asyncio
from typing import Final, cast

import uvloop

from benchmarks.payloads import ANSWER, CHUNKS_HEADER, DELAY_HEADER, STREAM_CHUNK, STREAM_END, STREAM_HEAD

_LENGTH: Final = b"\r\ncontent-length:"
_CHUNKED: Final = b"\r\ntransfer-encoding: chunked"
_LAST_CHUNK: Final = b"0\r\n\r\n"


def field(head: bytes, name: bytes) -> int | None:
    """The integer value of the header that starts with `name` in a lower-case head, or None where it is absent."""
    at = head.find(name)
    if at < 0:
        return None
    start = at + len(name)
    end = head.find(b"\r\n", start)
    return int(head[start : end if end >= 0 else len(head)])


class Stub(asyncio.Protocol):
    """One connection: requests one after another, never pipelined (no contender does)."""

    __slots__ = ("_chunked", "_delay_s", "_head", "_left", "_loop", "_plan", "_timer", "_transport")

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._head = b""
        self._left = 0
        self._chunked = False
        self._plan: int | None = None
        self._delay_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        if self._left:
            self._left -= len(data)
            if self._left == 0:
                self._answer()
            return
        if self._chunked:
            self._head = self._head[-len(_LAST_CHUNK) :] + data
            self._end_of_chunks()
            return
        data = self._head + data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._head = data
            return
        head = data[:end].lower()
        self._plan = field(head, CHUNKS_HEADER)
        self._delay_s = (field(head, DELAY_HEADER) or 0) / 1_000
        rest = len(data) - end - 4
        length = field(head, _LENGTH)
        if length is None and _CHUNKED in head:
            self._chunked = True
            self._head = data[-min(rest, len(_LAST_CHUNK)) :] if rest else b""
            self._end_of_chunks()
            return
        self._head = b""
        self._left = (length or 0) - rest
        if self._left == 0:
            self._answer()

    def _end_of_chunks(self) -> None:
        # The bodies are JSON and end in a brace: these five bytes can only be the last chunk.
        if self._head.endswith(_LAST_CHUNK):
            self._chunked, self._head = False, b""
            self._answer()

    def _answer(self) -> None:
        if self._plan is None:
            self._transport.write(ANSWER)
            return
        self._transport.write(STREAM_HEAD + STREAM_CHUNK)
        self._plan -= 1
        self._timer = self._loop.call_later(self._delay_s, self._next)

    def _next(self) -> None:
        assert self._plan is not None
        self._plan -= 1
        if self._plan <= 0:
            self._timer = None
            self._transport.write(STREAM_END)
            return
        self._transport.write(STREAM_CHUNK)
        self._timer = self._loop.call_later(self._delay_s, self._next)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", port, backlog=4_096)
    await server.serve_forever()


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.stub", description="A cheap upstream on loopback.")
    arguments.add_argument("--port", type=int, required=True)
    uvloop.run(_serve(arguments.parse_args().port))


if __name__ == "__main__":
    main()
