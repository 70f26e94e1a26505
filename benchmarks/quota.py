"""Three times what an account lets through: what is refused upstream, how much of the limit is used, and what clients get.

The law here: both are read where they happen. Three providers of the drill, each behind a true token bucket of its own, stand side
by side under the same arrivals: one behind a gateway that knows the limit, one behind a gateway that was told nothing, and one that
is called directly. Buckets hold a minute's amount, as OpenAI's do, and are full at first: the half minute in which that is spent is
told apart. What was refused is counted in the providers' own ledgers. A latency counts from the time a request was due.
"""

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Final

import uvloop

from benchmarks.contenders import Contender, NotStartedError, Running, ending, free_ports
from benchmarks.load import Clients, Connection, Tally, poisson
from benchmarks.payloads import Ask, chat
from gateway.drill.faults import RateLimit
from gateway.drill.ledger import Entry
from gateway.drill.provider import SimulatedProvider

PER_S: Final = 20.0
"""Requests that an account lets through."""
PERIOD_S: Final = 60.0
EXCESS: Final = 3.0
WARM_S: Final = PERIOD_S / (EXCESS - 1.0) + 5.0
"""When the full bucket is spent, and a little more."""
LEAST_S: Final = WARM_S + 10.0
LATENCY_S: Final = 0.2
CONNECTIONS: Final = 800
"""As many as the queue holds, and some."""
LONGEST_ANSWER_S: Final = 20.0
SEED: Final = 1

MOST_REFUSED_PERCENT: Final = 0.1
LEAST_USED_PERCENT: Final = 95.0

QUOTAS: Final = {
    "gateway, told": f"quota: {{requests: {{rate: {PERIOD_S * PER_S:.0f}/min, burst: {PERIOD_S * PER_S:.0f}}}}}",
    "gateway, not told": "",
    "no gateway": None,
}
"""What each is told of the limit; None: there is nobody to tell."""


class _Counting(Clients):
    """Counts what the answers were."""

    def __init__(self, port: int, count: int) -> None:
        super().__init__(port, count)
        self.statuses: Counter[str] = Counter()

    def _count_answer(self, connection: Connection, good: bool) -> None:
        super()._count_answer(connection, good)
        self.statuses[connection.status] += 1


@dataclass(slots=True)
class Side:
    """One way to the provider, and what it came to."""

    name: str
    provider: SimulatedProvider
    port: int = 0
    began_s: float = 0.0
    """On the provider's clock."""
    tally: Tally = field(default_factory=Tally)
    statuses: Counter[str] = field(default_factory=Counter)

    def between(self, since_s: float, until_s: float) -> list[Entry]:
        """What reached the provider in these seconds of the load."""
        return [entry for entry in self.provider.ledger if since_s <= entry.arrived_s - self.began_s < until_s]

    def refused_percent(self, since_s: float, until_s: float) -> float:
        """Of the requests that reached the provider, those that it refused."""
        entries = self.between(since_s, until_s)
        return 100.0 * sum(entry.status == 429 for entry in entries) / max(1, len(entries))

    def used_percent(self, since_s: float, until_s: float) -> float:
        """Of what its bucket gained in these seconds, what was served."""
        return 100.0 * sum(entry.status == 200 for entry in self.between(since_s, until_s)) / (PER_S * (until_s - since_s))


def _gateway(work: Path, side: Side, admin: int, quota: str) -> Contender:
    place = work / side.name.replace(", ", "-").replace(" ", "-")
    place.mkdir()
    text = Path(__file__).with_name("quota.yaml").read_text()
    marks = {"@PORT@": side.port, "@ADMIN@": admin, "@UPSTREAM@": side.provider.port, "@QUOTA@": quota}
    for mark, value in marks.items():
        text = text.replace(mark, str(value))
    config = place / "quota.yaml"
    config.write_text(text)
    return Contender(place.name, side.port, (sys.executable, "-m", "gateway.cli", "serve", "--config", str(config)))


async def _load(side: Side, ask: Ask, offsets_s: Sequence[float]) -> None:
    async with _Counting(side.port, CONNECTIONS) as clients:
        side.began_s = side.provider.now()
        side.tally = await clients.open(ask, offsets_s)
        side.statuses = clients.statuses


async def _measure(seconds: float, work: Path) -> list[Side]:
    ask = Ask(chat().request, 1, b"")
    sides = [Side(name, SimulatedProvider("metered", latency=LATENCY_S)) for name in QUOTAS]
    processes: list[Running] = []
    offsets_s = poisson(EXCESS * PER_S, seconds, SEED)
    try:
        with ending(processes):
            for side in sides:
                await side.provider.start()
                side.port, quota = side.provider.port, QUOTAS[side.name]
                if quota is not None:
                    side.port, admin = free_ports(2)
                    processes.append(await Running.start(_gateway(work, side, admin, quota), ask, work))
                side.provider.faults.set(RateLimit(requests=PERIOD_S * PER_S, period_s=PERIOD_S, advice="ms"))
            async with asyncio.timeout(seconds + LONGEST_ANSWER_S), asyncio.TaskGroup() as all_sides:
                for side in sides:
                    all_sides.create_task(_load(side, ask, offsets_s))
    finally:
        for side in sides:
            await side.provider.stop()
    return sides


def _row(side: Side, seconds: float) -> str:
    per_cent = quantiles([1e3 * latency for latency in side.tally.latencies_s], n=100, method="inclusive")
    others = sum(count for status, count in side.statuses.items() if status not in ("200", "429"))
    return (
        f"{side.name:<20}{side.refused_percent(0.0, WARM_S):>10.2f} %{side.refused_percent(WARM_S, seconds):>10.2f} %"
        f"{side.used_percent(WARM_S, seconds):>10.1f} %{side.statuses['200']:>9}{side.statuses['429']:>9}{others:>9}"
        f"{per_cent[49]:>10,.0f}{per_cent[98]:>10,.0f}"
    )


def seconds_of(text: str) -> float:
    """Read how long to measure; raises ArgumentTypeError where that leaves nothing after the full bucket."""
    seconds = float(text)
    if seconds < LEAST_S:
        raise argparse.ArgumentTypeError(f"at least {LEAST_S:g}: before, the providers' full buckets are spent")
    return seconds


def quota(arguments: argparse.Namespace) -> int:
    """Measures as the arguments ask and prints what came of it; 1 where nothing could be measured."""
    seconds: float = arguments.seconds
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as work:
        try:
            sides = uvloop.run(_measure(seconds, Path(work)))
        except (NotStartedError, TimeoutError) as error:
            print(f"nothing measured: {str(error) or 'no end in time'}", file=sys.stderr)
            return 1
    print(f"{PER_S:g} requests/s let through, {EXCESS * PER_S:g}/s offered for {seconds:g} s; `first`: {WARM_S:g} s of it")
    heads = (
        f"{'429s first':>12}{'429s then':>12}{'used then':>12}{'got 200':>9}{'got 429':>9}{'others':>9}{'p50 ms':>10}{'p99 ms':>10}"
    )
    print(f"{'':<20}{heads}")
    for side in sides:
        print(_row(side, seconds))
    told = sides[0]
    refused, used = told.refused_percent(WARM_S, seconds), told.used_percent(WARM_S, seconds)
    kept = "kept" if refused <= MOST_REFUSED_PERCENT and used >= LEAST_USED_PERCENT else "MISSED"
    print(f"target where the limit is told: at most {MOST_REFUSED_PERCENT} % refused, {LEAST_USED_PERCENT:g} % used: {kept}")
    return 0
