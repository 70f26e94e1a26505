"""How a storm's answers are delivered: hedged, held back, resumed, kept alive, under learned limits; drawn from the storm's seed.

Drawn by dice of its own, so that a storm's weather and clients are the same with it and without it. Two things about a provider come
with it as well: whether it goes on from the beginning of an answer, refuses one or takes it for a turn of the conversation; and what
its operator believes of it, which need not be the same.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Mapping

from gateway.core.plan import HedgePlan, Learned, Policy, Prefill, StreamPlan
from tests.sim.client import Errand

SHARE = 0.35
"""Of all storms that get such a policy."""
NEVER = float("inf")
INFERENCE = (b"/v1/chat/completions", b"/v1/responses")


@dataclasses.dataclass(frozen=True, slots=True)
class Delivery:
    """A route's delivery, and what it meets at the providers."""

    hedge: HedgePlan | None = None
    stream: StreamPlan = dataclasses.field(default_factory=StreamPlan)
    learned: Learned | None = None
    stand_ins: frozenset[str] = frozenset()
    """Providers whose targets may stand in for another dialect's or model's in a hedge."""
    prefill: Mapping[str, Prefill] = dataclasses.field(default_factory=dict)
    """By provider: how it takes the beginning of an answer, as its operator declares; none, where it is not named."""
    habits: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """By provider: what it really does about one; see `SimulatedProvider`."""
    asks_usage: frozenset[str] = frozenset()
    """Providers that are asked for the usage of chat streams on the gateway's own account."""
    counts: frozenset[str] = frozenset()

    def over(self, policy: Policy) -> Policy:
        """Return this policy with the delivery in it."""
        timeouts = dataclasses.replace(policy.timeouts, learned_first_token=self.learned, learned_answer=self.learned)
        return dataclasses.replace(policy, hedge=self.hedge, stream=self.stream, timeouts=timeouts)


def drawn(seed: int) -> Delivery | None:
    """Return what this storm's seed says: mostly nothing at all."""
    dice = random.Random(f"delivery/{seed}")
    return any_delivery(dice) if dice.random() < SHARE else None


def any_delivery(dice: random.Random) -> Delivery:
    """Return any delivery."""
    return Delivery(
        hedge=a_hedge(dice) if dice.random() < 0.7 else None,
        stream=StreamPlan(
            hold_s=dice.choice((0.0, 0.0, 0.3, NEVER)),
            resume=dice.random() < 0.6,
            keepalive_s=dice.choice((1.0, 2.0, 5.0)),
            early_keepalive_s=dice.choice((NEVER, NEVER, 3.0)),
        ),
        learned=Learned(0.99, 3.0, dice.choice((2.0, 4.0))) if dice.random() < 0.3 else None,
        stand_ins=frozenset({"beta"}) if dice.random() < 0.85 else frozenset(),
        prefill={name: Prefill.PLAIN for name in ("alpha", "beta", "gamma") if dice.random() < 0.6},
        habits={name: dice.choice(("continues", "continues", "refuses", "ignores")) for name in ("alpha", "beta", "gamma")},
        asks_usage=frozenset(name for name in ("alpha", "beta", "gamma") if dice.random() < 0.5),
        counts=frozenset(name for name in ("alpha", "beta", "gamma") if dice.random() < 0.5),
    )


def a_hedge(dice: random.Random) -> HedgePlan:
    """Return any hedge: after a fixed time, or a learned one."""
    return HedgePlan(
        after_s=dice.choice((None, None, 0.5, 1.0, 2.0)),
        quantile=dice.choice((0.9, 0.95)),
        floor_s=dice.choice((0.1, 0.3)),
        budget=dice.uniform(0.05, 0.5),
        non_stream=dice.random() < 0.4,
    )


def wish(errand: Errand, dice: random.Random) -> Errand:
    """Return the errand with what only matters where answers are delivered in such ways: what it asks for, what it declines."""
    if errand.path not in INFERENCE:
        return errand
    document = json.loads(errand.body)
    chat = errand.path == INFERENCE[0]
    form: dict[str, object] = {"type": "json_object"}
    more: dict[str, object] = {}
    continuable, lines, declines = True, errand.lines, False
    if dice.random() < 0.5:
        more["seed"] = 7
    if chat and errand.stream and dice.random() < 0.25:
        more["stream_options"] = {"include_usage": True}
    drawn = dice.random()
    if drawn < 0.06:
        more |= {"response_format": form} if chat else {"text": {"format": form}}
        continuable = False
    elif drawn < 0.12:
        more["tools"] = [{"type": "function", "function": {"name": "f"}}]
        continuable = False
    if dice.random() < 0.1:
        lines, declines = (*lines, (b"x-gateway-hedge", b"off")), True
    body = json.dumps(document | more, separators=(",", ":")).encode()
    return dataclasses.replace(errand, body=body, continuable=continuable, lines=lines, declines_hedge=declines)
