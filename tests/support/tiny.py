"""Tiny random models of the real families, and a training wired up by hand."""

from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    OPTConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from kdbench.trainers.head import head_of
from kdbench.trainers.loop import Loop, LoopSettings
from kdbench.trainers.method import Context, Method
from kdbench.trainers.micro import Layout, TeacherSide
from kdbench.trainers.models import Vocabulary
from kdbench.trainers.services import Rollouts, Scorer
from kdbench.trainers.types import Decoding, Sequence

VOCAB = 67
EOS = 1
FAMILIES = ("gpt2", "opt", "llama", "qwen2")


def config(family: str, *, tied: bool = True, width: int = 32, layers: int = 2) -> PretrainedConfig:
    """A configuration with dropout off and room for 128 positions."""
    ids = {"bos_token_id": 0, "eos_token_id": EOS, "pad_token_id": 0}
    common = {"vocab_size": VOCAB, "tie_word_embeddings": tied, **ids}
    if family == "gpt2":
        off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return GPT2Config(n_embd=width, n_layer=layers, n_head=4, n_positions=128, **off, **common)
    if family == "opt":
        return OPTConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            ffn_dim=2 * width,
            max_position_embeddings=128,
            word_embed_proj_dim=width,
            dropout=0.0,
            **common,
        )
    kind = LlamaConfig if family == "llama" else Qwen2Config
    return kind(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=128,
        **common,
    )


def model(
    family: str = "llama", *, seed: int = 0, tied: bool = True, **sizes: int
) -> PreTrainedModel:
    """A random model whose predictions are far from uniform."""
    torch.manual_seed(seed)
    made = AutoModelForCausalLM.from_config(config(family, tied=tied, **sizes))
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6.0)
    return made.eval()


def sequences(count: int, *, seed: int = 0, text: bool = False) -> list[Sequence]:
    """Random prompts (3–12 tokens) with responses (1–20 tokens, end token last), or plain text."""
    generator = torch.Generator().manual_seed(seed)

    def ids(low: int, high: int) -> tuple[int, ...]:
        length = int(torch.randint(low, high + 1, (1,), generator=generator))
        return tuple(torch.randint(2, VOCAB, (length,), generator=generator).tolist())

    if text:
        return [Sequence((), ids(10, 24)) for _ in range(count)]
    return [Sequence(ids(3, 12), (*ids(0, 19), EOS), key=seed * 1000 + i) for i in range(count)]


def loop(
    method: Method,
    *,
    student: PreTrainedModel,
    teacher: PreTrainedModel | None,
    out: Path,
    packed: bool = True,
    tile: int | None = None,
    accelerator: Accelerator | None = None,
    dtype: torch.dtype | None = None,
    **settings: object,
) -> Loop:
    """A loop over 24 random examples in batches of 8, without evaluation."""
    accelerator = accelerator or Accelerator(cpu=True)
    vocabulary = Vocabulary(VOCAB, (EOS,), 0)
    layout = Layout(row=64, pad_id=0, packed=packed, device=accelerator.device, tile=tile)
    train = sequences(24, seed=1)
    answers = sequences(24, seed=2)
    taught = [Sequence(t.prompt, a.response, t.key) for t, a in zip(train, answers, strict=True)]
    meter: dict[str, int] = {}
    options = {"steps": 4, "lr": 1e-2, "select": "last", "micro_tokens": 64} | settings
    ctx = Context(
        train=train,
        text=sequences(10, seed=3, text=True),
        batch_size=8,
        seed=5,
        vocab=VOCAB,
        eos_id=EOS,
        decoding=Decoding(max_new_tokens=12),
        answer=Rollouts(
            student=student,
            teacher=teacher,
            vocabulary=vocabulary,
            accelerator=accelerator,
            batch_size=4,
            chunk=4,
            dtype=dtype,
            meter=meter,
        ),
        teacher_responses=lambda: taught,
        score=Scorer(
            student=student,
            teacher=teacher,
            vocab=VOCAB,
            layout=layout,
            micro_tokens=64,
            accelerator=accelerator,
        ),
        meter=meter,
    )
    return Loop(
        LoopSettings(**options),
        method=method,
        ctx=ctx,
        student=student,
        tokenizer=None,
        teacher=TeacherSide(teacher, head_of(teacher, VOCAB)) if teacher is not None else None,
        layout=layout,
        evaluator=None,
        out=out,
        accelerator=accelerator,
    )
