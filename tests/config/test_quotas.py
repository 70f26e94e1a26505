"""Limits in the file: what they come to for accounts, groups, clients and routes, what cannot be meant, and how they are shown."""

from __future__ import annotations

import pytest

from gateway.config.describe import describe
from gateway.core.plan import Balance, ClientPlan, GroupPlan, Priority, QuotaPlan, RatePlan, Resource

REQUESTS, TOKENS, INPUT, OUTPUT = Resource.REQUESTS, Resource.TOKENS, Resource.INPUT_TOKENS, Resource.OUTPUT_TOKENS
PROVIDERS = "providers:\n  p: {dialect: openai, base_url: https://h, api_key: k}\n  q: {dialect: openai, base_url: https://h2, api_key: k2}\n"


def with_quota(quota):
    """One provider with a quota, whose value begins in line 4 at column 12."""
    return f"providers:\n  p:\n    base_url: https://h\n    quota: {quota}\n    dialect: openai\n"


def with_groups(*groups):
    """One provider with groups, of which each stands in a line of its own from line 6 on, at column 11."""
    lines = "".join(f"        - {group}\n" for group in groups)
    return f"providers:\n  p:\n    base_url: https://h\n    quota:\n      groups:\n{lines}    dialect: openai\n"


def route(settings, targets):
    """A route before another one over both providers; its settings begin in line 5 at column 37."""
    first = f"{{name: r, match: {{models: [m]}}, {settings}, targets: [{targets}]}}"
    return f"{PROVIDERS}routes:\n  - {first}\n  - {{name: s, match: {{}}, targets: [p, q]}}\n"


@pytest.mark.parametrize(
    ("written", "rates"),
    [
        ("requests: 600/min", [(REQUESTS, 600, 60, 60)]),
        ("requests: 8/s", [(REQUESTS, 8, 1, 1)]),
        ("requests: {rate: 600/min}", [(REQUESTS, 600, 60, 60)]),
        ("requests: {rate: 600/min, burst: 50}", [(REQUESTS, 600, 60, 50)]),
        ("requests: {rate: 600/min, burst: 600}", [(REQUESTS, 600, 60, 600)]),
        ("requests: {rate: 0.5/s, burst: 1}", [(REQUESTS, 0.5, 1, 1)]),
        ("requests: [600/min]", [(REQUESTS, 600, 60, 60)]),
        ("requests: [600/min, 12/s]", [(REQUESTS, 600, 60, 60), (REQUESTS, 12, 1, 1.2)]),
        ("requests: [12/s, {rate: 600/min, burst: 600}]", [(REQUESTS, 12, 1, 1.2), (REQUESTS, 600, 60, 600)]),
        ("requests: ['${RATE}', {rate: 20/s, burst: '${BURST}'}]", [(REQUESTS, 900, 60, 90), (REQUESTS, 20, 1, 3)]),
        ("tokens: 2M/min", [(TOKENS, 2e6, 60, 2e5)]),
        ("output_tokens: 80k/min, input_tokens: 400k/min, tokens: 450k/min, requests: 30/min",
         [(REQUESTS, 30, 60, 3), (TOKENS, 450e3, 60, 45e3), (INPUT, 400e3, 60, 40e3), (OUTPUT, 80e3, 60, 8e3)]),
    ],
)  # fmt: skip
def test_rates_come_to_amount_period_and_burst(read, written, rates):
    environ = {"RATE": "900/min", "BURST": "3"}
    assert read(with_quota(f"{{{written}}}"), environ).providers["p"].plan.quota == QuotaPlan(
        tuple(RatePlan(*rate) for rate in rates)
    )


def test_groups_have_limits_of_their_own_beside_those_of_the_account(read):
    snapshot = read(
        with_quota(
            """
      requests: 600/min
      concurrent: 500
      groups:
        - {name: four, models: [gpt-4o, "gpt-4o-*"], requests: [60/min, {rate: 3/s, burst: 2}], concurrent: 5}
        - name: rest
          models: ["*-mini"]
          output_tokens: 9/h""",
        ),
    )
    plan = snapshot.providers["p"].plan
    assert plan.quota == QuotaPlan((RatePlan(REQUESTS, 600, 60, 60),), 500)
    assert plan.groups == (
        GroupPlan(
            "four", ("gpt-4o", "gpt-4o-*"), QuotaPlan((RatePlan(REQUESTS, 60, 60, 6), RatePlan(REQUESTS, 3, 1, 2)), concurrent=5)
        ),
        GroupPlan("rest", ("*-mini",), QuotaPlan((RatePlan(OUTPUT, 9, 3600, 1),))),
    )


def test_a_quota_lies_over_the_defaults_key_by_key(read):
    snapshot = read(
        """
provider_defaults:
  dialect: openai
  queue: {depth: 7}
  quota: {requests: [600/min, 12/s], concurrent: 5, groups: [{name: g, models: [m], tokens: 10/s}]}
providers:
  same: {base_url: https://a}
  own: {base_url: https://b, queue: {wait: 1s}, quota: {requests: 100/min, tokens: 50/min}}
  other: {base_url: https://c, queue: {depth: 0}, quota: {groups: [{name: h, models: ["*"], concurrent: 1}]}}
  none: {base_url: https://d, quota: {groups: []}}
routes: [{name: r, match: {}, targets: [same, own, other, none]}]
""",
    )
    plans = {name: provider.plan for name, provider in snapshot.providers.items()}
    both = (RatePlan(REQUESTS, 600, 60, 60), RatePlan(REQUESTS, 12, 1, 1.2))
    group = GroupPlan("g", ("m",), QuotaPlan((RatePlan(TOKENS, 10, 1, 1),)))
    assert {name: plan.quota for name, plan in plans.items()} == {
        "same": QuotaPlan(both, 5),
        "own": QuotaPlan((RatePlan(REQUESTS, 100, 60, 10), RatePlan(TOKENS, 50, 60, 5)), 5),
        "other": QuotaPlan(both, 5),
        "none": QuotaPlan(both, 5),
    }
    assert {name: plan.groups for name, plan in plans.items()} == {
        "same": (group,),
        "own": (group,),
        "other": (GroupPlan("h", ("*",), QuotaPlan(concurrent=1)),),
        "none": (),
    }
    assert [(plan.queue_depth, plan.queue_wait_s) for plan in plans.values()] == [(7, 10.0), (7, 1.0), (0, 10.0), (7, 10.0)]


@pytest.mark.parametrize(
    ("settings", "plan"),
    [
        ("", ClientPlan("c")),
        ("priority: interactive", ClientPlan("c", Priority.INTERACTIVE)),
        ("priority: standard, weight: 1", ClientPlan("c")),
        ("priority: batch, weight: 0.5", ClientPlan("c", Priority.BATCH, 0.5)),
        ("priority: '${P}', weight: '${W}'", ClientPlan("c", Priority.BATCH, 2.5)),
        ("limits: {concurrent: 5}", ClientPlan("c", quota=QuotaPlan(concurrent=5))),
        ("limits: {requests: 600/min, tokens: [200k/min, {rate: 5k/s, burst: 1000}]}",
         ClientPlan("c", quota=QuotaPlan(
             (RatePlan(REQUESTS, 600, 60, 60), RatePlan(TOKENS, 200e3, 60, 20e3), RatePlan(TOKENS, 5e3, 1, 1000))))),
    ],
)  # fmt: skip
def test_a_client_has_a_priority_a_weight_and_limits(read, settings, plan):
    snapshot = read(f"{with_quota('{concurrent: 1}')}clients: [{{name: c, key: k, {settings}}}]\n", {"P": "batch", "W": "2.5"})
    assert snapshot.clients is not None
    assert [client.plan for client in snapshot.clients] == [plan]


@pytest.mark.parametrize(
    ("written", "balance", "weights"),
    [
        ("balance: ordered", Balance.ORDERED, [1, 1]),
        ("balance: weighted", Balance.WEIGHTED, [3, 0.5]),
        ("balance: fastest", Balance.FASTEST, [1, 1]),
        ("balance: least_busy", Balance.LEAST_BUSY, [3, 0.5]),
    ],
)
def test_a_route_balances_as_said_and_by_the_weights_of_its_targets(read, written, balance, weights):
    targets = ", ".join(f"{{provider: {name}, weight: {weight}}}" for name, weight in zip("pq", weights, strict=True))
    (first, _) = read(route(written, targets)).routes
    assert (first.balance, [target.weight for target in first.targets]) == (balance, weights)


BOTH_WAYS = "say weighted or least_busy, or remove it"
NO_LIMIT = "say how much, e.g. requests: 600/min, or remove it"


@pytest.mark.parametrize(
    ("quota", "lines"),
    [
        ("{}", [f"4:12: providers.p.quota: does not limit the account: {NO_LIMIT}"]),
        ("on", ["4:12: providers.p.quota: a mapping is expected, not on or off"]),
        ("{rpm: 5}", [("4:13: providers.p.quota.rpm: unknown key; known here: requests, tokens, input_tokens, output_tokens, "
                       "concurrent, groups")]),
        ("{requests: 5}", ['4:23: providers.p.quota.requests: 5: rates need a period, e.g. "5/s" or "5/min"']),
        ("{requests: 5/x}", [('4:23: providers.p.quota.requests: 5/x: not a rate; write an amount and a period, e.g. "8/s", '
                              '"600/min", "100/10s" or "10k/h"')]),
        ("{requests: []}", ["4:23: providers.p.quota.requests: is empty: name at least one, or remove the key"]),
        ("{requests: [5, 6/s, {rate: 7}]}",
         ['4:24: providers.p.quota.requests[0]: 5: rates need a period, e.g. "5/s" or "5/min"',
          '4:39: providers.p.quota.requests[2].rate: 7: rates need a period, e.g. "7/s" or "7/min"']),
        ("{requests: {}}", ["4:23: providers.p.quota.requests: rate is missing"]),
        ("{requests: {rat: 5/s}}", ["4:23: providers.p.quota.requests: rate is missing",
                                    '4:24: providers.p.quota.requests.rat: unknown key; did you mean "rate"?']),
        ("{requests: [5/s, {burst: 5}]}", ["4:29: providers.p.quota.requests[1]: rate is missing"]),
        ("{requests: {rate: 5/s, burst: 0}}", ["4:42: providers.p.quota.requests.burst: 0: must be from 1 to 1000000000000"]),
        ("{requests: {rate: 5/s, burst: 2k}}", ["4:42: providers.p.quota.requests.burst: 2k: a whole number is expected"]),
        ("{concurrent: 0}", ["4:25: providers.p.quota.concurrent: 0: must be from 1 to 1000000"]),
        ("{requests: {rate: 8/s, burst: 50}}", [("4:42: providers.p.quota.requests.burst: more than 8/s lets through in its whole "
                                                 "period; the same rate over a longer one: 480/min")]),
        ("{tokens: [90/s, {rate: 600/min, burst: 601}]}",
         [("4:51: providers.p.quota.tokens[1].burst: more than 600/min lets through in its whole period; the same rate over a "
           "longer one: 36k/h")]),
        ("{tokens: {rate: 1/d, burst: 2}}", ["4:40: providers.p.quota.tokens.burst: more than 1/d lets through in its whole period"]),
        ("{requests: [600/min, 36k/h]}", ["4:33: providers.p.quota.requests[1]: can never be reached: 600/min beside it always comes first"]),
        ("{requests: [600/min, 5/s]}", ["4:24: providers.p.quota.requests[0]: can never be reached: 5/s beside it always comes first"]),
        ("{requests: [5/s, {rate: 5/s}]}", ["4:29: providers.p.quota.requests[1]: can never be reached: 5/s beside it always comes first"]),
        ("{requests: [600/min, 5], tokens: [9/s, 8/s]}",
         ['4:33: providers.p.quota.requests[1]: 5: rates need a period, e.g. "5/s" or "5/min"',
          "4:46: providers.p.quota.tokens[0]: can never be reached: 8/s beside it always comes first"]),
        ("{requests: 5/s, groups: [{name: all, models: [m, '*'], tokens: 5/s}], concurrent: 5}",
         ['4:13: providers.p.quota.requests: means nothing: the group "all" takes every model',
          '4:82: providers.p.quota.concurrent: means nothing: the group "all" takes every model']),
    ],
)  # fmt: skip
def test_a_quota_that_cannot_be_meant_is_said_at_its_place(complain, quota, lines):
    assert complain(with_quota(quota)) == lines


A = "{name: a, models: ['gpt-4*', o1, 'o[34]-*'], requests: 5/s}"


@pytest.mark.parametrize(
    ("groups", "lines"),
    [
        (["{}"], ["6:11: providers.p.quota.groups[0]: name is missing", "6:11: providers.p.quota.groups[0]: models is missing"]),
        (["{name: a, models: [m]}"], [f"6:11: providers.p.quota.groups[0]: does not limit the group: {NO_LIMIT}"]),
        (["{name: a b, models: [m], tokens: 5/s}"],
         [("6:18: providers.p.quota.groups[0].name: a b: not a name; use up to 64 letters, digits, `.`, `_`, `-` and `@`, beginning "
           "with a letter or digit")]),
        (["{name: a, models: [], tokens: 5/s}"],
         ["6:29: providers.p.quota.groups[0].models: is empty: name at least one, or remove the key"]),
        (["{name: a, models: m, tokens: 5/s}"], ["6:29: providers.p.quota.groups[0].models: a list is expected, not a string"]),
        (["7", A, "{name: a, models: [m], tokens: [5/s, 4/s]}"],
         ["6:11: providers.p.quota.groups[0]: a mapping is expected, not a number",
          "8:18: providers.p.quota.groups[2].name: another group has this name, in line 7",
          "8:43: providers.p.quota.groups[2].tokens[0]: can never be reached: 4/s beside it always comes first"]),
        ([A, "{name: b, models: [gpt-4o], tokens: 5/s}"],
         ['7:11: providers.p.quota.groups[1]: can never match: the group "a" in line 6 takes everything that it takes']),
        ([A, "{name: b, models: [o1, 'gpt-4o-*', o3-mini], tokens: 5/s}"],
         ['7:11: providers.p.quota.groups[1]: can never match: the group "a" in line 6 takes everything that it takes']),
        ([A, "{name: b, models: ['o[34]-*', o5], tokens: 5/s}"],
         ['7:30: providers.p.quota.groups[1].models[0]: can never match: the group "a" in line 6 takes it already']),
        (["{name: a, models: [x], tokens: 5/s}", "{name: b, models: ['y*'], tokens: 5/s}", "{name: c, models: [x, yz], tokens: 5/s}"],
         ['8:30: providers.p.quota.groups[2].models[0]: can never match: the group "a" in line 6 takes it already',
          '8:33: providers.p.quota.groups[2].models[1]: can never match: the group "b" in line 7 takes it already']),
        (["{name: a, models: ['*'], tokens: 5/s}", "{name: b, models: ['gpt-?'], tokens: 5/s}"],
         ['7:11: providers.p.quota.groups[1]: can never match: the group "a" in line 6 takes everything that it takes']),
    ],
)  # fmt: skip
def test_a_group_that_cannot_be_meant_is_said_at_its_place(complain, groups, lines):
    assert complain(with_groups(*groups)) == lines


@pytest.mark.parametrize(
    "groups",
    [
        [A, "{name: b, models: ['gpt-*', o2, 'o1*', 'gpt-?o'], tokens: 5/s}"],
        ["{name: a, models: [gpt-4o], tokens: 5/s, output_tokens: 9/s}", "{name: b, models: ['*'], tokens: 5/s}"],
        ["{name: a, models: ['*-mini'], tokens: 5/s}", "{name: b, models: ['x*-mini'], tokens: 5/s}"],
    ],
)
def test_groups_that_overlap_only_in_part_are_accepted(read, groups):
    assert len(read(with_groups(*groups)).providers["p"].plan.groups) == len(groups)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("clients: [{name: c, key: k, limits: {}}]", f"6:37: clients[0].limits: does not limit the client: {NO_LIMIT}"),
        ("clients: [{name: c, key: k, limits: {input_tokens: 5/s}}]",
         '6:38: clients[0].limits.input_tokens: unknown key; did you mean "tokens"?'),
        ("clients: [5, {name: c, key: k, limits: {tokens: [9/s, {rate: 1/s, burst: 2}]}}]",
         ("6:74: clients[1].limits.tokens[1].burst: more than 1/s lets through in its whole period; the same rate over a longer "
          "one: 60/min")),
        ("clients: [{name: c, key: k, priority: normal}]",
         "6:39: clients[0].priority: normal: must be one of interactive, standard, batch"),
        ("clients: [{name: c, key: k, weight: 0}]", "6:37: clients[0].weight: 0: must be from 0.01 to 1000"),
        ("provider_defaults: {quota: {tokens: {rate: 1/s, burst: 2}}}",
         ("6:56: provider_defaults.quota.tokens.burst: more than 1/s lets through in its whole period; the same rate over a longer "
          "one: 60/min")),
        ("provider_defaults: {queue: {depth: -1}}", "6:36: provider_defaults.queue.depth: -1: must be from 0 to 1000000"),
        ("provider_defaults: {queue: {depth: 5, wait: 0s}}",
         "6:36: provider_defaults.queue.depth: means nothing with `wait: 0s`, where nobody waits"),
        ("provider_defaults: {queue: {depth: 0, wait: 5s}}",
         "6:45: provider_defaults.queue.wait: means nothing with `depth: 0`, where nobody waits"),
    ],
)  # fmt: skip
def test_what_clients_and_queues_cannot_mean_is_said_at_its_place(complain, text, line):
    assert line in complain(f"{with_quota('{concurrent: 1}')}{text}\n")


def test_a_queue_may_be_closed_by_either_of_its_numbers(read):
    for queue in ("{depth: 0}", "{wait: 0s}", "{depth: 0, wait: 0s}"):
        read(f"{with_quota('{concurrent: 1}')}provider_defaults: {{queue: {queue}}}\n")


@pytest.mark.parametrize(
    ("settings", "targets", "line"),
    [
        ("policy: default", "{provider: p, weight: 2}, q",
         f"5:86: routes[0].targets[0].weight: means nothing with `balance: ordered`: {BOTH_WAYS}"),
        ("balance: fastest", "p, {provider: q, weight: 2}",
         f"5:90: routes[0].targets[1].weight: means nothing with `balance: fastest`: {BOTH_WAYS}"),
        ("balance: weighted", "p, {provider: q, weight: 2, only_for: [timeout]}",
         "5:91: routes[0].targets[1].weight: a target that is `only_for` some fault is tried after it, whatever its weight"),
        ("balance: wieghted", "{provider: p, weight: 2}, q",
         ('5:46: routes[0].balance: wieghted: must be one of ordered, weighted, fastest, least_busy; did you mean "weighted"?')),
    ],
)  # fmt: skip
def test_a_weight_that_nothing_is_weighed_by_is_a_mistake(complain, settings, targets, line):
    assert complain(route(settings, targets)) == [line]


def test_the_weight_that_every_target_has_may_be_said_anywhere(read):
    assert read(
        f"{PROVIDERS}routes: [{{name: r, match: {{}}, targets: [{{provider: p, weight: 1}}, q], balance: ordered}}]\n"
    ).routes


@pytest.mark.parametrize(
    ("settings", "targets", "notes"),
    [
        ("balance: weighted", "p", ["route r balances (weighted), but has one target only"]),
        ("balance: fastest", "p, p", ["route r balances (fastest), but has one target only"]),
        (
            "balance: least_busy",
            "p, {provider: q, only_for: [timeout]}",
            ["route r balances (least_busy), but has one target only"],
        ),
        ("balance: ordered", "p", []),
        ("balance: weighted", "p, q", []),
        ("balance: weighted", "p, {provider: p, model: m}", []),
    ],
)
def test_a_route_that_balances_one_target_only_is_noted(read, settings, targets, notes):
    assert list(read(f"{route(settings, targets)}clients: [{{name: c, key: k3}}]\n").notes) == notes


def test_limits_priorities_and_balance_are_shown_where_their_owners_are(read):
    snapshot = read(
        """
clients:
  - {name: search, key: k, priority: interactive, weight: 2.5, limits: {requests: 600/min, tokens: [200k/min, 9k/s], concurrent: 50}}
  - {name: plain, key: k2}
  - {name: nightly, key: k3, priority: batch}
providers:
  p:
    dialect: openai
    base_url: https://p
    api_key: k4
    quota:
      tokens: {rate: 2M/min, burst: 7}
      groups: [{name: g, models: ["m*"], output_tokens: 1.5k/10s}, {name: h, models: [x], concurrent: 5}]
  q: {dialect: openai, base_url: https://q, api_key: k5, quota: {requests: [30/s, 600/min], concurrent: 1}}
routes:
  - {name: a, match: {models: [a]}, balance: weighted, targets: [p, {provider: q, weight: 3}, {provider: q, model: z, only_for: [timeout]}]}
  - {name: b, match: {models: [b]}, balance: fastest, targets: [p, q]}
  - {name: c, match: {}, balance: least_busy, targets: [{provider: p, model: n, weight: 0.5}, q]}
""",
    )
    assert describe(snapshot)[2:] == [
        (
            "clients: search (interactive, weight 2.5, 600/min requests + 200k/min tokens + 9k/s tokens + 50 at the same time), plain, "
            "nightly (batch)"
        ),
        "provider p: https://p, openai, 1 key, quota 2M/min tokens, quota of g 1500/10s output tokens, quota of h 5 at the same time",
        "provider q: https://q, openai, 1 key, quota 30/s requests + 600/min requests + 1 at the same time",
        "route a: models a -> by weight p, q (weight 3), then q as z only for timeout (policy default: 10m, 4 attempts)",
        "route b: models b -> the fastest of p, q (policy default: 10m, 4 attempts)",
        "route c: everything -> the least busy of p as n (weight 0.5), q (policy default: 10m, 4 attempts)",
    ]
