"""One client that misbehaves, among others that do not: the two runs that law 11 compares.

Chance is taken out of the gateway (`Midway`), and every client has dice of its own at the providers, so that the two runs can differ
through nothing but shared state. The bad client sends what is refused, asks with a wrong key or one at its limit, leaves early and
has no patience, all of it four times as often as the others ask. The weather, which is mild, does not fall on it: what goes wrong
for it is its own doing.
"""

from __future__ import annotations

import json
import random

from gateway.core.plan import Policy
from tests.sim.client import Errand
from tests.sim.ledger import Visit
from tests.sim.provider import SimulatedProvider, Spell
from tests.sim.storm import ALPHA_KEYS, BETA_KEYS, WAYS
from tests.sim.world import World

LASTS_S = 60.0
GOOD, BAD = 60, 240


class Midway:
    """A `Chance` that always says the middle."""

    def random(self) -> float:
        return 0.5

    def uniform(self, a: float, b: float, /) -> float:
        return (a + b) / 2


def run(seed: int, *, beside_a_bad_one: bool) -> World:
    """Return the finished run."""
    mild = (Spell(0.0, LASTS_S, {"500": 0.08, "reset": 0.05}, covers=_good),)
    providers = (
        SimulatedProvider("alpha", keys=ALPHA_KEYS, weather=mild),
        SimulatedProvider("beta", azure=True, keys=BETA_KEYS),
        SimulatedProvider("gamma", weather=mild),
    )
    world = World(seed, providers, WAYS, policy=Policy(deadline_s=30.0), chance=Midway())
    dice = random.Random(f"mischief/{seed}")
    # Each target has served before: that it can is known to the good ones, whether or not a bad one finds out as well.
    errands = [_ask(dice, f"first-{model}", model, at_s=0.0) for model in ("gpt-4o", "solo", "own")]
    errands += [_ask(dice, f"good-{number}", dice.choice(("gpt-4o", "solo", "own"))) for number in range(GOOD)]
    if beside_a_bad_one:
        errands += [_mischief(dice, f"bad-{number}") for number in range(BAD)]
    return world.run(errands)


def _good(visit: Visit) -> bool:
    return visit.client.startswith("good")


def _ask(
    dice: random.Random,
    name: str,
    model: str,
    *,
    key: str = "sk-client",
    at_s: float | None = None,
    more: dict[str, object] | None = None,
    **manners: object,
) -> Errand:
    document = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": dice.random() < 0.5, **(more or {})}
    lines = [(b"Authorization", b"Bearer " + f"{key}-{name}".encode()), (b"Content-Type", b"application/json")]
    lines += manners.pop("lines", ())  # type: ignore[arg-type]
    body = json.dumps(document, separators=(",", ":")).encode()
    stream = document["stream"] is True
    at_s = dice.uniform(0.0, LASTS_S) if at_s is None else at_s
    return Errand(name, at_s, b"/v1/chat/completions", body, lines=tuple(lines), stream=stream, **manners)


def _mischief(dice: random.Random, name: str) -> Errand:
    model = dice.choice(("gpt-4o", "solo", "own"))
    kind = dice.randrange(9)
    if kind == 0:
        return _ask(dice, name, model, more={"temperature": 9})
    if kind == 1:
        return _ask(dice, name, model, more={"max_tokens": 150000})
    if kind == 2:
        return _ask(dice, name, "own", key="sk-wrong")
    if kind == 3:
        return _ask(dice, name, "own", key="sk-limited")
    if kind == 4:
        return _ask(dice, name, "nobody-knows")
    if kind == 5:
        return Errand(name, dice.uniform(0.0, LASTS_S), b"/v1/chat/completions", b'{"model": "gpt-4o", "mod')
    if kind == 6:
        return _ask(dice, name, model, leaves_after_s=dice.uniform(0.01, 1.0))
    if kind == 7:
        return _ask(dice, name, model, more={"reasoning_effort": "high"}, leaves_after_s=2.0)
    return _ask(dice, name, model, more={"reasoning_effort": "high"}, lines=[(b"x-gateway-timeout", b"300ms")])
