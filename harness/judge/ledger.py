"""Verdicts and costs on disk, and the spending limit.

An answer is appended before anything is computed from it; what may be billed is appended before it
is sent. So after a kill the ledger knows every answer that had arrived, and counts what was in
flight as spent.
"""

import threading
from collections.abc import Iterable
from pathlib import Path

from kdbench.harness.files.records import CostRow, VerdictRow
from kdbench.harness.files.store import append_rows, read_records
from kdbench.harness.judge.calls import Call, most_prompt_tokens
from kdbench.harness.judge.definition import JudgeDefinition

VERDICTS = "verdicts.jsonl"
COST = "cost.jsonl"


class Ledger:
    """``eval/<key>/judge/<judge-id>/``: what one judge said about one evaluation.

    Safe to use from several threads of one process; one process at a time.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._guard = threading.Lock()
        rows = read_records(folder / VERDICTS, VerdictRow)
        self._verdicts = {row.key: row for row in rows}  # a later row is a retry
        costs = read_records(folder / COST, CostRow)
        self.spent = sum(row.amount for row in costs)
        self.prompt_tokens = sum(row.prompt_tokens for row in costs)
        self.completion_tokens = sum(row.completion_tokens for row in costs)

    def __len__(self) -> int:
        return len(self._verdicts)

    def verdict(self, key: str) -> VerdictRow | None:
        """The recorded answer to a question."""
        return self._verdicts.get(key)

    def add(self, row: VerdictRow) -> None:
        """Records an answer, on disk first."""
        with self._guard:
            append_rows(self.folder / VERDICTS, [row])
            self._verdicts[row.key] = row

    def book(self, row: CostRow) -> None:
        """Records a change of cost, on disk first."""
        with self._guard:
            append_rows(self.folder / COST, [row])
            self.spent += row.amount
            self.prompt_tokens += row.prompt_tokens
            self.completion_tokens += row.completion_tokens


def recorded(source: Path) -> dict[str, VerdictRow]:
    """All verdicts in a ledger file, or in every ledger below a folder, by key."""
    files: Iterable[Path] = [source]
    if source.is_dir():
        files = sorted(source.rglob(VERDICTS))
    return {row.key: row for file in files for row in read_records(file, VerdictRow)}


class BudgetSpent(Exception):  # a reason to stop, nobody's error
    """The next request could cross the limit."""


class Budget:
    """Money that all calls of one command share.

    Args:
        judge: whose prices count.
        limit: never to be crossed, what was spent before included; None: no limit.
        spent: by earlier commands, what a kill left in flight included.
    """

    def __init__(self, judge: JudgeDefinition, limit: float | None, spent: float) -> None:
        self._judge = judge
        self._limit = limit
        self._taken = spent
        self._flying = 0
        self._changed = threading.Condition()

    @property
    def taken(self) -> float:
        """Spent and reserved."""
        return self._taken

    def price(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What tokens cost; 0 without prices."""
        prices = self._judge.prices
        return prices.of(prompt_tokens, completion_tokens) if prices else 0.0

    def take(self, amount: float, *, first: bool) -> None:
        """Reserves; the first request of a call waits while others in flight may settle for less.

        Raises:
            BudgetSpent: it does not fit.
        """
        with self._changed:
            while self._limit is not None and self._taken + amount > self._limit:
                if not first or not self._flying:
                    raise BudgetSpent
                self._changed.wait()
            self._taken += amount
            self._flying += first

    def change(self, amount: float) -> None:
        """Adds to what is taken, or gives back."""
        with self._changed:
            self._taken += amount
            self._changed.notify_all()

    def landed(self) -> None:
        """A call is over."""
        with self._changed:
            self._flying -= 1
            self._changed.notify_all()


class Meter:
    """Books the requests of one call: each is reserved before it is sent.

    A request that the endpoint refused (status 400 and up) or that found no connection is given
    back; one that was answered costs what the endpoint reports; one that was sent and never
    answered stays reserved, since it may have been billed.
    """

    def __init__(self, budget: Budget, ledger: Ledger, judge: JudgeDefinition, call: Call) -> None:
        self._budget = budget
        self._ledger = ledger
        self._key = call.key
        self._tokens = most_prompt_tokens(call.messages), judge.max_tokens
        self._amount = budget.price(*self._tokens)
        self._armed = False
        self._open = False
        self.requests = 0

    def start(self) -> None:
        """Reserves the first request, waiting for others if need be."""
        self._reserve(first=True)
        self._armed = True

    def sending(self) -> None:
        """A request is about to be sent; the client's own retries come here too."""
        if not self._armed:
            self._reserve(first=False)
        self._armed = False
        self.requests += 1

    def not_billed(self) -> None:
        """The request in hand was refused or never left."""
        if self._open:
            self._book("released", -self._tokens[0], -self._tokens[1], -self._amount)
            self._open = False

    def settle(self, prompt_tokens: int | None, completion_tokens: int | None) -> None:
        """The request in hand was answered; without a reported usage the reservation stands."""
        if not self._open or prompt_tokens is None or completion_tokens is None:
            return
        amount = self._budget.price(prompt_tokens, completion_tokens) - self._amount
        more = prompt_tokens - self._tokens[0], completion_tokens - self._tokens[1]
        self._book("settled", *more, amount)
        self._open = False

    def end(self) -> None:
        """The call is over, however it ended."""
        if self._armed:
            self.not_billed()
        self._budget.landed()

    def _reserve(self, *, first: bool) -> None:
        self._budget.take(self._amount, first=first)
        row = CostRow(
            key=self._key,
            event="reserved",
            prompt_tokens=self._tokens[0],
            completion_tokens=self._tokens[1],
            amount=self._amount,
        )
        self._ledger.book(row)
        self._open = True

    def _book(self, event: str, prompt: int, completion: int, amount: float) -> None:
        self._ledger.book(
            CostRow.model_validate(
                {
                    "key": self._key,
                    "event": event,
                    "prompt_tokens": prompt,
                    "completion_tokens": completion,
                    "amount": amount,
                }
            )
        )
        self._budget.change(amount)
