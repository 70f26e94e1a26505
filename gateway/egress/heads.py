"""Message heads as they leave the gateway: what is forwarded, what is stripped, what is added.

Framing is never copied: upstream heads get a `Content-Length` or `Transfer-Encoding` of our own here, client heads get theirs from
the sink. Hop-by-hop headers and those named by `Connection` end here in both directions (RFC 9110 section 7.6.1). Every other
header passes with its name's case, order, duplicates and bytes untouched.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import compress
from typing import Final

from gateway.config.snapshot import Provider
from gateway.core.actions import UPSTREAMS_OWN, Advice
from gateway.core.message import HOP_BY_HOP, Header, RequestHead, ResponseHead, named_by_connection
from gateway.core.record import ExchangeRecord, trail
from gateway.errors import Reason

CREDENTIALS: Final = frozenset({b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key", b"ocp-apim-subscription-key"})
"""Wherever the dialects carry keys."""
CLIENTS_OWN: Final = CREDENTIALS | {b"openai-organization", b"openai-project", b"cookie"}
"""What belongs to a client's own account: meaningless or harmful beside another key (laws 11 and 12)."""
_HANDSHAKE: Final = frozenset(b"sec-websocket-" + name for name in (b"accept", b"extensions", b"key", b"protocol", b"version"))
"""Of an upgrade that did not happen; browsers put the key into the protocol's name."""
_FRAMING: Final = HOP_BY_HOP | _HANDSHAKE | {b"host", b"content-length", b"expect"}
_DROPPED: Final = {
    (own_account, identity): _FRAMING | (CLIENTS_OWN if own_account else set()) | ({b"accept-encoding"} if identity else set())
    for own_account in (False, True)
    for identity in (False, True)
}
_NONE: Final = Reason.NONE
"""Python 3.11 is slow to find an enumeration's members."""
_ADVICE: Final = frozenset({b"retry-after", b"retry-after-ms", b"x-should-retry"})
_ANSWER: Final = HOP_BY_HOP | {b"content-length"}
_ANSWER_ADVISED: Final = _ANSWER | _ADVICE
_ANSWER_DELAYED: Final = _ANSWER | (_ADVICE - {b"x-should-retry"})


def upstream_head(
    request: RequestHead,
    *,
    target: bytes,
    authority: bytes,
    extra: Iterable[Header],
    via: bytes,
    own_account: bool,
    identity: bool,
) -> bytes:
    """Render the head of an upstream request, all but the line that frames its body and the empty one.

    `extra`: the credential and the provider's configured headers, which replace the client's of the same name. `own_account`: strip
    what belongs to the client's account. `identity`: ask for an uncompressed answer, as inference paths do.
    """
    drop: frozenset[bytes] = _DROPPED[own_account, identity]
    for lower, _, _ in extra:
        if lower not in drop:
            drop |= {lower}
    lines = [b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (request.method, target, authority)]
    for _, name, value in extra:
        lines.append(b"%b: %b\r\n" % (name, value))
    lines.append(_forwarded(request.headers, drop))
    if identity:
        lines.append(b"Accept-Encoding: identity\r\n")
    lines.append(b"Via: 1.1 %b\r\n" % via)
    return b"".join(lines)


def _forwarded(headers: list[Header], drop: frozenset[bytes]) -> bytes:
    drop |= named_by_connection(headers)
    return b"".join(
        [
            b"%b: %b\r\n" % (name, value)
            for lower, name, value in headers
            if lower not in drop and not lower.startswith(b"x-gateway-")
        ],
    )


def answer_lines(
    head: ResponseHead, *, advice: Advice = UPSTREAMS_OWN, stream: bool = False, own_limits: bool = False
) -> list[bytes]:
    """Render the upstream's end-to-end headers for the client; `advice` replaces the upstream's where it says something.

    `own_limits`: the client has limits of its own, and would take the account's for them.
    """
    drop: frozenset[bytes] = _ANSWER
    if advice is not UPSTREAMS_OWN:
        drop = _ANSWER_ADVISED if advice.retry is not None else _ANSWER_DELAYED
    if b"connection" in head.names:
        drop |= named_by_connection(head.headers)
    lines = list(compress(head.lines, _passing(head.names, drop, own_limits)))
    # The last one is ended by the empty element.
    lines = [b"\r\n".join([*lines, b""])] if lines else lines
    if advice is not UPSTREAMS_OWN:
        lines += advice_lines(advice)
    if stream:
        # A reverse proxy in front of us must not collect the events (nginx's convention).
        lines.append(b"X-Accel-Buffering: no\r\n")
    return lines


@lru_cache(maxsize=1024)
def _passing(names: tuple[bytes, ...], drop: frozenset[bytes], own_limits: bool) -> tuple[bool, ...]:
    """Tell which of an answer's header lines pass; a provider sends the same names again and again."""
    prefixes = (b"x-gateway-", b"x-ratelimit-", b"anthropic-ratelimit-") if own_limits else (b"x-gateway-",)
    return tuple([name not in drop and not name.startswith(prefixes) for name in names])


def advice_lines(advice: Advice) -> list[bytes]:
    """Render retry advice: whole seconds rounded up for `retry-after`, exact milliseconds beside it."""
    lines = []
    if advice.retry is not None:
        lines.append(b"x-should-retry: %b\r\n" % (b"true" if advice.retry else b"false"))
    if advice.delay_s is not None:
        millis = max(0, round(advice.delay_s * 1000))
        lines.append(b"retry-after: %d\r\nretry-after-ms: %d\r\n" % (-(-millis // 1000), millis))
    return lines


def gateway_lines(record: ExchangeRecord, now: float, reason: Reason = Reason.NONE) -> bytes:
    """Render the `x-gateway-*` headers of an answer from what the exchange has recorded."""
    winner = record.winner
    text = f"x-gateway-request-id: {record.request_id}\r\nx-gateway-attempts: {len(record.attempts)}\r\n"
    if record.route:
        text += f"x-gateway-route: {record.route}\r\n"
    if winner is not None:
        text += f"x-gateway-provider: {winner.provider}\r\n"
        if winner.model:
            text += f"x-gateway-model: {_printable(winner.model)}\r\n"
    if record.attempts:
        text += f"x-gateway-trail: {trail(record.attempts, now)}\r\n"
    if reason is not _NONE:
        text += f"x-gateway-reason: {reason.value}\r\n"
    return text.encode("latin-1")


def _printable(text: str) -> str:
    """Return the text fit for a header value: a model's name comes from a client's body."""
    if text.isascii() and text.isprintable():
        return text
    return text.encode("ascii", "backslashreplace").decode("ascii").translate(_CONTROL)


_CONTROL: Final = {code: f"\\x{code:02x}" for code in (*range(32), 127)}


SHORTEST_KEY: Final = 16
"""Shorter ones are words such as `none` and `EMPTY`, which a server without keys is given, and which answers may well contain."""


def holds_key(headers: Iterable[Header]) -> bool:
    """Whether one of these headers carries a key."""
    return any(lower in CREDENTIALS for lower, _, _ in headers)


def keys_of(provider: Provider) -> tuple[bytes, ...]:
    """Return our own keys for this provider, wherever the configuration holds them."""
    found = [secret.reveal().encode("utf-8") for secret in provider.credentials]
    found += [value.rpartition(b" ")[2] for lower, _, value in provider.headers if lower in CREDENTIALS]
    return tuple([key for key in found if len(key) >= SHORTEST_KEY])


def masked(raw: bytes, secrets: tuple[bytes, ...]) -> bytes:
    """Return what a provider said without the keys of ours that it quotes, each star for star: no length changes (law 12)."""
    for secret in secrets:
        raw = raw.replace(secret, b"*" * len(secret))
    return raw
