"""Answers of other systems as a row of a board: scored like any, and marked as outside.

Their run folder holds samples, scores and a summary, and no model: what made the answers is not known, so
the row stands in no division, is never tested as a method, and says "(outside)".
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.harness.config import slug
from kdbench.harness.data.examples import Example
from kdbench.harness.data.outputs import Answers, matched, read_answers, row_ids
from kdbench.harness.data.parts import columns_given
from kdbench.harness.data.places import from_anywhere, place_of, stem
from kdbench.harness.data.tables import read_table
from kdbench.harness.data.templates import prompt_hash, render
from kdbench.harness.data.understood import Reading, Understood, of_table
from kdbench.harness.errors import InputError, unknown
from kdbench.harness.evaluation.scoring import protocol_of_answers, score, summarised
from kdbench.harness.files.costs import costs_of
from kdbench.harness.files.locks import RunLock
from kdbench.harness.files.records import EvaluationRecord, RunCard, SampleRow, Summary
from kdbench.harness.files.run_folder import Evaluation, RunFolder
from kdbench.harness.files.store import make_folder, write_text
from kdbench.harness.identity import column_parts, digest, evaluation_key, identity
from kdbench.harness.progress import Progress
from kdbench.tasks.words import TOKENIZERS, Tokenizer, fitting

SUITE = "outside"
"""Of answers that stand beside no run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutsideRequest:
    """Answers to score.

    Args:
        outputs: file of answers.
        references: file, folder or hub's data set of questions and references.
        name: what tables call the system; None: after the file of answers.
        answer_column: of ``outputs``, the one that holds them; None: by its name.
        columns: of the references, as ``prompt=a,response=b``.
        beside: run folder whose evaluation of the same rows they stand beside; None: on their own.
        evaluation: which of them, by its key or its protocol, where there are several.
        tokenizer: of ROUGE-L; None: that of the run beside, or what the references need.
        runs_dir: folder of run folders.
    """

    outputs: str
    references: str
    name: str | None = None
    answer_column: str | None = None
    columns: str | None = None
    beside: Path | None = None
    evaluation: str | None = None
    tokenizer: str | None = None
    runs_dir: Path = Path("runs")


@dataclass(frozen=True, slots=True)
class _Beside:
    """An evaluation of the same rows, its suite, and what was asked by row number."""

    evaluation: Evaluation
    record: EvaluationRecord
    suite: str
    asked: dict[int, SampleRow]


def score_outputs(request: OutsideRequest, progress: Progress) -> tuple[RunFolder, Answers]:
    """Stores and scores the answers; returns their run folder, and how they were matched.

    Raises:
        InputError: files that cannot be read or do not fit each other, or a name that is taken.
    """
    found, ids = _references(request)
    for line in found.lines:
        progress.say(f"references: {line}")
    beside = None
    if request.beside is not None:
        beside = _beside(request.beside, found, request.evaluation)
    elif request.evaluation is not None:
        raise InputError(
            "--evaluation says which of a run's evaluations; name that run by --beside"
        )
    outputs = read_answers(request.outputs, request.answer_column)
    progress.say(outputs.line)
    answers = matched(outputs.given, found.examples, ids, found.rows, request.outputs)
    name = request.name or stem(request.outputs)
    # found again by its name, so that a system's tasks stand in one row
    suite = beside.suite if beside else SUITE
    parts = {"outside": name, "suite": suite}
    folder = RunFolder(request.runs_dir / f"outside-{slug(name)}-{identity(parts)[:12]}")
    make_folder(folder.path)
    with RunLock(folder.path):
        record = _record(request, found, answers, beside)
        _refuse_others(folder, record)
        evaluation = folder.evaluation(evaluation_key(record))
        _store(evaluation, record, found, answers, beside)
        score(evaluation, None, _tokenizer(request, found, beside), progress)
        _summarise(folder, name, suite)
    return folder, answers


def _references(request: OutsideRequest) -> tuple[Understood, dict[str, int]]:
    try:
        columns = columns_given(request.columns or {})
    except ValueError as error:
        raise InputError(f"--columns {request.columns}: {error}") from error
    table = read_table(place_of(request.references), "test")
    if table is None:
        raise InputError(f"{request.references} has no split for test; name one")
    reading = Reading(columns=columns, turns="last")
    return of_table(request.references, table, reading), row_ids(table.rows)


def _beside(path: Path, found: Understood, wanted: str | None) -> _Beside:
    """The evaluation of a run whose rows these are; of several the one that is wanted.

    Raises:
        InputError: there is none, or several, which are named.
    """
    run = RunFolder(path)
    fitting = list(_fitting(run, found))
    names = [(each.evaluation.key, protocol_of_answers(each.record)) for each in fitting]
    if not fitting:
        raise InputError(
            f"{path} has no finished evaluation of the rows of {found.place}; evaluate it on them: kdbench "
            f"eval {path} --tasks {found.place}"
        )
    chosen = [
        each for each, name in zip(fitting, names, strict=True) if wanted is None or wanted in name
    ]
    if len(chosen) != 1:
        said = ", ".join(f"{key} ({protocol})" for key, protocol in names)
        why = (
            "has several evaluations of"
            if wanted is None
            else f"has no single evaluation {wanted!r} of"
        )
        raise InputError(
            f"{path} {why} the rows of {found.place}: {said}; name one of them by --evaluation"
        )
    return chosen[0]


def _fitting(run: RunFolder, found: Understood) -> Iterator[_Beside]:
    """Finished evaluations of rows with the same references, whose prompts hold the same questions."""
    examples = {example.doc_id: example for example in found.examples}
    for evaluation in run.evaluations():
        record = evaluation.record.read()
        if record.source == "lm-eval" or record.decoding is None or not evaluation.scored.done():
            continue
        asked = {row.doc_id: row for row in evaluation.samples(record.seeds[0])}
        if asked and all(_alike(row, examples.get(row.doc_id)) for row in asked.values()):
            yield _Beside(evaluation, record, run.summary.read().run.suite, asked)


def _alike(row: SampleRow, example: Example | None) -> bool:
    if example is None or list(example.references) != row.references:
        return False
    prompt = " ".join(row.prompt.split())  # templates trim what they write
    return all(" ".join(text.split()) in prompt for text in example.question)


def _record(
    request: OutsideRequest, found: Understood, answers: Answers, beside: _Beside | None
) -> EvaluationRecord:
    kept = {seed: sorted(texts.items()) for seed, texts in answers.by_seed.items()}
    known: dict[str, Any] = {"task": slug(stem(request.references)), "edition": "file"}
    known |= {"protocol": "outside", "template": "none"}
    known["data_sha256"] = digest([[e.asked, e.references] for e in found.examples])
    if beside is not None:
        shared = ("task", "edition", "template", "data_sha256", "limit")
        known |= {name: getattr(beside.record, name) for name in shared}
        known["protocol"] = protocol_of_answers(beside.record)
        known["beside"] = column_parts(beside.record)
    return EvaluationRecord(
        source="outside",
        model=digest(kept),
        tokenizer="outside",
        dtype="outside",
        batch_size=1,
        chunk=1,
        seeds=sorted(answers.by_seed),
        place=from_anywhere(request.references),
        **known,
    )


def _refuse_others(folder: RunFolder, record: EvaluationRecord) -> None:
    for evaluation in folder.evaluations():
        other = evaluation.record.read()
        same = (other.task, other.edition, other.protocol) == (
            record.task,
            record.edition,
            record.protocol,
        )
        if same and other.model != record.model:
            raise InputError(
                f"{folder.path} holds other answers of that system to {record.task}; give these another "
                "--name, or take that folder away"
            )


def _store(
    evaluation: Evaluation,
    record: EvaluationRecord,
    found: Understood,
    answers: Answers,
    beside: _Beside | None,
) -> None:
    evaluation.scored.unmark()
    evaluation.record.write(record)
    for seed, texts in answers.by_seed.items():
        rows = []
        for example in found.examples:
            if beside is not None and example.doc_id not in beside.asked:
                continue  # it was evaluated on the first rows only
            asked = beside.asked[example.doc_id] if beside else None
            prompt = asked.prompt if asked else "\n\n".join(filter(None, example.asked))
            prompt = prompt or render(example, "none")
            row = SampleRow(
                doc_id=example.doc_id,
                prompt_hash=asked.prompt_hash if asked else prompt_hash(prompt),
                seed=seed,
                prompt=prompt,
                references=list(example.references),
                category=example.category,
                response=texts[example.doc_id],
                response_tokens=0,
                finished=True,
                reference_tokens=asked.reference_tokens if asked else 0,
            )
            rows.append(row.model_dump_json())
        write_text(evaluation.samples_file(seed), "".join(f"{row}\n" for row in rows))
    files = [evaluation.samples_file(seed) for seed in record.seeds]
    evaluation.generated.mark(files, {"wall_s": 0.0, "sampled": 0})


def _tokenizer(request: OutsideRequest, found: Understood, beside: _Beside | None) -> Tokenizer:
    known = beside.evaluation.scored.info().get("rouge_tokenizer") if beside else None
    asked = request.tokenizer or known
    if asked is not None and asked not in TOKENIZERS:
        raise unknown("tokenizer of ROUGE-L", asked, TOKENIZERS)
    for each in TOKENIZERS:
        if asked == each:
            return each
    return fitting(text for example in found.examples for text in example.references)


def _summarise(folder: RunFolder, name: str, suite: str) -> None:
    card = RunCard(
        id=folder.id,
        kind="eval",
        method=name,
        suite=suite,
        regime="paper",
        teacher=None,
        student=None,
        training_seed=None,
        division="outside",
    )
    signature = "answers of another system, scored here; how they were made is not known"
    before = folder.summary.find()
    folder.summary.write(
        Summary(
            run=card,
            scores=summarised(folder),
            judge=before.judge if before else {},
            cost=costs_of(folder),
            signature=signature,
        )
    )


def outside_command(request: OutsideRequest, *, json_output: bool, quiet: bool) -> int:
    """``kdbench score --outputs``: prints the board of these answers, and of the run beside them."""
    from kdbench.reports.board import leaderboard

    folder, answers = score_outputs(request, Progress(quiet=quiet or json_output))
    if json_output:
        print(json.dumps({"run": str(folder.path), "matched": answers.how}))
        return 0
    places = [folder.path] if request.beside is None else [request.beside, folder.path]
    print(leaderboard(places, "terminal"))
    print(f"answers matched {answers.how}; folder: {folder.path}")
    print(f"next: kdbench leaderboard {request.runs_dir}")
    return 0
