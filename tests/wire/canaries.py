"""Law 12's stage: a gateway among scripted providers, and everything that anybody could read afterwards.

A canary is a credential that is written so that it can be found again wherever it turns up: `canary-` and whose it is. Every
party (each provider, the client, the log, the pages, the objects' own names for themselves) has its readings kept as raw bytes, so
that one question, who has read which canary, can be asked of all of them at once. Separate from `plane`, which gives every
provider the same key and keeps requests taken apart: here the accounts differ, and a leak may be in any byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any

from gateway.config.load import load_text
from gateway.fleet.process import Gateway
from gateway.observe import access
from tests.wire import upstream_script
from tests.wire.plane import NoAdmin, Plane, whole_request
from tests.wire.upstream_script import Script, SkippingLoop, Visit, skip, turns

CANARY = re.compile(rb"canary-[a-z0-9-]+")
OWN = {"one": "canary-own-one-0123456789", "two": "canary-own-two-0123456789"}
"""The key of each provider that has one."""
UNBROKEN = {
    "breaker": {"consecutive": 10_000, "min_requests": 1_000_000},
    "retry_budget": {"floor": 100_000},
    "connect": "5s",
}
"""What a provider did to one request shall not change where the next one goes."""
BRISK = {"attempts": 3, "backoff": {"base": "1ms", "cap": "2ms"}, "rate_limit_wait": "0s"}

TURNS, STEP_S = 40, 0.1

Reply = Callable[[bytes], tuple[bytes, str]]
"""From the canaries of a request to the bytes of an answer, and what follows: `keep`, `close`, `reset` or `hold`."""


def account(name: str, port: int, *, keyed: bool = True, **more: Any) -> dict[str, Any]:
    """How the configuration names a provider."""
    base = {"dialect": "openai", "base_url": f"http://127.0.0.1:{port}/v1", **UNBROKEN}
    return {**base, **({"api_key": OWN[name]} if keyed else {}), **more}


class Stage(Plane):
    """A gateway, and what each party has read since `forget`."""

    def __init__(self, gateway: Gateway, read: dict[str, bytearray], log: Log) -> None:
        super().__init__(gateway, [])
        self._read = read
        self._log = log

    def forget(self) -> None:
        """Begin anew."""
        for reading in self._read.values():
            reading.clear()
        self.watch.records.clear()
        self._log.lines.clear()

    async def tell(self, request: bytes) -> bytes:
        """Send a request that closes its connection; return every byte of the answer."""
        client = await self.connect()
        client.send(request)
        answer = await _hurried(client.rest())
        self._read["client"] += answer
        await client.close()
        return answer

    @property
    def asked(self) -> set[str]:
        """The providers that read anything at all."""
        return {name for name, reading in self._read.items() if reading and name != "client"}

    async def told(self) -> dict[str, set[str]]:
        """Return who has read each canary, of those that anybody has read."""
        async with asyncio.timeout(20):
            while self.admission.active:
                await turns(1)
        readings = {name: bytes(reading) for name, reading in self._read.items()}
        readings["log"] = b"".join([*(access.line(record, "", None, None) for record in self.watch.records), *self._log.lines])
        return readers(readings)

    def shown(self) -> dict[str, set[str]]:
        """Return which canary the pages show, and which the names that objects give themselves: nobody's may ever be there."""
        pages = self.gateway.metrics()[0] + json.dumps(self.gateway.status()).encode()
        return readers({"pages": pages, "objects": self._names()})

    def _names(self) -> bytes:
        snapshot = self.gateway.snapshot
        providers = list(snapshot.providers.values())
        registry = self.gateway._registry
        things = [snapshot, *providers, *(provider.origin for provider in providers), *(provider.plan for provider in providers)]
        things += [secret for provider in providers for secret in provider.credentials]
        things += [*(snapshot.clients or ()), *self.watch.records, *self.watch.attempts, *registry.providers.values()]
        things += [*registry.targets(), *self.gateway._pool._places.values(), self.gateway._pool, self.gateway]
        return "\n".join(text for thing in things for text in (repr(thing), str(thing))).encode()


async def _hurried(waiting: Coroutine[Any, Any, bytes]) -> bytes:
    """Wait for something; where time can be pushed, let it pass whenever nothing has happened for some turns of the loop."""
    task = asyncio.ensure_future(waiting)
    while isinstance(asyncio.get_running_loop(), SkippingLoop) and not task.done():
        await turns(TURNS)
        if not task.done():
            skip(STEP_S)
    return await task


class Log(logging.Handler):
    """Everything that is logged by anybody, formatted as it would be written."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[bytes] = []
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record).encode() + b"\n")


def readers(readings: Mapping[str, bytes]) -> dict[str, set[str]]:
    """Return by canary who reads it, plain, in capitals, or in Base64 behind a colon or alone."""
    found: dict[str, set[str]] = {}
    for name, reading in readings.items():
        for canary in CANARY.findall(reading.lower()):
            found.setdefault(canary.decode(), set()).add(name)
        for canary, userinfo in USERINFO.items():
            if b64encode(userinfo) in reading:
                found.setdefault(canary, set()).add(name)
    return found


USERINFO = {"canary-proxy-password": b"user:canary-proxy-password"}
"""What goes over the wire in Base64."""


def scripted(read: bytearray, reply: Reply) -> Script:
    """Write down what arrives, and answer as the reply says, quoting every canary that was read with it."""

    async def script(visit: Visit) -> None:
        while True:
            request = await whole_request(visit)
            read.extend(request)
            answer, then = reply(b" ".join(CANARY.findall(request)))
            visit.write(answer)
            if then == "keep":
                continue
            await visit.writer.drain()
            if then == "reset":
                visit.reset()
            elif then == "hold":
                await visit.gone()
            return

    return script


@contextlib.asynccontextmanager
async def stage(
    replies: Mapping[str, Reply | None],
    accounts: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    clients: list[dict[str, Any]] | None = None,
    routes: list[dict[str, Any]] | None = None,
    policy: Mapping[str, Any] = BRISK,
) -> AsyncIterator[Stage]:
    """Run a gateway before one provider for each reply; None: nobody listens at its port. In the end no page may show a canary.

    `accounts` gives by name what `account` shall know of a provider. Without `routes` every request may go to all of them, in order.
    """
    read = {name: bytearray() for name in (*replies, "client")}
    log = Log()
    root = logging.getLogger()
    level = root.level
    root.addHandler(log)
    root.setLevel(logging.DEBUG)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(root.setLevel, level)
        stack.callback(root.removeHandler, log)
        providers = {}
        for name, reply in replies.items():
            port = 1
            if reply is not None:
                port = (await stack.enter_async_context(upstream_script.upstream(scripted(read[name], reply)))).port
            providers[name] = account(name, port, **(accounts or {}).get(name, {}))
        targets = list(replies)
        config: dict[str, Any] = {
            "server": {"listen": "127.0.0.1:0"},
            "admin": {"listen": "127.0.0.1:0", "token": "canary-admin-token"},
            "providers": providers,
            "routes": routes or [{"name": "all", "match": {}, "targets": targets}],
            "policies": {"default": dict(policy)},
            **({"clients": clients} if clients else {}),
        }
        text = json.dumps(config)
        gateway = Gateway(lambda: load_text(text, file="test", environ={}), access_log_fd=None)
        found = Stage(gateway, read, log)
        gateway._admin = NoAdmin()  # type: ignore[assignment]
        await gateway.start()
        try:
            yield found
            assert found.shown() == {}
        finally:
            for client in found.clients:
                client.writer.transport.abort()
            await gateway.stop()
            await turns()
