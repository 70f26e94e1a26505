"""Who ran beside whom, who won, and what was continued: an exchange's visits, read from ledger and client alone.

A hedge is a visit that began while another one of its exchange was open; a resume one that began when the client had content. Whose
answer a client got is told by the tag that every good answer bears, first of all in what the client reads.
"""

from __future__ import annotations

import re

from tests.sim.invariants.breach import EPS
from tests.sim.ledger import Visit
from tests.sim.plays import MODEL_CALLS
from tests.sim.world import World

TAG = re.compile(rb"<\w+#(\d+)>")
CLIENTS_END = frozenset({"client_gone", "deadline", "draining"})
"""Why an exchange ends with whatever is under way."""


def winner(world: World, name: str) -> Visit | None:
    """Return the visit whose answer a client got, or began to get; None where it got none that bears a tag."""
    found = TAG.search(world.clients[name].body)
    return None if found is None else world.visits[int(found[1]) - 1]


def hedged(visits: list[Visit]) -> list[Visit]:
    """Return those visits of an exchange that began beside another one."""
    return [
        visit
        for number, visit in enumerate(visits)
        if any(not before.closed_seq or before.closed_seq > visit.started_seq for before in visits[:number])
    ]


def resumes(world: World, name: str) -> list[Visit]:
    """Return the visits that began when the client had content already."""
    since = world.clients[name].content_seq
    return [visit for visit in world.by_client()[name] if since and visit.started_seq > since]


def final(world: World, name: str) -> Visit | None:
    """Return the visit that the client's answer ends with; where there is no tag to tell, the last one."""
    continued = resumes(world, name)
    visits = world.by_client()[name]
    return continued[-1] if continued else winner(world, name) or (visits[-1] if visits else None)


def overtaken(world: World, visit: Visit) -> bool:
    """Whether this visit was called off at the moment at which another one of its exchange began its answer."""
    if visit.end != "cancelled":
        return False
    return any(
        other is not visit and abs(other.spoke_at - visit.closed_at) < EPS and other.spoke_seq < visit.closed_seq
        for other in world.by_client()[visit.client]
    )


def kinds(world: World, name: str) -> dict[str, str]:
    """Return, by tag, why each visit of an exchange was made."""
    visits = world.by_client()[name]
    beside, continued = hedged(visits), resumes(world, name)
    found = {}
    for number, visit in enumerate(visits):
        # Whoever was overtaken has not failed: going back there, because the winner broke before anybody saw it, is no retry.
        known = any(
            (visit.provider, visit.model) == (before.provider, before.model) and not overtaken(world, before)
            for before in visits[:number]
        )
        if visit in beside:
            kind = "hedge"
        elif visit in continued:
            kind = "resume"
        else:
            kind = "first" if not number else "retry" if known else "failover"
        found[visit.tag] = kind
    return found


def opened_early(world: World, name: str) -> bool:
    """Whether the client got the head of a stream before there was an answer."""
    client = world.clients[name]
    return client.status == 200 and "x-gateway-provider" not in client.fields


def hedgeable(world: World, name: str) -> bool:
    """Whether this exchange may be hedged: stateless inference that can be sent again, and whose client has not declined."""
    errand, plan = world.clients[name].errand, world.policy.hedge
    fit = errand.path.decode().endswith(MODEL_CALLS) and not errand.pinned and errand.replayable and not errand.declines_hedge
    return plan is not None and fit and (errand.stream or plan.non_stream)
