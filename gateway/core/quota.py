"""What one key may send to one model: every limit that is known of it, and the reservations against them.

A limit on a rate (`core.bucket`) has one of three sources: the configuration, the provider's own words (headers, the text of a
429), or what refusals have taught (`core.learner`; on how many may be under way, `core.ceiling`). They hold together; whichever is
tightest decides.

    reserve   at send: one request and the estimate of its tokens, in every limit
    settle    at the end: the difference to what was really used is given back, or taken in addition
    state     at the head: what the provider says is left replaces our own reckoning of its limit

Estimates steer and delay, they never refuse: a request larger than a limit's burst goes when the limit is whole, and the limit is
in debt afterwards. Whether a provider gives back what was not used only it knows: what it states has it in already, and what was
learned is a rate of reservations. So `settle` is about configured limits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from gateway.core.bucket import FREE, NEVER, Bucket, Cost, LearnedBucket, Source
from gateway.core.ceiling import Ceiling
from gateway.core.learner import MEMORY_S, Learner, Tally
from gateway.core.limits import Stated
from gateway.core.plan import QuotaPlan, RatePlan, Resource

MOST_STATED: Final = 8
"""Limits that one key is believed to have by its provider's words."""
STATED_S: Final = 300.0
"""What a provider stated holds for so long, unless it says it again."""
PLENTY: Final = 0.5
"""While more than this share of every stated limit is left, answers need not all be read for what they state."""
LOOK_S: Final = 0.25
"""But one in so long, and one in every eighth of what is left."""
ON_THE_WAY_S: Final = 0.05
"""Requests overtake each other, and an answer is about the moment when its request came in: what was sent so shortly before it may
have come in later, and nothing was gained before it was there."""
STEP: Final = 0.005
"""A learned limit grows in steps of this share."""
_REQUESTS: Final = Resource.REQUESTS
_EITHER: Final = (_REQUESTS, Resource.TOKENS)
_CONFIGURED: Final = Source.CONFIGURED
_HEADER: Final = Source.HEADER


class Reservation:
    """What one attempt has taken, from its sending to its end. Exactly one of its endings is called, exactly once."""

    __slots__ = ("_input", "_output", "_quota", "at", "before", "beside", "cost", "ended", "number")

    def __init__(self, quota: Quota, at: float, cost: Cost, before: Tally) -> None:
        self._quota = quota
        self.at = at
        self.cost = cost
        self.number = quota.requests
        """Counted from 1."""
        self._input = quota.input
        self._output = quota.output
        self.before = before
        """All that must have come in before this one: what a provider says of its limits, it says as of then, and with this."""
        self.beside = quota.inflight
        """So many were under way, with this one."""
        self.ended = False

    @property
    def sent(self) -> Tally:
        """All that was sent up to and with this one."""
        return Tally(self.at, self.number, self._input, self._output)

    def served(self, now: float, used: Cost | None) -> None:
        """It was carried out. `used` None: nobody told what it took, so the estimate stands."""
        self._end()
        quota = self._quota
        if quota.bound:
            if quota.ceiling is not None:
                quota.ceiling.served(now, sent_at=self.at, beside=self.beside)
            if used is not None:
                quota.settle(now, self, used)

    def refused(self, now: float) -> None:
        """The provider did not carry it out. It may have counted the request all the same, as OpenAI does."""
        self._end()
        self._quota.settle(now, self, FREE)

    def unsent(self, now: float) -> None:
        """It never left."""
        self._end()
        self._quota.settle(now, self, FREE, requests=1.0)

    def kept(self) -> None:
        """Whether and how far it was carried out, nobody knows."""
        self._end()

    def state(self, now: float, stated: Sequence[Stated]) -> None:
        """The answer says something about the limits."""
        if stated:
            self._quota.state(now, self, stated)

    def denied(self, now: float, resource: Resource | None) -> None:
        """A rate limit refused it."""
        self._quota.denied(now, self, resource)

    def overloaded(self, now: float) -> None:
        """The provider refused it because it has too much to do."""
        self._quota.overloaded(now, self)

    def curious(self, now: float) -> bool:
        """Whether it is worth reading what the answer says about limits."""
        return self._quota.curious(now)

    def _end(self) -> None:
        if self.ended:
            raise AssertionError("a reservation ends exactly once")
        self.ended = True
        self._quota.inflight -= 1


class Quota:
    """All limits of one key for one model, or for one group of models that share them."""

    __slots__ = (
        "_arrived",
        "_arriving",
        "_last_at",
        "_look_at",
        "_look_beyond",
        "_taught",
        "bound",
        "buckets",
        "ceiling",
        "concurrent",
        "counts_tokens",
        "inflight",
        "input",
        "learner",
        "output",
        "requests",
        "stated",
    )

    def __init__(self, plan: QuotaPlan, now: float) -> None:
        self.buckets: list[Bucket] = [Bucket(rate, _CONFIGURED, now) for rate in plan.rates]
        """What is reckoned with."""
        self.stated: list[Bucket] = []
        """What the provider states; among the others only while it is worth reckoning with."""
        self.concurrent = plan.concurrent
        """As configured."""
        self.ceiling: Ceiling | None = None
        """Requests at the same time, as refusals have taught."""
        self.inflight = 0
        self.requests, self.input, self.output = 0, 0.0, 0.0
        """Sent so far, and their tokens as estimated."""
        self._last_at = now
        self._arrived = self._arriving = self.sent
        """What was sent so long ago that it must have come in by now, and what will be that next."""
        self.learner = Learner(now)
        self._taught = False
        """A refusal has taught something that is not forgotten: the next lesson may be about tokens."""
        self.counts_tokens = self.bound = False
        """Whether estimates of tokens matter to any limit, and whether there is any limit to reckon with."""
        self._take_stock()
        self._look_at = 0.0
        self._look_beyond = 0.0

    def replan(self, now: float, plan: QuotaPlan) -> None:
        """Take over new settings on reload: a limit that is still configured keeps what is in it, and what was learned stays."""
        old = [bucket for bucket in self.buckets if bucket.source is _CONFIGURED]
        kept = [bucket for bucket in self.buckets if bucket.source is not _CONFIGURED]
        fresh = []
        for rate in plan.rates:
            same = next((bucket for bucket in old if (bucket.resource, bucket.period_s) == (rate.resource, rate.period_s)), None)
            if same is None:
                same = Bucket(rate, _CONFIGURED, now, since=self.requests)
            else:
                old.remove(same)
                same.retune(now, rate.amount, rate.period_s, rate.burst)
            fresh.append(same)
        self.buckets = fresh + kept
        self.concurrent = plan.concurrent
        self._take_stock()

    @property
    def sent(self) -> Tally:
        """All that was sent so far."""
        return Tally(self._last_at, self.requests, self.input, self.output)

    # -- room -----------------------------------------------------------------------------------------------------------------

    def limit(self, now: float) -> int | None:
        """Return how many requests may be under way at the same time, None where nothing is known."""
        ceiling = self.ceiling
        if ceiling is None:
            return self.concurrent
        learned = ceiling.value(now)
        if learned is None or self.concurrent is None:
            return self.concurrent if learned is None else learned
        return min(learned, self.concurrent)

    def known(self, now: float) -> list[Bucket]:
        """Return every limit on a rate that holds, also those that are far from being reached; for those who show them."""
        asleep = [bucket for bucket in self.stated if bucket not in self.buckets]
        return [bucket for bucket in (*self.buckets, *asleep) if now < bucket.until]

    def ready_at(self, now: float, cost: Cost) -> float:
        """Return when there is room for such a request; a past moment: now. `NEVER`: not before another one ends."""
        if self.ceiling is not None or self.concurrent is not None:
            limit = self.limit(now)
            if limit is not None and self.inflight >= limit:
                return NEVER
            if self.ceiling is not None and self.ceiling.stale(now):
                self.ceiling = None
                self._take_stock()
        at, amounts = 0.0, cost.amounts
        for bucket in self.buckets:
            if bucket.source is not _CONFIGURED and self._changed(now, bucket):
                return self.ready_at(now, cost)
            at = max(at, bucket.ready_at(amounts[bucket.number]))
        return at

    def reserve(self, now: float, cost: Cost) -> Reservation:
        """Take what this request needs, now that it is sent, whether or not there is room."""
        self.inflight += 1
        if self.inflight == 1 or now - self._arriving.at > ON_THE_WAY_S:
            self._look_back(now)
        self.requests += 1
        self._last_at = now
        if cost is not FREE:
            self.input += cost.input
            self.output += cost.output
        amounts = cost.amounts
        for bucket in self.buckets:
            bucket.take(now, amounts[bucket.number])
        return Reservation(self, now, cost, self._arrived)

    def _look_back(self, now: float) -> None:
        """Take note of what was sent so far, before another request is: it will have come in soon, or has by now."""
        last = self.sent
        # Where nothing else is under way, all that was sent has been answered.
        self._arrived = last if self.inflight == 1 or now - last.at > ON_THE_WAY_S else self._arriving
        self._arriving = last
        self.learner.watch(now, last)

    def settle(self, now: float, reservation: Reservation, used: Cost, *, requests: float = 0.0) -> None:
        """Give back what was reserved and not used; `requests`: how many of the requests too. Called by the reservation."""
        reserved = reservation.cost
        for bucket in self.buckets:
            if max(bucket.since, bucket.as_of) >= reservation.number:
                # It was never taken here, or a later answer has told what is left.
                continue
            if bucket.resource is _REQUESTS:
                if requests:
                    bucket.take(now, -requests)
            elif bucket.source is _CONFIGURED or requests:
                bucket.take(now, used.amounts[bucket.number] - reserved.amounts[bucket.number])

    # -- what the provider says -----------------------------------------------------------------------------------------------

    def curious(self, now: float) -> bool:
        """Whether it is worth reading what the next answer states; not while much is left of all that is stated."""
        return now >= self._look_at or self.requests >= self._look_beyond

    def state(self, now: float, reservation: Reservation, stated: Iterable[Stated]) -> None:
        """Believe what the provider says about its limits in the answer to this request.

        What it says holds for the moment when the request came in: what was sent since is reckoned on top of it.
        """
        least, left, fresh = 1.0, NEVER, False
        gained_s = max(0.0, now - reservation.at - ON_THE_WAY_S)
        for one in stated:
            bucket = self._stated_bucket(now, one)
            if bucket is not None:
                bucket.until = now + STATED_S
            if one.remaining is None:
                least = 0.0
                continue
            least = min(least, one.remaining / one.limit)
            if one.resource is _REQUESTS:
                left = one.remaining
            if bucket is not None and reservation.number >= bucket.as_of:
                fresh, bucket.as_of = True, reservation.number
                later = self.sent.since(reservation.before, one.resource) - reservation.cost.of(one.resource)
                bucket.correct(now, min(one.remaining + gained_s * bucket.per_s, bucket.burst) - later)
        if fresh:
            plenty = least >= PLENTY
            self._look_at = now + LOOK_S if plenty else 0.0
            self._look_beyond = self.requests + left / 8.0 if plenty else 0.0
            self._bind(plenty=plenty)

    def _bind(self, *, plenty: bool) -> None:
        """Reckon with what is stated; while there is plenty of all of it, merely go on reading it: most requests need no more."""
        if plenty:
            self.buckets = [bucket for bucket in self.buckets if bucket.source is not _HEADER]
        else:
            for bucket in self.stated:
                if bucket not in self.buckets:
                    bucket.since = self.requests
                    self.buckets.append(bucket)
        self._take_stock()

    def _stated_bucket(self, now: float, stated: Stated) -> Bucket | None:
        """Return the bucket for a limit that a provider states, new if need be; None where its period is unknown."""
        for bucket in self.stated:
            if bucket.resource is stated.resource:
                if stated.period_s not in (None, bucket.period_s):
                    if stated.limit == bucket.amount:
                        # The same limit, whose period was misread before: it has to be guessed from few numbers.
                        bucket.retune(now, stated.limit, stated.period_s, stated.limit)
                        return bucket
                    continue
                if stated.limit != bucket.amount:
                    bucket.retune(now, stated.limit, bucket.period_s, stated.limit)
                return bucket
        if stated.period_s is None:
            return None
        # The whole period's amount at once: what of it is left, the provider says itself.
        plan = RatePlan(stated.resource, stated.limit, stated.period_s, stated.limit)
        bucket = Bucket(plan, _HEADER, now, since=self.requests, until=now + STATED_S)
        if len(self.stated) >= MOST_STATED:
            # Periods are guessed, and some providers state what is none.
            gone = self.stated.pop(0)
            self.buckets = [other for other in self.buckets if other is not gone]
        self.stated.append(bucket)
        return bucket

    # -- what refusals teach --------------------------------------------------------------------------------------------------

    def denied(self, now: float, reservation: Reservation, resource: Resource | None) -> None:
        """A rate limit refused this request, of this resource if it says so: pace what comes by what was let through."""
        if resource is Resource.CONCURRENT:
            self.overloaded(now, reservation)
            return
        kinds = _EITHER if resource is None else (resource,)
        cost = reservation.cost
        learned = {bucket.resource: bucket for bucket in self.buckets if isinstance(bucket, LearnedBucket) and now < bucket.until}
        # What the refusal itself has told about a limit need not be guessed.
        told = {bucket.resource for bucket in self.buckets if bucket.source is _HEADER and bucket.since >= reservation.number}
        known = {kind: learned[kind].per_s if kind in learned else 0.0 for kind in kinds if kind not in told}
        if not self.learner.shadows(reservation.sent):
            for bucket in learned.values():
                if bucket.resource in known:
                    # It was refused, so there is nothing left.
                    bucket.correct(now, 0.0)
        request = Tally(now, 1, cost.input, cost.output)
        for kind in self.learner.refused(now, request, reservation.sent, known):
            taught = learned.get(kind)
            per_s = self.learner.curve(kind).value(now)
            if taught is None:
                taught = LearnedBucket(kind, per_s, now, self.requests)
                self.buckets.append(taught)
                self.bound = True
            taught.until = now + MEMORY_S
            taught.follow(now, per_s)
            taught.correct(now, 0.0)
        # What the request takes of the others is estimated from now on, for the next lesson may be about them.
        if not self.counts_tokens:
            self.learner.estimated(self.sent)
        self._taught = True
        self._take_stock()

    def overloaded(self, now: float, reservation: Reservation) -> None:
        """It was refused because too much was under way: let less be."""
        if self.ceiling is None:
            self.ceiling = Ceiling()
            self.bound = True
        self.ceiling.refused(now, sent_at=reservation.at, beside=reservation.beside)

    def _changed(self, now: float, bucket: Bucket) -> bool:
        """See whether a limit that is not configured still is what it was; tells whether it is worth asking again."""
        if now >= bucket.until:
            self.buckets.remove(bucket)
            if bucket.source is _HEADER:
                self.stated.remove(bucket)
            self._taught = self.learner.remembers(now)
            self._take_stock()
            return True
        return isinstance(bucket, LearnedBucket) and self._follow(now, bucket)

    def _follow(self, now: float, bucket: LearnedBucket) -> bool:
        """Let a learned limit grow; in steps, so that it need not be reckoned for every request."""
        per_s = self.learner.curve(bucket.resource).value(now)
        if abs(per_s - bucket.per_s) < STEP * bucket.per_s:
            return False
        bucket.follow(now, per_s)
        return True

    def _take_stock(self) -> None:
        self.counts_tokens = self._taught or any(bucket.resource is not _REQUESTS for bucket in self.buckets)
        self.bound = bool(self.buckets) or self.ceiling is not None or self.concurrent is not None
