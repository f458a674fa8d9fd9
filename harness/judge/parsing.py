"""From a raw response to one of five states.

A verdict is read where it is unmistakable, whatever stands around it: a thinking block, a preamble, a
code fence, bold type. An answer that names two different verdicts has none, and so has one whose only
verdict is in its thinking. `read` is a pure function of what was stored, so a recorded ledger gives its
numbers again.
"""

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from kdbench.harness.files.records import VerdictState
from kdbench.harness.judge.definition import JudgeDefinition
from kdbench.harness.judge.fencing import DECORATION
from kdbench.harness.judge.refusals import parsed, said

_REFUSAL = re.compile(
    r"\W*(?:i['’]?m sorry|i am sorry|sorry,|i can['’]?t|i can ?not|i won['’]?t"
    r"|i['’]?m (?:unable|not able)|i am (?:unable|not able)|i must decline|as an ai\b)",
    re.I,
)
_FILTERED = {"content_filter", "content_policy_violation", "responsibleaipolicyviolation"}
_MOST_TOKENS = 10**9
_THOUGHT = re.compile(r"\s*<(think|thinking|thought|reasoning)>.*?</\1>", re.I | re.S)
_THOUGHT_ENDS = re.compile(r"</(?:think|thinking|thought|reasoning)>", re.I)
_THOUGHT_BEGINS = re.compile(r"<(?:think|thinking|thought|reasoning)>", re.I)
_NUMBER = r"([0-9]{1,4}(?:\.[0-9]{1,2})?)"
_MOST_OBJECTS = 64
"""Braces of an answer that are tried as the beginning of a JSON object."""


class Verdict(NamedTuple):
    """What a response says."""

    state: VerdictState
    score: float | None = None
    winner: str | None = None
    reason: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


def read(judge: JudgeDefinition, status: int | None, body: str) -> Verdict:
    """Reads one stored response of a judge; see `read_reply`."""
    return read_reply(status, body, partial(_verdict, judge))


def read_answer(status: int | None, body: str) -> Verdict:
    """Reads one stored response whose text is all that is wanted (`answer_of`); see `read_reply`.

    ``truncated`` has a text too, ``unparsed`` has none.
    """
    return read_reply(status, body, lambda answer: Verdict("ok"))


def read_reply(status: int | None, body: str, understand: Callable[[str], Verdict]) -> Verdict:
    """Reads one stored response.

    Args:
        status: HTTP status; None: there was no response, and ``body`` says why.
        body: the response's text as received.
        understand: what a whole answer says, without the thinking before it.
    """
    if status is None:
        return Verdict("error", reason=body.partition("\n")[0][:200] or "no response")
    document = parsed(body)
    if status >= 400:
        if _is_filtered(document):
            return Verdict("refused", reason="the endpoint's content filter refused it")
        return Verdict("error", reason=f"HTTP status {status}: {said(body)}")
    if not isinstance(document, dict):
        return Verdict("error", reason="the response is not a JSON object")
    prompt_tokens, completion_tokens = _usage(document.get("usage"))
    return _answered(document, understand)._replace(
        prompt_tokens=prompt_tokens, completion_tokens=completion_tokens
    )


def answer_of(body: str) -> str:
    """What a model wrote, of a response; empty if it holds no message."""
    document = parsed(body)
    message = _message(document)[1] if isinstance(document, dict) else {}
    return text_of(message.get("content"))


def _message(document: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first choice and its message; empty where there is none."""
    choices = document.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    return (choice, message) if isinstance(choice, dict) and isinstance(message, dict) else ({}, {})


def _answered(document: dict[str, Any], understand: Callable[[str], Verdict]) -> Verdict:
    choice, message = _message(document)
    if not message:
        return Verdict("error", reason="the response holds no message")
    content, finish = text_of(message.get("content")), choice.get("finish_reason")
    if message.get("refusal") or finish == "content_filter":
        return Verdict("refused", reason="the model refused")
    if finish == "length":
        return Verdict("truncated", reason="cut at the token limit")
    answer = without_thinking(content)
    if not answer.strip():
        return Verdict("unparsed", reason="an empty answer")
    return understand(answer)


def _verdict(judge: JudgeDefinition, answer: str) -> Verdict:
    value = (_line if judge.answer == "last_line" else _json)(judge, answer)
    if isinstance(value, str):
        return Verdict("ok", winner="tie" if value == "TIE" else value)
    if value is not None and judge.low <= value <= judge.high:
        return Verdict("ok", score=float(value))
    if _REFUSAL.match(answer):
        return Verdict("refused", reason="the judge declined in words")
    return Verdict("unparsed", reason="no verdict in the form asked for")


def text_of(content: Any) -> str:
    """The text of a message, which some endpoints send in parts."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def without_thinking(content: str) -> str:
    """What follows the thinking; nothing, if that never ended."""
    while match := _THOUGHT.match(content):
        content = content[match.end() :]
    ends = list(_THOUGHT_ENDS.finditer(content))
    if ends and not _THOUGHT_BEGINS.search(content):  # its begin was part of the prompt
        content = content[ends[-1].end() :]
    return "" if _THOUGHT_BEGINS.match(content.lstrip()) else content


def _line(judge: JudgeDefinition, answer: str) -> float | str | None:
    """The one verdict of an answer, on a line of its own; None if there is none, or more than one."""
    d = rf"[{DECORATION}]*"
    pointwise = judge.mode == "pointwise"
    word, value = ("SCORE", _NUMBER) if pointwise else ("VERDICT", r"(A|B|TIE)\b")
    verdict = rf"{word}{d}:{d}{value}"
    stated = set()
    for line in answer.splitlines():
        match = re.match(rf"[#>{DECORATION}]*{verdict}", line)
        if match is not None:
            rest = re.sub(rf"[{DECORATION}.!]+", " ", line[match.end() :]).strip()
            of = rf"(?:/|(?:out )?of) ?{judge.high}"  # 7/10
            if not rest or (pointwise and re.fullmatch(of, rest)):
                stated.add(_plain(match[1]))
    mentioned = set(map(_plain, re.findall(verdict, answer)))
    return stated.pop() if len(stated) == len(mentioned) == 1 else None


def _plain(text: str) -> float | str:
    return float(text) if text[0].isdigit() else text


def _json(judge: JudgeDefinition, answer: str) -> float | str | None:
    """The one verdict of the JSON objects in an answer; None if there is none, or more than one."""
    found = [each[judge.verdict_name] for each in _objects(answer) if judge.verdict_name in each]
    if not found or any(type(value) is not type(found[0]) or value != found[0] for value in found):
        return None
    value = found[0]
    if judge.mode == "pairwise":
        return value if value in ("A", "B", "TIE") else None
    return value if type(value) in (int, float) else None


def _objects(answer: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in a text, one after the other; of a key that stands twice no value is kept."""
    decoder = json.JSONDecoder(object_pairs_hook=_keys_once)
    place = answer.find("{")
    for _ in range(_MOST_OBJECTS):
        if place < 0:
            return
        try:
            found, end = decoder.raw_decode(answer, place)
        except (ValueError, RecursionError):
            end = place + 1
        else:
            yield found
        place = answer.find("{", end)


def _keys_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    names = [name for name, _ in pairs]
    return found | {name: None for name in found if names.count(name) > 1}


def _usage(usage: Any) -> tuple[int | None, int | None]:
    if not isinstance(usage, dict):
        return None, None
    counts = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
    if any(type(n) is not int or not 0 <= n <= _MOST_TOKENS for n in counts):
        return None, None
    return counts[0], counts[1]


def _is_filtered(document: Any) -> bool:
    error = document.get("error") if isinstance(document, dict) else None
    inner = error.get("innererror") if isinstance(error, dict) else None
    codes = [part.get("code") for part in (error, inner) if isinstance(part, dict)]
    return any(isinstance(code, str) and code.lower() in _FILTERED for code in codes)
