"""One run: a steady stream of clients, two targets in order of preference, and the times to first content as a tail says."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.core.plan import HedgePlan, Policy
from tests.sim import answers
from tests.sim.client import Errand
from tests.sim.clock import BEGIN_S
from tests.sim.ledger import Desk, Visit
from tests.sim.plays import Step, _head
from tests.sim.provider import SimulatedProvider, Spell
from tests.sim.rush import chat
from tests.sim.world import Ways, World

PER_S = 50.0
SLOW_SHARE = 0.02
SLOW_S = 5.0

Tail = Callable[[random.Random, float], float]
"""Draws a time to first content for a request that comes so many seconds after the beginning."""

LIKE: Ways = (("chat", ("gpt-4o",), (("first", None), ("second", None))),)


def bimodal(dice: random.Random, _at_s: float) -> float:
    """Around 50 ms, and 5 s for one in fifty: the classic tail."""
    return SLOW_S if dice.random() < SLOW_SHARE else 0.05 * dice.lognormvariate(0.0, 0.1)


def log_normal(dice: random.Random, _at_s: float) -> float:
    """Half within 500 ms, one in a hundred beyond 3.2 s, and no two modes to tell apart."""
    return dice.lognormvariate(math.log(0.5), 0.8)


class TailedProvider(SimulatedProvider):
    """A provider that begins its good answers when its tail says; its weather is as everybody's."""

    def __init__(self, name: str, tail: Tail, weather: Sequence[Spell] = ()) -> None:
        super().__init__(name, keys=(f"sk-{name}",), weather=weather)
        self._tail = tail

    def steps(self, desk: Desk, visit: Visit, body: bytes, connect_s: float) -> list[Step]:
        if visit.trouble != "ok":
            return super().steps(desk, visit, body, connect_s)
        wait_s = self._tail(self._dice(desk, visit, "tail"), visit.started_at - BEGIN_S)
        visit.good = True
        role, *rest = answers.chat_events(visit.tag, answers.own_words(2))
        return [
            Step(-1.0, "connect"),
            Step(0.0, "head", head=_head(200, answers.EVENTS, None)),
            # Life, and no content: it must not win the race.
            Step(0.0, "data", chunk=role),
            Step(wait_s, "data", chunk=b"".join([*rest, answers.DONE]), whole=True, lives=True),
            Step(0.0, "end", whole=True),
        ]


@dataclass(frozen=True, slots=True)
class Race:
    """What came of one run."""

    world: World
    waits_s: dict[str, float]
    """By client: from its request to the first content it got."""

    @property
    def hedges(self) -> int:
        """Upstream requests beside another one, as the providers counted them."""
        return sum(len(visits) - 1 for visits in self.world.by_client().values())

    @property
    def extra(self) -> float:
        """Upstream requests beyond the clients', as a share of those."""
        return (len(self.world.visits) - len(self.world.clients)) / len(self.world.clients)

    def percentile(self, percent: float) -> float:
        """Return the seconds within which so many per cent of the clients saw content."""
        waits = sorted(self.waits_s.values())
        return waits[math.ceil(len(waits) * percent / 100.0) - 1]


def race(
    tail: Tail,
    plan: HedgePlan | None,
    *,
    seed: int = 1,
    requests: int = 3_000,
    second: TailedProvider | None = None,
) -> Race:
    """Let so many clients ask, fifty a second at random, under a policy with this plan."""
    providers = TailedProvider("first", tail), second or TailedProvider("second", tail)
    world = World(seed, providers, LIKE, policy=Policy(hedge=plan))
    world.run(_arrivals(seed, requests))
    waits_s = {name: client.opened_at - client.began_at for name, client in world.clients.items()}
    return Race(world, waits_s)


def _arrivals(seed: int, requests: int) -> list[Errand]:
    dice = random.Random(f"race/{seed}")
    errands = []
    at_s = 0.0
    for number in range(requests):
        at_s += dice.expovariate(PER_S)
        errands.append(chat(f"c{number}", at_s, stream=True))
    return errands
