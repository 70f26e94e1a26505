"""Verdicts and outcomes: what they claim when nothing is said, what they show, and that the table of faults is whole."""

import pytest

from gateway.core.verdicts import FAULTS, OK, Again, Fault, IOFault, Outcome, Parked, Scope, Verdict


def test_an_outcome_claims_only_what_was_seen():
    outcome = Outcome(io=IOFault.DNS, sent=False)
    assert (outcome.status, outcome.headers, outcome.body, outcome.io, outcome.sent) == (0, [], b"", IOFault.DNS, False)
    assert (outcome.in_stream, outcome.detail) == (False, "")
    assert Outcome().headers is not Outcome().headers


def test_a_good_answer_has_no_fault():
    assert (OK.fault, OK.delay, OK.retry_same, OK.ambiguous) == (None, None, True, False)
    assert (OK.scope, OK.quick, OK.quota_left) == (Scope.NOBODY, False, False)


@pytest.mark.parametrize("fault", list(Fault))
def test_a_verdict_is_of_its_faults_scope_unless_it_names_another(fault):
    assert Verdict(fault).scope is FAULTS[fault].scope
    assert Verdict(fault, scope=Scope.PROVIDER).scope is Scope.PROVIDER
    assert (Verdict(fault).quick, Verdict(fault).quota_left) == (False, False)


@pytest.mark.parametrize(
    ("verdict", "text"),
    [
        (OK, "<Verdict ok >"),
        (Verdict(Fault.BILLING, code="insufficient_quota", message="secret"), "<Verdict billing insufficient_quota>"),
    ],
)
def test_a_verdict_shows_its_code_and_not_the_providers_words(verdict, text):
    assert repr(verdict) == text


@pytest.mark.parametrize("fault", list(Fault))
def test_every_fault_says_whose_it_is_and_what_the_client_gets(fault):
    rule = FAULTS[fault]
    assert 400 <= rule.status <= 504
    assert (rule.scope is Scope.NOBODY) is (not rule.elsewhere)
    assert (rule.again is Again.WAIT) is (fault is Fault.RATE_LIMITED)
    assert (rule.parked is Parked.STATED) is (fault is Fault.RATE_LIMITED)


def test_what_keeps_away_from_a_key_is_the_keys_failure():
    for rule in FAULTS.values():
        assert (rule.parked is not Parked.NOT) is (rule.scope in {Scope.CREDENTIAL, Scope.KEY_ON_MODEL})


def test_what_our_account_did_wrong_and_pages_are_not_shown_to_clients():
    assert {fault for fault, rule in FAULTS.items() if not rule.relayed} == {Fault.BILLING, Fault.CREDENTIAL, Fault.EDGE_BLOCKED}
