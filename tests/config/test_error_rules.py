"""Rules that operators write for a provider's errors: what is wrong with them is said at its line, and what is right is taken."""

from __future__ import annotations

import json

import pytest

PROVIDERS = "providers:\n  openai: {dialect: openai, base_url: https://api.openai.com/v1, api_key: k}\n"


def with_rule(rule):
    """One provider with one rule, whose keys begin in line 5 at column 10."""
    return f"providers:\n  p:\n    base_url: https://h/v1\n    errors:\n      - {{{rule}}}\n    dialect: openai\n"


FAULTS = (
    "overloaded, rate_limited, server_error, billing, credential, model_gone, context_length, content_policy, caller, edge_blocked"
)


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ("fault: caller", "5:9: providers.p.errors[0]: needs a `status`, a `body`, or both: as it is, it would take every error"),
        ("status: 400", "5:9: providers.p.errors[0]: fault is missing"),
        ("status: 400, fault: overlaoded",
         f'5:30: providers.p.errors[0].fault: overlaoded: must be one of {FAULTS}; did you mean "overloaded"?'),
        ("status: 400, fault: timeout",
         f"5:30: providers.p.errors[0].fault: timeout: that happens to connections, an answer cannot say it; must be one of {FAULTS}"),
        ("status: 400, fault: unknown", f"5:30: providers.p.errors[0].fault: unknown: that rules nothing; must be one of {FAULTS}"),
        ("status: 400, fault: [caller]", f"5:30: providers.p.errors[0].fault: must be one of {FAULTS}"),
        ("status: 200, fault: caller", "5:18: providers.p.errors[0].status: 200: error statuses go from 400 to 599"),
        ("status: 599-600, fault: caller", "5:18: providers.p.errors[0].status: 599-600: error statuses go from 400 to 599"),
        ("status: 1xx, fault: caller", "5:18: providers.p.errors[0].status: 1xx: error statuses go from 400 to 599"),
        ("status: 599-500, fault: caller", "5:18: providers.p.errors[0].status: 599-500: the range ends before it begins"),
        ("status: many, fault: caller",
         '5:18: providers.p.errors[0].status: many: an error status is expected: a number from 400 to 599, "5xx" or "500-599"'),
        ("status: on, fault: caller",
         '5:18: providers.p.errors[0].status: on: an error status is expected: a number from 400 to 599, "5xx" or "500-599"'),
        ("status: [500, 60, 503], fault: caller",
         ('5:24: providers.p.errors[0].status[1]: 60: an error status is expected: a number from 400 to 599, "5xx" or "500-599"')),
        ("status: [], fault: caller", "5:18: providers.p.errors[0].status: is empty: name at least one, or remove the key"),
        ("body: '[a', fault: caller",
         "5:16: providers.p.errors[0].body: [a: not a regular expression: unterminated character set at position 0"),
        ("body: 'a{99999999999}', fault: caller",
         "5:16: providers.p.errors[0].body: a{99999999999}: not a regular expression: too large"),
        ("body: '(a+)+$', fault: caller", ("5:16: providers.p.errors[0].body: (a+)+$: a repetition inside a repetition can take for ever "
                                           "on the wrong text: bound the outer one, e.g. {1,9}")),
        ("body: '', fault: caller", "5:16: providers.p.errors[0].body: a regular expression of 1 to 1000 characters is expected"),
        ("body: 500, fault: caller",
         "5:16: providers.p.errors[0].body: 500: a string is expected, but YAML reads this as a number: put it in quotes"),
        ("status: 400, fault: caller, scope: all", ("5:45: providers.p.errors[0].scope: all: must be one of nobody, credential, "
                                                    "key_on_model, target, provider")),
        ("status: 400, fault: caller, scope: target", "5:45: providers.p.errors[0].scope: for caller only nobody makes sense"),
        ("status: 400, fault: billing, scope: nobody",
         "5:46: providers.p.errors[0].scope: for billing only credential or key_on_model makes sense"),
        ("status: 400, fault: overloaded, scope: credential",
         "5:49: providers.p.errors[0].scope: for overloaded only target or provider makes sense"),
        ("status: 400, falt: caller", ["5:9: providers.p.errors[0]: fault is missing",
                                       '5:23: providers.p.errors[0].falt: unknown key; did you mean "fault"?']),
    ],
)  # fmt: skip
def test_a_mistake_in_a_rule_for_errors_is_one_precise_line(complain, rule, line):
    assert complain(with_rule(rule)) == ([line] if isinstance(line, str) else line)


def test_rules_for_errors_are_looked_at_behind_a_wrong_one_and_in_the_defaults_too(complain):
    text = (
        "provider_defaults:\n  errors:\n    - {status: 5, fault: caller}\n    - 7\n    - {body: x, fault: caller, scope: target}\n"
    )
    assert complain(PROVIDERS + text) == [
        '5:16: provider_defaults.errors[0].status: 5: an error status is expected: a number from 400 to 599, "5xx" or "500-599"',
        "6:7: provider_defaults.errors[1]: a mapping is expected, not a number",
        "7:39: provider_defaults.errors[2].scope: for caller only nobody makes sense",
    ]


@pytest.mark.parametrize(
    "pattern",
    ["no healthy upstream", r"\(a+\)+", "[(+*]+(b)+", "(?:ab)+c*", "(?:a+b){1,9}", "(?i)a|b", "(a|b)*c", r"[^]\]()]+(x)*", "é+"],
)
def test_patterns_whose_time_is_bound_are_taken(read, pattern):
    (rule,) = read(json.dumps({"providers": {"p": {"dialect": "openai", "base_url": "https://h", "errors": [
        {"body": pattern, "fault": "caller"}]}}})).providers["p"].errors  # fmt: skip
    assert rule.body.pattern == pattern.encode()


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+", "(a*)*", "(?:a|b+)*x", "((a+))*", "(x(?:a{2,})y){3,}", "(?:\\w+\\.)+", "a)(a+)+", "(" * 300 + "a+" + ")*" * 300],
)
def test_patterns_whose_time_can_explode_are_refused(complain, pattern):
    (line,) = complain(json.dumps({"providers": {"p": {"dialect": "openai", "base_url": "https://h", "errors": [
        {"body": pattern, "fault": "caller"}]}}}))  # fmt: skip
    assert line.endswith("a repetition inside a repetition can take for ever on the wrong text: bound the outer one, e.g. {1,9}")
