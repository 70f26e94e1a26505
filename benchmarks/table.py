"""How the numbers are shown: what each contender cost, the ratios, and whether the gateway keeps its targets.

The law here: a ratio is the median of the ratios of single rounds, each of two values taken within the same seconds; a ratio of two
medians would mix a quiet round of one with a busy round of the other. The ratio of the two least values stands beside it: it tells
what the code costs where the machine was left alone, and where both agree the number can be trusted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from benchmarks.contenders import BEFORE
from benchmarks.measures import HELD_STREAMS, RATES_PER_S, Subject

_NONE: Final = "-"

_SPREADS: Final = (
    ("request_us", "CPU µs per request, 64 in flight"),
    *((f"request_us_at_{rate}", f"CPU µs per request, {rate:,}/s") for rate in RATES_PER_S),
    ("chunk_us", "CPU µs per relayed chunk"),
    ("reads_per_chunk", "client reads per chunk (1: none were merged)"),
    ("picture_us", "CPU µs per 1 MB request, a picture"),
    ("long_strings_us", "CPU µs per 1 MB request, 4 messages"),
    ("many_messages_us", "CPU µs per 1 MB request, 4,100 messages"),
    ("idle_mb", "RSS idle, MB"),
    ("stream_kb", f"RSS per open stream, KB ({HELD_STREAMS:,})"),
    ("start_ms", "start to first answer, ms"),
)
_RATIOS: Final = ("request_us", "chunk_us", "picture_us", "long_strings_us", "many_messages_us")
_NAMES: Final = dict(_SPREADS)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _spread(values: Sequence[float]) -> str:
    """Least and median: the least is what the code costs, the median what this machine made of it."""
    if not values:
        return _NONE
    least, middle = _number(min(values)), _number(median(values))
    return least if least == middle else f"{least}..{middle}"


def ratio(subject: Subject, base: Subject, name: str) -> float | None:
    """The median of the rounds' ratios of one reading, or None where one of the two has none."""
    pairs = list(zip(subject.readings[name], base.readings[name], strict=False))
    return median(one / other for one, other in pairs) if pairs else None


def least_ratio(subject: Subject, base: Subject, name: str) -> float | None:
    """The ratio of the least values of one reading, or None where one of the two has none."""
    mine, theirs = subject.readings[name], base.readings[name]
    return min(mine) / min(theirs) if mine and theirs else None


def added_us(subject: Subject, direct: Subject, name: str) -> float | None:
    """What a contender adds to a percentile of the latency that its clients see without it: the median of the rounds, in µs."""
    pairs = list(zip(subject.readings[name], direct.readings[name], strict=False))
    return median(one - other for one, other in pairs) if pairs else None


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


def costs(direct: Subject, subjects: Sequence[Subject]) -> str:
    """The table of what was measured, a column for each contender."""
    rows = [["least..median of the rounds", *(subject.name for subject in subjects)]]
    for key, title in _SPREADS:
        rows.append([title, *(_spread(subject.readings[key]) for subject in subjects)])
    for rate in RATES_PER_S:
        for percent in (50, 99):
            key = f"p{percent}_us_at_{rate}"
            title = f"added p{percent} at {rate:,}/s, µs"
            if direct.readings[key]:
                title += f" (direct {_number(median(direct.readings[key]))})"
            values = (added_us(subject, direct, key) for subject in subjects)
            rows.append([title, *(_NONE if value is None else _number(value) for value in values)])
    rows.append(["errors of all answers", *(f"{subject.errors} of {subject.answers + subject.errors}" for subject in subjects)])
    return _aligned(rows)


def _ratios(subject: Subject, base: Subject, key: str) -> str:
    middle, least = ratio(subject, base, key), least_ratio(subject, base, key)
    return _NONE if middle is None or least is None else f"{middle:.2f} ({least:.2f})"


def ratios(subjects: Sequence[Subject]) -> str:
    """The table of ratios to Envoy and to the blind relay, or an empty text where neither ran."""
    rows = []
    for base in subjects:
        if base.name not in {"envoy", "relay", BEFORE}:
            continue
        rows += [[f"{_NAMES[key]} ÷ {base.name}", *(_ratios(each, base, key) for each in subjects)] for key in _RATIOS]
    return _aligned([["median of the rounds (of the leasts)", *(each.name for each in subjects)], *rows]) if rows else ""


@dataclass(frozen=True, slots=True)
class _Target:
    title: str
    most: float
    unit: str
    value: Callable[[Subject, Subject | None], float | None]


def _against_envoy(key: str) -> Callable[[Subject, Subject | None], float | None]:
    return lambda gateway, envoy: None if envoy is None else ratio(gateway, envoy, key)


def _middle(key: str) -> Callable[[Subject, Subject | None], float | None]:
    return lambda gateway, _: median(gateway.readings[key]) if gateway.readings[key] else None


def _missing_streams(gateway: Subject, _: Subject | None) -> float | None:
    held, errors = gateway.readings["held_streams"], gateway.readings["held_errors"]
    return HELD_STREAMS - min(held) + max(errors) if held else None


_TARGETS: Final = (
    _Target("CPU per request", 1.3, "of Envoy", _against_envoy("request_us")),
    _Target("CPU per chunk", 1.2, "of Envoy", _against_envoy("chunk_us")),
    _Target("CPU per 1 MB request, a picture", 2.0, "of Envoy", _against_envoy("picture_us")),
    _Target("CPU per 1 MB request, 4 messages", 2.0, "of Envoy", _against_envoy("long_strings_us")),
    _Target("CPU per 1 MB request, 4,100 messages", 2.0, "of Envoy", _against_envoy("many_messages_us")),
    _Target("RSS per open stream", 60.0, "KB", _middle("stream_kb")),
    _Target("RSS idle", 60.0, "MB", _middle("idle_mb")),
    _Target("start to first answer", 1_000.0, "ms", _middle("start_ms")),
    _Target(f"missing or broken of {HELD_STREAMS:,} slow streams", 0.0, "", _missing_streams),
    _Target("errors", 0.0, "", lambda gateway, _: gateway.errors),
)


def targets(subjects: Sequence[Subject]) -> str:
    """The gateway's targets, each kept, missed, or not measured; an empty text where the gateway did not run."""
    by_name = {subject.name: subject for subject in subjects}
    gateway = by_name.get("gateway")
    if gateway is None:
        return ""
    rows = [["target of the gateway", "at most", "is", ""]]
    for target in _TARGETS:
        value = target.value(gateway, by_name.get("envoy"))
        verdict = "not measured" if value is None else "kept" if value <= target.most else "MISSED"
        rows.append([target.title, f"{target.most:g} {target.unit}".strip(), _NONE if value is None else _number(value), verdict])
    return _aligned(rows)
