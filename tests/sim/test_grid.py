"""Every trouble, delivered in every way, in every family: one seeded run each, and what its client may see.

`alpha` is in trouble for the whole run and for everybody; `beta`, where there is one, is well. What a client may see is one word, which
is worked out here from the ledger's word for the trouble and from nothing else:

    whole      the whole answer, byte for byte, and the provider's own end
    mended     the whole answer of two providers together, and declared as that
    broken     the beginning of an answer, and then an error in the stream, or a cut
    refused    an error with a status of its own, before anything else
"""

from __future__ import annotations

import json
from itertools import product

import pytest

from gateway.core.plan import BackoffPlan, Policy, Prefill, StreamPlan, Timeouts
from tests.sim.answers import REFUSALS
from tests.sim.client import Client, Errand
from tests.sim.delivery import Delivery
from tests.sim.invariants import breaches
from tests.sim.invariants.streams import SEAM, said, without_comments
from tests.sim.plays import REFUSALS_TO_GO_ON
from tests.sim.provider import SimulatedProvider, Spell
from tests.sim.storm import POOL_DRAINED
from tests.sim.world import World

WELL = frozenset({"ok", "no_stream", "no_done", "bare_done", "slow", "drip", "stall_30"})
LATE = frozenset({"cut", "stall", "clean_end", "late_error"})
"""Shows when content may be out already."""
CALLERS = frozenset({"400", "context"})
ELSE = ("refused", "connect_timeout", "reset", "silent", "hang_up", "500_late", "stream_error", "rate", "rate_ms", "rate_soon")
TROUBLES = sorted({*REFUSALS, *LATE, *WELL, *ELSE, "503_later"} - REFUSALS_TO_GO_ON)
FOREVER = float("inf")
HOLDS = {"none": StreamPlan(), "briefly": StreamPlan(hold_s=0.3), "whole": StreamPlan(hold_s=FOREVER)}
FAMILIES = {
    "chat": (b"/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
    "responses": (b"/v1/responses", {"input": "hi"}),
    "images": (b"/v1/images/generations", {"prompt": "hi"}),
}
LINES = ((b"Authorization", b"Bearer sk-client"), (b"Content-Type", b"application/json"))


def run(trouble: str, family: str, plan: StreamPlan, *, seed: int, azure: bool = False, alone: bool = False, **more) -> World:
    """Return the finished run of one request."""
    spells = [Spell(0.0, 900.0, {trouble: 1.0})]
    providers = [SimulatedProvider("alpha", azure=azure, keys=["one"], weather=spells, errors=(POOL_DRAINED,))]
    providers += [] if alone else [SimulatedProvider("beta", azure=not azure, keys=["two"])]
    policy = Policy(
        deadline_s=100.0,
        attempts=2,
        timeouts=Timeouts(first_token_s=60.0, stall_s=6.0, answer_s=60.0, max_stream_s=90.0),
        backoff=BackoffPlan(base_s=0.2, cap_s=1.0),
        rate_limit_wait_s=0.0,
    )
    ways = [("all", ("m",), [(provider.name, None) for provider in providers])]
    world = World(seed, providers, ways, policy=policy, delivery=Delivery(stream=plan, **more))
    path, prompt = FAMILIES[family]
    body = json.dumps({"model": "m", **prompt, "stream": True, "seed": 7}, separators=(",", ":")).encode()
    world.run([Errand("c", 0.0, path, body, lines=LINES, stream=True)])
    assert not breaches(world), f"{trouble}: {breaches(world)[0]}\n{world.story('c')}"
    return world


def seen(client: Client) -> str:
    """Return what the client saw, in one word."""
    body = bytes(client.body)
    if client.status >= 400:
        return "refused"
    if client.fields["content-type"] == "application/json" and client.endings == ["ended"]:
        return "whole"
    plain = without_comments(body)
    whole = b"image_generation.completed" in plain or (client.errand.path != FAMILIES["images"][0] and said(plain).terminators == 1)
    if client.endings != ["ended"] or not whole:
        return "broken"
    return "mended" if SEAM.search(body) else "whole"


def may_see(world: World, trouble: str, *, alone: bool, resume: bool) -> set[str]:
    """Return what the client may have seen, in those words."""
    plan = world.policy.stream
    first = world.visits[0]
    if trouble in WELL:
        return {"whole"}
    if trouble in CALLERS:
        return {"refused"}
    shown = first.spoke_seq > 0 and first.closed_at >= first.spoke_at + plan.hold_s
    if trouble not in LATE or not shown:
        return {"refused"} if alone else {"whole"}
    return {"mended"} if resume and not alone else {"broken"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("hold", HOLDS)
def test_what_a_client_sees_of_every_trouble_where_another_provider_is_well(hold, family):
    for trouble, azure in product(TROUBLES, (False, True)):
        world = run(trouble, family, HOLDS[hold], seed=0, azure=azure)
        assert seen(world.clients["c"]) in may_see(world, trouble, alone=False, resume=False), f"{trouble}\n{world.story('c')}"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("hold", HOLDS)
def test_what_a_client_sees_of_every_trouble_where_nobody_else_could_serve(hold, family):
    for trouble, azure in product(TROUBLES, (False, True)):
        world = run(trouble, family, HOLDS[hold], seed=0, azure=azure, alone=True)
        assert seen(world.clients["c"]) in may_see(world, trouble, alone=True, resume=False), f"{trouble}\n{world.story('c')}"


@pytest.mark.parametrize("family", ["chat", "responses"])
@pytest.mark.parametrize("prefill", [Prefill.NONE, Prefill.PLAIN])
@pytest.mark.parametrize("hold", ["none", "briefly"])
def test_what_a_client_sees_of_every_trouble_where_streams_are_resumed(hold, prefill, family):
    plan = StreamPlan(hold_s=HOLDS[hold].hold_s, resume=True)
    mended = 0
    for trouble, seed in [*product(TROUBLES, (0,)), *product(LATE, range(1, 6))]:
        world = run(trouble, family, plan, seed=seed, prefill={"beta": prefill})
        client = world.clients["c"]
        allowed = may_see(world, trouble, alone=False, resume=True)
        if allowed == {"mended"} and said(bytes(world.visits[0].wrote)).closed:
            # The text was whole, and only what stands behind it is missing: nobody could go on with that.
            allowed = {"broken"}
        assert seen(client) in allowed, f"{trouble}\n{world.story('c')}"
        mended += seen(client) == "mended"
    assert mended > 3


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_that_went_out_early_is_followed_by_an_answer_or_an_error_in_the_stream(family):
    early = StreamPlan(keepalive_s=1.0, early_keepalive_s=0.2)
    for trouble, alone in product(TROUBLES, (False, True)):
        client = run(trouble, family, early, seed=0, alone=alone).clients["c"]
        assert client.status == 200 or client.opened_at - client.began_at <= 0.2
        if seen(client) == "broken" and client.endings == ["ended"]:
            assert bytes(client.body).count(b'"error"') >= 1


def test_the_grid_meets_every_word_there_is():
    met = {
        seen(run(trouble, "chat", StreamPlan(resume=resume), seed=seed, alone=alone).clients["c"])
        for trouble, resume, alone, seed in product(("ok", "400", *LATE), (False, True), (False, True), range(2))
    }
    assert met == {"whole", "mended", "broken", "refused"}
