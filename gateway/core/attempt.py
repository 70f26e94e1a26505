"""What an exchange is made of: the request as the machine sees it, the places it may go, the attempts it makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from gateway.core.breaker import Breaker, Permit
from gateway.core.bucket import NEVER
from gateway.core.credentials import CredentialState
from gateway.core.gate import Gate
from gateway.core.hedge import HedgeBudget
from gateway.core.plan import Balance, Family, Policy, Prefill, Priority, Target, Timeouts
from gateway.core.quota import Reservation
from gateway.core.record import AttemptRecord, Kind
from gateway.core.registry import ProviderState, TargetState
from gateway.core.tokens import Prompt
from gateway.core.verdicts import Scope

_STANDARD: Final = Priority.STANDARD
_ORDERED: Final = Balance.ORDERED


class Place:
    """A target resolved for one request's model and family, with its live state. Shared by all exchanges that may go there."""

    __slots__ = ("gate", "model", "model_label", "provider", "state", "target")

    def __init__(
        self, target: Target, model: str, model_label: str, provider: ProviderState, state: TargetState, gate: Gate
    ) -> None:
        self.target = target
        self.model = model
        """The model's name at the provider; empty where the request names none."""
        self.model_label = model_label
        self.provider = provider
        self.state = state
        self.gate = gate
        """Of our own keys; clients that bring theirs have gates of their own."""

    def share(self, now: float) -> float:
        """Return the share of requests that may go here: the target's, its provider's or its throttle's, whichever is least."""
        share = min(self.state.breaker.share(now), self.provider.breaker.share(now))
        throttle = self.gate.throttle
        return min(share, throttle.share(now)) if throttle.watching else share

    def failing(self, now: float) -> float:
        """Return the share of failures lately, the worse of target and provider."""
        return max(self.state.breaker.failing(now), self.provider.breaker.failing(now))

    def isolated_failure(self, now: float) -> bool:
        """Whether the failure just counted stands alone, at target and provider."""
        return self.state.breaker.isolated(now) and self.provider.breaker.isolated(now)

    def worse_breaker(self, now: float) -> Breaker:
        """Return the breaker that holds this place back the most."""
        target, provider = self.state.breaker, self.provider.breaker
        return provider if provider.failing(now) > target.failing(now) else target

    def reopens_in(self, now: float) -> float:
        """Return the seconds until both breakers let a probe pass."""
        return max(self.state.breaker.reopens_in(now), self.provider.breaker.reopens_in(now))


class Attempt(AttemptRecord):
    """One upstream request, with what the machine must remember of it."""

    __slots__ = ("_permits", "answered", "catching_up", "credential", "gate", "key", "limit_s", "place", "prefill", "proving",
                 "reservation", "streaming", "uploading")  # fmt: skip

    def __init__(
        self,
        number: int,
        kind: Kind,
        place: Place,
        credential: str | None,
        permits: tuple[Permit, Permit],
        gate: Gate,
        reservation: Reservation,
        now: float,
    ) -> None:
        super().__init__(number, kind, place.provider.name, place.model, place.model_label, now)
        self.place = place
        self.gate = gate
        self.reservation = reservation
        self.credential = credential
        """Id of our own key to send; None: the client's own, or none."""
        self._permits = permits
        self.key: CredentialState | None = None
        """What is known of the key that is sent; None where a reload took it away."""
        self.proving = 0.0
        """Not 0: it is the probe of a hold on its key, until then."""
        self.prefill = Prefill.NONE
        """How a stream that broke is to be continued by this one."""
        self.catching_up = False
        """It continues one, and nothing of it is new to the client so far. Kept by the driver."""
        self.limit_s = NEVER
        """From send to first content of a stream, or to the end of another answer."""
        self.answered = False
        """The driver holds a whole error answer of this attempt, fit for the client's eyes."""
        self.streaming = False
        """The answer is an event stream."""
        self.uploading = False
        """The request's body is still on its way: silence of the provider is no fault yet. Kept by the driver."""

    @property
    def probe(self) -> bool:
        """Whether this is the one request that tests a half-open breaker."""
        return self._permits[0].probe or self._permits[1].probe

    def overdue_at(self, timeouts: Timeouts) -> float:
        """Return when it has taken too long, for what it has shown so far."""
        if self.uploading:
            return max(self.heard_at, self.sent_at) + timeouts.stall_s
        at = NEVER
        if not self.content_at:
            at = self.sent_at + self.limit_s
        elif self.streaming:
            at = self.sent_at + timeouts.max_stream_s
        return min(at, self.heard_at + timeouts.stall_s) if self.heard_at else at

    def alive(self, now: float) -> None:
        """First content came."""
        for permit in self._permits:
            permit.alive(now)

    def settle(self, now: float, scope: Scope | None) -> None:
        """End the permits: `scope` None is a success, else whose failure it was."""
        target, provider = self._permits
        if scope is None:
            target.success(now)
            provider.success(now)
            return
        for permit, own in ((target, Scope.TARGET), (provider, Scope.PROVIDER)):
            if scope is own:
                permit.dropped(now)
            else:
                permit.ignore()

    def convict(self, now: float) -> None:
        """What seemed the caller's fault was the target's; found out after this attempt's end."""
        self._permits[0].convict(now)


class Ask:
    """What the machine must know about a client's request; set by admission, constant from then on."""

    __slots__ = ("already_retried", "balance", "booking", "candidates", "client", "deadline_at", "family", "foreign_key", "hedges",
                 "may_be_back", "measure", "policy", "priority", "route", "safe", "size", "stream", "weight")  # fmt: skip

    def __init__(
        self,
        *,
        route: str,
        policy: Policy,
        candidates: Sequence[Place],
        family: Family,
        stream: bool,
        safe: bool,
        deadline_at: float,
        foreign_key: str | None = None,
        already_retried: bool = False,
        client: str = "",
        size: int = 0,
        hedges: HedgeBudget | None = None,
        priority: Priority = _STANDARD,
        weight: float = 1.0,
        may_be_back: bool = True,
        balance: Balance = _ORDERED,
        measure: Callable[[], Prompt] | None = None,
        booking: Reservation | None = None,
    ) -> None:
        self.route = route
        self.policy = policy
        self.candidates = candidates
        """Where it may go, in order of preference."""
        self.family = family
        self.stream = stream
        self.safe = safe
        """A method without side effects (RFC 9110 section 9.2.1)."""
        self.deadline_at = deadline_at
        """Until commit: the policy's deadline or the client's patience, whichever ends first."""
        self.foreign_key = foreign_key
        """Hash of the client's own key where that is what goes upstream; None: our keys, or none."""
        self.already_retried = already_retried
        """The client itself is retrying (`x-stainless-retry-count` > 0)."""
        self.size = size
        """Bytes of the request's body, as far as it is there."""
        self.hedges = hedges
        """What the route may spend on hedges; None where this request must not be hedged."""
        self.client = client
        """Who asks, as far as can be told: a name, a key's hash, or an address. Clients that differ in this are unrelated."""
        self.priority = priority
        self.weight = weight
        """The client's share of a busy target."""
        self.may_be_back = may_be_back
        """It may be a request that was told when to come back; False for one whose SDK says that it is new."""
        self.balance = balance
        """How the candidates are to be ordered before the first attempt."""
        self.measure = measure
        """Measures the request for an estimate of its tokens; None where it has none."""
        self.booking = booking
        """What it has taken of the client's own limits, where there are any."""
