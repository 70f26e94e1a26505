"""One upstream request from the driver's side: what is to be sent, and the handle that steers it.

A `WireCall` outlives the connection it goes out on: it waits before one is free, and may be moved once to a fresh one when a pooled
connection turns out stale. What the driver writes in the meantime is kept here. The rules of HTTP are the connection's, the choice
of connection is the pool's; this is what the two hand to each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.egress.upstream import Receiver

if TYPE_CHECKING:
    from gateway.egress.connection import Connection
    from gateway.egress.pool import Place

HELD_BYTES: Final = 64 * 1024
"""A call without a connection asks the driver to stop once it holds this much of a body."""


class WireCall:
    """Implements `upstream.Call` on real sockets. Its public attributes are for the pool and the connection only."""

    __slots__ = (
        "_blocked",
        "_held_bytes",
        "_own_body",
        "_told_blocked",
        "body",
        "chunked",
        "connect_s",
        "connection",
        "discard",
        "finished",
        "head",
        "head_request",
        "over",
        "paused",
        "place",
        "receiver",
        "sent",
        "whole",
    )

    def __init__(
        self,
        place: Place,
        head: bytes,
        body: list[bytes],
        receiver: Receiver,
        whole: bool,
        chunked: bool,
        head_request: bool,
        connect_s: float,
    ) -> None:
        self.place = place
        self.head = head
        self.body = body
        self.receiver = receiver
        self.whole = whole
        self.chunked = chunked
        self.head_request = head_request
        self.connect_s = connect_s
        self.connection: Connection | None = None
        self.finished = whole
        """The driver has handed over the whole body."""
        self.sent = False
        """The head was written to some connection."""
        self.discard = False
        """The provider answered early with a refusal: it wants no more of the body."""
        self.over = False
        """The receiver heard the end, or the driver cancelled."""
        self.paused = False
        self._own_body = False
        self._held_bytes = 0
        self._blocked = False
        self._told_blocked = False

    def write(self, chunk: bytes) -> None:
        if self.over or self.discard or not chunk:
            return
        if self.connection is None:
            self.hold(chunk)
            self._held_bytes += len(chunk)
            if self._held_bytes > HELD_BYTES:
                self.soon_blocked()
        else:
            self.connection.send(chunk)

    def end_of_body(self) -> None:
        self.finished = True
        if self.connection is not None and not self.over:
            self.connection.send_end()

    def pause(self) -> None:
        self.paused = True
        if self.connection is not None:
            self.connection.pause_reading()

    def resume(self) -> None:
        self.paused = False
        if self.connection is not None:
            self.connection.resume_reading()

    def cancel(self) -> None:
        if self.over:
            return
        self.over = True
        if self.connection is not None:
            self.connection.abandon()
        else:
            self.place.leave(self)

    def hold(self, chunk: bytes) -> None:
        """Keep body bytes that cannot be written yet. The driver's own list is left as it is."""
        if not self._own_body:
            self._own_body = True
            self.body = [*self.body]
        self.body.append(chunk)

    def soon_blocked(self) -> None:
        """Ask the driver to stop writing, from the loop: this may be running inside `Upstream.call` or the driver's own `write`."""
        if not self._blocked and not self.whole:
            self._blocked = True
            self.place.loop.call_soon(self._tell_blocked)

    def unblock(self) -> None:
        """There is room again."""
        self._blocked = False
        if self._told_blocked:
            self._told_blocked = False
            self.receiver.unblocked()

    def _tell_blocked(self) -> None:
        if self._blocked and not self._told_blocked and not self.over:
            self._told_blocked = True
            self.receiver.blocked()
