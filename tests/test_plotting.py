"""Drawing: equal bytes, our own style, labels that are never markup."""

from pathlib import Path

import matplotlib
import pandas
import pytest

from kdbench.reports.figures import plotting
from kdbench.reports.text.csv import csv_text, frame

ROWS = [
    {"label": "plain", "value": -1.5, "low": -2.0, "high": -1.0},
    {"label": "costs $5 or $6", "value": 0.1 + 0.2, "low": None, "high": None},
]


def drawn(folder: Path) -> list[Path]:
    figure, axes = plotting.canvas(4.0, 2.0)
    columns = {key: [row[key] for row in ROWS] for key in ROWS[0]}
    plotting.dots(axes, columns["label"], columns["value"], columns["low"], columns["high"], zero=0)
    return plotting.write(figure, folder / "v1.dots", ROWS)


def test_equal_bytes_whatever_the_users_style(tmp_path: Path) -> None:
    first = drawn(tmp_path / "a")
    assert [path.name for path in first] == ["v1.dots.svg", "v1.dots.png", "v1.dots.csv"]
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 20, "svg.hashsalt": "other"}):
        second = drawn(tmp_path / "b")
        assert matplotlib.rcParams["lines.linewidth"] == 9
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    svg = first[0].read_text()
    assert "<dc:date>" not in svg
    assert "dc:creator" not in svg


def test_dots_draw_the_numbers_and_no_whisker_where_there_is_none() -> None:
    figure, axes = plotting.canvas(4.0, 2.0)
    plotting.dots(axes, ["a", "b"], [1.0, 2.0], [0.5, None], [1.5, None])
    whisker, points = axes.lines
    assert list(whisker.get_xdata()) == [0.5, 1.5]
    assert list(points.get_xdata()) == [1.0, 2.0]
    assert list(points.get_ydata()) == [0, 1]
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "the first row is on top"
    figure.draw_without_rendering()


def test_csv_of_rows_and_of_a_frame() -> None:
    text = csv_text(frame(ROWS))
    assert text.splitlines() == [
        "label,value,low,high",
        "plain,-1.5,-2.0,-1.0",
        "costs $5 or $6,0.30000000000000004,,",
    ]
    table = pandas.DataFrame([{"a": 1, "b": "x"}])
    assert csv_text(table) == "a,b\n1,x\n"


@pytest.mark.parametrize(
    ("label", "shown"),
    [("a\n  b", "a b"), ("x$y$", r"x\$y\$"), ("z" * 60, "z" * 47 + "…"), ("\x1b[1m\u202e", "[1m")],
)
def test_labels_are_one_line_and_no_markup(label: str, shown: str) -> None:
    assert plotting.text(label) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(950, "950"), (50_000, "50k"), (1_500_000, "1.5M"), (0, "0"), (2e9, "2G")]
)
def test_short_counts(value: float, shown: str) -> None:
    assert plotting.short(value) == shown
