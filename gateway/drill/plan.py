"""Which faults strike this request: the one place where a simulated provider's state, time and dice meet.

The law here: the same seed and the same order of requests give the same faults. One random.Random serves the whole plan, faults are
asked in their order, and a die is cast only for a fault whose filter, window and count already let it through.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from gateway.drill.bucket import Bucket
from gateway.drill.faults import (
    Call,
    Cut,
    Drip,
    ErrorEvent,
    Fault,
    Hangup,
    Html,
    Latency,
    LoadSensitive,
    Mix,
    Oscillate,
    RateLimit,
    Raw,
    Refuse,
    Reset,
    Stall,
    Status,
    WrongLength,
    as_delay,
)

_MANY_BUCKETS = 10_000


@dataclass(frozen=True, slots=True)
class Step:
    """A fault and when it holds: from `start_s` until before `end_s`, counted from the moment its script began.

    `ramp` replaces the fault's probability by a straight line from the first number at the start to the second at the end.
    """

    fault: Fault
    start_s: float = 0.0
    end_s: float = math.inf
    ramp: tuple[float, float] | None = None


@dataclass(slots=True)
class Meter:
    """One resource of a rate limit after this request was charged, as the headers tell it."""

    resource: Literal["requests", "tokens"]
    limit: float
    remaining: float
    reset_s: float


@dataclass(slots=True)
class Denial:
    """A request that a rate limit refuses: which resource is short, and for how long (infinite: it can never fit)."""

    limit: RateLimit
    resource: Literal["requests", "tokens"]
    amount: float
    used: float
    requested: float
    wait_s: float


@dataclass(slots=True)
class Effects:
    """Everything that is to happen to one request. `instead` is an answer in place of the real one."""

    names: list[str] = field(default_factory=list)
    delay_s: float = 0.0
    events_delay_s: float = 0.0
    instead: Status | Html | Raw | Denial | None = None
    stall: Stall | None = None
    cut: Cut | Reset | None = None
    error_event: ErrorEvent | None = None
    drip: Drip | None = None
    wrong_length: WrongLength | None = None
    hangup: bool = False
    meters: list[Meter] = field(default_factory=list)
    billed: bool | None = None


class _Live:
    """One step of the plan with what it remembers."""

    __slots__ = ("arrivals", "buckets", "inner", "origin_s", "step", "used")

    def __init__(self, step: Step, origin_s: float) -> None:
        self.step = step
        self.origin_s = origin_s
        self.used = 0
        self.arrivals: deque[float] = deque()
        self.buckets: dict[str, tuple[Bucket | None, Bucket | None]] = {}
        fault = step.fault
        nested = fault.faults if isinstance(fault, Mix) else (fault.fault,) if isinstance(fault, Oscillate | LoadSensitive) else ()
        self.inner = [_Live(Step(one), origin_s) for one in nested]

    def probability(self, since_s: float) -> float:
        if self.step.ramp is None:
            return self.step.fault.probability
        low, high = self.step.ramp
        length = self.step.end_s - self.step.start_s
        return low + (high - low) * (since_s - self.step.start_s) / length


class FaultPlan:
    """The faults in force at one provider; may be changed at any time, from the next request on."""

    def __init__(self, rng: random.Random, clock: Callable[[], float]) -> None:
        self._rng = rng
        self._clock = clock
        self._live: list[_Live] = []

    def set(self, *faults: Fault) -> None:
        """These faults, and no others; counts and buckets start anew."""
        self._live = [_Live(Step(fault), self._clock()) for fault in faults]

    def add(self, *faults: Fault) -> None:
        """These faults too, after those in force."""
        self._live += [_Live(Step(fault), self._clock()) for fault in faults]

    def play(self, steps: Iterable[Step]) -> None:
        """The steps of a script, which begins now, beside the faults in force."""
        self._live += [_Live(step, self._clock()) for step in steps]

    def clear(self) -> None:
        """No faults."""
        self._live = []

    @property
    def faults(self) -> list[Fault]:
        """What `set`, `add` and `play` brought in, in order."""
        return [live.step.fault for live in self._live]

    @property
    def has_early(self) -> bool:
        """Whether any fault wants to act before a request's body is read."""
        return any(live.step.fault.early for live in self._live)

    def choose(self, call: Call, *, early: bool = False) -> Effects:
        """What happens to this request. Delays add up; of several answers in place of the real one the first wins."""
        effects = Effects()
        for live in self._live:
            if live.step.fault.early == early:
                self._strike(live, call, effects)
        return effects

    def _strike(self, live: _Live, call: Call, effects: Effects) -> None:
        fault, now = live.step.fault, self._clock()
        since_s = now - live.origin_s
        if not live.step.start_s <= since_s < live.step.end_s or not fault.only.takes(call):
            return
        if isinstance(fault, LoadSensitive):
            while live.arrivals and live.arrivals[0] <= now - fault.window_s:
                live.arrivals.popleft()
            live.arrivals.append(now)
            if len(live.arrivals) <= fault.base_per_s * fault.factor * fault.window_s:
                return
        if isinstance(fault, Oscillate) and (since_s % fault.period_s) >= fault.duty * fault.period_s:
            return
        if _taken(fault, call, effects) or (fault.times is not None and live.used >= fault.times):
            return
        probability = live.probability(since_s)
        if probability < 1.0 and self._rng.random() >= probability:
            return
        live.used += 1
        if isinstance(fault, Mix):
            self._strike(self._rng.choices(live.inner, fault.weights)[0], call, effects)
        elif isinstance(fault, Oscillate | LoadSensitive):
            self._strike(live.inner[0], call, effects)
        elif isinstance(fault, RateLimit):
            self._charge(live, fault, call, now, effects)
        else:
            self._apply(fault, effects)

    def _apply(self, fault: Fault, effects: Effects) -> None:
        effects.names.append(fault.kind)
        if fault.billed is not None:
            effects.billed = fault.billed
        if isinstance(fault, Latency):
            delay_s = as_delay(fault.delay).draw(self._rng)
            if fault.before == "head":
                effects.delay_s += delay_s
            else:
                effects.events_delay_s += delay_s
        elif isinstance(fault, Status | Html | Raw):
            effects.instead = fault
        elif isinstance(fault, Stall):
            effects.stall = fault
        elif isinstance(fault, Cut | Reset):
            effects.cut = fault
        elif isinstance(fault, ErrorEvent):
            effects.error_event = fault
        elif isinstance(fault, Drip):
            effects.drip = fault
        elif isinstance(fault, WrongLength):
            effects.wrong_length = fault
        elif isinstance(fault, Hangup):
            effects.hangup = True

    @staticmethod
    def _charge(live: _Live, limit: RateLimit, call: Call, now: float, effects: Effects) -> None:
        account = {"account": "", "key": call.key, "model": call.model}[limit.per]
        buckets = live.buckets.get(account)
        if buckets is None:
            if len(live.buckets) >= _MANY_BUCKETS:
                live.buckets.clear()
            made = [
                None if amount is None else Bucket(amount * limit.burst, amount / limit.period_s, now)
                for amount in (limit.requests, limit.tokens)
            ]
            buckets = live.buckets[account] = (made[0], made[1])
        bills: list[tuple[Literal["requests", "tokens"], Bucket, float, float]] = []
        if buckets[0] is not None and limit.requests is not None:
            bills.append(("requests", buckets[0], limit.requests, 1.0))
        if buckets[1] is not None and limit.tokens is not None:
            bills.append(("tokens", buckets[1], limit.tokens, float(call.tokens)))
        # The scarcest resource speaks for the refusal: its wait is the one after which the call fits.
        resource, bucket, amount, asked = max(bills, key=lambda bill: bill[1].wait(bill[3], now))
        wait_s = bucket.wait(asked, now)
        if wait_s > 0.0:
            used = max(0.0, bucket.capacity - bucket.level(now))
            effects.instead = Denial(limit, resource, amount, used, asked, wait_s)
            effects.names.append(limit.kind)
        else:
            for _, bucket, _, asked in bills:
                bucket.take(asked, now)
        effects.meters = [Meter(kind, limit_, bucket.level(now), bucket.full_in(now)) for kind, bucket, limit_, _ in bills]


def _taken(fault: Fault, call: Call, effects: Effects) -> bool:
    """Whether a fault has no place left to strike: an earlier one has it, or the request has no such place."""
    if isinstance(fault, Status | Html | Raw):
        return effects.instead is not None
    if isinstance(fault, RateLimit):
        return effects.instead is not None or not call.inference
    if isinstance(fault, Stall):
        return effects.stall is not None or (fault.after_events is not None and not call.stream)
    if isinstance(fault, Cut):
        return effects.cut is not None or (fault.after_events is not None and not call.stream)
    if isinstance(fault, Reset):
        return effects.cut is not None
    if isinstance(fault, ErrorEvent):
        return effects.error_event is not None or not call.stream
    if isinstance(fault, Drip):
        return effects.drip is not None
    if isinstance(fault, WrongLength):
        return effects.wrong_length is not None
    return isinstance(fault, Refuse)
