"""Where the next attempt of an exchange goes: the walk over its targets.

Order of preference, first that applies (laws 8 and 9):
  0. once, the target that just failed, where that looks like an accident: quickly, and paid from the budget;
  1. the next target in order that was not tried and is admitted: free, at once;
     but a preferred target at its rate limit is waited for, where it said for how long and that is short;
  2. a target at its rate limit, where nothing else can serve and the wait fits;
  3. a target already tried, whose fault allows another go: paid from the budget, after a backoff;
  4. a target held back by its breaker: paid (not for a first attempt), and where it is hopeless, only a trickle;
  5. the same, where it was already tried: paid, and after a backoff.

A key that was refused or is at its limit says nothing about the target's next key: that one is free, at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gateway.core.attempt import NEVER, Ask, Place
from gateway.core.backoff import backoff
from gateway.core.breaker import HOPELESS
from gateway.core.credentials import CredentialState
from gateway.core.record import Kind
from gateway.core.verdicts import FAULTS, OK, Again, Fault, FaultRule, Scope, Verdict
from gateway.errors import Reason

QUICK_S = 0.05
"""A quick try comes within so long."""
QUICK_WITHIN_S = 1.0
"""A failure that took longer is not followed by a quick try: the client has waited enough for this target."""
PERSISTENCE_S = (1.125, 1.5)
"""The official SDKs' last try comes so long after their first failure (0.5 s and 1 s, less up to a quarter). Ours comes no sooner
where there is no other target: our backoff could draw three short waits, and the client told not to retry would be worse off."""
AMBIGUOUS_COST = 2.0
COST = 1.0


class Chance(Protocol):
    """The injected source of randomness; `random.Random` is one."""

    def random(self) -> float: ...

    def uniform(self, a: float, b: float, /) -> float: ...


class Go:
    """Send to this place, now, with this key (None: the client's own, or none)."""

    __slots__ = ("admitted", "credential", "kind", "place")

    def __init__(self, place: Place, kind: Kind, credential: str | None, *, admitted: bool = True) -> None:
        self.place = place
        self.kind = kind
        self.credential = credential
        self.admitted = admitted
        """False: it goes though its breaker admits nothing, because there is nothing else."""


class Wait:
    """Send to this place, but not before `at`; what it costs is paid."""

    __slots__ = ("against_breaker", "at", "kind", "place")

    def __init__(self, place: Place, kind: Kind, at: float, *, against_breaker: bool = False) -> None:
        self.place = place
        self.kind = kind
        self.at = at
        self.against_breaker = against_breaker
        """Decided on though its breaker holds it back: there is nothing else."""


class Stuck:
    """No further attempt can be made, and why; `delay_s` is when it may be worth coming back, None if unknown."""

    __slots__ = ("delay_s", "reason")

    def __init__(self, reason: Reason, delay_s: float | None = None) -> None:
        self.reason = reason
        self.delay_s = delay_s


class Placement:
    """The walk of one exchange: what was tried, what was waited, what is left."""

    __slots__ = ("_ask", "_chance", "_failed_at", "_failures", "_hurried", "_indulged", "_last_wait_s", "_prepaid", "_quick",
                 "_retries", "_tried", "_waited_s", "only_for")  # fmt: skip

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
        self._waited_s = 0.0
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

    def next(self, now: float) -> Go | Wait | Stuck:
        """Decide on the next attempt; what it costs is withdrawn from the provider's budget."""
        if self._quick is not None:
            again = self._hurry(now, self._quick)
            if again is not None:
                return again
        tried = self._tried
        held_back: list[tuple[Place, str | None]] = []
        parked: list[tuple[float, Place, str | None]] = []
        for place in self._ask.candidates:
            if not self._eligible(place):
                continue
            key, usable_at = self.credential(place, now)
            asked = tried.get(place) if tried is not None else None
            repeat = asked is not None and not _about_another_key(asked, key)
            if repeat and not self._rate_limited(place):
                continue
            share = place.share(now)
            if usable_at > now or (repeat and share > 0.0):
                parked.append((usable_at, place, key))
            elif share >= 1.0 or (share > 0.0 and self._chance.random() < share):
                return (self._preferred(now, parked) if parked else None) or Go(place, self._kind(place), key)
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
            key, usable_at = self.credential(place, now)
            if usable_at > now or not (alike or place.target.hedge):
                continue
            share = place.share(now)
            if share >= 1.0 or (share > 0.0 and self._chance.random() < share):
                if place.target.provider.domain != slow.domain:
                    return Go(place, Kind.HEDGE, key)
                found = found or Go(place, Kind.HEDGE, key)
        return found

    def credential(self, place: Place, now: float) -> tuple[str | None, float]:
        """Return the key to use (None: the client's own or none) and from when it may be used (0 or past: now)."""
        if self._ask.foreign_key is not None or not place.target.provider.credentials:
            return None, self._unowned(place).usable_at(now, place.model)
        earliest, best = NEVER, None
        states = place.provider.credentials
        # The keys are those of the exchange's own snapshot: a reload may have changed the provider's meanwhile.
        for key in place.target.provider.credentials:
            state = states.get(key)
            usable_at = state.usable_at(now, place.model) if state is not None else 0.0
            if usable_at <= now:
                return key, usable_at
            if usable_at < earliest:
                earliest, best = usable_at, key
        return best, earliest

    def credential_state(self, place: Place, credential: str | None) -> CredentialState | None:
        """Return the state of the key an attempt used; None where a reload took it away."""
        if self._ask.foreign_key is not None or credential is None:
            return self._unowned(place)
        return place.provider.credentials.get(credential)

    def _unowned(self, place: Place) -> CredentialState:
        """Return what is known of the client's own key here; requests without any key share one account, and its rate limits."""
        return place.provider.foreign(self._ask.foreign_key or "")

    def ready(self, wait: Wait, now: float) -> Go | None:
        """Return the way to a place that was waited for, if it can be used now; others may have changed its state meanwhile."""
        key, usable_at = self.credential(wait.place, now)
        asked = self._tried.get(wait.place) if self._tried is not None else None
        # Another key than the one waited for may have come free first, and this client may not be tried with it again.
        spent = self._ask.already_retried and asked is not None and not _about_another_key(asked, key)
        if usable_at <= now and not spent and (wait.against_breaker or wait.place.share(now) > 0.0):
            return Go(wait.place, wait.kind, key)
        return None

    def untried(self, place: Place, now: float) -> Go | None:
        """Return the way to another target, not tried yet, that could serve now."""
        tried = self._tried or ()
        for other in self._ask.candidates:
            if other is not place and other not in tried and self._eligible(other) and other.share(now) > 0.0:
                key, usable_at = self.credential(other, now)
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
        if not place.isolated_failure(now) or self.credential(place, now)[1] > now or not self._paid(now, place):
            return None
        self._hurried = True
        return Wait(place, Kind.RETRY, now + self._chance.uniform(0.0, QUICK_S))

    def _preferred(self, now: float, parked: list[tuple[float, Place, str | None]]) -> Wait | None:
        """Wait for a preferred target that is at its rate limit, where another could serve at once but the stated wait is short."""
        limit_s = self._ask.policy.rate_limit_wait_s
        if self._indulged or not limit_s:
            return None
        for usable_at, place, key in parked:
            wait_s = usable_at - now
            if wait_s > limit_s or place.share(now) <= 0.0 or not self._fits(now, wait_s, place):
                continue
            state = self.credential_state(place, key)
            if state is not None and state.stated(now, place.model) and self._paid(now, place):
                self._indulged = True
                return self._wait_for(now, place, usable_at)
        return None

    def _without_alternative(
        self, now: float, held_back: list[tuple[Place, str | None]], parked: list[tuple[float, Place, str | None]]
    ) -> Go | Wait | Stuck:
        stuck = Stuck(Reason.ATTEMPTS_EXHAUSTED if self._tried else Reason.NO_TARGET)
        for usable_at, place, key in sorted(parked, key=lambda entry: entry[0]):
            wait_s = max(0.0, usable_at - now)
            state = self.credential_state(place, key)
            # A limit passes with time; whether a refused key will be good again, nobody knows.
            benched = state is not None and state.benched(now, place.model)
            if benched or not self._fits(now, wait_s, place):
                if stuck.reason is not Reason.RATE_LIMITED:
                    stuck = Stuck(self._why_parked(place, now), wait_s)
                continue
            if self._paid(now, place):
                return self._wait_for(now, place, usable_at)
            stuck = Stuck(Reason.RETRY_BUDGET, wait_s)
        again = self._again(now, against_breaker=False)
        if isinstance(again, Wait):
            return again
        if held_back:
            return self._against_breaker(now, held_back)
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
            parked_s = max(0.0, self.credential(place, now)[1] - now)
            if parked_s and not self._fits(now, parked_s, place):
                stuck = Stuck(self._why_parked(place, now), parked_s)
                continue
            wait_s = backoff(self._ask.policy.backoff, self._retries, self._last_wait_s, self._chance.uniform)
            if verdict.delay is not None:
                wait_s = max(wait_s, self._jittered(verdict.delay))
            if parked_s:
                wait_s = max(wait_s, self._jittered(parked_s))
            left_s = self._ask.deadline_at - now
            if wait_s >= left_s and verdict.delay is None and not parked_s:
                # Nobody asked for that much: rather sooner than not at all.
                wait_s = left_s / 2
            if self._failures + 1 >= self._ask.policy.attempts:
                persistent_s = self._failed_at + self._chance.uniform(*PERSISTENCE_S) - now
                if persistent_s < left_s:
                    wait_s = max(wait_s, persistent_s)
            if wait_s >= left_s:
                stuck = Stuck(Reason.DEADLINE, verdict.delay)
            elif against_breaker and _hopeless(place, now):
                stuck = Stuck(Reason.BREAKERS_OPEN, place.reopens_in(now))
            elif not self._paid(now, place):
                stuck = Stuck(Reason.RETRY_BUDGET, verdict.delay)
            else:
                self._retries += 1
                self._last_wait_s = wait_s
                self._waited_s += parked_s
                return Wait(place, Kind.RETRY, now + wait_s, against_breaker=against_breaker)
        return stuck

    def _against_breaker(self, now: float, held_back: list[tuple[Place, str | None]]) -> Go | Stuck:
        """Every target that is left is held back by its breaker: go on all the same, unless that is hopeless (law 8)."""
        place, key = min(held_back, key=lambda entry: entry[0].failing(now))
        if _hopeless(place, now):
            return Stuck(Reason.BREAKERS_OPEN, min(candidate.reopens_in(now) for candidate, _ in held_back))
        if self._tried and not self._paid(now, place, least=COST):
            return Stuck(Reason.RETRY_BUDGET)
        return Go(place, self._kind(place), key, admitted=place.share(now) > 0.0)

    # -- small questions ------------------------------------------------------------------------------------------------------

    def _kind(self, place: Place) -> Kind:
        if self._tried is None:
            return Kind.FIRST
        return Kind.RETRY if place in self._tried else Kind.FAILOVER

    def _rate_limited(self, place: Place) -> bool:
        """Whether a tried place may be asked again once its rate limit allows."""
        verdict = self._tried[place][0] if self._tried is not None else OK
        return verdict.fault is Fault.RATE_LIMITED and verdict.retry_same and not self._ask.already_retried

    def _why_parked(self, place: Place, now: float) -> Reason:
        states = place.provider.credentials.values()
        if self._ask.foreign_key is None and states and all(state.benched(now, place.model) for state in states):
            return Reason.CREDENTIALS_BENCHED
        return Reason.RATE_LIMITED

    def _fits(self, now: float, wait_s: float, place: Place) -> bool:
        """Whether waiting this long, with its jitter, still leaves the client's patience and the provider's own bound."""
        longest_s = place.target.provider.queue_wait_s
        return self._waited_s + wait_s <= longest_s and now + max(0.0, wait_s) * 1.5 < self._ask.deadline_at

    def _wait_for(self, now: float, place: Place, usable_at: float) -> Wait:
        """Wait until a rate limit lets us: never sooner than stated, and not all at the same moment."""
        wait_s = self._jittered(max(0.0, usable_at - now))
        self._waited_s += wait_s
        return Wait(place, self._kind(place), now + wait_s)

    def _jittered(self, delay_s: float) -> float:
        """Spread a stated delay, never below it."""
        return delay_s + self._chance.uniform(0.0, 0.5 * delay_s)

    def _paid(self, now: float, place: Place, least: float = 0.0) -> bool:
        """Withdraw what repeating a request at this place costs; a place that was not asked yet is free, or costs the `least`."""
        asked = self._tried.get(place) if self._tried is not None else None
        if asked is None or (self._ask.foreign_key is not None and asked[0].fault is Fault.RATE_LIMITED):
            # The limit of a client's own key is waited for at nobody else's expense (law 11); the attempts are bound enough.
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


def _hopeless(place: Place, now: float) -> bool:
    return place.failing(now) >= HOPELESS and not place.worse_breaker(now).trickle(now)
