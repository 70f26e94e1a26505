"""What invariants read a run by: each exchange with the targets it might have gone to, and small questions about visits.

Routing is done here once more, from the routes alone: a request about an object of an account, or whose key is the client's own,
has one target; a model call may go to every ordinary target of its route.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from tests.sim.client import Client, Errand
from tests.sim.invariants.races import hedged, resumes
from tests.sim.ledger import Visit
from tests.sim.plays import ABOUT_A_KEY, MODEL_CALLS, PLAIN
from tests.sim.world import World

NEVER = 1 << 60
TOO_LONG = b'"max_tokens":150000'
"""Such a request is for targets that others are spared; what becomes of it says little about where attempts should go."""
FAMILIES = {path: path.strip("/").partition("/")[0] for path in MODEL_CALLS}

Target = tuple[str, str]
"""(provider, model there)."""


@dataclass(frozen=True, slots=True)
class Journey:
    """One exchange: who asked, whom it might have asked in which order, whom it did ask."""

    name: str
    client: Client
    errand: Errand
    targets: tuple[Target, ...]
    family: str
    """Empty where it is no model call."""
    visits: list[Visit]

    @property
    def limit_at(self) -> float:
        """When the client's patience ends, as far as the client said."""
        return self.client.began_at + (self.errand.patience_s or float("inf"))


def journeys(world: World) -> list[Journey]:
    """Return all exchanges of a finished run."""
    if "journeys" not in world.memo:
        asked = world.by_client()
        known: dict[tuple[bytes, bytes], tuple[tuple[Target, ...], str]] = {}
        found = []
        for name, client in world.clients.items():
            errand = client.errand
            key = (errand.path, errand.body)
            if key not in known:
                known[key] = _targets(world, errand), family(errand.path.decode())
            found.append(Journey(name, client, errand, *known[key], asked[name]))
        world.memo["journeys"] = found
    return world.memo["journeys"]  # type: ignore[return-value]


def first_trouble(world: World) -> dict[str, int]:
    """Return for each provider when, in the order of the ledger, it first met a request with anything that may be held against it.

    Until then nothing stands in the way of going there.
    """
    if "trouble" not in world.memo:
        first = dict.fromkeys(world.providers, NEVER)
        for visit in world.visits:
            if visit.trouble not in PLAIN and visit.started_seq < first[visit.provider]:
                first[visit.provider] = visit.started_seq
        world.memo["trouble"] = first
    return world.memo["trouble"]  # type: ignore[return-value]


def alternative(world: World, journey: Journey) -> Target | None:
    """Return a later target of this exchange that nothing speaks against, to the end of the exchange."""
    trouble = first_trouble(world)
    until = journey.client.done_seq or NEVER
    return next((target for target in journey.targets[1:] if trouble[target[0]] > until), None)


def target_of(visit: Visit) -> Target:
    """Return whom a visit went to."""
    return visit.provider, visit.model


def successions(world: World, journey: Journey) -> list[tuple[Visit, Visit]]:
    """Return each visit that took a failed one's place, with that one: not those beside another one, nor what continues a stream."""
    if len(journey.visits) < 2:
        return []
    apart = [*hedged(journey.visits), *resumes(world, journey.name)]
    found = []
    for number, visit in enumerate(journey.visits):
        if number and visit not in apart:
            found.append((max(journey.visits[:number], key=lambda before: before.closed_seq), visit))
    return found


def another_key(last: Visit, visit: Visit) -> bool:
    """Whether a visit to the same target used another key, after the trouble was the first one's."""
    return last.key != visit.key and last.trouble in ABOUT_A_KEY


def family(path: str) -> str:
    """Return the kind of model call at this path, empty if it is none."""
    return next((name for end, name in FAMILIES.items() if path.endswith(end)), "")


def _targets(world: World, errand: Errand) -> tuple[Target, ...]:
    try:
        model = json.loads(errand.body).get("model", "")
    except ValueError:
        model = ""
    for _, models, ways in world.ways:
        if model in models:
            ordinary = tuple((provider, there or model) for provider, there, *only_for in ways if not only_for)
            home = ordinary[0][0]
            if errand.pinned or TOO_LONG in errand.body:
                return ordinary[:1]
            if world.guarded or world.providers[home].keys:
                return ordinary
            return tuple(target for target in ordinary if target[0] == home)
    return ((next(iter(world.providers)), ""),) if errand.homebound else ()
