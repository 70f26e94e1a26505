"""Small worlds to tell stories in: events go in, actions come out as words.

`World` is a registry with providers and a clock; `Story` is one exchange in it, with the driver's duties done by hand. What happens
to an attempt happens to the one sent last, unless the event says whose it is (`of="a"`). Chance always answers `chance.share` of what
could be drawn, so that every expected number can be worked out on paper.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.core.actions import (
    Actions,
    Advice,
    Break,
    Cancel,
    Comfort,
    Commit,
    Finish,
    Open,
    OpenEarly,
    Queue,
    Refuse,
    Relay,
    Send,
)
from gateway.core.attempt import Ask, Attempt, Place
from gateway.core.breaker import Breaker
from gateway.core.bucket import NEVER
from gateway.core.exchange import Exchange
from gateway.core.gate import Gate
from gateway.core.hedge import HedgeBudget
from gateway.core.latency import MIN_SAMPLES, History
from gateway.core.plan import (
    BackoffPlan,
    Balance,
    BreakerPlan,
    BudgetPlan,
    Family,
    HedgePlan,
    Learned,
    Policy,
    Prefill,
    Priority,
    ProviderPlan,
    QuotaPlan,
    RatePlan,
    Resource,
    StreamPlan,
    Target,
    Timeouts,
)
from gateway.core.quota import Quota, Reservation
from gateway.core.record import ExchangeRecord
from gateway.core.registry import ProviderState, Registry
from gateway.core.turns import Turn, called, look_at, usable
from gateway.core.verdicts import Fault, Verdict
from gateway.errors import Reason

NOW = 1000.0
MODEL = "gpt-4o"


class Chance:
    """Draws `share` of whatever range it is asked for: 0 is the luckiest, 1 the longest wait."""

    def __init__(self, share: float = 0.0) -> None:
        self.share = share

    def random(self) -> float:
        return self.share

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) * self.share


def provider(
    name: str = "a",
    *,
    keys: Iterable[str] = ("key-1",),
    breaker: BreakerPlan | None = None,
    budget: BudgetPlan | None = None,
    queue_wait: float = 10.0,
    queue_depth: int = 1000,
    quota: QuotaPlan | None = None,
    domain: str = "",
    dialect: str = "openai",
) -> ProviderPlan:
    return ProviderPlan(
        name,
        domain or name,
        tuple(keys),
        breaker=breaker or BreakerPlan(),
        budget=budget or BudgetPlan(),
        queue_wait_s=queue_wait,
        queue_depth=queue_depth,
        quota=quota or QuotaPlan(),
        dialect=dialect,
    )


def limits(
    requests: float | None = None,
    *,
    per: float = 1.0,
    burst: float = 1.0,
    tokens: float | None = None,
    token_burst: float = 1.0,
    concurrent: int | None = None,
) -> QuotaPlan:
    """So many requests and tokens `per` so many seconds."""
    rates = []
    if requests is not None:
        rates.append(RatePlan(Resource.REQUESTS, requests, per, burst))
    if tokens is not None:
        rates.append(RatePlan(Resource.TOKENS, tokens, per, token_burst))
    return QuotaPlan(tuple(rates), concurrent)


class Prompt:
    """A request whose tokens are known: no text is guessed at."""

    def __init__(self, tokens: float, answer: int = 0) -> None:
        self.text_bytes = 0
        self.media_tokens = tokens
        self.max_output = answer


def policy(
    *,
    attempts: int = 4,
    first_token: float = 120.0,
    stall: float = 120.0,
    answer: float = 600.0,
    max_stream: float = 3600.0,
    rate_limit_wait: float = 3.0,
    failover_content_policy: bool = False,
    backoff: BackoffPlan | None = None,
    hedge: HedgePlan | None = None,
    learned_first_token: Learned | None = None,
    learned_answer: Learned | None = None,
    hold: float = 0.0,
    keepalive: float = NEVER,
    early_keepalive: float = NEVER,
    resume: bool = False,
) -> Policy:
    return Policy(
        attempts=attempts,
        timeouts=Timeouts(first_token, stall, answer, max_stream, learned_first_token, learned_answer),
        backoff=backoff or BackoffPlan(),
        hedge=hedge,
        stream=StreamPlan(hold, resume, keepalive, early_keepalive),
        rate_limit_wait_s=rate_limit_wait,
        failover_content_policy=failover_content_policy,
    )


class World:
    """Providers with live state, and a clock.

    A target is written `a`, or `a/model`, or `a/model?fault` (tried only for it); with a `!` at its end it is marked for hedges.
    """

    def __init__(
        self,
        *targets: str,
        keys: Iterable[str] = ("key-1",),
        breaker: BreakerPlan | None = None,
        queue_wait: float = 10.0,
        queue_depth: int = 1000,
        quotas: Mapping[str, QuotaPlan] | None = None,
        weights: Mapping[str, float] | None = None,
        domains: Mapping[str, str] | None = None,
        dialects: Mapping[str, str] | None = None,
        prefills: Mapping[str, Prefill] | None = None,
    ) -> None:
        self.now = NOW
        self.chance = Chance()
        self.moves: list[str] = []
        self.registry = Registry(self.chance.uniform, self._moved)
        names = [target.rstrip("!").partition("/")[0].partition("?")[0] for target in targets]
        domains, dialects, self.prefills = domains or {}, dialects or {}, prefills or {}
        quotas, self.weights = quotas or {}, weights or {}
        self.queued: dict[object, Story] = {}
        """Who waits in front of gates, by turn."""
        self.plans = {
            name: provider(
                name,
                keys=keys,
                breaker=breaker,
                queue_wait=queue_wait,
                queue_depth=queue_depth,
                quota=quotas.get(name),
                domain=domains.get(name, name),
                dialect=dialects.get(name, "openai"),
            )
            for name in names
        }
        self.registry.adopt(self.plans.values(), self.now)
        self.targets = targets

    def places(self, family: Family = Family.CHAT) -> tuple[Place, ...]:
        return tuple(self._place(target, family) for target in self.targets)

    def place(self, name: str) -> Place:
        return self.places()[self.targets.index(name)]

    def breaker(self, name: str) -> Breaker:
        return self.place(name).state.breaker

    def budget(self, name: str = "a") -> float:
        return self.registry.providers[name].budget.balance(self.now)

    def spend(self, name: str = "a", leave: float = 0.0) -> None:
        """Leave this much in a provider's retry budget."""
        assert self.registry.providers[name].budget.withdraw(self.now, self.budget(name) - leave)

    def key(self, name: str = "a", key: str = "key-1"):
        return self.registry.providers[name].credentials[key]

    def usable_in(self, name: str = "a", key: str = "key-1", model: str = MODEL) -> float:
        """Seconds until a key may be used for a model, as far as can be told."""
        return round(max(0.0, self.key(name, key).usable_at(self.now, model) - self.now), 6)

    def state(self, name: str = "a") -> ProviderState:
        return self.registry.providers[name]

    def gate(self, name: str = "a", foreign: str = "") -> Gate:
        return self.state(name).gate(MODEL, foreign)

    def quota(self, name: str = "a", key: str | None = "key-1") -> Quota:
        return self.gate(name).quota(self.now, key)

    def drains(self, name: str = "a", *, until: float, key: str | None = "key-1") -> None:
        """Have others use up a provider's limits, so that the next request has room after so many seconds."""
        for bucket in self.quota(name, key).buckets:
            bucket.correct(self.now, min(1.0, bucket.burst) - until * bucket.per_s)

    def failures(self, name: str) -> int:
        """Failures counted against a target lately."""
        return self.breaker(name)._window.totals(self.now)[1]

    @property
    def hedges(self) -> HedgeBudget:
        """What the route may spend on hedges."""
        return self.registry.hedges("chat")

    def history(self, name: str = "a", *, size: int = 0, stream: bool = True) -> History:
        return self.place(name).state.latency.of(size, stream=stream)

    def knows(self, name: str, *seconds: float, times: int = 5 * MIN_SAMPLES, size: int = 0, stream: bool = True) -> None:
        """Have a target show its first content after each of these times to so many others."""
        for _ in range(times):
            for each in seconds:
                self.history(name, size=size, stream=stream).add(self.now, each)

    def exchange(self, **settings) -> Story:
        return Story(self, **settings)

    def serves(self, name: str = "a", *, times: int = 1) -> None:
        """Have a target serve somebody else, so that it counts as well."""
        for _ in range(times):
            for breaker in (self.breaker(name), self.place(name).provider.breaker):
                breaker.admit(self.now).success(self.now)

    def _place(self, text: str, family: Family) -> Place:
        where, _, faults = text.rstrip("!").partition("?")
        name, _, model = where.partition("/")
        only_for = frozenset(Fault(fault) for fault in faults.split(",") if fault)
        prefill = self.prefills.get(name, Prefill.NONE)
        target = Target(
            self.plans[name],
            model or None,
            only_for=only_for,
            hedge=text.endswith("!"),
            prefill=prefill,
            weight=self.weights.get(name, 1.0),
        )
        model = model or MODEL
        state = self.registry.target(target.provider, model, model, family)
        provider = self.registry.providers[name]
        return Place(target, model, model, provider, state, provider.gate(model))

    def _moved(self, name: str, model: str, _family: str, state) -> None:
        self.moves.append(f"{name}/{model}: {state}" if model else f"{name}: {state}")


class Story:
    """One exchange, told: each event returns the actions it caused, as words such as `first a`, `cancel a`, `relay a`."""

    def __init__(
        self,
        world: World,
        *,
        policy: Policy | None = None,
        family: Family = Family.CHAT,
        stream: bool = False,
        safe: bool = False,
        patience: float = 600.0,
        foreign_key: str | None = None,
        already_retried: bool = False,
        client: str = "one",
        size: int = 0,
        hedged: bool = True,
        priority: Priority = Priority.STANDARD,
        weight: float = 1.0,
        may_be_back: bool = True,
        balance: Balance = Balance.ORDERED,
        prompt: Prompt | None = None,
        booking: Reservation | None = None,
    ) -> None:
        self.world = world
        self.record = ExchangeRecord("req-1", world.now)
        policy = policy or Policy()
        ask = Ask(
            route="chat",
            policy=policy,
            candidates=world.places(family),
            family=family,
            stream=stream,
            safe=safe,
            deadline_at=world.now + patience,
            foreign_key=foreign_key,
            already_retried=already_retried,
            client=client,
            size=size,
            hedges=world.hedges if hedged and policy.hedge is not None else None,
            priority=priority,
            weight=weight,
            may_be_back=may_be_back,
            balance=balance,
            measure=None if prompt is None else lambda: prompt,
            booking=booking,
        )
        self.machine = Exchange(ask, self.record, world.chance)
        self.advice: Advice | None = None
        self.message = ""
        self.turn: Turn | None = None
        self.evicted: Story | None = None
        """Who had to go from the queue for this one; itself where it was not let in."""
        self.told_meanwhile: list[list[str]] = []
        """What happened to it while another one's time was told."""

    # -- events ---------------------------------------------------------------------------------------------------------------

    def start(self) -> list[str]:
        return self.told(self.machine.start(self.world.now))

    def sent(self, after: float = 0.0, *, of: str = "") -> Story:
        self.world.now += after
        self.machine.sending(self.world.now, self.attempt_of(of))
        return self

    def head(self, status: int = 200, *, streaming: bool = False, after: float = 0.0, of: str = "") -> Story:
        self.world.now += after
        self.machine.head(self.world.now, self.attempt_of(of), status, streaming=streaming)
        return self

    def content(self, after: float = 0.0, *, of: str = "") -> list[str]:
        self.world.now += after
        return self.told(self.machine.content(self.world.now, self.attempt_of(of)))

    def begins(self, after: float = 0.0, *, of: str = "", streaming: bool = True) -> list[str]:
        """The answer's head and its first content come together."""
        return self.head(streaming=streaming, after=after, of=of).content(of=of)

    def overflowed(self, after: float = 0.0, *, of: str = "") -> list[str]:
        self.world.now += after
        return self.told(self.machine.overflowed(self.world.now, self.attempt_of(of)))

    def heard(self, after: float = 0.0, *, of: str = "") -> None:
        """A chunk came: the driver notes it, the machine is not told."""
        self.world.now += after
        self.attempt_of(of).heard_at = self.world.now

    def finished(self, after: float = 0.0, *, of: str = "") -> list[str]:
        self.world.now += after
        return self.told(self.machine.finished(self.world.now, self.attempt_of(of)))

    def fails(
        self,
        fault: str,
        *,
        after: float = 0.0,
        sent: bool = True,
        answered: bool | None = None,
        status: int = 0,
        of: str = "",
        **verdict,
    ) -> list[str]:
        """The attempt fails before its commit; faults that come with an answer are whole answers unless told otherwise."""
        self.world.now += after
        attempt = self.attempt_of(of)
        if sent and not attempt.sent_at:
            self.machine.sending(self.world.now, attempt)
        if status:
            self.head(status, of=of)
        attempt.answered = fault not in {"connect", "timeout", "stream_broken"} if answered is None else answered
        return self.told(self.machine.failed(self.world.now, attempt, Verdict(Fault(fault), **verdict)))

    def broke(self, fault: str = "stream_broken", *, after: float = 0.0, **verdict) -> list[str]:
        self.world.now += after
        return self.told(self.machine.broke(self.world.now, self.attempt, Verdict(Fault(fault), **verdict)))

    def gone(self) -> list[str]:
        return self.told(self.machine.client_gone(self.world.now))

    def drain(self) -> list[str]:
        return self.told(self.machine.drain(self.world.now))

    def crash(self) -> list[str]:
        return self.told(self.machine.crash(self.world.now))

    def timer(self, after: float = 0.0) -> list[str]:
        self.world.now += after
        return self.told(self.machine.timer(self.world.now))

    def join(self, turn: Turn) -> None:
        """Stand in the queue, as the driver sees to it; whoever had to go for it is told by hand (`sent_away`)."""
        self.turn = turn
        self.world.queued[turn] = self
        gone = turn.gate.queue.join(self.world.now, turn)
        self.evicted = None if gone is None else self.world.queued.pop(gone)

    def room(self, after: float = 0.0) -> list[str]:
        """The gate calls it, though there may be no room any longer."""
        self.world.now += after
        self.turn.gate.queue.leave(self.turn)
        return self.told(self.machine.room(self.world.now, self.turn))

    def sent_away(self, reason: Reason = Reason.QUEUE_FULL, after: float = 0.0) -> list[str]:
        self.world.now += after
        self.turn.gate.queue.leave(self.turn)
        return self.told(self.machine.sent_away(self.world.now, self.turn, reason))

    def wakes(self) -> list[str]:
        """Let time pass until something happens to it: the machine wants to be woken, or the queue calls it.

        Others that are called before it have their turn; what they do is in their `told_meanwhile`.
        """
        while not self.told_meanwhile:
            if not self.queued:
                assert self.machine.wake_at != NEVER, "nothing would ever happen"
                self.world.now = max(self.world.now, self.machine.wake_at)
                return self.timer()
            gate, now = self.turn.gate, self.world.now
            turn = called(gate, now)
            if turn is not None:
                story = self.world.queued.pop(turn)
                story.told_meanwhile.append(story.told(story.machine.room(now, turn)))
            elif now >= self.machine.wake_at:
                told = self.timer()
                if told or not self.queued:
                    return told
            else:
                self.world.now = max(now, min(look_at(gate, now), self.machine.wake_at))
        return self.told_meanwhile.pop(0)

    @property
    def queued(self) -> bool:
        """Whether it stands in a queue, and is not out of it for another reason."""
        return self.turn is not None and self.machine.queued

    def answers(self, after: float = 0.0, *, of: str = "") -> list[str]:
        """The attempt goes well from here."""
        if not self.attempt_of(of).sent_at:
            self.sent(of=of)
        self.head(of=of)
        return self.finished(after, of=of)

    # -- what can be seen -----------------------------------------------------------------------------------------------------

    @property
    def attempt(self) -> Attempt:
        attempt = self.machine.record.attempts[-1]
        assert isinstance(attempt, Attempt)
        return attempt

    def attempt_of(self, name: str) -> Attempt:
        """The last attempt at this target; without a name the last of all."""
        if not name:
            return self.attempt
        (*_, attempt) = (each for each in self.record.attempts if _name(each) == name)
        return attempt

    @property
    def under_way(self) -> list[str]:
        return [_name(attempt) for attempt in self.record.attempts if not attempt.ended_at]

    @property
    def waits(self) -> float:
        """Seconds until the machine wants to be woken, or until the gate that it waits at has room."""
        at = self.machine.wake_at
        if self.queued:
            turn = self.turn
            at = usable(turn.place, turn.gate, turn.foreign, self.world.now, turn)[1]
        return round(at - self.world.now, 6)

    @property
    def end(self) -> str:
        return f"{self.record.ending}: {self.record.reason}"

    @property
    def trail(self) -> list[str]:
        return [f"{attempt.provider}:{attempt.verdict}" for attempt in self.record.attempts]

    def told(self, actions: Actions) -> list[str]:
        words = []
        for action in actions:
            match action:
                case Queue(turn=turn):
                    words.append(f"queue {turn.place.provider.name}")
                    self.join(turn)
                case Send(attempt=attempt):
                    words.append(f"{attempt.kind} {_name(attempt)}")
                case Cancel(attempt=attempt):
                    words.append(f"cancel {_name(attempt)}")
                case Open(attempt=attempt):
                    words.append(f"open {_name(attempt)}")
                case OpenEarly():
                    words.append("open early")
                case Comfort():
                    words.append("comfort")
                case Commit(attempt=attempt):
                    words.append(f"commit {_name(attempt)}")
                case Relay(attempt=attempt, advice=advice):
                    words.append(f"relay {_name(attempt)}")
                    self.advice = advice
                case Refuse(status=status, reason=reason, advice=advice):
                    words.append(f"refuse {status} {reason}")
                    self.advice, self.message = advice, action.message
                case Break(code=code):
                    self.message = action.message
                    words.append(f"break {code}")
                case Finish():
                    words.append("finish")
        return words

    def advised(self) -> tuple[bool | None, float | None]:
        """(`x-should-retry`, delay in seconds) of the final answer."""
        assert self.advice is not None
        delay_s = self.advice.delay_s
        return self.advice.retry, None if delay_s is None else round(delay_s, 6)


def _name(attempt: Attempt) -> str:
    return attempt.provider if attempt.model == MODEL else f"{attempt.provider}/{attempt.model}"


def shut(breaker: Breaker, now: float, *, good: int = 20) -> None:
    """Open a breaker by failures in a row. Of the results since then, five are failures and `good` are not: 0 makes it hopeless."""
    under_way = [breaker.admit(now - 2.0) for _ in range(5 + good)]
    breaker.admit(now - 2.0).success(now - 2.0)  # so that the row begins here
    for at in (now - 1.5, now - 1.2, now - 1.0, now - 0.5, now):
        breaker.admit(at).dropped(at)
    for permit in under_way[:good]:
        permit.success(now)
    for permit in under_way[good:]:
        permit.dropped(now)


def fail(breaker: Breaker, *times: float) -> None:
    """Have an attempt fail at each of these times."""
    for at in times:
        breaker.admit(at).dropped(at)


def serve(breaker: Breaker, *times: float) -> None:
    """Have an attempt succeed at each of these times."""
    for at in times:
        breaker.admit(at).success(at)
