"""Measures the coverage of the board's 95% intervals and writes docs/coverage.md.

    python benchmarks/coverage.py [--simulations 2000] [--out docs/coverage.md] [--json]

Exits 3 if a cell of the grid is below 93%.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from kdbench.reports import coverage
from kdbench.reports.coverage import World

RESAMPLES = 1_000


def nested_table(simulations: int) -> str:
    lines = [
        "| training seeds | seed spread | nested percentile bootstrap | board's interval |",
        "|---:|---:|---:|---:|",
    ]
    for seeds in (3, 5, 10):
        for spread in (1.0, 4.0):
            world = World(spread, 0.0, 5.0)
            options = {"simulations": simulations, "resamples": RESAMPLES}
            nested = coverage.nested_coverage(world, seeds, 100, **options)
            ours = coverage.measure(world, seeds, 100, **options).coverage
            lines.append(f"| {seeds} | {spread:g} | {100 * nested:.1f} | {100 * ours:.1f} |")
    return "\n".join(lines)


def alarm_table(simulations: int) -> str:
    lines = ["| training seeds | seed spread | prompts | false alarms |", "|---:|---:|---:|---:|"]
    for seeds, spread in ((1, 0.0), (3, 0.0), (3, 1.0), (3, 4.0), (5, 1.0), (5, 4.0)):
        for prompts in (20, 100):
            world = World(spread, 15.0, 20.0)
            share = coverage.false_alarms(
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
        row = [
            coverage.rare_hits(rate, n, simulations=simulations, resamples=RESAMPLES)
            for n in prompts
        ]
        lines.append(f"| {100 * rate:g}% | " + " | ".join(f"{100 * x:.1f}" for x in row) + " |")
    return "\n".join(lines)


def page(cells: list[coverage.Cell], simulations: int) -> str:
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

{coverage.markdown(cells, lambda cell: f"{100 * cell.coverage:.1f}")}

## What the wide side costs

Mean width of the same intervals over that of a normal interval with known variances.

{coverage.markdown(cells, lambda cell: f"{cell.width:.2f}")}

## Why not resample the training seeds

Coverage when seeds are drawn with replacement and prompts inside them (100 prompts, residual
spread 5): three seeds cannot be resampled.

{nested_table(simulations // 2)}

## False alarms of the paired test

Share of comparisons of two equally good methods with p < 0.05, in percent (prompt spread 15,
residual spread 20). One seed: randomisation test of two equal students; three or more: t test with
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
    cells = coverage.grid(simulations=arguments.simulations, resamples=RESAMPLES)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(page(cells, arguments.simulations), encoding="utf-8")
    lowest = min(cell.coverage for cell in cells)
    seconds = time.perf_counter() - start
    if arguments.json:
        print(json.dumps({"ours": {"lowest": lowest, "cells": len(cells), "seconds": seconds}}))
    else:
        print(f"{len(cells)} cells, lowest {100 * lowest:.1f}%, {seconds:.0f} s: {arguments.out}")
    return 0 if lowest >= coverage.FLOOR else 3


if __name__ == "__main__":
    sys.exit(main())
