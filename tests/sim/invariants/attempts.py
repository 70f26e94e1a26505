"""Attempts: how many, at whose expense, and none after its time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from tests.sim.invariants.breach import EPS, invariant
from tests.sim.invariants.races import hedged, overtaken, resumes, winner
from tests.sim.invariants.reading import another_key
from tests.sim.invariants.streams import said
from tests.sim.ledger import Visit
from tests.sim.plays import AMBIGUOUS, RATE_LIMITS, REFUSALS_TO_GO_ON, REFUSED_UNDONE
from tests.sim.world import World

MARGIN_S = 0.05
LINGER_S = 1.0
BUDGET_CAP, BUDGET_RATIO, BUDGET_PER_S = 10.0, 0.2, 0.3
BUDGET_SLACK = 2.0
"""One repeat: of one that waits, the ledger cannot tell when it was paid for."""
Payment = tuple[int, float, float, str, Visit]
"""(order, when, how much, by which provider's budget, for which visit)."""
HOME_ATTEMPTS, HOME_DEADLINE_S = 4, 600.0
"""Requests that no route takes go by the built-in policy."""


@invariant
def attempts_within_limit(world: World) -> Iterator[tuple[str, str]]:
    """No exchange makes more upstream requests than its policy allows."""
    for name, visits in world.by_client().items():
        allowed = HOME_ATTEMPTS if world.clients[name].errand.homebound else world.policy.attempts
        if len(visits) > allowed:
            yield name, f"{len(visits)} attempts, {allowed} are allowed"


@invariant
def repeats_within_budget(world: World) -> Iterator[tuple[str, str]]:
    """Law 9: at no moment has a provider seen more repetition than first attempts, the trickle and the cap pay for.

    The same bucket once more, from the ledger alone. A repeat is a further visit of one exchange to one provider and model, but
    for one with another key, where the trouble was the key's, and for a client's own key that came to its limit and waits. It is
    paid when it is decided on, which the ledger does not show: between the failure of the visit before and its own beginning. So it
    is too much where the bucket could have paid for it at neither. A hedge is paid when it begins, by the provider that was slow.
    """
    offered: list[Payment] = []
    decided: list[Payment] = []
    begun: list[Payment] = []
    for name, visits in world.by_client().items():
        if visits and not world.clients[name].errand.already_retried:
            offered.append((visits[0].started_seq, visits[0].started_at, BUDGET_RATIO, visits[0].provider, visits[0]))
        for hedge in hedged(visits):
            slow = next(visit for visit in visits if not visit.closed_seq or visit.closed_seq > hedge.started_seq)
            offered.append((hedge.started_seq, hedge.started_at, -1.0, slow.provider, hedge))
        last: dict[tuple[str, str], Visit] = {}
        for before, visit in pairwise([None, *visits]):
            same = last.get((visit.provider, visit.model))
            if before is not None and same is not None and not (_free(world, same, visit) or _own_limit(world, same)):
                cost = 2.0 if same.sent and same.trouble in AMBIGUOUS else 1.0
                decided.append((before.closed_seq, before.closed_at, -cost, visit.provider, visit))
                begun.append((visit.started_seq, visit.started_at, -cost, visit.provider, visit))
            last[visit.provider, visit.model] = visit
    late = _overdrawn(world, offered + begun)
    for tag, (visit, debt) in _overdrawn(world, offered + decided).items():
        if tag in late:
            yield visit.client, f"{tag} is {debt:.1f} more repetition than {visit.provider}'s budget holds"


def _overdrawn(world: World, payments: list[Payment]) -> dict[str, tuple[Visit, float]]:
    """Return the repeats that a provider's bucket could not pay for, and by how much."""
    found = {}
    balance = dict.fromkeys(world.providers, BUDGET_CAP)
    updated = dict.fromkeys(world.providers, 0.0)
    for _, now, payment, at, visit in sorted(payments, key=lambda payment: payment[0]):
        balance[at] = min(BUDGET_CAP, balance[at] + (now - updated[at]) * BUDGET_PER_S)
        updated[at] = now
        balance[at] = min(BUDGET_CAP, balance[at] + payment)
        if balance[at] < -BUDGET_SLACK:
            found[visit.tag] = visit, -balance[at]
    return found


@invariant
def already_retried_not_repeated(world: World) -> Iterator[tuple[str, str]]:
    """A request which the client itself repeats is not repeated at the same target, unless it was promised room there and met none."""
    for name, visits in world.by_client().items():
        last: dict[tuple[str, str], Visit] = {}
        for visit in visits if world.clients[name].errand.already_retried else ():
            before = last.get((visit.provider, visit.model))
            promised = before is not None and before.trouble in RATE_LIMITS
            if before is not None and not promised and not _free(world, before, visit):
                yield name, f"the client is retrying already, and {visit.tag} repeats {before.tag} all the same"
            last[visit.provider, visit.model] = visit


@invariant
def paid_work_not_repeated(world: World) -> Iterator[tuple[str, str]]:
    """Law 10: what is no stateless model call is repeated only if it never left, or was refused before processing."""
    for name, visits in world.by_client().items():
        errand = world.clients[name].errand
        if errand.replayable or errand.method == b"GET":
            continue
        for visit in visits[:-1]:
            if visit.sent and not (visit.end == "finished" and visit.status in REFUSED_UNDONE):
                yield name, f"{visit.tag} may have been carried out ({visit.trouble}) and was repeated"


@invariant
def objects_stay(world: World) -> Iterator[tuple[str, str]]:
    """A request about an account's object reaches that account and no other."""
    for name, visits in world.by_client().items():
        accounts = {visit.provider for visit in visits}
        if world.clients[name].errand.pinned and len(accounts) > 1:
            yield name, f"an object's request went to {sorted(accounts)}"


@invariant
def abandoned_are_cancelled(world: World) -> Iterator[tuple[str, str]]:
    """One attempt at a time, and one hedge; none open after its exchange; a finished stream's connection may linger for a second."""
    most = 1 + (world.policy.hedge.max if world.policy.hedge is not None else 0)
    for name, visits in world.by_client().items():
        client = world.clients[name]
        for number, visit in enumerate(visits):
            open_ = [before for before in visits[:number] if not before.closed_seq or before.closed_seq > visit.started_seq]
            if len(open_) >= most:
                yield name, f"{[before.tag for before in open_]} were still open when {visit.tag} began"
        for visit in visits if client.endings else ():
            allowed_s = LINGER_S if visit.whole else 0.0
            if visit.closed_at > client.done_at + allowed_s + EPS:
                yield name, f"{visit.tag} was left open for {visit.closed_at - client.done_at:.2f} s after the end"


@invariant
def deadlines_kept(world: World) -> Iterator[tuple[str, str]]:
    """Until there is content, an exchange lasts no longer than its deadline or its client's patience."""
    for name, client in world.clients.items():
        deadline_s = HOME_DEADLINE_S if client.errand.homebound else world.policy.deadline_s
        limit_s = min(deadline_s, client.errand.patience_s or deadline_s)
        until = client.content_at or client.done_at
        if client.endings and until - client.began_at > limit_s + MARGIN_S:
            yield name, f"no word for {until - client.began_at:.2f} s, {limit_s:.2f} s are allowed"
        if client.endings == ["left"] and client.errand.patience_s is not None and not client.opened_at:
            asked_to_leave = client.errand.leaves_after_s is not None and client.errand.leaves_after_s <= client.errand.patience_s
            if not asked_to_leave:
                yield name, "the client lost its patience before it heard of us"


@invariant
def requests_arrive_intact(world: World) -> Iterator[tuple[str, str]]:
    """A request that was answered came whole and well framed: the client's own bytes, but for the name of the model.

    And, where streams are resumed, for the question for the usage and the beginning of the answer, which is what the client has.
    """
    for visit in world.visits:
        if not visit.whole:
            continue
        head, _, body = visit.raw.partition(b"\r\n\r\n")
        stated = re.search(rb"\r\nContent-Length: (\d+)", head)
        if stated is not None and int(stated[1]) != len(body):
            yield visit.client, f"{visit.tag} was promised {int(stated[1])} bytes and got {len(body)}"
        meant = world.clients[visit.client].errand.body
        if body != meant and _plain(world, visit, body) != json.loads(meant) | {"model": ""}:
            yield visit.client, f"{visit.tag} got another request than the client's: {body[:80]!r}"


def _plain(world: World, visit: Visit, body: bytes) -> dict[str, Any]:
    """Return what was asked without what the gateway may add."""
    document: dict[str, Any] = json.loads(body) | {"model": ""}
    client = world.clients[visit.client]
    if b"stream_options" not in client.errand.body and world.policy.stream.resume and visit.provider in world.delivery.asks_usage:
        document.pop("stream_options", None)
    won = winner(world, visit.client)
    if visit.prefill is not None and visit in resumes(world, visit.client) and won is not None:
        key = "messages" if "messages" in document else "input"
        *turns, begun = document[key]
        if said(bytes(client.body)).text.startswith(begun["content"]):
            document[key] = turns if key == "messages" else turns[0]["content"]
    return document


def _free(world: World, before: Visit, visit: Visit) -> bool:
    """Whether going to the same target again is no repetition: with another key, from the beginning, or after a lost race."""
    return another_key(before, visit) or before.trouble in REFUSALS_TO_GO_ON or overtaken(world, before)


def _own_limit(world: World, last: Visit) -> bool:
    return bool(last.key) and not world.providers[last.provider].keys and last.trouble in RATE_LIMITS
