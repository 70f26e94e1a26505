"""The whole table: every case of an overload, every scene, and what each of them came to, a line each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from gateway.core.plan import Balance
from tests.sim.shaping import scenes
from tests.sim.shaping.account import bare, with_delay
from tests.sim.shaping.figures import Figures, jain, percentile
from tests.sim.shaping.overload import CONFIGURED, HIDDEN, NAIVE, STATED, WARM_S, Case
from tests.sim.shaping.scenes import HERDS, ONCE_S, asked

Told = Callable[[], str]

HEAD = (
    f"{'':48}{'429s, first minute':>20}{'later':>20}{'used, first':>13}{'later':>8}"
    f"{'served':>8}{'429':>7}{'wait p50':>10}{'p99':>7}{'back':>7}{'unserved':>9}{'overdue':>8}"
)
QUEUE_WAIT_S = 10.0


def rows(per_s: float, seconds: float, processes: int) -> Iterator[str]:
    """Yield the lines, in order; worked out by so many processes."""
    cases: Sequence[Case] = (*CONFIGURED, *STATED, *HIDDEN, *NAIVE)
    work: list[Told] = [partial(_overload, case, per_s, seconds) for case in cases]
    work += [partial(_flood, seconds, tokens=tokens) for tokens in (False, True)]
    for weights, excess in SHARES:
        work += [partial(_shares, weights, excess, seconds, tokens=tokens) for tokens in (False, True)]
    work += [partial(_spill, seconds, says) for says in (None, with_delay, bare)]
    work += [partial(_false, 6.0 * seconds)]
    work += [partial(_once, kind) for kind in HERDS]
    work += [partial(_balance, seconds)]
    with ProcessPoolExecutor(processes) as pool:
        yield HEAD
        for done in [pool.submit(told) for told in work]:
            yield done.result()


SHARES: Sequence[tuple[tuple[float, ...], tuple[float, ...]]] = (
    ((1.0,) * 6, (3.0,) * 6),
    ((1.0,) * 6, (5.0, 4.0, 3.0, 2.0, 1.5, 1.5)),
    ((1.0, 2.0, 3.0, 4.0), (3.0,) * 4),
    ((1.0, 2.0, 3.0, 4.0), (12.0, 3.0, 2.0, 1.5)),
)
"""Weights, and how many times its share each client wants."""


def line(figures: Figures) -> str:
    """Return one line of the table."""
    first, later = figures.refused(0.0, WARM_S), figures.refused(WARM_S, figures.seconds)
    waits, (unserved, back) = figures.waits_s(), figures.sent_back()
    return (
        f"{figures.name:48}{_of(first):>20}{_of(later):>20}{figures.used(0.0, WARM_S):>13.1%}{figures.used(WARM_S):>8.1%}"
        f"{figures.served():>8}{figures.count(429):>7}{percentile(waits, 50.0):>9.2f}s{percentile(waits, 99.0):>6.2f}s"
        f"{back:>7}{unserved:>9}{len(figures.overdue(QUEUE_WAIT_S)):>8}"
    )


def _of(refused: tuple[int, int]) -> str:
    count, total = refused
    return f"{count}/{total} {count / total if total else 0.0:.2%}"


def _overload(case: Case, per_s: float, seconds: float) -> str:
    return line(case.run(per_s, seconds))


def _flood(seconds: float, *, tokens: bool) -> str:
    alone, flooded = (scenes.flood(seconds, flooded=flooded, tokens=tokens).waits_s("people") for flooded in (False, True))
    short = "tokens" if tokens else "requests"
    return (
        f"interactive under a batch flood, {short} short: p99 wait {percentile(flooded, 99.0):.2f} s, longest {flooded[-1]:.2f} s"
        f" (alone {percentile(alone, 99.0):.2f} s)"
    )


def _shares(weights: Sequence[float], excess: Sequence[float], seconds: float, *, tokens: bool) -> str:
    figures = scenes.shares(weights, seconds, excess=excess, tokens=tokens)
    per_weight = by_weight(figures, weights)
    wants = ":".join(f"{want:g}" for want in excess)
    off = max(abs(share - 1.0) for share in per_weight)
    return f"{figures.name}, wanting {wants} times that: Jain {jain(per_weight):.4f}, farthest from its share {off:.1%}"


def by_weight(figures: Figures, weights: Sequence[float]) -> list[float]:
    """Return what each client was served after the first minute, in tokens, as a multiple of its share."""
    served = figures.tokens_by(lambda entry: entry.client, WARM_S, figures.seconds)
    total = sum(served.values())
    return [served[f"team{number}"] / total * sum(weights) / weight for number, weight in enumerate(weights)]


def _spill(seconds: float, says: scenes.Says | None) -> str:
    figures = scenes.spill(seconds, says=says)
    total = len(figures.world.clients)
    return (
        f"{figures.name}: {figures.served()} of {total} served, {figures.count(429)} got a 429;"
        f" the first target used {figures.used(WARM_S):.1%}"
    )


def _false(seconds: float) -> str:
    figures = scenes.false_refusals(seconds)
    waits = figures.waits_s()
    told = f"{figures.refused()[0]} refusals, {figures.served()} of {len(figures.world.clients)} served"
    return f"{figures.name} for {seconds:g} s: {told}, p99 wait {percentile(waits, 99.0):.2f} s, longest {waits[-1]:.2f} s"


def _once(kind: str) -> str:
    figures = scenes.one_refusal(kind)
    fell_s = next(entry.at_s for entry in figures.entries(ONCE_S) if not entry.granted)
    told = ", ".join(f"{window_s:g} s: {figures.densest(window_s, fell_s + 0.5, fell_s + 40.0)}" for window_s in (1.0, 2.0, 5.0))
    before = figures.densest(1.0, 0.0, fell_s)
    return f"{figures.name}, 8/s of 10/s: most requests afterwards in {told}; before it in 1 s: {before}"


def _balance(seconds: float) -> str:
    weighted = scenes.balanced(Balance.WEIGHTED, seconds, weights={"metered": 3.0, "spare": 1.0})
    failing = [(share, scenes.failing_fast(seconds, share)) for share in (0.2, 0.4, 1.0)]
    told = ", ".join(f"{share:.0%}: {asked(figures, 'spare'):.1%}" for share, figures in failing)
    return (
        f"balance: weighted 3:1 gives the second {asked(weighted, 'spare'):.1%};"
        f" least_busy with limits 3:1 {asked(scenes.least_busy(seconds), 'spare'):.1%};"
        f" fastest, where the second fails fast so often, {told}"
    )
