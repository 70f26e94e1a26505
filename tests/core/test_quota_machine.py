"""The limits of one key against token buckets that are filled second by second, and against a provider that keeps one itself.

The first machine knows nothing of theoretical arrival times: its buckets gain with every step and overflow at their burst. The
second one is told nothing but what a provider's headers say, while requests and answers are on their way and overtake each other.
"""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.core.bucket import NEVER, Cost
from gateway.core.limits import Stated
from gateway.core.plan import QuotaPlan, RatePlan, Resource
from gateway.core.quota import ON_THE_WAY_S, Quota
from tests.core.build import NOW

CLOSE = 1e-6
"""Nearer than this floats decide."""

RATES = (
    RatePlan(Resource.REQUESTS, 10.0, 1.0, 1.0),
    RatePlan(Resource.REQUESTS, 10.0, 1.0, 4.0),
    RatePlan(Resource.REQUESTS, 60.0, 60.0, 6.0),
    RatePlan(Resource.TOKENS, 100.0, 1.0, 50.0),
    RatePlan(Resource.TOKENS, 300.0, 1.0, 10.0),
    RatePlan(Resource.INPUT_TOKENS, 3000.0, 60.0, 300.0),
    RatePlan(Resource.OUTPUT_TOKENS, 20.0, 1.0, 20.0),
)
PLANS = st.builds(
    QuotaPlan,
    st.lists(st.sampled_from(RATES), max_size=4, unique_by=lambda rate: (rate.resource, rate.period_s)).map(tuple),
    st.sampled_from([None, None, 1, 3]),
)
COSTS = st.builds(Cost, st.sampled_from([0.0, 1.0, 7.5, 40.0, 90.0]), st.sampled_from([0.0, 2.0, 15.0, 60.0]))


class Naive:
    """A token bucket with a level."""

    def __init__(self, rate):
        self.level, self.payers = rate.burst, []
        self.tune(rate)

    def tune(self, rate):
        self.resource, self.period_s, self.burst = rate.resource, rate.period_s, rate.burst
        self.per_s = rate.amount / rate.period_s
        self.level = min(self.level, self.burst)

    def gain(self, seconds):
        self.level = min(self.burst, self.level + seconds * self.per_s)

    def give(self, amount):
        self.level = min(self.burst, self.level + amount)

    def lacks(self, cost):
        """What is missing; less than nothing where there is more than enough."""
        return min(cost.of(self.resource), self.burst) - self.level


class QuotaAgainstBuckets(RuleBasedStateMachine):
    @initialize(plan=PLANS)
    def begin(self, plan):
        self.now, self.plan = NOW, plan
        self.quota = Quota(plan, NOW)
        self.buckets = [Naive(rate) for rate in plan.rates]
        self.under_way = []

    @rule(seconds=st.sampled_from([0.001, 0.1, 0.35, 2.0, 30.0]))
    def time_passes(self, seconds):
        self.now += seconds
        for bucket in self.buckets:
            bucket.gain(seconds)

    def room(self, cost):
        """Seconds until there is room, as the model sees it."""
        if self.plan.concurrent is not None and len(self.under_way) >= self.plan.concurrent:
            return NEVER
        return max([bucket.lacks(cost) / bucket.per_s for bucket in self.buckets], default=0.0)

    @rule(cost=COSTS, heedless=st.booleans())
    def a_request_comes(self, cost, heedless):
        wait_s, ready_at = self.room(cost), self.quota.ready_at(self.now, cost)
        if wait_s > CLOSE:
            assert ready_at == pytest.approx(self.now + wait_s, abs=CLOSE), "it waits exactly as long as it has to"
        elif wait_s < -CLOSE or not self.buckets:
            assert ready_at <= self.now, "it does not wait"
        if wait_s <= CLOSE or heedless:
            # What must go, goes; the limits are in debt then.
            self.under_way.append(self.quota.reserve(self.now, cost))
            for bucket in self.buckets:
                bucket.level -= cost.of(bucket.resource)
                bucket.payers.append(self.under_way[-1])

    @precondition(lambda self: self.under_way)
    @rule(
        which=st.integers(0, 5),
        ending=st.sampled_from(["served", "told nothing", "refused", "unsent", "kept"]),
        used=COSTS,
    )
    def one_ends(self, which, ending, used):
        reservation = self.under_way.pop(which % len(self.under_way))
        if ending == "served":
            reservation.served(self.now, used)
        elif ending == "told nothing":
            reservation.served(self.now, None)
        elif ending == "kept":
            reservation.kept()
        else:
            getattr(reservation, ending)(self.now)
            used = Cost()
        for bucket in [bucket for bucket in self.buckets if reservation in bucket.payers]:
            bucket.payers.remove(reservation)
            if bucket.resource is Resource.REQUESTS:
                bucket.give(1.0 if ending == "unsent" else 0.0)
            elif ending not in ("told nothing", "kept"):
                bucket.give(reservation.cost.of(bucket.resource) - used.of(bucket.resource))

    @rule(plan=PLANS)
    def a_reload(self, plan):
        self.quota.replan(self.now, plan)
        old, self.buckets, self.plan = self.buckets, [], plan
        for rate in plan.rates:
            same = [bucket for bucket in old if (bucket.resource, bucket.period_s) == (rate.resource, rate.period_s)]
            self.buckets.append(same[0] if same else Naive(rate))
            self.buckets[-1].tune(rate)

    @invariant()
    def what_is_left_is_the_models(self):
        for bucket, naive in zip(self.quota.buckets, self.buckets, strict=True):
            assert (bucket.resource, bucket.per_s, bucket.burst) == (naive.resource, pytest.approx(naive.per_s), naive.burst)
            assert bucket.level(self.now) == pytest.approx(naive.level, abs=CLOSE)

    @invariant()
    def nobody_is_lost_or_counted_twice(self):
        assert (self.quota.inflight, self.quota.limit(self.now)) == (len(self.under_way), self.plan.concurrent)

    @invariant()
    def tokens_are_estimated_where_they_count(self):
        assert self.quota.counts_tokens is any(rate.resource is not Resource.REQUESTS for rate in self.plan.rates)


QuotaAgainstBuckets.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestQuotaAgainstBuckets = QuotaAgainstBuckets.TestCase


class Message:
    """A request on its way, and the answer to it."""

    def __init__(self, reservation, arrives_at):
        self.reservation, self.arrives_at = reservation, arrives_at
        self.stated = None
        self.exact = False
        """Nothing was owed that headers cannot say."""


class QuotaAgainstProvider(RuleBasedStateMachine):
    """`accounts` are the provider's own buckets, by resource; `on_the_way` is what has not come in there yet."""

    LIMITS = ((Resource.REQUESTS, 20.0, 4.0), (Resource.TOKENS, 400.0, 10.0))

    @initialize()
    def begin(self):
        self.now = NOW
        self.quota = Quota(QuotaPlan(), NOW)
        self.accounts = [Naive(RatePlan(resource, amount, period_s, amount)) for resource, amount, period_s in self.LIMITS]
        self.on_the_way, self.answers = [], []
        self.taken_at = -NEVER
        self.known = False
        """What the quota believes is about all that has happened."""
        self.newest = -NEVER

    @rule(seconds=st.sampled_from([0.004, 0.02, 0.06, 0.3, 2.0]))
    def time_passes(self, seconds):
        end = self.now + seconds
        while self.on_the_way and min(message.arrives_at for message in self.on_the_way) <= end:
            message = min(self.on_the_way, key=lambda message: message.arrives_at)
            self.on_the_way.remove(message)
            self._passes_until(message.arrives_at)
            self._arrives(message)
        self._passes_until(end)

    def _passes_until(self, at):
        for account in self.accounts:
            account.gain(at - self.now)
        self.now = at

    def _arrives(self, message):
        cost = message.reservation.cost
        for account in self.accounts:
            account.level -= cost.of(account.resource)
        # Whole numbers are stated, and nothing below nothing.
        message.stated = [
            Stated(account.resource, account.burst, max(0.0, account.level // 1), None, account.period_s)
            for account in self.accounts
        ]
        message.exact = all(account.level >= 0.0 for account in self.accounts)
        self.answers.append(message)

    @rule(tokens=st.sampled_from([0.0, 5.0, 30.0]), way=st.floats(0.0, ON_THE_WAY_S * 0.99), heedful=st.booleans())
    def a_request_leaves(self, tokens, way, heedful):
        cost = Cost(tokens * 0.8, tokens * 0.2)
        if not heedful or self.quota.ready_at(self.now, cost) <= self.now:
            self.on_the_way.append(Message(self.quota.reserve(self.now, cost), self.now + way))

    @precondition(lambda self: self.answers)
    @rule(which=st.integers(0, 9), used=st.sampled_from([0.0, 5.0, 30.0]))
    def an_answer_comes(self, which, used):
        message = self.answers.pop(which % len(self.answers))
        levels = self._believed()
        message.reservation.state(self.now, message.stated)
        if message.reservation.at < self.newest:
            assert self._believed() == levels, "older news is no news"
        else:
            self.newest = message.reservation.at
            self.known = message.exact and message.arrives_at > self.taken_at
        levels = self._believed()
        message.reservation.served(self.now, Cost(used))
        assert self._believed() == levels, "a provider says itself what it gives back"

    @rule(amount=st.sampled_from([1.0, 8.0]))
    def somebody_else_uses_the_account(self, amount):
        for account in self.accounts:
            account.level -= amount
        self.taken_at, self.known = self.now, False

    @precondition(lambda self: self.newest > 0.0)
    @rule()
    def after_some_quiet_one_answer_tells_all(self):
        self.time_passes(1.0)
        self.answers.clear()
        before = [account.level for account in self.accounts]
        self.a_request_leaves(5.0, 0.0, heedful=False)
        self.time_passes(0.01)
        self.an_answer_comes(0, 0.0)
        for bucket, account, level in zip(self.quota.stated, self.accounts, before, strict=True):
            if level >= 10.0:
                # Nothing else was under way, so all that it is too careful by is a fraction, and the time on the way.
                assert account.level - 1.0 - 0.06 * account.per_s <= bucket.level(self.now) <= account.level + CLOSE

    def _believed(self):
        return [bucket.level(self.now) for bucket in self.quota.stated]

    @invariant()
    def nothing_is_believed_to_be_there_that_is_not(self):
        if not self.known:
            return
        for bucket, account in zip(self.quota.stated, self.accounts, strict=True):
            coming = sum(message.reservation.cost.of(account.resource) for message in self.on_the_way)
            # A limit that is whole gains again as soon as something is taken: that is later there than here, by the way.
            spare = ON_THE_WAY_S * account.per_s
            # What there is plenty of is not reckoned with; the next answers tell when that is over.
            assert bucket not in self.quota.buckets or bucket.level(self.now) <= account.level - coming + spare + CLOSE


QuotaAgainstProvider.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestQuotaAgainstProvider = QuotaAgainstProvider.TestCase
