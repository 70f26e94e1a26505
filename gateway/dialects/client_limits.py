"""Tells a client about its own limits, in the header names that the SDK of its dialect and the tools around it understand.

OpenAI's names count requests and tokens and give resets as Go durations; Anthropic's tell input from output and give moments. Where
several limits on one resource hold together, the client hears of the one that it will meet first.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from gateway.core.bucket import Bucket
from gateway.core.plan import Resource

_OPENAI: Final = {Resource.REQUESTS: "requests", Resource.TOKENS: "tokens"}
_ANTHROPIC: Final = {**_OPENAI, Resource.INPUT_TOKENS: "input-tokens", Resource.OUTPUT_TOKENS: "output-tokens"}


def limit_lines(buckets: Sequence[Bucket], shape: str, *, now: float, now_unix: float) -> list[bytes]:
    """Render the header lines for these limits; `shape` is whose client it is, `openai` or `anthropic`."""
    tightest: dict[Resource, Bucket] = {}
    for bucket in buckets:
        known = tightest.get(bucket.resource)
        if known is None or bucket.level(now) / bucket.per_s < known.level(now) / known.per_s:
            tightest[bucket.resource] = bucket
    anthropic = shape == "anthropic"
    names = _ANTHROPIC if anthropic else _OPENAI
    lines = []
    for resource, bucket in tightest.items():
        name = names.get(resource)
        if name is None:
            continue
        left = max(0, int(bucket.level(now) + 1e-6))
        whole_s = (bucket.burst - bucket.level(now)) / bucket.per_s
        if anthropic:
            moment = datetime.fromtimestamp(now_unix + whole_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            text = (
                f"anthropic-ratelimit-{name}-limit: {bucket.amount:.0f}\r\n"
                f"anthropic-ratelimit-{name}-remaining: {left}\r\n"
                f"anthropic-ratelimit-{name}-reset: {moment}\r\n"
            )
        else:
            text = (
                f"x-ratelimit-limit-{name}: {bucket.amount:.0f}\r\n"
                f"x-ratelimit-remaining-{name}: {left}\r\n"
                f"x-ratelimit-reset-{name}: {_go_duration(whole_s)}\r\n"
            )
        lines.append(text.encode("ascii"))
    return lines


def _go_duration(seconds: float) -> str:
    """Render a duration as Go prints one, to the millisecond: `6m0s`, `1.5s`, `12ms`."""
    millis = round(seconds * 1000)
    if millis < 1000:
        return f"{millis}ms" if millis else "0s"
    minutes, millis = divmod(millis, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{millis / 1000:g}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text
