"""A request's body on its way from a client to one attempt, and if need be to the next.

Bodies up to `replay_bytes` are kept in memory so that they can be sent again, as long as all kept bodies together stay under
`replay_total`. A larger one streams through: what was sent is let go, and the exchange gets one attempt (`intact` turns False).
A body that nobody takes yet stops the client's upload at the same bound, so memory per exchange is bounded either way.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.egress.sink import Sink
from gateway.egress.upstream import Call


class ReplayMemory:
    """What all kept bodies may take together, in bytes."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self, size: int) -> bool:
        """Reserve `size` bytes if they are there; tell whether they were."""
        if self.used + size > self.limit:
            return False
        self.used += size
        return True

    def give_back(self, size: int) -> None:
        """Return reserved bytes."""
        self.used -= size


class RequestBody:
    """One request's body: fed by ingress, read by attempts in turn."""

    __slots__ = ("_call", "_flowing", "_kept", "_limit", "_memory", "_overflowed", "_sink", "chunks", "complete", "intact", "size")

    def __init__(self, memory: ReplayMemory, limit: int, sink: Sink, overflowed: Callable[[], None]) -> None:
        self._memory = memory
        self._limit = limit
        self._sink = sink
        self._overflowed = overflowed
        """Told once, when the body outgrew what may be kept and nobody is reading it."""
        self._kept = 0
        self._call: Call | None = None
        self._flowing = False
        self.chunks: list[bytes] = []
        """What is kept; from the beginning as long as `intact`."""
        self.size = 0
        """Bytes received so far."""
        self.complete = False
        self.intact = True

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes from the client."""
        self.size += len(chunk)
        call = self._call
        if self.intact and self._kept + len(chunk) <= self._limit and self._memory.take(len(chunk)):
            self._kept += len(chunk)
            self.chunks.append(chunk)
        elif call is not None:
            self._let_go()
            if not self._flowing:
                self._sink.pause_body()
        else:
            self.chunks.append(chunk)
            self._sink.pause_body()
            self._overflowed()
            return
        if call is not None:
            call.write(chunk)

    def end(self) -> None:
        """The client's request is whole."""
        self.complete = True
        if self._call is not None:
            self._call.end_of_body()

    def attach(self, call: Call) -> None:
        """Write what comes from now on into this call, which was begun with all there was."""
        self._call = call
        if self._kept < self.size:
            self._let_go()

    def flow_on(self) -> None:
        """The call has its connection, which it may have had before it was attached: let the client's upload run."""
        self._flowing = True
        if not self.complete:
            self._sink.resume_body()

    def detach(self) -> None:
        """The call wants no more: keep what comes for the next one, as far as may be."""
        self._call = None
        self._flowing = False

    def release(self) -> None:
        """The exchange is over: give back what is kept, and let go of whoever waited for it."""
        self._call = None
        self._overflowed = _nobody
        self._drop()

    def blocked(self) -> None:
        """The provider reads slowly: slow the client down."""
        if not self.complete:
            self._sink.pause_body()

    def unblocked(self) -> None:
        """The provider reads again."""
        if not self.complete:
            self._sink.resume_body()

    def _let_go(self) -> None:
        self.intact = False
        self._drop()

    def _drop(self) -> None:
        self._memory.give_back(self._kept)
        self._kept = 0
        self.chunks = []


def _nobody() -> None:
    pass
