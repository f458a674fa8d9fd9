"""Teacher answers to the training prompts: sampled when first needed, kept in a file, shared.

One answer a prompt, the same for every method, step and training seed, because the sampler's noise
depends on the prompt alone. The file has one row an answer, appended a batch at a time; several runs
may use it at once (the lock is held while appending only; what two of them sample twice is equal).
"""

from collections.abc import Callable, Iterable
from collections.abc import Sequence as Seq
from pathlib import Path

from kdbench.harness.locks import RunLock
from kdbench.harness.store import append_rows, read_rows
from kdbench.trainers.method import as_prompts
from kdbench.trainers.types import Answer, Prompt, Sequence

WAIT = 600.0  # seconds for another run's append


class TeacherAnswers:
    """Answers by index of the training example.

    Args:
        train: training examples.
        path: JSONL file of the answers so far.
        sample: answers prompts with the teacher, the same on every rank.
        writes: whether this rank appends to the file.
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
        self._found: dict[int, tuple[int, ...]] = {}
        self._read()

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
        rows = []
        for i, answer in zip(indices, answers, strict=True):
            self._found[i] = answer.ids
            rows.append({"index": i, "key": self._train[i].key, "response": list(answer.ids)})
        if self._writes:
            with RunLock(self._path.parent, wait=WAIT):
                append_rows(self._path, rows)

    def _read(self) -> None:
        for row in read_rows(self._path) if self._path.exists() else []:
            index = row["index"]
            if index < len(self._train) and self._train[index].key == row["key"]:
                self._found[index] = tuple(row["response"])
