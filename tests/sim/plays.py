"""What a simulated provider does about one request, step by step, with good answers and every kind of trouble.

A play is a list of steps with delays; `network` performs it. Each trouble is one word, which is how weather and invariants name it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from gateway.core.message import ResponseHead
from gateway.core.verdicts import IOFault
from tests.sim import answers
from tests.sim.answers import EVENTS, JSON, REFUSALS, Lines, Refusal
from tests.sim.ledger import Visit

AMBIGUOUS = frozenset(
    {"500", "500_final", "500_late", "502", "504", "reset", "hang_up", "cut", "clean_end", "stream_error", "error_200"}
)
"""Trouble after which the work may have been done and billed: repeating it costs double."""
MODEL_CALLS = ("/chat/completions", "/responses", "/embeddings", "/images/generations")
MODELS_ONLY = frozenset({"error_200", "no_stream", "html_200", "clean_end", "400_drained"})
"""What cannot be told from a good answer where anything may be an answer; and what only a model can run out of."""
RATE_LIMITS = frozenset({"rate", "rate_ms", "rate_soon", "rate_bare", "rate_false"})
BENCHES = frozenset({"401", "billing", "403"})
ABOUT_A_KEY = RATE_LIMITS | BENCHES
PLAIN = frozenset({"ok", "no_done", "bare_done", "400", "context", "no_prefill"})
"""Nothing that can be held against a target: a good answer in good time, or what the client itself, or the gateway, has earned."""
ANSWERS = frozenset(
    {
        "ok",
        "slow",
        "drip",
        "no_stream",
        "stall",
        "cut",
        "clean_end",
        "stream_error",
        "late_error",
        "no_done",
        "bare_done",
        "stall_30",
    }
)
"""Trouble that shows when an answer has begun, or none: the request itself was found in order."""
REFUSALS_TO_GO_ON = frozenset({"no_prefill"})
"""Whoever says so may be asked once more, from the beginning."""
REFUSED_UNDONE = frozenset({429, 503, 529})
"""Statuses that say: not processed."""


class Step:
    """Something a provider does, so many seconds after the step before."""

    __slots__ = ("chunk", "delay_s", "fault", "head", "kind", "lives", "whole")

    def __init__(
        self,
        delay_s: float,
        kind: str,
        *,
        head: ResponseHead | None = None,
        chunk: bytes = b"",
        fault: IOFault = IOFault.RESET,
        whole: bool = False,
        lives: bool = False,
    ) -> None:
        self.delay_s = delay_s
        self.kind = kind
        """`connect`, `head`, `data`, `end` or `fail`."""
        self.head = head
        self.chunk = chunk
        self.fault = fault
        self.whole = whole
        """With this, the client has everything it needs."""
        self.lives = lives
        """With this, a part of an answer has been seen, and not only that one will come."""


def play(visit: Visit, body: bytes, dice: random.Random, connect_s: float) -> Iterator[Step]:
    """Yield the steps of one visit. A negative delay for `connect`: a connection is at hand, nothing is waited for."""
    trouble = visit.trouble
    if trouble == "refused":
        yield Step(dice.uniform(0.0, 0.05), "fail", fault=IOFault.CONNECT)
        return
    if trouble == "connect_timeout":
        yield Step(connect_s, "fail", fault=IOFault.CONNECT_TIMEOUT)
        return
    yield Step(-1.0 if dice.random() < 0.5 else dice.uniform(0.001, 0.05), "connect")
    if trouble == "reset":
        yield Step(dice.uniform(0.01, 0.5), "fail")
    elif trouble == "silent":
        return
    elif trouble == "hang_up":
        yield Step(dice.uniform(31.0, 40.0), "fail")
    elif trouble == "500_late":
        yield from _refuse(REFUSALS["500"], dice, later_s=dice.uniform(1.0, 4.0))
    elif trouble in REFUSALS and trouble != "error_200":
        yield from _refuse(REFUSALS[trouble], dice)
    elif trouble in ("rate", "rate_ms", "rate_soon"):
        visit.asked_delay_s = 1.0 if trouble == "rate_soon" else float(dice.choice((1, 2, 5, 10, 20, 90)))
        yield from _refuse(answers.rate_limited(visit.asked_delay_s, millis=trouble == "rate_ms"), dice)
    elif trouble == "503_later":
        visit.asked_delay_s = float(dice.choice((1, 2, 5)))
        yield from _refuse(answers.overloaded(visit.asked_delay_s), dice)
    else:
        yield from _answer(visit, body, dice)


def _refuse(refusal: Refusal, dice: random.Random, *, later_s: float = 0.0) -> Iterator[Step]:
    body = refusal.body
    yield Step(later_s + dice.uniform(0.01, 0.4), "head", head=_head(refusal.status, refusal.lines, len(body)))
    yield Step(0.0, "data", chunk=body)
    yield Step(0.0, "end")


def _answer(visit: Visit, body: bytes, dice: random.Random) -> Iterator[Step]:
    trouble = visit.trouble
    wait_s = dice.uniform(0.05, 0.6)
    if b'"reasoning_effort":"high"' in body:
        wait_s += 6.0
    if trouble == "slow":
        wait_s += dice.uniform(2.0, 14.0)
    elif trouble == "stall_30":
        wait_s += 30.0
    if b'"stream":true' in body and trouble not in ("error_200", "no_stream"):
        yield from _stream(visit, body, dice, wait_s)
        return
    text = _whole_body(visit)
    framed = trouble != "clean_end"
    visit.good = trouble not in ("cut", "clean_end", "stall", "error_200", "stream_error", "late_error")
    if trouble == "error_200":
        text = REFUSALS["error_200"].body
    if trouble in ("stream_error", "late_error"):
        # The equivalent without a stream: the connection breaks before anything is said.
        yield Step(wait_s, "fail")
        return
    yield Step(wait_s, "head", head=_head(200, JSON, len(text) if framed else None))
    half = len(text) // 2
    yield Step(0.01, "data", chunk=text[:half], lives=not visit.path.endswith(MODEL_CALLS))
    if trouble == "stall":
        return
    if trouble == "cut":
        yield Step(0.05, "fail")
        return
    if trouble == "clean_end":
        yield Step(0.05, "end")
        return
    yield Step(0.01, "data", chunk=text[half:])
    yield Step(0.0, "end", whole=visit.good, lives=visit.good)


def _whole_body(visit: Visit) -> bytes:
    if visit.path.endswith("/chat/completions"):
        return answers.chat_body(visit.tag)
    if visit.path.endswith("/responses"):
        return answers.response_body(visit.tag)
    if visit.path.endswith("/embeddings"):
        return answers.embedding_body(visit.tag)
    return answers.object_body(visit.tag)


def _stream(visit: Visit, body: bytes, dice: random.Random, wait_s: float) -> Iterator[Step]:
    chat, images = visit.path.endswith("/chat/completions"), visit.path.endswith("/images/generations")
    calls = "calls" if b'"tools":' in body else ""
    pieces = _pieces(visit, body, dice.randint(2, 8))
    words = len(pieces)
    if chat:
        running = " usage running" if visit.counts else " usage"
        events = answers.chat_events(visit.tag, pieces, calls + (running if b'"include_usage":true' in body else ""))
        prelude = 1
    else:
        tell = answers.image_events if images else answers.response_events
        events = tell(visit.tag, pieces, calls)
        prelude = 0 if images else 3 if calls else 4
    trouble = visit.trouble
    visit.good = trouble in ("ok", "slow", "stall_30", "no_done", "bare_done", "drip")
    error = answers.chat_error() if chat else answers.response_error()
    if trouble == "stream_error":
        events = [*events[:prelude], error]
    elif trouble == "late_error":
        events = [*events[: prelude + dice.randint(min(1, words), words)], error]
    elif trouble in ("cut", "clean_end", "stall"):
        events = events[: dice.randint(0, prelude + words)]
    elif trouble == "bare_done":
        # Without its blank line; some send it after streams that have no terminator.
        events.append(answers.DONE.rstrip())
    elif chat and trouble != "no_done":
        events.append(answers.DONE)
    yield Step(wait_s, "head", head=_head(200, EVENTS, None))
    pause_s = dice.choice((0.0, 0.02, 0.2)) if trouble != "drip" else 3.0
    # Another picture might follow the last one: only the end of the body makes that stream whole.
    rest = len(events) + images - (trouble == "bare_done" and not chat)
    told = 0
    for chunk in _chunks(events, dice):
        ended = chunk.count(b"\n\n")
        rest -= ended
        told += ended
        lives = told > prelude and trouble != "stream_error"
        yield Step(pause_s, "data", chunk=chunk, whole=visit.good and rest <= 0, lives=lives)
    if trouble == "cut":
        yield Step(0.05, "fail")
    elif trouble != "stall":
        # Some keep the connection waiting for its end long after the last event.
        yield Step(dice.choice((0.0, 0.0, 0.1, 5.0)) if visit.good and trouble != "no_done" else 0.0, "end", whole=visit.good)


def _pieces(visit: Visit, body: bytes, words: int) -> answers.Pieces:
    """Return what will be said: where it is agreed on, or was begun by another, only the dice's idea of a piece is this one's own."""
    begun = visit.prefill if visit.prefill is not None and visit.continues else ""
    if b'"seed":7' not in body or not answers.AGREED.startswith(begun):
        return answers.own_words(words)
    return answers.cut(answers.AGREED[len(begun) :], 4 + words)


def _chunks(events: list[bytes], dice: random.Random) -> Iterator[bytes]:
    """Cut a stream as networks do: mostly an event each, sometimes two together, sometimes one in two parts."""
    held = b""
    for event in events:
        drawn = dice.random()
        if drawn < 0.1:
            held += event
        elif drawn < 0.2 and event.endswith(b"\n\n"):
            half = len(event) // 2
            yield held + event[:half]
            held = event[half:]
        else:
            yield held + event
            held = b""
    if held:
        yield held


def _head(status: int, lines: Lines, length: int | None) -> ResponseHead:
    headers = [(name.lower(), name, value) for name, value in lines]
    if length is not None:
        headers.append((b"content-length", b"Content-Length", b"%d" % length))
    stream = (b"Content-Type", EVENTS[0][1]) in lines
    if stream:
        headers.append((b"transfer-encoding", b"Transfer-Encoding", b"chunked"))
    head = ResponseHead.of(status, headers)
    head.content_length, head.chunked = length, stream
    return head
