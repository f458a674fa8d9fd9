"""Evaluation protocols: ``minillm-compat`` as the published scripts do it, ``strict`` put right.

A protocol changes numbers, so its name is part of every evaluation's key and of every signature.
"""

from dataclasses import dataclass, replace
from typing import Literal

from kdbench.harness.data.tokens import TokenRule
from kdbench.harness.errors import unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """Rules of one protocol.

    Attributes:
        name: as written in keys and tables.
        no_repeat_ngram: n-grams that sampling may not repeat in evaluation, 0 for none (MiniLLM's
            argument default is 6 and no script overrides it); validation never blocks any.
        evaluation_over_long: a test prompt over the limit is ``cut`` to its first tokens (which
            loses "### Response:") or its row is ``drop``-ped and counted.
        exposure_first_token: whether exposure bias scores the first response token.
        exposure_count_offset: added to the sample count of a prompt when averaging.
        exposure_samples: answers a prompt.
        max_prompt, max_length: tokens of a prompt, and of prompt, response and end together.
    """

    name: str
    no_repeat_ngram: int
    evaluation_over_long: Literal["drop", "cut"]
    exposure_first_token: bool
    exposure_count_offset: float
    exposure_samples: int
    max_prompt: int = 256
    max_length: int = 512

    @property
    def max_new_tokens(self) -> int:
        """Tokens that may be generated, whatever the prompt's length."""
        return self.max_length - self.max_prompt

    @property
    def evaluation_rule(self) -> TokenRule:
        """How test prompts become ids."""
        return TokenRule(
            boundary="apart",
            over_long=self.evaluation_over_long,
            max_prompt=self.max_prompt,
            max_length=self.max_length,
        )

    def limited(self, *, max_prompt: int, max_length: int) -> "Protocol":
        """The same rules with other lengths (a model with a shorter context, a smaller world)."""
        return replace(self, max_prompt=max_prompt, max_length=max_length)


MINILLM_COMPAT = Protocol(
    name="minillm-compat",
    no_repeat_ngram=6,
    evaluation_over_long="cut",
    exposure_first_token=False,
    exposure_count_offset=1e-3,
    exposure_samples=1,
)
"""What LMOps minillm's scripts compute."""

STRICT = Protocol(
    name="strict",
    no_repeat_ngram=0,
    evaluation_over_long="drop",
    exposure_first_token=True,
    exposure_count_offset=0.0,
    exposure_samples=10,
)
"""The same evaluation without the scripts' accidents."""

PROTOCOLS = {protocol.name: protocol for protocol in (MINILLM_COMPAT, STRICT)}


def get_protocol(name: str) -> Protocol:
    """A protocol by name.

    Raises:
        InputError: unknown name; the nearest one is offered.
    """
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]
