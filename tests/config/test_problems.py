"""What an operator reads when a configuration is wrong: golden lines, all of them at once, and never a secret in them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import __version__
from gateway.config.load import load, load_text
from gateway.config.schema import Configuration
from gateway.config.section import Section, sections
from gateway.errors import ConfigError

PROVIDERS = """\
providers:
  openai: {dialect: openai, base_url: https://api.openai.com/v1, api_key: "${OPENAI_API_KEY}"}
"""


def provider(settings):
    """One provider's settings, which stand in line 4 from column 5."""
    return f"providers:\n  p:\n    base_url: https://h/v1\n    {settings}\n    dialect: openai\n"


def test_five_different_mistakes_are_five_lines_in_file_order(complain):
    text = """\
server:
  limits: {header_bytes: 65536}
  timeout: {header: 10s}
providers:
  openai:
    dialect: openai
    base_url: api.openai.com/v1
    api_key: "${MISSING_KEY}"
routes:
  - name: chat
    match: {}
    targets: [opnai]
"""
    assert complain(text) == [
        '2:26: server.limits.header_bytes: 65536: sizes need a unit, e.g. "65536B" or "65536KiB"',
        '3:3: server.timeout: unknown key; did you mean "timeouts"?',
        "7:15: providers.openai.base_url: must begin with https:// or http:// and a host, like https://api.openai.com/v1",
        "8:14: providers.openai.api_key: MISSING_KEY is not set",
        '12:15: routes[0].targets[0]: no provider is called "opnai"; did you mean "openai"?',
    ]


def test_a_wrong_element_hides_nothing_behind_it(complain):
    text = PROVIDERS + (
        "routes:\n"
        "  - 7\n"
        "  - name: a\n"
        "    match: {models: [5, gpt-*, '']}\n"
        "    targets: [3, nobody, {provider: openai, model: off, wieght: 1}]\n"
        "  - name: a\n"
        "    match: {}\n"
        "    targets: [{model: x}, {provider: noone}]\n"
    )
    assert complain(text) == [
        "4:5: routes[0]: a mapping is expected, not a number",
        "6:22: routes[1].match.models[0]: 5: a string is expected, but YAML reads this as a number: put it in quotes",
        "6:32: routes[1].match.models[2]: not a model's name: it has 1 to 256 characters and no spaces",
        "7:15: routes[1].targets[0]: 3: a string is expected, but YAML reads this as a number: put it in quotes",
        '7:18: routes[1].targets[1]: no provider is called "nobody"; there is openai',
        "7:52: routes[1].targets[2].model: off: a string is expected, but YAML reads this as the boolean false: put it in quotes",
        '7:57: routes[1].targets[2].wieght: unknown key; did you mean "weight"?',
        "8:11: routes[2].name: another route has this name, in line 5",
        "10:15: routes[2].targets[0]: provider is missing",
        '10:38: routes[2].targets[1].provider: no provider is called "noone"; there is openai',
    ]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ("connect: 8080", '4:14: providers.p.connect: 8080: durations need a unit, e.g. "8080ms" or "8s"'),
        ("connect: 1:30", '4:14: providers.p.connect: 1:30: durations need a unit, e.g. "90s" or "90ms"'),
        ("connect: 0s", "4:14: providers.p.connect: 0s: must be longer than nothing"),
        ("pool: 0", "4:11: providers.p.pool: 0: must be from 1 to 100000"),
        ("pool: many", "4:11: providers.p.pool: many: a whole number is expected"),
        ("region: 0123", "4:13: providers.p.region: 0123: a string is expected, but YAML reads this as a number: put it in quotes"),
        ("region:", "4:5: providers.p.region: is empty: give it a value, or remove the key"),
        ("api_version: '2024-10-21'", "4:18: providers.p.api_version: only the azure dialect has versions"),
        ("breaker: {failure_rate: 0.5}", '4:29: providers.p.breaker.failure_rate: 0.5: percentages need their sign, e.g. "50%"'),
        ("breaker: {open: 1m, max_open: 5s}", "4:35: providers.p.breaker.max_open: max_open must not be shorter than open"),
        ("breaker: [5]", "4:14: providers.p.breaker: a mapping is expected, not a list"),
        ("retry_budget: {ratio: 120%}", "4:27: providers.p.retry_budget.ratio: 120%: percentages go from 0% to 100%"),
        ("headers: {host: x}", "4:14: providers.p.headers: host is the gateway's to write"),
        ("headers: {Authorization: x}", "4:14: providers.p.headers: authorization is the gateway's to write; use `api_key`"),
        ("headers: {x-a: on}", ("4:14: providers.p.headers: x-a: a string is expected, but YAML reads this as the boolean true: "
                               "put it in quotes")),
        ('headers: {x-a: "a\\r\\nb: c"}', "4:14: providers.p.headers: x-a: a header's value has only printable ASCII characters"),
        ("headers: {x-a: b, X-A: c}", "4:14: providers.p.headers: x-a stands here twice"),
        ("headers: x", "4:14: providers.p.headers: a mapping of header names and values is expected"),
        ("headers: {'x a': b}", "4:14: providers.p.headers: a header's name has only letters, digits and dashes"),
        ("tls: {ca: corp.pem}", "4:15: providers.p.tls.ca: corp.pem: write the absolute path of a PEM file"),
        ("tls: {ca: /no/such.pem}", "4:15: providers.p.tls.ca: /no/such.pem: cannot be read: no such file or directory"),
        ("proxy: https://p:1", "4:12: providers.p.proxy: must begin with http:// and a host, like http://proxy.internal:3128"),
        ("proxy: http://u:p@p", "4:12: providers.p.proxy: say the proxy's port, e.g. http://proxy.internal:3128"),
        ("proxy: http://p:1/x", "4:12: providers.p.proxy: a proxy's address has no path"),
        ("api_key: ''", "4:14: providers.p.api_key: is empty"),
        ("api_key: 12345678", "4:14: providers.p.api_key: a string is expected, but YAML reads this as a number: put it in quotes"),
        ("api_key: 'a b'", "4:14: providers.p.api_key: a key cannot contain spaces, line breaks, control or non-ASCII characters"),
        ("api_key: []", "4:14: providers.p.api_key: the list has no key; leave `api_key` out to pass on the client's own"),
        ("api_key: [sk-1, sk-1]", "4:14: providers.p.api_key: the same key stands here twice"),
        ("api_key: file:/no/such", "4:14: providers.p.api_key: the secret's file cannot be read: no such file or directory"),
        ("api_key: file:here", ("4:14: providers.p.api_key: write the absolute path of the secret's file, "
                               "e.g. file:/run/secrets/openai")),
        ("api_key: ${A:-x", "4:14: providers.p.api_key: `${` is never closed by `}`; a dollar sign itself is written `$$`"),
        ("api_key: ${A:?ask ops}", "4:14: providers.p.api_key: A is not set: ask ops"),
        ("api_key: os.environ/NOT_THERE", "4:14: providers.p.api_key: NOT_THERE is not set"),
        ("extra: {}", ("4:5: providers.p.extra: unknown key; known here: dialect, base_url, api_key, api_version, domain, region, "
                      "headers, tls, proxy, connect, pool, breaker, retry_budget, quota, queue, stream_usage, errors")),
        ("stream_usage: maybe", "4:19: providers.p.stream_usage: maybe: must be on or off"),
        ("queue: {wait: 10}", '4:19: providers.p.queue.wait: 10: durations need a unit, e.g. "10s" or "10ms"'),
        ("errors: {}", "4:13: providers.p.errors: a list is expected, not a mapping"),
        ("errors: [500]", "4:14: providers.p.errors[0]: a mapping is expected, not a number"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_provider_is_one_precise_line(complain, settings, line):
    assert complain(provider(settings)) == [line]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://", "must begin with https:// or http:// and a host, like https://api.openai.com/v1"),
        ("ftp://h/v1", "must begin with https:// or http:// and a host, like https://api.openai.com/v1"),
        ("https://h:99999/v1", "not an address; write it like https://api.openai.com/v1"),
        ("https://h:0/v1", "port 0 cannot be reached"),
        ("https://user:sk-1@h/v1", "keys do not belong in the address: use `api_key`"),
        ("https://h/v1?x=1", "an address cannot have a query or a fragment"),
        ("https://h/v1#x", "an address cannot have a query or a fragment"),
        ("https://h/a b", "an address has no spaces, control or non-ASCII characters"),
        ("https://h/a//b", "the address's path contains characters that must be percent-encoded"),
        ("https://[::g]/v1", "not an address; write it like https://api.openai.com/v1"),
        ("https://-bad-/v1", "not a host's name or address"),
        ("https://h/v1/chat/completions", "stop before /chat/completions: the gateway adds the endpoint's path itself"),
    ],
)
def test_a_base_url_that_cannot_be_one_says_what_is_wrong(complain, url, message):
    text = f'providers:\n  p: {{dialect: openai, base_url: "{url}"}}\n'
    assert complain(text) == [f"2:34: providers.p.base_url: {message}"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            "base_url: https://r/openai/deployments/d",
            "stop before /openai/deployments: the deployment's name is the target's `model`",
        ),
        (
            "base_url: https://r/openai/v1, api_version: '2024-10-21'",
            "ends in /openai/v1, which has no dated versions: remove `api_version`, or stop before /openai",
        ),
    ],
)
def test_an_azure_address_that_contradicts_itself_is_refused(complain, settings, message):
    assert complain(f"providers:\n  p: {{dialect: azure, {settings}}}\n") == [f"2:33: providers.p.base_url: {message}"]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("server: {open: on}\n", [("1:1: providers is missing; name at least one, "
                                  "e.g. openai: {dialect: openai, base_url: https://api.openai.com/v1}")]),
        ("providers: {}\n", ["1:12: providers: is empty: name at least one, or remove the key"]),
        ("providers: [a]\n", ["1:12: providers: a mapping is expected, not a list"]),
        ("providers:\n  p: {}\n", ["2:6: providers.p: dialect is missing; openai or azure", "2:6: providers.p: base_url is missing"]),
        ("providers:\n  a b: {dialect: openai, base_url: https://h}\n",
         ["2:3: providers.a b: not a name; use up to 64 letters, digits, `.`, `_`, `-` and `@`, beginning with a letter or digit"]),
        ("providers:\n  p: {dialect: opnai, base_url: https://h}\n",
         ['2:16: providers.p.dialect: opnai: must be one of openai, azure, anthropic, gemini; did you mean "openai"?']),
        ("providers:\n  p: {dialect: openai, base_url: https://h}\n  p: {dialect: azure, base_url: https://h}\n",
         ["3:3: providers.p: duplicate key; the first is in line 2"]),
        ("providers:\n  p: {dialect: openai, base_url: https://h}\n  q: {dialect: azure, base_url: https://h}\n",
         ["1:1: routes is missing: with several providers, say which models go where"]),
        (PROVIDERS + "provider_defaults: {api_version: '1', connect: 5}\n",
         ['3:48: provider_defaults.connect: 5: durations need a unit, e.g. "5s" or "5ms"']),
        (PROVIDERS + "provider_defaults: {api_version: v1}\n",
         ["3:34: provider_defaults.api_version: only the azure dialect has versions"]),
        (PROVIDERS + "clients: []\n", ["3:10: clients: is empty: name at least one, or remove the key"]),
        (PROVIDERS + "clients:\n", ["3:1: clients: is empty: give it a value, or remove the key"]),
        (PROVIDERS + "clients: [{name: a, key: x}, {name: a, key: x}, {}]\n",
         ["3:37: clients[1].name: another client has this name, in line 3",
          "3:45: clients[1].key: another client has this key, in line 3",
          "3:49: clients[2]: name is missing", "3:49: clients[2]: key is missing"]),
        (PROVIDERS + "clients: [{name: a, key: 'sha256:ABCD'}]\n",
         ["3:26: clients[0].key: `sha256:` is followed by 64 lower-case hexadecimal digits, the hash of the key"]),
    ],
)  # fmt: skip
def test_sections_that_do_not_add_up(complain, text, lines):
    assert complain(text) == lines


@pytest.mark.parametrize(
    ("listen", "message"),
    [
        ("8080", '8080: an address is expected, e.g. "127.0.0.1:8080" (in quotes: YAML reads 10:30 as the number 630)'),
        ('":8080"', ':8080: say on which address: "127.0.0.1:…" for this machine only, "0.0.0.0:…" for everybody'),
        ("localhost", 'localhost: not an address; write host and port, e.g. "127.0.0.1:8080" or "[::1]:8080"'),
        ('"::1:8080"', '::1:8080: not an address; write host and port, e.g. "127.0.0.1:8080" or "[::1]:8080"'),
        ("127.0.0.1:65536", "127.0.0.1:65536: ports go up to 65535"),
        ('"[::x]:1"', "[::x]:1: not an IPv6 address"),
        ("0.0.0.0:8080", "whoever reaches this address could call with your keys: name `clients`, or say `open: true`"),
        ('"[::]:8080"', "whoever reaches this address could call with your keys: name `clients`, or say `open: true`"),
        ("gateway.internal:80", "whoever reaches this address could call with your keys: name `clients`, or say `open: true`"),
        ("127.0.0.1:9901", "the data port and the admin port cannot both be 127.0.0.1:9901"),
    ],
)
def test_an_address_to_listen_on_must_be_whole_and_guarded(complain, listen, message):
    assert complain(f"server: {{listen: {listen}}}\n{PROVIDERS}") == [f"1:18: server.listen: {message}"]


def test_the_admin_port_is_guarded_too(complain):
    assert complain(PROVIDERS + "admin: {listen: 0.0.0.0:9901, token: '${NO_TOKEN:-}'}\n") == [
        "3:17: admin.listen: beyond loopback the admin port needs a `token`, e.g. ${GATEWAY_ADMIN_TOKEN}",
    ]


@pytest.mark.parametrize(
    ("routes", "lines"),
    [
        ("[]", ["3:9: routes: is empty: name at least one, or remove the key"]),
        ("[{}]", ["3:10: routes[0]: name is missing", "3:10: routes[0]: match is missing; `match: {}` takes everything",
                  "3:10: routes[0]: targets is missing"]),
        ("[{name: a, match: {}, targets: []}]", ["3:40: routes[0].targets: needs at least one target"]),
        ("[{name: a, match: {models: []}, targets: [openai]}]",
         ["3:36: routes[0].match.models: is empty: name at least one, or remove the key"]),
        ("[{name: a, match: {models: gpt-4}, targets: [openai]}]",
         ["3:36: routes[0].match.models: a list is expected, not a string"]),
        ("[{name: a, match: {models: ['gpt-[4']}, targets: [openai]}]",
         ["3:37: routes[0].match.models[0]: gpt-[4: the pattern's `[` is never closed by `]`"]),
        ("[{name: a, match: {paths: [v1/files]}, targets: [openai]}]",
         ["3:36: routes[0].match.paths[0]: v1/files: paths begin with `/`, e.g. /v1/chat/completions"]),
        ("[{name: a, match: {clients: [x]}, targets: [openai]}]",
         ["3:38: routes[0].match.clients[0]: there are no `clients` to match"]),
        ("[{name: a, match: {}, targets: [{provider: openai, only_for: [timeout]}]}]",
         ["3:40: routes[0].targets: every target is `only_for` some fault: one must be tried first"]),
        ("[{name: a, match: {}, targets: [openai, {provider: openai, only_for: [timeuot]}]}]",
         [("3:79: routes[0].targets[1].only_for[0]: timeuot: must be one of connect, timeout, stalled, overloaded, rate_limited, "
          "server_error, billing, credential, model_gone, context_length, content_policy, caller, stream_broken, edge_blocked, "
          'unknown; did you mean "timeout"?')]),
        ("[{name: a, match: {}, targets: [{provider: openai, prefill: prefixed, hedge: maybe}]}]",
         [("3:69: routes[0].targets[0].prefill: prefixed: must be one of none, plain, prefix, prefix_echoed, continue_final; "
           'did you mean "prefix"?'),
          "3:86: routes[0].targets[0].hedge: maybe: must be on or off"]),
        ("[{name: a, match: {}, targets: [openai, {provider: openai, only_for: [timeout], hedge: on}]}]",
         ["3:96: routes[0].targets[1].hedge: a target that is `only_for` some fault is tried after it, never beside another"]),
        ("[{name: a, match: {}, targets: [{provider: openai, weight: 0}]}]",
         ["3:68: routes[0].targets[0].weight: 0: must be from 0.01 to 1000"]),
        ("[{name: a, match: {}, targets: [openai]}, {name: b, match: {models: [x]}, targets: [openai]}]",
         ['3:51: routes[1]: can never match: the route "a" in line 3 takes everything']),
        ("[{name: a, match: {modles: [x]}, targets: [openai]}, {name: b, match: {}, targets: [openai]}]",
         ['3:28: routes[0].match.modles: unknown key; did you mean "models"?']),
        ("[{name: a, match: {}, targets: [openai], policy: intractive}]\npolicies: {interactive: {}}",
         ['3:58: routes[0].policy: no policy is called "intractive"; did you mean "interactive"?']),
    ],
)  # fmt: skip
def test_routes_that_cannot_work(complain, routes, lines):
    assert complain(f"{PROVIDERS}routes: {routes}\n") == lines


@pytest.mark.parametrize(
    ("policy", "line"),
    [
        ("attempts: 0", "3:26: policies.p.attempts: 0: must be from 1 to 10"),
        ("attempts: 11", "3:26: policies.p.attempts: 11: must be from 1 to 10"),
        ("deadline: 600", '3:26: policies.p.deadline: 600: durations need a unit, e.g. "600s" or "600ms"'),
        ("rate_limit_wait: 0", '3:33: policies.p.rate_limit_wait: 0: durations need a unit, e.g. "0s" or "0ms"'),
        ("backoff: {base: 9s}", "3:32: policies.p.backoff.base: cap must not be shorter than base"),
        ("backoff: {cap: 1ms}", "3:31: policies.p.backoff.cap: cap must not be shorter than base"),
        ("backoff: {jitter: off}", "3:34: policies.p.backoff.jitter: off: must be one of full, equal, decorrelated"),
        ("hedge: on", ("3:23: policies.p.hedge: on: `on` says too little: write the mapping, "
                      "e.g. {after: p95, floor: 300ms, budget: 5%}")),
        ("hedge: 5", "3:23: policies.p.hedge: a mapping is expected, not a number"),
        ("hedge: {after: 95}", ('3:31: policies.p.hedge.after: 95: durations need a unit, e.g. "95s" or "95ms"; or a percentile, '
                               'e.g. p95')),
        ("hedge: {after: off}", ("3:31: policies.p.hedge.after: off: not a duration; write a number and one of ms, s, m, h, "
                                'e.g. "30s"; or a percentile, e.g. p95')),
        ("hedge: {after: p9}", "3:31: policies.p.hedge.after: p9: percentiles are whole and go from p10 to p99"),
        ("hedge: {after: p99.9}", "3:31: policies.p.hedge.after: p99.9: percentiles are whole and go from p10 to p99"),
        ("hedge: {after: 0s}", "3:31: policies.p.hedge.after: 0s: must be longer than nothing; or a percentile, e.g. p95"),
        ("hedge: {floor: 300}", '3:31: policies.p.hedge.floor: 300: durations need a unit, e.g. "300s" or "300ms"'),
        ("hedge: {budget: 0%}", "3:32: policies.p.hedge.budget: 0%: must be more than 0%"),
        ("hedge: {budget: 0.05}", '3:32: policies.p.hedge.budget: 0.05: percentages need their sign, e.g. "5%"'),
        ("hedge: {max: 0}", "3:29: policies.p.hedge.max: 0: must be from 1 to 3"),
        ("hedge: {max: 4}", "3:29: policies.p.hedge.max: 4: must be from 1 to 3"),
        ("hedge: {non_stream: 2}", "3:36: policies.p.hedge.non_stream: 2: must be on or off"),
        ("hedge: {delay: 1s}", ("3:24: policies.p.hedge.delay: unknown key; known here: after, floor, budget, max, non_stream")),
        ("stream: {hold: 5}", '3:31: policies.p.stream.hold: 5: durations need a unit, e.g. "5s" or "5ms"; or none, or all'),
        ("stream: {hold: 0s}", "3:31: policies.p.stream.hold: 0s: must be longer than nothing; or none, or all"),
        ("stream: {hold: off}", ("3:31: policies.p.stream.hold: off: not a duration; write a number and one of ms, s, m, h, "
                                'e.g. "30s"; or none, or all')),
        ("stream: {resume: plain}", "3:33: policies.p.stream.resume: plain: must be on or off"),
        ("stream: {keepalive: on}", ("3:36: policies.p.stream.keepalive: on: not a duration; write a number and one of ms, s, m, h, "
                                    'e.g. "30s"; or off')),
        ("stream: {keepalive: 999ms}", "3:36: policies.p.stream.keepalive: 999ms: must be at least 1s; or off"),
        ("stream: {early_keepalive: 0s}", "3:42: policies.p.stream.early_keepalive: 0s: must be longer than nothing; or off"),
        ("stream: {early_keepalive: 45}", ('3:42: policies.p.stream.early_keepalive: 45: durations need a unit, e.g. "45s" '
                                          'or "45ms"; or off')),
        ("timeouts: {first_token: 60}", '3:40: policies.p.timeouts.first_token: 60: durations need a unit, e.g. "60s" or "60ms"'),
        ("timeouts: {answer: off}", ("3:35: policies.p.timeouts.answer: off: not a duration; write a number and one of ms, s, m, h, "
                                    'e.g. "30s"')),
        ("timeouts: {answer: 0s}", "3:35: policies.p.timeouts.answer: 0s: must be longer than nothing"),
        ("timeouts: {answer: {learned: p99}}", ('3:45: policies.p.timeouts.answer.learned: p99: write a percentile and a factor, '
                                               'e.g. "p99 x 3"')),
        ("timeouts: {answer: {learned: off}}", ('3:45: policies.p.timeouts.answer.learned: off: write a percentile and a factor, '
                                               'e.g. "p99 x 3"')),
        ("timeouts: {answer: {learned: p99 x 0.5}}", ("3:45: policies.p.timeouts.answer.learned: p99 x 0.5: the factor goes from 1 "
                                                     "to 100")),
        ("timeouts: {answer: {learned: p49 x 2}}", ("3:45: policies.p.timeouts.answer.learned: p49 x 2: percentiles are whole and go "
                                                   "from p50 to p99")),
        ("timeouts: {answer: {learned: p99 x 3, floor: 0s}}", ("3:61: policies.p.timeouts.answer.floor: 0s: must be longer than "
                                                              "nothing")),
        ("timeouts: {answer: {learned: p99 x 3, ceiling: 5s}}", ("3:54: policies.p.timeouts.answer.ceiling: unknown key; "
                                                                "known here: learned, floor, initially")),
        ("timeouts: {stall: {learned: p99 x 3}}", ("3:34: policies.p.timeouts.stall: not a duration; write a number and one of ms, "
                                                  's, m, h, e.g. "30s"')),
        ("content_policy: fail", '3:32: policies.p.content_policy: fail: must be one of return, failover; did you mean "failover"?'),
    ],
)  # fmt: skip
def test_a_mistake_in_a_policy_is_one_precise_line(complain, policy, line):
    assert complain(f"{PROVIDERS}policies: {{p: {{{policy}}}}}\n") == [line]


LATE = (
    "no hedge could start in time: its delay must be shorter than the attempt's limit (`first_token`; `answer` with `non_stream`) "
    "and than `deadline`"
)
INITIALLY = "until enough is known the limit would be below its own floor: raise `initially`, or lower `floor`"
BOTH = "with `hold: all` no stream is ever broken in the client's hands, so none is resumed: remove one of the two"
HEDGES = "a hedge is an attempt too: `attempts` must be more than the hedges' `max`"
STALL = "never comes: silence ends the stream at `stall`, which is sooner; say a shorter time, or off"
MISSING = 'learned is missing, e.g. "p99 x 3"; a limit that stays as it is needs no braces: 60s'


@pytest.mark.parametrize(
    ("policy", "line"),
    [
        ("stream: {hold: all, resume: on}", f"3:44: policies.p.stream.resume: {BOTH}"),
        ("stream: {hold: 600s}", ("3:31: policies.p.stream.hold: content would be held back past the `deadline`: "
                                 "`hold` must be shorter, or all")),
        ("stream: {early_keepalive: 10m}", "3:42: policies.p.stream.early_keepalive: never comes: the `deadline` is sooner"),
        ("stream: {keepalive: 120s}", f"3:36: policies.p.stream.keepalive: {STALL}"),
        ("attempts: 1, stream: {resume: on}", ("3:46: policies.p.stream.resume: to resume a stream is an attempt too: `attempts` must be "
                                              "more than 1")),
        ("attempts: 1, hedge: {}", f"3:26: policies.p.attempts: {HEDGES}"),
        ("attempts: 3, hedge: {max: 3}", f"3:42: policies.p.hedge.max: {HEDGES}"),
        ("hedge: {after: 200ms}", ("3:31: policies.p.hedge.after: `after` must not be shorter than `floor`, which would take its "
                                  "place")),
        ("hedge: {after: 120s}", f"3:31: policies.p.hedge.after: {LATE}"),
        ("hedge: {floor: 120s}", f"3:31: policies.p.hedge.floor: {LATE}"),
        ("hedge: {after: 600s, non_stream: on}", f"3:31: policies.p.hedge.after: {LATE}"),
        ("hedge: {after: 600s}, timeouts: {first_token: {learned: p99 x 3}}", f"3:31: policies.p.hedge.after: {LATE}"),
        ("hedge: {after: 60s, non_stream: on}, timeouts: {answer: 60s}", f"3:31: policies.p.hedge.after: {LATE}"),
        ("hedge: {}, deadline: 300ms", f"3:23: policies.p.hedge: {LATE}"),
        ("timeouts: {first_token: {learned: p99 x 3, initially: 19s}}", f"3:70: policies.p.timeouts.first_token.initially: {INITIALLY}"),
        ("timeouts: {answer: {learned: p99 x 3, floor: 11m}}", f"3:61: policies.p.timeouts.answer.floor: {INITIALLY}"),
        ("timeouts: {answer: {}}", f"3:35: policies.p.timeouts.answer: {MISSING}"),
        ("timeouts: {first_token: {initially: 60s, floor: 5s}}", f"3:40: policies.p.timeouts.first_token: {MISSING}"),
    ],
)  # fmt: skip
def test_numbers_of_a_policy_that_contradict_each_other_are_one_precise_line(complain, policy, line):
    assert complain(f"{PROVIDERS}policies: {{p: {{{policy}}}}}\n") == [line]


@pytest.mark.parametrize(
    "policy",
    [
        "stream: {hold: 599s}",
        "stream: {hold: all, early_keepalive: 45s, keepalive: off}",
        "stream: {hold: all, resume: off}",
        "stream: {keepalive: off}, timeouts: {stall: 5s}",
        "stream: {keepalive: 150s, resume: on}",
        "stream: {keepalive: 150s, early_keepalive: 45s}",
        "timeouts: {stall: 5s}",
        "attempts: 2, hedge: {max: 1}, stream: {resume: on}",
        "hedge: {after: 300ms}",
        "hedge: {after: 119s}",
        "hedge: {after: 599s, non_stream: on}",
        "hedge: {after: 130s}, timeouts: {first_token: {learned: p99 x 3}}",
        "hedge: off, attempts: 1, deadline: 1ms",
        "timeouts: {first_token: 5s, answer: {learned: p99 x 3, initially: 20s}}",
    ],
)
def test_numbers_of_a_policy_that_agree_are_accepted(read, policy):
    assert read(f"{PROVIDERS}policies: {{p: {{{policy}}}}}\n").routes


def test_a_contradiction_is_reported_where_it_was_made_and_once(complain):
    text = PROVIDERS + (
        "policies:\n"
        "  default:\n"
        "    stream: {hold: all, resume: on}\n"
        "    hedge: {floor: 130s}\n"
        "  heir: {deadline: 500s}\n"
        "  mended: {stream: {hold: none}, hedge: {floor: 1s}}\n"
        "  again: {stream: {hold: all}}\n"
        "  other: {backoff: {cap: 1ms}}\n"
    )
    assert complain(text) == [
        f"5:33: policies.default.stream.resume: {BOTH}",
        f"6:20: policies.default.hedge.floor: {LATE}",
        "10:26: policies.other.backoff.cap: cap must not be shorter than base",
    ]


def test_against_what_is_inherited_a_policy_contradicts_at_its_own_key(complain):
    text = PROVIDERS + (
        "policies:\n"
        "  default:\n"
        "    timeouts: {first_token: 10s, answer: {learned: p99 x 3}}\n"
        "    hedge: {after: 5s}\n"
        "    stream: {keepalive: 60s, resume: on}\n"
        "  learns: {timeouts: {first_token: {learned: p99 x 3}}}\n"
        "  starts: {timeouts: {answer: {initially: 1s}}}\n"
        "  hurries: {timeouts: {first_token: 4s}}\n"
        "  tries: {attempts: 1}\n"
        "  holds: {stream: {hold: all}}\n"
        "  ends: {timeouts: {stall: 20s}, stream: {resume: off}}\n"
    )
    assert complain(text) == [
        f"8:36: policies.learns.timeouts.first_token: {INITIALLY}",
        f"9:43: policies.starts.timeouts.answer.initially: {INITIALLY}",
        f"10:37: policies.hurries.timeouts.first_token: {LATE}",
        f"11:21: policies.tries.attempts: {HEDGES}",
        "11:21: policies.tries.attempts: to resume a stream is an attempt too: `attempts` must be more than 1",
        f"12:26: policies.holds.stream.hold: {BOTH}",
    ]


@pytest.mark.parametrize(
    ("policies", "line"),
    [
        ("p: {hedge: {after: 130s}, timeouts: {first_token: 200}}", "first_token: 200: durations need a unit"),
        ("p: {hedge: {after: 130s}, timeouts: [200s]}", "timeouts: a mapping is expected"),
        ("p: {hedge: {after: 130s}}, default: {timeouts: {first_token: 200}}", "first_token: 200: durations need a unit"),
        ("p: {stream: {hold: 700s}}, default: 5", "policies.default: a mapping is expected"),
        ("p: {stream: {keepalive: 130s}}, default: {timeouts: {stall: 200}}", "stall: 200: durations need a unit"),
        ("p: {timeouts: {first_token: {lerned: p99 x 3, floor: 200s}}}", "first_token.lerned: unknown key"),
    ],
)
def test_nothing_is_concluded_from_a_number_that_is_wrong_itself(complain, policies, line):
    (only,) = complain(f"{PROVIDERS}policies: {{{policies}}}\n")
    assert line in only


@pytest.mark.parametrize("dialect", ["anthropic", "gemini"])
def test_a_dialect_that_is_not_built_says_so(complain, dialect):
    assert complain(f"providers:\n  p: {{dialect: {dialect}, base_url: https://h}}\n") == [
        (
            f"2:7: providers.p.dialect: not built yet in version {__version__} ({dialect}); "
            "use openai where the provider has an OpenAI-compatible address"
        ),
    ]


def test_a_route_for_a_client_that_is_not_there(complain):
    text = PROVIDERS + "clients: [{name: search, key: k}]\nroutes: [{name: a, match: {clients: [serach]}, targets: [openai]}]\n"
    assert complain(text) == ['4:38: routes[0].match.clients[0]: no client is called "serach"; did you mean "search"?']


def test_a_file_without_a_certificate_is_none(complain, tmp_path):
    (tmp_path / "x").write_text("hello")
    text = f"providers:\n  p: {{dialect: openai, base_url: https://h, tls: {{ca: {tmp_path}/x}}}}\n"
    assert complain(text)[0].endswith("holds no PEM certificate")


def test_a_missing_file_is_a_problem_like_any_other(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "none.yaml", {})
    assert str(caught.value) == f"{tmp_path}/none.yaml: cannot be read: no such file or directory"


SECRET = "sk-live-SECRET-0123456789abcdef"


@pytest.mark.parametrize(
    "text",
    [
        "providers:\n  p: {dialect: openai, base_url: '${S}', api_key: '${S}', connect: '${S}', pool: '${S}', region: '${S} x'}\n",
        f"providers:\n  p: {{dialect: {SECRET}, base_url: 'https://{SECRET}@h', api_key: '{SECRET} x', connect: {SECRET}}}\n",
        f"providers:\n  p: {{dialect: openai, base_url: https://h, proxy: 'http://u:{SECRET}@h', headers: {{a: 'x\u00e9{SECRET}'}}}}\n",
        f"clients: [{{name: '{SECRET} x', key: 'sha256:{SECRET}'}}]\nproviders: {SECRET}\nserver: {{open: '${{S}}'}}\n",
        f"providers: {{p: {{dialect: openai, base_url: https://h, api_key: [{SECRET}, {{k: {SECRET}}}]}}}}\nadmin: {{token: 'a b {SECRET}'}}\n",
        f"policies: {{p: {{attempts: '${{S}}', hedge: {SECRET}}}}}\nproviders: {{p: {{dialect: '${{S}}', base_url: 'https://h?{SECRET}'}}}}\n",
        "providers: {p: {dialect: openai, base_url: https://h, errors: [{body: '(?P<${S}>x)', fault: '${S}', scope: '${S}', status: '${S}'}]}}\n",
        "providers: {p: {dialect: openai, base_url: https://h, errors: [{body: '(?P=${S})', fault: caller}, {body: '(?P<${S}', fault: caller}]}}\n",
        "providers: {p: {dialect: openai, base_url: https://h, errors: [{body: 'x(?P<a>x)(?P<a>x)[${S}', fault: caller}]}}\n",
        f"a: [{SECRET}\n",
        f"a: 'x {SECRET}\n",
        f"api_key: {SECRET}: {SECRET}\n",
    ],
)
def test_no_message_repeats_a_secret(text):
    with pytest.raises(ConfigError) as caught:
        load_text(text, file="g.yaml", environ={"S": SECRET})
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in f"{error}{error!r}"
        error = error.__cause__ or error.__context__


def test_a_whole_snapshot_can_be_printed_without_a_secret(read):
    snapshot = read(
        f"""
admin: {{token: {SECRET}}}
clients: [{{name: a, key: {SECRET}}}]
providers:
  p: {{dialect: openai, base_url: https://h, api_key: [{SECRET}, {SECRET}2], proxy: "http://u:{SECRET}@h:1", headers: {{x-a: {SECRET}}}}}
""",
    )
    assert SECRET not in repr(snapshot)
    assert SECRET not in "".join(snapshot.notes)


def test_a_configuration_can_be_printed_without_a_secret():
    configuration = Configuration.model_validate(
        {
            "providers": {"p": {"api_key": SECRET, "headers": {"x": SECRET}, "proxy": f"http://u:{SECRET}@h:1"}},
            "admin": {"token": SECRET},
        },
    )
    assert SECRET not in f"{configuration!r}{configuration}"


KEYS = sorted({key for _, section in sections(Configuration()) for key in type(section).model_fields} | {"hold", "p", "<<", "x"})
VALUES = st.recursive(
    st.sampled_from(
        [None, True, False, 0, 1, -1, 3.5, "", "5s", "10%", "8/s", "openai", "${A}", "$", "file:/x", "/", "p", "x" * 40]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(Configuration.model_fields, VALUES)))
def test_whatever_stands_in_a_file_is_understood_or_reported(data):
    problems = None
    try:
        load_text(json.dumps(data), file="g.yaml", environ={})
    except ConfigError as error:
        problems = error.problems
    assert problems != []
    assert all(problem.line >= 1 and problem.column >= 1 and problem.message for problem in problems or ())


def test_every_section_is_closed_and_frozen():
    found = [section for _, section in sections(Configuration.model_validate({"providers": {"p": {}}}))]
    assert len(found) > 10
    assert all(type(section).model_config["frozen"] and type(section).model_config["extra"] == "forbid" for section in found)
    assert all(isinstance(section, Section) for section in found)
