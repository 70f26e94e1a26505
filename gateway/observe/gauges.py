"""Gauges that are read at scrape time from live state, which nobody keeps up to date in between (law 6).

Law 11 holds here: state is by the model's name as it is sent upstream, of which clients can make up thousands, and labels are
bounded; what falls together under one label is added where it is a number of waiting requests, and shown by its worst where it is a
share. Separate from `metrics`, whose cells are moved by events.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import Final, Protocol

from gateway.observe.limits import Total
from gateway.observe.series import gauge_text
from gateway.observe.table import PRIORITIES, TABLE

ANY_MODEL: Final = "*"


class State(Protocol):
    """Live state, asked at scrape time. Models are their names as sent upstream, empty for a provider as a whole."""

    def breakers(self) -> Iterable[tuple[str, str, str, float]]:
        """Yield (provider, model, family, admitted share)."""
        ...

    def budgets(self) -> Iterable[tuple[str, float]]:
        """Yield (provider, balance in retries)."""
        ...

    def benched(self) -> Iterable[tuple[str, int]]:
        """Yield (provider, number of credentials out of use)."""
        ...

    def queues(self) -> Iterable[tuple[str, str, tuple[int, int, int]]]:
        """Yield (provider, model or group, requests that wait by priority); empty for requests that name no model."""
        ...

    def quotas(self, listed: Container[str]) -> Iterable[tuple[str, str, Total]]:
        """Yield (provider, model or group, a kind of limit over all our keys); of models that are not listed the busiest only."""
        ...

    def throttles(self) -> Iterable[tuple[str, str, float]]:
        """Yield (provider, model or group, share of requests that may be sent)."""
        ...


def bounded(model: str, listed: Container[str]) -> str:
    """Return a model's name as a label; empty stays empty: a provider as a whole."""
    return model if not model or model in listed else ANY_MODEL


def gauges(states: list[State], listed: Container[str]) -> Iterator[str]:
    """Yield every gauge in text form; `listed` are the models and groups with labels of their own."""
    breakers = (
        ((provider, bounded(model, listed), family), share)
        for state in states
        for provider, model, family, share in state.breakers()
    )
    yield gauge_text(TABLE["gateway_breaker_share"], breakers)
    budgets = (((provider,), balance) for state in states for provider, balance in state.budgets())
    yield gauge_text(TABLE["gateway_retry_budget_balance"], budgets)
    benched = (((provider,), float(number)) for state in states for provider, number in state.benched())
    yield gauge_text(TABLE["gateway_credentials_benched"], benched)
    shares = (((provider, _place(label, listed)), share) for state in states for provider, label, share in state.throttles())
    yield gauge_text(TABLE["gateway_throttle_share"], shares)
    yield gauge_text(TABLE["gateway_queue_depth"], _depths(states, listed).items())
    yield from _quotas(states, listed)


def _place(label: str, listed: Container[str]) -> str:
    """Return the label of a gate; one for requests that name no model shares that of models which no route lists."""
    return label if label in listed else ANY_MODEL


def _depths(states: list[State], listed: Container[str]) -> dict[tuple[str, ...], float]:
    depths: dict[tuple[str, str], tuple[int, ...]] = {}
    for state in states:
        for provider, label, counts in state.queues():
            place = provider, _place(label, listed)
            known = depths.get(place)
            if known is None:
                depths[place] = counts
            elif any(counts):
                depths[place] = tuple(map(sum, zip(known, counts, strict=True)))
    return {
        (*place, priority): count for place, counts in depths.items() for priority, count in zip(PRIORITIES, counts, strict=True)
    }


def _quotas(states: list[State], listed: Container[str]) -> Iterator[str]:
    """The three numbers of a limit stay together: those of the one of which the least is left."""
    found: dict[tuple[str, ...], Total] = {}
    for state in states:
        for provider, label, total in state.quotas(listed):
            key = (provider, _place(label, listed), total.resource.value, total.source.value)
            known = found.get(key)
            if known is None or total.remaining * known.burst < known.remaining * total.burst:
                found[key] = total
    yield gauge_text(TABLE["gateway_quota_limit"], [(key, total.limit) for key, total in found.items()])
    yield gauge_text(TABLE["gateway_quota_burst"], [(key, total.burst) for key, total in found.items()])
    yield gauge_text(TABLE["gateway_quota_remaining"], [(key, total.remaining) for key, total in found.items()])
