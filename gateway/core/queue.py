"""The queue in front of one gate: who is next, who has to go when it is full, who is sent away when it is sick.

The law here: nobody's flood is another's wait. Three priority classes: the higher goes first, but what waits below has a reserved
share of what is served, and a class whose next request has waited too long is helped out now and then. Both are accounts that are
paid into by every turn and never hold more than the last seconds earned, so that neither silence nor age saves up a claim. Inside a
class see `core.lane`. A full queue takes from whoever holds the most. A queue in which everybody waits is sick (CoDel, Nichols and
Jacobson 2012, as servers use it: by the least waiting time of an interval), and lets go of what it cannot serve in time.

Separate from the gate because it knows no limits: it is told who was served, and which rates to reckon with. Nothing is kept of
clients that do not wait; an empty queue remembers nothing but the pace of the last interval.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from math import exp, inf
from typing import Final

from gateway.core.lane import Lane, Waiter
from gateway.core.plan import Priority

__all__ = ["Queue", "Waiter"]

SHARES = (0.0, 0.2, 0.1)
"""What a waiting class is served at least while a higher one waits, by priority: of the tokens, or of the turns where those are
scarcer for it. Both count, for either may be what the target is short of."""
RESCUE_SHARE: Final = 0.05
"""What goes to starving classes beyond their shares, of tokens and of turns likewise."""
RECENT_S: Final = 10.0
"""Time constant of the recent past: an account holds no more than its share of what was served in it."""
STARVED_S: Final = 5.0
"""The next of a class starves when it has waited longer."""
TARGET_S: Final = 1.0
"""A healthy queue has served somebody within this time of joining, once in an interval."""
INTERVAL_S: Final = 10.0
LATE_S: Final = 2 * TARGET_S
"""A sick queue sheds what has waited so long in the lowest class."""
LOOK_S: Final = 0.25
"""A sick queue is gone through no more often."""

_BATCH: Final = int(Priority.BATCH)


class Claim:
    """A claim to a share of what is served. May be overdrawn: what is behind pays later, however much one turn has cost."""

    __slots__ = ("share", "tokens", "turns")

    def __init__(self, share: float) -> None:
        self.share = share
        self.tokens = 0.0
        self.turns = 0.0

    @property
    def due(self) -> bool:
        """Whether its owner may have a turn out of order."""
        return self.tokens > 0.0 and self.turns > 0.0

    def earn(self, tokens: float, recent_tokens: float, recent_turns: float) -> None:
        """Take the share of one turn, up to the share of the recent past."""
        self.tokens = min(self.tokens + self.share * tokens, self.share * recent_tokens)
        self.turns = min(self.turns + self.share, self.share * recent_turns)

    def pay(self, tokens: float) -> None:
        """Pay for one turn."""
        self.tokens -= tokens
        self.turns -= 1.0

    def lapse(self) -> None:
        """Lose the claim, not the debt."""
        self.tokens = min(self.tokens, 0.0)
        self.turns = min(self.turns, 0.0)

    def clear(self) -> None:
        """Begin anew."""
        self.tokens = self.turns = 0.0


class Standing:
    """Whether waiters come through, or the queue only stands: CoDel's minimum over an interval.

    Whose turn was promised does not count: it goes before the others, and says nothing about their wait.
    """

    __slots__ = ("_began", "_least_s", "_tokens", "rate", "sick")

    def __init__(self) -> None:
        self.sick = False
        self.rate = 0.0
        """Tokens per second served in the last interval; 0: nothing, or nothing is known."""
        self.begin(0.0)

    def begin(self, now: float) -> None:
        """Begin an interval."""
        self._began = now
        self._least_s = inf
        self._tokens = 0.0

    def served(self, now: float, waiter: Waiter) -> None:
        """One was served."""
        self._tokens += waiter.tokens
        if not waiter.promised:
            self._least_s = min(self._least_s, now - waiter.since)

    def look(self, now: float, since: float) -> None:
        """End the interval if it is time; where it served nobody, who waits longest tells, and does so since `since`."""
        length_s = now - self._began
        if length_s < INTERVAL_S:
            return
        self.sick = (self._least_s if self._least_s < inf else now - since) > TARGET_S
        self.rate = self._tokens / length_s
        self.begin(now)


class Queue:
    """Those who wait for room. `depth` bounds them, but for those who were promised a turn; a reload may change it."""

    __slots__ = (
        "_arrivals",
        "_claims",
        "_deadlines",
        "_lanes",
        "_looked_at",
        "_next",
        "_recent_at",
        "_recent_tokens",
        "_recent_turns",
        "_rescue",
        "_rescued",
        "_standing",
        "count",
        "depth",
    )

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self._lanes = (Lane(), Lane(), Lane())
        self._claims = (Claim(SHARES[0]), Claim(SHARES[1]), Claim(SHARES[2]))
        self._rescue = Claim(RESCUE_SHARE)
        self._standing = Standing()
        self._deadlines: list[tuple[float, int, Waiter]] = []
        """Of those not promised."""
        self._arrivals = 0
        self.count = 0
        """Turns waiting."""
        self._next: Waiter | None = None
        self._rescued = False
        """The next is so because it starves."""
        self._recent_tokens = 0.0
        self._recent_turns = 0.0
        self._recent_at = 0.0
        self._looked_at = -inf

    def __len__(self) -> int:
        return self.count

    def __bool__(self) -> bool:
        return self.count > 0

    def depths(self) -> tuple[int, int, int]:
        """Return how many wait, by priority."""
        interactive, standard, batch = self._lanes
        return len(interactive), len(standard), len(batch)

    def share(self, client: str, weight: float, priority: Priority) -> float:
        """Return a client's share of its class by weight, beside those of the others that wait in it."""
        others = sum([flow.weight for name, flow in self._lanes[priority].flows.items() if name != client])
        return weight / (weight + others)

    @property
    def sick(self) -> bool:
        """Whether over the last whole interval nobody was served who had waited less than `TARGET_S`. An empty queue is well."""
        return self._standing.sick

    # -- coming and going -----------------------------------------------------------------------------------------------------

    def join(self, now: float, waiter: Waiter) -> Waiter | None:
        """Let a newcomer in. Return who has to go for it, or the newcomer itself if it has not been let in, or None.

        A full queue gives the place of the newest entry of the lowest lower class. Else, within the newcomer's class, that of the
        newest entry of the client that holds the most per weight without it, if that is at least what the newcomer's client would
        hold (longest queue drop, McKenney 1990): a client that floods hurts only itself.
        """
        victim = None
        if not waiter.promised and len(self._deadlines) >= self.depth:
            victim = self._victim(waiter)
            if victim is waiter:
                return waiter
            self._remove(victim)
        self._arrivals += 1
        waiter.number = self._arrivals
        self._lanes[waiter.priority].join(waiter)
        if not waiter.promised:
            if not self._deadlines:
                self._standing.begin(now)
            insort(self._deadlines, (waiter.deadline_at, waiter.number, waiter))
        self.count += 1
        self._next = None
        return victim

    def leave(self, waiter: Waiter) -> bool:
        """Let one go that no longer wants its turn; tell whether it was in."""
        if waiter not in self._lanes[waiter.priority]:
            return False
        self._remove(waiter)
        return True

    def _victim(self, waiter: Waiter) -> Waiter:
        if self.depth <= 0:
            return waiter
        priority = waiter.priority
        for lane in self._lanes[:priority:-1]:
            if lane.waiting:
                return next(reversed(lane.waiting))
        lane = self._lanes[priority]
        if not lane.flows:
            return waiter
        flow, holds = lane.fattest()
        own = lane.flows.get(waiter.client)
        would_hold = ((len(own) if own is not None else 0) + 1) / waiter.weight
        return next(reversed(flow.latest)) if holds >= would_hold and flow is not own else waiter

    def _remove(self, waiter: Waiter) -> None:
        self._lanes[waiter.priority].leave(waiter)
        self._removed(waiter)

    def _removed(self, waiter: Waiter) -> None:
        self._next = None
        self.count -= 1
        if not waiter.promised:
            del self._deadlines[bisect_left(self._deadlines, (waiter.deadline_at, waiter.number))]
            if not self._deadlines:
                self._standing.sick = False
        if not self._lanes[waiter.priority]:
            self._claims[waiter.priority].lapse()
        if not self.count:
            # Nobody is kept from anything: whoever waits next owes nobody.
            for account in (*self._claims, self._rescue):
                account.clear()

    # -- whose turn it is -----------------------------------------------------------------------------------------------------

    def first(self, now: float) -> Waiter | None:
        """Return whose turn it is. It stays so until somebody joins, leaves or is served, however long that takes."""
        if self._next is None and self.count:
            self._next = self._choose(now)
        return self._next

    def _choose(self, now: float) -> Waiter:
        waiting = [priority for priority, lane in enumerate(self._lanes) if lane]
        self._rescued = False
        for priority in waiting[1:]:
            if self._claims[priority].due:
                return self._lanes[priority].head()
        if len(waiting) > 1 and self._rescue.due:
            oldest = min((self._lanes[priority].head() for priority in waiting[1:]), key=_since)
            if now - oldest.since > STARVED_S:
                self._rescued = True
                return oldest
        return self._lanes[waiting[0]].head()

    def take(self, now: float, waiter: Waiter) -> None:
        """Serve one who is in; usually the first. Its client is charged, and its class if it went before a higher one."""
        priority, tokens = waiter.priority, waiter.tokens
        rescued = self._rescued and waiter is self._next
        ahead = any(self._lanes[:priority])
        if rescued:
            self._rescue.pay(tokens)
        elif ahead:
            self._claims[priority].pay(tokens)
        fade = exp(min(0.0, self._recent_at - now) / RECENT_S)
        self._recent_at = now
        self._recent_tokens = self._recent_tokens * fade + tokens
        self._recent_turns = self._recent_turns * fade + 1.0
        self._rescue.earn(tokens, self._recent_tokens, self._recent_turns)
        for other, account in enumerate(self._claims):
            # Served because nothing higher waited: that was nobody's share, and earns its class none.
            if other != priority or ahead:
                account.earn(tokens, self._recent_tokens, self._recent_turns)
                if not self._lanes[other]:
                    account.lapse()
        self._standing.served(now, waiter)
        self._look(now)
        self._lanes[priority].serve(waiter)
        self._removed(waiter)

    # -- what is to be expected -----------------------------------------------------------------------------------------------

    def wait(
        self,
        *,
        client: str,
        weight: float,
        priority: Priority,
        tokens: float,
        tokens_per_s: float | None,
        requests_per_s: float | None,
    ) -> float:
        """Return the seconds that a newcomer would wait for those before it, at these rates of service; None: not a limit.

        Before it are all of the higher classes, of its own class what the round robin serves first, and of the lower ones their
        reserved shares of that; its own class's share may bring it forward. The longer of both readings counts. An estimate: it
        takes nobody else to come, and everybody to stay.
        """
        if not self.count:
            return 0.0
        work, requests = self._lanes[priority].before(client, weight, max(1.0, tokens))
        return max(
            _seconds(_until(priority, work, self._tokens()), tokens_per_s),
            _seconds(_until(priority, requests, self.depths()), requests_per_s),
        )

    def _tokens(self) -> tuple[float, float, float]:
        interactive, standard, batch = self._lanes
        return interactive.tokens, standard.tokens, batch.tokens

    # -- shedding -------------------------------------------------------------------------------------------------------------

    def shed(self, now: float) -> list[Waiter]:
        """Remove and return whose deadline has passed; of a sick queue also what is late or will be, the lowest class first.

        Sick, it lets go of batch requests that have waited longer than `LATE_S`, and of everybody whose turn, at the pace of the
        last interval, will come after their deadline.
        """
        if not self._deadlines:
            return []
        self._look(now)
        gone: list[Waiter] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            gone.append(self._deadlines[0][2])
            self._remove(gone[-1])
        if self._standing.sick and now - self._looked_at >= LOOK_S:
            self._looked_at = now
            for waiter in [late for late in self._lanes[_BATCH].waiting if now - late.since > LATE_S]:
                gone.append(waiter)
                self._remove(waiter)
            if self._standing.rate > 0.0:
                self._shed_hopeless(now, self._standing.rate, gone)
        gone.sort(key=_lowest_first)
        return gone

    def _look(self, now: float) -> None:
        if self._deadlines:
            self._standing.look(now, min([next(iter(lane.waiting)).since for lane in self._lanes if lane.waiting]))

    def _shed_hopeless(self, now: float, rate: float, gone: list[Waiter]) -> None:
        for priority, lane in enumerate(self._lanes):
            tokens = self._tokens()
            work = sum(promised.tokens for promised in lane.promised)
            for waiter in lane.order():
                if now + _until(priority, work, tokens) / rate > waiter.deadline_at:
                    gone.append(waiter)
                    self._remove(waiter)
                else:
                    # Only who stays is before the others.
                    work += waiter.tokens


def _since(waiter: Waiter) -> float:
    return waiter.since


def _lowest_first(waiter: Waiter) -> int:
    return -waiter.priority


def _until(priority: int, before: float, waiting: tuple[float, float, float]) -> float:
    """Return the work of all classes that is served until a turn with so much `before` it in its own class; `waiting` by class."""
    work = sum(waiting[:priority]) + before
    lower = [(waiting[other], SHARES[other]) for other in range(priority + 1, 3) if waiting[other]]
    stretched = work / (1.0 - sum(share for _, share in lower))
    work += sum(min(amount, share * stretched) for amount, share in lower)
    return min(work, before / SHARES[priority]) if priority else work


def _seconds(work: float, per_s: float | None) -> float:
    if per_s is None or not work:
        return 0.0
    return work / per_s if per_s > 0.0 else inf
