"""Who was told when to come back, and is let in then.

A refused client gets advice, and advice that is not kept teaches clients to ignore it. So each is a promise: the time it takes to
serve the request is booked, and whoever comes back at its beginning goes before the others of its class. Only half of the rate is
given away like this, so that newcomers are not locked out, and no client books more than half of the horizon, so that one that is
refused a thousand times leaves something for the others (law 11). Nothing is bound to a request: a client has so many promises, and
uses up one with each request that comes in time.

Separate from the queue, which holds those that are here; a promise is about somebody who is not.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from typing import Final

HORIZON_S: Final = 60.0
"""Nobody is sent away for longer: SDKs ignore advice beyond a minute."""
PROMISED_SHARE: Final = 0.5
"""Of the rate of service, what may be promised."""
CLIENT_SHARE: Final = 0.5
"""Of the horizon, what may be booked for one client; its first promise may take more."""
SOONEST_S: Final = 1.0
EARLY_S: Final = 0.25
"""How long before its time a promise is good: clocks and timers differ."""
GRACE_S: Final = 16.0
"""How long after its time it is good: clients add a jitter of their own, a quarter of what they were told at most."""
MOST: Final = 10_000
"""Promises kept at a time."""
CRUMB_S: Final = 0.1
"""A gap between bookings that is shorter than this is closed. Bounds how many there are."""


class Promises:
    """Promises given in front of one gate. Times are monotonic seconds."""

    __slots__ = ("_begins", "_booked", "_clients", "_ends", "_given", "_kept")

    def __init__(self) -> None:
        self._kept: list[tuple[float, int, str, float, float]] = []
        """What was promised and not redeemed: when, a number, to whom, its tokens, the seconds booked; by time."""
        self._clients: dict[str, list[tuple[float, int, str, float, float]]] = {}
        """The same, by client. Only those with a promise."""
        self._booked: dict[str, float] = {}
        """Seconds booked, by client."""
        self._given = 0
        self._begins: list[float] = []
        self._ends: list[float] = []
        """Time that is booked, in disjoint spans by time. A span stays until it is over, whoever came."""

    def __len__(self) -> int:
        return len(self._kept)

    def give(
        self,
        now: float,
        client: str,
        *,
        wait_s: float,
        tokens: float,
        tokens_per_s: float | None,
        requests_per_s: float | None,
        share: float = CLIENT_SHARE,
    ) -> float | None:
        """Return in how many seconds this client may come back and will be let in; None where that cannot be promised.

        `wait_s`: what it would have waited here; never sooner. `share`: of the horizon, what this client may book. The rates are
        those of service; None: not a limit. What is booked is the time that the request takes of the scarcer resource at half of
        its rate: the first free span of that length (GCRA's emission interval, with the gaps used). So of all that was promised
        for some period no more comes due than half of the rate serves in it, and one request.
        """
        self._expire(now)
        at = now + max(wait_s, SOONEST_S)
        takes_s = 0.0
        for amount, per_s in ((tokens, tokens_per_s), (1.0, requests_per_s)):
            if per_s is not None:
                if per_s <= 0.0:
                    return None
                takes_s = max(takes_s, amount / (PROMISED_SHARE * per_s))
        # One that takes longer than the horizon has it to itself, and does not close the next ones too.
        takes_s = min(takes_s, HORIZON_S)
        booked_s = self._booked.get(client, 0.0)
        if len(self._kept) >= MOST or (booked_s and booked_s + takes_s > min(share, CLIENT_SHARE) * HORIZON_S):
            return None
        after = bisect_right(self._ends, at)
        while takes_s and after < len(self._begins) and self._begins[after] < at + takes_s:
            at = max(at, self._ends[after])
            after += 1
        if at > now + HORIZON_S:
            return None
        if takes_s:
            self._book(after, at, at + takes_s)
        self._given += 1
        promise = (at, self._given, client, tokens, takes_s)
        insort(self._kept, promise)
        insort(self._clients.setdefault(client, []), promise)
        self._booked[client] = booked_s + takes_s
        return at - now

    def redeem(self, now: float, client: str) -> bool:
        """Tell whether this client, which comes now, was told to; that uses up its earliest promise."""
        self._expire(now)
        held = self._clients.get(client)
        if held is None or held[0][0] > now + EARLY_S:
            return False
        promise = held[0]
        del self._kept[bisect_left(self._kept, promise)]
        self._drop(promise)
        return True

    def due(self, now: float, within_s: float) -> tuple[float, int]:
        """Return the (tokens, number) of all promises that are not redeemed and come due in so many seconds, or already did."""
        self._expire(now)
        count = bisect_right(self._kept, now + within_s, key=_time)
        return sum([promise[3] for promise in self._kept[:count]]), count

    def _expire(self, now: float) -> None:
        over = 0
        while over < len(self._kept) and self._kept[over][0] + GRACE_S < now:
            self._drop(self._kept[over])
            over += 1
        del self._kept[:over]
        over = bisect_right(self._ends, now)
        del self._begins[:over], self._ends[:over]

    def _drop(self, promise: tuple[float, int, str, float, float]) -> None:
        """Take away a client's earliest promise."""
        client = promise[2]
        held = self._clients[client]
        del held[0]
        if held:
            self._booked[client] -= promise[4]
        else:
            del self._clients[client], self._booked[client]

    def _book(self, after: int, begin: float, end: float) -> None:
        """Book a free span that lies before the span at `after`, joined to its neighbours where it touches them."""
        if after < len(self._begins) and self._begins[after] - end < CRUMB_S:
            end = self._ends[after]
            del self._begins[after], self._ends[after]
        if after and begin - self._ends[after - 1] < CRUMB_S:
            self._ends[after - 1] = end
        else:
            self._begins.insert(after, begin)
            self._ends.insert(after, end)


def _time(promise: tuple[float, int, str, float, float]) -> float:
    return promise[0]
