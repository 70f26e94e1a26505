"""One client's connection: bytes in, requests out, one at a time.

Law: requests are answered strictly in order, and while one is being answered no byte of the next is looked at. What has arrived of
it waits, unparsed, in one bounded buffer; then the socket is no longer read. Heads are cut out of the stream here, so their size is
counted on raw bytes.

A client that half-closes while its answer is pending counts as gone: real clients of AI APIs keep their side open, and cancelling
paid work promptly is worth more than serving one that does not. While reading is paused (the body, or too much of the next
requests) a client's leaving shows only when something is written to it, or when reading goes on.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Final, cast

from gateway.core.message import RequestHead
from gateway.egress.sink import Source
from gateway.errors import Reason, Refused
from gateway.ingress import framing
from gateway.ingress.heads import HeadReader
from gateway.ingress.turn import Turn, connection_line, log, refusal

if TYPE_CHECKING:
    from gateway.ingress.http1 import Server

WRITE_HIGH: Final = 64 * 1024
"""Bytes waiting for a slow client from which on the Source is blocked."""
PIPELINE_BYTES: Final = 64 * 1024
"""Bytes of later requests that are taken in while one is answered; reading pauses above (one read may overshoot)."""
LINGER_BYTES: Final = 16 * 1024 * 1024
"""Bytes of a refused or unread body that are read away, so that the client reads its answer before a reset destroys it."""
NEVER: Final = float("inf")

_HEAD, _BODY, _ANSWER, _LINGER, _CLOSING = range(5)


class Connection(asyncio.Protocol):
    """The server side of one TCP connection."""

    __slots__ = (
        "_advancing",
        "_blank",
        "_blocked",
        "_chunks",
        "_heads",
        "_inbox",
        "_linger",
        "_paused",
        "_reading",
        "_request",
        "_rest",
        "_scanned",
        "_server",
        "_source",
        "_stage",
        "_transport",
        "_turn",
        "_unsent",
        "_wants_continue",
        "due",
        "peer",
    )

    _transport: asyncio.Transport

    def __init__(self, server: Server) -> None:
        self._server = server
        self._stage = _HEAD
        self._inbox = b""
        self._scanned = 0
        self._blank = False
        self._heads = HeadReader(server.known_heads)
        self._request: RequestHead | None = None
        self._turn: Turn | None = None
        self._source: Source | None = None
        self._rest = 0
        self._chunks: framing.Chunks | None = None
        self._wants_continue = False
        self._paused = False
        self._reading = True
        self._blocked = False
        self._advancing = False
        self._linger = LINGER_BYTES
        self._unsent = 0
        self.due = NEVER
        """The sweep's time from which on the client has kept us waiting too long."""
        self.peer = ""

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods but not the base class.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH)
        address = self._transport.get_extra_info("peername")
        # A Unix socket's peer has no address, or a path that says nothing about who it is.
        self.peer = address[0] if isinstance(address, tuple) else ""
        self.due = self._server.idle_due
        self._server.joined(self)

    def data_received(self, data: bytes) -> None:
        if self._stage >= _LINGER:
            self._linger -= len(data)
            if self._linger < 0:
                self._stage = _CLOSING
                self._transport.close()
            return
        self._inbox = self._inbox + data if self._inbox else data
        self._advance()

    def eof_received(self) -> bool:
        if self._turn is not None:
            # `connection_lost` follows at once and tells the service.
            self._transport.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - however it ended, the client is gone
        self._gone()
        self._server.left(self)

    def pause_writing(self) -> None:
        self._blocked = True
        if self._stage == _ANSWER:
            # One that never reads its answer again would hold a provider's connection for good.
            self.due = self._server.idle_due
        if self._source is not None:
            self._source.blocked()

    def resume_writing(self) -> None:
        self._blocked = False
        if self._stage == _ANSWER:
            self.due = NEVER
        if self._source is not None:
            self._source.unblocked()
        elif self._inbox:
            self._server.loop.call_soon(self._advance)

    # Bytes in.

    def _advance(self) -> None:
        """Go on with what has arrived, as far as it goes.

        A loop and a flag instead of recursion: a service may answer from within `begin`, and a client may pipeline thousands.
        """
        if self._advancing:
            return
        self._advancing = True
        try:
            going = True
            while going and self._inbox:
                if self._stage == _HEAD:
                    # A client that does not read its answers gets no further ones into our memory.
                    going = not self._blocked and self._take_head()
                elif self._stage == _BODY:
                    going = not self._paused and self._take_body()
                else:
                    going = False
        finally:
            self._advancing = False
        if self._inbox or not self._reading:
            self._gate()

    def _take_head(self) -> bool:
        """Begin the next request; False while its head is incomplete or the connection is done for."""
        raw = self._inbox
        server = self._server
        plan = server.plan
        if raw[0] in b"\r\n":
            return self._take_blank(raw)
        end = raw.find(b"\r\n\r\n", self._scanned) + 4
        try:
            if end < 4:
                framing.check_growing(raw, self._scanned, plan.header_bytes)
                if not self._scanned:
                    self.due = server.head_due
                self._scanned = max(len(raw) - 3, 1)
                return False
            if end == len(raw):
                self._inbox = b""
            else:
                self._inbox = raw[end:]
                raw = raw[:end]
            self._scanned = 0
            if end > framing.MAX_LINE or end > plan.header_bytes:
                framing.check_size(raw, plan.header_bytes)
            request = self._heads.read(raw, plan)
        except Refused as refused:
            self._refuse(refused, head_request=raw.startswith(b"HEAD "))
            return False
        self._begin(request)
        return True

    def _take_blank(self, raw: bytes) -> bool:
        """Skip one empty line before a request (RFC 9112 section 2.2): some old clients end a body with one too many."""
        if raw == b"\r":
            self.due = min(self.due, self._server.head_due)
            return False
        if self._blank or not raw.startswith(b"\r\n"):
            self._refuse(framing.bad("A request must begin with its request line."))
            return False
        self._blank = True
        self._inbox = raw[2:]
        return True

    def _begin(self, request: RequestHead) -> None:
        """Hand a checked head to the service."""
        server = self._server
        self._request = request
        self._blank = False
        self._paused = False
        if request.chunked:
            plan = server.plan
            self._stage = _BODY
            self._chunks = framing.Chunks(
                body_bytes=plan.body_bytes,
                header_bytes=plan.header_bytes,
                headers=plan.headers,
            )
        elif request.content_length:
            self._stage = _BODY
            self._rest = request.content_length
        else:
            self._stage = _ANSWER
        self._wants_continue = request.expect_continue and self._stage == _BODY and not self._inbox
        if server.draining:
            draining = Refused(503, Reason.DRAINING, "The gateway is shutting down; send the request again.")
            self._refuse(draining, request=request, advice=server.advice())
            return
        turn = Turn(self, request)
        self._turn = turn
        try:
            source = server.service.begin(request, turn)
        except Refused as refused:
            self._refuse(refused, request=request, keep=True)
            return
        except Exception:  # noqa: BLE001 - logged, and answered
            self._failed()
            return
        if not self._is_at(turn):
            return
        self._source = source
        if self._blocked:
            source.blocked()
        if self._stage == _ANSWER:
            self.due = NEVER
            try:
                source.end_of_body()
            except Refused as refused:
                self._refuse(refused, request=request, keep=True)
            except Exception:  # noqa: BLE001 - logged, and answered
                self._failed()
            return
        self._expect_body()

    def _is_at(self, turn: Turn) -> bool:
        """Whether this exchange is still the one under way, which a call may have ended that only began it."""
        return self._turn is turn

    def _take_body(self) -> bool:
        """Pass on what has arrived of the body; False while nothing of it can be used."""
        data = self._inbox
        if self._chunks is None:
            if len(data) > self._rest:
                self._inbox = data[self._rest :]
                data = data[: self._rest]
            else:
                self._inbox = b""
            self._rest -= len(data)
            used, done = len(data), not self._rest
        else:
            try:
                data, used = self._chunks.feed(data)
            except Refused as refused:
                self._broken(refused)
                return False
            self._inbox = self._inbox[used:]
            done = self._chunks.done
        source = self._source
        if done:
            self._stage = _ANSWER
            self._chunks = None
            self.due = NEVER
        else:
            self.due = self._server.body_due
        try:
            if data and source is not None:
                source.data(data)
            # The answer may have ended meanwhile; then nobody waits for the end.
            if done and source is not None and self._source is source:
                source.end_of_body()
        except Refused as refused:
            self._refuse(refused, request=self._request, keep=True)
        except Exception:  # noqa: BLE001 - logged, and answered
            self._failed()
        return used > 0

    # What the turn calls.

    def send(self, data: bytes) -> None:
        """Write to the socket."""
        self._transport.write(data)

    def may_keep(self) -> bool:
        """Whether the body is in, or at hand to be skipped, and the server goes on."""
        return not self._server.draining and self._body_at_hand()

    def answered(self, turn: Turn, *, keep: bool) -> None:
        """The answer is whole: make ready for the next request, or close."""
        del turn
        self._turn = self._source = None
        at_hand = self._body_at_hand()
        if not keep or self._server.draining or not at_hand:
            self._close(read_away=not at_hand or bool(self._inbox))
            return
        if self._rest:
            self._inbox = self._inbox[self._rest :]
            self._rest = 0
        self._stage = _HEAD
        self.due = self._server.idle_due
        if not self._reading:
            self._gate()
        if self._inbox and not self._advancing:
            self._server.loop.call_soon(self._advance)

    def cut(self, turn: Turn, *, reset: bool) -> None:
        """Let out what was written, then end the connection short of a whole answer."""
        del turn
        self._turn = self._source = None
        if reset:
            # RST instead of FIN: to a client that reads until the end, an orderly one would be the end of a whole answer.
            self._transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET,
                socket.SO_LINGER,
                struct.pack("ii", 1, 0),
            )
        self._close(read_away=False)

    def pause_body(self) -> None:
        """Stop reading the body."""
        self._paused = True
        if self._stage == _BODY:
            self.due = NEVER
            self._gate()

    def resume_body(self) -> None:
        """Go on reading the body."""
        self._paused = False
        if self._stage == _BODY:
            self._expect_body()
            self._gate()
            if self._inbox and not self._advancing:
                # Not from within the caller: data and flow control never nest.
                self._server.loop.call_soon(self._advance)

    # What the server calls.

    @property
    def idle(self) -> bool:
        """Whether the client has no request under way, not even the beginning of one."""
        return self._stage == _HEAD and not self._inbox

    def refuse_at_once(self, answer: bytes) -> None:
        """Answer before any request is read, and close."""
        self._transport.write(answer)
        self._close(read_away=True)

    def close_idle(self) -> None:
        """Close a connection that is idle."""
        self._close(read_away=False)

    def flush(self) -> None:
        """Send a response head that still waits for its body."""
        if self._turn is not None:
            self._turn.flush()

    def abort(self) -> None:
        """End the connection at once."""
        self._transport.abort()

    def expire(self) -> None:
        """The client kept us waiting past `due`."""
        unsent = self._transport.get_write_buffer_size()
        if self._stage == _BODY:
            self._broken(Refused(408, Reason.REQUEST_TIMEOUT, "The request body did not arrive in time."))
        elif self._stage == _HEAD and self._inbox and not self._blocked:
            self._refuse(Refused(408, Reason.REQUEST_TIMEOUT, "The request head did not arrive in time."))
        elif unsent and unsent != self._unsent:
            # Still taking in its answer, only slowly.
            self._unsent = unsent
            self.due = self._server.idle_due
        elif self._stage == _HEAD and not unsent:
            self._close(read_away=False)
        else:
            self._transport.abort()

    # Endings.

    def _body_at_hand(self) -> bool:
        return self._stage != _BODY or (self._chunks is None and len(self._inbox) >= self._rest)

    def _expect_body(self) -> None:
        """The body may come now: say so to a client that waits for it, and start the clock on it."""
        if self._paused:
            return
        self.due = self._server.body_due
        if self._wants_continue and self._turn is not None and not self._turn.opened:
            self._wants_continue = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _gate(self) -> None:
        """Read from the socket, or not, as memory allows."""
        if self._stage == _BODY:
            reading = not self._paused
        elif self._stage == _ANSWER or (self._stage == _HEAD and self._blocked):
            reading = len(self._inbox) <= PIPELINE_BYTES
        else:
            reading = True
        if reading != self._reading and self._stage != _CLOSING:
            self._reading = reading
            if reading:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _refuse(
        self,
        refused: Refused,
        *,
        request: RequestHead | None = None,
        keep: bool = False,
        head_request: bool = False,
        advice: bytes = b"",
    ) -> None:
        """Answer with a refusal; the service hears nothing of it (it raised it, or never saw the request)."""
        turn = self._turn
        if turn is not None:
            if turn.opened:
                turn.abort()
                return
            turn.drop()
        line = b"connection: close\r\n"
        if request is not None:
            keep = keep and request.keep_alive and self.may_keep()
            head_request = request.method == b"HEAD"
            line = connection_line(request, keep=keep)
        self._transport.write(refusal(refused, self._heads.headers, head_request=head_request, connection=line, advice=advice))
        if keep and turn is not None:
            self.answered(turn, keep=True)
        else:
            self._turn = self._source = None
            unread = request is None or not self._body_at_hand() or len(self._inbox) > self._rest
            self._close(read_away=unread)

    def _broken(self, refused: Refused) -> None:
        """The client broke the protocol, or fell silent, in its body: the service hears that it is gone, the client why."""
        source = self._source
        self._source = None
        self._refuse(refused, request=self._request)
        self._tell_gone(source)

    def _failed(self) -> None:
        """The service raised something unforeseen; called while handling it."""
        log.exception("the service failed")
        source = self._source
        self._source = None
        internal = Refused(500, Reason.INTERNAL, "The gateway failed to handle this request.")
        self._refuse(internal, request=self._request)
        self._tell_gone(source)

    def _gone(self) -> None:
        turn, source = self._turn, self._source
        self._turn = self._source = None
        self._heads.close()
        self._stage = _CLOSING
        self._inbox = b""
        if turn is not None:
            turn.drop()
        self._tell_gone(source)

    def _tell_gone(self, source: Source | None) -> None:
        if source is not None:
            try:
                source.gone()
            except Exception:  # noqa: BLE001 - logged; there is nobody left to answer
                log.exception("the service failed")

    def _close(self, *, read_away: bool) -> None:
        """Close once everything written is out; `read_away`: bytes of the client's may be under way.

        Closing a socket with unread bytes resets it, and a reset destroys what the client has not read yet; so the sending side
        is closed first, and the rest read away within LINGER_BYTES and the server's linger time (RFC 9112 section 9.6).
        """
        self._inbox = b""
        self.due = self._server.linger_due
        if read_away:
            self._stage = _LINGER
            self._gate()
            self._transport.write_eof()
        else:
            self._stage = _CLOSING
            self._transport.close()
