"""``kdbench ledger``: published numbers beside ours.

A number **agrees** when the published value, give or take half a unit of its last digit, lies in our
95% interval; it **differs** when it does not. The interval is over prompts, and over training seeds where
these were measured. Unlike a board's, which is there to compare rows of the same seeds, it has what a seed
does to all methods alike. A run counts when its suite, method, method options and model sizes
are the row's, nothing that decides its student was changed from what the suite says, and its
evaluation is of the full task under the row's protocol, decoded as the suite does. Of several such
evaluations one counts: that with the suite's decoding seeds, else that with most.
"""

import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from kdbench.harness.config import FREE, RunConfig
from kdbench.harness.files.records import Missing, Record, RunCard
from kdbench.harness.files.store import Say
from kdbench.reports.columns import (
    JUDGE_PREFIX,
    Cell,
    ColumnKey,
    Entry,
    Found,
    Value,
    cell_of,
    evaluations,
    part,
    stored_value,
)
from kdbench.reports.paired import row_seeds
from kdbench.reports.published.numbers import Number, Settings, load_numbers, load_settings
from kdbench.reports.rows import GroupedRow, Section, sections
from kdbench.reports.runs import told_runs
from kdbench.reports.text.style import interval_text, signature

RULE = (
    "agrees: the published value (half a unit of its last digit allowed) lies in our 95% interval"
)
TOLERANCE = 0.05
"""Share by which a model's parameters may differ from the paper's."""

SHOWN = 3
"""Changed settings named in a reason."""
TEACHER = ("data", "teacher_sft")
STUDENT = (*TEACHER, "init_sft", "train", "method")
"""Sections of a configuration that decide a teacher, and a student."""

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
    paths: Iterable[Path | str],
    resolve: Resolve,
    *,
    suites: Sequence[str] | None = None,
    say: Say | None = None,
) -> Ledger:
    """Puts the finished runs under ``paths`` beside the published numbers.

    Args:
        paths: run folders or folders of runs; none: every number is not run.
        resolve: what runs are compared with (given, as reports may not load methods).
        suites: only numbers that one of these suites reproduces; None: all.
        say: told of each run that is left out since it is damaged.

    Raises:
        InputError: a path does not exist or holds no finished run.
    """
    settings, numbers = load_settings(), load_numbers()
    wanted = {(suite, number.method) for number in numbers for suite in number.suites}
    places = list(paths)
    candidates = [
        candidate
        for section in (sections(told_runs(places, say)) if places else [])
        for candidate in _candidates(section, wanted, resolve)
    ]
    rows = [
        _compare(number, [c for c in candidates if c.fits(number)], settings)
        for number in numbers
        if number.suites and (suites is None or set(suites) & set(number.suites))
    ]
    nowhere = [number for number in numbers if not number.suites and suites is None]
    return Ledger(
        rule=RULE,
        rows=rows,
        unreproducible=[_row(number, settings, "no suite reproduces it") for number in nowhere],
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


class _Candidate(NamedTuple):
    """A row of a board with what decides whether it counts for a number."""

    grouped: GroupedRow
    suite: RunConfig
    """What its suite says."""
    configs: list[dict[str, Any]]
    """What was configured, one a run; empty where that is not recorded."""
    table: list[Found]
    """The evaluations of all rows of its table, as what a training seed does is known from all."""
    place: int
    """Its own in the table."""

    @property
    def card(self) -> RunCard:
        """Of the first run."""
        return self.grouped.runs[0].summary.run

    def fits(self, number: Number) -> bool:
        """Whether suite and method are the number's."""
        return self.card.suite in number.suites and self.card.method == number.method


def _candidates(
    section: Section, wanted: Collection[tuple[str, str]], resolve: Resolve
) -> list[_Candidate]:
    """The rows of a table whose suite and method are wanted."""
    own = [i for i, each in enumerate(section.rows) if (section.suite, each.row.method) in wanted]
    table = [evaluations(grouped) for grouped in section.rows] if own else []
    return [_candidate(section, table, place, resolve) for place in own]


def _candidate(section: Section, table: list[Found], place: int, resolve: Resolve) -> _Candidate:
    grouped = section.rows[place]
    card = grouped.runs[0].summary.run
    # a teacher is evaluated under any method's configuration: the suite says the same of it for all
    suite = resolve(card.suite, card.method if card.kind == "run" else "sft")
    stored = (run.folder.config.find() for run in grouped.runs)
    configs = [config.tree() if config else {} for config in stored]
    return _Candidate(grouped, suite, configs, table, place)


def _compare(number: Number, candidates: Sequence[_Candidate], settings: Settings) -> LedgerRow:
    found = [(_ours(number, candidate, settings), candidate) for candidate in candidates]
    best = [(cell, whose) for cell, whose in found if isinstance(cell, Cell)]
    if not best:
        reasons = dict.fromkeys(cell.missing for cell, _ in found if isinstance(cell, Missing))
        nothing = f"no run of {' or of '.join(number.suites)} with {number.method}"
        if number.method == "teacher":
            nothing = f"the teacher was not evaluated in {' or '.join(number.suites)}"
        return _row(number, settings, "; ".join(reasons) or nothing)
    cell, whose = best[0]
    mean, low, high = (
        None if bound is None else bound * number.factor
        for bound in (cell.mean, cell.low, cell.high)
    )
    slack = 0.5 * 10.0**-number.digits
    inside = low is not None and high is not None and low - slack <= number.value <= high + slack
    expected = settings.prompts.get(number.task, cell.n_prompts)
    row = _row(number, settings, "" if low is not None else "measured without an interval")
    fewer = [f"ours has {cell.n_prompts} prompts, the paper's {expected}"]
    causes = fewer if cell.n_prompts != expected and not number.bucket else []
    ours = cell.model_dump(include={"n_prompts", "n_runs", "decoding_seeds"}) | {
        "verdict": "undecided" if low is None else "agrees" if inside else "differs",
        "ours": mean,
        "low": low,
        "high": high,
        "runs": [run.folder.name for run in whose.grouped.runs],
        "causes": [*causes, *row.causes],
    }
    return row.model_copy(update=ours)


def _row(number: Number, settings: Settings, reason: str) -> LedgerRow:
    causes = [settings.causes[name] for name in number.causes]
    return LedgerRow(number=number, verdict="not run", reason=reason, causes=causes)


def _ours(number: Number, candidate: _Candidate, settings: Settings) -> Cell | Missing:
    """Our value of a number in one row of a board, or why it does not count."""
    reason = (
        _other_models(number, settings, candidate.card)
        or _other_options(number, candidate.configs[0])
        or _other_training(number, candidate)
    )
    task = number.task.removesuffix(" dev")
    key, others = (None, set()) if reason else _evaluation(number, candidate, settings, task)
    if key is None:
        wanted = f"{task}[{settings.edition}] under {settings.protocol}"
        instead = f", only on {', '.join(sorted(others))}" if others else ""
        return Missing(missing=reason or f"not evaluated on {wanted}{instead}")
    rows = [_entries(number, key, found) for found in candidate.table]
    # nobody trained the published student under our seeds: what these do to all rows is in it
    spread = row_seeds(rows, number.measure).spreads(alone=True)[candidate.place]
    cell = cell_of(candidate.grouped, rows[candidate.place], number.measure, *spread)
    if isinstance(cell, Missing):
        return Missing(missing=f"{number.metric} not measured: {cell.missing}")
    return cell


def _entries(number: Number, key: ColumnKey, found: Found) -> list[Entry]:
    """A row's evaluation, one entry a run, with the number's measure as the only metric."""
    entries = found.get(key, [])
    return [e._replace(metrics=_measured(number, e, key.judge)) for e in entries]


def _evaluation(
    number: Number, candidate: _Candidate, settings: Settings, task: str
) -> tuple[ColumnKey | None, set[str]]:
    """The evaluation of a row that counts; and in words those that cannot count.

    Several evaluations of one run, or several judges of one, are no training seeds.
    """
    ranked: list[tuple[tuple[bool, bool, bool, int, int], ColumnKey]] = []
    others: set[str] = set()
    asked = candidate.suite.generate
    suite = asked.model_dump(mode="json")
    own = candidate.table[candidate.place]
    for key, found in sorted(own.items()):
        if key.task != task or (key.judge and not number.measure.startswith(JUDGE_PREFIX)):
            continue
        record = found[0].evaluation.record.find()
        decoding = record.decoding.model_dump() if record and record.decoding else {}
        changes = [
            f"{name} {value}"
            for name, value in decoding.items()
            if suite.get(name) not in (None, "auto", value)
        ]
        if (key.edition, key.protocol) != (settings.edition, settings.protocol) or changes:
            others.add(" with ".join([f"{key.edition} under {key.protocol}", *changes]))
            continue
        entries = _entries(number, key, own)
        usable = sum(not isinstance(e.metrics[number.measure], Missing) for e in entries)
        seeds = record.seeds if record else []
        rank = (usable > 0, bool(key.judge), seeds == list(asked.seeds), len(seeds), usable)
        ranked.append((rank, key))
    return max(ranked, key=lambda pair: pair[0])[1] if ranked else None, others


# -- what must be as in the paper -----------------------------------------------------------------


def _other_models(number: Number, settings: Settings, card: RunCard) -> str:
    """Why a row's models are not the paper's, or nothing."""
    family, sizes = number.pair.split(" ", 1)
    teacher, _, student = sizes.partition(" → ")
    pairs = [(student or teacher, card.student), (teacher, card.teacher)]
    for size, model in pairs if student else pairs[:1]:
        wanted = settings.parameters[f"{family} {size}"]
        if model is None or abs(model.parameters - wanted) > TOLERANCE * wanted:
            have = f"{model.parameters / 1e6:.4g}M" if model else "no"
            return f"other models: ours has {have} parameters, {family} {size} {wanted / 1e6:.4g}M"
    return ""


def _other_options(number: Number, config: Mapping[str, Any]) -> str:
    """Why a row's method settings are not the number's, or nothing."""
    options = config.get("method", {}).get("options", {})
    wrong = [
        f"{name} {wanted}"
        for name, wanted in number.options.items()
        if name in options and yaml.safe_load(wanted) != options[name]
    ]
    return f"only with another setting than {', '.join(wrong)}" if wrong else ""


def _other_training(number: Number, candidate: _Candidate) -> str:
    """What of a row's training is not as its suite says (but for the number's options), or nothing.

    A setting that a configuration does not have is newer than the run: it was not changed.
    """
    trained = candidate.card.kind == "run"
    wanted = candidate.suite.model_dump(mode="json")
    wanted["method"]["options"] |= {k: yaml.safe_load(v) for k, v in number.options.items()}
    expected = _training(wanted, trained)
    for config in candidate.configs:
        if not config:
            return "the run's configuration is not recorded"
        changes = [
            f"{key.replace('method.options.', 'method.')} {value} instead of {expected.get(key)}"
            for key, value in _training(config, trained).items()
            if expected.get(key, ...) not in (value, "auto")
        ]
        if changes:
            return f"trained otherwise than its suite says: {', '.join(changes[:SHOWN])}"
    return ""


def _training(config: Mapping[str, Any], trained: bool) -> dict[str, Any]:
    """Settings that decide a student (or a teacher, whichever method it was evaluated beside)."""
    sections = {name: config[name] for name in (STUDENT if trained else TEACHER) if name in config}
    if trained:
        sections["method"] = {"options": config["method"]["options"]}
    return dict(_leaves(sections))


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{name}.")
        elif name not in FREE:
            yield f"{above}{name}", value


# -- what is compared -----------------------------------------------------------------------------


def _measured(number: Number, entry: Entry, judge: str) -> dict[str, Value]:
    """The number's measure of one evaluation (as seen by a judge), as the only metric."""
    name = number.measure
    summary = entry.run.summary
    text: Mapping[str, Any] = summary.probes.get(entry.key, {}).get("text", {})
    if name == "dev_rouge_l_selected":
        stored = summary.learned.get(name)
    elif name == "distinct_4":
        stored = part(text, "distinct").get(name)
    elif number.bucket:
        path = ("buckets", "student", *number.bucket.split(" ", 1), "metrics")
        stored = functools.reduce(part, path, text).get(name)
    else:
        return {name: _value(entry, name, judge)}
    absent = Missing(missing="not in the summary")
    return {name: absent if stored is None else stored_value(stored)}


def _value(entry: Entry, name: str, judge: str) -> Value:
    if name.startswith(JUDGE_PREFIX):
        about = entry.run.summary.judge.get(judge)
        model = str(about.get("model", "")) if isinstance(about, Mapping) else ""
        if "gpt-4" not in model.lower():
            return Missing(missing=f"judged by {model}" if model else "no GPT-4 judge")
    return entry.metrics.get(name, Missing(missing="not computed"))
