"""The classic tail: most answers begin at once, a few take seconds, and a hedge asks somebody else meanwhile.

The law here: what is gained and what it costs are read at the same time and from the outside. Two gateways that differ in one line
stand side by side under the same arrivals, each before two providers of its own; latencies count from the time a request was due,
and the price is what reached the providers beyond the clients' requests, counted there and not by the gateway. Nothing is warmed
up: the time in which a gateway has yet to learn what is usual is part of the result. Apart from the comparison, whose currency is
processor time.
"""

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Final

import uvloop

from benchmarks.contenders import Contender, NotStartedError, Running, ending, free_ports
from benchmarks.load import Clients, Tally, poisson
from benchmarks.payloads import STREAM_CHUNK, STREAM_END, STREAM_HEAD, stream
from benchmarks.stub import Stub

USUAL_S: Final = 0.05
SLOW_S: Final = 5.0
SLOW_SHARE: Final = 0.02
CHUNKS: Final = 4
CONNECTIONS: Final = 100
"""More than are ever busy: five seconds of the slow ones, and some."""
SEED: Final = 1

MOST_MS: Final = 500.0
MOST_EXTRA: Final = 5.0
PERCENTILES: Final = (50.0, 95.0, 99.0, 99.5)

HEDGES: Final = {"no hedging": "off", "hedging": "{after: p95, floor: 300ms, budget: 5%}"}

_EVENTS: Final = STREAM_CHUNK * (CHUNKS - 1) + STREAM_END
_ROLE: Final = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant"}}]}\n\n'
)
_OPENING: Final = STREAM_HEAD + b"%x\r\n%b\r\n" % (len(_ROLE), _ROLE)


class Upstream:
    """One provider: it answers every request with the head and the role at once, and with content when its dice say so."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self.asked = 0
        """Requests that reached it."""

    async def listen(self, port: int) -> asyncio.Server:
        """Serves on this port until the server is closed."""
        return await asyncio.get_running_loop().create_server(lambda: _Stream(self), "127.0.0.1", port, backlog=4_096)

    def wait_s(self) -> float:
        """The time to the first content of the next answer."""
        self.asked += 1
        return SLOW_S if self._dice.random() < SLOW_SHARE else USUAL_S


class _Stream(Stub):
    """One connection to it."""

    __slots__ = ("_upstream",)

    def __init__(self, upstream: Upstream) -> None:
        super().__init__()
        self._upstream = upstream

    def _answer(self) -> None:
        self._transport.write(_OPENING)
        self._timer = self._loop.call_later(self._upstream.wait_s(), self._transport.write, _EVENTS)


@dataclass(slots=True)
class Side:
    """One of the two gateways, and what it came to."""

    name: str
    upstreams: tuple[Upstream, Upstream]
    port: int = 0
    warm: int = 0
    """Upstream requests before the first one that counts."""
    tally: Tally = field(default_factory=Tally)

    @property
    def asked(self) -> int:
        """Upstream requests so far."""
        return sum(upstream.asked for upstream in self.upstreams)

    @property
    def extra_percent(self) -> float:
        """Upstream requests beyond the clients', as a share of those."""
        asked = self.tally.answers + self.tally.errors
        return 100.0 * (self.asked - self.warm - asked) / asked

    def latencies_ms(self) -> list[float]:
        """The percentiles of the table and the largest of all."""
        values = [1e3 * latency for latency in self.tally.latencies_s]
        per_mille = quantiles(values, n=1_000, method="inclusive")
        return [*(per_mille[round(10 * percentile) - 1] for percentile in PERCENTILES), max(values)]


def _gateway(work: Path, side: Side, admin: int, upstream_ports: Sequence[int]) -> Contender:
    place = work / side.name.replace(" ", "-")
    place.mkdir()
    text = Path(__file__).with_name("tail.yaml").read_text()
    first, second = upstream_ports
    marks = {"@PORT@": side.port, "@ADMIN@": admin, "@FIRST@": first, "@SECOND@": second, "@HEDGE@": HEDGES[side.name]}
    for mark, value in marks.items():
        text = text.replace(mark, str(value))
    config = place / "tail.yaml"
    config.write_text(text)
    return Contender(side.name, side.port, (sys.executable, "-m", "gateway.cli", "serve", "--config", str(config)))


async def _load(side: Side, offsets_s: Sequence[float]) -> None:
    async with Clients(side.port, CONNECTIONS) as clients:
        side.warm = side.asked
        side.tally = await clients.open(stream(CHUNKS, 0), offsets_s)


async def _measure(rate_per_s: float, seconds: float, work: Path) -> list[Side]:
    sides = [Side(name, (Upstream(random.Random(f"{SEED}/first")), Upstream(random.Random(f"{SEED}/second")))) for name in HEDGES]
    processes: list[Running] = []
    servers: list[asyncio.Server] = []
    offsets_s = poisson(rate_per_s, seconds, SEED)
    try:
        with ending(processes):
            for side in sides:
                side.port, admin, *upstream_ports = free_ports(4)
                for upstream, port in zip(side.upstreams, upstream_ports, strict=True):
                    servers.append(await upstream.listen(port))
                processes.append(await Running.start(_gateway(work, side, admin, upstream_ports), stream(CHUNKS, 0), work))
            async with asyncio.timeout(seconds + 4 * SLOW_S), asyncio.TaskGroup() as both:
                for side in sides:
                    both.create_task(_load(side, offsets_s))
    finally:
        for server in servers:
            server.close()
    return sides


def _row(side: Side) -> str:
    times = "".join(f"{value:>10,.0f}" for value in side.latencies_ms())
    return f"{side.name:<12}{times}{side.extra_percent:>12.2f} %{side.tally.errors:>9}"


def _verdict(side: Side) -> str:
    *_, p995_ms, _ = side.latencies_ms()
    kept = p995_ms < MOST_MS and side.extra_percent <= MOST_EXTRA and not side.tally.errors
    told = "kept" if kept else "MISSED"
    return f"target: p99.5 under {MOST_MS:.0f} ms at no more than {MOST_EXTRA:.0f} % extra upstream requests: {told}"


def tail(arguments: argparse.Namespace) -> int:
    """Measures both gateways as the arguments ask and prints what came of it; 1 where nothing could be measured."""
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as work:
        try:
            sides = uvloop.run(_measure(arguments.rate, arguments.seconds, Path(work)))
        except (NotStartedError, TimeoutError) as error:
            print(f"nothing measured: {str(error) or 'no end in time'}", file=sys.stderr)
            return 1
    heads = "".join(f"{name:>10}" for name in (*(f"p{percentile:g} ms" for percentile in PERCENTILES), "max ms"))
    print(f"{'':<12}{heads}{'extra':>14}{'errors':>9}")
    for side in sides:
        print(_row(side))
    print(_verdict(sides[-1]))
    return 0
