"""From text to snapshot: defaults, layers, addresses, clients, routes, and what is said about them."""

from __future__ import annotations

import hashlib
import re

import pytest

from gateway.config.describe import describe
from gateway.config.snapshot import AdminPlan, ServerPlan
from gateway.core.matcher import Rule
from gateway.core.plan import BackoffPlan, BreakerPlan, BudgetPlan, Jitter, Policy, ProviderPlan, Timeouts
from gateway.core.verdicts import Fault, Scope

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
    assert provider.errors == ()
    assert (provider.credentials, provider.headers, provider.region, provider.api_version) == ((), (), "", None)
    assert (route.name, route.policy) == ("default", Policy())
    assert (route.models, route.paths, route.clients) == (None, None, None)
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
    queue: {wait: 31s}
    errors:
      - {status: [400, 5xx, "429", 500-503], body: "(?i)no room", fault: overloaded, scope: provider}
      - {status: 404, fault: model_gone}
      - {body: x, fault: caller}
routes:
  - {name: r, match: {models: [m], paths: [/v1/x]}, targets: [p, {provider: p, model: n, only_for: [timeout]}], policy: q}
policies:
  q:
    deadline: 24s
    attempts: 5
    timeouts: {first_token: 25s, stall: 26s, answer: 27s, max_stream: 28s}
    backoff: {base: 29ms, cap: 30s, jitter: decorrelated}
    rate_limit_wait: 0s
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
    assert provider.plan.queue_wait_s == 31.0
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
        "q", 24.0, 5, Timeouts(25.0, 26.0, 27.0, 28.0), BackoffPlan(0.029, 30.0, Jitter.DECORRELATED), 0.0, failover_content_policy=True,
    )  # fmt: skip
    assert (route.models, route.paths) == (("m",), ("/v1/x",))
    assert (route.targets[1].model, route.targets[1].only_for) == ("n", frozenset({Fault.TIMEOUT}))


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
  - {name: two, match: {}, targets: [b], policy: p}
policies: {p: {attempts: 1, deadline: 90s}}
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
        "route two: everything -> b (policy p: 90s, 1 attempt)",
    ]
