"""What `/status.json` tells: the configuration in force and the live state behind it, without any secret."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gateway import __version__
from gateway.config.snapshot import Provider, Snapshot
from gateway.core.registry import ProviderState, Registry
from gateway.egress.pool import PlaceStats


def status(
    snapshot: Snapshot, registry: Registry, pools: Iterable[PlaceStats], *, state: str, inflight: int, now: float
) -> dict[str, Any]:
    """Return the document; shares are 0 to 1, budgets in retries, connections counted."""
    return {
        "version": __version__,
        "state": state,
        "config": {"source": snapshot.source, "hash": snapshot.digest},
        "inflight": inflight,
        "providers": [
            _provider(provider, registry.providers[name], registry, now)
            for name, provider in snapshot.providers.items()
            if name in registry.providers
        ],
        "routes": [
            {
                "name": route.name,
                "models": route.models,
                "paths": route.paths,
                "policy": route.policy.name,
                "targets": [{"provider": target.provider.name, "model": target.model} for target in route.targets],
            }
            for route in snapshot.routes
        ],
        "connections": [
            {"origin": pool.origin, "idle": pool.idle, "busy": pool.busy, "connecting": pool.connecting, "waiting": pool.waiting}
            for pool in pools
        ],
    }


def _provider(provider: Provider, live: ProviderState, registry: Registry, now: float) -> dict[str, Any]:
    return {
        "name": provider.name,
        "dialect": provider.dialect.name,
        "domain": provider.plan.domain,
        "region": provider.region,
        "share": live.breaker.shown_share(now),
        "retry_budget": round(live.budget.balance(now), 2),
        "credentials": [{"id": key, "benched_for_s": round(held.benched_for(now), 1)} for key, held in live.credentials.items()],
        "targets": [
            {"model": target.model, "family": target.family.value, "share": target.breaker.shown_share(now)}
            for target in registry.targets()
            if target.provider == provider.name
        ],
    }
