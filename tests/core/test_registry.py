"""Live state by key: what survives a reload, what is forgotten, when a provider fails as a whole (laws 7, 11 and 13)."""

import dataclasses

import pytest

from gateway.core import registry as module
from gateway.core.breaker import State
from gateway.core.bucket import Cost
from gateway.core.plan import BreakerPlan, BudgetPlan, ClientPlan, Family, GroupPlan, Priority, QuotaPlan
from gateway.core.registry import Registry
from tests.core.build import NOW, Chance, World, fail, limits, provider, serve, shut


@pytest.fixture
def moves():
    return []


@pytest.fixture
def registry(moves):
    return Registry(Chance(1.0).uniform, lambda *move: moves.append(move))


def target(registry, name="a", model="gpt-4o", label=None, family=Family.CHAT):
    return registry.target(registry.providers[name].plan, model, label or model, family)


# -- keys -------------------------------------------------------------------------------------------------------------------------


def test_a_provider_counts_its_benched_keys(registry):
    registry.adopt([provider(keys=("one", "two"))], NOW)
    state = registry.providers["a"]
    state.credentials["one"].bench(NOW)
    assert [state.benched(NOW), state.benched(NOW + 60.0)] == [1, 0]


@pytest.mark.interpreted
def test_passed_through_keys_have_state_of_their_own_bounded_by_use(registry, monkeypatch):
    monkeypatch.setattr(module, "MAX_FOREIGN", 2)
    registry.adopt([provider(keys=())], NOW)
    state = registry.providers["a"]
    state.foreign("x").park(NOW, "m", 10.0)
    state.foreign("y").park(NOW, "m", 20.0)
    assert [state.foreign(key).usable_at(NOW, "m") for key in "yx"] == [NOW + 20.0, NOW + 10.0]
    state.foreign("z")
    assert [state.foreign(key).usable_at(NOW, "m") for key in "xy"] == [NOW + 10.0, 0.0]


# -- gates ------------------------------------------------------------------------------------------------------------------------

MINI = GroupPlan("mini", ("gpt-*-mini", "o4-mini"), limits(5.0))


def grouped(*groups, quota=None, depth=1000):
    return dataclasses.replace(provider(quota=quota or limits(1.0), queue_depth=depth), groups=groups)


def configured(gate):
    """Requests a second that a key of ours may send there."""
    return [bucket.per_s for bucket in gate.quota(NOW, "key-1").buckets]


def test_each_model_has_a_gate_and_models_of_a_group_share_one(registry):
    registry.adopt([grouped(MINI, GroupPlan("gpt", ("gpt-*",), limits(2.0)))], NOW)
    state = registry.providers["a"]
    assert state.gate("o4-mini") is state.gate("gpt-4o-mini"), "the first group that fits counts"
    assert state.gate("gpt-4o") is state.gate("gpt-5")
    gates = [state.gate(model) for model in ("gpt-4o-mini", "gpt-4o", "other", "")]
    assert [(gate.label, configured(gate)) for gate in gates] == [("mini", [5.0]), ("gpt", [2.0]), ("other", [1.0]), ("", [])]
    assert len(set(gates)) == 4


def test_families_share_a_gate_and_keys_of_clients_have_their_own(registry):
    registry.adopt([provider(keys=())], NOW)
    state = registry.providers["a"]
    own, foreign = state.gate("m"), state.gate("m", "hash")
    assert own is not foreign
    assert sorted((key, gate.label) for key, gate in state.gates()) == [("", "m"), ("hash", "m")]
    world = World("a")
    assert world.places(Family.CHAT)[0].gate is world.places(Family.RESPONSES)[0].gate


def test_a_reload_gives_gates_their_new_limits_and_keeps_what_is_in_them(registry):
    registry.adopt([grouped(MINI)], NOW)
    state = registry.providers["a"]
    group, model = state.gate("o4-mini"), state.gate("m")
    for gate in (group, model):
        gate.quota(NOW, "key-1").reserve(NOW, Cost())
    registry.adopt([grouped(dataclasses.replace(MINI, quota=limits(50.0)), quota=limits(10.0), depth=7)], NOW)
    assert (state.gate("o4-mini"), state.gate("m")) == (group, model)
    assert (configured(group), configured(model), group.queue.depth) == ([50.0], [10.0], 7)
    assert [gate.quota(NOW, "key-1").inflight for gate in (group, model)] == [1, 1]


@pytest.mark.interpreted
def test_gates_nobody_is_at_are_forgotten_by_use_and_the_others_never(registry, monkeypatch):
    monkeypatch.setattr(module, "MAX_GATES", 8)
    registry.adopt([provider()], NOW)
    state = registry.providers["a"]
    first, oldest = state.gate("in use"), state.gate("old")
    first.pending = 1
    for number in range(6):
        state.gate(f"made up {number}")
    assert state.gate("old") is oldest
    state.gate("one too many")
    left = {gate.label for _, gate in state.gates()}
    assert left == {"in use", "old", *(f"made up {number}" for number in range(1, 6)), "one too many"}


# -- the limits of clients --------------------------------------------------------------------------------------------------------


def test_a_clients_own_limits_survive_a_reload_and_one_without_has_no_account(registry):
    account = registry.account(ClientPlan("team", quota=limits(1.0, burst=5.0)), NOW)
    account.admit(NOW, Cost())
    again = registry.account(ClientPlan("team", quota=limits(1.0, burst=9.0)), NOW)
    assert again is account
    assert (account.plan.quota, account.quota.inflight) == (limits(1.0, burst=9.0), 1)
    assert registry.account(ClientPlan("other"), NOW) is None
    assert registry.account(ClientPlan("busy", quota=QuotaPlan(concurrent=1)), NOW).quota.concurrent == 1
    assert registry.account(ClientPlan("team"), NOW) is None
    assert registry.account(ClientPlan("team", quota=limits(1.0)), NOW) is not account


def test_clients_that_a_reload_takes_away_are_forgotten(registry):
    for name in ("team", "busy", "gone"):
        registry.account(ClientPlan(name, quota=limits(1.0)), NOW)
    registry.keep_accounts(["busy", "team", "new"])
    assert [name for name, _ in registry.accounts()] == ["team", "busy"]


def test_priorities_are_named_as_in_files_headers_and_metrics():
    assert [priority.label for priority in Priority] == ["interactive", "standard", "batch"]


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
    assert {key: held.benched_for(NOW) for key, held in after.credentials.items()} == {"new": 0.0, "stays": 60.0}


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
    registry = Registry(Chance(1.0).uniform)
    registry.adopt([provider()], NOW)
    shut(registry.providers["a"].breaker, NOW)
    assert registry.providers["a"].breaker.share(NOW) == 0.0


@pytest.mark.interpreted
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


# -- every key refused ------------------------------------------------------------------------------------------------------------


def refuse(state, now, *keys, model=None, refused=True):
    for key in keys:
        state.credentials[key].bench(now, model, refused=refused)
        state.refused(now)


@pytest.fixture
def two_keys(registry):
    registry.adopt([provider(keys=("one", "two"))], NOW)
    return registry.providers["a"]


def test_one_refused_key_of_two_is_the_keys_trouble(two_keys, moves):
    refuse(two_keys, NOW, "one")
    assert ([two_keys.benched(NOW), two_keys.benched(NOW + 60.0)], moves) == ([1, 0], [])


def test_every_key_refused_is_the_providers_failure_and_its_breaker_says_when_to_look_again(two_keys, moves):
    refuse(two_keys, NOW, "one")
    refuse(two_keys, NOW + 1.0, "two")
    assert moves == [("a", "", "", State.OPEN)]
    assert (two_keys.breaker.reopens_in(NOW + 1.0), [key.benched_for(NOW + 1.0) for key in two_keys.credentials.values()]) == (
        5.0,
        [5.0, 5.0],
    )


def test_keys_refused_once_more_open_the_breaker_for_longer(two_keys, moves):
    at, lengths = NOW, []
    for _ in range(4):
        refuse(two_keys, at, "one")
        refuse(two_keys, at, "two")
        lengths.append(two_keys.breaker.reopens_in(at))
        at += lengths[-1]
        assert two_keys.benched(at) == 0
        assert two_keys.breaker.share(at) == 1.0
    assert lengths == [5.0, 10.0, 20.0, 30.0]
    assert [state for _, _, _, state in moves] == [State.OPEN, State.HALF_OPEN] * 4


@pytest.mark.parametrize(
    "others",
    [
        {"refused": False},  # out of credit
        {"model": "gpt-4o"},  # no rights to one model
    ],
)
def test_trouble_of_another_kind_is_not_every_key_refused(two_keys, moves, others):
    refuse(two_keys, NOW, "one")
    refuse(two_keys, NOW, "two", **others)
    assert (moves, two_keys.credentials["one"].benched_for(NOW)) == ([], 60.0)


def test_a_key_that_was_refused_but_has_served_its_time_is_not_refused_now(two_keys, moves):
    refuse(two_keys, NOW, "one")
    refuse(two_keys, NOW + 60.0, "two")
    assert moves == []


# -- two targets failing ----------------------------------------------------------------------------------------------------------


class Failing:
    """A provider whose targets fail or serve; what one attempt does to its target and to its provider is done here."""

    def __init__(self, registry):
        registry.adopt([provider("a"), provider("b")], NOW)
        self.registry = registry

    def target(self, model, provider="a", family=Family.CHAT):
        return target(self.registry, provider, model, family=family)

    def serves(self, model, at):
        serve(self.target(model).breaker, at)
        serve(self.registry.providers["a"].breaker, at)

    def fails(self, model, begin, **where):
        fail(self.target(model, **where).breaker, *[begin + step / 2 for step in range(5)])
        return self.registry.providers[where.get("provider", "a")].breaker.state


@pytest.fixture
def failing(registry):
    return Failing(registry)


def test_a_provider_fails_when_two_of_its_targets_do_and_none_serves_meanwhile(failing, moves):
    failing.serves("x", NOW)
    failing.serves("y", NOW)
    assert failing.fails("x", NOW + 10.0) is State.CLOSED
    assert failing.fails("y", NOW + 11.0) is State.OPEN
    assert moves == [("a", "x", Family.CHAT, State.OPEN), ("a", "y", Family.CHAT, State.OPEN), ("a", "", "", State.OPEN)]
    assert failing.registry.providers["a"].breaker.reopens_in(NOW + 13.0) == 5.0


def test_one_model_in_two_families_is_one_target(failing, moves):
    failing.fails("x", NOW)
    assert failing.fails("x", NOW, family=Family.RESPONSES) is State.CLOSED
    assert failing.fails("y", NOW, family=Family.RESPONSES) is State.OPEN
    assert len(moves) == 4


def test_one_target_alone_never_does(failing):
    for at in (0.0, 20.0, 40.0):
        assert failing.fails("x", NOW + at) is State.CLOSED


@pytest.mark.parametrize(
    ("at", "state"),
    [(9.9, State.OPEN), (10.0, State.CLOSED), (11.5, State.CLOSED), (13.9, State.CLOSED)],
)
@pytest.mark.parametrize("who", ["y", "z"])
def test_not_where_any_of_them_has_served_since_the_first_began_to_fail(failing, who, at, state):
    for moment, event in sorted([(at, "serves"), *[(10.0 + step / 2, "x") for step in range(5)]]):
        if event == "serves":
            failing.serves(who, NOW + moment)
        else:
            fail(failing.target("x").breaker, NOW + moment)
    assert failing.fails("y", NOW + 13.95) is state


def test_a_stream_that_has_begun_is_enough(failing):
    breaker = failing.registry.providers["a"].breaker
    failing.fails("x", NOW)
    breaker.admit(NOW + 3.0).alive(NOW + 3.0)
    assert failing.fails("y", NOW + 4.0) is State.CLOSED


def test_a_target_that_came_back_is_no_witness(failing):
    failing.fails("x", NOW)
    assert failing.target("x").breaker.share(NOW + 20.0) == 1.0
    assert failing.fails("y", NOW + 20.0) is State.CLOSED


def test_targets_of_another_provider_say_nothing(failing):
    failing.fails("x", NOW, provider="b")
    assert failing.fails("y", NOW) is State.CLOSED


def test_three_failing_targets_are_one_outage(failing, moves):
    for model in "xyz":
        failing.fails(model, NOW)
    assert moves.count(("a", "", "", State.OPEN)) == 1


def test_a_target_whose_provider_a_reload_took_away_fails_alone(failing):
    breaker = failing.target("x").breaker
    failing.fails("y", NOW)
    failing.registry.adopt([provider("b")], NOW)
    fail(breaker, *[NOW + step for step in range(5)])
    assert (breaker.state, list(failing.registry.providers)) == (State.OPEN, ["b"])
