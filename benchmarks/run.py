"""The whole comparison: rounds in which every contender takes its turn at every measurement.

The law here: contenders are interleaved, never one after the other, so that a neighbour's busy minute falls on all of them; and the
memory of a process is read before any other load has grown it.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop

from benchmarks import measures, table
from benchmarks.contenders import (
    BEFORE,
    MAKERS,
    Contender,
    Maker,
    NotStartedError,
    Running,
    before,
    ending,
    free_ports,
    stub_contender,
)
from benchmarks.measures import CHAT, RATES_PER_S, Subject
from gateway.build import build


@dataclass(frozen=True, slots=True)
class Pace:
    """How long and how often; seconds are per contender, measurement and round."""

    rounds: int
    starts: int
    request_s: float
    large_s: float
    latency_s: float


# Many short turns, not a few long ones: a busy neighbour stays for seconds, and a ratio needs both its values from the same ones.
FULL: Final = Pace(rounds=8, starts=3, request_s=0.7, large_s=0.4, latency_s=1.0)
QUICK: Final = Pace(rounds=2, starts=1, request_s=0.5, large_s=0.3, latency_s=0.5)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


async def _started(contender: Contender, processes: list[Running], work: Path, starts: int) -> Subject | None:
    """Starts a contender so many times, leaves the last one running, and reads its memory; None where it does not start."""
    times_ms = []
    for left in reversed(range(starts)):
        try:
            running = await Running.start(contender, CHAT, work)
        except NotStartedError as error:
            _say(f"skipped {contender.name}: {error}")
            return None
        times_ms.append(running.start_s * 1_000)
        if left:
            running.stop()
        else:
            processes.append(running)
    subject = Subject(contender.name, contender.port, processes[-1].pid)
    subject.readings["start_ms"] = times_ms
    await measures.memory(subject)
    return subject


async def _compare(makers: dict[str, Maker], pace: Pace, work: Path) -> tuple[Subject, list[Subject]]:
    stub_port, *ports = free_ports(1 + 2 * len(makers))
    processes: list[Running] = []
    with ending(processes):
        processes.append(await Running.start(stub_contender(stub_port), CHAT, work))
        direct = Subject("direct", stub_port, None)
        subjects = []
        for (name, maker), port, admin in zip(makers.items(), ports[::2], ports[1::2], strict=True):
            _say(f"starting {name}, then 1,000 slow streams")
            subject = await _started(maker(work, stub_port, port, admin), processes, work, pace.starts)
            if subject is not None:
                subjects.append(subject)
        for turn in range(pace.rounds if subjects else 0):
            _say(f"round {turn + 1} of {pace.rounds}")
            for subject in subjects:
                await measures.requests(subject, pace.request_s)
            for subject in subjects:
                await measures.chunks(subject)
            for subject in subjects:
                await measures.large(subject, pace.large_s)
            for rate in RATES_PER_S:
                for subject in (direct, *subjects):
                    await measures.latency(subject, rate, pace.latency_s, seed=turn)
        return direct, subjects


def _record(direct: Subject, subjects: list[Subject], pace: Pace) -> dict[str, Any]:
    """Everything that was read, for a program to compare with another run."""
    return {
        "rounds": pace.rounds,
        "contenders": {
            subject.name: {
                "readings": dict(subject.readings),
                "answers": subject.answers,
                "errors": subject.errors,
                "trouble": subject.trouble,
            }
            for subject in (direct, *subjects)
        },
    }


def compare(arguments: argparse.Namespace) -> int:
    """Runs the comparison that the arguments ask for and prints it; 1 where nothing could be measured."""
    # A thousand streams are two thousand files of a contender; what is set here, it inherits.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    began = time.monotonic()
    pace = QUICK if arguments.quick else FULL
    makers = {name: MAKERS[name] for name in arguments.only}
    if arguments.beside is not None:
        makers[BEFORE] = before(arguments.beside)
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as work:
        direct, subjects = uvloop.run(_compare(makers, pace, Path(work)))
    if not subjects:
        _say("no contender started")
        return 1
    for block in (table.costs(direct, subjects), table.ratios(subjects), table.targets(subjects)):
        if block:
            print(block, end="\n\n")
    for subject in (direct, *subjects):
        for line in subject.trouble:
            print(f"{subject.name}: {line}")
    _say(f"{pace.rounds} rounds in {time.monotonic() - began:.0f} s; the gateway is {build()}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(_record(direct, subjects, pace), indent=1) + "\n")
    return 0
