"""What must hold after every run, whatever the weather: each invariant is one function, named after its law.

An invariant reads the providers' ledgers and what the clients got, and never the gateway's own records, except where it is those
records that are checked. It yields one `Breach` for each exchange that breaks it. Numbers (budget, linger, delays) are written out
from the contract, not imported from the code under test. `ALL` is the list; law 11 compares two runs and stands apart.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from tests.sim.ledger import Visit
from tests.sim.plays import ABOUT_A_KEY, AMBIGUOUS, RATE_LIMITS, REFUSED_UNDONE
from tests.sim.world import World

EPS = 1e-6
MARGIN_S = 0.05
LINGER_S = 1.0
LONGEST_PARK_S = 60.0
BUDGET_CAP, BUDGET_RATIO, BUDGET_PER_S = 10.0, 0.2, 0.3
BUDGET_SLACK = 2.0
"""One repeat: of one that waits, the ledger cannot tell when it was paid for."""
HOME_ATTEMPTS, HOME_DEADLINE_S = 4, 600.0
"""Requests that no route takes go by the built-in policy."""

_TAG = re.compile(rb"<\w+#\d+>")


@dataclass(frozen=True, slots=True)
class Breach:
    """An invariant that did not hold."""

    invariant: str
    client: str
    """Whose exchange; empty where it is nobody's in particular."""
    text: str


class Broken(AssertionError):
    """At least one invariant did not hold; the message tells the story."""


Invariant = Callable[[World], Iterator[Breach]]
ALL: list[Invariant] = []


def invariant(check: Callable[[World], Iterator[tuple[str, str]]]) -> Invariant:
    """Register a check: it yields (client, what is wrong)."""

    def checked(world: World) -> Iterator[Breach]:
        return (Breach(check.__name__, client, text) for client, text in check(world))

    checked.__name__ = check.__name__
    checked.__doc__ = check.__doc__
    ALL.append(checked)
    return checked


def breaches(world: World) -> list[Breach]:
    """Return everything that is wrong with a run."""
    return [breach for each in ALL for breach in each(world)]


def verify(world: World) -> None:
    """Raise for the first thing that is wrong with a run, with its seed and the story of the exchange."""
    found = breaches(world)
    if not found:
        return
    first = found[0]
    also = Counter(breach.invariant for breach in found)
    raise Broken(
        f"seed {world.seed}: {first.invariant}: {first.client}: {first.text}\n"
        f"(breaches in this run: {dict(also)}; repeat it with: python -m tests.sim --seed {world.seed})\n"
        f"{world.story(first.client)}",
    )


# -- the run as a whole -------------------------------------------------------------------------------------------------------


@invariant
def nothing_crashes(world: World) -> Iterator[tuple[str, str]]:
    """No callback raises."""
    for crash in world.loop.crashes:
        yield "", f"{type(crash).__name__}: {crash}"


@invariant
def one_ending(world: World) -> Iterator[tuple[str, str]]:
    """Every exchange has exactly one end: the answer is ended, or aborted, or the client left."""
    for name, client in world.clients.items():
        if len(client.endings) != 1:
            yield name, f"ended {len(client.endings)} times: {client.endings}" + (f"; {world.deadlock}" if world.deadlock else "")


@invariant
def sink_contract(world: World) -> Iterator[tuple[str, str]]:
    """The driver keeps to the sink's protocol: one head, the length as announced, nothing for a client that left."""
    for name, client in world.clients.items():
        for misuse in client.misuse:
            yield name, misuse


# -- attempts -----------------------------------------------------------------------------------------------------------------


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
    decided on, and paid, when the visit before has failed.
    """
    payments: list[tuple[int, float, float, Visit]] = []
    for name, visits in world.by_client().items():
        if visits and not world.clients[name].errand.already_retried:
            payments.append((visits[0].started_seq, visits[0].started_at, BUDGET_RATIO, visits[0]))
        last: dict[tuple[str, str], Visit] = {}
        for number, visit in enumerate(visits):
            before = last.get((visit.provider, visit.model))
            if before is not None and not _another_key(before, visit) and not _own_limit(world, before):
                cost = 2.0 if before.sent and before.trouble in AMBIGUOUS else 1.0
                payments.append((visits[number - 1].closed_seq, visits[number - 1].closed_at, -cost, visit))
            last[visit.provider, visit.model] = visit
    balance = dict.fromkeys(world.providers, BUDGET_CAP)
    updated = dict.fromkeys(world.providers, 0.0)
    for _, now, payment, visit in sorted(payments, key=lambda payment: payment[0]):
        at = visit.provider
        balance[at] = min(BUDGET_CAP, balance[at] + (now - updated[at]) * BUDGET_PER_S)
        updated[at] = now
        balance[at] = min(BUDGET_CAP, balance[at] + payment)
        if balance[at] < -BUDGET_SLACK:
            yield visit.client, f"{visit.tag} is {-balance[at]:.1f} more repetition than {at}'s budget holds"


@invariant
def already_retried_not_repeated(world: World) -> Iterator[tuple[str, str]]:
    """A request which the client itself repeats is not repeated at the same target."""
    for name, visits in world.by_client().items():
        last: dict[tuple[str, str], Visit] = {}
        for visit in visits if world.clients[name].errand.already_retried else ():
            before = last.get((visit.provider, visit.model))
            if before is not None and not _another_key(before, visit):
                yield name, f"the client is retrying already, and {visit.tag} repeats {before.tag} all the same"
            last[visit.provider, visit.model] = visit


@invariant
def delays_kept(world: World) -> Iterator[tuple[str, str]]:
    """No attempt with a key and model sooner than the provider asked for, up to a minute."""
    until: dict[tuple[str, str, str], tuple[float, float, Visit]] = {}
    events = sorted(
        [(visit.started_seq, False, visit) for visit in world.visits]
        + [
            (visit.closed_seq, True, visit) for visit in world.visits if visit.asked_delay_s is not None and visit.end == "finished"
        ],
        key=lambda event: event[0],
    )
    for _, stated, visit in events:
        key = (visit.provider, visit.key, visit.model)
        if stated:
            until_s = visit.asked_at + min(visit.asked_delay_s or 0.0, LONGEST_PARK_S)
            if key not in until or until_s > until[key][0]:
                until[key] = (until_s, visit.asked_delay_s or 0.0, visit)
        elif key in until and visit.started_at < until[key][0] - EPS:
            early_s, (_, asked_s, by) = until[key][0] - visit.started_at, until[key]
            yield visit.client, f"{visit.tag} comes {early_s:.2f} s too early: {by.tag} was asked to wait {asked_s:.0f} s"


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
def abandoned_are_cancelled(world: World) -> Iterator[tuple[str, str]]:
    """One attempt at a time, and none open after its exchange; a finished stream's connection may linger for a second."""
    for name, visits in world.by_client().items():
        client = world.clients[name]
        for visit, after in pairwise(visits):
            if visit.closed_seq == 0 or visit.closed_seq > after.started_seq:
                yield name, f"{visit.tag} was still open when {after.tag} began"
        if visits and client.endings:
            allowed_s = LINGER_S if visits[-1].whole else 0.0
            if visits[-1].closed_at > client.done_at + allowed_s + EPS:
                yield name, f"{visits[-1].tag} was left open for {visits[-1].closed_at - client.done_at:.2f} s after the end"


@invariant
def nothing_after_commit(world: World) -> Iterator[tuple[str, str]]:
    """Once the client has its head, no further attempt is made."""
    for name, visits in world.by_client().items():
        client = world.clients[name]
        for visit in visits:
            if client.opened_seq and visit.started_seq > client.opened_seq:
                yield name, f"{visit.tag} began after the client had its head"


@invariant
def deadlines_kept(world: World) -> Iterator[tuple[str, str]]:
    """Until the head has gone out, an exchange lasts no longer than its deadline or its client's patience."""
    for name, client in world.clients.items():
        deadline_s = HOME_DEADLINE_S if client.errand.homebound else world.policy.deadline_s
        limit_s = min(deadline_s, client.errand.patience_s or deadline_s)
        until = client.opened_at or client.done_at
        if client.endings and until - client.began_at > limit_s + MARGIN_S:
            yield name, f"no word for {until - client.began_at:.2f} s, {limit_s:.2f} s are allowed"
        if client.endings == ["left"] and client.errand.patience_s is not None and not client.opened_at:
            asked_to_leave = client.errand.leaves_after_s is not None and client.errand.leaves_after_s <= client.errand.patience_s
            if not asked_to_leave:
                yield name, "the client lost its patience before it heard of us"


@invariant
def requests_arrive_intact(world: World) -> Iterator[tuple[str, str]]:
    """A request that was answered came whole and well framed: the client's own bytes, but for the name of the model."""
    for visit in world.visits:
        if not visit.whole:
            continue
        head, _, body = visit.raw.partition(b"\r\n\r\n")
        stated = re.search(rb"\r\nContent-Length: (\d+)", head)
        if stated is not None and int(stated[1]) != len(body):
            yield visit.client, f"{visit.tag} was promised {int(stated[1])} bytes and got {len(body)}"
        meant = world.clients[visit.client].errand.body
        if body != meant and json.loads(body) | {"model": ""} != json.loads(meant) | {"model": ""}:
            yield visit.client, f"{visit.tag} got another request than the client's: {body[:80]!r}"


# -- answers ------------------------------------------------------------------------------------------------------------------


@invariant
def one_answer(world: World) -> Iterator[tuple[str, str]]:
    """The words of two answers never meet in one stream."""
    for name, client in world.clients.items():
        tags = set(_TAG.findall(client.body))
        if len(tags) > 1:
            yield name, f"the client got the words of {sorted(tags)}"


@invariant
def truncation_never_looks_clean(world: World) -> Iterator[tuple[str, str]]:
    """Law 5: what ends in an orderly way is a whole answer, or an error that says so; no terminator follows an error."""
    visits = world.by_client()
    for name, client in world.clients.items():
        said = _errors(bytes(client.body)) if client.errand.stream and client.status == 200 else 0
        if said and b"[DONE]" in client.body:
            yield name, "a terminator in a stream that says it is broken"
        if client.endings == ["ended"] and client.status == 200 and not said and not (visits[name] and visits[name][-1].whole):
            last = visits[name][-1].trouble if visits[name] else "nobody was asked"
            yield name, f"an answer that was not whole ({last}) ended as if it were"


@invariant
def bytes_pass_through(world: World) -> Iterator[tuple[str, str]]:
    """Law 4: what a provider said reaches the client byte for byte, errors too; only endings may be ours."""
    visits = world.by_client()
    for name, client in world.clients.items():
        if not client.opened_at:
            continue
        body, asked = bytes(client.body), visits[name]
        if "x-gateway-provider" not in client.fields:
            if client.endings == ["ended"] and not _is_error_object(body):
                yield name, f"a refusal that is no error object: {body[:80]!r}"
            continue
        if client.status >= 400:
            if not any(body == bytes(visit.wrote) or (visit.status == 200 and body in bytes(visit.wrote)) for visit in asked):
                yield name, f"an error that nobody said: {body[:80]!r}"
            continue
        said = bytes(asked[-1].wrote)
        own = body[len(_common_events(body, said)) :]
        whole = asked[-1].whole and client.endings == ["ended"]
        if own.strip() not in (b"", b"data: [DONE]") and _errors(own) != 1:
            yield name, f"the client got {own[:80]!r}, which {asked[-1].tag} did not say"
        elif whole and not body.startswith(said.removesuffix(b"data: [DONE]").rstrip()):
            yield name, f"{asked[-1].tag} said {len(said)} bytes, the client got {len(body)}"


# -- what we say of ourselves -------------------------------------------------------------------------------------------------


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
    requests = sum(world.total("gateway_requests_total").values())
    if requests != len(world.clients):
        yield "", f"requests_total says {requests}, there were {len(world.clients)} clients"
    under_way = sum(world.total("gateway_inflight_requests").values())
    if under_way:
        yield "", f"inflight_requests says {under_way} when all is over"


@invariant
def saved_equals_the_ledger(world: World) -> Iterator[tuple[str, str]]:
    """`saved_requests_total` counts the clients that got a whole, good answer from another attempt than the first."""
    saved = sum(1 for visits in world.by_client().values() if len(visits) > 1 and _served(world, visits[-1]))
    shown = sum(world.total("gateway_saved_requests_total").values())
    if shown != saved:
        yield "", f"saved_requests_total says {shown}, the ledgers {saved}"


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


# -- afterwards ---------------------------------------------------------------------------------------------------------------


@invariant
def home_again(world: World) -> Iterator[tuple[str, str]]:
    """Two minutes after a storm everything is served by the preferred target at once: no breaker, park or probe is stuck."""
    for name, visits in world.by_client().items():
        if name.startswith("probe-"):
            client = world.clients[name]
            if client.status != 200 or [visit.provider for visit in visits] != ["alpha"]:
                yield name, f"{client.status} by way of {[visit.provider for visit in visits]}"


def law_11(with_: World, without: World) -> Iterator[Breach]:
    """No client can worsen another's lot: the same run with one that misbehaves serves all others in the same way."""
    for name, client in without.clients.items():
        twin = with_.clients[name]
        lots = [
            (each.status, each.endings, each.fields.get("x-gateway-provider"), each.fields.get("x-gateway-attempts"), each.done_at)
            for each in (client, twin)
        ]
        if lots[0] != lots[1]:
            yield Breach("law_11", name, f"{lots[0]} alone, {lots[1]} beside one that misbehaves")
    if with_.transitions != without.transitions:
        yield Breach("law_11", "", f"breakers moved: {without.transitions} alone, {with_.transitions} beside one that misbehaves")


# -- small questions ----------------------------------------------------------------------------------------------------------


def _served(world: World, visit: Visit) -> bool:
    """Whether a visit gave its client a whole, good answer: not if the client left before that."""
    return visit.whole and visit.status == 200


def _errors(body: bytes) -> int:
    """Count the error events of a stream, read as the event-stream format says and not by our own reader."""
    found = 0
    for event in body.replace(b"\r\n", b"\n").split(b"\n\n"):
        data = b"\n".join(line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:"))
        if data.startswith(b"{"):
            try:
                document = json.loads(data)
            except ValueError:
                continue
            found += bool(document.get("error")) or document.get("type") == "error"
    return found


def _is_error_object(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body)["error"]["code"], str)
    except (ValueError, KeyError, TypeError):
        return False


def _common_events(body: bytes, said: bytes) -> bytes:
    """Return what a body has in common with what was said: all of it, or whole events."""
    if said.startswith(body):
        return body
    length = next((at for at, (one, other) in enumerate(zip(body, said, strict=False)) if one != other), min(len(body), len(said)))
    common = body[:length]
    return common if common == said else common[: common.rfind(b"\n\n") + 2]


def _another_key(last: Visit, visit: Visit) -> bool:
    return last.key != visit.key and last.trouble in ABOUT_A_KEY


def _own_limit(world: World, last: Visit) -> bool:
    return bool(last.key) and not world.providers[last.provider].keys and last.trouble in RATE_LIMITS
