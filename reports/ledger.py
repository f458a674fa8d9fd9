"""``kdbench ledger``: published numbers beside ours.

A number **agrees** when the published value, give or take half a unit of its last digit, lies in our
95% interval; it **differs** when it does not. The interval is the board's: over prompts, and over
training seeds from three seeds on. A run counts when its suite, method, method options and model sizes
are the row's, and its evaluation is of the full task under the row's protocol.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from kdbench.harness.records import Estimate, Missing, Record
from kdbench.harness.store import read_json
from kdbench.reports.columns import Entry, cell_of, evaluations
from kdbench.reports.group import GroupedRow, Section, sections
from kdbench.reports.load import Identity, find_runs
from kdbench.reports.measured import Point, Value
from kdbench.reports.model import Cell, Column

RULE = (
    "agrees: the published value (half a unit of its last digit allowed) lies in our 95% interval"
)
TOLERANCE = 0.05
"""Share by which a model's parameters may differ from the paper's."""

Verdict = Literal["agrees", "differs", "undecided", "not run"]
"""``undecided``: measured, but without an interval."""


class Number(Record):
    """One row of ``published/numbers.csv``."""

    paper: str
    pair: str
    method: str
    setting: str
    task: str
    metric: str
    value: float
    digits: int
    status: str
    suites: list[str]
    options: dict[str, str]
    measure: str
    bucket: str
    factor: float
    causes: list[str]


class Settings(Record):
    """``published/ledger.yaml``."""

    edition: str
    protocol: str
    parameters: dict[str, float]
    prompts: dict[str, int]
    causes: dict[str, str]


class LedgerRow(Record):
    """A published number and ours. ``reason`` says why there is no value of ours."""

    number: Number
    verdict: Verdict
    ours: float | None = None
    low: float | None = None
    high: float | None = None
    n_prompts: int = 0
    runs: list[str] = []
    reason: str = ""
    causes: list[str] = []


class Ledger(Record):
    """Every number that a suite reproduces, and how many no suite does."""

    rule: str
    rows: list[LedgerRow]
    unreproducible: list[LedgerRow]


def ledger(paths: Iterable[Path | str], *, suites: Sequence[str] | None = None) -> Ledger:
    """Puts the finished runs under ``paths`` beside the published numbers.

    Args:
        paths: run folders or folders of runs; none: every number is not run.
        suites: only numbers that one of these suites reproduces; None: all.

    Raises:
        InputError: a path does not exist or holds no finished run.
    """
    places = list(paths)
    made = sections(find_runs(places)[0]) if places else []
    settings = load_settings()
    identities: dict[str, Identity] = {}
    rows, left = [], []
    for number in load_numbers():
        if not number.suites:
            left.append(_row(number, settings, "no suite reproduces it"))
        elif suites is None or set(suites) & set(number.suites):
            rows.append(_compare(number, settings, made, identities))
    return Ledger(rule=RULE, rows=rows, unreproducible=left if suites is None else [])


def load_settings() -> Settings:
    """``ledger.yaml`` of the package."""
    return Settings.model_validate(yaml.safe_load(_data("ledger.yaml")))


def load_numbers() -> list[Number]:
    """``numbers.csv`` of the package."""
    return [_number(row) for row in csv.DictReader(io.StringIO(_data("numbers.csv")))]


def _data(name: str) -> str:
    return (files("kdbench.reports.published") / name).read_text(encoding="utf-8")


def _number(row: Mapping[str, str]) -> Number:
    value = row["value"]
    return Number(
        paper=row["paper"],
        pair=row["pair"],
        method=row["method"],
        setting=row["setting"],
        task=row["task"],
        metric=row["metric"],
        value=float(value),
        digits=len(value.partition(".")[2]),
        status=row["status"],
        suites=row["suite"].split(),
        options=dict(part.split("=", 1) for part in row["options"].split()),
        measure=row["measure"],
        bucket=row["bucket"],
        factor=float(row["factor"]),
        causes=row["cause"].split(),
    )


class _Ours(NamedTuple):
    """The best candidate for a number, or why there is none."""

    cell: Cell | None
    runs: list[str]
    reason: str


def _compare(
    number: Number, settings: Settings, made: Sequence[Section], identities: dict[str, Identity]
) -> LedgerRow:
    found = [_ours(number, settings, row, identities) for row in _candidates(number, made)]
    best = next((ours for ours in found if ours.cell), None)
    if best is None or best.cell is None:
        reasons = dict.fromkeys(ours.reason for ours in found)
        nothing = f"no run of {' or of '.join(number.suites)} with {number.method}"
        if number.method == "teacher":
            nothing = f"the teacher was not evaluated in {' or '.join(number.suites)}"
        return _row(number, settings, "; ".join(reasons) or nothing)
    cell = best.cell
    mean, low, high = (
        None if bound is None else bound * number.factor
        for bound in (cell.mean, cell.low, cell.high)
    )
    slack = 0.5 * 10.0**-number.digits
    inside = low is not None and high is not None and low - slack <= number.value <= high + slack
    expected = settings.prompts.get(number.task, cell.n_prompts)
    row = _row(number, settings, "" if low is not None else "measured without an interval")
    if cell.n_prompts != expected and not number.bucket:
        other = f"ours has {cell.n_prompts} prompts, the paper's {expected}"
        row = row.model_copy(update={"causes": [other, *row.causes]})
    return row.model_copy(
        update={
            "verdict": "undecided" if low is None else "agrees" if inside else "differs",
            "ours": mean,
            "low": low,
            "high": high,
            "n_prompts": cell.n_prompts,
            "runs": best.runs,
        }
    )


def _row(number: Number, settings: Settings, reason: str) -> LedgerRow:
    causes = [settings.causes[name] for name in number.causes]
    return LedgerRow(number=number, verdict="not run", reason=reason, causes=causes)


def _candidates(number: Number, made: Sequence[Section]) -> list[GroupedRow]:
    return [
        grouped
        for section in made
        if section.suite in number.suites
        for grouped in section.rows
        if grouped.row.method == number.method
    ]


def _ours(
    number: Number, settings: Settings, grouped: GroupedRow, identities: dict[str, Identity]
) -> _Ours:
    """Our value of a number in one row of a board."""
    runs = [run.folder.name for run in grouped.runs]
    reason = _other_models(number, settings, grouped) or _other_options(number, grouped)
    if reason:
        return _Ours(None, runs, reason)
    entries: list[Entry] = []
    seen: set[str] = set()
    task = number.task.removesuffix(" dev")
    for key, found in evaluations(grouped, identities).items():
        if key[0] != task:
            continue
        seen.add(f"{key[1]} under {key[2]}")
        if key[1:3] == (settings.edition, settings.protocol):
            judge = key[3].partition(" ")[2]
            entries += [entry._replace(metrics=_measured(number, entry, judge)) for entry in found]
    if not entries:
        wanted = f"{task}[{settings.edition}] under {settings.protocol}"
        instead = f", only on {', '.join(sorted(seen))}" if seen else ""
        return _Ours(None, runs, f"not evaluated on {wanted}{instead}")
    column = _column(number, settings, task)
    usable = [e for e in entries if not isinstance(e.metrics[number.measure], Missing)]
    cell = cell_of(grouped, usable or entries, column)
    if isinstance(cell, Missing):
        return _Ours(None, runs, f"{number.metric} not measured: {cell.missing}")
    return _Ours(cell, runs, "")


def _other_models(number: Number, settings: Settings, grouped: GroupedRow) -> str:
    """Why a row's models are not the paper's, or nothing."""
    family, sizes = number.pair.split(" ", 1)
    teacher, _, student = sizes.partition(" → ")
    card = grouped.runs[0].summary.run
    pairs = [(student or teacher, card.student)]
    if student:
        pairs.append((teacher, card.teacher))
    for size, model in pairs:
        wanted = settings.parameters[f"{family} {size}"]
        if model is None or abs(model.parameters - wanted) > TOLERANCE * wanted:
            have = f"{model.parameters / 1e6:.4g}M" if model else "no"
            return f"other models: ours has {have} parameters, {family} {size} {wanted / 1e6:.4g}M"
    return ""


def _other_options(number: Number, grouped: GroupedRow) -> str:
    """Why a row's method settings are not the number's, or nothing."""
    path = grouped.runs[0].folder / "config.json"
    if not number.options or not path.is_file():
        return ""
    options = read_json(path).get("method", {}).get("options", {})
    wrong = [
        f"{name} {wanted}"
        for name, wanted in number.options.items()
        if name in options and yaml.safe_load(wanted) != options[name]
    ]
    return f"only with another setting than {', '.join(wrong)}" if wrong else ""


def _measured(number: Number, entry: Entry, judge: str) -> dict[str, Value]:
    """The number's measure of one evaluation (as seen by a judge), as the only metric."""
    name = number.measure
    summary = entry.run.summary
    text = summary.probes.get(entry.key, {}).get("text", {})
    stored: Any
    if name == "dev_rouge_l_selected":
        stored = summary.learned.get(name)
    elif name == "distinct_4":
        stored = text.get("distinct", {}).get(name)
    elif number.bucket:
        kind, bounds = number.bucket.split(" ", 1)
        bucket = text.get("buckets", {}).get("student", {}).get(kind, {}).get(bounds, {})
        stored = bucket.get("metrics", {}).get(name)
    else:
        return {name: _value(entry, name, judge)}
    if stored is None:
        return {name: Missing(missing="not in the summary")}
    if isinstance(stored, Mapping):
        known = Missing if "missing" in stored else Estimate
        return {name: known.model_validate(stored)}
    return {name: Point(float(stored), 0)}


def _value(entry: Entry, name: str, judge: str) -> Value:
    if name.startswith("judge_"):
        about = entry.run.summary.judge.get(judge)
        model = str(about.get("model", "")) if isinstance(about, Mapping) else ""
        if "gpt-4" not in model.lower():
            return Missing(missing=f"judged by {model}" if model else "no GPT-4 judge")
    return entry.metrics.get(name, Missing(missing="not computed"))


def _column(number: Number, settings: Settings, task: str) -> Column:
    return Column(
        id=number.measure,
        task=task,
        edition=settings.edition,
        protocol=settings.protocol,
        metric=number.measure,
        identity="",
        heading=task,
    )
