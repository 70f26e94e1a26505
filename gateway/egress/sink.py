"""The two seams between the client's side and the provider's side of an exchange.

`Sink` is what egress writes an answer into; ingress implements it. `Source` is what ingress feeds a request body into; egress
implements it. Both are called from one event loop, never re-entrantly from within each other's flow-control calls, and nothing is
called after `end`/`abort`/`gone`.
"""

from __future__ import annotations

from typing import Protocol


class Sink(Protocol):
    """Where an answer goes: one client's turn on its connection."""

    @property
    def peer(self) -> str:
        """The client's address, without its port; empty where it has none."""
        ...

    def open(self, status: int, phrase: bytes, lines: list[bytes], *, length: int | None) -> None:
        """Write the response head.

        `lines` are header lines rendered as `Name: value` + CRLF, end-to-end headers only; the sink adds its own framing and
        connection headers. `length` is the exact size of the body in bytes, or None: chunked (HTTP/1.1) or until close (1.0).
        May be held back until the first `write`, so that head and body leave in one system call.
        """
        ...

    def write(self, chunk: bytes) -> None:
        """Write body bytes (framed by the sink; dropped for HEAD). Never call with an empty chunk."""
        ...

    def end(self) -> None:
        """The answer is whole. If the request's body was not read to its end, the connection closes afterwards."""
        ...

    def abort(self) -> None:
        """Cut the answer so that the client sees it cut: no final chunk, the connection reset."""
        ...

    def pause_body(self) -> None:
        """Stop reading the request's body from the socket; idempotent."""
        ...

    def resume_body(self) -> None:
        """Go on reading the request's body; sends `100 Continue` first if the client waits for it. Idempotent."""
        ...


class Source(Protocol):
    """What takes in a request's body and hears of the client's state."""

    def data(self, chunk: bytes) -> None:
        """Take the next body bytes."""
        ...

    def end_of_body(self) -> None:
        """The request is whole; called at once after the head where there is no body."""
        ...

    def blocked(self) -> None:
        """The client reads slowly: stop writing soon (what is written now is still buffered)."""
        ...

    def unblocked(self) -> None:
        """The client's buffer has room again."""
        ...

    def gone(self) -> None:
        """The client left, or broke the protocol in its body, before the answer was whole. The sink is dead from now on."""
        ...
