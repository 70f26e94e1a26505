"""Fault scripts: which fault holds when, as a YAML file that reads like an incident's time line.

Apart from the faults because a script is about time only: it yields `Step`s and knows nothing of requests. Durations carry units; a
bare number is an error. `speed: 60` plays an hour in a minute (the scripts' own times shrink; delays inside faults do not).

    speed: 60
    providers:
      openai:
        - {from: 0s, to: 4m, fault: {kind: html, status: 530}}
        - {from: 5m, to: 20m, ramp: [0, 0.9], fault: {kind: status, status: 503}}
      azure: []

A file for one provider may have `steps:` instead of `providers:`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from gateway.drill.faults import Refuse, SpecError, as_fault
from gateway.drill.plan import Step

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")


@dataclass(frozen=True, slots=True)
class Script:
    """The steps for one provider, in seconds since the script began."""

    steps: tuple[Step, ...]

    @property
    def length_s(self) -> float:
        """When the last step that ends has ended."""
        return max((step.end_s for step in self.steps if not math.isinf(step.end_s)), default=0.0)

    @classmethod
    def parse(cls, text: str, *, provider: str = "") -> Script:
        """Read YAML (JSON too). Raises SpecError with the step at fault."""
        try:
            data = yaml.safe_load(text)
        except yaml.YAMLError as wrong:
            raise SpecError(f"not YAML: {wrong}") from wrong
        return cls.of(data, provider=provider)

    @classmethod
    def of(cls, data: Any, *, provider: str = "") -> Script:
        """The same from parsed data: the part for `provider`, empty if the script has none for it."""
        if not isinstance(data, Mapping) or ("steps" in data) == ("providers" in data):
            raise SpecError("a script has `steps` or `providers`, one of them")
        unknown = [key for key in data if key not in {"name", "speed", "steps", "providers"}]
        if unknown:
            raise SpecError(f"a script has no {unknown[0]!r}")
        speed = data.get("speed", 1)
        if isinstance(speed, bool) or not isinstance(speed, int | float) or speed <= 0:
            raise SpecError(f"speed is {speed!r}, not a positive number")
        if "providers" in data and not isinstance(data["providers"], Mapping):
            raise SpecError("providers is an object: a list of steps for each name")
        listed = data["steps"] if "steps" in data else data["providers"].get(provider, [])
        if not isinstance(listed, list):
            raise SpecError("steps are a list")
        return cls(tuple(_step(item, float(speed), f"step {number}") for number, item in enumerate(listed, 1)))


def _step(item: Any, speed: float, where: str) -> Step:
    if not isinstance(item, Mapping) or "fault" not in item:
        raise SpecError(f"{where} is an object with `fault`, and `from`, `to`, `ramp` if needed")
    unknown = [key for key in item if key not in {"from", "to", "ramp", "fault"}]
    if unknown:
        raise SpecError(f"{where} has no {unknown[0]!r}; it has from, to, ramp and fault")
    try:
        fault = as_fault(item["fault"])
    except SpecError as wrong:
        raise SpecError(f"{where}: {wrong}") from None
    start_s = duration(item.get("from", "0s"), f"{where}: from") / speed
    end_s = duration(item["to"], f"{where}: to") / speed if "to" in item else math.inf
    if end_s <= start_s:
        raise SpecError(f"{where} ends before it begins")
    ramp = item.get("ramp")
    if ramp is not None:
        if not isinstance(ramp, list) or len(ramp) != 2 or not all(_is_share(value) for value in ramp):
            raise SpecError(f"{where}: ramp is two probabilities, [from, to]")
        ramp = (float(ramp[0]), float(ramp[1]))
    if math.isinf(end_s) and (ramp is not None or isinstance(fault, Refuse)):
        raise SpecError(f"{where} needs `to`")
    return Step(fault, start_s, end_s, ramp)


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def duration(value: Any, where: str) -> float:
    """Seconds from `250ms`, `90s`, `4m`, `1.5h`. Raises SpecError."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise SpecError(f"{where} is {value!r}, not a duration with a unit, such as 90s or 4m")
    return float(match[1]) * _UNITS[match[2]]
