"""Hedges: where they may run, what they may cost, that losing one is nobody's failure, and that the gateway tells of them truly."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from tests.sim.clock import BEGIN_S
from tests.sim.invariants.breach import EPS, invariant
from tests.sim.invariants.races import CLIENTS_END, hedgeable, hedged, overtaken, winner
from tests.sim.invariants.reading import FAMILIES, family, target_of
from tests.sim.ledger import Visit
from tests.sim.plays import PLAIN
from tests.sim.world import World

CAP = 10.0
"""Hedges that a route may save up."""
SLACK = 1.0
"""A request may be counted a moment before it earns its share."""
CONSECUTIVE = 5
BYTES_PER_TOKEN = 4


@invariant
def hedges_where_they_may(world: World) -> Iterator[tuple[str, str]]:
    """One at most, for stateless inference whose client has not declined; elsewhere; alike, or marked; and not too soon."""
    plan = world.policy.hedge
    for name, visits in world.by_client().items():
        beside = hedged(visits)
        if not beside:
            continue
        if plan is None or not hedgeable(world, name):
            yield name, f"{beside[0].tag} runs beside another one where it must not"
            continue
        if len(beside) > plan.max:
            yield name, f"{len(beside)} hedges, {plan.max} is the most"
        for hedge in beside:
            earlier = [visit for visit in visits if visit.started_seq < hedge.started_seq]
            slow = [visit for visit in earlier if not visit.closed_seq or visit.closed_seq > hedge.started_seq]
            least_s = max(plan.floor_s, plan.after_s or 0.0)
            waited_s = hedge.started_at - slow[-1].started_at
            if len(slow) > plan.max or target_of(hedge) in map(target_of, earlier):
                yield name, f"{hedge.tag} beside {[visit.tag for visit in slow]}"
            if waited_s < least_s - EPS:
                yield name, f"{hedge.tag} came {waited_s:.2f} s after {slow[-1].tag}, {least_s:.2f} s is the least"
            dialects = {world.providers[visit.provider].azure for visit in (hedge, slow[0])}
            alike = len(dialects) == 1 and hedge.model == slow[0].model
            if not alike and hedge.provider not in world.delivery.stand_ins:
                yield name, f"{hedge.tag} is no stand-in for {slow[0].tag}"


@invariant
def hedges_within_budget(world: World) -> Iterator[tuple[str, str]]:
    """A route's hedges are a share of its requests that might be hedged, and what a bucket of ten has saved of it."""
    plan = world.policy.hedge
    if plan is None:
        return
    events: dict[str, list[tuple[int, float, str]]] = defaultdict(list)
    for name, visits in world.by_client().items():
        route = world.clients[name].fields.get("x-gateway-route", "")
        if visits and hedgeable(world, name):
            events[route].append((visits[0].started_seq, plan.budget, name))
        events[route] += [(hedge.started_seq, -1.0, name) for hedge in hedged(visits)]
    # Whoever leaves before the head does not learn its route: such requests may have earned for any.
    unknown = events.pop("", [])
    for payments in events.values():
        balance = 0.0
        for _, amount, name in sorted([*payments, *(each for each in unknown if each[1] > 0)]):
            balance = min(CAP, balance + amount)
            if balance < -SLACK:
                yield name, f"a hedge too many: the route is {-balance:.2f} over its budget of {plan.budget:.2f}"


@invariant
def losers_are_let_go(world: World) -> Iterator[tuple[str, str]]:
    """The first content decides: whoever else is under way hears at that moment that the call is off."""
    for name, visits in world.by_client().items():
        for first in visits if len(visits) > 1 else ():
            for other in visits:
                live = first.spoke_seq and other is not first and other.started_seq < first.spoke_seq
                if live and not (other.closed_seq and other.closed_at <= first.spoke_at + EPS):
                    yield name, f"{other.tag} was left open when {first.tag} had won"


@invariant
def losing_is_no_failure(world: World) -> Iterator[tuple[str, str]]:
    """A target's breaker opens only on failures, five at least, and being overtaken is none."""
    since: dict[tuple[str, str, str], tuple[str, int]] = {}
    failed: dict[tuple[str, str, str], list[Visit]] = defaultdict(list)
    for visit in world.visits:
        lost = overtaken(world, visit)
        if visit.closed_seq and (visit.trouble not in PLAIN or visit.trouble == "400") and not lost:
            failed[*target_of(visit), family(visit.path)].append(visit)
    for move in world.transitions:
        place = move.provider, move.model, move.family
        state, closed_seq = since.get(place, ("closed", 0))
        if move.state == "open" and move.family in FAMILIES.values() and state == "closed":
            # Called off for being too slow: that is carried out after it was counted.
            now = move.at_s + BEGIN_S + EPS
            count = sum(visit.closed_seq > closed_seq and visit.closed_at <= now for visit in failed[place])
            if count < CONSECUTIVE:
                yield "", f"the breaker of {place} opened at {move.at_s:.2f} s on {count} failures"
        since[place] = move.state, move.seq


@invariant
def hedges_are_told(world: World) -> Iterator[tuple[str, str]]:
    """`hedges_total` and `wasted_tokens_total` are what ledgers and clients show of every race."""
    counted: Counter[str] = Counter()
    wasted: Counter[str] = Counter()
    undecided: Counter[str] = Counter()
    for name, visits in world.by_client().items():
        beside = [hedge for hedge in hedged(visits) if hedge.sent or hedge.end != "cancelled"]
        if not hedged(visits):
            continue
        won = winner(world, name)
        client = world.clients[name]
        counted.update(_result(world, hedge, won) for hedge in beside)
        for visit in visits:
            tokens = len(client.errand.body) // BYTES_PER_TOKEN
            if visit.sent and overtaken(world, visit):
                wasted[visit.provider] += tokens
            elif visit.sent and visit.end == "cancelled" and client.status >= 400:
                # Called off by another one's error, which decides no race in a strict sense.
                undecided[visit.provider] += tokens
    shown = {
        result: number
        for (result,), number in world.total("gateway_hedges_total", "result").items()
        if number and "no_" not in result
    }
    if shown != dict(counted):
        yield "", f"hedges_total says {shown}, the ledgers {dict(counted)}"
    lost = {at: tokens for (at,), tokens in world.total("gateway_wasted_tokens_total", "provider").items() if tokens}
    if any(not wasted[at] <= lost.get(at, 0) <= wasted[at] + undecided[at] for at in world.providers):
        yield "", f"wasted_tokens_total says {lost}, the ledgers {dict(wasted)}"


def _result(world: World, hedge: Visit, won: Visit | None) -> str:
    client = world.clients[hedge.client]
    ended = hedge.end == "cancelled" and _cut_short(client.record.reason, hedge, client.done_at)
    if hedge is won and (hedge.whole or ended):
        return "won"
    beside = world.by_client()[hedge.client]
    return "lost" if ended or overtaken(world, hedge) or (hedge.end == "cancelled" and _overruled(beside, hedge)) else "failed"


def _cut_short(reason: str, visit: Visit, done_at: float) -> bool:
    """Whether the exchange ended with this visit under way, for a reason that is not the visit's."""
    return reason in CLIENTS_END and abs(visit.closed_at - done_at) < EPS


def _overruled(visits: list[Visit], visit: Visit) -> bool:
    """Whether it was called off because another one was told that the request itself is wrong."""
    return any(
        other is not visit and other.end == "finished" and other.status >= 400 and abs(other.closed_at - visit.closed_at) < EPS
        for other in visits
    )
