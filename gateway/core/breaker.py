"""The circuit breaker: it answers one number, the admitted share, and hardly ever refuses (law 8).

    closed --(consecutive failures over >= 1 s, or failure rate)--> open
    open --(time is up)--> half-open: one real request is the probe
    half-open --(probe good)--> ramp --(share has grown to 1)--> closed
    half-open, ramp --(failures)--> open, for longer

Routing reads `share`; whoever sends takes a `Permit`, which ends exactly once as `success`, `ignore` or `dropped` (the three-way
completion of Netflix concurrency-limits). Results of attempts that began before the last transition say nothing about the present
state and do not move it; from before the last recovery, they are not even counted.

The way back is not a step. The share of a recovered target grows no faster than time (Envoy's slow start) and no faster than it has
answered: a herd would push it over again. Opening time doubles and is jittered, so that many gateways do not probe in step, and the
doubling is forgotten only after a long good while: a provider that comes and goes keeps its traffic elsewhere for longer each time.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Final

from gateway.core.plan import BreakerPlan
from gateway.core.window import Window

MIN_SPAN_S: Final = 1.0
"""Consecutive failures count as an outage only when they span this long: one burst is one event, not five."""
RAMP_FLOOR: Final = 0.1
"""The share that a ramp begins with; each success allows as much again."""
RAMP_PERIOD_S: Final = 2.0
"""During the ramp one request in so long passes whatever the share: so few are no herd, and without them nothing is learned."""
RAMP_FAILURES: Final = 2
"""This many failures in a row during the ramp end it."""
STABLE: Final = 5.0
"""Closed for so many times the longest opening, a breaker forgets how often it has opened."""
PROBE_S: Final = 10.0
"""A probe that has shown nothing for so long is joined by another: it may hang, and must not keep a healthy target waiting."""
TRICKLE_SHARE: Final = 0.1
TRICKLE_PERIOD_S: Final = 1.0
HOPELESS: Final = 0.95
"""From this share of failures on, requests without an alternative are held back to a trickle."""
HOPELESS_MIN: Final = 5
"""Results needed in the window before it can be called hopeless."""


class State(StrEnum):
    """Where a breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    RAMP = "ramp"


_CLOSED: Final = State.CLOSED
"""By a name of the module's, because Python 3.11 takes longer to find a member of an enumeration than to do all the rest here."""


class Permit:
    """Leave to send one attempt. Exactly one of its three endings is called, exactly once."""

    __slots__ = ("_breaker", "_ended", "epoch", "lived", "probe")

    def __init__(self, breaker: Breaker, epoch: int, *, probe: bool) -> None:
        self._breaker = breaker
        self._ended = False
        self.lived = False
        """Its sign of life has been counted."""
        self.epoch = epoch
        self.probe = probe
        """This is the one request that tests a half-open breaker."""

    def alive(self, now: float) -> None:
        """First content came: a success as far as a way back is concerned, for a stream may last an hour. The permit goes on."""
        self._breaker.lived_at = now
        if self._breaker.state is not _CLOSED:
            self._breaker.lived(now, self)

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

    def convict(self, now: float) -> None:
        """The target did fail, as was found out only after the permit's end."""
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
        "_good",
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
        "failing_since",
        "lived_at",
        "moved",
        "opened_at",
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
        self._since = float("-inf")
        """When the ramp began, or the breaker closed."""
        self._good = 0
        """Successes of this ramp."""
        self._probe: Permit | None = None
        self._probe_until = 0.0
        self._trickled_at = float("-inf")
        self._recovered = 0
        """The epoch that the last recovery began; what began before it is not counted."""
        self.used_at = 0.0
        """When leave was given last."""
        self.lived_at = float("-inf")
        """When a request showed content or success last."""
        self.failing_since = float("-inf")
        """When the first request failed after that."""
        self.opened_at = float("-inf")

    def replan(self, plan: BreakerPlan) -> None:
        """Take over new settings on reload; the state stays, counts in a window of another length begin anew."""
        if plan.window_s != self.plan.window_s:
            self._window = Window(plan.window_s)
        self.plan = plan

    def share(self, now: float) -> float:
        """Return the share of requests to admit, 0 to 1; 1 while half-open only until the probe is under way."""
        if self.state is _CLOSED:
            return 1.0
        if self.state is State.OPEN:
            if now < self._until:
                return 0.0
            self._move(State.HALF_OPEN)
        if self.state is State.HALF_OPEN:
            return 0.0 if self._probe is not None and now < self._probe_until else 1.0
        share = self._ramp(now)
        if share >= 1.0:
            self._since = now
            self._move(State.CLOSED)
        elif now - self.used_at >= RAMP_PERIOD_S:
            return 1.0
        return share

    def shown_share(self, now: float) -> float:
        """Return the share for people and metrics: 0 while half-open. Changes nothing."""
        if self.state is _CLOSED:
            return 1.0
        if self.state is State.RAMP:
            return self._ramp(now)
        return 0.0

    def admit(self, now: float) -> Permit:
        """Give leave to send one attempt, whatever the share: the caller has read it."""
        self.used_at = now
        if self.state is _CLOSED:
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

    def isolated(self, now: float) -> bool:
        """Whether the failure just counted stands alone: the one before it was not one, and the target has served lately."""
        return self.state is _CLOSED and self._consecutive <= 1 and now - self.lived_at <= self.plan.window_s

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

    def trip(self, now: float) -> None:
        """Open at once, on evidence from elsewhere."""
        if self.state is not State.OPEN:
            self._open(now)

    def lived(self, now: float, permit: Permit) -> None:
        """A request showed life on the way back: the probe opens the ramp, others let it grow. Called by the permit."""
        if permit.lived or permit.epoch != self.epoch:
            return
        permit.lived = True
        if self.state is State.RAMP:
            self._good += 1
            self._consecutive = 0
        elif permit.probe:
            self._probe = None
            self._since = now
            self._consecutive = self._good = 0
            self._window.clear()
            self._move(State.RAMP)
            self._recovered = permit.epoch = self.epoch

    def succeeded(self, now: float, permit: Permit) -> None:
        """Count a success. Called by the permit."""
        self.lived_at = now
        if permit.epoch < self._recovered:
            return
        if self.state is not _CLOSED:
            # Before it is counted: recovery begins with an empty window, and the probe is the first in it.
            self.lived(now, permit)
        self._window.success(now)
        if permit.epoch == self.epoch:
            self._consecutive = 0

    def ignored(self, permit: Permit) -> None:
        """Free the probe's place, if it was the probe. Called by the permit."""
        if permit is self._probe:
            self._probe = None

    def failed(self, now: float, permit: Permit) -> None:
        """Count a failure and open where it is one too many. Called by the permit."""
        if permit.epoch < self._recovered:
            return
        if self.lived_at >= self.failing_since:
            self.failing_since = now
        self._window.failure(now)
        if permit.epoch != self.epoch:
            return
        if self._consecutive == 0:
            self._first_failure_at = now
        self._consecutive += 1
        # While open, this was a request without alternative: that its failure is in the window is all.
        if (
            (self.state is _CLOSED and self._outage(now))
            or (self.state is State.HALF_OPEN and permit.probe)
            or (self.state is State.RAMP and (self._consecutive >= RAMP_FAILURES or self._outage(now)))
        ):
            self._open(now)

    def _ramp(self, now: float) -> float:
        ramp_s = self.plan.ramp_s
        if not ramp_s:
            return 1.0
        return min(1.0, max(RAMP_FLOOR, (now - self._since) / ramp_s), RAMP_FLOOR * (1 + self._good))

    def _outage(self, now: float) -> bool:
        if self._consecutive >= self.plan.consecutive and now - self._first_failure_at >= MIN_SPAN_S:
            return True
        total, failures = self._window.totals(now)
        return total >= self.plan.min_requests and failures >= total * self.plan.failure_rate

    def _open(self, now: float) -> None:
        if self.state is _CLOSED and now - self._since >= STABLE * self.plan.max_open_s:
            self._opened = 0
        length_s = min(self.plan.max_open_s, self.plan.open_s * 2.0 ** min(self._opened, 32))
        self._until = now + length_s * self._uniform(0.75, 1.0)
        self._opened += 1
        self.opened_at = now
        if self.state is not State.HALF_OPEN:
            # How hopeless it is, is measured since the trouble began: good weather before it says nothing.
            self._window.clear()
        self._probe = None
        self._consecutive = 0
        self._move(State.OPEN)

    def _move(self, state: State) -> None:
        self.state = state
        self.epoch += 1
        self.moved(state)
