"""Measures what boards claim about a whole column, and writes docs/column-coverage.md.

    python benchmarks/column_coverage.py [--simulations 1000] [--out docs/column-coverage.md] [--json]

Scores are drawn from ``y[m, s, p] = effect[m] + d[s] + a[m, s] + b[p] + c[m, p] + e[m, s, p]`` with
normal terms; ``d`` is what a training seed does to all methods; the ``e`` of one seed and prompt may go
together over methods. The tests are those of a board (`kdbench.harness.comparisons`), the random numbers
fixed.

Exits 3 if an interval covers less than 93%, or a family of tests has more than 6% false alarms.
"""

import argparse
import itertools
import json
import multiprocessing
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from column_page import (
    DRAWS,
    METHOD,
    PROMPT,
    RESIDUAL,
    SEEDS,
    STEP,
    TOGETHER,
    TRUTHS,
    Cell,
    Numbers,
    page,
    problems,
)
from scipy import special
from scipy.stats import rankdata

from kdbench.harness import comparisons, stats
from kdbench.harness.seed_variance import SeedVariance, seed_variance, without_shared
from kdbench.harness.stats import Array
from kdbench.reports.headline import Field, Headline, Number, headline
from kdbench.reports.measured import shared_normals
from kdbench.reports.paired import Lineup

METHODS, PROMPTS = (4, 12), (100, 600)
SPREADS = {
    "equal": (1, 1, 0),
    "one twice": (4, 1, 0),
    "one four times": (16, 1, 0),
    "half twice": (4, 0, 0),
    "equal, and shared": (1, 1, 3),
    "one twice, and shared": (4, 1, 3),
    "equal, and answers": (1, 1, 0),
}
"""Standard deviations between seeds: ratio of variances, how many rows have it (0: half of them), and the
standard deviation of what a seed does to all rows."""
ANSWERS = "equal, and answers"
"""Among these: the answers of one seed to a prompt go together over methods."""


class World(NamedTuple):
    """What is simulated."""

    effect_M: Array
    spread_M: Array
    seeds: int
    prompts: int
    shared: float
    together: float = 0.0
    """Correlation over methods of one seed's answers to a prompt."""

    def draw(self, rng: np.random.Generator) -> Array:
        """Scores (M, S, P). What seeds do to all rows is 0 in the mean: intervals are of these seeds."""
        shape = (len(self.effect_M), self.seeds, self.prompts)
        methods, seeds, prompts = shape
        mean = self.effect_M[:, None, None] + METHOD * rng.standard_normal((methods, 1, prompts))
        luck = self.spread_M[:, None, None] * rng.standard_normal((methods, seeds, 1))
        all_rows = self.shared * rng.standard_normal((1, seeds, 1))
        luck = luck + all_rows - all_rows.mean()
        rest = RESIDUAL * rng.standard_normal(shape)
        if self.together:
            common = RESIDUAL * rng.standard_normal((1, seeds, prompts))
            rest = np.sqrt(1 - self.together) * rest + np.sqrt(self.together) * common
        return np.asarray(mean + luck + PROMPT * rng.standard_normal(prompts) + rest)


def world(methods: int, seeds: int, prompts: int, spread: str, truth: str) -> World:
    """The noisiest row is among the best, the last one is SFT, and one method is as good as it."""
    ratio, rows, shared = SPREADS[spread]
    spread_M = np.ones(methods)
    spread_M[:: 2 if rows == 0 else methods] = np.sqrt(ratio)
    ladder = np.minimum(np.maximum(np.arange(methods) - 1, 0), methods - 3) * -STEP
    effect_M = ladder if truth == "two tied best" else np.zeros(methods)
    together = TOGETHER if spread == ANSWERS else 0.0
    return World(50 + effect_M, spread_M, seeds, prompts, shared, together)


def measure(cell: tuple[int, int, int, str, str], simulations: int) -> Cell:
    """All shares of one cell."""
    here = world(*cell)
    rng = stats.generator(f"column:{cell}")
    found = [_once(here, rng, f"{number}") for number in range(simulations)]
    return Cell(*cell, *np.mean(np.array(found, dtype=float), axis=0).tolist())


def _once(here: World, rng: np.random.Generator, label: str) -> list[float]:
    values = here.draw(rng)
    effect, methods = here.effect_M, len(here.effect_M)
    labels = [list(range(here.seeds))] * methods
    seeds = seed_variance(list(values.mean(axis=2)), [True] * methods, labels)
    errors = comparisons.errors(list(values), seeds, labels)
    column = comparisons.column(errors, label, resamples=DRAWS)
    first, second = np.triu_indices(methods, k=1)
    covered, half = _pairs(errors, first, second, effect)
    noisy = (first == 0) | (second == 0)
    best, base = effect == effect.max(), methods - 1
    p_best = comparisons.best_p(column, 1)
    others = np.arange(base)
    p_sft = comparisons.family_p(column, others, np.full(base, base))
    p_pairs = comparisons.family_p(column, first, second)
    own = _own(values, seeds)
    wide = _pairs(comparisons.errors(list(values), own), first, second, effect)[1]
    return [
        seeds.pooled,
        _rows(values, seeds, effect).mean(),
        covered.mean(),
        covered[noisy].mean(),
        (p_best[best] < 0.05).any(),
        (p_sft[effect[others] == effect[base]] < 0.05).any(),
        (p_pairs[effect[first] == effect[second]] < 0.05).any(),
        (p_best[~best] < 0.05).mean() if not best.all() else 0.0,
        half.mean() / wide.mean(),
    ]


def _pairs(
    errors: comparisons.Errors, first: Array, second: Array, effect: Array
) -> tuple[Array, Array]:
    """Whether the interval of each pair holds the true difference, and half its width."""
    mean = errors.mean_PM.mean(axis=0)
    quantiles = np.array([stats.t_quantile(0.975, df) for df in errors.df(first, second)])
    half = quantiles * np.sqrt(errors.variance(first, second)[1])
    off = mean[first] - mean[second] - effect[first] + effect[second]
    return np.abs(off) <= half, half


def _rows(values: Array, seeds: SeedVariance, effect: Array) -> Array:
    """Whether each row's interval holds its true mean; t intervals stand for the bootstrap's."""
    means, prompts = values.mean(axis=2), values.shape[2]
    half = stats.t_quantile(0.975, prompts - 1) * values.std(axis=2, ddof=1) / np.sqrt(prompts)
    made = [
        stats.seed_interval(mean, mean - h, mean + h, *spread)
        for mean, h, spread in zip(means, half, seeds.spreads(), strict=True)
    ]
    return np.array([row.low <= e <= row.high for row, e in zip(made, effect, strict=True)])


def _own(values: Array, seeds: SeedVariance) -> SeedVariance:
    """The same without pooling."""
    own, df = values.mean(axis=2).var(axis=1, ddof=1), np.full(len(values), values.shape[1] - 1.0)
    return seeds._replace(variance_M=own, df_M=df, pooled=False, share_MS=None)


# -- the headline -----------------------------------------------------------------------------------


def headline_numbers(seeds: int, truth: str, shared: float, simulations: int) -> Numbers:
    """Eight methods in three columns; the seeds' luck is shared to 70% between columns."""
    here = world(8, seeds, 200, "equal", truth)
    rng = stats.generator(f"headline:{seeds}:{truth}:{shared}")
    found = [_headline_once(here, rng, shared, number) for number in range(simulations)]
    return Numbers(seeds, truth, shared, *np.nanmean(np.array(found, dtype=float), axis=0).tolist())


def _headline_once(
    here: World, rng: np.random.Generator, shared: float, number: int
) -> list[float]:
    ids = [*(f"m{i}" for i in range(8)), "teacher"]
    luck = np.sqrt(0.7) * rng.standard_normal((8, here.seeds, 1))
    luck = luck + shared * rng.standard_normal((1, here.seeds, 1))
    lines = []
    for column in range(3):
        values = here._replace(spread_M=np.full(8, np.sqrt(0.3))).draw(rng) + luck
        teacher = 70 + METHOD * rng.standard_normal((1, 1, here.prompts))
        rows = [*values, teacher[0] + PROMPT * rng.standard_normal((1, here.prompts))]
        means = [row.mean(axis=1) for row in rows]
        labels = [list(range(here.seeds))] * 8 + [["teacher"]]
        known = seed_variance(means, [True] * 8 + [False], labels)
        if known.share_MS is not None:
            means = without_shared(means, labels)
        label = f"{number}:{column}"
        lines.append(Lineup(list(range(9)), comparisons.errors(rows, known, labels), means, label))
    normals = shared_normals([(line, ids) for line in lines], DRAWS)
    draws = [
        comparisons.column(line.errors, line.label, normal_RM=normal, resamples=DRAWS)
        for line, normal in zip(lines, normals, strict=True)
    ]
    at = {name: place for place, name in enumerate(ids)}
    fields = [Field(str(i), 1, 1.0, each, at, "m7", "teacher") for i, each in enumerate(draws)]
    made = headline(fields, {name: name for name in ids[:8]}, {})
    assert made is not None
    return _judged(made, here, shared)


def _judged(made: Headline, here: World, shared: float) -> list[float]:
    """Whether the true numbers lie in the intervals."""
    effect = dict(zip((f"m{i}" for i in range(8)), here.effect_M, strict=True))
    rank = dict(zip(effect, rankdata(-here.effect_M), strict=True))
    base = effect["m7"]
    spread = np.sqrt(2 * (1 + shared**2 + RESIDUAL**2 / here.prompts))  # each under its own seed
    gaps, beats = [], []
    for place in made.places:
        gain = effect[place.label] - base
        if place.label == "m7":
            continue
        if isinstance(place.gap, Number):
            gaps.append(_holds(place.gap, 100 * gain / (70 - base)))
        if isinstance(place.beats, Number):
            beats.append(_holds(place.beats, 100 * special.ndtr(gain / spread)))
    ranks = [_holds(place.rank, rank[place.label]) for place in made.places]
    apart = any(
        rank[a.label] == rank[b.label] and not set(a.alike) & set(b.alike)
        for a, b in itertools.combinations(made.places, 2)
    )
    return [
        np.mean(gaps) if gaps else np.nan,
        np.mean(ranks),
        np.mean(beats) if beats else np.nan,
        apart,
    ]


def _holds(found: Number, true: float) -> bool:
    return found.low - 1e-3 <= true <= found.high + 1e-3


# -- all cells --------------------------------------------------------------------------------------


def grid() -> list[tuple[int, int, int, str, str]]:
    """All cells: few prompts for every number of seeds, many for the number that boards have."""
    spreads = [name for name in SPREADS if name != ANSWERS]
    few = itertools.product(METHODS, SEEDS, PROMPTS[:1], spreads, TRUTHS)
    many = itertools.product(METHODS[1:], SEEDS[-1:], PROMPTS[1:], spreads, TRUTHS)
    return [*few, *many]


def alike() -> list[tuple[int, int, int, str, str]]:
    """The cells in which answers go together."""
    return list(itertools.product(METHODS, (SEEDS[1], SEEDS[-1]), PROMPTS[:1], [ANSWERS], TRUTHS))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=1_000)
    parser.add_argument("--out", type=Path, default=Path("docs/column-coverage.md"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    few = max(1, arguments.simulations // 4)
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        cells = pool.starmap(measure, [(cell, arguments.simulations) for cell in grid()], 1)
        half = max(1, arguments.simulations // 2)
        together = pool.starmap(measure, [(cell, half) for cell in alike()], 1)
        whole = itertools.product((2, 3, 5), TRUTHS, (0.0, 3.0), [few])
        numbers = pool.starmap(headline_numbers, whole, 1)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    text = page(cells, together, numbers, arguments.simulations)
    arguments.out.write_text(text, encoding="utf-8")
    missed = problems([*cells, *together])
    if arguments.json:
        print(json.dumps({"ours": {"cells": len(cells) + len(together), "outside": missed}}))
    else:
        print(f"{len(cells) + len(together)} cells, {len(missed)} outside: {arguments.out}")
    return 3 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
