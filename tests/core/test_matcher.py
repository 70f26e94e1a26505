"""The matcher knows no provider: conditions hold or not, the first rule that fits decides."""

import re

import pytest

from gateway.core.matcher import EVERYTHING_ELSE, ErrorFacts, Rule, match
from gateway.core.verdicts import Fault, Scope

FACTS = ErrorFacts(
    status=429,
    names=frozenset({"slow_down", "requests"}),
    message="Please slow down",
    shaped=True,
    own_key=False,
    body=b'{"hint": "slow \xff down"}',
)


@pytest.mark.parametrize(
    "fitting",
    [
        Rule(Fault.CALLER),
        Rule(Fault.CALLER, ((429, 429),)),
        Rule(Fault.CALLER, ((500, 599), (400, 429))),
        Rule(Fault.CALLER, names=frozenset({"other", "slow_down"})),
        Rule(Fault.CALLER, text=re.compile("slow")),
        Rule(Fault.CALLER, body=re.compile(rb"slow \xff")),
        Rule(Fault.CALLER, html=False, shaped=True, oversize=False, stated_delay=False, own_key=False),
    ],
)
def test_a_rule_fits_when_all_its_conditions_hold(fitting):
    assert fitting.fits(FACTS)


@pytest.mark.parametrize(
    "failing",
    [
        {"statuses": ((400, 428), (430, 599))},
        {"names": frozenset({"other"})},
        {"text": re.compile("^slow")},
        {"body": re.compile(b"slow down")},
        {"html": True},
        {"shaped": False},
        {"oversize": True},
        {"stated_delay": True},
        {"own_key": True},
    ],
)
def test_one_condition_that_fails_is_enough(failing):
    holding = {"statuses": ((429, 429),), "names": frozenset({"slow_down"}), "text": re.compile("slow"), "shaped": True}
    assert not Rule(Fault.CALLER, **{**holding, **failing}).fits(FACTS)


def test_the_first_rule_that_fits_decides():
    rules = [Rule(Fault.CALLER, ((400, 400),)), Rule(Fault.OVERLOADED, ((429, 429),)), Rule(Fault.RATE_LIMITED)]
    assert match(FACTS, rules) is rules[1]


def test_a_rule_leaves_to_the_fault_what_it_does_not_say():
    rule = Rule(Fault.RATE_LIMITED)
    assert (rule.scope, rule.quick, rule.ambiguous, rule.waits, rule.retry_same) == (None, False, False, True, True)
    assert Rule(Fault.RATE_LIMITED, scope=Scope.NOBODY, quick=True).fits(FACTS)


def test_a_table_without_an_answer_says_unknown():
    assert match(FACTS, [Rule(Fault.CALLER, ((400, 400),))]) is EVERYTHING_ELSE
    assert EVERYTHING_ELSE.fault is Fault.UNKNOWN
