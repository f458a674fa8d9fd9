"""The run-folder schema: every row of every file as a model.

A run folder ``<runs-dir>/<method>-<student>-<id12>/`` holds::

    config.json                              the resolved RunConfig
    identity.json                            IdentityRecord: what the id stands for
    code.json                                DriftRecord: which code made it
    prepare.json                             PrepareRecord
    train/metrics.jsonl                      TrainRow, one an optimiser step that was logged
    train/checkpoints/                       resumable state, newest kept; gone once the student is written
    train/adapter/                           of a training by LoRA: the adapters, a PEFT folder
    train/student/                           an ordinary Hugging Face folder with its model card
    eval/<task>@<hash8>/evaluation.json      EvaluationRecord: what the hash stands for
    eval/<task>@<hash8>/samples.seed<k>.jsonl  SampleRow, appended one generation chunk at a time
    eval/<task>@<hash8>/scores.jsonl         ScoreRow, one a prompt
    eval/<task>@<hash8>/results.json         lm-eval's own results, of tasks that it scores
    eval/<task>@<hash8>/probe-<name>.json    what one probe measured
    eval/<task>@<hash8>/judge/<judge-id>/judge.json      JudgeRecord: what the id stands for
    eval/<task>@<hash8>/judge/<judge-id>/verdicts.jsonl  VerdictRow, appended as answers arrive
    eval/<task>@<hash8>/judge/<judge-id>/cost.jsonl      CostRow, appended before and after a call
    summary.json                             Summary: all that a board reads
    manifest.json                            Manifest, written last
    report/                                  what kdbench report wrote; read by nobody
    left-out.json                            LeftOut: of a run from a bundle, what is not here
    <stage>.done                             stage markers: sha256 of the stage's outputs, what it cost
    <stage>.spent.jsonl                      StageCost, time of a stage that is not done yet, by its parts
    (every .json and .done                   carries the digest of itself; see `selfcheck`)
    lock                                     host, pid, heartbeat of the one writer
    run.log                                  what commands did here; bounded, for people only

`kdbench.harness.files.run_folder` is the one module that names these files. Unknown keys are refused;
a summary of another schema is refused in a sentence.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from kdbench.harness.data.chat import DATE, BeginToken
from kdbench.harness.files.reported import Judged, Key, Probed, measurable, ordered
from kdbench.harness.settings import EngineName

SCHEMA = 2


class Record(BaseModel):
    """Base of all stored rows: immutable, no unknown keys, every number finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SampleRow(Record):
    """One generated answer. Keyed by (doc_id, seed) inside one evaluation."""

    doc_id: int
    prompt_hash: str = Field(description="first 16 hex digits of sha256 of the rendered prompt")
    seed: int
    prompt: str
    references: list[str]
    category: str | None = None
    response: str
    response_tokens: int = Field(description="generated tokens, the end token included if produced")
    finished: bool = Field(description="False: cut at the length limit")
    reference_tokens: int = Field(description="the student's, of the shortest reference, no end")


class ScoreRow(Record):
    """All decoding seeds of one prompt; metric values are lists in the order of ``seeds``."""

    doc_id: int
    prompt_hash: str
    category: str | None = None
    reference_tokens: int
    seeds: list[int]
    metrics: dict[str, list[float]] = Field(description="rouge_l and exact_match in percent")
    missing: dict[str, str] = Field({}, description="metrics that cannot measure it, and why")


class Missing(Record):
    """A value that is not there, and why."""

    missing: str


class Estimate(Record):
    """A metric of one evaluation: mean over prompts of the per-prompt mean over decoding seeds."""

    mean: float
    low: float = Field(description="95% percentile-bootstrap bound over prompts")
    high: float
    n_prompts: int
    seeds: list[int] = []
    per_seed: list[float] = []


class EvaluationScores(Record):
    """One evaluation of one model: ``scores[<task>@<hash8>]`` of a summary."""

    task: str
    edition: str
    protocol: str
    template: str = ""
    metrics: dict[str, Estimate | Missing]
    cards: dict[str, "MetricCard"] = Field({}, description="of metrics that are not kdbench's own")
    prompts_dropped: int = 0
    prompts_cut: int = Field(0, description="prompts that lost tokens, since they were too long")
    sampled: bool = Field(True, description="answers were drawn; else likelihoods were read")
    column: str = Field(
        description="8 hex digits of what evaluations must share to be compared; see "
        "`kdbench.harness.identity.column_id`"
    )
    scorer: str = Field(description="version that made these scores")
    scores_sha256: str = Field("", description="of scores.jsonl; empty: by an older kdbench")


class ModelRef(Record):
    """A model by name and content."""

    name: str
    fingerprint: str = Field(description="of weights and configuration")
    parameters: int
    tokenizer: str = Field("", description="fingerprint of tokenizer and chat template")


class MetricCard(Record):
    """How a metric is shown, kept beside its values, since what defines it may not be installed."""

    label: str
    better: Literal[-1, 0, 1] = Field(0, description="1 higher, -1 lower, 0 neither")
    low: float | None = None
    high: float | None = None
    digits: int = Field(1, ge=0, le=15)
    headline: bool = False
    kind: Literal["score", "judge", "probe"] = "score"
    about: str = ""

    _range = model_validator(mode="after")(ordered)


class RunCard(Record):
    """Who made the student."""

    id: str
    kind: Literal["run", "eval"]
    method: str = Field(description="method name; for kind eval: the row's label, e.g. teacher")
    variant: str = ""
    suite: str
    regime: Literal["matched", "paper"]
    teacher: ModelRef | None
    student: ModelRef | None
    training_seed: int | None
    division: Literal["closed", "open", "reference", "outside"] = Field(
        description="outside: answers of another system, which were not made here"
    )
    settings: str = Field(
        "", description="digest of all that decides the student but the training seed"
    )
    changes: list[str] = Field([], description="what departs from the suite, as ``setting=value``")
    tuning: str = Field(
        "", description="default, paper or tuned (N trials); empty: an evaluated model, or older"
    )
    selection: str = Field(
        "", description="how the step was selected and why so, where not as ``train.select`` says"
    )
    trained_parameters: int = Field(0, description="of adapters, where only they are; 0: all")


VerdictState = Literal["ok", "unparsed", "refused", "truncated", "error"]


class VerdictRow(Record):
    """One answer of a judge, as it came, and how it was read. The last row of a key holds."""

    key: str = Field(description="32 hex digits; see kdbench.harness.judge.calls")
    state: VerdictState
    score: float | None = Field(None, description="pointwise")
    winner: Literal["A", "B", "tie"] | None = Field(None, description="pairwise, as shown")
    reason: str = Field("", description="why the state is not ok")
    doc_id: int
    prompt_hash: str
    seed: int | None = Field(description="decoding seed of the answer; none: the reference")
    subject: Literal["model", "reference", "null", "copy", "self"]
    order: Literal["", "AB", "BA"] = Field("", description="pairwise: AB shows the subject first")
    repetition: int = 0
    model: str = Field(description="the judge, as asked for")
    status: int | None = Field(None, description="HTTP status; none: no response")
    body: str = Field(description="the response as received, or what went wrong")
    prompt_tokens: int | None = Field(None, description="as reported; none: not reported")
    completion_tokens: int | None = None
    requests: int = Field(1, description="HTTP requests sent, the client's retries included")
    latency_s: float = 0.0
    asked: float = Field(0.0, description="Unix time")


class CostRow(Record):
    """A change of what a judge has cost; the sum of ``amount`` is spent or, in flight, reserved."""

    key: str
    event: Literal["reserved", "released", "settled"]
    prompt_tokens: int = Field(0, description="change, negative when a reservation is given back")
    completion_tokens: int = 0
    amount: float = Field(0.0, description="change in the currency of the judge's prices")


class JudgeRecord(Record):
    """What a judge id stands for."""

    judge: str
    definition: dict[str, Any]
    base_url: str
    against: str | None = Field(None, description="pairwise: the other run; none: reference")


class JudgeScores(Record):
    """One evaluation under one judge."""

    task: str
    edition: str
    protocol: str
    metrics: dict[str, Estimate | Missing]
    sanity: dict[str, Estimate | Missing] = Field({}, description="subject.metric: floor rows")
    states: dict[str, int] = Field({}, description="answers of the judge by state; unasked too")


class JudgeSummary(Record):
    """``judge[judge-id]`` of a summary."""

    mode: Literal["pointwise", "pairwise"]
    model: str
    base_url: str
    against: str | None = None
    evaluations: dict[str, JudgeScores] = Field({}, description="by evaluation key")
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = Field(None, description="none: the judge has no prices")
    currency: str = ""


class StageCost(Record):
    """What one stage of one run cost."""

    wall_s: float
    tokens: dict[str, int] = Field({}, description="student, teacher, sampled, text … tokens")
    peak_mb: float = 0.0
    planned_mb: float = Field(0.0, description="peak by `kdbench plan`; 0: not planned")


class Summary(Record):
    """summary.json: all that a board needs."""

    schema_version: int = SCHEMA
    run: RunCard
    scores: dict[Key, EvaluationScores] = {}
    probes: Probed = {}
    judge: Judged = {}
    cost: dict[str, StageCost] = {}
    learned: dict[str, float] = Field(
        {}, description="dev loss and dev rouge_l, before and after training, and of the best step"
    )
    signature: str = ""

    _numbers = model_validator(mode="before")(measurable)


class TrainRow(Record):
    """One line of train/metrics.jsonl. Terms are means over the global window, as optimised."""

    step: int
    loss: float
    terms: dict[str, float] = {}
    grad_norm: float | None = None
    lr: float | None = None
    tokens: dict[str, int] = Field({}, description="cumulative: student, teacher, sampled, text")
    wall_s: float = 0.0
    evaluation: dict[str, float] = {}


class DecodingRecord(Record):
    """How answers are drawn; a default is out of the key."""

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    no_repeat_ngram: int = 0
    stop: tuple[str, ...] = ()


class EvaluationRecord(Record):
    """What decides the samples, hashed in the key; of scores only (metrics, scorer): in stage ``score``."""

    task: str
    source: Literal["kdbench", "file", "lm-eval", "outside"] = Field(
        "kdbench",
        description="who writes the prompts: us, a user's file, lm-eval; outside: another system's answers",
    )
    edition: str
    protocol: str
    template: str = Field(description="prompt template; lm-eval's own prompts: none")
    template_date: str = Field(DATE, description="the date that chat templates were told")
    template_arguments: dict[str, Any] = Field({}, description="given to the chat template by name")
    begin_token: BeginToken = "auto"
    limit: int | None = None
    model: str = Field(description="fingerprint of weights and configuration; the truth: truth")
    tokenizer: str = Field(description="fingerprint of tokenizer and chat template")
    data_sha256: str = Field(description="of the rows asked, before any was dropped")
    max_prompt: int | None = Field(None, description="tokens of a prompt that the protocol allows")
    decoding: DecodingRecord | None = Field(None, description="none: likelihoods are read")
    dtype: str = Field(description="resolved arithmetic of the model")
    engine: EngineName = "own"
    batch_size: int
    chunk: int
    seeds: list[int]
    place: str = Field("", description="file or folder of task files that it came from; no content")
    beside: dict[str, Any] | None = Field(
        None, description="of another system's answers: what decides the column that they stand in"
    )


class IdentityRecord(Record):
    """What an id stands for: see `kdbench.harness.identity`."""

    version: int
    parts: dict[str, Any]


class DriftRecord(Record):
    """The code that began a run, and changes to it that were accepted."""

    sha256: str
    accepted: list[str] = []


class MethodFacts(Record):
    """What a method says of itself; kept, since its code may not be there when a run is read."""

    name: str
    title: str
    paper: str
    variant: str
    objective: str = Field(
        "", description="what it minimises, in words; by an older kdbench: empty"
    )


class PrepareRecord(Record):
    """What was checked before training."""

    method: MethodFacts | None = None
    data: dict[str, dict[str, Any]] = Field({}, description="split -> path, sha256, rows, dropped")
    overlaps: dict[str, int] = {}
    tokenizer_sha256: str = ""
    template: str = ""
    teacher: ModelRef | None = None
    init: ModelRef | None = None
    notes: list[str] = Field([], description="other models that its training was let go on with")
    hub: list[str] | None = Field(
        None, description="which of student and teacher came from the hub; none: not recorded"
    )


class Manifest(Record):
    """manifest.json: how to make the run again."""

    kdbench: str
    git_commit: str | None
    git_diff_sha256: str | None
    argv: list[str]
    config: dict[str, Any]
    versions: dict[str, str]
    hardware: dict[str, Any]
    data: dict[str, dict[str, Any]]
    tokenizer_sha256: str
    teacher: ModelRef | None
    init: ModelRef | None
    generation: dict[str, Any]
    seeds: dict[str, Any]
    cost: dict[str, StageCost]
    extra: dict[str, Any] = {}
    drift: list[str] = []
    run: RunCard | None = Field(None, description="the summary's, to make that again")
    learned: dict[str, float] = Field({}, description="the summary's")


class LeftOutFiles(Record):
    """Files that a bundle does not hold."""

    files: int
    size: int = Field(description="bytes of all")
    sha256: str = Field(
        description="of their paths, hashes and sizes, as the stages' markers have them"
    )


class LeftOut(Record):
    """left-out.json: what of a run is not here but with its maker."""

    what: dict[str, LeftOutFiles] = Field(description="student, answers")
