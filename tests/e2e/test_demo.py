"""`gateway demo` keeps its promise, and its numbers agree with each other."""

from __future__ import annotations

import re
import signal

import openai
import pytest

from tests.e2e.process import run, running
from tests.e2e.shapes import ask

RATE_PER_S = 25
PROGRESS = re.compile(
    r"\s*([\d.]+) s  requests (\d+)  whole (\d+)  saved (\d+)  failed (\d+)  attempts: (.+?)  p50 \d+ ms  p99 \d+ ms"
)


@pytest.mark.slow
async def test_an_outage_of_six_seconds_is_survived_and_counted() -> None:
    status, out, err = await run("demo", "--seconds", "6", timeout_s=60)
    assert status == 0, out + err
    assert "\x1b" not in out
    assert err == ""
    requests = number(r"^requests +(\d+)", out)
    whole = number(r"answered whole +(\d+)", out)
    failed = number(r"failed +(\d+)$", out)
    saved, by_metric = number(r"needed saving +(\d+)", out), number(r"gateway_saved_requests_total: (\d+)", out)
    assert RATE_PER_S * 6 * 0.5 < requests <= RATE_PER_S * 6 + 1
    assert (whole, failed) == (requests, 0)
    assert saved == by_metric > 0
    answered = counts(re.search(r"answered by +(.+)", out))
    received = counts(re.search(r"attempts received +(.+?)  \(", out))
    assert sum(answered.values()) == whole
    assert all(received[name] >= count for name, count in answered.items())
    assert answered.keys() == received.keys() == {"primary", "second", "third"}
    assert sum(received.values()) <= requests * 2
    staged = re.findall(r"--- +([\d.]+) s  (.+)", out)
    assert [what for _, what in staged] == [
        "all is well",
        "primary answers 502 to everything",
        "primary is dead: connections refused",
        "second takes 3 s for a first token",
        "primary is back",
    ]
    lines = [match for line in out.splitlines() if (match := PROGRESS.fullmatch(line))]
    assert len(lines) >= 3
    assert all(int(line[3]) + int(line[5]) <= int(line[2]) for line in lines)
    assert [int(line[2]) for line in lines] == sorted(int(line[2]) for line in lines)


async def test_the_demo_can_be_tried_out_and_interrupted() -> None:
    async with running("demo", "--seconds", "0.5", "--keep") as process:
        line = await process.out.saying("still serving")
        url = re.search(r"OPENAI_BASE_URL=(\S+)", line)
        assert url is not None
        async with openai.AsyncOpenAI(base_url=url[1], api_key="any", max_retries=0) as client:
            answer = await client.chat.completions.create(**ask())
        assert answer.choices[0].message.content
        process.signal(signal.SIGINT)
        assert await process.ended() in {0, 130}
        assert process.err.text == ""


def number(pattern: str, text: str) -> int:
    found = re.search(pattern, text, re.MULTILINE)
    assert found is not None, (pattern, text)
    return int(found[1])


def counts(found: re.Match[str] | None) -> dict[str, int]:
    assert found is not None
    return {name: int(count) for name, count in (entry.split() for entry in found[1].split(", "))}
