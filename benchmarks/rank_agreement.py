"""Measures rank agreement on boards whose true scores are not normal over methods; prints a table.

    python benchmarks/rank_agreement.py [--boards 200]

True scores are drawn anew a board, measured with normal noise, and handed to `kdbench.reports.agreement` with
draws of that noise, as boards do. The random numbers are fixed. The table is in docs/statistics.md.
"""

import argparse
import itertools
from collections.abc import Callable

import numpy as np

from kdbench.harness import stats
from kdbench.harness.stats import Array
from kdbench.reports.agreement import agreement, kendall

DRAWS = 400
NOISES = (0.3, 1.0)
"""Standard deviations of the noise; true scores within a group have 1."""
FAR = 10.0
"""Between two clusters, and of the outlier."""


def normal(rng: np.random.Generator) -> Array:
    """Twelve methods, normal on both sides, correlation 0.7."""
    one, other = rng.standard_normal((2, 12))
    return np.stack([one, 0.7 * one + np.sqrt(1 - 0.7**2) * other])


def clusters(rng: np.random.Generator) -> Array:
    """Two clusters of three methods that both sides have, without any order in them."""
    return np.asarray(np.repeat([0.0, FAR], 3) + rng.standard_normal((2, 6)))


def outlier(rng: np.random.Generator) -> Array:
    """One method that is far off on both sides, and eleven without any order."""
    return np.asarray(FAR * (np.arange(12) == 0) + rng.standard_normal((2, 12)))


WORLDS: dict[str, Callable[[np.random.Generator], Array]] = {
    "normal, 12 methods": normal,
    "two clusters of three": clusters,
    "one outlier and eleven unrelated": outlier,
}


def row(name: str, noise: float, boards: int) -> list[str]:
    """One line of the table."""
    rng = stats.generator(f"rank-agreement:{name}:{noise}")
    true, measured, model, held, wrong, decided = [], [], [], 0, 0, []
    for _ in range(boards):
        true_2M = WORLDS[name](rng)
        score = true_2M + noise * rng.standard_normal(true_2M.shape)
        draws = score[:, None] + noise * rng.standard_normal((2, DRAWS, true_2M.shape[1]))
        found = agreement(name, [f"m{i}" for i in range(true_2M.shape[1])], score, draws)
        assert found is not None
        tau = float(kendall(true_2M[0], true_2M[1]))
        pairs = found.same + found.reversed + found.undecided
        share = (1 + tau) / 2 * pairs
        true.append(tau)
        measured.append(found.measured)
        model.append(found.tau)
        held += found.low - 1e-3 <= tau <= found.high + 1e-3
        wrong += found.same > share + 1e-6 or found.reversed > pairs - share + 1e-6
        decided.append((found.same + found.reversed) / pairs)
    medians = [f"{float(np.median(each)):.2f}" for each in (true, measured, model)]
    shares = [held / boards, float(np.mean(decided)), wrong / boards]
    return [name, f"{noise:g}", *medians, *(f"{100 * each:.1f}" for each in shares)]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--boards", type=int, default=200)
    boards = parser.parse_args().boards
    head = [
        "true scores", "noise", "true tau", "as measured", "of the model", "its interval holds, %",
        "pairs decided, %", "counts beyond the truth, %",
    ]  # fmt: skip
    cells = itertools.product(WORLDS, NOISES)
    for line in (head, ["---"] + ["---:"] * 7, *(row(*each, boards) for each in cells)):
        print("| " + " | ".join(line) + " |")


if __name__ == "__main__":
    main()
