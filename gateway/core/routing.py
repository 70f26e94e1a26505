"""Which targets a request may go to: the walk over the routes, first match wins.

Compiled once per snapshot; answers are remembered per (path, model, client), bounded, so that the happy path is one dict lookup.
A request that names no model goes by the first route that does not look at models, else to its home account; see `Router.home`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import translate
from typing import Final

from gateway.core.attempt import Place
from gateway.core.hedge import HedgeBudget
from gateway.core.plan import INFERENCE, Balance, Family, Policy, ProviderPlan, Route, Target
from gateway.core.registry import Registry

MAX_REMEMBERED: Final = 4096
LONGEST_REMEMBERED: Final = 256
"""Longer paths are looked up each time: clients choose them, and thousands of them would fill the memory (law 11)."""
ANY_MODEL: Final = "*"
"""The metric label of a model that no route lists by name."""

_ORDERED: Final = Balance.ORDERED


class Choice:
    """Where a request may go: the route's name, its policy and its places in order of preference."""

    __slots__ = ("balance", "hedges", "places", "policy", "route")

    def __init__(
        self,
        route: str,
        policy: Policy,
        places: Sequence[Place],
        hedges: HedgeBudget | None = None,
        balance: Balance = _ORDERED,
    ) -> None:
        self.route = route
        self.balance = balance
        self.hedges = hedges
        """What the route may spend on hedges; None where it has none."""
        self.policy = policy
        self.places = places


class Router:
    """The routes of one snapshot over the live state of the process."""

    __slots__ = ("_known", "_models", "_paths", "_policy", "_providers", "_registry", "_remembered", "_routes")

    def __init__(self, routes: Sequence[Route], providers: Iterable[ProviderPlan], registry: Registry, policy: Policy) -> None:
        self._routes = routes
        self._providers: Mapping[str, ProviderPlan] = {plan.name: plan for plan in providers}
        self._registry = registry
        self._policy = policy
        """For requests that no route takes: home accounts and `/providers/{name}`."""
        self._models = [_matcher(route.models) for route in routes]
        self._paths = [_matcher(route.paths) for route in routes]
        self._known = frozenset(_names(routes))
        self._remembered: dict[tuple[str, Family, str | None, str], Choice | None] = {}

    def find(self, api: str, family: Family, model: str | None, client: str) -> Choice | None:
        """Return where this request goes by the routes, or None where none takes it.

        `api` is the endpoint's canonical path; `client` the authenticated client's name, empty without `clients`.
        """
        key = (api, family, model, client)
        try:
            return self._remembered[key]
        except KeyError:
            pass
        choice = None
        for route, models, paths in zip(self._routes, self._models, self._paths, strict=True):
            if models is not None and (model is None or models.match(model) is None):
                continue
            if (paths is None or paths.match(api)) and (route.clients is None or client in route.clients):
                hedges = self._registry.hedges(route.name) if route.policy.hedge is not None and family in INFERENCE else None
                choice = Choice(route.name, route.policy, self._places(route.targets, family, model), hedges, route.balance)
                break
        if len(api) <= LONGEST_REMEMBERED:
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = choice
        return choice

    def direct(self, provider: str, family: Family, model: str | None, *, route: str) -> Choice | None:
        """Return the way to one provider and no other, or None if there is no such provider."""
        plan = self._providers.get(provider)
        if plan is None:
            return None
        return Choice(route, self._policy, self._places((Target(plan),), family, model))

    def label(self, model: str | None) -> str:
        """Return the model's name for metrics: itself if a route lists it, else `*`."""
        return model if model in self._known and model is not None else ANY_MODEL

    def _places(self, targets: Iterable[Target], family: Family, model: str | None) -> tuple[Place, ...]:
        places: list[Place] = []
        for target in targets:
            name = target.model or model or ""
            label = self.label(name)
            state = self._registry.target(target.provider, name, label, family)
            provider = self._registry.providers[target.provider.name]
            places.append(Place(target, name, label, provider, state, provider.gate(name)))
        # Two targets may be one for this model: going there again would be a repetition that looks like a failover (law 9).
        ordinary = {place.state: place for place in reversed(places) if not place.target.only_for}
        return tuple(place for place in places if ordinary.get(place.state, place) is place)


def _matcher(globs: tuple[str, ...] | None) -> re.Pattern[str] | None:
    return None if globs is None else re.compile("|".join(translate(glob) for glob in globs))


def _names(routes: Iterable[Route]) -> Iterable[str]:
    for route in routes:
        for glob in route.models or ():
            if not any(character in glob for character in "*?["):
                yield glob
        for target in route.targets:
            if target.model is not None:
                yield target.model
