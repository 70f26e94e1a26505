"""The network between the gateway and the simulated providers, in memory: `gateway.egress.upstream.Call`.

It performs a provider's play and is as strict as sockets are: nothing is heard while reading is paused, nothing after the end,
nothing after a cancel, and an answer does not begin before the request is whole.
"""

from __future__ import annotations

import asyncio

from gateway.egress.upstream import Receiver
from tests.sim.ledger import Desk
from tests.sim.plays import Step
from tests.sim.provider import SimulatedProvider


class MemoryCall:
    """`gateway.egress.upstream.Call`: plays a provider's steps into a receiver."""

    def __init__(
        self, desk: Desk, provider: SimulatedProvider, head: bytes, body: bytes, receiver: Receiver, connect_s: float
    ) -> None:
        self._desk = desk
        self._receiver = receiver
        self._paused = False
        self._waiting = False
        self._upload_missing = False
        self._timer: asyncio.Handle | None = None
        self.visit = provider.receive(desk, head, body)
        self._steps = iter(provider.steps(desk, self.visit, body, connect_s))
        self._step: Step | None = None

    def begin(self, *, whole: bool) -> None:
        """Start; `whole`: nothing more of the request will come."""
        self._upload_missing = not whole
        step = self._step = next(self._steps, None)
        if step is not None and step.kind == "connect" and step.delay_s < 0:
            self._connected()
        elif step is not None:
            self._timer = self._desk.loop.call_later(step.delay_s, self._ring)

    def write(self, chunk: bytes) -> None:
        self.visit.raw += chunk

    def end_of_body(self) -> None:
        self._upload_missing = False
        if self._waiting and not self._paused and not self.visit.end:
            self._waiting = False
            self._timer = self._desk.loop.call_soon(self._ring)

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        if self._waiting and not self._upload_missing and not self.visit.end:
            self._waiting = False
            self._timer = self._desk.loop.call_soon(self._ring)

    def cancel(self) -> None:
        if not self.visit.end:
            self._close("cancelled")

    def _connected(self) -> None:
        self.visit.sent = True
        self._receiver.sending()
        self._go_on()

    def _go_on(self) -> None:
        if self.visit.end:
            return
        step = self._step = next(self._steps, None)
        if step is not None:
            self._timer = self._desk.loop.call_later(step.delay_s, self._ring)

    def _ring(self) -> None:
        step, visit, receiver = self._step, self.visit, self._receiver
        assert step is not None
        if step.kind == "connect":
            self._connected()
            return
        answering = step.kind in ("head", "data", "end")
        if (self._paused and answering) or (self._upload_missing and step.kind == "head"):
            self._waiting = True
            return
        if step.whole:
            visit.whole = True
        if step.lives and not visit.spoke_seq:
            visit.spoke_seq, visit.spoke_at = self._desk.next(), self._desk.loop.time()
        if step.kind == "head":
            assert step.head is not None
            visit.status = step.head.status
            visit.advice = {
                lower.decode(): value.decode()
                for lower, _, value in step.head.headers
                if lower in (b"x-should-retry", b"retry-after", b"retry-after-ms")
            }
            visit.billed = visit.good
            self._desk.tell(visit.client, f"{visit.tag} says {step.head.status}")
            receiver.head(step.head)
        elif step.kind == "data":
            visit.wrote += step.chunk
            receiver.data(step.chunk)
        elif step.kind == "end":
            visit.asked_at = self._desk.loop.time()
            self._close("finished")
            receiver.ended()
            return
        else:
            self._close("failed")
            receiver.failed(step.fault, "simulated", sent=visit.sent)
            return
        self._go_on()

    def _close(self, end: str) -> None:
        visit = self.visit
        visit.end = end
        visit.closed_at = self._desk.loop.time()
        visit.closed_seq = self._desk.next()
        if self._timer is not None:
            self._timer.cancel()
        self._desk.tell(visit.client, f"{visit.tag} {'hears that the call is off' if end == 'cancelled' else end}")
