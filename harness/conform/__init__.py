"""``kdbench conform``: reference numbers of other people's code, recomputed with ours.

A reference file is JSON in one of the known formats; each knows itself by its keys:

* token objectives: ``cases[].student_logits, teacher_logits, labels, expected{name: {loss, …}}``
* MiniLLM: ``cases[].new_logits, old_logits, teacher_logits, ids, mask, settings, expected{…}``
* exposure bias: ``cases[].student_contexts, teacher_contexts, expected{R, L_eps, …}``
* text metrics: ``rows[].prediction, references, rougeL, exact_match`` and ``expected_aggregate``
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kdbench.harness.conform import measures, objectives
from kdbench.harness.conform.value import Value
from kdbench.harness.errors import InputError
from kdbench.harness.files.store import read_json


def recompute(path: Path) -> list[Value]:
    """Every entry of a reference file with our value.

    Raises:
        InputError: the file cannot be read or has none of the known formats.
    """
    data = read_json(path)
    for recognised, values in _formats(data):
        if recognised:
            try:
                return list(values(data))
            except (KeyError, TypeError, IndexError) as error:
                raise InputError(
                    f"{str(path)!r} looks like a reference file but lacks {error}; repair or replace it."
                ) from error
    raise InputError(
        f"{str(path)!r} has none of the known reference formats (token objectives, MiniLLM, text "
        "metrics, TAID schedule, exposure bias); see `kdbench conform --help`."
    )


def _formats(data: Any) -> list[tuple[bool, Callable[[Any], Iterator[Value]]]]:
    """Whether a file is of each known format, and who reads that."""
    cases = data.get("cases") if isinstance(data, dict) else None
    first = cases[0] if isinstance(cases, list) and cases else ()
    return [
        ("student_logits" in first, objectives.token_objectives),
        ("new_logits" in first, objectives.minillm),
        (
            isinstance(data, dict) and {"rows", "expected_aggregate"} <= data.keys(),
            measures.text_metrics,
        ),
        ("expected_t" in first, objectives.taid_schedule),
        ("student_contexts" in first, measures.exposure_bias),
    ]
