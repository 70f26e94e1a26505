"""What all exchanges of a process share: the loop and its clock, the network, the observer, memory for bodies."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import Protocol

from gateway.core.record import AttemptRecord, ExchangeRecord
from gateway.egress.alarms import Alarms
from gateway.egress.body import ReplayMemory
from gateway.egress.queues import Queues
from gateway.egress.upstream import Upstream


class Observes(Protocol):
    """Who is told what happened; `observe.Observer` is one."""

    def began(self, record: ExchangeRecord) -> None: ...

    def attempt_ended(self, record: ExchangeRecord, attempt: AttemptRecord) -> None: ...

    def ended(self, record: ExchangeRecord) -> None: ...


class Surroundings:
    """What all exchanges of a process share."""

    __slots__ = ("alarms", "clock", "loop", "memory", "observer", "queues", "unix", "upstream", "via")

    def __init__(
        self,
        *,
        loop: AbstractEventLoop,
        clock: Callable[[], float],
        upstream: Upstream,
        observer: Observes,
        memory: ReplayMemory,
        unix: Callable[[], float],
        via: bytes,
    ) -> None:
        self.loop = loop
        self.clock = clock
        """The loop's monotonic clock in seconds; uvloop's own `time` has a resolution of a millisecond."""
        self.alarms = Alarms(loop, clock)
        self.queues = Queues(loop, clock)
        self.upstream = upstream
        self.observer = observer
        self.memory = memory
        self.unix = unix
        """Wall clock, for delays that providers state as dates."""
        self.via = via
        """This process's pseudonym in `Via`; unique, so that a loop is told from a chain of gateways."""
