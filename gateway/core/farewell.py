"""The last word where nothing more can be tried: which failure the client hears of, and what it is told about coming back.

Separate from the machine that gets there, because these are the rules that clients see: the most informative failure wins, what is
the caller's own is never touched, and an advice is only given where it is honest (the table of retry advice).
"""

from __future__ import annotations

from typing import Final

from gateway.core.actions import UPSTREAMS_OWN, Advice, Refuse, Relay
from gateway.core.attempt import Attempt
from gateway.core.lessons import fault_of
from gateway.core.placement import Chance
from gateway.core.record import Ending
from gateway.core.steps import Stuck
from gateway.core.verdicts import FAULTS, OK, Fault, Verdict
from gateway.errors import Reason

ADVICE_CAP_S: Final = 60.0
"""Longer delays are treated differently by every SDK: never advise more."""

RANK: Final[dict[Fault, int]] = {
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

CALLERS_RANK: Final = 6
"""These are the caller's own: relayed untouched, whatever else was tried."""

BLOCKED: Final = frozenset({Reason.RATE_LIMITED, Reason.QUEUE_FULL, Reason.SHED, Reason.THROTTLED, Reason.BREAKERS_OPEN})
"""What time will change: the client is told when to come back. Not a benched key: when it is tried again is known, but not that it
will be good then, and no SDK waits for a wallet to be filled."""

UNTRIED: Final = frozenset({Reason.RETRY_BUDGET, Reason.NOT_RETRYABLE})
"""We did not try on the client's behalf what its own SDK may: its retries must not be forbidden (law 8)."""

UNSERVED: Final[dict[Reason, tuple[int, str]]] = {
    Reason.DEADLINE: (504, "No provider answered within the time this request may take."),
    Reason.NO_TARGET: (503, "No target of this route can serve this request."),
    Reason.BREAKERS_OPEN: (503, "Every provider that could serve this request is failing."),
    Reason.CREDENTIALS_BENCHED: (503, "Every key of the provider was refused or is out of credit."),
    Reason.RATE_LIMITED: (429, "The rate limit leaves no room within the time this request may wait."),
    Reason.QUEUE_FULL: (429, "Too many requests already wait for the rate limit."),
    Reason.SHED: (429, "Requests wait too long for the rate limit; this one was let go for the others."),
    Reason.THROTTLED: (503, "The provider refuses nearly every request; only a few are sent to it for now."),
}
"""Status and words where no attempt was made, or none ended in a failure of its own."""


class Farewell:
    """What one exchange will say when it gives up."""

    __slots__ = ("_already_retried", "_chance", "attempt", "verdict")

    def __init__(self, chance: Chance, *, already_retried: bool) -> None:
        self._chance = chance
        self._already_retried = already_retried
        self.attempt: Attempt | None = None
        self.verdict = OK
        """The most informative failure so far."""

    def hear(self, attempt: Attempt, verdict: Verdict) -> None:
        """Remember a failure if it tells the client more than those before."""
        if self.attempt is None or RANK[fault_of(verdict)] >= RANK[fault_of(self.verdict)]:
            self.attempt, self.verdict = attempt, verdict

    @property
    def callers(self) -> bool:
        """Whether the most informative failure is the caller's own."""
        return self.attempt is not None and RANK[fault_of(self.verdict)] == CALLERS_RANK

    def give_up(self, stuck: Stuck) -> tuple[Relay | Refuse, Ending, Reason]:
        """Return the last word, how the exchange ended, and why."""
        attempt, verdict = self.attempt, self.verdict
        if attempt is None:
            return self._refusal(stuck), Ending.FAILED if stuck.reason is Reason.DEADLINE else Ending.REFUSED, stuck.reason
        fault = fault_of(verdict)
        reason, status, advice, ending = stuck.reason, FAULTS[fault].status, UPSTREAMS_OWN, Ending.FAILED
        if self.callers:
            reason, ending = Reason.CALLER, Ending.CALLER_ERROR
        else:
            advice = self._advice(stuck, verdict)
        if attempt.answered and FAULTS[fault].relayed:
            return Relay(attempt, advice), ending, reason
        if reason is Reason.DEADLINE:
            status = 504
        message = f"No provider could serve this request; what went wrong: {fault.value}."
        return Refuse(status, reason, message, advice), ending, reason

    def sentence(self, last: Relay | Refuse) -> str:
        """Return the last word for a stream whose head is out, where no answer can be relayed whole."""
        if isinstance(last, Refuse):
            return last.message
        return self.verdict.message or f"No provider could serve this request; what went wrong: {fault_of(self.verdict).value}."

    def _refusal(self, stuck: Stuck) -> Refuse:
        status, message = UNSERVED[stuck.reason]
        if stuck.turn is not None:
            message = f"{stuck.turn.place.provider.name}: {message}"
        advice = self._blocked(stuck) if stuck.reason in BLOCKED else Advice(retry=False)
        return Refuse(status, stuck.reason, message, advice)

    def _advice(self, stuck: Stuck, verdict: Verdict) -> Advice:
        if stuck.reason in BLOCKED:
            return self._blocked(stuck)
        retry = None if stuck.reason in UNTRIED or self._already_retried else False
        delay_s = verdict.delay if verdict.delay is not None else stuck.delay_s
        if delay_s is not None:
            return Advice(retry=retry, delay_s=min(delay_s, ADVICE_CAP_S))
        return UPSTREAMS_OWN if retry is None else Advice(retry=False)

    def _blocked(self, stuck: Stuck) -> Advice:
        """Say when to come back; where nothing can be promised nothing is said, as without us."""
        return Advice() if stuck.delay_s is None else self._come_back(stuck.delay_s, booked=stuck.booked)

    def _come_back(self, delay_s: float, *, booked: bool) -> Advice:
        """Name a time, at least a second from now, and not the same to everyone: where it is booked, it is not."""
        delay_s = max(1.0, delay_s)
        if booked:
            return Advice(retry=True, delay_s=min(ADVICE_CAP_S, delay_s))
        return Advice(retry=True, delay_s=min(ADVICE_CAP_S, delay_s + self._chance.uniform(0.0, 0.25 * delay_s)))
