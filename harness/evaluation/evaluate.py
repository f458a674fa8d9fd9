"""One evaluation after the other for one model in one run folder: generate, score, probe; each
resumable, none done twice.

Every task goes one way: prompts -> engine -> stored samples -> scores. Tasks that read likelihoods
instead of answers are in `kdbench.harness.evaluation.likelihoods`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from kdbench.harness.config import RunConfig
from kdbench.harness.data.examples import Example
from kdbench.harness.errors import InputError
from kdbench.harness.evaluation import stock
from kdbench.harness.evaluation.facts import model_facts
from kdbench.harness.evaluation.likelihoods import label_task, read_likelihoods
from kdbench.harness.evaluation.names import Asked, include_folders, tasks_of
from kdbench.harness.evaluation.scoring import described, score, scored_as
from kdbench.harness.evaluation.texts import describe
from kdbench.harness.files.costs import settle
from kdbench.harness.files.records import DecodingRecord, EvaluationRecord, ModelRef, SampleRow
from kdbench.harness.files.run_folder import Evaluation, RunFolder
from kdbench.harness.files.store import append_rows, keep_batches, make_folder, read_records
from kdbench.harness.identity import evaluation_key, near_evaluation
from kdbench.harness.own.tasks import asked_rows
from kdbench.harness.questions import PreparedTask, PromptDoc, Response, prepared
from kdbench.harness.session import Session
from kdbench.harness.text_model import TextModel, decoding_of
from kdbench.tasks import mini
from kdbench.tasks.catalogue import join_edition, task_examples
from kdbench.tasks.protocols import Protocol, get_protocol
from kdbench.tasks.words import Tokenizer, fitting
from kdbench.trainers.types import Prompt

Answerer = Callable[[Sequence[PromptDoc], int], Iterator[list[Response]]]
"""(prompts, decoding seed) -> responses in order, one list a chunk of prompts."""


@dataclass(frozen=True, slots=True)
class Answering:
    """Who answers.

    Attributes:
        label: for progress lines.
        card: the model by content; None: the truth of the generated world.
        tokenizer: the model's.
        model: gives the loaded model; called only if something is left to do.
        answerer: decoding without a seed -> answers to prompts; of models, by their engine.
        context: of a model, tokens of prompt and answer together; told without loading it.
    """

    label: str
    card: ModelRef | None
    tokenizer: PreTrainedTokenizerBase
    model: Callable[[], TextModel] | None
    answerer: Callable[[DecodingRecord], Answerer]
    context: Callable[[], int] | None = None


def answering_model(
    label: str,
    card: ModelRef,
    tokenizer: PreTrainedTokenizerBase,
    load: Callable[[], TextModel],
    context: Callable[[], int] | None = None,
) -> Answering:
    """A model that answers by sampling."""
    model = cache(load)

    def answerer(decoding: DecodingRecord) -> Answerer:
        def answer(docs: Sequence[PromptDoc], seed: int) -> Iterator[list[Response]]:
            prompts = [Prompt(ids=doc.ids, key=doc.key, sample=doc.sample) for doc in docs]
            return model().respond(prompts, decoding_of(decoding, seed), decoding.stop)

        return answer

    return Answering(label, card, tokenizer, model, answerer, context)


def answering_truth(world: str, chunk: int) -> Answering:
    """The own answers of a generated world (its edition): the ceiling."""

    def answerer(decoding: DecodingRecord) -> Answerer:
        truth = mini.truth_of(world)

        def one(doc: PromptDoc, seed: int) -> Response:
            try:
                room = decoding.max_new_tokens
                ids = (
                    truth.sample(doc.prompt, seed, doc.key, room)
                    if decoding.temperature
                    else truth.greedy(doc.prompt, room)
                )
            except ValueError as error:
                raise InputError(
                    f"the truth knows the prompts of its own world only ({error}); leave that task out"
                ) from error
            return Response(truth.decode(ids), len(ids), ids[-1] == truth.eos)

        def answer(docs: Sequence[PromptDoc], seed: int) -> Iterator[list[Response]]:
            for i in range(0, len(docs), chunk):
                yield [one(doc, seed) for doc in docs[i : i + chunk]]

        return answer

    return Answering("truth", None, mini.build_tokenizer(), None, answerer)


# -- tasks ----------------------------------------------------------------------------------------


def protocol_of(config: RunConfig) -> Protocol:
    """The suite's protocol with the run's lengths."""
    prompt = config.train.max_prompt
    return get_protocol(config.tasks.protocol).limited(
        max_prompt=prompt, max_length=prompt + config.generate.max_new_tokens
    )


def protocol_decoding(config: RunConfig, protocol: Protocol) -> DecodingRecord:
    """How test prompts of a suite are answered."""
    drawn = config.generate.model_dump(include=set(DecodingRecord.model_fields), exclude_none=True)
    return DecodingRecord(**{"no_repeat_ngram": protocol.no_repeat_ngram} | drawn)


def examples_of(asked: Asked, config: RunConfig, data_dir: Path | None) -> Sequence[Example]:
    """The rows that a task in words asks, of ours or of a user's file."""
    if asked.kind == "file":
        return asked_rows(asked.place, config)
    tasks = config.tasks
    return task_examples(asked.name, tasks.edition, limit=tasks.limit, data_dir=data_dir)


def prompts_of(
    session: Session, asked: Asked, tokenizer: Any, room: int | None = None
) -> PreparedTask:
    """The prompts of a text task of ours or of a user's file, under the suite's protocol; ``room`` is the
    context in tokens of the model that is asked.
    """
    config, of_user = session.config, asked.kind == "file"
    edition = "file" if of_user else config.tasks.edition
    return prepared(
        examples_of(asked, config, session.request.data_dir),
        task=asked.name,
        edition=join_edition(edition, config.tasks.limit),
        protocol=protocol_of(config),
        tokenizer=tokenizer,
        template=config.task_format,
        source="file" if of_user else "kdbench",
        place=asked.place,
        room=room,
    )


def evaluation_records(
    config: RunConfig, task: PreparedTask, card: ModelRef | None
) -> list[EvaluationRecord]:
    """What decides the samples of a task's evaluations, one for each way of answering."""
    asked = [config.model_copy(update={"generate": way}) for way in config.generate.ways]
    return [_evaluation_record(each, task, card) for each in asked]


def _evaluation_record(
    config: RunConfig, task: PreparedTask, card: ModelRef | None
) -> EvaluationRecord:
    asked = ("task", "source", "place", "edition", "template", "data_sha256")
    return EvaluationRecord(
        protocol=task.protocol.name,
        max_prompt=task.protocol.max_prompt,
        decoding=protocol_decoding(config, task.protocol),
        seeds=list(config.generate.seeds),
        **{name: getattr(task, name) for name in asked},
        **model_facts(config, card),
    )


# -- evaluating -----------------------------------------------------------------------------------


def evaluate(session: Session, answering: Answering, run: RunFolder, prober: "Prober") -> None:
    """All of the config's tasks and probes for one model. Finished ones are skipped."""
    asked = tasks_of(session.config.tasks)
    texts = [task for task in asked if task.in_words]
    room = answering.context() if answering.context else None
    for task in texts:
        prompts = prompts_of(session, task, answering.tokenizer, room)
        longest = [prompts.protocol.max_prompt, *([room - 1] if room else [])]
        _tell_lengths(session, prompts, min(longest), prompts.protocol.max_new_tokens, room)
        records = evaluation_records(session.config, prompts, answering.card)
        evaluations = [opened(session, run, record) for record in records]
        for evaluation, record in zip(evaluations, records, strict=True):
            _answered(session, answering, evaluation, record, prompts)
        prober(evaluations[0], prompts)
    for task in asked:
        if task not in texts and answering.model is not None:
            _foreign(session, answering, run, task)


def _foreign(session: Session, answering: Answering, run: RunFolder, asked: Asked) -> None:
    """A task that lm-eval asks: in words, or by likelihoods."""
    assert answering.model is not None and answering.context is not None
    config, facts = session.config, model_facts(session.config, answering.card)
    folders = include_folders(config.tasks.include_path)
    if asked.kind == "lm-eval" and stock.generates(asked.name, folders):
        room = answering.context()
        task, record = stock.prepare(
            asked.name, config, facts, answering.tokenizer, protocol_of(config), room
        )
        assert record.decoding is not None
        wanted = record.decoding.max_new_tokens
        _tell_lengths(session, task, room - wanted, wanted, room)
        evaluation = opened(session, run, record)
        _answered(session, answering, evaluation, record, task)
        return
    facts["engine"] = "own"  # likelihoods are read in this process
    if asked.kind == "labels":
        data_dir = session.request.data_dir
        reading = label_task(asked.name, config, facts, answering.tokenizer, data_dir)
    else:
        reading = stock.likelihood_task(asked.name, config, facts)
    evaluation = opened(session, run, reading.record)
    read_likelihoods(session, answering.label, evaluation, reading, answering.model)


def _tell_lengths(
    session: Session, task: PreparedTask, most: int, wanted: int, room: int | None
) -> None:
    """Says it of stored answers too: the numbers that follow are of these prompts."""
    if line := task.lengths_told(most, wanted, room):
        session.progress.say(line)


Prober = Callable[[Evaluation, PreparedTask], None]
"""Measures the configured probes of one evaluation that are not done yet."""


def opened(session: Session, run: RunFolder, record: EvaluationRecord) -> Evaluation:
    """The evaluation of a record; says so if a finished one misses it by one field."""
    evaluation = run.evaluation(evaluation_key(record))
    if not evaluation.record.exists() and (line := near_evaluation(record, run)):
        session.progress.say(f"note: {line}")
    return evaluation


def _answered(
    session: Session,
    answering: Answering,
    evaluation: Evaluation,
    record: EvaluationRecord,
    task: PreparedTask,
) -> None:
    """One task answered, scored and described."""
    generate_and_score(session, answering, evaluation, record, task)
    if not described(evaluation, session.progress.say):
        describe(evaluation)


def generate_and_score(
    session: Session,
    answering: Answering,
    evaluation: Evaluation,
    record: EvaluationRecord,
    task: PreparedTask,
) -> None:
    """One task: samples of every decoding seed, then scores."""
    assert record.decoding is not None
    if not evaluation.generated.done():
        evaluation.scored.unmark()
        evaluation.record.write(record)
        spent, tokens = session.spent(evaluation.generated), 0
        answer = answering.answerer(record.decoding)
        for seed in record.seeds:
            how = f"seed {seed}" if record.decoding.temperature else "greedy"
            title = f"{answering.label}: {task.task}[{task.edition}] {how}"
            with session.progress.stage(title, len(task.docs), unit="prompt") as live:
                collected = collect(
                    evaluation.samples_file(seed),
                    task.docs,
                    answer,
                    seed=seed,
                    chunk=record.chunk,
                    on_progress=live.update,
                    on_stored=spent.lap,
                )
            tokens += sum(row.response_tokens for row in collected.rows)
        info = {**spent.info(), "sampled": tokens, "counts": asdict(task.counts)}
        if record.engine != "own":
            info["engine"] = {"name": record.engine, "compared": session.compared}
        evaluation.generated.mark([evaluation.samples_file(seed) for seed in record.seeds], info)
    elif not evaluation.record.sound(session.progress.say):
        evaluation.record.write(record)
    settle(evaluation.generated)
    tokenizer = rouge_tokenizer(session, task)
    files = record.place or None
    if not evaluation.scored_by(scored_as(record, tokenizer, files), session.progress.say):
        score(evaluation, files, tokenizer)


def rouge_tokenizer(session: Session, task: PreparedTask) -> Tokenizer:
    """What a word of ROUGE-L is: as configured, but words of all scripts where a user's references are
    written in others than plain Latin letters.
    """
    asked = session.config.tasks.rouge_tokenizer
    if task.source == "file" and asked == "rouge":
        return fitting(text for doc in task.docs for text in doc.references)
    return asked


# -- samples --------------------------------------------------------------------------------------

# Answers are stored a chunk at a time and never generated twice. A chunk of prompts is the unit of
# generation and of resume. What a kill leaves (a torn line, part of a chunk) is cut and generated
# again, so a continued file is byte-identical to an uninterrupted one as long as ``answer`` depends on
# nothing but its requests and seed.


class Collected(NamedTuple):
    """All answers of one (evaluation, seed), and how many of them this call generated."""

    rows: list[SampleRow]
    generated: int


def collect(
    path: Path,
    docs: Sequence[PromptDoc],
    answer: Answerer,
    *,
    seed: int,
    chunk: int,
    on_progress: Callable[[int], None] | None = None,
    on_stored: Callable[[], None] = lambda: None,
) -> Collected:
    """Reads what is stored, generates the rest, and appends it chunk by chunk.

    Args:
        path: the sample file.
        docs: the evaluation's prompts in order.
        answer: the model; must return lists of ``chunk`` responses (the last may be shorter).
        seed: decoding seed.
        chunk: prompts a chunk; part of the evaluation's key.
        on_progress: called with the number of prompts answered so far, after each chunk.
        on_stored: called after each chunk that was appended.

    Raises:
        InputError: the file holds answers to other prompts.
        RuntimeError: ``answer`` returned other than one response a request, or broke a chunk.
    """
    rows = _stored(path, docs, seed=seed, chunk=chunk)
    done = len(rows)
    if on_progress and done:
        on_progress(done)
    if done < len(docs):
        make_folder(path.parent)
        for responses in answer(docs[done:], seed):
            expected = min(chunk, len(docs) - len(rows))
            if len(responses) != expected:
                raise RuntimeError(f"the model gave {len(responses)} answers to {expected} prompts")
            places = docs[len(rows) : len(rows) + expected]
            new = [_row(doc, r, seed) for doc, r in zip(places, responses, strict=True)]
            append_rows(path, new)
            on_stored()
            rows += new
            if on_progress:
                on_progress(len(rows))
    if len(rows) != len(docs):
        raise RuntimeError(f"the model stopped after {len(rows)} of {len(docs)} prompts")
    return Collected(rows, len(rows) - done)


def _stored(path: Path, docs: Sequence[PromptDoc], *, seed: int, chunk: int) -> list[SampleRow]:
    """Whole chunks on disk; anything after them is cut off."""
    rows = read_records(path, SampleRow)
    for row, doc in zip(rows, docs, strict=False):
        if (row.doc_id, row.prompt_hash, row.seed) != (doc.doc_id, doc.prompt_hash, seed):
            raise InputError(
                f"{path} holds answers to other prompts than this evaluation's (row of prompt "
                f"{row.doc_id}); move it away"
            )
    if len(rows) > len(docs):
        raise InputError(f"{path} holds {len(rows)} answers to {len(docs)} prompts; move it away")
    return keep_batches(path, rows, len(docs), chunk)


def _row(doc: PromptDoc, response: Response, seed: int) -> SampleRow:
    asked = {k: v for k, v in doc._asdict().items() if k in SampleRow.model_fields}
    return SampleRow(
        seed=seed,
        response=response.text,
        response_tokens=response.response_tokens,
        finished=response.finished,
        **asked,
    )
