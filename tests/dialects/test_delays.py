"""Every way of saying "come back later"; values as published or captured."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.message import header
from gateway.dialects.delays import delay_of, parse_delay

NOW = 1_755_780_060.0
"""2025-08-21T12:41:00Z"""


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("20", 20),
        ("0", 0),
        ("7.66", 7.66),
        (" 3 ", 3),
        (".5", 0.5),
        ("99999", 86_400),
        ("1s", 1),
        ("6m0s", 360),
        ("12ms", 0.012),
        ("250ms", 0.25),
        ("1h2m3.5s", 3723.5),
        ("2m59.56s", 179.56),
        ("31s", 31),
        ("0.1s", 0.1),
        ("5us", 5e-6),
        ("5µs", 5e-6),
        ("100h", 86_400),
        ("Thu, 21 Aug 2025 12:41:30 GMT", 30),
        ("Thu, 21 Aug 2025 12:41:30 -0000", 30),
        ("Thu, 21 Aug 2025 14:41:30 +0200", 30),
        ("2025-08-21T12:41:45Z", 45),
        ("2025-08-21T14:41:45+02:00", 45),
        ("2025-08-21T12:41:45.500Z", 45.5),
        ("2025-08-21 12:41:45", 45),
        ("2099-01-01T00:00:00Z", 86_400),
        ("1755780072", 12),
        ("1755780072.5", 12.5),
        ("1755780072500", 12.5),
    ],
)
def test_a_delay_is_understood_in_every_format(value, seconds):
    assert parse_delay(value, now_unix=NOW) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "-1",
        "-0.5",
        "soon",
        "nan",
        "inf",
        "-inf",
        "1e3",
        "1_000",
        "0x10",
        "1 2",
        "s",
        ".s",
        "-5s",
        "5 s",
        "5x",
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "Thu, 99 Aug 2025 12:41:30 GMT",
        "2025-08-21T12:40:59Z",
        "2025-13-45T99:99:99Z",
        "1755780059",
        "1755780059000",
        "9" * 70,
        "٣",
    ],
)
def test_garbage_negatives_and_the_past_are_no_delay(value):
    assert parse_delay(value, now_unix=NOW) is None


@given(st.text() | st.text(alphabet="0123456789.-+:TZhmsµGMTue, e", max_size=40), st.floats(0, 4e9))
def test_no_text_makes_it_raise_or_leave_its_range(value, now):
    delay = parse_delay(value, now_unix=now)
    assert delay is None or 0 <= delay <= 86_400
    delay = delay_of([(b"retry-after", b"", value.encode("utf-8", "replace"))], value, now)
    assert delay is None or (0 <= delay <= 86_400 and math.isfinite(delay))


def headers(**fields):
    return [header(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]


@pytest.mark.parametrize(
    ("fields", "message", "seconds"),
    [
        ({"retry_after_ms": "1500", "retry_after": "20"}, "", 1.5),
        ({"retry_after": "20", "retry_after_ms": "1500"}, "", 1.5),
        ({"x_ms_retry_after_ms": "250", "retry_after": "20"}, "", 0.25),
        ({"retry_after_ms": "-1", "retry_after": "20"}, "", 20),
        ({"retry_after_ms": "garbage", "x_ms_retry_after_ms": "10"}, "", 0.01),
        ({"retry_after_ms": "250ms"}, "", 0.25),
        ({"retry_after": "5"}, "Please try again in 300ms", 5),
        ({"retry_after": "-1"}, "Please try again in 300ms", 0.3),
        ({}, "Rate limit reached for gpt-4. Please try again in 300ms. Visit ...", 0.3),
        ({}, "Please try again in 1.242s.", 1.242),
        ({}, "Please try again in 6m0s.", 360),
        ({}, "Please try again in 1h2m3.5s.", 3723.5),
        ({}, "You have exceeded the call rate limit. Please retry after 37 seconds.", 37),
        ({}, "Please retry after 1 second.", 1),
        ({}, "Please retry in 56.43s", 56.43),
        ({}, "Try again in 2 minutes", 120),
        ({}, "retry after 250 milliseconds", 0.25),
        ({}, "Please wait 12 seconds and retry", 12),
        ({}, '{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"31s"}', 31),
        ({}, "retryDelay: 0.1s", 0.1),
        ({}, "Please try again in 20 days", 86_400),
        ({}, "Please try again later", None),
        ({}, "Please try again in -3 seconds", None),
        ({}, "", None),
    ],
)
def test_headers_come_first_in_the_sdks_order_then_the_message(fields, message, seconds):
    assert delay_of(headers(**fields), message, NOW) == (None if seconds is None else pytest.approx(seconds))


def test_the_first_of_two_equal_headers_counts():
    two = [header(b"retry-after", b"5"), header(b"retry-after", b"50")]
    assert delay_of(two, "", NOW) == 5
