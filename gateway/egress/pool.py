"""Connections to every origin: who gets which, how many there may be, and how long an idle one is kept.

The law: a pool belongs to an origin, never to a credential or a client, and survives reloads; a call that finds an idle connection
is written in the same tick, without a task; one that does not gets its own dial, or its turn in a queue. Freed connections go to
whoever has waited longest. A dial's failure is told to the call it was made for and to no other.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.config.snapshot import Origin
from gateway.core.verdicts import IOFault
from gateway.egress.call import WireCall
from gateway.egress.connection import Connection
from gateway.egress.dial import Dial, DialFault, Proxy, Trust, endpoint
from gateway.egress.names import Names, Resolver
from gateway.egress.upstream import Receiver

SWEEP_S: Final = 5.0
"""How often idle connections are looked over."""


@dataclass(frozen=True, slots=True)
class PlaceStats:
    """The connections of one origin, counted, for the admin port."""

    origin: str
    idle: int
    busy: int
    connecting: int
    waiting: int


class _Opening:
    """A connection being opened; `call` is None once its call was served otherwise or left."""

    __slots__ = ("call", "dial", "task", "timer")

    def __init__(self, call: WireCall, dial: Dial) -> None:
        self.call: WireCall | None = call
        self.dial = dial
        self.task: asyncio.Task[None]
        self.timer: asyncio.TimerHandle


class Place:
    """All connections to one origin, and the calls that wait for one."""

    __slots__ = (
        "_idle",
        "_limit",
        "_open",
        "_openings",
        "_pool",
        "_proxy",
        "_queued",
        "_served",
        "_unusable",
        "label",
        "loop",
        "origin",
        "rewrite",
    )

    def __init__(self, pool: Pool, origin: Origin) -> None:
        self._pool = pool
        self.loop = pool.loop
        self.origin = origin
        self._proxy: Proxy | None = None
        self.label = endpoint(origin.host, origin.port)
        """Names the origin in errors and logs."""
        self.rewrite: Callable[[bytes], bytes] | None = None
        """Turns a request head into the form a plain-HTTP proxy wants."""
        self._unusable: DialFault | None = None
        """What the proxy's address is wrong about, if anything."""
        if origin.proxy:
            try:
                self._proxy = Proxy(origin.proxy)
            except DialFault as exc:
                self._unusable = exc
            else:
                self.label += f" via {endpoint(self._proxy.host, self._proxy.port)}"
                if origin.scheme == "http":
                    self.rewrite = _absolute_form(origin, self._proxy)
        self._limit = 0
        self._open: set[Connection] = set()
        self._idle: list[Connection] = []
        """Oldest first; the newest is used first, so that the others can expire."""
        self._openings: set[_Opening] = set()
        self._served: OrderedDict[WireCall, _Opening] = OrderedDict()
        """Calls for which a dial is under way; all of them have waited longer than any queued one."""
        self._queued: OrderedDict[WireCall, asyncio.TimerHandle] = OrderedDict()
        """Calls that found the limit reached, with the timer that ends their patience."""

    def __repr__(self) -> str:
        stats = self.stats()
        return (
            f"<Place {stats.origin}, idle: {stats.idle}, busy: {stats.busy}, "
            f"connecting: {stats.connecting}, waiting: {stats.waiting}>"
        )

    def stats(self) -> PlaceStats:
        """Count."""
        return PlaceStats(
            f"{self.origin.scheme}://{self.label}",
            idle=len(self._idle),
            busy=len(self._open) - len(self._idle),
            connecting=len(self._openings),
            waiting=len(self._served) + len(self._queued),
        )

    @property
    def unused(self) -> bool:
        """Nothing is open, and nobody waits."""
        return not (self._open or self._openings or self._served or self._queued)

    # What the pool asks for.

    def enter(self, call: WireCall, limit: int) -> None:
        """Send a call at once over an idle connection, or find it one."""
        self._limit = limit
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.usable:
                connection.begin(call)
                return
        if self._unusable is not None:
            self.loop.call_soon(self.fail, call, self._unusable.fault, self._unusable.detail)
        elif self._has_room():
            self._dial(call)
        else:
            self._queued[call] = self.loop.call_later(call.connect_s, self._out_of_patience, call)

    def sweep(self, before: float) -> None:
        """Close connections idle since an earlier time than this."""
        idle = self._idle
        while idle and idle[0].idle_since < before:
            idle.pop(0).close()

    def close(self) -> None:
        """Fail every call, stop every dial, close every connection."""
        for call in [*self._served, *self._queued]:
            self._drop(call, IOFault.CONNECT, "the gateway is shutting down")
        for opening in list(self._openings):
            if opening.call is not None:
                self.fail(opening.call, IOFault.CONNECT, "the gateway is shutting down")
            self._stop(opening)
        for connection in list(self._open):
            connection.fail(IOFault.RESET, "the gateway is shutting down")

    # What a call asks for.

    def leave(self, call: WireCall) -> None:
        """A call that was not sent is cancelled. Its dial goes on if somebody else waits for a connection."""
        timer = self._queued.pop(call, None)
        if timer is not None:
            timer.cancel()
            return
        self._served.pop(call, None)
        opening = next((opening for opening in self._openings if opening.call is call), None)
        if opening is not None:
            opening.call = None
            if not self._queued:
                self._stop(opening)

    # What a connection reports.

    def release(self, connection: Connection) -> None:
        """The connection is free: the longest-waiting call gets it."""
        if self._served:
            call, opening = self._served.popitem(last=False)
            opening.call = None
        elif self._queued:
            call, timer = self._queued.popitem(last=False)
            timer.cancel()
        else:
            connection.idle_since = self.loop.time()
            self._idle.append(connection)
            return
        connection.begin(call)

    def lost(self, connection: Connection) -> None:
        """The connection is no more; may be reported twice."""
        if connection in self._open:
            self._open.remove(connection)
            if connection in self._idle:
                self._idle.remove(connection)
            self._use_room()

    def replace(self, call: WireCall) -> None:
        """Send a call once more, over a fresh connection: the pooled one was stale, and its place is about to be free."""
        self._dial(call, fresh=True)

    # Dialling.

    def _has_room(self) -> bool:
        return len(self._open) + len(self._openings) < self._limit

    def _use_room(self) -> None:
        while self._queued and self._has_room():
            call, timer = self._queued.popitem(last=False)
            timer.cancel()
            self._dial(call)

    def _dial(self, call: WireCall, *, fresh: bool = False) -> None:
        pool = self._pool
        opening = _Opening(call, Dial(self.loop, self.origin, self._proxy, pool.names, pool.trust))
        self._openings.add(opening)
        if not fresh:
            self._served[call] = opening
        opening.timer = self.loop.call_later(call.connect_s, self._out_of_time, opening)
        opening.task = self.loop.create_task(self._open_one(opening))
        pool.tasks.add(opening.task)
        opening.task.add_done_callback(pool.tasks.discard)

    async def _open_one(self, opening: _Opening) -> None:
        try:
            connection = await opening.dial.connect(lambda: Connection(self))
        except DialFault as exc:
            self._failed(opening, exc.fault, exc.detail)
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, the call must hear of it
            self.loop.call_exception_handler({"message": f"dialling failed: {opening.dial.stage}", "exception": error})
            self._failed(opening, IOFault.CONNECT, f"{opening.dial.stage}: {type(error).__name__}")
            return
        if opening not in self._openings:  # given up in the same tick
            connection.abort()
            return
        self._forget(opening)
        self._open.add(connection)
        call = opening.call
        if call is None:
            self.release(connection)
        else:
            self._served.pop(call, None)
            connection.begin(call)

    def _failed(self, opening: _Opening, fault: IOFault, detail: str) -> None:
        if opening in self._openings:
            self._forget(opening)
            self._use_room()
            if opening.call is not None:
                self._drop(opening.call, fault, detail)

    def _out_of_time(self, opening: _Opening) -> None:
        call, stage = opening.call, opening.dial.stage
        self._stop(opening)
        self._use_room()
        if call is not None:
            self._drop(call, IOFault.CONNECT_TIMEOUT, f"{stage} took longer than {call.connect_s:g} s")

    def _out_of_patience(self, call: WireCall) -> None:
        detail = f"no free connection to {self.label} within {call.connect_s:g} s, limit {self._limit}"
        self._drop(call, IOFault.POOL_TIMEOUT, detail)

    def _stop(self, opening: _Opening) -> None:
        self._forget(opening)
        opening.task.cancel()

    def _forget(self, opening: _Opening) -> None:
        self._openings.discard(opening)
        opening.timer.cancel()

    def _drop(self, call: WireCall, fault: IOFault, detail: str) -> None:
        """Take a call out of every list and fail it."""
        self._served.pop(call, None)
        timer = self._queued.pop(call, None)
        if timer is not None:
            timer.cancel()
        self.fail(call, fault, detail)

    @staticmethod
    def fail(call: WireCall, fault: IOFault, detail: str) -> None:
        """Tell a call that is in no list that it failed, unless it is over."""
        if not call.over:
            call.over = True
            call.receiver.failed(fault, detail, sent=call.sent)


class Pool:
    """Implements `Upstream`. One per process; create it, `start()` it, and `close()` it in the loop given."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, idle_s: float = 55.0, resolver: Resolver | None = None) -> None:
        self.loop = loop
        self.names = Names(loop, resolver)
        self.trust = Trust()
        self.tasks: set[asyncio.Task[None]] = set()
        self._idle_s = idle_s
        """Below the 60 s after which many load balancers close."""
        self._places: dict[Origin, Place] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Pool {list(self._places.values())}>"

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
    ) -> WireCall:
        place = self._places.get(origin)
        if place is None:
            place = self._places[origin] = Place(self, origin)
        call = WireCall(place, head, body, receiver, whole, chunked, head_request, connect_s)
        if self._closed:
            self.loop.call_soon(place.fail, call, IOFault.CONNECT, "the gateway is shutting down")
        else:
            place.enter(call, limit)
        return call

    def start(self) -> None:
        """Begin to look after idle connections."""
        self._sweeper = self.loop.call_later(SWEEP_S, self._sweep_and_again)

    def sweep(self, now: float) -> None:
        """Close connections that were idle for too long at this time of the loop; forget origins nobody uses."""
        for origin, place in list(self._places.items()):
            place.sweep(now - self._idle_s)
            if place.unused:
                del self._places[origin]

    def stats(self) -> list[PlaceStats]:
        """Count the connections of every origin in use."""
        return [place.stats() for place in self._places.values()]

    async def close(self) -> None:
        """Fail what is under way and close everything; later calls fail."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for place in list(self._places.values()):
            place.close()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.names.close()

    def _sweep_and_again(self) -> None:
        self.sweep(self.loop.time())
        self.start()


def _absolute_form(origin: Origin, proxy: Proxy) -> Callable[[bytes], bytes]:
    """Return what turns a head into a request to a proxy (RFC 9112 section 3.2.2)."""
    prefix = b"http://" + origin.authority

    def rewrite(head: bytes) -> bytes:
        line, rest = head.split(b"\r\n", 1)
        method, target = line.split(b" ", 1)
        return b"%b %b%b\r\n%b%b" % (method, prefix, target, proxy.authorization, rest)

    return rewrite
