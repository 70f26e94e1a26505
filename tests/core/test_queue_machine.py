"""The queue against a naive model: plain lists, and deficit round robin walked quantum by quantum as the paper has it.

The model does not know how the classes' accounts are kept. It knows what comes of them: a lower class goes before a higher one only
within its share and the rescues', and each of these is overdrawn by one request at most.
"""

from math import inf

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.core.plan import Priority
from gateway.core.queue import INTERVAL_S, LATE_S, RESCUE_SHARE, SHARES, TARGET_S, Queue, Waiter

WEIGHTS = {"a": 1.0, "b": 1.0, "c": 4.0, "d": 0.25}
BIGGEST = 12.0


class Robin:
    """Deficit round robin over lists. A client that comes is visited from the next round on."""

    def __init__(self):
        self.clients, self.deficits, self.since_round = [], {}, {}
        self.round, self.at = 0, None
        self.order, self.places = 0, {}

    def come(self, client):
        self.order += 1
        self.clients.append(client)
        self.deficits[client], self.since_round[client], self.places[client] = 0.0, self.round, self.order

    def go(self, client):
        self.clients.remove(client)
        for kept in (self.deficits, self.since_round, self.places):
            del kept[client]

    def walk(self, cost):
        """Go on until a client can pay for its next request; return (client, round, place, deficits)."""
        deficits, round_, place = dict(self.deficits), self.round, self.at or 0
        here = [client for client in self.clients if self.places[client] == place]
        if here and deficits[here[0]] >= cost(here[0]):
            return here[0], round_, place, deficits
        while True:
            later = [client for client in self.clients if self.places[client] > place]
            if not later:
                round_, place = round_ + 1, 0
                continue
            client = later[0]
            place = self.places[client]
            if self.since_round[client] == round_:
                continue
            deficits[client] += WEIGHTS[client]
            if deficits[client] >= cost(client):
                return client, round_, place, deficits

    def move(self, cost):
        client, self.round, self.at, self.deficits = self.walk(cost)
        return client


class QueueAgainstModel(RuleBasedStateMachine):
    """`lists` holds, for each class, everybody in the order of arrival."""

    @initialize(depth=st.sampled_from([1, 3, 8]))
    def begin(self, depth):
        self.now, self.queue = 1000.0, Queue(depth)
        self.lists, self.robins = {priority: [] for priority in Priority}, {priority: Robin() for priority in Priority}
        self.told = None
        self.forget_claims()
        self.sick, self.interval_at, self.waits, self.looked_at = False, 0.0, [], -inf

    def forget_claims(self):
        self.served, self.turns, self.early = 0.0, 0, {Priority.STANDARD: (0.0, 0), Priority.BATCH: (0.0, 0)}
        self.in_order = True

    # -- the model --------------------------------------------------------------------------------------------------------------

    def everybody(self):
        return [each for waiting in self.lists.values() for each in waiting]

    def ordinary(self, priority, client=None):
        return [each for each in self.lists[priority] if not each.promised and client in {None, each.client}]

    def bounded(self):
        return sum(len(self.ordinary(priority)) for priority in Priority)

    def next_of(self, priority, client):
        return min(self.ordinary(priority, client), key=lambda each: each.deadline_at)

    def head(self, priority):
        promised = [each for each in self.lists[priority] if each.promised]
        if promised:
            return promised[0]
        return self.next_of(priority, self.robins[priority].walk(lambda client: self.next_of(priority, client).tokens)[0])

    def victim(self, newcomer):
        if self.bounded() < self.queue.depth:
            return None
        if self.queue.depth == 0:
            return newcomer
        for priority in (Priority.BATCH, Priority.STANDARD):
            if priority > newcomer.priority and self.ordinary(priority):
                return self.ordinary(priority)[-1]
        left = {}
        for client in self.robins[newcomer.priority].clients:
            left[client] = (len(self.ordinary(newcomer.priority, client)) - 1) / WEIGHTS[client]
        if left:
            most = max(left, key=left.get)
            mine = (len(self.ordinary(newcomer.priority, newcomer.client)) + 1) / WEIGHTS[newcomer.client]
            if most != newcomer.client and left[most] >= mine:
                return self.ordinary(newcomer.priority, most)[-1]
        return newcomer

    def gone(self, each):
        self.lists[each.priority].remove(each)
        self.told = None
        if not each.promised and not self.ordinary(each.priority, each.client):
            self.robins[each.priority].go(each.client)
        if not self.bounded() and not each.promised:
            self.sick = False
        if not self.everybody():
            self.forget_claims()

    def look(self):
        if self.bounded() and self.now - self.interval_at >= INTERVAL_S:
            oldest = min(self.ordinary(priority)[0].since for priority in Priority if self.ordinary(priority))
            self.sick = min(self.waits, default=self.now - oldest) > TARGET_S
            self.interval_at, self.waits = self.now, []

    def charge(self, each):
        robin = self.robins[each.priority]
        if each is self.head(each.priority) and not each.promised:
            robin.move(lambda client: self.next_of(each.priority, client).tokens)
        if each.client in robin.deficits:
            robin.deficits[each.client] -= each.tokens
        self.served += each.tokens
        self.turns += 1
        if any(other.priority < each.priority for other in self.everybody()):
            tokens, turns = self.early[each.priority]
            self.early[each.priority] = tokens + each.tokens, turns + 1

    # -- what happens -----------------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.01, 0.3, 1.5, 4.0, 11.0]))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(
        client=st.sampled_from("aaabcd"),
        priority=st.sampled_from(Priority),
        tokens=st.sampled_from([1.0, 2.0, 5.0, BIGGEST]),
        patience=st.sampled_from([0.5, 5.0, 30.0, inf]),
        waited=st.sampled_from([0.0, 0.0, 3.0]),
        promised=st.sampled_from([False, False, False, False, True]),
    )
    def join(self, client, priority, tokens, patience, waited, promised):
        each = Waiter(
            client=client,
            weight=WEIGHTS[client],
            priority=priority,
            tokens=tokens,
            deadline_at=self.now + patience,
            since=self.now - waited,
            promised=promised,
        )
        expected = None if promised else self.victim(each)
        assert self.queue.join(self.now, each) is expected
        if expected is each:
            return
        if expected is not None:
            self.gone(expected)
        if not promised and not self.bounded():
            self.interval_at, self.waits = self.now, []
        if not promised and not self.ordinary(priority, client):
            self.robins[priority].come(client)
        self.lists[priority].append(each)
        self.told = None

    @rule()
    def ask(self):
        first = self.queue.first(self.now)
        if self.told is not None:
            assert first is self.told
        self.told = first
        if not self.everybody():
            assert first is None
            return
        assert first is self.head(first.priority)
        higher = [each for each in self.everybody() if each.priority < first.priority]
        if not higher or not self.in_order:
            return
        tokens, turns = self.early[first.priority]
        share = SHARES[first.priority] + RESCUE_SHARE
        assert tokens <= share * self.served + 2 * BIGGEST * (tokens > 0)
        assert turns <= share * self.turns + 2 * (turns > 0)

    @rule(times=st.integers(1, 5))
    def serve(self, times):
        for _ in range(times):
            self.ask()
            if self.told is not None:
                self.take(self.told)

    def take(self, each):
        self.charge(each)
        self.queue.take(self.now, each)
        if not each.promised:
            self.waits.append(self.now - each.since)
        self.look()
        self.gone(each)

    @precondition(lambda self: self.everybody())
    @rule(which=st.integers(0, 99))
    def serve_another(self, which):
        """As a gate may, whose first has no room. What the classes are due is not known from then on, until nobody waits."""
        self.in_order = False
        self.take(self.everybody()[which % len(self.everybody())])

    @precondition(lambda self: self.everybody())
    @rule(which=st.integers(0, 99))
    def leave(self, which):
        each = self.everybody()[which % len(self.everybody())]
        assert self.queue.leave(each)
        assert not self.queue.leave(each)
        self.gone(each)

    @rule()
    def shed(self):
        late = [each for each in self.everybody() if not each.promised and each.deadline_at <= self.now]
        self.look()
        for each in late:
            self.gone(each)
        must = list(late)
        if self.sick and self.now - self.looked_at >= 0.25:
            self.looked_at = self.now
            must += [each for each in self.ordinary(Priority.BATCH) if self.now - each.since > LATE_S]
        shed = self.queue.shed(self.now)
        assert len(set(shed)) == len(shed)
        assert set(must) <= set(shed)
        assert [each.priority for each in shed] == sorted((each.priority for each in shed), reverse=True)
        for each in shed:
            if each not in late:
                assert not each.promised
                self.gone(each)
            assert self.sick or each in late or not self.bounded()

    @rule(depth=st.sampled_from([0, 1, 3, 8]))
    def a_reload(self, depth):
        self.queue.depth = depth

    # -- what must hold ---------------------------------------------------------------------------------------------------------

    @invariant()
    def nobody_is_lost_or_doubled(self):
        assert self.queue.depths() == tuple(len(waiting) for waiting in self.lists.values())
        assert len(self.queue) == len(self.everybody())
        assert bool(self.queue) is bool(self.everybody())
        assert self.queue.sick is self.sick
        for priority, lane in zip(Priority, self.queue._lanes, strict=True):
            assert set(lane.flows) == {each.client for each in self.ordinary(priority)}
            assert abs(lane.tokens - sum(each.tokens for each in self.lists[priority])) < 1e-6

    @invariant()
    def each_class_has_the_head_of_the_model(self):
        for priority, lane in zip(Priority, self.queue._lanes, strict=True):
            if self.lists[priority]:
                assert lane.head() is self.head(priority)

    def teardown(self):
        if hasattr(self, "queue"):
            while self.queue:
                self.serve(1)
            assert not self.everybody()


QueueAgainstModel.TestCase.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
TestQueueAgainstModel = QueueAgainstModel.TestCase
