"""Apps that call the gateway, or a provider itself, and note to the millisecond what they were told.

The law here: a caller believes nothing but what is on its socket, and comes back as the official SDKs do: `x-should-retry` first, then
the status; `retry-after-ms`, `retry-after`, else half a second that doubles. `pace` shrinks those delays, so that ten seconds hold
what a real crowd does in minutes; the load is the harder for it. Separate from the tests, because two files of figures share it, and
plain HTTP instead of an SDK, because hundreds of callers must not be slower than what they measure.
"""

from __future__ import annotations

import asyncio
import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp
import pytest

from gateway.drill.answers import Voice
from tests.e2e.shapes import MODEL, PROMPT

SDK_RETRIES = 2
SDK_FIRST_S = 0.5
SDK_LONGEST_S = 8.0
GIVE_UP_S = 30.0
"""No answer at all for so long fails a test."""


@dataclass(slots=True)
class Told:
    """One answer, as its caller saw it. `at_s` is the loop's time when it was asked."""

    at_s: float
    took_s: float
    status: int
    headers: Mapping[str, str]
    body: bytes
    retry: bool = False
    """The request said that it was one."""

    @property
    def reason(self) -> str:
        return self.headers.get("x-gateway-reason", "")

    @property
    def provider(self) -> str:
        return self.headers.get("x-gateway-provider", "")

    @property
    def trail(self) -> list[str]:
        """Who was asked and what came of it, without the times."""
        return [step.partition("/")[0] for step in self.headers.get("x-gateway-trail", "").split(", ") if step]

    @property
    def attempts(self) -> int:
        return int(self.headers.get("x-gateway-attempts", "0"))

    @property
    def json(self) -> bool:
        return self.headers.get("content-type", "").partition(";")[0] == "application/json"

    @property
    def error(self) -> dict[str, Any]:
        """The error object; raises where this is no answer in OpenAI's shape of errors."""
        assert self.json, (self.headers.get("content-type"), self.body[:200])
        error = json.loads(self.body)["error"]
        assert isinstance(error["message"], str)
        assert error.keys() >= {"message", "type", "param", "code"}
        return error  # type: ignore[no-any-return]

    @property
    def retried_after_s(self) -> float | None:
        """The delay that the SDKs would read."""
        if "retry-after-ms" in self.headers:
            return float(self.headers["retry-after-ms"]) / 1000
        return float(self.headers["retry-after"]) if "retry-after" in self.headers else None

    @property
    def worth_retrying(self) -> bool:
        """What the SDKs would make of it."""
        word = self.headers.get("x-should-retry")
        return word == "true" if word is not None else self.status in {408, 409, 429} or self.status >= 500

    def said_by(self, voice: Voice) -> bool:
        """Whether this is the whole answer of this provider, streamed or not."""
        if self.status != 200:
            return False
        if self.json:
            return bool(json.loads(self.body)["choices"][0]["message"]["content"] == voice.text(PROMPT))
        events = [event.removeprefix(b"data: ") for event in self.body.split(b"\n\n") if event]
        pieces = [choice["delta"].get("content") or "" for event in events[:-1] for choice in json.loads(event)["choices"]]
        return events[-1] == b"[DONE]" and "".join(pieces) == voice.text(PROMPT)


@dataclass
class App:
    """Calls one base URL. `told` holds every answer, the ones before a retry included; `calls` counts what was asked for."""

    url: str
    retries: int = SDK_RETRIES
    pace: float = 1.0
    """All delays before a retry times this; 0 comes back at once."""
    counts: bool = True
    """Says with every retry that it is one, as the SDKs do."""
    calls: int = 0
    told: list[Told] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=GIVE_UP_S)
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def ask(self, *, model: str = MODEL, stream: bool = False, headers: Mapping[str, str] | None = None) -> Told:
        """Ask once, for a chat completion."""
        body = {"model": model, "messages": PROMPT, **({"stream": True} if stream else {})}
        began = asyncio.get_running_loop().time()
        url = f"{self.url}/chat/completions"
        async with self._session.post(url, json=body, headers={"authorization": "Bearer sk-client", **(headers or {})}) as answer:
            raw = await answer.read()
            told = Told(began, asyncio.get_running_loop().time() - began, answer.status, answer.headers, raw)
        self.told.append(told)
        return told

    async def insist(self, **how: Any) -> Told:
        """Ask, and come back as an SDK does; return the last word."""
        self.calls += 1
        told = await self.ask(**how)
        for retry in range(self.retries):
            if not told.worth_retrying:
                break
            delay_s = told.retried_after_s or min(SDK_LONGEST_S, SDK_FIRST_S * 2.0**retry)
            await asyncio.sleep(self.pace * delay_s)
            told = await self.ask(**how, headers={"x-stainless-retry-count": str(retry + 1)} if self.counts else None)
            told.retry = self.counts
        return told

    async def crowd(self, callers: int, seconds: float, pause_s: float) -> None:
        """Let so many callers insist, each with a pause between its calls, until the time is over."""
        until = asyncio.get_running_loop().time() + seconds

        async def one(number: int) -> None:
            # Spread over one pause: a crowd that starts at the same instant is another experiment.
            await asyncio.sleep(pause_s * number / callers)
            while asyncio.get_running_loop().time() < until:
                await self.insist()
                await asyncio.sleep(pause_s)

        await asyncio.gather(*map(one, range(callers)))


def show(capsys: pytest.CaptureFixture[str], line: str) -> None:
    """Print a line of figures past pytest's capture: what such a test is run for."""
    with capsys.disabled():
        print(f"\n  {line}")  # noqa: T201 - it is the test's output


def p50_ms(told: Iterable[Told]) -> float:
    """The median of what answers took, in milliseconds."""
    return 1000 * statistics.median(one.took_s for one in told)


def per_second(times_s: Iterable[float], began_s: float, seconds: int) -> list[int]:
    """How many fell into each second after the beginning."""
    counts = [0] * seconds
    for at_s in times_s:
        if 0 <= at_s - began_s < seconds:
            counts[int(at_s - began_s)] += 1
    return counts
