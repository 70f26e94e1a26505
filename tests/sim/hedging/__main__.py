"""`python -m tests.sim.hedging --out benchmarks/hedging.svg`: draw the cost curve, and print its points."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.sim.hedging.plot import svg
from tests.sim.hedging.race import PER_S
from tests.sim.hedging.sweep import Point, sweep


def main() -> int:
    """Run the sweep; two or three minutes on two processors."""
    options = argparse.ArgumentParser(prog="python -m tests.sim.hedging", description=__doc__)
    options.add_argument("--out", type=Path, metavar="FILE", help="where the picture goes")
    options.add_argument("--requests", type=int, default=6_000, help="of each run")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--processes", type=int, default=2)
    chosen = options.parse_args()
    points = sweep(chosen.requests, chosen.seed, processes=chosen.processes)
    for tail in dict.fromkeys(point.tail for point in points):
        print(f"{tail}\n{'hedged at':>12}{'budget':>9}{'extra':>10}{'p95 s':>9}{'p99 s':>9}{'p99.5 s':>9}")  # noqa: T201 - a command
        for point in points:
            if point.tail == tail:
                print(_row(point))  # noqa: T201 - a command
    if chosen.out is not None:
        caption = f"{chosen.requests} requests for each point, {PER_S:g} a second in virtual time, seed {chosen.seed}"
        chosen.out.write_text(svg(points, f"python -m tests.sim.hedging --out {chosen.out}: {caption}"))
    return 0


def _row(point: Point) -> str:
    times = f"{100 * point.extra:>8.2f} %{point.p95_s:>9.3f}{point.p99_s:>9.3f}{point.p995_s:>9.3f}"
    if point.quantile is None:
        return f"{'never':>12}{'':>9}{times}"
    return f"{f'p{100 * point.quantile:g}':>12}{100 * point.budget:>7g} %{times}"


if __name__ == "__main__":
    sys.exit(main())
