"""One HTTP/1.1 connection to a provider: one request at a time out, one answer at a time in.

llhttp (through httptools) reads the answer. What it lets through and RFC 9112 does not, or what only a client can know, is checked
here: interim answers are skipped, a head has bounds, only plain `chunked` is a transfer coding, HEAD has no body, a body may end
with the connection. The law: a connection returns to the pool only when both messages were exchanged whole, nothing followed the
answer, and both sides want to keep it; in every other case it is closed, because a byte taken for the wrong answer would hand one
client's text to another. Everything is a callback: no task, no queue, no copy of the body.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Iterator
from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Final, cast

from httptools import HttpParserError, HttpResponseParser

from gateway.core.message import ResponseHead
from gateway.core.verdicts import IOFault
from gateway.egress.call import WireCall
from gateway.egress.upstream import Receiver

if TYPE_CHECKING:
    from gateway.egress.pool import Place

HEAD_BYTES: Final = 128 * 1024
"""A response head, or a stretch of chunk extensions and trailers without body bytes, may be this long."""
HEADERS: Final = 200
INTERIM_ANSWERS: Final = 20
"""1xx answers before the final one."""
STALE_S: Final = 1.0
"""A reused connection that closes this soon after the write, and without a byte, was most likely closed before the request came."""
JOIN_BYTES: Final = 32 * 1024
"""A head and body up to this size leave in one write; below the transports' high-water mark of 64 KiB."""
SLICE_BYTES: Final = 64 * 1024
"""A larger body is handed to the transport in pieces as it drains, so that neither TLS nor asyncio copies it as a whole."""
KNOWN_HEADS: Final = 1024
"""Sequences of header names that are remembered: a provider sends the same few again and again."""

_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_FRAMING: Final = frozenset((b"content-length", b"transfer-encoding"))


@lru_cache(maxsize=KNOWN_HEADS)
def _named(spelt: tuple[bytes, ...]) -> tuple[tuple[bytes, ...], tuple[int, ...]]:
    """Return the names in lower case, and where among them the framing headers are."""
    names = tuple([name.lower() for name in spelt])
    return names, tuple([index for index, name in enumerate(names) if name in _FRAMING])


class _State(IntEnum):
    IDLE = 0
    HEAD = 1
    """Waiting for a final response head."""
    BODY = 2
    WHOLE = 3
    """The answer is complete, within the feed that completed it."""
    CLOSED = 4


_IDLE, _HEAD, _BODY, _WHOLE, _CLOSED = _State


class _Refusal(Exception):  # noqa: N818 - never leaves this file
    """The answer breaks a rule that llhttp does not enforce."""


class _Nobody:
    """Hears what is left of an answer in which nobody is interested any more."""

    __slots__ = ()

    def sending(self) -> None: ...
    def head(self, head: ResponseHead) -> None: ...
    def data(self, chunk: bytes) -> None: ...
    def ended(self) -> None: ...
    def failed(self, fault: IOFault, detail: str, *, sent: bool) -> None: ...
    def blocked(self) -> None: ...
    def unblocked(self) -> None: ...


_NOBODY: Final[Receiver] = _Nobody()


class Connection(asyncio.Protocol):
    """A connection of one `Place`. Made by a dial, then idle or carrying one call until it is closed."""

    __slots__ = (
        "_call",
        "_chunked",
        "_feed",
        "_full",
        "_head_at",
        "_heard",
        "_interim",
        "_keep",
        "_length",
        "_parser",
        "_parts",
        "_paused",
        "_pieces",
        "_place",
        "_quiet_bytes",
        "_receiver",
        "_state",
        "_transport",
        "_until_eof",
        "_written",
        "_written_at",
        "idle_since",
        "served",
    )

    def __init__(self, place: Place) -> None:
        self._place = place
        self._transport: asyncio.Transport
        self._state = _IDLE
        self._call: WireCall | None = None
        self._receiver = _NOBODY
        self._renew_parser()
        self._full = False
        self._paused = False
        self._pieces: Iterator[bytes | memoryview] | None = None
        self._written_at = 0.0
        self._heard = False
        self._written = False
        self._until_eof = False
        self._keep = False
        self._quiet_bytes = 0
        self._interim = 0
        self._parts: list[bytes] = []
        """What was received of the head so far."""
        self._head_at = 0
        """Where in them the head begins, interim answers left behind."""
        self._length: int | None = None
        self._chunked = False
        self.idle_since = 0.0
        self.served = 0
        """Calls begun on this connection."""

    def __repr__(self) -> str:
        return f"<Connection {self._place.label}, {self._state.name}, calls: {self.served}>"

    # What the pool and the call ask for.

    @property
    def usable(self) -> bool:
        """Whether an idle connection still looks alive; its closing may not have been reported yet."""
        return self._state is _IDLE and not self._transport.is_closing()

    def begin(self, call: WireCall) -> None:
        """Write a request and read its answer. The connection is idle."""
        self._call = call
        self._receiver = receiver = call.receiver
        call.connection = self
        self._state = _HEAD
        self._heard = self._until_eof = self._chunked = False
        self._length = None
        self._quiet_bytes = self._interim = 0
        self._head_at = 0
        self._parts = []
        self.served += 1
        self._written_at = self._place.loop.time()
        if not call.sent:
            call.sent = True
            receiver.sending()
        if call.paused:
            self.pause_reading()
        head = self._place.rewrite(call.head) if self._place.rewrite else call.head
        body = call.body
        if not call.chunked and sum(map(len, body)) <= JOIN_BYTES:
            self._written = call.finished
            self._transport.write(b"".join((head, *body)) if body else head)
        else:
            self._written = False
            self._transport.write(head)
            self._pieces = self._slices(call)
            self._pump()
        if not call.whole and self._pieces is None:
            call.body = []
            if not self._full:
                call.unblock()

    def send(self, chunk: bytes) -> None:
        """Send more of the body; kept back while earlier bytes are."""
        call = cast("WireCall", self._call)
        if self._pieces is not None:
            call.hold(chunk)
        elif call.chunked:
            self._transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        else:
            self._transport.write(chunk)

    def send_end(self) -> None:
        """The body is complete."""
        if self._pieces is None and not self._written:
            call = cast("WireCall", self._call)
            if call.discard:
                return
            self._written = True
            if call.chunked:
                self._transport.write(b"0\r\n\r\n")

    def pause_reading(self) -> None:
        """Stop reading from the socket."""
        if not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on reading from the socket."""
        if self._paused:
            self._paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def abandon(self) -> None:
        """The driver gave the call up: nothing that comes now is of use."""
        self._detach()
        self.abort()

    def close(self) -> None:
        """Close an idle connection in good order."""
        self._state = _CLOSED
        self._transport.close()
        self._place.lost(self)

    def abort(self) -> None:
        """Close at once, whatever is under way, without a word to the receiver."""
        self._state = _CLOSED
        self._transport.abort()
        self._place.lost(self)

    def fail(self, fault: IOFault, detail: str) -> None:
        """Close, and tell the receiver why, if there is one."""
        call = self._call
        receiver = self._detach()
        self.abort()
        if call is not None:
            call.over = True
            receiver.failed(fault, detail, sent=True)

    # asyncio's callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._call is None:
            if self._state is _IDLE:
                self.abort()
            return
        self._heard = True
        self._quiet_bytes += len(data)
        if self._state is _HEAD:
            self._parts.append(data)
        try:
            self._feed(data)
        except HttpParserError as exc:
            if self._state is not _WHOLE:
                self._refuse(exc)
            elif self._call is not None:
                # An answer to HEAD, where the parser would wait for a body; or bytes after an answer.
                bare = self._call.head_request
                self._renew_parser()
                self._finish(reusable=bare and self._keep)
            return
        if self._state is _WHOLE:
            self._finish(reusable=self._keep)
        elif self._quiet_bytes > HEAD_BYTES and self._state is not _CLOSED:
            self.fail(IOFault.MALFORMED, f"{self._place.label} sent more than {HEAD_BYTES} bytes of head or trailers")

    def eof_received(self) -> None:
        if self._call is None:
            return  # the transport closes itself, and is not usable from now on
        if self._state is _BODY and self._until_eof and self._ended_in_good_order():
            self._finish(reusable=False)
        else:
            self._broken("closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        if self._call is not None:
            self._broken("reset the connection" if isinstance(exc, ConnectionError) else f"dropped the connection ({exc})")
        self._state = _CLOSED
        self._place.lost(self)

    def pause_writing(self) -> None:
        self._full = True
        if self._call is not None:
            self._call.soon_blocked()

    def resume_writing(self) -> None:
        self._full = False
        call = self._call
        if call is None:
            return
        if self._pieces is not None:
            self._pump()
        if not self._full and self._pieces is None:
            call.unblock()

    # httptools' callbacks, all from within `data_received`.

    def on_message_begin(self) -> None:
        if self._state is _WHOLE:
            raise _Refusal("bytes after the answer")

    def on_headers_complete(self) -> None:
        # llhttp has judged the head, which is the hard part; cutting it up in one go costs half of what a call per header does.
        parts = self._parts
        raw = parts[0] if len(parts) == 1 else b"".join(parts)
        start = self._head_at
        while raw[start] in b"\r\n":
            start += 1
        end = raw.index(b"\r\n\r\n", start)
        if end - start > HEAD_BYTES:
            raise _Refusal("a head longer than 128 KiB")
        status = self._parser.get_status_code()
        if not 200 <= status <= 599:
            self._skip(status, raw, end + 4)
            return
        parts.clear()
        head = self._head(status, raw[start:end])
        self._keep = self._parser.should_keep_alive()
        self._quiet_bytes = 0
        call = cast("WireCall", self._call)
        if not self._written and status >= 300:
            call.discard = True
            self._pieces = None
        self._until_eof = self._length is None and not self._chunked
        self._state = _BODY
        self._receiver.head(head)
        if call.head_request and self._state is _BODY:
            self._state = _WHOLE
            self._keep = self._keep and end + 4 == len(raw)
            raise _Refusal("HEAD has no body")

    def on_body(self, chunk: bytes) -> None:
        self._quiet_bytes = 0
        self._receiver.data(chunk)

    def on_message_complete(self) -> None:
        if self._state is _BODY:
            self._state = _WHOLE

    # The rules.

    def _head(self, status: int, text: bytes) -> ResponseHead:
        """Make a head of text that llhttp has accepted: CRLF only, no folding, names are tokens, values without controls."""
        lines = text.split(b"\r\n")
        line = lines.pop(0)
        phrase = line[13:]
        if phrase != b"OK" and _CONTROL.search(phrase):
            raise _Refusal("control bytes in the reason phrase")
        if len(lines) > HEADERS:
            raise _Refusal(f"{len(lines)} headers")
        names, framing = _named(tuple([line.partition(b":")[0] for line in lines]))
        head = ResponseHead(status, names, lines, phrase)
        for index in framing:
            lower = names[index]
            self._framing(lower, lines[index][len(lower) + 1 :].strip())
        if not line.startswith(b"HTTP/1.1 ") and (self._chunked or not line.startswith(b"HTTP/1.0 ")):
            raise _Refusal("a transfer coding in HTTP/1.0" if self._chunked else "a version other than HTTP/1.1 and 1.0")
        head.content_length, head.chunked = self._length, self._chunked
        return head

    def _framing(self, lower: bytes, value: bytes) -> None:
        """Note how the body is framed; llhttp has refused a bad or second length, and a length next to a coding (RFC 9112 6.3)."""
        if lower == b"content-length":
            self._length = int(value)
        elif self._chunked or value.lower() != b"chunked":
            raise _Refusal("a transfer coding other than chunked")
        else:
            self._chunked = True

    def _skip(self, status: int, raw: bytes, end: int) -> None:
        """Pass over an interim answer; the final one follows (RFC 9110 section 15.2)."""
        if not 100 <= status <= 199:
            raise _Refusal(f"status {status}")
        if status == 101:
            raise _Refusal("a switch of protocols that nobody asked for")
        self._interim += 1
        if self._interim > INTERIM_ANSWERS:
            raise _Refusal("interim answers without end")
        self._quiet_bytes = 0
        rest = end < len(raw)
        self._parts = [raw] if rest else []
        self._head_at = end if rest else 0

    def _renew_parser(self) -> None:
        self._parser = HttpResponseParser(self)
        self._feed = self._parser.feed_data

    def _finish(self, *, reusable: bool) -> None:
        """The answer is whole; the connection is kept if everything about it is clean."""
        call = self._call
        if call is None:
            return
        call.over = True
        receiver = self._detach()
        transport = self._transport
        if reusable and self._written and not transport.is_closing() and not transport.get_write_buffer_size():
            self._state = _IDLE
            if self._paused:
                self.resume_reading()
            self._place.release(self)
        else:
            self.abort()
        receiver.ended()

    def _refuse(self, exc: HttpParserError) -> None:
        """The answer is not HTTP, or contradicts itself; or the receiver failed in one of its callbacks."""
        cause = exc.__context__ if exc.__context__ is not None and not isinstance(exc.__context__, HttpParserError) else None
        if cause is None or isinstance(cause, _Refusal):
            self.fail(IOFault.MALFORMED, f"{self._place.label} sent a malformed answer: {cause or exc}")
            return
        self._place.loop.call_exception_handler({"message": "a receiver failed", "exception": cause, "protocol": self})
        self.fail(IOFault.RESET, f"the answer of {self._place.label} could not be taken in: {type(cause).__name__}")

    def _broken(self, what: str) -> None:
        """The connection ended in the middle of a call."""
        call = cast("WireCall", self._call)
        place = self._place
        stale = self.served > 1 and not self._heard and place.loop.time() - self._written_at <= STALE_S
        if stale and call.whole:
            self._detach()
            place.replace(call)
            self.abort()
            return
        where = "before the answer" if not self._heard else "in the middle of the answer"
        self.fail(IOFault.RESET, f"{place.label} {what} {where}")

    def _ended_in_good_order(self) -> bool:
        """Whether the provider meant to end the stream: over TLS only its closing alert says so (RFC 9112 section 9.8)."""
        tls = self._transport.get_extra_info("ssl_object")
        if tls is None:
            return True
        try:
            # Reads b"" after the alert; without it OpenSSL asks for more. asyncio reports both as the same end.
            return not tls.read(1)
        except ssl.SSLError:
            return False

    def _detach(self) -> Receiver:
        """Part from the call; return whom to tell."""
        receiver = self._receiver
        if self._call is not None:
            self._call.connection = None
            self._call = None
        self._receiver = _NOBODY
        self._pieces = None
        return receiver

    # The body of a request that does not leave in one write.

    def _pump(self) -> None:
        """Write until the transport is full or nothing is left."""
        transport = self._transport
        for piece in cast("Iterator[bytes | memoryview]", self._pieces):
            transport.write(piece)
            if self._full:
                return
        self._pieces = None
        call = cast("WireCall", self._call)
        if not call.whole:
            call.body = []
        if call.finished:
            self.send_end()

    @staticmethod
    def _slices(call: WireCall) -> Iterator[bytes | memoryview]:
        """Yield the body, framed if need be; chunks that the call holds back meanwhile are yielded too."""
        index = 0
        while index < len(call.body):
            chunk = call.body[index]
            index += 1
            if not chunk:
                continue
            if call.chunked:
                yield b"%x\r\n" % len(chunk)
            if len(chunk) <= SLICE_BYTES:
                yield chunk
            else:
                view = memoryview(chunk)
                for start in range(0, len(chunk), SLICE_BYTES):
                    yield view[start : start + SLICE_BYTES]
            if call.chunked:
                yield b"\r\n"
