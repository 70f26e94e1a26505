"""The state machine of one client request (law 1): events in, actions out, nothing else decides.

    start ──> Send ──> sending ──> head ──> content ──> finished ──> Finish       the happy path
                 └── failed ──> Send (elsewhere, at once) | wait for `timer` | Relay | Refuse
    timer, client_gone, drain ──> Cancel, and as after a failure | Break once committed

One driver carries the actions out (`egress.driver`); chunks of bodies never come here. Every event takes `now`, in the loop's
monotonic seconds, and returns the actions to perform, in order. `wake_at` says when `timer` wants to be called next; calling it
early is harmless. Where the next attempt goes is `core.placement`'s half. Retry, failover, breakers, budget and patience share one
deadline and one commit point, which is why they are one machine and not a tower of middlewares.
"""

from __future__ import annotations

from gateway.core.actions import (
    FINISH,
    NOTHING,
    UPSTREAMS_OWN,
    Actions,
    Advice,
    Break,
    Cancel,
    Commit,
    Open,
    Refuse,
    Relay,
    Send,
)
from gateway.core.attempt import NEVER, Ask, Attempt
from gateway.core.placement import Chance, Go, Placement, Stuck, Wait
from gateway.core.plan import INFERENCE
from gateway.core.record import Ending, ExchangeRecord, Kind
from gateway.core.registry import ProviderState, TargetState
from gateway.core.verdicts import FAULTS, OK, Fault, IOFault, Parked, Scope, Verdict
from gateway.errors import Reason

PROBE_LIMIT_S = 10.0
"""A half-open breaker's probe has no longer to begin its stream where another target could have served."""
PROBE_ANSWER_S = 60.0
"""And no longer than this for a whole answer without a stream, which healthy providers may take longer for."""
ADVICE_CAP_S = 60.0
"""Longer delays are treated differently by every SDK: never advise more."""

RANK: dict[Fault, int] = {
    Fault.CONTEXT_LENGTH: 6,
    Fault.CONTENT_POLICY: 6,
    Fault.CALLER: 6,
    Fault.RATE_LIMITED: 5,
    Fault.OVERLOADED: 4,
    Fault.SERVER_ERROR: 4,
    Fault.STREAM_BROKEN: 3,
    Fault.TIMEOUT: 3,
    Fault.STALLED: 3,
    Fault.UNKNOWN: 2,
    Fault.MODEL_GONE: 2,
    Fault.EDGE_BLOCKED: 1,
    Fault.CONNECT: 1,
    Fault.BILLING: 0,
    Fault.CREDENTIAL: 0,
}
"""How much a failure tells the client, when all attempts are spent and one of them must be the answer; the later of equals wins."""

CALLERS_RANK = 6
"""These are the caller's own: relayed untouched, whatever else was tried."""

KEYS_OWN_STATUSES = frozenset({401, 403, 407})
"""A caller's fault with one of these is about the caller's key, and says nothing about requests."""

BLOCKED = frozenset({Reason.RATE_LIMITED, Reason.BREAKERS_OPEN, Reason.CREDENTIALS_BENCHED})
"""What time will change: the client is told when to come back."""

UNTRIED = frozenset({Reason.RETRY_BUDGET, Reason.NOT_RETRYABLE})
"""We did not try on the client's behalf what its own SDK may: its retries must not be forbidden (law 8)."""

UNSERVED: dict[Reason, tuple[int, str]] = {
    Reason.DEADLINE: (504, "No provider answered within the time this request may take."),
    Reason.NO_TARGET: (503, "No target of this route can serve this request."),
    Reason.BREAKERS_OPEN: (503, "Every provider that could serve this request is failing."),
    Reason.CREDENTIALS_BENCHED: (503, "Every key of the provider was refused or is out of credit."),
    Reason.RATE_LIMITED: (429, "The provider's rate limit leaves no room within the time this request may wait."),
}
"""Status and words where no attempt was made, or none ended in a failure of its own."""


class Exchange:
    """One client request and everything done to answer it."""

    __slots__ = (
        "_ask",
        "_best",
        "_best_verdict",
        "_chance",
        "_committed",
        "_counted",
        "_doubted",
        "_due",
        "_live",
        "_placement",
        "done",
        "ended_attempts",
        "intact",
        "record",
    )

    def __init__(self, ask: Ask, record: ExchangeRecord, chance: Chance) -> None:
        self._ask = ask
        self.record = record
        self._chance = chance
        self.done = False
        self.intact = True
        """The request's body can be sent again from its beginning; the driver clears it when bytes had to be let go."""
        self.ended_attempts: list[Attempt] = []
        """Attempts that ended since the driver last took them, for `observe`."""
        self._placement = Placement(ask, chance)
        self._live: Attempt | None = None
        self._due: Wait | None = None
        """An attempt decided on and waiting for its time."""
        self._committed = False
        self._counted: set[TargetState | ProviderState] | None = None
        """Who already bears a failure of this exchange: one exchange counts at most one against each (law 11)."""
        self._doubted: Attempt | None = None
        """Was told that the request is wrong, by a target that says so too often: another one is asked for its opinion."""
        self._best: Attempt | None = None
        self._best_verdict = OK
        """The most informative failure so far."""

    # -- events ---------------------------------------------------------------------------------------------------------------

    def start(self, now: float) -> Actions:
        """The request is there: place the first attempt."""
        return self._next(now)

    def sending(self, now: float, attempt: Attempt) -> None:
        """The attempt has a connection and its head is being written."""
        attempt.sent_at = now

    def head(self, now: float, attempt: Attempt, status: int, *, streaming: bool) -> None:
        """A response head came; its body is being held or sniffed."""
        attempt.head_at = attempt.heard_at = now
        attempt.status = status
        attempt.streaming = streaming

    def content(self, now: float, attempt: Attempt) -> Actions:
        """First content of a stream, first byte of an unheld body, or a held body that outgrew its bound: the commit point."""
        attempt.content_at = attempt.heard_at = now
        attempt.alive(now)
        if attempt.proving:
            self._served(attempt)
        return self._commit(now, attempt)

    def finished(self, now: float, attempt: Attempt) -> Actions:
        """The answer is whole and good."""
        actions: Actions = FINISH
        if not self._committed:
            attempt.content_at = now
            actions = (*self._commit(now, attempt), *FINISH)
        self._end_attempt(now, attempt, OK)
        self._served(attempt)
        attempt.place.state.rejections.served += 1
        if attempt.number > 1:
            self.record.saved_by = attempt.kind
            if self._doubted is not None:
                self._doubted.convict(now)
        self._over(now, Ending.OK, Reason.NONE)
        return actions

    def failed(self, now: float, attempt: Attempt, verdict: Verdict) -> Actions:
        """The attempt ended in a fault before anything of it reached the client."""
        fault = _fault(verdict)
        self._end_attempt(now, attempt, verdict)
        self._learn(now, attempt, verdict)
        if self._best is None or (self._doubted is None and RANK[fault] >= RANK[_fault(self._best_verdict)]):
            self._best, self._best_verdict = attempt, verdict
        self._placement.remember(now, attempt.place, verdict, attempt.credential, now - attempt.started_at)
        final = self._final(now, attempt, fault)
        return self._next(now) if final is None else self._give_up(now, Stuck(final))

    def broke(self, now: float, attempt: Attempt, verdict: Verdict) -> Actions:
        """The committed answer broke off, stalled, or ended in an in-band error."""
        self._end_attempt(now, attempt, verdict)
        self._learn(now, attempt, verdict)
        self.record.stream_broken = attempt.streaming
        self._over(now, Ending.FAILED, Reason.STREAM_BROKEN)
        return (Break(verdict.code or Reason.STREAM_BROKEN.value, "The provider's answer broke off before its end."),)

    def client_gone(self, now: float) -> Actions:
        """The client left: nobody's failure."""
        if self.done:
            return NOTHING
        actions = self._cancel_live(now, gave_up=True)
        self._over(now, Ending.CLIENT_GONE, Reason.CLIENT_GONE)
        return (*actions, *FINISH)

    def drain(self, now: float) -> Actions:
        """The gateway is closing and will wait no longer."""
        advice = Advice(retry=True, delay_s=self._chance.uniform(1.0, 3.0))
        refusal = Refuse(503, Reason.DRAINING, "The gateway is shutting down; another instance will answer.", advice)
        return self._abandon(now, Ending.REFUSED, refusal)

    def crash(self, now: float) -> Actions:
        """Something of ours failed: the client must not wait for it, and no provider is to blame."""
        return self._abandon(
            now, Ending.FAILED, Refuse(500, Reason.INTERNAL, "The gateway failed to handle this request.", Advice())
        )

    def timer(self, now: float) -> Actions:
        """`wake_at` has come, or may have: the driver's timer is coarse."""
        if self.done or now < self.wake_at:
            return NOTHING
        if not self._committed and now >= self._ask.deadline_at:
            return (*self._cancel_live(now, gave_up=True), *self._give_up(now, Stuck(Reason.DEADLINE)))
        attempt = self._live
        if attempt is not None:
            return self._cut_short(now, attempt)
        due, self._due = self._due, None
        go = self._placement.ready(due, now) if due is not None else None
        return self._send(now, go) if go is not None else self._next(now)

    # -- the next attempt -----------------------------------------------------------------------------------------------------

    def _next(self, now: float) -> Actions:
        if now >= self._ask.deadline_at:
            return self._give_up(now, Stuck(Reason.DEADLINE))
        if len(self.record.attempts) >= self._ask.policy.attempts:
            return self._give_up(now, Stuck(Reason.ATTEMPTS_EXHAUSTED))
        step = self._placement.next(now)
        if isinstance(step, Go):
            return self._send(now, step)
        if isinstance(step, Wait):
            self._due = step
            return NOTHING
        return self._give_up(now, step)

    def _send(self, now: float, go: Go) -> Actions:
        ask, record, place = self._ask, self.record, go.place
        permits = (place.state.breaker.admit(now), place.provider.breaker.admit(now))
        attempt = Attempt(len(record.attempts) + 1, go.kind, place, go.credential, permits, now)
        credential = self._placement.credential_state(place, go.credential)
        if credential is not None:
            attempt.proving = credential.take(now, place.model)
        if go.kind is Kind.FIRST and not ask.already_retried:
            place.provider.budget.deposit()
        attempt.limit_s = ask.policy.timeouts.first_token_s if ask.stream else ask.policy.timeouts.answer_s
        if attempt.probe and self._placement.alternative(place, now):
            attempt.limit_s = min(attempt.limit_s, PROBE_LIMIT_S if ask.stream else PROBE_ANSWER_S)
        record.attempts.append(attempt)
        self._live = attempt
        return (Send(attempt),)

    # -- what a failure means -------------------------------------------------------------------------------------------------

    def _served(self, attempt: Attempt) -> None:
        """The key was accepted and had room."""
        credential = self._placement.credential_state(attempt.place, attempt.credential)
        if credential is not None:
            credential.served(attempt.model, attempt.started_at)

    def _learn(self, now: float, attempt: Attempt, verdict: Verdict) -> None:
        """Keep the key away from what it was refused for."""
        fault = _fault(verdict)
        if fault is Fault.CALLER and attempt.status not in KEYS_OWN_STATUSES:
            attempt.place.state.rejections.rejected(now, self._ask.client)
        parked = FAULTS[fault].parked
        if parked is Parked.NOT:
            return
        credential = self._placement.credential_state(attempt.place, attempt.credential)
        if credential is None:
            return
        model = None if verdict.scope is Scope.CREDENTIAL else attempt.model
        if parked is Parked.STATED:
            # Not where the request alone is too large for the limit: others are not.
            if verdict.retry_same or verdict.delay is not None:
                credential.park(now, model, verdict.delay, quota_left=verdict.quota_left)
        elif self._ask.family in INFERENCE:
            # Elsewhere a refusal may only mean that this key has no rights there; models may still be served with it.
            refused = fault is Fault.CREDENTIAL
            credential.bench(now, model, refused=refused)
            if refused and model is None and attempt.credential is not None:
                attempt.place.provider.refused(now)

    def _final(self, now: float, attempt: Attempt, fault: Fault) -> Reason | None:
        """Return why no further attempt is allowed after this fault, or None (laws 3 and 10)."""
        if self._doubted is not None:
            if fault is Fault.CALLER:
                self._doubted.place.state.rejections.cleared()
            return Reason.CALLER
        if not FAULTS[fault].elsewhere:
            if any(fault in place.target.only_for for place in self._ask.candidates):
                self._placement.only_for = fault
            elif fault is Fault.CALLER and self._doubtful(now, attempt):
                self._doubted = attempt
            elif not (fault is Fault.CONTENT_POLICY and self._ask.policy.failover_content_policy):
                return Reason.CALLER
        if not self.intact:
            return Reason.NOT_RETRYABLE
        harmless = not attempt.sent_at or self._ask.safe or fault in (Fault.OVERLOADED, Fault.RATE_LIMITED)
        return None if harmless or self._ask.family in INFERENCE else Reason.NOT_RETRYABLE

    def _doubtful(self, now: float, attempt: Attempt) -> bool:
        """Whether another target should be asked if the request is really wrong (law 3)."""
        place = attempt.place
        return (
            place.state.rejections.suspect
            and attempt.status not in KEYS_OWN_STATUSES
            and self._ask.family in INFERENCE
            and self._placement.alternative(place, now)
        )

    def _give_up(self, now: float, stuck: Stuck) -> Actions:
        """Nothing more can be tried: the client gets the most informative failure, or a refusal if nobody was asked."""
        attempt, verdict = self._best, self._best_verdict
        if attempt is None:
            return self._refuse(now, stuck)
        fault = _fault(verdict)
        reason, status, advice = stuck.reason, FAULTS[fault].status, UPSTREAMS_OWN
        if RANK[fault] == CALLERS_RANK:
            reason = Reason.CALLER
            self._over(now, Ending.CALLER_ERROR, reason)
        else:
            advice = self._advice(stuck, verdict)
            self._over(now, Ending.FAILED, reason)
        if attempt.answered and FAULTS[fault].relayed:
            self.record.winner = attempt
            return (Relay(attempt, advice),)
        if reason is Reason.DEADLINE:
            status = 504
        return (Refuse(status, reason, f"No provider could serve this request; what went wrong: {fault.value}.", advice),)

    def _refuse(self, now: float, stuck: Stuck) -> Actions:
        status, message = UNSERVED[stuck.reason]
        failed = stuck.reason is Reason.DEADLINE
        self._over(now, Ending.FAILED if failed else Ending.REFUSED, stuck.reason)
        if stuck.delay_s is None:
            return (Refuse(status, stuck.reason, message, Advice(retry=False)),)
        return (Refuse(status, stuck.reason, message, self._come_back(stuck.delay_s)),)

    def _advice(self, stuck: Stuck, verdict: Verdict) -> Advice:
        if stuck.reason in BLOCKED and stuck.delay_s is not None:
            return self._come_back(stuck.delay_s)
        retry = None if stuck.reason in UNTRIED or self._ask.already_retried else False
        delay_s = verdict.delay if verdict.delay is not None else stuck.delay_s
        if delay_s is not None:
            return Advice(retry=retry, delay_s=min(delay_s, ADVICE_CAP_S))
        return UPSTREAMS_OWN if retry is None else Advice(retry=False)

    def _come_back(self, delay_s: float) -> Advice:
        """Name a time, at least a second from now, and not the same to everyone."""
        delay_s = max(1.0, delay_s)
        return Advice(retry=True, delay_s=min(ADVICE_CAP_S, delay_s + self._chance.uniform(0.0, 0.25 * delay_s)))

    # -- time -----------------------------------------------------------------------------------------------------------------

    @property
    def wake_at(self) -> float:
        """When `timer` wants to be called; reckoned when asked, because most exchanges end before anybody has to."""
        if self.done:
            return NEVER
        wake_at = NEVER if self._committed else self._ask.deadline_at
        if self._due is not None:
            wake_at = min(wake_at, self._due.at)
        attempt = self._live
        if attempt is not None and attempt.sent_at:
            wake_at = min(wake_at, self._overdue_at(attempt))
        return wake_at

    def _overdue_at(self, attempt: Attempt) -> float:
        timeouts = self._ask.policy.timeouts
        if attempt.uploading:
            return max(attempt.heard_at, attempt.sent_at) + timeouts.stall_s
        at = NEVER
        if not attempt.content_at:
            at = attempt.sent_at + attempt.limit_s
        elif attempt.streaming:
            at = attempt.sent_at + timeouts.max_stream_s
        return min(at, attempt.heard_at + timeouts.stall_s) if attempt.heard_at else at

    def _cut_short(self, now: float, attempt: Attempt) -> Actions:
        """The attempt took too long: close it, and treat it as the failure it is."""
        silent_since = max(attempt.heard_at, attempt.sent_at) if attempt.uploading else attempt.heard_at
        stalled = silent_since > 0.0 and now >= silent_since + self._ask.policy.timeouts.stall_s
        fault = Fault.STALLED if stalled else Fault.TIMEOUT
        verdict = Verdict(fault, code=(IOFault.STALLED if stalled else IOFault.TIMEOUT).value, ambiguous=True)
        actions = self.broke(now, attempt, verdict) if self._committed else self.failed(now, attempt, verdict)
        return (Cancel(attempt), *actions)

    # -- ends -----------------------------------------------------------------------------------------------------------------

    def _commit(self, now: float, attempt: Attempt) -> Actions:
        self._committed = True
        self.record.opened_at = now
        self.record.winner = attempt
        return (Open(attempt), Commit(attempt))

    def _end_attempt(self, now: float, attempt: Attempt, verdict: Verdict) -> None:
        self._live = None
        attempt.ended_at = now
        attempt.code = verdict.code
        self.ended_attempts.append(attempt)
        fault = verdict.fault
        if fault is None:
            attempt.verdict = "ok"
            attempt.settle(now, None)
            return
        attempt.verdict = fault.value
        self._stop_proving(attempt)
        attempt.settle(now, self._blamed(attempt, fault, verdict.scope))

    def _stop_proving(self, attempt: Attempt) -> None:
        """A probe of a key ended; what it says about the key, if anything, is learned afterwards."""
        if attempt.proving:
            credential = self._placement.credential_state(attempt.place, attempt.credential)
            if credential is not None:
                credential.let_go(attempt.model, attempt.proving)

    def _blamed(self, attempt: Attempt, fault: Fault, scope: Scope) -> Scope:
        """Return whose failure this is, as far as it may be counted (law 11)."""
        if attempt.uploading and fault is Fault.STALLED:
            # The client's upload stopped, as far as we can see.
            return Scope.NOBODY
        if scope is Scope.TARGET or scope is Scope.PROVIDER:
            bearer = attempt.place.state if scope is Scope.TARGET else attempt.place.provider
            if self._counted is None:
                self._counted = set()
            if bearer in self._counted:
                return Scope.NOBODY
            self._counted.add(bearer)
        return scope

    def _abandon(self, now: float, ending: Ending, refusal: Refuse) -> Actions:
        """End at once, whatever is under way."""
        if self.done:
            return NOTHING
        live = self._live
        actions = self._cancel_live(now)
        if not self._committed:
            self._over(now, ending, refusal.reason)
            return (*actions, refusal)
        self.record.stream_broken = live is not None and live.streaming
        self._over(now, Ending.FAILED, refusal.reason)
        return (*actions, Break(refusal.reason.value, refusal.message))

    def _cancel_live(self, now: float, *, gave_up: bool = False) -> Actions:
        """Let go of whoever is asked. `gave_up`: because the client did, which is nobody's failure unless others did so too."""
        attempt = self._live
        if attempt is None:
            return NOTHING
        self._live = None
        attempt.ended_at = now
        attempt.verdict = "cancelled"
        self._stop_proving(attempt)
        silent = gave_up and attempt.sent_at and not attempt.head_at and not attempt.uploading
        hangs = silent and attempt.place.state.silence.gave_up(
            now,
            self._ask.client,
            sent_at=attempt.sent_at,
            lived_at=attempt.place.state.breaker.lived_at,
            stream=self._ask.stream,
        )
        attempt.settle(now, self._blamed(attempt, Fault.TIMEOUT, Scope.TARGET) if hangs else Scope.NOBODY)
        self.ended_attempts.append(attempt)
        return (Cancel(attempt),)

    def _over(self, now: float, ending: Ending, reason: Reason) -> None:
        self.done = True
        self._due = None
        self.record.ended_at = now
        self.record.ending = ending
        self.record.reason = reason


def _fault(verdict: Verdict) -> Fault:
    if verdict.fault is None:
        raise AssertionError("a good answer is no failure")
    return verdict.fault
