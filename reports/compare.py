"""``kdbench compare A B``: two rows, prompt by prompt."""

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from kdbench.harness import stats
from kdbench.harness.errors import InputError
from kdbench.harness.files.records import Record, SampleRow
from kdbench.harness.files.store import Say
from kdbench.harness.metrics import info
from kdbench.harness.seed_variance import SeedVariance
from kdbench.reports.column_tests import baseline_of
from kdbench.reports.columns import (
    Column,
    ColumnKey,
    Entry,
    Found,
    columns_of,
    directed,
    evaluations,
    named_metrics,
)
from kdbench.reports.headline import Headline
from kdbench.reports.measured import shown_table, tested
from kdbench.reports.paired import Sample, result_fields, row_difference, row_sample, row_seeds
from kdbench.reports.rows import Section, sections
from kdbench.reports.runs import Run, answers, learn_metrics, told_runs
from kdbench.reports.sides import Paths, Side, two_sides
from kdbench.reports.text.style import signature, tests_text

MOST = 10
"""Number of prompts shown that differ most."""


class PromptDifference(Record):
    """One prompt, what both rows scored on it, and what they answered.

    Scores are means over training and decoding seeds; the answers are those of each row's first run
    under the first decoding seed. Empty texts: no samples are stored.
    """

    doc_id: int
    prompt_hash: str
    a: float
    b: float
    prompt: str = ""
    references: list[str] = []
    answer_a: str = ""
    answer_b: str = ""


class ColumnComparison(Record):
    """Row a minus row b in one metric of one task."""

    heading: str
    metric: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float
    seeds_measured: bool
    pooled_over: int = 0
    """Rows over which the variance between training seeds is pooled; 0: each row has its own."""
    minimum_detectable_effect: float
    """True difference this comparison finds with probability 0.8."""
    n_prompts: int
    decoding_seeds: list[int] = []
    wins: int
    """Prompts on which a is better (by the metric's direction; higher where it has none)."""
    ties: int
    losses: int
    most: list[PromptDifference]


class Comparison(Record):
    """Two rows compared in all they share. p-values are not corrected for several columns."""

    a: str
    b: str
    pair_a: str = ""
    """Suite, teacher and student of ``a``."""
    pair_b: str = ""
    columns: list[ColumnComparison]
    headline: Headline | None = None
    """Where both stand beside SFT and the teacher, if these are among the runs there."""
    signature: str
    """How the numbers came about."""
    left_out: list[str] = []
    """Runs of a training seed once more; tasks that both have, but not the same evaluation of, and how they
    differ."""


def compare(
    a: Paths,
    b: Paths,
    *,
    tasks: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    beside: Iterable[Path | str] = (),
    say: Say | None = None,
    across: bool = True,
) -> Comparison:
    """Compares two rows; each is a run folder, or several of one method (training seeds).

    Both are of the pair of models that both sides have; seeds' variance is pooled with rows beside them.

    Args:
        a: run folder, or the run folders of one method.
        b: the same for the other side.
        tasks: only these; None: all that both have.
        metrics: only these; None: all with a better direction and values for each prompt.
        beside: where other runs of the same suite and models may lie.
        say: told of each run that is left out since it is damaged.
        across: whether rows of two pairs of models are compared where no pair has both.

    Raises:
        InputError: no such run, several pairs that both sides have or none, several rows on one side,
            nothing in common, or one evaluation whose prompts differ.
    """
    one, two = two_sides(a, b, say, across=across)
    learn_metrics([*one.grouped.runs, *two.grouped.runs])
    shared = {key for key in one.found if key in two.found and (tasks is None or key.task in tasks)}
    left_out = _left_out(one, two, shared, tasks)
    table = _table_of((one, two), beside, say)
    others = _others(one, two, table)
    common: Found = {key: one.found[key] + two.found[key] for key in shared}
    metrics = named_metrics([common], metrics, None) if shared else metrics
    made = []
    for column in columns_of([common], metrics, tasks):
        if metrics is None and not directed(column):
            continue
        entries = [side.found[column.key] for side in (one, two)]
        samples = [row_sample(found, column.metric) for found in entries]
        if all(sample.ids for sample in samples):
            _check_prompts(one.label, two.label, column.heading, samples)
            known = [found[column.key] for found in others if column.key in found]
            seeds = row_seeds([*entries, *known], column.metric)
            made.append(_column(column, entries, samples, seeds))
    if not made:
        raise InputError(_nothing(one.label, two.label, left_out, tasks))
    same = one.label == two.label  # then the id of the first run tells them apart
    names = [f"{s.label} {s.grouped.row.runs[0]}" if same else s.label for s in (one, two)]
    return Comparison(
        a=names[0],
        b=names[1],
        pair_a=one.pair,
        pair_b=two.pair,
        columns=made,
        headline=_headline((one, two), table, tasks) if table else None,
        signature=_signature((one, two), made, {key.protocol for key in shared}),
        left_out=[*one.again, *two.again, *left_out],
    )


def _others(one: Side, two: Side, table: Section | None) -> list[Found]:
    """The evaluations of the methods beside them."""
    return [
        evaluations(row)
        for row in (table.rows if table else ())
        if not row.row.reference and not one.is_in(row) and not two.is_in(row)
    ]


def _signature(
    sides: Sequence[Side], columns: Sequence[ColumnComparison], protocols: Iterable[str]
) -> str:
    """One line that says how the numbers came about."""
    rows = [side.grouped.row for side in sides]
    suites = dict.fromkeys(side.grouped.runs[0].summary.run.suite for side in sides)
    pairs = dict.fromkeys(side.pair for side in sides)
    tests = tests_text({column.seeds_measured for column in columns})
    return signature(
        {
            "suite": ",".join(suites),
            "models": " and ".join(pairs),
            "protocol": ",".join(sorted(protocols)),
        },
        training={len(row.runs) for row in rows if not row.reference},
        decoding=[column.decoding_seeds for column in columns],
        prompts=[(column.heading, column.n_prompts) for column in columns],
        how={"difference": f"a minus b, 95% interval; {tests}", "correction": "none"},
    )


def _table_of(
    sides: Sequence[Side], places: Iterable[Path | str], say: Say | None
) -> Section | None:
    """The table in which both sides stand, among the runs there."""
    runs: list[Run] = []
    with contextlib.suppress(InputError):  # nothing is there
        runs = told_runs(places, say)
    for section in sections(runs):
        if all(any(map(side.is_in, section.rows)) for side in sides):
            return section
    return None


def _headline(
    sides: Sequence[Side], section: Section, tasks: Sequence[str] | None
) -> Headline | None:
    """Where both methods stand beside SFT and the teacher."""
    wanted = [row for row in section.rows if any(side.is_in(row) for side in sides)]
    if any(row.row.reference for row in wanted):
        return None
    base = baseline_of(section.rows)
    guides = [
        row
        for row in section.rows
        if row not in wanted and (row.row.id == base or row.row.method == "teacher")
    ]
    few = section._replace(rows=(*guides, *wanted))
    shown = shown_table(few, [evaluations(row) for row in few.rows], None, tasks)
    return tested([shown], None).tables[0].headline


def _left_out(a: Side, b: Side, shared: set[ColumnKey], tasks: Sequence[str] | None) -> list[str]:
    """Tasks that both sides were evaluated on, but not alike, and the first difference."""
    both = {key.task for key in a.found} & {key.task for key in b.found}
    wanted = both if tasks is None else both & set(tasks)
    return [
        f"{task}: {_first_difference(a, b, task)}"
        for task in sorted(wanted - {key.task for key in shared})
    ]


def _first_difference(a: Side, b: Side, task: str) -> str:
    """How two evaluations of one task differ, in words."""
    one, two = (_described(side, task) for side in (a, b))
    differing = (
        f"{name} {one[name]} and {two.get(name)}" for name in one if two.get(name) != one[name]
    )
    return next(differing, "different evaluations")


def _described(side: Side, task: str) -> dict[str, str]:
    key = min(key for key in side.found if key.task == task)
    entry = side.found[key][0]
    described = {"edition": key.edition, "protocol": key.protocol}
    record = entry.evaluation.record.find()
    if record is None:
        return described
    decoding = record.decoding
    return described | {
        "decoding seeds": ",".join(map(str, record.seeds)),
        "template": record.template,
        "test data": record.data_sha256[:12],
        "scorer": entry.run.summary.scores[entry.key].scorer,
        "decoding": decoding.model_dump_json(exclude_defaults=True) if decoding else "none",
    }


def _nothing(a: str, b: str, left_out: Sequence[str], tasks: Sequence[str] | None) -> str:
    what = f"{a} and {b} cannot be compared"
    if left_out:
        return f"{what}: they were evaluated differently ({'; '.join(left_out)})"
    where = f" of {', '.join(tasks)}" if tasks else ""
    return f"{what}: they share no evaluation{where}; evaluate both with: kdbench eval"


def _check_prompts(a: str, b: str, heading: str, samples: Sequence[Sample]) -> None:
    one, two = (set(sample.ids) for sample in samples)
    if one != two or len(one) < 2:
        raise InputError(
            f"{a} and {b} answered different prompts of {heading}: {len(one)} and {len(two)}, "
            f"{len(one & two)} in common; finish both with kdbench eval"
        )


def _column(
    column: Column,
    entries: Sequence[Sequence[Entry]],
    samples: Sequence[Sample],
    variance: SeedVariance,
) -> ColumnComparison:
    a, b = samples  # of the same prompts, and both in the order of their ids
    result = row_difference(a, b, a.ids, variance.of([0, 1]))
    assert result is not None
    a_P, b_P = a.values_SP.mean(axis=0), b.values_SP.mean(axis=0)
    gain_P = (info(column.metric).better or 1) * (a_P - b_P)
    order = sorted(range(len(a.ids)), key=lambda i: (-abs(gain_P[i]), a.ids[i]))
    most = {a.ids[i]: (float(a_P[i]), float(b_P[i])) for i in order[:MOST] if abs(gain_P[i]) > 1e-9}
    firsts = [found[0].evaluation for found in entries]
    seeds = [record.seeds if (record := first.record.find()) else [] for first in firsts]
    stored = [answers(e, own[0], most) if own else {} for e, own in zip(firsts, seeds, strict=True)]
    return ColumnComparison(
        heading=column.heading,
        metric=column.metric,
        a=float(a_P.mean()),
        b=float(b_P.mean()),
        **result_fields(result),
        pooled_over=variance.rows if variance.pooled else 0,
        minimum_detectable_effect=stats.minimum_detectable_effect(
            result.standard_error, df=result.df
        ),
        n_prompts=len(a.ids),
        decoding_seeds=seeds[0],
        wins=int((gain_P > 1e-9).sum()),
        ties=int((np.abs(gain_P) <= 1e-9).sum()),
        losses=int((gain_P < -1e-9).sum()),
        most=[
            _prompt(name, means, *(own.get(name) for own in stored)) for name, means in most.items()
        ],
    )


def _prompt(
    name: str, means: tuple[float, float], a: SampleRow | None, b: SampleRow | None
) -> PromptDifference:
    doc, _, prompt_hash = name.partition(":")
    difference = PromptDifference(doc_id=int(doc), prompt_hash=prompt_hash, a=means[0], b=means[1])
    asked = a or b
    if asked is None:
        return difference
    answers = {"answer_a": a.response if a else "", "answer_b": b.response if b else ""}
    about = {"prompt": asked.prompt, "references": asked.references}
    return difference.model_copy(update=about | answers)
