"""No permit is lost or doubled: requests without end through one gate, and books of what may happen kept beside it.

The books are plain: a set of those that wait, a set of those that are under way, and a token bucket for each limit of each key. They
are kept by the same events and compared at every step. That they would notice is shown by breaking what they watch over.
"""

from heapq import heappop, heappush
from math import inf
from random import Random

import pytest

from gateway.core import turns
from gateway.core.bucket import Cost
from gateway.core.plan import Priority, QuotaPlan, RatePlan, Resource
from gateway.core.queue import Queue
from gateway.core.quota import Quota, Reservation
from gateway.core.record import Kind
from gateway.core.turns import Turn, look_at, usable
from tests.core.build import NOW, World

KEYS = ("key-1", "key-2")
PLAN = QuotaPlan(
    (
        RatePlan(Resource.REQUESTS, 40.0, 1.0, 8.0),
        RatePlan(Resource.REQUESTS, 2000.0, 60.0, 200.0),
        RatePlan(Resource.TOKENS, 8000.0, 1.0, 3000.0),
    ),
    50,
)
CLIENTS = ("flood", "flood", "flood", "two", "three", "four")
BURSTS = [rate.burst for rate in PLAN.rates]
PER_S = [rate.amount / rate.period_s for rate in PLAN.rates]
CLOSE = 1e-5
"""Nearer than this floats decide."""


class Books:
    """What one key has taken, by naive buckets."""

    def __init__(self):
        self.levels, self.at, self.under_way = [rate.burst for rate in PLAN.rates], NOW, set()

    def add(self, now, requests, tokens):
        seconds, self.at, levels = now - self.at, now, self.levels
        for which, amount in enumerate((requests, requests, tokens)):
            burst = BURSTS[which]
            full = min(burst, levels[which] + seconds * PER_S[which])
            levels[which] = min(burst, full + amount)

    def short(self, now, cost):
        """What is missing most for such a request, in seconds; less than nothing where there is room."""
        self.add(now, 0.0, 0.0)
        if len(self.under_way) >= PLAN.concurrent:
            return inf
        seconds, minutes, tokens = self.levels
        missing = min(cost.tokens, BURSTS[2]) - tokens
        return max((1.0 - seconds) / PER_S[0], (1.0 - minutes) / PER_S[1], missing / PER_S[2])

    def send(self, now, reservation):
        self.add(now, -1.0, -reservation.cost.tokens)
        self.under_way.add(reservation)

    def end(self, now, reservation, requests, tokens):
        """So much is given back."""
        self.under_way.remove(reservation)
        self.add(now, requests, tokens)


class Soak:
    """`requests` come, wait, are served or sent away, or lose patience; and everything is written down twice."""

    def __init__(self, requests, seed):
        self.chance, self.left, self.now = Random(seed), requests, NOW
        self.world = World("a", keys=KEYS, quotas={"a": PLAN}, queue_depth=60)
        self.place = self.world.place("a")
        self.gate = self.place.gate
        self.quotas = {key: self.gate.quota(NOW, key) for key in KEYS}
        self.books = {key: Books() for key in KEYS}
        self.waiting, self.events, self.number, self.looked_for = set(), [], 0, None
        self.ends = dict.fromkeys(("called", "left", "evicted", "not let in", "shed"), 0)
        self.endings = dict.fromkeys(("served", "told nothing", "refused", "unsent", "kept"), 0)
        self.came = 0

    def at(self, when, what, *args):
        self.number += 1
        heappush(self.events, (when, self.number, what, args))

    def run(self):
        self.at(NOW, self.comes)
        while self.events:
            self.now, _, what, args = heappop(self.events)
            what(*args)
            self.pump()
            self.compare()
        return self

    # -- what happens ---------------------------------------------------------------------------------------------------------

    def comes(self):
        self.left -= 1
        if self.left > 0:
            # Three minutes of too much, one of too little.
            per_s = 130.0 if (self.now - NOW) % 240.0 < 180.0 else 30.0
            self.at(self.now + self.chance.expovariate(per_s), self.comes)
        self.came += 1
        draw = self.chance.random
        turn = Turn(
            self.place,
            self.gate,
            Kind.FIRST,
            Cost(draw() * 150.0 if draw() < 0.99 else 5000.0, draw() * 50.0),
            client=self.chance.choice(CLIENTS),
            weight=1.0 + (self.number % 3),
            priority=Priority(self.number % 3),
            deadline_at=self.now + draw() * 5.0,
            since=self.now,
            foreign=None,
        )
        if not self.gate.queue and usable(self.place, self.gate, None, self.now, turn)[1] <= self.now:
            self.ended("called")
            self.send(turn)
            return
        turn.promised = draw() < 0.02
        victim = self.gate.queue.join(self.now, turn)
        if victim is turn:
            self.ended("not let in")
            return
        self.waiting.add(turn)
        if victim is not None:
            self.ended("evicted", victim)
        if draw() < 0.1:
            self.at(self.now + draw() * 4.0, self.loses_patience, turn)

    def loses_patience(self, turn):
        was_in = self.gate.queue.leave(turn)
        assert was_in is (turn in self.waiting), "whoever has left is not in it"
        if was_in:
            self.ended("left", turn)

    def looks(self, when):
        if self.looked_for == when:
            self.looked_for = None

    def pump(self):
        for turn in self.gate.queue.shed(self.now):
            self.ended("shed", turn)
        while (turn := turns.called(self.gate, self.now)) is not None:
            self.ended("called", turn)
            self.send(turn)
        if self.waiting:
            first = self.gate.queue.first(self.now)
            assert min(books.short(self.now, first.cost) for books in self.books.values()) > -CLOSE, (
                "nobody waits where there is room"
            )
            when = max(look_at(self.gate, self.now), self.now + 1e-6)
            if self.looked_for is None or when < self.looked_for:
                self.looked_for = when
                self.at(when, self.looks, when)

    def send(self, turn):
        key, _ = usable(self.place, self.gate, None, self.now, turn)
        assert self.books[key].short(self.now, turn.cost) < CLOSE, "there is room for whoever is called"
        reservation = self.quotas[key].reserve(self.now, turn.cost)
        self.books[key].send(self.now, reservation)
        self.at(self.now + self.chance.uniform(0.05, 1.5), self.ends_so, key, reservation)

    def ends_so(self, key, reservation):
        ending = self.chance.choices(tuple(self.endings), (80, 5, 5, 5, 5))[0]
        self.endings[ending] += 1
        requests = tokens = 0.0
        if ending == "served":
            used = Cost(reservation.cost.input * self.chance.uniform(0.5, 1.2), self.chance.random() * 60.0)
            reservation.served(self.now, used)
            tokens = reservation.cost.tokens - used.tokens
        elif ending == "told nothing":
            reservation.served(self.now, None)
        elif ending == "kept":
            reservation.kept()
        else:
            getattr(reservation, ending)(self.now)
            requests, tokens = float(ending == "unsent"), reservation.cost.tokens
        self.books[key].end(self.now, reservation, requests, tokens)

    def ended(self, how, turn=None):
        """One way or another, and once."""
        self.ends[how] += 1
        if turn is not None:
            self.waiting.remove(turn)

    # -- what must hold -------------------------------------------------------------------------------------------------------

    def compare(self):
        assert len(self.gate.queue) == sum(self.gate.queue.depths()) == len(self.waiting), "whoever waits is in the queue, once"
        for key, quota in self.quotas.items():
            books = self.books[key]
            assert quota.inflight == len(books.under_way) <= PLAN.concurrent, "nobody is under way who has ended, nor twice"
            if self.number % 8 == 0:
                # What is wrong stays wrong: it is seen a little later.
                books.add(self.now, 0.0, 0.0)
                for bucket, level in zip(quota.buckets, books.levels, strict=True):
                    assert abs(bucket.level(self.now) - level) < CLOSE, "what is left of a limit is what was not taken"

    def closed(self):
        """When everything is over."""
        assert not self.waiting
        assert (sum(self.ends.values()), self.ends["called"]) == (self.came, sum(self.endings.values()))
        assert [quota.inflight for quota in self.quotas.values()] == [0, 0]
        assert all([*self.ends.values(), *self.endings.values()]), "every fate was somebody's"


def test_no_permit_is_lost_or_doubled():
    Soak(50_000, seed=5).run().closed()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_no_permit_is_lost_or_doubled_in_a_million_requests(seed):
    Soak(100_000, seed).run().closed()


def gives_back_twice(self, now, reservation, used, **how):
    settle(self, now, reservation, used, **how)
    settle(self, now, reservation, used, **how)


def forgets(*_, **__):
    """Nothing is given back."""


def kept_for_good(self):
    self.ended = True


def leaves_unseen(self, waiter):
    leave(self, waiter)
    return True


def takes_one_more(self, now, waiter):
    take(self, now, waiter)
    if len(self) > 10:
        take(self, now, self.first(now))


def calls_too_early(gate, now):
    return called(gate, now) or called(gate, now + 0.05)


def calls_too_late(gate, now):
    return called(gate, now - 0.05)


settle, leave, take, called = Quota.settle, Queue.leave, Queue.take, turns.called


@pytest.mark.interpreted
@pytest.mark.parametrize(
    ("where", "name", "bug", "noticed"),
    [
        (Quota, "settle", gives_back_twice, "what is left of a limit"),
        (Quota, "settle", forgets, "what is left of a limit"),
        (Reservation, "kept", kept_for_good, "nobody is under way who has ended"),
        (Queue, "leave", leaves_unseen, "whoever has left"),
        (Queue, "take", takes_one_more, "whoever waits is in the queue"),
        (turns, "called", calls_too_early, "there is room for whoever is called"),
        (turns, "called", calls_too_late, "nobody waits where there is room"),
    ],
)
def test_the_books_notice(monkeypatch, where, name, bug, noticed):
    monkeypatch.setattr(where, name, bug)
    with pytest.raises(AssertionError, match=noticed):
        Soak(5_000, seed=5).run().closed()
