"""Asks what is not recorded yet, records each answer, and stops when it must."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, NamedTuple

from kdbench.harness.files.records import VerdictRow
from kdbench.harness.judge.budget import Budget, BudgetSpent, Meter
from kdbench.harness.judge.calls import Call
from kdbench.harness.judge.parsing import read
from kdbench.harness.judge.verdict_log import VerdictLog

if TYPE_CHECKING:  # a second to import, and a replay asks nothing
    from kdbench.harness.judge.client import Client

HOPELESS = {
    401: "the endpoint refused the key (401); set the variable that --judge-key-env names",
    402: "the endpoint wants payment (402)",
    403: "the endpoint refused access (403)",
    404: "the endpoint knows no such model or path (404); see --judge-model and --judge-base-url",
}


class Question(NamedTuple):
    """A call and the logs that need its answer; the first one books its cost."""

    call: Call
    logs: list[VerdictLog]


class Asking:
    """One pool of workers, which is the one limit of how many calls are in flight.

    Args:
        client: the endpoint.
        budget: shared by all calls.
        on_answer: called after each recorded answer, from one thread at a time.
    """

    def __init__(
        self, client: "Client", budget: Budget, on_answer: Callable[[VerdictRow], None]
    ) -> None:
        self._client = client
        self._budget = budget
        self._on_answer = on_answer
        self._guard = threading.Lock()
        self._failures = 0
        self._stopped = ""

    def run(self, questions: Sequence[Question]) -> str:
        """Asks them all; returns why it stopped early, or nothing.

        An interrupt, or a bug, ends it after the calls in flight have been recorded.
        """
        with ThreadPoolExecutor(self._budget.judge.concurrency, "kdbench-judge") as pool:
            futures = [pool.submit(self._ask, question) for question in questions]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            except BaseException:
                self._stop("interrupted")
                pool.shutdown(cancel_futures=True)
                raise
        return self._stopped

    def _ask(self, question: Question) -> None:
        if self._stopped:
            return
        call, log = question.call, question.logs[0]
        meter = Meter(self._budget, log, call)
        try:
            meter.start()
        except BudgetSpent:
            self._stop("the next call could cross --max-cost")
            return
        try:
            if self._stopped:  # while this call waited for its reservation
                return
            asked = time.time()
            response = self._client.ask(call.messages, meter)
            verdict = read(self._budget.judge, response.status, response.body)
            about = {key: value for key, value in call._asdict().items() if key != "messages"}
            row = VerdictRow(
                **about,
                **verdict._asdict(),
                model=self._budget.judge.model,
                status=response.status,
                body=response.body,
                requests=meter.requests,
                latency_s=round(response.latency_s, 3),
                asked=round(asked, 3),
            )
            for one in question.logs:
                one.add(row)
            if response.status is not None:
                meter.settle(verdict.prompt_tokens, verdict.completion_tokens)
        except BudgetSpent:
            self._stop("a retry could cross --max-cost")
            return
        finally:
            meter.end()
        self._answered(row)

    def _answered(self, row: VerdictRow) -> None:
        with self._guard:
            self._failures = self._failures + 1 if row.state == "error" else 0
            if row.status in HOPELESS:
                self._stop(HOPELESS[row.status or 0])
            elif self._failures >= self._budget.judge.give_up_after:
                self._stop(f"{self._failures} calls in a row failed, the last with: {row.reason}")
            self._on_answer(row)

    def _stop(self, reason: str) -> None:
        self._stopped = self._stopped or reason
