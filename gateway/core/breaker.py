"""The circuit breaker: it answers one number, the admitted share, and hardly ever refuses (law 8).

    closed --(consecutive failures over >= 1 s, or failure rate)--> open
    open --(time is up)--> half-open: one real request is the probe
    half-open --(probe good)--> ramp --(share has grown to 1)--> closed
    half-open, ramp --(failures)--> open, for longer

Routing reads `share`; whoever sends takes a `Permit`, which ends exactly once as `success`, `ignore` or `dropped` (the three-way
completion of Netflix concurrency-limits). Results of attempts that began before the last transition say nothing about the present
state and do not move it; from before the last recovery, they are not even counted. Opening time grows by doubling and is jittered,
so that many gateways do not probe in step.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from gateway.core.plan import BreakerPlan

BUCKETS = 10
MIN_SPAN_S = 1.0
"""Consecutive failures count as an outage only when they span this long: one burst is one event, not five."""
RAMP_FLOOR = 0.1
RAMP_FAILURES = 2
"""This many failures in a row during the ramp end it."""
PROBE_S = 10.0
"""A probe that has shown nothing for so long is joined by another: it may hang, and must not keep a healthy target waiting."""
TRICKLE_SHARE = 0.1
TRICKLE_PERIOD_S = 1.0
HOPELESS = 0.95
"""From this share of failures on, requests without an alternative are held back to a trickle."""
HOPELESS_MIN = 5
"""Results needed in the window before it can be called hopeless."""


class State(StrEnum):
    """Where a breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    RAMP = "ramp"


class Window:
    """Successes and failures of the last `window_s` seconds, in ten time buckets (resilience4j's time-based window)."""

    __slots__ = ("_bucket_s", "_failures", "_slot", "_successes")

    def __init__(self, window_s: float) -> None:
        self._bucket_s = window_s / BUCKETS
        self._successes = [0] * BUCKETS
        self._failures = [0] * BUCKETS
        self._slot = 0

    def _advance(self, now: float) -> int:
        slot = int(now / self._bucket_s)
        behind = slot - self._slot
        if behind > 0:
            for i in range(min(behind, BUCKETS)):
                index = (slot - i) % BUCKETS
                self._successes[index] = self._failures[index] = 0
            self._slot = slot
        return self._slot % BUCKETS

    def success(self, now: float) -> None:
        """Count a success."""
        self._successes[self._advance(now)] += 1

    def failure(self, now: float) -> None:
        """Count a failure."""
        self._failures[self._advance(now)] += 1

    def totals(self, now: float) -> tuple[int, int]:
        """Return (results, failures) within the window."""
        self._advance(now)
        failures = sum(self._failures)
        return sum(self._successes) + failures, failures

    def clear(self) -> None:
        """Forget everything."""
        self._successes = [0] * BUCKETS
        self._failures = [0] * BUCKETS


class Permit:
    """Leave to send one attempt. Exactly one of its three endings is called, exactly once."""

    __slots__ = ("_breaker", "_ended", "epoch", "probe")

    def __init__(self, breaker: Breaker, epoch: int, *, probe: bool) -> None:
        self._breaker = breaker
        self._ended = False
        self.epoch = epoch
        self.probe = probe
        """This is the one request that tests a half-open breaker."""

    def alive(self, now: float) -> None:
        """First content came: enough for a probe, which must not last as long as a stream may. The permit goes on."""
        if self.probe and self.epoch == self._breaker.epoch:
            self._breaker.probe_passed(now)
            self.epoch = self._breaker.epoch

    def success(self, now: float) -> None:
        """The attempt served."""
        self._end()
        self._breaker.succeeded(now, self)

    def ignore(self) -> None:
        """The attempt says nothing about the target: the client left, its own fault, a lost race, another scope's failure."""
        self._end()
        self._breaker.ignored(self)

    def dropped(self, now: float) -> None:
        """The target failed."""
        self._end()
        self._breaker.failed(now, self)

    def _end(self) -> None:
        if self._ended:
            raise AssertionError("a permit ends exactly once")
        self._ended = True


class Breaker:
    """One scope's breaker: a target and family, or a provider."""

    __slots__ = (
        "_consecutive",
        "_first_failure_at",
        "_opened",
        "_probe",
        "_probe_until",
        "_recovered",
        "_since",
        "_trickled_at",
        "_uniform",
        "_until",
        "_window",
        "epoch",
        "moved",
        "plan",
        "state",
        "used_at",
    )

    def __init__(
        self,
        plan: BreakerPlan,
        uniform: Callable[[float, float], float],
        moved: Callable[[State], None] = lambda _state: None,
    ) -> None:
        self.plan = plan
        self._uniform = uniform
        self.moved = moved
        """Told of each transition; records it, decides nothing."""
        self.state = State.CLOSED
        self.epoch = 0
        """Counts transitions; a permit of an earlier epoch no longer counts."""
        self._window = Window(plan.window_s)
        self._consecutive = 0
        self._first_failure_at = 0.0
        self._opened = 0
        self._until = 0.0
        self._since = 0.0
        self._probe: Permit | None = None
        self._probe_until = 0.0
        self._trickled_at = float("-inf")
        self._recovered = 0
        """The epoch that the last recovery began; what began before it is not counted."""
        self.used_at = 0.0
        """When leave was given last."""

    def replan(self, plan: BreakerPlan) -> None:
        """Take over new settings on reload; the state stays, counts in a window of another length begin anew."""
        if plan.window_s != self.plan.window_s:
            self._window = Window(plan.window_s)
        self.plan = plan

    def share(self, now: float) -> float:
        """Return the share of requests to admit, 0 to 1; 1 while half-open only until the probe is under way."""
        if self.state is State.CLOSED:
            return 1.0
        if self.state is State.OPEN:
            if now < self._until:
                return 0.0
            self._move(State.HALF_OPEN)
        if self.state is State.HALF_OPEN:
            return 0.0 if self._probe is not None and now < self._probe_until else 1.0
        share = self._ramp(now)
        if share >= 1.0:
            self._opened = 0
            self._move(State.CLOSED)
        return share

    def shown_share(self, now: float) -> float:
        """Return the share for people and metrics: 0 while half-open. Changes nothing."""
        if self.state is State.CLOSED:
            return 1.0
        if self.state is State.RAMP:
            return self._ramp(now)
        return 0.0

    def admit(self, now: float) -> Permit:
        """Give leave to send one attempt, whatever the share: the caller has read it."""
        self.used_at = now
        if self.state is State.CLOSED:
            return Permit(self, self.epoch, probe=False)
        # Reading the share moves an open breaker on when its time is up.
        free = self.share(now) > 0.0
        permit = Permit(self, self.epoch, probe=free and self.state is State.HALF_OPEN)
        if permit.probe:
            self._probe = permit
            self._probe_until = now + PROBE_S
        return permit

    def reopens_in(self, now: float) -> float:
        """Return the seconds until a probe may pass; 0 unless open."""
        return max(0.0, self._until - now) if self.state is State.OPEN else 0.0

    def failing(self, now: float) -> float:
        """Return the share of failures in the window; 0 while there are too few results to tell."""
        total, failures = self._window.totals(now)
        return failures / total if total >= HOPELESS_MIN else 0.0

    def trickle(self, now: float) -> bool:
        """Whether a request without alternative passes a hopeless target: one a second, or a tenth, whichever is more."""
        if now - self._trickled_at >= TRICKLE_PERIOD_S or self._uniform(0.0, 1.0) < TRICKLE_SHARE:
            self._trickled_at = now
            return True
        return False

    def probe_passed(self, now: float) -> None:
        """The probe showed life: admit a growing share from now on."""
        self._probe = None
        self._since = now
        self._consecutive = 0
        self._window.clear()
        self._move(State.RAMP)
        self._recovered = self.epoch

    def succeeded(self, now: float, permit: Permit) -> None:
        """Count a success. Called by the permit."""
        if permit.epoch < self._recovered:
            return
        self._window.success(now)
        if permit.epoch != self.epoch:
            return
        self._consecutive = 0
        if permit.probe and self.state is State.HALF_OPEN:
            self.probe_passed(now)

    def ignored(self, permit: Permit) -> None:
        """Free the probe's place, if it was the probe. Called by the permit."""
        if permit is self._probe:
            self._probe = None

    def failed(self, now: float, permit: Permit) -> None:
        """Count a failure and open where it is one too many. Called by the permit."""
        if permit.epoch < self._recovered:
            return
        self._window.failure(now)
        if permit.epoch != self.epoch:
            return
        if self._consecutive == 0:
            self._first_failure_at = now
        self._consecutive += 1
        # While open, this was a request without alternative: that its failure is in the window is all.
        if (
            (self.state is State.CLOSED and self._outage(now))
            or (self.state is State.HALF_OPEN and permit.probe)
            or (self.state is State.RAMP and (self._consecutive >= RAMP_FAILURES or self._outage(now)))
        ):
            self._open(now)

    def _ramp(self, now: float) -> float:
        passed_s, ramp_s = now - self._since, self.plan.ramp_s
        return max(RAMP_FLOOR, passed_s / ramp_s) if passed_s < ramp_s else 1.0

    def _outage(self, now: float) -> bool:
        if self._consecutive >= self.plan.consecutive and now - self._first_failure_at >= MIN_SPAN_S:
            return True
        total, failures = self._window.totals(now)
        return total >= self.plan.min_requests and failures >= total * self.plan.failure_rate

    def _open(self, now: float) -> None:
        length_s = min(self.plan.max_open_s, self.plan.open_s * 2.0 ** min(self._opened, 32))
        self._until = now + length_s * self._uniform(0.8, 1.2)
        self._opened += 1
        self._probe = None
        self._consecutive = 0
        self._move(State.OPEN)

    def _move(self, state: State) -> None:
        self.state = state
        self.epoch += 1
        self.moved(state)
