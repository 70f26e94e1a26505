"""Life without a gateway: clients that call a provider themselves, to compare with.

`Bare` stands where the gateway's admission stands and carries a request straight to one provider and its answer straight back.
"""

from __future__ import annotations

from gateway.core.message import RequestHead, ResponseHead
from gateway.core.verdicts import IOFault
from gateway.egress.sink import Sink
from tests.sim.ledger import Desk
from tests.sim.network import MemoryCall
from tests.sim.provider import SimulatedProvider

CONNECT_S = 5.0


class Bare:
    """The door to a provider, with nothing between."""

    def __init__(self, desk: Desk, provider: SimulatedProvider) -> None:
        self._desk = desk
        self._provider = provider

    def begin(self, head: RequestHead, sink: Sink) -> BareCall:
        """A request begins."""
        return BareCall(self._desk, self._provider, head, sink)


class BareCall:
    """One request, sent as it is."""

    def __init__(self, desk: Desk, provider: SimulatedProvider, head: RequestHead, sink: Sink) -> None:
        self._desk = desk
        self._provider = provider
        self._head = head
        self._sink = sink
        self._body = b""
        self._call: MemoryCall | None = None

    def data(self, chunk: bytes) -> None:
        self._body += chunk

    def end_of_body(self) -> None:
        head = self._head
        lines = [b"%b %b HTTP/1.1" % (head.method, head.target), *(b"%b: %b" % (name, value) for _, name, value in head.headers)]
        raw = b"\r\n".join([*lines, b"", b""])
        self._call = MemoryCall(self._desk, self._provider, raw, self._body, _Straight(self._sink), CONNECT_S)
        self._call.begin(whole=True)

    def gone(self) -> None:
        if self._call is not None:
            self._call.cancel()


class _Straight:
    """What the provider answers, handed on."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def sending(self) -> None:
        """Nobody waits for this."""

    def head(self, head: ResponseHead) -> None:
        lines = [b"%b: %b\r\n" % (name, value) for _, name, value in head.headers]
        self._sink.open(head.status, b"", lines, length=head.content_length)

    def data(self, chunk: bytes) -> None:
        self._sink.write(chunk)

    def ended(self) -> None:
        self._sink.end()

    def failed(self, _fault: IOFault, _detail: str, *, sent: bool) -> None:
        del sent
        self._sink.abort()
