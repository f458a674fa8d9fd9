"""The run-folder schema: every row of every file as a model.

A run folder ``<runs-dir>/<method>-<student>-<id12>/`` holds::

    config.json                              the resolved RunConfig, as hashed
    prepare.json                             PrepareRecord
    train/metrics.jsonl                      TrainRow, one an optimiser step that was logged
    train/checkpoints/                       resumable state, newest kept
    train/student/                           an ordinary Hugging Face folder (safetensors), with
                                             the model card, README.md
    eval/<task>@<hash8>/evaluation.json      EvaluationRecord: what the hash stands for
    eval/<task>@<hash8>/samples.seed<k>.jsonl  SampleRow, appended one generation chunk at a time
    eval/<task>@<hash8>/scores.jsonl         ScoreRow, one a prompt
    eval/<task>@<hash8>/results.json         stock lm-eval results (tasks we do not decode ourselves)
    eval/<task>@<hash8>/probes.json          exposure bias, calibration
    eval/<task>@<hash8>/judge/<judge-id>/judge.json      JudgeRecord: what the id stands for
    eval/<task>@<hash8>/judge/<judge-id>/verdicts.jsonl  VerdictRow, appended as answers arrive
    eval/<task>@<hash8>/judge/<judge-id>/cost.jsonl      CostRow, appended before and after a call
    summary.json                             Summary: all that a board reads
    manifest.json                            Manifest, written last
    report/                                  what kdbench report wrote; read by nobody
    <stage>.done                             stage markers: sha256 of the stage's outputs
    lock                                     host, pid, heartbeat of the one writer

Unknown keys are refused in what we write and ignored in what we read from an older schema only
through ``schema``.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA = 1


class Record(BaseModel):
    """Base of all stored rows: immutable, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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
    reference_tokens: int = Field(
        description="of the shortest reference, student tokenizer, no end"
    )


class ScoreRow(Record):
    """All decoding seeds of one prompt; metric values are lists in the order of ``seeds``."""

    doc_id: int
    prompt_hash: str
    category: str | None = None
    reference_tokens: int
    seeds: list[int]
    metrics: dict[str, list[float]] = Field(description="rouge_l and exact_match in percent")


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
    metrics: dict[str, Estimate | Missing]
    prompts_dropped: int = 0
    scorer: str = Field(
        "", description="version that made these scores; empty: that of the evaluation's record"
    )


class ModelRef(Record):
    """A model by name and content."""

    name: str
    fingerprint: str
    parameters: int


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
    division: Literal["closed", "open", "reference"]


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


class Summary(Record):
    """summary.json: all that a board needs."""

    schema_version: int = SCHEMA
    run: RunCard
    scores: dict[str, EvaluationScores] = {}
    probes: dict[str, Any] = {}
    judge: dict[str, Any] = {}
    cost: dict[str, StageCost] = {}
    learned: dict[str, float] = Field(
        {}, description="dev loss and dev rouge_l, before and after training, and of the best step"
    )
    signature: str = ""


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


class EvaluationRecord(Record):
    """What an evaluation's key stands for; the first eight hex digits of its hash are in the key.

    ``scorer`` is that of the first scoring: samples that are scored again keep their key, and what
    scored them last is in the marker of stage ``score`` and in `EvaluationScores`.
    """

    task: str
    edition: str
    protocol: str
    limit: int | None
    data_sha256: str
    decoding: dict[str, Any]
    batch_size: int
    chunk: int
    scorer: str
    seeds: list[int]
    lm_eval_version: str


class PrepareRecord(Record):
    """What was checked before training."""

    data: dict[str, dict[str, Any]] = Field({}, description="split -> path, sha256, rows, dropped")
    overlaps: dict[str, int] = {}
    tokenizer_sha256: str = ""
    template: str = ""
    teacher: ModelRef | None = None
    init: ModelRef | None = None
    notes: list[str] = []


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
