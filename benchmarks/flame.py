"""Where a contender's time goes: py-spy on its process while it is under load.

The law here: the profile is taken under the same load and the same configuration as the comparison, or it explains another number.
Needs the right to trace a child process: on Linux root, or `kernel.yama.ptrace_scope` of 1 and a child, which it is.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path
from typing import Final

import uvloop

from benchmarks import measures
from benchmarks.contenders import MAKERS, NotStartedError, Running, ending, find_tool, free_ports, stub_contender
from benchmarks.measures import CHAT, Subject

LOADS: Final = ("requests", "chunks", "large")


async def _load(subject: Subject, kind: str, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while loop.time() < until:
        match kind:
            case "requests":
                await measures.requests(subject, until - loop.time())
            case "chunks":
                await measures.chunks(subject)
            case _:
                await measures.large(subject, 1.0)


def _apart(pid: int, cpus: set[int]) -> None:
    """Gives the contender the last processor and everybody else the others.

    A write to a socket wakes the peer; on a shared processor the peer often takes over right there, and a profiler that samples by
    the wall clock then charges its time to the write.
    """
    if len(cpus) > 1:
        last = max(cpus)
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {last})


async def _profile(name: str, kind: str, seconds: int, py_spy: list[str], work: Path) -> int:
    stub_port, port, admin = free_ports(3)
    processes: list[Running] = []
    cpus = os.sched_getaffinity(0)
    if len(cpus) > 1:
        os.sched_setaffinity(0, cpus - {max(cpus)})
    with ending(processes):
        processes.append(await Running.start(stub_contender(stub_port), CHAT, work))
        running = await Running.start(MAKERS[name](work, stub_port, port, admin), CHAT, work)
        processes.append(running)
        subject = Subject(name, port, running.pid)
        _apart(running.pid, cpus)
        await _load(subject, kind, 1.0)
        recorder = await asyncio.create_subprocess_exec(*py_spy, "--pid", str(subject.pid))
        try:
            await _load(subject, kind, seconds + 0.5)
            status = await recorder.wait()
        finally:
            if recorder.returncode is None:
                recorder.terminate()
                await recorder.wait()
        for line in subject.trouble:
            print(line, file=sys.stderr)
        return status


def profile(arguments: argparse.Namespace) -> int:
    """Records the profile that the arguments ask for; 1 where py-spy is missing or the contender does not start."""
    binary = find_tool("py-spy")
    if binary is None:
        print("py-spy is not installed; pip install py-spy", file=sys.stderr)
        return 1
    command = [binary, "record", "--format", arguments.format, "--output", str(arguments.out), "--rate", "500"]
    # Whoever waits for the interpreter's lock does no work: only its holder is sampled.
    command += ["--gil", "--duration", str(arguments.seconds)]
    if arguments.native:
        command.append("--native")
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as work:
        try:
            return uvloop.run(_profile(arguments.contender, arguments.load, arguments.seconds, command, Path(work)))
        except NotStartedError as error:
            print(f"{arguments.contender}: {error}", file=sys.stderr)
            return 1
