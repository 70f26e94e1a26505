"""What a dialect is: everything the rest of the gateway needs to know of a provider's wire, as pure functions.

A dialect never does I/O and never reads the clock. Inbound paths (what clients call) are read by `dialects.inbound`; a dialect
answers for the other side: where a request goes, how it is authorised, what its errors and streams mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

from gateway.core.matcher import Rule
from gateway.core.message import Header
from gateway.core.plan import Family
from gateway.core.verdicts import Outcome, Verdict


class Inbound:
    """What the request line of a client's request says, before any body is read."""

    __slots__ = ("api", "azure", "family", "model", "path", "provider", "query", "shape")

    def __init__(
        self,
        *,
        family: Family,
        api: str,
        path: bytes,
        query: bytes,
        model: str | None = None,
        provider: str | None = None,
        shape: str = "openai",
        azure: bool = False,
    ) -> None:
        self.family = family
        self.api = api
        """The canonical path of the endpoint for route matching, e.g. `/v1/chat/completions`, whatever address style was used."""
        self.path = path
        """Raw path below the API root, with its leading slash: `/chat/completions`; what a dialect puts behind its base path."""
        self.query = query
        """Raw query with its leading `?`, or empty. A lone trailing `?` is kept."""
        self.model = model
        """The model named by the address itself (Azure deployments, Realtime), else None: look into the body."""
        self.provider = provider
        """Set by `/providers/{name}/...`: this provider and no other."""
        self.shape = shape
        """Whose error objects the client understands: `openai` or `anthropic`."""
        self.azure = azure
        """Called in Azure's address style: an `api-version` in the query means nothing to other providers."""


class Part(StrEnum):
    """What one event of a stream is."""

    LIFE = "life"
    """Comments, pings, lifecycle and role-only deltas: a sign of life, not content."""
    CONTENT = "content"
    """Text, reasoning, refusal, tool call, audio delta, or a finish: the commit point."""
    ERROR = "error"
    END = "end"
    """The terminator: the stream is whole."""
    NOISE = "noise"
    """Data that are no JSON: nobody's words, and what every SDK stumbles over."""
    BROKEN = "broken"
    """The provider says it is done, but a stream of this kind is not whole without what was never said."""


class StreamReader(Protocol):
    """Reads one stream's events, in order; one instance per attempt."""

    finished: bool
    """A finish reason was seen: an end of the body now is a whole answer that merely lacks its terminator."""
    ended: bool
    """The terminator was seen."""
    usage: tuple[int, int] | None
    """(input tokens, output tokens) as the provider reported them; None until it does. Never estimated."""
    good_bytes: int
    """After `skim` returned `ERROR` or `BROKEN`: how many bytes of that block came before, and may be relayed."""

    def read(self, event: bytes) -> Part:
        """Classify one complete raw event (its lines, with or without the blank line that ends it). Used until commit."""
        ...

    def skim(self, events: bytes) -> Part:
        """Note terminator, finish, usage and errors in one or more complete events after commit, at the price of a few scans.

        Returns `END` if one of the events ends the stream, `ERROR` or `BROKEN` if the stream breaks in one, else `CONTENT`.
        """
        ...

    def error_payload(self) -> bytes:
        """Return the JSON payload of the error event last seen."""
        ...

    def terminator(self) -> bytes:
        """Return the bytes that complete a stream which finished but lacks its terminator; empty where there is none."""
        ...

    def error_event(self, code: str, message: str) -> bytes:
        """Return the in-band error that ends a stream broken after commit, framed; the terminator must not follow."""
        ...


class Dialect(Protocol):
    """One provider wire format. Stateless."""

    name: str

    def target(
        self,
        inbound: Inbound,
        *,
        base_path: bytes,
        api_version: str | None,
        model: str | None,
    ) -> bytes:
        """Return the raw request target (path and query) at the provider."""
        ...

    def authorize(self, secret: str) -> Header:
        """Return the header that carries this key."""
        ...

    def model_in_path(self, inbound: Inbound, *, api_version: str | None) -> bool:
        """Whether the model's name travels in the address instead of the body."""
        ...

    def classify(self, outcome: Outcome, *, own_key: bool, now_unix: float, errors: Sequence[Rule] = ()) -> Verdict:
        """Judge an outcome that is not a good answer. `own_key`: the credential was ours, not passed through.

        `now_unix` (seconds since the epoch) serves delays that are stated as dates. `errors` are the operator's own rules for this
        provider's error answers, looked at before the dialect's. Returns a verdict with a fault, except for a 2xx JSON answer
        without an error object in it, which is `OK`.
        """
        ...

    def suspects(self, body: bytes) -> bool:
        """Whether a whole 2xx JSON answer may be an error in disguise and should be classified; costs next to nothing."""
        ...

    def stream(self, family: Family) -> StreamReader:
        """Return a fresh reader for one streamed answer of this family."""
        ...

    def usage(self, body: bytes) -> tuple[int, int] | None:
        """Return (input, output) tokens reported by a whole non-streamed JSON answer, or None."""
        ...
