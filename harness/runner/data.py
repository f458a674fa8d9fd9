"""Training data of a run: rows found, hashed, tokenised and counted."""

import contextlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from kdbench.harness.config import RunConfig, TrainConfig
from kdbench.harness.data.examples import Example, examples_sha256, load_jsonl, parse_examples
from kdbench.harness.data.overlaps import overlaps, shared_ngrams
from kdbench.harness.data.sources import data_folder, is_local, load_split
from kdbench.harness.data.templates import Form, prompt_key, render
from kdbench.harness.data.texts import load_texts
from kdbench.harness.data.tokens import (
    TokenRule,
    encode,
    end_of,
    opening,
    tokenise,
    tokenise_prompts,
)
from kdbench.harness.errors import InputError
from kdbench.harness.identity import digest
from kdbench.tasks import mini
from kdbench.tasks.catalogue import TASKS, task_examples
from kdbench.trainers.alignment import Twins
from kdbench.trainers.models import load_tokenizer, vocabulary
from kdbench.trainers.types import Sequence

WORLDS = tuple(mini.SIZES)


@dataclass(frozen=True, slots=True)
class Rows:
    """Untokenised training data, already limited, with its hashes; ``prompts`` may be none."""

    train: list[Example]
    dev: list[Example]
    text: list[str]
    fingerprints: dict[str, str]
    prompts: list[Example] = field(default_factory=list)


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


def load_rows(config: RunConfig, data_dir: Path | None) -> Rows:
    """Finds and reads train, dev and text.

    Raises:
        InputError: data that is missing, malformed or empty.
    """
    data = config.data
    train = _examples(data.train, "train", data_dir)[: data.limit]
    dev = _examples(data.dev or data.train, "dev", data_dir)[: data.dev_limit]
    text = _texts(data.text, data_dir, data.text_limit) if data.text else []
    prompts = _examples(data.prompts, "train", data_dir) if data.prompts else []
    prompts = prompts[: data.prompts_limit]
    fingerprints = {
        "train": examples_sha256(train),
        "dev": examples_sha256(dev),
        "text": digest(text) if text else "",
        "prompts": digest([list(e.question) for e in prompts]) if prompts else "",
    }
    return Rows(train, dev, text, fingerprints, prompts)


def _examples(name: str, split: str, data_dir: Path | None) -> list[Example]:
    if name in WORLDS:
        return parse_examples(mini.rows(split, size=name), where=f"{split}[{name}]")
    if name.endswith((".jsonl", ".json")):
        return load_jsonl(name)
    return load_split(name, split, data_dir)


def _texts(name: str, data_dir: Path | None, limit: int | None) -> list[str]:
    if name in WORLDS:
        return mini.plain_text(limit or 2000, size=name)
    folder = data_folder(data_dir)
    path = folder / name if folder and (folder / name).exists() else Path(name)
    if not path.exists():
        place = f" in {folder} or" if folder else ""
        raise InputError(
            f"no plain text called {name!r}{place} in the current folder; give a folder or file of "
            ".jsonl or .txt with --set data.text=PATH, or switch it off with --set data.text=null"
        )
    texts = load_texts(path)
    return texts[:limit]


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
            by_id = {e.doc_id: list(e.references) for e in examples}
            references = [by_id[r.doc_id] for r in kept]
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
    ids = encode(teacher, texts, opening(teacher, form))
    ends = [vocabulary(t, end=end_of(t, form)).eos_ids[0] for t in (tokenizer, teacher)]
    return Twins(
        tokenizer,
        teacher,
        prompts={key: tuple(each) for key, each in zip(keys, ids, strict=True)},
        ends=(ends[0], ends[1]),
    )


def run_overlaps(rows: Rows, config: RunConfig, data_dir: Path | None) -> dict[str, int]:
    """``overlaps`` of train, dev and the tests; also ``train~<task>``, prompts that training rows
    nearly repeat (`kdbench.harness.data.overlaps`), and ``<task> rows``.
    """
    tests = _tests(config, data_dir)
    asked = {"prompts": rows.prompts} if rows.prompts else {}
    return {
        **overlaps({"train": rows.train, "dev": rows.dev, **asked, **tests}),
        **{f"train~{name}": count for name, count in shared_ngrams(rows.train, tests).items()},
        **{f"{name} rows": len(found) for name, found in tests.items()},
    }


def _tests(config: RunConfig, data_dir: Path | None) -> dict[str, list[Example]]:
    """Whole test sets of our own tasks; stock tasks are not looked into.

    Those of the configuration, and those that are at hand: an evaluation may be added later.
    """
    edition = config.tasks.edition
    found = {}
    for name in TASKS:
        if name in config.tasks.names or edition != "full" or is_local(name, "test", data_dir):
            with contextlib.suppress(InputError):  # reported by the evaluation that needs it
                found[name] = task_examples(name, edition, data_dir=data_dir)
    return found


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
