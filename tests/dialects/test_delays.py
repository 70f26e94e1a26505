"""Every way of saying "come back later"; values as published or captured."""

import math
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.message import header
from gateway.dialects.delays import MAX_DELAY_S, delay_of, parse_delay

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
        ("2025-08-21t12:41:45z", 45),
        ("2025-08-21T12:41:45.123456789Z", 45.123456),
        ("Thursday, 21-Aug-25 12:41:30 GMT", 30),
        ("Thu Aug 21 12:41:30 2025", 30),
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
        ({}, "Please try again in 5milliseconds", 0.005),
        ({}, "Please try again in 5seconds", 5),
        ({}, "Please try again in 2minutes.", 120),
        ({}, "Try again in 1h", 3600),
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


def test_a_field_made_for_it_comes_before_the_sentence_and_behind_the_headers():
    assert delay_of([], "Please try again in 9s", NOW, retry_info="31s") == 31
    assert delay_of([], "Please try again in 9s", NOW, retry_info="soon") == 9
    assert delay_of(headers(retry_after="5"), "", NOW, retry_info="31s") == 5


# Each format against a model that knows only this one: how it is written, and how long that is.

exact = st.decimals(0, 200_000, places=3).map(lambda number: Fraction(str(number)))


def clamped(seconds):
    """What a stated number of seconds comes to."""
    return None if seconds < 0 else pytest.approx(float(min(seconds, Fraction(86_400))), abs=1e-5)


def decimal(number):
    """Write an exact number of thousandths."""
    sign, thousandths = ("-", -number * 1000) if number < 0 else ("", number * 1000)
    whole, rest = divmod(int(thousandths), 1000)
    return f"{sign}{whole}.{rest:03d}"


@given(st.integers(-1_000_000, 1_000_000_000 - 1), st.sampled_from(["", " ", "\t"]))
def test_whole_seconds(seconds, space):
    assert parse_delay(f"{space}{seconds}{space}", now_unix=NOW) == clamped(seconds)


@given(exact, st.booleans())
def test_float_seconds(seconds, negative):
    seconds = -seconds if negative else seconds
    written = decimal(seconds)
    assert parse_delay(written, now_unix=NOW) == (clamped(seconds) if seconds or not negative else 0)


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999), st.booleans())
def test_go_durations(hours, minutes, seconds, milliseconds, fraction):
    """As Go's `Duration.String` writes them, and in whole units."""
    total = Fraction(hours * 3600 + minutes * 60 + seconds) + Fraction(milliseconds, 1000)
    parts = [(hours, "h"), (minutes, "m")]
    tail = [(f"{seconds}.{milliseconds:03d}", "s")] if fraction else [(seconds, "s"), (milliseconds, "ms")]
    written = "".join(f"{amount}{unit}" for amount, unit in [*parts, *tail])
    assert parse_delay(written, now_unix=NOW) == clamped(total)
    assert parse_delay(f"-{written}", now_unix=NOW) is None
    assert parse_delay(f"{written}x", now_unix=NOW) is None


@given(st.integers(-100_000, 100_000))
def test_http_dates(seconds):
    moment = datetime.fromtimestamp(NOW + seconds, UTC)
    forms = (
        format_datetime(moment, usegmt=True),
        moment.strftime("%A, %d-%b-%y %H:%M:%S GMT"),
        moment.strftime("%a %b %d %H:%M:%S %Y"),
    )
    assert [parse_delay(form, now_unix=NOW) for form in forms] == [clamped(seconds)] * 3


@given(st.integers(-100_000_000, 100_000_000), st.integers(-23 * 60, 23 * 60), st.booleans())
def test_rfc_3339_dates(milliseconds, offset, zulu):
    moment = datetime(2025, 8, 21, 12, 41, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    zone = UTC if zulu else timezone(timedelta(minutes=offset))
    written = moment.astimezone(zone).isoformat()
    assert parse_delay(written.replace("+00:00", "Z") if zulu else written, now_unix=NOW) == clamped(Fraction(milliseconds, 1000))


@given(st.integers(-100_000_000, 100_000_000))
def test_moments_of_the_epoch(milliseconds):
    moment = int(NOW) * 1000 + milliseconds
    later = Fraction(milliseconds, 1000)
    assert parse_delay(str(moment), now_unix=NOW) == clamped(later)
    assert parse_delay(decimal(Fraction(moment, 1000)), now_unix=NOW) == clamped(later)
    assert parse_delay(str(moment // 1000), now_unix=NOW) == clamped(moment // 1000 - int(NOW))


UNITS = {"ms": Fraction(1, 1000), "milliseconds": Fraction(1, 1000), "s": 1, " s": 1, "sec": 1, " seconds": 1, " second": 1,
         "m": 60, " min": 60, " minutes": 60, "h": 3600, " hours": 3600, " days": 86_400}  # fmt: skip


@given(
    st.integers(0, 10_000),
    st.sampled_from(sorted(UNITS)),
    st.sampled_from(
        ["Please try again in {}.", "Please retry after {} or raise your limit.", "TRY AGAIN IN {}", "Please wait {} and retry"]
    ),
    st.sampled_from(["", "Rate limit reached for gpt-4o: Limit 3, Used 3, Requested 1. "]),
)
def test_hints_in_sentences(amount, unit, sentence, before):
    message = before + sentence.format(f"{amount}{unit}")
    assert delay_of([], message, NOW) == clamped(amount * Fraction(UNITS[unit]))


@given(exact)
def test_milliseconds_in_their_own_header(milliseconds):
    for name in ("retry_after_ms", "x_ms_retry_after_ms"):
        assert delay_of(headers(**{name: decimal(milliseconds)}), "", NOW) == clamped(milliseconds / 1000)


def test_the_longest_delay_is_a_day():
    assert MAX_DELAY_S == 86_400
