"""The label sets that a configuration lets us expect, so that they exist at zero before anything happens.

`rate()` and `increase()` do not see the first event of a series that begins with it. Law 11 holds here: label values are names of
the configuration, and no more than so many label sets are created ahead per metric; the likeliest come first. Apart from `metrics`,
which counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from itertools import islice, product
from typing import Final, TypeVar

from gateway.config.snapshot import Client, Snapshot
from gateway.core.plan import Priority, Route, Target
from gateway.core.record import Ending, Kind
from gateway.core.verdicts import Fault, IOFault
from gateway.errors import Reason
from gateway.observe.gauges import ANY_MODEL
from gateway.observe.hedges import RESULTS
from gateway.observe.table import PRIORITIES

TOKEN_TYPES: Final = ("input", "output")
BREAKER_STATES: Final = ("closed", "open", "half_open")
IO_CODES: Final = frozenset(map(str, IOFault))

_COUNTERS: Final = 2_000
"""Label sets that one configuration may create ahead, per counter."""
_HISTOGRAMS: Final = _COUNTERS // 10
"""The same per histogram, each of whose label sets is some twenty samples."""

_USUAL_KINDS: Final = (str(Kind.FIRST), str(Kind.FAILOVER), str(Kind.RETRY))
_HEDGE: Final = str(Kind.HEDGE)
_RESUME: Final = str(Kind.RESUME)
_USUAL_CODES: Final = (*map(str, (200, 400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504, 529)), *sorted(IO_CODES))
_GIVEN_CODES: Final = tuple(map(str, (429, 503, 504, 500, 502, 400, 401, 403, 404, 413, 422, 529)))
_UNROUTED_CODES: Final = tuple(map(str, (400, 401, 404, 408, 413, 503)))
_VERDICTS: Final = ("ok", *map(str, Fault), "cancelled")
_USUAL_ENDS: Final[tuple[tuple[Ending, Reason], ...]] = (
    (Ending.OK, Reason.NONE),
    (Ending.CALLER_ERROR, Reason.CALLER),
    (Ending.CLIENT_GONE, Reason.CLIENT_GONE),
    (Ending.FAILED, Reason.ATTEMPTS_EXHAUSTED),
    (Ending.FAILED, Reason.DEADLINE),
    (Ending.FAILED, Reason.NOT_RETRYABLE),
    (Ending.FAILED, Reason.NO_TARGET),
    (Ending.FAILED, Reason.RATE_LIMITED),
    (Ending.FAILED, Reason.RETRY_BUDGET),
    (Ending.FAILED, Reason.STREAM_BROKEN),
    (Ending.REFUSED, Reason.BREAKERS_OPEN),
    (Ending.REFUSED, Reason.CREDENTIALS_BENCHED),
    (Ending.REFUSED, Reason.QUEUE_FULL),
    (Ending.REFUSED, Reason.RATE_LIMITED),
    (Ending.REFUSED, Reason.SHED),
    (Ending.REFUSED, Reason.THROTTLED),
)
_UNROUTED_REFUSALS: Final = (
    Reason.BAD_REQUEST,
    Reason.BODY_TOO_LARGE,
    Reason.CONNECTION_LIMIT,
    Reason.DRAINING,
    Reason.NO_ROUTE,
    Reason.REQUEST_TIMEOUT,
    Reason.UNKNOWN_CLIENT,
)
_SHEDS: Final = (str(Reason.QUEUE_FULL), str(Reason.SHED))

Expected = tuple[str, tuple[str, ...]]
"""A metric's name and the label values of one of its cells, in the order of the table."""

_T = TypeVar("_T")


def models(snapshot: Snapshot) -> frozenset[str]:
    """Return the models that may be labels: those that routes list, and groups that share limits."""
    routed = (model for route in snapshot.routes for _, model in _labels(route))
    grouped = (group.name for provider in snapshot.providers.values() for group in provider.plan.groups)
    return frozenset((*routed, *grouped))


def expected(snapshot: Snapshot) -> Iterator[Expected]:
    """Yield every cell to create at zero."""
    yield from _of_routes(snapshot)
    yield from _of_clients(snapshot)
    yield from _of_places(snapshot)
    yield from _of_queues(snapshot)
    providers = list(snapshot.providers)
    for provider, code in _first((provider, code) for code in _USUAL_CODES for provider in providers):
        yield "gateway_upstream_responses_total", (provider, code)
    for provider, to in _first((provider, to) for to in BREAKER_STATES for provider in providers):
        yield "gateway_breaker_transitions_total", (provider, "", "", to)


def _of_routes(snapshot: Snapshot) -> Iterator[Expected]:
    for route in snapshot.routes:
        for name in ("inflight_requests", "first_token_seconds", "overhead_seconds", "frames_dropped_total"):
            yield f"gateway_{name}", (route.name,)
        for stream in ("false", "true"):
            yield "gateway_request_duration_seconds", (route.name, stream)
        for kind in _USUAL_KINDS[1:]:
            yield "gateway_saved_requests_total", (route.name, kind)
        yield from _of_deliveries(route)


def _of_deliveries(route: Route) -> Iterator[Expected]:
    """What only routes have that hedge, hold streams back or resume them."""
    for kind in {_HEDGE, _RESUME}.difference(_unused_kinds(route)):
        yield "gateway_saved_requests_total", (route.name, kind)
    if route.policy.stream.hold_s:
        yield "gateway_held_streams_overflowed_total", (route.name,)
    if route.policy.hedge is not None:
        for result in RESULTS:
            yield "gateway_hedges_total", (route.name, result)
        for target in route.targets:
            yield "gateway_wasted_tokens_total", (target.provider.name,)


def _of_clients(snapshot: Snapshot) -> Iterator[Expected]:
    routes = [route.name for route in snapshot.routes]
    known = snapshot.clients or ()
    clients = [""] if snapshot.clients is None else [client.name for client in known]
    restricted = [client.name for client in known if client.models is not None]
    limited = [client.name for client in known if _has_limits(client)]
    for reason in _UNROUTED_REFUSALS:
        yield "gateway_requests_total", ("", "", str(Ending.REFUSED), str(reason))
    for code in _UNROUTED_CODES:
        yield "gateway_error_responses_total", ("", "", code)
    for client in restricted[:_COUNTERS]:
        yield "gateway_requests_total", ("", client, str(Ending.REFUSED), str(Reason.MODEL_NOT_ALLOWED))
        yield "gateway_error_responses_total", ("", client, "403")
    for route, client in _first(product(routes, limited)):
        yield "gateway_requests_total", (route, client, str(Ending.REFUSED), str(Reason.CLIENT_LIMIT))
    for (ending, reason), route, client in _first(product(_USUAL_ENDS, routes, clients)):
        yield "gateway_requests_total", (route, client, str(ending), str(reason))
    for code, route, client in _first(product(_GIVEN_CODES, routes, clients)):
        yield "gateway_error_responses_total", (route, client, code)


def _of_places(snapshot: Snapshot) -> Iterator[Expected]:
    served = [(route.name, *label) for route in snapshot.routes for label in _labels(route)]
    unused = {(route.name, kind) for route in snapshot.routes for kind in _unused_kinds(route)}
    kinds = (
        (verdict, kind, place)
        for verdict, kind, place in product(_VERDICTS, (*_USUAL_KINDS, _HEDGE, _RESUME), served)
        if (place[0], kind) not in unused
    )
    for verdict, kind, (route, provider, model) in _first(kinds):
        yield "gateway_attempts_total", (route, provider, model, kind, verdict)
    places = _places(snapshot)
    for place in places[:_HISTOGRAMS]:
        yield "gateway_attempt_duration_seconds", place
        yield "gateway_token_estimate_ratio", place
    for recovered, place in _first(product(("false", "true"), places)):
        yield "gateway_streams_broken_total", (*place, recovered)
    for tokens, place in _first(product(TOKEN_TYPES, places)):
        yield "gateway_tokens_total", (*place, tokens)


def _of_queues(snapshot: Snapshot) -> Iterator[Expected]:
    """Waiting is possible wherever a limit is, and limits are learned."""
    for provider in snapshot.providers:
        yield "gateway_throttle_seconds_total", (provider,)
    spills = ((route.name, target.provider.name) for route in snapshot.routes for target in route.targets)
    for spill in _first(dict.fromkeys(spills)):
        yield "gateway_spills_total", spill
    highest = min((client.plan.priority for client in snapshot.clients or ()), default=Priority.STANDARD)
    # Nobody may raise a priority, and everybody may lower one.
    priorities = PRIORITIES[highest:]
    places = list(dict.fromkeys(_queue_of(snapshot, *place) for place in _places(snapshot)))
    for priority, place in islice(product(priorities, places), _HISTOGRAMS):
        yield "gateway_queue_wait_seconds", (*place, priority)
    for reason, priority, place in _first(product(_SHEDS, priorities, places)):
        yield "gateway_sheds_total", (*place, priority, reason)


def _queue_of(snapshot: Snapshot, provider: str, model: str) -> tuple[str, str]:
    """Return the queue in front of a place: models of one group share theirs."""
    for group in snapshot.providers[provider].plan.groups:
        if any(fnmatchcase(model, glob) for glob in group.models):
            return provider, group.name
    return provider, model


def _places(snapshot: Snapshot) -> list[tuple[str, str]]:
    return list(dict.fromkeys(label for route in snapshot.routes for label in _labels(route)))


def _has_limits(client: Client) -> bool:
    quota = client.plan.quota
    return bool(quota.rates) or quota.concurrent is not None


def _first(label_sets: Iterable[_T]) -> Iterator[_T]:
    return islice(label_sets, _COUNTERS)


def _unused_kinds(route: Route) -> list[str]:
    """Return the kinds of attempts that this route's policy does not allow."""
    policy = route.policy
    return [kind for kind, used in ((_HEDGE, policy.hedge is not None), (_RESUME, policy.stream.resume)) if not used]


def _labels(route: Route) -> Iterator[tuple[str, str]]:
    """Yield (provider, model label) of every place that a route leads to; the client's own names only where they are listed."""
    literal = [name for name in route.models or () if not any(sign in name for sign in "*?[")]
    open_ended = route.models is None or len(literal) < len(route.models)
    for target in route.targets:
        yield from ((target.provider.name, model) for model in _models_at(target, literal, open_ended))


def _models_at(target: Target, literal: list[str], open_ended: bool) -> list[str]:
    if target.model is not None:
        return [target.model]
    return [*literal, ANY_MODEL] if open_ended else literal
