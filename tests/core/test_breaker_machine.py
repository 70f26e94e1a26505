"""The breaker against a naive model, which keeps every result with its time and decides from the list."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.core.breaker import Breaker
from gateway.core.plan import BreakerPlan
from tests.core.build import Chance

OPEN_S, MAX_OPEN_S, WINDOW_S = 5.0, 20.0, 30.0


class Sent:
    """An attempt as the model sees it."""

    def __init__(self, permit, era, recovery, *, probe):
        self.permit, self.era, self.recovery, self.probe = permit, era, recovery, probe
        self.lived = False


class BreakerAgainstModel(RuleBasedStateMachine):
    """An era lasts from one transition to the next; only what began in the present one may end it."""

    @initialize(consecutive=st.sampled_from([1, 2, 5]), fewest=st.sampled_from([4, 8, 1000]), ramp=st.sampled_from([0.0, 30.0]))
    def begin(self, consecutive, fewest, ramp):
        self.consecutive, self.fewest, self.ramp = consecutive, fewest, ramp
        plan = BreakerPlan(consecutive, 0.5, fewest, WINDOW_S, OPEN_S, MAX_OPEN_S, ramp)
        self.now, self.sent, self.told = 1000.0, [], []
        self.breaker = Breaker(plan, Chance(1.0).uniform, lambda state: self.told.append(state.value))
        self.state, self.eras, self.until, self.closed_at = "closed", ["closed"], 0.0, float("-inf")
        self.results, self.row = [], []
        self.openings = self.recovery = self.good = 0
        self.probe, self.began, self.used_at, self.lived_at = None, 0.0, 0.0, float("-inf")

    # -- the model --------------------------------------------------------------------------------------------------------------

    def move(self, state):
        self.state = state
        self.eras.append(state)

    def open(self):
        if self.state == "closed" and self.now - self.closed_at >= 5 * MAX_OPEN_S:
            self.openings = 0
        self.until = self.now + min(MAX_OPEN_S, OPEN_S * 2**self.openings)
        self.openings += 1
        if self.state != "half_open":
            self.results = []
        self.row, self.probe = [], None
        self.move("open")

    def grown(self):
        """The share that the ramp has come to."""
        if not self.ramp:
            return 1.0
        by_time = max(0.1, (self.now - self.began) / self.ramp)
        return min(1.0, by_time, 0.1 + 0.1 * self.good)

    def share(self):
        if self.state == "open" and self.now >= self.until:
            self.move("half_open")
        if self.state == "ramp" and self.grown() >= 1.0:
            self.closed_at = self.now
            self.move("closed")
        if self.state == "half_open":
            return 0.0 if self.probe is not None and self.now < self.probe_until else 1.0
        if self.state == "ramp":
            return 1.0 if self.now - self.used_at >= 2.0 else self.grown()
        return {"closed": 1.0, "open": 0.0}[self.state]

    def window(self):
        """Results of the last ten tenths of the window."""
        first = self.now // (WINDOW_S / 10) - 9
        return [good for at, good in self.results if at // (WINDOW_S / 10) >= first]

    def shows_life(self, sent):
        self.lived_at = self.now
        if sent.lived or sent.era != len(self.eras):
            return
        sent.lived = self.state != "closed"
        if self.state == "ramp":
            self.good += 1
            self.row = []
        elif self.state == "half_open" and sent.probe:
            self.began, self.good, self.results, self.row, self.probe = self.now, 0, [], [], None
            self.move("ramp")
            self.recovery += 1
            sent.era, sent.recovery = len(self.eras), self.recovery

    def counts(self, sent, *, good):
        if sent.recovery != self.recovery:
            return
        self.results.append((self.now, good))
        if sent.era != len(self.eras):
            return
        self.row = [] if good else [*self.row, self.now]
        if good:
            return
        window = self.window()
        outage = len(self.row) >= self.consecutive and self.now - self.row[0] >= 1.0
        outage |= len(window) >= self.fewest and window.count(False) * 2 >= len(window)
        if (
            (self.state == "closed" and outage)
            or (self.state == "ramp" and (outage or len(self.row) >= 2))
            or (self.state == "half_open" and sent.probe)
        ):
            self.open()

    # -- what happens -----------------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.25, 0.5, 1.0, 2.0, 4.0, 12.0, 31.0, 99.0]))
    def time_passes(self, seconds):
        self.now += seconds

    @rule()
    def admit(self):
        permit = self.breaker.admit(self.now)
        probe = self.state != "closed" and self.share() > 0.0 and self.state == "half_open"
        self.used_at = self.now
        assert permit.probe is probe
        sent = Sent(permit, len(self.eras), self.recovery, probe=probe)
        self.sent.append(sent)
        if probe:
            self.probe, self.probe_until = sent, self.now + 10.0

    @precondition(lambda self: self.sent)
    @rule(which=st.integers(0, 9), how=st.sampled_from(["success", "ignore", "dropped", "dropped", "alive"]))
    def hear_of_an_attempt(self, which, how):
        sent = self.sent[which % len(self.sent)]
        getattr(sent.permit, how)(*([] if how == "ignore" else [self.now]))
        if how != "alive":
            self.sent.remove(sent)
        if how == "ignore" and sent is self.probe:
            self.probe = None
        elif how in {"alive", "success"}:
            self.shows_life(sent)
        if how in {"success", "dropped"}:
            self.counts(sent, good=how == "success")

    @rule(how=st.sampled_from(["success", "dropped"]), seconds=st.sampled_from([0.0, 0.5, 1.5, 11.0]))
    def an_attempt_is_made(self, how, seconds):
        self.admit()
        self.now += seconds
        self.hear_of_an_attempt(len(self.sent) - 1, how)

    @precondition(lambda self: self.sent)
    @rule(which=st.integers(0, 9))
    def an_attempt_is_convicted_after_its_end(self, which):
        sent = self.sent[which % len(self.sent)]
        self.hear_of_an_attempt(which, "ignore")
        sent.permit.convict(self.now)
        self.counts(sent, good=False)

    @rule(rarely=st.integers(0, 4))
    def evidence_from_elsewhere(self, rarely):
        if not rarely:
            self.breaker.trip(self.now)
            if self.state != "open":
                self.open()

    # -- what must hold ---------------------------------------------------------------------------------------------------------

    @invariant()
    def all_is_as_in_the_model(self):
        shown = self.breaker.shown_share(self.now)
        assert shown == pytest.approx({"closed": 1.0, "ramp": self.grown()}.get(self.state, 0.0))
        assert self.breaker.share(self.now) == pytest.approx(self.share())
        assert self.breaker.state == self.state
        assert self.told == self.eras[1:]
        assert self.breaker.reopens_in(self.now) == pytest.approx(self.until - self.now if self.state == "open" else 0.0)
        window = self.window()
        assert self.breaker.failing(self.now) == pytest.approx(window.count(False) / len(window) if len(window) >= 5 else 0.0)
        alone = self.state == "closed" and len(self.row) <= 1 and self.now - self.lived_at <= WINDOW_S
        assert self.breaker.isolated(self.now) is alone


BreakerAgainstModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBreakerAgainstModel = BreakerAgainstModel.TestCase
