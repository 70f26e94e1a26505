"""Who calls, and what a caller says about itself: its key, its patience, its priority.

Laws 11 and 12: a client is known by its key alone, and nothing tells a stranger how near a guess has come. Keys are kept as
digests; one is found by the first bytes of the digest and compared in constant time. Read from wherever the SDKs carry keys.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from functools import lru_cache
from typing import Final

from gateway.config.snapshot import Client, Snapshot
from gateway.core.accounts import Account
from gateway.core.plan import Priority
from gateway.core.registry import Registry
from gateway.errors import Reason, Refused

KEY_HEADERS: Final = (b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key", b"ocp-apim-subscription-key")
SUBPROTOCOL: Final = b"openai-insecure-api-key."
"""Browsers cannot set headers on a WebSocket, so that OpenAI's SDK offers the key as one of its subprotocols."""
MARGIN_SHARE: Final = 0.05
MARGIN_S: Final = 1.0
"""We answer this much before an SDK's read timeout, whichever is less, so that it hears us."""

_DURATION: Final = re.compile(rb"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h)?")
_UNITS: Final = {b"ms": 0.001, b"s": 1.0, b"m": 60.0, b"h": 3600.0, None: 1.0}
_PRIORITIES: Final = {priority.label.encode(): priority for priority in Priority}
_STANDARD: Final = Priority.STANDARD
_FOUND_BY: Final = 8
"""Bytes of a digest."""


class Callers:
    """The clients of one snapshot, with their own limits."""

    __slots__ = ("_accounts", "_clients")

    def __init__(self, snapshot: Snapshot, registry: Registry, now: float) -> None:
        clients = snapshot.clients
        self._clients = None if clients is None else {client.digest[:_FOUND_BY]: client for client in clients}
        registry.keep_accounts(client.name for client in clients or ())
        found = ((client.name, registry.account(client.plan, now)) for client in clients or ())
        self._accounts = {name: account for name, account in found if account is not None}

    def authenticate(self, fields: dict[bytes, bytes]) -> Client | None:
        """Return the calling client, None where no `clients` are set; raises Refused for a stranger."""
        if self._clients is None:
            return None
        key = client_key(fields)
        if key:
            digest = hashlib.sha256(key).digest()
            client = self._clients.get(digest[:_FOUND_BY])
            if client is not None and hmac.compare_digest(client.digest, digest):
                return client
        raise Refused(401, Reason.UNKNOWN_CLIENT, "The gateway does not accept these credentials.")

    def account(self, client: Client | None) -> Account | None:
        """Return a client's own limits, where it has any."""
        return None if client is None else self._accounts.get(client.name)


def client_key(fields: dict[bytes, bytes]) -> bytes | None:
    """Return the key a client presents, from whichever header its SDK uses; None where there is none."""
    for name in KEY_HEADERS:
        value = fields.get(name)
        if value:
            if name == b"authorization":
                scheme, _, key = value.partition(b" ")
                return key.strip() or None if scheme.lower() == b"bearer" else value
            return value
    for protocol in fields.get(b"sec-websocket-protocol", b"").split(b","):
        offered = protocol.strip()
        if offered.startswith(SUBPROTOCOL):
            return offered.removeprefix(SUBPROTOCOL) or None
    return None


def priority_of(client: Client | None, wish: bytes | None) -> Priority:
    """Return whose turn a request's is: the client's, or lower where it says so (`x-gateway-priority`); raises Refused."""
    own = _STANDARD if client is None else client.plan.priority
    if wish is None:
        return own
    wished = _PRIORITIES.get(wish.strip().lower())
    if wished is None:
        raise Refused(400, Reason.BAD_REQUEST, f"x-gateway-priority must be one of {', '.join(p.label for p in Priority)}.")
    return max(own, wished)


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
