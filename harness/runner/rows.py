"""The rows of a run: found wherever its configuration says, with a line on what was read and dropped."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kdbench.harness.config import DataConfig, RunConfig
from kdbench.harness.data.examples import Example, examples_sha256, parse_examples
from kdbench.harness.data.overlaps import overlaps, shared_ngrams
from kdbench.harness.data.places import is_place
from kdbench.harness.data.sources import data_folder, is_local, load_split, split_names
from kdbench.harness.data.texts import load_texts
from kdbench.harness.data.understood import (
    Reading,
    Understood,
    dev_split,
    first_rows,
    held_out,
    understand,
)
from kdbench.harness.errors import InputError
from kdbench.harness.evaluation.names import tasks_of
from kdbench.harness.identity import digest
from kdbench.harness.own.tasks import task_rows
from kdbench.tasks import mini
from kdbench.tasks.catalogue import TASKS, task_examples

WORLDS = tuple(mini.SIZES)


@dataclass(frozen=True, slots=True)
class Rows:
    """Untokenised training data, already limited, with its hashes; ``prompts`` may be none.

    ``told`` says what was read of whose files, and what was dropped.
    """

    train: list[Example]
    dev: list[Example]
    text: list[str]
    fingerprints: dict[str, str]
    prompts: list[Example] = field(default_factory=list)
    told: list[str] = field(default_factory=list)


def load_rows(config: RunConfig, data_dir: Path | None) -> Rows:
    """Finds and reads train, dev and text.

    Raises:
        InputError: data that is missing, malformed or empty.
    """
    data, told = config.data, list[str]()
    train, source = _found(data.train, "train", data_dir, data.reading(), told)
    train, dev = _development(data, data_dir, train, source, told)
    train = _limited(train, data.limit, "train: ", "limit", told)
    dev = _limited(dev, data.dev_limit, "dev: ", "dev_limit", told)
    text = _texts(data.text, data_dir, data.text_limit) if data.text else []
    prompts: list[Example] = []
    if data.prompts:
        reading = data.reading(answers=False, fallback=True)
        own: list[str] = []
        prompts, _ = _found(data.prompts, "train", data_dir, reading, own)
        told += [line.replace("train: ", "prompts: ", 1) for line in own]
        prompts = _limited(prompts, data.prompts_limit, "prompts: ", "prompts_limit", told)
    fingerprints = {
        "train": examples_sha256(train),
        "dev": examples_sha256(dev),
        "text": digest(text) if text else "",
        "prompts": digest([list(e.asked) for e in prompts]) if prompts else "",
    }
    return Rows(train, dev, text, fingerprints, prompts, told)


def _found(
    name: str, split: str, data_dir: Path | None, reading: Reading, told: list[str]
) -> tuple[list[Example], Understood | None]:
    """Rows of a generated world, of a data set of ours, or of a user's; the last as understood."""
    if name in WORLDS:
        return parse_examples(mini.rows(split, size=name), where=f"{split}[{name}]"), None
    if split_names(name) or not (is_place(name) or Path(name).exists()):
        return load_split(name, split, data_dir), None
    found = understand(name, split, reading)
    if found is None:
        raise InputError(f"{name} has no split for {split}; name one, as in {name}::SPLIT")
    told += [f"{split}: {line}" for line in found.lines]
    return found.examples, found


def _development(
    data: DataConfig,
    data_dir: Path | None,
    train: list[Example],
    source: Understood | None,
    told: list[str],
) -> tuple[list[Example], list[Example]]:
    """What is learnt from, and development rows: named, of the same name, or held out of a file."""
    if data.dev or source is None:
        reading = data.reading(fallback=True)
        return train, _found(data.dev or data.train, "dev", data_dir, reading, told)[0]
    found = dev_split(source, data.reading())
    if found is not None:
        told += [f"dev: {line}" for line in found.lines]
        return train, found.examples
    kept, back = held_out(train)
    if not back:
        raise InputError(
            f"{data.train} leaves no row for development data; give more rows, or some by data.dev"
        )
    rows = len({example.doc_id for example in back})
    told.append(f"dev: {rows:,} of these rows, held out (data.dev names others)")
    return kept, back


def _limited(
    examples: list[Example], limit: int | None, split: str, name: str, told: list[str]
) -> list[Example]:
    found = first_rows(examples, limit)
    if any(line.startswith(split) for line in told) and len(found) < len(examples):
        count = len({example.doc_id for example in found})
        told.append(f"{split}{count:,} rows used because data.{name}={limit}")
    return found


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


def _tests(config: RunConfig, data_dir: Path | None) -> dict[str, Sequence[Example]]:
    """Whole test sets of our own tasks and of files; stock tasks are not looked into.

    Those of the configuration, and those that are at hand: an evaluation may be added later.
    """
    edition = config.tasks.edition
    found: dict[str, Sequence[Example]] = {}
    for name in TASKS:
        if name in config.tasks.names or edition != "full" or is_local(name, "test", data_dir):
            with contextlib.suppress(InputError):  # reported by the evaluation that needs it
                found[name] = task_examples(name, edition, data_dir=data_dir)
    for task in tasks_of(config.tasks):
        if task.kind == "file":
            found[task.name] = task_rows(task.place, config).examples
    return found
