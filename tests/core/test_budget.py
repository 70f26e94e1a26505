"""The retry budget against a bucket that settles its trickle at every single step."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gateway.core.budget import CAP, Budget
from gateway.core.plan import BudgetPlan

PLAN = BudgetPlan(ratio=0.2, floor=3.0)


def empty(plan=PLAN, now=100.0):
    budget = Budget(plan, now)
    assert budget.withdraw(now, CAP)
    return budget


def test_a_new_budget_is_full_so_that_the_first_client_gets_its_retries():
    assert Budget(PLAN, 100.0).balance(100.0) == CAP


def test_five_first_attempts_pay_for_one_retry():
    budget = empty()
    for _ in range(4):
        budget.deposit()
    assert not budget.withdraw(100.0, 1.0)
    budget.deposit()
    assert budget.withdraw(100.0, 1.0)
    assert budget.balance(100.0) == pytest.approx(0.0)


@pytest.mark.parametrize(("seconds", "tokens"), [(0.0, 0.0), (1.0, 0.3), (10.0, 3.0), (30.0, 9.0), (3600.0, CAP)])
def test_a_lone_client_gets_three_retries_per_ten_seconds_up_to_the_cap(seconds, tokens):
    assert empty().balance(100.0 + seconds) == pytest.approx(tokens)


def test_a_refused_withdrawal_takes_nothing():
    budget = empty()
    assert not budget.withdraw(105.0, 2.0)
    assert budget.balance(105.0) == pytest.approx(1.5)


def test_hours_of_good_weather_do_not_pay_for_a_storm():
    budget = Budget(PLAN, 100.0)
    for _ in range(10_000):
        budget.deposit()
    assert [budget.withdraw(100.0, 1.0) for _ in range(11)] == [True] * 10 + [False]


def test_a_clock_that_steps_back_takes_nothing_away():
    assert empty().balance(90.0) == 0.0


def test_a_reload_does_not_pay_the_new_trickle_for_the_time_before_it():
    budget = empty(BudgetPlan(ratio=0.2, floor=1.0))
    budget.replan(110.0, BudgetPlan(ratio=0.2, floor=100.0))
    assert budget.balance(110.0) == pytest.approx(1.0)
    budget.replan(110.0, BudgetPlan(ratio=0.2, floor=0.0))
    assert budget.balance(9999.0) == pytest.approx(1.0)


class BudgetAgainstModel(RuleBasedStateMachine):
    """The model clips at the cap after every step; the budget only when it is asked."""

    @initialize(ratio=st.sampled_from([0.0, 0.2, 1.0]), floor=st.sampled_from([0.0, 3.0, 50.0]))
    def begin(self, ratio, floor):
        self.now, self.tokens, self.plan = 100.0, CAP, BudgetPlan(ratio, floor)
        self.budget = Budget(self.plan, self.now)

    @rule(seconds=st.floats(0.0, 60.0))
    def time_passes(self, seconds):
        self.now += seconds
        self.tokens = min(CAP, self.tokens + seconds * self.plan.floor / 10)

    @rule()
    def a_first_attempt(self):
        self.budget.deposit()
        self.tokens = min(CAP, self.tokens + self.plan.ratio)

    @rule(cost=st.sampled_from([1.0, 2.0]))
    def a_retry(self, cost):
        if abs(self.tokens - cost) < 1e-6:
            return  # too close to call in floats
        paid = self.budget.withdraw(self.now, cost)
        assert paid is (self.tokens >= cost)
        self.tokens -= cost * paid

    @rule(floor=st.sampled_from([0.0, 3.0, 50.0]))
    def a_reload(self, floor):
        self.plan = BudgetPlan(self.plan.ratio, floor)
        self.budget.replan(self.now, self.plan)

    @invariant()
    def the_balance_is_the_models_and_never_negative(self):
        assert 0.0 <= self.budget.balance(self.now) <= CAP
        assert self.budget.balance(self.now) == pytest.approx(self.tokens, abs=1e-6)


BudgetAgainstModel.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestBudgetAgainstModel = BudgetAgainstModel.TestCase
