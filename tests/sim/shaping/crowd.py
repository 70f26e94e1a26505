"""The clients of a shaping run: how much they ask for and when, how long they wait, and that they do as they are told.

A client that is refused and told to come back comes back then, a little later at most; twice, as the official SDKs do. One that is
told not to does not. Named `owner:number`, and `owner:number/2` on the second return.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

import orjson

from tests.sim.client import Client, Errand
from tests.sim.clock import BEGIN_S
from tests.sim.shaping.settings import key_of

RETURNS = 2
LATER = 0.25
"""A client comes back up to this share later than it was told."""
MODEL = "gpt-4o"
_WORDS = "All happy families are alike; each unhappy family is unhappy in its own way. " * 60


@dataclasses.dataclass(frozen=True, slots=True)
class Flow:
    """One client's requests: so many a second, at random, while it lasts."""

    owner: str
    per_s: float
    start_s: float = 0.0
    end_s: float = float("inf")
    prompt_chars: tuple[int, int] = (200, 3000)
    max_tokens: tuple[int, int] = (50, 500)
    patience_s: tuple[float, float] | None = None
    """What it states in `x-gateway-timeout`, between these; None: it does not."""


def arrivals(seed: int, flow: Flow, seconds: float) -> list[Errand]:
    """Return one client's requests of the first so many seconds."""
    dice = random.Random(f"crowd/{seed}/{flow.owner}")
    errands: list[Errand] = []
    at_s = flow.start_s
    while (at_s := at_s + dice.expovariate(flow.per_s)) < min(seconds, flow.end_s):
        document = {
            "model": MODEL,
            "messages": [{"role": "user", "content": _WORDS[: dice.randint(*flow.prompt_chars)]}],
            "max_tokens": dice.randint(*flow.max_tokens),
        }
        lines = [(b"authorization", b"Bearer %b" % key_of(flow.owner).encode()), (b"content-type", b"application/json")]
        if flow.patience_s is not None:
            lines.append((b"x-gateway-timeout", b"%.3f" % dice.uniform(*flow.patience_s)))
        body = orjson.dumps(document)
        errands.append(
            Errand(
                f"{flow.owner}:{len(errands)}",
                at_s,
                b"/v1/chat/completions",
                body,
                lines=(*lines, (b"x-stainless-retry-count", b"0")),
            )
        )
    return errands


def told_s(client: Client) -> float | None:
    """Return in how many seconds a refused client was told to come back; None where it was told not to, or nothing."""
    if client.status < 400 or client.fields.get("x-should-retry") != "true" or "retry-after-ms" not in client.fields:
        return None
    return float(client.fields["retry-after-ms"]) / 1000.0


def tries(client: Client) -> int:
    """Return which return this is; 0: none."""
    return int(client.errand.name.partition("/")[2] or 0)


def obedient(seed: int) -> Callable[[Client], Errand | None]:
    """Return what such a client does next."""
    dice = random.Random(f"crowd/{seed}/back")

    def back(client: Client) -> Errand | None:
        told, count = told_s(client), tries(client)
        if told is None or count >= RETURNS:
            return None
        errand = client.errand
        name = errand.name.partition("/")[0]
        return dataclasses.replace(
            errand,
            name=f"{name}/{count + 1}",
            at_s=client.done_at - BEGIN_S + told * (1.0 + LATER * dice.random()),
            lines=(*errand.lines[:-1], (b"x-stainless-retry-count", b"%d" % (count + 1))),
            already_retried=True,
        )

    return back
