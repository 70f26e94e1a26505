"""What must hold after every run, whatever the weather: each invariant is one function, named after its law.

`ALL` is the list; law 11 compares two runs and stands apart.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.sim.invariants import advice, answers, attempts, breakers, hedges, keys, placement, records, streams
from tests.sim.invariants.breach import ALL, Breach, Broken, breaches, verify
from tests.sim.world import World

__all__ = [
    "ALL",
    "Breach",
    "Broken",
    "advice",
    "answers",
    "attempts",
    "breaches",
    "breakers",
    "hedges",
    "keys",
    "law_11",
    "placement",
    "records",
    "streams",
    "verify",
]


def law_11(with_: World, without: World) -> Iterator[Breach]:
    """No client can worsen another's lot: the same run with one that misbehaves serves all others in the same way."""
    for name, client in without.clients.items():
        twin = with_.clients[name]
        lots = [
            (each.status, each.endings, each.fields.get("x-gateway-provider"), each.fields.get("x-gateway-attempts"), each.done_at)
            for each in (client, twin)
        ]
        if lots[0] != lots[1]:
            yield Breach("law_11", name, f"{lots[0]} alone, {lots[1]} beside one that misbehaves")
    if with_.transitions != without.transitions:
        yield Breach("law_11", "", f"breakers moved: {without.transitions} alone, {with_.transitions} beside one that misbehaves")
