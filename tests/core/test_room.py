"""What room one request finds: with whose key, how long it would wait, and what it was promised."""

import pytest

from gateway.core.attempt import Ask
from gateway.core.bucket import FREE, NEVER, Cost
from gateway.core.plan import Family, Policy, Priority
from gateway.core.record import Kind
from gateway.core.room import LEAST_S, Room
from gateway.errors import Reason
from tests.core.build import MODEL, NOW, Prompt, World, limits

ONE_PER_S = limits(1.0)


class Measured:
    """A request that counts how often it is measured."""

    def __init__(self, tokens=100.0, answer=20):
        self.times, self.prompt = 0, Prompt(tokens, answer)

    def __call__(self):
        self.times += 1
        return self.prompt


def room(world, *, foreign=None, measure=None, patience=60.0, client="one", may_be_back=True):
    ask = Ask(
        route="chat",
        policy=Policy(),
        candidates=world.places(),
        family=Family.CHAT,
        stream=False,
        safe=False,
        deadline_at=world.now + patience,
        foreign_key=foreign,
        client=client,
        priority=Priority.BATCH,
        weight=3.0,
        may_be_back=may_be_back,
        measure=measure,
    )
    return Room(ask)


def parked(world, found, name="a", usable_in=0.0):
    place = world.place(name)
    return found.parked(world.now, place, "key-1", world.now + usable_in, Kind.FIRST)


# -- keys -------------------------------------------------------------------------------------------------------------------------


def test_our_keys_are_bound_by_the_places_own_gate():
    world = World("a", quotas={"a": ONE_PER_S})
    place, found = world.place("a"), room(world)
    assert found.gate(place) is place.gate
    world.drains(until=3.0)
    assert found.credential(place, NOW) == ("key-1", pytest.approx(NOW + 3.0))


def test_a_clients_own_key_is_bound_by_limits_of_its_own_and_by_nobody_elses():
    world = World("a", "b", quotas={"a": ONE_PER_S})
    world.drains(until=3.0)
    place, found, other = world.place("a"), room(world, foreign="mine"), room(world, foreign="yours")
    gate = found.gate(place)
    assert gate is world.gate("a", "mine")
    assert len({id(each) for each in (gate, place.gate, other.gate(place), found.gate(world.place("b")))}) == 4
    assert found.gate(place) is gate
    gate.quota(NOW, None).reserve(NOW, FREE)
    assert found.credential(place, NOW) == (None, pytest.approx(NOW + 1.0))
    key, at = other.credential(place, NOW)
    assert key is None
    assert at <= NOW


def test_the_state_of_a_key_is_that_of_whose_it_is():
    world = World("a")
    place = world.place("a")
    assert room(world).credential_state(place, "key-1") is world.key()
    assert room(world).credential_state(place, None) is world.state().foreign("")
    assert room(world, foreign="mine").credential_state(place, None) is world.state().foreign("mine")
    del world.state().credentials["key-1"]
    assert room(world).credential_state(place, "key-1") is None


# -- estimates --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("quota", "tokens"), [(ONE_PER_S, 0.0), (limits(tokens=10.0), 120.0)])
def test_a_request_is_measured_where_its_tokens_matter(quota, tokens):
    world = World("a", quotas={"a": quota})
    measure = Measured()
    found = room(world, measure=measure)
    assert found.cost_at(world.gate()).tokens == tokens
    assert measure.times == bool(tokens)


def test_a_request_is_measured_once_for_all_places():
    world = World("a", "b", quotas={name: limits(tokens=10.0) for name in "ab"})
    measure = Measured()
    found = room(world, measure=measure)
    for _ in range(2):
        for name in "ab":
            assert found.cost_at(world.gate(name)).tokens == 120.0
    assert measure.times == 1


def test_whoever_waits_is_measured_in_any_case_and_keeps_to_it():
    world = World("a", quotas={"a": ONE_PER_S})
    measure = Measured()
    found = room(world, measure=measure)
    assert found.cost_at(world.gate()) is FREE
    entry = parked(world, found)
    assert (entry.turn.cost.tokens, entry.turn.tokens, measure.times) == (120.0, 120.0, 1)
    assert parked(world, found).turn.cost.tokens == 120.0


def test_what_cannot_be_measured_costs_nothing():
    world = World("a", quotas={"a": limits(tokens=10.0)})
    entry = parked(world, room(world))
    assert (entry.turn.cost, entry.turn.tokens) == (FREE, 1.0)


def test_what_was_used_teaches_the_gates_estimate():
    world = World("a", quotas={"a": limits(tokens=10.0)})
    measure = Measured()
    measure.prompt.text_bytes, measure.prompt.media_tokens = 4_000, 0.0
    found = room(world, measure=measure)
    before = found.cost_at(world.gate())
    found.learn(world.gate(), 2_000, 20)
    assert room(world, measure=measure).cost_at(world.gate()).guess > before.guess
    assert found.cost_at(world.gate()) is before, "what was estimated for this one stays"


# -- how long it would wait -------------------------------------------------------------------------------------------------------


def test_its_turn_says_who_waits_and_for_how_long():
    world = World("a", quotas={"a": ONE_PER_S})
    world.drains(until=2.0)
    entry = parked(world, room(world), usable_in=2.0)
    turn = entry.turn
    assert (entry.key, entry.wait_s) == ("key-1", pytest.approx(2.0))
    assert (turn.client, turn.weight, turn.priority, turn.since, turn.deadline_at) == ("one", 3.0, Priority.BATCH, NOW, NOW + 60.0)
    assert (turn.place.target, turn.gate, turn.foreign, turn.label) == (world.place("a").target, world.gate(), None, MODEL)


@pytest.mark.parametrize(("keys", "seconds"), [(("key-1",), 3.0), (("key-1", "key-2"), 1.5)])
def test_those_before_it_are_served_by_all_keys_together(keys, seconds):
    world = World("a", keys=keys, quotas={"a": ONE_PER_S})
    for key in keys:
        world.drains(until=0.0, key=key)
    for _ in range(3):
        world.gate().queue.join(NOW, parked(world, room(world)).turn)
    assert parked(world, room(world)).wait_s == pytest.approx(seconds)


def test_before_a_clients_own_key_only_its_own_requests_wait():
    world = World("a", quotas={"a": ONE_PER_S})
    world.drains(until=5.0)
    world.gate().queue.join(NOW, parked(world, room(world)).turn)
    world.gate("a", "mine").quota(NOW, None).reserve(NOW, FREE)
    entry = parked(world, room(world, foreign="mine"), usable_in=1.0)
    assert (entry.wait_s, entry.turn.foreign) == (pytest.approx(1.0), "mine")


@pytest.mark.parametrize(
    ("usable_in", "patience", "queue_wait", "waited_s", "fits"),
    [
        (2.0, 60.0, 10.0, 0.0, True),
        (2.0, 60.0, 1.0, 0.0, False),
        (2.0, 60.0, 10.0, 9.0, False),
        (2.0, 60.0, 10.0, 7.5, True),
        (2.0, 2.0, 10.0, 0.0, False),
        (0.0, 60.0, 10.0, 10.0 - LEAST_S / 2, False),
        (0.0, 60.0, 0.0, 0.0, False),
    ],
)
def test_a_wait_fits_that_leaves_the_clients_patience_and_the_providers_bound(usable_in, patience, queue_wait, waited_s, fits):
    world = World("a", quotas={"a": ONE_PER_S}, queue_wait=queue_wait)
    found = room(world, patience=patience)
    found.waited(parked(world, found).turn, NOW + waited_s)
    assert found.fits(NOW, parked(world, found, usable_in=usable_in)) is fits
    assert found.in_time(NOW, parked(world, found, usable_in=usable_in)) is fits


@pytest.mark.parametrize(
    ("waited_s", "patience", "longest_s", "until"),
    [(0.0, 60.0, NEVER, 10.0), (4.0, 60.0, NEVER, 6.0), (0.0, 3.0, NEVER, 3.0), (0.0, 60.0, 2.0, 2.0)],
)
def test_it_stands_in_the_queue_for_as_long_as_everybody_allows(waited_s, patience, longest_s, until):
    world = World("a", quotas={"a": ONE_PER_S})
    found = room(world, patience=patience)
    found.waited(parked(world, found).turn, NOW + waited_s)
    turn = found.turn(NOW, parked(world, found), longest_s)
    assert (turn.until, turn.deadline_at) == (pytest.approx(NOW + until), turn.until)


def test_a_queue_that_sent_it_away_is_closed_to_it_and_says_why():
    world = World("a", "b", quotas=dict.fromkeys("ab", ONE_PER_S))
    a, b = world.places()
    found = room(world)
    assert found.why_none(a, NOW) is Reason.RATE_LIMITED
    entries = [found.parked(NOW, place, "key-1", NOW, Kind.FIRST) for place in (a, b)]
    found.closed(entries[0].turn, Reason.SHED)
    assert [found.fits(NOW, entry) for entry in entries] == [False, True]
    assert [found.why_none(place, NOW) for place in (a, b)] == [Reason.SHED, Reason.RATE_LIMITED]


# -- promises ---------------------------------------------------------------------------------------------------------------------


def told(world, **settings):
    """A request that was refused and told when to come back; returns when."""
    found = room(world, **settings)
    delay_s, booked = found.promise(NOW, parked(world, found, usable_in=20.0).turn, 20.0)
    assert (delay_s, booked) == (20.0, True)
    return delay_s


def busy():
    world = World("a", quotas={"a": ONE_PER_S})
    world.drains(until=60.0)
    return world


def test_whoever_was_told_to_come_back_is_let_in_then_and_before_the_others():
    world = busy()
    world.now += told(world)
    found = room(world)
    entry = parked(world, found, usable_in=40.0)
    assert not found.in_time(world.now, entry)
    assert found.fits(world.now, entry)
    assert (entry.turn.promised, found.came_back) == (True, True)


def test_a_promise_is_used_once_by_one_request_which_keeps_it():
    world = busy()
    world.now += told(world)
    first, second = room(world), room(world)
    for _ in range(2):
        assert first.fits(world.now, parked(world, first, usable_in=40.0))
    assert not second.fits(world.now, parked(world, second, usable_in=40.0))
    assert not second.came_back


@pytest.mark.parametrize("who", [{"client": "two"}, {"may_be_back": False}, {"foreign": "mine"}])
def test_a_promise_is_for_whom_it_was_made(who):
    world = busy()
    world.now += told(world)
    found = room(world, **who)
    assert not found.fits(world.now, parked(world, found, usable_in=40.0))


def test_who_comes_too_early_has_no_promise():
    world = busy()
    world.now += told(world) - 5.0
    found = room(world)
    assert not found.fits(world.now, parked(world, found, usable_in=40.0))


def test_a_promise_opens_no_queue_that_sent_it_away():
    world = busy()
    world.now += told(world)
    found = room(world)
    entry = parked(world, found, usable_in=40.0)
    found.closed(entry.turn, Reason.QUEUE_FULL)
    assert not found.fits(world.now, entry)
    assert not found.came_back, "and is not used up by that"


def test_a_promise_of_a_clients_own_key_is_kept_by_its_own_gate():
    world = World("a", quotas={"a": ONE_PER_S})
    world.gate("a", "mine").quota(NOW, None).reserve(NOW, Cost())
    world.now += told(world, foreign="mine")
    assert not world.gate().promises
    found = room(world, foreign="mine")
    assert found.fits(world.now, parked(world, found, usable_in=40.0))
