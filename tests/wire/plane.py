"""The whole data plane in one process: a real `Gateway` between raw clients and scripted providers.

What only shows when both sides of the gateway meet is tested with this: the bytes that arrive at either end, who is told to stop
reading, and that nothing of an exchange is left behind. Whoever leaves this stage in good order has returned every byte of memory,
ended every exchange exactly once and given every connection back; `plane` checks that after every test.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.config.load import load_text
from gateway.core.breaker import State
from gateway.core.record import AttemptRecord, ExchangeRecord
from gateway.fleet.process import Gateway
from tests.wire import raw, upstream_script
from tests.wire.upstream_script import Script, Upstream, Visit, turns

CHAT = b"/v1/chat/completions"
BODY = b'{"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}'
STREAM_BODY = b'{"model": "gpt-4o", "stream": true, "messages": []}'
ANSWER = b'{"id": "chatcmpl-1", "object": "chat.completion", "choices": [{"index": 0, "message": {"content": "hi"}}]}'
PATIENCE_S = 20.0
LINGER_S = 1.0
"""How long the gateway waits for the end of a body whose stream has ended."""


@dataclass
class Seen:
    """One request as a provider got it, its body without framing."""

    line: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    raw: bytes

    @property
    def target(self) -> bytes:
        return self.line.split(b" ")[1]

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key.lower() == name]

    def get(self, name: bytes) -> bytes | None:
        values = self.all(name)
        assert len(values) < 2, f"{name!r} more than once: {values}"
        return values[0] if values else None


def seen(raw_request: bytes) -> Seen:
    """Take a request apart, strictly."""
    head, _, body = raw_request.partition(b"\r\n\r\n")
    line, *fields = head.split(b"\r\n")
    headers = []
    for field in fields:
        name, colon, value = field.partition(b": ")
        assert colon, field
        headers.append((name, value))
    request = Seen(line, headers, body, raw_request)
    if request.get(b"transfer-encoding") is not None:
        assert request.get(b"content-length") is None
        whole = b""
        size = -1
        while size:
            number, _, body = body.partition(b"\r\n")
            size = int(number, 16)
            whole += body[:size]
            assert body[size : size + 2] == b"\r\n"
            body = body[size + 2 :]
        assert not body
        request.body = whole
    else:
        assert len(body) == int(request.get(b"content-length") or b"0")
    return request


class Watch:
    """The gateway's observer, with a memory of what it was told."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.began_count = 0
        self.records: list[ExchangeRecord] = []
        """Ended exchanges, in the order of their ends."""
        self.attempts: list[AttemptRecord] = []
        self._changed = asyncio.Event()

    def began(self, record: ExchangeRecord) -> None:
        self.began_count += 1
        self._inner.began(record)
        self._changed.set()

    def attempt_ended(self, record: ExchangeRecord, attempt: AttemptRecord) -> None:
        self.attempts.append(attempt)
        self._inner.attempt_ended(record, attempt)

    def ended(self, record: ExchangeRecord) -> None:
        assert record not in self.records, "an exchange ends once"
        self.records.append(record)
        self._inner.ended(record)
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that comes with the beginning or the end of an exchange."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def ended_all(self, count: int) -> ExchangeRecord:
        """Wait until so many exchanges have ended; return the last one's record."""
        await self.until(lambda: len(self.records) >= count)
        return self.records[count - 1]


class NoAdmin:
    """Stands in for the admin port, which the data plane knows nothing of."""

    port = 0

    async def listen(self, host: str, port: int) -> None: ...

    async def close(self) -> None: ...


class Plane:
    """A running gateway, what it told its observer, and the clients that came."""

    def __init__(self, gateway: Gateway, upstreams: Sequence[Upstream]) -> None:
        self.gateway = gateway
        self.upstreams = list(upstreams)
        self.admission = gateway._admission
        self.watch = Watch(self.admission.surroundings.observer)
        self.admission.surroundings.observer = self.watch
        # The gateway's clock is the loop's, so that a test can push both.
        self.admission.surroundings.clock = asyncio.get_running_loop().time
        self.admission.surroundings.alarms._clock = asyncio.get_running_loop().time
        self.admission.surroundings.queues._clock = asyncio.get_running_loop().time
        self.clients: list[raw.Client] = []

    async def connect(self, *, receive_buffer: int | None = None) -> raw.Client:
        """Open a client connection."""
        bench = raw.Bench(self.gateway._server, raw.Recorder(), (self.gateway.host, self.gateway.port))
        client = await bench.connect(receive_buffer=receive_buffer)
        self.clients.append(client)
        return client

    async def ask(self, request: bytes, *, head: bool = False) -> raw.Response:
        """Send one request over a fresh connection and read its answer."""
        client = await self.connect()
        client.send(request)
        return await client.response(head=head)

    @property
    def memory(self) -> int:
        """Bytes kept for replay."""
        return self.admission.surroundings.memory.used

    def busy(self) -> int:
        """Upstream connections that carry something, are being opened, or are waited for."""
        return sum(stats.busy + stats.connecting + stats.waiting for stats in self.gateway._pool.stats())

    def closed_breakers(self) -> bool:
        """Whether no breaker counts a failure."""
        registry, now = self.gateway._registry, asyncio.get_running_loop().time()
        breakers = [target.breaker for target in registry.targets()]
        breakers += [provider.breaker for provider in registry.providers.values()]
        return all(breaker.state is State.CLOSED and not breaker._window.totals(now)[1] for breaker in breakers)

    def reserved(self) -> list[str]:
        """What is reserved of anybody's limits, or waits for some."""
        registry = self.gateway._registry
        gates = [gate for provider in registry.providers.values() for _, gate in provider.gates()]
        found = [f"queue of {gate.label}" for gate in gates if gate.queue]
        found += [f"attempts at {gate.label}" for gate in gates if gate.pending]
        found += [f"a key for {gate.label}" for gate in gates for quota in gate.quotas.values() if quota.inflight]
        found += [f"targets of {target.provider}" for target in registry.targets() if target.pending]
        return found + [f"client {name}" for name, account in registry._accounts.items() if account.quota.inflight]

    async def quiet(self) -> None:
        """Wait until no upstream connection is in use."""
        async with asyncio.timeout(PATIENCE_S):
            while self.busy():
                await turns(1)


def post(target: bytes, body: bytes, *headers: bytes, length: bool = True) -> bytes:
    """Render a request."""
    lines = [b"POST %b HTTP/1.1" % target, b"Host: gateway", *headers]
    if length:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chat(body: bytes = BODY, *headers: bytes) -> bytes:
    """Render a chat request."""
    return post(CHAT, body, b"Content-Type: application/json", *headers)


def get(target: bytes, *headers: bytes, method: bytes = b"GET") -> bytes:
    """Render a request without a body."""
    return b"\r\n".join([b"%b %b HTTP/1.1" % (method, target), b"Host: gateway", *headers]) + b"\r\n\r\n"


def answer(body: bytes = ANSWER, *headers: bytes, status: bytes = b"200 OK", kind: bytes = b"application/json") -> bytes:
    """Render a provider's answer with a length."""
    lines = [b"HTTP/1.1 " + status, b"Content-Type: " + kind, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked(*pieces: bytes, end: bool = True) -> bytes:
    """Frame pieces as chunks."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + (b"0\r\n\r\n" if end else b"")


SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(document: Any, name: str = "") -> bytes:
    """Render one event."""
    return (b"event: %b\n" % name.encode() if name else b"") + b"data: " + json.dumps(document).encode() + b"\n\n"


def delta(index: int = 0, finish: str | None = None, **fields: Any) -> bytes:
    """Render one chat chunk."""
    choice = {"index": index, "delta": fields, "finish_reason": finish}
    return event({"id": "c", "object": "chat.completion.chunk", "model": "gpt-4o", "choices": [choice]})


ROLE = delta(role="assistant", content="")
STOP = delta(finish="stop")
DONE = b"data: [DONE]\n\n"


async def whole_request(visit: Visit) -> bytes:
    """Read one request as it came, with chunks of any size; raises EOFError when the gateway closes instead."""
    reader = visit.reader
    head = await reader.readuntil(b"\r\n\r\n")
    lower = head.lower()
    pieces = [head]
    if b"\r\ntransfer-encoding: chunked\r\n" in lower:
        size = -1
        while size:
            line = await reader.readuntil(b"\r\n")
            size = int(line, 16)
            pieces += [line, await reader.readexactly(size + 2)]
    elif b"\r\ncontent-length: " in lower:
        pieces.append(await reader.readexactly(int(lower.split(b"\r\ncontent-length: ")[1].split(b"\r\n")[0])))
    return b"".join(pieces)


def serving(*answers: bytes, log: list[Seen] | None = None) -> Script:
    """Answer one request after the other, over any number of connections; the last answer again and again."""
    left = list(answers)

    async def script(visit: Visit) -> None:
        while True:
            request = await whole_request(visit)
            if log is not None:
                log.append(seen(request))
            visit.write(left.pop(0) if len(left) > 1 else left[0])

    return script


CONFIG = """
server:
  listen: 127.0.0.1:0
{server}
admin: {{listen: "127.0.0.1:0"}}
{clients}
providers:
{providers}
routes:
  - name: chat
    match: {{models: ["gpt-4o", "whisper-1"]}}
    targets: [{targets}]
    policy: test
  - name: rest
    match: {{}}
    targets: [{targets}]
    policy: test
policies:
  test: {policy}
"""

KEY = "sk-our-own-0123456789"


@contextlib.asynccontextmanager
async def plane(
    *scripts: Script | str,
    server: str = "",
    clients: str = "",
    provider: str = "",
    dialect: str = "openai",
    base: str = "/v1",
    targets: str = "",
    policy: str = "{backoff: {base: 1ms, cap: 2ms}}",
    key: bool = True,
    check: bool = True,
) -> AsyncIterator[Plane]:
    """Run a gateway in front of one provider per script, named `one`, `two`, `three`, in this order of preference.

    A script that is a string is a base URL that somebody else serves, or nobody. `provider` is added to every provider's settings.
    With `check`, everything must have been given back in the end.
    """
    names = ("one", "two", "three")[: len(scripts)]
    async with contextlib.AsyncExitStack() as stack:
        lines, served = [], []
        for name, script in zip(names, scripts, strict=True):
            if isinstance(script, str):
                url = script
            else:
                served.append(await stack.enter_async_context(upstream_script.upstream(script)))
                url = f"http://127.0.0.1:{served[-1].port}{base}"
            api_key = f", api_key: {KEY}" if key else ""
            lines.append(f"  {name}: {{dialect: {dialect}, base_url: '{url}'{api_key}, {provider}}}")
        text = CONFIG.format(
            server=server,
            clients=clients,
            providers="\n".join(lines),
            targets=targets or ", ".join(names),
            policy=policy,
        )
        gateway = Gateway(lambda: load_text(text, file="test", environ={}), access_log_fd=None)
        stage = Plane(gateway, served)
        gateway._admin = NoAdmin()  # type: ignore[assignment]
        await gateway.start()
        try:
            yield stage
            for client in stage.clients:
                await client.close()
            if check:
                await _nothing_is_left(stage)
        finally:
            for client in stage.clients:
                client.writer.transport.abort()
            await gateway.stop()
            await turns()


async def _nothing_is_left(stage: Plane) -> None:
    """Every client has left: so must everything that was done for them."""
    async with asyncio.timeout(PATIENCE_S):
        while stage.admission.active or stage.gateway._server.connections:
            await turns(1)
    if isinstance(asyncio.get_running_loop(), upstream_script.SkippingLoop):
        upstream_script.skip(LINGER_S)
    await stage.quiet()
    assert stage.memory == 0
    assert stage.reserved() == []
    for record in stage.watch.records:
        assert record.ended_at
        assert all(attempt.verdict for attempt in record.attempts), [attempt.verdict for attempt in record.attempts]


async def settled(probe: Callable[[], int], *, above: int = -1, rounds: int = 200) -> int:
    """Wait until a count has stopped growing: everything is in this process, so what can happen, happens within some turns.

    `above`: it must have grown past this first.
    """
    async with asyncio.timeout(PATIENCE_S):
        while probe() <= above:
            await turns(1)
    last, same = probe(), 0
    async with asyncio.timeout(PATIENCE_S):
        while same < rounds:
            await turns(1)
            now = probe()
            same = same + 1 if now == last else 0
            last = now
    return last


def error_of(response: raw.Response) -> dict[str, Any]:
    """Return the error object of a JSON error, which every refusal must be."""
    assert (response.get(b"content-type") or b"").lower() == b"application/json", response
    document: dict[str, Any] = json.loads(response.body)
    error: dict[str, Any] = document["error"]
    assert {"message", "type", "code"} <= error.keys()
    return error
