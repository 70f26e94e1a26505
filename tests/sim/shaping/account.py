"""A provider with a true limit: buckets that gain evenly and hold so much, kept here without a look at the gateway's own.

What it lets through it enters into books of its own, with the moment and the tokens, and what it refuses too; all figures are read
from these. A request is weighed when it arrives, which is a jittered moment after it was sent, and overtakes others on its way.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from tests.sim.answers import JSON, Lines
from tests.sim.clock import BEGIN_S
from tests.sim.ledger import Desk, Visit
from tests.sim.plays import Step, _head
from tests.sim.provider import SimulatedProvider, Spell

TRANSIT_S = (0.002, 0.05)
"""One way through the network."""
LATENCY_S = (0.5, 2.0)
CHARS_PER_TOKEN = 4.4
"""Unlike what the gateway begins with."""
AROUND = (0.85, 1.15)
"""How far one text's ratio is from the mean."""
HOLD_S = 5
"""How long the refusal `rate_once` keeps everybody away."""


class Meter:
    """One true bucket: so much a minute of requests or tokens, as much as `burst_s` brings at once; full at first."""

    def __init__(self, resource: str, per_minute: float, burst_s: float = 60.0, *, stated: bool = True) -> None:
        self.resource = resource
        self.per_minute = per_minute
        self.holds = max(1.0, per_minute * burst_s / 60.0)
        self.stated = stated
        """It shows in headers, where the provider states anything. Azure looks at a few seconds, and states the minute."""
        self._left = self.holds
        self._seen_s = 0.0

    def left(self, now: float) -> float:
        """Return what is in it."""
        gained = (now - self._seen_s) * self.per_minute / 60.0
        self._left, self._seen_s = min(self.holds, self._left + gained), now
        return self._left

    def lacks_s(self, now: float, amount: float) -> float:
        """Return in how many seconds it will hold so much; infinite: never."""
        if amount > self.holds:
            return math.inf
        short = amount - self.left(now)
        return short * 60.0 / self.per_minute if short > 1e-9 else 0.0

    def take(self, now: float, amount: float) -> None:
        """Take out so much, or give back."""
        self._left = self.left(now) - amount


@dataclass(slots=True)
class Entry:
    """One request in the provider's books."""

    at_s: float
    """When it arrived, since the beginning."""
    errand: str
    client: str
    granted: bool
    tokens: float
    """Charged: at first what it might take, in the end what it took, where the rest is given back."""
    used: float = 0.0
    """Tokens it really took."""


Says = Callable[[float, str], tuple[Lines, str, str]]
"""What a refusal says, from the seconds until there will be room and the resource that lacks: headers, a sentence, a type."""


def with_delay(wait_s: float, resource: str) -> tuple[Lines, str, str]:
    """Say when there will be room, to the millisecond, and of what there was none."""
    return ((b"retry-after-ms", b"%d" % math.ceil(wait_s * 1000.0)),), f"Rate limit reached for {resource}.", resource


def bare(_wait_s: float, _resource: str) -> tuple[Lines, str, str]:
    """Say nothing but no."""
    return (), "Too many requests.", "rate_limit_error"


class LimitedProvider(SimulatedProvider):
    """One account with its meters and its books."""

    def __init__(
        self,
        name: str,
        meters: Sequence[Meter] = (),
        *,
        states: bool = False,
        refunds: bool = True,
        says: Says = with_delay,
        latency_s: tuple[float, float] = LATENCY_S,
        weather: Sequence[Spell] = (),
    ) -> None:
        super().__init__(name, keys=(f"sk-{name}",), weather=weather)
        self.meters = tuple(meters)
        self.states = states
        """Limits, in the headers of every answer, as OpenAI does."""
        self.refunds = refunds
        """It gives back what an answer did not take of its `max_tokens`. OpenAI's does not."""
        self.says = says
        self.latency_s = latency_s
        self.books: list[Entry] = []

    def steps(self, desk: Desk, visit: Visit, body: bytes, connect_s: float) -> Iterable[Step]:
        if visit.trouble not in ("ok", "rate_plenty", "rate_once"):
            return super().steps(desk, visit, body, connect_s)
        return self._weigh(desk, visit, body, self._dice(desk, visit, "steps"))

    def _weigh(self, desk: Desk, visit: Visit, body: bytes, dice: random.Random) -> Iterator[Step]:
        yield Step(dice.uniform(*TRANSIT_S), "connect")
        # It is here: whoever performs the steps asks for the next one now, and not before.
        now = desk.loop.time()
        document = orjson.loads(body)
        prompt = round(sum(len(turn["content"]) for turn in document["messages"]) / CHARS_PER_TOKEN * dice.uniform(*AROUND)) or 1
        most = document["max_tokens"]
        entry = Entry(now - BEGIN_S, visit.client, _owner(visit.client), True, prompt + most)
        self.books.append(entry)
        lacking = [(meter.lacks_s(now, _amount(meter, entry)), meter) for meter in self.meters]
        wait_s, scarcest = max(lacking, key=lambda pair: pair[0], default=(0.0, None))
        back_s = dice.uniform(*TRANSIT_S)
        if visit.trouble != "ok":
            entry.granted = False
            lines: Lines = ((b"retry-after", b"%d" % HOLD_S),) if visit.trouble == "rate_once" else ()
            yield from self._refuse(now, back_s, lines, "Rate limit reached for requests.", "requests")
            return
        if wait_s and scarcest is not None:
            entry.granted = False
            visit.trouble = "limited"
            visit.asked_delay_s = wait_s
            yield from self._refuse(now, back_s, *self.says(wait_s, scarcest.resource))
            return
        for meter in self.meters:
            meter.take(now, _amount(meter, entry))
        told = self._stated(now)
        made = max(1, round(most * dice.betavariate(2.0, 3.0)))
        visit.good = True
        text = orjson.dumps(_completion(visit.tag, prompt, made))
        yield Step(dice.uniform(*self.latency_s), "head", head=_head(200, (*JSON, *told), len(text)))
        yield Step(back_s, "data", chunk=text, whole=True, lives=True)
        entry.used = prompt + made
        if self.refunds:
            for meter in self.meters:
                if meter.resource == "tokens":
                    meter.take(desk.loop.time() - back_s, entry.used - entry.tokens)
            entry.tokens = entry.used
        yield Step(0.0, "end", whole=True, lives=True)

    def _refuse(self, now: float, back_s: float, lines: Lines, sentence: str, kind: str) -> Iterator[Step]:
        error = {"message": sentence, "type": kind, "param": None, "code": "rate_limit_exceeded"}
        body = orjson.dumps({"error": error})
        yield Step(back_s, "head", head=_head(429, (*JSON, *lines, *self._stated(now)), len(body)))
        yield Step(0.0, "data", chunk=body)
        yield Step(0.0, "end")

    def _stated(self, now: float) -> Lines:
        if not self.states:
            return ()
        lines: list[tuple[bytes, bytes]] = []
        for meter in self.meters:
            if meter.stated:
                left, kind = meter.left(now), meter.resource.encode()
                reset_s = (meter.holds - left) * 60.0 / meter.per_minute
                lines += [
                    (b"x-ratelimit-limit-" + kind, b"%d" % meter.per_minute),
                    (b"x-ratelimit-remaining-" + kind, b"%d" % max(0.0, left)),
                    (b"x-ratelimit-reset-" + kind, _go(reset_s)),
                ]
        return tuple(lines)


def _amount(meter: Meter, entry: Entry) -> float:
    return 1.0 if meter.resource == "requests" else entry.tokens


def _owner(errand: str) -> str:
    return errand.partition(":")[0]


def _go(seconds: float) -> bytes:
    """Write seconds as Go does: `1m2.5s`, `120ms`."""
    millis = math.ceil(seconds * 1000.0)
    if millis < 1000:
        return b"%dms" % millis
    minutes, millis = divmod(millis, 60_000)
    text = f"{millis / 1000.0:.3f}".rstrip("0").rstrip(".") + "s"
    return (f"{minutes}m{text}" if minutes else text).encode()


def _completion(tag: str, prompt: int, made: int) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "gpt-4o-2024-08-06",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": f"Hello {tag}"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made},
    }
