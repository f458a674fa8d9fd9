"""Every figure draws the numbers of its CSV, and says why where there is nothing to draw."""

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdbench.harness.files.records import Missing, StageCost, TrainRow
from kdbench.reports.figures import Drawable, Plot, save
from kdbench.reports.figures.probes import exposure_curves, reliability
from kdbench.reports.figures.scores import CostPoint, cost_by_stage, length_buckets, quality_cost
from kdbench.reports.figures.training import POINTS, training_curves, training_details
from tests.support.report_runs import probe_reports, training

Pairs = set[tuple[float, float]]


def opened(drawable: Drawable, folder: Path) -> tuple[Figure, list[dict[str, str]]]:
    """The figure, and its CSV as a reader would read it."""
    assert isinstance(drawable, Plot), drawable
    written = save(drawable, folder / "figure")
    with open(written[2], newline="", encoding="utf-8") as file:
        return drawable.draw(drawable.rows), list(csv.DictReader(file))


def lines(plots: Iterable[Axes]) -> Pairs:
    return {
        (float(x), float(y))
        for axes in plots
        for line in axes.lines
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    }


def pairs(rows: list[dict[str, str]], x: str, y: str) -> Pairs:
    return {(float(row[x]), float(row[y])) for row in rows if row[x] and row[y]}


def test_training_curves_draw_their_csv(tmp_path: Path) -> None:
    figure, rows = opened(training_curves(training(), 20), tmp_path)
    panels = dict.fromkeys(row["panel"] for row in rows)
    assert list(panels) == ["loss", "dev_loss", "dev_rouge_l"]
    for axes, panel in zip(figure.axes, panels, strict=True):
        mine = [row for row in rows if row["panel"] == panel]
        expected = pairs(mine, "response_tokens", "value") | pairs(
            mine, "response_tokens", "smoothed"
        )
        kept = {(2000.0, 0.0), (2000.0, 1.0)}  # the line of the kept step, in axes coordinates
        assert lines([axes]) == expected | kept
    assert {row["series"] for row in rows if row["panel"] == "loss"} == {"loss", "a", "b"}
    values = [float(row["value"]) for row in rows if row["series"] == "loss"]
    assert values == pytest.approx([row.loss for row in training()[1:]])


def test_training_details_draw_their_csv(tmp_path: Path) -> None:
    figure, rows = opened(training_details(training()), tmp_path)
    assert {row["panel"] for row in rows} == {"a/entropy", "grad_norm", "learning rate"}
    expected = pairs(rows, "response_tokens", "value") | pairs(rows, "response_tokens", "smoothed")
    assert lines(figure.axes) == expected


def test_a_long_training_is_drawn_as_means_over_windows() -> None:
    rows = [
        TrainRow(step=step, loss=float(step), tokens={"response": step}) for step in range(1, 2001)
    ]
    rows[6] = rows[6].model_copy(update={"loss": float("nan")})
    plot = training_curves(rows, None)
    assert isinstance(plot, Plot)
    assert len(plot.rows) <= POINTS
    assert plot.rows[0]["value"] == pytest.approx(np.mean([1, 2, 3, 4, 5, 6]))
    assert plot.rows[0]["step"] == 7
    assert plot.rows[-1]["step"] == 2000
    assert "means over 7 steps" in plot.caption


def test_length_buckets_draw_their_csv(tmp_path: Path) -> None:
    reports = {
        who: {"dolly[mini]": probe_reports(level)["text"], "sni[mini]": probe_reports(1.0)["text"]}
        for who, level in (("fkd", 30.0), ("teacher", 60.0))
    }
    figure, rows = opened(length_buckets(reports), tmp_path)
    assert len(rows) == 2 * 2 * 3, "series, tasks, buckets that hold prompts"
    drawn = {x for x, _ in lines(figure.axes)}
    for name in ("mean", "low", "high"):
        assert {float(row[name]) for row in rows} <= drawn
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["MiniLLM [0,5], n = 6", "MiniLLM [6,10], n = 6", "DPKD (0,30), n = 6"]


def test_exposure_curves_draw_their_csv(tmp_path: Path) -> None:
    report = probe_reports(30.0)["exposure"]
    figure, rows = opened(exposure_curves({"fkd": report}), tmp_path)
    assert len(rows) == 4 * 7, "curves, lengths with a value"
    zero = {(0.0, 0.0), (1.0, 0.0)}
    assert lines(figure.axes) - zero == pairs(rows, "length", "value")
    bands = {
        (float(x), float(y))
        for axes in figure.axes
        for band in axes.collections
        for x, y in band.get_paths()[0].vertices
    }
    assert pairs(rows, "length", "low") | pairs(rows, "length", "high") <= bands


def test_reliability_draws_its_csv(tmp_path: Path) -> None:
    report = probe_reports(30.0)["calibration"]
    figure, rows = opened(reliability({"fkd": report}), tmp_path)
    above, below = figure.axes
    assert lines([above]) == pairs(rows, "confidence", "accuracy") | {(0.0, 0.0), (1.0, 1.0)}
    counts = below.patches[0].get_data()  # type: ignore[attr-defined]
    assert list(counts.values) == [float(row["count"]) for row in rows]
    assert list(counts.edges) == [0.0, *(float(row["high"]) for row in rows)]
    assert below.get_yscale() == "log", "500 predictions in one bin, 2 in another"


def test_quality_against_cost_draws_its_csv(tmp_path: Path) -> None:
    points = [
        CostPoint("fkd", "1", "dolly", 30.0, 29.0, 31.0, 10.0),
        CostPoint("rkd", "2", "dolly", 33.0, 32.0, 34.0, 20.0),
        CostPoint("init", "3", "dolly", 29.5, 28.0, 31.0, None),
        CostPoint("truth", "4", "dolly", 90.0, 88.0, 92.0, None),
        CostPoint("fkd", "1", "sni", 30.0, 29.0, 31.0, 10.0),
    ]
    figure, rows = opened(quality_cost(points), tmp_path)
    assert {row["task"] for row in rows} == {"dolly"}, "one run alone is no comparison"
    trained = [row for row in rows if row["cost"]]
    for name in ("mean", "low", "high"):
        assert pairs(trained, "cost", name) <= lines(figure.axes)
    assert (0.0, 29.5) in lines(figure.axes)
    assert figure.axes[0].get_ylim()[1] < 40, "a far reference must not flatten the runs"
    assert "↑ truth 90.0" in [text.get_text() for text in figure.axes[0].texts]


def test_cost_by_stage_draws_its_csv(tmp_path: Path) -> None:
    cost = {"train": StageCost(wall_s=60.0, tokens={"student": 7}), "generate": StageCost(wall_s=2)}
    figure, rows = opened(cost_by_stage(cost), tmp_path)
    widths = [bar.get_width() for bar in figure.axes[0].patches]  # type: ignore[attr-defined]
    assert widths == [float(row["wall_s"]) for row in rows] == [60.0, 2.0]
    assert [row["student_tokens"] for row in rows] == ["7", ""]


@pytest.mark.parametrize(
    ("drawable", "reason"),
    [
        (training_curves([], None), "no optimiser step"),
        (training_details([TrainRow(step=1, loss=1.0)]), "nothing was logged"),
        (length_buckets({"fkd": {"dolly": {"buckets": {"student": {}}}}}), "kdbench score"),
        (length_buckets({}), "kdbench score"),
        (exposure_curves({}), "add exposure"),
        (reliability({}), "add calibration"),
        (quality_cost([CostPoint("fkd", "1", "dolly", 1, 0, 2, 3.0)]), "no two trained runs"),
        (cost_by_stage({}), "no stage"),
    ],
)
def test_nothing_to_draw_has_a_reason(drawable: Drawable, reason: str) -> None:
    assert isinstance(drawable, Missing)
    assert reason in drawable.missing
