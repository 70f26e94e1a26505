"""What the numbers of one policy say together: each is right by itself, and yet one of them could never do anything.

A table of contradictions over whole policies, since a policy inherits from `default` what it does not say. Each is reported where
it was made: at the first of its keys that the policy itself says. One in `default` is reported there and not at its heirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.config.compile import compile_policy
from gateway.config.document import Findings, Path
from gateway.config.layers import policies
from gateway.config.schema import Configuration, LearnedLimit
from gateway.core.plan import HedgePlan, Learned, Policy


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Keys that cannot all mean what they say."""

    keys: tuple[str, ...]
    """Where it may have been made, dotted; the first that is said is where it is reported."""
    holds: Callable[[Policy], bool]
    message: str
    reads: tuple[str, ...] = ()
    """What else it is concluded from."""


def _below_floor(limit: Learned | None, initially_s: float) -> bool:
    return limit is not None and initially_s < limit.floor_s


def _fixed_below_floor(hedge: HedgePlan | None) -> bool:
    return hedge is not None and hedge.after_s is not None and hedge.after_s < hedge.floor_s


def _too_late(policy: Policy) -> bool:
    """Whether an attempt is over before the soonest hedge, as far as either is fixed."""
    hedge, timeouts = policy.hedge, policy.timeouts
    if hedge is None:
        return False
    if hedge.non_stream:
        limit_s = timeouts.answer_s if timeouts.learned_answer is None else math.inf
    else:
        limit_s = timeouts.first_token_s if timeouts.learned_first_token is None else math.inf
    return max(hedge.after_s or 0.0, hedge.floor_s) >= min(limit_s, policy.deadline_s)


def _never_silent_so_long(policy: Policy) -> bool:
    """Whether no stream lives to get a comment; while it is resumed, or before it began, one can be silent for longer."""
    stream = policy.stream
    longer = stream.resume or stream.early_keepalive_s < math.inf
    return policy.timeouts.stall_s <= stream.keepalive_s < math.inf and not longer


_INITIALLY: Final = "until enough is known the limit would be below its own floor: raise `initially`, or lower `floor`"

CONTRADICTIONS: Final = (
    Contradiction(
        ("backoff.cap", "backoff.base"),
        lambda policy: policy.backoff.cap_s < policy.backoff.base_s,
        "cap must not be shorter than base",
    ),
    Contradiction(
        ("timeouts.first_token.initially", "timeouts.first_token.floor", "timeouts.first_token"),
        lambda policy: _below_floor(policy.timeouts.learned_first_token, policy.timeouts.first_token_s),
        _INITIALLY,
    ),
    Contradiction(
        ("timeouts.answer.initially", "timeouts.answer.floor", "timeouts.answer"),
        lambda policy: _below_floor(policy.timeouts.learned_answer, policy.timeouts.answer_s),
        _INITIALLY,
    ),
    Contradiction(
        ("hedge.after", "hedge.floor"),
        lambda policy: _fixed_below_floor(policy.hedge),
        "`after` must not be shorter than `floor`, which would take its place",
    ),
    Contradiction(
        ("hedge.after", "hedge.floor", "hedge.non_stream", "hedge", "timeouts.first_token", "timeouts.answer", "deadline"),
        _too_late,
        "no hedge could start in time: its delay must be shorter than the attempt's limit (`first_token`; `answer` with "
        "`non_stream`) and than `deadline`",
    ),
    Contradiction(
        ("hedge.max", "attempts", "hedge"),
        lambda policy: policy.hedge is not None and policy.attempts <= policy.hedge.max,
        "a hedge is an attempt too: `attempts` must be more than the hedges' `max`",
    ),
    Contradiction(
        ("stream.resume", "attempts"),
        lambda policy: policy.stream.resume and policy.attempts == 1,
        "to resume a stream is an attempt too: `attempts` must be more than 1",
    ),
    Contradiction(
        ("stream.resume", "stream.hold"),
        lambda policy: policy.stream.resume and math.isinf(policy.stream.hold_s),
        "with `hold: all` no stream is ever broken in the client's hands, so none is resumed: remove one of the two",
    ),
    Contradiction(
        ("stream.hold", "deadline"),
        lambda policy: policy.deadline_s <= policy.stream.hold_s < math.inf,
        "content would be held back past the `deadline`: `hold` must be shorter, or all",
    ),
    Contradiction(
        ("stream.early_keepalive", "deadline"),
        lambda policy: policy.deadline_s <= policy.stream.early_keepalive_s < math.inf,
        "never comes: the `deadline` is sooner",
    ),
    Contradiction(
        ("stream.keepalive",),
        _never_silent_so_long,
        "never comes: silence ends the stream at `stall`, which is sooner; say a shorter time, or off",
        reads=("timeouts.stall", "stream.resume", "stream.early_keepalive"),
    ),
)


def check_policies(configuration: Configuration, findings: Findings) -> None:
    """Report every contradiction in a policy."""
    broken = frozenset(findings.broken)
    inherited: set[tuple[str, ...]] = set()
    for name, settings in policies(configuration).items():  # `default` comes first
        for key in ("first_token", "answer"):
            _learned_missing(("policies", name, "timeouts", key), getattr(settings.timeouts, key), findings)
        policy = compile_policy(name, settings)
        for rule in CONTRADICTIONS:
            said = next((path for key in rule.keys if findings.has(path := _path(name, key))), None)
            sound = all(_sound(broken, _path(where, key)) for where in (name, "default") for key in rule.keys + rule.reads)
            if said is None or not sound or rule.keys in inherited or not rule.holds(policy):
                continue
            findings.add(said, rule.message)
            if name == "default":
                inherited.add(rule.keys)


def _learned_missing(path: Path, limit: LearnedLimit, findings: Findings) -> None:
    mapping = path in findings.spots and findings.spots[path].raw is None
    if mapping and limit.learned is None and findings.sound(path):
        findings.add(path, 'learned is missing, e.g. "p99 x 3"; a limit that stays as it is needs no braces: 60s')


def _path(policy: str, key: str) -> Path:
    return ("policies", policy, *key.split("."))


def _sound(broken: frozenset[Path], path: Path) -> bool:
    """Whether nothing was found wrong with this key, with what is in it, or with the policy and the sections that it is in."""
    return not any(bad[: len(path)] == path or (len(bad) > 1 and path[: len(bad)] == bad) for bad in broken)
