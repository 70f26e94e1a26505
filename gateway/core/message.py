"""HTTP messages as plain data, shared by every layer that touches them.

Headers are a list of triples (lower-case name, name as received, value), all bytes: order, case, duplicates and non-ASCII bytes
survive untouched, and nothing lower-cases a name twice. Framing headers (`Content-Length`, `Transfer-Encoding`) and hop-by-hop
headers stay in the list as received; whoever writes a message leaves them out and frames it anew.
"""

from __future__ import annotations

from collections.abc import Iterable

Header = tuple[bytes, bytes, bytes]
"""(lower-case name, name as received, value)"""

HOP_BY_HOP = frozenset(
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

    __slots__ = ("chunked", "content_length", "expect_continue", "headers", "keep_alive", "method", "target", "version")

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

    @property
    def has_body(self) -> bool:
        """Whether body bytes may follow the head."""
        return self.chunked or bool(self.content_length)


class ResponseHead:
    """The head of one final (not 1xx) response."""

    __slots__ = ("chunked", "content_length", "headers", "phrase", "status")

    def __init__(
        self,
        status: int,
        headers: list[Header],
        *,
        phrase: bytes = b"",
        content_length: int | None = None,
        chunked: bool = False,
    ) -> None:
        self.status = status
        self.headers = headers
        self.phrase = phrase
        """The reason phrase; may be empty."""
        self.content_length = content_length
        """None: chunked, or delimited by the end of the connection."""
        self.chunked = chunked


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


def named_by_connection(headers: Iterable[Header]) -> frozenset[bytes]:
    """Return the lower-case names which the `Connection` headers declare hop-by-hop (RFC 9110 section 7.6.1)."""
    names: set[bytes] = set()
    for lower, _, value in headers:
        if lower == b"connection":
            names.update(token.strip().lower() for token in value.split(b","))
    names -= {b"close", b"keep-alive", b""}
    return frozenset(names)
