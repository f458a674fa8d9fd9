"""Measures the coverage of the board's 95% intervals on simulated runs and writes docs/coverage.md.

    python benchmarks/coverage.py [--simulations 2000] [--out docs/coverage.md] [--json]

Values are drawn from ``y[s, p] = 30 + a[s] + b[p] + e[s, p]`` with normal terms; the interval is
the one a board prints: a percentile bootstrap over prompts for each training seed, then
``stats.seed_interval``. With one training seed the interval claims nothing about other seeds, so
its target is that student's own mean (``30 + a[0]``); with more it is the grand mean.

Exits 3 if a cell of the grid is below 93%.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from kdbench.harness import comparisons, stats
from kdbench.harness.seed_variance import seed_variance

RESAMPLES = 1_000
TRUE_MEAN = 30.0
FLOOR = 0.93
TRAINING_SEEDS = (1, 3, 5, 10)
SEED_SPREADS = (0.0, 1.0, 4.0)
PROMPT_SPREADS = (0.0, 15.0)
RESIDUAL_SPREADS = (5.0, 20.0)
PROMPTS = (20, 100, 500)

_COLUMNS = 2_000


class Cell(NamedTuple):
    """One cell of the grid: the simulated world and what was measured in it."""

    seeds: int
    seed_spread: float
    prompt_spread: float
    residual_spread: float
    prompts: int
    coverage: float
    width: float
    """Mean width of the interval over the width of a normal one with known variances."""


class World(NamedTuple):
    """Standard deviations of the three random terms, in points of the metric."""

    seed: float
    prompt: float
    residual: float

    def draw(
        self, rng: np.random.Generator, simulations: int, seeds: int, prompts: int
    ) -> tuple[stats.Array, stats.Array]:
        """Values (simulations, S, P) and the seed effects (simulations, S)."""
        effect_NS = self.seed * rng.standard_normal((simulations, seeds))
        prompt_NP = self.prompt * rng.standard_normal((simulations, prompts))
        rest = self.residual * rng.standard_normal((simulations, seeds, prompts))
        return TRUE_MEAN + effect_NS[:, :, None] + prompt_NP[:, None, :] + rest, effect_NS

    def standard_error(self, seeds: int, prompts: int) -> float:
        """True standard error of the estimate of its target."""
        shared = self.prompt**2 / prompts + self.residual**2 / (seeds * prompts)
        return float(np.sqrt(shared + (self.seed**2 / seeds if seeds > 1 else 0.0)))


def board_intervals(values_NSP: stats.Array, *, resamples: int) -> tuple[stats.Array, stats.Array]:
    """Low and high (N,) of the board's interval for N simulated rows."""
    simulations, seeds, prompts = values_NSP.shape
    columns_PK = values_NSP.reshape(simulations * seeds, prompts).T
    mean, low, high = (
        bound.reshape(simulations, seeds)
        for bound in stats.bootstrap_columns(columns_PK, resamples=resamples)
    )
    alone = [seed_variance([row], [True]) for row in mean]  # of one method: nothing to pool with
    known = [(float(found.variance_M[0]), float(found.df_M[0])) for found in alone]
    rows = [
        stats.seed_interval(*row, *spread)
        for row, spread in zip(zip(mean, low, high, strict=True), known, strict=True)
    ]
    return np.array([row.low for row in rows]), np.array([row.high for row in rows])


def measure(world: World, seeds: int, prompts: int, *, simulations: int, resamples: int) -> Cell:
    """Coverage and relative width in one cell."""
    rng = stats.generator(f"coverage:{seeds}:{world}:{prompts}")
    covered, width = 0, 0.0
    batch = max(1, _COLUMNS // seeds)
    for start in range(0, simulations, batch):
        number = min(batch, simulations - start)
        values, effects = world.draw(rng, number, seeds, prompts)
        target = TRUE_MEAN + (effects[:, 0] if seeds == 1 else 0.0)
        low, high = board_intervals(values, resamples=resamples)
        covered += int(((low <= target) & (target <= high)).sum())
        width += float((high - low).sum())
    ideal = 2 * stats.t_quantile(0.975, np.inf) * world.standard_error(seeds, prompts)
    return Cell(seeds, *world, prompts, covered / simulations, width / simulations / ideal)


def grid(*, simulations: int, resamples: int) -> list[Cell]:
    """All cells of the published grid, in a fixed order."""
    return [
        measure(World(a, b, e), seeds, prompts, simulations=simulations, resamples=resamples)
        for seeds in TRAINING_SEEDS
        for a in SEED_SPREADS
        for b in PROMPT_SPREADS
        for e in RESIDUAL_SPREADS
        for prompts in PROMPTS
    ]


def nested_bootstrap(values_SP: ArrayLike, *, resamples: int = stats.RESAMPLES) -> stats.Interval:
    """Percentile bootstrap that draws training seeds and, inside each resample, prompts.

    Known to be too short below about ten seeds (docs/coverage.md); boards use ``seed_interval``.
    """
    values = np.asarray(values_SP, dtype=float)
    seeds, prompts = values.shape
    seed_counts_RS = np.concatenate(list(stats.drawn_counts(seeds, resamples, f"seeds:{seeds}")))
    start, means = 0, []
    for counts_RP in stats.drawn_counts(prompts, resamples, f"prompts:{prompts}"):
        weights_RS = seed_counts_RS[start : start + len(counts_RP)]
        means.append(((weights_RS @ values) * counts_RP).sum(axis=1) / (seeds * prompts))
        start += len(counts_RP)
    tail = (1 - stats.LEVEL) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return stats.Interval(float(values.mean()), float(low), float(high))


def nested_coverage(
    world: World, seeds: int, prompts: int, *, simulations: int, resamples: int
) -> float:
    """Coverage of the nested percentile bootstrap, which boards do not use (too short)."""
    rng = stats.generator(f"nested:{seeds}:{world}:{prompts}")
    values, _ = world.draw(rng, simulations, seeds, prompts)
    rows = [nested_bootstrap(row, resamples=resamples) for row in values]
    return float(np.mean([row.low <= TRUE_MEAN <= row.high for row in rows]))


def false_alarms(
    world: World, seeds: int, prompts: int, *, simulations: int, resamples: int
) -> float:
    """Share of comparisons of two equal methods with p < 0.05; prompts are shared by the two.

    One seed a method: equal means the two students are equal (no seed effect is drawn).
    """
    rng = stats.generator(f"alarms:{seeds}:{world}:{prompts}")
    if seeds == 1:
        world = world._replace(seed=0.0)
    alarms = 0
    for _ in range(simulations):
        both, _ = world.draw(rng, 1, 2 * seeds, prompts)
        a, b = both[0, :seeds], both[0, seeds:]
        known = seed_variance([a.mean(axis=1), b.mean(axis=1)], [True, True])
        result = comparisons.compare_rows(a, b, known, resamples=resamples)
        alarms += result.p < 0.05
    return alarms / simulations


def rare_hits(rate: float, prompts: int, *, simulations: int, resamples: int) -> float:
    """Coverage of the one-seed interval when every prompt scores 0 or 100 (exact match)."""
    rng = stats.generator(f"hits:{rate}:{prompts}")
    values_PK = 100.0 * (rng.random((prompts, simulations)) < rate)
    _, low, high = stats.bootstrap_columns(values_PK, resamples=resamples)
    return float(np.mean((low <= 100 * rate) & (100 * rate <= high)))


def grid_table(cells: list[Cell], show: Callable[[Cell], str]) -> str:
    """The grid as Markdown: one row a world, one column (seeds, prompts)."""
    columns = [(seeds, prompts) for seeds in TRAINING_SEEDS for prompts in PROMPTS]
    by_key = {(cell[0:4], cell.prompts): cell for cell in cells}
    head = ["seed spread", "prompt spread", "residual spread"]
    lines = [
        "| " + " | ".join(head + [f"{s} × {p}" for s, p in columns]) + " |",
        "|" + "---:|" * (len(head) + len(columns)),
    ]
    for a in SEED_SPREADS:
        for b in PROMPT_SPREADS:
            for e in RESIDUAL_SPREADS:
                found = [by_key[((seeds, a, b, e), prompts)] for seeds, prompts in columns]
                values = [show(cell) for cell in found]
                lines.append("| " + " | ".join([f"{a:g}", f"{b:g}", f"{e:g}", *values]) + " |")
    return "\n".join(lines)


# -- the page -------------------------------------------------------------------------------------


def nested_table(simulations: int) -> str:
    lines = [
        "| training seeds | seed spread | nested percentile bootstrap | board's interval |",
        "|---:|---:|---:|---:|",
    ]
    for seeds in (3, 5, 10):
        for spread in (1.0, 4.0):
            world = World(spread, 0.0, 5.0)
            options = {"simulations": simulations, "resamples": RESAMPLES}
            nested = nested_coverage(world, seeds, 100, **options)
            ours = measure(world, seeds, 100, **options).coverage
            lines.append(f"| {seeds} | {spread:g} | {100 * nested:.1f} | {100 * ours:.1f} |")
    return "\n".join(lines)


def alarm_table(simulations: int) -> str:
    lines = ["| training seeds | seed spread | prompts | false alarms |", "|---:|---:|---:|---:|"]
    for seeds, spread in ((1, 0.0), (3, 0.0), (3, 1.0), (3, 4.0), (5, 1.0), (5, 4.0)):
        for prompts in (20, 100):
            world = World(spread, 15.0, 20.0)
            share = false_alarms(
                world, seeds, prompts, simulations=simulations, resamples=RESAMPLES
            )
            lines.append(f"| {seeds} | {spread:g} | {prompts} | {100 * share:.1f} |")
    return "\n".join(lines)


def hits_table(simulations: int) -> str:
    rates, prompts = (0.01, 0.05, 0.2, 0.5), (20, 100, 500)
    lines = [
        "| true rate | " + " | ".join(f"{n} prompts" for n in prompts) + " |",
        "|---:|" + "---:|" * len(prompts),
    ]
    for rate in rates:
        row = [rare_hits(rate, n, simulations=simulations, resamples=RESAMPLES) for n in prompts]
        lines.append(f"| {100 * rate:g}% | " + " | ".join(f"{100 * x:.1f}" for x in row) + " |")
    return "\n".join(lines)


def page(cells: list[Cell], simulations: int) -> str:
    lowest = min(cells, key=lambda cell: cell.coverage)
    return f"""# Coverage of the 95% intervals

Made by `python benchmarks/coverage.py`; fixed random numbers, so the same numbers every time.

How often the interval that a board prints holds the true value, in percent of {simulations}
simulated rows a cell (standard error {100 * (0.95 * 0.05 / simulations) ** 0.5:.1f} points).
Columns: training seeds × prompts. Spreads are standard deviations in points. {RESAMPLES}
resamples here, 10,000 on boards.

With **one** training seed the target is the mean of *that* student over all prompts: nothing is
claimed about other training seeds (boards print "training variance unmeasured"). With three or more
the target is the mean over training seeds and prompts.

Lowest cell: {100 * lowest.coverage:.1f}% ({lowest.seeds} seeds × {lowest.prompts} prompts, spreads
{lowest.seed_spread:g}, {lowest.prompt_spread:g}, {lowest.residual_spread:g}). Cells near 100 are
too wide rather than wrong: the board adds the prompt interval of one seed to the t interval over
seed means, and both contain the residual (see `stats.seed_interval`).

{grid_table(cells, lambda cell: f"{100 * cell.coverage:.1f}")}

## What the wide side costs

Mean width of the same intervals over that of a normal interval with known variances.

{grid_table(cells, lambda cell: f"{cell.width:.2f}")}

## Why not resample the training seeds

Coverage when seeds are drawn with replacement and prompts inside them (100 prompts, residual
spread 5): three seeds cannot be resampled.

{nested_table(simulations // 2)}

## False alarms of the paired test

Share of comparisons of two equally good methods with p < 0.05, in percent (prompt spread 15,
residual spread 20). One seed: randomisation test of two equal students; more: t test with
the spread between seeds in it.

{alarm_table(simulations // 2)}

## Where intervals are too short: rare hits

Scores of 0 or 100 (exact match), one seed. A method that hits nothing in the sample has an interval
of zero width: with few prompts and rare hits no resampling can know better.

{hits_table(simulations)}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=2_000)
    parser.add_argument("--out", type=Path, default=Path("docs/coverage.md"))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    start = time.perf_counter()
    cells = grid(simulations=arguments.simulations, resamples=RESAMPLES)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(page(cells, arguments.simulations), encoding="utf-8")
    lowest = min(cell.coverage for cell in cells)
    seconds = time.perf_counter() - start
    if arguments.json:
        print(json.dumps({"ours": {"lowest": lowest, "cells": len(cells), "seconds": seconds}}))
    else:
        print(f"{len(cells)} cells, lowest {100 * lowest:.1f}%, {seconds:.0f} s: {arguments.out}")
    return 0 if lowest >= FLOOR else 3


if __name__ == "__main__":
    sys.exit(main())
