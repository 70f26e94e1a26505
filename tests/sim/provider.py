"""A simulated provider in memory, and its ledger: what it was asked, what it said, what became of it.

The ledger is the independent witness of the simulation. It is written by the provider alone, from what reached it and what it did,
never from the gateway's records; every invariant compares the one with the other. What a provider does is drawn from its weather,
by a generator seeded with the exchange's name, so that one client's doings never change the dice of another.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from gateway.core.message import ResponseHead
from gateway.core.verdicts import IOFault
from gateway.egress.upstream import Receiver
from tests.sim import answers
from tests.sim.answers import EVENTS, JSON, REFUSALS, Lines, Refusal
from tests.sim.clock import BEGIN_S, VirtualLoop

FOREVER = float("inf")
AMBIGUOUS = frozenset({"500", "502", "504", "reset", "cut", "clean_end", "stream_error", "error_200"})
"""Trouble after which the work may have been done and billed: repeating it costs double."""
REFUSED_UNDONE = frozenset({429, 503, 529})
"""Statuses that say: not processed."""


@dataclass(frozen=True, slots=True)
class Spell:
    """Weather for a while, in seconds since the beginning: trouble by its share of requests; the rest is well."""

    start_s: float
    end_s: float
    mix: dict[str, float]
    covers: Callable[[str], bool] = lambda _path: True
    """Which paths it falls on."""


@dataclass(slots=True)
class Visit:
    """One entry of the ledger: one upstream request."""

    number: int
    provider: str
    client: str
    key: str
    model: str
    method: str
    path: str
    raw: bytes
    """Head and body as they came."""
    started_at: float
    started_seq: int
    trouble: str = "ok"
    sent: bool = False
    """The connection was there: the provider may have seen the request."""
    status: int = 0
    wrote: bytearray = field(default_factory=bytearray)
    """Body bytes that left the provider."""
    good: bool = False
    """What it sets out to say is a whole, good answer."""
    whole: bool = False
    """And all of it that matters was said."""
    billed: bool = False
    asked_delay_s: float | None = None
    """How long it asked to be left alone, and from when on that was known."""
    asked_at: float = 0.0
    end: str = ""
    """`finished`, `failed` or `cancelled`; empty while open."""
    closed_at: float = FOREVER
    closed_seq: int = 0

    @property
    def tag(self) -> str:
        """What marks its words."""
        return f"<{self.provider}#{self.number}>"


class Step:
    """Something a provider does, so many seconds after the step before."""

    __slots__ = ("chunk", "delay_s", "detail", "fault", "head", "kind", "whole")

    def __init__(
        self,
        delay_s: float,
        kind: str,
        *,
        head: ResponseHead | None = None,
        chunk: bytes = b"",
        fault: IOFault = IOFault.RESET,
        whole: bool = False,
    ) -> None:
        self.delay_s = delay_s
        self.kind = kind
        """`connect`, `head`, `data`, `end` or `fail`."""
        self.head = head
        self.chunk = chunk
        self.fault = fault
        self.whole = whole
        """With this, the client has everything it needs."""


class Desk:
    """What all simulated providers share: the loop, the numbers of visits, the order of things, the log."""

    def __init__(self, loop: VirtualLoop, seed: int) -> None:
        self.loop = loop
        self.seed = seed
        self.visits: list[Visit] = []
        self.log: list[tuple[float, str, str]] = []
        """(when, client, what): the story."""
        self._seq = 0

    def next(self) -> int:
        """Return a number greater than all before: the order of things that happen at one moment."""
        self._seq += 1
        return self._seq

    def tell(self, client: str, text: str) -> None:
        """Note something in the log."""
        self.log.append((self.loop.time() - BEGIN_S, client, text))


class SimulatedProvider:
    """One provider: its keys, its weather, its ledger."""

    def __init__(
        self,
        name: str,
        *,
        azure: bool = False,
        keys: Sequence[str] = (),
        weather: Sequence[Spell] = (),
        base_per_s: float = FOREVER,
    ) -> None:
        self.name = name
        self.azure = azure
        self.keys = tuple(keys)
        """Ours; empty: it takes the client's own, which are good unless they say otherwise."""
        self.weather = tuple(weather)
        self.base_per_s = base_per_s
        """Requests a second it can bear; beyond a tenth more it answers 502 (a crash loop under retry load)."""
        self._recent: list[float] = []
        self._asked_before: dict[str, int] = {}

    def receive(self, desk: Desk, head: bytes, body: bytes) -> Visit:
        """Enter a request into the ledger and decide what to do about it."""
        line, *rest = head.decode("latin-1").split("\r\n")
        method, path, _ = line.split(" ")
        fields = {name.lower(): value for name, _, value in (entry.partition(": ") for entry in rest if entry)}
        key = fields.get("api-key" if self.azure else "authorization", "").removeprefix("Bearer ")
        client = fields["x-sim-client"]
        visit = Visit(
            number=len(desk.visits) + 1,
            provider=self.name,
            client=client,
            key=key,
            model=_model(path, body),
            method=method,
            path=path.partition("?")[0],
            raw=head + body,
            started_at=desk.loop.time(),
            started_seq=desk.next(),
        )
        desk.visits.append(visit)
        nth = self._asked_before[client] = self._asked_before.get(client, 0) + 1
        visit.trouble = self._trouble(visit, body, random.Random(f"{desk.seed}/{self.name}/{client}/{nth}"))
        desk.tell(client, f"{visit.tag} is asked for {visit.model or visit.path} with {key or 'no key'}; weather: {visit.trouble}")
        return visit

    def steps(self, desk: Desk, visit: Visit, body: bytes, connect_s: float) -> list[Step]:
        """Return what the provider will do, in order."""
        dice = random.Random(f"{desk.seed}/{self.name}/{visit.client}/{visit.number}/steps")
        return list(_play(visit, body, dice, connect_s))

    def _trouble(self, visit: Visit, body: bytes, dice: random.Random) -> str:
        # The client's own doing comes first: it says so in its request.
        if b'"temperature":9' in body:
            return "400"
        if b'"max_tokens":150000' in body and visit.model != "gpt-4.1":
            return "context"
        if "wrong" in visit.key or (self.keys and visit.key not in self.keys):
            return "401"
        now = visit.started_at
        if self.base_per_s < FOREVER:
            self._recent = [at for at in self._recent if at > now - 10.0]
            self._recent.append(now)
            if len(self._recent) > self.base_per_s * 11.0:
                return "502"
        for spell in self.weather:
            if spell.start_s <= now - BEGIN_S < spell.end_s and spell.covers(visit.path):
                drawn = dice.random()
                for trouble, share in spell.mix.items():
                    drawn -= share
                    if drawn < 0:
                        return trouble
                return "ok"
        return "ok"


def _model(path: str, body: bytes) -> str:
    if "/deployments/" in path:
        return path.split("/")[3]
    if not body.startswith(b"{"):
        return ""
    model = json.loads(body).get("model", "")
    return model if isinstance(model, str) else ""


# -- the plays ----------------------------------------------------------------------------------------------------------------


def _play(visit: Visit, body: bytes, dice: random.Random, connect_s: float) -> Iterator[Step]:
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
    elif trouble in REFUSALS and trouble != "error_200":
        yield from _refuse(visit, REFUSALS[trouble], dice)
    elif trouble in ("rate", "rate_ms"):
        visit.asked_delay_s = float(dice.choice((1, 2, 5, 10, 20, 90)))
        yield from _refuse(visit, answers.rate_limited(visit.asked_delay_s, millis=trouble == "rate_ms"), dice)
    else:
        yield from _answer(visit, body, dice)


def _refuse(visit: Visit, refusal: Refusal, dice: random.Random) -> Iterator[Step]:
    visit.status = refusal.status
    body = refusal.body
    yield Step(dice.uniform(0.01, 0.4), "head", head=_head(refusal.status, refusal.lines, len(body)))
    yield Step(0.0, "data", chunk=body)
    yield Step(0.0, "end")


def _answer(visit: Visit, body: bytes, dice: random.Random) -> Iterator[Step]:
    visit.status = 200
    visit.billed = True
    trouble = visit.trouble
    wait_s = dice.uniform(0.05, 0.6)
    if b'"reasoning_effort":"high"' in body:
        wait_s += 6.0
    if trouble == "slow":
        wait_s += dice.uniform(2.0, 14.0)
    if b'"stream":true' in body and trouble != "error_200":
        yield from _stream(visit, dice, wait_s)
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
    yield Step(0.01, "data", chunk=text[:half])
    if trouble == "stall":
        return
    if trouble == "cut":
        yield Step(0.05, "fail")
        return
    if trouble == "clean_end":
        yield Step(0.05, "end")
        return
    yield Step(0.01, "data", chunk=text[half:])
    yield Step(0.0, "end", whole=visit.good)


def _whole_body(visit: Visit) -> bytes:
    if visit.path.endswith("/chat/completions"):
        return answers.chat_body(visit.tag)
    if visit.path.endswith("/responses"):
        return answers.response_body(visit.tag)
    if visit.path.endswith("/embeddings"):
        return answers.embedding_body(visit.tag)
    return answers.object_body(visit.tag)


def _stream(visit: Visit, dice: random.Random, wait_s: float) -> Iterator[Step]:
    chat = visit.path.endswith("/chat/completions")
    words = dice.randint(2, 8)
    events = answers.chat_events(visit.tag, words) if chat else answers.response_events(visit.tag, words)
    prelude = 1 if chat else 3
    trouble = visit.trouble
    visit.good = trouble in ("ok", "slow", "no_done", "drip")
    error = answers.chat_error() if chat else answers.response_error()
    if trouble == "stream_error":
        events = [*events[:prelude], error]
    elif trouble == "late_error":
        events = [*events[: prelude + dice.randint(1, words)], error]
    elif trouble in ("cut", "clean_end", "stall"):
        events = events[: dice.randint(0, prelude + words)]
    elif chat and trouble != "no_done":
        events.append(answers.DONE)
    yield Step(wait_s, "head", head=_head(200, EVENTS, None))
    pause_s = dice.choice((0.0, 0.02, 0.2)) if trouble != "drip" else 3.0
    rest = len(events)
    for chunk in _chunks(events, dice):
        rest -= chunk.count(b"\n\n")
        yield Step(pause_s, "data", chunk=chunk, whole=visit.good and rest <= 0)
    if trouble == "cut":
        yield Step(0.05, "fail")
    elif trouble != "stall":
        # Some keep the connection waiting for its end long after the last event.
        yield Step(dice.choice((0.0, 0.0, 0.1, 5.0)) if visit.good and trouble != "no_done" else 0.0, "end", whole=visit.good)


def _chunks(events: list[bytes], dice: random.Random) -> Iterator[bytes]:
    """Cut a stream as networks do: mostly an event each, sometimes two together, sometimes one in two parts."""
    held = b""
    for event in events:
        drawn = dice.random()
        if drawn < 0.1:
            held += event
        elif drawn < 0.2:
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
    return ResponseHead(status, headers, content_length=length, chunked=stream)


# -- the network --------------------------------------------------------------------------------------------------------------


class MemoryCall:
    """`gateway.egress.upstream.Call`: plays a provider's steps into a receiver."""

    def __init__(self, desk: Desk, provider: SimulatedProvider, head: bytes, body: bytes, receiver: Receiver, connect_s: float) -> None:
        self._desk = desk
        self._receiver = receiver
        self._paused = False
        self._waiting = False
        self._upload_missing = False
        self._timer: asyncio.Handle | None = None
        self.visit = provider.receive(desk, head, body)
        self._steps = iter(provider.steps(desk, self.visit, body, connect_s))
        self._step: Step | None = None

    def begin(self, *, whole: bool) -> None:
        """Start; `whole`: nothing more of the request will come."""
        self._upload_missing = not whole
        step = self._step = next(self._steps, None)
        if step is not None and step.kind == "connect" and step.delay_s < 0:
            self._connected()
        elif step is not None:
            self._timer = self._desk.loop.call_later(step.delay_s, self._ring)

    def write(self, chunk: bytes) -> None:
        self.visit.raw += chunk

    def end_of_body(self) -> None:
        self._upload_missing = False
        if self._waiting and not self._paused and not self.visit.end:
            self._waiting = False
            self._timer = self._desk.loop.call_soon(self._ring)

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        if self._waiting and not self._upload_missing and not self.visit.end:
            self._waiting = False
            self._timer = self._desk.loop.call_soon(self._ring)

    def cancel(self) -> None:
        if not self.visit.end:
            self._close("cancelled")

    def _connected(self) -> None:
        self.visit.sent = True
        self._receiver.sending()
        self._go_on()

    def _go_on(self) -> None:
        if self.visit.end:
            return
        step = self._step = next(self._steps, None)
        if step is not None:
            self._timer = self._desk.loop.call_later(step.delay_s, self._ring)

    def _ring(self) -> None:
        step, visit, receiver = self._step, self.visit, self._receiver
        assert step is not None
        if step.kind == "connect":
            self._connected()
            return
        answering = step.kind in ("head", "data", "end")
        if (self._paused and answering) or (self._upload_missing and step.kind == "head"):
            self._waiting = True
            return
        if step.whole:
            visit.whole = True
        if step.kind == "head":
            assert step.head is not None
            self._desk.tell(visit.client, f"{visit.tag} says {step.head.status}")
            receiver.head(step.head)
        elif step.kind == "data":
            visit.wrote += step.chunk
            receiver.data(step.chunk)
        elif step.kind == "end":
            visit.asked_at = self._desk.loop.time()
            self._close("finished")
            receiver.ended()
            return
        else:
            self._close("failed")
            receiver.failed(step.fault, "simulated", sent=visit.sent)
            return
        self._go_on()

    def _close(self, end: str) -> None:
        visit = self.visit
        visit.end = end
        visit.closed_at = self._desk.loop.time()
        visit.closed_seq = self._desk.next()
        if self._timer is not None:
            self._timer.cancel()
        self._desk.tell(visit.client, f"{visit.tag} {'hears that the call is off' if end == 'cancelled' else end}")
