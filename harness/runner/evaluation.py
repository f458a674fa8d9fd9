"""Evaluations of one model in one run folder: generate, score, summarise; each resumable."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from kdbench.harness.config import GenerateConfig, RunConfig
from kdbench.harness.files.records import EvaluationRecord, EvaluationScores, SampleRow
from kdbench.harness.files.store import (
    is_done,
    make_folder,
    mark_done,
    read_marker,
    read_record,
    read_records,
    unmark,
    write_json,
    write_text,
)
from kdbench.harness.lm import LM_EVAL_VERSION, generate_prepared
from kdbench.harness.prompts import PreparedTask, prepare_task
from kdbench.harness.runner import choices, probing
from kdbench.harness.runner.models import Located
from kdbench.harness.runner.session import Session
from kdbench.harness.samples import Answerer, Request, Response, samples_file
from kdbench.harness.task_names import check_tasks
from kdbench.harness.text_model import TextModel
from kdbench.reports.summarise import evaluation_scores
from kdbench.tasks import mini
from kdbench.tasks.protocols import Protocol, get_protocol
from kdbench.tasks.scoring import SCORER, score_rows
from kdbench.trainers.models import load_tokenizer
from kdbench.trainers.types import Decoding


@dataclass(frozen=True, slots=True)
class Subject:
    """Who answers: a label for progress lines, its tokenizer, and how to get its answers.

    ``answerer`` is called only if something is left to generate (it loads the model); ``model``,
    None for the truth, only if a probe or a task of lm-eval's needs it.
    """

    label: str
    tokenizer: PreTrainedTokenizerBase
    answerer: Callable[[Protocol], Answerer]
    model: Callable[[], TextModel] | None = None


def protocol_of(config: RunConfig) -> Protocol:
    """The suite's protocol with the run's lengths."""
    prompt = config.train.max_prompt
    return get_protocol(config.tasks.protocol).limited(
        max_prompt=prompt, max_length=prompt + config.generate.max_new_tokens
    )


def decoding_of(generate: GenerateConfig, protocol: Protocol, seed: int) -> Decoding:
    """How test prompts are answered."""
    block = generate.no_repeat_ngram
    return Decoding(
        max_new_tokens=generate.max_new_tokens,
        temperature=generate.temperature,
        top_p=generate.top_p,
        top_k=generate.top_k,
        no_repeat_ngram=protocol.no_repeat_ngram if block is None else block,
        seed=seed,
    )


def model_subject(session: Session, label: str, model: Located) -> Subject:
    """A model that answers by sampling."""
    generate = session.config.generate

    @cache
    def load() -> TextModel:
        return probing.loaded(session, model)

    def answerer(protocol: Protocol) -> Answerer:
        return load().answerer(protocol, lambda seed: decoding_of(generate, protocol, seed))

    return Subject(label, load_tokenizer(model.ref), answerer, load)


def truth_subject(session: Session) -> Subject:
    """The generated world's own answers: the ceiling."""
    tokenizer = mini.build_tokenizer()

    def answerer(protocol: Protocol) -> Answerer:
        truth = mini.Truth()
        limit = session.config.generate.max_new_tokens

        def one(request: Request, seed: int) -> Response:
            ids = truth.sample(request.prompt, seed, request.key, limit)
            return Response(truth.decode(ids), len(ids), ids[-1] == truth.eos)

        def answer(requests: Seq[Request], seed: int) -> Iterator[list[Response]]:
            chunk = session.config.generate.chunk
            for i in range(0, len(requests), chunk):
                yield [one(request, seed) for request in requests[i : i + chunk]]

        return answer

    return Subject("truth", tokenizer, answerer)


def evaluate(
    session: Session, subject: Subject, folder: Path, teacher: Located | None = None
) -> None:
    """All of the config's tasks and probes for one model, into ``folder/eval``.

    Finished ones are skipped. ``teacher`` is what exposure bias is measured against.
    """
    config = session.config
    ours, others = check_tasks(config.tasks)
    protocol = protocol_of(config)
    prober = probing.Prober(
        session,
        subject.label,
        subject.model,
        teacher,
        lambda seed: decoding_of(config.generate, protocol, seed),
    )
    exposed = probing.EXPOSURE_TASK if probing.EXPOSURE_TASK in ours else (ours or [""])[0]
    answerer: list[Answerer] = []

    def lazily(requests: Seq[Request], seed: int) -> Iterator[list[Response]]:
        if not answerer:
            answerer.append(subject.answerer(protocol))
        return answerer[0](requests, seed)

    for name in ours:
        prepared = prepare_task(
            name,
            config.tasks.edition,
            protocol=protocol,
            tokenizer=subject.tokenizer,
            template=config.pair.template,
            limit=config.tasks.limit,
            data_dir=session.request.data_dir,
        )
        out = generate_and_score(session, subject.label, lazily, prepared, folder)
        prober.run(prepared, out, exposure=name == exposed)
    if others and subject.model is not None:
        choices.evaluate_choices(
            session,
            subject.label,
            subject.model,
            subject.tokenizer,
            others,
            folder,
            evaluation_key,
        )


def generate_and_score(
    session: Session, label: str, answer: Answerer, prepared: PreparedTask, folder: Path
) -> Path:
    """One task: samples of every decoding seed, then scores. Returns the evaluation's folder."""
    record = evaluation_record(session.config, prepared)
    out = make_folder(folder / "eval" / evaluation_key(record))
    if not is_done(out, "generate"):
        write_json(out / "evaluation.json", record)
        began = time.perf_counter()
        tokens = 0
        for seed in record.seeds:
            title = f"{label}: {prepared.task}[{prepared.edition}] seed {seed}"
            with session.progress.stage(title, len(prepared.docs), unit="prompt") as live:
                result = generate_prepared(
                    answer,
                    prepared,
                    seed=seed,
                    out=out,
                    chunk=record.chunk,
                    on_progress=live.update,
                )
            tokens += sum(row.response_tokens for row in result.rows)
        wall_s = time.perf_counter() - began
        session.cost("generate", wall_s, sampled=tokens)
        mark_done(
            out,
            "generate",
            [samples_file(out, seed) for seed in record.seeds],
            {"wall_s": wall_s, "sampled": tokens, "counts": asdict(prepared.counts)},
        )
    if not is_done(out, "score"):
        score(out)
    return out


def evaluation_record(config: RunConfig, prepared: PreparedTask) -> EvaluationRecord:
    """What decides the samples and scores of one evaluation of one model."""
    generate = config.generate
    decoding = asdict(decoding_of(generate, prepared.protocol, 0))
    del decoding["seed"]
    return EvaluationRecord(
        task=prepared.task,
        edition=prepared.edition,
        protocol=prepared.protocol.name,
        limit=config.tasks.limit,
        data_sha256=prepared.data_sha256,
        decoding=decoding
        | {
            "template": config.pair.template,
            "dtype": generate.dtype,
            "max_prompt": prepared.protocol.max_prompt,
        },
        batch_size=generate.batch_size,
        chunk=generate.chunk,
        scorer=SCORER,
        seeds=list(generate.seeds),
        lm_eval_version=LM_EVAL_VERSION,
    )


def evaluation_key(record: EvaluationRecord) -> str:
    """``<task>@<hash8>``. In: everything of the record. Out: the model, which is the folder's."""
    text = json.dumps(record.model_dump(mode="json"), sort_keys=True)
    return f"{record.task}@{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def score(out: Path) -> None:
    """Per-prompt scores of stored samples: text in, numbers out."""
    record = read_record(out / "evaluation.json", EvaluationRecord)
    rows = [
        row for seed in record.seeds for row in read_records(samples_file(out, seed), SampleRow)
    ]
    unmark(out, "score")
    scored = score_rows(rows)
    lines = [row.model_dump_json() for row in scored]
    write_text(out / "scores.jsonl", "".join(f"{line}\n" for line in lines))
    probing.keep_text(out, rows, scored)
    mark_done(out, "score", ["scores.jsonl"], {"scorer": SCORER})


def summarised(folder: Path) -> dict[str, EvaluationScores]:
    """Scores of every finished evaluation below a run folder, by key."""
    from kdbench.harness.files.records import ScoreRow

    found = {}
    for out in sorted((folder / "eval").glob("*@*")):
        scored = read_marker(out, "score")
        if scored is None or not is_done(out, "score"):
            continue
        record = read_record(out / "evaluation.json", EvaluationRecord)
        marker = read_marker(out, "generate")
        counts = marker.info["counts"] if marker else {}
        scores = evaluation_scores(
            read_records(out / "scores.jsonl", ScoreRow),
            task=record.task,
            edition=record.edition,
            protocol=record.protocol,
            dropped=counts.get("dropped", 0),
        )
        metrics = choices.whole_set_metrics(out) | scores.metrics
        scorer = scored.info.get("scorer", record.scorer)
        found[out.name] = scores.model_copy(update={"metrics": metrics, "scorer": scorer})
    return found
