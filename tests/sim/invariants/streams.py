"""Streams as the client reads them: comments, early heads, what was held back, and what was continued by somebody else.

Streams are read here as the event-stream format and the published shapes say, and not by our own readers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from gateway.ingress.callers import MARGIN_S, MARGIN_SHARE
from tests.sim.client import Client
from tests.sim.invariants.breach import EPS, invariant
from tests.sim.invariants.races import CLIENTS_END, opened_early, overtaken, resumes, winner
from tests.sim.invariants.reading import family, journeys, target_of
from tests.sim.ledger import Visit
from tests.sim.plays import REFUSALS_TO_GO_ON
from tests.sim.world import World

KEEP_ALIVE = b": keep-alive\n\n"
SEAM = re.compile(rb"(?:\A|(?<=\n\n)): gateway resumed on (\w+)\n\n")
LATE_S = 0.05
UNFORESEEN = frozenset({*CLIENTS_END, "internal"})


@dataclass(slots=True)
class Said:
    """What a stream of chat or responses says."""

    text: str = ""
    ids: set[str] = field(default_factory=set)
    roles: int = 0
    finishes: int = 0
    terminators: int = 0
    errors: int = 0
    usage: tuple[int, int] | None = None
    extra: int = 0
    """Chunks that tell the usage and nothing else."""
    closed: bool = False
    """No more text will come: chat was finished, the text of a response done."""
    numbers: list[int] = field(default_factory=list)
    texts: set[str] = field(default_factory=set)
    """The whole text, wherever a response tells it once more."""
    after: bool = False
    """Something was said behind the terminator, or behind an error."""


def without_comments(body: bytes) -> bytes:
    """Return what a client's SDK reads of a stream: nothing that the gateway put between the events."""
    plain = body.replace(KEEP_ALIVE, b"")
    return SEAM.sub(b"", plain) if b": gateway resumed" in plain else plain


@lru_cache(maxsize=1024)
def said(body: bytes) -> Said:
    """Read the whole events of a stream; what was read is remembered, and not to be changed."""
    found = Said()
    for event in body[: body.rfind(b"\n\n") + 2].split(b"\n\n"):
        data = b"\n".join(line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:"))
        if not data:
            continue
        found.after = found.after or found.terminators > 0 or found.errors > 0
        if data == b"[DONE]":
            found.terminators += 1
            found.closed = True
            continue
        document = json.loads(data)
        if document.get("error") or document.get("type") == "error":
            found.errors += 1
        elif "type" in document:
            _hear_response(found, document)
        else:
            _hear_chat(found, document)
    return found


def _hear_chat(found: Said, document: dict[str, Any]) -> None:
    found.ids.add(document["id"])
    usage = document.get("usage")
    if usage:
        found.usage = usage["prompt_tokens"], usage["completion_tokens"]
    found.extra += not document["choices"]
    for choice in document["choices"]:
        found.roles += "role" in choice["delta"]
        found.text += choice["delta"].get("content") or ""
        if choice["finish_reason"]:
            found.finishes += 1
            found.closed = True


def _hear_response(found: Said, document: dict[str, Any]) -> None:
    kind = document["type"]
    found.numbers.append(document["sequence_number"])
    item = document.get("item_id") or document.get("item", {}).get("id")
    if item:
        found.ids.add(item)
    if "response" in document:
        found.ids.add(document["response"]["id"])
        usage = document["response"]["usage"]
        if usage:
            found.usage = usage["input_tokens"], usage["output_tokens"]
    found.roles += kind == "response.output_item.added"
    if kind == "response.output_text.delta":
        found.text += document["delta"]
    elif kind == "response.output_text.done":
        found.closed = True
        found.texts.add(document["text"])
    elif kind == "response.content_part.done":
        found.texts.add(document["part"]["text"])
    elif kind == "response.output_item.done":
        found.texts |= {part["text"] for part in document["item"].get("content", ())}
    elif kind == "response.completed":
        found.finishes += 1
        found.terminators += 1
        found.texts |= {part["text"] for item in document["response"]["output"] for part in item.get("content", ())}


@dataclass(slots=True)
class Whole:
    """What the parts of a resumed stream make together."""

    text: str
    over: bool = False
    """The last part that fitted said that it was finished."""
    fitting: list[Visit] = field(default_factory=list)
    """The parts that caught up with what there was."""
    new: list[Visit] = field(default_factory=list)
    """Those of them that said something new."""


def together(first: Visit, parts: list[Visit]) -> Whole:
    """Put a stream together from what the providers said, as whoever reads them side by side would."""
    whole = Whole(said(bytes(first.wrote)).text)
    for part in parts:
        told = said(bytes(part.wrote))
        begun = part.prefill or ""
        owed = whole.text[len(begun) :] if whole.text.startswith(begun) else None
        whole.over = False
        if owed is None or part.status != 200:
            continue
        if told.text.startswith(owed):
            whole.text += told.text[len(owed) :]
            whole.fitting.append(part)
            if told.text[len(owed) :] or told.closed:
                whole.new.append(part)
            whole.over = told.closed
        elif begun and told.closed and not told.text.strip() and not owed.strip():
            # The space at the end of what there was; it was not asked to repeat that.
            whole.fitting.append(part)
            whole.over = True
    return whole


@invariant
def comments_stand_between_events(world: World) -> Iterator[tuple[str, str]]:
    """Our own comments are whole, and never in the middle of an event."""
    for name, client in world.clients.items():
        body = bytes(client.body)
        at = body.find(b": keep-alive")
        while at >= 0:
            if not body.startswith(KEEP_ALIVE, at) or (at and not body.endswith(b"\n\n", 0, at)):
                yield name, f"a comment in {body[max(0, at - 20) : at + 20]!r}"
            at = body.find(b": keep-alive", at + 1)
        if body.count(b": gateway resumed") != len(SEAM.findall(body)):
            yield name, "a seam in the middle of an event"


@invariant
def streams_are_kept_alive(world: World) -> Iterator[tuple[str, str]]:
    """Where the route says so a stream is never silent for much longer, and its head is never later, than was promised."""
    plan = world.policy.stream
    for name, client in world.clients.items():
        errand = client.errand
        if not errand.stream or client.status not in (0, 200) or errand.blocks_at_chunk or errand.homebound or resumes(world, name):
            continue
        # Half an event is life from a provider, and nothing for the client; it ends one silence and begins another.
        if client.opened_at and client.silent_s > 2 * plan.keepalive_s + LATE_S:
            yield name, f"{client.silent_s:.2f} s of silence"
        until = client.opened_at or client.done_at
        if until - client.began_at > plan.early_keepalive_s + LATE_S:
            yield name, f"no head for {until - client.began_at:.2f} s"


@invariant
def early_heads_keep_their_word(world: World) -> Iterator[tuple[str, str]]:
    """What was promised to be a stream is one, whole, or ends in an error in the stream: it is never cut off without a word."""
    for name, client in world.clients.items():
        if not opened_early(world, name):
            continue
        if world.policy.stream.early_keepalive_s == float("inf") or not client.errand.stream:
            yield name, "a head before there was an answer"
        elif client.endings == ["aborted"]:
            yield name, "cut off without a word"
        elif client.endings == ["ended"] and not client.content_seq:
            yield name, "promised a stream, and ended without one"
        elif client.endings == ["ended"] and winner(world, name) is None:
            told = said(without_comments(bytes(client.body)))
            if (told.errors, told.terminators, told.after) != (1, 0, False):
                yield name, f"no answer, and the stream says {bytes(client.body)[-200:]!r}"


@invariant
def held_until_it_is_sure(world: World) -> Iterator[tuple[str, str]]:
    """What broke within the time for which streams are held back was never seen; where that is for ever, no broken stream is.

    What is there when the client's time is up is delivered then, held or not.
    """
    hold_s = world.policy.stream.hold_s
    for name, client in world.clients.items() if hold_s else ():
        won = winner(world, name)
        if won is None or not client.errand.stream or client.status != 200 or client.errand.homebound:
            continue
        if hold_s == float("inf"):
            if not won.whole:
                yield name, f"{won.tag} broke, and the client saw it"
            continue
        patience_s = client.errand.patience_s or float("inf")
        time_up = client.began_at + min(world.policy.deadline_s, patience_s - min(MARGIN_S, MARGIN_SHARE * patience_s))
        sure_at = min(won.spoke_at + hold_s, time_up)
        if client.content_at < sure_at - EPS and not (won.whole and won.closed_at < won.spoke_at + hold_s + 1.0 + EPS):
            yield name, f"{won.tag} was seen {client.content_at - won.spoke_at:.2f} s after its first content, and was not whole"
        if not won.whole and won.closed_at < sure_at - EPS:
            yield name, f"{won.tag} broke after {won.closed_at - won.spoke_at:.2f} s, and the client saw it"


@invariant
def resumed_where_it_may_be(world: World) -> Iterator[tuple[str, str]]:
    """After content goes out nobody else is asked, but for plain text that broke off, on a route that resumes, and by somebody else."""
    for name, visits in world.by_client().items():
        client = world.clients[name]
        errand, won = client.errand, winner(world, name)
        kind = errand.path.endswith((b"/chat/completions", b"/responses"))
        for visit in resumes(world, name):
            before = [other for other in visits if other.started_seq < visit.started_seq]
            if not (world.policy.stream.resume and errand.stream and errand.continuable and kind and won):
                yield name, f"{visit.tag} began after the client had its head"
                continue
            if any(other.whole and other is won for other in before) or said(bytes(won.wrote)).closed:
                yield name, f"{visit.tag} continues what was whole"
            same = [other for other in before if target_of(other) == target_of(visit) and not overtaken(world, other)]
            if same and same[-1].trouble not in REFUSALS_TO_GO_ON:
                yield name, f"{visit.tag} continues where {same[-1].tag} failed"


@invariant
def broken_streams_are_resumed(world: World) -> Iterator[tuple[str, str]]:
    """A stream does not break for good while a target that nothing speaks against could go on with it."""
    if not world.policy.stream.resume:
        return
    trouble: dict[str, int] = {}
    for visit in world.visits:
        if visit.trouble != "ok":
            trouble.setdefault(visit.provider, visit.started_seq)
    for journey in journeys(world):
        client, won, errand = journey.client, winner(world, journey.name), journey.errand
        if won is None or not errand.stream or not errand.continuable or client.endings == ["left"] or won.whole:
            continue
        if client.record.reason in UNFORESEEN or not journey.family.startswith(("chat", "responses")) or errand.homebound:
            continue
        told = said(without_comments(bytes(client.body)))
        if not told.errors and client.endings != ["aborted"]:
            continue
        if told.closed or len(journey.visits) >= world.policy.attempts:
            continue
        asked = set(map(target_of, journey.visits))
        for target in journey.targets:
            if target not in asked and trouble.get(target[0], client.done_seq) >= client.done_seq:
                yield journey.name, f"{won.tag} broke off, and {target[0]} was not asked to go on"


@invariant
def splices_are_seamless(world: World) -> Iterator[tuple[str, str]]:
    """A resumed stream is what its providers said, character by character, under the first one's name, and declared as what it is."""
    for name in world.clients:
        parts, won, client = resumes(world, name), winner(world, name), world.clients[name]
        if not parts or won is None:
            continue
        whole, told = together(won, parts), said(without_comments(bytes(client.body)))
        if told.text != whole.text and not (client.endings == ["left"] and whole.text.startswith(told.text)):
            yield name, f"the client reads {told.text!r}, the providers said {whole.text!r}"
        if len(told.ids) > (1 if client.errand.path.endswith(b"/chat/completions") else 2):
            yield name, f"ids of several answers: {told.ids}"
        if told.roles > 1 or told.finishes > 1 or told.terminators > 1 or told.errors > 1 or told.after:
            yield name, f"not one stream: {told}"
        if told.numbers != sorted(set(told.numbers)) or (told.texts and told.texts != {whole.text}):
            yield name, f"a response that contradicts itself: {told}"
        if client.endings == ["ended"] and not told.errors and not (whole.over and told.finishes == 1 and told.terminators == 1):
            yield name, f"ended as if it were whole: {told}"
        declared = [seam.decode() for seam in SEAM.findall(bytes(client.body))]
        fitting = [part.provider for part in whole.fitting]
        if client.endings != ["left"] and not (
            set(declared) <= set(fitting) and {part.provider for part in whole.new} <= set(declared)
        ):
            yield name, f"declared {declared}; continued by {[part.provider for part in whole.new]} of {fitting}"


def _streamed(client: Client) -> bool:
    return client.status == 200 and client.fields.get("content-type", "").startswith("text/event-stream")


@invariant
def refused_beginnings_are_remembered(world: World) -> Iterator[tuple[str, str]]:
    """A target that refused the beginning of an answer once is not given one again; and nobody is whose operator has not said so."""
    refused: dict[tuple[str, str, str], int] = {}
    for visit in world.visits:
        if visit.prefill is None:
            continue
        if visit.provider not in world.delivery.prefill:
            yield visit.client, f"{visit.tag} was given a beginning"
        place = visit.provider, visit.model, family(visit.path)
        if visit.started_seq > refused.get(place, visit.started_seq):
            yield visit.client, f"{visit.tag} was given a beginning, which it refuses"
        if visit.trouble == "no_prefill" and visit.closed_seq and visit.end == "finished":
            refused[place] = min(refused.get(place, visit.closed_seq), visit.closed_seq)


@invariant
def usage_is_what_was_reported(world: World) -> Iterator[tuple[str, str]]:
    """Usage is the sum of what the providers of a stream reported, or marked as less; and only whoever asked is told in a chunk."""
    for name, client in world.clients.items():
        won, errand = winner(world, name), client.errand
        if won is None or not _streamed(client) or not won.path.endswith(("/chat/completions", "/responses")):
            continue
        told = said(without_comments(bytes(client.body)))
        asked = b"include_usage" in errand.body
        if told.extra and not asked:
            yield name, "a chunk for the usage that nobody had asked for"
        if client.record.ending != "ok":
            continue
        if asked and not told.extra:
            yield name, "the client asked for the usage, and was not told"
        parts = [won, *(part for part in resumes(world, name) if part.wrote and part.status == 200)]
        reports = [said(bytes(part.wrote)).usage for part in parts]
        known = [report for report in reports if report is not None]
        if client.record.usage_partial:
            fitting = together(won, parts[1:]).fitting
            if len(known) == len(parts) == len(fitting) + 1:
                yield name, "marked as partial, though all have reported"
        elif known and len(known) == len(parts):
            total = sum(given for given, _ in known), sum(made for _, made in known)
            if client.record.usage != total:
                yield name, f"the record says {client.record.usage}, the providers {known}"
        elif client.record.usage is not None:
            yield name, f"the record says {client.record.usage}, which {len(parts) - len(known)} of {len(parts)} did not report"
