"""The seam between the driver and the network: one upstream request, its calls and its callbacks.

The real network is `egress.pool`; the simulation in `tests/sim` implements the same protocol in memory. Callbacks come from
the event loop, never from inside `Upstream.call` itself, so that a driver has finished booking an attempt before it hears of it;
`sending` alone may come from within, where an idle connection is at hand.
"""

from __future__ import annotations

from typing import Protocol

from gateway.config.snapshot import Origin
from gateway.core.message import ResponseHead
from gateway.core.verdicts import IOFault


class Receiver(Protocol):
    """Hears what becomes of one call. After `ended` or `failed`, and after `Call.cancel`, nothing more comes."""

    def sending(self) -> None:
        """A connection is there and the head is being written: from now on the provider may have seen the request.

        Comes once, even when a stale pooled connection is replaced.
        """
        ...

    def head(self, head: ResponseHead) -> None:
        """The final response head came (1xx are skipped)."""
        ...

    def data(self, chunk: bytes) -> None:
        """Body bytes came, without any framing."""
        ...

    def ended(self) -> None:
        """The response is whole."""
        ...

    def failed(self, fault: IOFault, detail: str, *, sent: bool) -> None:
        """The call failed; `sent` tells whether a byte of the request may have reached the provider."""
        ...

    def blocked(self) -> None:
        """The socket towards the provider is full: stop writing body bytes."""
        ...

    def unblocked(self) -> None:
        """The socket has room again."""
        ...


class Call(Protocol):
    """One upstream request under way."""

    def write(self, chunk: bytes) -> None:
        """Send more of the request's body; only for calls begun with `whole=False`. Early answers make it a no-op."""
        ...

    def end_of_body(self) -> None:
        """The request's body is complete."""
        ...

    def pause(self) -> None:
        """Stop reading the response from the socket (back-pressure from a slow client); idempotent."""
        ...

    def resume(self) -> None:
        """Go on reading; idempotent."""
        ...

    def cancel(self) -> None:
        """Give up: close the connection if a byte was sent, else leave the queue. Idempotent; a no-op after the end."""
        ...


class Upstream(Protocol):
    """Sends requests."""

    def call(
        self,
        origin: Origin,
        head: bytes,
        body: list[bytes],
        receiver: Receiver,
        *,
        whole: bool,
        chunked: bool,
        head_request: bool,
        connect_s: float,
        limit: int,
    ) -> Call:
        """Begin one request.

        `head`: the complete request head, including framing headers and the final blank line, ready to write; its target is in
        origin form (the pool rewrites it for a plain-HTTP proxy). `body`: what is there of the body already. `whole`: `body` is
        all of it, so the call may replace a stale pooled connection for free; otherwise `write`/`end_of_body` follow. `chunked`:
        body bytes (those in `body` too) are to be framed by the call. `head_request`: the answer has no body. `connect_s`: DNS,
        TCP and TLS together, and waiting for a free connection, each. `limit`: connections to this origin at most.
        """
        ...
