"""Synthetic records and a compiled configuration, as the exchange and the loader would leave them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.parser import text_string_to_metric_families

from gateway.config.snapshot import AdminPlan, Client, Origin, Provider, Secret, ServerPlan, Snapshot
from gateway.core.plan import Family, Policy, ProviderPlan, Route, Target
from gateway.core.record import AttemptRecord, Ending, ExchangeRecord, Kind
from gateway.dialects.base import Dialect
from gateway.errors import Reason
from gateway.observe.metrics import Metrics

KEY = "sk-live-3f9c0aa1b2"


def attempt(
    number: int = 1,
    kind: Kind = Kind.FIRST,
    provider: str = "openai",
    model: str = "gpt-4o",
    *,
    label: str | None = None,
    verdict: str = "ok",
    status: int = 200,
    code: str = "",
    started: float = 100.001,
    sent: float = 100.002,
    head: float = 100.5,
    content: float = 100.5,
    heard: float = 100.6,
    ended: float = 100.6,
) -> AttemptRecord:
    record = AttemptRecord(number, kind, provider, model, model if label is None else label, started)
    record.sent_at, record.head_at, record.content_at, record.heard_at, record.ended_at = sent, head, content, heard, ended
    record.status, record.verdict, record.code = status, verdict, code
    return record


def exchange(
    *attempts: AttemptRecord,
    route: str = "chat",
    client: str = "",
    ending: Ending = Ending.OK,
    reason: Reason = Reason.NONE,
    stream: bool = False,
    received: float = 100.0,
    opened: float = 100.601,
    ended: float = 100.61,
    status: int = 200,
    answered: bool = True,
    saved_by: Kind | None = None,
    usage: tuple[int, int] | None = None,
) -> ExchangeRecord:
    record = ExchangeRecord("req-1", received)
    record.method, record.path, record.family = "POST", "/v1/chat/completions", Family.CHAT
    record.route, record.client, record.model, record.model_label = route, client, "gpt-4o", "gpt-4o"
    record.stream, record.ending, record.reason, record.status = stream, ending, reason, status
    record.opened_at, record.ended_at = opened, ended
    record.attempts = list(attempts)
    record.winner = attempts[-1] if attempts and answered else None
    record.saved_by, record.usage = saved_by, usage
    return record


class _NoDialect:
    name = "openai"


def snapshot(
    routes: Iterable[tuple[str, tuple[str, ...] | None, tuple[tuple[str, str | None], ...]]] = (
        ("chat", ("gpt-4o", "o*"), (("openai", None), ("azure", "gpt-4o-prod"))),
    ),
    clients: tuple[str | Client, ...] | None = None,
    policies: Mapping[str, Policy] | None = None,
    plans: Iterable[ProviderPlan] = (),
) -> Snapshot:
    """`routes`: (name, models, ((provider, model or None), ...)); every provider holds the same secret key.

    `policies` are those of routes, by name, and `plans` those of providers, where they are not the default.
    """
    routes = tuple(routes)
    names = dict.fromkeys(provider for _, _, targets in routes for provider, _ in targets)
    own = {plan.name: plan for plan in plans}
    known = {name: own.get(name) or ProviderPlan(name=name, domain=name) for name in names}
    dialect: Dialect = _NoDialect()  # type: ignore[assignment]
    return Snapshot(
        server=ServerPlan(),
        admin=AdminPlan(token=Secret(KEY, secret_id="sha256:aaaaaaaaaaaa")),
        providers={
            name: Provider(
                plan=plan,
                dialect=dialect,
                origin=Origin("https", f"{name}.test", 443, proxy=f"http://user:{KEY}@proxy.test:3128"),
                base_path=b"/v1",
                credentials=(Secret(KEY, secret_id="sha256:bbbbbbbbbbbb"),),
            )
            for name, plan in known.items()
        },
        routes=tuple(
            Route(
                name=name,
                targets=tuple(Target(provider=known[provider], model=model) for provider, model in targets),
                policy=(policies or {}).get(name, Policy()),
                models=models,
            )
            for name, models, targets in routes
        ),
        clients=None if clients is None else tuple(map(_client, clients)),
        digest="0123456789ab",
    )


def _client(client: str | Client) -> Client:
    return Client(name=client, digest=b"\0" * 32) if isinstance(client, str) else client


Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(metrics: Metrics) -> Samples:
    """Read an exposition back with the client library's parser: every sample once."""
    found: Samples = {}
    for family in text_string_to_metric_families(metrics.expose()[0].decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"twice in one scrape: {key}"
            found[key] = sample.value
    return found


def value(found: Samples, name: str, **labels: str) -> float | None:
    return found.get((name, frozenset(labels.items())))


def moved(found: Samples) -> Samples:
    """Our own samples that are not zero, without histogram buckets and the constant infos."""
    return {
        (name, labels): number
        for (name, labels), number in found.items()
        if number and name.startswith("gateway_") and not name.endswith(("_bucket", "_info"))
    }
