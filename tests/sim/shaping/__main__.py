"""`python -m tests.sim.shaping`: ten minutes at three times the limit, for every way of having one; and everything else there is."""

from __future__ import annotations

import argparse
import sys

from tests.sim.shaping.table import rows


def main() -> int:
    """Print the table as it comes."""
    options = argparse.ArgumentParser(prog="python -m tests.sim.shaping", description=__doc__)
    options.add_argument("--per-s", type=float, default=10.0, help="the limit, in requests")
    options.add_argument("--seconds", type=float, default=600.0, help="of virtual time")
    options.add_argument("--processes", type=int, default=2)
    chosen = options.parse_args()
    for row in rows(chosen.per_s, chosen.seconds, chosen.processes):
        print(row, flush=True)  # noqa: T201 - a command
    return 0


if __name__ == "__main__":
    sys.exit(main())
