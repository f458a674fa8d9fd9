"""A plan put together: the phases of a run, what each needs, and whether it fits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, NamedTuple

from kdbench.harness.config import RunConfig, TrainConfig, with_precision
from kdbench.harness.plan import disk, host, times
from kdbench.harness.plan.hardware import NODE, WHOLE, Machine, Scaling
from kdbench.harness.plan.job import Job, Parts, total
from kdbench.harness.plan.known import find_shape
from kdbench.harness.plan.memory import beyond_vllm, capturing, everything, sampling
from kdbench.harness.plan.rows import Rows, rows_of, task_prompts
from kdbench.harness.plan.shapes import Shape
from kdbench.harness.plan.times import Spent
from kdbench.harness.plan.work import SFT, Work
from kdbench.trainers.store.settings import NONE


class Models(NamedTuple):
    """The pair."""

    teacher: Shape
    student: Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One phase of a run.

    Attributes:
        name: ``teacher fine-tuning``, ``SFT init``, ``training``, ``sampling`` or ``evaluation``.
        moment: when its memory is highest.
        parts: bytes of one card at that moment.
        moments: all moments, bytes of all parts.
        host: bytes of main memory on the fullest machine.
        spent: tokens, FLOPs, seconds.
        short: what vLLM's share of a card does not hold; empty if it holds all.
    """

    name: str
    moment: str
    parts: Parts
    moments: Mapping[str, int]
    host: int
    spent: Spent
    short: str = ""

    @property
    def peak(self) -> int:
        """Bytes of one card, or of one process of a CPU."""
        return total(self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run needs on a machine.

    Attributes:
        models, machine, scaling: what was asked.
        phases: in their order.
        disk: bytes by what they are.
        notes: what was assumed.
        lora_rank: of the student's adapters; 0: all weights are trained.
    """

    models: Models
    machine: Machine
    scaling: Scaling
    phases: tuple[Phase, ...]
    disk: Mapping[str, int]
    notes: tuple[str, ...]
    lora_rank: int = 0

    @property
    def peak(self) -> int:
        """Bytes of the fullest card in the phase that needs most."""
        return max(phase.peak for phase in self.phases)

    @property
    def fits(self) -> bool:
        """Whether every phase has room."""
        return self.machine.cpu or (self.peak <= self.machine.usable and not self.short)

    @property
    def short(self) -> str:
        """What vLLM's share of a card does not hold, in the first phase where that is so."""
        return next((phase.short for phase in self.phases if phase.short), "")

    @property
    def spent(self) -> Spent:
        """Of all phases."""
        return times.added([phase.spent for phase in self.phases])

    @property
    def card_hours(self) -> tuple[float, float]:
        """Hours of all cards together, at least and at most."""
        slow, fast = self.spent.seconds
        return fast * self.machine.count / 3600, slow * self.machine.count / 3600


def models_of(config: RunConfig) -> Models:
    """The pair of a run, from configurations alone.

    Raises:
        InputError: none is there.
    """
    teacher = find_shape(config.pair.teacher)
    return Models(teacher, find_shape(config.pair.student, teacher))


def plan(
    config: RunConfig,
    models: Models,
    work: Work,
    machine: Machine,
    scaling: Scaling = WHOLE,
    *,
    rows: int | None = None,
) -> Plan:
    """What a run needs.

    Args:
        config: the run; ``auto`` precisions become bf16 on cards and fp32 on a CPU.
        models: its pair.
        work: what a step of its method does.
        machine: where.
        scaling: how it is spread over it.
        rows: of the training set, where it is not known.
    """
    config = with_precision(config, "fp32" if machine.cpu else "bf16")
    data = rows_of(config, config.train, rows)
    phases = [*_before(config, models, machine, scaling, data)]
    job = _job(config, config.train, models.student, models.teacher, work, machine, scaling, data)
    phases += _storing(job, data)
    phases += training_phases("training", job, config, data)
    phases.append(_evaluation(config, models, machine, job))
    notes = [note for note in (data.note, *map(_counted, models)) if note]
    return Plan(
        models=models,
        machine=machine,
        scaling=scaling,
        phases=tuple(phases),
        disk=disk.of_run(config, models.teacher, job, data),
        notes=tuple(notes),
        lora_rank=config.train.lora.r if config.train.lora else 0,
    )


def _counted(shape: Shape) -> str:
    if shape.exact:
        return ""
    found = f"{shape.name}: {shape.family} is counted as a Llama of its sizes"
    if shape.experts is not None:
        found += f" with {shape.experts.count} experts a layer; what else it has comes on top"
    if shape.family == "gemma2":
        found += (
            ", but its attention keeps matrices of a row by a row for every head: it takes more"
        )
    return found


def _job(
    config: RunConfig,
    recipe: TrainConfig,
    student: Shape,
    teacher: Shape | None,
    work: Work,
    machine: Machine,
    scaling: Scaling,
    data: Rows,
) -> Job:
    return Job(
        student=student,
        teacher=teacher if work.loaded else None,
        recipe=recipe,
        work=work,
        lengths=data.lengths,
        decode_rows=config.generate.batch_size,
        machine=machine,
        scaling=scaling,
        stored=work.given and config.teacher.store != NONE,
        vllm=config.generate.engine == "vllm",
    )


def _storing(job: Job, data: Rows) -> list[Phase]:
    """The teacher's pass over all rows, where a store is read; and its answers, where these are read."""
    if not job.stored or job.teacher is None:
        return []
    found, whole = {"its pass over the rows": capturing(job)}, replace(job, stored=False)
    spent = [times.capturing_time(job, data)]
    if job.work.taught:
        size = 2 if job.recipe.sample_precision == "bf16" else 4
        alone = replace(whole, student=job.teacher)
        drawn = sampling(alone, longest=job.recipe.max_length, teacher=False, held=size)
        found["its answers"] = {"teacher": capturing(job)["teacher"], **drawn}
        spent.append(_answers(job, job.teacher, data.prompts, size, asked=data.prompts))
    models = [job.teacher] * job.work.taught
    phase = _phase("teacher store", whole, found, times.added(spent), answering=models)
    return [replace(phase, host=2 * job.teacher.parameters * min(NODE, job.machine.count))]


def _answers(job: Job, model: Shape, count: float, size: int, *, asked: int) -> Spent:
    """So many answers, of which ``asked`` are asked for together and dealt to the ranks."""
    return times.sampling_time(
        model,
        job.machine,
        answers=count,
        longest=job.recipe.max_response,
        rows=min(job.decode_rows, ceil(asked / job.ranks)),
        size=size,
        ranks=job.ranks,
    )


def _before(
    config: RunConfig, models: Models, machine: Machine, scaling: Scaling, data: Rows
) -> list[Phase]:
    """Fine-tuning of the teacher, and the init."""
    found = []
    for name, recipe, model in (
        ("teacher fine-tuning", config.teacher_sft, models.teacher),
        ("SFT init", config.init_sft, models.student),
    ):
        if recipe is not None:
            job = _job(config, recipe, model, None, SFT, machine, scaling, data)
            found += training_phases(name, job, config, data)
    return found


def training_phases(name: str, job: Job, config: RunConfig, data: Rows) -> list[Phase]:
    """A training, and apart from it what it samples with its models in memory."""
    recipe = job.recipe
    found = everything(job)
    if job.stored:  # the teacher has answered before
        found.pop("sampling", None)
    own = found.pop("sampling", None)
    spent = times.training_time(job, data)
    looks = times.evaluations(job, data)
    size = 2 if recipe.sample_precision == "bf16" else 4

    def answers(model: Shape, count: float, asked: int) -> Spent:
        return _answers(job, model, count, size, asked=asked)

    if recipe.select == "max:dev_rouge_l":
        spent = times.added([spent, answers(job.student, looks * data.dev, data.dev)])
    alone = [job.student] * (recipe.select == "max:dev_rouge_l")
    phases = [_phase(name, job, found, spent, answering=alone)]
    if own is not None:
        fresh = spent.steps * recipe.batch_size * job.work.sampled
        batch, chunk = recipe.batch_size, config.generate.chunk
        rollouts = ceil(job.work.rollouts / batch) * batch
        asked = max(batch * job.work.ahead, rollouts)
        parts = [answers(job.student, fresh, asked)]
        if job.teacher is not None and job.work.mixed:
            parts.append(answers(job.teacher, fresh, asked))
        if job.teacher is not None and job.work.taught and not job.stored:
            asked = max(batch * job.work.ahead, chunk - chunk % batch)  # several steps' prompts
            parts.append(answers(job.teacher, data.prompts, asked))
        alone = [job.student] * bool(job.work.sampled and not job.work.mixed)
        if job.teacher is not None and job.work.taught:
            alone.append(job.teacher)
        sampled = times.added(parts)
        phases.append(_phase("sampling", job, {"sampling": own}, sampled, answering=alone))
    return phases


def _phase(
    name: str, job: Job, found: Mapping[str, Parts], spent: Spent, *, answering: Sequence[Shape]
) -> Phase:
    """``answering``: models that answer alone, and so by vLLM if that is asked to."""
    size = 2 if job.recipe.sample_precision == "bf16" else 4
    moment = max(found, key=lambda key: total(found[key]))
    return Phase(
        name=name,
        moment=moment,
        parts={part: size for part, size in found[moment].items() if size},
        moments={key: total(parts) for key, parts in found.items()},
        host=host_memory(job),
        spent=spent,
        short=beyond_vllm(job, answering, size, job.recipe.max_length),
    )


def host_memory(job: Job) -> int:
    """Bytes of main memory of the fullest machine: what all its processes read, or what is written.

    Each keeps what a whole teacher said; one whose layers are shared is asked again. vLLM's weights of a
    teacher lie there between its answers.
    """
    ranks, kept = min(NODE, job.machine.count), 0
    if job.teacher is not None and job.work.teacher and not job.stored and job.teacher_share == 1:
        kept = round(job.recipe.teacher_memory_gb * 2**30)
    if job.vllm and job.teacher is not None and job.work.taught and not job.stored:
        kept += job.answering * job.teacher.parameters  # where vLLM's copy sleeps
    training = ranks * (kept + host.copied(job))
    return max(ranks * total(host.loading(job)), training, ranks * kept + host.first(job))


def _evaluation(config: RunConfig, models: Models, machine: Machine, job: Job) -> Phase:
    """Answers of the student and of the reference rows, one model at a time."""
    precision = config.answer_precision
    size = {"bf16": 2, "fp64": 8}.get(precision, 4)
    generate, prompts = config.generate, task_prompts(config)
    longest = config.train.max_prompt + generate.max_new_tokens
    asked = [models.student, models.teacher]
    asked += [models.student] * (1 + (config.init_sft is not None))
    best: tuple[str, Parts] = ("", {})
    spent = []
    for model in asked:
        one = replace(job, student=model, teacher=None, work=SFT, scaling=WHOLE)
        recipe = one.recipe.model_copy(update={"sample_precision": precision})
        one = replace(one, recipe=recipe, decode_rows=generate.batch_size)
        drawn = sampling(one, longest=longest, teacher=False, held=size)
        parts: Parts = {"weights": size * model.parameters, **drawn}
        if total(parts) > total(best[1]):
            best = (f"answers of {model.name}", parts)
        spent.append(
            times.sampling_time(
                model,
                machine,
                answers=prompts * sum(len(way.seeds) for way in generate.ways),
                longest=generate.max_new_tokens,
                rows=min(generate.batch_size, ceil(prompts / machine.count)),
                size=size,
                ranks=machine.count,
            )
        )
    ranks = min(NODE, machine.count)
    whole = {best[0]: total(best[1])}
    parts = {part: bytes_ for part, bytes_ in best[1].items() if bytes_}
    return Phase(
        name="evaluation",
        moment=best[0],
        parts=parts,
        moments=whole,
        host=ranks * size * max(model.parameters for model in asked),  # each answers its share
        spent=times.added(spent),
        short=beyond_vllm(job, asked, size, longest),
    )


def facts(made: Plan) -> dict[str, Any]:
    """A plan as plain data; bytes, seconds, FLOPs."""
    return {
        "teacher": {"name": made.models.teacher.name, "parameters": made.models.teacher.parameters},
        "student": {"name": made.models.student.name, "parameters": made.models.student.parameters},
        "machine": {
            "card": made.machine.name,
            "count": made.machine.count,
            "memory_gb": None if made.machine.cpu else made.machine.memory_gb,
            "usable": None if made.machine.cpu else made.machine.usable,
        },
        "scaling": {
            "shard": made.scaling.shard,
            "teacher": made.scaling.teacher,
            "checkpoint_activations": made.scaling.checkpoint_activations,
            "lora_rank": made.lora_rank,
        },
        "fits": made.fits,
        "peak": made.peak,
        "phases": [
            {
                "name": phase.name,
                "peak": phase.peak,
                "moment": phase.moment,
                "parts": dict(phase.parts),
                "moments": dict(phase.moments),
                "host": phase.host,
                "short": phase.short,
                "steps": phase.spent.steps,
                "tokens": {
                    "trained": round(phase.spent.trained),
                    "read": round(phase.spent.read),
                    "sampled": [round(phase.spent.sampled.fast), round(phase.spent.sampled.slow)],
                },
                "flops": phase.spent.flops,
                "seconds": [phase.spent.seconds.fast, phase.spent.seconds.slow],
            }
            for phase in made.phases
        ],
        "disk": dict(made.disk),
        "notes": list(made.notes),
    }
