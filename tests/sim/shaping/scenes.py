"""Who gets what of a limit, and what else may happen to one: floods, shares, spills, false refusals, a single one, balances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.config.snapshot import Client
from gateway.core.plan import Balance, Policy, Priority, QuotaPlan
from tests.sim.ledger import Visit
from tests.sim.provider import Spell
from tests.sim.shaping.account import LimitedProvider, Meter, Says, bare, with_delay
from tests.sim.shaping.crowd import Flow, arrivals, obedient
from tests.sim.shaping.figures import Figures
from tests.sim.shaping.overload import ALONE, MEAN_TOKENS, PATIENCE_S
from tests.sim.shaping.settings import Shaping, known, per_minute
from tests.sim.world import Ways, World

BOTH: Ways = (("chat", ("gpt-4o",), (("metered", None), ("spare", None))),)
PLENTY_S = 6.0
"""Seconds' worth of burst where nothing else is said: what a configured rate means by itself."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What a scene needs beside its clients and flows."""

    name: str
    providers: Sequence[LimitedProvider]
    ways: Ways = ALONE
    shaping: Shaping = field(default_factory=Shaping)

    def play(self, clients: Sequence[Client], flows: Sequence[Flow], seconds: float, seed: int = 1) -> Figures:
        """Let the flows come for so long."""
        world = World(seed, self.providers, self.ways, policy=Policy(), clients=tuple(clients), shaping=self.shaping)
        world.follow_up = obedient(seed)
        world.run([errand for flow in flows for errand in arrivals(seed, flow, seconds)])
        return Figures(self.name, world, self.providers[0], seconds)


def configured(name: str, per_s: float, *, tokens: bool = False, burst_s: float = PLENTY_S) -> Stage:
    """Return a provider whose limit is known, of requests or of the tokens that so many requests take."""
    requests = 60.0 * per_s
    budget = requests * MEAN_TOKENS * (0.7 if tokens else 2.0)
    provider = LimitedProvider("metered", [Meter("requests", requests, burst_s), Meter("tokens", budget, burst_s)])
    return Stage(name, [provider], shaping=Shaping({"metered": per_minute(requests, budget, burst_s)}))


# -- sharing ------------------------------------------------------------------------------------------------------------------


def flood(seconds: float, *, flooded: bool, per_s: float = 10.0, tokens: bool = False) -> Figures:
    """An interactive client that needs a quarter of the limit, alone or with batch work of three times the limit beside it."""
    clients = known("people", priority=Priority.INTERACTIVE), known("jobs", priority=Priority.BATCH)
    room = per_s * (0.7 if tokens else 1.0)
    flows = [Flow("people", room / 4.0), *([Flow("jobs", 3.0 * room)] if flooded else [])]
    name = "interactive, batch flood" if flooded else "interactive, alone"
    return configured(f"{name}, {'tokens' if tokens else 'requests'} short", per_s, tokens=tokens).play(clients, flows, seconds)


def shares(
    weights: Sequence[float], seconds: float, *, excess: Sequence[float] = (), tokens: bool = True, seed: int = 1
) -> Figures:
    """Clients with these weights that all want more than their share: three times, or `excess` times."""
    per_s = 10.0
    clients = [known(f"team{number}", weight=weight) for number, weight in enumerate(weights)]
    room = per_s * (0.7 if tokens else 1.0) / sum(weights)
    flows = [
        Flow(client.name, room * weight * wants)
        for client, weight, wants in zip(clients, weights, excess or [3.0] * len(weights), strict=True)
    ]
    told = ":".join(f"{weight:g}" for weight in weights)
    return configured(f"weights {told}, {'tokens' if tokens else 'requests'} short", per_s, tokens=tokens).play(
        clients, flows, seconds, seed
    )


# -- other ways out -----------------------------------------------------------------------------------------------------------


def spill(seconds: float, *, says: Says | None = None) -> Figures:
    """Three times the limit of the first target, and a second one without any; `says`: the limit is not configured."""
    per_s = 10.0
    stage = configured("", per_s)
    metered = stage.providers[0]
    metered.says = says or with_delay
    stage = Stage(
        f"spill, {'configured' if says is None else 'hidden'}",
        [metered, LimitedProvider("spare")],
        BOTH,
        stage.shaping if says is None else Shaping(),
    )
    return stage.play([known("team0")], [Flow("team0", 3.0 * per_s, patience_s=PATIENCE_S)], seconds)


def false_refusals(seconds: float, share: float = 0.03) -> Figures:
    """An account at half of its stated limit, which refuses some all the same and says that plenty is left."""
    requests = 600.0
    meters = Meter("requests", requests), Meter("tokens", requests * MEAN_TOKENS * 2.0)
    weather = [Spell(0.0, seconds, {"rate_plenty": share})]
    provider = LimitedProvider("metered", meters, states=True, weather=weather)
    stage = Stage(f"{100 * share:g} % false refusals", [provider])
    return stage.play([known("team0")], [Flow("team0", 5.0)], seconds)


class Once:
    """Falls on one request only."""

    def __init__(self) -> None:
        self.fell_s = 0.0
        """When, on the loop's clock."""

    def __call__(self, visit: Visit) -> bool:
        if self.fell_s:
            return False
        self.fell_s = visit.started_at
        return True


ONCE_S = 30.0
HERDS = ("configured", "configured, burst 1 s", "stated", "hidden", "unlimited")


def one_refusal(kind: str, seconds: float = 90.0, per_s: float = 10.0) -> Figures:
    """An account at four fifths of its limit is refused once, for five seconds; `kind`: how the limit is known, one of `HERDS`."""
    requests, tokens = 60.0 * per_s, 60.0 * per_s * MEAN_TOKENS * 2.0
    burst_s = 1.0 if kind.endswith("1 s") else PLENTY_S if kind.startswith("configured") else 60.0
    meters = [] if kind == "unlimited" else [Meter("requests", requests, burst_s), Meter("tokens", tokens, burst_s)]
    weather = [Spell(ONCE_S, seconds, {"rate_once": 1.0}, covers=Once())]
    provider = LimitedProvider("metered", meters, states=kind == "stated", says=bare, weather=weather)
    quota = per_minute(requests, tokens, burst_s) if kind.startswith("configured") else QuotaPlan()
    stage = Stage(f"one refusal, {kind}", [provider], shaping=Shaping({"metered": quota}))
    return stage.play([known("team0")], [Flow("team0", 0.8 * per_s)], seconds)


# -- balance ------------------------------------------------------------------------------------------------------------------


def balanced(
    balance: Balance, seconds: float, *, weights: dict[str, float] | None = None, spare: LimitedProvider | None = None
) -> Figures:
    """Two targets without a limit, balanced; `spare`: what the second one is."""
    stage = Stage(
        str(balance),
        [LimitedProvider("metered"), spare or LimitedProvider("spare")],
        BOTH,
        Shaping(balance=balance, weights=weights or {}),
    )
    return stage.play([known("team0")], [Flow("team0", 10.0)], seconds)


def least_busy(seconds: float) -> Figures:
    """Two targets of which one lets through three times as much as the other, and two thirds of it all is asked for."""
    rates = {"metered": 900.0, "spare": 300.0}
    tokens = 10_000_000.0
    providers = [LimitedProvider(name, [Meter("requests", rate, PLENTY_S)]) for name, rate in rates.items()]
    quotas = {name: per_minute(rate, tokens, PLENTY_S) for name, rate in rates.items()}
    stage = Stage("least_busy", providers, BOTH, Shaping(quotas, balance=Balance.LEAST_BUSY))
    return stage.play([known("team0")], [Flow("team0", 13.3)], seconds)


def failing_fast(seconds: float, share: float, balance: Balance = Balance.FASTEST) -> Figures:
    """A second target that fails this share of its requests within milliseconds, and answers the rest as the first does."""
    weather = [Spell(0.0, seconds, {"503": share})]
    figures = balanced(balance, seconds, spare=LimitedProvider("spare", weather=weather))
    return Figures(f"{balance}, {100 * share:g} % failing fast", figures.world, figures.provider, seconds)


def asked(figures: Figures, name: str, since_s: float = 0.0) -> float:
    """Return the share of all upstream requests that went to this provider."""
    visits = [visit for visit in figures.world.visits if visit.started_at - 1000.0 >= since_s]
    return sum(visit.provider == name for visit in visits) / len(visits)
