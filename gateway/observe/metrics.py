"""What is counted: the cells that the request path moves, the hooks of everything else, and the exposition.

Law 5: reasons, verdicts and outcomes are label values verbatim. Law 11: no label value comes from a request as it stands; routes,
clients and providers are names of the configuration, models are bounded by `*`, codes by their kind, and every metric by a number
of label sets. Law 12: no label holds a secret, because none is made from a header or a body. Separate from `table`, which is the
contract with whoever reads the metrics, from `expected`, which knows what a configuration may bring, from `gauges`, which are not
counted, and from `observer`, which knows which event of an exchange moves which of them.

Everything here belongs to the event loop's thread.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest

from gateway import __version__
from gateway.build import build
from gateway.config.snapshot import Snapshot
from gateway.core.plan import Priority
from gateway.core.record import Ending, ExchangeRecord, Kind
from gateway.errors import Reason
from gateway.observe.expected import IO_CODES, TOKEN_TYPES, expected, models
from gateway.observe.gauges import State, bounded, gauges
from gateway.observe.series import CONTENT_TYPE, Count, Counts, Spread, Spreads, gauge_text
from gateway.observe.table import PRIORITIES, TABLE

RELOAD_RESULTS: Final = ("ok", "rejected")

_BOUND: Final = 10_000
"""Sets of cells remembered per kind of event; forgotten together when there are more."""


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

        self._series: dict[str, Counts | Spreads] = {}
        self._requests = self._counts("gateway_requests_total")
        self._duration = self._spreads("gateway_request_duration_seconds")
        self._first_token = self._spreads("gateway_first_token_seconds")
        self._overhead = self._spreads("gateway_overhead_seconds")
        self._errors = self._counts("gateway_error_responses_total")
        self._inflight = self._counts("gateway_inflight_requests")
        self._saved = self._counts("gateway_saved_requests_total")
        self._attempts = self._counts("gateway_attempts_total")
        self._attempt_duration = self._spreads("gateway_attempt_duration_seconds")
        self._responses = self._counts("gateway_upstream_responses_total")
        self._transitions = self._counts("gateway_breaker_transitions_total")
        self._queue_waits = self._spreads("gateway_queue_wait_seconds")
        self._throttled = self._counts("gateway_throttle_seconds_total")
        self._spills = self._counts("gateway_spills_total")
        self._sheds = self._counts("gateway_sheds_total")
        self._estimates = self._spreads("gateway_token_estimate_ratio")
        self._tokens = self._counts("gateway_tokens_total")
        self._broken = self._counts("gateway_streams_broken_total")
        self._hedges = self._counts("gateway_hedges_total")
        self._wasted = self._counts("gateway_wasted_tokens_total")
        self._overflowed = self._counts("gateway_held_streams_overflowed_total")
        self._frames = self._counts("gateway_frames_dropped_total")
        self._reloads = self._counts("gateway_config_reloads_total")
        self._lag = self._spreads("gateway_loop_lag_seconds")
        self._dropped_line = self._counts("gateway_log_lines_dropped_total")
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

    def errored(self, route: str, client: str, status: int) -> None:
        """Count an answer of 400 or more by its status, as the client got it."""
        self._errors.at(route, client, _code(status)).value += 1

    def queued(self, provider: str, model_label: str, priority: Priority, seconds: float) -> None:
        """Count one wait for a provider's limits."""
        self._queue_waits.at(provider, model_label, PRIORITIES[priority]).add(seconds)
        self._throttled.at(provider).value += seconds

    def spilled(self, route: str, provider: str) -> None:
        """Count a request that this provider's limits have sent elsewhere."""
        self._spills.at(route, provider).value += 1

    def shed(self, provider: str, model_label: str, priority: Priority, reason: Reason) -> None:
        """Count a request that was sent away from a queue."""
        self._sheds.at(provider, model_label, PRIORITIES[priority], str(reason)).value += 1

    def estimated(self, provider: str, model_label: str, ratio: float) -> None:
        """Tell how good the estimate of a prompt was: estimated by reported tokens."""
        self._estimates.at(provider, model_label).add(ratio)

    # What the rest of the gateway tells.

    def breaker_moved(self, provider: str, model: str, family: str, to: str) -> None:
        """Count a breaker's change to the state `to`; `model` and `family` are empty for a provider's own breaker."""
        self._transitions.at(provider, bounded(model, self._models), family, to).value += 1

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
        self._models = models(snapshot)
        self._make_room()
        for name, values in expected(snapshot):
            self._series[name].at(*values)

    def expose(self) -> tuple[bytes, str]:
        """Return everything in the text exposition format, and its content type."""
        if self._dropped is not None:
            self._dropped_cell.value = float(self._dropped())
        text = "".join(
            (
                *(series.text() for series in self._series.values()),
                *gauges(self._states, self._models),
                gauge_text(TABLE["gateway_config_info"], [((self._config_hash,), 1)] if self._config_hash else []),
                gauge_text(TABLE["gateway_build_info"], [((__version__, platform.python_version(), build()), 1)]),
            ),
        )
        return text.encode("utf-8") + generate_latest(self.registry), CONTENT_TYPE

    def _counts(self, name: str) -> Counts:
        series = self._series[name] = Counts(TABLE[name])
        return series

    def _spreads(self, name: str) -> Spreads:
        series = self._series[name] = Spreads(TABLE[name])
        return series

    def _make_room(self) -> None:
        crowded = [series for series in self._series.values() if series.crowded and series is not self._inflight]
        for series in crowded:
            series.clear()
        if crowded:
            self.end_cells.clear()
            self.attempt_cells.clear()
            self.token_cells.clear()


def _code(answer: int | str) -> str:
    if isinstance(answer, int):
        return str(answer) if 100 <= answer <= 599 else "other"
    return answer if answer in IO_CODES else "other"
