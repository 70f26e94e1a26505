"""An app's traffic, and what the app saw of it.

Open loop: requests leave on a fixed schedule whatever became of earlier ones, so that a slow answer cannot hide the load. An answer
counts as whole only if it is exactly the text that the provider named in it would give, to its last event.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable

import aiohttp

MODEL = "gpt-4o"
PROMPT = "Tell me something that survives."


class Tally:
    """What the app counted."""

    def __init__(self) -> None:
        self.sent = 0
        self.whole = 0
        self.saved = 0
        """Whole answers whose trail has more than one attempt."""
        self.failed: Counter[str] = Counter()
        """Answers that were not whole, by what the app saw."""
        self.served_by: Counter[str] = Counter()
        self.times_s: list[float] = []
        """Seconds to the whole answer, of those that were whole."""

    def quantile_ms(self, share: float, last: int | None = None) -> float:
        """Return a quantile of the answers' times in milliseconds, over all or the last so many; 0 without any."""
        times = sorted(self.times_s[-last:] if last else self.times_s)
        return 1000 * times[min(len(times) - 1, int(share * len(times)))] if times else 0.0


class App:
    """Sends `rate` requests per second to a base URL, every second one as a stream."""

    def __init__(self, base_url: str, rate: float, expected: Callable[[str], str]) -> None:
        self._url = f"{base_url}/chat/completions"
        self._interval_s = 1 / rate
        self._expected = expected
        """The text that the provider of this name gives for our prompt."""
        self._under_way: set[asyncio.Task[None]] = set()
        self.tally = Tally()

    async def run(self, until: float) -> None:
        """Send until the loop's clock reads `until`, then wait for the answers still under way."""
        loop = asyncio.get_running_loop()
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
            due = loop.time()
            while due < until:
                await asyncio.sleep(max(0.0, due - loop.time()))
                self._send(session)
                due += self._interval_s
            if self._under_way:
                await asyncio.wait(self._under_way)

    def _send(self, session: aiohttp.ClientSession) -> None:
        self.tally.sent += 1
        task = asyncio.ensure_future(self._ask(session, stream=self.tally.sent % 2 == 0))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _ask(self, session: aiohttp.ClientSession, *, stream: bool) -> None:
        tally, began = self.tally, time.monotonic()
        body = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}], "stream": stream}
        try:
            async with session.post(self._url, json=body) as answer:
                raw = await answer.read()
                provider = answer.headers.get("x-gateway-provider", "")
                attempts = int(answer.headers.get("x-gateway-attempts", "0"))
                status = answer.status
        except (aiohttp.ClientError, TimeoutError) as error:
            tally.failed[type(error).__name__] += 1
            return
        if status != 200:
            tally.failed[f"status {status}"] += 1
        elif (streamed(raw) if stream else spoken(raw)) != self._expected(provider):
            tally.failed["cut after it began"] += 1
        else:
            tally.whole += 1
            tally.saved += attempts > 1
            tally.served_by[provider] += 1
            tally.times_s.append(time.monotonic() - began)


def spoken(raw: bytes) -> str | None:
    """Return the text of a chat completion, None where it is not one."""
    try:
        return str(json.loads(raw)["choices"][0]["message"]["content"])
    except (ValueError, LookupError, TypeError):
        return None


def streamed(raw: bytes) -> str | None:
    """Return the text of a streamed chat completion, None unless it ends as it should."""
    events = [event.removeprefix(b"data: ") for event in raw.split(b"\n\n") if event.startswith(b"data: ")]
    if not events or events[-1] != b"[DONE]":
        return None
    try:
        chunks = [json.loads(event) for event in events[:-1]]
        return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    except (ValueError, LookupError, TypeError):
        return None
