"""The gateway's real admission, core, driver and observer between simulated clients and simulated providers, on virtual time.

One `World` is one run. Nothing of the gateway is replaced but the two seams made for it: the `Upstream` and the `Sink`. Everything
is seeded, so that a run can be repeated to the byte.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from gateway.config.snapshot import AdminPlan, Origin, Provider, Secret, ServerPlan, Snapshot
from gateway.config.snapshot import Client as KnownClient
from gateway.core.message import header
from gateway.core.placement import Chance
from gateway.core.plan import Policy, Prefill, ProviderPlan, Route, Target
from gateway.core.registry import Registry
from gateway.core.verdicts import Fault
from gateway.dialects.registry import DIALECTS
from gateway.egress.body import ReplayMemory
from gateway.egress.surroundings import Surroundings
from gateway.egress.upstream import Receiver
from gateway.ingress.admission import Admission
from gateway.observe.access import AccessLog
from gateway.observe.metrics import Metrics
from gateway.observe.observer import Observer
from tests.sim.client import Client, Door, Errand
from tests.sim.clock import BEGIN_S, VirtualLoop
from tests.sim.delivery import Delivery
from tests.sim.ledger import Desk, Visit
from tests.sim.network import MemoryCall
from tests.sim.provider import SimulatedProvider
from tests.sim.shaping.settings import Shaping

UNIX_S = 1_800_000_000.0
LINGER_S = 3.0
"""How long the run goes on after the last client is done, so that what should close can close."""

_SAMPLE = re.compile(r"^(\w+)\{(.*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


Ways = Sequence[tuple[str, tuple[str, ...], Sequence[tuple[str, str | None, *tuple[Fault, ...]]]]]
"""Routes, in order: (name, globs of models, targets as (provider, model there or None, the faults it is only for))."""


@dataclass(frozen=True, slots=True)
class Move:
    """A breaker's transition, as the gateway reported it."""

    at_s: float
    """Since the beginning."""
    provider: str
    model: str
    family: str
    """Model and family are empty for a provider's own breaker."""
    state: str
    seq: int = field(compare=False)
    """When, in the order of the ledger."""


class World:
    """One run."""

    def __init__(
        self,
        seed: int,
        providers: Sequence[SimulatedProvider],
        routes: Ways,
        *,
        policy: Policy | None = None,
        chance: Chance | None = None,
        clients: tuple[KnownClient, ...] | None = None,
        delivery: Delivery | None = None,
        shaping: Shaping | None = None,
    ) -> None:
        self.seed = seed
        self.loop = VirtualLoop()
        self.desk = Desk(self.loop, seed)
        self.providers = {provider.name: provider for provider in providers}
        self.delivery = delivery or Delivery()
        policy = policy or Policy()
        self.policy = policy if delivery is None else delivery.over(policy)
        self.guarded = clients is not None
        """Clients authenticate: their keys are for the gateway alone."""
        dice = chance or random.Random(seed)
        self.metrics = Metrics()
        self.ways = routes
        self.transitions: list[Move] = []
        """Of every breaker, in order."""
        self.registry = Registry(dice.uniform, self._moved)
        surroundings = Surroundings(
            loop=self.loop,
            clock=self.loop.time,
            upstream=self,
            observer=Observer(self.metrics, AccessLog(None), self._unix),
            memory=ReplayMemory(64 * 1024 * 1024),
            unix=self._unix,
            via=b"gateway-sim",
        )
        self.admission = Admission(surroundings, self.registry, dice, "sim-")
        self.snapshot = _snapshot(self.providers, routes, self.policy, clients, self.delivery, shaping or Shaping())
        self.admission.adopt(self.snapshot)
        self.clients: dict[str, Client] = {}
        self.door: Door = self.admission
        """Where clients go; to do without a gateway, something else."""
        self.follow_up: Callable[[Client], Errand | None] = lambda _client: None
        """What a client whose exchange is over does next."""
        self.deadlock: AssertionError | None = None
        self.memo: dict[str, object] = {}
        """What was once read out of a finished run."""
        self._open = 0
        self._to_come = 0
        self._by_client: dict[str, list[Visit]] | None = None
        self._samples: dict[str, list[tuple[str, str]]] | None = None

    @property
    def visits(self) -> list[Visit]:
        """The ledgers of all providers, in the order of the visits."""
        return self.desk.visits

    def run(self, errands: Sequence[Errand]) -> World:
        """Let the clients loose; returns when all of them are done and what they left open is closed."""
        self._to_come = len(errands)
        try:
            self.deadlock = self.loop.run_to_end(lambda: self._schedule(errands))
        finally:
            self.loop.close()
        return self

    def call(
        self,
        origin: Origin,
        head: bytes,
        body: list[bytes],
        receiver: Receiver,
        *,
        whole: bool,
        chunked: bool,
        head_request: bool,
        connect_s: float,
        limit: int,
    ) -> MemoryCall:
        """`gateway.egress.upstream.Upstream`."""
        call = MemoryCall(self.desk, self.providers[origin.host], head, b"".join(body), receiver, connect_s)
        call.begin(whole=whole)
        return call

    def by_client(self) -> dict[str, list[Visit]]:
        """Return the visits of each exchange, in order. To be asked when all is over."""
        if self._by_client is None:
            self._by_client = {name: [] for name in self.clients}
            for visit in self.visits:
                self._by_client[visit.client].append(visit)
        return self._by_client

    def story(self, name: str) -> str:
        """Return what happened in one exchange, a line each."""
        return "\n".join(f"{at:10.3f} s  {text}" for at, who, text in self.desk.log if who == name)

    def total(self, metric: str, *by: str) -> Counter[tuple[str, ...]]:
        """Return the sums of a metric by these labels, as one scrape after the end sees them."""
        if self._samples is None:
            self._samples = {}
            for name, labels, value in _SAMPLE.findall(self.metrics.expose()[0].decode()):
                self._samples.setdefault(name, []).append((labels, value))
        sums: Counter[tuple[str, ...]] = Counter()
        for labels, value in self._samples.get(metric, ()):
            known = dict(_LABEL.findall(labels))
            sums[tuple(known[label] for label in by)] += int(float(value))
        return sums

    # -- insides --------------------------------------------------------------------------------------------------------------

    def _schedule(self, errands: Sequence[Errand]) -> None:
        coming = [self._known(errand) for errand in errands]
        coming.sort(key=lambda client: client.errand.at_s)
        self._await(iter(coming))

    def _await(self, coming: Iterator[Client]) -> None:
        """Let the clients come one after the other: all at once among the loop's timers, they would make every other timer slow."""
        client = next(coming, None)
        if client is not None:
            self.loop.call_at(BEGIN_S + client.errand.at_s, self._arrive, client, coming)

    def _arrive(self, client: Client, coming: Iterator[Client]) -> None:
        self._await(coming)
        self._begin(client)

    def _known(self, errand: Errand) -> Client:
        client = self.clients[errand.name] = Client(self.desk, errand, self._over)
        return client

    def _begin(self, client: Client) -> None:
        self._to_come -= 1
        self._open += 1
        client.begin(self.door)

    def _over(self, client: Client) -> None:
        self._open -= 1
        errand = self.follow_up(client)
        if errand is not None:
            self._to_come += 1
            self.loop.call_at(BEGIN_S + errand.at_s, self._begin, self._known(errand))
        if not self._open and not self._to_come:
            self.loop.call_later(LINGER_S, self.loop.stop)

    def _moved(self, provider: str, model: str, family: str, state: str) -> None:
        self.transitions.append(Move(self.loop.time() - BEGIN_S, provider, model, str(family), str(state), self.desk.next()))
        self.metrics.breaker_moved(provider, model, family, str(state))

    def _unix(self) -> float:
        return UNIX_S + self.loop.time()


def _snapshot(
    providers: dict[str, SimulatedProvider],
    routes: Ways,
    policy: Policy,
    clients: tuple[KnownClient, ...] | None,
    delivery: Delivery,
    shaping: Shaping,
) -> Snapshot:
    compiled = {}
    for name, provider in providers.items():
        secrets = tuple(Secret.from_text(key) for key in provider.keys)
        compiled[name] = Provider(
            plan=shaping.over(
                ProviderPlan(
                    name=name,
                    domain=name,
                    credentials=tuple(secret.id for secret in secrets),
                    dialect="azure" if provider.azure else "openai",
                )
            ),
            dialect=DIALECTS["azure" if provider.azure else "openai"],
            origin=Origin("http", name, 80),
            base_path=b"" if provider.azure else b"/v1",
            api_version="2024-10-21" if provider.azure else None,
            credentials=secrets,
            headers=(header(b"x-team", b"search"),),
            connect_s=2.0,
            errors=provider.errors,
            stream_usage=name in delivery.asks_usage,
        )
    return Snapshot(
        server=ServerPlan(),
        admin=AdminPlan(),
        providers=compiled,
        routes=tuple(
            Route(
                name,
                tuple(
                    Target(
                        compiled[provider].plan,
                        model,
                        only_for=frozenset(only_for),
                        hedge=provider in delivery.stand_ins,
                        prefill=delivery.prefill.get(provider, Prefill.NONE),
                        weight=shaping.weights.get(provider, 1.0),
                    )
                    for provider, model, *only_for in targets
                ),
                policy,
                models,
                balance=shaping.balance,
            )
            for name, models, targets in routes
        ),
        clients=clients,
    )
