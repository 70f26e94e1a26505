"""Numbers with units: durations, sizes, rates, shares, counts and switches, read from what YAML made of them.

One law: a number never guesses its unit. `timeout: 30` means seconds to one reader and milliseconds to the next, so a bare number
is refused with a hint. Every reader takes the parsed YAML value (YAML 1.1 has turned `off` into False and `1:30` into 90 by then)
and returns the plain number in base units, or raises `Mistake` with a sentence for the operator. The sentence never repeats the
value, which may have come from the environment; whoever knows the file's own text may put that in front.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final


class Mistake(ValueError):  # noqa: N818 - it is the operator's, not the program's
    """What is wrong with one value, as a sentence; `quote` allows the reporter to show the text as it stands in the file."""

    def __init__(self, message: str, *, quote: bool = True) -> None:
        super().__init__(message)
        self.message = message
        self.quote = quote


@dataclass(frozen=True, slots=True)
class Rate:
    """So many per so many seconds."""

    amount: float
    period_s: float

    @property
    def burst(self) -> float:
        """A tenth of the period's amount, at least 1: what may go at once where nothing else is said."""
        return max(1.0, self.amount / 10)


@dataclass(frozen=True, slots=True)
class Percentile:
    """The value that a share (0 to 1) of all others does not exceed."""

    share: float


@dataclass(frozen=True, slots=True)
class Multiple:
    """So many times a percentile."""

    of: Percentile
    factor: float


_LONGEST_S: Final = 366 * 86400.0
_LARGEST: Final = 10**15

_NUMBER: Final = r"\d{1,15}(?:\.\d{1,9})?"
_DURATION: Final = re.compile(
    rf"(?:(?P<h>{_NUMBER})h)?(?:(?P<m>{_NUMBER})m(?!s))?(?:(?P<s>{_NUMBER})s)?(?:(?P<ms>{_NUMBER})ms)?", re.ASCII
)
_SECONDS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}

_SIZE: Final = re.compile(rf"(?P<number>{_NUMBER})\s?(?P<unit>[kmgt]?i?b)", re.ASCII | re.IGNORECASE)
_BYTES: Final = {
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "tb": 1000**4,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
    "tib": 1024**4,
}

_RATE: Final = re.compile(
    rf"(?P<amount>{_NUMBER})(?P<scale>[kM]?)\s?/\s?(?P<count>\d{{1,9}})?(?P<unit>ms|s|sec|m|min|h|hour|d|day)", re.ASCII
)
_PERIODS: Final = {"ms": 0.001, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "hour": 3600, "d": 86400, "day": 86400}

_PERCENTILE: Final = re.compile(rf"p(?P<rank>{_NUMBER})", re.ASCII)
_MULTIPLE: Final = re.compile(rf"(?P<percentile>p{_NUMBER})\s*[x\u00d7]\s*(?P<factor>{_NUMBER})", re.ASCII)
_LARGEST_FACTOR: Final = 100

LEAST_WEIGHT: Final = 0.01
LARGEST_WEIGHT: Final = 1000

_PERCENT: Final = re.compile(rf"(?P<number>{_NUMBER})\s?%", re.ASCII)


def _bare(value: object) -> float | None:
    """Return a number that came without its unit, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value


def _number(value: float) -> str:
    return f"{value:.15g}"


def duration(value: object) -> float:
    """Read `250ms`, `2s`, `1m`, `1h`, or several in falling order (`1m30s`); returns seconds."""
    bare = _bare(value)
    if bare is not None:
        hint = (
            f'"{_number(bare)}ms" or "{_number(bare // 1000)}s"' if bare >= 1000 else f'"{_number(bare)}s" or "{_number(bare)}ms"'
        )
        raise Mistake(f"durations need a unit, e.g. {hint}")
    match = _DURATION.fullmatch(value) if isinstance(value, str) and value else None
    if match is None:
        raise Mistake('not a duration; write a number and one of ms, s, m, h, e.g. "30s"')
    seconds = sum(float(number) * _SECONDS[unit] for unit, number in match.groupdict().items() if number is not None)
    if seconds > _LONGEST_S:
        raise Mistake("longer than a year")
    return seconds


def positive_duration(value: object) -> float:
    """Read a duration above zero."""
    seconds = duration(value)
    if seconds <= 0:
        raise Mistake("must be longer than nothing")
    return seconds


def size(value: object) -> int:
    """Read `64KiB` (1024s), `10MB` (1000s), `512B`; returns bytes, at least 1."""
    bare = _bare(value)
    if bare is not None:
        raise Mistake(f'sizes need a unit, e.g. "{_number(bare)}B" or "{_number(bare)}KiB"')
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise Mistake('not a size; write a number and one of B, kB, MB, GB, KiB, MiB, GiB, e.g. "64KiB"')
    number = round(float(match["number"]) * _BYTES[match["unit"].lower()])
    if not 0 < number <= _LARGEST:
        raise Mistake("must be more than nothing and less than a petabyte")
    return number


def rate(value: object) -> Rate:
    """Read `8/s`, `600/min`, `100/10s`, `10k/h`, `2M/min`."""
    bare = _bare(value)
    if bare is not None:
        raise Mistake(f'rates need a period, e.g. "{_number(bare)}/s" or "{_number(bare)}/min"')
    match = _RATE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise Mistake('not a rate; write an amount and a period, e.g. "8/s", "600/min", "100/10s" or "10k/h"')
    amount = float(match["amount"]) * {"": 1, "k": 1000, "M": 1_000_000}[match["scale"]]
    period_s = int(match["count"] or 1) * _PERIODS[match["unit"]]
    if amount <= 0 or not 0 < period_s <= _LONGEST_S:
        raise Mistake("amount and period must be more than nothing, the period at most a year")
    return Rate(amount, float(period_s))


def share(value: object) -> float:
    """Read `50%`; returns 0 to 1."""
    bare = _bare(value)
    if bare is not None:
        percent = bare * 100 if 0 < bare < 1 else bare
        raise Mistake(f'percentages need their sign, e.g. "{_number(percent)}%"')
    match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise Mistake('not a percentage, e.g. "20%"')
    number = float(match["number"])
    if number > 100:
        raise Mistake("percentages go from 0% to 100%")
    return number / 100


def positive_share(value: object) -> float:
    """Read a percentage above zero."""
    result = share(value)
    if result <= 0:
        raise Mistake("must be more than 0%")
    return result


def percentile(value: object, lowest: int) -> Percentile | None:
    """Read `p95`, a whole one from `lowest` to 99; None where the value is not written like a percentile at all."""
    match = _PERCENTILE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    rank = float(match["rank"])
    if not rank.is_integer() or not lowest <= rank <= 99:
        raise Mistake(f"percentiles are whole and go from p{lowest} to p99")
    return Percentile(rank / 100)


def multiple(value: object, lowest: int) -> Multiple:
    """Read `p99 x 3`, also with a multiplication sign and without spaces: a percentile from `lowest` up, times 1 to 100."""
    match = _MULTIPLE.fullmatch(value) if isinstance(value, str) else None
    of = percentile(match["percentile"], lowest) if match is not None else None
    if match is None or of is None:
        raise Mistake('write a percentile and a factor, e.g. "p99 x 3"')
    factor = float(match["factor"])
    if not 1 <= factor <= _LARGEST_FACTOR:
        raise Mistake(f"the factor goes from 1 to {_LARGEST_FACTOR}")
    return Multiple(of, factor)


def integer(value: object, low: int, high: int) -> int:
    """Read a count: a whole number, or its digits where the environment supplied them."""
    if isinstance(value, str) and re.fullmatch(r"\d{1,15}", value, re.ASCII):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise Mistake("a whole number is expected")
    if not low <= value <= high:
        raise Mistake(f"must be from {low} to {high}")
    return value


def weight(value: object) -> float:
    """Read a share beside others, a number without a unit: from a hundredth to a thousand times what is said where nothing is."""
    if isinstance(value, str) and re.fullmatch(_NUMBER, value, re.ASCII):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Mistake("a number is expected")
    if not LEAST_WEIGHT <= value <= LARGEST_WEIGHT:
        raise Mistake(f"must be from {LEAST_WEIGHT} to {LARGEST_WEIGHT}")
    return float(value)


def switch(value: object) -> bool:
    """Read `on` and `off`, which YAML 1.1 has made booleans, or the same as words where they were quoted or interpolated."""
    if isinstance(value, bool):
        return value
    words = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise Mistake("must be on or off")


def text(value: object) -> str:
    """Read a string that YAML may have taken for something else."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        raise Mistake(f"a string is expected, but YAML reads this as the boolean {str(value).lower()}: put it in quotes")
    if isinstance(value, int | float):
        raise Mistake("a string is expected, but YAML reads this as a number: put it in quotes")
    raise Mistake(f"a string is expected, not {kind(value)}")


def kind(value: object) -> str:
    """Name what YAML made of a value, in YAML's words."""
    if value is None:
        return "nothing"
    names = {bool: "on or off", int: "a number", float: "a number", str: "a string", list: "a list", dict: "a mapping"}
    return names.get(type(value), "this")


def one_of(value: object, choices: tuple[str, ...]) -> str:
    """Read one word of a few."""
    if isinstance(value, str) and value in choices:
        return value
    near = did_you_mean(value, choices) if isinstance(value, str) else ""
    raise Mistake(f"must be one of {', '.join(choices)}{near}")


def did_you_mean(word: str, known: tuple[str, ...] | list[str]) -> str:
    """Return `; did you mean "…"?` for a likely slip, else nothing."""
    near = get_close_matches(word, known, 1) or get_close_matches(word.lower(), known, 1)
    return f'; did you mean "{near[0]}"?' if near and near[0] != word else ""


def show_duration(seconds: float) -> str:
    """Write seconds as `duration` reads them, in the largest unit that stays whole; exact to the microsecond."""
    for unit, factor in (("h", 3600), ("m", 60), ("s", 1)):
        if seconds and seconds % factor == 0:
            return f"{_number(int(seconds // factor))}{unit}"
    return f"{f'{seconds * 1000:.3f}'.rstrip('0').rstrip('.')}ms" if seconds else "0s"


def show_rate(rate: Rate) -> str:
    """Write a rate as `rate` reads it, in the largest scale and unit that stay whole."""
    scale, factor = next(
        ((scale, factor) for scale, factor in (("M", 1_000_000), ("k", 1000)) if rate.amount % factor == 0), ("", 1)
    )
    amount = f"{rate.amount / factor:.9f}".rstrip("0").rstrip(".")
    period = {1.0: "s", 60.0: "min", 3600.0: "h", 86400.0: "d"}.get(rate.period_s) or show_duration(rate.period_s)
    return f"{amount}{scale}/{period}"
