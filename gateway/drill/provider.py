"""The simulated provider: one real HTTP server that speaks OpenAI's dialect, answers well, and misbehaves on command.

The law here: it is a provider, not a mock. It knows nothing of the gateway, imports none of its data plane or dialects, and can
only be talked to over its socket; tests, the demo, drills and the documentation use this one. What happens to a request is decided
in `plan.py`, said in `answers.py` and `refusals.py`, written by `wire.py` and recorded in `ledger.py`; this is the order of events.

`python -m gateway.drill.provider --name primary` runs one, prints `{"name", "url", "port", "pid"}` as one line of JSON, and stops
on SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import os
import random
import signal
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from gateway.drill import answers, refusals
from gateway.drill.account import MAKERS, Account
from gateway.drill.address import Address, parse_address
from gateway.drill.answers import Events, Voice, Whole
from gateway.drill.control import control
from gateway.drill.faults import Call, Delay, Html, Raw, Refuse, Reset, Status, as_delay, as_fault, pairs
from gateway.drill.ledger import End, Entry, Ledger, key_hash
from gateway.drill.listener import Listener
from gateway.drill.plan import Denial, Effects, FaultPlan
from gateway.drill.script import Script
from gateway.drill.wire import Sent, Severed, Wire


class SimulatedProvider:
    """One upstream account at one address.

    `tokens` pieces of text per answer, `token_delay_s` between two events of a stream, `latency` before every good inference answer
    (seconds or a distribution). `keys`: the credentials it knows, None for any or none; `models`: those it has, None for any name.
    Everything drawn by chance comes from `seed` and `name`; `clock` gives seconds, the event loop's by default.
    """

    def __init__(
        self,
        name: str,
        *,
        seed: int = 0,
        tokens: int = 20,
        token_delay_s: float = 0.0,
        latency: Delay | float = 0.0,
        keys: Collection[str] | None = None,
        models: Collection[str] | None = None,
        keep_bodies: bool = False,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.name = name
        self.account = Account(Voice(name, tokens), keys=keys, models=models)
        self.token_delay_s = token_delay_s
        self.latency = as_delay(latency)
        self.keep_bodies = keep_bodies
        self._rng = random.Random(f"{name}/{seed}")
        self._clock = clock
        self._origin_s: float | None = None
        self.faults = FaultPlan(random.Random(f"{name}/{seed}/faults"), self.now)
        self.ledger = Ledger(self.now, name=name)
        self._listener = Listener(self._serve, self._settled)
        self._windows: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<SimulatedProvider {self.name} {self.url if self.port else 'not started'}>"

    @property
    def voice(self) -> Voice:
        """What its answers will be: `provider.voice.text(messages)`."""
        return self.account.voice

    @property
    def port(self) -> int:
        """The port it listens on; 0 before the start."""
        return self._listener.port

    @property
    def url(self) -> str:
        """What goes into `OPENAI_BASE_URL`."""
        return f"{self.origin}/v1"

    @property
    def origin(self) -> str:
        """Scheme, host and port: an Azure resource's endpoint, and the base of the control addresses."""
        return f"http://{self._listener.host}:{self.port}"

    def now(self) -> float:
        """Seconds since the start."""
        if self._origin_s is None:
            return 0.0
        return self._read_clock() - self._origin_s

    def _read_clock(self) -> float:
        return self._clock() if self._clock is not None else asyncio.get_running_loop().time()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; port 0 takes a free one. Raises OSError if the address cannot be had."""
        self._origin_s = self._read_clock()
        await self._listener.open(host, port)

    async def stop(self) -> None:
        """Close everything at once, whatever is under way; the ledger is complete afterwards."""
        for task in self._windows:
            task.cancel()
        await asyncio.gather(*self._windows, return_exceptions=True)
        await self._listener.close()

    async def refuse(self, *, spare: asyncio.BaseTransport | None = None) -> None:
        """Refuse connections from now on, and reset the existing ones (except `spare`). The port stays ours. Idempotent."""
        await self._listener.refuse(spare)

    async def accept(self) -> None:
        """Listen again on the same port. Idempotent."""
        await self._listener.accept()

    @property
    def refusing(self) -> bool:
        """Whether connections are refused."""
        return self._listener.refusing

    def play(self, script: Script) -> None:
        """Begin a script now; its windows of refused connections go by the event loop's time."""
        self.faults.play(step for step in script.steps if not isinstance(step.fault, Refuse))
        for step in script.steps:
            if isinstance(step.fault, Refuse):
                self.spawn(self._refuse_between(step.start_s, step.end_s))

    def spawn(self, work: Any) -> None:
        """Run a coroutine until it ends or the provider stops."""
        task = asyncio.get_running_loop().create_task(work)
        self._windows.add(task)
        task.add_done_callback(self._windows.discard)

    async def _refuse_between(self, start_s: float, end_s: float) -> None:
        await asyncio.sleep(start_s)
        await self.refuse()
        await asyncio.sleep(end_s - start_s)
        await self.accept()

    async def refuse_for(self, seconds: float, *, spare: asyncio.BaseTransport | None = None) -> None:
        """Refuse now, and accept again after so many seconds."""
        await self.refuse(spare=spare)
        self.spawn(self._accept_after(seconds))

    async def _accept_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self.accept()

    async def _settled(self) -> None:
        # Every request ends with its connection; one that does not is a mistake here, and must not hang whoever stops us.
        async with asyncio.timeout(5.0):
            await self.ledger.until(lambda ledger: ledger.inflight == 0)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request: control, or an attempt with an entry in the ledger."""
        if request.raw_path.startswith("/_drill/"):
            return await control(self, request)
        entry = self.ledger.begin()
        end, keep = End.FAILED, False
        wire = Wire(request, entry, self.now, self.ledger.changed)
        try:
            await self._attempt(request, entry, wire)
            end, keep = End.ANSWERED, wire.keep and not wire.effects.hangup
        except Severed:
            end = End.CUT
        except ConnectionError:
            end = self._gone()
        except asyncio.CancelledError:
            end = self._gone()
            raise
        finally:
            wire.seal()
            self.ledger.finish(entry, end)
        return Sent(keep=keep)

    def _gone(self) -> End:
        """Who ended the connection, if it was not a fault."""
        return End.DROPPED if self._listener.leaving else End.PEER_LEFT

    async def _attempt(self, request: web.BaseRequest, entry: Entry, wire: Wire) -> None:
        address = parse_address(request.raw_path)
        key = _credential(request, azure=address.azure)
        _describe(entry, request, address, key)
        call = Call(request.method, address.path, address.family, key)
        if self.faults.has_early:
            effects, kept = self.faults.choose(call, early=True), wire.keep
            wire.keep = False
            if await self._strike(effects, call, address, entry, wire):
                return
            wire.keep = kept
        if request.headers.get("expect", "").lower() == "100-continue":
            wire.proceed()
        try:
            body, raw = await self._read(request, entry)
        except web.RequestPayloadError:
            wire.keep = False
            await self._send(refusals.bad_json(), address, entry, wire)
            return
        entry.model = address.deployment or _text(body, "model")
        entry.stream = body is not None and body.get("stream") is True
        call = Call(
            request.method,
            address.path,
            address.family,
            key,
            entry.model,
            entry.stream,
            answers.estimate(body or {}, self.account.voice.tokens),
            request.method == "POST" and address.path in MAKERS,
        )
        effects = self.faults.choose(call)
        if await self._strike(effects, call, address, entry, wire):
            return
        kind = request.headers.get("content-type", "")
        answer = self.account.answer(call, address, body, raw, content_type=kind, number=entry.number, unix_s=int(time.time()))
        if call.inference and (isinstance(answer, Events) or answer.status == 200):
            await asyncio.sleep(self.latency.draw(self._rng))
            entry.billed = True if effects.billed is None else effects.billed
        if isinstance(answer, Events):
            await self._stream(answer, effects, address, entry, wire)
        else:
            entry.tokens_out = answer.pieces
            await self._send(answer, address, entry, wire)

    async def _read(self, request: web.BaseRequest, entry: Entry) -> tuple[dict[str, Any] | None, bytes]:
        """Take in the body; parsed where it is a JSON object, kept only where something will look at it."""
        keep = self.keep_bodies or "json" in request.headers.get("content-type", "json") or entry.path == "/v1/files"
        digest, kept = hashlib.sha256(), bytearray()
        async for chunk in request.content.iter_any():
            digest.update(chunk)
            entry.body_bytes += len(chunk)
            if keep:
                kept += chunk
        entry.body_sha256 = digest.hexdigest()
        raw = bytes(kept)
        if self.keep_bodies:
            entry.body = raw
        try:
            body = orjson.loads(raw)
        except orjson.JSONDecodeError:
            return None, raw
        return (body if isinstance(body, dict) else None), raw

    async def _strike(self, effects: Effects, call: Call, address: Address, entry: Entry, wire: Wire) -> bool:
        """Let the faults act that come before or instead of an answer. True: the request has had its answer."""
        wire.effects = effects
        entry.faults += effects.names
        self.ledger.changed()
        if effects.billed is not None:
            entry.billed = effects.billed
        if effects.delay_s:
            await asyncio.sleep(effects.delay_s)
        if effects.stall is not None and effects.stall.before == "head" and effects.stall.after_events is None:
            await wire.hold(effects.stall)
        if isinstance(effects.cut, Reset) and effects.cut.part == "head" and effects.cut.after_bytes == 0:
            await wire.sever("rst")
        match effects.instead:
            case None:
                return False
            case Raw(data=data, then=then):
                await wire.raw(data.encode("latin-1"))
                if then == "hold":
                    await asyncio.get_running_loop().create_future()
                await wire.sever(then)
            case Denial() as denial:
                await self._send(refusals.rate_limited(denial, call.model, address.azure), address, entry, wire)
            case Html(status=status, headers=headers):
                answer = refusals.page(status)
                answer.headers += pairs(headers)
                await self._send(answer, address, entry, wire, plain=True)
            case Status() as fault:
                await self._send(_faulty(fault), address, entry, wire)
        return True

    async def _send(self, answer: Whole, address: Address, entry: Entry, wire: Wire, *, plain: bool = False) -> None:
        headers = [] if plain else self._headers(address, entry, wire)
        await wire.whole(answer.status, [("content-type", answer.content_type), *headers, *answer.headers], answer.body)

    def _headers(self, address: Address, entry: Entry, wire: Wire) -> list[tuple[str, str]]:
        lines = [("x-request-id", entry.request_id), ("x-drill-provider", self.name)]
        if address.azure:
            lines += [("apim-request-id", entry.request_id), ("x-ms-region", self.name)]
        else:
            spent_ms = max(1, round((self.now() - entry.arrived_s) * 1000))
            lines += [("openai-version", "2020-10-01"), ("openai-processing-ms", str(spent_ms))]
        return lines + refusals.meter_lines(wire.effects.meters, address.azure)

    async def _stream(self, answer: Events, effects: Effects, address: Address, entry: Entry, wire: Wire) -> None:
        """Send the events, and stop where a fault says so: n events have left when it strikes."""
        cut, failing, stall = effects.cut, effects.error_event, effects.stall
        cut_at = None if cut is None or isinstance(cut, Reset) else cut.after_events
        stall_at = stall.after_events if stall is not None else None
        if stall is not None and stall_at is None and stall.before == "body":
            stall_at = 0
        headers = [("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-cache")]
        await wire.open_stream(headers + self._headers(address, entry, wire))
        if effects.events_delay_s:
            await asyncio.sleep(effects.events_delay_s)
        for number, (data, is_text) in enumerate(answer.events):
            if stall is not None and number == stall_at:
                await wire.hold(stall)
            if failing is not None and number == failing.after_events:
                await wire.event(_error_event(failing.payload, failing.event, answer, number))
                break
            if cut is not None and number == cut_at:
                if not isinstance(cut, Reset) and cut.how != "clean":
                    await wire.sever(cut.how)
                break
            if number and self.token_delay_s:
                await asyncio.sleep(self.token_delay_s)
            await wire.event(data)
            entry.tokens_out += is_text
        await wire.end_stream()


def _credential(request: web.BaseRequest, *, azure: bool) -> str:
    """The key: a bearer token, or for Azure's addresses an `api-key` header."""
    if azure and "api-key" in request.headers:
        return request.headers["api-key"]
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _describe(entry: Entry, request: web.BaseRequest, address: Address, key: str) -> None:
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    entry.connection = peer[1] if peer else 0
    entry.method = request.method
    entry.target = request.raw_path
    entry.path, entry.family = address.path, address.family
    entry.key = key_hash(key)
    entry.headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers]


def _text(body: dict[str, Any] | None, field: str) -> str:
    value = (body or {}).get(field)
    return value if isinstance(value, str) else ""


def _faulty(fault: Status) -> Whole:
    """The answer a Status fault stands for."""
    if fault.body is None:
        answer = refusals.by_status(fault.status)
    else:
        data = fault.body.encode() if isinstance(fault.body, str) else orjson.dumps(fault.body)
        answer = Whole(fault.status, data)
    answer.content_type = fault.content_type
    answer.headers += pairs(fault.headers)
    return answer


def _error_event(payload: Any, event: str | None, answer: Events, number: int) -> bytes:
    if payload is not None:
        return answers.sse(payload, event)
    if answer.flat_errors:
        return answers.sse(refusals.STREAM_ERROR | {"type": "error", "sequence_number": number}, event or "error")
    return answers.sse({"error": refusals.STREAM_ERROR}, event)


def main(argv: list[str] | None = None) -> int:
    """Run one provider as a process until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m gateway.drill.provider", description="A simulated provider.")
    parser.add_argument("--name", default="simulated", help="who answers; part of every text and id")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=20, help="pieces of text per answer")
    parser.add_argument("--token-delay-ms", type=float, default=0.0)
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--key", action="append", help="a credential it knows (again for more); none: any will do")
    parser.add_argument("--model", action="append", help="a model it has (again for more); none: any name will do")
    parser.add_argument("--faults", default="[]", help="a JSON list of faults to begin with")
    parser.add_argument("--script", type=Path, help="a fault script; it begins at once")
    options = parser.parse_args(argv)
    provider = SimulatedProvider(
        options.name,
        seed=options.seed,
        tokens=options.tokens,
        token_delay_s=options.token_delay_ms / 1000,
        latency=options.latency_ms / 1000,
        keys=options.key,
        models=options.model,
    )
    faults = [as_fault(spec) for spec in orjson.loads(options.faults)]
    script = Script.parse(options.script.read_text(), provider=options.name) if options.script else None

    async def run() -> None:
        ended = asyncio.Event()
        for sign in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(sign, ended.set)
        await provider.start(options.host, options.port)
        provider.faults.set(*faults)
        if script is not None:
            provider.play(script)
        line = {"name": provider.name, "url": provider.url, "port": provider.port, "pid": os.getpid()}
        print(orjson.dumps(line).decode(), flush=True)
        await ended.wait()
        await provider.stop()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
