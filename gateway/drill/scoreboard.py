"""How the demo shows itself: a table redrawn in place on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from typing import Protocol, TextIO

from gateway.drill.traffic import Tally

LINE_EVERY_S = 2.0
RECENT = 100
"""Answers that the shown quantiles look back on."""
GREEN, RED, DIM, BOLD, PLAIN = "\x1b[32m", "\x1b[31m", "\x1b[2m", "\x1b[1m", "\x1b[0m"


class Witnesses(Protocol):
    """A provider whose ledger tells how often it was asked."""

    @property
    def ledger(self) -> Sized: ...


class Scoreboard:
    """The live table and the summary."""

    def __init__(self, out: TextIO, tally: Tally, providers: Mapping[str, Witnesses]) -> None:
        self._out = out
        self._tally = tally
        self._providers = providers
        self._live = out.isatty()
        self._drawn = 0
        self._next_line_s = 0.0
        self._events: list[str] = []

    def happened(self, at_s: float, what: str) -> None:
        """Note what the stage just did."""
        self._events.append(f"{at_s:5.1f} s  {what}")
        if not self._live:
            self._print(f"--- {self._events[-1].strip()}")

    def show(self, at_s: float) -> None:
        """Show the state of things."""
        if self._live:
            self._redraw(self._table(at_s))
        elif at_s >= self._next_line_s:
            self._next_line_s = at_s + LINE_EVERY_S
            tally = self._tally
            asked = "  ".join(f"{name} {len(each.ledger)}" for name, each in self._providers.items())
            self._print(
                f"{at_s:5.1f} s  requests {tally.sent}  whole {tally.whole}  saved {tally.saved}  failed {tally.failed.total()}"
                f"  attempts: {asked}  p50 {tally.quantile_ms(0.5, RECENT):.0f} ms  p99 {tally.quantile_ms(0.99, RECENT):.0f} ms",
            )

    def summary(self, saved_by_metric: int) -> None:
        """Print what it came to; `saved_by_metric` is the gateway's own count."""
        tally = self._tally
        if self._live:
            self._redraw([])
            for event in self._events:
                self._print(event)
        share = 100 * tally.whole / max(1, tally.sent)
        attempts = sum(len(each.ledger) for each in self._providers.values())
        self._print("")
        self._print(f"requests           {tally.sent}")
        self._print(f"answered whole     {tally.whole}  ({share:.2f} %)")
        self._print(f"needed saving      {tally.saved}  (gateway_saved_requests_total: {saved_by_metric})")
        self._print(f"failed             {tally.failed.total()}{_why(tally)}")
        self._print(f"answered by        {', '.join(f'{name} {count}' for name, count in sorted(tally.served_by.items()))}")
        asked = ", ".join(f"{name} {len(each.ledger)}" for name, each in self._providers.items())
        self._print(
            f"attempts received  {asked}  ({attempts / max(1, tally.sent):.2f} per request; refused connections are not among them)"
        )
        self._print(f"time to answer     p50 {tally.quantile_ms(0.5):.0f} ms, p99 {tally.quantile_ms(0.99):.0f} ms")

    def _table(self, at_s: float) -> list[str]:
        tally = self._tally
        failed = tally.failed.total()
        colour = RED if failed else GREEN
        p50, p99 = tally.quantile_ms(0.5, RECENT), tally.quantile_ms(0.99, RECENT)
        quantiles = f"  p50 / p99       {p50:6.0f} / {p99:.0f} ms  {DIM}(last {RECENT}){PLAIN}"
        lines = [
            f"{BOLD}{at_s:5.1f} s{PLAIN}",
            f"  requests        {tally.sent:6d}",
            f"  answered whole  {colour}{tally.whole:6d}{PLAIN}",
            f"  needed saving   {tally.saved:6d}",
            f"  failed          {colour}{failed:6d}{PLAIN}{_why(tally)}",
            quantiles,
            "",
            f"  {DIM}provider        attempts  answers{PLAIN}",
        ]
        lines += [f"  {name:<14}{len(each.ledger):10d}{tally.served_by[name]:9d}" for name, each in self._providers.items()]
        return [*lines, "", *(f"  {DIM}{event}{PLAIN}" for event in self._events)]

    def _redraw(self, lines: Iterable[str]) -> None:
        text = f"\x1b[{self._drawn}A\x1b[J" if self._drawn else ""
        lines = list(lines)
        self._drawn = len(lines)
        self._out.write(text + "".join(f"{line}\n" for line in lines))
        self._out.flush()

    def _print(self, line: str) -> None:
        self._out.write(line + "\n")
        self._out.flush()


def _why(tally: Tally) -> str:
    return f"  ({', '.join(f'{what}: {count}' for what, count in tally.failed.most_common())})" if tally.failed else ""
