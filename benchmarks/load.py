"""The clients: an open-loop generator free of coordinated omission, a closed loop to saturate, and streams.

The law here: in the open loop the schedule is drawn up before the first request and never waits for an answer, and a latency counts
from the moment a request was due, not from when a connection was free to carry it; a contender that stalls is charged for everybody
it kept waiting. The generator must cost little, so requests are rendered bytes and an answer is read no further than to its end;
but an answer with another status, a short body or a missing end is an error, and errors are counted, never dropped.
"""

import asyncio
import gc
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self, cast

from benchmarks.kernel import Alarm
from benchmarks.payloads import Ask

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD: Final = -1
_CHUNKED: Final = -2
_IDLE: Final = -3
_LENGTH: Final = b"content-length:"
_LAST_CHUNK: Final = b"0\r\n\r\n"


@dataclass(slots=True)
class Tally:
    """What came of one phase of load."""

    answers: int = 0
    errors: int = 0
    reads: int = 0
    """Reads that brought bytes of good answers: near the number of chunks when each was relayed alone."""
    latencies_s: list[float] = field(default_factory=list)
    """Of good answers, each from the time its request was due to its last byte."""


class Connection(asyncio.Protocol):
    """One keep-alive connection that carries one request at a time."""

    __slots__ = ("_ask", "_done", "_last", "_left", "_size", "_status", "_transport", "alive", "due_s", "reads")

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._done: Callable[[Connection, bool], None] | None = None
        self._left = _IDLE
        self._last = b""
        self._size = 0
        self._ask: Ask | None = None
        self._status = b""
        self.alive = True
        self.due_s = 0.0
        self.reads = 0

    def send(self, ask: Ask, done: Callable[["Connection", bool], None]) -> None:
        """Sends one request; `done` hears once, and whether the answer was a whole 200."""
        self._done = done
        self._ask = ask
        self._left = _HEAD
        self._last = b""
        self._size = self.reads = 0
        if self.alive:
            self._transport.write(ask.request)
        else:
            self._end(whole=False)

    def close(self) -> None:
        """Closes the connection; an answer still awaited counts as not whole."""
        self._transport.abort()

    @property
    def opened(self) -> bool:
        """Whether an answer has begun and not yet ended."""
        return self._left != _IDLE and self.reads > 0

    @property
    def status(self) -> str:
        """The status of the last answer; empty where there was none."""
        return self._status.decode("latin-1")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _exc: Exception | None) -> None:
        self.alive = False
        if self._left != _IDLE:
            self._end(whole=False)

    def data_received(self, data: bytes) -> None:
        self.reads += 1
        if self._left >= 0:
            self._size += len(data)
            self._left -= len(data)
            if self._left <= 0:
                self._end(whole=self._left == 0)
        elif self._left == _CHUNKED:
            self._size += len(data)
            self._chunked(data)
        elif self._left == _HEAD:
            self._head(self._last + data)
        else:
            self.alive = False
            self._transport.abort()

    def _head(self, data: bytes) -> None:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._last = data
            return
        head = data[:end].lower()
        self._status = head[9:12]
        body = data[end + 4 :]
        self._size = len(body)
        at = head.find(_LENGTH)
        if at < 0:
            self._left = _CHUNKED
            self._last = b""
            self._chunked(body)
            return
        start = at + len(_LENGTH)
        stop = head.find(b"\r\n", start)
        self._left = int(head[start : stop if stop >= 0 else end]) - len(body)
        if self._left <= 0:
            self._end(whole=self._left == 0)

    def _chunked(self, data: bytes) -> None:
        # Two reads are enough to see the end: it is written with the last event or alone.
        if data.endswith(_LAST_CHUNK) or (len(data) < len(_LAST_CHUNK) and (self._last + data).endswith(_LAST_CHUNK)):
            assert self._ask is not None
            self._end(whole=self._ask.ending in self._last + data)
        self._last = data

    def _end(self, *, whole: bool) -> None:
        done, self._done, self._left = self._done, None, _IDLE
        assert done is not None
        assert self._ask is not None
        done(self, whole and self._status == b"200" and self._size >= self._ask.answer_bytes)


class Clients:
    """A fixed number of connections to one port, opened before anything is measured and closed by the `async with` block."""

    def __init__(self, port: int, count: int) -> None:
        self._port = port
        self._count = count
        self._all: list[Connection] = []
        self._tally = Tally()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        while len(self._all) < self._count:
            # A listener's queue is short: a burst of a thousand connections would measure SYN retries.
            wanted = min(50, self._count - len(self._all))
            made = await asyncio.gather(*(loop.create_connection(Connection, "127.0.0.1", self._port) for _ in range(wanted)))
            self._all += [connection for _, connection in made]
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._all:
            connection.close()

    @property
    def opened(self) -> int:
        """How many answers are being received right now."""
        return sum(connection.opened for connection in self._all)

    def _count_answer(self, connection: Connection, good: bool) -> None:
        if good:
            self._tally.answers += 1
            self._tally.reads += connection.reads
        else:
            self._tally.errors += 1

    async def once(self, ask: Ask) -> Tally:
        """Sends one request on every connection at the same time and waits for all answers."""
        return await self.closed(ask, seconds=0)

    async def closed(self, ask: Ask, *, seconds: float) -> Tally:
        """For that long, every connection sends its next request as soon as it has its answer; then waits for the last ones."""
        self._tally = Tally()
        loop = asyncio.get_running_loop()
        finished = loop.create_future()
        until = time.monotonic() + seconds
        flying = len(self._all)

        def done(connection: Connection, good: bool) -> None:
            nonlocal flying
            self._count_answer(connection, good)
            if connection.alive and time.monotonic() < until:
                connection.send(ask, done)
                return
            flying -= 1
            if flying == 0:
                finished.set_result(None)

        with _undisturbed():
            for connection in self._all:
                connection.send(ask, done)
            await finished
        return self._tally

    async def open(self, ask: Ask, offsets_s: Sequence[float]) -> Tally:
        """Sends one request at each offset from now, whatever becomes of the others.

        While every connection is busy a due request waits, and the wait is in its latency.
        """
        self._tally = tally = Tally()
        loop = asyncio.get_running_loop()
        finished = loop.create_future()
        idle = deque(self._all)
        waiting: deque[float] = deque()
        alarm = Alarm()
        start_s = time.monotonic() + 0.01
        schedule = iter([start_s + offset for offset in offsets_s])
        next_s = next(schedule, None)

        def send(due_s: float) -> None:
            connection = idle.popleft()
            connection.due_s = due_s
            connection.send(ask, done)

        def done(connection: Connection, good: bool) -> None:
            self._count_answer(connection, good)
            if good:
                tally.latencies_s.append(time.monotonic() - connection.due_s)
            if connection.alive:
                idle.append(connection)
                if waiting:
                    send(waiting.popleft())
            elif not any(other.alive for other in self._all):
                tally.errors = len(offsets_s) - tally.answers
            if tally.answers + tally.errors == len(offsets_s) and not finished.done():
                finished.set_result(None)

        def due() -> None:
            nonlocal next_s
            alarm.acknowledge()
            now_s = time.monotonic()
            while next_s is not None and next_s <= now_s:
                if idle:
                    send(next_s)
                else:
                    waiting.append(next_s)
                next_s = next(schedule, None)
            if next_s is not None:
                alarm.ring_at(next_s)

        loop.add_reader(alarm.fd, due)
        try:
            with _undisturbed():
                alarm.ring_at(start_s)
                await finished
        finally:
            loop.remove_reader(alarm.fd)
            alarm.close()
        return tally


def poisson(rate_per_s: float, seconds: float, seed: int) -> list[float]:
    """Arrival times in seconds, exponential gaps: independent clients, with the bunching that a steady beat would hide."""
    chance = random.Random(seed)
    offsets: list[float] = []
    at = chance.expovariate(rate_per_s)
    while at < seconds:
        offsets.append(at)
        at += chance.expovariate(rate_per_s)
    return offsets


@contextmanager
def _undisturbed() -> "Iterator[None]":
    """Keeps the generator's own garbage collector out of the measurement."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def first_answer(port: int, ask: Ask, *, poll_s: float = 0.001) -> None:
    """Returns when the port has given one whole, good answer; asks again until then, and for ever: the caller sets the limit."""
    while True:
        try:
            async with Clients(port, 1) as client:
                if (await client.once(ask)).answers:
                    return
        except OSError:
            pass
        await asyncio.sleep(poll_s)
