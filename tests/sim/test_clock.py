"""The virtual loop itself: time jumps, deadlocks and spins are named, crashes are kept."""

from __future__ import annotations

import pytest

from tests.sim.clock import BEGIN_S, Deadlock, Spin, VirtualLoop


@pytest.fixture
def loop():
    loop = VirtualLoop()
    yield loop
    loop.close()


def test_an_hour_passes_in_order(loop):
    seen = []
    for after_s in (3600.0, 0.001, 60.0):
        loop.call_later(after_s, lambda after_s=after_s: seen.append((after_s, round(loop.time() - BEGIN_S, 6))))
    loop.call_later(3600.1, loop.stop)
    assert loop.run_to_end(lambda: None) is None
    assert seen == [(0.001, 0.001), (60.0, 60.0), (3600.0, 3600.0)]


def test_nothing_left_to_wait_for_is_a_deadlock(loop):
    found = loop.run_to_end(lambda: loop.call_later(5.0, lambda: None))
    assert isinstance(found, Deadlock)
    assert "at 5.000 s" in str(found)


def test_callbacks_that_wake_each_other_for_ever_are_a_spin(loop):
    def again():
        loop.call_soon(again)

    assert isinstance(loop.run_to_end(again), Spin)


def test_what_a_callback_raises_is_kept(loop):
    loop.call_later(1.0, lambda: 1 / 0)
    loop.call_later(2.0, loop.stop)
    loop.run_to_end(lambda: None)
    assert [type(crash) for crash in loop.crashes] == [ZeroDivisionError]
