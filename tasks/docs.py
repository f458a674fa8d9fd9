"""Hooks of our lm-eval task files: rows, prompt, target and scores of one document.

The YAML files name these functions fully qualified, so they work wherever kdbench is installed, in
`kdbench` and in plain ``lm_eval --include_path``. There, real rows carry the Alpaca prompt; inside
kdbench the rows are rendered and filtered beforehand (template, protocol, tokenizer) and handed
over as the ``rows`` key of lm-eval's metadata.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from kdbench.harness.data.examples import Example
from kdbench.harness.data.templates import prompt_hash, render
from kdbench.harness.metrics import Unmeasured
from kdbench.tasks.catalogue import split_edition, task_examples
from kdbench.tasks.scoring import exact_match, rouge_l

if TYPE_CHECKING:
    import datasets


class Percent(float):
    """A value in percent. lm-eval's metrics are shares; a task's own code says by this that its are not."""


class Doc(TypedDict):
    """One document as lm-eval holds it."""

    doc_id: int
    prompt: str
    references: list[str]
    category: str
    prompt_hash: str


def document(example: Example, prompt: str) -> Doc:
    """An example with its rendered prompt."""
    return Doc(
        doc_id=example.doc_id,
        prompt=prompt,
        references=list(example.references),
        category=example.category or "",
        prompt_hash=prompt_hash(prompt),
    )


def dataset(
    task: str,
    edition: str,
    rows: Sequence[Doc] | None = None,
    data_dir: str | None = None,
    **metadata: Any,
) -> "dict[str, datasets.Dataset]":
    """lm-eval's ``custom_dataset``: the test split.

    Args:
        task: ours, from the YAML file.
        edition: ``mini-2`` or ``full``, from the YAML file.
        rows: documents made by `kdbench.harness.lm`, which replace the task's own.
        data_dir: ``--metadata '{"data_dir": …}'`` of plain lm-eval; default ``KDBENCH_DATA``.
        metadata: whatever else lm-eval passes (its model arguments, the YAML's version).
    """
    import datasets

    if rows is None:
        base, _ = split_edition(edition)
        template = "alpaca" if base == "full" else "mini"
        examples = task_examples(task, edition, data_dir=data_dir)
        rows = [document(example, render(example, template)) for example in examples]
    return {"test": datasets.Dataset.from_list([dict(row) for row in rows])}


def target(doc: Mapping[str, Any]) -> str:
    """The first reference. A list here would make lm-eval score plain metrics as any-match."""
    return str(doc["references"][0])


def process_results(doc: Mapping[str, Any], results: Iterable[Any]) -> dict[str, Percent]:
    """ROUGE-L and exact match of one answer, in percent, best over all references.

    What cannot be measured is not a number, and makes lm-eval's mean none.

    Third-party rows may have ``output``, a text or a list of texts, instead of ``references``.
    """
    answer = next(iter(results))
    text = answer if isinstance(answer, str) else answer[0]
    references = doc["references"] if "references" in doc else doc["output"]
    found = {}
    for name, score in {"rouge_l": rouge_l, "exact_match": exact_match}.items():
        try:
            found[name] = Percent(score(text, references))
        except Unmeasured:
            found[name] = Percent(math.nan)
    return found
