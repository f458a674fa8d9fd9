"""The conformance suite of a method, for ours and for those written elsewhere.

Everything happens on random data with tiny random models: seconds on one core. Each check raises
AssertionError with a sentence.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from kdbench.harness.files.store import append_rows
from kdbench.trainers.assemble import Parts, assemble
from kdbench.trainers.loop import Loop
from kdbench.trainers.method import Method
from kdbench.trainers.models import Vocabulary
from kdbench.trainers.optim import Recipe
from kdbench.trainers.types import Sequence

VOCAB = 67
EOS = 1
PRECISIONS = {None: "fp32", torch.float64: "fp64"}
RECIPE: dict[str, Any] = {
    "steps": 4,
    "batch_size": 8,
    "lr": 1e-2,
    "max_length": 64,
    "max_prompt": 52,
    "micro_tokens": 64,
    "seed": 5,
    "dropout": False,
    "eval_every": 0,
    "select": "last",
}


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
            sequences = stream.sequences
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
    terms = loop._gradients(window, micro_tokens)
    grads = [p.grad.flatten() for p in loop.module.parameters() if p.grad is not None]
    return torch.cat(grads).clone(), terms


def _pair(make: Callable[[], Method], out: Path, **options: Any) -> Loop:
    student, teacher = tiny_model(1), tiny_model(2, width=48, layers=3)
    options = {"dtype": torch.float64} | options
    return tiny_loop(make(), student=student, teacher=teacher, out=out, **options)


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
    dtype: torch.dtype | None = None,
    **settings: Any,
) -> Loop:
    """A loop over 24 random examples in batches of 8, without evaluation.

    ``dtype`` is that of sampling; ``settings`` are fields of the recipe or else of `Parts`.
    """
    parts = {name: settings.pop(name) for name in settings.keys() - Recipe.model_fields.keys()}
    accelerator = Accelerator(cpu=True)
    train, answers = random_sequences(24, seed=1), out / "answers.jsonl"
    if accelerator.is_main_process and not answers.exists():
        taught = enumerate(random_sequences(24, seed=2))
        rows = [{"index": i, "key": train[i].key, "response": s.response} for i, s in taught]
        append_rows(answers, rows)
    return assemble(
        Parts(
            recipe=Recipe(**RECIPE | settings | {"sample_precision": PRECISIONS[dtype]}),
            method=method,
            student=student,
            teacher=teacher,
            vocabulary=Vocabulary(VOCAB, (EOS,), 0),
            train=train,
            text=random_sequences(10, seed=3, text=True),
            answers=answers,
            decode_rows=4,
            decode_chunk=4,
            out=out,
            accelerator=accelerator,
            **{"packed": True} | parts,
        )
    )
