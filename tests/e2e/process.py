"""`gateway ...` as a user runs it: a process of its own, talked to only over its sockets, signals and pipes.

The law here: nothing of the gateway runs in the test's process, and every wait is for something the process said or did (a line, a
status of its admin port, its end), bounded so that a broken gateway fails a test instead of hanging it. Whatever happens, the
process is gone when its block is left, killed by its own process object. Environment variables that steer the gateway, an SDK or a
proxy are not inherited, so that a developer's keys cannot reach a test.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).parents[2]
START_S = 30.0
"""How long a start may take on a machine that has other things to do."""
PATIENCE_S = 20.0
"""How long anything else may take that should take a moment."""
POLL_S = 0.05
SHOWN_LINES = 15
_STEERING = re.compile(r"GATEWAY_|OPENAI_|AZURE_|ANTHROPIC_|.*_API_KEY$|PORT$|(https?|no|all)_proxy$", re.IGNORECASE)
_SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Lines:
    """What a pipe said so far, and a way to wait for what it will say."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._news = asyncio.Event()

    def __iter__(self) -> Any:
        return iter(self.all)

    def __len__(self) -> int:
        return len(self.all)

    @property
    def text(self) -> str:
        return "\n".join(self.all)

    async def read(self, pipe: asyncio.StreamReader) -> None:
        """Take in a pipe to its end."""
        async for line in pipe:
            self.all.append(line.decode("utf-8", "replace").rstrip("\n"))
            self._news.set()

    async def until(self, wanted: Callable[[str], bool], *, count: int = 1, timeout_s: float = PATIENCE_S) -> list[str]:
        """Wait until so many lines are wanted ones, and return them."""
        async with asyncio.timeout(timeout_s):
            while len(found := [line for line in self.all if wanted(line)]) < count:
                self._news.clear()
                await self._news.wait()
        return found

    async def saying(self, text: str) -> str:
        """Wait for a line with this text in it."""
        return (await self.until(lambda line: text in line))[0]


class Process:
    """A running `python -m gateway.cli ...`; made by `running`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.out, self.err = Lines(), Lines()
        assert process.stdout is not None
        assert process.stderr is not None
        self._reading = [asyncio.ensure_future(self.out.read(process.stdout)), asyncio.ensure_future(self.err.read(process.stderr))]

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.returncode

    def signal(self, which: signal.Signals) -> None:
        self._process.send_signal(which)

    async def ended(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait for its end; return the exit status once everything it said has been read."""
        async with asyncio.timeout(timeout_s):
            status = await self._process.wait()
            await asyncio.gather(*self._reading)
        return status

    async def kill(self) -> None:
        """End it at once, if it has not ended."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await asyncio.gather(*self._reading)


@asynccontextmanager
async def running(*arguments: str, environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> AsyncIterator[Process]:
    """Run `gateway` with these arguments; it is gone after the block."""
    process = Process(
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gateway.cli",
            *arguments,
            cwd=cwd or ROOT,
            env=environment(environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    )
    try:
        yield process
    finally:
        await process.kill()
        # Shown by pytest where a test fails.
        sys.stdout.write("\n".join((*process.err.all[-SHOWN_LINES:], *process.out.all[-SHOWN_LINES:], "")))


async def run(
    *arguments: str, environ: Mapping[str, str] | None = None, cwd: Path | None = None, timeout_s: float = START_S
) -> tuple[int, str, str]:
    """Run a command to its end; return (exit status, stdout, stderr)."""
    async with running(*arguments, environ=environ, cwd=cwd) as process:
        status = await process.ended(timeout_s)
        return status, process.out.text, process.err.text


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what steers a gateway, and with `more`."""
    kept = {name: value for name, value in os.environ.items() if not _STEERING.match(name)}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(more or {})}


class Gateway:
    """A serving gateway: its addresses, its log, its metrics; made by `serving`."""

    def __init__(self, process: Process, port: int, admin_port: int, config: Path, session: aiohttp.ClientSession) -> None:
        self.process = process
        self.port = port
        self.admin_port = admin_port
        self.config = config
        self._session = session

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """What goes into `OPENAI_BASE_URL`."""
        return f"{self.origin}/v1"

    async def admin(self, path: str, method: str = "GET") -> tuple[int, str]:
        """Ask the admin port; return status and text."""
        async with self._session.request(method, f"http://127.0.0.1:{self.admin_port}{path}") as answer:
            return answer.status, await answer.text()

    async def until_admin(self, path: str, wanted: Callable[[int, str], bool], timeout_s: float = PATIENCE_S) -> str:
        """Ask the admin port until the answer is a wanted one; fail at once if the process ended instead."""
        last = "no answer yet"
        for _ in range(round(timeout_s / POLL_S)):
            if self.process.status is not None:
                await self.process.ended()
                raise AssertionError(f"the gateway ended with {self.process.status}:\n{self.process.err.text}")
            try:
                status, text = await self.admin(path)
                if wanted(status, text):
                    return text
                last = f"{status} {text[-500:]}"
            except (aiohttp.ClientError, ConnectionError) as error:
                last = repr(error)
            await asyncio.sleep(POLL_S)
        raise AssertionError(f"{path} never said what was waited for; last: {last}\n{self.process.err.text}")

    async def until_metric(self, name: str, wanted: Callable[[float], bool], **labels: str) -> float:
        """Wait for a sum of samples, as `metric` gives it."""
        page = await self.until_admin("/metrics", lambda _, text: wanted(total(text, name, labels)))
        return total(page, name, labels)

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of all samples of this name that have these labels; 0 without any."""
        return total((await self.admin("/metrics"))[1], name, labels)

    async def access(self, count: int) -> list[dict[str, Any]]:
        """The access log's lines, once there are so many."""
        return [json.loads(line) for line in await self.process.out.until(lambda _: True, count=count)]

    async def reconfigure(self, config: Mapping[str, Any] | str) -> None:
        """Replace the file; nothing happens before a reload."""
        self.config.write_text(config if isinstance(config, str) else rendered(config, self.port, self.admin_port))

    async def stop(self) -> int:
        """End it in good order; return the exit status."""
        self.process.signal(signal.SIGTERM)
        return await self.process.ended()


def total(page: str, name: str, labels: Mapping[str, str]) -> float:
    """Add up the samples of a metrics page that have this name and these labels."""
    found = 0.0
    for line in page.splitlines():
        sample = _SAMPLE.fullmatch(line)
        if sample is not None and sample[1] == name and labels.items() <= dict(_LABEL.findall(sample[2] or "")).items():
            found += float(sample[3])
    return found


def rendered(config: Mapping[str, Any], port: int, admin_port: int) -> str:
    """The text of a configuration (JSON is YAML) with the addresses filled in, and no delay before a drain unless it has one."""
    server = {"listen": f"127.0.0.1:{port}", "drain": {"delay": "0s", "timeout": "10s"}, **config.get("server", {})}
    admin = {"listen": f"127.0.0.1:{admin_port}", **config.get("admin", {})}
    return json.dumps({**config, "server": server, "admin": admin}, indent=1)


@asynccontextmanager
async def serving(
    directory: Path, config: Mapping[str, Any] | str, environ: Mapping[str, str] | None = None, *arguments: str
) -> AsyncIterator[Gateway]:
    """Run `gateway serve --config FILE` until the end of the block; inside it is ready.

    A configuration given as text has its ports in `{port}` and `{admin_port}`.
    """
    port, admin_port = free_port(), free_port()
    file = directory / "gateway.yaml"
    if isinstance(config, str):
        file.write_text(config.replace("{port}", str(port)).replace("{admin_port}", str(admin_port)))
    else:
        file.write_text(rendered(config, port, admin_port))
    timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        running(*(arguments or ("serve", "--config", str(file))), environ=environ) as process,
    ):
        gateway = Gateway(process, port, admin_port, file, session)
        await gateway.until_admin("/readyz", lambda status, _: status == 200, START_S)
        yield gateway


_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 6
_COUNT = itertools.count(random.randrange(2000))


def free_port() -> int:
    """A port that nobody has, from below the range out of which the kernel serves outgoing connections."""
    for _ in range(2000):
        port = 20_000 + 2000 * _WORKER + next(_COUNT) % 2000
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")
