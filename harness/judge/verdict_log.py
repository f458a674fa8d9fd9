"""Verdicts and costs on disk.

An answer is appended before anything is computed from it; what may be billed is appended before it
is sent. So after a kill the log knows every answer that had arrived, and counts what was in flight
as spent.
"""

import threading
from collections import Counter
from pathlib import Path

from kdbench.harness.files.records import CostRow, VerdictRow
from kdbench.harness.files.run_folder import JudgeFolder, verdict_files
from kdbench.harness.files.store import append_rows, read_records


class VerdictLog:
    """What one judge said about one evaluation, and what that cost.

    Safe to use from several threads of one process; one process at a time.
    """

    def __init__(self, folder: JudgeFolder) -> None:
        self.folder = folder
        self._guard = threading.Lock()
        verdicts = read_records(folder.verdicts, VerdictRow)
        # a later row of a key is a retry
        self._verdicts = {row.key: row for row in verdicts}
        costs = read_records(folder.costs, CostRow)
        self._unsettled = _unsettled(verdicts, costs)
        self.spent = sum(row.amount for row in costs)
        self.prompt_tokens = sum(row.prompt_tokens for row in costs)
        self.completion_tokens = sum(row.completion_tokens for row in costs)

    def __len__(self) -> int:
        return len(self._verdicts)

    def answered(self) -> int:
        """Questions with an answer; calls that failed are none."""
        return sum(row.state != "error" for row in self._verdicts.values())

    def verdict(self, key: str) -> VerdictRow | None:
        """The recorded answer to a question."""
        return self._verdicts.get(key)

    def unsettled(self) -> list[tuple[CostRow, VerdictRow]]:
        """Reservations of requests whose answers are recorded and were not settled before a kill."""
        return [(row, self._verdicts[row.key]) for row in self._unsettled]

    def add(self, row: VerdictRow) -> None:
        """Records an answer, on disk first."""
        with self._guard:
            append_rows(self.folder.verdicts, [row], digests=True)
            self._verdicts[row.key] = row

    def book(self, row: CostRow) -> None:
        """Records a change of cost, on disk first."""
        with self._guard:
            append_rows(self.folder.costs, [row], digests=True)
            self.spent += row.amount
            self.prompt_tokens += row.prompt_tokens
            self.completion_tokens += row.completion_tokens


def _unsettled(verdicts: list[VerdictRow], costs: list[CostRow]) -> list[CostRow]:
    """The last reservation of every question with more answers that report a usage than settlements."""
    answers = Counter(row.key for row in verdicts if row.prompt_tokens is not None)
    answers.subtract(row.key for row in costs if row.event == "settled")
    last = {row.key: row for row in costs}
    return [row for row in last.values() if row.event == "reserved" and answers[row.key] > 0]


def recorded(source: Path) -> list[VerdictRow]:
    """What a file of verdicts, or every one below a folder, says of each key last."""
    files = ({row.key: row for row in read_records(f, VerdictRow)} for f in verdict_files(source))
    return [row for rows in files for row in rows.values()]
