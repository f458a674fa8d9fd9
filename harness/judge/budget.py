"""The spending limit: every request is reserved before it is sent and settled when it is answered."""

import threading
from typing import Literal

from kdbench.harness.endpoints import Asked
from kdbench.harness.files.records import CostRow
from kdbench.harness.judge.calls import Call, Messages
from kdbench.harness.judge.verdict_log import VerdictLog

Event = Literal["reserved", "released", "settled"]


def most_prompt_tokens(messages: Messages) -> int:
    """Upper bound of a prompt's tokens: no byte makes more than one; and the chat's own marks."""
    return sum(len(content.encode()) + 16 for _, content in messages) + 16


def likely_prompt_tokens(messages: Messages) -> int:
    """About how many tokens a prompt has: four bytes each."""
    return sum(len(content.encode()) // 4 + 6 for _, content in messages) + 6


class BudgetSpent(Exception):  # a reason to stop, nobody's error
    """The next request could cross the limit."""


class Budget:
    """Money that all calls of one command share.

    Args:
        asked: whose prices count.
        limit: never to be crossed, what was spent before included; None: no limit.
        spent: by earlier commands, what a kill left in flight included.
    """

    def __init__(self, asked: Asked, limit: float | None, spent: float) -> None:
        self.asked = asked
        self.taken = spent
        """Spent and reserved."""
        self._limit = limit
        self._flying = 0
        self._changed = threading.Condition()

    def price(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What tokens cost; 0 without prices."""
        prices = self.asked.prices
        return prices.of(prompt_tokens, completion_tokens) if prices else 0.0

    def take(self, amount: float, *, first: bool) -> None:
        """Reserves; the first request of a call waits while others in flight may settle for less.

        Raises:
            BudgetSpent: it does not fit.
        """
        with self._changed:
            while self._limit is not None and self.taken + amount > self._limit:
                if not first or not self._flying:
                    raise BudgetSpent
                self._changed.wait()
            self.taken += amount
            self._flying += first

    def change(self, amount: float, *, landed: bool = False) -> None:
        """Adds to what is taken, or gives back; a call that ``landed`` is over."""
        with self._changed:
            self.taken += amount
            self._flying -= landed
            self._changed.notify_all()


def settle_recorded(asked: Asked, log: VerdictLog) -> None:
    """Settles what a kill left reserved although the answer, and with it the usage, is recorded."""
    budget = Budget(asked, None, 0.0)
    for reserved, verdict in log.unsettled():
        tokens = verdict.prompt_tokens or 0, verdict.completion_tokens or 0
        log.book(
            CostRow(
                key=reserved.key,
                event="settled",
                prompt_tokens=tokens[0] - reserved.prompt_tokens,
                completion_tokens=tokens[1] - reserved.completion_tokens,
                amount=budget.price(*tokens) - reserved.amount,
            )
        )


class Meter:
    """Books the requests of one call: each is reserved before it is sent.

    A request that the endpoint refused (status 400 and up) or that found no connection is given
    back; one that was answered costs what the endpoint reports; one that was sent and never
    answered stays reserved, since it may have been billed.
    """

    def __init__(self, budget: Budget, log: VerdictLog, call: Call) -> None:
        self._budget = budget
        self._log = log
        self._key = call.key
        self._tokens = most_prompt_tokens(call.messages), budget.asked.max_tokens
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
        self._close("released", 0, 0)

    def settle(self, prompt_tokens: int | None, completion_tokens: int | None) -> None:
        """The request in hand was answered; without a reported usage the reservation stands."""
        if prompt_tokens is not None and completion_tokens is not None:
            self._close("settled", prompt_tokens, completion_tokens)

    def end(self) -> None:
        """The call is over, however it ended."""
        if self._armed:
            self.not_billed()
        self._budget.change(0.0, landed=True)

    def _reserve(self, *, first: bool) -> None:
        amount = self._budget.price(*self._tokens)
        self._budget.take(amount, first=first)
        self._book("reserved", *self._tokens, amount)
        self._open = True

    def _close(self, event: Event, prompt: int, completion: int) -> None:
        """Puts what was used in the place of what was reserved."""
        if self._open:
            change = self._budget.price(prompt, completion) - self._budget.price(*self._tokens)
            self._book(event, prompt - self._tokens[0], completion - self._tokens[1], change)
            self._budget.change(change)
            self._open = False

    def _book(self, event: Event, prompt: int, completion: int, amount: float) -> None:
        tokens = {"prompt_tokens": prompt, "completion_tokens": completion}
        self._log.book(CostRow(key=self._key, event=event, amount=amount, **tokens))
