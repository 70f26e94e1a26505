"""Three times what the limit lets through: with a limit that is configured, stated, or hidden; and the same without a gateway."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.core.plan import Policy, QuotaPlan
from tests.sim.bare import Bare
from tests.sim.retrying import like_an_sdk
from tests.sim.shaping.account import LimitedProvider, Meter, Says, bare, with_delay
from tests.sim.shaping.crowd import Flow, arrivals, obedient
from tests.sim.shaping.figures import Figures
from tests.sim.shaping.settings import Shaping, equals, names, per_minute
from tests.sim.world import Ways, World

ALONE: Ways = (("chat", ("gpt-4o",), (("metered", None),)),)
WARM_S = 60.0
"""The first minute is told apart: a full bucket is spent in it, and what is hidden is learned."""
TEAMS = 6
PATIENCE_S = (4.0, 40.0)
MEAN_TOKENS = 475.0
"""What a request takes; it may take 640."""


@dataclass(frozen=True, slots=True)
class Case:
    """One way of having a limit."""

    name: str
    configured: bool = False
    states: bool = False
    refunds: bool = True
    says: Says = with_delay
    burst_s: float = 60.0
    tokens: bool = False
    """Tokens are what is short, and not requests."""
    gateway: bool = True

    def run(self, per_s: float = 10.0, seconds: float = 600.0, seed: int = 1, excess: float = 3.0) -> Figures:
        """Let clients come for so long, `excess` times what the limit of `per_s` requests a second lets through."""
        requests = 60.0 * per_s
        tokens = requests * MEAN_TOKENS * (0.7 if self.tokens else 2.0)
        meters = self._meters(requests, tokens)
        provider = LimitedProvider("metered", meters, states=self.states, refunds=self.refunds, says=self.says)
        quota = per_minute(requests, tokens, self.burst_s) if self.configured else QuotaPlan()
        clients = equals(TEAMS)
        world = World(seed, (provider,), ALONE, policy=Policy(), clients=clients, shaping=Shaping({"metered": quota}))
        if self.gateway:
            world.follow_up = obedient(seed)
        else:
            world.door = Bare(world.desk, provider)
            world.follow_up = like_an_sdk(seed)
            provider.keys = ()
        offered = excess * per_s * (0.7 if self.tokens else 1.0)
        flows = [Flow(name, offered / TEAMS, patience_s=PATIENCE_S) for name in names(clients)]
        world.run([errand for flow in flows for errand in arrivals(seed, flow, seconds)])
        return Figures(self.name, world, provider, seconds)

    def _meters(self, requests: float, tokens: float) -> tuple[Meter, ...]:
        if not self.states or self.burst_s >= 60.0:
            return Meter("requests", requests, self.burst_s), Meter("tokens", tokens, self.burst_s)
        # What is stated is the minute; what is looked at is less.
        return (
            *(Meter("requests", requests), Meter("tokens", tokens)),
            *(Meter("requests", requests, self.burst_s, stated=False), Meter("tokens", tokens, self.burst_s, stated=False)),
        )


CONFIGURED: Sequence[Case] = tuple(
    Case(f"configured, burst {burst_s:g} s, {'tokens' if tokens else 'requests'} short", True, burst_s=burst_s, tokens=tokens)
    for burst_s in (60.0, 6.0, 1.0)
    for tokens in (False, True)
)
STATED: Sequence[Case] = (
    Case("stated, requests short", states=True, refunds=False),
    Case("stated, tokens short", states=True, refunds=False, tokens=True),
    Case("stated, tokens short, refunded", states=True, tokens=True),
    Case("stated, looked at over 6 s", states=True, refunds=False, burst_s=6.0),
    Case("stated, looked at over 1 s", states=True, refunds=False, burst_s=1.0),
)
HIDDEN: Sequence[Case] = tuple(
    Case(f"hidden, {says.__name__.replace('_', ' ')}, burst {burst_s:g} s, {'tokens' if tokens else 'requests'} short",
         says=says, burst_s=burst_s, tokens=tokens)
    for says in (with_delay, bare)
    for burst_s in (60.0, 1.0)
    for tokens in (False, True)
)  # fmt: skip
NAIVE: Sequence[Case] = (
    Case("no gateway, requests short", gateway=False, states=True, refunds=False),
    Case("no gateway, no hint, tokens short", gateway=False, says=bare, tokens=True),
)
