"""Where the next attempt of an exchange goes: the walk over its targets.

Order of preference, first that applies (laws 8 and 9):
  1. the next target in order that was not tried and is admitted: free, at once;
     but a preferred target at its rate limit is waited for, where the wait is short;
  2. a target at its rate limit, where nothing else can serve and the wait fits;
  3. a target already tried, whose fault allows another go: paid from the budget, after a backoff;
  4. a target held back by its breaker: paid (not for a first attempt), and where it is hopeless, only a trickle.
"""

from __future__ import annotations

from typing import Protocol

from gateway.core.attempt import NEVER, Ask, Place
from gateway.core.backoff import backoff
from gateway.core.breaker import HOPELESS
from gateway.core.record import Kind
from gateway.core.registry import CredentialState
from gateway.core.verdicts import FAULTS, Again, Fault, Verdict
from gateway.errors import Reason

LONGEST_WAIT_S = 10.0
"""All waiting of one exchange for rate limits together."""
AMBIGUOUS_COST = 2.0
COST = 1.0


class Chance(Protocol):
    """The injected source of randomness; `random.Random` is one."""

    def random(self) -> float: ...

    def uniform(self, a: float, b: float, /) -> float: ...


class Go:
    """Send to this place, now."""

    __slots__ = ("kind", "place")

    def __init__(self, place: Place, kind: Kind) -> None:
        self.place = place
        self.kind = kind


class Wait:
    """Send to this place, but not before `at`; what it costs is paid."""

    __slots__ = ("at", "kind", "place")

    def __init__(self, place: Place, kind: Kind, at: float) -> None:
        self.place = place
        self.kind = kind
        self.at = at


class Stuck:
    """No further attempt can be made, and why; `delay_s` is when it may be worth coming back, None if unknown."""

    __slots__ = ("delay_s", "reason")

    def __init__(self, reason: Reason, delay_s: float | None = None) -> None:
        self.reason = reason
        self.delay_s = delay_s


class Placement:
    """The walk of one exchange: what was tried, what was waited, what is left."""

    __slots__ = ("_ask", "_chance", "_last_wait_s", "_retries", "_tried", "_waited_s", "only_for")

    def __init__(self, ask: Ask, chance: Chance) -> None:
        self._ask = ask
        self._chance = chance
        self._tried: dict[Place, Verdict] | None = None
        """Places asked, with the last verdict on each; None until one failed, which most exchanges never see."""
        self.only_for: Fault | None = None
        """Set by a fault that only targets declared for it may mend."""
        self._retries = 0
        self._last_wait_s = 0.0
        self._waited_s = 0.0

    def remember(self, place: Place, verdict: Verdict) -> None:
        """Note that this place was asked and failed."""
        if self._tried is None:
            self._tried = {}
        self._tried[place] = verdict

    def next(self, now: float) -> Go | Wait | Stuck:
        """Decide on the next attempt; what it costs is withdrawn from the provider's budget."""
        tried = self._tried
        held_back: list[Place] = []
        parked: list[tuple[float, Place]] = []
        for place in self._ask.candidates:
            if not self._eligible(place):
                continue
            repeat = tried is not None and place in tried
            if repeat and not self._rate_limited(place):
                continue
            usable_at = self.credential(place, now)[1]
            if usable_at > now or repeat:
                parked.append((usable_at, place))
                continue
            share = place.share(now)
            if share >= 1.0 or (share > 0.0 and self._chance.random() < share):
                return self._preferred(now, parked) or Go(place, self._kind(place))
            held_back.append(place)
        return self._without_alternative(now, held_back, parked)

    def credential(self, place: Place, now: float) -> tuple[str | None, float]:
        """Return the key to use (None: the client's own or none) and from when it may be used (0 or past: now)."""
        foreign = self._ask.foreign_key
        if foreign is not None:
            return None, place.provider.foreign(foreign).usable_at(place.model)
        earliest, best = NEVER, None
        for key, state in place.provider.credentials.items():
            usable_at = state.usable_at(place.model)
            if usable_at <= now:
                return key, usable_at
            if usable_at < earliest:
                earliest, best = usable_at, key
        return (best, earliest) if best is not None else (None, 0.0)

    def credential_state(self, place: Place, credential: str | None) -> CredentialState | None:
        """Return the state of the key an attempt used; None where it used none, or one that a reload took away."""
        if self._ask.foreign_key is not None:
            return place.provider.foreign(self._ask.foreign_key)
        return place.provider.credentials.get(credential) if credential is not None else None

    def ready(self, place: Place, now: float) -> bool:
        """Whether a place that was waited for can be used now; others may have changed its state meanwhile."""
        return self.credential(place, now)[1] <= now and place.share(now) > 0.0

    # -- the cases ------------------------------------------------------------------------------------------------------------

    def _eligible(self, place: Place) -> bool:
        only_for = place.target.only_for
        return self.only_for in only_for if self.only_for is not None else not only_for

    def _preferred(self, now: float, parked: list[tuple[float, Place]]) -> Wait | None:
        """Wait for a preferred target that is at its rate limit, where another could serve at once but the wait is short."""
        for usable_at, place in parked:
            if (
                usable_at - now <= self._ask.policy.rate_limit_wait_s
                and self._fits(now, usable_at - now)
                and self._paid(now, place)
            ):
                return self._wait_for(now, place, usable_at)
        return None

    def _without_alternative(self, now: float, held_back: list[Place], parked: list[tuple[float, Place]]) -> Go | Wait | Stuck:
        stuck = Stuck(Reason.ATTEMPTS_EXHAUSTED if self._tried else Reason.NO_TARGET)
        for usable_at, place in sorted(parked, key=lambda entry: entry[0]):
            if not self._fits(now, usable_at - now):
                stuck = Stuck(self._why_parked(place, now), usable_at - now)
            elif self._paid(now, place):
                return self._wait_for(now, place, usable_at)
            else:
                stuck = Stuck(Reason.RETRY_BUDGET, usable_at - now)
            break
        again = self._again(now)
        if isinstance(again, Wait):
            return again
        if held_back:
            return self._against_breaker(now, held_back)
        return again or stuck

    def _again(self, now: float) -> Wait | Stuck | None:
        """Ask a target once more that was already tried; None where no fault allows it."""
        if self._tried is None or self._ask.already_retried:
            return None
        stuck: Stuck | None = None
        for place, verdict in self._tried.items():
            if verdict.fault is None or FAULTS[verdict.fault].again is not Again.LAST_RESORT or not verdict.retry_same:
                continue
            if not self._eligible(place) or not self.ready(place, now):
                continue
            wait_s = backoff(self._ask.policy.backoff, self._retries, self._last_wait_s, self._chance.uniform)
            if verdict.delay is not None:
                wait_s = max(wait_s, verdict.delay + self._chance.uniform(0.0, 0.5 * verdict.delay))
            if now + wait_s >= self._ask.deadline_at:
                stuck = Stuck(Reason.DEADLINE, verdict.delay)
            elif not self._paid(now, place):
                stuck = Stuck(Reason.RETRY_BUDGET, verdict.delay)
            else:
                self._retries += 1
                self._last_wait_s = wait_s
                return Wait(place, Kind.RETRY, now + wait_s)
        return stuck

    def _against_breaker(self, now: float, held_back: list[Place]) -> Go | Stuck:
        """Every target that is left is held back by its breaker: go on all the same, unless that is hopeless (law 8)."""
        place = min(held_back, key=lambda candidate: candidate.failing(now))
        if place.failing(now) >= HOPELESS and not place.worse_breaker(now).trickle(now):
            return Stuck(Reason.BREAKERS_OPEN, min(candidate.reopens_in(now) for candidate in held_back))
        if self._tried and not place.provider.budget.withdraw(now, COST):
            return Stuck(Reason.RETRY_BUDGET)
        return Go(place, self._kind(place))

    # -- small questions ------------------------------------------------------------------------------------------------------

    def _kind(self, place: Place) -> Kind:
        if self._tried is None:
            return Kind.FIRST
        return Kind.RETRY if place in self._tried else Kind.FAILOVER

    def _rate_limited(self, place: Place) -> bool:
        """Whether a tried place may be asked again once its rate limit allows."""
        verdict = self._tried[place] if self._tried is not None else None
        return verdict is not None and verdict.fault is Fault.RATE_LIMITED and verdict.retry_same and not self._ask.already_retried

    def _why_parked(self, place: Place, now: float) -> Reason:
        states = place.provider.credentials.values()
        if self._ask.foreign_key is None and states and all(state.benched_until > now for state in states):
            return Reason.CREDENTIALS_BENCHED
        return Reason.RATE_LIMITED

    def _fits(self, now: float, wait_s: float) -> bool:
        """Whether waiting this long, with its jitter, still leaves the client's patience and our own bound."""
        return self._waited_s + wait_s <= LONGEST_WAIT_S and now + max(0.0, wait_s) * 1.5 < self._ask.deadline_at

    def _wait_for(self, now: float, place: Place, usable_at: float) -> Wait:
        """Wait until a rate limit lets us: never sooner than stated, and not all at the same moment."""
        wait_s = max(0.0, usable_at - now)
        wait_s += self._chance.uniform(0.0, 0.5 * wait_s)
        self._waited_s += wait_s
        return Wait(place, self._kind(place), now + wait_s)

    def _paid(self, now: float, place: Place) -> bool:
        """Withdraw what repeating a request at this place costs; a place that was not asked yet is free."""
        verdict = self._tried.get(place) if self._tried is not None else None
        if verdict is None:
            return True
        return place.provider.budget.withdraw(now, AMBIGUOUS_COST if verdict.ambiguous else COST)
