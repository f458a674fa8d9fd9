"""Teacher answers to the training prompts: sampled when first needed, kept in a file, shared.

One answer a prompt, the same for every method, step and training seed, because the sampler's noise
depends on the prompt alone. The file has one row an answer, appended a batch at a time; several runs
may use it at once. The lock is held while appending only, so two of them may sample one answer: the
first in the file is that of both. With several ranks the main one alone looks at the file.
"""

from collections.abc import Callable, Iterable
from collections.abc import Sequence as Seq
from pathlib import Path

import torch

from kdbench.harness.files.locks import RunLock
from kdbench.harness.files.store import append_rows, read_rows
from kdbench.trainers.method import as_prompts
from kdbench.trainers.types import Answer, Prompt, Sequence

WAIT = 600.0  # seconds for another run's append


class TeacherAnswers:
    """Answers by index of the training example.

    Args:
        train: training examples.
        path: JSONL file of the answers so far.
        sample: answers prompts with the teacher, the same on every rank.
        writes: whether this rank is the one that reads and appends to the file.
    """

    def __init__(
        self,
        train: Seq[Sequence],
        path: Path,
        sample: Callable[[list[Prompt]], list[Answer]],
        *,
        writes: bool,
    ) -> None:
        self._train = train
        self._path = path
        self._sample = sample
        self._writes = writes
        self._found: dict[int, tuple[int, ...]] = _of_main(self._read() if writes else {})

    def __len__(self) -> int:
        return len(self._train)

    def pick(self, indices: Iterable[int]) -> list[Sequence]:
        """The teacher's answers to these examples; what is missing is sampled together."""
        wanted = list(indices)
        missing = [i for i in dict.fromkeys(wanted) if i not in self._found]
        if missing:
            self._add(missing)
        return [Sequence(self._train[i].prompt, self._found[i], self._train[i].key) for i in wanted]

    def _add(self, indices: list[int]) -> None:
        answers = self._sample(as_prompts([self._train[i] for i in indices]))
        found = {i: answer.ids for i, answer in zip(indices, answers, strict=True)}
        if self._writes:
            with RunLock(self._path.parent, wait=WAIT):
                there = self._read()
                rows = [
                    {"index": i, "key": self._train[i].key, "response": list(ids)}
                    for i, ids in found.items()
                    if i not in there
                ]
                append_rows(self._path, rows)
            found |= {i: ids for i, ids in there.items() if i not in self._found}
        self._found |= _of_main(found)

    def _read(self) -> dict[int, tuple[int, ...]]:
        found: dict[int, tuple[int, ...]] = {}
        for row in read_rows(self._path):
            index = row["index"]
            if index < len(self._train) and self._train[index].key == row["key"]:
                found.setdefault(index, tuple(row["response"]))
        return found


def _of_main(found: dict[int, tuple[int, ...]]) -> dict[int, tuple[int, ...]]:
    """What the main rank found: each rank's own look at a shared file could differ."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return found
    box = [found]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]
