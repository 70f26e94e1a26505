"""A provider's limits as they are shown: by metrics as sums over our keys, on the status page one by one.

Law 13 holds here: looking changes nothing. What holds no longer is left out and not removed, and a key that was never used is
shown with what the configuration says of it, without any state being made for it. Law 11: only our own keys are looked at; those
that clients bring are theirs, and as many as they like. Apart from `core.quota`, which decides by these limits and need not explain
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from gateway.core.bucket import NEVER, Source
from gateway.core.gate import Gate
from gateway.core.plan import ProviderPlan, QuotaPlan, Resource
from gateway.core.quota import Quota

_CONCURRENT: Final = Resource.CONCURRENT
_CONFIGURED: Final = Source.CONFIGURED
_LEARNED: Final = Source.LEARNED


class Limit(NamedTuple):
    """One limit of one key, now."""

    resource: Resource
    source: Source
    amount: float
    """Per period, or at the same time."""
    period_s: float | None
    """None for requests at the same time."""
    burst: float
    """The most that can remain."""
    remaining: float
    """Below zero where it is overdrawn."""
    forgotten_in_s: float | None
    """Seconds until it holds no longer, unless it is confirmed; None where that has no end, or is not known."""

    @property
    def share(self) -> float:
        """What is left of it, at most 1."""
        return self.remaining / self.burst


class Total(NamedTuple):
    """One kind of limit, over all of our keys of which it is known."""

    resource: Resource
    source: Source
    limit: float
    """Per second, or at the same time for `Resource.CONCURRENT`."""
    burst: float
    remaining: float


def limits_of(quota: Quota, now: float) -> list[Limit]:
    """Return every limit that holds for a key."""
    found = [
        Limit(
            bucket.resource,
            bucket.source,
            bucket.amount,
            bucket.period_s,
            bucket.burst,
            bucket.level(now),
            None if bucket.until == NEVER else bucket.until - now,
        )
        for bucket in quota.known(now)
    ]
    learned = None if quota.ceiling is None else quota.ceiling.value(now)
    for most, source in ((quota.concurrent, _CONFIGURED), (learned, _LEARNED)):
        if most is not None:
            forgotten_in_s = quota.ceiling.until - now if source is _LEARNED and quota.ceiling is not None else None
            found.append(Limit(_CONCURRENT, source, most, None, most, most - quota.inflight, forgotten_in_s))
    return found


def limited(gate: Gate) -> bool:
    """Tell whether any limit is known of a key that was used here."""
    quotas = gate.quotas.values()
    return any(quota.buckets or quota.stated or quota.concurrent is not None or quota.ceiling is not None for quota in quotas)


def own_quotas(plan: ProviderPlan, gate: Gate, now: float) -> Iterator[tuple[str | None, Quota]]:
    """Yield the limits of each of our keys at a gate, by the key's id; None: the provider wants no key, or takes the client's."""
    for key in plan.credentials or (None,):
        quota = gate.quotas.get(key)
        yield key, Quota(_configured(plan, gate.label), now) if quota is None else quota


def totals(quotas: Iterable[Quota], now: float) -> list[Total]:
    """Add up the limits of several keys; of one key's limits of one kind the one counts of which the least is left."""
    found: dict[tuple[Resource, Source], list[float]] = {}
    for quota in quotas:
        tightest: dict[tuple[Resource, Source], Limit] = {}
        for limit in limits_of(quota, now):
            known = tightest.get((limit.resource, limit.source))
            if known is None or limit.share < known.share:
                tightest[limit.resource, limit.source] = limit
        for kind, limit in tightest.items():
            sums = found.setdefault(kind, [0.0, 0.0, 0.0])
            sums[0] += limit.amount if limit.period_s is None else limit.amount / limit.period_s
            sums[1] += limit.burst
            sums[2] += limit.remaining
    return [Total(resource, source, *sums) for (resource, source), sums in found.items()]


def _configured(plan: ProviderPlan, label: str) -> QuotaPlan:
    """Return what the configuration says of a model or group; what names no model is bound by no model's limit."""
    for group in plan.groups:
        if group.name == label:
            return group.quota
    return plan.quota if label else QuotaPlan()
