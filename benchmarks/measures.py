"""The measurements, each a function of one contender and some load.

The law here: a phase's connections are open and warm before the first reading of the processor clock, and the last answer is in
before the second, so that what is divided by the number of answers is their cost and nothing else. Each phase has a limit in time:
a contender that hangs is charged with errors and does not hold up the others.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Final

from benchmarks.kernel import cpu_ns, rss_bytes
from benchmarks.load import Clients, Tally, poisson
from benchmarks.payloads import Ask, chat, long_strings, many_messages, picture, stream

CONNECTIONS: Final = 64
LARGE_CONNECTIONS: Final = 4
CHUNKS: Final = 200
CHUNK_DELAY_MS: Final = 5
STREAMS: Final = 100
HELD_STREAMS: Final = 1_000
HELD_CHUNKS: Final = 7
HELD_DELAY_MS: Final = 500
RATES_PER_S: Final = (300, 1_000)
_SLACK_S: Final = 20.0

CHAT: Final = chat()
PICTURE: Final = picture()
LONG_STRINGS: Final = long_strings()
MANY_MESSAGES: Final = many_messages()
STREAM: Final = stream(CHUNKS, CHUNK_DELAY_MS)
HELD_STREAM: Final = stream(HELD_CHUNKS, HELD_DELAY_MS)


@dataclass(slots=True)
class Subject:
    """A contender under measurement and all that was read of it: under each name one value per round."""

    name: str
    port: int
    pid: int | None
    """None for the stub reached directly: its answers are timed, its cost is nobody's concern."""
    readings: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    answers: int = 0
    errors: int = 0
    trouble: list[str] = field(default_factory=list)
    """The phases that did not go as they should, in words."""

    def cpu_ns(self) -> int:
        return cpu_ns(self.pid) if self.pid is not None else 0

    def rss_bytes(self) -> int:
        return rss_bytes(self.pid) if self.pid is not None else 0

    def note(self, phase: str, tally: Tally) -> None:
        """Counts what came of a phase."""
        self.answers += tally.answers
        self.errors += tally.errors
        if tally.errors:
            self.trouble.append(f"{phase}: {tally.errors} of {tally.errors + tally.answers} requests failed")

    def broke(self, phase: str, error: Exception) -> None:
        """Notes that a phase ended before its time."""
        self.errors += 1
        self.trouble.append(f"{phase}: {str(error) or 'no end in time'}")

    def read(self, phase: str, tally: Tally, spent_ns: int, *, per_answer: int = 1) -> None:
        """Counts what came of a phase and keeps its processor time per answer, or per part of an answer, in µs."""
        self.note(phase, tally)
        if tally.answers and self.pid is not None:
            self.readings[phase].append(spent_ns / (tally.answers * per_answer) / 1_000)


@contextmanager
def _noting(subject: Subject, phase: str) -> Iterator[None]:
    """A phase that breaks or lasts too long ends here, noted as an error."""
    try:
        yield
    except (TimeoutError, OSError) as error:
        subject.broke(phase, error)


@asynccontextmanager
async def _warm_clients(subject: Subject, phase: str, count: int, ask: Ask, limit_s: float) -> AsyncIterator[Clients]:
    """Connections that have each carried one request; for no longer than the limit and some seconds more."""
    async with asyncio.timeout(limit_s + _SLACK_S), Clients(subject.port, count) as clients:
        subject.note(phase, await clients.once(ask))
        yield clients


async def _saturated(subject: Subject, phase: str, ask: Ask, connections: int, seconds: float) -> None:
    with _noting(subject, phase):
        async with _warm_clients(subject, phase, connections, ask, seconds) as clients:
            before = subject.cpu_ns()
            tally = await clients.closed(ask, seconds=seconds)
            subject.read(phase, tally, subject.cpu_ns() - before)


async def requests(subject: Subject, seconds: float) -> None:
    """Processor time per small request, in µs, in a closed loop of 64 connections."""
    await _saturated(subject, "request_us", CHAT, CONNECTIONS, seconds)


async def large(subject: Subject, seconds: float) -> None:
    """Processor time per request with a body of 1 MB, in µs, for three shapes of body."""
    await _saturated(subject, "picture_us", PICTURE, LARGE_CONNECTIONS, seconds)
    await _saturated(subject, "long_strings_us", LONG_STRINGS, LARGE_CONNECTIONS, seconds)
    await _saturated(subject, "many_messages_us", MANY_MESSAGES, LARGE_CONNECTIONS, seconds)


async def chunks(subject: Subject) -> None:
    """Processor time per relayed chunk, in µs: a hundred streams at once, each with a chunk every 5 ms."""
    phase = "chunk_us"
    with _noting(subject, phase):
        async with _warm_clients(subject, phase, STREAMS, CHAT, CHUNKS * CHUNK_DELAY_MS / 1_000) as clients:
            before = subject.cpu_ns()
            tally = await clients.once(STREAM)
            subject.read(phase, tally, subject.cpu_ns() - before, per_answer=CHUNKS)
            subject.readings["reads_per_chunk"].append(tally.reads / max(1, tally.answers * CHUNKS))


async def latency(subject: Subject, rate_per_s: int, seconds: float, seed: int) -> None:
    """Percentiles of the latency in the open loop at a fixed mean rate, and the processor time per request there, all in µs."""
    phase = f"request_us_at_{rate_per_s}"
    with _noting(subject, phase):
        async with _warm_clients(subject, phase, CONNECTIONS, CHAT, seconds) as clients:
            before = subject.cpu_ns()
            tally = await clients.open(CHAT, poisson(rate_per_s, seconds, seed))
            subject.read(phase, tally, subject.cpu_ns() - before)
            if len(tally.latencies_s) >= 100:
                percentiles = quantiles(tally.latencies_s, n=100, method="inclusive")
                for percent in (50, 99):
                    subject.readings[f"p{percent}_us_at_{rate_per_s}"].append(percentiles[percent - 1] * 1e6)


async def memory(subject: Subject) -> None:
    """Resident memory of a process that has answered one request, and per stream while a thousand are open."""
    phase = "held_streams"
    with _noting(subject, phase):
        idle = peak = subject.rss_bytes()
        subject.readings["idle_mb"].append(idle / 1e6)
        opened = 0
        async with asyncio.timeout(_SLACK_S), Clients(subject.port, HELD_STREAMS) as clients:
            holding = asyncio.ensure_future(clients.once(HELD_STREAM))
            while not holding.done():
                await asyncio.wait((holding,), timeout=0.1)
                peak = max(peak, subject.rss_bytes())
                opened = max(opened, clients.opened)
            tally = await holding
        subject.note(phase, tally)
        subject.readings["held_streams"].append(opened)
        subject.readings["held_errors"].append(tally.errors)
        subject.readings["stream_kb"].append((peak - idle) / max(1, opened) / 1e3)
