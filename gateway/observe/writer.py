"""Lines to a file descriptor, without ever waiting for its reader.

Law 13 holds here: a stalled log reader slows nothing. The event loop only appends to a bounded queue; one daemon thread writes.
When the queue is full, newcomers are dropped and counted: memory stays bounded, and the loop never learns how slow a disk or a
pipe is. The thread sleeps on an event while there is nothing to do. Once woken it lingers a little, so that under load it is woken
some tens of times a second and not once per line: waking costs the loop a system call, and the thread costs it the interpreter
lock.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from typing import Final

BATCH_BYTES: Final = 64 * 1024
"""One write; the size of a pipe's buffer on Linux."""


class LineWriter:
    """Writes lines in order to a descriptor that it does not own; several lines leave in one system call.

    Interrupted calls are repeated by the interpreter (PEP 475); a descriptor in non-blocking mode is waited for; any other error,
    from a reader that has gone (EPIPE) to a full disk, costs the lines at hand, and the next ones are tried anew.
    """

    def __init__(self, fd: int, *, capacity: int = 10_000, linger_s: float = 0.05) -> None:
        self._fd = fd
        self._capacity = capacity
        self._linger_s = linger_s
        self._lines: deque[bytes] = deque()
        self._refused = 0
        # Written by the thread alone, as `_refused` is by the loop alone: no count is lost to a race, and no lock is needed.
        self._lost = 0
        self._in_hand = 0
        self._idle = False
        self._abandoned = False
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._worker = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._worker.start()

    def append(self, line: bytes) -> None:
        """Queue a line, which ends in a line feed; drops it where the queue is full or writing is over. Never blocks."""
        if len(self._lines) >= self._capacity:
            self._refused += 1
            return
        self._lines.append(line)
        if self._idle:
            self._idle = False
            self._wake.set()

    @property
    def dropped(self) -> int:
        """Lines that were not written and will not be; of a write that was left behind, all lines are counted."""
        waiting = len(self._lines) + self._in_hand if self._abandoned else 0
        return self._refused + self._lost + waiting

    def close(self, timeout_s: float) -> bool:
        """Write what is queued, for at most `timeout_s` seconds; the calling thread waits. Return whether all of it was handled.

        Lines appended from now on are dropped. A thread that a stalled reader holds in its write is left behind: it is a daemon
        and keeps no process alive.
        """
        self._capacity = 0
        self._closing.set()
        self._wake.set()
        self._worker.join(timeout_s)
        self._abandoned = self._worker.is_alive()
        return not self._abandoned

    def _run(self) -> None:
        while not self._abandoned:
            # The order matters: whoever appends after `_idle` is set wakes us, whoever appended before is seen by the check.
            self._wake.clear()
            self._idle = True
            if not self._lines:
                if self._closing.is_set():
                    return
                self._wake.wait()
            self._idle = False
            self._closing.wait(self._linger_s)
            self._flush()

    def _flush(self) -> None:
        lines = self._lines
        while lines and not self._abandoned:
            batch: list[bytes] = []
            size = 0
            while lines and size < BATCH_BYTES:
                line = lines.popleft()
                batch.append(line)
                size += len(line)
            self._in_hand = len(batch)
            self._write(b"".join(batch))
            self._in_hand = 0

    def _write(self, data: bytes) -> None:
        while data:
            try:
                written = os.write(self._fd, data)
            except BlockingIOError:
                self._await_room()
            except OSError:
                self._lost += data.count(b"\n")
                return
            else:
                data = data[written:]

    def _await_room(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        poll.poll()
