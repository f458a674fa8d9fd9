"""A judge is a YAML file: model, prompt, parameters, and prices with a date."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, JsonValue, model_validator

from kdbench.harness.config import slug
from kdbench.harness.endpoints import Asked, Spoken
from kdbench.harness.errors import InputError
from kdbench.harness.files.shipped import JUDGES
from kdbench.harness.files.store import validated
from kdbench.harness.identity import digest
from kdbench.harness.resolve import assignment

PLACES = {"pointwise": {"prompt", "answer"}, "pairwise": {"prompt", "answer_a", "answer_b"}}
REFERENCE = "reference"
"""A place that a judge's wording may have besides: the prompt's first reference answer."""
COUNTED = ("orders", "repetitions", "seeds", "sanity_prompts", "null_answer", "min_judged")
"""Fields that say how often is asked, and what is made of it."""


class JudgeDefinition(Asked):
    """Who judges, what is asked, and how answers are read."""

    SPOKEN = Spoken(
        "judge", "--judge-key-env", "--judge-model", "--judge-base-url", "--max-cost", ""
    )

    name: str
    mode: Literal["pointwise", "pairwise"]
    base_url: str | None = Field(None, description="none: OPENAI_BASE_URL, or OpenAI's own")
    system: str = ""
    user: str = Field(
        description="{prompt} and {answer}, or {answer_a} and {answer_b}; {reference} if it is to be shown"
    )
    answer: Literal["last_line", "json", "json_schema"] = Field(
        "last_line", description="json: asked for by the prompt only, json_schema: by the request"
    )
    low: int = Field(1, gt=0, description="pointwise: worst score; positive, for ratios")
    high: int = Field(10, description="pointwise: best score")
    max_tokens: int = Field(512, gt=0, description="of the judge's answer")
    orders: tuple[Literal["AB", "BA"], ...] = Field(("AB", "BA"), min_length=1)
    repetitions: int = Field(1, gt=0)
    seeds: int | None = Field(None, gt=0, description="first N decoding seeds; none: all")
    sanity_prompts: int = Field(16, ge=0, description="prompts of the sanity-floor rows")
    null_answer: str = "I am not able to say anything about this."
    min_judged: float = Field(0.9, ge=0, le=1, description="share of prompts below which no score")
    give_up_unread: int = Field(
        5, gt=0, description="answers in a row without a readable verdict that end the command"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.places - {REFERENCE} != PLACES[self.mode]:
            raise ValueError(
                f"user must hold {', '.join(sorted(PLACES[self.mode]))} in braces, may hold "
                f"{REFERENCE}, and no other"
            )
        if self.low >= self.high:
            raise ValueError("low must be less than high")
        if len(set(self.orders)) != len(self.orders):
            raise ValueError("orders must be distinct")
        return self

    @property
    def places(self) -> set[str]:
        """What the wording has room for."""
        return set(re.findall(r"\{(\w+)\}", self.user))

    @property
    def prompt_hash(self) -> str:
        """First 16 hex digits of the sha256 of the prompt's wording and answer form."""
        parts = [self.mode, self.system, self.user, self.answer, self.low, self.high]
        return digest(parts)[:16]

    def sampling(self) -> dict[str, JsonValue]:
        """The body of a request without model and messages.

        In a JSON answer the reasons come before the verdict, so that they can weigh.
        """
        body = super().sampling()
        if self.answer == "json_schema":
            verdict: dict[str, JsonValue] = {"type": "string", "enum": ["A", "B", "TIE"]}
            if self.mode == "pointwise":
                verdict = {"type": "integer", "minimum": self.low, "maximum": self.high}
            schema: dict[str, JsonValue] = {
                "type": "object",
                "properties": {"reasons": {"type": "string"}, self.verdict_name: verdict},
                "required": ["reasons", self.verdict_name],
                "additionalProperties": False,
            }
            answer: JsonValue = {"name": "verdict", "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": answer}
        return body

    @property
    def verdict_name(self) -> str:
        """Name of the verdict in a JSON answer."""
        return "score" if self.mode == "pointwise" else "verdict"


def judge_id(judge: JudgeDefinition, base_url: str, against: str | None) -> str:
    """``<name>.<model>@<hash8>`` of what decides the verdicts and how they are put together.

    In: model, base URL, prompt, parameters, orders, repetitions, seeds, sanity rows, the other run.
    Out, because the verdicts are the same: prices, key variable, concurrency, time-outs, retries.
    """
    fields = {"model", *COUNTED}
    own = judge.model_dump(mode="json", include=fields)
    decides = [own, judge.prompt_hash, judge.sampling(), base_url, against]
    return f"{slug(judge.name)}.{slug(judge.model)}@{digest(decides)[:8]}"


def load_judge(
    name: str, assignments: Sequence[str] = (), flags: Mapping[str, Any] | None = None
) -> JudgeDefinition:
    """A judge by name or YAML file, with some fields replaced.

    Args:
        name: one that comes with kdbench, or a path that ends in .yaml or .yml.
        assignments: ``field=value`` or ``field.key=value`` with a YAML value.
        flags: fields to replace, None: as it is. Another model clears prices that are not replaced.

    Raises:
        InputError: no such judge, malformed YAML, an unknown field or a value that does not fit.
    """
    where, tree = JUDGES.tree(name)
    tree = {"name": Path(name).stem, **tree}
    changes = dict(map(_assigned, assignments))
    changes |= {key: value for key, value in (flags or {}).items() if value is not None}
    if changes.get("model", tree.get("model")) != tree.get("model"):
        tree.pop("prices", None)  # they are the other model's
    for key, value in changes.items():
        *sections, last = key.split(".")
        place = tree
        for name in sections:
            inner = place.get(name)
            place[name] = dict(inner) if isinstance(inner, dict) else {}
            place = place[name]
        place[last] = value
    return validated(JudgeDefinition, tree, where, "definition")


def _assigned(text: str) -> tuple[str, Any]:
    """A field and its value: YAML, or the text itself where it is none (a prompt with braces)."""
    try:
        key, value, _ = assignment(text, "FIELD=VALUE, for example concurrency=4")
    except InputError:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise
    return key.strip(), value
