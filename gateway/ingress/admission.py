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
import re
import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache

from gateway.config.snapshot import Client, Snapshot
from gateway.core.actions import Advice
from gateway.core.attempt import Ask, Place
from gateway.core.exchange import Exchange
from gateway.core.message import RequestHead
from gateway.core.placement import Chance
from gateway.core.plan import INFERENCE, Family, Policy
from gateway.core.record import Ending, ExchangeRecord
from gateway.core.registry import Registry
from gateway.core.routing import Choice, Router
from gateway.dialects.base import Inbound
from gateway.dialects.body import BodyFacts, read_json, read_json_prefix
from gateway.dialects.errors import refusal_body
from gateway.dialects.forms import read_multipart
from gateway.dialects.inbound import body_model_kind, key_in, read_target, without_keys
from gateway.egress.body import RequestBody
from gateway.egress.driver import Driver
from gateway.egress.heads import advice_lines, gateway_lines
from gateway.egress.request import Request
from gateway.egress.sink import Sink
from gateway.egress.surroundings import Surroundings
from gateway.errors import Reason, Refused

SAFE = frozenset({b"GET", b"HEAD", b"OPTIONS"})
"""RFC 9110 section 9.2.1."""
KEY_HEADERS = (b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key", b"ocp-apim-subscription-key")
MARGIN_SHARE, MARGIN_S = 0.05, 1.0
"""We answer this much before an SDK's read timeout, whichever is less, so that it hears us."""
LONGEST_MODEL = 256
LONGEST_ID = 128
LONGEST_TIMEOUT = 32
"""What a client sends beyond this as its SDK's timeout is none, and is not remembered."""

_DURATION = re.compile(rb"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h)?")
_UNITS = {b"ms": 0.001, b"s": 1.0, b"m": 60.0, b"h": 3600.0, None: 1.0}


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
        self._clients: Mapping[bytes, Client] | None = None

    def adopt(self, snapshot: Snapshot) -> None:
        """Serve by this snapshot from the next request on; live state carries over, exchanges under way keep theirs."""
        self.registry.adopt((provider.plan for provider in snapshot.providers.values()), self.surroundings.clock())
        plans = [provider.plan for provider in snapshot.providers.values()]
        self._router = Router(snapshot.routes, plans, self.registry, Policy())
        # Looked up by digest: how long that takes tells nothing about the key itself.
        self._clients = None if snapshot.clients is None else {client.digest: client for client in snapshot.clients}
        self.surroundings.memory.limit = snapshot.server.replay_total
        self._snapshot = snapshot

    def begin(self, head: RequestHead, sink: Sink) -> Intake:
        """Take a request; `ingress.http1.Service`."""
        snapshot, router = self._snapshot, self._router
        if snapshot is None or router is None:
            raise Refused(503, Reason.DRAINING, "The gateway is not ready yet.")
        fields = head.fields
        record = ExchangeRecord(self._request_id(fields), self.surroundings.clock())
        intake = Intake(self, snapshot, router, head, fields, record, sink)
        self.active.add(intake)
        intake.begin()
        return intake

    def authenticate(self, fields: Mapping[bytes, bytes]) -> Client | None:
        """Return the calling client, None where no `clients` are set; raises Refused for a stranger."""
        if self._clients is None:
            return None
        key = client_key(fields)
        client = self._clients.get(hashlib.sha256(key).digest()) if key else None
        if client is None:
            raise Refused(401, Reason.UNKNOWN_CLIENT, "The gateway does not accept these credentials.")
        return client

    def drain(self) -> None:
        """End every exchange that is still under way."""
        for intake in tuple(self.active):
            intake.drain()

    def _request_id(self, fields: Mapping[bytes, bytes]) -> str:
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
        "_admission",
        "_body",
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
        head: RequestHead,
        fields: Mapping[bytes, bytes],
        record: ExchangeRecord,
        sink: Sink,
    ) -> None:
        self._admission = admission
        self._snapshot = snapshot
        self._router = router
        self._head = head
        self._fields = fields
        self._sink = sink
        self._inbound: Inbound = read_target(head.target)
        self._kind = "none"
        self._client: Client | None = None
        """As authenticated at the request's begin; a reload meanwhile changes nothing about it."""
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
            self._client = self._admission.authenticate(self._fields)
            if self._client is not None:
                record.client = self._client.name
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
        ask = Ask(
            route=choice.route,
            policy=choice.policy,
            candidates=places,
            family=inbound.family,
            stream=record.stream,
            safe=self._head.method in SAFE,
            deadline_at=record.received_at + min(choice.policy.deadline_s, patience(stated, read_timeout)),
            foreign_key=foreign_key,
            already_retried=self._already_retried(),
            client=record.client or foreign_key or self._sink.peer,
            size=self._body.size,
            hedges=choice.hedges if choice.hedges is not None and self._may_hedge(choice.policy, facts) else None,
        )
        surroundings = admission.surroundings
        exchange = Exchange(ask, record, admission.chance)
        exchange.intact = self._body.intact
        request = Request(self._head, inbound, self._body, facts, foreign=foreign_key is not None)
        self._driver = Driver(surroundings, self._snapshot, exchange, request, self._sink, self._ended)
        self._driver.start()

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

    def _already_retried(self) -> bool:
        count = self._fields.get(b"x-stainless-retry-count", b"0")
        return count.isdigit() and count.strip(b"0") != b""

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


def client_key(fields: Mapping[bytes, bytes]) -> bytes | None:
    """Return the key a client presents, from whichever header its SDK uses; None where there is none."""
    for name in KEY_HEADERS:
        value = fields.get(name)
        if value:
            if name == b"authorization":
                scheme, _, key = value.partition(b" ")
                return key.strip() or None if scheme.lower() == b"bearer" else value
            return value
    return None


@lru_cache(maxsize=1024)
def patience(stated: bytes | None, read_timeout: bytes | None) -> float:
    """Return how long a client will wait for the first bytes of an answer, in seconds.

    `stated`: its `x-gateway-timeout`, which must be a duration, else Refused is raised. `read_timeout`: what its SDK says of
    itself; not ours to judge: one that sends "NOT_GIVEN" there has no timeout.
    """
    patience_s = float("inf")
    if stated is not None:
        found = _DURATION.fullmatch(stated.strip())
        if found is None or float(found[1]) <= 0:
            raise Refused(400, Reason.BAD_REQUEST, 'x-gateway-timeout must be a duration such as "2s" or "500ms".')
        patience_s = float(found[1]) * _UNITS[found[2]]
    if read_timeout is not None:
        found = _DURATION.fullmatch(read_timeout)
        if found is not None and found[2] is None and float(found[1]) > 0:
            seconds = float(found[1])
            patience_s = min(patience_s, seconds - min(MARGIN_S, MARGIN_SHARE * seconds))
    return patience_s
