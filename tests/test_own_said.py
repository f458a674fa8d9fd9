"""What suite ``own`` and the reader of rows say about a small data set is true of it."""

from pathlib import Path

import pytest

from kdbench.harness.data.understood import Reading, understand
from kdbench.harness.errors import InputError
from kdbench.harness.own.facts import _of
from kdbench.harness.own.settings import Facts, Lengths, own_settings
from kdbench.harness.plan.hardware import machine_of

SHORT = Lengths(mean=20.0, most=30, longest=30)


def facts(**changes: object) -> Facts:
    known = {
        "teacher": 10,
        "student": 5,
        "student_is": "whole",
        "context": 512,
        "chat": False,
        "turns": False,
        "one_tokenizer": True,
        "rows": 59,
        "prompts": SHORT,
        "answers": SHORT,
        "device": "cpu",
    }
    return Facts(**(known | changes))  # type: ignore[arg-type]


def why(facts: Facts) -> dict[str, str]:
    return {choice.key: choice.why for choice in own_settings(facts)}


def test_one_long_row_does_not_set_the_lengths() -> None:
    assert _of([12] * 59 + [3000]) == Lengths((12 * 59 + 3000) / 60, 12, 3000)
    assert _of([1] * 198 + [7, 8]).most == 1
    assert _of([1] * 10 + [90]).most == 90  # of so few, none is an outlier


def test_reasons_hold_for_few_rows_and_for_short_contexts() -> None:
    assert why(facts())["train.batch_size"] == "7 steps a pass over 59 rows"
    long = why(facts(prompts=Lengths(900.0, 3048, 3048)))
    assert long["train.max_prompt"].endswith("the models read 512, 32 of them are for answers")


def test_kept_repeats_are_told(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("prompt,response\na,b\na,b\na,c\n", encoding="utf-8")
    found, unique = understand(str(rows)), understand(str(rows), reading=Reading(unique=True))
    assert found is not None and unique is not None
    assert "1 row equal to an earlier one, kept: data.unique=true drops them" in found.lines
    assert unique.lines[1] == "3 rows read, 1 dropped: 1 equal to an earlier row (row 2)"
    assert not unique.repeats


def test_a_number_in_words_is_no_card() -> None:
    with pytest.raises(InputError, match="says no hardware"):
        machine_of("eight")
