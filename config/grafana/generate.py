"""Writes `gateway-overview.json`, the Grafana dashboard, next to this file; `--check` only tells whether it is up to date.

A dashboard is code here: a table of panels, each with its questions in PromQL, and a few functions that turn it into Grafana's
JSON, in which nobody could review a change. `queries` gives every question in a form that a bare Prometheus answers, so that a
test can ask them all. Import the JSON into Grafana (Dashboards, New, Import) or provision it from a directory.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

OUTPUT = Path(__file__).with_name("gateway-overview.json")

UID = "gateway-overview"

SCHEMA_VERSION = 42
"""The last version of Grafana's classic dashboard format (12.2); older Grafanas ignore what they do not know."""

COLUMNS = 24
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

BY_ROUTE = 'route=~"$route"'
BY_PROVIDER = 'provider=~"$provider"'
BOTH = f"{BY_ROUTE},{BY_PROVIDER}"
OF_GATEWAYS = "and on (job, instance) gateway_build_info"
"""Picks gateways among all processes that have such metrics, whatever their job is called."""


class Ask(NamedTuple):
    """One question of a panel, and how its answers are called."""

    expr: str
    legend: str


class Panel(NamedTuple):
    """One panel: what it shows, why one would look at it, and its questions."""

    title: str
    description: str
    unit: str
    asks: tuple[Ask, ...]
    width: int = 8
    kind: str = "timeseries"
    stacked: bool = False
    maximum: float | None = None
    text: str = "value"
    """For `stat`: show the value, or the series' name."""


def rate(metric: str, selector: str, by: str = "") -> str:
    """Events per second, summed by the given labels."""
    return f"sum{f' by ({by}) ' if by else ''}(rate({metric}{{{selector}}}[$__rate_interval]))"


def quantile(share: float, metric: str, selector: str, by: str = "") -> str:
    """An estimated quantile of a histogram, over all series or per combination of the given labels."""
    return f"histogram_quantile({share:g}, {rate(f'{metric}_bucket', selector, f'le, {by}' if by else 'le')})"


def percentiles(metric: str, selector: str) -> tuple[Ask, ...]:
    """The usual three quantiles of a histogram."""
    return tuple(Ask(quantile(share, metric, selector), f"p{share * 100:g}") for share in (0.5, 0.95, 0.99))


ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "At a glance",
        (
            Panel(
                "Good answers",
                "Share of requests that ended well, of all whose end was up to us: the caller's own errors and clients that left "
                "are not counted.",
                "percentunit",
                (
                    Ask(
                        f'sum(increase(gateway_requests_total{{outcome="ok",{BY_ROUTE}}}[$__range])) / '
                        f'sum(increase(gateway_requests_total{{outcome=~"ok|failed|refused",{BY_ROUTE}}}[$__range]))',
                        "good",
                    ),
                ),
                width=4,
                kind="stat",
                maximum=1,
            ),
            Panel(
                "Saved requests",
                "Requests whose first attempt went wrong and whose client got a whole, good answer, within the time shown.",
                "short",
                (Ask(f"sum(increase(gateway_saved_requests_total{{{BY_ROUTE}}}[$__range]))", "saved"),),
                width=4,
                kind="stat",
            ),
            Panel(
                "Requests per second",
                "Client requests that ended, of every outcome.",
                "reqps",
                (Ask(rate("gateway_requests_total", BY_ROUTE), "requests"),),
                width=4,
                kind="stat",
            ),
            Panel(
                "p95 latency",
                "95 % of requests took no longer, from their complete head to the end of their answer.",
                "s",
                (Ask(quantile(0.95, "gateway_request_duration_seconds", BY_ROUTE), "p95"),),
                width=4,
                kind="stat",
            ),
            Panel(
                "Version",
                "The program's version, and the Python that runs it.",
                "short",
                (Ask("gateway_build_info", "{{version}}, {{build}}, on {{python}}"),),
                width=4,
                kind="stat",
                text="name",
            ),
            Panel(
                "Configuration",
                "Digest of the configuration in force; two gateways with the same digest behave the same.",
                "short",
                (Ask("gateway_config_info", "{{hash}}"),),
                width=4,
                kind="stat",
                text="name",
            ),
        ),
    ),
    (
        "What clients see",
        (
            Panel(
                "Requests by outcome",
                "Ended requests: ok, the caller's own errors, failed upstream, refused by the gateway, client gone.",
                "reqps",
                (Ask(rate("gateway_requests_total", BY_ROUTE, "outcome"), "{{outcome}}"),),
                stacked=True,
            ),
            Panel(
                "Why requests did not end well",
                "Everything but good answers, by outcome and reason; the reason is also in the header x-gateway-reason.",
                "reqps",
                (
                    Ask(
                        rate("gateway_requests_total", f'outcome!="ok",{BY_ROUTE}', "outcome, reason"),
                        "{{outcome}}: {{reason}}",
                    ),
                ),
                stacked=True,
            ),
            Panel(
                "Saved requests by means",
                "What turned a bad first attempt into a good answer.",
                "reqps",
                (Ask(rate("gateway_saved_requests_total", BY_ROUTE, "by"), "{{by}}"),),
                stacked=True,
            ),
            Panel(
                "Request latency",
                "From a request's complete head to the end of its answer; the gateway's own refusals are left out.",
                "s",
                percentiles("gateway_request_duration_seconds", BY_ROUTE),
            ),
            Panel(
                "First token latency",
                "From a stream's request to its first content.",
                "s",
                percentiles("gateway_first_token_seconds", BY_ROUTE),
            ),
            Panel(
                "Requests in flight",
                "Client requests under way, by route.",
                "short",
                (Ask(f"sum by (route) (gateway_inflight_requests{{{BY_ROUTE}}})", "{{route}}"),),
                stacked=True,
            ),
        ),
    ),
    (
        "Providers",
        (
            Panel(
                "Failed attempts by provider and verdict",
                "Attempts that were neither good nor called off, by what was wrong with them.",
                "reqps",
                (
                    Ask(
                        rate("gateway_attempts_total", f'verdict!~"ok|cancelled",{BOTH}', "provider, verdict"),
                        "{{provider}}: {{verdict}}",
                    ),
                ),
                stacked=True,
            ),
            Panel(
                "Share of failed attempts by provider",
                "Failed attempts of all that were judged; the caller's own faults do not count against a provider.",
                "percentunit",
                (
                    Ask(
                        rate("gateway_attempts_total", f'verdict!~"ok|cancelled|caller",{BOTH}', "provider")
                        + " / "
                        + rate("gateway_attempts_total", f'verdict!="cancelled",{BOTH}', "provider"),
                        "{{provider}}",
                    ),
                ),
                maximum=1,
            ),
            Panel(
                "Upstream responses by code",
                "HTTP statuses of providers, and I/O faults where there was no status.",
                "reqps",
                (Ask(rate("gateway_upstream_responses_total", BY_PROVIDER, "provider, code"), "{{provider}}: {{code}}"),),
                stacked=True,
            ),
            Panel(
                "Attempt duration p95 by provider",
                "From sending an upstream request to the end of its answer.",
                "s",
                (Ask(quantile(0.95, "gateway_attempt_duration_seconds", BY_PROVIDER, "provider"), "{{provider}}"),),
            ),
            Panel(
                "Tokens",
                "Tokens that providers reported for answers given to clients, by direction.",
                "suffix: tokens/s",
                (Ask(rate("gateway_tokens_total", BY_PROVIDER, "provider, type"), "{{provider}}: {{type}}"),),
                stacked=True,
            ),
            Panel(
                "Broken answers",
                "Answers that broke off after they began; recovered means that the client got a whole one all the same.",
                "reqps",
                (
                    Ask(
                        rate("gateway_streams_broken_total", BY_PROVIDER, "provider, recovered"),
                        "{{provider}}, recovered: {{recovered}}",
                    ),
                ),
                stacked=True,
            ),
        ),
    ),
    (
        "Resilience",
        (
            Panel(
                "Attempts by provider and kind",
                "Upstream requests by why they were made: first, retry at the same target, failover to another, hedge beside a "
                "slow one.",
                "reqps",
                (Ask(rate("gateway_attempts_total", BOTH, "provider, kind"), "{{provider}}: {{kind}}"),),
                stacked=True,
            ),
            Panel(
                "Attempts per request",
                "Amplification: how many upstream requests one client request costs. 1 is a calm day; a rise without saved "
                "requests is load without use.",
                "short",
                (
                    Ask(
                        f"{rate('gateway_attempts_total', BY_ROUTE)} / "
                        f'{rate("gateway_requests_total", f"""outcome!="refused",{BY_ROUTE}""")}',
                        "attempts per request",
                    ),
                ),
            ),
            Panel(
                "Retry budget",
                "Retries that each provider's budget would still pay for; at zero only failover to another target is left.",
                "short",
                (Ask(f"min by (provider) (gateway_retry_budget_balance{{{BY_PROVIDER}}})", "{{provider}}"),),
            ),
            Panel(
                "Breakers: admitted share",
                "Share of traffic that each breaker lets through: 1 closed, 0 open, between them a ramp.",
                "percentunit",
                (
                    Ask(
                        f"min by (provider, model, family) (gateway_breaker_share{{{BY_PROVIDER}}})",
                        "{{provider}} {{model}} {{family}}",
                    ),
                ),
                maximum=1,
            ),
            Panel(
                "Breaker transitions",
                "Changes of state in the last five minutes; many of them mean that a target is neither up nor down.",
                "short",
                (
                    Ask(
                        f"sum by (provider, model, to) (increase(gateway_breaker_transitions_total{{{BY_PROVIDER}}}[5m]))",
                        "{{provider}} {{model}} to {{to}}",
                    ),
                ),
            ),
            Panel(
                "Benched credentials",
                "Keys out of use for now: refused, out of money, or at their rate limit.",
                "short",
                (Ask(f"sum by (provider) (gateway_credentials_benched{{{BY_PROVIDER}}})", "{{provider}}"),),
            ),
        ),
    ),
    (
        "Rate limits",
        (
            Panel(
                "429s: from providers and to clients",
                "Answers of status 429: what providers gave us, which pacing is there to prevent, and what clients were given.",
                "reqps",
                (
                    Ask(rate("gateway_upstream_responses_total", f'code="429",{BY_PROVIDER}', "provider"), "from {{provider}}"),
                    Ask(rate("gateway_error_responses_total", f'code="429",{BY_ROUTE}'), "to clients"),
                ),
            ),
            Panel(
                "Queue depth by priority",
                "Requests that wait for room at a provider's limits.",
                "short",
                (Ask(f"sum by (priority) (gateway_queue_depth{{{BY_PROVIDER}}})", "{{priority}}"),),
                stacked=True,
            ),
            Panel(
                "Queue wait by priority",
                "How long requests waited for a provider's limits, of those that had to; half waited no longer, and 99 % did not.",
                "s",
                (
                    Ask(quantile(0.5, "gateway_queue_wait_seconds", BY_PROVIDER, "priority"), "{{priority}} p50"),
                    Ask(quantile(0.99, "gateway_queue_wait_seconds", BY_PROVIDER, "priority"), "{{priority}} p99"),
                ),
            ),
            Panel(
                "Limits by source: what is left",
                "Room left at the tightest limit of each kind, of the most that it can hold: configured, stated by the provider in "
                "headers, or learned from refusals.",
                "percentunit",
                (
                    Ask(
                        f"min by (provider, resource, source) "
                        f"(gateway_quota_remaining{{{BY_PROVIDER}}} / gateway_quota_burst{{{BY_PROVIDER}}})",
                        "{{provider}}: {{resource}}, {{source}}",
                    ),
                ),
                maximum=1,
            ),
            Panel(
                "Limits by source: what is allowed",
                "Of each kind of limit the sum over models: per second, or at the same time for the resource concurrent.",
                "short",
                (
                    Ask(
                        f"sum by (provider, resource, source) (gateway_quota_limit{{{BY_PROVIDER}}})",
                        "{{provider}}: {{resource}}, {{source}}",
                    ),
                ),
            ),
            Panel(
                "Seconds waited for limits, per second",
                "How many requests wait at a time, on average: what a larger quota would save.",
                "short",
                (Ask(rate("gateway_throttle_seconds_total", BY_PROVIDER, "provider"), "{{provider}}"),),
                stacked=True,
            ),
            Panel(
                "Spills",
                "Requests that went to another target because this provider had no room in time.",
                "reqps",
                (Ask(rate("gateway_spills_total", BOTH, "route, provider"), "{{route}}: from {{provider}}"),),
                stacked=True,
            ),
            Panel(
                "Sheds by reason",
                "Requests that a queue sent away: it was full, or had stood too long. Other targets may have served them.",
                "reqps",
                (Ask(rate("gateway_sheds_total", BY_PROVIDER, "priority, reason"), "{{priority}}: {{reason}}"),),
                stacked=True,
            ),
            Panel(
                "Client-side throttle",
                "Share of requests that are still sent to targets which refuse most of them; 1 is a calm day.",
                "percentunit",
                (Ask(f"min by (provider, model) (gateway_throttle_share{{{BY_PROVIDER}}})", "{{provider}} {{model}}"),),
                maximum=1,
            ),
            Panel(
                "Token estimates by reported tokens",
                "How good the guesses about prompts are that limits on tokens are kept by: 1 is exact, 2 twice too much.",
                "short",
                tuple(
                    Ask(
                        quantile(share, "gateway_token_estimate_ratio", BY_PROVIDER, "provider"),
                        f"{{{{provider}}}} p{share * 100:g}",
                    )
                    for share in (0.1, 0.5, 0.9)
                ),
            ),
            Panel(
                "Error answers by code",
                "Answers of status 400 or more that clients were given, providers' own and the gateway's.",
                "reqps",
                (Ask(rate("gateway_error_responses_total", BY_ROUTE, "code"), "{{code}}"),),
                stacked=True,
            ),
            Panel(
                "Clients turned away",
                "Callers with an unknown key, clients at their own limits, and models that a client may not use.",
                "reqps",
                (
                    Ask(
                        rate(
                            "gateway_requests_total",
                            f'reason=~"unknown_client|client_limit|model_not_allowed",{BY_ROUTE}',
                            "client, reason",
                        ),
                        "{{client}} {{reason}}",
                    ),
                ),
                stacked=True,
            ),
        ),
    ),
    (
        "Races and deliveries",
        (
            Panel(
                "Hedges by result",
                "Second attempts that were due beside a slow one: won or lost the race, failed, or not sent for want of another "
                "target or of budget. Many lost ones mean that `after` is too soon.",
                "reqps",
                (Ask(rate("gateway_hedges_total", BY_ROUTE, "result"), "{{result}}"),),
                width=6,
                stacked=True,
            ),
            Panel(
                "Wasted tokens, estimated",
                "Prompts sent to attempts that lost a race, by provider, as a quarter of their bytes: an estimate, since nobody "
                "reports what an answer cost that was called off.",
                "suffix: tokens/s",
                (Ask(rate("gateway_wasted_tokens_total", BY_PROVIDER, "provider"), "{{provider}}"),),
                width=6,
                stacked=True,
            ),
            Panel(
                "Held streams that outgrew their bound",
                "Streams too long for `hold` to keep back, and so delivered as they came: a break in them is seen.",
                "reqps",
                (Ask(rate("gateway_held_streams_overflowed_total", BY_ROUTE, "route"), "{{route}}"),),
                width=6,
                stacked=True,
            ),
            Panel(
                "Frames left out",
                "Frames of streams that were no JSON, which no client could have read, and which were not passed on.",
                "suffix: frames/s",
                (Ask(rate("gateway_frames_dropped_total", BY_ROUTE, "route"), "{{route}}"),),
                width=6,
                stacked=True,
            ),
        ),
    ),
    (
        "The gateway itself",
        (
            Panel(
                "Overhead",
                "Time that the gateway added to requests with a single attempt, connecting included.",
                "s",
                percentiles("gateway_overhead_seconds", BY_ROUTE),
            ),
            Panel(
                "Event loop lag",
                "How late timers run; near 100 ms the process needs a second core, which means a second process.",
                "s",
                percentiles("gateway_loop_lag_seconds", ""),
            ),
            Panel(
                "CPU and file descriptors",
                "Cores in use, and the share of the permitted file descriptors that is open.",
                "short",
                (
                    Ask(f"rate(process_cpu_seconds_total[$__rate_interval]) {OF_GATEWAYS}", "{{instance}} cores"),
                    Ask(f"process_open_fds / process_max_fds {OF_GATEWAYS}", "{{instance}} descriptors, share"),
                ),
            ),
            Panel(
                "Memory",
                "Resident memory of the process.",
                "bytes",
                (Ask(f"process_resident_memory_bytes {OF_GATEWAYS}", "{{instance}}"),),
            ),
            Panel(
                "Configuration reloads",
                "Reloads in the last hour; a rejected one leaves the former configuration in force.",
                "short",
                (Ask("sum by (result) (increase(gateway_config_reloads_total[1h]))", "{{result}}"),),
            ),
            Panel(
                "Dropped log lines",
                "Access-log lines lost because whoever reads them stalled; requests do not wait for it.",
                "suffix: lines/s",
                (Ask(rate("gateway_log_lines_dropped_total", ""), "dropped"),),
            ),
        ),
    ),
)


def dashboard() -> dict[str, Any]:
    """Return the dashboard in Grafana's classic JSON format."""
    return {
        "uid": UID,
        "title": "Gateway overview",
        "description": "What clients got, what providers did, what was saved, and what it cost.",
        "tags": ["gateway", "ai"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "timezone": "browser",
        "time": {"from": "now-1h", "to": "now"},
        "annotations": {"list": []},
        "links": [],
        "templating": {
            "list": [
                {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
                _variable("route", "Route", "label_values(gateway_requests_total, route)"),
                _variable("provider", "Provider", "label_values(gateway_attempts_total, provider)"),
            ],
        },
        "panels": list(_panels()),
    }


def queries(board: dict[str, Any], interval: str = "1m") -> list[tuple[str, str]]:
    """Return (panel title, PromQL) of every question, for all routes and providers, with `interval` for Grafana's time ranges."""
    found = []
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            expr = target["expr"]
            for variable, value in (("__rate_interval", interval), ("__range", interval), ("route", ".*"), ("provider", ".*")):
                expr = expr.replace(f"${variable}", value)
            found.append((panel["title"], expr))
    return found


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": f"variable-{name}"},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _panels() -> Iterator[dict[str, Any]]:
    number, y = 0, 0
    for title, panels in ROWS:
        number += 1
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": _grid(0, y, COLUMNS, 1)}
        x, y, height = 0, y + 1, 0
        for panel in panels:
            if x + panel.width > COLUMNS:
                x, y = 0, y + height
            height = 4 if panel.kind == "stat" else 8
            number += 1
            yield _panel(number, panel, _grid(x, y, panel.width, height))
            x += panel.width
        y += height


def _grid(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _panel(number: int, panel: Panel, grid: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.maximum is not None:
        defaults["max"] = panel.maximum
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 30 if panel.stacked else 0,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        }
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": grid,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(panel),
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": DATASOURCE,
                "expr": ask.expr,
                "legendFormat": ask.legend,
                "range": panel.kind != "stat",
                "instant": panel.kind == "stat",
            }
            for index, ask in enumerate(panel.asks)
        ],
    }


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        return {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "none",
            "graphMode": "none",
            "textMode": panel.text,
        }
    return {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def rendered() -> str:
    """Return the file's text."""
    return json.dumps(dashboard(), indent=2) + "\n"


def main(arguments: list[str]) -> int:
    """Write the file, or with `--check` compare it; return the exit status."""
    parser = argparse.ArgumentParser(description="Generates the Grafana dashboard of the gateway.")
    parser.add_argument("--check", action="store_true", help="exit with 1 if the file is not what would be written")
    if parser.parse_args(arguments).check:
        fresh = OUTPUT.exists() and OUTPUT.read_text(encoding="utf-8") == rendered()
        if not fresh:
            print(f"{OUTPUT.name} is stale: run {Path(__file__).name}", file=sys.stderr)
        return 0 if fresh else 1
    OUTPUT.write_text(rendered(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
