"""What is read of limits: every published spelling of the headers, and the sentences of refusals as they were captured."""

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.core.message import ResponseHead, header
from gateway.core.plan import Resource
from gateway.core.verdicts import Fault, Outcome
from gateway.dialects.limits import limits_in_text, read_limits, refused_resource, states_limits
from gateway.dialects.registry import DIALECTS
from gateway.drill.bucket import Bucket, go_duration

REQUESTS, TOKENS, INPUT, OUTPUT = Resource.REQUESTS, Resource.TOKENS, Resource.INPUT_TOKENS, Resource.OUTPUT_TOKENS
NOW = 1_755_780_060.0
"""2025-08-21T12:41:00Z"""
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0


def head(fields):
    return ResponseHead.of(200, [header(name.encode(), value.encode("latin-1")) for name, value in fields.items()])


def plain(stated):
    return stated and (stated.resource, stated.limit, stated.remaining, stated.reset_s, stated.period_s)


def read(fields):
    return [plain(one) for one in read_limits(head(fields), now_unix=NOW)]


def openai(resource, limit, remaining, reset):
    names = ("limit", "remaining", "reset")
    return {f"x-ratelimit-{name}-{resource}": str(value) for name, value in zip(names, (limit, remaining, reset), strict=True)}


def anthropic(resource, limit, remaining, reset):
    names = ("limit", "remaining", "reset")
    return {
        f"anthropic-ratelimit-{resource}-{name}": str(value) for name, value in zip(names, (limit, remaining, reset), strict=True)
    }


@pytest.mark.parametrize(
    ("fields", "stated"),
    [
        # OpenAI: Go durations, exact to the millisecond; per minute, or per day in the lowest tier.
        (
            {**openai("requests", 10000, 9999, "6ms"), **openai("tokens", 2000000, 1999000, "30ms")},
            [(REQUESTS, 10000, 9999, 0.006, MINUTE), (TOKENS, 2000000, 1999000, 0.03, MINUTE)],
        ),
        (openai("requests", 60, 59, "1s"), [(REQUESTS, 60, 59, 1, MINUTE)]),
        (openai("requests", 200, 199, "7m12s"), [(REQUESTS, 200, 199, 432, DAY)]),
        (openai("tokens", 30000, 0, "1m0s"), [(TOKENS, 30000, 0, 60, MINUTE)]),
        (openai("tokens_usage_based", 30000, 0, "1m0s"), [(TOKENS, 30000, 0, 60, MINUTE)]),
        (
            {**openai("tokens", 30000, 20000, "20s"), **openai("project-tokens", 10000, 2500, "45s")},
            [(TOKENS, 10000, 2500, 45, MINUTE)],
        ),
        (
            {**openai("tokens", 30000, 30000, "0s"), **openai("project-tokens", 10000, 2500, "45s")},
            [(TOKENS, 10000, 2500, 45, MINUTE)],
        ),
        # As OpenAI's documentation shows them; the second pair fits no period.
        (
            {**openai("requests", 60, 59, "1s"), **openai("tokens", 150000, 149984, "6m0s")},
            [(REQUESTS, 60, 59, 1, MINUTE), (TOKENS, 150000, 149984, 360, None)],
        ),
        # Azure: whole seconds rounded up, and -1 where it does not say.
        (openai("requests", 600, 599, "1"), [(REQUESTS, 600, 599, 1, MINUTE)]),
        (openai("tokens", 120000, 100000, "10"), [(TOKENS, 120000, 100000, 10, MINUTE)]),
        (openai("requests", -1, -1, "0"), []),
        (openai("requests", 600, -1, "0"), [(REQUESTS, 600, None, 0, None)]),
        # Groq: requests per day, tokens per minute.
        (
            {**openai("requests", 14400, 14370, "2m59.56s"), **openai("tokens", 6000, 5500, "5s")},
            [(REQUESTS, 14400, 14370, 179.56, DAY), (TOKENS, 6000, 5500, 5, MINUTE)],
        ),
        (openai("requests", 1000, 999, "1m26.4s"), [(REQUESTS, 1000, 999, 86.4, DAY)]),
        # Nothing follows from a limit that is whole, or from a reset of a month cut to a day.
        (openai("requests", 14400, 14400, "0s"), [(REQUESTS, 14400, 14400, 0, None)]),
        (openai("tokens", 1000, 0, "720h0m0s"), [(TOKENS, 1000, 0, DAY, None)]),
        # The name says it: Mistral, Cerebras.
        (
            {"x-ratelimit-limit-tokens-minute": "500000", "x-ratelimit-remaining-tokens-minute": "499000"},
            [(TOKENS, 500000, 499000, None, MINUTE)],
        ),
        (
            {**openai("requests-day", 14400, 14399, "33011.382867"), "x-ratelimit-limit-tokens-minute": "60000.0"},
            [(REQUESTS, 14400, 14399, 33011.382867, DAY), (TOKENS, 60000, None, None, MINUTE)],
        ),
        ({"x-ratelimit-limit-req-minute": "60", "x-ratelimit-limit-req-second": "5"}, [(REQUESTS, 60, None, None, MINUTE), (REQUESTS, 5, None, None, 1)]),
        # OpenRouter: no resource, and a moment in epoch milliseconds, from which no period follows.
        (
            {"X-RateLimit-Limit": "20", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1755780072000"},
            [(REQUESTS, 20, 0, 12, None)],
        ),
        # Anthropic: moments, and all of it per minute.
        (
            {
                **anthropic("requests", 50, 49, "2025-08-21T12:41:02Z"),
                **anthropic("tokens", 90000, 80000, "2025-08-21T12:41:07Z"),
                **anthropic("input-tokens", 80000, 72000, "2025-08-21t12:41:06z"),
                **anthropic("output-tokens", 10000, 8000, "2025-08-21T12:40:00Z"),
            },
            [
                (REQUESTS, 50, 49, 2, MINUTE),
                (TOKENS, 90000, 80000, 7, MINUTE),
                (INPUT, 80000, 72000, 6, MINUTE),
                (OUTPUT, 10000, 8000, None, MINUTE),
            ],
        ),
        # What is none: another's counters, a rest without its limit, and contradictions.
        ({"x-ratelimit-remaining-tokens": "7", "x-ratelimit-reset-tokens": "1s"}, []),
        ({"x-ratelimit-limit-images": "7", "retry-after": "1", "x-ratelimit-limit-tokens-month": "9"}, []),
        ({}, []),
        (openai("requests", 10, 11, "1s"), [(REQUESTS, 10, 10, 1, None)]),
    ],
)  # fmt: skip
def test_what_providers_state(fields, stated):
    assert read(fields) == stated
    assert read(fields) == stated
    assert states_limits(head(fields).names) >= bool(stated)


@pytest.mark.parametrize(
    "garbage", ["", " ", "many", "nan", "inf", "-5", "1e400", "0x10", "9" * 30, "10, 100;w=60", "1_000", "\xb2"]
)
def test_what_is_no_number_is_not_stated(garbage):
    assert read(openai("requests", garbage, 5, "1s")) == []
    kept = read(openai("requests", 10, garbage, "1s"))
    assert kept == [(REQUESTS, 10, None, 1, None)]
    assert read(openai("requests", 10, 5, garbage)) == [(REQUESTS, 10, 5, None, None)]


def test_nothing_is_a_number_but_no_limit():
    assert read(openai("requests", 0, 0, "0")) == []
    assert read(openai("requests", 10, 0, "0")) == [(REQUESTS, 10, 0, 0, None)]
    assert read(openai("requests", 10, 0, "1.0")) == [(REQUESTS, 10, 0, 1, 1)]


def test_the_first_of_two_lines_of_one_name_counts():
    lines = [b"X-RateLimit-Limit-Requests:10", b"x-ratelimit-limit-requests:  20 "]
    names = (b"x-ratelimit-limit-requests",) * 2
    (stated,) = read_limits(ResponseHead(200, names, lines, b"OK"), now_unix=NOW)
    assert stated.limit == 10


def test_answers_that_say_the_same_are_read_once():
    fields = openai("requests", 10000, 9999, "6ms")
    once, again = (read_limits(head(fields), now_unix=now) for now in (NOW, NOW + 9))
    assert once[0] is again[0]
    assert "9999.0/10000.0 per 60.0s" in repr(once[0])


@pytest.mark.parametrize("name", [b"x-ratelimit-limit", b"anthropic-ratelimit-requests-limit", b"x-ratelimit-limit-tokens-day"])
def test_the_names_alone_tell_whether_to_look(name):
    assert states_limits((b"date", name))
    assert not states_limits((b"date", b"x-request-id", b"x-ratelimit-remaining-tokens", name + b"s"))


def test_a_reset_that_is_a_moment_is_counted_from_now():
    fields = head(anthropic("requests", 50, 49, "2025-08-21T12:41:30Z"))
    assert [read_limits(fields, now_unix=NOW + passed)[0].reset_s for passed in (0, 10, 30, 31)] == [30, 20, 0, None]


def test_answers_in_great_variety_are_all_read():
    """More of them than are remembered."""
    for left in range(1000):
        assert read(openai("requests", 1000, left, go_duration((1000 - left) * 0.06)))[0][1:] == (
            1000, left, pytest.approx((1000 - left) * 0.06, abs=0.001), MINUTE,
        )  # fmt: skip


amounts = st.integers(1, 2_000_000)


@example(DAY, 1581, 1581, 0.0)
@given(st.sampled_from([1.0, MINUTE, HOUR, DAY]), amounts, st.integers(1, 2_000_000), st.floats(0, 30))
def test_the_period_of_a_true_token_bucket_is_found_or_left_open(period_s, limit, taken, later):
    """Told exactly to the millisecond, any period; a minute instead where that fits as well."""
    bucket = Bucket(limit, limit / period_s, 0.0)
    bucket.take(min(taken, limit), 0.0)
    left, reset_s = int(bucket.level(later)), bucket.full_in(later)
    ((*_, found),) = read(openai("requests", limit, left, go_duration(reset_s)))
    if limit - left >= 2 and reset_s >= 0.5:
        assert found in {period_s, None}
        if later == 0.0 and round(reset_s, 3) < DAY:
            assert found == period_s
    elif period_s == MINUTE:
        assert found == (MINUTE if left < limit and reset_s >= 0.001 else None) or reset_s < 0.002


@given(amounts, st.integers(1, 2_000_000), st.floats(0, 30))
def test_whole_seconds_rounded_up_tell_a_minute_or_nothing(limit, taken, later):
    bucket = Bucket(limit, limit / 60, 0.0)
    bucket.take(min(taken, limit), 0.0)
    left, reset_s = int(bucket.level(later)), math.ceil(bucket.full_in(later))
    ((*_, found),) = read(openai("tokens", limit, left, str(reset_s)))
    assert found == (MINUTE if reset_s and left < limit else None)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["x-ratelimit", "anthropic-ratelimit"]),
            st.sampled_from(["limit", "remaining", "reset"]),
            st.sampled_from(["", "-requests", "-tokens", "-tokens-minute", "-requests-day", "-x"]),
            st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=12) | st.integers(-2, 10**16).map(str)
            | st.sampled_from(["1ms", "2025-08-21T12:41:02Z", "1e5", "999999999999999999h", "1755780072000"]),
        ),
        max_size=9,
    ),
    st.floats(0, 4e9),
)  # fmt: skip
def test_no_headers_make_it_raise_or_say_what_cannot_be(lines, now):
    fields = [header(f"{a}-{b}{c}".encode(), d.encode("latin-1")) for a, b, c, d in lines]
    for stated in read_limits(ResponseHead.of(200, fields), now_unix=now):
        assert 0 < stated.limit <= 1e15
        assert stated.remaining is None or 0 <= stated.remaining <= stated.limit
        assert stated.reset_s is None or 0 <= stated.reset_s <= DAY
        assert stated.period_s in {None, 1.0, MINUTE, HOUR, DAY}


GROQ = "in organization `org_x` service tier `on_demand` on"
XAI = "Too many requests for team x and model grok-4-0709. Your team's rate limit is — "


@pytest.mark.parametrize(
    ("message", "stated"),
    [
        (
            ("Rate limit reached for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Used 29500, Requested 900. "
            "Please try again in 800ms."),
            (TOKENS, 30000, 500, MINUTE),
        ),
        (
            ("Rate limit reached for gpt-4o-mini in organization org-x on requests per day (RPD): Limit 200, Used 200, Requested 1. "
            "Please try again in 7m12s."),
            (REQUESTS, 200, 0, DAY),
        ),
        ("Rate limit reached for x on tokens per day (TPD): Limit 2,000,000, Used 1,999,000, Requested 5.", (TOKENS, 2e6, 1000, DAY)),
        (
            ("Rate limit reached for default-gpt-3.5-turbo in organization org-x on requests per min. Limit: 3 / min. "
            "Please try again in 20s. Contact us through our help center."),
            (REQUESTS, 3, None, MINUTE),
        ),
        ("Rate limit reached for x in organization x on tokens per min. Limit: 90000 / min. Current: 89000 / min.", (TOKENS, 90000, 1000, MINUTE)),
        ("Rate limit reached on tokens_usage_based per min: Limit 40000, Used 41000, Requested 1.", (TOKENS, 40000, 0, MINUTE)),
        (
            "Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Requested 30704.",
            (TOKENS, 30000, None, MINUTE),
        ),
        (f"Rate limit reached for model `m` {GROQ} tokens per minute (TPM): Limit 6000, Used 5500, Requested 700.", (TOKENS, 6000, 500, MINUTE)),
        (f"Rate limit reached for model `m` {GROQ} input tokens per minute (ITPM): Limit 6000, Used 1, Requested 7000.", (INPUT, 6000, 5999, MINUTE)),
        (f"Rate limit reached for model `m` {GROQ} requests per day (RPD): Limit 1000, Used 1000, Requested 1.", (REQUESTS, 1000, 0, DAY)),
        (f"Rate limit reached for model `w` {GROQ} audio seconds per hour (ASPH): Limit 7200, Used 7100, Requested 600.", None),
        ("Rate limit reached for dall-e-3 in organization org-x on images per min: Limit 1, Used 1, Requested 1.", None),
        (
            ("This request would exceed the rate limit for your organization (a22cf6e6-a940-4fff-8c4c-1580816ac7be) of 1,000,000 input "
            "tokens per minute. For details, refer to: https://docs.anthropic.com/en/api/rate-limits."),
            (INPUT, 1e6, None, MINUTE),
        ),
        ("This request would exceed your organization's rate limit of 50 requests per minute (org: x, model: y).", (REQUESTS, 50, None, MINUTE)),
        (XAI + "Tokens per Minute (actual/limit): 65605/16000. You can view your team rate limits.", (TOKENS, 16000, 0, MINUTE)),
        (XAI + "Requests per Second (actual/limit): 1/8, Requests per Minute (actual/limit): 480/480.", (REQUESTS, 480, 0, MINUTE)),
        ("Rate limit of 10 per 60s exceeded for UserByModelByMinute. Please wait 37 seconds.", (REQUESTS, 10, None, MINUTE)),
        ("Rate limit of 2 per 0s exceeded for UserConcurrentRequests. Please wait 0 seconds.", None),
        (
            ("You exceeded your current quota. * Quota exceeded for metric: generativelanguage.googleapis.com/"
            "generate_content_free_tier_input_token_count, limit: 250000, model: gemini-2.5-flash\nPlease retry in 31s."),
            (INPUT, 250000, None, None),
        ),
        ("Quota exceeded for metric: generativelanguage.googleapis.com/generate_content_free_tier_requests, limit: 0", None),
        ("Requests rate limit exceeded", None),
        ("on tokens per min (TPM): Limit 0, Used 0, Requested 5", None),
        ("on tokens per min (TPM): Limit 30000.5, Used 5", None),
        ("", None),
    ],
)  # fmt: skip
def test_what_refusals_say_of_limits(message, stated):
    found = limits_in_text(message)
    assert (found and (found.resource, found.limit, found.remaining, found.period_s)) == stated
    if stated is not None:
        assert refused_resource(message, ()) is stated[0]


@pytest.mark.parametrize(
    ("message", "names", "resource"),
    [
        ("Requests to the Operation have exceeded call rate limit of your current OpenAI S0 pricing tier.", {"429"}, REQUESTS),
        ("Requests to the Operation have exceeded token rate limit of your current OpenAI S0 pricing tier.", {"429"}, TOKENS),
        ("Requests rate limit exceeded", {"rate_limited"}, REQUESTS),
        ("Number of request tokens has exceeded your per-minute rate limit", {"rate_limit_error"}, TOKENS),
        ("Number of requests has exceeded your rate limit", (), REQUESTS),
        ("Number of concurrent connections has exceeded your rate limit", (), Resource.CONCURRENT),
        ("This request would exceed your maximum usage increase rate for output tokens per minute", (), OUTPUT),
        ("Too many parallel requests for this key", {"requests"}, Resource.CONCURRENT),
        ("Too many simultaneous requests", (), Resource.CONCURRENT),
        ("Rate limit of 2 per 0s exceeded for UserConcurrentRequests.", (), Resource.CONCURRENT),
        ("Rate limit reached for requests", {"requests"}, REQUESTS),
        ("Slow down", {"tokens", "rate_limit_exceeded"}, TOKENS),
        ("Slow down", {"requests"}, REQUESTS),
        ("Rate limit reached on images per min: Limit 1", {"requests"}, None),
        ("Your usage is measured per minute", {"tokens"}, TOKENS),
        ("Too Many Requests", {"too_many_requests"}, None),
        ("Rate limit exceeded: free-models-per-min.", (), None),
        ("Please reduce max_tokens or your tokens", (), None),
        ("", (), None),
    ],
)
def test_what_a_refusal_counts(message, names, resource):
    assert refused_resource(message, names) is resource


pieces = st.sampled_from(
    ["on ", "tokens ", "requests ", "per min", ": Limit ", "30000", ",", " Used ", ". ", "rate limit of ", "/", "9" * 40, " (actual/limit): ", "60s"]
)  # fmt: skip


@given(st.text(max_size=60) | st.lists(pieces, max_size=14).map("".join))
def test_no_sentence_makes_it_raise(message):
    refused_resource(message, {message})
    stated = limits_in_text(message)
    if stated is not None:
        assert 0 < stated.limit <= 1e15
        assert stated.remaining is None or 0 <= stated.remaining <= stated.limit


@pytest.mark.parametrize(
    "text", ["a" * 2000, "tokens per " * 200, "on a_" * 400, "rate limit for " * 150, "9," * 1000, "rate limit of 9" * 150]
)
def test_a_long_sentence_takes_no_long_time(text):
    """Quadratic or worse, these would take seconds: the test's own limit is the judge."""
    for _ in range(20):
        assert limits_in_text(text) is None
        refused_resource(text, ())


def classify(status, error, headers=()):
    fields = [header(b"Content-Type", b"application/json"), *headers]
    outcome = Outcome(status=status, headers=fields, body=json.dumps({"error": error}).encode())
    return DIALECTS["openai"].classify(outcome, own_key=True, now_unix=NOW)


TPM = "Rate limit reached for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Used 29500, Requested 900."


def test_a_rate_limit_carries_what_its_text_says():
    verdict = classify(429, {"message": TPM, "type": "tokens", "code": "rate_limit_exceeded"})
    assert (verdict.fault, verdict.resource) == (Fault.RATE_LIMITED, TOKENS)
    assert [plain(one) for one in verdict.stated] == [(TOKENS, 30000, 500, None, MINUTE)]


def test_a_rate_limit_carries_the_headers_that_it_quotes_and_not_its_own():
    quoted = {"X-RateLimit-Limit": "20", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1755780072000"}
    own = [header(b"x-ratelimit-limit-tokens", b"100")]
    verdict = classify(429, {"message": "Rate limit exceeded", "code": 429, "metadata": {"headers": quoted}}, own)
    assert verdict.resource is None
    assert [plain(one) for one in verdict.stated] == [(REQUESTS, 20, 0, 12, None)]


@pytest.mark.parametrize("status", [200, 400, 401, 500, 503])
def test_other_answers_state_nothing_by_their_texts(status):
    """They may echo what a client wrote."""
    verdict = classify(status, {"message": TPM, "type": "invalid_request_error"})
    assert verdict.fault is not Fault.RATE_LIMITED
    assert (verdict.resource, verdict.stated) == (None, ())
