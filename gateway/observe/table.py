"""The one table of metrics: names, labels, help texts and buckets, exactly as published.

Dashboards, alerts and other people's scripts are written against this table, so that a change here is a change of the product's
interface. Base units; every label bounded (law 11); a sum over any label means something. Separate from `metrics`, which moves what
stands here.
"""

from __future__ import annotations

from gateway.observe.series import Shape, Spec

LATENCY_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68)
"""OpenTelemetry's advised buckets for model calls, and two more: answers of minutes are ordinary here."""

OVERHEAD_S = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)

LAG_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

_COUNTER, _GAUGE, _HISTOGRAM = Shape.COUNTER, Shape.GAUGE, Shape.HISTOGRAM

TABLE: dict[str, Spec] = {
    spec.name: spec
    for spec in (
        Spec(
            "gateway_requests_total",
            _COUNTER,
            ("route", "client", "outcome", "reason"),
            "Client requests that ended, by what the client got and why.",
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
        Spec("gateway_build_info", _GAUGE, ("version", "python"), "Always 1; the labels name the program."),
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
