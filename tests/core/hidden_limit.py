"""A provider that keeps its limit to itself, and clients that want more than it lets through: a model without any I/O.

The provider is a token bucket that nobody states, or a bound on what is under way. What goes there is held back by one `Quota` and,
after a refusal, by the hold on its key, as in the gateway; whoever is refused asks again. Independent of the gateway's own queue, so
that what the learner is worth can be measured in seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from random import Random
from statistics import median

from gateway.core.bucket import NEVER, Cost, Source
from gateway.core.credentials import CredentialState
from gateway.core.limits import Stated
from gateway.core.plan import QuotaPlan, Resource
from gateway.core.quota import Quota

START = 1000.0


class Hidden:
    """A token bucket as a provider keeps one: naive, by level and time of the last look."""

    def __init__(self, per_s: float, burst: float, *, counts_refused: bool = False) -> None:
        self.per_s, self.burst = per_s, burst
        self.level, self.at = burst, START
        self.counts_refused = counts_refused

    def lets(self, now: float, amount: float) -> bool:
        self.level = min(self.burst, self.level + (now - self.at) * self.per_s)
        self.at = now
        fits = self.level >= amount
        if fits or self.counts_refused:
            self.level = max(0.0, self.level - amount)
        return fits


class Run:
    """Clients in front of one hidden limit, from `START` on. `counts` is what the limit counts."""

    def __init__(
        self,
        hidden: Hidden | None,
        *,
        offered_per_s: float | Callable[[float], float],
        counts: Resource = Resource.REQUESTS,
        tokens: tuple[float, float] = (500.0, 500.0),
        says: bool = False,
        states: bool = False,
        down: tuple[float, float] = (0.0, 0.0),
        answer_s: tuple[float, float] = (1.0, 6.0),
        way_s: tuple[float, float] = (0.005, 0.06),
        concurrent: int | None = None,
        parks: bool = True,
        misjudged: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.hidden, self.counts, self.says, self.states, self.down = hidden, counts, says, states, down
        self.offered_per_s, self.tokens, self.answer_s, self.way_s = offered_per_s, tokens, answer_s, way_s
        self.concurrent, self.parks, self.misjudged = concurrent, parks, misjudged
        self.chance = Random(seed)
        self.now = START
        self.quota = Quota(QuotaPlan(), START)
        self.key = CredentialState()
        self.waiting: deque[tuple[float, float]] = deque()
        """Requests as (input, output) tokens."""
        self.busy = 0
        """Under way at the provider."""
        self.log: list[tuple[float, str, float]] = []
        """(when it was sent or answered, what became of it, how much of the resource it took)."""
        self.rates: list[tuple[float, float | None]] = []
        self.ceilings: list[tuple[float, int | None]] = []
        self._events: list[tuple[float, int, Callable[..., None], tuple]] = []
        self._number = count()
        self._pumped_at = NEVER

    # -- events ---------------------------------------------------------------------------------------------------------------

    def _at(self, when: float, what: Callable[..., None], *args) -> None:
        heappush(self._events, (when, next(self._number), what, args))

    def run(self, seconds: float) -> Run:
        end = START + seconds
        self._at(START, self._come)
        self._at(START, self._look)
        while self._events and self._events[0][0] <= end:
            self.now, _, what, args = heappop(self._events)
            what(*args)
        return self

    def _come(self) -> None:
        per_s = self.offered_per_s if isinstance(self.offered_per_s, (int, float)) else self.offered_per_s(self.now - START)
        if per_s > 0.0:
            if len(self.waiting) < 10.0 * per_s + 10.0:
                size = self.chance.uniform(*self.tokens) if self.tokens[0] < self.tokens[1] else self.tokens[0]
                self.waiting.append((size * 0.8, size * 0.2))
            self._at(self.now + self.chance.expovariate(per_s), self._come)
        else:
            self._at(self.now + 0.1, self._come)
        self._pump()

    def _look(self) -> None:
        learned = [
            b.per_s for b in self.quota.buckets if b.source is Source.LEARNED and b.resource is self.counts and self.now < b.until
        ]
        self.rates.append((self.now, learned[0] if learned else None))
        self.ceilings.append((self.now, self.quota.limit(self.now)))
        self._at(self.now + 0.5, self._look)

    def _poke(self) -> None:
        # One that was overtaken by a sooner one comes to nothing.
        if self.now >= self._pumped_at:
            self._pumped_at = NEVER
            self._pump()

    def _pump(self) -> None:
        while self.waiting:
            size = self.waiting[0]
            cost = Cost(*size) if self.quota.counts_tokens else Cost()
            at = self.quota.ready_at(self.now, cost)
            if self.parks:
                at = max(at, self.key.usable_at(self.now, "m"))
            if at > self.now:
                at = min(at, self.now + 0.5)
                if at < self._pumped_at:
                    self._pumped_at = at
                    self._at(at, self._poke)
                return
            self.waiting.popleft()
            self._send(size, cost)

    def _send(self, size: tuple[float, float], cost: Cost) -> None:
        reservation = self.quota.reserve(self.now, cost)
        if self.parks and self.key.held:
            self.key.take(self.now, "m")
        self._at(self.now + self.chance.uniform(*self.way_s), self._arrive, reservation, size, self.now)

    def _arrive(self, reservation, size, sent_at) -> None:
        used = Cost(size[0] * self.misjudged, size[1] * self.misjudged)
        amount = used.of(self.counts)
        down = self.down[0] <= self.now - START < self.down[1]
        lets = not down and (self.concurrent is None or self.busy < self.concurrent)
        if self.hidden is not None:
            lets = lets and self.hidden.lets(self.now, amount)
        stated = ()
        if self.states and self.hidden is not None:
            left = max(0.0, self.hidden.level)
            limit = self.hidden.burst
            stated = (Stated(self.counts, limit, float(int(left)), None, limit / self.hidden.per_s),)
        back_s = self.chance.uniform(*self.way_s)
        if stated:
            self._at(self.now + back_s, self._stated, reservation, stated)
        if lets:
            self.busy += 1
            self.log.append((self.now, "served", amount))
            self._at(self.now + back_s, self._accepted, sent_at)
            self._at(self.now + back_s + self.chance.uniform(*self.answer_s), self._served, reservation, used)
        else:
            self.log.append((self.now, "refused", amount))
            self._at(self.now + back_s + self.chance.uniform(0.01, 0.05), self._refused, reservation, size)

    def _stated(self, reservation, stated) -> None:
        if reservation.curious(self.now):
            reservation.state(self.now, stated)
        self._pump()

    def _accepted(self, sent_at) -> None:
        if self.key.held:
            self.key.served("m", sent_at)
            self._pump()

    def _served(self, reservation, used) -> None:
        self.busy -= 1
        reservation.served(self.now, used)
        self._pump()

    def _refused(self, reservation, size) -> None:
        reservation.refused(self.now)
        if self.concurrent is not None:
            reservation.overloaded(self.now)
            # Nothing parks a key for an overload: whoever was refused backs off, as the gateway's exchanges do.
            self._at(self.now + self.chance.uniform(0.5, 4.0), self._again, size)
        else:
            reservation.denied(self.now, self.counts if self.says else None)
            if self.parks:
                self.key.park(self.now, "m", None)
            self._again(size)
        self._pump()

    def _again(self, size) -> None:
        self.waiting.appendleft(size)
        self._pump()

    # -- what came of it ------------------------------------------------------------------------------------------------------

    def served(self, since_s: float, until_s: float = 1e9) -> float:
        """What was let through of the resource."""
        return sum(amount for at, what, amount in self.log if what == "served" and since_s <= at - START < until_s)

    def refusals(self, since_s: float, until_s: float = 1e9) -> float:
        """Share of what was sent."""
        sent = [what for at, what, _ in self.log if since_s <= at - START < until_s]
        return sent.count("refused") / max(1, len(sent))

    def use(self, since_s: float, until_s: float) -> float:
        """Share of the limit."""
        assert self.hidden is not None
        return self.served(since_s, until_s) / (self.hidden.per_s * (until_s - since_s))

    def rate(self, since_s: float, until_s: float = 1e9) -> float:
        """The learned rate, by its median; 0 where nothing was learned for most of the time."""
        return median([rate or 0.0 for at, rate in self.rates if since_s <= at - START < until_s])
