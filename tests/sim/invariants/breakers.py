"""Breakers: they open for a cause, spare what is open, come back by a ramp, and hardly ever refuse.

Transitions are the gateway's own word; what must and must not go with them is read from the ledgers.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

from tests.sim.clock import BEGIN_S
from tests.sim.invariants.breach import EPS, invariant
from tests.sim.invariants.races import overtaken
from tests.sim.invariants.reading import NEVER, Journey, alternative, family, first_trouble, journeys, target_of
from tests.sim.ledger import FOREVER, Visit
from tests.sim.plays import ABOUT_A_KEY, PLAIN
from tests.sim.world import Move, World

OPEN_S, MAX_OPEN_S, LEAST = 5.0, 30.0, 0.75
"""The first opening, the longest, and the least share of either that the jitter leaves."""
FORGOTTEN_S = 5 * MAX_OPEN_S
RAMP_S, RAMP_FLOOR = 30.0, 0.1
PROBE_S = 10.0
WINDOW_S = 30.0
SHARED = frozenset({"refused", "connect_timeout", "html_502", "html_403", "html_530", "html_200"})
"""What shows before any model is asked: connections, pages from the edge."""
WITNESSES = 8
"""So many clients in a row that gave up on a silent target are enough, whoever left first."""
PATIENT_S = 10.0
Place = tuple[str, str, str]
"""(provider, model, family); the last two are empty for a provider as a whole."""


@invariant
def openings_grow(world: World) -> Iterator[tuple[str, str]]:
    """A breaker that opens again and again stays open for longer each time: what oscillates keeps its traffic elsewhere."""
    for place, moves in _moves(world).items():
        opened, closed_at = 0, -FOREVER
        for move, after in pairwise(moves):
            if move.state == "closed":
                closed_at = move.at_s
                if after.at_s - closed_at >= FORGOTTEN_S:
                    opened = 0
            elif move.state == "open":
                least_s = LEAST * min(MAX_OPEN_S, OPEN_S * 2**opened)
                opened += 1
                if after.at_s - move.at_s < least_s - EPS:
                    yield (
                        "",
                        f"{place} was open for {after.at_s - move.at_s:.2f} s at its {opened}. time, {least_s:.2f} s is the least",
                    )


@invariant
def open_is_spared(world: World) -> Iterator[tuple[str, str]]:
    """Law 8: while a breaker is open, nothing goes there that could go elsewhere; while half-open, one probe at a time."""
    states = _states(world)
    visits = _by_place(world)
    for journey in journeys(world):
        if alternative(world, journey) is None:
            continue
        for visit in journey.visits:
            for place in _places(visit):
                state, since = _at(states.get(place, ()), visit.started_seq)
                if state == "open":
                    yield journey.name, f"{visit.tag} goes to {place}, whose breaker is open"
                elif state == "half_open" and place[1]:
                    for other in visits[place]:
                        under_way = since < other.started_seq < visit.started_seq < (other.closed_seq or FOREVER)
                        joined = visit.started_at >= other.started_at + PROBE_S - EPS
                        if under_way and not joined and alternative(world, _whose(world, other)):
                            yield journey.name, f"{visit.tag} and {other.tag} probe {place} together"


@invariant
def ramps_are_gentle(world: World) -> Iterator[tuple[str, str]]:
    """No stampede: second by second, a recovered target gets no more than time and its successes have earned it.

    The share is at most a tenth, or the part of the ramp that has passed, and a tenth for each success and one; beside it one
    request a second passes in any case. What is drawn by lot may be four standard deviations off.
    """
    visits = _by_place(world)
    demand = _demand(world)
    for place, moves in _moves(world).items():
        if not place[1] or place not in demand:
            continue
        for move, after in pairwise([*moves, Move(FOREVER, *place, "", NEVER)]):
            if move.state != "ramp":
                continue
            begin = move.at_s + BEGIN_S
            for second in range(int(min(RAMP_S, after.at_s - move.at_s))):
                since, until = begin + second, begin + second + 1.0
                came = [
                    visit
                    for visit in visits[place]
                    if since <= visit.started_at < until and visit.started_seq > move.seq and len(_whose(world, visit).targets) > 1
                ]
                wanted = sum(since <= at < until for at in demand[place])
                good = sum(move.seq <= visit.spoke_seq and visit.spoke_at < until for visit in visits[place])
                share = min(1.0, max(RAMP_FLOOR, (second + 1) / RAMP_S), RAMP_FLOOR * (1 + good))
                most = 2 + share * wanted + 4 * math.sqrt(wanted * share * (1 - share))
                if len(came) > most:
                    yield (
                        came[-1].client,
                        f"{len(came)} of {wanted} requests in second {second} of the ramp of {place}, not {most:.1f}",
                    )


@invariant
def providers_open_for_a_cause(world: World) -> Iterator[tuple[str, str]]:
    """Law 7: a provider's own breaker opens on what all its targets share, or when two of them fail and none has served since."""
    for provider in world.providers:
        keys = world.providers[provider].keys
        visits = [visit for visit in world.visits if visit.provider == provider]
        for before, move in pairwise([None, *_moves(world).get((provider, "", ""), ())]):
            if move is None or move.state != "open" or (before is not None and before.state in ("half_open", "ramp")):
                continue
            at = move.at_s + BEGIN_S
            recent = [
                visit for visit in visits if visit.closed_seq and visit.closed_seq < move.seq and visit.closed_at > at - WINDOW_S
            ]
            shared = sum(visit.trouble in SHARED for visit in recent)
            refused = {visit.key for visit in visits if visit.trouble == "401" and at - 4 * WINDOW_S < visit.closed_at <= at}
            if shared >= 5 or (keys and refused.issuperset(keys)):
                continue
            served = max((visit.spoke_seq for visit in visits if visit.spoke_seq < move.seq), default=0)
            failing = {
                (visit.model, family(visit.path))
                for visit in visits
                if served < visit.closed_seq < move.seq and visit.trouble not in PLAIN
            }
            if len(failing) < 2:
                yield (
                    "",
                    f"{provider}'s breaker opened at {move.at_s:.2f} s; failing since it last served: {failing}, shared: {shared}",
                )


@invariant
def silence_is_noticed(world: World) -> Iterator[tuple[str, str]]:
    """A target that hangs is found out although no client has the patience that the policy has."""
    if world.guarded:
        return
    silent: dict[Place, list[Visit]] = defaultdict(list)
    spoke: dict[Place, float] = defaultdict(lambda: -FOREVER)
    events = [(visit.closed_seq, visit) for visit in world.visits if visit.closed_seq and not visit.spoke_seq]
    events += [(seq, visit) for visit in world.visits if visit.spoke_seq for seq in (visit.spoke_seq, visit.closed_seq) if seq]
    for seq, visit in sorted(events, key=lambda event: event[0]):
        place = (*target_of(visit), family(visit.path))
        client = world.clients[visit.client]
        if visit.spoke_seq:
            # It lives when its answer begins, and when it ends.
            silent[place].clear()
            spoke[place] = visit.spoke_at if seq == visit.spoke_seq else visit.closed_at
            continue
        waited_s = visit.closed_at - visit.started_at
        if (
            overtaken(world, visit)
            or visit.end != "cancelled"
            or not client.errand.stream
            or waited_s < PATIENT_S + 0.1
            or visit.started_at < spoke[place]
        ):
            continue
        run = silent[place]
        run.append(visit)
        if len(run) == WITNESSES:
            since = run[0].started_at - BEGIN_S
            moves = [move for name in (place, (place[0], "", "")) for move in _moves(world).get(name, ())]
            if not any(move.state == "open" and since <= move.at_s <= visit.closed_at - BEGIN_S for move in moves):
                yield visit.client, f"{WITNESSES} clients in a row heard nothing of {place}, and its breaker did not open"


@invariant
def hardly_ever_refused(world: World) -> Iterator[tuple[str, str]]:
    """Law 8: for its breakers a request is refused only where each of its targets has failed nearly always since it was opened."""
    for journey in journeys(world):
        client = journey.client
        if client.fields.get("x-gateway-reason") != "breakers_open" or journey.visits:
            continue
        for provider, model in journey.targets:
            places = (provider, model, journey.family), (provider, "", "")
            opened = [move.seq for place in places for move in _moves(world).get(place, ()) if move.state == "open"]
            since = max((seq for seq in opened if seq < client.opened_seq), default=0)
            recent = [
                visit
                for visit in world.visits
                if visit.provider == provider
                and since < visit.closed_seq < client.opened_seq
                and visit.closed_at > client.opened_at - 0.8 * WINDOW_S
            ]
            if any(visit.trouble in ABOUT_A_KEY for visit in recent):
                # Then it may have been its keys that could not be used.
                continue
            good = sum(visit.whole and (visit.model, family(visit.path)) == (model, journey.family) for visit in recent)
            if good > 0.2 * len(recent) and good >= 2:
                yield journey.name, f"refused though {provider} served {good} of {len(recent)} requests just now"


def _moves(world: World) -> dict[Place, list[Move]]:
    if "moves" not in world.memo:
        found: dict[Place, list[Move]] = defaultdict(list)
        for move in world.transitions:
            found[move.provider, move.model, move.family].append(move)
        world.memo["moves"] = dict(found)
    return world.memo["moves"]  # type: ignore[return-value]


def _states(world: World) -> dict[Place, list[tuple[int, str]]]:
    return {place: [(move.seq, move.state) for move in moves] for place, moves in _moves(world).items()}


def _at(states: Sequence[tuple[int, str]], seq: int) -> tuple[str, int]:
    """Return the state at this moment, and since when."""
    known = bisect(states, (seq,))
    return states[known - 1][::-1] if known else ("closed", 0)


def _places(visit: Visit) -> tuple[Place, Place]:
    return (*target_of(visit), family(visit.path)), (visit.provider, "", "")


def _by_place(world: World) -> dict[Place, list[Visit]]:
    if "places" not in world.memo:
        found: dict[Place, list[Visit]] = defaultdict(list)
        for visit in world.visits:
            found[*target_of(visit), family(visit.path)].append(visit)
        world.memo["places"] = found
    return world.memo["places"]  # type: ignore[return-value]


def _demand(world: World) -> dict[Place, list[float]]:
    """Return when each target that can be spared might have been asked: whenever a request came that prefers it, or was sent on."""
    found: dict[Place, list[float]] = {}
    trouble = first_trouble(world)
    for journey in journeys(world):
        if len(journey.targets) > 1 and trouble[journey.targets[1][0]] == NEVER:
            moments = {journey.client.began_at, *(visit.started_at for visit in journey.visits)}
            found.setdefault((*journey.targets[0], journey.family), []).extend(moments)
    return found


def _whose(world: World, visit: Visit) -> Journey:
    if "whose" not in world.memo:
        world.memo["whose"] = {journey.name: journey for journey in journeys(world)}
    return world.memo["whose"][visit.client]  # type: ignore[index,no-any-return]
