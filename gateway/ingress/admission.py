"""Admission: from a request's head to its exchange.

The stages, in order, and why there:

    loop check       first, because a loop would repeat every later cost
    client           before anything is read, so that a stranger costs nothing
    body             inference paths name their model in it, so it is awaited; other bodies stream from the start
    route            needs client and model
    candidates       what law 12 leaves of the route's targets for this caller's credential
    exchange         takes over; from here on bytes only pass through

One `Intake` per request; whatever stage refuses, the client gets a JSON error in its dialect and the record is written.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Final

from gateway.config.snapshot import Client, Snapshot
from gateway.core.accounts import Account
from gateway.core.actions import Advice
from gateway.core.attempt import Ask, Place
from gateway.core.bucket import FREE
from gateway.core.exchange import Exchange
from gateway.core.message import RequestHead
from gateway.core.placement import Chance
from gateway.core.plan import INFERENCE, Family, Policy
from gateway.core.quota import Reservation
from gateway.core.record import Ending, ExchangeRecord
from gateway.core.registry import Registry
from gateway.core.routing import Choice, Router
from gateway.dialects.base import Inbound
from gateway.dialects.body import BodyFacts, read_json, read_json_prefix
from gateway.dialects.client_limits import limit_lines
from gateway.dialects.errors import refusal_body
from gateway.dialects.forms import read_multipart
from gateway.dialects.inbound import body_model_kind, key_in, read_target, without_keys
from gateway.dialects.prompt import Prompt, measure
from gateway.egress.body import RequestBody
from gateway.egress.driver import Driver
from gateway.egress.heads import advice_lines, gateway_lines
from gateway.egress.request import Request
from gateway.egress.sink import Sink
from gateway.egress.surroundings import Surroundings
from gateway.errors import Reason, Refused
from gateway.ingress.callers import Callers, client_key, patience, priority_of

SAFE: Final = frozenset({b"GET", b"HEAD", b"OPTIONS"})
"""RFC 9110 section 9.2.1."""
LONGEST_MODEL: Final = 256
LONGEST_ID: Final = 128
LONGEST_TIMEOUT: Final = 32
"""What a client sends beyond this as its SDK's timeout is none, and is not remembered."""
FORGIVEN_S: Final = 60.0
"""Whom its own limit keeps out for longer is not told to come back: no SDK should wait that long."""


class Admission:
    """The data port's service: takes requests in, by the snapshot of the moment."""

    def __init__(self, surroundings: Surroundings, registry: Registry, chance: Chance, id_prefix: str) -> None:
        self.surroundings = surroundings
        self.chance = chance
        self.registry = registry
        self.active: set[Intake] = set()
        self._id_prefix = id_prefix
        self._count = 0
        self._snapshot: Snapshot | None = None
        self._router: Router | None = None
        self._callers: Callers | None = None

    def adopt(self, snapshot: Snapshot) -> None:
        """Serve by this snapshot from the next request on; live state carries over, exchanges under way keep theirs."""
        self.registry.adopt((provider.plan for provider in snapshot.providers.values()), self.surroundings.clock())
        plans = [provider.plan for provider in snapshot.providers.values()]
        self._router = Router(snapshot.routes, plans, self.registry, Policy())
        self._callers = Callers(snapshot, self.registry, self.surroundings.clock())
        self.surroundings.memory.limit = snapshot.server.replay_total
        self._snapshot = snapshot

    def begin(self, head: RequestHead, sink: Sink) -> Intake:
        """Take a request; `ingress.http1.Service`."""
        snapshot, router, callers = self._snapshot, self._router, self._callers
        if snapshot is None or router is None or callers is None:
            raise Refused(503, Reason.DRAINING, "The gateway is not ready yet.")
        fields = head.fields
        record = ExchangeRecord(self._request_id(fields), self.surroundings.clock())
        intake = Intake(self, snapshot, router, callers, head, fields, record, sink)
        self.active.add(intake)
        intake.begin()
        return intake

    def drain(self) -> None:
        """End every exchange that is still under way."""
        for intake in tuple(self.active):
            intake.drain()

    def _request_id(self, fields: dict[bytes, bytes]) -> str:
        inbound = fields.get(b"x-request-id")
        if inbound is not None and 0 < len(inbound) <= LONGEST_ID and inbound.isascii():
            text = inbound.decode("ascii")
            if text.isprintable() and " " not in text:
                return text
        self._count += 1
        return f"{self._id_prefix}{self._count:08x}"


class Intake:
    """One request on its way in; the `Source` that the server feeds."""

    __slots__ = (
        "_account",
        "_admission",
        "_body",
        "_callers",
        "_client",
        "_driver",
        "_fields",
        "_head",
        "_inbound",
        "_kind",
        "_over",
        "_router",
        "_sink",
        "_snapshot",
        "record",
    )

    def __init__(
        self,
        admission: Admission,
        snapshot: Snapshot,
        router: Router,
        callers: Callers,
        head: RequestHead,
        fields: dict[bytes, bytes],
        record: ExchangeRecord,
        sink: Sink,
    ) -> None:
        self._admission = admission
        self._snapshot = snapshot
        self._router = router
        self._callers = callers
        self._head = head
        self._fields = fields
        self._sink = sink
        self._inbound: Inbound = read_target(head.target)
        self._kind = "none"
        self._client: Client | None = None
        """As authenticated at the request's begin; a reload meanwhile changes nothing about it."""
        self._account: Account | None = None
        """Its own limits."""
        self._driver: Driver | None = None
        self._over = False
        self._body = RequestBody(admission.surroundings.memory, snapshot.server.replay_bytes, sink, self._overflowed)
        self.record = record

    def begin(self) -> None:
        """Go through the stages that need no body; start at once where none is awaited."""
        record, inbound = self.record, self._inbound
        record.method = self._head.method.decode("ascii")
        record.path = self._head.target.partition(b"?")[0].decode("latin-1")
        record.family = inbound.family
        if not self._head.has_body:
            self._body.complete = True
        try:
            self._check_loop()
            self._client = self._callers.authenticate(self._fields)
            if self._client is not None:
                record.client = self._client.name
                self._account = self._callers.account(self._client)
            record.priority = priority_of(self._client, self._fields.get(b"x-gateway-priority"))
            if self._head.has_body and self._fields.get(b"content-encoding", b"identity").lower() == b"identity":
                self._kind = body_model_kind(inbound, self._fields.get(b"content-type", b""))
            if self._kind == "none":
                self._start(None)
        except Refused as refused:
            self._refuse(refused)
        except Exception:  # noqa: BLE001 - logged and answered
            self._crashed()

    # -- the source -----------------------------------------------------------------------------------------------------------

    def data(self, chunk: bytes) -> None:
        if self._over:
            return
        try:
            self._body.feed(chunk)
            if self._driver is not None:
                self._driver.body_arrived()
        except Exception:  # noqa: BLE001 - logged and answered
            self._crashed()

    def end_of_body(self) -> None:
        if self._over:
            return
        try:
            self._body.end()
            if self._driver is not None:
                self._driver.body_ended()
                return
            chunks = self._body.chunks
            self._start(self._read(chunks[0] if len(chunks) == 1 else b"".join(chunks)))
        except Refused as refused:
            self._refuse(refused)
        except Exception:  # noqa: BLE001 - logged and answered
            self._crashed()

    def blocked(self) -> None:
        if self._driver is not None:
            self._driver.blocked()

    def unblocked(self) -> None:
        if self._driver is not None:
            self._driver.unblocked()

    def gone(self) -> None:
        if self._driver is not None:
            self._driver.gone()
        elif not self._over:
            self._end(Ending.CLIENT_GONE, Reason.CLIENT_GONE)

    def drain(self) -> None:
        """The gateway will wait no longer."""
        if self._driver is not None:
            self._driver.drain()
        else:
            self._refuse(Refused(503, Reason.DRAINING, "The gateway is shutting down; another instance will answer."))

    # -- stages ---------------------------------------------------------------------------------------------------------------

    def _check_loop(self) -> None:
        if b"via" not in self._fields:
            return
        ours = self._admission.surroundings.via
        # Every hop may have added a line of its own, and `_fields` knows only the last.
        if any(lower == b"via" and ours in value for lower, _, value in self._head.headers):
            raise Refused(508, Reason.LOOP_DETECTED, "This request has already passed through this gateway.")

    def _overflowed(self) -> None:
        """The body is larger than what may be kept: go by its beginning, with one attempt."""
        if self._driver is not None or self._over:
            return
        try:
            self._start(self._read(b"".join(self._body.chunks), whole=False))
        except Refused as refused:
            self._refuse(refused)

    def _read(self, body: bytes, *, whole: bool = True) -> BodyFacts | None:
        """Read what the body says; of a part of one, what can be known from it. Raises Refused where it is unusable."""
        if self._kind == "multipart":
            facts = read_multipart(body, self._fields.get(b"content-type", b""), whole=whole)
        elif whole:
            facts = read_json(body)
        else:
            facts = read_json_prefix(body) or BodyFacts(valid=False)
        if facts.error and (self._inbound.family in INFERENCE or facts.valid):
            raise Refused(400, Reason.BAD_REQUEST, facts.error)
        inbound = self._inbound
        if not whole and inbound.family in INFERENCE and facts.model is None and inbound.model is None and inbound.provider is None:
            # Whom it is meant for stands further behind, and a guess could send it to another company.
            replay_bytes = self._snapshot.server.replay_bytes
            if self._body.size > replay_bytes:
                raise Refused(413, Reason.BODY_TOO_LARGE, f"A body of more than {replay_bytes} bytes must name its model first.")
            raise Refused(503, Reason.BODY_TOO_LARGE, "The gateway's memory for request bodies is used up.")
        return facts if facts.valid else None

    def _start(self, facts: BodyFacts | None) -> None:
        record, inbound, admission = self.record, self._inbound, self._admission
        model = inbound.model if inbound.model is not None or facts is None else facts.model
        if model is not None:
            # Before routing, which keeps state by the model's name.
            if len(model) > LONGEST_MODEL:
                raise Refused(400, Reason.BAD_REQUEST, f"The model's name is longer than {LONGEST_MODEL} characters.")
            if not self._allowed(model):
                raise Refused(403, Reason.MODEL_NOT_ALLOWED, f"The client {record.client} may not use the model {model}.")
            record.model = model
            record.model_label = self._router.label(model)
        elif self._unreadable(facts) and not self._allowed(None):
            message = f"The client {record.client} may use some models only, and which one this is for cannot be read."
            raise Refused(403, Reason.MODEL_NOT_ALLOWED, message)
        choice = self._choose(model)
        record.route = choice.route
        places, foreign_key = self._candidates(choice.places, pinned=facts is not None and facts.pins)
        record.stream = facts is not None and facts.stream
        if foreign_key is None and inbound.query:
            self._inbound = inbound = without_keys(inbound)
        stated, read_timeout = self._fields.get(b"x-gateway-timeout"), self._fields.get(b"x-stainless-read-timeout")
        if read_timeout is not None and len(read_timeout) > LONGEST_TIMEOUT:
            read_timeout = None
        deadline_at = record.received_at + min(choice.policy.deadline_s, patience(stated, read_timeout))
        retries = self._fields.get(b"x-stainless-retry-count")
        measured = partial(_measured, self._body, facts, inbound.family)
        ask = Ask(
            route=choice.route,
            policy=choice.policy,
            candidates=places,
            family=inbound.family,
            stream=record.stream,
            safe=self._head.method in SAFE,
            deadline_at=deadline_at,
            foreign_key=foreign_key,
            already_retried=retries is not None and retries.isdigit() and retries.strip(b"0") != b"",
            may_be_back=retries != b"0",
            client=record.client or foreign_key or self._sink.peer,
            size=self._body.size,
            hedges=choice.hedges if choice.hedges is not None and self._may_hedge(choice.policy, facts) else None,
            priority=record.priority,
            weight=1.0 if self._client is None else self._client.plan.weight,
            balance=choice.balance,
            measure=measured,
            # Last, because nothing may go wrong between this and the exchange, which gives it back.
            booking=None if self._account is None else self._book(self._account, places[0], measured),
        )
        surroundings = admission.surroundings
        exchange = Exchange(ask, record, admission.chance)
        exchange.intact = self._body.intact
        request = Request(self._head, inbound, self._body, facts, foreign=foreign_key is not None, account=self._account)
        self._driver = Driver(surroundings, self._snapshot, exchange, request, self._sink, self._ended)
        self._driver.start()

    def _book(self, account: Account, place: Place, measured: Callable[[], Prompt]) -> Reservation:
        """Take what this request needs of its client's own limits; raises Refused where there is no room."""
        now = self._admission.surroundings.clock()
        booked = account.admit(now, place.gate.ratio.cost(measured()) if account.quota.counts_tokens else FREE)
        if isinstance(booked, Reservation):
            return booked
        name, limit, delay_s = self.record.client, booked.limit, booked.delay_s
        message = f"The client {name} has reached a limit of its own: {limit}. There is room for this request in {delay_s:.1f} s."
        raise Refused(429, Reason.CLIENT_LIMIT, message, delay_s=delay_s)

    def _may_hedge(self, policy: Policy, facts: BodyFacts | None) -> bool:
        """Whether a second attempt may run beside the first.

        That is, if the body is there to be sent twice, is known to bring no account's state into play, and the client has not
        declined.
        """
        plan = policy.hedge
        return (
            plan is not None
            and self._body.complete
            and self._body.intact
            and facts is not None
            and not facts.pins
            and (self.record.stream or plan.non_stream)
            and self._fields.get(b"x-gateway-hedge", b"").strip().lower() != b"off"
        )

    def _unreadable(self, facts: BodyFacts | None) -> bool:
        """Whether a body that may name a model was not read: it is compressed, or its address is one whose bodies are not."""
        family = self._inbound.family
        return facts is None and self._head.has_body and (family in INFERENCE or family is Family.OTHER)

    def _allowed(self, model: str | None) -> bool:
        """Whether this client may name this model; None: one that cannot be read."""
        globs = None if self._client is None else self._client.models
        return globs is None or (model is not None and any(fnmatchcase(model, glob) for glob in globs))

    def _choose(self, model: str | None) -> Choice:
        inbound, router = self._inbound, self._router
        if inbound.provider is not None:
            choice = router.direct(inbound.provider, inbound.family, model, route="direct")
            if choice is None:
                raise Refused(404, Reason.NO_ROUTE, f"There is no provider {inbound.provider[:LONGEST_MODEL]!r}.")
            return choice
        choice = router.find(inbound.api, inbound.family, model, self.record.client)
        if choice is not None:
            return choice
        if model is not None:
            raise Refused(404, Reason.NO_ROUTE, f"No route takes the model {model!r} at {inbound.api}.")
        home = self._home()
        choice = router.direct(home, inbound.family, None, route="home") if home is not None else None
        if choice is None:
            raise Refused(404, Reason.NO_ROUTE, f"No route and no provider takes {inbound.api}.")
        return choice

    def _home(self) -> str | None:
        """Return the first provider in the file whose dialect the path belongs to."""
        dialects = (
            ("azure",) if self._inbound.azure else ("anthropic",) if self._inbound.shape == "anthropic" else ("openai", "azure")
        )
        for dialect in dialects:
            for name, provider in self._snapshot.providers.items():
                if provider.dialect.name == dialect:
                    return name
        return None

    def _candidates(self, places: Sequence[Place], *, pinned: bool) -> tuple[Sequence[Place], str | None]:
        """Return where this request may really go, and the hash of the client's own key if that is what goes upstream (law 12)."""
        home = next((place for place in places if not place.target.only_for), places[0])
        if pinned or self._inbound.family not in INFERENCE:
            # Objects live in one account: their ids never leave it.
            places = (home,)
        if home.provider.plan.credentials or self._snapshot.clients is not None:
            return places, None
        key = client_key(self._fields) or key_in(self._inbound.query)
        if not key:
            return places, None
        own = tuple(place for place in places if place.provider is home.provider)
        return own, hashlib.sha256(key).hexdigest()[:16]

    # -- ends -----------------------------------------------------------------------------------------------------------------

    def _refuse(self, refused: Refused) -> None:
        if self._over:
            return
        record = self.record
        body = refusal_body(
            refused.reason.value,
            refused.message,
            refused.status,
            shape=self._inbound.shape,
            request_id=record.request_id,
        )
        record.status, record.bytes_out = refused.status, len(body)
        self._end(Ending.FAILED if refused.reason is Reason.INTERNAL else Ending.REFUSED, refused.reason)
        lines = [b"Content-Type: application/json\r\n", gateway_lines(record, record.ended_at, refused.reason)]
        if refused.delay_s is not None:
            known = refused.delay_s <= FORGIVEN_S
            delay_s = min(FORGIVEN_S, refused.delay_s * self._admission.chance.uniform(1.0, 1.1)) if known else None
            lines += advice_lines(Advice(retry=known, delay_s=delay_s))
        if self._account is not None:
            now, now_unix = self._admission.surroundings.clock(), self._admission.surroundings.unix()
            lines += limit_lines(self._account.quota.buckets, self._inbound.shape, now=now, now_unix=now_unix)
        if refused.status >= 500:
            # SDKs retry these by themselves: say whether that can help, and let not all come back at once.
            again = refused.status == 503
            delay_s = self._admission.chance.uniform(1.0, 3.0) if again else None
            lines += advice_lines(Advice(retry=again, delay_s=delay_s))
        self._sink.open(refused.status, b"", lines, length=len(body))
        self._sink.write(body)
        self._sink.end()

    def _crashed(self) -> None:
        """Something of ours failed; called while handling it. The client hears of it, and nothing of the request stays behind."""
        if self._driver is not None:
            self._driver.crashed()
        else:
            loop = self._admission.surroundings.loop
            loop.call_exception_handler({"message": "a request could not be taken in", "exception": sys.exception()})
            self._refuse(Refused(500, Reason.INTERNAL, "The gateway failed to handle this request."))

    def _end(self, ending: Ending, reason: Reason) -> None:
        self._over = True
        record = self.record
        record.ending, record.reason = ending, reason
        record.ended_at = self._admission.surroundings.clock()
        record.bytes_in = self._body.size
        self._body.release()
        self._admission.active.discard(self)
        self._admission.surroundings.observer.ended(record)

    def _ended(self, _driver: Driver) -> None:
        self._over = True
        self._admission.active.discard(self)


def _measured(body: RequestBody, facts: BodyFacts | None, family: Family) -> Prompt:
    """Measure a request by what is there of its body when somebody asks; most often nobody does."""
    return measure(body.size, body.chunks, facts, family)
