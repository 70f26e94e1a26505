"""Answers: every client gets one, and each is one, whole or marked as broken, and the provider's own words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from tests.sim.invariants.breach import invariant
from tests.sim.invariants.races import TAG, final, opened_early, resumes, winner
from tests.sim.invariants.streams import without_comments
from tests.sim.world import World

_ERROR_LIKE = re.compile(rb'"error"\s*:\s*[^n\s]|:\s*"error"')
"""Without this there is no error event; most streams have none, and reading all their events takes long."""


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


@invariant
def one_answer(world: World) -> Iterator[tuple[str, str]]:
    """The words of two answers never meet in one stream, but where that is declared; nothing of whoever lost a race is heard."""
    for name, client in world.clients.items():
        tags = set(TAG.findall(client.body))
        if len(tags) > 1 + client.body.count(b": gateway resumed on "):
            yield name, f"the client got the words of {sorted(tags)}"


@invariant
def truncation_never_looks_clean(world: World) -> Iterator[tuple[str, str]]:
    """Law 5: what ends in an orderly way is a whole answer, or an error that says so; no terminator follows an error."""
    for name, client in world.clients.items():
        said = _errors(bytes(client.body)) if client.errand.stream and client.status == 200 else 0
        if said and b"[DONE]" in client.body:
            yield name, "a terminator in a stream that says it is broken"
        last = final(world, name)
        if client.endings == ["ended"] and client.status == 200 and not said and not (last and last.whole):
            yield name, f"an answer that was not whole ({last.trouble if last else 'nobody was asked'}) ended as if it were"


@invariant
def bytes_pass_through(world: World) -> Iterator[tuple[str, str]]:
    """Law 4: what a provider said reaches the client byte for byte, errors too; only comments, endings and seams may be ours."""
    visits = world.by_client()
    for name, client in world.clients.items():
        if not client.opened_at or resumes(world, name):
            continue
        body, asked = without_comments(bytes(client.body)), visits[name]
        if "x-gateway-provider" not in client.fields and not opened_early(world, name):
            if client.endings == ["ended"] and not _is_error_object(body):
                yield name, f"a refusal that is no error object: {body[:80]!r}"
            continue
        if client.status >= 400:
            if not any(body == bytes(visit.wrote) or (visit.status == 200 and body in bytes(visit.wrote)) for visit in asked):
                yield name, f"an error that nobody said: {body[:80]!r}"
            continue
        # Of whom nothing was heard nothing can have been changed.
        by = winner(world, name) or (asked[-1] if not opened_early(world, name) else None)
        said = _without_extra(client.errand.body, bytes(by.wrote)) if by is not None else b""
        own = body[len(_common_events(body, said)) :]
        whole = by is not None and by.whole and client.endings == ["ended"]
        if own.strip() not in (b"", b"data: [DONE]") and _errors(own) != 1:
            yield name, f"the client got {own[:80]!r}, which {by.tag if by else 'nobody'} did not say"
        elif by is not None and whole and not body.startswith(said.removesuffix(b"data: [DONE]").rstrip()):
            yield name, f"{by.tag} said {len(said)} bytes, the client got {len(body)}"


def _without_extra(asked: bytes, said: bytes) -> bytes:
    """Return what was said to a client which did not ask for the chunk that tells a stream's usage, however it came to be there."""
    if b"include_usage" in asked or b'"choices":[]' not in said:
        return said
    events = said.split(b"\n\n")
    return b"\n\n".join(event for event in events if b'"choices":[]' not in event)


def _errors(body: bytes) -> int:
    """Count the error events of a stream, read as the event-stream format says and not by our own reader."""
    if not _ERROR_LIKE.search(body):
        return 0
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
