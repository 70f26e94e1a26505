"""The one table of metrics: names, labels, help texts and buckets, exactly as published.

Dashboards, alerts and other people's scripts are written against this table, so that a change here is a change of the product's
interface. Base units; every label bounded (law 11); a sum over any label means something. Separate from `metrics`, which moves what
stands here.
"""

from __future__ import annotations

from typing import Final

from gateway.core.plan import Priority
from gateway.observe.series import Shape, Spec

LATENCY_S: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68)
"""OpenTelemetry's advised buckets for model calls, and two more: answers of minutes are ordinary here."""

OVERHEAD_S: Final = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)

LAG_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

QUEUE_S: Final = (0.005, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0)
"""Waiting is bounded by `queue.wait`, 10 s unless the configuration says otherwise, and by clients' patience."""

RATIO: Final = (0.25, 0.4, 0.5, 0.65, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 2.5, 4.0)
"""Too little and too much by the same factor are as bad, so that the bounds are the same on both sides of 1."""

PRIORITIES: Final = tuple(priority.label for priority in Priority)
"""Label values, found by `Priority`: a property would be called for every log line."""

_COUNTER: Final = Shape.COUNTER
_GAUGE: Final = Shape.GAUGE
_HISTOGRAM: Final = Shape.HISTOGRAM

TABLE: Final[dict[str, Spec]] = {
    spec.name: spec
    for spec in (
        Spec(
            "gateway_requests_total",
            _COUNTER,
            ("route", "client", "outcome", "reason"),
            "Client requests that ended, by what the client got and why; callers with an unknown key: reason unknown_client.",
        ),
        Spec(
            "gateway_request_duration_seconds",
            _HISTOGRAM,
            ("route", "stream"),
            "From a request's complete head to the end of its answer; requests refused by the gateway itself are left out.",
            LATENCY_S,
        ),
        Spec(
            "gateway_first_token_seconds",
            _HISTOGRAM,
            ("route",),
            "From a request's complete head to the first content of its stream, as the client saw it.",
            LATENCY_S,
        ),
        Spec(
            "gateway_overhead_seconds",
            _HISTOGRAM,
            ("route",),
            "Time that the gateway itself added before sending and after hearing; only requests with a single attempt.",
            OVERHEAD_S,
        ),
        Spec(
            "gateway_error_responses_total",
            _COUNTER,
            ("route", "client", "code"),
            "Answers with a status of 400 or more that clients were given, by HTTP status: providers' own and the gateway's.",
        ),
        Spec("gateway_inflight_requests", _GAUGE, ("route",), "Client requests under way."),
        Spec(
            "gateway_saved_requests_total",
            _COUNTER,
            ("route", "by"),
            "Requests whose first attempt went wrong and whose client got a whole, good answer, by what saved them.",
        ),
        Spec(
            "gateway_attempts_total",
            _COUNTER,
            ("route", "provider", "model", "kind", "verdict"),
            "Upstream requests that ended, by why they were made and how they were judged.",
        ),
        Spec(
            "gateway_attempt_duration_seconds",
            _HISTOGRAM,
            ("provider", "model"),
            "From sending an upstream request to the end of its answer; cancelled ones are left out.",
            LATENCY_S,
        ),
        Spec(
            "gateway_upstream_responses_total",
            _COUNTER,
            ("provider", "code"),
            "Answers of providers by HTTP status, or by the I/O fault where there was no status.",
        ),
        Spec(
            "gateway_breaker_share",
            _GAUGE,
            ("provider", "model", "family"),
            "Share of traffic that a breaker admits, 0 to 1; the provider's own breaker has no model and no family.",
        ),
        Spec(
            "gateway_breaker_transitions_total",
            _COUNTER,
            ("provider", "model", "family", "to"),
            "Changes of a breaker's state, by the new state.",
        ),
        Spec("gateway_credentials_benched", _GAUGE, ("provider",), "Credentials of a provider that are out of use for now."),
        Spec("gateway_retry_budget_balance", _GAUGE, ("provider",), "Retries that a provider's budget would still pay for."),
        Spec(
            "gateway_queue_depth",
            _GAUGE,
            ("provider", "model", "priority"),
            "Requests that wait for room at a provider's limits; model: its name, or that of the group that shares its limits.",
        ),
        Spec(
            "gateway_queue_wait_seconds",
            _HISTOGRAM,
            ("provider", "model", "priority"),
            "How long requests stood in a queue, whatever came of it; those that found room at once are left out.",
            QUEUE_S,
        ),
        Spec(
            "gateway_throttle_seconds_total",
            _COUNTER,
            ("provider",),
            "Seconds that requests waited for a provider's limits, all together.",
        ),
        Spec(
            "gateway_quota_limit",
            _GAUGE,
            ("provider", "model", "resource", "source"),
            "What a provider's limit allows per second, or for the resource concurrent at the same time; the sum over our keys.",
        ),
        Spec(
            "gateway_quota_burst",
            _GAUGE,
            ("provider", "model", "resource", "source"),
            "What a provider's limit allows at once when nothing of it is used: the most that gateway_quota_remaining can be.",
        ),
        Spec(
            "gateway_quota_remaining",
            _GAUGE,
            ("provider", "model", "resource", "source"),
            "What a provider's limit has room for now; below zero where it is overdrawn. Of several on one resource the tightest.",
        ),
        Spec(
            "gateway_throttle_share",
            _GAUGE,
            ("provider", "model"),
            "Share of requests that are sent to a target which refuses most of them, 0 to 1; 1 is a calm day.",
        ),
        Spec(
            "gateway_spills_total",
            _COUNTER,
            ("route", "provider"),
            "Requests that went to another target because this provider's limits had no room in time.",
        ),
        Spec(
            "gateway_sheds_total",
            _COUNTER,
            ("provider", "model", "priority", "reason"),
            "Requests that a queue sent away: it was full, or had stood for so long that not all could be answered in time.",
        ),
        Spec(
            "gateway_token_estimate_ratio",
            _HISTOGRAM,
            ("provider", "model"),
            "Tokens of a prompt as estimated before it was sent, by those that the provider reported; 1 is a good guess.",
            RATIO,
        ),
        Spec(
            "gateway_tokens_total",
            _COUNTER,
            ("provider", "model", "type"),
            "Tokens that providers reported for the answers given to clients.",
        ),
        Spec(
            "gateway_streams_broken_total",
            _COUNTER,
            ("provider", "model", "recovered"),
            "Answers that broke off, by whether the client got a whole answer all the same.",
        ),
        Spec(
            "gateway_hedges_total",
            _COUNTER,
            ("route", "result"),
            "Second attempts that were due beside a slow one, by how they ended or why they were not sent.",
        ),
        Spec(
            "gateway_wasted_tokens_total",
            _COUNTER,
            ("provider",),
            "An estimate, not usage: tokens of the prompts sent to attempts that lost a race, as a quarter of the request's bytes.",
        ),
        Spec(
            "gateway_held_streams_overflowed_total",
            _COUNTER,
            ("route",),
            "Streams that outgrew what may be held back, and were delivered as they came.",
        ),
        Spec(
            "gateway_frames_dropped_total",
            _COUNTER,
            ("route",),
            "Frames of streams that were no JSON and were left out, where their like is.",
        ),
        Spec("gateway_config_reloads_total", _COUNTER, ("result",), "Configurations read after the first one."),
        Spec("gateway_config_info", _GAUGE, ("hash",), "Always 1; the label names the configuration in force."),
        Spec(
            "gateway_build_info",
            _GAUGE,
            ("version", "python", "build"),
            "Always 1; the labels name the program, and whether it is compiled.",
        ),
        Spec(
            "gateway_loop_lag_seconds",
            _HISTOGRAM,
            (),
            "How late the event loop ran a timer: what every request waits in addition.",
            LAG_S,
        ),
        Spec("gateway_log_lines_dropped_total", _COUNTER, (), "Access-log lines lost because their reader stalled or left."),
    )
}
