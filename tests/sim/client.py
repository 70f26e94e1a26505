"""A simulated client: what it asks, how it behaves, what it got; the `Sink` of one request.

It is as strict as a real connection: a head comes once and before the body, a body has the length that was announced, nothing comes
after the end, nothing after the client left. What breaks these rules is kept in `misuse` and never raised, because the gateway's
callbacks would swallow it. Clients are patient like SDKs: one that states how long it waits leaves when that time is over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gateway.core.message import RequestHead
from gateway.core.record import ExchangeRecord
from gateway.egress.sink import Sink
from tests.sim.ledger import Desk


class Intake(Protocol):
    """What hears a request; `gateway.ingress.admission.Intake` is one."""

    def data(self, chunk: bytes) -> None: ...

    def end_of_body(self) -> None: ...

    def gone(self) -> None: ...


class Door(Protocol):
    """Where a client goes with its request; `gateway.ingress.admission.Admission` is one."""

    def begin(self, head: RequestHead, sink: Sink) -> Intake: ...


@dataclass(frozen=True, slots=True)
class Errand:
    """One request that a client is going to make, and how it will behave meanwhile."""

    name: str
    at_s: float
    """Since the beginning of the run."""
    path: bytes
    body: bytes = b""
    method: bytes = b"POST"
    lines: tuple[tuple[bytes, bytes], ...] = ()
    stream: bool = False
    patience_s: float | None = None
    """Leaves when no head has come by then."""
    leaves_after_s: float | None = None
    """Leaves then, come what may."""
    leaves_at_chunk: int | None = None
    blocks_at_chunk: int | None = None
    """Stops reading then, for `blocks_for_s`."""
    blocks_for_s: float = 0.0
    pieces: int = 1
    """The body is sent in this many parts, a moment apart."""
    homebound: bool = False
    """It names no model: no route takes it, the built-in policy holds."""
    pinned: bool = False
    """It is about an object of one account."""
    replayable: bool = True
    """A stateless model call, or a method without side effects."""
    already_retried: bool = False
    declines_hedge: bool = False
    continuable: bool = True
    """A stream for it may be continued by another one: it is plain text that was asked for."""
    misbehaves: bool = False
    """For law 11: everything that goes wrong here is this client's own doing."""


class Client:
    """One client on its errand."""

    def __init__(self, desk: Desk, errand: Errand, over: Callable[[Client], None]) -> None:
        self._desk = desk
        self._over = over
        self.errand = errand
        self.intake: Intake | None = None
        self.began_at = 0.0
        self.status = 0
        self.fields: dict[str, str] = {}
        self.length: int | None = None
        self.body = bytearray()
        self.chunks = 0
        self.opened_at = 0.0
        self.opened_seq = 0
        self.content_at = 0.0
        self.content_seq = 0
        """When the first bytes came that are no comment."""
        self.heard_at = 0.0
        self.silent_s = 0.0
        """The longest silence in a body that had begun."""
        self.endings: list[str] = []
        """`ended` and `aborted` are the gateway's, `left` is the client's; there must be exactly one."""
        self.done_at = 0.0
        self.done_seq = 0
        self.misuse: list[str] = []
        self._to_send: list[bytes] = []
        self._paused = False

    # -- what it does ---------------------------------------------------------------------------------------------------------

    def begin(self, door: Door) -> None:
        """Ask."""
        errand, loop = self.errand, self._desk.loop
        self.began_at = loop.time()
        self._desk.tell(errand.name, f"the client asks {errand.method.decode()} {errand.path.decode()} {errand.body[:80]!r}")
        size = -(-len(errand.body) // errand.pieces) or 1
        self._to_send = [errand.body[at : at + size] for at in range(0, len(errand.body), size)]
        lines = [(b"host", b"gateway:8080"), (b"x-sim-client", errand.name.encode()), *errand.lines]
        if errand.body:
            lines += [(b"content-length", b"%d" % len(errand.body))]
        head = RequestHead(
            errand.method,
            errand.path,
            [(name.lower(), name, value) for name, value in lines],
            content_length=len(errand.body) or None,
        )
        if errand.patience_s is not None:
            loop.call_later(errand.patience_s, self._lose_patience)
        if errand.leaves_after_s is not None:
            loop.call_later(errand.leaves_after_s, self._leave)
        self.intake = door.begin(head, self)
        if self._to_send:
            loop.call_soon(self._upload)
        else:
            self.intake.end_of_body()

    def _upload(self) -> None:
        if self.endings or self._paused:
            return
        assert self.intake is not None
        self.intake.data(self._to_send.pop(0))
        if not self._to_send:
            self.intake.end_of_body()
        elif not self._paused:
            self._desk.loop.call_later(0.05, self._upload)

    def _lose_patience(self) -> None:
        if not self.opened_at:
            self._leave()

    def _leave(self) -> None:
        if not self.endings:
            self._end("left")
            assert self.intake is not None
            self.intake.gone()

    def _block(self) -> None:
        if not self.endings:
            assert self.intake is not None
            self.intake.blocked()
            self._desk.loop.call_later(self.errand.blocks_for_s, self._unblock)

    def _unblock(self) -> None:
        if not self.endings:
            assert self.intake is not None
            self.intake.unblocked()

    # -- the sink -------------------------------------------------------------------------------------------------------------

    def open(self, status: int, phrase: bytes, lines: list[bytes], *, length: int | None) -> None:
        if self._dead("a head"):
            return
        if self.opened_at:
            self.misuse.append("a second head")
            return
        self.opened_at = self._desk.loop.time()
        self.opened_seq = self._desk.next()
        self.status = status
        self.length = length
        for line in b"".join(lines).decode("latin-1").split("\r\n"):
            name, _, value = line.partition(": ")
            self.fields[name.lower()] = value
        self._desk.tell(self.errand.name, f"the client gets {status}; {self.fields.get('x-gateway-trail', 'nobody was asked')}")

    def write(self, chunk: bytes) -> None:
        if self._dead("body bytes"):
            return
        if not self.opened_at or not chunk:
            self.misuse.append("body bytes before the head" if chunk else "an empty chunk")
        now = self._desk.loop.time()
        self.silent_s = max(self.silent_s, now - (self.heard_at or self.opened_at))
        self.heard_at = now
        if not self.content_seq and not chunk.startswith(b":"):
            self.content_at, self.content_seq = now, self._desk.next()
        self.body += chunk
        self.chunks += 1
        if self.chunks == self.errand.leaves_at_chunk:
            self._desk.loop.call_soon(self._leave)
        if self.chunks == self.errand.blocks_at_chunk:
            self._desk.loop.call_soon(self._block)

    def end(self) -> None:
        if self._dead("an end"):
            return
        if not self.opened_at:
            self.misuse.append("an end before the head")
        if self.length is not None and self.length != len(self.body):
            self.misuse.append(f"{len(self.body)} bytes where {self.length} were announced")
        self._end("ended")

    def abort(self) -> None:
        if not self._dead("a cut"):
            self._end("aborted")

    @property
    def record(self) -> ExchangeRecord:
        """What the gateway noted about this exchange."""
        assert self.intake is not None
        return self.intake.record  # type: ignore[attr-defined,no-any-return]

    @property
    def peer(self) -> str:
        return self.errand.name

    def pause_body(self) -> None:
        self._paused = True

    def resume_body(self) -> None:
        if self._paused:
            self._paused = False
            if self._to_send:
                self._desk.loop.call_soon(self._upload)

    def _dead(self, what: str) -> bool:
        if self.endings:
            self.misuse.append(f"{what} after the client had {self.endings[-1]}")
            if what in ("an end", "a cut"):
                self.endings.append(what)
        return bool(self.endings)

    def _end(self, how: str) -> None:
        self.endings.append(how)
        self.done_at = self._desk.loop.time()
        self.done_seq = self._desk.next()
        if self.heard_at:
            self.silent_s = max(self.silent_s, self.done_at - self.heard_at)
        self._desk.tell(self.errand.name, f"the client: {how}")
        self._over(self)
