"""The registry as metrics see it: everything that is asked of it at scrape time.

The one place that knows both how live state is kept and what is shown of it, so that neither `core.registry` nor the gauges need to
know of each other. Looking decides nothing (law 13), and nothing shows a client's own key, not even by its hash (law 12).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable

from gateway.core.registry import Registry
from gateway.observe.limits import Total, limited, own_quotas, totals


class RegistryView:
    """Live state for `gauges.State`; the lowest share where several targets share one label."""

    def __init__(self, registry: Registry, clock: Callable[[], float]) -> None:
        self._registry = registry
        self._clock = clock

    def breakers(self) -> Iterable[tuple[str, str, str, float]]:
        """Yield (provider, model, family, admitted share)."""
        now = self._clock()
        shares: dict[tuple[str, str, str], float] = {}
        for name, provider in self._registry.providers.items():
            shares[name, "", ""] = provider.breaker.shown_share(now)
        for target in self._registry.targets():
            key = (target.provider, target.label, target.family.value)
            shares[key] = min(shares.get(key, 1.0), target.breaker.shown_share(now))
        for (name, model, family), share in shares.items():
            yield name, model, family, share

    def budgets(self) -> Iterable[tuple[str, float]]:
        """Yield (provider, balance in retries)."""
        now = self._clock()
        for name, provider in self._registry.providers.items():
            yield name, provider.budget.balance(now)

    def benched(self) -> Iterable[tuple[str, int]]:
        """Yield (provider, number of credentials out of use)."""
        now = self._clock()
        for name, provider in self._registry.providers.items():
            yield name, provider.benched(now)

    def queues(self) -> Iterable[tuple[str, str, tuple[int, int, int]]]:
        """Yield (provider, model or group, requests that wait by priority); also those that wait for a key of their client's."""
        for name, provider in self._registry.providers.items():
            for _, gate in provider.gates():
                yield name, gate.label, gate.queue.depths()

    def quotas(self, listed: Container[str]) -> Iterable[tuple[str, str, Total]]:
        """Yield (provider, model or group, a kind of limit over all our keys); of models that are not listed the busiest only."""
        now = self._clock()
        for name, provider in self._registry.providers.items():
            own = [gate for foreign, gate in provider.gates() if not foreign]
            shown = [gate for gate in own if gate.label in listed]
            # Clients can name thousands of others, and all of them share one label.
            others = (gate for gate in own if gate.label not in listed and limited(gate))
            busiest = max(others, key=lambda gate: gate.busy(now), default=None)
            for gate in shown if busiest is None else (*shown, busiest):
                for total in totals((quota for _, quota in own_quotas(provider.plan, gate, now)), now):
                    yield name, gate.label, total

    def throttles(self) -> Iterable[tuple[str, str, float]]:
        """Yield (provider, model or group, share of requests that may be sent); only for our own keys."""
        now = self._clock()
        for name, provider in self._registry.providers.items():
            for foreign, gate in provider.gates():
                if not foreign:
                    yield name, gate.label, gate.throttle.share(now)
