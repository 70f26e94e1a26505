"""Inside one priority class: whose turn it is among its clients, and among one client's exchanges.

Apart from the queue, which weighs the classes against each other, because the law here is another: clients share by weight,
counted in tokens, whatever the size of their requests and however many they send. It is deficit round robin (Shreedhar & Varghese,
SIGCOMM 1995): each client's deficit grows by its quantum when the round comes to it, it is served while its next request costs no
more than that, and a client with nothing waiting keeps nothing. A quantum is one token per unit of weight, so that a heavy client
does not go on for a minute before a light one has its turn. Such small rounds are not walked: the round in which each client's
next request is paid for is worked out and kept in order, so that a request of 100,000 tokens costs no more than one of one token.

Inside a client the earliest deadline goes first. Who was promised a turn goes before the others, in the order they came. Lists are
kept sorted by binary search: a removal shifts references, which at the depths of a queue costs less than a heap's bookkeeping.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator
from math import ceil

from gateway.core.plan import Priority


class Waiter:
    """One exchange that waits for room. Nothing the queue reads may change while it is in."""

    __slots__ = ("client", "deadline_at", "number", "priority", "promised", "since", "tokens", "weight")

    def __init__(
        self,
        *,
        client: str,
        weight: float,
        priority: Priority,
        tokens: float,
        deadline_at: float,
        since: float,
        promised: bool = False,
    ) -> None:
        self.client = client
        self.weight = weight
        """Above 0."""
        self.priority = priority
        self.tokens = max(1.0, tokens)
        """Estimated cost."""
        self.deadline_at = deadline_at
        """When an answer would come too late."""
        self.since = since
        """When it began to wait."""
        self.promised = promised
        """It was told to come back now: it goes before the others of its class, and is never sent away."""
        self.number = 0
        """Its place in the order of arrival, given by the queue."""


class Flow:
    """All that waits of one client in one class, and the client's account in the round robin."""

    __slots__ = ("_ready", "arrived", "deficit", "due", "latest", "paid", "tokens", "weight")

    def __init__(self, arrived: int, weight: float, paid: int) -> None:
        self.arrived = arrived
        """Its place in each round; no two flows of a lane share one."""
        self.weight = weight
        self.deficit = 0.0
        self.paid = paid
        """The last round whose quantum is in `deficit`."""
        self.due: list[tuple[float, int, Waiter]] = []
        """By deadline, then by arrival."""
        self.latest: OrderedDict[Waiter, None] = OrderedDict()
        """By arrival."""
        self.tokens = 0.0
        self._ready = 0

    def __len__(self) -> int:
        return len(self.due)


class Lane:
    """One priority class. `tokens` is what all that waits in it will cost."""

    __slots__ = ("_ready", "_round", "_turn", "flows", "promised", "tokens", "waiting")

    def __init__(self) -> None:
        self.flows: dict[str, Flow] = {}
        """Of the clients with something waiting that was not promised."""
        self.waiting: OrderedDict[Waiter, None] = OrderedDict()
        """Those not promised, by arrival."""
        self.promised: OrderedDict[Waiter, None] = OrderedDict()
        self.tokens = 0.0
        self._ready: list[tuple[int, int, Flow]] = []
        """By the round in which the next request is paid for, then by place in the round."""
        self._round = 0
        self._turn = 0
        """The round robin stands at the flow with this place: all up to it had their quantum of this round."""

    def __len__(self) -> int:
        return len(self.waiting) + len(self.promised)

    def __contains__(self, waiter: Waiter) -> bool:
        return waiter in self.waiting or waiter in self.promised

    def head(self) -> Waiter:
        """Return whose turn it is. Only where somebody waits."""
        if self.promised:
            return next(iter(self.promised))
        return self._ready[0][2].due[0][2]

    def join(self, waiter: Waiter) -> None:
        """Let it in."""
        self.tokens += waiter.tokens
        if waiter.promised:
            self.promised[waiter] = None
            return
        self.waiting[waiter] = None
        flow = self.flows.get(waiter.client)
        if flow is None:
            flow = self.flows[waiter.client] = Flow(waiter.number, waiter.weight, self._round)
        else:
            self._unlist(flow)
            self._settle(flow)
            # A reload may have changed the client's weight; what comes last knows best.
            flow.weight = waiter.weight
        insort(flow.due, (waiter.deadline_at, waiter.number, waiter))
        flow.latest[waiter] = None
        flow.tokens += waiter.tokens
        self._list(flow)

    def leave(self, waiter: Waiter) -> None:
        """Let it go, unserved."""
        self._remove(waiter, 0.0)

    def serve(self, waiter: Waiter) -> None:
        """Let it go and charge its client, whoever's turn it was: what was taken out of turn is paid back by waiting."""
        if self._ready and not self.promised:
            due_round, arrived, flow = self._ready[0]
            if flow.due[0][2] is waiter:
                flow.deficit += (due_round - flow.paid) * flow.weight
                flow.paid = self._round = due_round
                self._turn = arrived
        self._remove(waiter, waiter.tokens)

    def _remove(self, waiter: Waiter, charge: float) -> None:
        self.tokens -= waiter.tokens
        flow = self.flows.get(waiter.client)
        if flow is not None:
            self._unlist(flow)
            self._settle(flow)
            flow.deficit -= charge
        if waiter.promised:
            del self.promised[waiter]
        else:
            del self.waiting[waiter]
            flow = self.flows[waiter.client]
            del flow.due[bisect_left(flow.due, (waiter.deadline_at, waiter.number))]
            del flow.latest[waiter]
            flow.tokens -= waiter.tokens
            if not flow.due:
                del self.flows[waiter.client]
                flow = None
        if flow is not None:
            self._list(flow)
        if not self:
            # Sums of floats drift; an empty lane is the moment to say so.
            self.tokens = 0.0

    def _settle(self, flow: Flow) -> None:
        """Pay out the quanta of the rounds that came to this flow without its next request being paid for."""
        last = self._round if flow.arrived <= self._turn else self._round - 1
        if last > flow.paid:
            flow.deficit += (last - flow.paid) * flow.weight
            flow.paid = last

    def _list(self, flow: Flow) -> None:
        """Work out the round in which a settled flow can pay for its next request. Where the round robin stands, it goes on."""
        missing = ceil((flow.due[0][2].tokens - flow.deficit) / flow.weight)
        flow._ready = flow.paid + max(0 if flow.arrived == self._turn else 1, missing)
        insort(self._ready, (flow._ready, flow.arrived, flow))

    def _unlist(self, flow: Flow) -> None:
        del self._ready[bisect_left(self._ready, (flow._ready, flow.arrived))]

    # -- what else there is to know -------------------------------------------------------------------------------------------

    def fattest(self) -> tuple[Flow, float]:
        """Return the flow that would hold the most per weight after losing one, and how much that is. Linear in clients."""
        fattest = max(self.flows.values(), key=_after_loss)
        return fattest, _after_loss(fattest)

    def before(self, client: str, weight: float, tokens: float) -> tuple[float, float]:
        """Return the (tokens, requests) that the round robin would serve before a newcomer of this client. Linear in clients.

        The newcomer is taken to come last of its client. Until its turn every other client is served what its weight earns it in
        the same rounds, or all it has.
        """
        work, requests = sum(promised.tokens for promised in self.promised), float(len(self.promised))
        own = self.flows.get(client)
        if own is not None:
            work += own.tokens
            requests += len(own)
        rounds = ((own.tokens - own.deficit if own is not None else 0.0) + tokens) / weight
        for flow in self.flows.values():
            if flow is not own:
                share = min(1.0, rounds * flow.weight / flow.tokens)
                work += share * flow.tokens
                requests += share * len(flow)
        return work, requests

    def order(self) -> Iterator[Waiter]:
        """Yield those not promised about in the order in which the round robin will serve them."""
        paid_for = []
        for flow in self.flows.values():
            cost = 0.0
            for _, number, waiter in flow.due:
                cost += waiter.tokens
                paid_for.append((cost / flow.weight, number, waiter))
        paid_for.sort()
        return (waiter for _, _, waiter in paid_for)


def _after_loss(flow: Flow) -> float:
    return (len(flow) - 1) / flow.weight
