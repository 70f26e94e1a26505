"""A snapshot in sentences: what `gateway serve` and `gateway check` say about the configuration they have understood.

Routes come out as they will be walked, defaults filled in, so that an operator sees where a prompt can go without reading the file
again. No secret can get here: keys are counted, proxies reduced to host and port.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from gateway.config.addresses import Listen
from gateway.config.snapshot import Provider, Snapshot
from gateway.config.units import show_duration
from gateway.core.plan import Policy, Route, Target


def describe(snapshot: Snapshot) -> list[str]:
    """Return the start-up lines."""
    server, admin = snapshot.server, snapshot.admin
    lines = [
        f"configuration: {snapshot.source} ({snapshot.digest})",
        f"listening on {Listen(server.host, server.port)}, admin on {Listen(admin.host, admin.port)}"
        + (" with a token" if admin.token else ""),
    ]
    if snapshot.clients is not None:
        lines.append(f"clients: {', '.join(client.name for client in snapshot.clients)}")
    lines += [_provider(provider, passes_keys=snapshot.clients is None) for provider in snapshot.providers.values()]
    lines += [_route(route) for route in snapshot.routes]
    lines += [f"note: {note}" for note in snapshot.notes]
    return lines


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
    return f"provider {provider.name}: {', '.join(said)}"


def _route(route: Route) -> str:
    wanted = [
        f"{what} {', '.join(sorted(globs) if isinstance(globs, frozenset) else globs)}"
        for what, globs in (("models", route.models), ("paths", route.paths), ("clients", route.clients))
        if globs is not None
    ]
    policy = route.policy
    return (
        f"route {route.name}: {'; '.join(wanted) or 'everything'} -> {', then '.join(map(_target, route.targets))}"
        f" (policy {policy.name}: {', '.join(_policy(policy))})"
    )


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
