"""How a student is optimised: the recipe, its learning-rate schedule, and AdamW.

torch is imported where it is used: the recipe is also part of a run's configuration, which is read
without it.
"""

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from kdbench.harness.settings import Settings
from kdbench.trainers.lora.settings import Lora

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "fp32", "bf16", "fp64"]


Seed = Annotated[int, Field(ge=-(2**31), lt=2**31)]
MANY = 1 << 20
"""More rows or new tokens at once than any machine has room for."""


class Recipe(Settings):
    """How any student trains, whatever its method.

    The budget is ``steps``, ``epochs``, ``response_tokens`` or several: training stops after the
    step that first reaches one of them.
    """

    steps: int | None = Field(None, gt=0, description="optimiser steps")
    epochs: float | None = Field(
        None,
        gt=0,
        description="passes over the rows of data.train, also where a method asks data.prompts",
    )
    response_tokens: int | None = Field(None, gt=0, description="trained response tokens")
    batch_size: int = Field(
        32, gt=0, le=MANY, description="sequences of an optimiser step, all ranks"
    )
    lr: float = Field(5e-5, gt=0, description="peak learning rate")
    lr_floor: float = Field(1e-7, ge=0, description="rate at the end of cosine and linear")
    schedule: Literal["cosine", "cosine-rise", "linear", "constant"] = "cosine"
    warmup: int = Field(
        0, ge=0, description="steps of linear warm-up; the schedule begins where it ends"
    )
    weight_decay: float = Field(1e-2, ge=0, description="AdamW; not on norms and biases")
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = Field(1.0, ge=0, description="gradient norm limit; 0: none")
    max_length: int = Field(512, gt=1, description="tokens of prompt and response")
    max_prompt: int = Field(256, gt=0, description="tokens of a prompt; longer rows are dropped")
    micro_tokens: int = Field(4096, gt=0, description="tokens of a micro-batch; memory, not result")
    teacher_memory_gb: float = Field(
        2.0, ge=0, description="host memory for the teacher's outputs on rows read again; 0: none"
    )
    precision: Precision = Field("auto", description="auto: bf16 where the hardware has it")
    sample_precision: Precision = Field(
        "auto", description="arithmetic of sampling answers in training; auto: as precision"
    )
    dropout: bool = Field(True, description="train with the model's own dropout")
    seed: Seed = Field(10, ge=0, description="data order, dropout, rollouts; and the init")
    eval_every: int | Literal["epoch"] = Field(
        "epoch", description="steps between dev evaluations; 0: only first and last"
    )
    save_every: int = Field(50, gt=0, description="steps between checkpoints")
    select: Literal["max:dev_rouge_l", "min:dev_loss", "last"] = Field(
        "max:dev_rouge_l", description="which evaluated step becomes the student"
    )
    lora: Lora | None = Field(None, description="train adapters only; none: all weights")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.steps is None and self.epochs is None and self.response_tokens is None:
            raise ValueError("a budget is needed: steps, epochs or response_tokens")
        if self.max_prompt >= self.max_length:
            raise ValueError("max_prompt must be less than max_length")
        if isinstance(self.eval_every, int) and self.eval_every < 0:
            raise ValueError("eval_every must not be negative")
        return self

    @property
    def max_response(self) -> int:
        """Tokens a sampled response may have, in training and on the development set."""
        return self.max_length - self.max_prompt

    def steps_of(self, examples: int) -> int | None:
        """Optimiser steps after which this many training examples are used up; None: no limit."""
        limits = [self.steps] if self.steps else []
        if self.epochs is not None:
            limits.append(max(1, round(self.epochs * math.ceil(examples / self.batch_size))))
        return min(limits, default=None)

    def evaluation_every(self, examples: int) -> int:
        """Optimiser steps between evaluations; 0: only first and last."""
        every = self.eval_every
        return math.ceil(examples / self.batch_size) if every == "epoch" else every

    def rate(self, step: int, progress: float, warmed: float) -> float:
        """Learning rate of an optimiser step: linear warm-up over steps, then the schedule.

        The schedule runs from the end of warm-up to the end of the budget, so that it begins at the
        peak. ``cosine-rise`` is at the floor after two thirds of its way and rises again to half the
        peak (the DPKD script's period of 20 epochs in a run of 30). MiniLLM's SFT scripts have the
        floor 1e-7.

        Args:
            step: 0-based.
            progress: fraction of the budget used before this step, in [0, 1].
            warmed: ``progress`` at step ``warmup``, the first after warm-up.
        """
        if step < self.warmup:
            return self.lr * (step + 1) / (self.warmup + 1)
        if self.schedule == "constant":
            return self.lr
        way = min(1.0, (progress - warmed) / (1 - warmed))
        if self.schedule == "cosine-rise":
            way *= 1.5
        shape = 1 - way if self.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * way))
        return self.lr_floor + (self.lr - self.lr_floor) * shape


def adamw(module: "torch.nn.Module", recipe: Recipe) -> "torch.optim.AdamW":
    """AdamW over what learns in a module: matrices decay, vectors (norms, biases) do not."""
    from torch.optim import AdamW

    learning = [p for p in module.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in learning if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in learning if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return AdamW(groups, lr=recipe.lr, betas=recipe.betas, fused=True)
