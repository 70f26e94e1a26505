"""The clock of the queues: who is called when, on a loop that is nothing but a list of calls.

What order and room are is the core's, and tested there; here it is when they are asked for, and that nobody is forgotten.
"""

import asyncio

import pytest

from gateway.core.gate import LOOK_S
from gateway.core.plan import Priority, QuotaPlan
from gateway.core.queue import INTERVAL_S
from gateway.core.record import Kind
from gateway.core.turns import Turn
from gateway.egress.queues import Queues
from gateway.errors import Reason
from tests.core.build import NOW, World, limits

ONE_PER_S = limits(1.0)


class Call:
    def __init__(self, at, call, arguments):
        self.at, self._call, self._arguments, self.cancelled = at, call, arguments, False

    def cancel(self):
        self.cancelled = True

    def run(self):
        self._call(*self._arguments)


class Loop:
    """What `Queues` needs of an event loop. Calls that are due run in the order of their times, one after the other."""

    def __init__(self, world):
        self._world = world
        self.calls = []

    def call_soon(self, call, *arguments):
        return self.call_at(self._world.now, call, *arguments)

    def call_at(self, at, call, *arguments):
        self.calls.append(Call(at, call, arguments))
        return self.calls[-1]

    @property
    def due(self):
        """When each call that is still wanted will be made, from now on."""
        return sorted(round(max(call.at - self._world.now, 0.0), 6) for call in self.calls if not call.cancelled)

    def run(self, seconds=0.0):
        """Let so much time pass."""
        until = self._world.now + seconds
        while True:
            self.calls = [call for call in self.calls if not call.cancelled]
            soonest = min(self.calls, key=lambda call: call.at, default=None)
            if soonest is None or soonest.at > until + 1e-9:
                break
            self.calls.remove(soonest)
            self._world.now = max(self._world.now, soonest.at)
            soonest.run()
        self._world.now = until


class Stage:
    """A gate with a limit, its queue on a loop, and what those who wait hear."""

    def __init__(self, quota: QuotaPlan = ONE_PER_S, *, until=0.0, depth=1000):
        self.world = World("a", quotas={"a": quota}, queue_depth=depth)
        self.gate = self.world.gate()
        self.world.drains(until=until)
        self.loop = Loop(self.world)
        self.queues = Queues(self.loop, lambda: self.world.now)
        self.heard = []

    def turn(self, name, *, priority=Priority.STANDARD, patience=600.0, deaf=False, client=""):
        place = self.world.place("a")
        turn = Turn(
            place,
            self.gate,
            Kind.FIRST,
            self.world.exchange().machine._placement.room.cost_at(self.gate),
            client=client or name,
            weight=1.0,
            priority=priority,
            deadline_at=self.world.now + patience,
            since=self.world.now,
            foreign=None,
        )
        if not deaf:
            turn.wake = lambda reason: self.hears(name, reason, turn)
        return turn

    def hears(self, name, reason, turn):
        self.heard.append((name, round(self.world.now - NOW, 6), reason))
        if reason is None:
            self.gate.quota(self.world.now, "key-1").reserve(self.world.now, turn.cost)

    def join(self, *names, **settings):
        for name in names:
            self.queues.join(self.turn(name, **settings))


def test_each_is_called_when_there_is_room_for_it():
    stage = Stage(until=0.5)
    stage.join("one", "two", "three")
    stage.loop.run(0.4)
    assert stage.heard == []
    stage.loop.run(9.6)
    assert stage.heard == [("one", 0.5, None), ("two", 1.5, None), ("three", 2.5, None)]
    assert (len(stage.gate.queue), stage.loop.due) == (0, [])


def test_all_for_whom_there_is_room_are_called_together_and_never_within_anothers_event():
    stage = Stage(limits(1.0, burst=3.0), until=0.0)
    stage.gate.quota(NOW, "key-1").buckets[0].correct(NOW, 2.0)
    stage.join("one", "two", "three")
    assert stage.heard == []
    stage.loop.run()
    assert stage.heard == [("one", 0.0, None), ("two", 0.0, None)]


def test_however_many_join_there_is_one_look():
    stage = Stage(until=3.0)
    stage.join(*"abcdefgh")
    assert stage.loop.due == [0.0]
    stage.loop.run()
    assert stage.loop.due == [LOOK_S]


def test_it_is_looked_when_room_is_expected_but_no_more_seldom_than_every_half_second():
    stage = Stage(until=1.2)
    stage.join("one")
    looks = []
    for _ in range(3):
        stage.loop.run(stage.loop.due[0])
        looks.append(round(stage.world.now - NOW, 6))
    stage.loop.run(stage.loop.due[0])
    assert (looks, stage.heard) == ([0.0, 0.5, 1.0], [("one", 1.2, None)])


def test_an_end_of_another_request_is_news():
    stage = Stage(limits(concurrent=1))
    under_way = stage.gate.quota(NOW, "key-1").reserve(NOW, stage.turn("x").cost)
    stage.join("one", "two")
    stage.loop.run(0.1)
    under_way.served(stage.world.now, None)
    assert stage.heard == []
    stage.queues.poke(stage.gate)
    stage.queues.poke(stage.gate)
    assert stage.loop.due == [0.0]
    stage.loop.run()
    assert stage.heard == [("one", 0.1, None)]


def test_a_look_that_is_due_sooner_stays():
    stage = Stage(until=5.0)
    stage.join("one")
    stage.queues.poke(stage.gate)
    (look,) = stage.loop.calls
    stage.queues.poke(stage.gate)
    assert stage.loop.calls == [look]


@pytest.mark.parametrize(("joins", "leaves"), [(Priority.STANDARD, "late"), (Priority.INTERACTIVE, "one")])
def test_a_full_queue_sends_somebody_away_and_not_within_the_join(joins, leaves):
    stage = Stage(until=2.0, depth=1)
    stage.join("one")
    stage.join("late", priority=joins)
    assert stage.heard == []
    stage.loop.run()
    assert stage.heard == [(leaves, 0.0, Reason.QUEUE_FULL)]
    stage.loop.run(5.0)
    assert stage.heard[1:] == [({"late": "one", "one": "late"}[leaves], 2.0, None)]


def test_who_has_left_before_it_could_be_told_hears_nothing():
    stage = Stage(until=2.0, depth=1)
    stage.join("one")
    late = stage.turn("late")
    stage.queues.join(late)
    late.wake = None
    stage.join("deaf", deaf=True, priority=Priority.INTERACTIVE)
    stage.loop.run(5.0)
    assert stage.heard == [("one", 0.0, Reason.QUEUE_FULL)]
    assert len(stage.gate.queue) == 0


def test_who_can_no_longer_be_answered_in_time_is_sent_away():
    stage = Stage(until=60.0)
    stage.join("short", patience=1.0)
    stage.join("long", patience=40.0)
    stage.loop.run(1.0 + LOOK_S)
    ((name, at, reason),) = stage.heard
    assert (name, reason) == ("short", Reason.SHED)
    assert 1.0 <= at <= 1.0 + LOOK_S


def test_a_sick_queue_sheds_batch_requests_first():
    stage = Stage(limits(1.0), until=1.0)
    stage.join(*(f"batch {number}" for number in range(40)), priority=Priority.BATCH, patience=60.0)
    stage.join("patient", priority=Priority.STANDARD)
    stage.loop.run(2 * INTERVAL_S + LOOK_S)
    heard = {name: reason for name, _, reason in stage.heard}
    assert heard.pop("patient") is None
    assert list(heard.values()).count(Reason.SHED) >= 40 - 2 * INTERVAL_S
    assert len(stage.gate.queue) == 0


def test_when_nobody_waits_nothing_is_looked_at():
    stage = Stage()
    stage.queues.poke(stage.gate)
    stage.loop.run()
    assert (stage.loop.due, stage.heard, stage.queues._pending) == ([], [], {})


def test_who_joins_again_when_called_has_its_turn_again():
    """It found that it could not go after all; the room that it left is still there."""
    stage = Stage(until=1.0)
    turn = stage.turn("once more")

    def joins_again(reason):
        stage.heard.append(("called", round(stage.world.now - NOW, 6), reason))
        turn.wake = lambda reason: stage.hears("once more", reason, turn)
        stage.queues.join(turn)

    turn.wake = joins_again
    stage.queues.join(turn)
    stage.loop.run(5.0)
    assert stage.heard == [("called", 1.0, None), ("once more", 1.0, None)]


def test_each_gate_has_its_own_time():
    stage = Stage(until=1.0)
    other = stage.world.registry.providers["a"].gate("another model")
    stage.join("one")
    stage.queues.poke(other)
    assert stage.loop.due == [0.0, 0.0]
    stage.loop.run(2.0)
    assert stage.heard == [("one", 1.0, None)]


async def test_on_a_real_loop_the_first_is_called_without_a_timer():
    world = World("a", quotas={"a": ONE_PER_S})
    loop = asyncio.get_running_loop()
    world.now = loop.time()
    queues = Queues(loop, loop.time)
    stage = Stage()
    stage.world.now = loop.time()
    turn, called = stage.turn("one"), loop.create_future()
    turn.wake = called.set_result
    queues.join(turn)
    assert not called.done()
    assert await called is None
