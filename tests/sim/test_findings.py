"""What the storms have found: each finding as the smallest run that shows it."""

from __future__ import annotations

import hashlib

from gateway.config.snapshot import Client as KnownClient
from gateway.core.plan import Policy, StreamPlan
from tests.sim import mischief
from tests.sim.client import Errand
from tests.sim.delivery import Delivery
from tests.sim.invariants import breaches, law_11
from tests.sim.invariants.keys import delays_kept
from tests.sim.provider import SimulatedProvider, Spell
from tests.sim.world import World

AUTHORIZED = ((b"Authorization", b"Bearer app-key"), (b"Content-Type", b"application/json"))
APP = KnownClient("app", hashlib.sha256(b"app-key").digest())


def test_a_provider_without_a_key_is_left_alone_when_it_asks_for_it():
    """Without a credential there was nowhere to note a rate limit, and the four attempts followed each other at once."""
    local = SimulatedProvider("local", weather=[Spell(0.0, 9.0, {"rate": 1.0})])
    world = World(1, [local], [("all", ("m",), [("local", None)])], clients=(APP,))
    asks = [
        Errand(f"c{at}", float(at), b"/v1/chat/completions", b'{"model":"m","messages":[]}', lines=AUTHORIZED) for at in range(20)
    ]
    world.run(asks)
    assert not list(delays_kept(world))
    assert any(visit.asked_delay_s for visit in world.visits)


def test_a_clients_own_rate_limit_is_not_waited_for_at_the_expense_of_others():
    """A key at its limit drained the provider's retry budget, and the others' retries were refused."""
    with_, without = mischief.run(0, beside_a_bad_one=True), mischief.run(0, beside_a_bad_one=False)
    assert sum(visit.trouble == "rate_soon" for visit in with_.visits) > 50
    assert not list(law_11(with_, without))


def test_two_keys_at_their_limit_are_not_asked_in_turns():
    """The key before last counted as another key, so that a client's own retry was repeated, and any request for nothing."""
    alpha = SimulatedProvider("alpha", keys=["one", "two"], weather=[Spell(0.0, 9.0, {"rate_soon": 1.0})])
    world = World(1, [alpha], [("all", ("m",), [("alpha", None)])])
    lines = (*AUTHORIZED, (b"x-stainless-retry-count", b"1"))
    world.run([Errand("c", 0.0, b"/v1/chat/completions", b'{"model":"m","messages":[]}', lines=lines, already_retried=True)])
    assert [visit.key for visit in world.visits] == ["one", "two"]
    assert not breaches(world)


def test_a_wait_for_another_key_does_not_end_with_the_same_one():
    """The key that was waited for was not the first to come free, and the client's own retry was repeated with the other one."""
    alpha = SimulatedProvider("alpha", keys=["one", "two"], weather=[Spell(0.0, 9.0, {"rate_soon": 1.0})])
    world = World(0, [alpha], [("all", ("m",), [("alpha", None)])])
    lines = (*AUTHORIZED, (b"x-stainless-retry-count", b"1"))
    body = b'{"model":"m","messages":[]}'
    world.run(
        [Errand(f"c{at}", 0.05 * at, b"/v1/chat/completions", body, lines=lines, already_retried=True) for at in range(3)],
    )
    assert not breaches(world)


def test_a_done_without_its_blank_line_ends_any_stream():
    """Where `[DONE]` means nothing, as in image streams, the exchange hung until its stall and then denied a whole answer."""
    body = b'{"model":"m","prompt":"hi","stream":true}'
    images = SimulatedProvider("images", keys=["k"], weather=[Spell(0.0, 9.0, {"bare_done": 1.0})])
    world = World(1, [images], [("all", ("m",), [("images", None)])], policy=Policy(deadline_s=30.0))
    client = world.run([Errand("c", 0.0, b"/v1/images/generations", body, lines=AUTHORIZED, stream=True)]).clients["c"]
    assert not breaches(world)
    assert client.endings == ["ended"]
    assert client.done_at - client.began_at < 10.0
    assert b'"error"' not in client.body


def test_a_terminator_of_our_own_does_not_come_before_what_was_held_back():
    """Where all of a stream was held back and its `[DONE]` was missing, ours went out first of all, before the head."""
    alpha = SimulatedProvider("alpha", keys=["k"], weather=[Spell(0.0, 9.0, {"no_done": 1.0})])
    way = Delivery(stream=StreamPlan(hold_s=float("inf")))
    world = World(4, [alpha], [("all", ("m",), [("alpha", None)])], policy=Policy(deadline_s=30.0), delivery=way)
    body = b'{"model":"m","messages":[],"stream":true}'
    client = world.run([Errand("c", 0.0, b"/v1/chat/completions", body, lines=AUTHORIZED, stream=True)]).clients["c"]
    assert not breaches(world)
    assert client.body.endswith(b"data: [DONE]\n\n")


class Highest:
    """A `Chance` that always says the most."""

    def random(self) -> float:
        return 0.999

    def uniform(self, _a: float, b: float, /) -> float:
        return b


def test_an_impatient_clients_last_try_comes_no_sooner_than_its_sdks_would():
    """A backoff longer than the client's patience was cut to half of what was left, and so below what persistence asks for."""
    alpha = SimulatedProvider("alpha", keys=["k"], weather=[Spell(0.0, 9.0, {"502": 1.0})])
    world = World(0, [alpha], [("all", ("m",), [("alpha", None)])], policy=Policy(attempts=3), chance=Highest())
    lines = (*AUTHORIZED, (b"x-stainless-read-timeout", b"1.8"))
    world.run([Errand("c", 0.0, b"/v1/chat/completions", b'{"model":"m","messages":[]}', lines=lines, patience_s=1.8)])
    assert not breaches(world)
