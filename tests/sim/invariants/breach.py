"""What an invariant is, the list of all of them, and what is said when one breaks.

An invariant reads the providers' ledgers and what the clients got, and never the gateway's own records, except where it is those
records that are checked. It yields one `Breach` for each exchange that breaks it. Numbers (budget, linger, delays) are written out
from the contract, not imported from the code under test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.sim.world import World

EPS = 1e-6


@dataclass(frozen=True, slots=True)
class Breach:
    """An invariant that did not hold."""

    invariant: str
    client: str
    """Whose exchange; empty where it is nobody's in particular."""
    text: str


class Broken(AssertionError):
    """At least one invariant did not hold; the message tells the story."""


Invariant = Callable[[World], Iterator[Breach]]
ALL: list[Invariant] = []


def invariant(check: Callable[[World], Iterator[tuple[str, str]]]) -> Invariant:
    """Register a check: it yields (client, what is wrong)."""

    def checked(world: World) -> Iterator[Breach]:
        return (Breach(check.__name__, client, text) for client, text in check(world))

    checked.__name__ = check.__name__
    checked.__doc__ = check.__doc__
    ALL.append(checked)
    return checked


def breaches(world: World) -> list[Breach]:
    """Return everything that is wrong with a run."""
    return [breach for each in ALL for breach in each(world)]


def verify(world: World) -> None:
    """Raise for the first thing that is wrong with a run, with its seed and the story of the exchange."""
    found = breaches(world)
    if not found:
        return
    first = found[0]
    also = Counter(breach.invariant for breach in found)
    raise Broken(
        f"seed {world.seed}: {first.invariant}: {first.client}: {first.text}\n"
        f"(breaches in this run: {dict(also)}; repeat it with: python -m tests.sim --seed {world.seed})\n"
        f"{world.story(first.client)}",
    )
