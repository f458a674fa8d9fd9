"""A study's table and figure from small run folders written by hand."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from board_runs import write_run

from kdbench.harness import stats
from kdbench.harness.files.records import DriftRecord, Missing
from kdbench.harness.files.run_folder import RunFolder
from kdbench.reports.ablation import Ablation, AblationCell, About, Given, build_ablation
from kdbench.reports.columns import Cell, evaluations
from kdbench.reports.documents.ablation import ablation_document
from kdbench.reports.figures import save
from kdbench.reports.figures.ablation import differences
from kdbench.reports.rows import row_of
from kdbench.reports.runs import Run, prompt_scores
from kdbench.reports.text.formats import write
from kdbench.reports.text.style import p_value, version

PUBLISHED = {
    "full": {"dolly/rouge_l": 24.6},
    "worse": {"dolly/rouge_l": 14.7},
    "better": {"dolly/rouge_l": 20.0},
}


def table(runs: Path, seeds: int = 1, **more: object) -> Ablation:
    """The rows worse, full, better and absent."""
    levels = {"worse": 24.0, "full": 30.0, "better": 36.0}
    given = [
        Given(
            label,
            [write_run(runs, f"{label}{seed}", level, training_seed=seed) for seed in range(seeds)],
        )
        for label, level in levels.items()
    ]
    given.append(Given("absent", [], "seed 10 failed: the disk was full"))
    settings = {"title": "A study", "base": "full", "about": About("mini"), "published": PUBLISHED}
    return build_ablation(given, **(settings | more))  # type: ignore[arg-type]


def render(made: Ablation, format: str) -> str:
    return write(ablation_document(made, headline=format == "terminal"), format)


def cell(made: Ablation, label: str, metric: str = "rouge_l") -> AblationCell:
    place = [row.label for row in made.rows].index(label)
    return made.cells[place][[column.metric for column in made.columns].index(metric)]


def test_differences_are_paired_and_corrected(tmp_path: Path) -> None:
    made = table(tmp_path)
    assert [row.label for row in made.rows] == ["full", "worse", "better", "absent"]
    assert cell(made, "full").effect is None
    worse, better = cell(made, "worse").effect, cell(made, "better").effect
    assert worse is not None and better is not None
    runs = [RunFolder(tmp_path / f"run-{i:012x}") for i in (0, 1)]
    values = [prompt_scores(run.evaluations()[0]).values for run in runs]
    by_hand = np.asarray(values[0]["rouge_l"]) - np.asarray(values[1]["rouge_l"])
    assert worse.difference == pytest.approx(by_hand.mean(), abs=1e-5)
    interval = stats.bootstrap(by_hand, resamples=stats.RESAMPLES)
    assert (worse.low, worse.high) == pytest.approx(interval[1:], abs=1e-5)
    assert worse.p == pytest.approx(stats.randomisation_p(by_hand), abs=1e-8)
    assert [worse.p_holm, better.p_holm] == pytest.approx(stats.holm([worse.p, better.p]))
    assert worse.high < 0 < better.low
    assert not worse.seeds_measured and "training variance unmeasured" in made.signature


def test_three_training_seeds_enter_the_interval(tmp_path: Path) -> None:
    made = table(tmp_path, seeds=3)
    effect = cell(made, "worse").effect
    assert effect is not None and effect.seeds_measured
    assert made.rows[1].training_seeds == [0, 1, 2]
    assert "paired t over prompts and training seeds" in made.signature
    assert "×3" in render(made, "md")


def test_the_papers_own_differences_stand_beside(tmp_path: Path) -> None:
    made = table(tmp_path)
    worse, better = cell(made, "worse").paper, cell(made, "better").paper
    assert worse is not None and better is not None
    assert (worse.difference, worse.same_sign) == (-9.9, True)
    assert (better.difference, better.same_sign) == (-4.6, False)
    assert cell(made, "full").paper is None and cell(made, "worse", "exact_match").paper is None
    for text in (render(made, "terminal"), render(made, "md")):
        assert "−9.9, same sign" in text and "−4.6, opposite sign" in text


def test_what_is_missing_says_why(tmp_path: Path) -> None:
    made = table(tmp_path)
    assert cell(made, "absent").value == Missing(missing="seed 10 failed: the disk was full")
    for text in (render(made, "terminal"), render(made, "md"), render(made, "latex")):
        assert "the disk was full" in text
        assert "kdbench: " in text  # the signature
    alone = build_ablation(
        [Given("full", []), Given("other", [])], title="t", base="full", about=About("mini")
    )
    assert alone.columns == []
    assert isinstance(differences(alone), Missing)


def test_one_table_shows_one_edition(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "a", 30.0, edition="mini")
    other = write_run(tmp_path, "b", 30.0, edition="mini:8")
    given = [Given("full", [folder]), Given("other", [other])]
    (asked,) = evaluations(row_of([Run(RunFolder(folder), RunFolder(folder).summary.read())]))
    made = build_ablation(given, title="t", base="full", about=About("mini"), asked=[asked])
    assert {column.edition for column in made.columns} == {"mini"}
    assert cell(made, "other").value == Missing(missing="not evaluated")


def test_text_cannot_break_a_table(tmp_path: Path) -> None:
    evil = "a|b <script> \\input{x} $5 & 100% [red]"
    given = [
        Given("full", [write_run(tmp_path, "full", 30.0)]),
        Given(evil, [write_run(tmp_path, "evil", 20.0)]),
    ]
    made = build_ablation(given, title=evil, base="full", about=About("mini"))
    markdown = render(made, "md")
    assert "<script>" not in markdown and "a|b" not in markdown
    latex = [line for line in render(made, "latex").splitlines() if not line.startswith("%")]
    assert "\\input{x}" not in "\n".join(latex)
    assert "[red]" in render(made, "terminal")
    plot = differences(made)
    assert not isinstance(plot, Missing)
    assert [path.suffix for path in save(plot, tmp_path / "figure")] == [".svg", ".png", ".csv"]
    assert "<script>" not in (tmp_path / "figure.svg").read_text()


def test_data_has_every_cell_and_bytes_do_not_change(tmp_path: Path) -> None:
    made = table(tmp_path)
    rows = list(csv.DictReader(io.StringIO(render(made, "csv"))))
    assert len(rows) == len(made.rows) * len(made.columns)
    assert {row["same_sign"] for row in rows} == {"", "0", "1"}
    assert Ablation.model_validate(json.loads(json.dumps(made.model_dump(mode="json")))) == made
    assert isinstance(cell(made, "full").value, Cell)
    plot = differences(made)
    assert not isinstance(plot, Missing)
    one, two = ([p.read_bytes() for p in save(plot, tmp_path / name)] for name in ("a", "b"))
    assert one == two


def test_p_values_in_four_digits() -> None:
    shown = ["<0.0001", "0.0001", "0.0123", "0.5000", "1.0000"]
    assert [p_value(p) for p in (0.00009, 0.0001, 0.0123, 0.5, 1.0)] == shown


def test_runs_of_other_code_are_named(tmp_path: Path) -> None:
    given = []
    for label, code, made_by in (
        ("full", "a", "0.0.1"),
        ("old", "b", "0.0.2"),
        ("new", "a", "0.0.1"),
    ):
        folder = write_run(tmp_path, label, 30.0)
        run = RunFolder(folder)
        run.drift.write(DriftRecord(sha256=code))
        run.manifest.write(run.manifest.read().model_copy(update={"kdbench": made_by}))
        given.append(Given(label, [folder]))
    made = build_ablation(given, title="t", base="full", about=About("mini"))
    assert "| runs of kdbench: 0.0.1, 0.0.2 | suite: mini |" in made.signature
    (note,) = made.notes
    assert note.startswith("trained by other code") and note.endswith(": old")
    now = build_ablation(
        [each for each in given if each.label != "old"], title="t", base="full", about=About("mini")
    )
    assert now.notes == []
    for each in given:
        run = RunFolder(Path(each.folders[0]))
        run.manifest.write(run.manifest.read().model_copy(update={"kdbench": version()}))
    made = build_ablation(given, title="t", base="full", about=About("mini"))
    assert "runs of kdbench" not in made.signature
