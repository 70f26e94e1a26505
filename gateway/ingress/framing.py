"""What a well-formed request is: pure checks on bytes, before and beside the parser.

Law: one request in is never two requests out, so whatever two implementations could read differently is refused here, with the
status and reason the RFCs give it. llhttp is strict about headers, but takes several spaces in the request line, HTTP/0.9 and
2.0, RTSP, `gzip, chunked`, `Transfer-Encoding` on HTTP/1.0, and any number of Hosts; it does not tell how many bytes of a chunked
body it used, which pipelining needs. So the request line, the choice of framing and the chunks are read here. Separate from the
connection because nothing in it needs a socket: every rule is a function of bytes.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from gateway.core.message import Header, RequestHead
from gateway.errors import Reason, Refused

MAX_LINE: Final = 16 * 1024
"""Bytes of request line at most; `header_bytes` bounds it too where that is less."""
MAX_CHUNK_LINE: Final = 1024
"""Bytes of one chunk-size line at most, extensions included."""

METHODS: Final = frozenset(
    b"ACL BIND CHECKOUT COPY DELETE GET HEAD LINK LOCK M-SEARCH MERGE MKACTIVITY MKCALENDAR MKCOL MOVE NOTIFY OPTIONS PATCH POST "
    b"PROPFIND PROPPATCH PURGE PUT QUERY REBIND REPORT SEARCH SUBSCRIBE UNBIND UNLINK UNLOCK UNSUBSCRIBE".split(),
)
"""What llhttp knows of HTTP, less CONNECT (this is no tunnel) and TRACE (its answer would show the client our credentials)."""

_REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([!-~]+) HTTP/([0-9])\.([0-9])")
_STRAY: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?!\n|\Z)")
_TRANSFER_CODING: Final = re.compile(rb"\r\ntransfer-encoding:[ \t]*([^\r\n]*)\r\n", re.IGNORECASE)
_HAS_LENGTH: Final = re.compile(rb"\r\ncontent-length[ \t]*:", re.IGNORECASE)
_CODING_LIST: Final = re.compile(rb"[!-~](?:[!-~ \t]*[!-~])?[ \t]*")

_REG_NAME: Final = rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+"
_IP_LITERAL: Final = rb"\[(?:[0-9A-Fa-f:.]{2,}|[vV][0-9A-Fa-f]+\.[A-Za-z0-9\-._~!$&'()*+,;=:]+)\]"
_HOST: Final = re.compile(rb"(?:" + _REG_NAME + rb"|" + _IP_LITERAL + rb")(?::[0-9]{0,5})?")
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#]*)([^#]*)", re.IGNORECASE)
_SEPARATOR: Final = rb"(?:/|\\|%2f|%5c)"
_DOT_SEGMENT: Final = re.compile(_SEPARATOR + rb"(?:\.|%2e){1,2}(?:" + _SEPARATOR + rb"|;|\Z)", re.IGNORECASE)

_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;([\t -~\x80-\xff]*))?\r\n")
_CHUNK_LINE_SO_FAR: Final = re.compile(rb"[0-9A-Fa-f]{1,16}(?:[ \t]+|[ \t]*;[\t -~\x80-\xff]*)?\r?")
_TRAILER: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~\x80-\xff]*")

FIELDS: Final = frozenset((b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade"))
"""The headers that decide what a request is and where it ends."""


def bad(message: str) -> Refused:
    """Return the refusal of a request that breaks the protocol."""
    return Refused(400, Reason.BAD_REQUEST, message)


class RequestLine(NamedTuple):
    """A request line, checked."""

    method: bytes
    target: bytes
    """Origin form."""
    version: bytes
    """`1.0` or `1.1`"""
    authority: bytes | None
    """What an absolute-form target names instead of Host."""


def request_line(line: bytes) -> RequestLine:
    """Read a request line without its CRLF; raises Refused.

    RFC 9112 section 3: exactly one space on each side of the target. A recipient may split on other whitespace, and that is
    where two implementations come to disagree, so none other is taken.
    """
    # Few addresses make up nearly all traffic; those with a query may carry a key and are not remembered.
    return _read_line(line) if b"?" in line else _known_line(line)


def _read_line(line: bytes) -> RequestLine:
    parts = _REQUEST_LINE.fullmatch(line)
    if parts is None:
        raise bad("The request line is malformed.")
    method, target, major, minor = parts.groups()
    if major != b"1" or minor not in b"01":
        raise Refused(505, Reason.HTTP_VERSION, "This server speaks HTTP/1.1 and HTTP/1.0.")
    if method not in METHODS:
        raise Refused(501, Reason.NOT_IMPLEMENTED, "The request method is not implemented.")
    origin_form, authority = _origin_form(method, target)
    return RequestLine(method, origin_form, b"1.1" if minor == b"1" else b"1.0", authority)


_known_line = lru_cache(maxsize=256)(_read_line)


def check_size(raw: bytes, header_bytes: int) -> None:
    """Refuse a head, complete or growing, that is larger than allowed (RFC 9112 section 3, RFC 6585 section 5)."""
    limit = min(MAX_LINE, header_bytes)
    if len(raw) > limit and not 0 <= raw.find(b"\r\n") <= limit:
        raise Refused(414, Reason.TARGET_TOO_LONG, f"The request line is longer than {limit} bytes.")
    if len(raw) > header_bytes:
        raise Refused(431, Reason.HEADERS_TOO_LARGE, f"The request head is larger than {header_bytes} bytes.")


def check_growing(raw: bytes, scanned: int, header_bytes: int) -> None:
    """Refuse an incomplete head as soon as it cannot become a good one; bytes before `scanned` were checked already.

    Without this a client whose lines end in bare LF, or who speaks TLS to this port, would wait for the header timeout.
    """
    check_size(raw, header_bytes)
    if _STRAY.search(raw, max(scanned - 1, 0)):
        raise bad("The request head contains control bytes or bare line ends.")
    line, line_end, _ = raw.partition(b"\r\n")
    if line_end:
        request_line(line)


def parser_refusal(raw: bytes) -> Refused:
    """Return the refusal of a complete head, with a good request line, that llhttp took offence at.

    Everything is 400, except a transfer coding we do not understand (RFC 9112 section 6.1: 501).
    """
    codings = _TRANSFER_CODING.findall(raw)
    known = len(codings) != 1 or codings[0].strip().lower() == b"chunked" or not _CODING_LIST.fullmatch(codings[0])
    if known or _HAS_LENGTH.search(raw) or b" HTTP/1.1\r\n" not in raw:
        return bad("The request head is malformed.")
    return Refused(501, Reason.NOT_IMPLEMENTED, "The only transfer coding implemented is chunked.")


@lru_cache(maxsize=512)
def _is_host(value: bytes) -> bool:
    return _HOST.fullmatch(value) is not None


def _origin_form(method: bytes, target: bytes) -> tuple[bytes, bytes | None]:
    """Return the target in origin form and the authority it named, if it was in absolute form (RFC 9112 section 3.2)."""
    authority = None
    if target[0] != 0x2F:
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is not None:
            authority, rest = absolute.groups()
            if not _is_host(authority):
                raise bad("The authority of the request target is malformed.")
            target = rest if rest.startswith(b"/") else b"/" + rest
            if method == b"OPTIONS" and not rest:
                target = b"*"
        if target == b"*" and method == b"OPTIONS":
            raise Refused(501, Reason.NOT_IMPLEMENTED, "OPTIONS for the whole server is not implemented.")
        if target[0] != 0x2F:
            raise bad("The request target must be a path or an absolute URL.")
    if b"#" in target:
        raise bad("The request target contains a fragment.")
    if b"/." in target or b"%" in target or b"\\" in target:
        path = target.partition(b"?")[0]
        if _DOT_SEGMENT.search(path):
            raise bad("The request target contains dot segments.")
    return target, authority


def read_head(line: RequestLine, headers: list[Header], fields: list[Header]) -> RequestHead:
    """Check what llhttp leaves unchecked and return the head; raises Refused.

    `headers` is taken over; `fields` are those of them that are in FIELDS. Of an absolute-form target the authority replaces
    the value of Host (RFC 9112 section 3.2.2). An `Upgrade` that `Connection` does not name, or that comes with HTTP/1.0, is
    ignored (RFC 9110 section 7.8); one that is meant is refused.
    """
    method, target, version, authority = line
    modern = version == b"1.1"
    hosts = lengths = codings = 0
    host = length = coding = b""
    close = persist = upgrade = upgrade_named = expect = False
    for lower, _, value in fields:
        if lower == b"host":
            hosts += 1
            host = value
        elif lower == b"content-length":
            lengths += 1
            length = value
        elif lower == b"connection":
            if value == b"keep-alive":
                persist = True
                continue
            for token in value.lower().split(b","):
                option = token.strip(b" \t")
                if option == b"close":
                    close = True
                elif option == b"keep-alive":
                    persist = True
                elif option == b"upgrade":
                    upgrade_named = True
        elif lower == b"transfer-encoding":
            codings += 1
            coding = value
        elif lower == b"expect":
            if value.lower() != b"100-continue":
                raise Refused(417, Reason.EXPECTATION, "The only expectation met here is 100-continue.")
            expect = True
        else:
            upgrade = True

    if hosts != 1 and (hosts or modern):
        raise bad("A request needs exactly one Host header.")
    if hosts and not _is_host(host):
        raise bad("The Host header is malformed.")
    if codings:
        if lengths:
            raise bad("Content-Length and Transfer-Encoding exclude each other.")
        if not modern:
            raise bad("HTTP/1.0 has no Transfer-Encoding.")
        if codings > 1:
            raise bad("More than one Transfer-Encoding header.")
        if coding.lower() != b"chunked":
            raise Refused(501, Reason.NOT_IMPLEMENTED, "The only transfer coding implemented is chunked.")
    elif lengths and (lengths > 1 or not length.isdigit() or len(length) > 19):
        raise bad("The Content-Length header is malformed.")
    if upgrade and upgrade_named and modern:
        raise Refused(501, Reason.NOT_IMPLEMENTED, "Protocol upgrades are not implemented.")

    if authority is not None:
        headers[:] = [each for each in headers if each[0] != b"host"]
        headers.insert(0, (b"host", b"Host", authority))
    return RequestHead(
        method,
        target,
        headers,
        version=version,
        content_length=int(length) if lengths else None,
        chunked=codings == 1,
        expect_continue=expect and modern,
        keep_alive=not close and (modern or persist),
    )


_SIZE: Final = 0
_DATA: Final = 1
_DATA_END: Final = 2
_TRAILERS: Final = 3


class Chunks:
    """Reads one chunked body (RFC 9112 section 7.1), strictly: CRLF only, sizes of up to 16 hex digits, nothing lenient.

    Extensions and trailers are read within limits and dropped: a chunk line has at most MAX_CHUNK_LINE bytes, all extensions
    together and all trailers together at most `header_bytes`.
    """

    __slots__ = ("_body_bytes", "_extras", "_header_bytes", "_headers", "_left", "_read", "_state", "_trailers", "done")

    def __init__(self, *, body_bytes: int, header_bytes: int, headers: int) -> None:
        self._body_bytes = body_bytes
        self._header_bytes = header_bytes
        self._headers = headers
        self._state = _SIZE
        self._left = 0
        self._read = 0
        self._extras = 0
        self._trailers = 0
        self.done = False

    def feed(self, data: bytes) -> tuple[bytes, int]:
        """Return the body bytes in `data` and how many bytes of it were used; the rest is to be fed again with more behind it.

        Raises Refused: 400, 413 or 431. Once `done`, what is left belongs to the next request.
        """
        pieces: list[bytes] = []
        at, end = 0, len(data)
        while at < end and not self.done:
            if self._state == _DATA:
                piece = data[at : at + self._left]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._state = _DATA_END
                continue
            if self._state == _SIZE:
                used = self._size_line(data, at)
            elif self._state == _DATA_END:
                used = self._data_end(data, at)
            else:
                used = self._trailer(data, at)
            if not used:
                break
            at += used
        return (pieces[0] if len(pieces) == 1 else b"".join(pieces)), at

    def _size_line(self, data: bytes, at: int) -> int:
        line = _CHUNK_LINE.match(data, at, at + MAX_CHUNK_LINE)
        if line is None:
            so_far = data[at : at + MAX_CHUNK_LINE]
            if len(so_far) == MAX_CHUNK_LINE or not _CHUNK_LINE_SO_FAR.fullmatch(so_far):
                raise bad("A chunk size line is malformed.")
            return 0
        size, extension = line.groups()
        if extension is not None:
            self._extras += len(extension)
            if self._extras > self._header_bytes:
                raise bad("The chunk extensions are too large.")
        self._left = int(size, 16)
        self._read += self._left
        if self._read > self._body_bytes:
            raise too_large(self._body_bytes)
        if self._left:
            self._state = _DATA
        else:
            self._state = _TRAILERS
            self._extras = 0
        return line.end() - at

    @staticmethod
    def _is_line_end(data: bytes, at: int) -> bool:
        """Whether CRLF is here; False while only CR has come; raises Refused for anything else."""
        found = data[at : at + 2]
        if found not in (b"\r\n", b"\r"):
            raise bad("A chunk does not end in CRLF.")
        return len(found) == 2

    def _data_end(self, data: bytes, at: int) -> int:
        if not self._is_line_end(data, at):
            return 0
        self._state = _SIZE
        return 2

    def _trailer(self, data: bytes, at: int) -> int:
        if data[at] == 0x0D:
            self.done = self._is_line_end(data, at)
            return 2 if self.done else 0
        end = data.find(b"\r\n", at)
        size = (end if end >= 0 else len(data)) - at
        if self._extras + size > self._header_bytes or self._trailers == self._headers:
            raise Refused(431, Reason.HEADERS_TOO_LARGE, "The trailers are too large.")
        if end < 0:
            if _STRAY.search(data, at):
                raise bad("A trailer is malformed.")
            return 0
        if not _TRAILER.fullmatch(data, at, end):
            raise bad("A trailer is malformed.")
        self._trailers += 1
        self._extras += size
        return size + 2


def too_large(limit: int) -> Refused:
    """Return the refusal of a body larger than `limit` bytes (RFC 9110 section 15.5.14)."""
    return Refused(413, Reason.BODY_TOO_LARGE, f"The request body is larger than {limit} bytes.")
