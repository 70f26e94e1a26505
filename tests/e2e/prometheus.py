"""A real Prometheus for one test: found, started on loopback with one target, asked, stopped.

It scrapes once a second into a temporary directory. The binary is `PROMETHEUS_BIN`, or `prometheus` on the PATH (the Debian package
of that name brings it); whether its absence fails a test is the test's own business.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

READY_S = 30.0
STOP_S = 10.0
POLL_S = 0.1


class QueryError(Exception):
    """Prometheus did not accept a query."""


def find() -> str | None:
    """Return the binary's path, or None where there is none."""
    named = os.environ.get("PROMETHEUS_BIN")
    return named if named and os.access(named, os.X_OK) else shutil.which("prometheus")


class Prometheus:
    """A running server; made by `running`."""

    def __init__(self, base_url: str, session: aiohttp.ClientSession) -> None:
        self.base_url = base_url
        self._session = session

    async def query(self, expr: str) -> list[dict[str, Any]]:
        """Ask an instant query; return its samples, each with `metric` (labels) and `value` ([time, text])."""
        async with self._session.get(f"{self.base_url}/api/v1/query", params={"query": expr}) as response:
            answer = json.loads(await response.read())
        if answer["status"] != "success":
            raise QueryError(f"{expr}: {answer['errorType']}: {answer['error']}")
        result = answer["data"]["result"]
        return result if answer["data"]["resultType"] == "vector" else [{"metric": {}, "value": result}]

    async def until(self, expr: str, timeout_s: float = 20.0) -> list[dict[str, Any]]:
        """Ask again and again until the query has samples; raises TimeoutError. A comparison waits for a value: `up == 1`."""
        async with asyncio.timeout(timeout_s):
            while not (found := await self.query(expr)):  # noqa: ASYNC110 - another process's state, which nothing announces
                await asyncio.sleep(POLL_S)
        return found

    async def _ready(self) -> None:
        while True:
            try:
                async with self._session.get(f"{self.base_url}/-/ready") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(POLL_S)


@asynccontextmanager
async def running(target: str, *, binary: str | None = None, token: str | None = None) -> AsyncIterator[Prometheus]:
    """Run a Prometheus that scrapes `http://{target}/metrics` as job `gateway`; it is ready inside the block, and gone after it."""
    executable = binary or find()
    if executable is None:
        raise FileNotFoundError("no prometheus: install the Debian package, or set PROMETHEUS_BIN")
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="prometheus-") as directory:
        _write(directory, "prometheus.yml", json.dumps(_config(target, token)))  # JSON is YAML
        log = os.open(f"{directory}/log", os.O_CREAT | os.O_WRONLY)
        try:
            process = await asyncio.create_subprocess_exec(
                executable,
                f"--config.file={directory}/prometheus.yml",
                f"--storage.tsdb.path={directory}/data",
                f"--web.listen-address=127.0.0.1:{port}",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        finally:
            os.close(log)
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=STOP_S)) as session:
                server = Prometheus(f"http://127.0.0.1:{port}", session)
                await _first(server._ready(), process, directory)
                yield server
        finally:
            await _stop(process)


async def _first(ready: Any, process: asyncio.subprocess.Process, directory: str) -> None:
    """Wait until the server is ready, ends by itself, or takes too long; in the latter two cases raise with its log."""
    waits = [asyncio.ensure_future(ready), asyncio.ensure_future(process.wait())]
    try:
        await asyncio.wait(waits, timeout=READY_S, return_when=asyncio.FIRST_COMPLETED)
        if waits[1].done() or not waits[0].done():
            raise RuntimeError(f"prometheus is not ready:\n{_read(directory, 'log')[-4000:]}")
        waits[0].result()
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def _write(directory: str, name: str, text: str) -> None:
    Path(directory, name).write_text(text, encoding="utf-8")


def _read(directory: str, name: str) -> str:
    return Path(directory, name).read_text(encoding="utf-8", errors="replace")


def _config(target: str, token: str | None) -> dict[str, Any]:
    job: dict[str, Any] = {"job_name": "gateway", "static_configs": [{"targets": [target]}]}
    if token is not None:
        job["authorization"] = {"credentials": token}
    return {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": [job]}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
