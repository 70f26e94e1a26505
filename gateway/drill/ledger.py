"""A simulated provider's own account of what it was asked and what it did.

The law here: nothing of the gateway is asked. Tests hold the gateway's metrics, trails and bills against these entries, so they are
written from what arrived on the provider's socket and what left it, and from nothing else. Waiting for an entry is waiting for an
event (`until`), so that no test has to sleep.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any

_SECRET_HEADERS = frozenset({"authorization", "api-key", "x-api-key", "cookie", "proxy-authorization"})


def key_hash(key: str) -> str:
    """The name under which a credential is recorded: twelve hex digits of its SHA-256; empty for none."""
    return hashlib.sha256(key.encode()).hexdigest()[:12] if key else ""


class End(StrEnum):
    """How an attempt ended, as the provider saw it."""

    OPEN = "open"
    """Not yet."""
    ANSWERED = "answered"
    """Everything that was meant to be sent was sent: an error answer too, and a stream that was ended `clean` too soon."""
    CUT = "cut"
    """The provider broke the connection, as a fault told it to."""
    PEER_LEFT = "peer_left"
    DROPPED = "dropped"
    """The provider itself went away: refused, or stopped."""
    FAILED = "failed"
    """A mistake in the simulated provider: never expected, and never to be mistaken for a peer that left."""


class Entry:
    """One request as this provider saw it. Times are seconds on the provider's clock, which starts at 0; None: did not happen."""

    __slots__ = (
        "answer_bytes",
        "answer_sha256",
        "arrived_s",
        "billed",
        "body",
        "body_bytes",
        "body_sha256",
        "connection",
        "end",
        "ended_s",
        "events",
        "family",
        "faults",
        "first_event_s",
        "head_s",
        "headers",
        "key",
        "left_s",
        "method",
        "model",
        "number",
        "path",
        "request_id",
        "status",
        "stream",
        "target",
        "tokens_out",
    )

    def __init__(self, number: int, request_id: str, arrived_s: float) -> None:
        self.number = number
        self.request_id = request_id
        """Also in the answer, as `x-request-id`."""
        self.arrived_s = arrived_s
        self.connection = 0
        """The peer's port: equal for requests that came over one connection."""
        self.method = ""
        self.target = ""
        """As received: path and query."""
        self.path = ""
        """As OpenAI would spell it, without Azure's prefix and without the query."""
        self.family = ""
        self.model = ""
        self.stream = False
        self.key = ""
        """`key_hash` of the credential."""
        self.headers: list[tuple[str, str]] = []
        """As received, in order; Latin-1."""
        self.body: bytes | None = None
        """Only with `keep_bodies`."""
        self.body_bytes = 0
        self.body_sha256 = ""
        """Empty until the body was whole."""
        self.status = 0
        """Of the head that was sent; 0 if none was."""
        self.head_s: float | None = None
        self.first_event_s: float | None = None
        self.events = 0
        """Stream events sent, of any kind, the terminator included."""
        self.tokens_out = 0
        """Pieces of text that were handed to the connection."""
        self.answer_bytes = 0
        """Body bytes sent, without framing."""
        self.answer_sha256 = ""
        """Of those; set at the end."""
        self.faults: list[str] = []
        self.billed = False
        """Whether a provider would charge for this attempt: the model began to answer."""
        self.end = End.OPEN
        self.ended_s: float | None = None
        self.left_s: float | None = None
        """When the peer was seen to have left before it was answered."""

    def header(self, name: str) -> str | None:
        """The first value of a request header, any case; None without it."""
        name = name.lower()
        return next((value for key, value in self.headers if key.lower() == name), None)

    def as_json(self) -> dict[str, Any]:
        """Everything but the body, and with credentials replaced by their hashes."""
        shown: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__ if name != "body"}
        shown["headers"] = [
            [name, f"sha256:{key_hash(value)}" if name.lower() in _SECRET_HEADERS else value] for name, value in self.headers
        ]
        return shown

    def __repr__(self) -> str:
        return f"<{self.number} {self.method} {self.path} {self.model} {self.status} {self.end.value} {'+'.join(self.faults)}>"


class Ledger:
    """All attempts of one provider, oldest first; the oldest are forgotten beyond `keep`."""

    def __init__(self, clock: Callable[[], float], *, name: str = "", keep: int = 100_000) -> None:
        self._clock = clock
        self._name = name
        self._entries: deque[Entry] = deque(maxlen=keep)
        self._waiting: list[tuple[Callable[[Ledger], bool], asyncio.Future[None]]] = []
        self.received = 0
        """Ever, forgotten ones included."""
        self.inflight = 0
        self.most_inflight = 0

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Entry:
        return self._entries[index]

    def __repr__(self) -> str:
        return f"<Ledger {self._name} {list(self._entries)}>"

    def select(self, **wanted: object) -> list[Entry]:
        """The entries whose fields have these values: `select(path="/v1/models", end=End.PEER_LEFT)`."""
        return [entry for entry in self._entries if all(getattr(entry, name) == value for name, value in wanted.items())]

    @property
    def billed(self) -> list[Entry]:
        """The attempts somebody pays for."""
        return [entry for entry in self._entries if entry.billed]

    @property
    def connections(self) -> int:
        """How many different connections the remembered attempts came over."""
        return len({entry.connection for entry in self._entries})

    def clear(self) -> None:
        """Forget all entries; what is under way is still counted as such, and ends unseen."""
        self._entries.clear()
        self.most_inflight = self.inflight

    async def until(self, happened: Callable[[Ledger], bool]) -> None:
        """Return as soon as this is true of the ledger; asked anew after every change. Bound it with `asyncio.timeout`."""
        if happened(self):
            return
        waiter = asyncio.get_running_loop().create_future()
        pair = (happened, waiter)
        self._waiting.append(pair)
        try:
            await waiter
        finally:
            self._waiting.remove(pair)

    def begin(self) -> Entry:
        """Open the account of a request that just arrived."""
        self.received += 1
        self.inflight += 1
        self.most_inflight = max(self.most_inflight, self.inflight)
        entry = Entry(self.received, f"req_{self._name}_{self.received:06d}", self._clock())
        self._entries.append(entry)
        self.changed()
        return entry

    def finish(self, entry: Entry, end: End) -> None:
        """Close it."""
        entry.end = end
        entry.ended_s = self._clock()
        if end is End.PEER_LEFT:
            entry.left_s = entry.ended_s
        self.inflight -= 1
        self.changed()

    def changed(self) -> None:
        """Let those who wait look again."""
        for happened, waiter in self._waiting:
            if not waiter.done() and happened(self):
                waiter.set_result(None)
