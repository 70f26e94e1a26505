"""`gateway serve`: one process under signals.

SIGHUP reloads. SIGTERM drains as configured; SIGINT drains without the delay, because a person at a keyboard has no load balancer
to wait for. A second SIGINT or SIGTERM exits at once.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Callable

import uvloop

from gateway.config.describe import describe
from gateway.config.snapshot import Snapshot
from gateway.errors import ConfigError
from gateway.fleet.memory import keep_memory
from gateway.fleet.process import Gateway

log = logging.getLogger("gateway")

EXIT_UNUSABLE = 2
"""A configuration that cannot be used, or an address that cannot be bound."""
EXIT_INTERRUPTED = 130


def serve(load: Callable[[], Snapshot]) -> int:
    """Run until told to end; returns the exit status. `load` reads the configuration, at start and on each reload."""
    keep_memory()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(load))
    except ConfigError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a terminal is where this belongs
        return EXIT_UNUSABLE


async def _serve(load: Callable[[], Snapshot]) -> int:
    gateway = Gateway(load)
    try:
        await gateway.start()
    except OSError as error:
        log.error("cannot listen: %s", error.strerror or error)  # noqa: TRY400 - the sentence says it all
        await gateway.stop()
        return EXIT_UNUSABLE
    # What start-up made stays for good; collections need not walk it again and again.
    gc.collect()
    gc.freeze()
    # Before anybody is told that we are there: a signal sent upon it must find us listening.
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for each in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, signals.put_nowait, each)
    for line in describe(gateway.snapshot):
        log.info("%s", line)
    log.info("ready: OPENAI_BASE_URL=http://%s:%d/v1", _shown(gateway.host), gateway.port)

    while (received := await signals.get()) is signal.SIGHUP:
        _reload(gateway)
    log.info("%s: draining; once more to exit at once", received.name)
    draining = asyncio.ensure_future(gateway.drain(delay_s=0.0 if received is signal.SIGINT else None))
    impatient = asyncio.ensure_future(_second(signals))
    done, _ = await asyncio.wait({draining, impatient}, return_when=asyncio.FIRST_COMPLETED)
    draining.cancel()
    impatient.cancel()
    await gateway.stop()
    log.info("stopped")
    return 0 if draining in done else EXIT_INTERRUPTED


async def _second(signals: asyncio.Queue[signal.Signals]) -> None:
    while await signals.get() is signal.SIGHUP:
        log.warning("not reloading: the gateway is draining")


def _reload(gateway: Gateway) -> None:
    try:
        notes = gateway.reload()
    except ConfigError as error:
        log.error("reload rejected, the running configuration stays:\n%s", error)  # noqa: TRY400 - the problems say it all
        return
    log.info("reloaded: %s", gateway.snapshot.digest)
    for note in notes:
        log.info("note: %s", note)


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
