"""The command line of the benchmarks: `python -m benchmarks` compares, `profile` explains, `tail` and `quota` show what is gained.

Apart from all because an argument parser is no part of a measurement.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.contenders import LIMITED, MAKERS
from benchmarks.flame import LOADS, profile
from benchmarks.quota import quota, seconds_of
from benchmarks.run import compare
from benchmarks.tail import tail


def _names(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in MAKERS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no such contender: {', '.join(unknown)} (there are {', '.join(MAKERS)})")
    return names


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="two short rounds, under a minute, for a first look")
    parser.add_argument(
        "--only",
        type=_names,
        default=[name for name in MAKERS if name != LIMITED],
        metavar="NAMES",
        help=f"contenders, by commas; {LIMITED} only where it is named",
    )
    parser.add_argument("--beside", type=Path, metavar="DIR", help="another checkout of this repository, measured as `before`")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every reading there too")
    parser.set_defaults(run=compare)
    commands = parser.add_subparsers(title="commands")
    flame = commands.add_parser("profile", help="record a Python contender under load with py-spy")
    flame.add_argument("--out", type=Path, required=True, metavar="FILE")
    flame.add_argument("--contender", choices=("gateway", "relay"), default="gateway")
    flame.add_argument("--load", choices=LOADS, default="requests")
    flame.add_argument("--seconds", type=int, default=10)
    flame.add_argument("--format", choices=("flamegraph", "raw", "speedscope"), default="flamegraph")
    flame.add_argument("--native", action="store_true", help="include native frames (C extensions; slower)")
    flame.set_defaults(run=profile)
    hedging = commands.add_parser("tail", help="two gateways, with hedging and without, before providers of which 2 % are slow")
    hedging.add_argument("--rate", type=float, default=60.0, metavar="PER_S", help="requests per second and gateway")
    hedging.add_argument("--seconds", type=float, default=90.0)
    hedging.set_defaults(run=tail)
    pacing = commands.add_parser("quota", help="gateways before providers with a limit, at three times what these let through")
    pacing.add_argument("--seconds", type=seconds_of, default=60.0)
    pacing.set_defaults(run=quota)
    arguments = parser.parse_args()
    return int(arguments.run(arguments))


if __name__ == "__main__":
    sys.exit(main())
