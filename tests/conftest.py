"""In CI a skipped test is a failed one: what a user's machine may lack, CI has to install."""

from __future__ import annotations

import asyncio
import gc
import os

import pytest

from gateway.build import build


@pytest.fixture(scope="session", autouse=True)
def no_loop_outside_tests() -> None:
    """pytest-asyncio asks for the thread's loop before its first test, and on Python 3.11 that makes one which nobody closes."""
    asyncio.set_event_loop(None)


def pytest_xdist_auto_num_workers() -> int | None:
    """One more worker than cores: many tests wait for sockets and processes. xdist's own environment variable goes before."""
    if os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS"):
        return None
    return 1 + (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def pytest_collection_finish() -> None:
    """Spare collections the walk through thousands of tests, and have fewer: 6 % of the processor time of small tests, 17 % of large ones."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, before a compiled gateway, what puts other code in the place of its own: compiled callers would not see it."""
    if build() != "compiled":
        return
    left_out = [item for item in items if item.get_closest_marker("interpreted")]
    items[:] = [item for item in items if not item.get_closest_marker("interpreted")]
    config.hook.pytest_deselected(items=left_out)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the whole run for a skipped test, where there is no excuse for one."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not os.environ.get("CI") or hasattr(session.config, "workerinput"):
        return
    if reporter.stats.get("skipped"):
        reporter.write_line("a test was skipped in CI, which counts as failed", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
