"""Live state by key: what survives a reload, what is forgotten, how long keys are kept away (laws 11 and 13)."""

import pytest

from gateway.core import registry as module
from gateway.core.breaker import State
from gateway.core.plan import BreakerPlan, BudgetPlan, Family
from gateway.core.registry import CredentialState, Registry
from tests.core.build import NOW, Chance, provider, shut


@pytest.fixture
def moves():
    return []


@pytest.fixture
def registry(moves):
    return Registry(Chance(0.5).uniform, lambda *move: moves.append(move))


def target(registry, name="a", model="gpt-4o", label=None, family=Family.CHAT):
    return registry.target(registry.providers[name].plan, model, label or model, family)


# -- keys -------------------------------------------------------------------------------------------------------------------------


def test_a_new_key_may_be_used_at_once():
    assert CredentialState().usable_at("m") == 0.0


@pytest.mark.parametrize(("stated", "seconds"), [(0.0, 0.0), (2.5, 2.5), (60.0, 60.0), (3600.0, 60.0), (None, 1.0)])
def test_a_rate_limit_parks_for_as_long_as_stated_and_a_minute_at_most(stated, seconds):
    key = CredentialState()
    key.park(NOW, "m", stated)
    assert key.usable_at("m") == NOW + seconds


def test_a_rate_limit_concerns_one_model():
    key = CredentialState()
    key.park(NOW, "m", 10.0)
    assert key.usable_at("other") == 0.0


def test_a_rate_limit_without_a_stated_delay_keeps_away_ever_longer():
    key, at, lengths = CredentialState(), NOW, []
    for _ in range(8):
        key.park(at, "m", None)
        lengths.append(key.usable_at("m") - at)
        at = key.usable_at("m")
    assert lengths == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


def test_refusals_that_were_under_way_together_are_one_rate_limit():
    key = CredentialState()
    for step in range(20):
        key.park(NOW + step / 100, "m", None)
    assert key.usable_at("m") == pytest.approx(NOW + 0.19 + 1.0)


def test_a_later_refusal_never_shortens_a_stated_delay():
    key = CredentialState()
    key.park(NOW, "m", 30.0)
    key.park(NOW + 1.0, "m", 2.0)
    key.park(NOW + 1.0, "m", None)
    assert key.usable_at("m") == NOW + 30.0


def test_a_request_served_after_the_pause_ends_the_doubling():
    key = CredentialState()
    key.park(NOW, "m", None)
    key.park(NOW + 1.0, "m", None)
    key.served("m", began_at=NOW + 3.0)
    assert key.usable_at("m") == 0.0
    key.park(NOW + 4.0, "m", None)
    assert key.usable_at("m") == NOW + 5.0


def test_an_answer_that_was_under_way_when_the_limit_struck_does_not_lift_it():
    key = CredentialState()
    key.park(NOW, "m", 20.0)
    key.served("m", began_at=NOW - 5.0)
    assert key.usable_at("m") == NOW + 20.0


def test_a_refused_key_is_tried_again_after_a_minute_and_then_ever_less_often():
    key, at, lengths = CredentialState(), NOW, []
    for _ in range(6):
        key.bench(at)
        lengths.append(key.usable_at("m") - at)
        at = key.usable_at("m")
    assert lengths == [60.0, 120.0, 240.0, 480.0, 900.0, 900.0]


def test_requests_refused_together_bench_a_key_once():
    key = CredentialState()
    for _ in range(10):
        key.bench(NOW)
    assert (key.usable_at("any"), key.benches) == (NOW + 60.0, 1)


def test_a_stream_that_outlived_the_refusal_of_its_key_does_not_call_it_back():
    key = CredentialState()
    key.bench(NOW)
    key.served("m", began_at=NOW - 30.0)
    assert key.usable_at("m") == NOW + 60.0
    key.served("m", began_at=NOW + 61.0)
    assert (key.usable_at("m"), key.benches) == (0.0, 0)


def test_a_rotated_key_is_called_back_from_the_bench():
    key = CredentialState()
    key.bench(NOW)
    key.served("")
    assert key.usable_at("m") == 0.0


def test_serving_one_model_leaves_the_limits_of_others():
    key = CredentialState()
    key.park(NOW, "m", 20.0)
    key.served("other", began_at=NOW + 90.0)
    assert key.usable_at("m") == NOW + 20.0


def test_parked_models_are_bounded(monkeypatch):
    monkeypatch.setattr(module, "MAX_TARGETS", 3)
    key = CredentialState()
    for model in "abc":
        key.park(NOW, model, 10.0)
    key.park(NOW, "a", 20.0)
    assert [key.usable_at(model) for model in "abc"] == [NOW + 20.0, NOW + 10.0, NOW + 10.0]
    key.park(NOW, "d", 10.0)
    assert [key.usable_at(model) for model in "abcd"] == [0.0, 0.0, 0.0, NOW + 10.0]


def test_a_provider_counts_its_benched_keys(registry):
    registry.adopt([provider(keys=("one", "two"))], NOW)
    state = registry.providers["a"]
    state.credentials["one"].bench(NOW)
    assert [state.benched(NOW), state.benched(NOW + 60.0)] == [1, 0]


def test_passed_through_keys_have_state_of_their_own_bounded_by_use(registry, monkeypatch):
    monkeypatch.setattr(module, "MAX_FOREIGN", 2)
    registry.adopt([provider(keys=())], NOW)
    state = registry.providers["a"]
    state.foreign("x").park(NOW, "m", 10.0)
    state.foreign("y").park(NOW, "m", 20.0)
    assert [state.foreign(key).usable_at("m") for key in "yx"] == [NOW + 20.0, NOW + 10.0]
    state.foreign("z")
    assert [state.foreign(key).usable_at("m") for key in "xy"] == [NOW + 10.0, 0.0]


# -- reload -----------------------------------------------------------------------------------------------------------------------


def test_breakers_budgets_and_benches_survive_a_reload(registry):
    registry.adopt([provider(keys=("stays", "goes"))], NOW)
    before, state = registry.providers["a"], target(registry)
    shut(state.breaker, NOW)
    shut(before.breaker, NOW)
    before.budget.withdraw(NOW, 8.0)
    before.credentials["stays"].bench(NOW)
    before.credentials["goes"].bench(NOW)

    plan = provider(keys=("new", "stays"), breaker=BreakerPlan(open_s=1.0, max_open_s=1.0), budget=BudgetPlan(ratio=1.0))
    registry.adopt([plan, provider("b")], NOW)
    after = registry.providers["a"]
    assert (after is before, after.plan, list(registry.providers)) == (True, plan, ["a", "b"])
    assert target(registry) is state
    assert (state.breaker.state, after.breaker.state) == (State.OPEN, State.OPEN)
    assert (state.breaker.plan, after.breaker.plan, after.budget.plan) == (plan.breaker, plan.breaker, plan.budget)
    assert after.budget.balance(NOW) == pytest.approx(2.0)
    assert {key: held.benched_until for key, held in after.credentials.items()} == {"new": 0.0, "stays": NOW + 60.0}


def test_the_state_of_a_provider_that_is_gone_is_forgotten(registry):
    registry.adopt([provider("a"), provider("b")], NOW)
    kept = target(registry, "a")
    target(registry, "b")
    registry.adopt([provider("a")], NOW)
    assert (list(registry.providers), list(registry.targets())) == (["a"], [kept])
    registry.adopt([], NOW)
    registry.adopt([provider("a")], NOW)
    assert target(registry, "a") is not kept


def test_families_and_models_of_a_provider_fail_apart(registry):
    registry.adopt([provider()], NOW)
    states = {target(registry), target(registry, model="o3"), target(registry, family=Family.EMBEDDINGS)}
    shut(target(registry).breaker, NOW)
    assert sorted(state.breaker.share(NOW) for state in states) == [0.0, 1.0, 1.0]
    assert registry.providers["a"].breaker.share(NOW) == 1.0


def test_transitions_are_told_by_name_and_under_the_label_of_the_day(registry, moves):
    registry.adopt([provider()], NOW)
    state = target(registry, label="*")
    shut(registry.providers["a"].breaker, NOW)
    shut(state.breaker, NOW)
    assert target(registry, label="gpt-4o") is state
    state.breaker.share(NOW + 6.0)
    assert moves == [
        ("a", "", "", State.OPEN),
        ("a", "*", Family.CHAT, State.OPEN),
        ("a", "gpt-4o", Family.CHAT, State.HALF_OPEN),
    ]


def test_a_registry_needs_no_audience():
    registry = Registry(Chance(0.5).uniform)
    registry.adopt([provider()], NOW)
    shut(registry.providers["a"].breaker, NOW)
    assert registry.providers["a"].breaker.share(NOW) == 0.0


def test_made_up_model_names_do_not_push_out_the_targets_in_use(registry, monkeypatch):
    monkeypatch.setattr(module, "MAX_TARGETS", 16)
    registry.adopt([provider()], NOW)
    states = [target(registry, model=f"real-{i}") for i in range(4)]
    for i in range(100):
        for state in states:
            state.breaker.admit(NOW + i).ignore()
        target(registry, model=f"made-up-{i}")
        assert len(list(registry.targets())) <= 16
    assert [target(registry, model=f"real-{i}") for i in range(4)] == states
