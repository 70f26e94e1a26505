"""What the counters beside a 429 tell, where it names no delay: when to come back, and whether to believe it."""

import json

import pytest

from gateway.core.message import header
from gateway.core.verdicts import Outcome
from gateway.dialects.registry import DIALECTS

NOW = 1_755_780_060.0
"""2025-08-21T12:41:00Z"""
JSON = [header(b"Content-Type", b"application/json")]
TOO_LARGE = "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 30704."


def error(message="m", *, code=None):
    return {"error": {"message": message, "type": None, "param": None, "code": code}}


def classify(status, body, headers=JSON):
    outcome = Outcome(status=status, headers=headers, body=json.dumps(body).encode())
    return DIALECTS["openai"].classify(outcome, own_key=True, now_unix=NOW)


@pytest.mark.parametrize(
    ("fields", "left"),
    [
        ({}, False),
        ({"x-ratelimit-remaining": "1"}, True),
        ({"x-ratelimit-remaining-requests": "9", "x-ratelimit-remaining-tokens": "1"}, True),
        ({"x-ratelimit-remaining-requests": "9", "x-ratelimit-remaining-tokens": "0"}, False),
        ({"x-ratelimit-remaining-requests": "9", "x-ratelimit-remaining-project-tokens": "0"}, False),
        ({"x-ratelimit-remaining-tokens-minute": "499000"}, True),
        ({"x-ratelimit-remaining-requests-day": "3.0"}, True),
        ({"anthropic-ratelimit-input-tokens-remaining": "5"}, True),
        ({"anthropic-ratelimit-input-tokens-remaining": "5", "anthropic-ratelimit-requests-remaining": "0"}, False),
        ({"x-ratelimit-remaining-requests": "-1", "x-ratelimit-remaining-tokens": "-1"}, False),
        ({"x-ratelimit-remaining-requests": "-1", "x-ratelimit-remaining-tokens": "7"}, True),
        ({"x-ratelimit-remaining-requests": "many"}, False),
        ({"x-ratelimit-limit-requests": "9", "x-ratelimit-reset-requests": "1s"}, False),
        ({"x-ratelimit-remaining-requests": "9", "retry-after": "1"}, False),
        ({"x-ratelimit-remaining-requests": "9", "retry-after": "-1"}, True),
    ],
)
def test_a_rate_limit_that_leaves_quota_and_names_no_delay_is_a_doubtful_one(fields, left):
    headers = [*JSON, *(header(name.encode(), value.encode()) for name, value in fields.items())]
    assert classify(429, error(code="rate_limit_exceeded"), headers=headers).quota_left is left
    assert not classify(429, error("Please try again in 300ms"), headers=headers).quota_left
    assert not classify(429, error(TOO_LARGE), headers=headers).quota_left
    assert not classify(429, error(code="insufficient_quota"), headers=headers).quota_left
    assert not classify(503, error(), headers=headers).quota_left


@pytest.mark.parametrize(
    ("fields", "delay"),
    [
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1755780072000"}, 12),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1755780072"}, 12),
        ({"x-ratelimit-remaining": "1", "x-ratelimit-reset": "1755780072000"}, None),
        ({"x-ratelimit-reset": "1755780072000"}, None),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1755780059000"}, None),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "12"}, None),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "soon"}, None),
        ({"x-ratelimit-remaining": "0"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1755780072000"}, None),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1755780072000", "retry-after": "3"}, 3),
    ],
)
def test_an_exhausted_limit_is_waited_for_until_its_next_window(fields, delay):
    headers = [*JSON, *(header(name.encode(), value.encode()) for name, value in fields.items())]
    assert classify(429, error(), headers=headers).delay == delay
    assert classify(400, error(), headers=headers).delay == (3 if "retry-after" in fields else None)


def test_the_state_of_a_limit_may_stand_in_the_error_itself():
    state = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1755780072000", "n": 5, "o": {}, "\r\n": "\r\n"}
    assert classify(429, {"error": {"code": 429, "message": "m", "metadata": {"headers": state}}}).delay == 12
    state["X-RateLimit-Remaining"] = "3"
    verdict = classify(429, {"error": {"code": 429, "message": "m", "metadata": {"headers": state}}})
    assert (verdict.delay, verdict.quota_left) == (None, True)
