"""What becomes of memory that was freed: the process keeps some of it.

glibc gives the top of its heap back to the kernel as soon as 128 KiB of it are free. A few dozen requests in flight take and free
more than that all the time, and each page then has to be asked for and cleared anew: 18 of 105 us per request ("What was tried" in
benchmarks/README.md). Apart from `serve`, because it is about one C library only; others do as they did.
"""

from __future__ import annotations

import ctypes
from typing import Final

KEPT_BYTES: Final = 32 * 2**20
"""At the top of the heap; what is free beyond that goes back."""
STEP_BYTES: Final = 2**20
"""The heap grows by so much at once."""
APART_BYTES: Final = 4 * 2**20
"""Larger pieces never come from the heap, and go back when they are freed."""

# From glibc's malloc.h; see mallopt(3). Setting one of them ends its own guessing, so all three are set.
M_TRIM_THRESHOLD: Final = -1
M_TOP_PAD: Final = -2
M_MMAP_THRESHOLD: Final = -3


def keep_memory() -> bool:
    """Have freed memory kept for the next request; returns whether the C library knows how."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    done = [mallopt(M_TRIM_THRESHOLD, KEPT_BYTES), mallopt(M_TOP_PAD, STEP_BYTES), mallopt(M_MMAP_THRESHOLD, APART_BYTES)]
    return all(done)
