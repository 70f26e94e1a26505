"""All live state, by key: what the gateway has learned about providers, targets and credentials.

A reload swaps the snapshot and leaves this alone, so breakers, budgets and benched keys survive it (law 13). Entries are found by
name, never by object: provider, (provider, model, family), credential id. State per model is bounded: models named by clients come
and go, the least recently used is forgotten (law 11).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from functools import partial
from typing import Final

from gateway.core.accounts import Account
from gateway.core.breaker import Breaker, State
from gateway.core.budget import Budget
from gateway.core.credentials import CredentialState
from gateway.core.gate import Gate
from gateway.core.hedge import HedgeBudget
from gateway.core.latency import Latency
from gateway.core.pace import Pace
from gateway.core.plan import ClientPlan, Family, ProviderPlan, QuotaPlan
from gateway.core.suspicion import Rejections, Silence

MAX_TARGETS: Final = 4096
MAX_FOREIGN: Final = 4096
MAX_GATES: Final = 4096
"""Per provider: models and clients' own keys together."""

Moved = Callable[[str, str, str, State], None]
"""(provider, model, family, new state); model and family are empty for a provider's own breaker."""


class TargetState:
    """What is known of one target for one family."""

    __slots__ = ("breaker", "family", "label", "latency", "model", "pace", "pending", "prefill_refused", "provider", "rejections",
                 "silence")  # fmt: skip

    def __init__(self, provider: str, model: str, label: str, family: Family, breaker: Breaker) -> None:
        self.provider = provider
        self.model = model
        self.label = label
        """The model's name for metrics: `*` where no route lists it."""
        self.family = family
        self.breaker = breaker
        self.prefill_refused = False
        """It did not take the beginning of an answer, whatever its operator declared."""
        self.latency = Latency()
        self.pace = (Pace(), Pace())
        """Of whole answers and of streams, for routes that prefer the fastest."""
        self.pending = 0
        """Attempts under way."""
        self.rejections = Rejections()
        self.silence = Silence()


class ProviderState:
    """What is known of one provider."""

    __slots__ = ("_foreign", "_gates", "breaker", "budget", "credentials", "name", "plan")

    def __init__(self, plan: ProviderPlan, breaker: Breaker, now: float) -> None:
        self.name = plan.name
        self.plan = plan
        self.breaker = breaker
        self.budget = Budget(plan.budget, now)
        self.credentials: dict[str, CredentialState] = {key: CredentialState() for key in plan.credentials}
        self._foreign: OrderedDict[str, CredentialState] = OrderedDict()
        self._gates: OrderedDict[tuple[str, bool, str], Gate] = OrderedDict()
        """By the hash of a client's own key, empty for ours, and by group (True) or model."""

    def replan(self, now: float, plan: ProviderPlan) -> None:
        """Take over new settings; a credential that stays keeps its state, a changed one begins afresh."""
        self.plan = plan
        self.breaker.replan(plan.breaker)
        self.budget.replan(now, plan.budget)
        self.credentials = {key: self.credentials.get(key) or CredentialState() for key in plan.credentials}
        groups = {group.name: group.quota for group in plan.groups}
        for (foreign, grouped, name), gate in self._gates.items():
            quota = groups.get(name, QuotaPlan()) if grouped else self._quota_of(name)[2]
            gate.replan(now, quota, plan.queue_depth, (None,) if foreign else plan.credentials or (None,))

    def gate(self, model: str, foreign: str = "") -> Gate:
        """Return the gate in front of a model, for our own keys or for a client's (by its hash)."""
        grouped, name, quota = self._quota_of(model)
        key = (foreign, grouped, name)
        gate = self._gates.get(key)
        if gate is None:
            gate = self._gates[key] = Gate(self.name, name, quota, self.plan.queue_depth, grouped=grouped)
            if len(self._gates) > MAX_GATES:
                self._forget_gates()
        else:
            self._gates.move_to_end(key)
        return gate

    def gates(self) -> Iterator[tuple[str, Gate]]:
        """Return every gate there is, and the hash of the client's own key that it is for; empty: ours."""
        return ((key[0], gate) for key, gate in self._gates.items())

    def _quota_of(self, model: str) -> tuple[bool, str, QuotaPlan]:
        """Return (True, group, its limits) where a model is in one, else (False, model, the limits of each model)."""
        for group in self.plan.groups:
            if any(fnmatchcase(model, glob) for glob in group.models):
                return True, group.name, group.quota
        # What names no model is bound by no model's limit.
        return False, model, self.plan.quota if model else QuotaPlan()

    def _forget_gates(self) -> None:
        """Forget the eighth that was used least recently, as far as nobody is there: first those of clients' own keys.

        Ours are known to the routes, which do not ask for them again while they remember them.
        """
        idle = [key for key, gate in self._gates.items() if gate.idle]
        idle.sort(key=_is_ours)
        for key in idle[: MAX_GATES // 8]:
            del self._gates[key]

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
        return sum(state.benched(now) for state in self.credentials.values())

    def refused(self, now: float) -> None:
        """One of our own keys was refused. When all of them are, it is the provider that fails (law 7), not the keys.

        Valid keys have been refused for over an hour: so the breaker decides when to look again, and not the bench.
        """
        states = self.credentials.values()
        if all(state.refused and state.benched(now) for state in states):
            self.breaker.trip(now)
            for state in states:
                state.retry_at(now + self.breaker.reopens_in(now))


def _is_ours(key: tuple[str, bool, str]) -> bool:
    return not key[0]


class Registry:
    """All live state of one process."""

    __slots__ = ("_accounts", "_hedges", "_moved", "_targets", "_uniform", "providers")

    def __init__(
        self,
        uniform: Callable[[float, float], float],
        moved: Moved = lambda _provider, _model, _family, _state: None,
    ) -> None:
        self._uniform = uniform
        self._moved = moved
        self.providers: dict[str, ProviderState] = {}
        self._targets: dict[tuple[str, str, Family], TargetState] = {}
        self._hedges: dict[str, HedgeBudget] = {}
        self._accounts: dict[str, Account] = {}

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

    def keep_accounts(self, clients: Iterable[str]) -> None:
        """Forget what is known of clients' own limits, but for these clients."""
        wanted = set(clients)
        for name in [name for name in self._accounts if name not in wanted]:
            del self._accounts[name]

    def account(self, plan: ClientPlan, now: float) -> Account | None:
        """Return what is known of a client's own limits, kept across reloads by its name; None where it has none."""
        if not plan.quota.rates and plan.quota.concurrent is None:
            self._accounts.pop(plan.name, None)
            return None
        account = self._accounts.get(plan.name)
        if account is None:
            account = self._accounts[plan.name] = Account(plan, now)
        else:
            account.replan(now, plan)
        return account

    def accounts(self) -> Iterator[tuple[str, Account]]:
        """Return every client that has limits of its own, by name, and what is known of it."""
        return iter(self._accounts.items())

    def hedges(self, route: str) -> HedgeBudget:
        """Return what this route may spend on hedges; kept across reloads by the route's name."""
        return self._hedges.setdefault(route, HedgeBudget())

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
            if state is State.OPEN:
                self._suspect_provider(target)

        return moved

    def _suspect_provider(self, opened: TargetState) -> None:
        """Open a provider's own breaker when two of its targets fail and none has succeeded meanwhile (law 7)."""
        provider = self.providers.get(opened.provider)
        if provider is None:
            # A reload took it away while an exchange was still asking it.
            return
        breaker = provider.breaker
        for other in self._targets.values():
            # One model in two families is one target: it may fail alone.
            if other.provider == opened.provider and other.model != opened.model and other.breaker.state is State.OPEN:
                since = min(opened.breaker.failing_since, other.breaker.failing_since)
                if breaker.lived_at < since:
                    breaker.trip(opened.breaker.opened_at)
                    return
