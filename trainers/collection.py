"""Collect-then-optimise, as in PPO: roll out many answers, pass over them several times, repeat."""

from collections.abc import Sequence as Seq
from dataclasses import replace
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from kdbench.trainers.checkpoint import pack_sequences, unpack_sequences
from kdbench.trainers.method import Context, Method, Stream, as_prompts, singles, with_response
from kdbench.trainers.text import plain_text
from kdbench.trainers.types import Sequence


class PPO(BaseModel):
    """How rollouts are collected and reused; MiniLLM's values (paper section 3, authors' scripts)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rollouts: int = Field(256, gt=0, description="answers a collection, over all ranks")
    inner_epochs: int = Field(4, gt=0, description="passes over a collection")
    clip: float = Field(0.2, gt=0, description="ε of the clipped ratio")


class Collection:
    """The current rollouts; everything here is checkpointed.

    The number of rollouts is global, so it does not depend on the number of ranks (the authors' code
    divides it by all ranks, model-parallel ones included).
    """

    def __init__(self, ppo: PPO) -> None:
        self.ppo = ppo
        self.items: list[Sequence] = []
        self._announced = False

    def window(self, ctx: Context, step: int, *, teacher_mix: float) -> list[Sequence]:
        """The rollouts of optimiser step ``step``, with columns ``log_q`` and ``log_p``.

        Collects new ones when a cycle begins.

        Args:
            ctx: services.
            step: optimiser step, 0-based.
            teacher_mix: α of teacher-mixed sampling.
        """
        size = min(ctx.batch_size, self.ppo.rollouts)
        batches = max(1, self.ppo.rollouts // size)
        number, inside = divmod(step, batches * self.ppo.inner_epochs)
        if inside == 0:
            self.items = collect(ctx, step, number, batches * size, teacher_mix)
        elif not self._announced:  # resumed
            announce(ctx, self.items)
        self._announced = True
        epoch, batch = divmod(inside, batches)
        order = ctx.indices(epoch * batches + batch, size=size, salt=2 + number, n=len(self.items))
        return [self.items[i] for i in order]

    def state_dict(self) -> dict[str, Any]:
        """The rollouts with their columns."""
        return pack_sequences(self.items)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the rollouts."""
        self.items = unpack_sequences(state)


class RolloutMethod(Method, abstract=True):
    """Base of methods that train on collected rollouts with advantages, and on plain text.

    Their ``Config`` has ``ppo``, ``teacher_mix`` and ``lm_coef``.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.collection = Collection(config.ppo)

    def window(self, ctx: Context, step: int) -> tuple[Stream, ...]:
        """A mini-batch of the current rollouts with their advantages, and plain text."""
        rollouts = self.collection.window(ctx, step, teacher_mix=self.config.teacher_mix)
        return (
            singles("response", self.with_advantages(rollouts)),
            *plain_text(ctx, step, self.config.lm_coef),
        )

    def with_advantages(self, rollouts: list[Sequence]) -> list[Sequence]:
        """The rollouts of one mini-batch with the columns that the loss reads."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """The rollouts being trained on."""
        return self.collection.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the rollouts."""
        self.collection.load_state_dict(state)


def collect(ctx: Context, step: int, number: int, count: int, teacher_mix: float) -> list[Sequence]:
    """``count`` sampled answers with their log-probabilities under student and teacher as columns."""
    prompts = [ctx.train[i] for i in ctx.indices(number, size=count)]
    answers = ctx.answer(
        as_prompts(prompts),
        replace(ctx.decoding, seed=rollout_seed(ctx.seed, step)),
        teacher_mix=teacher_mix,
    )
    rolled = [with_response(p, a.ids) for p, a in zip(prompts, answers, strict=True)]
    announce(ctx, rolled)
    log_q, log_p = ctx.score(rolled, "student"), ctx.score(rolled, "teacher")
    return [
        with_response(s, s.response, log_q=q, log_p=p)
        for s, q, p in zip(rolled, log_q, log_p, strict=True)
    ]


def announce(ctx: Context, rollouts: Seq[Sequence]) -> None:
    """Says that the teacher will be asked about these rollouts in every inner epoch."""
    size = ctx.batch_size
    ctx.keep("rollouts", [rollouts[i : i + size] for i in range(0, len(rollouts), size)])


def rollout_seed(seed: int, step: int) -> int:
    """Noise seed of the answers sampled at a step: never the same twice in a run."""
    return (seed * 1_000_003 + step + 1) % (1 << 31)


def column(sequences: list[Sequence], name: str) -> torch.Tensor:
    """A column of several responses, padded on the right with zeros, (B, L)."""
    return torch.nn.utils.rnn.pad_sequence([s.columns[name] for s in sequences], batch_first=True)
