"""`gateway demo`: a staged outage, survived in front of your eyes.

The real gateway between an app and three simulated providers: the first fails and then dies, the second turns slow, the first comes
back. Every number shown was counted: answers by the app, attempts by the providers' own ledgers, saved requests by the gateway's
metrics. Nothing leaves this machine.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

import uvloop

from gateway.config.load import load_text
from gateway.drill.faults import Latency, Status
from gateway.drill.provider import SimulatedProvider
from gateway.drill.scoreboard import Scoreboard
from gateway.drill.traffic import MODEL, PROMPT, App
from gateway.fleet.process import Gateway

RATE_PER_S = 25.0
REFRESH_S = 0.5
NAMES = ("primary", "second", "third")

CONFIG = """
server:
  listen: 127.0.0.1:0
  drain: {{delay: 0s, timeout: 5s}}
admin: {{listen: "127.0.0.1:0"}}
providers:
{providers}
provider_defaults:
  breaker: {{consecutive: 5, open: 2s, max_open: 5s, ramp: 3s}}
routes:
  - name: chat
    match: {{models: [{model}]}}
    targets: [primary, second, third]
    policy: brisk
policies:
  brisk:
    timeouts: {{first_token: 1s, answer: 1s}}
"""

Act = tuple[float, str, Callable[[], Awaitable[None]]]
"""(share of the whole time, what happens, how)"""


def demo(*, seconds: float, keep: bool) -> int:
    """Run the demo; returns the exit status: 0 if every request was answered whole."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, suppress(KeyboardInterrupt):
        return runner.run(_demo(seconds, keep=keep))
    return 130


async def _demo(seconds: float, *, keep: bool) -> int:
    providers = {name: SimulatedProvider(name, tokens=12, token_delay_s=0.01, latency=0.03, seed=1) for name in NAMES}
    for provider in providers.values():
        await provider.start()
    gateway = Gateway(lambda: load_text(_config(providers), file="demo", environ={}), access_log_fd=None)
    await gateway.start()
    base_url = f"http://{gateway.host}:{gateway.port}/v1"
    messages = [{"role": "user", "content": PROMPT}]
    app = App(base_url, RATE_PER_S, lambda name: providers[name].voice.text(messages) if name in providers else "")
    board = Scoreboard(sys.stdout, app.tally, providers)
    print(f"app -> {base_url} -> {', '.join(NAMES)}; {RATE_PER_S:.0f} requests a second, half of them streams\n")

    loop = asyncio.get_running_loop()
    began = loop.time()
    staging = asyncio.ensure_future(_stage(_acts(providers), seconds, board))
    showing = asyncio.ensure_future(_show(board, began))
    try:
        await app.run(began + seconds)
        board.summary(_saved(gateway.metrics()[0]))
        if keep:
            print(f"\nstill serving; try:  export OPENAI_BASE_URL={base_url} OPENAI_API_KEY=any   (Ctrl-C ends)")
            await asyncio.Event().wait()
    finally:
        staging.cancel()
        showing.cancel()
        await asyncio.gather(staging, showing, return_exceptions=True)
        await gateway.stop()
        for provider in providers.values():
            await provider.stop()
    return 0 if app.tally.whole == app.tally.sent else 1


def _config(providers: dict[str, SimulatedProvider]) -> str:
    lines = (f"  {name}: {{dialect: openai, base_url: {each.url}, api_key: demo-{name}}}" for name, each in providers.items())
    return CONFIG.format(providers="\n".join(lines), model=MODEL)


def _acts(providers: dict[str, SimulatedProvider]) -> Iterator[Act]:
    primary, second = providers["primary"], providers["second"]

    async def fail() -> None:
        primary.faults.set(Status(502))

    async def die() -> None:
        await primary.refuse()

    async def slow() -> None:
        second.faults.set(Latency(3.0))

    async def recover() -> None:
        primary.faults.clear()
        await primary.accept()

    yield 0.0, "all is well", _nothing
    yield 0.2, "primary answers 502 to everything", fail
    yield 0.3, "primary is dead: connections refused", die
    yield 0.5, "second takes 3 s for a first token", slow
    yield 0.75, "primary is back", recover


async def _nothing() -> None:
    pass


async def _stage(acts: Iterator[Act], seconds: float, board: Scoreboard) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    for share, what, act in acts:
        await asyncio.sleep(max(0.0, began + share * seconds - loop.time()))
        await act()
        board.happened(loop.time() - began, what)


async def _show(board: Scoreboard, began: float) -> None:
    loop = asyncio.get_running_loop()
    while True:
        board.show(loop.time() - began)
        await asyncio.sleep(REFRESH_S)


def _saved(page: bytes) -> int:
    """Return what the gateway's own metric says was saved."""
    lines = (line for line in page.decode().splitlines() if line.startswith("gateway_saved_requests_total{"))
    return round(sum(float(line.rsplit(" ", 1)[1]) for line in lines))
