"""What `column_coverage.py` measures in numbers, and the page it writes of them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from kdbench.harness import comparisons

DRAWS = 500
FLOOR, CEILING = 0.93, 0.06
PROMPT, METHOD, RESIDUAL = 15.0, 5.0, 10.0
"""Standard deviations: of prompts, of a method's own prompts, of one answer."""
STEP = 1.0
"""Points between neighbours where methods differ: about one and a half standard errors at five seeds."""
SEEDS = (2, 3, 4, 5)
TOGETHER = 0.9
"""Their correlation."""
TRUTHS = ("all tied", "two tied best")


class Cell(NamedTuple):
    """One cell of the grid, and what was measured in it, as shares."""

    methods: int
    seeds: int
    prompts: int
    spread: str
    truth: str
    pooled: float
    row: float
    """Coverage of the interval of a row, mean over rows; of a difference; of those of the noisiest row."""
    pair: float
    noisiest: float
    best: float
    """Any of the best is called worse; any method that equals SFT is called different; any equal pair."""
    sft: float
    pairs: float
    decided: float
    """Of the methods that are worse than the best, those that are called so."""
    width: float
    """Of a difference's interval, over that with each row's own variance."""


class Numbers(NamedTuple):
    """Coverage of the headline's intervals, mean over methods, and the false alarms of its letters."""

    seeds: int
    truth: str
    shared: float
    """Standard deviation of what a training seed does to all methods alike, in every column."""
    gap: float
    rank: float
    beats: float
    apart: float
    """Two methods that are equal share no letter."""


def percent(share: float) -> str:
    """A share with one digit; nothing where none was measured."""
    return "" if np.isnan(share) else f"{100 * share:.1f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---:"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cells_table(cells: Sequence[Cell]) -> str:
    """The grid, a cell a line."""
    head = [
        "methods", "seeds", "prompts", "spread of seeds", "truth", "pooled", "row", "difference",
        "noisiest", "false: best", "false: SFT", "false: pairs", "decided", "width",
    ]  # fmt: skip
    rows = [
        [str(c.methods), str(c.seeds), str(c.prompts), c.spread, c.truth]
        + [percent(share) for share in c[5:12]]
        + ["" if c.truth == TRUTHS[0] else percent(c.decided)]
        + [f"{c.width:.2f}"]
        for c in cells
    ]
    return table(head, rows)


def numbers_table(numbers: Sequence[Numbers]) -> str:
    """Coverage of the headline's numbers."""
    head = ["seeds", "truth", "shared", "gap closed", "mean rank", "beats SFT", "false: letters"]
    rows = [[str(n.seeds), n.truth, f"{n.shared:g}", *map(percent, n[3:])] for n in numbers]
    return table(head, rows)


def problems(cells: Sequence[Cell]) -> list[str]:
    """Cells outside of what boards promise."""
    wanted: list[tuple[str, Callable[[Cell], bool]]] = [
        ("interval of a row", lambda c: c.row < FLOOR),
        ("interval of a difference", lambda c: c.pair < FLOOR),
        ("false alarms against the best", lambda c: c.best > CEILING),
        ("false alarms against SFT", lambda c: c.sft > CEILING),
        ("false alarms among all pairs", lambda c: c.pairs > CEILING),
    ]
    return [
        f"{name}: {c.methods} methods, {c.seeds} seeds, {c.prompts} prompts, {c.spread}, {c.truth}"
        for name, fails in wanted
        for c in cells
        if fails(c)
    ]


def answers_section(cells: Sequence[Cell], simulations: int) -> str:
    """What holds where the answers of one seed go together."""
    return f"""## Answers that go together

The noise of one seed's answer to one prompt has a correlation of {TOGETHER:g} between methods: they share
their init and the order of rows. That part of it is in no method's own variance between seeds, and must
not be taken off it. {simulations} simulated columns a cell.

{cells_table(cells)}"""


def page(
    cells: Sequence[Cell],
    together: Sequence[Cell],
    numbers: Sequence[Numbers],
    simulations: int,
) -> str:
    """The document."""
    missed = problems([*cells, *together])
    five = [c for c in cells if c.seeds == SEEDS[-1]]
    said = "\n".join(f"- {line}" for line in missed) or "None."
    return f"""# What boards claim about a column, measured

Made by `python benchmarks/column_coverage.py`; fixed random numbers, so the same numbers every time.
What the words mean is in [statistics](statistics.md).

{simulations} simulated columns a cell (standard error of 5%:
{100 * (0.0475 / simulations) ** 0.5:.1f} points), {DRAWS} joint draws here, {comparisons.DRAWS} on boards.
Standard deviations in points: {PROMPT:g} between prompts, {METHOD:g} of a method's own prompts,
{RESIDUAL:g} of one answer, 1 between training seeds of most methods. *one twice*: one method, among the
best, has twice that (four times the variance); *half twice*: every other one; *and shared*: a seed moves all
methods together besides, by 3. *two tied best*: the next is
{STEP:g} point worse, and so on; the last is SFT, and one method is as good as it.

Columns, in percent: columns whose variance was **pooled**; how often the interval of a **row**, of a
**difference** of two, and of a difference with the **noisiest** method holds the true value; how often any
best method is called worse (**false: best**), any method that equals SFT different from it, any two equal
ones different; how many of the worse methods are **decided** to be so; **width** of a difference's interval
over that of each method's own seeds, neither pooled nor paired by seed.

With {SEEDS[-1]} seeds: intervals of rows at least {percent(min(c.row for c in five))}%, of differences at
least {percent(min(c.pair for c in five))}% (of the noisiest method's at least
{percent(min(c.noisiest for c in five))}%); false alarms at most {percent(max(c.best for c in five))}%
(best), {percent(max(c.sft for c in five))}% (SFT), {percent(max(c.pairs for c in five))}% (all pairs).

Outside of 93% coverage and 6% false alarms:

{said}

{cells_table(cells)}

{answers_section(together, max(1, simulations // 2))}

## The headline's numbers

Eight methods, three columns of 200 prompts, the luck of a training shared to 70% between columns; **shared**:
the standard deviation of what a training seed does to all methods and columns alike besides. Coverage of the
95% intervals, mean over methods, and how often two equal methods share no letter, in percent of
{max(1, simulations // 4)} simulated tables.

{numbers_table(numbers)}
"""
