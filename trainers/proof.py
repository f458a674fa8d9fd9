"""The conformance suite of a method, for ours and for those written elsewhere.

Everything happens on random data with tiny random models: seconds on one core. Each check raises
AssertionError with a sentence.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from kdbench.trainers.batching import pieces
from kdbench.trainers.engine import LoadedModel, Rollouts, Scorer
from kdbench.trainers.head.head import head_of
from kdbench.trainers.loop import Loop, LoopSettings
from kdbench.trainers.method import Context, Method
from kdbench.trainers.micro_batch import TeacherSide
from kdbench.trainers.models import Vocabulary
from kdbench.trainers.packing import Layout
from kdbench.trainers.teacher_memory import TeacherMemory, lend_memory
from kdbench.trainers.types import Decoding, Sequence

VOCAB = 67
EOS = 1


def check(make: Callable[[], Method], folder: Path, *, divergence: bool = False) -> None:
    """Runs every check on a method.

    Args:
        make: makes a fresh instance.
        folder: scratch space.
        divergence: the loss is one, so it and its gradient vanish where student = teacher.

    Raises:
        AssertionError: which check failed and how.
    """
    check_cuts(make, folder)
    check_targets(make, folder)
    check_resume(make, folder)
    if divergence:
        check_zero_at_teacher(make, folder)


def check_cuts(make: Callable[[], Method], folder: Path) -> None:
    """Padding, packing, tiles and micro-batches change neither gradient nor logged terms."""
    base, terms = gradient(_pair(make, folder), 10_000)
    for options, micro_tokens in (({"packed": False}, 1), ({"tile": 7}, 60)):
        other, again = gradient(_pair(make, folder, **options), micro_tokens)
        error = float((other - base).norm() / base.norm())
        how = f"with {options} and micro-batches of {micro_tokens} tokens"
        assert error <= 1e-5, f"the gradient changes by {error:.2g} {how}: return sums, not means"
        for name, value in terms.items():
            gap = abs(again[name] - value)
            assert gap <= 1e-6 + 2e-5 * abs(value), f"{name!r} changes by {gap:.2g} {how}"


def check_targets(make: Callable[[], Method], folder: Path) -> None:
    """Every token of a response is a target, the first and the end token too."""
    loop = _pair(make, folder)
    ended = 0
    for step in range(3):
        for stream in loop.method.window(loop.ctx, step):
            if stream.name == "text":
                continue
            sequences = [s for group in stream.groups for s in group]
            targets = loop.layout(sequences).target_N.tolist()
            wanted = [token for s in sequences for token in s.response]
            assert targets == wanted, f"stream {stream.name!r} does not predict whole responses"
            ended += sum(s.response[-1] == EOS for s in sequences)
    assert ended, "no response of three steps ends with the end token"


def check_resume(make: Callable[[], Method], folder: Path) -> None:
    """Four steps in one go equal two, a restart from the checkpoint, and two more, bit for bit."""
    settings: dict[str, Any] = {"steps": 4, "save_every": 2}
    _pair(make, folder / "whole", **settings).run()
    interrupted = _pair(make, folder / "parts", **settings)
    for _ in range(3):  # one step further than the checkpoint, as a kill would leave it
        interrupted._step()
    _pair(make, folder / "parts", **settings).run()
    whole, parts = (folder / p / "student" / "model.safetensors" for p in ("whole", "parts"))
    same = whole.read_bytes() == parts.read_bytes()
    assert same, "a resumed training ends elsewhere: something is missing from state_dict()"


def check_zero_at_teacher(make: Callable[[], Method], folder: Path) -> None:
    """Loss and gradient vanish where the student is its teacher."""
    one = tiny_model(seed=1)
    grad, terms = gradient(tiny_loop(make(), student=one, teacher=tiny_model(1), out=folder), 64)
    assert abs(terms["total"]) < 1e-5, f"the loss of a perfect student is {terms['total']:.2g}"
    assert float(grad.abs().max()) < 1e-4, "the gradient of a perfect student is not zero"


def gradient(
    loop: Loop, micro_tokens: int, step: int = 0, progress: float = 0.0
) -> tuple[torch.Tensor, dict[str, float]]:
    """The gradient of an optimiser step, flattened, and the logged terms."""
    loop.ctx.progress = progress
    window = loop.method.window(loop.ctx, step)
    rank, world = loop.accelerator.process_index, loop.accelerator.num_processes
    terms = loop._gradients(pieces(window, micro_tokens=micro_tokens, rank=rank, world=world))
    grads = [p.grad.flatten() for p in loop.module.parameters() if p.grad is not None]
    return torch.cat(grads).clone(), terms


def _pair(make: Callable[[], Method], out: Path, **options: Any) -> Loop:
    return tiny_loop(
        make(),
        student=tiny_model(1),
        teacher=tiny_model(2, width=48, layers=3),
        out=out,
        dtype=torch.float64,
        **options,
    )


def tiny_model(seed: int, *, width: int = 32, layers: int = 2) -> PreTrainedModel:
    """A random Llama whose predictions are far from uniform."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=EOS,
            pad_token_id=0,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6.0)
    return model.eval()


def random_sequences(count: int, *, seed: int = 0, text: bool = False) -> list[Sequence]:
    """Random prompts (3–12 tokens) with responses (1–20 tokens, end token last), or plain text."""
    generator = torch.Generator().manual_seed(seed)

    def ids(low: int, high: int) -> tuple[int, ...]:
        length = int(torch.randint(low, high + 1, (1,), generator=generator))
        return tuple(torch.randint(2, VOCAB, (length,), generator=generator).tolist())

    if text:
        return [Sequence((), ids(10, 24)) for _ in range(count)]
    return [Sequence(ids(3, 12), (*ids(0, 19), EOS), key=seed * 1000 + i) for i in range(count)]


def tiny_loop(
    method: Method,
    *,
    student: PreTrainedModel,
    teacher: PreTrainedModel | None,
    out: Path,
    packed: bool = True,
    tile: int | None = None,
    accelerator: Accelerator | None = None,
    dtype: torch.dtype | None = None,
    teacher_vocab: int = VOCAB,
    twin: Callable[[Sequence], Sequence] | None = None,
    **settings: Any,
) -> Loop:
    """A loop over 24 random examples in batches of 8, without evaluation."""
    accelerator = accelerator or Accelerator(cpu=True)
    layout = Layout(row=64, pad_id=0, packed=packed, device=accelerator.device, tile=tile)
    side = None
    if teacher is not None:
        memory = TeacherMemory(teacher, layout, micro_tokens=64, limit=1 << 20)
        side = TeacherSide(teacher, head_of(teacher, teacher_vocab), None if twin else memory)
    ctx = _tiny_context(student, side, layout, accelerator, dtype, twin)
    options: dict[str, Any] = {"steps": 4, "lr": 1e-2, "select": "last", "micro_tokens": 64}
    return Loop(
        LoopSettings(**(options | settings)),
        method=method,
        ctx=ctx,
        student=student,
        tokenizer=None,
        teacher=side,
        layout=layout,
        evaluator=None,
        out=out,
        accelerator=accelerator,
    )


def _tiny_context(
    student: PreTrainedModel,
    side: TeacherSide | None,
    layout: Layout,
    accelerator: Accelerator,
    dtype: torch.dtype | None,
    twin: Callable[[Sequence], Sequence] | None,
) -> Context:
    """Data and services; answers and scores only in the student's tokens."""
    train, answers = random_sequences(24, seed=1), random_sequences(24, seed=2)
    taught = [Sequence(t.prompt, a.response, t.key) for t, a in zip(train, answers, strict=True)]
    meter: Counter[str] = Counter()
    engine = LoadedModel(
        model=student,
        vocabulary=Vocabulary(VOCAB, (EOS,), 0),
        batch_size=4,
        chunk=4,
        sampling_dtype=dtype,
        layout=layout,
        micro_tokens=64,
        autocast=accelerator.autocast,
    )
    native = None
    if side is not None and twin is None:
        native = replace(engine, model=side.model, read=side.hidden)
    ctx = Context(
        train=train,
        text=random_sequences(10, seed=3, text=True),
        batch_size=8,
        seed=5,
        vocab=VOCAB,
        eos_id=EOS,
        decoding=Decoding(max_new_tokens=12),
        answer=Rollouts(student=engine, teacher=native, accelerator=accelerator, meter=meter),
        teacher_answers=lambda indices: [taught[i] for i in indices],
        score=Scorer(student=engine, teacher=native, meter=meter),
        meter=meter,
        twin=twin,
    )
    if side is not None and side.memory is not None:
        lend_memory(ctx, side.memory, accelerator.num_processes)
    return ctx
