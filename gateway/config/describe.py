"""A snapshot in sentences: what `gateway serve` and `gateway check` say about the configuration they have understood.

Routes come out as they will be walked, defaults filled in, so that an operator sees where a prompt can go without reading the file
again. No secret can get here: keys are counted, proxies reduced to host and port.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from gateway.config.addresses import Listen
from gateway.config.snapshot import Client, Provider, Snapshot
from gateway.config.units import Rate, show_duration, show_rate
from gateway.core.plan import Balance, Policy, Priority, QuotaPlan, Route, Target

_BALANCED: Final = {
    Balance.WEIGHTED: "by weight",
    Balance.FASTEST: "the fastest of",
    Balance.LEAST_BUSY: "the least busy of",
}


def describe(snapshot: Snapshot) -> list[str]:
    """Return the start-up lines."""
    server, admin = snapshot.server, snapshot.admin
    lines = [
        f"configuration: {snapshot.source} ({snapshot.digest})",
        f"listening on {Listen(server.host, server.port)}, admin on {Listen(admin.host, admin.port)}"
        + (" with a token" if admin.token else ""),
    ]
    if snapshot.clients is not None:
        lines.append(f"clients: {', '.join(map(_client, snapshot.clients))}")
    lines += [_provider(provider, passes_keys=snapshot.clients is None) for provider in snapshot.providers.values()]
    lines += [_route(route) for route in snapshot.routes]
    lines += [f"note: {note}" for note in snapshot.notes]
    return lines


def _client(client: Client) -> str:
    plan = client.plan
    said = [plan.priority.label] if plan.priority is not Priority.STANDARD else []
    if plan.weight != 1.0:
        said.append(f"weight {plan.weight:g}")
    if limits := _quota(plan.quota):
        said.append(limits)
    return client.name + (f" ({', '.join(said)})" if said else "")


def _quota(plan: QuotaPlan) -> str:
    """Return all limits that hold together; nothing where there are none."""
    limits = [f"{show_rate(Rate(limit.amount, limit.period_s))} {limit.resource.replace('_', ' ')}" for limit in plan.rates]
    if plan.concurrent is not None:
        limits.append(f"{plan.concurrent} at the same time")
    return " + ".join(limits)


def _provider(provider: Provider, *, passes_keys: bool) -> str:
    origin = provider.origin
    keys = len(provider.credentials)
    said = [
        f"{origin.scheme}://{origin.authority.decode()}{provider.base_path.decode()}",
        provider.dialect.name + (f" {provider.api_version}" if provider.api_version else ""),
        f"{keys} key{'s' * (keys > 1)}" if keys else "the client's own key" if passes_keys else "no key",
    ]
    if provider.plan.domain != provider.name:
        said.append(f"fails with {provider.plan.domain}")
    if provider.region:
        said.append(f"region {provider.region}")
    if origin.proxy is not None:
        said.append(f"through proxy {origin.proxy.rpartition('@')[2].rpartition('/')[2]}")
    if limits := _quota(provider.plan.quota):
        said.append(f"quota {limits}")
    said += [f"quota of {group.name} {_quota(group.quota)}" for group in provider.plan.groups]
    return f"provider {provider.name}: {', '.join(said)}"


def _route(route: Route) -> str:
    wanted = [
        f"{what} {', '.join(sorted(globs) if isinstance(globs, frozenset) else globs)}"
        for what, globs in (("models", route.models), ("paths", route.paths), ("clients", route.clients))
        if globs is not None
    ]
    policy = route.policy
    return (
        f"route {route.name}: {'; '.join(wanted) or 'everything'} -> {_targets(route)}"
        f" (policy {policy.name}: {', '.join(_policy(policy))})"
    )


def _targets(route: Route) -> str:
    """Return the targets as they are tried: in their order, or those that are balanced first."""
    if route.balance is Balance.ORDERED:
        return ", then ".join(map(_target, route.targets))
    balanced = [
        _target(target) + (f" (weight {target.weight:g})" if target.weight != 1.0 else "")
        for target in route.targets
        if not target.only_for
    ]
    rest = [_target(target) for target in route.targets if target.only_for]
    return ", then ".join([f"{_BALANCED[route.balance]} {', '.join(balanced)}", *rest])


def _policy(policy: Policy) -> Iterator[str]:
    yield show_duration(policy.deadline_s)
    yield f"{policy.attempts} attempt{'s' * (policy.attempts > 1)}"
    if policy.timeouts.learned_first_token or policy.timeouts.learned_answer:
        yield "learns its limits"
    if policy.hedge is not None:
        after_s = policy.hedge.after_s
        yield f"hedges after {f'p{policy.hedge.quantile * 100:.0f}' if after_s is None else show_duration(after_s)}"
    if policy.stream.hold_s:
        yield f"holds streams {'until whole' if math.isinf(policy.stream.hold_s) else f'for {show_duration(policy.stream.hold_s)}'}"
    if policy.stream.resume:
        yield "resumes streams"


def _target(target: Target) -> str:
    name = target.provider.name + (f" as {target.model}" if target.model is not None else "")
    return f"{name} only for {', '.join(sorted(target.only_for))}" if target.only_for else name
