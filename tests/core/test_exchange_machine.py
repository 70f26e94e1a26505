"""Any order of events, on any policy and any state of the world: the laws that hold after each step of an exchange.

The machine plays driver, provider, client and all other exchanges of the process. What is checked here is independent of how
`core.exchange` comes to its decisions; where they should lead is told in the stories of its own test files. Where several attempts
are under way, `which` says to whom of them something happens.
"""

from collections import Counter
from random import Random
from unittest.mock import patch

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.core.actions import Break, Cancel, Comfort, Commit, Finish, Open, OpenEarly, Queue, Refuse, Relay, Send
from gateway.core.breaker import Breaker, Permit, State
from gateway.core.bucket import NEVER, Cost
from gateway.core.budget import Budget
from gateway.core.credentials import CredentialState
from gateway.core.hedge import CAP
from gateway.core.plan import INFERENCE, Balance, BreakerPlan, Family, HedgePlan, Learned, Prefill, Priority, QuotaPlan
from gateway.core.promises import Promises
from gateway.core.quota import Quota
from gateway.core.record import Ending, Kind
from gateway.core.turns import called, usable
from gateway.core.verdicts import FAULTS, Again, Fault, Scope, Verdict
from gateway.errors import Reason
from tests.core.build import Prompt, World, limits, policy, provider, shut

TARGETS = ("a", "b", "a/other!", "c", "d", "b/big?context_length,content_policy")
DOMAINS = {"d": "a"}
TERMINAL = (Relay, Refuse, Break, Finish)
WHICH = st.integers(0, 2)
SECONDS = st.sampled_from([0.0, 0.01, 0.3, 1.0, 2.5, 9.0, 40.0, 130.0])

PASSING = [Fault.SERVER_ERROR, Fault.OVERLOADED, Fault.CONNECT, Fault.STREAM_BROKEN, Fault.RATE_LIMITED]
OF_A_KEY = {Scope.CREDENTIAL, Scope.KEY_ON_MODEL}


@st.composite
def verdicts(draw):
    fault = draw(st.sampled_from(PASSING * 3 + [Fault.CALLER] * 4 + list(Fault)))
    return Verdict(
        fault,
        delay=draw(st.sampled_from([None, None, 0.0, 0.7, 3.0, 20.0, 90.0])),
        retry_same=draw(st.sampled_from([True, True, True, False])),
        ambiguous=draw(st.booleans()),
        scope=draw(st.sampled_from([None] * 6 + [Scope.KEY_ON_MODEL, Scope.CREDENTIAL]))
        if FAULTS[fault].scope in OF_A_KEY
        else None,
        quick=FAULTS[fault].again is Again.LAST_RESORT and draw(st.booleans()),
        quota_left=fault is Fault.RATE_LIMITED and draw(st.booleans()),
    )


VERDICTS = verdicts()
HEDGES = st.builds(
    HedgePlan,
    after_s=st.sampled_from([0.2, 1.0, 1.0, None]),
    budget=st.sampled_from([0.05, 0.5, 1.0]),
    max=st.sampled_from([1, 1, 2]),
)
POLICIES = st.builds(
    policy,
    attempts=st.integers(1, 5),
    first_token=st.sampled_from([1.0, 30.0]),
    stall=st.sampled_from([2.0, 30.0]),
    answer=st.sampled_from([5.0, 600.0]),
    max_stream=st.sampled_from([50.0, 3600.0]),
    rate_limit_wait=st.sampled_from([0.0, 3.0, 8.0]),
    failover_content_policy=st.booleans(),
    hedge=st.one_of(st.none(), HEDGES, HEDGES),
    learned_first_token=st.sampled_from([None, Learned(floor_s=5.0)]),
    hold=st.sampled_from([0.0, 0.0, 0.5, NEVER]),
    keepalive=st.sampled_from([NEVER, 7.0]),
    early_keepalive=st.sampled_from([NEVER, NEVER, 0.3, 9.0]),
    resume=st.booleans(),
)


REQUESTS = {
    "policy": POLICIES,
    "foreign": st.sampled_from([False, False, True]),
    "family": st.sampled_from([Family.CHAT, Family.CHAT, Family.CHAT, Family.FILES]),
    "stream": st.booleans(),
    "safe": st.booleans(),
    "patience": st.sampled_from([600.0, 600.0, 60.0, 4.0, 0.0]),
    "already_retried": st.sampled_from([False, False, True]),
    "client": st.sampled_from(["one", "two", "three"]),
    "hedged": st.sampled_from([True, True, False]),
    "resumable": st.sampled_from([True, True, False]),
    "priority": st.sampled_from(Priority),
    "may_be_back": st.sampled_from([True, True, False]),
    "balance": st.sampled_from([*[Balance.ORDERED] * 4, *Balance]),
    "tokens": st.sampled_from([None, 0, 10, 5_000]),
    "room_in": st.sampled_from([*[0.0] * 6, 0.5, 2.0, 6.0]),
}
QUOTAS = (limits(2.0, burst=2.0), limits(1.0, tokens=100.0, token_burst=50.0), limits(concurrent=1), QuotaPlan())
QUEUE_WAIT_S = 10.0
ROOM = {Reason.RATE_LIMITED, Reason.QUEUE_FULL, Reason.SHED}
"""Refusals for want of room: whoever can be promised some is told when to come back, the others to stay away."""
ADVICE = {
    Reason.CALLER: None,
    Reason.RETRY_BUDGET: None,
    Reason.NOT_RETRYABLE: None,
    Reason.ATTEMPTS_EXHAUSTED: False,
    Reason.DEADLINE: False,
    Reason.NO_TARGET: False,
    Reason.BREAKERS_OPEN: True,
    Reason.THROTTLED: True,
    Reason.CREDENTIALS_BENCHED: False,
    Reason.DRAINING: True,
}
"""`x-should-retry`: the upstream's where the answer is the caller's own, or where we did not try what its SDK may; false where we are
spent, or nobody knows whether waiting helps; true where we know when to come back."""


class Ledger(Budget):
    """A budget that keeps its receipts."""

    def __init__(self, plan, now):
        super().__init__(plan, now)
        self.paid = 0.0

    def withdraw(self, now, cost):
        paid = super().withdraw(now, cost)
        self.paid += cost * paid
        return paid


def unsent(attempt):
    return not attempt.sent_at


def headless(attempt):
    return attempt.sent_at and not attempt.head_at


def contentless(attempt):
    return attempt.head_at and not attempt.content_at


def held_back(attempt):
    return attempt.content_at and attempt.streaming


def may_go_again(verdict, *, same_key):
    """Whether a target that answered so may be asked once more in the same exchange."""
    if not same_key and verdict.scope in OF_A_KEY:
        return verdict.retry_same or verdict.fault is not Fault.RATE_LIMITED
    return verdict.retry_same and FAULTS[verdict.fault].again is not Again.NEVER


class AnyExchange(RuleBasedStateMachine):
    @initialize(
        names=st.permutations(TARGETS),
        size=st.sampled_from([1, 2, 3, 4]),
        keys=st.sampled_from([(), ("key-1",), ("key-1", "key-2")]),
        seed=st.integers(0, 99),
        past=st.sampled_from(["none", "hanging", "good", "doubtful", "doubtful"]),
        saved=st.sampled_from([0.0, 1.0, 3.0]),
        trouble=st.lists(st.integers(0, 199), max_size=3),
        quotas=st.lists(st.sampled_from([QUOTAS[-1], *QUOTAS]), min_size=4, max_size=4),
        depth=st.sampled_from([1000, 1000, 1, 0]),
        **REQUESTS,
    )
    def begin(self, names, size, keys, seed, past, saved, trouble, quotas, depth, **request):
        names = names[:size]
        self.world = World(
            *names,
            keys=keys,
            breaker=BreakerPlan(consecutive=2, min_requests=4),
            domains=DOMAINS,
            quotas=dict(zip("abcd", quotas, strict=True)),
            queue_wait=QUEUE_WAIT_S,
            queue_depth=depth,
        )
        self.world.hedges.deposit(saved)
        self.allowance = saved
        self.world.chance = Random(seed)
        for state in self.world.registry.providers.values():
            state.budget = Ledger(state.plan.budget, self.world.now)
        self.failures, self.convictions, self.expected = Counter(), Counter(), Counter()
        self.elsewhere, self.sound, self.bystanders, self.given_up = False, False, [], {}
        self.story, self.turn, self.was_called, self.promises, self.again = None, None, None, [], False
        self.patches = [
            patch.object(Breaker, "failed", self.counted(Breaker.failed)),
            patch.object(Permit, "convict", self.convicted(Permit.convict)),
            patch.object(CredentialState, "take", self.taken(CredentialState.take)),
            patch.object(Quota, "reserve", self.reserved(Quota.reserve)),
            patch.object(Promises, "give", self.given(Promises.give)),
        ]
        for patched in self.patches:
            patched.start()
        if past == "hanging":
            for place in self.world.places():
                self.somebody_else_gives_up(place.state)
        elif past != "none":
            for place in self.world.places():
                place.state.rejections.served += 30
            for name in names:
                self.world.serves(name)
        if past == "doubtful":
            self.many_are_rejected()
        if past != "none":
            self.world.knows(names[0], 0.5)
        for which in trouble:
            self.something_happens_elsewhere(which)
        self.new_exchange(**request)

    def many_are_rejected(self):
        """Others are told by every target that their requests are wrong."""
        for place in self.world.places():
            for client in ("a regular", "another") * 5:
                place.state.rejections.rejected(self.world.now, client)

    @precondition(lambda self: self.exchange.done)
    @rule(**REQUESTS)
    def another_request(self, **request):
        self.new_exchange(**request)

    def new_exchange(self, policy, foreign, hedged, resumable, tokens, room_in, **request):
        hedged = hedged and request["family"] in INFERENCE  # the rest is admission's
        if room_in:
            for place in self.world.places():
                self.meets_the_limit(place, room_in)
        self.own_limits = Quota(QuotaPlan(), self.world.now)
        self.story = self.world.exchange(
            policy=policy,
            foreign_key="hash" if foreign else None,
            hedged=hedged,
            prompt=None if tokens is None else Prompt(tokens),
            booking=self.own_limits.reserve(self.world.now, Cost()),
            **request,
        )
        self.turn, self.was_called, self.promises, self.again = None, None, [], False
        self.policy, self.exchange = policy, self.story.machine
        self.ask = self.exchange._ask
        self.resumable = resumable
        self.committed = self.opened = self.ended = self.last = None
        self.live, self.said, self.hedged, self.early, self.comforted_at, self.released = [], [], 0, False, NEVER, False
        if self.ask.hedges is not None:
            self.allowance = min(CAP, self.allowance + policy.hedge.budget)
        for counter in (self.failures, self.convictions, self.expected):
            counter.clear()
        self.owed = Counter()
        for state in self.world.registry.providers.values():
            state.budget.paid = 0.0
        self.perform(self.exchange.start(self.world.now))

    def counted(self, failed):
        def count(breaker, now, permit):
            self.failures[breaker] += not self.elsewhere
            failed(breaker, now, permit)

        return count

    def convicted(self, convict):
        def count(permit, now):
            self.convictions[permit._breaker] += not self.elsewhere
            convict(permit, now)

        return count

    def taken(self, take):
        def check(key, now, model):
            assert key.usable_at(now, model) <= now, "a stated delay is kept, and a probe's place"
            return take(key, now, model)

        return check

    def reserved(self, reserve):
        def check(quota, now, cost):
            # Only where the beginning of an answer was refused, it goes from the beginning at once.
            assert self.again or quota.ready_at(now, cost) <= now, "nothing goes where there is no room"
            return reserve(quota, now, cost)

        return check

    def given(self, give):
        def note(*args, **more):
            delay_s = give(*args, **more)
            if not self.elsewhere:
                self.promises.append(delay_s)
            return delay_s

        return note

    # -- the driver -------------------------------------------------------------------------------------------------------------

    def perform(self, actions):
        now, self.sound = self.world.now, False
        for action in actions:
            assert self.ended is None, "nothing comes after the end"
            if isinstance(action, Send):
                self.check_send(action.attempt, now)
                self.live.append(action.attempt)
            elif isinstance(action, Cancel):
                self.live.remove(action.attempt)
            elif isinstance(action, Queue):
                self.check_queue(action.turn, now)
                self.turn = action.turn
                self.joins(self.story, action.turn)
            elif isinstance(action, OpenEarly):
                assert self.opened is None
                assert not self.early
                assert self.ask.stream
                self.early = True
            elif isinstance(action, Comfort):
                self.check_comfort(now)
                self.comforted_at = now
            elif isinstance(action, Open):
                assert self.opened is None
                self.opened = action.attempt
            elif isinstance(action, Commit):
                self.check_commit(action.attempt, now)
                self.committed = action.attempt
            else:
                assert isinstance(action, TERMINAL)
                self.ended, self.live = action, []
        if isinstance(self.ended, (Relay, Refuse)):
            assert self.committed is None
            assert not self.early
        if isinstance(self.ended, Break):
            assert self.committed is not None or self.early
        if isinstance(self.ended, Relay):
            assert self.ended.attempt.answered
            assert Fault(self.ended.attempt.verdict) not in {Fault.CREDENTIAL, Fault.BILLING, Fault.EDGE_BLOCKED}
        assert self.exchange.done is (self.ended is not None)
        self.sound = True

    def check_queue(self, turn, now):
        assert not self.live, "whoever waits has nothing under way"
        assert self.committed is None
        assert not self.exchange.done
        assert turn.place in self.ask.candidates
        assert turn.since == now
        assert now < turn.until <= min(now + QUEUE_WAIT_S - self.waited(), self.ask.deadline_at) + 1e-6
        if turn.promised:
            assert self.ask.may_be_back, "what is known to be new was not told to come back"
        assert (self.ask.foreign_key is None) is (turn.gate is turn.place.gate), "law 11"

    def waited(self):
        return sum(seconds for *_, seconds in self.story.record.waits or ())

    def joins(self, story, turn):
        """Whoever has to go for it is told at once, or never: its own time runs out as well."""
        self.world.queued[turn] = story
        gone = turn.gate.queue.join(self.world.now, turn)
        if gone is not None:
            self.is_sent_away(gone, Reason.QUEUE_FULL)

    def is_sent_away(self, turn, reason):
        self.answers(turn, lambda machine: machine.sent_away(self.world.now, turn, reason))

    def answers(self, turn, event):
        """Something happens to whoever waits, be it this exchange or another one."""
        if turn is self.turn:
            self.was_called = turn
            self.perform(event(self.exchange))
            self.was_called = None
        else:
            self.elsewhere = True
            story = self.world.queued[turn]
            story.told(event(story.machine))
            self.elsewhere = False

    def check_order(self, attempt):
        """Whoever waits goes before whoever comes."""
        place = attempt.place
        admitted = place.state.breaker.state is place.provider.breaker.state is State.CLOSED and place.gate.throttle.share(
            self.world.now
        )
        if admitted == 1.0 and attempt.gate.queue:
            opinion = any(verdict.fault is Fault.CALLER for _, verdict in self.said)
            assert opinion or (self.was_called is not None and self.was_called.place is place)

    def check_comfort(self, now):
        plan = self.policy.stream
        assert self.early or (self.opened is not None and self.opened.streaming), "only within a stream"
        if self.early and self.comforted_at == NEVER:
            assert now >= self.story.record.received_at + plan.early_keepalive_s
        else:
            silent_since = [at for at in (self.comforted_at,) if at != NEVER]
            if self.opened is not None:
                silent_since.append(self.live[0].heard_at)
            assert now >= max(silent_since) + plan.keepalive_s, "only into silence"

    def check_commit(self, attempt, now):
        assert self.live == [attempt], "the losers are gone"
        assert attempt.content_at
        assert attempt.streaming or not self.early, "what was promised is a stream"
        if attempt.kind is Kind.RESUME:
            assert self.opened is not attempt
            assert attempt.streaming
            return
        assert self.committed is None, "of two answers nothing is mixed"
        assert self.opened is attempt
        if attempt.streaming and not self.released:
            assert now >= attempt.content_at + self.policy.stream.hold_s, "what is to be held is held"

    def check_send(self, attempt, now):
        place, provider_state = attempt.place, attempt.place.provider
        assert place in self.ask.candidates
        assert self.ask.foreign_key is None or attempt.credential is None
        assert len(self.exchange.record.attempts) <= self.policy.attempts
        if attempt.kind is Kind.RESUME:
            self.check_resume(attempt)
            return
        assert self.committed is None
        assert now < self.ask.deadline_at
        self.check_order(attempt)
        assert (attempt.kind is Kind.FIRST) is (attempt.number == 1)
        here = [(past, verdict) for past, verdict in self.said if past.place is place]
        if attempt.kind is Kind.HEDGE:
            assert not here, "never where it has failed"
            self.check_hedge(attempt, provider_state)
        else:
            assert not self.live
            assert (attempt.kind is Kind.RETRY) is bool(here)
        if self.last is not None:
            before, verdict = self.last
            assert self.exchange.intact
            if self.ask.family not in INFERENCE and not self.ask.safe and before.sent_at:
                assert verdict.fault in {Fault.OVERLOADED, Fault.RATE_LIMITED}
        if here:
            verdict = here[-1][1]
            same_key = any(past.credential == attempt.credential for past, _ in here)
            assert may_go_again(verdict, same_key=same_key)
            if same_key or verdict.scope not in OF_A_KEY:
                assert not self.ask.already_retried
                # What limits a client's own key is waited for at nobody else's expense.
                if self.ask.foreign_key is None or verdict.fault is not Fault.RATE_LIMITED:
                    self.owed[provider_state] += 2.0 if verdict.ambiguous else 1.0
                assert provider_state.budget.paid >= self.owed[provider_state], "repetition is not free"
        for position, (past, verdict) in enumerate(self.said):
            if FAULTS[verdict.fault].elsewhere or verdict.fault is Fault.CONTENT_POLICY:
                continue
            if verdict.fault is Fault.CALLER and past.kind is Kind.HEDGE:
                continue  # said beside the first, whose word counts
            if verdict.fault is Fault.CALLER:
                assert len(self.said) == position + 1, "one second opinion, and no more"
                assert attempt.kind is not Kind.HEDGE, "and no race of two"
                assert past.place is not place
                assert self.ask.family in INFERENCE
            else:
                assert verdict.fault in place.target.only_for
        if place.target.only_for:
            assert any(verdict.fault in place.target.only_for for _, verdict in self.said)

    def check_hedge(self, attempt, provider_state):
        slow, place, plan = self.live[0].place, attempt.place, self.policy.hedge
        assert self.ask.hedges is not None
        assert not any(rival.content_at and not rival.ended_at for rival in self.live), "the race is over"
        assert all(rival.place is not place for rival in self.live), "a second opinion is another's"
        assert place.model == slow.model or place.target.hedge, "and of the same kind"
        self.hedged += 1
        assert self.hedged <= plan.max
        self.allowance -= 1.0
        assert self.allowance >= 0.0, "no more than the requests have earned"
        self.owed[slow.provider] += 1.0
        assert slow.provider.budget.paid >= self.owed[slow.provider], "and a retry budget pays too"

    def check_resume(self, attempt):
        assert self.policy.stream.resume
        assert self.exchange.resumable
        assert self.exchange.intact
        assert self.committed is not None
        assert not self.live
        refused = [past for past, _ in self.said if past.place is attempt.place]
        assert all(past.kind is Kind.RESUME and past.prefill is not Prefill.NONE for past in refused)

    def among(self, which, ready):
        """Choose one of those under way that are ready for something."""
        found = [attempt for attempt in self.live if ready(attempt)]
        return found[which % len(found)]

    def over(self, attempt, verdict):
        """This attempt ends, as its driver hears; what this must count, and against whom, is reckoned here."""
        self.live.remove(attempt)
        self.ends(attempt, verdict)

    def ends(self, attempt, verdict):
        self.last = (attempt, verdict)
        self.said.append(self.last)
        bearer = {
            Scope.TARGET: attempt.place.state.breaker,
            Scope.PROVIDER: attempt.place.provider.breaker,
        }.get(verdict.scope)
        if bearer is not None and not (attempt.uploading and verdict.fault is Fault.STALLED):
            self.expected[bearer] = 1

    def gives_up(self):
        """The client goes, or its patience is over."""
        for attempt in self.live:
            self.is_given_up(attempt)

    def is_given_up(self, attempt):
        """The target's failure where another client gave up on it before, without a sign of life since."""
        now = self.world.now
        if not attempt.sent_at or attempt.head_at or attempt.uploading:
            return
        breaker = attempt.place.state.breaker
        if now - attempt.sent_at < (10.0 if self.ask.stream else 60.0) or breaker.lived_at >= attempt.sent_at:
            return
        client, at = self.given_up.get(breaker, (self.ask.client, now))
        self.given_up[breaker] = (self.ask.client, now)
        if client != self.ask.client and at > breaker.lived_at and now - at <= 600.0:
            self.expected[breaker] = 1

    # -- events -----------------------------------------------------------------------------------------------------------------

    @precondition(lambda self: any(map(unsent, self.live)))
    @rule(which=WHICH, uploading=st.sampled_from([False, False, True]))
    def connected(self, which, uploading):
        attempt = self.among(which, unsent)
        # Only what is whole is hedged.
        attempt.uploading = uploading and self.ask.hedges is None
        self.exchange.sending(self.world.now, attempt)

    @precondition(lambda self: any(attempt.uploading and attempt.sent_at for attempt in self.live))
    @rule()
    def the_body_is_whole(self):
        (attempt,) = self.live
        attempt.uploading = False
        self.exchange.sending(self.world.now, attempt)

    @precondition(lambda self: any(map(headless, self.live)))
    @rule(which=WHICH, streaming=st.sampled_from([True, True, False]))
    def a_head_comes(self, which, streaming):
        self.exchange.head(self.world.now, self.among(which, headless), 200, streaming=streaming)

    @precondition(lambda self: any(map(contentless, self.live)))
    @rule(which=WHICH)
    def content_comes(self, which):
        self.shows_content(self.among(which, contentless))

    def shows_content(self, attempt):
        actions = self.exchange.content(self.world.now, attempt)
        self.noticed(attempt)
        self.perform(actions)
        if not attempt.ended_at:
            assert self.live == [attempt], "first content decides"
            held = attempt.kind is not Kind.RESUME and attempt.streaming and self.policy.stream.hold_s
            assert self.committed is (None if held else attempt)

    def noticed(self, attempt):
        """What the machine made of it: an answer that is no stream fails where one was promised."""
        if attempt.code == "no_stream":
            assert not attempt.streaming
            assert self.early or self.committed is not None
            self.ends(attempt, Verdict(Fault.SERVER_ERROR, ambiguous=True, retry_same=False, scope=Scope.NOBODY))

    @precondition(lambda self: any(attempt.head_at for attempt in self.live))
    @rule(which=WHICH)
    def a_chunk_comes(self, which):
        self.among(which, lambda attempt: attempt.head_at).heard_at = self.world.now

    @precondition(lambda self: any(map(held_back, self.live)) and self.committed is None)
    @rule()
    def too_much_is_held(self):
        (attempt,) = self.live
        self.released = True
        self.perform(self.exchange.overflowed(self.world.now, attempt))
        assert self.committed is attempt
        assert self.story.record.hold_overflowed

    @precondition(lambda self: any(attempt.head_at for attempt in self.live))
    @rule(which=WHICH)
    def the_answer_is_whole(self, which):
        self.is_whole(self.among(which, lambda attempt: attempt.head_at))

    def is_whole(self, attempt):
        if attempt.streaming and attempt.kind is Kind.RESUME and not attempt.content_at:
            # At its end at the latest a stream is released: what was held of it is the client's.
            self.shows_content(attempt)
        self.released = True
        actions = self.exchange.finished(self.world.now, attempt)
        self.noticed(attempt)
        self.perform(actions)
        if attempt.code != "no_stream":
            assert isinstance(self.ended, Finish)
            assert self.committed is attempt

    @precondition(lambda self: any(self.uncommitted(attempt) for attempt in self.live))
    @rule(which=WHICH, verdict=VERDICTS, answered=st.booleans(), sent=st.booleans(), status=st.sampled_from([400, 400, 401]))
    def an_attempt_fails(self, which, verdict, answered, sent, status):
        attempt = self.among(which, self.uncommitted)
        if sent and not attempt.sent_at:
            self.exchange.sending(self.world.now, attempt)
        if verdict.fault is Fault.CALLER and attempt.sent_at and not attempt.content_at:
            self.exchange.head(self.world.now, attempt, status, streaming=False)
        attempt.answered = answered
        self.over(attempt, verdict)
        self.perform(self.exchange.failed(self.world.now, attempt, verdict))

    def uncommitted(self, attempt):
        """Nothing of it has reached the client."""
        return attempt is not self.committed

    @precondition(lambda self: any(self.uncommitted(attempt) for attempt in self.live))
    @rule(which=WHICH, verdict=VERDICTS)
    def an_attempt_fails_and_says_so(self, which, verdict):
        self.an_attempt_fails(which, verdict, answered=True, sent=True, status=400)

    @precondition(lambda self: self.live and self.committed is None)
    @rule(which=WHICH, streaming=st.sampled_from([True, True, False]))
    def an_attempt_goes_well(self, which, streaming):
        attempt = self.live[which % len(self.live)]
        if not attempt.sent_at:
            self.exchange.sending(self.world.now, attempt)
        if not attempt.head_at:
            self.exchange.head(self.world.now, attempt, 200, streaming=streaming and self.ask.stream)
        self.is_whole(attempt)

    @precondition(lambda self: any(map(unsent, self.live)))
    @rule(which=WHICH, streaming=st.sampled_from([True, True, False]))
    def an_answer_begins(self, which, streaming):
        attempt = self.among(which, unsent)
        self.exchange.sending(self.world.now, attempt)
        self.exchange.head(self.world.now, attempt, 200, streaming=streaming)
        self.shows_content(attempt)

    @precondition(lambda self: any(map(unsent, self.live)))
    @rule(which=WHICH, seconds=st.sampled_from([9.0, 12.0, 70.0]))
    def the_client_waits_in_vain(self, which, seconds):
        self.exchange.sending(self.world.now, self.among(which, unsent))
        self.time_passes(min(seconds, self.exchange.wake_at - self.world.now))
        if not self.exchange.done:
            self.gives_up()
            self.perform(self.exchange.client_gone(self.world.now))

    @precondition(lambda self: self.hedgeable())
    @rule(which=WHICH, then=st.sampled_from(["more", "content", "whole", "failure"]), verdict=VERDICTS)
    def the_first_is_slow(self, which, then, verdict):
        """Nothing is heard of it until a second one goes beside it, or might."""
        (attempt,) = self.live
        if not attempt.sent_at:
            self.exchange.sending(self.world.now, attempt)
        while self.hedgeable() and self.exchange._race.hedge_at < NEVER:
            self.the_timer_rings()
        if len(self.live) > 1 and then == "content" and any(map(unsent, self.live)):
            self.an_answer_begins(which, streaming=True)
        elif len(self.live) > 1 and then == "whole":
            self.an_attempt_goes_well(which, streaming=True)
        elif len(self.live) > 1 and then == "failure":
            self.an_attempt_fails(which, verdict, answered=True, sent=True, status=400)

    @precondition(lambda self: self.live and self.ask.stream and self.policy.stream.early_keepalive_s < NEVER)
    @rule(which=WHICH, then=st.sampled_from(["more", "whole", "stream"]))
    def comments_begin(self, which, then):
        """The client is promised a stream; what comes then may be none."""
        while self.live and not self.early and self.committed is None:
            self.the_timer_rings()
        if self.live and self.early and self.committed is None and then != "more":
            self.an_attempt_goes_well(which, streaming=then == "stream")

    def hedgeable(self):
        return len(self.live) == 1 and self.ask.hedges is not None and self.committed is None and not self.live[0].content_at

    @precondition(lambda self: self.committed in self.live)
    @rule(verdict=VERDICTS)
    def the_answer_breaks(self, verdict):
        attempt = self.committed
        self.exchange.resumable = self.resumable and attempt.streaming
        self.over(attempt, verdict)
        self.again = attempt.prefill is not Prefill.NONE and verdict.fault is Fault.CALLER
        self.perform(self.exchange.broke(self.world.now, attempt, verdict))
        self.again = False
        assert isinstance(self.ended, Break) or self.live[0].kind is Kind.RESUME

    @precondition(lambda self: self.policy.stream.resume and self.committed is None and any(map(unsent, self.live)))
    @rule(which=WHICH, verdict=VERDICTS)
    def a_stream_begins_and_breaks(self, which, verdict):
        self.an_answer_begins(which, streaming=True)
        while not self.exchange.done and self.committed is None:
            self.the_timer_rings()
        if self.committed in self.live:
            self.the_answer_breaks(verdict)

    @precondition(lambda self: self.exchange.queued)
    @rule(event=st.sampled_from(["look", "look", "look", "called", "full", "shed", "late"]))
    def the_queue_moves(self, event):
        turn, now = self.turn, self.world.now
        if event == "look":
            self.the_gate_is_looked_at(turn.gate)
        elif event == "called" and usable(turn.place, turn.gate, turn.foreign, now, turn)[1] <= now:
            # There was room for it; by now there may be none, for others met the limit.
            turn.gate.queue.leave(turn)
            if self.world.now % 2:
                self.meets_the_limit(turn.place, 2.0)
            self.answers(turn, lambda machine: machine.room(now, turn))
        elif event in {"full", "shed"}:
            turn.gate.queue.leave(turn)
            self.is_sent_away(turn, Reason.QUEUE_FULL if event == "full" else Reason.SHED)
        elif event == "late":
            # It is called, or sent away, when it has already left.
            self.time_passes(10.0)
            if self.turn is not turn or self.exchange.done:
                assert self.exchange.room(self.world.now, turn) == ()
                assert self.exchange.sent_away(self.world.now, turn, Reason.SHED) == ()

    def meets_the_limit(self, place, seconds):
        """By others, who were told for how long there will be no room."""
        for key in [*place.provider.credentials.values(), place.provider.foreign("hash"), place.provider.foreign("")]:
            key.park(self.world.now, place.model, seconds)

    def the_gate_is_looked_at(self, gate):
        """As `egress.queues` does it."""
        for gone in gate.queue.shed(self.world.now):
            self.is_sent_away(gone, Reason.SHED)
        for _ in range(50):
            turn = called(gate, self.world.now)
            if turn is None:
                return
            self.answers(turn, lambda machine, turn=turn: machine.room(self.world.now, turn))
        raise AssertionError("whoever is called goes, and does not come back at once")

    @rule(seconds=SECONDS)
    def time_passes(self, seconds):
        self.world.now += seconds
        rung = 0
        while self.world.now >= self.exchange.wake_at:
            self.ring()
            rung += 1
            assert rung < 20, "what was due is done"

    @precondition(lambda self: self.exchange.wake_at < NEVER)
    @rule()
    def the_timer_rings(self):
        self.world.now = max(self.world.now, self.exchange.wake_at)
        self.ring()

    def ring(self):
        before = tuple(self.live)
        if self.committed is None and self.world.now >= self.ask.deadline_at:
            self.gives_up()
        self.exchange.resumable = self.resumable and self.committed is not None and self.opened.streaming
        actions = self.exchange.timer(self.world.now)
        for attempt in before:
            if attempt.verdict not in {"", "cancelled"}:
                self.ends(attempt, Verdict(Fault(attempt.verdict), ambiguous=True))
        self.perform(actions)

    @precondition(lambda self: not self.exchange.done)
    @rule(what=st.sampled_from(["nothing"] * 6 + ["leaves", "drains", "body"]))
    def the_client_or_the_gateway_gives_up(self, what):
        if what == "leaves":
            self.gives_up()
            self.perform(self.exchange.client_gone(self.world.now))
            assert isinstance(self.ended, Finish)
        elif what == "drains":
            self.perform(self.exchange.drain(self.world.now))
            assert isinstance(self.ended, (Refuse, Break))
        elif what == "body" and self.live and self.ask.hedges is None:
            self.exchange.intact = False

    @rule(which=st.integers(0, 199))
    def something_happens_elsewhere(self, which):
        world, now = self.world, self.world.now
        names = sorted(world.registry.providers)
        name, what = names[which % len(names)], which // 5 % 13
        state = world.registry.providers[name]
        keys = [*state.credentials.values(), state.foreign("hash")]
        target = world.places()[which % len(world.targets)].state
        self.elsewhere = True
        if what == 0:
            keys[0].park(now, "gpt-4o", [None, 0.5, 5.0, 50.0][which % 4])
        elif what == 1:
            keys[-1].bench(now)
        elif what == 2 and state.budget.balance(now) >= 9.0:
            Budget.withdraw(state.budget, now, 9.0)
        elif what == 3 and which % 7 == 0:
            world.registry.adopt([provider(n, keys=[("key-1",), ("key-2", "key-3")][which % 2]) for n in names], now)
        elif what in {4, 5}:
            shut(target.breaker if what == 4 else state.breaker, now, good=which % 2 * 20)
        elif what == 6:
            world.serves(world.targets[which % len(world.targets)])
        elif what == 7:
            self.many_are_rejected()
        elif what == 8:
            self.somebody_else_gives_up(target)
        elif what == 10:
            for quota in state.gate("gpt-4o").quotas.values():
                for bucket in quota.buckets:
                    bucket.correct(now, -[0.5, 3.0, 50.0][which % 3] * bucket.per_s)
        elif what == 11:
            state.gate("gpt-4o").promises.give(
                now, ["one", "two"][which % 2], wait_s=0.0, tokens=1.0, tokens_per_s=None, requests_per_s=9.0
            )
        elif self.bystanders and which % 2:
            self.bystanders.pop().drain()
        elif self.bystanders and what == 12 and self.bystanders[-1].under_way:
            self.bystanders[-1].fails("rate_limited" if which % 3 else "overloaded")
        else:
            bystander = world.exchange()
            self.starts(bystander)
            self.bystanders.append(bystander)
        self.elsewhere = False

    def starts(self, bystander):
        bystander.start()
        gone = bystander.evicted
        if gone is not None:
            self.elsewhere = False
            self.world.queued[gone.turn] = gone
            self.is_sent_away(gone.turn, Reason.QUEUE_FULL)

    def somebody_else_gives_up(self, target):
        now, lived_at = self.world.now, target.breaker.lived_at
        target.silence.gave_up(now, "a regular", sent_at=now - 70.0, lived_at=lived_at, stream=True)
        if lived_at < now - 70.0:
            self.given_up[target.breaker] = ("a regular", now)

    # -- the laws ---------------------------------------------------------------------------------------------------------------

    @invariant()
    def limits_hold(self):
        record = self.story.record
        assert len(record.attempts) <= self.policy.attempts
        assert [attempt.number for attempt in record.attempts] == list(range(1, len(record.attempts) + 1))
        assert self.failures - self.convictions == self.expected, "one failure against each that failed, and none against others"
        assert sum(self.convictions.values()) <= 1
        for breaker in self.convictions:
            assert record.ending is Ending.OK
            assert any(past.place.state.breaker is breaker for past, verdict in self.said if verdict.fault is Fault.CALLER)
        for state in self.world.registry.providers.values():
            assert 0.0 <= state.budget.balance(self.world.now) <= 10.0
        for attempt in record.attempts:
            ended = [permit._ended for permit in attempt._permits]
            assert ended == [attempt not in self.live] * 2, "a permit ends with its attempt"
        self.probes_return()
        self.reservations_return()
        assert len(self.exchange.ended_attempts) == len(record.attempts) - len(self.live)
        assert len(set(self.exchange.ended_attempts)) == len(self.exchange.ended_attempts)
        hedges = self.policy.hedge.max if self.ask.hedges is not None else 0
        assert len(self.live) <= 1 + hedges
        assert self.committed not in self.live or self.live == [self.committed]
        assert self.world.hedges.balance == pytest.approx(self.allowance)

    def probes_return(self):
        """Nobody holds a probe's place but an attempt under way."""
        attempts = [*self.live, *[bystander.attempt for bystander in self.bystanders if bystander.record.attempts]]
        under_way = [attempt for attempt in attempts if not attempt.ended_at]
        for state in self.world.registry.providers.values():
            assert state.breaker._probe is None or not state.breaker._probe._ended
            for key in [*state.credentials.values(), *state._foreign.values()]:
                for hold in [*key._benched.values(), *key._parked.values()]:
                    assert not hold.probe_until or hold.probe_until in {attempt.proving for attempt in under_way}
        for target in self.world.registry.targets():
            assert target.breaker._probe is None or not target.breaker._probe._ended

    def reservations_return(self):
        """What is reserved belongs to an attempt under way, and whoever stands in a queue is still there."""
        stories = [self.story, *self.bystanders]
        under_way = [attempt for story in stories for attempt in story.record.attempts if not attempt.ended_at]
        waiting = [story.machine._standing.turn for story in stories if story.machine.queued]
        for state in self.world.registry.providers.values():
            for _, gate in state.gates():
                assert gate.pending == sum(attempt.gate is gate for attempt in under_way)
                assert sum(quota.inflight for quota in gate.quotas.values()) == gate.pending
                queued = {waiter for lane in gate.queue._lanes for waiter in [*lane.waiting, *lane.promised]}
                assert queued <= {turn for turn in waiting if turn.gate is gate}
        for target in self.world.registry.targets():
            assert target.pending == sum(attempt.place.state is target for attempt in under_way)
        assert all(
            attempt.reservation.ended is (attempt not in under_way) for story in stories for attempt in story.record.attempts
        )
        assert self.own_limits.inflight == (not self.exchange.done)
        assert self.exchange.queued is (self.exchange._standing is not None)
        assert not self.exchange.queued or not self.live

    @invariant()
    def the_future_is_known(self):
        assert self.exchange.done is (self.ended is not None)
        wake_at = self.exchange.wake_at
        if self.exchange.done:
            assert wake_at == NEVER
        elif self.committed is None or any(attempt.sent_at for attempt in self.live):
            assert wake_at < NEVER
        if not self.exchange.done:
            assert wake_at <= max(self.world.now, min(self.due(), default=NEVER)), "whoever sleeps until then misses nothing"

    def due(self):
        """Moments at which something must happen."""
        timeouts, plan = self.policy.timeouts, self.policy.stream
        if self.exchange.queued:
            yield self.turn.until
        if self.committed is None:
            yield self.ask.deadline_at
            if self.ask.stream:
                first = self.story.record.received_at + plan.early_keepalive_s
                yield self.comforted_at + plan.keepalive_s if self.early else first
        elif self.opened.streaming and self.live and self.ask.stream:
            silent_since = [self.live[0].heard_at, self.live[0].started_at]
            silent_since += [self.comforted_at] if self.comforted_at != NEVER else []
            yield max(silent_since) + plan.keepalive_s
        for attempt in self.live:
            if attempt.uploading and attempt.sent_at:
                yield max(attempt.heard_at, attempt.sent_at) + timeouts.stall_s
            elif attempt.sent_at:
                if not attempt.content_at:
                    yield attempt.sent_at + attempt.limit_s
                elif attempt.streaming:
                    yield attempt.sent_at + timeouts.max_stream_s
                    if self.committed is None:
                        yield attempt.content_at + plan.hold_s
                if attempt.heard_at:
                    yield attempt.heard_at + timeouts.stall_s

    @invariant()
    def the_record_tells_the_truth(self):
        record = self.story.record
        if self.ended is None:
            return
        assert self.exchange.client_gone(self.world.now) == self.exchange.drain(self.world.now) == ()
        assert self.exchange.timer(self.world.now) == ()
        assert record.ended_at > 0.0
        assert all(attempt.verdict and attempt.ended_at for attempt in record.attempts)
        assert (record.reason is Reason.NONE) is (record.ending is Ending.OK)
        good = record.winner is not None and record.winner.verdict == "ok"
        assert good is (record.ending is Ending.OK)
        expected = {Ending.OK: Finish, Ending.CLIENT_GONE: Finish, Ending.CALLER_ERROR: (Relay, Refuse), Ending.REFUSED: Refuse}
        expected = expected.get(record.ending, (Relay, Refuse))
        told_in_the_stream = record.ending not in {Ending.OK, Ending.CLIENT_GONE} and (self.early or self.committed is not None)
        assert isinstance(self.ended, Break if told_in_the_stream else expected)
        streams = self.early or (self.committed is not None and self.opened.streaming)
        assert record.stream_broken is (told_in_the_stream and streams)
        saved = record.ending is Ending.OK and record.winner.number > 1
        assert record.saved_by is (record.winner.kind if saved else None)
        if record.ending is Ending.CALLER_ERROR:
            assert any(
                not FAULTS[Fault(attempt.verdict)].elsewhere for attempt in record.attempts if attempt.verdict != "cancelled"
            )
        if isinstance(self.ended, Relay):
            assert record.winner is self.ended.attempt
        elif isinstance(self.ended, Refuse):
            assert record.winner is None
        if isinstance(self.ended, (Relay, Refuse)):
            self.the_advice_is_good(self.ended.advice, record)

    def the_advice_is_good(self, advice, record):
        if record.reason in ROOM:
            assert len(self.promises) == 1, "one promise for one refusal"
            # Where nothing can be promised nothing is said, and the client's SDK does as without us.
            retry = True if self.promises[0] is not None else None
        else:
            assert not self.promises, "nobody is promised what is not told"
            retry = ADVICE[record.reason]
        if retry is False and self.ask.already_retried and self.said:
            retry = None  # its own retries are not ours to forbid
        assert advice.retry is retry
        assert advice.delay_s is None or 0.0 <= advice.delay_s <= 60.0
        if retry is True:
            assert advice.delay_s >= 1.0
        if record.reason is Reason.CALLER:
            assert advice.delay_s is None
        delays = [verdict.delay for _, verdict in self.said]
        if delays and all(delay is not None for delay in delays) and record.reason is Reason.ATTEMPTS_EXHAUSTED:
            assert advice.delay_s in {min(60.0, delay) for delay in delays}, "the upstream's, where it is known"
        if record.reason is Reason.ATTEMPTS_EXHAUSTED and len(record.attempts) == self.policy.attempts > 1:
            self.no_sdk_would_have_gone_on(record.attempts)

    def no_sdk_would_have_gone_on(self, attempts):
        lone = len(self.ask.candidates) == 1 and len({attempt.credential for attempt in attempts}) == 1
        mendable = all(FAULTS[verdict.fault].again is Again.LAST_RESORT for _, verdict in self.said)
        if lone and mendable and attempts[0].ended_at + 1.5 < self.ask.deadline_at:
            assert attempts[-1].started_at >= attempts[0].ended_at + 1.125 - 1e-6

    def teardown(self):
        try:
            steps = 0
            while self.sound and not self.exchange.done:
                for attempt in filter(unsent, self.live):
                    self.exchange.sending(self.world.now, attempt)
                self.the_timer_rings()
                self.limits_hold()
                steps += 1
                assert steps < 800, "left alone, every exchange ends"
            self.the_record_tells_the_truth()
        finally:
            for patched in self.patches:
                patched.stop()


AnyExchange.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAnyExchange = pytest.mark.interpreted(AnyExchange.TestCase)
