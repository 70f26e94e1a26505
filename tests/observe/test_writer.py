"""Lines through a pipe whose reader reads, stalls, leaves, or was never willing to block."""

import fcntl
import os
import threading
from pathlib import Path

import pytest

from gateway.observe.writer import LineWriter

LINE = b"x" * 399 + b"\n"


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    ends = {"reader": reader, "writer": writer}
    yield ends
    for fd in ends.values():
        if fd is not None:
            os.close(fd)


def read_all(pipe):
    """Close the writing end and return everything that was in the pipe."""
    os.close(pipe["writer"])
    pipe["writer"] = None
    found = bytearray()
    while chunk := os.read(pipe["reader"], 1 << 16):
        found += chunk
    return bytes(found)


def test_lines_arrive_whole_and_in_order(pipe):
    lines = [b"%d\n" % number for number in range(5_000)]
    found = bytearray()

    def read():
        while chunk := os.read(pipe["reader"], 1 << 16):
            found.extend(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    log = LineWriter(pipe["writer"], linger_s=0)
    for line in lines:
        log.append(line)
    assert log.close(20)
    os.close(pipe["writer"])
    pipe["writer"] = None
    reader.join(20)
    assert bytes(found) == b"".join(lines)
    assert log.dropped == 0


def test_a_line_is_written_without_any_further_event(pipe):
    log = LineWriter(pipe["writer"], linger_s=0)
    for number in range(50):
        # Each read waits until the thread, idle again, was woken by this very line.
        log.append(b"%d\n" % number)
        assert os.read(pipe["reader"], 100) == b"%d\n" % number
    assert log.close(20)


def test_a_line_that_comes_while_the_thread_falls_asleep_is_not_forgotten(pipe, monkeypatch):
    built = threading.Event()
    late = [b"late\n"]
    log = None

    class Wake(threading.Event):
        def clear(self):
            super().clear()
            if built.wait(20) and late:
                log.append(late.pop())

    with monkeypatch.context() as patch:
        patch.setattr(threading, "Event", Wake)
        log = LineWriter(pipe["writer"], linger_s=0)
    built.set()
    assert os.read(pipe["reader"], 100) == b"late\n"
    assert log.close(20)


def test_appending_never_blocks_on_a_stalled_reader_and_every_line_is_accounted_for(pipe):
    log = LineWriter(pipe["writer"], capacity=1_000, linger_s=0)
    appended = 20_000
    for _ in range(appended):
        log.append(LINE)
    # Nobody has read a byte: a pipe and the queue together hold less than was appended.
    assert log.dropped > appended - 1_000 - 3 * 65_536 // len(LINE)
    held_back = log.dropped
    outcome = []

    def close():
        outcome.append(log.close(20))
        os.close(pipe["writer"])
        pipe["writer"] = None

    closing = threading.Thread(target=close)
    closing.start()
    found = bytearray()
    while chunk := os.read(pipe["reader"], 1 << 16):
        found += chunk
    closing.join(20)
    assert outcome == [True]
    assert log.dropped == held_back
    assert bytes(found) == LINE * (appended - held_back)


def test_closing_gives_up_on_a_stalled_reader_within_its_timeout(pipe):
    log = LineWriter(pipe["writer"], capacity=1_000, linger_s=0)
    for _ in range(1_000):
        log.append(LINE)
    assert not log.close(0.05)
    in_the_pipe = 65_536 // len(LINE) + 1
    assert log.dropped >= 1_000 - in_the_pipe
    # The thread left behind ends by itself once its write returns.
    os.close(pipe["reader"])
    pipe["reader"] = None
    log._worker.join(20)
    assert not log._worker.is_alive()
    assert 1_000 - in_the_pipe <= log.dropped <= 1_000


def test_after_closing_lines_are_dropped_and_counted(pipe):
    log = LineWriter(pipe["writer"])
    log.append(b"a\n")
    assert log.close(20)
    log.append(b"b\n")
    assert log.dropped == 1
    assert read_all(pipe) == b"a\n"


def test_a_reader_that_has_gone_costs_the_lines_and_nothing_else(pipe):
    os.close(pipe["reader"])
    pipe["reader"] = None
    log = LineWriter(pipe["writer"], linger_s=0)
    for _ in range(10):
        log.append(LINE)
    assert log.close(20)
    assert log.dropped == 10


def test_a_closed_descriptor_costs_the_lines_and_nothing_else():
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    log = LineWriter(writer, linger_s=0)
    log.append(LINE)
    assert log.close(20)
    assert log.dropped == 1


def test_a_full_disk_costs_the_lines_at_hand_and_not_the_log():
    with Path("/dev/full").open("wb", buffering=0) as full:
        log = LineWriter(full.fileno(), linger_s=0)
        log.append(LINE)
        log.append(LINE)
        assert log.close(20)
        assert log.dropped == 2


def test_a_descriptor_in_non_blocking_mode_is_waited_for(pipe):
    flags = fcntl.fcntl(pipe["writer"], fcntl.F_GETFL)
    fcntl.fcntl(pipe["writer"], fcntl.F_SETFL, flags | os.O_NONBLOCK)
    log = LineWriter(pipe["writer"], linger_s=0)
    expected = 2_000 * len(LINE)
    for _ in range(2_000):
        log.append(LINE)
    found = 0
    while found < expected:
        found += len(os.read(pipe["reader"], 1 << 16))
    assert log.close(20)
    assert log.dropped == 0


def test_lingering_does_not_hold_up_closing(pipe):
    log = LineWriter(pipe["writer"], linger_s=3600)
    log.append(b"a\n")
    assert log.close(20)
    assert read_all(pipe) == b"a\n"
