"""Classification tasks with label words: prompts, and the hooks of their lm-eval files.

Zero-shot, as MiniLLM's set-up: the probabilities of a text's labels are the softmax over the
log-probabilities of the label words. The paper does not print its prompts; these are ours. Labels
of the mini world come with each row and their true probabilities are known.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from kdbench.harness.data.examples import Example
from kdbench.harness.data.labelled import load_labelled
from kdbench.harness.data.templates import Form, PromptFormat, prompt_hash, render
from kdbench.tasks.calibration import ece, predict

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True, slots=True)
class LabelTask:
    """One classification task.

    Attributes:
        name: ours.
        lm_eval_name: inside lm-eval.
        full: real data or the generated world.
        about: what it is.
    """

    name: str
    lm_eval_name: str
    full: bool
    about: str


LABEL_TASKS: dict[str, LabelTask] = {
    task.name: task
    for task in (
        LabelTask("sst2-cal", "kdbench_sst2_cal", True, "SST-2 validation: calibration"),
        LabelTask("boolq-cal", "kdbench_boolq_cal", True, "BoolQ validation: calibration"),
        LabelTask("cls", "kdbench_cls_mini", False, "classification in the generated world"),
    )
}

WORDS = {"sst2-cal": ("negative", "positive"), "boolq-cal": ("no", "yes")}
FILM = "Is the sentiment of this film review sentence positive or negative? Answer with one word."
PASSAGE = "Read the passage and answer the question with yes or no."


class LabelDoc(TypedDict):
    """One document as lm-eval holds it; ``gold`` is the index of the right choice."""

    doc_id: int
    prompt: str
    choices: list[str]
    gold: int
    category: str
    prompt_hash: str


def label_docs(
    task: str,
    *,
    edition: str = "mini-2",
    template: Form | None = None,
    tokenizer: object | None = None,
    limit: int | None = None,
    data_dir: Path | str | None = None,
) -> list[LabelDoc]:
    """The documents of a classification task.

    Args:
        task: a key of `LABEL_TASKS`.
        edition: ``mini-2`` or ``mini-test`` for ``cls``; real data has one edition.
        template: prompt template; default ``alpaca`` for real data, ``mini`` for the world.
        tokenizer: for the ``chat`` template.
        limit: the first so many rows.
        data_dir: where real data is.

    Raises:
        InputError: data not found or malformed.
    """
    world = task == "cls"
    rows = _world_rows(edition) if world else _real_rows(task, data_dir)
    form = PromptFormat.of(template or ("mini" if world else "alpaca"))
    # a bare prompt ends with a word; other templates open the answer
    apart = " " if form.template == "none" else ""
    docs = []
    for example, choices, gold in rows[:limit]:
        if gold is not None:
            prompt = render(example, form, tokenizer)
            doc = LabelDoc(
                doc_id=example.doc_id,
                prompt=prompt,
                choices=[f"{apart}{choice}" for choice in choices],
                gold=gold,
                category=example.category or "",
                prompt_hash=prompt_hash(prompt),
            )
            docs.append(doc)
    return docs


Row = tuple[Example, Sequence[str], int | None]
"""A text to classify, its label words, and the index of the right one if there is one."""


def _real_rows(task: str, data_dir: Path | str | None) -> list[Row]:
    rows: list[Row] = []
    for row in load_labelled(task.removesuffix("-cal"), data_dir):
        fields = {name: text.strip() for name, text in row.fields.items()}
        if task == "sst2-cal":
            instruction, given = FILM, fields["sentence"]
        else:
            instruction = f"{PASSAGE} Question: {fields['question'].rstrip('?')}?"
            given = fields["passage"]
        example = Example(row.doc_id, instruction, given, WORDS[task])
        rows.append((example, WORDS[task], row.label))
    return rows


def _world_rows(edition: str) -> list[Row]:
    from kdbench.tasks import mini

    rows: list[Row] = []
    for i, row in enumerate(mini.rows("cls", size=edition)):
        said, choices = row["output"], row["choices"]
        example = Example(i, row["instruction"], row["input"], (said,), category=row["category"])
        rows.append((example, choices, _named(said, choices)))
    return rows


def _named(answer: str, choices: Sequence[str]) -> int | None:
    """The label a sampled answer names; None if the world's scribe slipped there (such rows, a few
    in a thousand, have no right label and are left out).
    """
    words = answer.split()
    return next((i for i, choice in enumerate(choices) if choice in words), None)


# -- hooks of tasks/yaml/_labels.yaml -----------------------------------------------------------


def dataset(
    task: str,
    rows: Sequence[LabelDoc] | None = None,
    data_dir: str | None = None,
    **metadata: Any,
) -> "dict[str, datasets.Dataset]":
    """lm-eval's ``custom_dataset``: the test split, see `kdbench.tasks.docs.dataset`."""
    import datasets

    if rows is None:
        rows = label_docs(task, data_dir=data_dir)
    return {"test": datasets.Dataset.from_list([dict(row) for row in rows])}


def process_results(doc: Mapping[str, Any], results: Iterable[Any]) -> dict[str, Any]:
    """Accuracy, Brier score and (confidence, correct) of one document."""
    found = predict([float(log_likelihood) for log_likelihood, _ in results], int(doc["gold"]))
    return {
        "acc": found.correct,
        "brier": found.brier,
        "ece": (found.confidence, found.correct),
    }


def aggregate_ece(pairs: Iterable[tuple[float, float]]) -> float:
    """Expected calibration error over a task's documents."""
    confidence, correct = zip(*pairs, strict=True)
    return ece(confidence, correct)
