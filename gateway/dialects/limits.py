"""Reads what answers say about an account's limits: their rate-limit headers, and the sentences of their refusals.

The law here: what cannot be understood is not said. `-1` (Azure), nothing, garbage and contradictions leave a reading out, and
nothing raises, whatever the bytes. Apart from `delays`, because a limit is no delay: `x-ratelimit-reset-*` tells when a bucket will
be whole again, long after it has room for the next request.

Providers state limits without the time they are for. OpenAI's are per minute or per day under the same name, Groq's requests are
per day and its tokens per minute. But their buckets gain evenly, so that what is missing and the time until nothing is missing
give the rate, and with the limit the period.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Final

from gateway.core.limits import Stated
from gateway.core.message import ResponseHead
from gateway.core.plan import Resource
from gateway.dialects.delays import MAX_DELAY_S, clamped, parse_amount, parse_duration, parse_moment

_MOST: Final = 1e15
"""A larger limit is none, or a mistake."""
_LONGEST_VALUE: Final = 64
_DIGITS: Final = 18

_PERIODS: Final = {b"second": 1.0, b"minute": 60.0, b"hour": 3600.0, b"day": 86_400.0}
_COUNTS: Final = {
    b"": Resource.REQUESTS,
    b"requests": Resource.REQUESTS,
    b"req": Resource.REQUESTS,
    b"tokens": Resource.TOKENS,
    b"tokens_usage_based": Resource.TOKENS,
    b"input-tokens": Resource.INPUT_TOKENS,
    b"output-tokens": Resource.OUTPUT_TOKENS,
}
_NAME: Final = re.compile(
    rb"x-ratelimit-(?P<what>limit|remaining|reset)"
    rb"(?:-(?:project-)?(?P<counts>requests|req|tokens|tokens_usage_based|input-tokens|output-tokens))?"
    rb"(?:-(?P<per>second|minute|hour|day))?",
)
"""OpenAI's and its followers'; OpenRouter's, which name no resource; Cerebras's and Mistral's, which name the period."""
_ANTHROPIC: Final = re.compile(
    rb"anthropic-ratelimit-(?P<counts>requests|(?:input-|output-)?tokens)-(?P<what>limit|remaining|reset)"
)
"""Their limits are per minute, as their documentation has it; their resets are moments."""


_MOST_KEPT: Final = 128


class _Series:
    """The lines that belong to one limit, in heads of one shape; and what they have said before."""

    __slots__ = ("known", "limit", "lines", "period_s", "remaining", "reset", "resource")

    def __init__(self, resource: Resource, period_s: float | None, at: dict[bytes, int]) -> None:
        self.resource = resource
        self.period_s = period_s
        self.limit = at[b"limit"]
        self.remaining = at.get(b"remaining")
        self.reset = at.get(b"reset")
        self.lines = itemgetter(*at.values())
        """Takes its lines from all of a head's."""
        self.known: dict[object, Stated | None] = {}
        """What these lines say, where that does not depend on the time of day: an account with little to do hears it again."""

    def read(self, lines: list[bytes], own: object, now_unix: float) -> Stated | None:
        """Read what is stated; `own` are this limit's lines among all of the head's."""
        limit = _limit(lines[self.limit])
        remaining: float | None = None
        if limit is not None and self.remaining is not None:
            remaining = _amount(lines[self.remaining])
            if remaining is not None and remaining > limit:
                remaining = limit
        period_s, reset_s, moment = self.period_s, None, False
        if limit is not None and self.reset is not None:
            line = lines[self.reset]
            duration = _duration(line)
            if duration is not None:
                reset_s, step_s = duration
                if period_s is None and remaining is not None and reset_s > 0.0 and remaining < limit:
                    period_s = _period(limit, limit - remaining, reset_s, step_s)
            elif (at_unix := _moment(line)) is not None:
                reset_s = clamped(at_unix - now_unix)
                moment = True
        stated = None if limit is None else Stated(self.resource, limit, remaining, reset_s, period_s)
        if not moment:
            if len(self.known) >= _MOST_KEPT:
                self.known.clear()
            self.known[own] = stated
        return stated


def states_limits(names: tuple[bytes, ...]) -> bool:
    """Whether an answer with these headers, in lower case, may state a limit; costs one look-up."""
    return bool(_series(names))


def read_limits(head: ResponseHead, *, now_unix: float) -> Sequence[Stated]:
    """Return what an answer's headers state; empty where they state nothing that can be understood.

    `now_unix` (seconds since the epoch) serves resets that are moments. Of two limits of the same name but for `project` or the
    like, the one with less left is returned: it is the one that will refuse.
    """
    all_series = _series(head.names)
    if not all_series:
        return ()
    lines = head.lines
    found = []
    for series in all_series:
        own = series.lines(lines)
        stated = series.known.get(own, _UNREAD)
        if stated is _UNREAD:
            stated = series.read(lines, own, now_unix)
        if stated is not None:
            found.append(stated)
    return found if len(found) < 2 else _distinct(found)


_UNREAD: Final = Stated(Resource.REQUESTS, 1.0)


@lru_cache(maxsize=256)
def _series(names: tuple[bytes, ...]) -> tuple[_Series, ...]:
    """Find the lines that state limits; a provider sends the same names again and again."""
    places: dict[tuple[bytes, Resource, float | None], dict[bytes, int]] = {}
    for line, name in enumerate(names):
        found = _NAME.fullmatch(name)
        per = (found["per"] or b"") if found else b"minute"
        found = found or _ANTHROPIC.fullmatch(name)
        if found is None:
            continue
        start, end = found.span("what")
        # What remains of the name without the word is the limit's own.
        key = name[:start] + name[end:], _COUNTS[found["counts"] or b""], _PERIODS.get(per)
        places.setdefault(key, {}).setdefault(name[start:end], line)
    return tuple([_Series(resource, period_s, at) for (_, resource, period_s), at in places.items() if b"limit" in at])


def _distinct(found: list[Stated]) -> Sequence[Stated]:
    """Keep one of several statements about the same resource and period: that with less left."""
    if len(found) == 2 and found[0].resource is not found[1].resource:
        return found
    kept: dict[tuple[Resource, float | None], Stated] = {}
    for one in found:
        other = kept.get((one.resource, one.period_s))
        if other is None or _left(one) < _left(other):
            kept[one.resource, one.period_s] = one
    timed = {resource for resource, period_s in kept if period_s is not None}
    # Beside another one of its resource, a limit of unknown period cannot be told from that.
    return tuple([one for one in kept.values() if one.period_s is not None or one.resource not in timed])


def _left(stated: Stated) -> float:
    return stated.limit if stated.remaining is None else stated.remaining


def _value(line: bytes) -> str:
    """Return a header line's value; empty where it is too long for any number or moment."""
    value = line.partition(b":")[2].strip()
    return value.decode("latin-1") if len(value) <= _LONGEST_VALUE else ""


@lru_cache(maxsize=1024)
def _limit(line: bytes) -> float | None:
    limit = parse_amount(_value(line))
    return limit if limit is not None and 0.0 < limit <= _MOST else None


def _amount(line: bytes) -> float | None:
    value = line.partition(b":")[2].strip()
    # The digits of nearly every answer; what else numbers may look like is not worth its time here.
    return float(value) if value.isdigit() and len(value) <= _DIGITS else parse_amount(_value(line))


@lru_cache(maxsize=4096)
def _duration(line: bytes) -> tuple[float, float] | None:
    """Return the seconds until a limit is whole, and how exact they are; None for what is no duration."""
    text = _value(line)
    seconds = parse_duration(text)
    if seconds is None:
        return None
    # Azure rounds up to whole seconds. Durations with units, and fractions, are exact to the millisecond.
    return seconds, 1.0 if text.isdecimal() else 0.001


@lru_cache(maxsize=1024)
def _moment(line: bytes) -> float | None:
    return parse_moment(_value(line))


_MINUTE_S: Final = 60.0
_OTHERS_S: Final[tuple[float, ...]] = (1.0, 3600.0, 86_400.0)
_TOLERANCE: Final = 0.02
_NEARLY: Final = 0.005
_HARDLY_BACK: Final = 0.1


def _period(limit: float, used: float, reset_s: float, step_s: float) -> float | None:
    """Return the period of a limit of which `used` is missing and which will be whole in `reset_s`, told up to `step_s`.

    A bucket gains `limit` per period, so that `period = limit * reset / used`. What is left is told in whole numbers: what is
    missing may be up to 1 less than `used`. A minute is preferred wherever it can be. Anything else must fit closely, and is told
    by no time in whole seconds: a limit that does not gain evenly, but begins anew, would too often look like one.
    """
    least, most = limit * (reset_s - step_s), limit * (reset_s + step_s)
    if least <= used * _MINUTE_S * (1.0 + _TOLERANCE) and most >= (used - 1.0) * _MINUTE_S * (1.0 - _TOLERANCE):
        return _MINUTE_S
    if step_s < 1.0 and reset_s < MAX_DELAY_S:
        for period_s in _OTHERS_S:
            if least <= used * period_s * (1.0 + _NEARLY) and most >= (used - _HARDLY_BACK) * period_s * (1.0 - _NEARLY):
                return period_s
    return None


_NUMBER: Final = r"([0-9]{1,15}(?:,[0-9]{3}){0,4})(?!\.?[0-9])"
_RESOURCES: Final = {
    "requests": Resource.REQUESTS,
    "request": Resource.REQUESTS,
    "tokens": Resource.TOKENS,
    "token": Resource.TOKENS,
    "tokens_usage_based": Resource.TOKENS,
    "input tokens": Resource.INPUT_TOKENS,
    "output tokens": Resource.OUTPUT_TOKENS,
}
_WORDS: Final = {"s": 1.0, "mi": 60.0, "h": 3600.0, "d": 86_400.0}
_WHAT: Final = r"([a-z_]{1,32}(?: [a-z_]{1,32})?)"
_PER: Final = r"per[ -](sec(?:ond)?|min(?:ute)?|hour|day)\b"

_OPENAI_TEXT: Final = re.compile(
    # "on tokens per min (TPM): Limit 30000, Used 29500, Requested 900"; "on requests per min. Limit: 3 / min. Current: 4 / min."
    rf"\bon {_WHAT} {_PER}(?: \([A-Za-z]{{1,8}}\))?[:.] ?Limit:? {_NUMBER}(?: ?/ ?[a-z]+)?"
    rf"(?:[,.] (?:Used|Current):? {_NUMBER})?",
    re.IGNORECASE | re.ASCII,
)
_ANTHROPIC_TEXT: Final = re.compile(
    # "would exceed your organization's rate limit of 30,000 input tokens per minute"
    rf"\brate limit (?:for [^.]{{1,100}}? )?of {_NUMBER} {_WHAT} {_PER}",
    re.IGNORECASE | re.ASCII,
)
_XAI_TEXT: Final = re.compile(
    # "Your team's rate limit is — Tokens per Minute (actual/limit): 65605/16000"
    rf"\b(requests|tokens) {_PER} \(actual/limit\): {_NUMBER}/{_NUMBER}",
    re.IGNORECASE | re.ASCII,
)
_WINDOW_TEXT: Final = re.compile(
    # GitHub's: "Rate limit of 10 per 60s exceeded for UserByModelByMinute"
    rf"\brate limit of {_NUMBER} per (\d{{1,6}})s exceeded\b",
    re.IGNORECASE | re.ASCII,
)
_GOOGLE_TEXT: Final = re.compile(
    # "Quota exceeded for metric: generativelanguage.googleapis.com/generate_content_free_tier_requests, limit: 15"
    rf"\bquota exceeded for metric: [\w./-]{{0,120}}?_(requests|input_token_count|token_count), limit: {_NUMBER}",
    re.IGNORECASE | re.ASCII,
)
_GOOGLE_RESOURCES: Final = {
    "requests": Resource.REQUESTS,
    "input_token_count": Resource.INPUT_TOKENS,
    "token_count": Resource.TOKENS,
}

_COUNTED: Final = re.compile(rf"\b{_WHAT} {_PER}", re.IGNORECASE | re.ASCII)
_FOREIGN: Final = frozenset({"images", "seconds", "minutes", "characters", "pages", "documents"})
"""What some limits count, and none of ours."""
_CONCURRENT_TEXT: Final = re.compile(
    r"\bconcurren|userconcurrent|\bparallel requests?\b|\bsimultaneous|\btoo many (?:requests? )?in[- ]flight\b",
    re.IGNORECASE,
)
_TOKENS_TEXT: Final = re.compile(
    r"\btokens? (?:rate )?(?:limit|quota)|\bnumber of (?:request |input |output )?tokens\b|\btoo many tokens\b",
    re.IGNORECASE,
)
_REQUESTS_TEXT: Final = re.compile(
    r"\b(?:call|requests?) (?:rate )?(?:limit|quota)|\bnumber of requests\b|\brate limit reached for requests\b",
    re.IGNORECASE,
)


def limits_in_text(message: str) -> Stated | None:
    """Return the limit that a refusal's sentence states; None where it states none, or counts what is not counted here.

    What is left follows from what it says was used. Images, audio seconds and the like are no resource of ours.
    """
    if found := _OPENAI_TEXT.search(message):
        return _stated(_RESOURCES.get(found[1].lower()), found[3], used=found[4], period_s=_per(found[2]))
    if found := _ANTHROPIC_TEXT.search(message):
        return _stated(_RESOURCES.get(found[2].lower()), found[1], period_s=_per(found[3]))
    for found in _XAI_TEXT.finditer(message):
        # It lists several limits; the one that refused is that which was reached.
        stated = _stated(_RESOURCES[found[1].lower()], found[4], used=found[3], period_s=_per(found[2]))
        if stated is not None and stated.remaining == 0.0:
            return stated
    if found := _WINDOW_TEXT.search(message):
        # Of no seconds: a limit on concurrency.
        period_s = float(found[2])
        return _stated(Resource.REQUESTS if period_s else None, found[1], period_s=period_s)
    if found := _GOOGLE_TEXT.search(message):
        return _stated(_GOOGLE_RESOURCES[found[1].lower()], found[2], period_s=None)
    return None


def refused_resource(message: str, names: Iterable[str]) -> Resource | None:
    """Return what a refusal counts, by its sentence or else by what it calls itself, in lower case; None where it does not say."""
    if _CONCURRENT_TEXT.search(message):
        return Resource.CONCURRENT
    stated = limits_in_text(message)
    if stated is not None:
        return stated.resource
    for found in _COUNTED.finditer(message):
        words = found[1].lower()
        last = words.rpartition(" ")[2]
        if last in _FOREIGN:
            return None
        resource = _RESOURCES.get(words) or _RESOURCES.get(last)
        if resource is not None:
            return resource
    if _TOKENS_TEXT.search(message):
        return Resource.TOKENS
    if _REQUESTS_TEXT.search(message):
        return Resource.REQUESTS
    named = frozenset(names)
    if "tokens" in named:
        return Resource.TOKENS
    return Resource.REQUESTS if "requests" in named else None


def _per(word: str) -> float:
    lower = word.lower()
    return _WORDS[lower[:2] if lower.startswith("m") else lower[0]]


def _stated(resource: Resource | None, limit_text: str, *, used: str | None = None, period_s: float | None) -> Stated | None:
    limit = float(limit_text.replace(",", ""))
    if resource is None or not 0.0 < limit <= _MOST:
        return None
    remaining = None if used is None else max(0.0, limit - float(used.replace(",", "")))
    return Stated(resource, limit, remaining, None, period_s)
