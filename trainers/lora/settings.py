"""What a training says about LoRA; part of the recipe, so it is read without torch."""

import re
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from kdbench.harness.settings import Settings

ALL = "all-linear"
"""Stands for every linear layer but the head."""
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class Lora(Settings):
    """Adapters of rank r on some linear layers: W + (alpha / r) B A, of which A and B are trained.

    Source: arXiv:2106.09685.
    """

    r: int = Field(gt=0, description="LoRA: rank of the adapters")
    alpha: float | None = Field(
        None, gt=0, description="LoRA: adapters are scaled by alpha / r; none: twice r"
    )
    targets: tuple[str, ...] = Field(
        (ALL,),
        description="LoRA: layers that get one in every block, as q_proj or attn.c_proj; all-linear: "
        "every linear layer but the head",
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="LoRA: on what adapters read, where train.dropout is on"
    )

    quantize: Literal["nf4"] | None = Field(
        None,
        description="QLoRA: the frozen linear layers but the head in four bits (NF4, double quantisation)",
    )

    @field_validator("targets", mode="before")
    @classmethod
    def _listed(cls, given: Any) -> Any:
        return given.split(",") if isinstance(given, str) else given

    @field_validator("targets")
    @classmethod
    def _named(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        # in one order, for the order decides nothing
        names = tuple(sorted({name.strip() for name in given}))
        odd = next((n for n in names if n != ALL and not _NAME.fullmatch(n)), None)
        if odd is not None or not names:
            raise ValueError(
                f"targets must be names of layers without their number, as q_proj or attn.c_proj, or {ALL}; "
                f"got {odd or 'none'!r}"
            )
        return names

    @model_validator(mode="after")
    def _check(self) -> Self:
        if ALL in self.targets and len(self.targets) > 1:
            raise ValueError(f"targets is {ALL} or a list of names, not both")
        return self

    @property
    def strength(self) -> float:
        """Alpha as it is used."""
        return 2.0 * self.r if self.alpha is None else self.alpha
