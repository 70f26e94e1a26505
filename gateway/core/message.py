"""HTTP messages as plain data, shared by every layer that touches them.

Headers are a list of triples (lower-case name, name as received, value), all bytes: order, case, duplicates and non-ASCII bytes
survive untouched, and nothing lower-cases a name twice. Framing headers (`Content-Length`, `Transfer-Encoding`) and hop-by-hop
headers stay in the list as received; whoever writes a message leaves them out and frames it anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

Header = tuple[bytes, bytes, bytes]
"""(lower-case name, name as received, value)"""

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    },
)
"""RFC 9110 section 7.6.1: meant for the next hop only, never forwarded in either direction."""


class RequestHead:
    """The head of one client request, checked: exactly one Host, one framing, origin-form target."""

    __slots__ = (
        "_fields",
        "chunked",
        "content_length",
        "expect_continue",
        "headers",
        "keep_alive",
        "method",
        "rendered",
        "target",
        "version",
    )

    def __init__(
        self,
        method: bytes,
        target: bytes,
        headers: list[Header],
        *,
        version: bytes = b"1.1",
        content_length: int | None = None,
        chunked: bool = False,
        expect_continue: bool = False,
        keep_alive: bool = True,
    ) -> None:
        self.method = method
        self.target = target
        """Origin form, raw bytes: path, and `?query` exactly as received."""
        self.headers = headers
        self.version = version
        self.content_length = content_length
        """None without the header; then the body is chunked or empty."""
        self.chunked = chunked
        self.expect_continue = expect_continue
        self.keep_alive = keep_alive
        self.rendered: dict[tuple[object, ...], tuple[object, bytes]] = {}
        """The same for upstreams, without framing, by what that depends on; kept by whoever renders it, shared as `again` says."""
        self._fields: dict[bytes, bytes] | None = None

    def again(self, content_length: int | None) -> RequestHead:
        """Return the head of a request that differs from this one only in its length; what was derived of the rest is shared."""
        head = RequestHead(
            self.method,
            self.target,
            self.headers,
            version=self.version,
            content_length=content_length,
            chunked=self.chunked,
            expect_continue=self.expect_continue,
            keep_alive=self.keep_alive,
        )
        head.rendered = self.rendered
        head._fields = self._fields
        return head

    @property
    def fields(self) -> dict[bytes, bytes]:
        """The headers by lower-case name, of several the last; without Content-Length, which has its own place."""
        if self._fields is None:
            self._fields = {lower: value for lower, _, value in self.headers if lower != b"content-length"}
        return self._fields

    @property
    def has_body(self) -> bool:
        """Whether body bytes may follow the head."""
        return self.chunked or bool(self.content_length)


class ResponseHead:
    """The head of one final (not 1xx) response.

    Kept as lines and lower-case names side by side, because that is how it came and how it mostly goes on; `headers` takes them
    apart when somebody asks.
    """

    __slots__ = ("_headers", "chunked", "content_length", "lines", "names", "phrase", "status")

    def __init__(self, status: int, names: tuple[bytes, ...], lines: list[bytes], phrase: bytes) -> None:
        self.status = status
        self.names = names
        """Lower-case, one per line."""
        self.lines = lines
        """As received, without CRLF."""
        self._headers: list[Header] | None = None
        self.phrase = phrase
        """The reason phrase; may be empty."""
        self.content_length: int | None = None
        """None: chunked, or delimited by the end of the connection. As `chunked`, set by whoever reads the framing."""
        self.chunked = False

    @staticmethod
    def of(status: int, headers: list[Header], phrase: bytes = b"") -> ResponseHead:
        """Make a head of headers that were not read from a connection."""
        lines = [b"%b: %b" % (name, value) for _, name, value in headers]
        head = ResponseHead(status, tuple([lower for lower, _, _ in headers]), lines, phrase)
        head._headers = headers
        return head

    @property
    def headers(self) -> list[Header]:
        """The headers as triples."""
        if self._headers is None:
            self._headers = []
            for lower, line in zip(self.names, self.lines, strict=True):
                name, _, value = line.partition(b":")
                self._headers.append((lower, name, value.strip()))
        return self._headers

    def value(self, name: bytes) -> bytes:
        """Return the first value of the header with this lower-case name; empty where there is none."""
        return self.lines[self.names.index(name)][len(name) + 1 :].strip() if name in self.names else b""


def first(headers: Iterable[Header], name: bytes) -> bytes | None:
    """Return the first value of the header with this lower-case name."""
    for lower, _, value in headers:
        if lower == name:
            return value
    return None


def header(name: bytes, value: bytes) -> Header:
    """Build a header of our own; raises ValueError where the value could break the framing."""
    if b"\r" in value or b"\n" in value or b"\0" in value:
        raise ValueError(f"control bytes in the value of {name!r}")
    return name.lower(), name, value


_PLAIN_CONNECTION: Final = frozenset({b"keep-alive", b"Keep-Alive", b"close"})


def named_by_connection(headers: Iterable[Header]) -> frozenset[bytes]:
    """Return the lower-case names which the `Connection` headers declare hop-by-hop (RFC 9110 section 7.6.1)."""
    named: frozenset[bytes] = frozenset()
    for lower, _, value in headers:
        if lower == b"connection" and value not in _PLAIN_CONNECTION:
            named |= {token.strip().lower() for token in value.split(b",")}
    return named - {b"close", b"keep-alive", b""} if named else named
