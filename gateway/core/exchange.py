"""The state machine of one client request (law 1): events in, actions out, nothing else decides.

    start ──> Send ──> sending ──> head ──> content ──> finished ──> Finish       the happy path
                 ├── failed ──> Send (elsewhere, at once) | wait for `timer` | Relay | Refuse
                 └── slow ──> Send beside it (a hedge); the first content wins, the other is cancelled
    timer, client_gone, drain ──> Cancel, and as after a failure | Break once committed

One driver carries the actions out (`egress.driver`); chunks of bodies never come here. Every event takes `now`, in the loop's
monotonic seconds, and returns the actions to perform, in order. `wake_at` says when `timer` wants to be called next; calling it
early is harmless. Where the next attempt goes is `core.placement`'s half, how it begins `core.launch`'s, whether another joins it
`core.race`'s; what a failure means is `core.lessons`', what the client hears in the end is `core.farewell`'s. Retry, failover,
hedge, breakers, budget and patience share one deadline and one commit point, which is why they are one machine and not a tower of
middlewares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.core.actions import (
    COMFORT,
    FINISH,
    NOTHING,
    Action,
    Actions,
    Advice,
    Break,
    Cancel,
    Commit,
    Open,
    OpenEarly,
    Queue,
    Refuse,
    Send,
)
from gateway.core.attempt import Ask, Attempt
from gateway.core.balance import order
from gateway.core.bucket import NEVER, Cost
from gateway.core.farewell import Farewell
from gateway.core.launch import launch
from gateway.core.lessons import Lessons, fault_of
from gateway.core.limits import Stated
from gateway.core.placement import Chance, Placement
from gateway.core.plan import Balance, Prefill
from gateway.core.quota import Reservation
from gateway.core.race import Race
from gateway.core.record import Ending, ExchangeRecord, Kind
from gateway.core.standing import LOOK_S, Standing
from gateway.core.steps import Go, Queued, Stuck, Wait
from gateway.core.turns import Turn
from gateway.core.verdicts import OK, Fault, IOFault, Scope, Verdict
from gateway.errors import Reason

_HEDGE: Final = Kind.HEDGE
_OK: Final = Ending.OK
_NONE: Final = Reason.NONE
_ORDERED: Final = Balance.ORDERED
"""Python 3.11 is slow to find an enumeration's members."""


class Exchange:
    """One client request and everything done to answer it."""

    __slots__ = (
        "_ask",
        "_chance",
        "_comforted_at",
        "_committed",
        "_due",
        "_early",
        "_farewell",
        "_held",
        "_held_until",
        "_lessons",
        "_live",
        "_placement",
        "_race",
        "_standing",
        "_streams",
        "done",
        "ended_attempts",
        "intact",
        "record",
        "resumable",
    )

    def __init__(self, ask: Ask, record: ExchangeRecord, chance: Chance) -> None:
        self._ask = ask
        self.record = record
        self._chance = chance
        self.done = False
        self.intact = True
        """The request's body can be sent again from its beginning; the driver clears it when bytes had to be let go."""
        self.resumable = False
        """What the client has got of a stream can be continued by another one; kept by the driver, where the policy resumes."""
        self.ended_attempts: list[Attempt] = []
        """Attempts that ended since the driver last took them, for `observe`."""
        self._placement = placement = Placement(ask, chance)
        self._lessons = Lessons(ask, placement)
        self._farewell: Farewell | None = None
        """Made when something fails, which most exchanges never see."""
        self._race = Race(ask, placement, record)
        self._live = self._race.live
        """The attempts under way: the race's own list, which every event looks at."""
        self._due: Wait | None = None
        """An attempt decided on and waiting for its time."""
        self._standing: Standing | None = None
        """It stands in a queue."""
        self._committed = False
        self._streams = False
        """What was committed is an event stream."""
        self._early = False
        """The response head is out though no answer is: what fails from now on is told in the stream."""
        self._held: Attempt | None = None
        """Its content is there, and held back until `_held_until`."""
        self._held_until = NEVER
        self._comforted_at = 0.0
        """When the client last got a comment."""

    @property
    def queued(self) -> bool:
        """Whether it stands in a queue."""
        return self._standing is not None

    @property
    def resumes(self) -> bool:
        """Whether a stream that breaks after its commit is to be continued."""
        return self._ask.policy.stream.resume

    # -- events ---------------------------------------------------------------------------------------------------------------

    def start(self, now: float) -> Actions:
        """The request is there: place the first attempt."""
        if self._ask.balance is not _ORDERED:
            self._ask.candidates = order(
                self._ask.balance, self._ask.candidates, now=now, chance=self._chance, stream=self._ask.stream
            )
        self._race.begin()
        return self._next(now)

    def sending(self, now: float, attempt: Attempt) -> None:
        """The attempt has a connection and its head is being written."""
        attempt.sent_at = now

    def head(self, now: float, attempt: Attempt, status: int, *, streaming: bool) -> None:
        """A response head came; its body is being held or sniffed."""
        attempt.head_at = attempt.heard_at = now
        attempt.status = status
        attempt.streaming = streaming

    def stated(self, now: float, attempt: Attempt, limits: Sequence[Stated]) -> None:
        """The head says something about the limits of the account."""
        attempt.reservation.state(now, limits)

    def room(self, now: float, turn: Turn) -> Actions:
        """There is room at the gate in front of which this exchange waits, and it is its turn; it has left the queue."""
        standing = self._standing
        if standing is None or standing.turn is not turn:
            return NOTHING
        self._standing = None
        standing.over(now)
        go = self._placement.called(turn, now)
        return self._send(now, go) if go is not None else self._next(now)

    def sent_away(self, now: float, turn: Turn, reason: Reason) -> Actions:
        """The queue will not have this exchange (any longer): it is full, or sheds what cannot be answered in time."""
        standing = self._standing
        if standing is None or standing.turn is not turn:
            return NOTHING
        self._standing = None
        standing.sent_away(now, reason)
        return self._next(now)

    def content(self, now: float, attempt: Attempt) -> Actions:
        """First content of a stream, first byte of an unheld body, or a held body that outgrew its bound.

        The commit point, unless the policy holds streams back for a while: then the race is decided, and nothing else.
        """
        if (self._early or self._streams) and not attempt.streaming:
            return self._no_stream(now, attempt)
        attempt.content_at = attempt.heard_at = now
        attempt.alive(now)
        throttle = attempt.gate.throttle
        if throttle.watching:
            throttle.accepted(now, sent_at=attempt.started_at)
        if attempt.proving:
            self._lessons.key_served(attempt)
        if self._committed:
            # It continues another one's stream.
            self.record.winner = attempt
            return (Commit(attempt),)
        losers = self._won(now, attempt)
        hold_s = self._ask.policy.stream.hold_s
        if hold_s and attempt.streaming:
            # What is there is not thrown away because time is up, unless only all of it is any good.
            self._held_until = NEVER if hold_s == NEVER else min(now + hold_s, self._ask.deadline_at)
            self._held = attempt
            return losers
        return (*losers, *self._commit(now, attempt)) if losers else self._commit(now, attempt)

    def overflowed(self, now: float, attempt: Attempt) -> Actions:
        """More was held back than may be: from here on the answer is delivered as it comes."""
        self.record.hold_overflowed = True
        return self._commit(now, attempt)

    def finished(self, now: float, attempt: Attempt) -> Actions:
        """The answer is whole and good."""
        actions: Actions = FINISH
        if (self._early or self._streams) and not attempt.streaming:
            return self._no_stream(now, attempt)
        if not self._committed:
            losers: Actions = NOTHING
            if not attempt.content_at:
                attempt.content_at = now
                if attempt.gate.throttle.watching:
                    attempt.gate.throttle.accepted(now, sent_at=attempt.started_at)
                losers = self._won(now, attempt)
            actions = (*losers, *self._commit(now, attempt), *FINISH)
        self._end_attempt(now, attempt, OK)
        self._lessons.served(now, attempt)
        if attempt.number > 1:
            self.record.saved_by = attempt.kind
        self._over(now, _OK, _NONE)
        return actions

    def failed(self, now: float, attempt: Attempt, verdict: Verdict) -> Actions:
        """The attempt ended in a fault before anything of it reached the client."""
        if self._committed:
            return self.broke(now, attempt, verdict)
        fault = fault_of(verdict)
        if attempt is self._held:
            self._held, self._held_until = None, NEVER
        self._end_attempt(now, attempt, verdict)
        doubted = self._lessons.doubted
        self._lessons.failed(now, attempt, verdict)
        farewell = self._last_words()
        if doubted is None:
            farewell.hear(attempt, verdict)
        self._placement.remember(now, attempt.place, verdict, attempt.credential, now - attempt.started_at)
        self._race.hedge_at = NEVER
        if attempt.kind is _HEDGE and self._live:
            # What a hedge is told is not the last word: it went where the client's request would not have gone.
            return NOTHING
        final = self._lessons.final(now, attempt, fault, intact=self.intact)
        if final is not None:
            return (*self._cancel_live(now), *self._give_up(now, Stuck(final)))
        # Where another one is under way, it may yet be good.
        return NOTHING if self._live else self._next(now)

    def broke(self, now: float, attempt: Attempt, verdict: Verdict) -> Actions:
        """The committed answer broke off, stalled, or ended in an in-band error."""
        attempt.broken = self._streams and attempt.content_at > 0.0
        self._end_attempt(now, attempt, verdict)
        go = self._resume(now, attempt, verdict)
        if go is not None:
            return self._send(now, go)
        self.record.stream_broken = self._streams
        self._over(now, Ending.FAILED, Reason.STREAM_BROKEN)
        # Why nobody could go on with it is not what happened to the client's stream.
        code = verdict.code if attempt.content_at else ""
        return (Break(code or Reason.STREAM_BROKEN.value, "The provider's answer broke off before its end."),)

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
        """`wake_at` has come, or may have: the driver's timer is coarse. One thing at a time; what is left is due at once."""
        if self.done or now < self.wake_at:
            return NOTHING
        if self._held is not None and now >= self._held_until:
            return self._commit(now, self._held)
        if not self._committed and now >= self._ask.deadline_at:
            return (*self._cancel_live(now, gave_up=True), *self._give_up(now, Stuck(Reason.DEADLINE)))
        for attempt in self._live:
            if attempt.sent_at and now >= attempt.overdue_at(self._ask.policy.timeouts):
                return self._cut_short(now, attempt)
        if now >= self._race.hedge_at:
            go = self._race.hedge(now)
            return NOTHING if go is None else self._send(now, go)
        if now >= self._comfort_at():
            return self._comfort(now)
        standing = self._standing
        if standing is not None and now < standing.turn.until:
            return self._look_around(now, standing)
        self._leave_queue(now)
        due, self._due = self._due, None
        step = self._placement.ready(due, now) if due is not None else None
        return self._take(now, step) if step is not None else self._next(now)

    # -- the next attempt -----------------------------------------------------------------------------------------------------

    def _next(self, now: float) -> Actions:
        if now >= self._ask.deadline_at:
            return self._give_up(now, Stuck(Reason.DEADLINE))
        if len(self.record.attempts) >= self._ask.policy.attempts:
            return self._give_up(now, Stuck(Reason.ATTEMPTS_EXHAUSTED))
        doubted = self._lessons.doubted
        opinion = self._placement.untried(doubted.place, now) if doubted is not None else None
        return self._take(now, opinion or self._placement.next(now))

    def _take(self, now: float, step: Go | Wait | Queued | Stuck) -> Actions:
        if isinstance(step, Go):
            return self._send(now, step)
        if isinstance(step, Wait):
            self._due = step
            return NOTHING
        if isinstance(step, Queued):
            several = len(self._ask.candidates) > 1
            self._standing = Standing(now, step.turn, self._placement.room, self.record, looks_around=several)
            return (Queue(step.turn),)
        return self._give_up(now, step)

    def _look_around(self, now: float, standing: Standing) -> Actions:
        """It waits in a queue: see whether another target has come free meanwhile."""
        go = self._placement.elsewhere(standing.turn, now)
        if go is None:
            standing.look_at = now + LOOK_S
            return NOTHING
        self._leave_queue(now)
        return self._send(now, go)

    def _leave_queue(self, now: float) -> None:
        standing, self._standing = self._standing, None
        if standing is not None:
            standing.leave(now)

    def _send(self, now: float, go: Go) -> Actions:
        attempt = launch(now, go, self._ask, self._placement, self.record)
        self._live.append(attempt)
        if self._ask.hedges is not None and not self._committed and self._lessons.doubted is None:
            # A second opinion is one, and not a race of two.
            self._race.plan(now, attempt)
        return (Send(attempt),)

    def _resume(self, now: float, attempt: Attempt, verdict: Verdict) -> Go | None:
        """Return where a stream that broke after its commit goes on, if it may and can."""
        policy = self._ask.policy
        refused = attempt.prefill is not Prefill.NONE and verdict.fault is Fault.CALLER and not attempt.content_at
        if refused:
            # It does not take the beginning of an answer after all: then it is asked from the beginning, now and ever after.
            # Nothing is learned from it about what clients ask for.
            attempt.place.state.prefill_refused = True
        else:
            self._lessons.failed(now, attempt, verdict)
        if not (policy.stream.resume and self.resumable and self.intact) or len(self.record.attempts) >= policy.attempts:
            return None
        if refused:
            return Go(attempt.place, Kind.RESUME, attempt.credential)
        self._placement.remember(now, attempt.place, verdict, attempt.credential, now - attempt.started_at)
        go = self._placement.untried(attempt.place, now)
        return None if go is None else Go(go.place, Kind.RESUME, go.credential)

    # -- time -----------------------------------------------------------------------------------------------------------------

    @property
    def wake_at(self) -> float:
        """When `timer` wants to be called; reckoned when asked, because most exchanges end before anybody has to."""
        if self.done:
            return NEVER
        wake_at = self._race.hedge_at
        if self._ask.stream:
            wake_at = min(wake_at, self._comfort_at())
        if not self._committed:
            wake_at = min(wake_at, self._ask.deadline_at, self._held_until)
        if self._due is not None:
            wake_at = min(wake_at, self._due.at)
        if self._standing is not None:
            wake_at = min(wake_at, self._standing.wake_at)
        for attempt in self._live:
            if attempt.sent_at:
                wake_at = min(wake_at, attempt.overdue_at(self._ask.policy.timeouts))
        return wake_at

    def _cut_short(self, now: float, attempt: Attempt) -> Actions:
        """The attempt took too long: close it, and treat it as the failure it is."""
        silent_since = max(attempt.heard_at, attempt.sent_at) if attempt.uploading else attempt.heard_at
        stalled = silent_since > 0.0 and now >= silent_since + self._ask.policy.timeouts.stall_s
        fault = Fault.STALLED if stalled else Fault.TIMEOUT
        verdict = Verdict(fault, code=(IOFault.STALLED if stalled else IOFault.TIMEOUT).value, ambiguous=True)
        actions = self.broke(now, attempt, verdict) if self._committed else self.failed(now, attempt, verdict)
        return (Cancel(attempt), *actions)

    def _comfort_at(self) -> float:
        """When the client should get a comment, so that nobody between us takes the stream for dead."""
        ask = self._ask
        if not ask.stream:
            return NEVER
        plan = ask.policy.stream
        if not self._committed:
            if not self._early:
                return self.record.received_at + plan.early_keepalive_s
            return self._comforted_at + plan.keepalive_s
        if not self._streams:
            return NEVER
        attempt = self._live[0]
        heard_at = 0.0 if attempt.catching_up else attempt.heard_at
        return max(heard_at, attempt.started_at, self._comforted_at) + plan.keepalive_s

    def _comfort(self, now: float) -> Actions:
        self._comforted_at = now
        if self._committed or self._early:
            return COMFORT
        self._early = True
        self.record.opened_at = now
        return (OpenEarly(), *COMFORT)

    # -- ends -----------------------------------------------------------------------------------------------------------------

    def _commit(self, now: float, attempt: Attempt) -> Actions:
        self._held, self._held_until = None, NEVER
        self._committed = True
        self._streams = attempt.streaming
        if not self._early:
            self.record.opened_at = now
        self.record.winner = attempt
        return (Open(attempt), Commit(attempt))

    def _won(self, now: float, winner: Attempt) -> Actions:
        """The first content decides: let the others go, which is no failure of theirs."""
        losers = self._race.decided(now, winner)
        if not losers:
            return NOTHING
        actions: list[Action] = []
        for attempt in losers:
            actions += self._cancel(now, attempt, Scope.NOBODY)
        return actions

    def _no_stream(self, now: float, attempt: Attempt) -> Actions:
        """What the client was promised is a stream, and this answer is none: good in itself, so nobody's failure."""
        verdict = Verdict(Fault.SERVER_ERROR, code="no_stream", ambiguous=True, retry_same=False, scope=Scope.NOBODY)
        return (Cancel(attempt), *self.failed(now, attempt, verdict))

    def _end_attempt(self, now: float, attempt: Attempt, verdict: Verdict) -> None:
        self._live.remove(attempt)
        attempt.ended_at = now
        attempt.code = verdict.code
        self.ended_attempts.append(attempt)
        self._lessons.settle(now, attempt, verdict)
        fault = verdict.fault
        if fault is None:
            attempt.verdict = "ok"
            attempt.settle(now, None)
            return
        attempt.verdict = fault.value
        self._lessons.stop_proving(attempt)
        attempt.settle(now, self._lessons.blamed(now, attempt, fault, verdict.scope))

    def _give_up(self, now: float, stuck: Stuck) -> Actions:
        """Nothing more can be tried: the client gets the most informative failure, or a refusal if nobody was asked."""
        farewell = self._last_words()
        if not (self._early or farewell.callers):
            # Else nobody would hear of it.
            self._placement.promise(now, stuck)
        last, ending, reason = farewell.give_up(stuck)
        self._over(now, ending, reason)
        if self._early:
            self.record.stream_broken = True
            return (Break(reason.value, farewell.sentence(last)),)
        if not isinstance(last, Refuse):
            self.record.winner = last.attempt
        return (last,)

    def _last_words(self) -> Farewell:
        if self._farewell is None:
            self._farewell = Farewell(self._chance, already_retried=self._ask.already_retried)
        return self._farewell

    def _abandon(self, now: float, ending: Ending, refusal: Refuse) -> Actions:
        """End at once, whatever is under way."""
        if self.done:
            return NOTHING
        actions = self._cancel_live(now)
        if not self._committed and not self._early:
            self._over(now, ending, refusal.reason)
            return (*actions, refusal)
        self.record.stream_broken = self._streams or self._early
        self._over(now, Ending.FAILED, refusal.reason)
        return (*actions, Break(refusal.reason.value, refusal.message))

    def _cancel_live(self, now: float, *, gave_up: bool = False) -> Actions:
        """Let go of whoever is asked. `gave_up`: because the client did, which is nobody's failure unless others did so too."""
        actions: list[Action] = []
        for attempt in tuple(self._live):
            actions += self._cancel(now, attempt, self._lessons.given_up(now, attempt) if gave_up else Scope.NOBODY)
        return actions

    def _cancel(self, now: float, attempt: Attempt, scope: Scope) -> Actions:
        self._live.remove(attempt)
        attempt.ended_at = now
        attempt.verdict = "cancelled"
        self._lessons.let_go(now, attempt)
        self._lessons.stop_proving(attempt)
        attempt.settle(now, scope)
        self.ended_attempts.append(attempt)
        return (Cancel(attempt),)

    def _over(self, now: float, ending: Ending, reason: Reason) -> None:
        self.done = True
        self._due = None
        if self._standing is not None:
            self._leave_queue(now)
        if self._ask.booking is not None:
            self._settle_booking(now, self._ask.booking, ending)
        self.record.ended_at = now
        self.record.ending = ending
        self.record.reason = reason

    def _settle_booking(self, now: float, booking: Reservation, ending: Ending) -> None:
        """What the client was charged for its own limits becomes what it really took."""
        used = self.record.usage
        if ending is _OK:
            booking.served(now, None if used is None else Cost(*used))
        elif self._committed or ending is Ending.CLIENT_GONE:
            booking.kept()
        else:
            booking.refused(now)
