"""One client's turn: the answer to one request, framed for the client it goes to.

Law: a cut answer never looks whole. Whoever writes an answer says how long it will be, or that nobody knows; the turn frames it
accordingly, counts, and cuts the connection where the count is not met. An object per request rather than the connection itself,
so that a driver which writes too late writes into nothing, and never into the next request's answer.
"""

from __future__ import annotations

import logging
import re
import uuid
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, Protocol

from gateway.core.message import Header, RequestHead, first
from gateway.dialects.errors import refusal_body
from gateway.errors import Refused

log = logging.getLogger("gateway.ingress")

_STATUS_LINES: Final = {
    (status.value, phrase.encode("ascii")): f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode("ascii")
    for status in HTTPStatus
    for phrase in (status.phrase, "")
}
_CLOSE: Final = b"connection: close\r\n"
_KEEP_ALIVE: Final = b"connection: keep-alive\r\n"
_SANE_ID: Final = re.compile(rb"[!-~]{1,128}")

_CHUNKED: Final = -1
_UNTIL_CLOSE: Final = -2
_NO_BODY: Final = -3


class Wire(Protocol):
    """What a turn needs of its connection."""

    peer: str
    """The client's address, without its port; empty where it has none."""

    def send(self, data: bytes) -> None:
        """Write to the socket."""
        ...

    def may_keep(self) -> bool:
        """Whether another request can follow on this connection: the body is in, and nothing is shutting down."""
        ...

    def answered(self, turn: Turn, *, keep: bool) -> None:
        """The turn is over, its answer whole."""
        ...

    def cut(self, turn: Turn, *, reset: bool) -> None:
        """The turn is over, its answer is not whole; `reset`: an orderly end of the connection would look whole."""
        ...

    def pause_body(self) -> None:
        """As in Sink."""
        ...

    def resume_body(self) -> None:
        """As in Sink."""
        ...


class Turn:
    """A `Sink` (see `gateway.egress.sink`); every call after the turn is over does nothing."""

    __slots__ = ("_held", "_keep", "_left", "_modern", "_request", "_wire", "opened")

    def __init__(self, wire: Wire, request: RequestHead) -> None:
        self._wire: Wire | None = wire
        self._request = request
        self._modern = request.version == b"1.1"
        self._held = b""
        self._left = _NO_BODY
        self._keep = request.keep_alive
        self.opened = False

    @property
    def peer(self) -> str:
        return self._wire.peer if self._wire is not None else ""

    def open(self, status: int, phrase: bytes, lines: list[bytes], *, length: int | None) -> None:
        """Hold the head until the first body bytes, the end, or the server's next sweep.

        An answer that begins before the request's body is in closes the connection (RFC 9112 section 9.3). HTTP/1.0 clients
        get the HTTP/1.1 status line too (RFC 9110 section 6.2), but no chunks.
        """
        wire = self._wire
        if wire is None:
            return
        if self.opened or status < 200:
            raise RuntimeError("one final response head per turn")
        self.opened = True
        keep = self._keep and wire.may_keep()
        framing = b""
        if self._request.method == b"HEAD" or status in {204, 304}:
            # A 204 has no Content-Length (RFC 9110 section 8.6), a 304 one only if the 200 had it.
            if length is not None and status != 204 and (length or status != 304):
                framing = b"content-length: %d\r\n" % length
        elif length is not None:
            framing = b"content-length: %d\r\n" % length
            self._left = length
        elif self._modern:
            framing = b"transfer-encoding: chunked\r\n"
            self._left = _CHUNKED
        else:
            self._left = _UNTIL_CLOSE
            keep = False
        self._keep = keep
        if not keep:
            framing += _CLOSE
        elif not self._modern:
            framing += _KEEP_ALIVE
        start = _STATUS_LINES.get((status, phrase)) or b"HTTP/1.1 %d %b\r\n" % (status, phrase)
        self._held = b"".join((start, *lines, framing, b"\r\n"))

    def write(self, chunk: bytes) -> None:
        """Frame and send body bytes; more of them than announced cut the connection."""
        wire = self._wire
        # An empty chunk would end a chunked body.
        if wire is None or not chunk:
            return
        left = self._left
        if left >= 0:
            left -= len(chunk)
            if left < 0:
                log.error("an answer is longer than announced")
                self.abort()
                return
            self._left = left
        elif left == _CHUNKED:
            chunk = b"%x\r\n%b\r\n" % (len(chunk), chunk)
        elif left == _NO_BODY:
            if not self.opened:
                raise RuntimeError("body bytes before the head")
            return
        if self._held:
            chunk = self._held + chunk
            self._held = b""
        wire.send(chunk)

    def end(self) -> None:
        """End the answer; one shorter than announced is cut instead."""
        wire = self._wire
        if wire is None:
            return
        if not self.opened:
            raise RuntimeError("the end before the head")
        if self._left > 0:
            log.error("an answer is shorter than announced")
            self.abort()
            return
        if self._left == _CHUNKED:
            wire.send(self._held + b"0\r\n\r\n")
        elif self._held:
            wire.send(self._held)
        self._wire = None
        wire.answered(self, keep=self._keep)

    def abort(self) -> None:
        """Cut the answer: what was written still goes out, then the connection ends without what would complete it.

        A body that only the end of the connection delimits is cut by a reset.
        """
        wire = self._wire
        if wire is not None:
            self._wire = None
            wire.cut(self, reset=self._left == _UNTIL_CLOSE)

    def pause_body(self) -> None:
        """Stop reading the request's body."""
        if self._wire is not None:
            self._wire.pause_body()

    def resume_body(self) -> None:
        """Go on reading the request's body."""
        if self._wire is not None:
            self._wire.resume_body()

    def flush(self) -> None:
        """Send a head that waits for its body."""
        if self._held and self._wire is not None:
            self._wire.send(self._held)
            self._held = b""

    def drop(self) -> None:
        """Take the turn away from whoever holds it."""
        self._wire = None


def refusal(
    refused: Refused,
    headers: list[Header],
    *,
    head_request: bool = False,
    connection: bytes = _CLOSE,
    advice: bytes = b"",
) -> bytes:
    """Return a complete response that refuses a request, in the shape its client reads.

    The request id is the client's own where it is 1 to 128 visible ASCII characters. Clients of Anthropic are known by the
    `anthropic-version` header, which that API requires. `advice`: further header lines.
    """
    given = first(headers, b"x-request-id") or b""
    request_id = given.decode("ascii") if _SANE_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"
    shape = "openai" if first(headers, b"anthropic-version") is None else "anthropic"
    body = refusal_body(refused.reason, refused.message, refused.status, shape=shape, request_id=request_id)
    return b"".join(
        (
            _STATUS_LINES.get((refused.status, b"")) or b"HTTP/1.1 %d \r\n" % refused.status,
            b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body),
            f"date: {formatdate(usegmt=True)}\r\n".encode("ascii"),
            f"x-gateway-reason: {refused.reason}\r\nx-gateway-request-id: {request_id}\r\n".encode("ascii"),
            advice,
            connection,
            b"\r\n",
            b"" if head_request else body,
        ),
    )


def connection_line(request: RequestHead, *, keep: bool) -> bytes:
    """Return the `Connection` header line of an answer; empty where the version's default says it already."""
    if not keep:
        return _CLOSE
    return b"" if request.version == b"1.1" else _KEEP_ALIVE
