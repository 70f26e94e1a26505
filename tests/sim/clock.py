"""An event loop whose time is a number: hours pass in milliseconds, in the same order on every machine.

The law here is that nothing but the simulation moves time: when no callback is ready, the clock jumps to the next timer. Nothing
ready and no timer is a deadlock, which real time would hide behind a test's timeout; many turns without time moving is two parts
that keep waking each other. Both are errors that say so. Separate from the world, which does not know how its time passes.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable

BEGIN_S = 1000.0
"""Not zero: in the gateway's records zero means that something did not happen."""
MAX_TURNS = 20_000
"""Turns of the loop at one moment, beyond which somebody spins."""


class Deadlock(AssertionError):
    """Nothing is ready, nothing is scheduled, and somebody is still waiting."""


class Spin(AssertionError):
    """Time stands still while callbacks keep scheduling callbacks."""


class _Selector(selectors.SelectSelector):
    """Waits by advancing the clock. No socket is ever watched but the loop's own waker."""

    def __init__(self) -> None:
        super().__init__()
        self.now = BEGIN_S
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Deadlock(f"at {self.now - BEGIN_S:.3f} s nothing is ready and nothing is scheduled")
        if timeout > 0:
            self.now += timeout
            self._turns = 0
        else:
            self._turns += 1
            if self._turns > MAX_TURNS:
                raise Spin(f"at {self.now - BEGIN_S:.3f} s time does not move on")
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """`asyncio`'s own loop on virtual time. Whatever a callback raises ends up in `crashes`."""

    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)
        self.crashes: list[BaseException] = []
        self.set_exception_handler(self._note)

    def time(self) -> float:
        return self._clock.now

    def run_to_end(self, begin: Callable[[], None]) -> Deadlock | None:
        """Call `begin`, then run until `stop`; a deadlock is returned, because what hangs is the caller's to find out."""
        self.call_soon(begin)
        try:
            self.run_forever()
        except (Deadlock, Spin) as deadlock:
            return deadlock
        return None

    def _note(self, _loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        problem = context.get("exception")
        self.crashes.append(problem if isinstance(problem, BaseException) else RuntimeError(str(context.get("message"))))
