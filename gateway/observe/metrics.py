"""What is counted: the cells that the request path moves, the hooks of everything else, and the exposition.

Law 5: reasons, verdicts and outcomes are label values verbatim. Law 11: no label value comes from a request as it stands; routes,
clients and providers are names of the configuration, models are bounded by `*`, codes by their kind, and every metric by a number
of label sets. Law 12: no label holds a secret, because none is made from a header or a body. Label sets are created at zero when a
configuration is loaded, so that `rate()` and `increase()` see the first event, which would otherwise appear as a series that
starts at one. Separate from `table`, which is the contract with whoever reads the metrics, and from `observer`, which knows which
event of an exchange moves which of them.

Everything here belongs to the event loop's thread.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, product
from typing import NamedTuple, Protocol, TypeVar

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest

from gateway import __version__
from gateway.config.snapshot import Snapshot
from gateway.core.plan import Route, Target
from gateway.core.record import Ending, ExchangeRecord, Kind
from gateway.core.verdicts import Fault, IOFault
from gateway.errors import Reason
from gateway.observe.hedges import RESULTS
from gateway.observe.series import CONTENT_TYPE, Count, Counts, Spread, Spreads, gauge_text
from gateway.observe.table import TABLE

RELOAD_RESULTS = ("ok", "rejected")
TOKEN_TYPES = ("input", "output")
BREAKER_STATES = ("closed", "open", "half_open")
ANY_MODEL = "*"

_PREPARED = 2_000
"""Label sets that one configuration may create ahead, per metric; the likeliest come first."""

_BOUND = 10_000
"""Sets of cells remembered per kind of event; forgotten together when there are more."""

_IO_CODES = frozenset(map(str, IOFault))

_USUAL_KINDS = (str(Kind.FIRST), str(Kind.FAILOVER), str(Kind.RETRY))
_HEDGE, _RESUME = str(Kind.HEDGE), str(Kind.RESUME)
_USUAL_CODES = (*map(str, (200, 400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504, 529)), *sorted(_IO_CODES))
_VERDICTS = ("ok", *map(str, Fault), "cancelled")
_USUAL_ENDS: tuple[tuple[Ending, Reason], ...] = (
    (Ending.OK, Reason.NONE),
    (Ending.CALLER_ERROR, Reason.CALLER),
    (Ending.CLIENT_GONE, Reason.CLIENT_GONE),
    (Ending.FAILED, Reason.ATTEMPTS_EXHAUSTED),
    (Ending.FAILED, Reason.DEADLINE),
    (Ending.FAILED, Reason.NOT_RETRYABLE),
    (Ending.FAILED, Reason.NO_TARGET),
    (Ending.FAILED, Reason.RETRY_BUDGET),
    (Ending.FAILED, Reason.STREAM_BROKEN),
    (Ending.REFUSED, Reason.BREAKERS_OPEN),
    (Ending.REFUSED, Reason.CREDENTIALS_BENCHED),
    (Ending.REFUSED, Reason.RATE_LIMITED),
)
_UNROUTED_REFUSALS = (
    Reason.BAD_REQUEST,
    Reason.BODY_TOO_LARGE,
    Reason.CONNECTION_LIMIT,
    Reason.DRAINING,
    Reason.MODEL_NOT_ALLOWED,
    Reason.NO_ROUTE,
    Reason.REQUEST_TIMEOUT,
    Reason.UNKNOWN_CLIENT,
)


_T = TypeVar("_T")


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


class EndCells(NamedTuple):
    """What the end of an exchange moves."""

    requests: Count
    duration: Spread | None
    """None for refusals: they take no time, and would make an outage look fast."""
    first_token: Spread
    overhead: Spread


class AttemptCells(NamedTuple):
    """What the end of an attempt moves."""

    attempts: Count
    duration: Spread | None
    responses: Count | None
    """None where no answer was waited for."""


class Metrics:
    """All metrics of this process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        """The library's part: `process_*` and `python_info`."""
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

        self._requests = Counts(TABLE["gateway_requests_total"])
        self._duration = Spreads(TABLE["gateway_request_duration_seconds"])
        self._first_token = Spreads(TABLE["gateway_first_token_seconds"])
        self._overhead = Spreads(TABLE["gateway_overhead_seconds"])
        self._inflight = Counts(TABLE["gateway_inflight_requests"])
        self._saved = Counts(TABLE["gateway_saved_requests_total"])
        self._attempts = Counts(TABLE["gateway_attempts_total"])
        self._attempt_duration = Spreads(TABLE["gateway_attempt_duration_seconds"])
        self._responses = Counts(TABLE["gateway_upstream_responses_total"])
        self._transitions = Counts(TABLE["gateway_breaker_transitions_total"])
        self._tokens = Counts(TABLE["gateway_tokens_total"])
        self._broken = Counts(TABLE["gateway_streams_broken_total"])
        self._hedges = Counts(TABLE["gateway_hedges_total"])
        self._wasted = Counts(TABLE["gateway_wasted_tokens_total"])
        self._overflowed = Counts(TABLE["gateway_held_streams_overflowed_total"])
        self._frames = Counts(TABLE["gateway_frames_dropped_total"])
        self._reloads = Counts(TABLE["gateway_config_reloads_total"])
        self._lag = Spreads(TABLE["gateway_loop_lag_seconds"])
        self._dropped_line = Counts(TABLE["gateway_log_lines_dropped_total"])
        self._lag_cell = self._lag.at()
        self._dropped_cell = self._dropped_line.at()

        self.end_cells: dict[tuple[str, str, Ending, Reason, bool], EndCells] = {}
        """Found by (route, client, ending, reason, stream); on a miss, ask `bind_end`."""
        self.attempt_cells: dict[tuple[str, str, str, Kind, str, int | str], AttemptCells] = {}
        """Found by (route, provider, model label, kind, verdict, status or I/O code); on a miss, ask `bind_attempt`."""
        self.token_cells: dict[tuple[str, str], tuple[Count, Count]] = {}
        """Input and output, found by (provider, model label); on a miss, ask `bind_tokens`."""
        self._under_way: dict[ExchangeRecord, Count] = {}

        self._models: frozenset[str] = frozenset()
        self._config_hash = ""
        self._states: list[State] = []
        self._dropped: Callable[[], int] | None = None
        for result in RELOAD_RESULTS:
            self._reloads.at(result)

    # The request path.

    def enter(self, record: ExchangeRecord) -> None:
        """Count a request as under way; call it when the route is known, at most once."""
        cell = self._under_way[record] = self._inflight.at(record.route)
        cell.value += 1

    def leave(self, record: ExchangeRecord) -> None:
        """Count it no longer; nothing happens for one that never entered."""
        cell = self._under_way.pop(record, None)
        if cell is not None:
            cell.value -= 1

    def bind_end(self, key: tuple[str, str, Ending, Reason, bool]) -> EndCells:
        """Find or create the cells which the end of such an exchange moves."""
        route, client, ending, reason, stream = key
        if len(self.end_cells) >= _BOUND:
            self.end_cells.clear()
        cells = self.end_cells[key] = EndCells(
            self._requests.at(route, client, str(ending), str(reason)),
            None if ending is Ending.REFUSED else self._duration.at(route, "true" if stream else "false"),
            self._first_token.at(route),
            self._overhead.at(route),
        )
        return cells

    def bind_attempt(self, key: tuple[str, str, str, Kind, str, int | str]) -> AttemptCells:
        """Find or create the cells which the end of such an attempt moves."""
        route, provider, model, kind, verdict, answer = key
        if len(self.attempt_cells) >= _BOUND:
            self.attempt_cells.clear()
        cut_short = verdict == "cancelled"
        cells = self.attempt_cells[key] = AttemptCells(
            self._attempts.at(route, provider, model, str(kind), verdict),
            None if cut_short else self._attempt_duration.at(provider, model),
            None if cut_short and not isinstance(answer, int) else self._responses.at(provider, _code(answer)),
        )
        return cells

    def bind_tokens(self, key: tuple[str, str]) -> tuple[Count, Count]:
        """Find or create the cells for tokens in and out."""
        if len(self.token_cells) >= _BOUND:
            self.token_cells.clear()
        cells = self.token_cells[key] = (self._tokens.at(*key, TOKEN_TYPES[0]), self._tokens.at(*key, TOKEN_TYPES[1]))
        return cells

    def saved(self, route: str, by: Kind) -> None:
        """Count a request that was saved."""
        self._saved.at(route, str(by)).value += 1

    def stream_broken(self, provider: str, model_label: str, *, recovered: bool) -> None:
        """Count an answer that broke off."""
        self._broken.at(provider, model_label, "true" if recovered else "false").value += 1

    def hedged(self, route: str, result: str) -> None:
        """Count a hedge by its result, or one that was due by why it was not sent."""
        self._hedges.at(route, result).value += 1

    def wasted(self, provider: str, tokens: int) -> None:
        """Count the probable cost of an attempt that lost a race."""
        self._wasted.at(provider).value += tokens

    def hold_overflowed(self, route: str) -> None:
        """Count a stream that was too long to be held back."""
        self._overflowed.at(route).value += 1

    def frames_dropped(self, route: str, count: int) -> None:
        """Count frames of a stream that were left out."""
        self._frames.at(route).value += count

    # What the rest of the gateway tells.

    def breaker_moved(self, provider: str, model: str, family: str, to: str) -> None:
        """Count a breaker's change to the state `to`; `model` and `family` are empty for a provider's own breaker."""
        self._transitions.at(provider, self._bounded(model), family, to).value += 1

    def config_reloaded(self, result: str) -> None:
        """Count a reload: `ok` or `rejected`."""
        if result not in RELOAD_RESULTS:
            raise ValueError(f"not the result of a reload: {result}")
        self._reloads.at(result).value += 1

    def config_info(self, digest: str) -> None:
        """Name the configuration in force."""
        self._config_hash = digest

    def loop_lag(self, seconds: float) -> None:
        """Tell how late a timer of the event loop came."""
        self._lag_cell.add(seconds)

    def watch(self, state: State) -> None:
        """Read this state at every scrape; several sources add up to one picture."""
        self._states.append(state)

    def watch_log(self, dropped: Callable[[], int]) -> None:
        """Read the number of lost log lines from here at every scrape."""
        self._dropped = dropped

    def prepare(self, snapshot: Snapshot) -> None:
        """Create at zero the label sets to be expected of a configuration, the likeliest first, up to a bound per metric.

        Where former configurations have filled half of what a metric may hold, their label sets are forgotten first.
        """
        self.config_info(snapshot.digest)
        self._models = frozenset(model for route in snapshot.routes for _, model in _labels(route))
        self._make_room()

        routes = [route.name for route in snapshot.routes]
        clients = [""] if snapshot.clients is None else [client.name for client in snapshot.clients]
        served = [(route.name, *label) for route in snapshot.routes for label in _labels(route)]
        places = list(dict.fromkeys((provider, model) for _, provider, model in served))
        providers = list(snapshot.providers)

        for route in routes:
            self._inflight.at(route)
            self._first_token.at(route)
            self._overhead.at(route)
            self._frames.at(route)
            for stream in ("false", "true"):
                self._duration.at(route, stream)
            for kind in _USUAL_KINDS[1:]:
                self._saved.at(route, kind)
        for reason in _UNROUTED_REFUSALS:
            self._requests.at("", "", str(Ending.REFUSED), str(reason))
        for (ending, reason), route, client in _first(product(_USUAL_ENDS, routes, clients)):
            self._requests.at(route, client, str(ending), str(reason))
        self._prepare_deliveries(snapshot)
        unused = {(route.name, kind) for route in snapshot.routes for kind in _unused_kinds(route)}
        kinds = (
            (verdict, kind, place)
            for verdict, kind, place in product(_VERDICTS, (*_USUAL_KINDS, _HEDGE, _RESUME), served)
            if (place[0], kind) not in unused
        )
        for verdict, kind, (route, provider, model) in _first(kinds):
            self._attempts.at(route, provider, model, kind, verdict)
        for provider, model in places[: _PREPARED // 10]:
            self._attempt_duration.at(provider, model)
        for recovered, (provider, model) in _first(product(("false", "true"), places)):
            self._broken.at(provider, model, recovered)
        for tokens, (provider, model) in _first(product(TOKEN_TYPES, places)):
            self._tokens.at(provider, model, tokens)
        for provider, code in _first((provider, code) for code in _USUAL_CODES for provider in providers):
            self._responses.at(provider, code)
        for provider, to in _first((provider, to) for to in BREAKER_STATES for provider in providers):
            self._transitions.at(provider, "", "", to)

    def _prepare_deliveries(self, snapshot: Snapshot) -> None:
        """What only routes have that hedge, hold streams back or resume them."""
        for route in snapshot.routes:
            for kind in {_HEDGE, _RESUME}.difference(_unused_kinds(route)):
                self._saved.at(route.name, kind)
            if route.policy.stream.hold_s:
                self._overflowed.at(route.name)
            if route.policy.hedge is not None:
                for result in RESULTS:
                    self._hedges.at(route.name, result)
                for target in route.targets:
                    self._wasted.at(target.provider.name)

    def expose(self) -> tuple[bytes, str]:
        """Return everything in the text exposition format, and its content type."""
        if self._dropped is not None:
            self._dropped_cell.value = self._dropped()
        states = self._states
        breakers = (
            ((provider, self._bounded(model), family), share)
            for state in states
            for provider, model, family, share in state.breakers()
        )
        budgets = (((provider,), balance) for state in states for provider, balance in state.budgets())
        benched = (((provider,), float(number)) for state in states for provider, number in state.benched())
        text = "".join(
            (
                *(series.text() for series in self._series()),
                gauge_text(TABLE["gateway_breaker_share"], breakers),
                gauge_text(TABLE["gateway_retry_budget_balance"], budgets),
                gauge_text(TABLE["gateway_credentials_benched"], benched),
                gauge_text(TABLE["gateway_config_info"], [((self._config_hash,), 1)] if self._config_hash else []),
                gauge_text(TABLE["gateway_build_info"], [((__version__, platform.python_version()), 1)]),
            ),
        )
        return text.encode("utf-8") + generate_latest(self.registry), CONTENT_TYPE

    def _series(self) -> tuple[Counts | Spreads, ...]:
        return (
            self._requests,
            self._duration,
            self._first_token,
            self._overhead,
            self._inflight,
            self._saved,
            self._attempts,
            self._attempt_duration,
            self._responses,
            self._transitions,
            self._tokens,
            self._broken,
            self._hedges,
            self._wasted,
            self._overflowed,
            self._frames,
            self._reloads,
            self._lag,
            self._dropped_line,
        )

    def _make_room(self) -> None:
        crowded = [series for series in self._series() if series.crowded and series is not self._inflight]
        for series in crowded:
            series.clear()
        if crowded:
            self.end_cells.clear()
            self.attempt_cells.clear()
            self.token_cells.clear()

    def _bounded(self, model: str) -> str:
        return model if not model or model in self._models else ANY_MODEL


def _first(label_sets: Iterable[_T]) -> Iterator[_T]:
    return islice(label_sets, _PREPARED)


def _code(answer: int | str) -> str:
    if isinstance(answer, int):
        return str(answer) if 100 <= answer <= 599 else "other"
    return answer if answer in _IO_CODES else "other"


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
