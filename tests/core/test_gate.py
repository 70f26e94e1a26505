"""The gate in front of a target: what its keys let through together, how long a newcomer waits, what it is promised, how busy it is."""

import pytest

from gateway.core.bucket import FREE, NEVER, Cost
from gateway.core.gate import EASE, USUAL_CALL_S, Gate
from gateway.core.limits import Stated
from gateway.core.plan import Priority, QuotaPlan, Resource
from gateway.core.promises import HORIZON_S, PROMISED_SHARE, SOONEST_S
from gateway.core.queue import Waiter
from gateway.core.record import Kind
from gateway.core.turns import Turn, called, look_at, usable
from tests.core.build import MODEL, NOW, World, limits

KEYS = ("key-1", "key-2")


def gate(plan=None, *, used=("key-1",), depth=100):
    """A gate of which these keys have been used."""
    new = Gate("a", "m", plan or QuotaPlan(), depth)
    for key in used:
        new.quota(NOW, key)
    return new


def waiter(client="one", *, tokens=1.0, priority=Priority.STANDARD, weight=1.0):
    return Waiter(client=client, weight=weight, priority=priority, tokens=tokens, deadline_at=NOW + 600.0, since=NOW)


def queued(front, count, **settings):
    for _ in range(count):
        front.queue.join(NOW, waiter(**settings))
    return front


# -- keys and settings ------------------------------------------------------------------------------------------------------------


def test_each_key_has_limits_of_its_own():
    front = gate(limits(1.0), used=KEYS)
    front.quota(NOW, "key-1").reserve(NOW, FREE)
    assert front.quota(NOW, "key-1").ready_at(NOW, FREE) > NOW
    assert front.quota(NOW, "key-2").ready_at(NOW, FREE) <= NOW
    assert front.quota(NOW, "key-1") is front.quota(NOW, "key-1")


def test_a_reload_reaches_every_key_and_those_to_come_and_the_queue():
    front = gate(limits(1.0), used=KEYS)
    front.replan(NOW, limits(5.0, concurrent=7), 3, ("key-1", "key-2"))
    assert [front.quota(NOW, key).buckets[0].per_s for key in (*KEYS, "key-3")] == [5.0] * 3
    assert [front.quota(NOW, key).limit(NOW) for key in (*KEYS, "key-3")] == [7] * 3
    assert front.queue.depth == 3


def test_keys_that_a_reload_takes_away_are_forgotten_unless_they_are_in_use():
    front = gate(limits(1.0), used=("key-1", "key-2", "key-3"))
    under_way = front.quota(NOW, "key-2").reserve(NOW, FREE)
    front.replan(NOW, limits(1.0), 3, ("key-1",))
    assert list(front.quotas) == ["key-1", "key-2"]
    under_way.kept()
    front.replan(NOW, limits(1.0), 3, ("key-1",))
    assert list(front.quotas) == ["key-1"]


@pytest.mark.parametrize("used", [(), KEYS])
@pytest.mark.parametrize(("plan", "counts"), [(limits(), False), (limits(1.0), False), (limits(tokens=1.0), True)])
def test_tokens_are_estimated_where_a_limit_counts_them(plan, counts, used):
    assert gate(plan, used=used).counts_tokens is counts


def test_tokens_are_estimated_where_one_key_of_several_counts_them():
    front = gate(used=KEYS)
    front.quota(NOW, "key-2").reserve(NOW, FREE).state(NOW, [Stated(Resource.TOKENS, 100.0, 10.0, None, 60.0)])
    assert front.counts_tokens


def test_a_gate_is_idle_where_nobody_waits_and_nothing_is_under_way():
    front = gate()
    assert front.idle
    front.pending = 1
    assert not front.idle
    front.pending = 0
    assert not queued(front, 1).idle


@pytest.mark.parametrize(
    ("plan", "paced"), [(limits(), False), (limits(concurrent=1), False), (limits(1.0), True), (limits(tokens=1.0), True)]
)
def test_it_is_paced_where_a_key_has_a_limit_on_a_rate(plan, paced):
    assert gate(plan, used=KEYS).paced is paced
    assert not gate(plan, used=()).paced


def test_it_tells_how_many_wait_of_each_class():
    front = queued(queued(gate(), 2, priority=Priority.BATCH), 1, priority=Priority.INTERACTIVE)
    assert dict(front.priority_depths()) == {Priority.INTERACTIVE: 1, Priority.STANDARD: 0, Priority.BATCH: 2}


# -- rates ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "keys", "used", "rates"),
    [
        (limits(), KEYS, KEYS, (None, None)),
        (limits(2.0), KEYS, KEYS, (None, 4.0)),
        (limits(tokens=50.0), KEYS, KEYS, (100.0, None)),
        (limits(120.0, per=60.0, tokens=600.0), ("key-1",), KEYS, (10.0, 2.0)),
        (limits(2.0), KEYS, ("key-1",), (None, 4.0)),  # a key that was never used has the limits that are configured
        (limits(concurrent=4), KEYS, KEYS, (None, 8.0 / USUAL_CALL_S)),
        (limits(1.0, concurrent=4), ("key-1",), KEYS, (None, 1.0)),
        (limits(100.0, concurrent=4), ("key-1",), KEYS, (None, 4.0 / USUAL_CALL_S)),
        (limits(3.0), (None,), (None,), (None, 3.0)),
    ],
)
def test_keys_let_through_together_what_each_of_them_does(plan, keys, used, rates):
    tokens, requests = gate(plan, used=used).rates(NOW, keys)
    assert (tokens, requests) == tuple(rate if rate is None else pytest.approx(rate) for rate in rates)


def test_the_tightest_limit_of_a_key_is_its_rate():
    front = gate(limits(100.0, tokens=50.0))
    front.quota(NOW, "key-1").reserve(NOW, FREE).state(
        NOW, [Stated(Resource.REQUESTS, 60.0, 10.0, None, 60.0), Stated(Resource.INPUT_TOKENS, 1200.0, 100.0, None, 60.0)]
    )
    assert front.rates(NOW, ["key-1"]) == (pytest.approx(20.0), pytest.approx(1.0))


@pytest.mark.parametrize(("call_s", "per_s"), [(0.5, 8.0), (10.0, 0.4), (0.0, 4000.0)])
def test_a_bound_on_what_is_under_way_is_a_rate_by_how_long_calls_take(call_s, per_s):
    front = gate(limits(concurrent=4))
    front.call_s = call_s
    assert front.rates(NOW, ["key-1"]) == (None, pytest.approx(per_s))


# -- what a newcomer is told ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "before", "ready_in", "seconds"),
    [
        (limits(1.0), 0, -5.0, 0.0),
        (limits(1.0), 0, 2.0, 2.0),
        (limits(1.0), 3, -5.0, 3.0),
        (limits(1.0), 3, 2.0, 5.0),
        (limits(tokens=2.0), 3, 0.0, 15.0),  # ten tokens each
        (limits(1.0, tokens=2.0), 3, 0.0, 15.0),
        (limits(concurrent=4), 0, NEVER, 0.5),
        (limits(concurrent=4), 3, NEVER, 2.0),
        (limits(), 3, NEVER, 0.0),  # who knows
        (limits(), 3, 1.0, 1.0),
    ],
)
def test_a_newcomer_waits_for_room_and_for_those_before_it(plan, before, ready_in, seconds):
    front = queued(gate(plan), before, tokens=10.0)
    newcomer = waiter(tokens=10.0)
    assert front.wait_s(NOW, newcomer, ("key-1",), NOW + ready_in) == pytest.approx(seconds)


def test_those_that_come_after_it_do_not_count():
    front = queued(gate(limits(1.0)), 5, priority=Priority.BATCH)
    wait = front.wait_s(NOW, waiter(priority=Priority.INTERACTIVE), ("key-1",), NOW)
    assert wait < 1.0
    assert front.wait_s(NOW, waiter("two", priority=Priority.BATCH), ("key-1",), NOW) <= 5.0


@pytest.mark.parametrize(
    ("plan", "wait_s", "delay", "booked"),
    [
        (limits(1.0), 20.0, 20.0, True),
        (limits(tokens=100.0), 0.0, SOONEST_S, True),
        (limits(concurrent=2), 7.0, 7.0, True),
        (limits(), 7.0, 7.0, False),
        (limits(1.0), HORIZON_S + 1.0, None, True),
    ],
)
def test_whoever_is_refused_is_told_when_to_come_back_and_whether_that_is_booked(plan, wait_s, delay, booked):
    front = gate(plan)
    assert front.promise(NOW, waiter(), ("key-1",), wait_s) == (delay, booked)
    assert len(front.promises) == (delay is not None)


def test_what_is_booked_for_one_is_not_promised_to_another():
    front = gate(limits(1.0))
    delays = [front.promise(NOW, waiter(f"client {number}"), ("key-1",), 5.0)[0] for number in range(4)]
    assert delays == [pytest.approx(5.0 + number / PROMISED_SHARE) for number in range(4)]


def test_beside_others_that_wait_a_client_may_book_its_share():
    front = gate(limits(1.0))
    for number in range(9):
        queued(front, 1, client=f"client {number}")
    given = [front.promise(NOW, waiter("flood"), ("key-1",), 1.0)[0] for _ in range(40)]
    assert 0 < len([delay for delay in given if delay is not None]) <= 4, "a tenth of a minute, at two seconds each"


# -- how full it is ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pending", "busy"), [(0, 0.0), (int(EASE), 0.5), (3 * int(EASE), 0.75)])
def test_without_known_limits_it_is_as_busy_as_much_is_under_way(pending, busy):
    front = gate()
    front.pending = pending
    assert front.busy(NOW) == pytest.approx(busy)


@pytest.mark.parametrize(
    ("plan", "sent", "busy"),
    [
        (limits(1.0, burst=4.0), 1, 0.25),
        (limits(1.0, burst=4.0), 9, 1.0),
        (limits(1.0, burst=4.0, tokens=10.0, token_burst=100.0), 3, 0.75),
        (limits(1.0, burst=100.0, tokens=10.0, token_burst=100.0), 3, 0.6),
        (limits(concurrent=4), 1, 0.25),
        (limits(concurrent=4), 6, 1.0),
        (limits(1.0, burst=10.0, concurrent=4), 2, 0.5),
    ],
)
def test_it_is_as_busy_as_its_tightest_limit(plan, sent, busy):
    front = gate(plan)
    front.pending = 50
    for _ in range(sent):
        front.quota(NOW, "key-1").reserve(NOW, Cost(20.0))
    assert front.busy(NOW) == pytest.approx(busy)


def test_of_several_keys_the_emptiest_counts():
    front = gate(limits(1.0, burst=4.0), used=KEYS)
    for key, sent in zip(KEYS, (4, 2), strict=True):
        for _ in range(sent):
            front.quota(NOW, key).reserve(NOW, FREE)
    assert front.busy(NOW) == pytest.approx(0.5)


# -- whose turn it is -------------------------------------------------------------------------------------------------------------


def turn_at(world, *, cost=FREE, foreign=None, client="one"):
    place = world.place("a")
    front = world.gate("a", foreign or "")
    return Turn(
        place,
        front,
        Kind.FIRST,
        cost,
        client=client,
        weight=1.0,
        priority=Priority.STANDARD,
        deadline_at=world.now + 60.0,
        since=world.now,
        foreign=foreign,
    )


def usable_in(world, turn):
    key, at = usable(turn.place, turn.gate, turn.foreign, world.now, turn)
    return key, max(0.0, at - world.now)


def test_the_first_key_with_room_is_used():
    world = World("a", keys=KEYS, quotas={"a": limits(1.0)})
    turn = turn_at(world)
    assert usable_in(world, turn) == ("key-1", 0.0)
    world.drains(until=2.0)
    assert usable_in(world, turn) == ("key-2", 0.0)
    world.drains(until=3.0, key="key-2")
    assert usable_in(world, turn) == ("key-1", pytest.approx(2.0))
    world.drains(until=5.0)
    assert usable_in(world, turn) == ("key-2", pytest.approx(3.0))


def test_a_key_that_is_held_back_has_no_room_whatever_its_limits_say():
    world = World("a", keys=KEYS, quotas={"a": limits(1.0)})
    world.key(key="key-1").park(world.now, MODEL, 7.0)
    assert usable_in(world, turn_at(world)) == ("key-2", 0.0)
    world.drains(until=9.0, key="key-2")
    assert usable_in(world, turn_at(world)) == ("key-1", pytest.approx(7.0))
    world.drains(until=1.0)
    assert usable_in(world, turn_at(world)) == ("key-1", pytest.approx(7.0))
    world.drains(until=8.0)
    assert usable_in(world, turn_at(world)) == ("key-1", pytest.approx(8.0))


def test_with_everything_under_way_that_may_be_no_time_can_be_told():
    world = World("a", quotas={"a": limits(concurrent=1)})
    world.quota().reserve(world.now, FREE)
    assert usable_in(world, turn_at(world)) == ("key-1", NEVER)


def test_a_key_that_a_reload_took_away_is_held_back_by_nothing_but_its_limits():
    world = World("a", keys=KEYS, quotas={"a": limits(1.0)})
    turn = turn_at(world)
    world.key(key="key-1").park(world.now, MODEL, 7.0)
    del world.state().credentials["key-1"]
    assert usable_in(world, turn) == ("key-1", 0.0)
    world.drains(until=2.0)
    world.drains(until=3.0, key="key-2")
    assert usable_in(world, turn) == ("key-1", pytest.approx(2.0))


@pytest.mark.parametrize("foreign", [None, "hash"])
def test_without_keys_of_our_own_the_clients_key_counts(foreign):
    world = World("a", keys=(), quotas={"a": limits(1.0)})
    turn = turn_at(world, foreign=foreign)
    assert usable_in(world, turn) == (None, 0.0)
    turn.gate.quota(world.now, None).reserve(world.now, FREE)
    assert usable_in(world, turn) == (None, pytest.approx(1.0))
    world.state().foreign(foreign or "").park(world.now, MODEL, 4.0)
    assert usable_in(world, turn) == (None, pytest.approx(4.0))


def test_nobody_is_called_where_nobody_waits():
    world = World("a")
    assert called(world.gate(), world.now) is None
    assert look_at(world.gate(), world.now) == world.now


def test_whoever_is_first_is_called_when_there_is_room_and_leaves_the_queue():
    world = World("a", quotas={"a": limits(tokens=10.0, token_burst=10.0)})
    first, second = turn_at(world, cost=Cost(4.0)), turn_at(world, cost=Cost(1.0))
    front = first.gate
    for turn in (first, second):
        assert front.queue.join(world.now, turn) is None
    world.quota().reserve(world.now, Cost(8.0))
    assert called(front, world.now) is None, "there is room for the second, but it is not its turn"
    assert look_at(front, world.now) == pytest.approx(world.now + 0.2)
    world.now += 0.2 + 1e-9
    assert called(front, world.now) is first
    assert list(front.queue.depths()) == [0, 1, 0]
    world.quota().reserve(world.now, first.cost)
    assert called(front, world.now) is None


def test_a_gate_is_looked_at_now_and_then_whatever_is_expected():
    world = World("a", quotas={"a": limits(1.0, concurrent=1)})
    turn = turn_at(world)
    turn.gate.queue.join(world.now, turn)
    world.quota().reserve(world.now, FREE)
    assert look_at(turn.gate, world.now) == world.now + 0.5


@pytest.mark.parametrize(("grouped", "label"), [(False, MODEL), (True, "large")])
def test_a_turn_is_labelled_by_the_group_or_else_by_the_model(grouped, label):
    world = World("a")
    place = world.place("a")
    front = Gate("a", "large", QuotaPlan(), 10, grouped=grouped)
    settings = {"client": "one", "weight": 1.0, "priority": Priority.BATCH, "deadline_at": NOW + 1.0, "since": NOW, "foreign": None}
    assert Turn(place, front, Kind.FIRST, FREE, **settings).label == label
