"""What the gateway says of itself: metrics, trail and savings are what providers and clients counted. And where a storm leaves it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tests.sim.invariants.breach import invariant
from tests.sim.invariants.races import final, hedged, kinds, opened_early, resumes, winner
from tests.sim.invariants.streams import together
from tests.sim.ledger import Visit
from tests.sim.world import World


@invariant
def metrics_equal_the_ledger(world: World) -> Iterator[tuple[str, str]]:
    """`attempts_total`, `upstream_responses_total` and `requests_total` are what providers and clients counted."""
    counted = Counter(visit.provider for visit in world.visits if visit.sent or visit.end == "failed")
    shown = {provider: number for (provider,), number in world.total("gateway_attempts_total", "provider").items() if number}
    if shown != dict(counted):
        yield "", f"attempts_total says {shown}, the ledgers {dict(counted)}"
    good = Counter(visit.provider for visit in world.visits if _served(world, visit))
    ok = {
        at: number
        for (at, verdict), number in world.total("gateway_attempts_total", "provider", "verdict").items()
        if verdict == "ok"
    }
    if ok != dict(good):
        yield "", f"attempts_total says {ok} were ok, the ledgers {dict(good)}"
    why = Counter(
        kinds(world, name)[visit.tag]
        for name, visits in world.by_client().items()
        for visit in visits
        if visit.sent or visit.end == "failed"
    )
    said = {kind: number for (kind,), number in world.total("gateway_attempts_total", "kind").items() if number}
    if said != dict(why):
        yield "", f"attempts_total says {said}, the ledgers {dict(why)}"
    requests = sum(world.total("gateway_requests_total").values())
    if requests != len(world.clients):
        yield "", f"requests_total says {requests}, there were {len(world.clients)} clients"
    under_way = sum(world.total("gateway_inflight_requests").values())
    if under_way:
        yield "", f"inflight_requests says {under_way} when all is over"


@invariant
def saved_equals_the_ledger(world: World) -> Iterator[tuple[str, str]]:
    """`saved_requests_total` counts the clients that got a whole, good answer from another attempt than the first, by its kind."""
    saved: Counter[str] = Counter()
    for name, visits in world.by_client().items():
        last = final(world, name)
        if last is not None and last is not visits[0] and _served(world, last):
            saved[kinds(world, name)[last.tag]] += 1
    shown = {by: number for (by,), number in world.total("gateway_saved_requests_total", "by").items() if number}
    if shown != dict(saved):
        yield "", f"saved_requests_total says {shown}, the ledgers {dict(saved)}"


@invariant
def trail_equals_the_ledger(world: World) -> Iterator[tuple[str, str]]:
    """`x-gateway-attempts` and the trail tell of the attempts there were."""
    for name, visits in world.by_client().items():
        client = world.clients[name]
        if not client.opened_at or client.fields.get("x-gateway-reason") in ("unknown_client", "bad_request", "no_route"):
            continue
        asked = [visit.provider for visit in visits if visit.started_seq < client.opened_seq]
        trail = client.fields.get("x-gateway-trail", "")
        told = [part.partition(":")[0] for part in trail.split(", ") if part]
        if told != asked or client.fields["x-gateway-attempts"] != str(len(asked)):
            yield name, f"the trail says {told}, the ledgers {asked}"


@invariant
def home_again(world: World) -> Iterator[tuple[str, str]]:
    """Two minutes after a storm everything goes to the preferred target at once: no breaker, park or probe is stuck."""
    for name, visits in world.by_client().items():
        if name.startswith("probe-"):
            client = world.clients[name]
            beside = hedged(visits)
            if client.status != 200 or [visit.provider for visit in visits if visit not in beside] != ["alpha"]:
                yield name, f"{client.status} by way of {[visit.provider for visit in visits]}"


def _served(world: World, visit: Visit) -> bool:
    """Whether a visit gave its client a whole, good answer, or the end of one: not if the client left before that."""
    if not visit.whole or visit.status != 200:
        return False
    parts, first = resumes(world, visit.client), winner(world, visit.client)
    if visit.trouble == "no_stream" and opened_early(world, visit.client):
        # The client was promised a stream.
        return False
    return not parts or visit not in parts or (first is not None and visit in together(first, parts).fitting)
