"""A client's request, read, and what is made of it for one attempt.

The bytes go on as they came (law 4); what differs from provider to provider is the address, the credential, the model's name and,
where a stream may have to be resumed, the question for its usage. Separate from the driver, which says when.
"""

from __future__ import annotations

from typing import Final

from gateway.config.snapshot import Provider
from gateway.core.accounts import Account
from gateway.core.attempt import Attempt
from gateway.core.message import RequestHead
from gateway.core.plan import INFERENCE, Family
from gateway.dialects.base import Inbound
from gateway.dialects.body import BodyFacts, insert_model, replace_model
from gateway.dialects.usage_chunk import ask_for_usage
from gateway.egress.body import RequestBody
from gateway.egress.heads import upstream_head

REMEMBERED: Final = 16
"""Rendered heads kept with one client head: as many as it has targets."""


class Request:
    """A client's request, read: what to forward and what was understood of it."""

    __slots__ = ("account", "body", "facts", "foreign", "head", "inbound")

    def __init__(
        self,
        head: RequestHead,
        inbound: Inbound,
        body: RequestBody,
        facts: BodyFacts | None,
        *,
        foreign: bool,
        account: Account | None = None,
    ) -> None:
        self.head = head
        self.inbound = inbound
        self.body = body
        self.facts = facts
        """What the body said; None where no body was read for it."""
        self.foreign = foreign
        """The client's own key and account headers go upstream."""
        self.account = account
        """The client's own limits, which it hears of instead of the provider's."""

    def body_for(self, attempt: Attempt, provider: Provider, *, asks_usage: bool) -> tuple[list[bytes], int]:
        """Return the body to send, as far as it is there, and by how many bytes it grew.

        With the model's name as this target knows it; with `asks_usage`, a chat stream is also asked for its usage.
        """
        chunks, grown = self._renamed(attempt, provider)
        if asks_usage and self.inbound.family is Family.CHAT and self.facts is not None and self.body.complete:
            whole = b"".join(chunks)
            asking = ask_for_usage(whole)
            if asking is not None:
                return [asking], grown + len(asking) - len(whole)
        return chunks, grown

    def head_for(self, attempt: Attempt, provider: Provider, grown: int, via: bytes) -> tuple[bytes, bool]:
        """Return the head of the upstream request, whose body grew by so many bytes, and whether it goes in chunks."""
        head, body = self.head, self.body
        lines = self._lines(attempt, provider, via)
        if body.complete:
            if head.content_length is not None or body.size or grown:
                return b"%bContent-Length: %d\r\n\r\n" % (lines, body.size + grown), False
            return lines + b"\r\n", False
        if head.content_length is not None:
            return b"%bContent-Length: %d\r\n\r\n" % (lines, head.content_length + grown), False
        return lines + b"Transfer-Encoding: chunked\r\n\r\n", True

    def _lines(self, attempt: Attempt, provider: Provider, via: bytes) -> bytes:
        """Return the head without its framing; clients repeat theirs, and then it need not be made anew."""
        secret = _secret(provider, attempt.credential)
        memory = self.head.rendered
        key = (id(provider), secret, attempt.model, self.foreign)
        known = memory.get(key)
        # An address may have been another object's before; one that is held here is still its own.
        if known is not None and known[0] is provider:
            return known[1]
        lines = upstream_head(
            self.head,
            target=provider.dialect.target(
                self.inbound,
                base_path=provider.base_path,
                api_version=provider.api_version,
                model=attempt.model or None,
            ),
            authority=provider.origin.authority,
            extra=provider.headers if secret is None else (provider.dialect.authorize(secret), *provider.headers),
            via=via,
            own_account=not self.foreign,
            identity=self.inbound.family in INFERENCE,
        )
        if len(memory) >= REMEMBERED:
            memory.clear()
        memory[key] = (provider, lines)
        return lines

    def _renamed(self, attempt: Attempt, provider: Provider) -> tuple[list[bytes], int]:
        chunks, facts = self.body.chunks, self.facts
        if facts is None or facts.model == attempt.model or not attempt.model:
            return list(chunks), 0
        if facts.model is None and self.inbound.family not in INFERENCE:
            # Nobody knows whether this endpoint has models at all.
            return list(chunks), 0
        if provider.dialect.model_in_path(self.inbound, api_version=provider.api_version):
            return list(chunks), 0
        whole = b"".join(chunks)
        if facts.model_span is not None:
            edited = replace_model(whole, facts.model_span, attempt.model)
        else:
            edited = insert_model(whole, attempt.model)
        return [edited], len(edited) - len(whole)


def _secret(provider: Provider, credential: str | None) -> str | None:
    """Return our own key for this provider; None: the client's own is sent, or none."""
    if credential is None or not provider.credentials:
        return None
    for secret in provider.credentials:
        if secret.id == credential:
            return secret.reveal()
    # A reload changed the keys since this exchange began; its own snapshot still has the one it would have used.
    return provider.credentials[0].reveal()
