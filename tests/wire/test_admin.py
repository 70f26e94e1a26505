"""The admin port on a real socket: who may see what, and what is answered to requests that nobody serves."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import orjson
import pytest

from gateway.admin.server import PLAN, AdminServer
from gateway.errors import ConfigError, Problem
from tests.wire.raw import Client, Response

PAGES = (b"/healthz", b"/readyz", b"/metrics", b"/status.json", b"/admin/reload")


class Control:
    """A process as the admin port knows it, with nothing behind it."""

    def __init__(self) -> None:
        self.state = "ready"
        self.token: str | None = None
        self.problems: list[Problem] = []
        self.reloads = 0

    @property
    def ready(self) -> bool:
        return self.state == "ready"

    def reload(self) -> list[str]:
        if self.problems:
            raise ConfigError(self.problems)
        self.reloads += 1
        return ["noted"]

    def status(self) -> dict[str, object]:
        return {"state": self.state}

    def metrics(self) -> tuple[bytes, str]:
        return b"up 1\n", "text/plain; version=1.0.0"

    def admin_token(self) -> str | None:
        return self.token


class Port:
    """An admin port that listens, and those who ask it."""

    def __init__(self) -> None:
        self.control = Control()
        self.server = AdminServer(self.control, asyncio.get_running_loop())
        self.clients: list[Client] = []

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.server.port))
        self.clients.append(client)
        return client

    async def ask(self, path: bytes, *lines: bytes, method: bytes = b"GET", body: bytes = b"") -> Response:
        client = await self.connect()
        framing = b"Content-Length: %d" % len(body)
        client.send(b"\r\n".join((b"%b %b HTTP/1.1" % (method, path), b"Host: a", framing, *lines, b"", body)))
        return await client.response(head=method == b"HEAD")


@contextlib.asynccontextmanager
async def listening() -> AsyncIterator[Port]:
    port = Port()
    await port.server.listen("127.0.0.1", 0)
    try:
        yield port
    finally:
        await port.server.close()
        for client in port.clients:
            await client.close()


async def test_each_page_says_its_own() -> None:
    async with listening() as port:
        said = {path: await port.ask(path, method=b"POST" if path.startswith(b"/admin") else b"GET") for path in PAGES}
    assert {path: (each.status, each.get(b"content-type"), each.body) for path, each in said.items()} == {
        b"/healthz": (200, b"application/json", b'{"status":"alive"}\n'),
        b"/readyz": (200, b"application/json", b'{"status":"ready"}\n'),
        b"/metrics": (200, b"text/plain; version=1.0.0", b"up 1\n"),
        b"/status.json": (200, b"application/json", b'{"state":"ready"}\n'),
        b"/admin/reload": (200, b"application/json", b'{"result":"ok","notes":["noted"]}\n'),
    }
    for each in said.values():
        assert each.get(b"cache-control") == b"no-store"
        assert each.get(b"date")


async def test_a_query_changes_nothing_and_connections_are_kept() -> None:
    async with listening() as port:
        client = await port.connect()
        for _ in range(3):
            client.send(b"GET /healthz?x=/admin/reload HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await client.response()).body == b'{"status":"alive"}\n'


async def test_a_load_balancers_bare_http_1_0_is_answered() -> None:
    """As HAProxy's `option httpchk GET /readyz` sends it."""
    async with listening() as port:
        client = await port.connect()
        client.send(b"GET /readyz HTTP/1.0\r\n\r\n")
        assert (await client.response()).status == 200
        assert await client.rest() == b""


async def test_readiness_leaves_before_life_does() -> None:
    async with listening() as port:
        port.control.state = "draining"
        unready, alive = await port.ask(b"/readyz"), await port.ask(b"/healthz")
    assert (unready.status, unready.body) == (503, b'{"status":"draining"}\n')
    assert alive.status == 200


async def test_head_is_get_without_its_body() -> None:
    async with listening() as port:
        head = await port.ask(b"/metrics", method=b"HEAD")
        assert (head.status, head.get(b"content-length"), head.body) == (200, b"5", b"")


@pytest.mark.parametrize(
    ("path", "method", "allowed"),
    [
        (b"/metrics", b"POST", b"GET, HEAD"),
        (b"/healthz", b"DELETE", b"GET, HEAD"),
        (b"/admin/reload", b"GET", b"POST"),
        (b"/admin/reload", b"HEAD", b"POST"),
    ],
)
async def test_the_wrong_method_is_a_405_that_names_the_right_one(path: bytes, method: bytes, allowed: bytes) -> None:
    async with listening() as port:
        answer = await port.ask(path, method=method)
        assert (answer.status, answer.get(b"allow"), port.control.reloads) == (405, allowed, 0)
        if method != b"HEAD":
            assert allowed.partition(b",")[0].decode() in orjson.loads(answer.body)["error"]


@pytest.mark.parametrize("path", [b"/", b"/metrics/", b"//metrics", b"/%6detrics", b"/v1/models"])
async def test_nothing_else_is_a_page(path: bytes) -> None:
    async with listening() as port:
        answer = await port.ask(path)
        assert answer.status == 404
        assert "/status.json" in orjson.loads(answer.body)["error"]


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"Authorization: Bearer right", 200),
        (b"authorization: bearer  right", 200),
        (b"Authorization: right", 200),
        (b"Authorization: Bearer wrong", 401),
        (b"Authorization: Bearer", 401),
        (b"Authorization: Basic right", 401),
        (b"Authorization: Bearer r\xefght", 401),
        (b"X: y", 401),
    ],
)
async def test_the_token_guards_all_but_the_probes(line: bytes, status: int) -> None:
    async with listening() as port:
        port.control.token = "right"
        for path in (b"/metrics", b"/status.json"):
            answer = await port.ask(path, line)
            assert answer.status == status
            assert answer.get(b"www-authenticate") == (b"Bearer" if status == 401 else None)
        assert (await port.ask(b"/admin/reload", line, method=b"POST")).status == status
        assert port.control.reloads == (status == 200)
        assert (await port.ask(b"/nowhere", line)).status == (404 if status == 200 else 401)
        for path in (b"/healthz", b"/readyz"):
            assert (await port.ask(path, line)).status == 200


async def test_a_reload_that_is_rejected_says_every_problem() -> None:
    async with listening() as port:
        port.control.problems = [Problem("f.yaml", 3, 7, "routes", "is missing"), Problem("f.yaml", 4, 1, "", "is odd")]
        answer = await port.ask(b"/admin/reload", method=b"POST", body=b"{}")
        assert answer.status == 422
        problems = ["f.yaml:3:7: routes: is missing", "f.yaml:4:1: is odd"]
        assert orjson.loads(answer.body) == {"result": "rejected", "problems": problems}


async def test_bodies_are_bounded() -> None:
    async with listening() as port:
        client = await port.connect()
        client.send(b"POST /admin/reload HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (PLAN.body_bytes + 1))
        assert (await client.response()).status == 413
        assert port.control.reloads == 0


async def test_what_breaks_inside_is_a_500_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with listening() as port:
        port.control.status = lambda: {"bad": object()}  # type: ignore[method-assign,dict-item]
        answer = await port.ask(b"/status.json")
        assert (answer.status, answer.get(b"x-gateway-reason")) == (500, b"internal")
        assert "the service failed" in caplog.text


async def test_one_that_never_listened_can_be_closed() -> None:
    await AdminServer(Control(), asyncio.get_running_loop()).close()


async def test_closing_ends_idle_connections_and_lets_answers_out() -> None:
    async with listening() as port:
        idle = await port.connect()
        idle.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await idle.response()).status == 200
        port.control.metrics = lambda: (b"m" * 4_000_000, "text/plain")  # type: ignore[method-assign]
        busy = await port.connect()
        busy.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        assert await busy.reader.readexactly(1) == b"H"
        closing = asyncio.ensure_future(port.server.close())
        assert await idle.rest() == b""
        assert (await busy.rest()).endswith(b"m" * 1_000_000)
        await closing
        with pytest.raises(ConnectionRefusedError):
            await port.connect()
