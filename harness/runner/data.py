"""Training data of a run: its rows as tokens, and what became of them, counted."""

import math
from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import asdict, dataclass, field
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdbench.harness.config import RunConfig, TrainConfig
from kdbench.harness.data.templates import Form, prompt_key, render
from kdbench.harness.data.tokens import (
    TokenRule,
    encoded_prompts,
    end_of,
    opening,
    tokenise,
    tokenise_prompts,
)
from kdbench.harness.errors import InputError
from kdbench.harness.runner.rows import Rows
from kdbench.trainers.alignment import Twins
from kdbench.trainers.models import load_tokenizer, vocabulary
from kdbench.trainers.sampler.sampler import context_length
from kdbench.trainers.types import Sequence


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Token ids of train, dev and plain text, and what preparing them dropped.

    ``prompts`` are those that teacher and student are asked, as sequences without a response.
    """

    train: list[Sequence]
    dev: list[Sequence]
    dev_references: list[list[str]]
    text: list[Sequence]
    facts: dict[str, dict[str, Any]]
    end_id: int
    """What ends a response."""
    prompts: list[Sequence] = field(default_factory=list)


def prepare_data(
    rows: Rows,
    config: RunConfig,
    training: TrainConfig,
    tokenizer: PreTrainedTokenizerBase,
) -> TrainingData:
    """Token ids under the run's protocol, template and limits."""
    form = config.training_format
    end_id = vocabulary(tokenizer, end=end_of(tokenizer, form)).eos_ids[0]
    rule = TokenRule(
        boundary=config.data.boundary,
        over_long="drop",
        max_prompt=training.max_prompt,
        max_length=training.max_length,
    )
    facts: dict[str, dict[str, Any]] = {}
    sequences: dict[str, list[Sequence]] = {}
    references: list[list[str]] = []
    for split, examples in (("train", rows.train), ("dev", rows.dev)):
        kept, counts = tokenise(examples, tokenizer, template=form, rule=rule, end_id=end_id)
        sequences[split] = [Sequence(r.prompt_ids, r.response_ids, r.key) for r in kept]
        facts[split] = {"sha256": rows.fingerprints[split], **asdict(counts)}
        if split == "dev":
            references = [list(examples[r.place].references) for r in kept]
    text = text_rows(rows.text, tokenizer, end_id, config.data.text_tokens or training.max_length)
    if rows.text:
        facts["text"] = {
            "sha256": rows.fingerprints["text"],
            "rows": len(rows.text),
            "kept": len(text),
        }
    prompts = _prompts(rows, tokenizer, form, rule)
    if prompts:
        facts["prompts"] = {
            "sha256": rows.fingerprints["prompts"],
            "rows": len(rows.prompts),
            "kept": len(prompts),
        }
    return TrainingData(
        sequences["train"], sequences["dev"], references, text, facts, end_id, prompts
    )


def fitted(facts: Mapping[str, Mapping[str, Any]], training: TrainConfig) -> list[str]:
    """What lengths did to the rows of each split: a line for each that lost something."""
    lines = []
    for split, found in facts.items():
        said = []
        lost = found["rows"] - found["kept"] if split == "prompts" else 0
        if dropped := found.get("dropped", lost):
            said.append(
                f"{dropped:,} dropped because their prompts are longer than train.max_prompt="
                f"{training.max_prompt}"
            )
        if cut := found.get("responses_cut"):
            said.append(f"{cut:,} answers cut at train.max_length={training.max_length}")
        if said:
            lines.append(f"{split}: {found['kept']:,} of {found['rows']:,} used: {'; '.join(said)}")
    return lines


def _prompts(
    rows: Rows, tokenizer: PreTrainedTokenizerBase, form: Form, rule: TokenRule
) -> list[Sequence]:
    """Prompts without responses; over-long ones are dropped."""
    if not rows.prompts:
        return []
    texts = [render(example, form, tokenizer) for example in rows.prompts]
    kept, _ = tokenise_prompts(texts, tokenizer, rule, opening(tokenizer, form))
    return [Sequence(prompt.ids, (), prompt_key(texts[prompt.place])) for prompt in kept]


def twins_of(
    rows: Rows, config: RunConfig, tokenizer: PreTrainedTokenizerBase, teacher_ref: str
) -> Twins:
    """What writes the student's sequences in the tokens of a teacher with a tokenizer of its own.

    The teacher reads each prompt in its own format: its chat template, its begin token.
    """
    form, teacher = config.training_format, load_tokenizer(teacher_ref)
    examples = [*rows.train, *rows.dev, *rows.prompts]
    keys = [prompt_key(render(example, form, tokenizer)) for example in examples]
    texts = [render(example, form, teacher) for example in examples]
    ids = encoded_prompts(teacher, texts, opening(teacher, form))
    ends = [vocabulary(t, end=end_of(t, form)).eos_ids[0] for t in (tokenizer, teacher)]
    return Twins(
        tokenizer,
        teacher,
        prompts={key: tuple(each) for key, each in zip(keys, ids, strict=True)},
        ends=(ends[0], ends[1]),
    )


def check_twins(twins: Twins, rows: Seq[Sequence], teacher: PreTrainedModel) -> None:
    """Raises InputError if rows are longer in the teacher's tokens than it can read."""
    room = context_length(teacher.config)
    found = [row for each in rows if (row := twins(each).twin) is not None]
    long = sum(len(row.prompt) + len(row.response) > (room or math.inf) for row in found)
    if long:
        raise InputError(
            f"{long:,} of {len(rows):,} training rows have more than {room:,} tokens in the teacher's "
            "tokenizer, which is all that it reads; lower train.max_length, which counts the student's"
        )


def text_rows(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, end_id: int, length: int
) -> list[Sequence]:
    """Documents joined by end tokens and cut into rows of ``length`` tokens, the rest dropped.

    As MiniLLM's corpus processor does (512-token rows).
    """
    if not texts:
        return []
    stream: list[int] = []
    for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]:
        stream += [*ids, end_id]
    cuts = range(0, len(stream) - length + 1, length) if len(stream) >= length else [0]
    return [Sequence((), tuple(stream[i : i + length])) for i in cuts]
