"""The gateway's real admission, core, driver and observer between simulated clients and simulated providers, on virtual time.

One `World` is one run. Nothing of the gateway is replaced but the two seams made for it: the `Upstream` and the `Sink`. Everything
is seeded, so that a run can be repeated to the byte.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence

from gateway.config.snapshot import AdminPlan, Origin, Provider, Secret, ServerPlan, Snapshot
from gateway.config.snapshot import Client as KnownClient
from gateway.core.message import header
from gateway.core.placement import Chance
from gateway.core.plan import Policy, ProviderPlan, Route, Target
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
from tests.sim.client import Client, Errand
from tests.sim.clock import BEGIN_S, VirtualLoop
from tests.sim.ledger import Desk, Visit
from tests.sim.network import MemoryCall
from tests.sim.provider import SimulatedProvider

UNIX_S = 1_800_000_000.0
LINGER_S = 3.0
"""How long the run goes on after the last client is done, so that what should close can close."""

_SAMPLE = re.compile(r"^(\w+)\{(.*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


Ways = Sequence[tuple[str, tuple[str, ...], Sequence[tuple[str, str | None, *tuple[Fault, ...]]]]]
"""Routes, in order: (name, globs of models, targets as (provider, model there or None, the faults it is only for))."""


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
    ) -> None:
        self.seed = seed
        self.loop = VirtualLoop()
        self.desk = Desk(self.loop, seed)
        self.providers = {provider.name: provider for provider in providers}
        self.policy = policy or Policy()
        self.guarded = clients is not None
        """Clients authenticate: their keys are for the gateway alone."""
        dice = chance or random.Random(seed)
        self.metrics = Metrics()
        self.transitions: list[tuple[float, str, str, str]] = []
        """(when, provider, model, new state) of every breaker."""
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
        self.snapshot = _snapshot(self.providers, routes, self.policy, clients)
        self.admission.adopt(self.snapshot)
        self.clients: dict[str, Client] = {}
        self.deadlock: AssertionError | None = None
        self._open = 0
        self._to_come = 0

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
        """Return the visits of each exchange, in order."""
        found: dict[str, list[Visit]] = {name: [] for name in self.clients}
        for visit in self.visits:
            found[visit.client].append(visit)
        return found

    def story(self, name: str) -> str:
        """Return what happened in one exchange, a line each."""
        return "\n".join(f"{at:10.3f} s  {text}" for at, who, text in self.desk.log if who == name)

    def total(self, metric: str, *by: str) -> Counter[tuple[str, ...]]:
        """Return the sums of a metric by these labels, as a scrape would see them."""
        sums: Counter[tuple[str, ...]] = Counter()
        text = self.metrics.expose()[0].decode()
        for name, labels, value in _SAMPLE.findall(text):
            if name == metric:
                known = dict(_LABEL.findall(labels))
                sums[tuple(known[label] for label in by)] += int(float(value))
        return sums

    # -- insides --------------------------------------------------------------------------------------------------------------

    def _schedule(self, errands: Sequence[Errand]) -> None:
        for errand in errands:
            client = self.clients[errand.name] = Client(self.desk, errand, self._over)
            self.loop.call_at(BEGIN_S + errand.at_s, self._begin, client)

    def _begin(self, client: Client) -> None:
        self._to_come -= 1
        self._open += 1
        client.begin(self.admission)

    def _over(self, _client: Client) -> None:
        self._open -= 1
        if not self._open and not self._to_come:
            self.loop.call_later(LINGER_S, self.loop.stop)

    def _moved(self, provider: str, model: str, family: str, state: str) -> None:
        self.transitions.append((self.loop.time() - BEGIN_S, provider, model, str(state)))
        self.metrics.breaker_moved(provider, model, family, str(state))

    def _unix(self) -> float:
        return UNIX_S + self.loop.time()


def _snapshot(
    providers: dict[str, SimulatedProvider],
    routes: Ways,
    policy: Policy,
    clients: tuple[KnownClient, ...] | None,
) -> Snapshot:
    compiled = {}
    for name, provider in providers.items():
        secrets = tuple(Secret.from_text(key) for key in provider.keys)
        compiled[name] = Provider(
            plan=ProviderPlan(name=name, domain=name, credentials=tuple(secret.id for secret in secrets)),
            dialect=DIALECTS["azure" if provider.azure else "openai"],
            origin=Origin("http", name, 80),
            base_path=b"" if provider.azure else b"/v1",
            api_version="2024-10-21" if provider.azure else None,
            credentials=secrets,
            headers=(header(b"x-team", b"search"),),
            connect_s=2.0,
        )
    return Snapshot(
        server=ServerPlan(),
        admin=AdminPlan(),
        providers=compiled,
        routes=tuple(
            Route(
                name,
                tuple(
                    Target(compiled[provider].plan, model, only_for=frozenset(only_for)) for provider, model, *only_for in targets
                ),
                policy,
                models,
            )
            for name, models, targets in routes
        ),
        clients=clients,
    )
