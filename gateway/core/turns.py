"""Waiting in front of a gate: one exchange's place in the queue, and whose turn it is.

Apart from the gate, which knows limits and order, and from `placement`, which decides who waits where: here the two meet. Whoever
carries exchanges out joins a `Turn` to its queue, asks `called` when something may have changed, and looks again at `look_at`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gateway.core.attempt import Place
from gateway.core.bucket import NEVER, Cost
from gateway.core.gate import LOOK_S, Gate
from gateway.core.plan import Priority
from gateway.core.queue import Waiter
from gateway.core.record import Kind
from gateway.errors import Reason


class Turn(Waiter):
    """One exchange that waits for room at one place."""

    __slots__ = ("cost", "foreign", "gate", "kind", "label", "lenient", "place", "until", "wake")

    def __init__(
        self,
        place: Place,
        gate: Gate,
        kind: Kind,
        cost: Cost,
        *,
        client: str,
        weight: float,
        priority: Priority,
        deadline_at: float,
        since: float,
        foreign: str | None,
    ) -> None:
        super().__init__(
            client=client,
            weight=weight,
            priority=priority,
            tokens=max(1.0, cost.tokens),
            deadline_at=deadline_at,
            since=since,
        )
        self.place = place
        self.gate = gate
        self.kind = kind
        """What the attempt will be."""
        self.cost = cost
        self.foreign = foreign
        """Hash of the client's own key, where that is what goes upstream."""
        self.until = deadline_at
        """It waits no longer than this."""
        self.lenient = False
        """Others could serve at once; it waits because this place is preferred."""
        self.label = gate.label if gate.grouped else place.model_label
        """Where it stands, for metrics: the group of models, or the model as far as routes list it."""
        self.wake: Callable[[Reason | None], None] | None = None
        """Told that there is room (None), or why it was sent away. Set by whoever joins it to the queue."""

    def cost_at(self, _gate: Gate) -> Cost:
        """Return what it is estimated to take, at the gate in front of which it waits."""
        return self.cost


class Priced(Protocol):
    """A request that can tell what it is estimated to take."""

    def cost_at(self, gate: Gate, /) -> Cost: ...


def usable(place: Place, gate: Gate, foreign: str | None, now: float, request: Priced) -> tuple[str | None, float]:
    """Return the key to use (None: the client's own, or none) and from when on; a past moment: now.

    The first of our own keys that nothing holds back, or the one that is free again soonest; `NEVER` where another request must
    end first. The keys are those of the place's own snapshot: a reload may have changed the provider's meanwhile.
    """
    quotas = gate.quotas
    keys = place.target.provider.credentials
    if foreign is not None or not keys:
        held_until = place.provider.foreign(foreign or "").usable_at(now, place.model)
        quota = quotas.get(None)
        return None, held_until if quota is None or not quota.bound else max(held_until, quota.ready_at(now, request.cost_at(gate)))
    states = place.provider.credentials
    earliest, best = NEVER, keys[0]
    for key in keys:
        state, quota = states.get(key), quotas.get(key)
        usable_at = state.usable_at(now, place.model) if state is not None else 0.0
        if quota is not None and quota.bound:
            usable_at = max(usable_at, quota.ready_at(now, request.cost_at(gate)))
        if usable_at <= now:
            return key, usable_at
        if usable_at < earliest:
            earliest, best = usable_at, key
    return best, earliest


def called(gate: Gate, now: float) -> Turn | None:
    """Return whose turn it is, if there is room for it; it has left the queue then."""
    turn = gate.queue.first(now)
    if not isinstance(turn, Turn) or usable(turn.place, gate, turn.foreign, now, turn)[1] > now:
        return None
    gate.queue.take(now, turn)
    return turn


def look_at(gate: Gate, now: float) -> float:
    """Return when it is worth asking for the next turn again."""
    turn = gate.queue.first(now)
    ready_at = usable(turn.place, gate, turn.foreign, now, turn)[1] if isinstance(turn, Turn) else now
    return min(max(ready_at, now), now + LOOK_S)
