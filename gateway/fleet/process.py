"""One process's life: start, reload, drain, stop.

Owns everything that lives longer than a request: sockets, pool, registry, metrics, log. A reload builds a whole snapshot first and
swaps it in one step; a broken file changes nothing (law 13). State is ready only between the listener's start and the drain.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gateway.admin.server import AdminServer
from gateway.config.addresses import Listen
from gateway.config.snapshot import Secret, Snapshot
from gateway.core.breaker import State
from gateway.core.registry import Registry
from gateway.egress.body import ReplayMemory
from gateway.egress.pool import Pool
from gateway.egress.surroundings import Surroundings
from gateway.errors import ConfigError
from gateway.fleet.status import status
from gateway.ingress.admission import Admission
from gateway.ingress.http1 import Server
from gateway.observe.access import AccessLog
from gateway.observe.live import RegistryView
from gateway.observe.metrics import Metrics
from gateway.observe.observer import Observer

log = logging.getLogger("gateway")

TICK_S = 0.5
"""How often the loop's lag is measured."""
SECRETS_EVERY = 4
"""Ticks between looks at `file:` secrets."""
LAST_WORDS_S = 2.0
"""How long in-band errors may take to reach clients once the drain's time is over."""


class Gateway:
    """The running gateway; implements `admin.Control`."""

    def __init__(self, load: Callable[[], Snapshot], *, access_log_fd: int | None = 1) -> None:
        self._load = load
        self._loop = asyncio.get_running_loop()
        self.state = "starting"
        self._snapshot = load()
        self._metrics = Metrics()
        chance = random.Random()  # noqa: S311 - jitter, no secrets
        self._registry = Registry(chance.uniform, self._breaker_moved)
        self._access = AccessLog(access_log_fd)
        self._pool = Pool(self._loop)
        surroundings = Surroundings(
            loop=self._loop,
            clock=time.monotonic,
            upstream=self._pool,
            observer=Observer(self._metrics, self._access, time.time),
            memory=ReplayMemory(self._snapshot.server.replay_total),
            unix=time.time,
            via=f"gateway-{secrets.token_hex(4)}".encode(),
        )
        self._admission = Admission(surroundings, self._registry, chance, f"gw-{secrets.token_hex(5)}-")
        self._server = Server(self._admission, self._snapshot.server, self._loop)
        self._admin = AdminServer(self, self._loop)
        self._ticker: asyncio.TimerHandle | None = None
        self._ticks = 0
        self.host, self.port, self.admin_port = "", 0, 0

    @property
    def ready(self) -> bool:
        """See `admin.Control`."""
        return self.state == "ready"

    @property
    def snapshot(self) -> Snapshot:
        """The configuration in force."""
        return self._snapshot

    async def start(self) -> None:
        """Adopt the configuration and listen. Raises OSError when an address cannot be bound."""
        self._metrics.watch(RegistryView(self._registry, time.monotonic))
        self._adopt(self._snapshot)
        self._pool.start()
        admin, server = self._snapshot.admin, self._snapshot.server
        with _naming("admin.listen", admin.host, admin.port):
            await self._admin.listen(admin.host, admin.port)
        self.admin_port = self._admin.port
        with _naming("server.listen", server.host, server.port):
            addresses = await self._server.listen(server.host, server.port)
        self.host, self.port = addresses[0][0], addresses[0][1]
        self.state = "ready"
        self._tick(self._loop.time())

    def reload(self) -> list[str]:
        """See `admin.Control`."""
        try:
            snapshot = self._load()
        except ConfigError:
            self._metrics.config_reloaded("rejected")
            raise
        before = self._snapshot
        self._adopt(snapshot)
        self._welcome_new_keys(before)
        self._server.reconfigure(snapshot.server)
        self._metrics.config_reloaded("ok")
        notes = list(snapshot.notes)
        for what, old, new in (("server", before.server, snapshot.server), ("admin", before.admin, snapshot.admin)):
            if (old.host, old.port) != (new.host, new.port):
                notes.append(f"{what}.listen changed: that takes effect on the next start")
        return notes

    def status(self) -> dict[str, Any]:
        """See `admin.Control`."""
        return status(
            self._snapshot,
            self._registry,
            self._pool.stats(),
            state=self.state,
            inflight=len(self._admission.active),
            now=time.monotonic(),
        )

    def metrics(self) -> tuple[bytes, str]:
        """See `admin.Control`."""
        return self._metrics.expose()

    def admin_token(self) -> str | None:
        """See `admin.Control`."""
        token = self._snapshot.admin.token
        return None if token is None else token.reveal()

    async def drain(self, *, delay_s: float | None = None) -> None:
        """Leave in good order: unready but serving for a while, then no new connections, then an end to what is left.

        `delay_s` None takes the configured `drain.delay`; a person at a keyboard has no load balancer to wait for.
        """
        if self.state == "draining":
            return
        self.state = "draining"
        plan = self._snapshot.server
        await asyncio.sleep(plan.drain_delay_s if delay_s is None else delay_s)
        await self._server.close_listener()
        self._server.start_drain(retry_after_s=1.0)
        closed = asyncio.ensure_future(self._server.closed())
        done, _ = await asyncio.wait({closed}, timeout=plan.drain_timeout_s)
        if not done:
            self._admission.drain()
            await asyncio.wait({closed}, timeout=LAST_WORDS_S)
        closed.cancel()

    async def stop(self) -> None:
        """End everything at once and flush the log."""
        if self._ticker is not None:
            self._ticker.cancel()
        await self._server.close_listener()
        self._server.abort_all()
        await self._admin.close()
        await self._pool.close()
        self._access.close(1.0)

    def _adopt(self, snapshot: Snapshot) -> None:
        self._admission.adopt(snapshot)
        self._metrics.prepare(snapshot)
        self._snapshot = snapshot

    def _tick(self, due: float) -> None:
        now = self._loop.time()
        self._ticker = self._loop.call_at(now + TICK_S, self._tick, now + TICK_S)
        self._metrics.loop_lag(max(0.0, now - due))
        self._ticks += 1
        if self._ticks % SECRETS_EVERY == 0:
            self._refresh_secrets()

    def _refresh_secrets(self) -> None:
        for name, provider in self._snapshot.providers.items():
            for secret in provider.credentials:
                if secret.refresh():
                    self._welcome(name, secret)
        token = self._snapshot.admin.token
        if token is not None:
            token.refresh()

    def _welcome_new_keys(self, before: Snapshot) -> None:
        """A reload read the files too, and may have been first to see another key in one."""
        for name, provider in self._snapshot.providers.items():
            known = before.providers.get(name)
            keys = {} if known is None else {secret.id: secret.reveal() for secret in known.credentials}
            for secret in provider.credentials:
                if keys.get(secret.id, secret.reveal()) != secret.reveal():
                    self._welcome(name, secret)

    def _welcome(self, provider: str, secret: Secret) -> None:
        """The key under this id is another one now, and has done nothing wrong yet."""
        log.info("provider %s: a key was read anew from its file", provider)
        self._registry.providers[provider].credentials[secret.id].forget()

    def _breaker_moved(self, provider: str, model: str, family: str, to: State) -> None:
        self._metrics.breaker_moved(provider, model, family, to.value)
        log.info("breaker of %s: %s", "/".join(filter(None, (provider, model, family))), to.value)


@contextmanager
def _naming(setting: str, host: str, port: int) -> Iterator[None]:
    """Say which address cannot be bound: the system's own sentence names none."""
    try:
        yield
    except OSError as error:
        number = error.errno or 0
        why = os.strerror(number) if number > 0 else error.strerror or str(error)
        raise OSError(error.errno, f"{setting} {Listen(host, port)}: {why}") from error
