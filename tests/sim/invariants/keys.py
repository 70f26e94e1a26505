"""Keys: each is shown to its owner alone, left alone for as long as it must be, and tested by one request at a time.

`_doubts` walks the ledger once: a key is in doubt, as a whole or for one model, from the moment it was refused, out of credit or at
its limit, until a request that was sent after that moment is answered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tests.sim.clock import BEGIN_S
from tests.sim.invariants.breach import EPS, invariant
from tests.sim.invariants.reading import family
from tests.sim.ledger import FOREVER, Visit
from tests.sim.plays import BENCHES, RATE_LIMITS
from tests.sim.world import World

LONGEST_PARK_S = 60.0
SHORTEST_PARK_S = 1.0
"""Where no delay was stated."""
BENCH_S = 60.0
PARK_PROBE_S, BENCH_PROBE_S = 2.0, 10.0
"""A probe without an answer is joined by another after so long, where the key was at its limit or was refused."""

LESSON_S = 300.0
"""What a refusal has taught of a limit is forgotten after so long without another one."""
TEACHES_A_RATE = RATE_LIMITS - {"rate_false"}
TEACHES_A_NUMBER = frozenset({"503", "503_later", "529", "come_back", "400_drained"})
"""How many requests may be under way together; at least one always may."""

START, WORD, LIFE, END = "start", "word", "life", "end"
Scope = tuple[str, str, str | None]
"""(provider, key, model); the model is None where the whole key is meant."""


@invariant
def keys_stay(world: World) -> Iterator[tuple[str, str]]:
    """Law 12: a provider's key reaches that provider alone; a client's own only the one that has none, and no guarded one."""
    canaries = {key.encode(): name for name, provider in world.providers.items() for key in provider.keys}
    for visit in world.visits:
        for key, owner in canaries.items():
            if key in visit.raw and owner != visit.provider:
                yield visit.client, f"{visit.tag} was shown a key of {owner}"
        if (b"gw-canary" in visit.raw) or (b"sk-client" in visit.raw and world.providers[visit.provider].keys):
            yield visit.client, f"{visit.tag} was shown the client's own key"


@invariant
def delays_kept(world: World) -> Iterator[tuple[str, str]]:
    """No attempt with a key and model sooner than a rate limit asked for, up to a minute, or than a second where it named no delay."""
    until: dict[Scope, tuple[float, Visit]] = {}
    for kind, visit in _events(world):
        scope = visit.provider, visit.key, visit.model
        if kind is WORD and visit.trouble in RATE_LIMITS:
            asked_s = SHORTEST_PARK_S if visit.asked_delay_s is None else min(visit.asked_delay_s, LONGEST_PARK_S)
            until_s = visit.closed_at + asked_s
            if scope not in until or until_s > until[scope][0]:
                until[scope] = until_s, visit
        elif kind is START and scope in until and visit.started_at < until[scope][0] - EPS:
            until_s, by = until[scope]
            yield visit.client, f"{visit.tag} comes {until_s - visit.started_at:.2f} s too early: {by.tag} said {by.trouble}"


@invariant
def overloads_left_alone(world: World) -> Iterator[tuple[str, str]]:
    """An exchange repeats an attempt no sooner than an overload asked for, and never where the provider forbade it."""
    for name, visits in world.by_client().items():
        for number, visit in enumerate(visits):
            for before in visits[:number]:
                if (before.provider, before.model) != (visit.provider, visit.model) or before.end != "finished":
                    continue
                if before.trouble == "503_later" and visit.started_at < before.asked_at + (before.asked_delay_s or 0.0) - EPS:
                    yield name, f"{visit.tag} comes sooner than the {before.asked_delay_s:.0f} s that {before.tag} asked for"
                if before.trouble == "500_final":
                    yield name, f"{visit.tag} repeats {before.tag}, which was told not to"


@invariant
def benched_keys_rest(world: World) -> Iterator[tuple[str, str]]:
    """A key that was refused, or is out of credit, is not used for a minute; one that was refused a model, not for this model.

    Unless every key of the provider was refused: then it is the provider's failure, and they rest until its breaker lets a probe pass.
    """
    until: dict[Scope, float] = {}
    refused: dict[tuple[str, str], bool] = {}
    for kind, visit in _events(world):
        at, key, keys = visit.provider, visit.key, world.providers[visit.provider].keys
        if kind is START:
            for scope in _scopes(visit):
                if visit.started_at < until.get(scope, 0.0) - EPS:
                    yield visit.client, f"{visit.tag} uses a benched key {until[scope] - visit.started_at:.1f} s too early"
        elif kind is WORD and visit.trouble in BENCHES and key in keys and family(visit.path):
            scope = (at, key, visit.model if visit.trouble == "403" else None)
            if visit.closed_at >= until.get(scope, 0.0):
                until[scope] = visit.closed_at + BENCH_S
            if visit.trouble != "403":
                refused[at, key] = visit.trouble == "401"
            if all(refused.get((at, each)) and until.get((at, each, None), 0.0) > visit.closed_at for each in keys):
                until.update({(at, each, None): _reopened_at(world, at, visit.closed_seq) for each in keys})


@invariant
def one_probe_of_a_key(world: World) -> Iterator[tuple[str, str]]:
    """While a key is in doubt one request at a time tries it, until it is answered or seems to be a long answer."""
    doubts: dict[tuple[Scope, float], tuple[int, Visit | None]] = {}
    for kind, visit in _events(world):
        if kind is WORD:
            scope = _doubted(world, visit)
            if scope is not None and visit.trouble == "rate_false":
                # Doubtful itself, and short: nobody tries out whether it is over.
                doubts.pop((scope, PARK_PROBE_S), None)
            elif scope is not None:
                doubts[scope, BENCH_PROBE_S if visit.trouble in BENCHES else PARK_PROBE_S] = visit.closed_seq, None
        for doubt in [(scope, length_s) for scope in _scopes(visit) for length_s in (PARK_PROBE_S, BENCH_PROBE_S)]:
            if doubt not in doubts:
                continue
            since, probe = doubts[doubt]
            if kind is LIFE and visit.started_seq > since:
                del doubts[doubt]
            elif kind is START:
                under_way = probe is not None and (probe.closed_seq == 0 or probe.closed_seq > visit.started_seq)
                if probe is not None and under_way and visit.started_at < probe.started_at + doubt[1] - EPS:
                    yield visit.client, f"{visit.tag} and {probe.tag} test the same key together"
                doubts[doubt] = since, visit


@invariant
def keys_in_order(world: World) -> Iterator[tuple[str, str]]:
    """A later key is used only where every earlier one is in doubt, for this model or as a whole, was just tried in vain, or is full.

    What a key has room for is learned from refusals: there may be a limit for a while after one of its rate, and one of requests
    under way, if there are any, after an overload.
    """
    doubts: dict[Scope, int] = {}
    tried: dict[str, set[tuple[str, str]]] = {}
    lessons: dict[tuple[Scope, frozenset[str]], float] = {}
    under_way: Counter[Scope] = Counter()
    for kind, visit in _events(world):
        here = visit.provider, visit.key, visit.model
        if kind is START:
            keys = world.providers[visit.provider].keys
            for key in keys[: keys.index(visit.key)] if visit.key in keys else ():
                before = visit.provider, key, visit.model
                excused = (visit.provider, key) in tried.get(visit.client, ())
                excused = excused or visit.started_at < lessons.get((before, TEACHES_A_RATE), -LESSON_S) + LESSON_S
                if under_way[before]:
                    excused = excused or visit.started_at < lessons.get((before, TEACHES_A_NUMBER), -LESSON_S) + LESSON_S
                if not excused and not any((visit.provider, key, scope) in doubts for scope in (None, visit.model)):
                    yield visit.client, f"{visit.tag} uses a later key although nothing speaks against the one before it"
            tried.setdefault(visit.client, set()).add((visit.provider, visit.key))
            under_way[here] += 1
        elif kind is WORD:
            for taught_by in (TEACHES_A_RATE, TEACHES_A_NUMBER):
                if visit.trouble in taught_by:
                    lessons[here, taught_by] = visit.closed_at
            scope = _doubted(world, visit)
            if scope is not None:
                doubts[scope] = visit.closed_seq
        elif kind is END:
            under_way[here] -= 1
            for scope in _scopes(visit) if visit.whole else ():
                if visit.started_seq > doubts.get(scope, visit.started_seq):
                    del doubts[scope]


def _reopened_at(world: World, provider: str, since: int) -> float:
    reopened = (
        move.at_s
        for move in world.transitions
        if move.seq > since and (move.provider, move.model, move.state) == (provider, "", "half_open")
    )
    return BEGIN_S + next(reopened, FOREVER)


def _events(world: World) -> list[tuple[str, Visit]]:
    """Return what happened at the providers, in order; a word is a whole error answer that was heard."""
    if "events" not in world.memo:
        events: list[tuple[int, str, Visit]] = []
        for visit in world.visits:
            events.append((visit.started_seq, START, visit))
            if visit.spoke_seq:
                events.append((visit.spoke_seq, LIFE, visit))
            if visit.closed_seq:
                events.append((visit.closed_seq, END, visit))
                if visit.end == "finished" and visit.status >= 400:
                    events.append((visit.closed_seq, WORD, visit))
        events.sort(key=lambda event: event[0])
        world.memo["events"] = [(kind, visit) for _, kind, visit in events]
    return world.memo["events"]  # type: ignore[return-value]


def _scopes(visit: Visit) -> tuple[Scope, Scope]:
    return (visit.provider, visit.key, None), (visit.provider, visit.key, visit.model)


def _doubted(world: World, visit: Visit) -> Scope | None:
    """Return which key, and for what, is in doubt after this answer."""
    if visit.trouble in RATE_LIMITS or visit.trouble == "403":
        model: str | None = visit.model
    elif visit.trouble in BENCHES:
        model = None
    else:
        return None
    ours = visit.key in world.providers[visit.provider].keys
    if visit.trouble in BENCHES and not (ours and family(visit.path)):
        return None
    return visit.provider, visit.key, model
