"""All live state, by key: what the gateway has learned about providers, targets and credentials.

A reload swaps the snapshot and leaves this alone, so breakers, budgets and benched keys survive it (law 13). Entries are found by
name, never by object: provider, (provider, model, family), credential id. State per model is bounded: models named by clients come
and go, the least recently used is forgotten (law 11).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from gateway.core.breaker import Breaker, State
from gateway.core.budget import Budget
from gateway.core.plan import Family, ProviderPlan

MAX_TARGETS = 4096
MAX_FOREIGN = 4096
MAX_PARK_S = 60.0
FIRST_PARK_S = 1.0
"""How long a rate limit without a stated delay keeps us away; doubles while it goes on."""
BENCH_S = 60.0
MAX_BENCH_S = 900.0
"""A benched credential is tried again after a minute, then ever less often: an operator may have topped up the account."""

Moved = Callable[[str, str, str, State], None]
"""(provider, model, family, new state); model and family are empty for a provider's own breaker."""


class CredentialState:
    """What one key may do: benched as a whole, or parked per model by a rate limit."""

    __slots__ = ("_parked", "_streak", "benched_until", "benches")

    def __init__(self) -> None:
        self.benched_until = 0.0
        self.benches = 0
        self._parked: dict[str, float] = {}
        self._streak: dict[str, int] = {}

    def usable_at(self, model: str) -> float:
        """Return from when on this key may be used for the model; 0 where nothing holds it back."""
        if not self._parked:
            return self.benched_until
        return max(self.benched_until, self._parked.get(model, 0.0))

    def park(self, now: float, model: str, delay_s: float | None) -> None:
        """Keep away from this model for the stated delay (at most a minute), or for a doubling while if none was stated."""
        if model not in self._parked and len(self._parked) >= MAX_TARGETS:
            self._parked.clear()
            self._streak.clear()
        until, streak = self._parked.get(model, 0.0), self._streak.get(model, 0)
        if now >= until:
            # Only the first refusal after a pause says that the pause was too short; others were under way together with it.
            streak = self._streak[model] = streak + 1
        if delay_s is None:
            delay_s = FIRST_PARK_S * 2.0 ** min(streak - 1, 6)
        self._parked[model] = max(until, now + min(delay_s, MAX_PARK_S))

    def bench(self, now: float) -> None:
        """Take the key out of use: refused or out of money. Requests refused together count as one refusal."""
        if now >= self.benched_until:
            self.benched_until = now + min(MAX_BENCH_S, BENCH_S * 2.0 ** min(self.benches, 10))
            self.benches += 1

    def served(self, model: str, began_at: float = float("inf")) -> None:
        """A request with this key was served: trouble that ended before it began is over. Without a time, all trouble is."""
        if self.benches and began_at >= self.benched_until:
            self.benches = 0
            self.benched_until = 0.0
        if self._parked:
            until = self._parked.get(model)
            if until is not None and began_at >= until:
                del self._parked[model], self._streak[model]


class TargetState:
    """What is known of one target for one family."""

    __slots__ = ("breaker", "family", "label", "model", "provider")

    def __init__(self, provider: str, model: str, label: str, family: Family, breaker: Breaker) -> None:
        self.provider = provider
        self.model = model
        self.label = label
        """The model's name for metrics: `*` where no route lists it."""
        self.family = family
        self.breaker = breaker


class ProviderState:
    """What is known of one provider."""

    __slots__ = ("_foreign", "breaker", "budget", "credentials", "name", "plan")

    def __init__(self, plan: ProviderPlan, breaker: Breaker, now: float) -> None:
        self.name = plan.name
        self.plan = plan
        self.breaker = breaker
        self.budget = Budget(plan.budget, now)
        self.credentials: dict[str, CredentialState] = {key: CredentialState() for key in plan.credentials}
        self._foreign: OrderedDict[str, CredentialState] = OrderedDict()

    def replan(self, now: float, plan: ProviderPlan) -> None:
        """Take over new settings; a credential that stays keeps its state, a changed one begins afresh."""
        self.plan = plan
        self.breaker.replan(plan.breaker)
        self.budget.replan(now, plan.budget)
        self.credentials = {key: self.credentials.get(key) or CredentialState() for key in plan.credentials}

    def foreign(self, key: str) -> CredentialState:
        """Return the state learned from a passed-through key, by that key's hash (law 11)."""
        state = self._foreign.get(key)
        if state is None:
            state = self._foreign[key] = CredentialState()
            if len(self._foreign) > MAX_FOREIGN:
                self._foreign.popitem(last=False)
        else:
            self._foreign.move_to_end(key)
        return state

    def benched(self, now: float) -> int:
        """Return how many of our own keys are benched."""
        return sum(state.benched_until > now for state in self.credentials.values())


class Registry:
    """All live state of one process."""

    __slots__ = ("_moved", "_targets", "_uniform", "providers")

    def __init__(
        self,
        uniform: Callable[[float, float], float],
        moved: Moved = lambda _provider, _model, _family, _state: None,
    ) -> None:
        self._uniform = uniform
        self._moved = moved
        self.providers: dict[str, ProviderState] = {}
        self._targets: dict[tuple[str, str, Family], TargetState] = {}

    def adopt(self, plans: Iterable[ProviderPlan], now: float) -> None:
        """Make the state fit a new snapshot: keep what stays, add what is new, forget what is gone."""
        wanted = {plan.name: plan for plan in plans}
        for name in [name for name in self.providers if name not in wanted]:
            del self.providers[name]
        for key in [key for key in self._targets if key[0] not in wanted]:
            del self._targets[key]
        for name, plan in wanted.items():
            known = self.providers.get(name)
            if known is None:
                breaker = Breaker(plan.breaker, self._uniform, partial(self._moved, name, "", ""))
                self.providers[name] = ProviderState(plan, breaker, now)
            else:
                known.replan(now, plan)
        for target in self._targets.values():
            target.breaker.replan(wanted[target.provider].breaker)

    def target(self, plan: ProviderPlan, model: str, label: str, family: Family) -> TargetState:
        """Return the state of this target for this family, new if need be."""
        key = (plan.name, model, family)
        state = self._targets.get(key)
        if state is None:
            if len(self._targets) >= MAX_TARGETS:
                self._forget()
            breaker = Breaker(plan.breaker, self._uniform)
            state = self._targets[key] = TargetState(plan.name, model, label, family, breaker)
            state.breaker.moved = self._reporting(state)
        state.label = label
        return state

    def targets(self) -> Iterator[TargetState]:
        """Return every target state there is."""
        return iter(self._targets.values())

    def _forget(self) -> None:
        """Forget the eighth that was used least recently: by use and not by look-up, since the router remembers its answers."""
        by_use = sorted(self._targets.items(), key=lambda entry: entry[1].breaker.used_at)
        for key, _ in by_use[: MAX_TARGETS // 8]:
            del self._targets[key]

    def _reporting(self, target: TargetState) -> Callable[[State], None]:
        def moved(state: State) -> None:
            # The label is read when it is needed: a reload may have changed it.
            self._moved(target.provider, target.label, target.family, state)

        return moved
