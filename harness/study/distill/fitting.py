"""Whether rows fit the lengths that were chosen: what is cut or left out is known before training."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kdbench.harness.data.examples import Example
from kdbench.harness.data.templates import render
from kdbench.harness.data.tokens import (
    TokenCounts,
    TokenRow,
    TokenRule,
    encoded_prompts,
    end_of,
    opening,
    tokenise,
)
from kdbench.harness.errors import InputError
from kdbench.tasks.protocols import get_protocol

if TYPE_CHECKING:
    from kdbench.harness.study.distill.preparation import Prepared


def tokenised(
    prepared: "Prepared", examples: Sequence[Example]
) -> tuple[list[TokenRow], TokenCounts]:
    """Rows as tokens, as every run makes them, and what became of them."""
    from kdbench.trainers.models import vocabulary

    train, form = prepared.training, prepared.form
    rule = TokenRule(
        boundary=prepared.data.boundary,
        over_long="drop",
        max_prompt=train["max_prompt"],
        max_length=train["max_length"],
    )
    end = vocabulary(prepared.tokenizer, end=end_of(prepared.tokenizer, form)).eos_ids[0]
    return tokenise(examples, prepared.tokenizer, template=form, rule=rule, end_id=end)


def too_long(prepared: "Prepared") -> int:
    """How many test rows have a prompt that is longer than tasks allow."""
    form = prepared.data.form(prepared.suite["tasks"].get("template") or prepared.form.template)
    prompts = [render(example, form, prepared.tokenizer) for example in prepared.test]
    begin = opening(prepared.tokenizer, form)
    found = encoded_prompts(prepared.tokenizer, prompts, begin)
    return sum(len(ids) > prepared.training["max_prompt"] for ids in found)


def dropped(prepared: "Prepared") -> bool:
    """Whether test rows that are too long are left out; else their prompts are cut."""
    protocol = get_protocol(prepared.suite["tasks"]["protocol"])
    return protocol.evaluation_over_long == "drop"


def check_tests(prepared: "Prepared") -> None:
    """Raises InputError where no test row would be asked."""
    if dropped(prepared) and too_long(prepared) == len(prepared.test):
        most = prepared.training["max_prompt"]
        raise InputError(
            f"all {len(prepared.test):,} test rows have prompts of over {most} tokens, so that none would be "
            "asked; give shorter ones by --eval, or more room by --set train.max_prompt=N"
        )
