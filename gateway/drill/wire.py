"""Writes one answer on a simulated provider's connection, as well or as badly as the faults say.

The law here: every byte of every answer goes through `_put`, so that a cut after byte k, a drip or a false length looks the same
for a good answer, an error and a page, and what the ledger counts is what left. aiohttp reads requests and keeps connections; it
would not write a lie, so the answers are written on its transport directly and `Sent` tells it that nothing is left to do.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
import struct
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from gateway.drill.faults import Cut, Reset, Stall
from gateway.drill.ledger import Entry
from gateway.drill.plan import Effects

_COMMENT = b": keep-alive\n\n"


class Severed(Exception):  # noqa: N818 - not a malfunction: a fault asked for it
    """The provider has broken the connection on purpose; nothing more can be written."""


class Sent(web.StreamResponse):
    """An answer that is already on the wire: what a handler returns when aiohttp has nothing to write."""

    def __init__(self, *, keep: bool) -> None:
        super().__init__()
        self._keep = keep

    @property
    def keep_alive(self) -> bool:
        return self._keep

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:  # noqa: ARG002 - aiohttp's signature
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing: the end was written, or cut off, before."""


def reset(transport: asyncio.BaseTransport) -> None:
    """End a connection with RST instead of FIN: SO_LINGER with a time of zero, then close (socket(7))."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if isinstance(transport, asyncio.WriteTransport):
        transport.abort()


class Wire:
    """One answer under way. `changed` is called after every step the ledger may be watched for."""

    def __init__(self, request: web.BaseRequest, entry: Entry, clock: Callable[[], float], changed: Callable[[], None]) -> None:
        self._transport = request.transport
        self._drain = request.writer.drain
        self._entry = entry
        self._clock = clock
        self._changed = changed
        self._bodiless = request.method == "HEAD"
        self._modern = request.version >= (1, 1)
        self._chunked = False
        self._digest = hashlib.sha256()
        self.keep = request.keep_alive
        """Whether the connection can carry another request afterwards."""
        self.effects = Effects()

    def proceed(self) -> None:
        """Send `100 Continue` (RFC 9110 section 10.1.1)."""
        self._open().write(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def whole(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """Send head and body; in one piece unless a fault wants to step in between."""
        wrong = self.effects.wrong_length
        length = max(0, len(body) + (wrong.by if wrong else 0))
        if status in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}:
            body, lines = b"", headers
        else:
            lines = [*headers, ("content-length", str(length))]
        stall = self.effects.stall
        head = self._head(status, lines)
        plain = self.effects.cut is None and self.effects.drip is None and stall is None
        if self._bodiless:
            await self._put(head, "head")
            return
        if plain:
            await self._put(head + body, "both")
            self._count(body)
        else:
            await self._put(head, "head")
            if stall is not None and stall.before == "body" and stall.after_events is None:
                await self.hold(stall)
            await self._put(body, "body", body)
        if wrong and length > len(body):
            await self.sever("close")

    async def open_stream(self, headers: list[tuple[str, str]]) -> None:
        """Send the head of a stream: chunked, or until the connection closes for HTTP/1.0."""
        self._chunked = self._modern
        if self._modern:
            headers = [*headers, ("transfer-encoding", "chunked")]
        else:
            self.keep = False
        wrong = self.effects.wrong_length
        if wrong is not None:
            # A stream of unknown length can only lie by naming one: too small for anything, or too large to be reached.
            self._chunked = self.keep = False
            headers = [*headers[:-1], ("content-length", str(64 if wrong.by < 0 else 2**40))]
        await self._put(self._head(200, headers), "head")

    async def event(self, data: bytes) -> None:
        """Send one event, as a chunk of its own."""
        entry = self._entry
        await self._put(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data, "body", data)
        entry.events += 1
        if entry.first_event_s is None:
            entry.first_event_s = self._clock()
        self._changed()

    async def end_stream(self) -> None:
        """End a stream properly for HTTP, whatever its last event was."""
        if self._chunked:
            await self._put(b"0\r\n\r\n", "end")
        elif self.effects.wrong_length is not None:
            await self.sever("close")

    async def raw(self, data: bytes) -> None:
        """Send bytes that may be anything; counted as body."""
        self.keep = False
        await self._put(data, "body", data)

    async def hold(self, stall: Stall) -> None:
        """Stay silent for as long as the fault says; for ever means until the peer leaves or the provider stops."""
        loop = asyncio.get_running_loop()
        until = None if stall.for_s is None else loop.time() + stall.for_s
        every_s = stall.comments_every_s
        if every_s is None or self._entry.head_s is None or not self._chunked:
            if stall.for_s is None:
                await loop.create_future()
            else:
                await asyncio.sleep(stall.for_s)
            return
        while until is None or loop.time() < until:
            await asyncio.sleep(every_s if until is None else min(every_s, until - loop.time()))
            await self._put(b"%x\r\n%b\r\n" % (len(_COMMENT), _COMMENT), "body", _COMMENT)

    async def sever(self, how: str) -> None:
        """Let what was written leave, then break the connection: `rst`, or `close` (FIN). Always raises Severed."""
        self.keep = False
        transport = self._open()
        await _flush(transport)
        if how == "rst":
            reset(transport)
        else:
            transport.close()
        raise Severed

    def _open(self) -> asyncio.Transport:
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the peer left")
        return self._transport

    def seal(self) -> None:
        """Write the digest of what was sent into the entry."""
        self._entry.answer_sha256 = self._digest.hexdigest()

    def _head(self, status: int, headers: list[tuple[str, str]]) -> bytes:
        try:
            phrase = HTTPStatus(status).phrase
        except ValueError:
            phrase = "Unknown"
        lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers)]
        if not any(name.lower() == "date" for name, _ in headers):
            lines.append(f"date: {formatdate(usegmt=True)}")
        if not self.keep:
            lines.append("connection: close")
        elif not self._modern:
            lines.append("connection: keep-alive")
        self._entry.status = status
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    async def _put(self, data: bytes, part: str, payload: bytes = b"") -> None:
        """Write, or break off where a cut by bytes says. `payload` is the share of `data` that is the answer's body."""
        left = self._left(part)
        if left is not None and left <= len(payload or data):
            # In a chunk, what stands before the payload is its size line: the cut falls inside the announced chunk.
            start = data.find(payload) if payload else 0
            await self._write(data[: start + left] if left or not payload else b"", part)
            self._count(payload[:left])
            cut = self.effects.cut
            await self.sever("rst" if isinstance(cut, Reset) or (cut is not None and cut.how == "rst") else "close")
        await self._write(data, part)
        self._count(payload)

    def _left(self, part: str) -> int | None:
        """How many more bytes of this part may go out; None: no end."""
        cut = self.effects.cut
        if isinstance(cut, Reset) and cut.part == part:
            return cut.after_bytes - (self._entry.answer_bytes if part == "body" else 0)
        if isinstance(cut, Cut) and cut.after_bytes is not None and part == "body":
            return cut.after_bytes - self._entry.answer_bytes
        return None

    async def _write(self, data: bytes, part: str) -> None:
        drip = self.effects.drip
        if drip is None or (drip.part == "head" and part != "head"):
            self._open().write(data)
        else:
            for at in range(0, len(data), drip.size_bytes):
                if at:
                    await asyncio.sleep(drip.every_s)
                self._open().write(data[at : at + drip.size_bytes])
        if part in {"head", "both"}:
            self._entry.head_s = self._clock()
            self._changed()
        await self._drain()

    def _count(self, payload: bytes) -> None:
        if payload:
            self._entry.answer_bytes += len(payload)
            self._digest.update(payload)


async def _flush(transport: asyncio.WriteTransport) -> None:
    """Wait until the kernel has everything. A peer that stopped reading gets a second, then the break comes anyway."""
    for turn in range(500):
        if transport.is_closing() or not transport.get_write_buffer_size():
            return
        await asyncio.sleep(0 if turn < 10 else 0.002)
