"""The ledger of the simulated providers: the independent witness of the simulation.

It is written by the providers alone, from what reached them and what they did, never from the gateway's records; every invariant
compares the one with the other. Beside it the `Desk`: the order of things, and the log that failures are told from.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.sim.clock import BEGIN_S, VirtualLoop

FOREVER = float("inf")


@dataclass(slots=True)
class Visit:
    """One entry of the ledger: one upstream request."""

    number: int
    provider: str
    client: str
    key: str
    model: str
    method: str
    path: str
    raw: bytes
    """Head and body as they came."""
    started_at: float
    started_seq: int
    nth: int
    """The client's how manieth request here, over all its attempts."""
    prefill: str | None = None
    """The beginning of its answer that was put in its mouth."""
    continues: bool = True
    """It goes on from such a beginning; else it takes it for a turn of the conversation, and answers as it likes."""
    counts: bool = False
    """Asked for the usage, it tells it beside every piece."""
    trouble: str = "ok"
    sent: bool = False
    """The connection was there: the provider may have seen the request."""
    status: int = 0
    wrote: bytearray = field(default_factory=bytearray)
    """Body bytes that left the provider."""
    good: bool = False
    """What it sets out to say is a whole, good answer."""
    whole: bool = False
    """And all of it that matters was said."""
    billed: bool = False
    """It began to give a good answer, which costs money whether anybody hears it or not."""
    asked_delay_s: float | None = None
    """How long it asked to be left alone, and from when on that was known."""
    asked_at: float = 0.0
    advice: dict[str, str] = field(default_factory=dict)
    """What it said about coming back: `x-should-retry`, `retry-after`, `retry-after-ms`."""
    spoke_seq: int = 0
    """When the first part of an answer left it: content of a stream, the end of another model's answer, the first byte of anything
    else."""
    spoke_at: float = FOREVER
    end: str = ""
    """`finished`, `failed` or `cancelled`; empty while open."""
    closed_at: float = FOREVER
    closed_seq: int = 0

    @property
    def tag(self) -> str:
        """What marks its words."""
        return f"<{self.provider}#{self.number}>"


class Desk:
    """What all simulated providers share: the loop, the numbers of visits, the order of things, the log."""

    def __init__(self, loop: VirtualLoop, seed: int) -> None:
        self.loop = loop
        self.seed = seed
        self.visits: list[Visit] = []
        self.log: list[tuple[float, str, str]] = []
        """(when, client, what): the story."""
        self._seq = 0

    def next(self) -> int:
        """Return a number greater than all before: the order of things that happen at one moment."""
        self._seq += 1
        return self._seq

    def tell(self, client: str, text: str) -> None:
        """Note something in the log."""
        self.log.append((self.loop.time() - BEGIN_S, client, text))
