"""What `/status.json` tells: the configuration in force and the live state behind it, without any secret.

Law 12 holds here: keys are named by their ids, clients by their names, and keys that clients pass through are only counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gateway import __version__
from gateway.config.snapshot import Client, Provider, Snapshot
from gateway.core.accounts import Account
from gateway.core.gate import Gate
from gateway.core.plan import ProviderPlan
from gateway.core.quota import Quota
from gateway.core.registry import ProviderState, Registry
from gateway.egress.pool import PlaceStats
from gateway.observe.limits import limits_of, own_quotas


def status(
    snapshot: Snapshot, registry: Registry, pools: Iterable[PlaceStats], *, state: str, inflight: int, now: float
) -> dict[str, Any]:
    """Return the document; shares are 0 to 1, budgets in retries, connections counted."""
    accounts = dict(registry.accounts())
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
                "balance": route.balance.value,
                "targets": [
                    {"provider": target.provider.name, "model": target.model, "weight": target.weight} for target in route.targets
                ],
            }
            for route in snapshot.routes
        ],
        "clients": [_client(client, accounts.get(client.name), now) for client in snapshot.clients or ()],
        "connections": [
            {"origin": pool.origin, "idle": pool.idle, "busy": pool.busy, "connecting": pool.connecting, "waiting": pool.waiting}
            for pool in pools
        ],
    }


def _provider(provider: Provider, live: ProviderState, registry: Registry, now: float) -> dict[str, Any]:
    gates = list(live.gates())
    foreign = [gate for owner, gate in gates if owner]
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
        "limits": [_gate(gate, live.plan, now) for owner, gate in gates if not owner],
        "passed_through_keys": {"gates": len(foreign), "queued": sum(len(gate.queue) for gate in foreign)},
    }


def _gate(gate: Gate, plan: ProviderPlan, now: float) -> dict[str, Any]:
    """What one model, or one group of models that share their limits, has room for; `model` is empty where requests name none."""
    return {
        "model": gate.label,
        "queue": {
            **{priority.label: depth for priority, depth in gate.priority_depths()},
            "most": gate.queue.depth,
            "sick": gate.queue.sick,
        },
        "promised": len(gate.promises),
        "throttle_share": gate.throttle.share(now),
        "keys": [
            {"id": key, "inflight": quota.inflight, "limits": _limits(quota, now)} for key, quota in own_quotas(plan, gate, now)
        ],
    }


def _client(client: Client, account: Account | None, now: float) -> dict[str, Any]:
    return {
        "name": client.name,
        "priority": client.plan.priority.label,
        "weight": client.plan.weight,
        "limits": [] if account is None else _limits(account.quota, now),
    }


def _limits(quota: Quota, now: float) -> list[dict[str, Any]]:
    """`remaining` is what has room now and `burst` its most; `period_s` is null for requests at the same time."""
    return [
        {
            "resource": limit.resource.value,
            "source": limit.source.value,
            "limit": round(limit.amount, 3),
            "period_s": limit.period_s,
            "burst": round(limit.burst, 3),
            "remaining": round(limit.remaining, 3),
            "forgotten_in_s": None if limit.forgotten_in_s is None else round(limit.forgotten_in_s, 1),
        }
        for limit in limits_of(quota, now)
    ]
