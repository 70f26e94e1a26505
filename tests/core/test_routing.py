"""Routing: first match wins, answers are remembered, labels stay bounded."""

import pytest

from gateway.core import routing as module
from gateway.core.plan import Family, HedgePlan, Policy, Route, Target
from gateway.core.registry import Registry
from gateway.core.routing import Router
from gateway.core.verdicts import Fault
from tests.core.build import NOW, Chance, provider

CHAT = "/v1/chat/completions"
A, B = provider("a"), provider("b")
HOME = Policy(name="home")


def route(name, *targets, **rule):
    return Route(name, targets or (Target(A),), Policy(name=name), **rule)


def router(*routes):
    registry = Registry(Chance().uniform)
    registry.adopt([A, B], NOW)
    return Router(routes, [A, B], registry, HOME)


def found(router, model="gpt-4o", *, api=CHAT, family=Family.CHAT, client=""):
    choice = router.find(api, family, model, client)
    return None if choice is None else choice.route


@pytest.mark.parametrize(
    ("request_", "name"),
    [
        ({"model": "gpt-4o"}, "exact"),
        ({"model": "gpt-4o-mini"}, "glob"),
        ({"model": "GPT-4o"}, "rest"),
        ({"model": "gpt-4o\n"}, "rest"),
        ({"model": "my-gpt-4o"}, "rest"),
        ({"model": "o3", "client": "search"}, "search only"),
        ({"model": "o3", "client": "billing"}, "rest"),
        ({"model": "o3"}, "rest"),
        ({"model": "gpt-4o", "api": "/v1/embeddings"}, "embeddings"),
        ({"model": None, "api": "/v1/files"}, "rest"),
        ({"model": None, "api": "/v1/embeddings"}, "embeddings"),
    ],
)
def test_the_first_route_that_matches_takes_the_request(request_, name):
    routes = router(
        route("embeddings", paths=("/v1/embeddings",)),
        route("exact", models=("gpt-4o",)),
        route("glob", models=("claude-*", "gpt-4o-*")),
        route("search only", clients=frozenset({"search"}), models=("o?",)),
        route("rest"),
    )
    assert found(routes, **request_) == name


@pytest.mark.parametrize(
    ("hedge", "family", "hedged"),
    [(HedgePlan(), Family.CHAT, True), (None, Family.CHAT, False), (HedgePlan(), Family.FILES, False)],
)
def test_only_stateless_inference_is_hedged_and_only_where_the_policy_says_so(hedge, family, hedged):
    routes = router(Route("chat", (Target(A),), Policy(hedge=hedge)), Route("other", (Target(A),), Policy(hedge=hedge)))
    choice = routes.find(CHAT, family, "gpt-4o", "")
    assert (choice.hedges is not None) is hedged
    assert choice.hedges is (routes._registry.hedges("chat") if hedged else None)


def test_a_request_without_a_model_goes_by_a_route_that_does_not_look_at_models_or_by_none():
    assert found(router(route("models", models=("*",)), route("open")), None) == "open"
    assert found(router(route("models", models=("*",))), None) is None


def test_a_model_that_no_route_takes_goes_nowhere():
    assert found(router(route("chat", models=("gpt-*",))), "claude") is None
    assert found(router(route("chat", models=("gpt-*",), paths=("/v1/responses",)))) is None


def test_a_targets_model_replaces_the_clients_and_a_bare_target_keeps_it():
    choice = router(route("chat", Target(A), Target(B, "prod"), models=("gpt-*",))).find(CHAT, Family.CHAT, "gpt-5", "")
    assert [(place.provider.name, place.model, place.model_label) for place in choice.places] == [
        ("a", "gpt-5", "*"),
        ("b", "prod", "prod"),
    ]
    assert choice.policy.name == "chat"


def test_a_request_without_a_model_has_places_without_one():
    choice = router(route("all")).find("/v1/files", Family.FILES, None, "")
    assert [(place.model, place.model_label) for place in choice.places] == [("", "*")]


@pytest.mark.parametrize(
    ("targets", "kept"),
    [
        ((Target(A), Target(A, "gpt-4o"), Target(B)), [0, 2]),
        ((Target(A), Target(B), Target(A)), [0, 1]),
        ((Target(A), Target(A, "gpt-4o", only_for=frozenset({Fault.CONTEXT_LENGTH}))), [0]),
        ((Target(A, "gpt-4o", only_for=frozenset({Fault.CONTEXT_LENGTH})), Target(A)), [1]),
        (
            (
                Target(A, "big", only_for=frozenset({Fault.CONTEXT_LENGTH})),
                Target(A, "big", only_for=frozenset({Fault.CONTENT_POLICY})),
            ),
            [0, 1],
        ),
    ],
)
def test_two_targets_that_are_one_for_this_model_are_one_place(targets, kept):
    choice = router(route("chat", *targets)).find(CHAT, Family.CHAT, "gpt-4o", "")
    assert [place.target for place in choice.places] == [targets[i] for i in kept]


def test_exchanges_of_all_clients_share_a_targets_state():
    routes = router(route("chat"))
    one, other = routes.find(CHAT, Family.CHAT, "m", "x"), routes.find(CHAT, Family.CHAT, "m", "y")
    assert one is not other
    assert one.places[0].state is other.places[0].state


def test_an_answer_is_remembered_and_so_is_that_there_is_none():
    routes = router(route("chat", models=("gpt-*",)))
    assert routes.find(CHAT, Family.CHAT, "gpt-4o", "") is routes.find(CHAT, Family.CHAT, "gpt-4o", "")
    assert routes.find(CHAT, Family.CHAT, "nope", "") is routes.find(CHAT, Family.CHAT, "nope", "") is None


@pytest.mark.interpreted
def test_what_is_remembered_is_bounded_and_forgetting_changes_no_answer(monkeypatch):
    monkeypatch.setattr(module, "MAX_REMEMBERED", 8)
    routes = router(route("chat", models=("gpt-*",)))
    for number in range(100):
        assert found(routes, f"gpt-{number}") == "chat"
        assert len(routes._remembered) <= 8


def test_one_provider_can_be_asked_directly_and_no_other():
    routes = router(route("chat", Target(B)))
    choice = routes.direct("a", Family.CHAT, "gpt-4o", route="direct")
    assert (choice.route, choice.policy, [place.provider.name for place in choice.places]) == ("direct", HOME, ["a"])
    assert routes.direct("nobody", Family.CHAT, "gpt-4o", route="direct") is None


@pytest.mark.parametrize(
    ("model", "label"),
    [("gpt-4o", "gpt-4o"), ("prod", "prod"), ("gpt-4o-x", "*"), ("gpt-*", "*"), ("made-up", "*"), ("", "*"), (None, "*")],
)
def test_only_names_that_the_routes_spell_out_are_labels(model, label):
    assert router(route("chat", Target(B, "prod"), models=("gpt-4o", "gpt-*")), route("rest")).label(model) == label


def test_a_path_too_long_to_be_remembered_is_routed_all_the_same():
    routes = router(route("rest"))
    api = "/v1/" + "x" * module.LONGEST_REMEMBERED
    assert found(routes, api=api) == "rest"
    assert not routes._remembered
