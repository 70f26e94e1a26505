"""Where the next attempt of an exchange goes: the walk over its targets.

Order of preference, first that applies (laws 8 and 9):
  0. once, the target that just failed, where that looks like an accident: quickly, and paid from the budget;
  1. the next target in order that was not tried, is admitted and has room: free, at once;
     but a preferred target without room is waited for in its queue, where that is known to be short;
  2. the target that will have room soonest, where none has now: in its queue, if the wait fits;
  3. a target already tried, whose fault allows another go: paid from the budget, after a backoff;
  4. a target held back by its breaker: paid (not for a first attempt), and where it is hopeless, only a trickle;
  5. the same, where it was already tried: paid, and after a backoff.

A key that was refused or is at its limit says nothing about the target's next key: that one is free, at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from gateway.core.attempt import Ask, Place
from gateway.core.backoff import backoff
from gateway.core.breaker import HOPELESS
from gateway.core.bucket import NEVER
from gateway.core.plan import Balance
from gateway.core.record import Kind
from gateway.core.room import Parked, Room
from gateway.core.steps import Go, Queued, Stuck, Wait
from gateway.core.turns import Turn, usable
from gateway.core.verdicts import FAULTS, OK, Again, Fault, FaultRule, Scope, Verdict
from gateway.errors import Reason

QUICK_S: Final = 0.05
"""A quick try comes within so long."""
QUICK_WITHIN_S: Final = 1.0
"""A failure that took longer is not followed by a quick try: the client has waited enough for this target."""
PERSISTENCE_S = (1.125, 1.5)
"""The official SDKs' last try comes so long after their first failure (0.5 s and 1 s, less up to a quarter). Ours comes no sooner
where there is no other target: our backoff could draw three short waits, and the client told not to retry would be worse off."""
AMBIGUOUS_COST: Final = 2.0
COST: Final = 1.0
INDULGED_SHARE: Final = 0.25
"""Of the client's patience: no more of it is spent on waiting for a preferred target where another could serve at once."""
THROTTLED_S: Final = 1.0
"""Whoever is held back is told to come back no sooner."""

PROMISING: Final = frozenset({Reason.RATE_LIMITED, Reason.QUEUE_FULL, Reason.SHED})
"""Refusals for want of room."""

_ORDERED: Final = Balance.ORDERED


class Chance(Protocol):
    """The injected source of randomness; `random.Random` is one."""

    def random(self) -> float: ...

    def uniform(self, a: float, b: float, /) -> float: ...


_Full = tuple[Place, str | None, float]
"""A place without room now, the key that will have some there soonest, and when, were nobody else waiting."""


class Placement:
    """The walk of one exchange: what was tried, what was waited, what is left."""

    __slots__ = ("_ask", "_chance", "_failed_at", "_failures", "_hurried", "_indulged", "_last_wait_s", "_prepaid", "_quick",
                 "_retries", "_tried", "only_for", "room", "spilled")  # fmt: skip

    def __init__(self, ask: Ask, chance: Chance) -> None:
        self._ask = ask
        self._chance = chance
        self._tried: dict[Place, tuple[Verdict, tuple[str | None, ...]]] | None = None
        """Places asked, with the last verdict on each and the key it was about; None until one failed, which most exchanges
        never see."""
        self.only_for: Fault | None = None
        """Set by a fault that only targets declared for it may mend."""
        self._retries = 0
        self._last_wait_s = 0.0
        self._indulged = False
        """A preferred target was waited for; once, since the attempts are for the others too."""
        self._prepaid: Place | None = None
        """Paid for, and not asked since: a wait that came to nothing is not paid twice."""
        self._quick: Place | None = None
        """Just failed in a way that a quick try may mend."""
        self._hurried = False
        """The one quick try is used up."""
        self._failures = 0
        self._failed_at = 0.0
        """When the first attempt failed."""
        self.room = Room(ask)
        self.spilled: Place | None = None
        """Had no room, so that one further down the order was chosen; kept until the exchange takes note."""

    def remember(self, now: float, place: Place, verdict: Verdict, credential: str | None, took_s: float) -> None:
        """Note that this place was asked with this key and failed after so long."""
        if self._tried is None:
            self._tried = {}
            self._failed_at = now
        self._failures += 1
        may_hurry = verdict.quick and verdict.retry_same and not self._ask.already_retried and took_s <= QUICK_WITHIN_S
        # Never the last attempt: that one is another target's, or comes no sooner than an SDK's last would.
        may_hurry = may_hurry and self._failures + 1 < self._ask.policy.attempts
        self._quick = place if may_hurry and not self._hurried else None
        before = self._tried.get(place)
        self._tried[place] = (verdict, (credential,) if before is None else (*before[1], credential))
        self._prepaid = None

    def next(self, now: float) -> Go | Wait | Queued | Stuck:
        """Decide on the next attempt; what it costs is withdrawn from the provider's budget."""
        if self._quick is not None:
            again = self._hurry(now, self._quick)
            if again is not None:
                return again
        tried, room, foreign = self._tried, self.room, self._ask.foreign_key
        held_back: list[tuple[Place, str | None]] = []
        parked: list[_Full] = []
        for place in self._ask.candidates:
            if not self._eligible(place):
                continue
            gate = place.gate if foreign is None else room.gate(place)
            key, usable_at = usable(place, gate, foreign, now, room)
            asked = tried.get(place) if tried is not None else None
            repeat = asked is not None and not _about_another_key(asked, key)
            if repeat and not self._rate_limited(place):
                continue
            share = place.share(now)
            if usable_at > now or (share > 0.0 and (repeat or gate.queue.count)):
                parked.append((place, key, usable_at))
            elif share >= 1.0 or (share > 0.0 and self._chance.random() < share):
                return self._served_by(now, parked, Go(place, self._kind(place), key))
            else:
                held_back.append((place, key))
        return self._without_alternative(now, held_back, parked)

    def hedge(self, now: float, live: Sequence[Place]) -> Go | None:
        """Return another place for a second attempt beside those under way; in another failure domain, if there is one.

        Of the same dialect and model, unless its operator has marked it: a hedge must not change what the client gets.
        """
        slow = live[0].target.provider
        found: Go | None = None
        for place in self._ask.candidates:
            if place in live or not self._eligible(place) or (self._tried is not None and place in self._tried):
                continue
            alike = place.target.provider.dialect == slow.dialect and place.model == live[0].model
            key, usable_at = self.room.credential(place, now)
            if usable_at > now or self.room.queued(place) or not (alike or place.target.hedge):
                continue
            share = place.share(now)
            if share >= 1.0 or (share > 0.0 and self._chance.random() < share):
                if place.target.provider.domain != slow.domain:
                    return Go(place, Kind.HEDGE, key)
                found = found or Go(place, Kind.HEDGE, key)
        return found

    def ready(self, wait: Wait, now: float) -> Go | Queued | None:
        """Return the way to a place that was waited for, if it can be used now; others may have changed its state meanwhile."""
        place = wait.place
        key, usable_at = self.room.credential(place, now)
        if (usable_at > now or self.room.queued(place)) and place.share(now) > 0.0:
            # It has waited, but not in that queue.
            entry = self.room.parked(now, place, key, usable_at, self._kind(place))
            return Queued(self.room.turn(now, entry)) if self.room.fits(now, entry) else None
        return self._go(place, wait.kind, now, against_breaker=wait.against_breaker)

    def called(self, turn: Turn, now: float) -> Go | None:
        """Return the way to the place whose queue has called this request, if it can be used now."""
        return self._go(turn.place, turn.kind, now, against_breaker=False)

    def promise(self, now: float, stuck: Stuck) -> None:
        """Where a refusal is about room, say when there will be some for this client: then, and not before, it gets in."""
        turn = stuck.turn
        if turn is not None and stuck.delay_s is not None and stuck.reason in PROMISING:
            stuck.delay_s, stuck.booked = self.room.promise(now, turn, stuck.delay_s)

    def elsewhere(self, turn: Turn, now: float) -> Go | None:
        """Return the way to another place that has come free while this request waits in front of one."""
        for place in self._ask.candidates:
            if place is turn.place or not self._eligible(place) or (self._tried is not None and place in self._tried):
                continue
            key, usable_at = self.room.credential(place, now)
            if usable_at <= now and place.share(now) >= 1.0 and not self.room.queued(place):
                self.spilled = turn.place
                return Go(place, self._kind(place), key)
        return None

    def _go(self, place: Place, kind: Kind, now: float, *, against_breaker: bool) -> Go | None:
        key, usable_at = self.room.credential(place, now)
        asked = self._tried.get(place) if self._tried is not None else None
        # Another key than the one waited for may have come free first, and this client may not be tried with it again.
        spent = self._ask.already_retried and not self.room.came_back and asked is not None and not _about_another_key(asked, key)
        if usable_at <= now and not spent and (against_breaker or place.share(now) > 0.0):
            return Go(place, kind, key)
        return None

    def untried(self, place: Place, now: float) -> Go | None:
        """Return the way to another target, not tried yet, that could serve now."""
        tried = self._tried or ()
        for other in self._ask.candidates:
            if other is not place and other not in tried and self._eligible(other) and other.share(now) > 0.0:
                key, usable_at = self.room.credential(other, now)
                if usable_at <= now:
                    return Go(other, self._kind(other), key)
        return None

    # -- the cases ------------------------------------------------------------------------------------------------------------

    def _eligible(self, place: Place) -> bool:
        only_for = place.target.only_for
        return self.only_for in only_for if self.only_for is not None else not only_for

    def _hurry(self, now: float, place: Place) -> Wait | None:
        """Ask the target that just failed once more, and soon, where its failure looks like an accident."""
        self._quick = None
        if not place.isolated_failure(now) or self.room.credential(place, now)[1] > now or not self._paid(now, place):
            return None
        self._hurried = True
        return Wait(place, Kind.RETRY, now + self._chance.uniform(0.0, QUICK_S))

    def _served_by(self, now: float, full: list[_Full], go: Go) -> Go | Queued:
        """Go there, or wait for one that is preferred and has room soon."""
        # A key out of use is no want of room.
        full = [entry for entry in full if not self._benched(now, *entry[:2])]
        if not full:
            return go
        preferred = self._preferred(now, full)
        if preferred is not None:
            return preferred
        self.spilled = full[0][0]
        return go

    def _preferred(self, now: float, full: list[_Full]) -> Queued | None:
        """Wait for a preferred target without room, where another could serve at once but the wait is known to be short."""
        limit_s = min(self._ask.policy.rate_limit_wait_s, INDULGED_SHARE * (self._ask.deadline_at - now))
        if self._indulged or not limit_s or self._ask.balance is not _ORDERED:
            return None
        for place, key, usable_at in full:
            # Who stands in the queue comes on top of that; only where it may be short is it worth knowing.
            if limit_s < usable_at - now < NEVER or place.share(now) <= 0.0:
                continue
            entry = self.room.parked(now, place, key, usable_at, self._kind(place))
            if entry.wait_s > limit_s or not self.room.fits(now, entry):
                continue
            state = self.room.credential_state(place, key)
            if state is not None and state.stated(now, place.model) and self._paid(now, place):
                self._indulged = True
                entry.turn.lenient = True
                return Queued(self.room.turn(now, entry, limit_s))
        return None

    def _benched(self, now: float, place: Place, key: str | None) -> bool:
        """Whether this key is out of use. A limit passes with time; whether a refused key will be good again, nobody knows."""
        state = self.room.credential_state(place, key)
        return state is not None and state.benched(now, place.model)

    def _without_alternative(
        self, now: float, held_back: list[tuple[Place, str | None]], full: list[_Full]
    ) -> Go | Wait | Queued | Stuck:
        stuck = Stuck(Reason.ATTEMPTS_EXHAUSTED if self._tried else Reason.NO_TARGET)
        entries = [self.room.parked(now, *each, self._kind(each[0])) for each in full]
        for entry in sorted(entries, key=_wait_s):
            place = entry.turn.place
            if self._benched(now, place, entry.key) or not self.room.fits(now, entry):
                if stuck.reason not in PROMISING:
                    stuck = Stuck(self.room.why_none(place, now), entry.wait_s, entry.turn)
                continue
            if self._paid(now, place):
                return Queued(self.room.turn(now, entry))
            stuck = Stuck(Reason.RETRY_BUDGET, entry.wait_s)
        again = self._again(now, against_breaker=False)
        if isinstance(again, Wait):
            return again
        if held_back:
            step = self._against_breaker(now, held_back)
            # Where another one merely has no room in time, that may be over sooner.
            if isinstance(step, Stuck) and stuck.turn is not None and (stuck.delay_s or 0.0) < (step.delay_s or 0.0):
                return stuck
            return step
        return again or self._again(now, against_breaker=True) or stuck

    def _again(self, now: float, *, against_breaker: bool) -> Wait | Stuck | None:
        """Ask a target once more that was already tried; None where no fault allows it."""
        if self._tried is None or self._ask.already_retried:
            return None
        stuck: Stuck | None = None
        for place, (verdict, _) in self._tried.items():
            if _rule(verdict).again is not Again.LAST_RESORT or not verdict.retry_same or not self._eligible(place):
                continue
            if (place.share(now) <= 0.0) is not against_breaker:
                continue
            key, usable_at = self.room.credential(place, now)
            if usable_at > now or self.room.queued(place):
                # After its backoff it will have to wait there.
                entry = self.room.parked(now, place, key, usable_at, self._kind(place))
                if not self.room.in_time(now, entry):
                    stuck = Stuck(self.room.why_none(place, now), entry.wait_s, entry.turn)
                    continue
            wait_s = backoff(self._ask.policy.backoff, self._retries, self._last_wait_s, self._chance.uniform)
            if verdict.delay is not None:
                wait_s = max(wait_s, self._jittered(verdict.delay))
            left_s = self._ask.deadline_at - now
            if wait_s >= left_s and verdict.delay is None:
                # Nobody asked for that much: rather sooner than not at all.
                wait_s = left_s / 2
            if self._failures + 1 >= self._ask.policy.attempts:
                persistent_s = self._failed_at + self._chance.uniform(*PERSISTENCE_S) - now
                if persistent_s < left_s:
                    wait_s = max(wait_s, persistent_s)
            if wait_s >= left_s:
                stuck = Stuck(Reason.DEADLINE, verdict.delay)
            elif against_breaker and (hopeless := _hopeless(place, now)) is not None:
                stuck = Stuck(hopeless, place.reopens_in(now))
            elif not self._paid(now, place):
                stuck = Stuck(Reason.RETRY_BUDGET, verdict.delay)
            else:
                self._retries += 1
                self._last_wait_s = wait_s
                return Wait(place, Kind.RETRY, now + wait_s, against_breaker=against_breaker)
        return stuck

    def _against_breaker(self, now: float, held_back: list[tuple[Place, str | None]]) -> Go | Stuck:
        """Every target that is left is held back by its breaker: go on all the same, unless that is hopeless (law 8)."""
        place, key = min(held_back, key=lambda entry: entry[0].failing(now))
        hopeless = _hopeless(place, now)
        if hopeless is not None:
            return Stuck(hopeless, max(THROTTLED_S, min(candidate.reopens_in(now) for candidate, _ in held_back)))
        if self._tried and not self._paid(now, place, least=COST):
            return Stuck(Reason.RETRY_BUDGET)
        return Go(place, self._kind(place), key, admitted=place.share(now) > 0.0)

    # -- small questions ------------------------------------------------------------------------------------------------------

    def _kind(self, place: Place) -> Kind:
        if self._tried is None:
            return Kind.FIRST
        return Kind.RETRY if place in self._tried else Kind.FAILOVER

    def _rate_limited(self, place: Place) -> bool:
        """Whether a tried place may be asked again once its rate limit allows; whom a promise was made may in any case."""
        verdict = self._tried[place][0] if self._tried is not None else OK
        may_repeat = not self._ask.already_retried or self.room.came_back
        return verdict.fault is Fault.RATE_LIMITED and verdict.retry_same and may_repeat

    def _jittered(self, delay_s: float) -> float:
        """Spread a stated delay, never below it."""
        return delay_s + self._chance.uniform(0.0, 0.5 * delay_s)

    def _paid(self, now: float, place: Place, least: float = 0.0) -> bool:
        """Withdraw what repeating a request at this place costs; a place that was not asked yet is free, or costs the `least`."""
        asked = self._tried.get(place) if self._tried is not None else None
        limited = asked is not None and asked[0].fault is Fault.RATE_LIMITED
        if asked is None or (limited and (self._ask.foreign_key is not None or self.room.gate(place).paced)):
            # The limit of a client's own key is waited for at nobody else's expense (law 11), and a wait for a rate that is known
            # adds nothing to the load; the attempts are bound enough.
            cost = least
        else:
            cost = AMBIGUOUS_COST if asked[0].ambiguous else COST
        if not cost or self._prepaid is place:
            return True
        if not place.provider.budget.withdraw(now, cost):
            return False
        self._prepaid = place
        return True


def _rule(verdict: Verdict) -> FaultRule:
    if verdict.fault is None:
        raise AssertionError("a good answer is no failure")
    return FAULTS[verdict.fault]


def _about_another_key(asked: tuple[Verdict, tuple[str | None, ...]], key: str | None) -> bool:
    """Whether what was said about the keys of a target that were asked leaves this one untouched."""
    verdict, keys = asked
    if key in keys or verdict.scope not in (Scope.CREDENTIAL, Scope.KEY_ON_MODEL):
        return False
    return verdict.retry_same or verdict.fault is not Fault.RATE_LIMITED


def _wait_s(entry: Parked) -> float:
    return entry.wait_s


def _hopeless(place: Place, now: float) -> Reason | None:
    """Return why not even a request without alternative goes there, but for a trickle; None where it may."""
    if place.failing(now) >= HOPELESS:
        return None if place.worse_breaker(now).trickle(now) else Reason.BREAKERS_OPEN
    if place.gate.throttle.hopeless(now):
        return None if place.state.breaker.trickle(now) else Reason.THROTTLED
    return None
