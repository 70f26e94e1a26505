"""`python -m tests.sim --seed N`: repeat one storm and tell what happened. `--client` tells one exchange's whole story."""

from __future__ import annotations

import argparse
import sys

from tests.sim.invariants import breaches
from tests.sim.rush import rush
from tests.sim.storm import storm


def main() -> int:
    """Run one storm; the exit status is 1 where an invariant broke."""
    options = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    options.add_argument("--seed", type=int, required=True)
    options.add_argument("--client", help="tell this client's story, e.g. c17")
    options.add_argument("--rush", action="store_true", help="not a storm, but a rush hour")
    chosen = options.parse_args()
    world, errands = (rush if chosen.rush else storm)(chosen.seed)
    world.run(errands)
    found = breaches(world)
    for breach in found:
        print(f"{breach.invariant}: {breach.client}: {breach.text}\n{world.story(breach.client)}\n")  # noqa: T201 - a command
    if chosen.client:
        print(world.story(chosen.client))  # noqa: T201 - a command
    clients = world.clients.values()
    good = sum(client.status == 200 and client.endings == ["ended"] for client in clients)
    attempts = f"{len(world.visits)} attempts, {sum(visit.billed for visit in world.visits)} of them billed"
    print(f"seed {chosen.seed}: {len(clients)} clients, {good} served, {attempts}, {len(found)} breaches")  # noqa: T201 - a command
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
