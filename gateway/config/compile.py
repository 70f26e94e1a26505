"""A checked configuration to the immutable snapshot that requests are decided by.

Everything optional ends here: durations are seconds, names are objects, layers are laid over each other, proxies are chosen. Only a
configuration in which nothing was found wrong is compiled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import permutations

from gateway.config import addresses, schema
from gateway.config.layers import policies, providers
from gateway.config.quotas import group_plans, quota_plan
from gateway.config.snapshot import AdminPlan, Client, Origin, Provider, ServerPlan, Snapshot
from gateway.config.units import Percentile
from gateway.core.matcher import Rule
from gateway.core.message import header
from gateway.core.plan import (
    BackoffPlan,
    Balance,
    BreakerPlan,
    BudgetPlan,
    ClientPlan,
    HedgePlan,
    Jitter,
    Learned,
    Policy,
    Priority,
    ProviderPlan,
    Route,
    StreamPlan,
    Target,
    Timeouts,
)
from gateway.dialects.registry import DIALECTS


def compile_snapshot(
    configuration: schema.Configuration, *, environ: Mapping[str, str], source: str, digest: str, notes: tuple[str, ...] = ()
) -> Snapshot:
    """Return the snapshot of a configuration without problems; `digest` names its text, `notes` go in front of ours."""
    accounts = {name: _provider(name, settings, environ) for name, settings in providers(configuration).items()}
    rules = {name: compile_policy(name, settings) for name, settings in policies(configuration).items()}
    routes = _routes(configuration, accounts, rules)
    return Snapshot(
        server=_server(configuration.server),
        admin=AdminPlan(configuration.admin.listen.host, configuration.admin.listen.port, configuration.admin.token),
        providers=accounts,
        routes=routes,
        clients=_clients(configuration.clients),
        source=source,
        digest=digest,
        notes=(*notes, *_notes(configuration, accounts, routes)),
    )


def _server(settings: schema.Server) -> ServerPlan:
    limits, timeouts, drain = settings.limits, settings.timeouts, settings.drain
    return ServerPlan(
        host=settings.listen.host,
        port=settings.listen.port,
        header_bytes=limits.header_bytes,
        headers=limits.headers,
        body_bytes=limits.body_bytes,
        replay_bytes=limits.replay_bytes,
        replay_total=limits.replay_total,
        connections=limits.connections,
        header_s=timeouts.header,
        body_idle_s=timeouts.body_idle,
        keepalive_s=timeouts.keepalive,
        drain_delay_s=drain.delay,
        drain_timeout_s=drain.timeout,
    )


def _clients(settings: tuple[schema.Client, ...] | None) -> tuple[Client, ...] | None:
    if settings is None:
        return None
    return tuple(
        Client(
            client.name,
            client.key,
            client.models,
            ClientPlan(client.name, Priority[client.priority.upper()], client.weight, quota_plan(client.limits)),
        )
        for client in settings
    )


def _provider(name: str, settings: schema.Provider, environ: Mapping[str, str]) -> Provider:
    url = settings.base_url
    if url is None:
        raise AssertionError(name)
    if settings.dialect == "azure":
        url = addresses.azure_root(url)
    proxy = settings.proxy if "proxy" in settings.model_fields_set else addresses.proxy_from(environ, url)
    breaker = settings.breaker
    return Provider(
        plan=ProviderPlan(
            name=name,
            domain=settings.domain or name,
            dialect=settings.dialect,
            credentials=tuple(key.id for key in settings.api_key),
            breaker=BreakerPlan(
                consecutive=breaker.consecutive,
                failure_rate=breaker.failure_rate,
                min_requests=breaker.min_requests,
                window_s=breaker.window,
                open_s=breaker.open,
                max_open_s=breaker.max_open,
                ramp_s=breaker.ramp,
            ),
            budget=BudgetPlan(ratio=settings.retry_budget.ratio, floor=float(settings.retry_budget.floor)),
            queue_wait_s=settings.queue.wait,
            queue_depth=settings.queue.depth,
            quota=quota_plan(settings.quota),
            groups=group_plans(settings.quota),
        ),
        dialect=DIALECTS[settings.dialect],
        origin=Origin(
            scheme=url.scheme,
            host=url.host,
            port=url.port,
            ca_file=settings.tls.ca,
            server_name=settings.tls.server_name,
            proxy=proxy,
        ),
        base_path=url.path.encode("ascii"),
        api_version=settings.api_version,
        credentials=settings.api_key,
        headers=tuple(header(key.encode("ascii"), value.encode("ascii")) for key, value in settings.headers.items()),
        region=settings.region or "",
        connect_s=settings.connect,
        pool=settings.pool,
        errors=tuple(Rule(rule.fault, rule.status or (), body=rule.body, scope=rule.scope) for rule in settings.errors),
        stream_usage=settings.stream_usage,
    )


def compile_policy(name: str, settings: schema.Policy) -> Policy:
    """Return the plan of a policy that `default` has been laid under."""
    stream = settings.stream
    return Policy(
        name=name,
        deadline_s=settings.deadline,
        attempts=settings.attempts,
        timeouts=_timeouts(settings.timeouts),
        backoff=BackoffPlan(settings.backoff.base, settings.backoff.cap, Jitter(settings.backoff.jitter)),
        hedge=None if settings.hedge is None else _hedge(settings.hedge),
        stream=StreamPlan(
            hold_s=stream.hold, resume=stream.resume, keepalive_s=stream.keepalive, early_keepalive_s=stream.early_keepalive
        ),
        rate_limit_wait_s=settings.rate_limit_wait,
        failover_content_policy=settings.content_policy == "failover",
    )


def _timeouts(settings: schema.PolicyTimeouts) -> Timeouts:
    first_token_s, answer_s = settings.first_token.initially, settings.answer.initially
    if first_token_s is None or answer_s is None:
        raise AssertionError(settings)
    return Timeouts(
        first_token_s=first_token_s,
        stall_s=settings.stall,
        answer_s=answer_s,
        max_stream_s=settings.max_stream,
        learned_first_token=_learned(settings.first_token),
        learned_answer=_learned(settings.answer),
    )


def _learned(settings: schema.LearnedLimit) -> Learned | None:
    multiple = settings.learned
    return None if multiple is None else Learned(multiple.of.share, multiple.factor, settings.floor)


def _hedge(settings: schema.Hedge) -> HedgePlan:
    plan = HedgePlan(floor_s=settings.floor, budget=settings.budget, max=settings.max, non_stream=settings.non_stream)
    if isinstance(settings.after, Percentile):
        return replace(plan, quantile=settings.after.share)
    return replace(plan, after_s=settings.after)


def _routes(configuration: schema.Configuration, accounts: dict[str, Provider], rules: dict[str, Policy]) -> tuple[Route, ...]:
    if configuration.routes is None:
        (only,) = accounts.values()
        return (Route("default", (Target(only.plan),), rules["default"]),)
    return tuple(
        Route(
            name=route.name,
            targets=tuple(
                Target(
                    provider=accounts[target.provider].plan,
                    model=target.model,
                    only_for=frozenset(target.only_for or ()),
                    hedge=target.hedge,
                    prefill=target.prefill,
                    weight=target.weight,
                )
                for target in route.targets
            ),
            policy=rules[route.policy],
            models=route.match.models,
            paths=route.match.paths,
            clients=frozenset(route.match.clients) if route.match.clients is not None else None,
            balance=Balance(route.balance),
        )
        for route in configuration.routes
    )


def _notes(configuration: schema.Configuration, accounts: dict[str, Provider], routes: tuple[Route, ...]) -> tuple[str, ...]:
    """Return what an operator should know although nothing is wrong."""
    notes: list[str] = []
    if configuration.clients is None:
        reach = "" if configuration.server.listen.loopback else ", from other machines too (`open: true`)"
        notes.append(f"no clients are named: whoever reaches {configuration.server.listen} may call{reach}")
    used = {target.provider.name for route in routes for target in route.targets}
    for name, account in accounts.items():
        if not account.credentials:
            passed = "the client's own key is passed on"
            if configuration.clients is not None:
                passed = "it is called without one, since the keys of `clients` stay here"
            notes.append(f"{name} has no api_key: {passed}")
        if account.origin.scheme == "http" and account.credentials and not addresses.Listen(account.origin.host, 80).loopback:
            notes.append(f"{name}: the key travels unencrypted, the address is http")
        if name not in used:
            notes.append(f"{name} is in no route: requests that name a model reach it by /providers/{name}/ only")
    for route in routes:
        notes += [f"route {route.name} {note}" for note in _lonely(route)]
    return tuple(notes)


def _lonely(route: Route) -> Iterator[str]:
    """Yield what the policy promises and the targets cannot keep."""
    places = {(target.provider.name, target.model): target for target in route.targets}
    ordinary = [target for target in places.values() if not target.only_for]
    if route.policy.hedge is not None and not any(
        other.hedge or (other.provider.dialect == target.provider.dialect and _same_model(route, target.model, other.model))
        for target, other in permutations(ordinary, 2)
    ):
        lack = "no other target has the same dialect and model, or `hedge: on`" if len(ordinary) > 1 else "it has one target only"
        yield f"is never hedged: {lack}"
    if route.policy.stream.resume and len(places) == 1:
        yield "resumes streams, but has one target only: name another one to go on at"
    if route.balance is not Balance.ORDERED and len(ordinary) == 1:
        yield f"balances ({route.balance}), but has one target only"


def _same_model(route: Route, one: str | None, other: str | None) -> bool:
    """Whether two targets may be asked for the same model; one that keeps the client's name may be asked for any of the route's."""
    if one is None or other is None:
        named = one or other
        return named is None or route.models is None or any(fnmatchcase(named, glob) for glob in route.models)
    return one == other
