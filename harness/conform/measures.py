"""What is measured of answers against the authors' numbers: exposure bias, ROUGE-L, exact match."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from kdbench.harness.conform.value import Value, compared
from kdbench.tasks.scoring import exact_match, rouge_f
from kdbench.trainers.exposure import curves, prompt_errors, token_errors

LIVE_OFFSET = 1e-3


def exposure_bias(data: dict[str, Any]) -> Iterator[Value]:
    """R, L·ε and ExAccErr from given logits, one sample a prompt, by the reference code's rule."""
    for number, case in enumerate(data["cases"]):
        found = curves(_errors(case["student_contexts"]), _errors(case["teacher_contexts"]))
        ours = {"R": found.R_T, "L_eps": found.L_eps_T, "ex_acc_err_percent": found.excess_T}
        expected = {name: case["expected"][name] for name in ours}
        yield from compared(f"exposure_bias[{number}]", expected, ours)


def _errors(contexts: dict[str, Any]) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """Each prompt's error at each place, (P, T)."""
    student, teacher = (
        torch.tensor(contexts[f"{who}_logits"], dtype=torch.float64)
        for who in ("student", "teacher")
    )
    errors = token_errors(student.flatten(0, 1), teacher.flatten(0, 1)).view(student.shape[:2])
    return np.stack(
        [
            prompt_errors(row[None], mask[None], live_offset=LIVE_OFFSET)
            for row, mask in zip(errors.numpy(), np.array(contexts["mask"]), strict=True)
        ]
    )


def text_metrics(data: dict[str, Any]) -> Iterator[Value]:
    """Every row (fractions) and the aggregates (percent)."""
    totals = {"rougeL": 0.0, "exact_match": 0.0}
    for number, row in enumerate(data["rows"]):
        rouge = rouge_f(row["prediction"], row["references"])
        exact = exact_match(row["prediction"], row["references"])
        totals["rougeL"] += rouge
        totals["exact_match"] += exact
        yield Value(f"rougeL[{number}]", [row["rougeL"]], [rouge / 100])
        yield Value(f"exact_match[{number}]", [row["exact_match"]], [exact / 100])
    for name, expected in data["expected_aggregate"].items():
        # the file prints four decimals, so the half unit of rounding is not ours
        ours = round(totals[name] / len(data["rows"]), 4)
        yield Value(f"aggregate.{name}", [expected], [ours])
