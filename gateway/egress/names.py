"""Host names to addresses: cached, asked again in the background, and served stale while the resolver is down.

A provider's outage must not become ours because a resolver hiccuped: an answer that worked a minute ago beats no answer (RFC 8767).
The law here: one lookup per name at a time however many wait for it, a lookup outlives the caller that began it, and no caller
with an old answer at hand waits longer than `PATIENCE_S` for a new one. Apart from dialling, because time is all there is to it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from ipaddress import IPv6Address, ip_address
from typing import Final

from aiohappyeyeballs import AddrInfoType

Resolver = Callable[[str, int], Awaitable[list[AddrInfoType]]]
"""Looks a name up like `getaddrinfo`; raises OSError (`socket.gaierror`) when it cannot."""

FRESH_S: Final = 30.0
"""An answer is used without asking again."""
GRACE_S: Final = 30.0
"""After that, used at once while a new one is fetched in the background."""
PATIENCE_S: Final = 1.0
"""An older answer is used when the resolver has not answered within this time, or failed."""
STALE_S: Final = 24 * 3600.0
"""Nothing older is used; RFC 8767 section 5 suggests one to three days at most."""
RECHECK_S: Final = 1.0
"""A failure is believed for this long before the resolver is asked again."""
DEMOTED_S: Final = 60.0
"""An address that did not connect is tried last for this long."""


class UnknownName(Exception):  # noqa: N818 - a condition of the network, mapped to a fault by the dialler
    """The name has no address, or nobody could be asked and no earlier answer is left."""


class _Entry:
    """What is known of one name."""

    __slots__ = ("addresses", "answered_at", "asked_at", "error", "failed_at", "lookup")

    def __init__(self) -> None:
        self.addresses: list[AddrInfoType] = []
        self.answered_at = float("-inf")
        self.asked_at = 0.0
        self.failed_at = float("-inf")
        self.error = ""
        self.lookup: asyncio.Task[None] | None = None


class Names:
    """The cache of one process; `now` is the loop's time throughout."""

    def __init__(self, loop: asyncio.AbstractEventLoop, resolver: Resolver | None = None) -> None:
        self._loop = loop
        self._resolver = resolver or self._getaddrinfo
        self._entries: dict[tuple[str, int], _Entry] = {}
        self._demoted: dict[tuple[object, ...], float] = {}

    async def addresses(self, host: str, port: int) -> list[AddrInfoType]:
        """Return where `host` can be reached, most promising first and never empty; raises UnknownName."""
        literal = _literal(host, port)
        if literal is not None:
            return [literal]
        entry = self._entries.get((host, port))
        if entry is None:
            entry = self._entries[host, port] = _Entry()
        now = self._loop.time()
        age = now - entry.answered_at
        if age < FRESH_S:
            return self._ordered(entry.addresses, now)
        if entry.lookup is None and now - entry.failed_at >= RECHECK_S:
            entry.asked_at = now
            entry.lookup = self._loop.create_task(self._ask(entry, host, port))
        if age >= STALE_S:
            if entry.lookup is not None:
                # `wait` leaves the lookup alone when this caller is cancelled: others may be waiting for it.
                await asyncio.wait((entry.lookup,))
            if self._loop.time() - entry.answered_at >= STALE_S:
                raise UnknownName(entry.error)
        elif age >= FRESH_S + GRACE_S and entry.lookup is not None and (patience := entry.asked_at + PATIENCE_S - now) > 0:
            await asyncio.wait((entry.lookup,), timeout=patience)
        return self._ordered(entry.addresses, now)

    def suspect(self, host: str, port: int) -> None:
        """Have the name looked up anew before long: none of its addresses took a connection."""
        entry = self._entries.get((host, port))
        if entry is not None:
            entry.answered_at = min(entry.answered_at, self._loop.time() - FRESH_S)

    def demote(self, addresses: Iterable[AddrInfoType]) -> None:
        """Try these addresses last for a while: a connection to them failed or did not come in time."""
        now = self._loop.time()
        self._demoted = {key: until for key, until in self._demoted.items() if until > now}
        self._demoted.update((address[4], now + DEMOTED_S) for address in addresses)

    async def close(self) -> None:
        """Stop every lookup under way."""
        lookups = [entry.lookup for entry in self._entries.values() if entry.lookup is not None]
        for lookup in lookups:
            lookup.cancel()
        await asyncio.gather(*lookups, return_exceptions=True)

    async def _ask(self, entry: _Entry, host: str, port: int) -> None:
        try:
            addresses = await self._resolver(host, port)
        except OSError as exc:
            entry.error = (exc.strerror or str(exc) or type(exc).__name__).lower()
            entry.failed_at = self._loop.time()
        else:
            if addresses:
                entry.addresses = addresses
                entry.answered_at = self._loop.time()
            else:
                entry.error = "no address"
                entry.failed_at = self._loop.time()
        finally:
            entry.lookup = None

    def _ordered(self, addresses: list[AddrInfoType], now: float) -> list[AddrInfoType]:
        """Demoted addresses last, the resolver's order otherwise."""
        demoted = self._demoted
        if not demoted:
            return addresses
        return sorted(addresses, key=lambda address: demoted.get(address[4], 0.0) > now)

    async def _getaddrinfo(self, host: str, port: int) -> list[AddrInfoType]:
        return list(await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP))


def _literal(host: str, port: int) -> AddrInfoType | None:
    """Return the address that `host` itself spells, if it does."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id:
            return None
        return socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port, 0, 0)
    return socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port)
