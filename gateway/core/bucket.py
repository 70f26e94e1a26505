"""One limit on a rate, and what a request takes of it.

GCRA, the generic cell rate algorithm of ATM Forum TM 4.0, as in brandur/redis-cell: one number, the theoretical arrival time, says
when a request of a given size has room, exactly and in constant time. Apart from `core.quota`, which knows which limits hold, who
has stated them, and what was reserved.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from gateway.core.plan import RatePlan, Resource

NEVER: Final = float("inf")

LEARNED_BURST_S: Final = 0.5
"""A learned limit lets so much through at once; how much the provider does, nobody knows."""

RATED: Final = (Resource.REQUESTS, Resource.TOKENS, Resource.INPUT_TOKENS, Resource.OUTPUT_TOKENS)
"""What is limited per time."""


class Source(StrEnum):
    """Who says that there is a limit."""

    CONFIGURED = "configured"
    HEADER = "header"
    """The provider itself, in headers or in the text of a refusal."""
    LEARNED = "learned"


class Cost:
    """What a request takes of each resource: an estimate when it is sent, what was used when it is settled."""

    __slots__ = ("amounts", "guess", "input", "output")

    def __init__(self, input_tokens: float = 0.0, output_tokens: float = 0.0, guess: float = 0.0) -> None:
        self.input = input_tokens
        self.output = output_tokens
        self.amounts = (1.0, input_tokens + output_tokens, input_tokens, output_tokens)
        """Of each resource that has a rate, at its place in `RATED`."""
        self.guess = guess
        """Of an estimate: the input without the margin that is reserved for its error."""

    @property
    def tokens(self) -> float:
        """Input and output together."""
        return self.amounts[1]

    def of(self, resource: Resource) -> float:
        """Return the amount of one resource."""
        return self.amounts[RATED.index(resource)]


FREE: Final = Cost()


class Bucket:
    """One limit on a rate: holds up to `burst`, starts full, gains `amount` per `period_s`."""

    __slots__ = ("amount", "arrival", "as_of", "burst", "interval_s", "number", "period_s", "resource", "since", "source", "until")

    def __init__(self, plan: RatePlan, source: Source, now: float, *, since: int = 0, until: float = NEVER) -> None:
        self.resource = plan.resource
        self.number = RATED.index(plan.resource)
        """Its resource's place in `RATED`."""
        self.source = source
        self.since = since
        """So many requests had been sent before: they have taken nothing of it."""
        self.as_of = 0
        """Of a stated one: the number of the latest request in whose answer it was stated."""
        self.until = until
        """From then on it holds no longer."""
        self.amount = plan.amount
        self.period_s = plan.period_s
        self.burst = plan.burst
        self.interval_s = plan.period_s / plan.amount
        """What one of its resource takes."""
        self.arrival = now
        """Theoretical arrival time: when it will be full."""

    @property
    def per_s(self) -> float:
        """The rate, in its resource per second."""
        return self.amount / self.period_s

    def ready_at(self, amount: float) -> float:
        """Return when this much has room; a past moment means now. More than the burst has room when the bucket is full."""
        return self.arrival - (self.burst - min(amount, self.burst)) * self.interval_s

    def take(self, now: float, amount: float) -> None:
        """Take this much, be it there or not; less than nothing gives back."""
        self.arrival = (self.arrival if self.arrival > now or amount < 0.0 else now) + amount * self.interval_s

    def level(self, now: float) -> float:
        """Return what is in it; below nothing where it is in debt."""
        return self.burst - max(0.0, self.arrival - now) / self.interval_s

    def correct(self, now: float, level: float) -> None:
        """Set what is in it."""
        self.arrival = now + (self.burst - min(level, self.burst)) * self.interval_s

    def retune(self, now: float, amount: float, period_s: float, burst: float) -> None:
        """Take over another rate; what is in it stays, as far as it fits."""
        level = min(self.level(now), burst)
        self.amount, self.period_s, self.burst = amount, period_s, burst
        self.interval_s = period_s / amount
        self.correct(now, level)


class LearnedBucket(Bucket):
    """A limit that refusals have taught.

    A provider wants all that a request needs to be there, so one that is larger than the burst waits until it is, as if the burst
    were as large; debts are for limits that are known.
    """

    __slots__ = ("_largest",)

    def __init__(self, resource: Resource, per_s: float, now: float, since: int) -> None:
        self._largest = 1.0
        super().__init__(RatePlan(resource, per_s, 1.0, max(per_s * LEARNED_BURST_S, 1.0)), Source.LEARNED, now, since=since)

    def ready_at(self, amount: float) -> float:
        if amount > self.burst:
            self.arrival += (amount - self.burst) * self.interval_s
            self.burst = self._largest = amount
        return self.arrival - (self.burst - amount) * self.interval_s

    def follow(self, now: float, per_s: float) -> None:
        """Take over another rate."""
        self.retune(now, per_s, 1.0, max(per_s * LEARNED_BURST_S, self._largest))
