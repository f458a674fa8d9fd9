"""From a raw response to one of five states. Strict: what is not exactly a verdict is none.

`read` is a pure function of what was stored, so a recorded ledger gives its numbers again.
"""

import json
import re
from typing import Any, NamedTuple

from kdbench.harness.files.records import VerdictState
from kdbench.harness.judge.definition import JudgeDefinition

_REFUSAL = re.compile(
    r"\W*(?:i['’]?m sorry|i am sorry|sorry,|i can['’]?t|i can ?not|i won['’]?t"
    r"|i['’]?m (?:unable|not able)|i am (?:unable|not able)|i must decline|as an ai\b)",
    re.I,
)
_FILTERED = {"content_filter", "content_policy_violation", "responsibleaipolicyviolation"}
_MOST_TOKENS = 10**9


class Verdict(NamedTuple):
    """What a response says."""

    state: VerdictState
    score: float | None = None
    winner: str | None = None
    reason: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


def read(judge: JudgeDefinition, status: int | None, body: str) -> Verdict:
    """Reads one stored response.

    Args:
        judge: whose answer form it must have.
        status: HTTP status; None: there was no response, and ``body`` says why.
        body: the response's text as received.
    """
    if status is None:
        return Verdict("error", reason=body.partition("\n")[0][:200] or "no response")
    document = _document(body)
    if status >= 400:
        if _is_filtered(document):
            return Verdict("refused", reason="the endpoint's content filter refused it")
        return Verdict("error", reason=f"HTTP status {status}")
    if not isinstance(document, dict):
        return Verdict("error", reason="the response is not a JSON object")
    prompt_tokens, completion_tokens = _usage(document.get("usage"))
    return _verdict(judge, document)._replace(
        prompt_tokens=prompt_tokens, completion_tokens=completion_tokens
    )


def _verdict(judge: JudgeDefinition, document: dict[str, Any]) -> Verdict:
    choices = document.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        return Verdict("error", reason="the response holds no message")
    content, finish = message.get("content"), choice.get("finish_reason")
    if message.get("refusal") or finish == "content_filter":
        return Verdict("refused", reason="the judge refused")
    if finish == "length":
        return Verdict("truncated", reason="cut at the judge's token limit")
    if not isinstance(content, str) or not content.strip():
        return Verdict("unparsed", reason="an empty answer")
    value = (_last_line if judge.answer == "last_line" else _json)(judge, content)
    if isinstance(value, str):
        return Verdict("ok", winner="tie" if value == "TIE" else value)
    if value is not None and judge.low <= value <= judge.high:
        return Verdict("ok", score=float(value))
    if _REFUSAL.match(content):
        return Verdict("refused", reason="the judge declined in words")
    return Verdict("unparsed", reason="no verdict in the form asked for")


def _last_line(judge: JudgeDefinition, content: str) -> float | str | None:
    """A score, or the word of who won; None if the last line says neither."""
    line = content.strip().rsplit("\n", 1)[-1].strip()
    if judge.mode == "pointwise":
        match = re.fullmatch(r"SCORE: ([0-9]{1,4}(?:\.[0-9]{1,2})?)", line)
        return float(match[1]) if match else None
    match = re.fullmatch(r"VERDICT: (A|B|TIE)", line)
    return match[1] if match else None


def _json(judge: JudgeDefinition, content: str) -> float | str | None:
    document = _document(content)
    if not isinstance(document, dict) or document.keys() != {"reasons", judge.verdict_name}:
        return None
    value = document[judge.verdict_name]
    if judge.mode == "pairwise":
        return value if value in ("A", "B", "TIE") else None
    return value if type(value) in (int, float) else None


def _document(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


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
