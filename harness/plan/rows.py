"""How many rows a data set has and how long they are, where a plan cannot look.

Means of the published files in GPT-2's tokens, to two digits; other tokenizers differ by some per cent.
"""

from typing import NamedTuple

from kdbench.harness.config import RunConfig
from kdbench.harness.plan.job import Lengths
from kdbench.trainers.optim import Recipe


class Facts(NamedTuple):
    """Rows for training and development, and mean tokens of prompt and response."""

    rows: int
    dev: int
    prompt: float
    response: float


KNOWN = {
    "dolly": Facts(11_300, 1_000, 75, 80),
    "mini-2": Facts(12_000, 500, 24, 26),
    "mini-test": Facts(400, 50, 24, 26),
}
UNKNOWN = Facts(10_000, 1_000, 120, 120)
"""Of a data set that is not among them; said wherever it is used."""
PROMPTS = {"dolly": 500, "selfinst": 242, "vicuna": 80, "sni": 1_694, "unni": 10_000}
OTHER_PROMPTS = 500


class Rows(NamedTuple):
    """The rows of a run: how many are trained on, asked and looked at, and their lengths.

    ``note`` says what was assumed.
    """

    train: int
    prompts: int
    dev: int
    lengths: Lengths
    note: str


def rows_of(config: RunConfig, recipe: Recipe, given: int | None = None) -> Rows:
    """The rows of a run, cut as its recipe cuts them.

    Args:
        config: which data, and its limits.
        recipe: its lengths.
        given: rows of the training set, where the user says it.
    """
    data = config.data
    facts = KNOWN.get(data.train)
    note = ""
    if facts is None:
        facts = UNKNOWN if given is None else UNKNOWN._replace(rows=given)
        sizes = f"{facts.prompt:.0f} + {facts.response:.0f}"
        note = f"{data.train}: {facts.rows:,} rows of {sizes} tokens are assumed"
    count = given or facts.rows
    train = min(count, data.limit or count)
    asked = KNOWN.get(data.prompts or "", facts._replace(rows=count)).rows
    prompt = min(facts.prompt, recipe.max_prompt)
    response = min(facts.response, recipe.max_length - prompt)
    text = min(data.text_tokens or recipe.max_length, recipe.max_length)
    return Rows(
        train=train,
        prompts=min(asked, data.prompts_limit or asked) if data.prompts else train,
        dev=min(facts.dev, data.dev_limit or facts.dev),
        lengths=Lengths(prompt=prompt, response=response, text=text),
        note=note,
    )


def task_prompts(config: RunConfig) -> int:
    """Prompts that an evaluation answers once for each decoding seed."""
    limit = config.tasks.limit
    counts = (PROMPTS.get(name, OTHER_PROMPTS) for name in config.tasks.names)
    return sum(min(n, limit or n) for n in counts)
