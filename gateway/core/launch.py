"""How an attempt begins: who lets it pass, what is set aside for it, and how long it may be silent."""

from __future__ import annotations

from typing import Final

from gateway.core.attempt import Ask, Attempt
from gateway.core.bucket import FREE
from gateway.core.placement import Placement
from gateway.core.plan import Learned
from gateway.core.record import ExchangeRecord, Kind
from gateway.core.steps import Go

PROBE_LIMIT_S: Final = 10.0
"""A half-open breaker's probe has no longer to begin its stream where another target could have served."""
PROBE_ANSWER_S: Final = 60.0
"""And no longer than this for a whole answer without a stream, which healthy providers may take longer for."""

_FIRST: Final = Kind.FIRST
_RESUME: Final = Kind.RESUME
"""Python 3.11 is slow to find an enumeration's members."""


def launch(now: float, go: Go, ask: Ask, placement: Placement, record: ExchangeRecord) -> Attempt:
    """Return the attempt that was decided on, counted wherever what is under way is counted."""
    place = go.place
    spilled = placement.spilled
    if spilled is not None:
        record.spills = [*(record.spills or ()), (spilled.provider.name, spilled.model_label)]
        placement.spilled = None
    # One that goes against an open breaker earns no repetition: in a total outage they would pay for each other.
    if go.kind is _FIRST and go.admitted and not ask.already_retried:
        place.provider.budget.deposit()
    permits = (place.state.breaker.admit(now), place.provider.breaker.admit(now))
    gate = place.gate if ask.foreign_key is None else placement.room.gate(place)
    quota = gate.quotas.get(go.credential) or gate.quota(now, go.credential)
    cost = placement.room.cost_at(gate) if quota.counts_tokens else FREE
    reservation = quota.reserve(now, cost)
    attempt = Attempt(len(record.attempts) + 1, go.kind, place, go.credential, permits, gate, reservation, now)
    attempt.estimate = cost.guess
    gate.pending += 1
    if gate.throttle.watching:
        gate.throttle.sent(now)
    place.state.pending += 1
    attempt.key = placement.room.credential_state(place, go.credential)
    if attempt.key is not None and attempt.key.held:
        attempt.proving = attempt.key.take(now, place.model)
    timeouts = ask.policy.timeouts
    learned = timeouts.learned_first_token if ask.stream else timeouts.learned_answer
    attempt.limit_s = timeouts.first_token_s if ask.stream else timeouts.answer_s
    if learned is not None:
        attempt.limit_s = _learned_limit(now, attempt, ask, learned)
    if attempt.probe and placement.untried(place, now) is not None:
        attempt.limit_s = min(attempt.limit_s, PROBE_LIMIT_S if ask.stream else PROBE_ANSWER_S)
    if go.kind is _RESUME and not place.state.prefill_refused:
        attempt.prefill = place.target.prefill
    record.attempts.append(attempt)
    return attempt


def _learned_limit(now: float, attempt: Attempt, ask: Ask, learned: Learned) -> float:
    history = attempt.place.state.latency.of(ask.size, stream=ask.stream)
    usual_s = history.quantile(now, learned.quantile)
    return attempt.limit_s if usual_s is None else max(learned.floor_s, usual_s * learned.factor)
