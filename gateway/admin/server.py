"""The admin port: metrics, status, health, reload.

Speaks HTTP through the same server as the data port: a slow or broken peer meets the same limits there, and no second HTTP library
is kept in memory. `/healthz` and `/readyz` answer without a token, since probes carry none and they tell nothing; everything else
asks for it where one is configured, which off loopback is always.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, NamedTuple

import orjson

from gateway.admin.control import Control
from gateway.config.snapshot import ServerPlan
from gateway.core.message import RequestHead
from gateway.egress.sink import Sink, Source
from gateway.errors import ConfigError
from gateway.ingress.http1 import Server

PLAN: Final = ServerPlan(header_bytes=16 * 1024, body_bytes=1024 * 1024, connections=2_000)
"""What a peer of this port may take; operators, probes and scrapers need little."""
CLOSING_S: Final = 1.0
"""How long answers may take to reach their readers once the gateway ends."""

_OPEN: Final = frozenset({b"/healthz", b"/readyz"})


class Answer(NamedTuple):
    """What a page answers."""

    status: int
    body: bytes
    content_type: str = "application/json"
    lines: tuple[bytes, ...] = ()
    """Further header lines, each with its CRLF."""


class AdminServer:
    """Serves the admin port until closed; the `Service` behind an ingress `Server`. Belongs to one event loop."""

    def __init__(self, control: Control, loop: asyncio.AbstractEventLoop) -> None:
        self._control = control
        self._server = Server(self, PLAN, loop)
        self._pages: dict[bytes, tuple[bytes, Callable[[], Answer]]] = {
            b"/healthz": (b"GET", self._healthz),
            b"/readyz": (b"GET", self._readyz),
            b"/metrics": (b"GET", self._metrics),
            b"/status.json": (b"GET", self._status),
            b"/admin/reload": (b"POST", self._reload),
        }
        self.port = 0

    async def listen(self, host: str, port: int) -> None:
        """Listen; `port` 0 takes a free one. Raises OSError when the address cannot be bound."""
        addresses = await self._server.listen(host, port)
        self.port = addresses[0][1]

    async def close(self) -> None:
        """Stop serving; what was answered still goes out."""
        await self._server.close_listener()
        self._server.start_drain(retry_after_s=CLOSING_S)
        closed = asyncio.ensure_future(self._server.closed())
        await asyncio.wait({closed}, timeout=CLOSING_S)
        closed.cancel()
        self._server.abort_all()

    def begin(self, head: RequestHead, sink: Sink) -> Source:
        """Take one request; see `ingress.http1.Service`."""
        return _Call(self, head, sink)

    def answer(self, head: RequestHead) -> Answer:
        """Return the answer to a request that is whole."""
        path = head.target.partition(b"?")[0]
        if path not in _OPEN and not self._may(head):
            return _error(401, "the admin token is missing or wrong", b"www-authenticate: Bearer\r\n")
        page = self._pages.get(path)
        if page is None:
            return _error(404, f"no such page; there are {', '.join(each.decode() for each in self._pages)}")
        method, show = page
        allowed = (b"GET", b"HEAD") if method == b"GET" else (method,)
        if head.method not in allowed:
            return _error(405, f"this page takes {method.decode()}", b"allow: %b\r\n" % b", ".join(allowed))
        return show()

    def _may(self, head: RequestHead) -> bool:
        token = self._control.admin_token()
        if token is None:
            return True
        given = head.fields.get(b"authorization", b"")
        scheme, _, credentials = given.partition(b" ")
        return hmac.compare_digest(credentials.strip() if scheme.lower() == b"bearer" else given, token.encode())

    def _healthz(self) -> Answer:
        return _json({"status": "alive"})

    def _readyz(self) -> Answer:
        return _json({"status": self._control.state}, status=200 if self._control.ready else 503)

    def _metrics(self) -> Answer:
        body, content_type = self._control.metrics()
        return Answer(200, body, content_type)

    def _status(self) -> Answer:
        return _json(self._control.status())

    def _reload(self) -> Answer:
        try:
            notes = self._control.reload()
        except ConfigError as error:
            return _json({"result": "rejected", "problems": [str(problem) for problem in error.problems]}, status=422)
        return _json({"result": "ok", "notes": notes})


class _Call:
    """A `Source` for one request of the admin port: its body is read away, then it is answered at once."""

    def __init__(self, server: AdminServer, head: RequestHead, sink: Sink) -> None:
        self._server = server
        self._head = head
        self._sink = sink

    def data(self, chunk: bytes) -> None:
        """No page reads a body."""

    def end_of_body(self) -> None:
        answer = self._server.answer(self._head)
        lines = [
            f"content-type: {answer.content_type}\r\n".encode(),
            f"date: {formatdate(usegmt=True)}\r\n".encode(),
            b"cache-control: no-store\r\n",
            *answer.lines,
        ]
        self._sink.open(answer.status, HTTPStatus(answer.status).phrase.encode(), lines, length=len(answer.body))
        if answer.body:
            self._sink.write(answer.body)
        self._sink.end()

    def blocked(self) -> None:
        """Whatever there is to write is written already."""

    def unblocked(self) -> None:
        """See `blocked`."""

    def gone(self) -> None:
        """Nothing was begun that would have to be ended."""


def _json(document: object, *, status: int = 200) -> Answer:
    return Answer(status, orjson.dumps(document) + b"\n")


def _error(status: int, sentence: str, *lines: bytes) -> Answer:
    return _json({"error": sentence}, status=status)._replace(lines=lines)
