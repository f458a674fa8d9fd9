"""``kdbench ledger``: published numbers beside ours.

A number **agrees** when the published value, give or take half a unit of its last digit, lies in our
95% interval; it **differs** when it does not. The interval is the board's: over prompts, and over
training seeds from three seeds on. A run counts when its suite, method, method options and model sizes
are the row's, nothing that decides its student was changed from what the suite says, and its
evaluation is of the full task under the row's protocol, decoded as the suite does. Of several such
evaluations one counts: that with the suite's decoding seeds, else that with most.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from kdbench.harness.config import RunConfig
from kdbench.harness.files.records import Estimate, Missing, Record
from kdbench.harness.files.store import read_json
from kdbench.reports.columns import Entry, cell_of, evaluations
from kdbench.reports.group import GroupedRow, Section, sections
from kdbench.reports.load import Identity, find_runs
from kdbench.reports.measured import Point, Value
from kdbench.reports.model import Cell, Column
from kdbench.reports.numbers import Number, Settings, load_numbers, load_settings
from kdbench.reports.suite import decoding_changes, training_changes
from kdbench.reports.text.signature import interval_text, signature

RULE = (
    "agrees: the published value (half a unit of its last digit allowed) lies in our 95% interval"
)
TOLERANCE = 0.05
"""Share by which a model's parameters may differ from the paper's."""

SHOWN = 3
"""Changed settings named in a reason."""

Verdict = Literal["agrees", "differs", "undecided", "not run"]
"""``undecided``: measured, but without an interval."""


Resolve = Callable[[str, str], RunConfig]
"""What a suite says for a method, by their names (`kdbench.harness.resolve`)."""


class LedgerRow(Record):
    """A published number and ours. ``reason`` says why there is no value of ours."""

    number: Number
    verdict: Verdict
    ours: float | None = None
    low: float | None = None
    high: float | None = None
    n_prompts: int = 0
    n_runs: int = 0
    """Training seeds behind the value."""
    decoding_seeds: list[int] = []
    runs: list[str] = []
    reason: str = ""
    causes: list[str] = []


class Ledger(Record):
    """Every number that a suite reproduces, and how many no suite does."""

    rule: str
    rows: list[LedgerRow]
    unreproducible: list[LedgerRow]
    signature: str
    """How our numbers came about."""


def ledger(
    paths: Iterable[Path | str], resolve: Resolve, *, suites: Sequence[str] | None = None
) -> Ledger:
    """Puts the finished runs under ``paths`` beside the published numbers.

    Args:
        paths: run folders or folders of runs; none: every number is not run.
        resolve: what runs are compared with (given, as reports may not load methods).
        suites: only numbers that one of these suites reproduces; None: all.

    Raises:
        InputError: a path does not exist or holds no finished run.
    """
    places = list(paths)
    made = sections(find_runs(places)[0]) if places else []
    known = _Known(load_settings(), functools.cache(resolve), {})
    settings = known.settings
    rows, left = [], []
    for number in load_numbers():
        if not number.suites:
            left.append(_row(number, settings, "no suite reproduces it"))
        elif suites is None or set(suites) & set(number.suites):
            rows.append(_compare(number, made, known))
    return Ledger(
        rule=RULE,
        rows=rows,
        unreproducible=left if suites is None else [],
        signature=_signature(settings, rows),
    )


def _signature(settings: Settings, rows: Sequence[LedgerRow]) -> str:
    """One line that says how our numbers came about."""
    measured = [row for row in rows if row.ours is not None]
    training = {row.n_runs for row in measured if row.number.method != "teacher"}
    return signature(
        {"edition": settings.edition, "protocol": settings.protocol},
        training=training,
        decoding=[row.decoding_seeds for row in measured],
        prompts=[(row.number.task, row.n_prompts) for row in measured if not row.number.bucket],
        how={"interval": interval_text(training), "test": "none"},
    )


class _Known(NamedTuple):
    """What every number is compared by."""

    settings: Settings
    resolve: Resolve
    identities: dict[str, Identity]


class _Ours(NamedTuple):
    """The best candidate for a number, or why there is none."""

    cell: Cell | None
    runs: list[str]
    reason: str


def _compare(number: Number, made: Sequence[Section], known: _Known) -> LedgerRow:
    settings = known.settings
    found = [_ours(number, row, known) for row in _candidates(number, made)]
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
            "n_runs": cell.n_runs,
            "decoding_seeds": cell.decoding_seeds,
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


def _ours(number: Number, grouped: GroupedRow, known: _Known) -> _Ours:
    """Our value of a number in one row of a board."""
    runs = [run.folder.name for run in grouped.runs]
    card, settings = grouped.runs[0].summary.run, known.settings
    # a teacher is evaluated under any method's configuration: the suite says the same of it for all
    suite = known.resolve(card.suite, card.method if card.kind == "run" else "sft")
    reason = (
        _other_models(number, settings, grouped)
        or _other_options(number, grouped)
        or _other_training(number, grouped, suite)
    )
    if reason:
        return _Ours(None, runs, reason)
    task = number.task.removesuffix(" dev")
    entries, others = _evaluation(number, grouped, known, task, suite)
    if not entries:
        wanted = f"{task}[{settings.edition}] under {settings.protocol}"
        instead = f", only on {', '.join(sorted(others))}" if others else ""
        return _Ours(None, runs, f"not evaluated on {wanted}{instead}")
    cell = cell_of(grouped, entries, _column(number, settings, task))
    if isinstance(cell, Missing):
        return _Ours(None, runs, f"{number.metric} not measured: {cell.missing}")
    return _Ours(cell, runs, "")


def _evaluation(
    number: Number, grouped: GroupedRow, known: _Known, task: str, suite: RunConfig
) -> tuple[list[Entry], set[str]]:
    """The evaluation of a row that counts, one entry a run; and in words those that cannot count.

    Several evaluations of one run, or several judges of one, are no training seeds.
    """
    best: list[Entry] = []
    best_rank: tuple[bool, bool, bool, int, int] | None = None
    others: set[str] = set()
    for key, found in sorted(evaluations(grouped, known.identities).items()):
        judge = key[3].partition(" ")[2]
        if key[0] != task or (judge and not number.measure.startswith("judge_")):
            continue
        record = _record(found[0])
        changes = decoding_changes(record.get("decoding") or {}, suite)
        if key[1:3] != (known.settings.edition, known.settings.protocol) or changes:
            others.add(" with ".join([f"{key[1]} under {key[2]}", *changes]))
            continue
        entries = [entry._replace(metrics=_measured(number, entry, judge)) for entry in found]
        usable = sum(not isinstance(e.metrics[number.measure], Missing) for e in entries)
        seeds = record.get("seeds") or []
        rank = (usable > 0, bool(judge), seeds == list(suite.generate.seeds), len(seeds), usable)
        if best_rank is None or rank > best_rank:
            best, best_rank = entries, rank
    return best, others


def _record(entry: Entry) -> Mapping[str, Any]:
    """What an evaluation's key stands for; empty if the folder does not say."""
    path = entry.run.folder / "eval" / entry.key / "evaluation.json"
    record = read_json(path) if path.is_file() else {}
    return record if isinstance(record, Mapping) else {}


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


def _other_training(number: Number, grouped: GroupedRow, suite: RunConfig) -> str:
    """What of a row's training is not as its suite says (but for the number's options), or nothing."""
    options = {name: yaml.safe_load(value) for name, value in number.options.items()}
    for run in grouped.runs:
        path = run.folder / "config.json"
        if not path.is_file():
            return "the run's configuration is not recorded"
        trained = run.summary.run.kind == "run"
        changes = training_changes(read_json(path), suite, options, trained=trained)
        if changes:
            return f"trained otherwise than its suite says: {', '.join(changes[:SHOWN])}"
    return ""


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
