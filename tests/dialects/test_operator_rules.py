"""Rules that operators write for a provider's errors: they come first, and what is true of an answer stays true."""

import json
import re

import pytest

from gateway.core.matcher import Rule
from gateway.core.message import header
from gateway.core.verdicts import FAULTS, OK, Fault, IOFault, Outcome, Scope
from gateway.dialects.judge import SEARCHED_BYTES
from gateway.dialects.registry import DIALECTS

JSON = [header(b"Content-Type", b"application/json")]
HTML = [header(b"Content-Type", b"text/html")]
REFUSED = {"error": {"message": "No capacity in region eu-3", "type": "invalid_request_error", "code": None}}


def classify(status, body, *errors, dialect="openai", own_key=True, headers=JSON, **how):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    outcome = Outcome(status=status, headers=headers, body=raw, **how)
    return DIALECTS[dialect].classify(outcome, own_key=own_key, now_unix=0.0, errors=errors)


def rule(fault, *statuses, body=None, scope=None):
    return Rule(fault, tuple(statuses), body=re.compile(body) if body else None, scope=scope)


@pytest.mark.parametrize("dialect", ["openai", "azure"])
@pytest.mark.parametrize("own_key", [True, False])
@pytest.mark.parametrize(
    "fitting",
    [
        rule(Fault.OVERLOADED, (400, 400)),
        rule(Fault.OVERLOADED, (500, 599), (400, 422)),
        rule(Fault.OVERLOADED, body=rb"capacity in \w+"),
        rule(Fault.OVERLOADED, (400, 400), body=rb"(?i)CAPACITY"),
        rule(Fault.OVERLOADED, body=rb'^\{"error"'),
    ],
)
def test_a_rule_that_fits_takes_the_answer_from_the_dialect(fitting, own_key, dialect):
    assert classify(400, REFUSED, dialect=dialect, own_key=own_key).fault is Fault.CALLER
    verdict = classify(400, REFUSED, fitting, dialect=dialect, own_key=own_key)
    assert (verdict.fault, verdict.scope) == (Fault.OVERLOADED, Scope.TARGET)
    assert verdict.message == "No capacity in region eu-3"


@pytest.mark.parametrize(
    "failing",
    [
        rule(Fault.OVERLOADED, (401, 499)),
        rule(Fault.OVERLOADED, body=b"CAPACITY"),
        rule(Fault.OVERLOADED, (400, 400), body=b"x{9}"),
    ],
)
def test_a_rule_that_does_not_fit_changes_nothing(failing):
    assert classify(400, REFUSED, failing).fault is Fault.CALLER


def test_the_first_rule_that_fits_decides():
    rules = (rule(Fault.MODEL_GONE, (500, 500)), rule(Fault.SERVER_ERROR, (400, 400)), rule(Fault.OVERLOADED, (400, 400)))
    assert classify(400, REFUSED, *rules).fault is Fault.SERVER_ERROR


@pytest.mark.parametrize("scope", [None, *Scope])
def test_a_rule_may_say_whose_failure_it_is(scope):
    assert classify(400, REFUSED, rule(Fault.OVERLOADED, (400, 400), scope=scope)).scope is (scope or Scope.TARGET)


@pytest.mark.parametrize("status", [400, 401, 403, 429, 500, 503])
@pytest.mark.parametrize("fault", [Fault.CREDENTIAL, Fault.BILLING, Fault.MODEL_GONE])
def test_a_client_s_own_key_benches_nothing_whatever_the_rule_says(fault, status):
    ours = rule(fault, (status, status), scope=Scope.CREDENTIAL)
    assert (classify(status, REFUSED, ours).fault, classify(status, REFUSED, ours).scope) == (fault, Scope.CREDENTIAL)
    theirs = classify(status, REFUSED, ours, own_key=False)
    assert (theirs.fault, theirs.scope) == (Fault.CALLER, Scope.NOBODY)


@pytest.mark.parametrize("fault", sorted(set(Fault) - {Fault.CREDENTIAL, Fault.BILLING, Fault.MODEL_GONE}))
def test_what_does_not_concern_keys_is_ruled_alike_for_every_key(fault):
    for own_key in (True, False):
        verdict = classify(400, REFUSED, rule(fault, (400, 400)), own_key=own_key)
        assert (verdict.fault, verdict.scope) == (fault, FAULTS[fault].scope)


def test_errors_inside_a_200_count_as_the_status_they_stand_for():
    body = {"error": {"code": 502, "message": "upstream gone"}}
    assert classify(200, body, rule(Fault.OVERLOADED, (502, 502))).fault is Fault.OVERLOADED
    assert classify(200, body, rule(Fault.OVERLOADED, (200, 501))).fault is Fault.SERVER_ERROR
    assert classify(200, body, rule(Fault.OVERLOADED, (502, 502)), in_stream=True, headers=[]).fault is Fault.OVERLOADED
    event = {"type": "error", "code": "rate_limit_exceeded", "message": "x"}
    assert classify(200, event, rule(Fault.BILLING, (429, 429)), in_stream=True, headers=[]).fault is Fault.BILLING


def test_good_answers_redirects_and_pages_with_a_200_are_not_ruled_on():
    everything = Rule(Fault.CALLER)
    assert classify(200, {"choices": [{}]}, everything) is OK
    assert classify(302, b"", everything).fault is Fault.UNKNOWN
    assert classify(200, b"<html>", everything, headers=HTML).fault is Fault.EDGE_BLOCKED


def test_an_error_page_can_be_ruled_on():
    maintenance = rule(Fault.OVERLOADED, (503, 503), body=b"maintenance")
    assert classify(503, b"<html>Scheduled maintenance", maintenance, headers=HTML).fault is Fault.OVERLOADED
    assert classify(503, b"<html>Blocked", maintenance, headers=HTML).fault is Fault.EDGE_BLOCKED


@pytest.mark.parametrize("io", list(IOFault))
def test_what_happens_to_a_connection_is_not_ruled_on(io):
    ruled, plain = classify(0, b"", Rule(Fault.CALLER), io=io), classify(0, b"", io=io)
    assert (ruled.fault, ruled.scope, ruled.ambiguous) == (plain.fault, plain.scope, plain.ambiguous)


def test_an_error_answer_whose_body_broke_off_is_ruled_on():
    assert (
        classify(400, b'{"error": {"message": "No capa', rule(Fault.OVERLOADED, body=b"capa"), io=IOFault.RESET).fault
        is Fault.OVERLOADED
    )


def test_only_the_beginning_of_a_body_is_searched():
    for before, fault in ((SEARCHED_BYTES - 6, Fault.OVERLOADED), (SEARCHED_BYTES - 5, Fault.CALLER)):
        assert classify(400, b" " * before + b"needle", rule(Fault.OVERLOADED, body=b"needle")).fault is fault


@pytest.mark.parametrize(
    ("status", "ambiguous"), [(400, False), (408, True), (429, False), (500, True), (502, True), (503, False), (504, True)]
)
def test_whether_the_work_may_be_done_does_not_depend_on_the_name(status, ambiguous):
    assert classify(status, REFUSED, rule(Fault.OVERLOADED, (status, status))).ambiguous is ambiguous


def test_a_500_is_tried_again_quickly_only_as_long_as_it_is_one():
    assert classify(500, REFUSED, rule(Fault.SERVER_ERROR, (500, 500), scope=Scope.PROVIDER)).quick
    assert not classify(500, REFUSED, rule(Fault.OVERLOADED, (500, 500))).quick
    assert not classify(400, REFUSED, rule(Fault.SERVER_ERROR, (400, 400))).quick


def test_a_ruled_answer_keeps_its_delay_and_its_advice():
    headers = [*JSON, header(b"Retry-After", b"7"), header(b"X-Should-Retry", b"false")]
    verdict = classify(400, REFUSED, rule(Fault.RATE_LIMITED, (400, 400)), headers=headers)
    assert (verdict.fault, verdict.scope, verdict.delay, verdict.retry_same) == (Fault.RATE_LIMITED, Scope.KEY_ON_MODEL, 7, False)
    headers = [*JSON, header(b"X-RateLimit-Remaining-Tokens", b"9")]
    assert classify(400, REFUSED, rule(Fault.RATE_LIMITED, (400, 400)), headers=headers).quota_left
