"""Clients that retry: as the official SDKs do, and as people do who have never read about retry storms.

The SDKs' contract as measured on openai-python 3.54: three tries; after connection errors, 408, 409, 429 and 5xx, unless
`x-should-retry` says otherwise; `retry-after-ms`, then `retry-after`, up to 120 s, else half a second that doubles, less up to a
quarter; never once an answer has begun.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

from tests.sim.client import Client, Errand
from tests.sim.clock import BEGIN_S
from tests.sim.world import World

SDK_RETRIES = 2
NAIVE_RETRIES = 3
LONGEST_DELAY_S = 120.0


def like_an_sdk(seed: int) -> Callable[[Client], Errand | None]:
    """Return what an SDK does next."""
    dice = random.Random(f"sdk/{seed}")

    def next_try(client: Client) -> Errand | None:
        name, tries = _number(client)
        advice = client.fields.get("x-should-retry")
        retriable = not client.opened_at or client.status in (408, 409, 429) or client.status >= 500
        if served(client) or tries >= SDK_RETRIES or client.endings == ["left"] or advice == "false":
            return None
        if (not retriable and advice != "true") or (client.opened_at and client.status < 400):
            return None
        delay_s = _stated_s(client) or min(8.0, 0.5 * 2**tries) * (1 - 0.25 * dice.random())
        return _again(client, f"{name}/{tries + 1}", delay_s, tries + 1)

    return next_try


def at_once(client: Client) -> Errand | None:
    """Three immediate retries, whatever the answer was."""
    name, tries = _number(client)
    return None if served(client) or tries >= NAIVE_RETRIES else _again(client, f"{name}/{tries + 1}", 0.0, 0)


def served(client: Client) -> bool:
    """Whether this client got a whole, good answer."""
    broken = b'"error"' in client.body.replace(b'"error": null', b"")
    return client.status == 200 and client.endings == ["ended"] and not broken


def success(world: World, since_s: float = 0.0, until_s: float = float("inf")) -> float:
    """Return the share of those who first asked in this time and were served in the end, retries and all."""
    wanted: dict[str, bool] = {}
    for name, client in world.clients.items():
        first = name.partition("/")[0]
        if since_s <= world.clients[first].errand.at_s < until_s:
            wanted[first] = wanted.get(first, False) or served(client)
    return sum(wanted.values()) / len(wanted)


def _number(client: Client) -> tuple[str, int]:
    name, _, tries = client.errand.name.partition("/")
    return name, int(tries or 0)


def _stated_s(client: Client) -> float | None:
    if "retry-after-ms" in client.fields:
        stated_s = float(client.fields["retry-after-ms"]) / 1000
    elif "retry-after" in client.fields:
        stated_s = float(client.fields["retry-after"])
    else:
        return None
    return stated_s if 0.0 < stated_s <= LONGEST_DELAY_S else None


def _again(client: Client, name: str, delay_s: float, count: int) -> Errand:
    lines = [line for line in client.errand.lines if line[0] != b"x-stainless-retry-count"]
    if count:
        lines.append((b"x-stainless-retry-count", b"%d" % count))
    at_s = client.done_at - BEGIN_S + delay_s
    return dataclasses.replace(client.errand, name=name, at_s=at_s, lines=tuple(lines), already_retried=count > 0)
