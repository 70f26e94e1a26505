"""The cost curve: what each percentile to hedge at and each budget came to, for each tail."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from gateway.core.plan import HedgePlan
from tests.sim.hedging.race import Tail, bimodal, log_normal, race

TAILS: dict[str, Tail] = {"2 % take 5 s, the rest 50 ms": bimodal, "log-normal, median 500 ms, sigma 0.8": log_normal}
QUANTILES = (0.5, 0.75, 0.9, 0.95, 0.98, 0.99)
BUDGETS = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Beyond a fifth the provider's retry budget binds."""
FLOOR_S = 0.001
"""None to speak of: the percentile alone decides."""


@dataclass(frozen=True, slots=True)
class Point:
    """One run and what it came to; without a quantile and a budget, one without hedging."""

    tail: str
    quantile: float | None
    budget: float
    extra: float
    p95_s: float
    p99_s: float
    p995_s: float


def sweep(
    requests: int,
    seed: int,
    *,
    quantiles: Sequence[float] = QUANTILES,
    budgets: Sequence[float] = BUDGETS,
    processes: int = 2,
) -> list[Point]:
    """Run every combination with the same clients and the same luck, on so many processes; 0: in this one."""
    runs: list[tuple[str, float | None, float, int, int]] = []
    for tail in TAILS:
        runs.append((tail, None, 0.0, requests, seed))
        runs += [(tail, quantile, budget, requests, seed) for budget in budgets for quantile in quantiles]
    if not processes:
        return [_point(*run) for run in runs]
    with ProcessPoolExecutor(processes) as pool:
        return list(pool.map(_point, *zip(*runs, strict=True)))


def _point(tail: str, quantile: float | None, budget: float, requests: int, seed: int) -> Point:
    plan = HedgePlan(quantile=quantile, floor_s=FLOOR_S, budget=budget) if quantile is not None else None
    run = race(TAILS[tail], plan, seed=seed, requests=requests)
    return Point(tail, quantile, budget, run.extra, *(run.percentile(percent) for percent in (95.0, 99.0, 99.5)))
