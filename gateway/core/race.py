"""Who is under way for one exchange, and whether another joins: the hedge's half of the machine.

A second attempt is sent beside one that shows no content for longer than is usual (`core.hedge`); the first content wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.core.attempt import Ask, Attempt
from gateway.core.bucket import NEVER
from gateway.core.hedge import hedge_delay
from gateway.core.placement import Placement
from gateway.core.plan import Balance
from gateway.core.record import ExchangeRecord
from gateway.core.steps import Go

_FASTEST: Final = Balance.FASTEST
NOBODY: Final[tuple[Attempt, ...]] = ()


class Race:
    """The attempts of one exchange that are under way."""

    __slots__ = ("_ask", "_hedges", "_placement", "_record", "hedge_at", "live")

    def __init__(self, ask: Ask, placement: Placement, record: ExchangeRecord) -> None:
        self._ask = ask
        self._placement = placement
        self._record = record
        self._hedges = 0
        self.live: list[Attempt] = []
        """In the order of their sending; more than one only while a hedge runs, and none besides the one committed."""
        self.hedge_at = NEVER
        """When the one under way has been silent for so long that another is worth its price."""

    def begin(self) -> None:
        """A request has come: its share of the budget is there for all."""
        ask = self._ask
        if ask.hedges is not None and ask.policy.hedge is not None:
            ask.hedges.deposit(ask.policy.hedge.budget)

    def plan(self, now: float, attempt: Attempt) -> None:
        """Settle when to send another beside this attempt."""
        plan = self._ask.policy.hedge
        if plan is None or self._hedges >= plan.max:
            self.hedge_at = NEVER
            return
        delay_s = hedge_delay(plan, attempt.place.state.latency.of(self._ask.size, stream=self._ask.stream), now)
        self.hedge_at = NEVER if delay_s is None else now + delay_s

    def hedge(self, now: float) -> Go | None:
        """Return the way to a second target beside the one that is slow, if there is one and the budgets allow it."""
        self.hedge_at = NEVER
        ask = self._ask
        if ask.hedges is None or len(self._record.attempts) >= ask.policy.attempts:
            return None
        go = self._placement.hedge(now, [attempt.place for attempt in self.live])
        if go is None:
            self._record.hedge_skipped = "no_target"
            return None
        # The slow one's budget pays: the other one's earns nothing as long as it is nobody's first choice.
        if ask.hedges.balance < 1.0 or not self.live[0].place.provider.budget.withdraw(now, 1.0) or not ask.hedges.withdraw():
            self._record.hedge_skipped = "no_budget"
            return None
        self._hedges += 1
        return go

    def decided(self, now: float, winner: Attempt) -> Sequence[Attempt]:
        """The first content has come: learn how long all took, and return those who lost."""
        ask = self._ask
        if ask.policy.measures:
            # From one that was overtaken it is known that it takes longer than this: leaving it out would make it look fast.
            for attempt in self.live:
                if attempt.sent_at:
                    attempt.place.state.latency.of(ask.size, stream=ask.stream).add(now, now - attempt.sent_at)
        if ask.balance is _FASTEST:
            winner.place.state.pace[ask.stream].add(now, now - winner.sent_at)
        self.hedge_at = NEVER
        return NOBODY if len(self.live) == 1 else [attempt for attempt in self.live if attempt is not winner]
