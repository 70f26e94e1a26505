"""From text to snapshot: defaults, layers, addresses, clients, routes, and what is said about them."""

from __future__ import annotations

import hashlib
import re

import pytest

from gateway.config.describe import describe
from gateway.config.snapshot import AdminPlan, ServerPlan
from gateway.core.matcher import Rule
from gateway.core.plan import (
    BackoffPlan,
    Balance,
    BreakerPlan,
    BudgetPlan,
    HedgePlan,
    Jitter,
    Learned,
    Policy,
    Prefill,
    ProviderPlan,
    StreamPlan,
    Target,
    Timeouts,
)
from gateway.core.verdicts import Fault, Scope

NEVER = float("inf")
ONE = "providers: {p: {dialect: openai, base_url: https://h/v1}}\n"


def test_the_least_configuration_has_the_plans_own_defaults(read):
    snapshot = read(ONE)
    provider = snapshot.providers["p"]
    (route,) = snapshot.routes
    assert snapshot.server == ServerPlan()
    assert snapshot.admin == AdminPlan()
    assert (provider.plan.breaker, provider.plan.budget) == (BreakerPlan(), BudgetPlan())
    assert (provider.connect_s, provider.pool, provider.plan.domain) == (5.0, 1000, "p")
    assert provider.plan == ProviderPlan("p", "p")
    assert (provider.errors, provider.stream_usage) == ((), False)
    assert (provider.credentials, provider.headers, provider.region, provider.api_version) == ((), (), "", None)
    assert (route.name, route.policy) == ("default", Policy(stream=StreamPlan(keepalive_s=15.0)))
    assert (route.models, route.paths, route.clients) == (None, None, None)
    assert (route.balance, route.targets[0].weight) == (Balance.ORDERED, 1.0)
    assert route.targets[0].provider is provider.plan
    assert snapshot.clients is None


def test_every_number_reaches_its_place(read):
    snapshot = read(
        """
server:
  listen: "[::1]:1"
  limits: {header_bytes: 1KiB, headers: 2, body_bytes: 3KiB, replay_bytes: 4KiB, replay_total: 5KiB, connections: 6}
  timeouts: {header: 7s, body_idle: 8s, keepalive: 9s}
  drain: {delay: 10s, timeout: 11s}
admin: {listen: "localhost:12", token: t0ken}
providers:
  p:
    dialect: azure
    base_url: http://H:81/x/openai/
    api_version: 2024-10-21
    domain: d
    region: r
    headers: {X-Team: search}
    connect: 13s
    pool: 14
    breaker: {consecutive: 15, failure_rate: 16%, min_requests: 17, window: 18s, open: 19s, max_open: 20s, ramp: 21s}
    retry_budget: {ratio: 22%, floor: 23}
    queue: {wait: 31s, depth: 36}
    stream_usage: on
    errors:
      - {status: [400, 5xx, "429", 500-503], body: "(?i)no room", fault: overloaded, scope: provider}
      - {status: 404, fault: model_gone}
      - {body: x, fault: caller}
routes:
  - name: r
    match: {models: [m], paths: [/v1/x]}
    targets:
      - p
      - {provider: p, model: n, only_for: [timeout]}
      - {provider: p, model: o, hedge: on, prefill: prefix_echoed, weight: 37}
    balance: least_busy
    policy: q
policies:
  q:
    deadline: 24s
    attempts: 5
    timeouts:
      first_token: 25s
      stall: 26s
      answer: {learned: p50 x 1.5, floor: 27s, initially: 32s}
      max_stream: 28s
    backoff: {base: 29ms, cap: 30s, jitter: decorrelated}
    rate_limit_wait: 0s
    hedge: {after: p10, floor: 33ms, budget: 34%, max: 2, non_stream: on}
    stream: {hold: 35ms, resume: on, keepalive: 1s, early_keepalive: 2s}
    content_policy: failover
""",
    )
    assert snapshot.server == ServerPlan("::1", 1, 1024, 2, 3072, 4096, 5120, 6, 7.0, 8.0, 9.0, 10.0, 11.0)
    assert (snapshot.admin.host, snapshot.admin.port) == ("localhost", 12)
    provider = snapshot.providers["p"]
    assert (provider.origin.scheme, provider.origin.host, provider.origin.port) == ("http", "h", 81)
    assert (provider.base_path, provider.api_version, provider.region) == (b"/x", "2024-10-21", "r")
    assert provider.headers == ((b"x-team", b"x-team", b"search"),)
    assert (provider.connect_s, provider.pool, provider.plan.domain) == (13.0, 14, "d")
    assert provider.plan.breaker == BreakerPlan(15, 0.16, 17, 18.0, 19.0, 20.0, 21.0)
    assert provider.plan.budget == BudgetPlan(0.22, 23.0)
    assert (provider.plan.queue_wait_s, provider.plan.queue_depth) == (31.0, 36)
    assert provider.errors == (
        Rule(
            Fault.OVERLOADED,
            ((400, 400), (500, 599), (429, 429), (500, 503)),
            body=re.compile(b"(?i)no room"),
            scope=Scope.PROVIDER,
        ),
        Rule(Fault.MODEL_GONE, ((404, 404),)),
        Rule(Fault.CALLER, body=re.compile(b"x")),
    )
    (route,) = snapshot.routes
    assert route.policy == Policy(
        name="q",
        deadline_s=24.0,
        attempts=5,
        timeouts=Timeouts(25.0, 26.0, 32.0, 28.0, learned_answer=Learned(0.5, 1.5, 27.0)),
        backoff=BackoffPlan(0.029, 30.0, Jitter.DECORRELATED),
        hedge=HedgePlan(after_s=None, quantile=0.1, floor_s=0.033, budget=0.34, max=2, non_stream=True),
        stream=StreamPlan(hold_s=0.035, resume=True, keepalive_s=1.0, early_keepalive_s=2.0),
        rate_limit_wait_s=0.0,
        failover_content_policy=True,
    )
    assert (route.models, route.paths, route.balance) == (("m",), ("/v1/x",), Balance.LEAST_BUSY)
    assert route.targets == (
        Target(provider.plan),
        Target(provider.plan, "n", frozenset({Fault.TIMEOUT})),
        Target(provider.plan, "o", hedge=True, prefill=Prefill.PREFIX_ECHOED, weight=37.0),
    )
    assert (provider.plan.dialect, provider.stream_usage) == ("azure", True)


@pytest.mark.parametrize(
    ("url", "authority", "path"),
    [
        ("https://api.openai.com", b"api.openai.com", b""),
        ("https://API.openai.com/v1/", b"api.openai.com", b"/v1"),
        ("https://h:443/v1", b"h", b"/v1"),
        ("http://h:8000", b"h:8000", b""),
        ("http://127.0.0.1:80/a%20b/", b"127.0.0.1", b"/a%20b"),
        ("https://[2001:DB8::1]:8443/v1", b"[2001:db8::1]:8443", b"/v1"),
    ],
)
def test_a_base_url_becomes_an_origin_and_a_path(read, url, authority, path):
    provider = read(f'providers: {{p: {{dialect: openai, base_url: "{url}"}}}}').providers["p"]
    assert (provider.origin.authority, provider.base_path) == (authority, path)


@pytest.mark.parametrize("ending", ["", "/", "/openai", "/openai/", "/openai/v1", "/openai/v1/"])
def test_an_azure_address_may_be_written_as_azure_shows_it(read, ending):
    provider = read(f"providers: {{p: {{dialect: azure, base_url: https://res.openai.azure.com{ending}}}}}").providers["p"]
    assert provider.base_path == b""


def test_defaults_lie_under_every_provider_key_by_key(read):
    snapshot = read(
        """
provider_defaults:
  dialect: openai
  connect: 1s
  headers: {x-a: all, x-b: all}
  breaker: {open: 2s, window: 9s}
providers:
  p: {base_url: https://p, headers: {X-B: mine}, breaker: {open: 3s}}
  q: {base_url: https://q, connect: 4s}
routes: [{name: r, match: {}, targets: [p, q]}]
""",
    )
    p, q = snapshot.providers.values()
    assert (p.connect_s, q.connect_s) == (1.0, 4.0)
    assert p.headers == ((b"x-a", b"x-a", b"all"), (b"x-b", b"x-b", b"mine"))
    assert (p.plan.breaker.open_s, p.plan.breaker.window_s, q.plan.breaker.open_s) == (3.0, 9.0, 2.0)
    assert p.plan.breaker.consecutive == 5


def test_a_provider_s_own_rules_for_errors_replace_the_defaults(read):
    snapshot = read(
        """
provider_defaults: {dialect: openai, queue: {wait: 2s}, errors: [{status: 400, fault: overloaded}]}
providers:
  p: {base_url: https://p, errors: [{status: 422, fault: overloaded}], queue: {}}
  q: {base_url: https://q, queue: {wait: 0s}}
  r: {base_url: https://r, errors: []}
routes: [{name: r, match: {}, targets: [p, q, r]}]
""",
    )
    assert {name: provider.errors for name, provider in snapshot.providers.items()} == {
        "p": (Rule(Fault.OVERLOADED, ((422, 422),)),),
        "q": (Rule(Fault.OVERLOADED, ((400, 400),)),),
        "r": (),
    }
    assert [provider.plan.queue_wait_s for provider in snapshot.providers.values()] == [2.0, 0.0, 2.0]


def test_policies_start_from_a_default_that_may_be_changed(read):
    snapshot = read(
        ONE + "policies: {default: {attempts: 2, backoff: {cap: 9s}}, q: {backoff: {base: 1s}}, r: {attempts: 7}}\n"
        "routes:\n"
        "  - {name: a, match: {models: [a]}, targets: [p], policy: q}\n"
        "  - {name: b, match: {models: [b]}, targets: [p], policy: r}\n"
        "  - {name: c, match: {}, targets: [p]}\n",
    )
    q, r, default = (route.policy for route in snapshot.routes)
    assert (q.name, q.attempts, q.backoff.base_s, q.backoff.cap_s) == ("q", 2, 1.0, 9.0)
    assert (r.name, r.attempts, r.backoff.cap_s) == ("r", 7, 9.0)
    assert (default.name, default.attempts) == ("default", 2)


@pytest.fixture(name="policy")
def _policy(read):
    """The policy that a text of `policies` comes to: the one called q, which may lie on a `default`."""

    def policy(text):
        return read(f"{ONE}routes: [{{name: r, match: {{}}, targets: [p], policy: q}}]\npolicies: {{{text}}}\n").routes[0].policy

    return policy


@pytest.mark.parametrize(
    ("hedge", "plan"),
    [
        ("off", None),
        ("'off'", None),
        ("{}", HedgePlan()),
        ("{after: p99}", HedgePlan(quantile=0.99)),
        ("{after: 800ms}", HedgePlan(after_s=0.8)),
        ("{after: '${AFTER}', max: '${MAX}', budget: 100%}", HedgePlan(quantile=0.9, max=3, budget=1.0)),
    ],
)
def test_a_hedge_is_off_or_says_when(read, hedge, plan):
    text = f"{ONE}policies: {{default: {{hedge: {hedge}}}}}\n"
    assert read(text, {"AFTER": "p90", "MAX": "3"}).routes[0].policy.hedge == plan


@pytest.mark.parametrize(
    ("stream", "plan"),
    [
        ("{}", StreamPlan(0.0, resume=False, keepalive_s=15.0, early_keepalive_s=NEVER)),
        ("{hold: none}", StreamPlan(0.0, keepalive_s=15.0)),
        ("{hold: 1m30s}", StreamPlan(90.0, keepalive_s=15.0)),
        ("{hold: all}", StreamPlan(NEVER, keepalive_s=15.0)),
        ("{resume: on}", StreamPlan(resume=True, keepalive_s=15.0)),
        ("{resume: 'off', keepalive: off}", StreamPlan(keepalive_s=NEVER)),
        ("{keepalive: 'off', early_keepalive: 45s}", StreamPlan(keepalive_s=NEVER, early_keepalive_s=45.0)),
        ("{keepalive: 1s, early_keepalive: off}", StreamPlan(keepalive_s=1.0)),
    ],
)
def test_a_stream_is_delivered_as_said(policy, stream, plan):
    assert policy(f"q: {{stream: {stream}}}").stream == plan


@pytest.mark.parametrize(
    ("timeouts", "plan"),
    [
        ("{first_token: 60s}", Timeouts(first_token_s=60.0)),
        ("{first_token: {learned: p99 x 3}}", Timeouts(learned_first_token=Learned())),
        ("{answer: {learned: p95x2, initially: 90s}}", Timeouts(answer_s=90.0, learned_answer=Learned(0.95, 2.0, 20.0))),
        (
            "{first_token: {learned: p50 \u00d7 10, floor: 1s}, answer: {learned: 'p99  x 1'}}",
            Timeouts(learned_first_token=Learned(0.5, 10.0, 1.0), learned_answer=Learned(0.99, 1.0, 20.0)),
        ),
    ],
)
def test_a_limit_stays_as_it_is_or_is_learned(policy, timeouts, plan):
    assert policy(f"q: {{timeouts: {timeouts}}}").timeouts == plan


@pytest.mark.parametrize(
    ("default", "own", "plan"),
    [
        ("{floor: 1s, budget: 9%}", "{after: p90}", HedgePlan(quantile=0.9, floor_s=1.0, budget=0.09)),
        ("{after: 2s, max: 2}", "{after: p90}", HedgePlan(quantile=0.9, max=2)),
        ("{after: p90}", "{after: 2s}", HedgePlan(after_s=2.0)),
        ("{after: p90}", "off", None),
        ("off", "{budget: 9%}", HedgePlan(budget=0.09)),
        ("{after: p90}", "{}", HedgePlan(quantile=0.9)),
    ],
)
def test_a_policy_says_only_what_is_different_about_its_hedges(policy, default, own, plan):
    assert policy(f"default: {{hedge: {default}}}, q: {{hedge: {own}}}").hedge == plan


@pytest.mark.parametrize(
    ("default", "own", "seconds", "learned"),
    [
        ("{learned: p95 x 2, floor: 5s}", "60s", 60.0, None),
        ("{learned: p95 x 2, floor: 5s}", "{learned: p99 x 3}", 120.0, Learned(0.99, 3.0, 5.0)),
        ("{learned: p95 x 2, floor: 5s}", "{initially: 30s}", 30.0, Learned(0.95, 2.0, 5.0)),
        ("{learned: p95 x 2, initially: 50s}", "{floor: 40s}", 50.0, Learned(0.95, 2.0, 40.0)),
        ("{learned: p95 x 2, initially: 50s}", "{}", 50.0, Learned(0.95, 2.0, 20.0)),
        ("60s", "{learned: p95 x 2}", 60.0, Learned(0.95, 2.0, 20.0)),
        ("60s", "{learned: p95 x 2, initially: 50s}", 50.0, Learned(0.95, 2.0, 20.0)),
        ("60s", "50s", 50.0, None),
    ],
)
def test_a_learned_limit_and_one_that_stays_lie_over_each_other(policy, default, own, seconds, learned):
    timeouts = policy(f"default: {{timeouts: {{first_token: {default}}}}}, q: {{timeouts: {{first_token: {own}}}}}").timeouts
    assert (timeouts.first_token_s, timeouts.learned_first_token) == (seconds, learned)
    assert timeouts == Timeouts(first_token_s=seconds, learned_first_token=learned)


def test_how_streams_are_delivered_is_layered_key_by_key(policy):
    text = "default: {stream: {hold: all, keepalive: off}}, q: {stream: {hold: 1s, resume: on, early_keepalive: 45s}}"
    assert policy(text).stream == StreamPlan(1.0, resume=True, keepalive_s=NEVER, early_keepalive_s=45.0)
    back = "default: {stream: {resume: on, keepalive: off}}, q: {stream: {keepalive: 9s, resume: off}}"
    assert policy(back).stream == StreamPlan(keepalive_s=9.0)


def test_whether_usage_may_be_asked_for_is_a_provider_s_key_like_any_other(read):
    snapshot = read(
        """
provider_defaults: {dialect: openai, stream_usage: on}
providers: {p: {base_url: https://p}, q: {base_url: https://q, stream_usage: off}}
routes: [{name: r, match: {}, targets: [p, q]}]
""",
    )
    assert [provider.stream_usage for provider in snapshot.providers.values()] == [True, False]


@pytest.mark.parametrize(
    ("targets", "policy", "notes"),
    [
        ("[a]", "{hedge: {}}", ["route r is never hedged: it has one target only"]),
        ("[a, a]", "{hedge: {}}", ["route r is never hedged: it has one target only"]),
        ("[a, {provider: b, only_for: [timeout]}]", "{hedge: {}}", ["route r is never hedged: it has one target only"]),
        ("[a, b]", "{hedge: {}}", []),
        ("[a, z]", "{hedge: {}}", ["route r is never hedged: no other target has the same dialect and model, or `hedge: on`"]),
        ("[a, {provider: b, model: m}]", "{hedge: {}}",
         ["route r is never hedged: no other target has the same dialect and model, or `hedge: on`"]),
        ("[a, {provider: b, model: n1}]", "{hedge: {}}", []),
        ("[{provider: a, model: n1}, {provider: b, model: n2}]", "{hedge: {}}",
         ["route r is never hedged: no other target has the same dialect and model, or `hedge: on`"]),
        ("[{provider: a, model: x}, {provider: b, model: x}]", "{hedge: {}}", []),
        ("[a, {provider: z, hedge: on}]", "{hedge: {}}", []),
        ("[{provider: a, hedge: on}]", "{hedge: {}}", ["route r is never hedged: it has one target only"]),
        ("[a, {provider: a, model: m}, {provider: b, model: m}]", "{hedge: {}}", []),
        ("[a, a]", "{stream: {resume: on}}", ["route r resumes streams, but has one target only: name another one to go on at"]),
        ("[a, {provider: b, only_for: [stream_broken]}]", "{stream: {resume: on}}", []),
        ("[a]", "{stream: {hold: all}}", []),
    ],
)  # fmt: skip
def test_a_policy_that_its_route_has_not_the_targets_for_is_noted(read, targets, policy, notes):
    snapshot = read(
        f"""
clients: [{{name: c, key: k}}]
providers:
  a: {{dialect: openai, base_url: https://a, api_key: k1}}
  b: {{dialect: openai, base_url: https://b, api_key: k2}}
  z: {{dialect: azure, base_url: https://z, api_key: k3}}
routes:
  - {{name: r, match: {{models: ["n*"]}}, targets: {targets}, policy: p}}
  - {{name: rest, match: {{}}, targets: [a, b, z]}}
policies: {{p: {policy}}}
""",
    )
    assert list(snapshot.notes) == notes


def test_clients_are_known_by_the_digest_of_their_key(read):
    digest = hashlib.sha256(b"k1").digest()
    snapshot = read(ONE + f"clients: [{{name: a, key: 'sha256:{digest.hex()}', models: ['gpt-*']}}, {{name: b, key: k2}}]\n")
    assert snapshot.clients is not None
    assert [(client.name, client.digest, client.models) for client in snapshot.clients] == [
        ("a", digest, ("gpt-*",)),
        ("b", hashlib.sha256(b"k2").digest(), None),
    ]


def test_a_listener_may_be_open_if_it_says_so_or_names_its_clients(read):
    assert read(ONE + "server: {listen: 0.0.0.0:80, open: true}\n").server.host == "0.0.0.0"
    assert read(ONE + "server: {listen: '[::]:80'}\nclients: [{name: a, key: k}]\n").server.host == "::"


@pytest.mark.parametrize(
    ("settings", "proxy"),
    [
        ("", "http://env:3128"),
        ("proxy: http://mine:1", "http://mine:1"),
        ("proxy: 'http://u:p@[::1]:1/'", "http://u:p@[::1]:1"),
        ("proxy: off", None),
        ("proxy: 'off'", None),
    ],
)
def test_a_stated_proxy_wins_over_the_environments(read, settings, proxy):
    text = f"providers: {{p: {{dialect: openai, base_url: https://h, {settings}}}}}"
    assert read(text, {"HTTPS_PROXY": "http://env:3128"}).providers["p"].origin.proxy == proxy


@pytest.mark.parametrize("proxy", ["socks5://s:1080", "https://s:1", "s", "http://s/path:1"])
def test_an_environment_proxy_that_cannot_be_used_is_a_mistake(complain, proxy):
    (line,) = complain("providers:\n  p: {dialect: openai, base_url: https://h}\n", {"ALL_PROXY": proxy})
    assert line.startswith("2:3: providers.p: the environment's proxy for it: ")
    assert line.endswith("; or say `proxy: off`")


def test_tls_settings_belong_to_the_origin(read, tmp_path):
    ca = tmp_path / "ca.pem"
    ca.write_text("-----BEGIN CERTIFICATE-----\n")
    text = f"providers: {{p: {{dialect: openai, base_url: https://10.0.0.1, tls: {{ca: {ca}, server_name: api.corp}}}}}}"
    origin = read(text).providers["p"].origin
    assert (origin.ca_file, origin.server_name) == (str(ca), "api.corp")


def test_tls_settings_for_plain_http_are_a_mistake(complain):
    text = "providers:\n  p: {dialect: openai, base_url: http://h, tls: {server_name: x}}\n"
    assert complain(text) == ["2:63: providers.p.tls.server_name: server_name is for https, but the address is http"]


def test_the_digest_names_the_text(read):
    assert read(ONE).digest == hashlib.sha256(ONE.encode()).hexdigest()[:12]
    assert read(ONE + "# changed\n").digest != read(ONE).digest


def test_what_should_be_known_although_nothing_is_wrong(read):
    text = """
server: {listen: 0.0.0.0:80, open: on}
providers:
  a: {dialect: openai, base_url: http://h, api_key: k}
  b: {dialect: openai, base_url: https://h}
routes: [{name: r, match: {}, targets: [a]}]
"""
    assert read(text).notes == (
        "no clients are named: whoever reaches 0.0.0.0:80 may call, from other machines too (`open: true`)",
        "a: the key travels unencrypted, the address is http",
        "b has no api_key: the client's own key is passed on",
        "b is in no route: requests that name a model reach it by /providers/b/ only",
    )
    closed = ONE + "clients: [{name: a, key: k}]\n"
    assert read(closed).notes == ("p has no api_key: it is called without one, since the keys of `clients` stay here",)


def test_a_snapshot_is_described_in_lines_without_secrets(read):
    snapshot = read(
        """
admin: {token: t0ken}
clients: [{name: team, key: s3cret}]
providers:
  a: {dialect: openai, base_url: https://h:8443/v1, api_key: [k1, k2], proxy: "http://u:pw@px:3128", domain: d, region: eu}
  b: {dialect: azure, base_url: https://r, api_version: v9, api_key: k3}
routes:
  - {name: one, match: {models: [m, n], paths: [/v1/x], clients: [team]}, targets: [a, {provider: b, model: z, only_for: [timeout]}]}
  - {name: two, match: {models: [x]}, targets: [b], policy: p}
  - {name: three, match: {models: [y]}, targets: [a, b], policy: q}
  - {name: four, match: {}, targets: [a, {provider: b, hedge: on}], policy: s}
policies:
  p: {attempts: 1, deadline: 90s}
  q: {timeouts: {answer: {learned: p99 x 3}}, hedge: {after: p90}, stream: {hold: 500ms, resume: on}}
  s: {hedge: {after: 800ms}, stream: {hold: all}}
""",
    )
    lines = describe(snapshot)
    assert lines == [
        f"configuration: g.yaml ({snapshot.digest})",
        "listening on 127.0.0.1:8080, admin on 127.0.0.1:9901 with a token",
        "clients: team",
        "provider a: https://h:8443/v1, openai, 2 keys, fails with d, region eu, through proxy px:3128",
        "provider b: https://r, azure v9, 1 key",
        "route one: models m, n; paths /v1/x; clients team -> a, then b as z only for timeout (policy default: 10m, 4 attempts)",
        "route two: models x -> b (policy p: 90s, 1 attempt)",
        (
            "route three: models y -> a, then b (policy q: 10m, 4 attempts, learns its limits, hedges after p90, "
            "holds streams for 500ms, resumes streams)"
        ),
        "route four: everything -> a, then b (policy s: 10m, 4 attempts, hedges after 800ms, holds streams until whole)",
        "note: route three is never hedged: no other target has the same dialect and model, or `hedge: on`",
    ]
