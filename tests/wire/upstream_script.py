"""A scripted provider on a real socket, and a receiver that writes down what it hears: the two ends of every egress test.

The script is a coroutine per connection that reads requests and writes bytes, whole, split, late or broken, as the test wants;
nothing here knows HTTP beyond finding the end of a request. Time is the loop's, which a test moves forward by hand.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from gateway.config.snapshot import Origin
from gateway.core.message import ResponseHead
from gateway.core.verdicts import IOFault
from gateway.egress.pool import Pool

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: provider\r\nContent-Length: 2\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


class SkippingLoop(asyncio.SelectorEventLoop):
    """The stdlib's loop with a clock that a test can push: due timers then run in the next turn."""

    skipped = 0.0

    def time(self) -> float:
        return super().time() + self.skipped


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": SkippingLoop, "uvloop": uvloop.new_event_loop}


def on(*loops: str) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., None]]:
    """Run a coroutine test on these loops; an exception that only reached the loop's handler fails the test too."""

    def decorate(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(*, loop_name: str, **kwargs: Any) -> None:
            unhandled: list[dict[str, Any]] = []

            async def body() -> None:
                asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
                await test(**kwargs)

            with asyncio.Runner(loop_factory=LOOPS[loop_name]) as runner:
                runner.run(body())
            assert not unhandled

        parameters = [inspect.Parameter("loop_name", inspect.Parameter.KEYWORD_ONLY)]
        parameters += inspect.signature(test).parameters.values()
        run.__signature__ = inspect.Signature([p.replace(kind=p.KEYWORD_ONLY) for p in parameters])  # type: ignore[attr-defined]
        del run.__wrapped__  # pytest would look through it and find a coroutine
        return pytest.mark.parametrize("loop_name", loops)(run)

    return decorate


both_loops = on("asyncio", "uvloop")
moved_time = on("asyncio")


def skip(seconds: float) -> None:
    """Let time pass at once."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SkippingLoop)
    loop.skipped += seconds


async def turns(count: int = 5) -> None:
    """Let the loop run what is ready."""
    for _ in range(count):
        await asyncio.sleep(0)


class Heard:
    """A `Receiver`: everything in order in `events`, and the sum of it in attributes."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.status = 0
        self.answer: ResponseHead | None = None
        self.body = b""
        self.fault: IOFault | None = None
        self.detail = ""
        self.sent: bool | None = None
        self._changed = asyncio.Event()

    def sending(self) -> None:
        self._note("sending")

    def head(self, head: ResponseHead) -> None:
        self.status = head.status
        self.answer = head
        self._note("head")

    def data(self, chunk: bytes) -> None:
        assert chunk
        self.body += chunk
        self._note("data")

    def ended(self) -> None:
        self._note("ended")

    def failed(self, fault: IOFault, detail: str, *, sent: bool) -> None:
        self.fault, self.detail, self.sent = fault, detail, sent
        self._note("failed")

    def blocked(self) -> None:
        self._note("blocked")

    def unblocked(self) -> None:
        self._note("unblocked")

    @property
    def over(self) -> bool:
        return bool(self.events) and self.events[-1] in {"ended", "failed"}

    async def until(self, event: str) -> None:
        """Wait for an event of this name."""
        while event not in self.events:
            assert not self.over, f"waited for {event!r}: {self.events} {self.fault} {self.detail}"
            self._changed.clear()
            await self._changed.wait()

    async def outcome(self) -> str:
        """Wait for the end; return `200 body`, or the fault's name."""
        while not self.over:
            self._changed.clear()
            await self._changed.wait()
        return (
            self.events[-1] if self.fault is None and not self.status else str(self.fault or f"{self.status} {self.body.decode()}")
        )

    def _note(self, event: str) -> None:
        assert not self.over, f"{event} after {self.events}"
        self.events.append(event)
        self._changed.set()


class Visit:
    """One connection as the provider sees it."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        """0 for the first connection."""
        self.reader = reader
        self.writer = writer

    async def request(self) -> bytes:
        """Read one request whole; raises EOFError when the gateway closes instead."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        lower = head.lower()
        if b"transfer-encoding: chunked" in lower:
            body = b""
            while not body.endswith(b"0\r\n\r\n"):
                body += await self.reader.readuntil(b"\r\n")
            return head + body
        length = 0
        if b"content-length:" in lower:
            length = int(lower.split(b"content-length:")[1].split(b"\r\n")[0])
        return head + await self.reader.readexactly(length)

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def write_split(self, data: bytes) -> None:
        """Write byte by byte, each in a packet of its own."""
        for index in range(len(data)):
            self.writer.write(data[index : index + 1])
            await turns(2)

    async def gone(self) -> None:
        """Wait until the gateway has closed this connection."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Upstream:
    """A listening provider."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.visits: list[Visit] = []

    def origin(self, scheme: str = "http", host: str = "127.0.0.1", **rest: Any) -> Origin:
        return Origin(scheme, host, self.port, **rest)


Script = Callable[[Visit], Awaitable[None]]


@asynccontextmanager
async def upstream(script: Script, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Upstream]:
    """Serve the script; what it raises, other than an end of the connection, fails the test."""
    scripts: set[asyncio.Task[None]] = set()
    failures: list[BaseException] = []
    served: Upstream

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        scripts.add(task)
        visit = Visit(len(served.visits), reader, writer)
        served.visits.append(visit)
        try:
            await script(visit)
        except (EOFError, ConnectionError, asyncio.CancelledError):
            pass
        except BaseException as exc:
            failures.append(exc)
        finally:
            writer.transport.abort()
            scripts.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    served = Upstream(server.sockets[0].getsockname()[1])
    try:
        yield served
    finally:
        server.close()
        for task in list(scripts):
            task.cancel()
        await asyncio.gather(*scripts, return_exceptions=True)
        await turns()
        assert not failures, failures


@asynccontextmanager
async def running_pool(**settings: Any) -> AsyncIterator[Pool]:
    """Give a pool and close it."""
    pool = Pool(asyncio.get_running_loop(), **settings)
    pool.start()
    try:
        yield pool
    finally:
        await pool.close()
        await turns()
        assert pool.stats() == [] or all(s.idle + s.busy + s.connecting + s.waiting == 0 for s in pool.stats())


def ask(pool: Pool, origin: Origin, heard: Heard, **changes: Any) -> Any:
    """Begin a small call, with whatever the test wants otherwise."""
    settings: dict[str, Any] = {
        "head": HEAD,
        "body": [b"hi"],
        "whole": True,
        "chunked": False,
        "head_request": False,
        "connect_s": 5.0,
        "limit": 100,
    }
    settings.update(changes)
    return pool.call(origin, settings.pop("head"), settings.pop("body"), heard, **settings)


def answering(answer: bytes) -> Script:
    """Answer every request of a connection with these bytes."""

    async def script(visit: Visit) -> None:
        while True:
            await visit.request()
            visit.write(answer)

    return script
