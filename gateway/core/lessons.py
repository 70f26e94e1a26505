"""What a failed attempt teaches: whose failure it is, what is kept from use, and whether another attempt may follow.

The exchange's second half beside `placement`: that one knows where to go, this one what a verdict means for the live state that all
exchanges share (laws 3, 7, 10 and 11). One instance per exchange, because one exchange counts at most one failure against each
target or provider, and doubts at most one of them.
"""

from __future__ import annotations

from typing import Final

from gateway.core.attempt import Ask, Attempt
from gateway.core.bucket import Cost
from gateway.core.gate import SMOOTHING
from gateway.core.placement import Placement
from gateway.core.plan import INFERENCE, Balance
from gateway.core.registry import ProviderState, TargetState
from gateway.core.throttle import SHORT_S
from gateway.core.verdicts import FAULTS, Fault, Parked, Scope, Verdict
from gateway.errors import Reason

KEYS_OWN_STATUSES: Final = frozenset({401, 403, 407})
"""A caller's fault with one of these is about the caller's key, and says nothing about requests."""


SENSIBLE: Final = frozenset({Fault.CALLER, Fault.CONTEXT_LENGTH, Fault.CONTENT_POLICY, Fault.MODEL_GONE})
"""Whoever answers so is alive as a provider: clients choose what they ask for, and made-up models must not close it (law 11)."""


REFUSED: Final = frozenset({Fault.RATE_LIMITED, Fault.OVERLOADED})
"""The provider would not, for there is too much of it."""
NOT_CARRIED_OUT: Final = REFUSED | SENSIBLE | {Fault.BILLING, Fault.CREDENTIAL}
"""What was refused took none of the account's tokens."""

_FASTEST: Final = Balance.FASTEST


class Lessons:
    """What one exchange has learned and passed on."""

    __slots__ = ("_ask", "_counted", "_placement", "doubted")

    def __init__(self, ask: Ask, placement: Placement) -> None:
        self._ask = ask
        self._placement = placement
        self._counted: set[TargetState | ProviderState] | None = None
        """Who already bears a failure of this exchange."""
        self.doubted: Attempt | None = None
        """Was told that the request is wrong, by a target that says so too often: another one is asked for its opinion."""

    def served(self, now: float, attempt: Attempt) -> None:
        """A whole, good answer: the key was accepted and had room, and whoever was doubted is convicted."""
        self.key_served(attempt)
        attempt.place.state.rejections.served += 1
        if self.doubted is not None:
            self.doubted.convict(now)

    def key_served(self, attempt: Attempt) -> None:
        """The key was accepted and had room."""
        if attempt.key is not None and attempt.key.held:
            attempt.key.served(attempt.model, attempt.started_at)

    def settle(self, now: float, attempt: Attempt, verdict: Verdict) -> None:
        """An attempt ended by itself: what it had reserved and did not use is given back."""
        gate, reservation, fault = attempt.gate, attempt.reservation, verdict.fault
        self._left(now, attempt)
        if fault is None:
            used = attempt.usage
            if used is None or not attempt.estimate:
                reservation.served(now, None)
            else:
                reservation.served(now, Cost(*used))
                self._placement.room.learn(gate, *used)
            return
        if fault in REFUSED:
            if gate.throttle.watching:
                gate.throttle.refused(now, sent_at=attempt.started_at)
            else:
                gate.throttle.watch(now)
        elif not attempt.content_at and gate.throttle.watching:
            gate.throttle.accepted(now, sent_at=attempt.started_at)
        if not attempt.sent_at:
            reservation.unsent(now)
        elif fault in NOT_CARRIED_OUT:
            reservation.refused(now)
        else:
            reservation.kept()
        if self._ask.balance is _FASTEST and FAULTS[fault].elsewhere:
            attempt.place.state.pace[self._ask.stream].failed(now, attempt.limit_s)

    def let_go(self, now: float, attempt: Attempt) -> None:
        """An attempt was cancelled: how much of it was carried out by then, nobody will say."""
        self._left(now, attempt)
        if attempt.sent_at:
            attempt.reservation.kept()
        else:
            attempt.reservation.unsent(now)

    def _left(self, now: float, attempt: Attempt) -> None:
        gate, seconds = attempt.gate, now - attempt.started_at
        gate.pending -= 1
        attempt.place.state.pending -= 1
        gate.call_s += (seconds - gate.call_s) * SMOOTHING
        if seconds >= SHORT_S or gate.throttle.long:
            gate.throttle.took(now, seconds)

    def failed(self, now: float, attempt: Attempt, verdict: Verdict) -> None:
        """Keep the key away from what it was refused for, learn its limits, and count what callers are told."""
        fault = fault_of(verdict)
        if fault is Fault.OVERLOADED:
            attempt.reservation.overloaded(now)
        if fault is Fault.CALLER and attempt.status not in KEYS_OWN_STATUSES:
            attempt.place.state.rejections.rejected(now, self._ask.client)
        parked = FAULTS[fault].parked
        if parked is Parked.NOT:
            return
        credential = attempt.key
        if credential is None:
            return
        model = None if verdict.scope is Scope.CREDENTIAL else attempt.model
        if parked is Parked.STATED:
            # Not where the request alone is too large for the limit: others are not.
            attempt.reservation.state(now, verdict.stated)
            if verdict.retry_same or verdict.delay is not None:
                if not verdict.quota_left:
                    attempt.reservation.denied(now, verdict.resource)
                credential.park(now, model, verdict.delay, quota_left=verdict.quota_left)
        elif self._ask.family in INFERENCE:
            # Elsewhere a refusal may only mean that this key has no rights there; models may still be served with it.
            refused = fault is Fault.CREDENTIAL
            credential.bench(now, model, refused=refused)
            if refused and model is None and attempt.credential is not None:
                attempt.place.provider.refused(now)

    def final(self, now: float, attempt: Attempt, fault: Fault, *, intact: bool) -> Reason | None:
        """Return why no further attempt is allowed after this fault, or None (laws 3 and 10)."""
        if self.doubted is not None:
            if fault is Fault.CALLER:
                self.doubted.place.state.rejections.cleared()
            return Reason.CALLER
        if not FAULTS[fault].elsewhere:
            if any(fault in place.target.only_for for place in self._ask.candidates):
                self._placement.only_for = fault
            elif fault is Fault.CALLER and self._doubtful(now, attempt):
                self.doubted = attempt
            elif not (fault is Fault.CONTENT_POLICY and self._ask.policy.failover_content_policy):
                return Reason.CALLER
        if not intact:
            return Reason.NOT_RETRYABLE
        harmless = not attempt.sent_at or self._ask.safe or fault in (Fault.OVERLOADED, Fault.RATE_LIMITED)
        return None if harmless or self._ask.family in INFERENCE else Reason.NOT_RETRYABLE

    def blamed(self, now: float, attempt: Attempt, fault: Fault, scope: Scope) -> Scope:
        """Return whose failure this is, as far as it may be counted (law 11)."""
        if fault in SENSIBLE:
            attempt.place.provider.breaker.lived_at = now
        if attempt.uploading and fault is Fault.STALLED:
            # The client's upload stopped, as far as we can see.
            return Scope.NOBODY
        return self._once(attempt, scope)

    def _once(self, attempt: Attempt, scope: Scope) -> Scope:
        if scope is Scope.TARGET or scope is Scope.PROVIDER:
            bearer = attempt.place.state if scope is Scope.TARGET else attempt.place.provider
            if self._counted is None:
                self._counted = set()
            if bearer in self._counted:
                return Scope.NOBODY
            self._counted.add(bearer)
        return scope

    def given_up(self, now: float, attempt: Attempt) -> Scope:
        """The client's patience ended while this attempt was under way: nobody's failure, unless others fared the same."""
        if not attempt.sent_at or attempt.head_at or attempt.uploading:
            return Scope.NOBODY
        hangs = attempt.place.state.silence.gave_up(
            now,
            self._ask.client,
            sent_at=attempt.sent_at,
            lived_at=attempt.place.state.breaker.lived_at,
            stream=self._ask.stream,
        )
        return self._once(attempt, Scope.TARGET) if hangs else Scope.NOBODY

    def stop_proving(self, attempt: Attempt) -> None:
        """A probe of a key ended; what it says about the key, if anything, is learned afterwards."""
        if attempt.proving and attempt.key is not None:
            attempt.key.let_go(attempt.model, attempt.proving)

    def _doubtful(self, now: float, attempt: Attempt) -> bool:
        """Whether another target should be asked if the request is really wrong (law 3)."""
        return (
            attempt.place.state.rejections.suspect
            and attempt.status not in KEYS_OWN_STATUSES
            and self._ask.family in INFERENCE
            and self._placement.untried(attempt.place, now) is not None
        )


def fault_of(verdict: Verdict) -> Fault:
    """Return the fault of a verdict that has one."""
    if verdict.fault is None:
        raise AssertionError("a good answer is no failure")
    return verdict.fault
