"""What room there is for one request at each of its places: with which key, from when on, and for how long it may wait for that.

The half of placement that knows limits: keys held back, quotas, queues, promises. It decides nothing about where to go; it says
what a place would cost this request in time. One instance per exchange, for estimates, waits and promises are one request's.
"""

from __future__ import annotations

from typing import Final

from gateway.core.attempt import Ask, Place
from gateway.core.bucket import FREE, NEVER, Cost
from gateway.core.credentials import CredentialState
from gateway.core.gate import Gate
from gateway.core.record import Kind
from gateway.core.tokens import Prompt
from gateway.core.turns import Turn, usable
from gateway.errors import Reason

LEAST_S: Final = 0.001
"""For less than this nobody joins a queue: what is left of a wait when it is over is a rounding error."""


class Parked:
    """A place without room, and in how many seconds this request would have some there."""

    __slots__ = ("key", "turn", "wait_s")

    def __init__(self, turn: Turn, key: str | None, wait_s: float) -> None:
        self.turn = turn
        self.key = key
        self.wait_s = wait_s


class Room:
    """One request before the limits of all the places it may go to."""

    __slots__ = ("_ask", "_closed", "_cost", "_gate", "_prompt", "_waited_s", "came_back")

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._gate: tuple[Place, Gate] | None = None
        """Of a client's own key, at the place asked last."""
        self._prompt: Prompt | None = None
        self._cost: tuple[Gate, Cost] | None = None
        """What the request is estimated to take at the gate asked last."""
        self._waited_s = 0.0
        self._closed: dict[Place, Reason] | None = None
        """Places whose queue has sent this request away, and why."""
        self.came_back = False
        """It was told to come back now, and that promise is used up."""

    def credential(self, place: Place, now: float) -> tuple[str | None, float]:
        """Return the key to use (None: the client's own or none) and from when there is room with it; a past moment: now."""
        gate = self.gate(place)
        return usable(place, gate, self._ask.foreign_key, now, self)

    def queued(self, place: Place) -> int:
        """Return how many requests stand in the queue there."""
        return self.gate(place).queue.count

    def gate(self, place: Place) -> Gate:
        """Return what stands in front of a place for this request: a key of the client's own has limits of its own."""
        foreign = self._ask.foreign_key
        if foreign is None:
            return place.gate
        known = self._gate
        if known is None or known[0] is not place:
            known = self._gate = place, place.provider.gate(place.model, foreign)
        return known[1]

    def cost_at(self, gate: Gate, *, always: bool = False) -> Cost:
        """Return what this request is estimated to take; nothing where no limit counts tokens, unless it is `always` wanted."""
        known = self._cost
        if known is not None and known[0] is gate and known[1] is not FREE:
            return known[1]
        measure, cost = self._ask.measure, FREE
        if measure is not None and (always or gate.counts_tokens):
            if self._prompt is None:
                self._prompt = measure()
            cost = gate.ratio.cost(self._prompt)
        self._cost = gate, cost
        return cost

    def learn(self, gate: Gate, input_tokens: int, output_tokens: int) -> None:
        """Take in what the request was told to have used, for the estimates of others."""
        if self._prompt is None:
            raise AssertionError("what was estimated was measured")
        gate.ratio.learn(self._prompt, input_tokens, output_tokens)

    def credential_state(self, place: Place, credential: str | None) -> CredentialState | None:
        """Return the state of the key an attempt used; None where a reload took it away."""
        if self._ask.foreign_key is not None or credential is None:
            return self._unowned(place)
        return place.provider.credentials.get(credential)

    def _unowned(self, place: Place) -> CredentialState:
        """Return what is known of the client's own key here; requests without any key share one account, and its rate limits."""
        return place.provider.foreign(self._ask.foreign_key or "")

    def parked(self, now: float, place: Place, key: str | None, usable_at: float, kind: Kind) -> Parked:
        """Return in how many seconds this request would have room there; `usable_at`: when, were nobody else waiting."""
        ask, gate = self._ask, self.gate(place)
        cost = self.cost_at(gate, always=True)
        turn = Turn(
            place,
            gate,
            kind,
            cost,
            client=ask.client,
            weight=ask.weight,
            priority=ask.priority,
            deadline_at=ask.deadline_at,
            since=now,
            foreign=ask.foreign_key,
        )
        return Parked(turn, key, gate.wait_s(now, turn, self._keys(place), usable_at))

    def _keys(self, place: Place) -> tuple[str | None, ...]:
        return (None,) if self._ask.foreign_key is not None else place.target.provider.credentials or (None,)

    def waited(self, turn: Turn, now: float) -> None:
        """Note how long this request has stood in a queue."""
        self._waited_s += now - turn.since

    def closed(self, turn: Turn, reason: Reason) -> None:
        """Note that a queue will not have this request."""
        if self._closed is None:
            self._closed = {}
        self._closed[turn.place] = reason

    def promise(self, now: float, turn: Turn, wait_s: float) -> tuple[float | None, bool]:
        """Return when this client will be let in, as `Gate.promise` does."""
        return turn.gate.promise(now, turn, self._keys(turn.place), wait_s)

    def why_none(self, place: Place, now: float) -> Reason:
        """Return why there is no room in time: its keys are out of use, its queue has sent the request away, or merely that."""
        states = place.provider.credentials.values()
        if self._ask.foreign_key is None and states and all(state.benched(now, place.model) for state in states):
            return Reason.CREDENTIALS_BENCHED
        return self._closed.get(place, Reason.RATE_LIMITED) if self._closed is not None else Reason.RATE_LIMITED

    def fits(self, now: float, entry: Parked) -> bool:
        """Whether it may join this queue: it will be called in time, or was told to come back now."""
        return self._open(entry.turn.place) and (self._promised(now, entry.turn) or self.in_time(now, entry))

    def in_time(self, now: float, entry: Parked) -> bool:
        """Whether waiting this long still leaves the client's patience and the provider's own bound."""
        place, wait_s = entry.turn.place, entry.wait_s
        return self._open(place) and wait_s <= self._left_s(place) and now + wait_s < self._ask.deadline_at

    def _open(self, place: Place) -> bool:
        """Whether the queue in front of this place will still have this request."""
        return (self._closed is None or place not in self._closed) and self._left_s(place) >= LEAST_S

    def _left_s(self, place: Place) -> float:
        """Return how long this request may yet wait here."""
        return place.target.provider.queue_wait_s - self._waited_s

    def _promised(self, now: float, turn: Turn) -> bool:
        """Whether this client was told to come back now, and will be let in; one promise is enough for a request."""
        if not self.came_back and self._ask.may_be_back:
            self.came_back = turn.gate.promises.redeem(now, turn.client)
        turn.promised = self.came_back
        return turn.promised

    def turn(self, now: float, entry: Parked, longest_s: float = NEVER) -> Turn:
        """Return the turn with which to stand in this queue, for so long at most."""
        turn = entry.turn
        turn.until = min(now + min(self._left_s(turn.place), longest_s), self._ask.deadline_at)
        turn.deadline_at = turn.until
        return turn
