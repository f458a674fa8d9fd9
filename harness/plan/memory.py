"""Bytes of one process at the moments of a training where they are highest.

Nothing here was measured on a GPU. What is in use when, as the loop has it:

* between forward and backward of a step's last micro-batch, while the heads' tiles run: weights, moments,
  gradients of earlier micro-batches, all the forward pass kept, the teacher, a tile, the head's gradient;
* at the end of backward: weights, moments, all gradients, and the embedding's gradient a second time;
* while sampling: weights, moments, the teacher, the decoder's copy of the weights, keys and values;
* on a CPU while models are read, and while a checkpoint or the student is written (on a GPU all are the
  host's: `kdbench.harness.plan.host`).
"""

from collections.abc import Mapping, Sequence

from kdbench.harness.plan import activations, host
from kdbench.harness.plan.activations import Pass
from kdbench.harness.plan.hardware import GIB, Machine
from kdbench.harness.plan.job import Job, Parts, total
from kdbench.harness.plan.shapes import Shape
from kdbench.trainers.lora.settings import ALL

TILE_ELEMENTS = 1 << 24
"""Logits a tile and model; `kdbench.trainers.head.tiles`."""
GPU_TILE_ELEMENTS = 1 << 27
GPU_ROWS = 1024
GPU_SHARE = 32
"""The same on a GPU, its least rows, and the part of its memory that they may take."""
GPU_BLOCK_ELEMENTS = 1 << 25
"""Logits on which an objective is computed together; `kdbench.trainers.head.generic`."""
SPARE = 8
"""Slots of the cache for prompts that are read ahead; `kdbench.trainers.sampler.sampler`."""
GROUP = 2048
"""Tokens of prompts read together."""
FOUR_BITS = 4.127
"""Bits of a weight in NF4 with double quantisation, arXiv:2305.14314."""
VLLM_SHARE = 0.4
"""Of a card that vLLM takes when it answers; `kdbench.trainers.vllm.engine`."""
DRAWING = 4
"""Float32 copies of a step's logits while a token is drawn."""


def resident(job: Job) -> dict[str, int]:
    """What lies in memory between steps."""
    student, full = job.student, job.full
    weights = full * job.trained + (_base(job) if job.frozen else 0)
    parts = {"weights": weights // job.share, "Adam": 2 * full * job.trained // job.share}
    copied = student.layers_shared(job.share)
    if job.frozen and job.share == 1:  # what is frozen the copies have in common
        copied = job.trained
    parts["frozen copies"] = job.work.copies * full * copied
    if job.teacher is not None:
        parts["teacher"] = job.answering * _held(job, job.teacher)
        if job.half and job.machine.cpu and not job.machine.amx:
            parts["teacher"] += 4 * job.teacher.head
    return parts


def _base(job: Job) -> int:
    """Bytes of a frozen student."""
    small = job.student.adapted([ALL]) if job.four_bits else 0  # experts are no layers of their own
    return job.held * (job.student.parameters - small) + round(FOUR_BITS / 8 * small)


def _held(job: Job, teacher: Shape) -> int:
    """Parameters of the teacher that are in memory: of one that is read from a store its head."""
    return teacher.head if job.stored else teacher.layers_shared(job.teacher_share)


def stepping(job: Job) -> Parts:
    """While the heads run over a step's last micro-batch."""
    run, parts = job.forward(), resident(job)
    more = job.micro_batches > 1
    parts["gradients"] = _gradients(job) if more else _buckets(job)
    # what is gathered of sharded weights is cast as it is read: both belong to the pass
    parts["activations"] = activations.kept(job.student, run)
    # autocast keeps copies of what has a gradient; what is frozen is held in half precision anyway
    parts["half-precision weights"] = (
        0 if job.frozen else activations.cast_weights(job.student, run)
    )
    parts["gathered"] = _gathered(job)
    teaching = 0
    if job.teacher is not None and job.work.teacher and not job.stored:
        teaching = activations.transient(job.teacher, run)
    inside = activations.transient(job.student, run) // 4  # of the layer that runs last
    parts["head"] = max(head(job), teaching, inside)
    return parts


def stepped(job: Job) -> Parts:
    """At the end of a step's last backward pass."""
    parts, more = resident(job), job.micro_batches > 1
    parts["gradients"] = _gradients(job)
    if not job.frozen and job.share == 1:  # an embedding's gradient is dense; a tied head's waits
        times = (1 if job.student.tied else 0) + (1 if more else 0)
        parts["head"] = times * job.full * job.student.head
    parts["gathered"] = _sent(job)
    return parts


def _gradients(job: Job) -> int:
    return job.full * job.trained // job.share + _buckets(job)


def _buckets(job: Job) -> int:
    """DistributedDataParallel's copies of all gradients."""
    several = job.ranks > 1 and job.share == 1
    return job.full * job.trained if several else 0


def _gathered(job: Job) -> int:
    """Whole weights that a sharded pass has at once: all outside the layers, and two layers.

    Of a layer also its gradient and what is sent of it; of a frozen teacher its layers alone are shared.
    """
    found = 0
    if job.share > 1:
        found += job.held * (job.student.root + 2 * job.student.layer)
        found += 0 if job.frozen else 2 * job.full * job.student.layer
    if job.teacher is not None and job.teacher_share > 1:
        found += 2 * job.answering * job.teacher.layer
    return found


def _sent(job: Job) -> int:
    """What lies outside a sharded student's layers, when its gradient is last: whole, and as it is sent."""
    if job.share == 1:
        return 0
    root = job.student.root
    if job.frozen:
        return job.held * root
    received = root // job.share if job.micro_batches > 1 else 0  # before it is added up
    return job.full * (3 * root + received)


def head(job: Job) -> int:
    """The heads' tiles, what is cast and kept for them, and the gradients they give."""
    targets, student, run = job.largest.targets, job.student, job.forward()
    fast = not (run.cpu and run.half and not run.amx)
    size = run.size if fast else 4
    cast = 0
    if run.half and not job.frozen:
        cast = 2 * student.head if fast else 6 * student.head
    gradient = 0 if job.frozen else run.full * student.head
    gradient += 2 * student.head if run.half and fast and not job.frozen else 0
    rows = targets * student.embed * (run.full + size)
    if job.teacher is not None:
        rows += targets * job.teacher.embed * (job.answering + size)
    logits = job.work.kept_logits * targets * job.vocab * 4
    return cast + gradient + rows + logits + head_tiles(job, targets, size)


def head_tiles(job: Job, targets: int, size: int) -> int:
    """Logits of a tile: raw, of both models, and what the objective makes of a block in float32 or wider."""
    rows = min(targets, tile_rows(job))
    # a CPU computes block by block, too, but its allocator keeps what blocks give back: planned by blocks
    # jsd-gpt2-512 needed 1,206 MiB, by tiles 1,586; it took 1,608
    block = rows if job.machine.cpu else min(rows, max(1, GPU_BLOCK_ELEMENTS // job.vocab))
    models = 2 if job.teacher is not None and (job.work.teacher or job.work.copies) else 1
    models = 2 if job.work.copies else models
    apart = size != job.full
    if job.work.buffers:  # counted with raw logits of full size, where these are all of a tile
        raw = (apart or block < rows) * rows * models * size + apart * rows * job.full
        return job.vocab * (raw + block * job.work.buffers * job.full)
    # in place, block by block; on a GPU each in float32 whatever the products are in
    wide = 0 if job.machine.cpu else (models + 1) * job.full * apart + job.full
    return job.vocab * (rows * models * size + block * wide)


def tile_rows(job: Job) -> int:
    """Targets that go through the heads together."""
    if job.machine.cpu:
        return max(16, TILE_ELEMENTS // job.vocab)
    fitting = round(job.machine.memory_gb * 2**30) // (GPU_SHARE * 2 * job.vocab)
    return max(16, min(fitting, max(GPU_ROWS, GPU_TILE_ELEMENTS // job.vocab)))


def sampling(job: Job, *, longest: int, teacher: bool, held: int | None = None) -> dict[str, int]:
    """A decoder's copy of the weights, merged adapters, keys and values, logits; beside what is resident.

    By vLLM, which does not mix two models, it is all that vLLM takes.

    Args:
        job: whose student samples, at its sampling precision.
        longest: tokens of prompt and answer.
        teacher: whether it decodes as well.
        held: bytes of an element of the model's weights, where that is not the trained one.
    """
    size = {"bf16": 2, "fp64": 8}.get(job.recipe.sample_precision, 4)
    if job.vllm and not (teacher and job.work.mixed):
        return {"vLLM": vllm(job, size, longest, teacher=teacher)}
    lora = job.recipe.lora if held is None else None  # a trained student is merged
    held = job.held if held is None else held
    whole = job.share > 1 or (lora is not None and job.four_bits)
    copies = decoder_copy(job.student, held, size, whole=whole, cpu=job.machine.cpu)
    slots = job.decode_rows + SPARE
    cache = slots * longest * 2 * job.student.keys * job.student.layers * size
    logits = job.decode_rows * job.student.vocab * (size + DRAWING * max(4, size))
    if teacher and job.teacher is not None:
        apart = job.teacher_share > 1
        copies += decoder_copy(job.teacher, job.answering, size, whole=apart, cpu=job.machine.cpu)
        cache += slots * longest * 2 * job.teacher.keys * job.teacher.layers * size
        logits *= 2
    reading = activations.transient(job.student, Pass(tokens=GROUP, row=GROUP, half=size == 2))
    parts = {"decoder": copies, "keys and values": cache, "logits": logits + reading}
    if lora is not None and not whole:
        stacked = decoder_copy(job.student, size, size, whole=False, cpu=job.machine.cpu)
        merged = size * job.student.adapted(lora.targets)
        # of what the decoder stacks for itself, it reads merged weights that are not kept
        parts["merged weights"] = max(0, merged - stacked)
    return parts


def vllm(job: Job, size: int, longest: int, *, teacher: bool) -> int:
    """Bytes that vLLM takes: its share of a card, one model at a time; on a CPU what each model needs.

    Args:
        job: whose student answers.
        size: bytes of an element.
        longest: tokens of prompt and answer.
        teacher: whether it answers as well.
    """
    if not job.machine.cpu:
        return vllm_share(job.machine)
    models = [job.student, *([job.teacher] if teacher and job.teacher is not None else [])]
    return sum(in_vllm(model, size, longest * (job.decode_rows + 1)) for model in models)


def vllm_share(machine: Machine) -> int:
    """Bytes of one card that vLLM may take."""
    return round(VLLM_SHARE * machine.memory_gb * 2**30)


def in_vllm(shape: Shape, size: int, tokens: int) -> int:
    """Bytes of a model there, with keys and values of so many tokens."""
    return size * (shape.parameters + 2 * shape.keys * shape.layers * tokens)


def beyond_vllm(job: Job, answering: Sequence[Shape], size: int, longest: int) -> str:
    """Which of these models vLLM's share of a card does not hold, with one answer of that length."""
    if not job.vllm or job.machine.cpu:
        return ""
    share = vllm_share(job.machine)
    for model in answering:
        needed = in_vllm(model, size, longest)
        if needed > share:
            return (
                f"{model.name} with one answer takes {needed / GIB:.1f} GiB, and vLLM has {VLLM_SHARE:.0%} "
                f"of a card, {share / GIB:.1f} GiB"
            )
    return ""


def decoder_copy(shape: Shape, held: int, size: int, *, whole: bool, cpu: bool) -> int:
    """Bytes of weights that a decoder makes for itself.

    Args:
        shape: whose.
        held: bytes of an element as the model has it.
        size: as the decoder wants it.
        whole: the model's own weights are shares, so that a copy is made anyway.
        cpu: products are laid out there.
    """
    stacked = shape.family in ("llama", "qwen2")
    layers = shape.matrices
    if size != held or whole:
        return size * shape.parameters + (size * layers if cpu and stacked else 0)
    # a GPU reads weights where they lie
    return size * (layers + shape.head) if cpu and stacked else 0


def moments(job: Job) -> dict[str, Parts]:
    """The moments of a step that may be its highest, by name; bytes by part of one process."""
    return {"forward and heads": stepping(job), "end of backward": stepped(job)}


def capturing(job: Job) -> Parts:
    """While a teacher's hidden states are put into a store: it alone, and the rows that it reads."""
    assert job.teacher is not None, "a store is of a teacher"
    size = job.answering
    return {
        "teacher": size * job.teacher.parameters,
        "activations": activations.transient(job.teacher, job.forward()),
        "hidden states": job.recipe.micro_tokens * job.teacher.embed * size,
    }


def everything(job: Job) -> dict[str, Parts]:
    """`moments`, those at which the training samples or answers the development set, and files on a CPU."""
    found, longest = moments(job), job.recipe.max_length
    if job.recipe.select == "max:dev_rouge_l":
        drawn = sampling(job, longest=longest, teacher=False)
        found["answers to the development set"] = resident(job) | drawn
    if job.work.sampled or job.work.taught:
        both = job.work.mixed or job.work.taught
        found["sampling"] = resident(job) | sampling(job, longest=longest, teacher=both)
    return found | (_files(job, found) if job.machine.cpu else {})


def _files(job: Job, training: Mapping[str, Parts]) -> dict[str, Parts]:
    """While a CPU reads and writes them; what is shared is written beside what training does next."""
    found = {"loading": host.loading(job)}
    found["writing"] = resident(job) | {"copies": host.first(job)}
    if job.share > 1:
        busiest = max(training.values(), key=total)
        found["writing beside training"] = {**busiest, "copies": host.copied(job)}
    return found


def highest(job: Job) -> int:
    """Bytes of one process at the highest moment of a training, its sampling included."""
    return max(total(parts) for parts in everything(job).values())
