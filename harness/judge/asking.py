"""Asks what is not recorded yet, records each answer, and stops when it must."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, NamedTuple

from kdbench.harness.files.records import VerdictRow
from kdbench.harness.judge.budget import Budget, BudgetSpent, Meter
from kdbench.harness.judge.calls import Call
from kdbench.harness.judge.definition import JudgeDefinition
from kdbench.harness.judge.parsing import Verdict, answer_of
from kdbench.harness.judge.refusals import ALWAYS, REFUSALS, remedy, said, shown
from kdbench.harness.judge.verdict_log import VerdictLog

if TYPE_CHECKING:  # a second to import, and a replay asks nothing
    from kdbench.harness.judge.client import Client


class Stop(NamedTuple):
    """Why not all could be asked, and what to do; the latter empty: call it again."""

    reason: str
    remedy: str = ""


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
        read: what a response (status, text) says.
        unread: why to stop after so many answers in a row that could not be read, or nothing.
        taken: whether the endpoint is known to take requests like these.
    """

    def __init__(
        self,
        client: "Client",
        budget: Budget,
        on_answer: Callable[[VerdictRow], None],
        *,
        read: Callable[[int | None, str], Verdict],
        unread: Callable[[int, VerdictRow], Stop | None] = lambda count, row: None,
        taken: bool = False,
    ) -> None:
        self._read, self._unread_stop = read, unread
        self._client = client
        self._budget = budget
        self._spoken = budget.asked.SPOKEN
        self._on_answer = on_answer
        self._guard = threading.Lock()
        self._failures = 0
        self._unread = 0
        self._taken = taken
        self._stopped: Stop | None = None

    def run(self, questions: Sequence[Question]) -> Stop | None:
        """Asks them all; returns why it stopped early, or nothing.

        The first goes alone, so that a request that the endpoint will not take is sent once. An
        interrupt, or a bug, ends it after the calls in flight have been recorded.
        """
        with ThreadPoolExecutor(self._budget.asked.concurrency, "kdbench-judge") as pool:
            futures = [pool.submit(self._ask, question) for question in questions[:1]]
            try:
                wait(futures)
                futures += [pool.submit(self._ask, question) for question in questions[1:]]
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            except BaseException:
                self._stop(Stop("interrupted"))
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
            self._stop(Stop(f"the next call could cross {self._spoken.limit}"))
            return
        try:
            if self._stopped:  # while this call waited for its reservation
                return
            asked = time.time()
            response = self._client.ask(call.messages, meter)
            verdict = self._read(response.status, response.body)
            if self._refused(verdict, response.status, response.body):
                return  # no answer: not recorded, so that the question stays open
            about = {key: value for key, value in call._asdict().items() if key != "messages"}
            row = VerdictRow(
                **about,
                **verdict._asdict(),
                model=self._budget.asked.model,
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
            self._stop(Stop(f"a retry could cross {self._spoken.limit}"))
            return
        finally:
            meter.end()
        self._answered(row)

    def _refused(self, verdict: Verdict, status: int | None, body: str) -> bool:
        """Whether the endpoint does not take requests like these; ends the asking."""
        if (
            verdict.state != "error"
            or status not in REFUSALS
            or (self._taken and status not in ALWAYS)
        ):
            return False
        what = "the call" if self._taken else "the first call"
        self._stop(
            Stop(
                f"the endpoint refused {what} ({status}): {said(body)}",
                remedy(self._budget.asked, status, body),
            )
        )
        return True

    def _answered(self, row: VerdictRow) -> None:
        most = self._budget.asked.give_up_after
        with self._guard:
            self._taken = self._taken or row.state != "error"
            self._failures = self._failures + 1 if row.state == "error" else 0
            self._unread = self._unread + 1 if row.state in ("unparsed", "truncated") else 0
            if self._failures >= most:
                self._stop(
                    Stop(f"{self._failures} calls in a row failed, the last with: {row.reason}")
                )
            elif self._unread and (why := self._unread_stop(self._unread, row)):
                self._stop(why)
            self._on_answer(row)

    def _stop(self, why: Stop) -> None:
        self._stopped = self._stopped or why


def unreadable(judge: JudgeDefinition, count: int, row: VerdictRow) -> Stop | None:
    """What to say after too many answers in a row without a verdict; the last of them is shown."""
    if count < judge.give_up_unread:
        return None
    remedy = f"let it write more: --set max_tokens={4 * judge.max_tokens}"
    if row.state == "unparsed":
        other = (
            "another --judge"
            if judge.mode == "pointwise"
            else ("--judge pairwise" if judge.answer != "last_line" else "--judge pairwise-json")
        )
        remedy = f"take another --judge-model, or ask in another form ({other}, or a YAML file)"
    answer = shown(answer_of(row.body)) or "nothing"
    return Stop(
        f"{count} answers in a row hold no verdict ({row.reason}); the last: {answer!r}", remedy
    )
