"""Any order of events, on any policy and any state of the world: the laws that hold after each step of an exchange.

The machine plays driver, provider, client and all other exchanges of the process. What is checked here is independent of how
`core.exchange` comes to its decisions; where they should lead is told in the stories of its own test files.
"""

from collections import Counter
from random import Random
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.core.actions import Break, Cancel, Commit, Finish, Open, Refuse, Relay, Send
from gateway.core.attempt import NEVER
from gateway.core.breaker import Breaker
from gateway.core.budget import Budget
from gateway.core.plan import INFERENCE, BreakerPlan, Family
from gateway.core.record import Ending, Kind
from gateway.core.verdicts import FAULTS, Fault, Verdict
from gateway.errors import Reason
from tests.core.build import World, policy, provider, shut

TARGETS = ("a", "b", "a/other", "c", "b/big?context_length,content_policy")
TERMINAL = (Relay, Refuse, Break, Finish)
SECONDS = st.sampled_from([0.0, 0.01, 0.3, 1.0, 2.5, 9.0, 40.0, 130.0])

PASSING = [Fault.SERVER_ERROR, Fault.OVERLOADED, Fault.CONNECT, Fault.STREAM_BROKEN, Fault.RATE_LIMITED]
VERDICTS = st.builds(
    Verdict,
    st.sampled_from(PASSING * 3 + list(Fault)),
    delay=st.sampled_from([None, None, 0.0, 0.7, 3.0, 20.0, 90.0]),
    retry_same=st.sampled_from([True, True, True, False]),
    ambiguous=st.booleans(),
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
)


REQUESTS = {
    "policy": POLICIES,
    "foreign": st.sampled_from([False, False, True]),
    "family": st.sampled_from([Family.CHAT, Family.CHAT, Family.CHAT, Family.FILES]),
    "stream": st.booleans(),
    "safe": st.booleans(),
    "patience": st.sampled_from([600.0, 600.0, 60.0, 4.0, 0.0]),
    "already_retried": st.sampled_from([False, False, True]),
}


class Ledger(Budget):
    """A budget that keeps its receipts."""

    def __init__(self, plan, now):
        super().__init__(plan, now)
        self.receipts = 0

    def withdraw(self, now, cost):
        paid = super().withdraw(now, cost)
        self.receipts += paid
        return paid


class AnyExchange(RuleBasedStateMachine):
    @initialize(
        names=st.lists(st.sampled_from(TARGETS), min_size=1, max_size=4, unique=True),
        keys=st.sampled_from([(), ("key-1",), ("key-1", "key-2")]),
        seed=st.integers(0, 99),
        trouble=st.lists(st.integers(0, 99), max_size=3),
        **REQUESTS,
    )
    def begin(self, names, keys, trouble, seed, **request):
        self.world = World(*names, keys=keys, breaker=BreakerPlan(consecutive=2, min_requests=4))
        self.world.chance = Random(seed)
        for state in self.world.registry.providers.values():
            state.budget = Ledger(state.plan.budget, self.world.now)
        self.failures, self.elsewhere, self.sound = Counter(), False, False
        self.patched = patch.object(Breaker, "failed", self.counted(Breaker.failed))
        self.patched.start()
        for which in trouble:
            self.something_happens_elsewhere(which)
        self.new_exchange(**request)

    @precondition(lambda self: self.exchange.done)
    @rule(**REQUESTS)
    def another_request(self, **request):
        self.new_exchange(**request)

    def new_exchange(self, policy, foreign, **request):
        self.story = self.world.exchange(policy=policy, foreign_key="hash" if foreign else None, **request)
        self.policy, self.exchange = policy, self.story.machine
        self.ask = self.exchange._ask
        self.live = self.committed = self.ended = self.last = None
        self.failures.clear()
        self.repeats = Counter()
        for state in self.world.registry.providers.values():
            state.budget.receipts = 0
        self.perform(self.exchange.start(self.world.now))

    def counted(self, failed):
        def count(breaker, now, permit):
            self.failures[breaker] += not self.elsewhere
            failed(breaker, now, permit)

        return count

    # -- the driver -------------------------------------------------------------------------------------------------------------

    def perform(self, actions):
        now, self.sound = self.world.now, False
        for action in actions:
            assert self.ended is None, "nothing comes after the end"
            if isinstance(action, Send):
                self.check_send(action.attempt, now)
                self.live = action.attempt
            elif isinstance(action, Cancel):
                assert action.attempt is self.live
                self.live = None
            elif isinstance(action, Open):
                assert self.committed is None
                assert action.attempt is self.live
            elif isinstance(action, Commit):
                assert self.committed is None
                self.committed = action.attempt
            else:
                assert isinstance(action, TERMINAL)
                self.ended, self.live = action, None
        if isinstance(self.ended, (Relay, Refuse)):
            assert self.committed is None
        if isinstance(self.ended, Break):
            assert self.committed is not None
        if isinstance(self.ended, Relay):
            assert self.ended.attempt.answered
            assert Fault(self.ended.attempt.verdict) not in {Fault.CREDENTIAL, Fault.BILLING, Fault.EDGE_BLOCKED}
        assert self.exchange.done is (self.ended is not None)
        self.sound = True

    def check_send(self, attempt, now):
        place, provider_state = attempt.place, attempt.place.provider
        assert self.committed is None
        assert self.live is None
        assert now < self.ask.deadline_at
        assert place in self.ask.candidates
        key = self.exchange._placement.credential_state(place, attempt.credential)
        assert key is None or key.usable_at(attempt.model) <= now, "a stated delay is kept"
        assert (attempt.kind is Kind.FIRST) is (self.last is None)
        if self.last is not None:
            before, verdict = self.last
            assert self.exchange.intact
            if self.ask.family not in INFERENCE and not self.ask.safe and before.sent_at:
                assert verdict.fault in {Fault.OVERLOADED, Fault.RATE_LIMITED}
            asked = [(past.place, past.credential) for past in self.story.record.attempts[:-1]]
            if (place, attempt.credential) in asked:
                assert not self.ask.already_retried
                # What limits a client's own key is waited for at nobody else's expense.
                said = [past.verdict for past in self.story.record.attempts[:-1] if past.place is place][-1]
                self.repeats[provider_state] += self.ask.foreign_key is None or said != Fault.RATE_LIMITED
                assert provider_state.budget.receipts >= self.repeats[provider_state], "repetition is not free"
            assert (attempt.kind is Kind.RETRY) is any(place is past for past, _ in asked)
        if place.target.only_for:
            assert self.last is not None
            assert any(Fault(past.verdict) in place.target.only_for for past in self.story.record.attempts[:-1])

    def over(self, verdict=None):
        """The attempt under way ends, as its driver hears."""
        attempt, self.live = self.live, None
        self.last = (attempt, verdict)
        return attempt

    # -- events -----------------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.live is not None and not self.live.sent_at)
    @rule(uploading=st.sampled_from([False, False, True]))
    def connected(self, uploading):
        self.live.uploading = uploading
        self.exchange.sending(self.world.now, self.live)

    @precondition(lambda self: self.live is not None and self.live.uploading and self.live.sent_at)
    @rule()
    def the_body_is_whole(self):
        self.live.uploading = False
        self.exchange.sending(self.world.now, self.live)

    @precondition(lambda self: self.live is not None and self.live.sent_at and not self.live.head_at)
    @rule(streaming=st.booleans())
    def a_head_comes(self, streaming):
        self.exchange.head(self.world.now, self.live, 200, streaming=streaming)

    @precondition(lambda self: self.live is not None and self.live.head_at and not self.live.content_at)
    @rule()
    def content_comes(self):
        self.perform(self.exchange.content(self.world.now, self.live))
        assert self.committed is self.live

    @precondition(lambda self: self.live is not None and self.live.head_at)
    @rule()
    def a_chunk_comes(self):
        self.live.heard_at = self.world.now

    @precondition(lambda self: self.live is not None and self.live.head_at)
    @rule()
    def the_answer_is_whole(self):
        attempt = self.live
        self.perform(self.exchange.finished(self.world.now, attempt))
        assert isinstance(self.ended, Finish)
        assert self.committed is attempt

    @precondition(lambda self: self.live is not None and self.committed is None)
    @rule(verdict=VERDICTS, answered=st.booleans(), sent=st.booleans())
    def the_attempt_fails(self, verdict, answered, sent):
        if sent and not self.live.sent_at:
            self.exchange.sending(self.world.now, self.live)
        self.live.answered = answered
        attempt = self.over(verdict)
        self.perform(self.exchange.failed(self.world.now, attempt, verdict))

    @precondition(lambda self: self.live is not None and self.committed is None)
    @rule(verdict=VERDICTS)
    def the_attempt_fails_and_says_so(self, verdict):
        self.the_attempt_fails(verdict, answered=True, sent=True)

    @precondition(lambda self: self.live is not None and self.committed is None)
    @rule()
    def the_attempt_goes_well(self):
        if not self.live.sent_at:
            self.exchange.sending(self.world.now, self.live)
        if not self.live.head_at:
            self.exchange.head(self.world.now, self.live, 200, streaming=self.ask.stream)
        self.the_answer_is_whole()

    @precondition(lambda self: self.live is not None and not self.live.sent_at)
    @rule(streaming=st.booleans())
    def an_answer_begins(self, streaming):
        self.connected(uploading=False)
        self.a_head_comes(streaming)
        self.content_comes()

    @precondition(lambda self: self.live is not None and self.committed is not None)
    @rule(verdict=VERDICTS)
    def the_answer_breaks(self, verdict):
        attempt = self.over(verdict)
        self.perform(self.exchange.broke(self.world.now, attempt, verdict))
        assert isinstance(self.ended, Break)

    @rule(seconds=SECONDS)
    def time_passes(self, seconds):
        self.world.now += seconds
        if self.world.now >= self.exchange.wake_at:
            self.ring()

    @precondition(lambda self: not self.exchange.done)
    @rule()
    def the_timer_rings(self):
        self.world.now = max(self.world.now, self.exchange.wake_at)
        self.ring()

    def ring(self):
        attempt = self.live
        actions = self.exchange.timer(self.world.now)
        if attempt is not None and attempt.verdict not in {"", "cancelled"}:
            self.last = (attempt, Verdict(Fault(attempt.verdict)))
        self.perform(actions)

    @precondition(lambda self: not self.exchange.done)
    @rule(what=st.sampled_from(["nothing"] * 6 + ["leaves", "drains", "body"]))
    def the_client_or_the_gateway_gives_up(self, what):
        if what == "leaves":
            self.perform(self.exchange.client_gone(self.world.now))
            assert isinstance(self.ended, Finish)
        elif what == "drains":
            self.perform(self.exchange.drain(self.world.now))
            assert isinstance(self.ended, (Refuse, Break))
        elif what == "body" and self.live is not None:
            self.exchange.intact = False

    @rule(which=st.integers(0, 99))
    def something_happens_elsewhere(self, which):
        world, now = self.world, self.world.now
        names = sorted(world.registry.providers)
        name, what = names[which % len(names)], which // 5 % 6
        state = world.registry.providers[name]
        keys = [*state.credentials.values(), state.foreign("hash")]
        breaker = world.places()[which % len(world.targets)].state.breaker
        if what == 0:
            keys[0].park(now, "gpt-4o", [None, 0.5, 5.0, 50.0][which % 4])
        elif what == 1:
            keys[-1].bench(now)
        elif what == 2 and state.budget.balance(now) >= 9.0:
            Budget.withdraw(state.budget, now, 9.0)
        elif what == 3 and which % 7 == 0:
            world.registry.adopt([provider(n, keys=[("key-1",), ("key-2", "key-3")][which % 2]) for n in names], now)
        elif what in {4, 5}:
            self.elsewhere = True
            shut(breaker if what == 4 else state.breaker, now, good=which % 2 * 20)
            self.elsewhere = False

    # -- the laws ---------------------------------------------------------------------------------------------------------------

    @invariant()
    def limits_hold(self):
        record = self.story.record
        assert len(record.attempts) <= self.policy.attempts
        assert [attempt.number for attempt in record.attempts] == list(range(1, len(record.attempts) + 1))
        assert all(count <= 1 for count in self.failures.values()), "one exchange counts one failure against a target"
        for state in self.world.registry.providers.values():
            assert 0.0 <= state.budget.balance(self.world.now) <= 10.0
        for attempt in record.attempts:
            ended = [permit._ended for permit in attempt._permits]
            assert ended == [attempt is not self.live] * 2, "a permit ends with its attempt"
        assert len(self.exchange.ended_attempts) == len(record.attempts) - (self.live is not None)

    @invariant()
    def the_future_is_known(self):
        assert self.exchange.done is (self.ended is not None)
        if self.exchange.done:
            assert self.exchange.wake_at == NEVER
        else:
            assert self.exchange.wake_at < NEVER
            assert self.committed is not None or self.exchange.wake_at <= max(self.ask.deadline_at, self.world.now)

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
        assert isinstance(self.ended, expected.get(record.ending, (Relay, Refuse, Break)))
        saved = record.ending is Ending.OK and len(record.attempts) > 1
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
            delay_s = self.ended.advice.delay_s
            assert delay_s is None or 0.0 <= delay_s <= 60.0

    def teardown(self):
        try:
            steps = 0
            while self.sound and not self.exchange.done:
                self.the_timer_rings()
                self.limits_hold()
                steps += 1
                assert steps < 100, "left alone, every exchange ends"
            self.the_record_tells_the_truth()
        finally:
            self.patched.stop()


AnyExchange.TestCase.settings = settings(max_examples=70, stateful_step_count=40, deadline=None)
TestAnyExchange = AnyExchange.TestCase
