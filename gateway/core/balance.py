"""In which order an exchange tries its places, where its route balances them.

Separate from `core.placement`, which walks that order: here load is spread, there failures are met. So the answer is always a
permutation: nothing is left out, and a place that admits nothing comes last instead of never. What a share between 0 and 1 means is
left to the walk, which asks the dice at each place (law 8): so a weighted place gets its weight times its admitted share, and by a
load divided by its share, a recovering target would get nothing by which to recover.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from operator import itemgetter
from typing import Final, Protocol, TypeVar

from gateway.core.pace import Pace
from gateway.core.plan import Balance, Target

UNKNOWN_S: Final = 60.0
"""The pace of a place that is being asked for the first time, and has not answered yet. Finagle's penalty is beyond all others; but
a place that is only new must look better than one that has done nothing but fail."""
TRIAL: Final = 1 / 32
"""So often a place with work under way is asked all the same though its pace is not known. Its work may be of the other kind, and
last for an hour: streams tell nothing of whole answers."""
SMALLEST: Final = 5e-324
"""For the logarithm of a dice that shows 0."""

_ORDERED: Final = Balance.ORDERED
_WEIGHTED: Final = Balance.WEIGHTED
_FASTEST: Final = Balance.FASTEST
_RANK: Final = itemgetter(0, 1, 2)


class Chance(Protocol):
    """The injected source of randomness; `random.Random` is one."""

    def random(self) -> float: ...


class Gate(Protocol):
    """What stands in front of a place and knows its limits."""

    def busy(self, now: float) -> float:
        """Return how full it is, 0 (idle) to 1."""
        ...


class Measured(Protocol):
    """What is known of a place from its own past."""

    @property
    def pace(self) -> tuple[Pace, Pace]:
        """Of whole answers, and of streams."""
        ...

    @property
    def pending(self) -> int:
        """Attempts under way."""
        ...


class Candidate(Protocol):
    """What balancing reads of a place, and no more."""

    @property
    def target(self) -> Target: ...

    @property
    def state(self) -> Measured: ...

    @property
    def gate(self) -> Gate: ...

    def share(self, now: float) -> float:
        """Return the share of requests that may go here, 0 to 1."""
        ...


C = TypeVar("C", bound=Candidate)


def order(balance: Balance, places: Sequence[C], *, now: float, chance: Chance, stream: bool) -> Sequence[C]:
    """Return all places in the order to try them: the balanced ones, those that admit or weigh nothing, those `only_for` a fault.

    - `ordered`: the same object, untouched.
    - `weighted`: a random permutation by weight (Efraimidis and Spirakis, "Weighted random sampling with a reservoir",
      2006): of two places, the chance of each to come first is as its weight.
    - `fastest`: the less loaded of two taken at random (Mitzenmacher, "The power of two choices in randomized load balancing",
      2001), then the rest by load; the load is Finagle's, pace * (pending + 1). Not simply the least loaded: all would go there.
    - `least_busy`: by how full they are in proportion to their weights; ties at random, by weight.
    """
    if balance is _ORDERED:
        return places
    ranked: list[tuple[float, float, int, C]] = []
    held_back: list[C] = []
    special: list[C] = []
    for number, place in enumerate(places):
        if place.target.only_for:
            special.append(place)
            continue
        weight = place.target.weight
        if weight <= 0.0 or place.share(now) <= 0.0:
            held_back.append(place)
        elif balance is _WEIGHTED:
            ranked.append((_drawn(chance, weight), 0.0, number, place))
        elif balance is _FASTEST:
            ranked.append((_load(place.state, now, chance, stream=stream), chance.random(), number, place))
        else:
            ranked.append((place.gate.busy(now) / weight, _drawn(chance, weight), number, place))
    ranked.sort(key=_RANK)
    if balance is _FASTEST and len(ranked) > 2:
        ranked.insert(0, ranked.pop(_lower_of_two(chance, len(ranked))))
    return [*[entry[3] for entry in ranked], *held_back, *special]


def _drawn(chance: Chance, weight: float) -> float:
    """Return a random number whose order is that of u**(1/w), the least first: an exponential variable of this rate."""
    return -log(chance.random() or SMALLEST) / weight


def _load(state: Measured, now: float, chance: Chance, *, stream: bool) -> float:
    seconds = state.pace[stream].seconds(now)
    pending = state.pending
    if seconds is not None:
        return seconds * (pending + 1)
    # Whoever is new is measured by one request, and not by a herd.
    return UNKNOWN_S * (pending + 1) if pending and chance.random() >= TRIAL else 0.0


def _lower_of_two(chance: Chance, count: int) -> int:
    """Return the lower of two different indices below `count`, each pair as likely: in a list sorted by load, the less loaded."""
    first = min(int(chance.random() * count), count - 1)
    second = min(int(chance.random() * (count - 1)), count - 2)
    return min(first, second + (second >= first))
