"""Rush hours: thirty requests a second, a preferred provider that fails for a while, a second one that does not.

Storms are too thin to show a stampede. Here so many requests wait for the first provider's return that letting them all back at
once would be plain to see.
"""

from __future__ import annotations

import json
import random

from gateway.core.plan import Policy
from tests.sim.client import Errand
from tests.sim.provider import SimulatedProvider, Spell
from tests.sim.storm import ALPHA_KEYS, BETA_KEYS
from tests.sim.world import Ways, World

LASTS_S = 70.0
PER_S = 30.0
BOTH: Ways = (("chat", ("gpt-4o",), (("alpha", None), ("beta", "gpt-4o-prod"))),)
LINES = ((b"Authorization", b"Bearer sk-client"), (b"Content-Type", b"application/json"))


def rush(seed: int) -> tuple[World, list[Errand]]:
    """Return the world and the errands of this seed."""
    dice = random.Random(f"rush/{seed}")
    mix = dice.choice(({"503": 1.0}, {"502": 0.9}, {"refused": 1.0}, {"reset": 0.8}, {"html_530": 1.0}))
    start_s = dice.uniform(2.0, 6.0)
    spells = [Spell(start_s, start_s + dice.uniform(3.0, 20.0), mix)]
    providers = SimulatedProvider("alpha", keys=ALPHA_KEYS, weather=spells), SimulatedProvider("beta", azure=True, keys=BETA_KEYS)
    world = World(seed, providers, BOTH, policy=Policy())
    return world, [chat(f"c{number}", dice.uniform(0.0, LASTS_S), stream=False) for number in range(int(LASTS_S * PER_S))]


def chat(name: str, at_s: float, *, stream: bool, model: str = "gpt-4o", lines: tuple[tuple[bytes, bytes], ...] = ()) -> Errand:
    """Return a well-behaved request."""
    document = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    body = json.dumps(document, separators=(",", ":")).encode()
    return Errand(name, at_s, b"/v1/chat/completions", body, lines=(*LINES, *lines), stream=stream)
