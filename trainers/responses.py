"""Whose responses an optimiser step trains on, and draws that depend on nothing but a counter."""

from dataclasses import replace

import torch

from kdbench.trainers.collection import rollout_seed
from kdbench.trainers.method import Context, as_prompts, with_response
from kdbench.trainers.types import Sequence


def student_responses(
    ctx: Context, step: int, prompts: list[Sequence], *, temperature: float = 1.0
) -> list[Sequence]:
    """Fresh answers of the student to the prompts of some examples, end token included."""
    decoding = replace(ctx.decoding, seed=rollout_seed(ctx.seed, step), temperature=temperature)
    answers = ctx.answer(as_prompts(prompts), decoding)
    return [with_response(s, a.ids) for s, a in zip(prompts, answers, strict=True)]


def drawn(seed: int, step: int, salt: int, count: int = 1) -> list[float]:
    """Uniform numbers in [0, 1): a function of (seed, salt, step), the same on every rank.

    No generator state needs saving, and ranks cannot take different branches (DistiLLM's code draws
    from one numpy generator a rank, so its ranks do).
    """
    generator = torch.Generator().manual_seed(
        (seed * 1_000_003 + salt) * 1_000_003 + step + 500_009
    )
    return torch.rand(count, generator=generator, dtype=torch.float64).tolist()
