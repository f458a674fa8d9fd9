"""What all settings have in common, whoever owns them: of runs, of methods, of judges, of studies."""

import functools
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, Literal, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, model_validator

LARGEST = 2**53
"""Numbers beyond it are no setting that anybody means, and floats beyond it are not exact."""
LONGEST = 1 << 20
"""Characters of a text."""


EngineName = Literal["own", "vllm"]
"""Who decodes: our sampler, or vLLM with our noise."""


class Settings(BaseModel):
    """Base of settings: immutable, unknown keys refused, and nothing taken for what it is not.

    A truth value is no number (``steps: yes`` is not one step), infinity and not-a-number are none
    either, and a text holds no sign that no file and no terminal can take.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _meant(cls, given: Any) -> Any:
        if isinstance(given, Mapping):
            for name, field in cls.model_fields.items():
                if name in given:
                    problem = _problem(given[name], _leaves(cast(Hashable, field.annotation)))
                    if problem:
                        raise ValueError(f"{name} {problem}")
        return given


def _problem(value: Any, kinds: frozenset[type]) -> str:
    """Why no setting of these kinds can be the value, or nothing; what else is wrong pydantic says."""
    for one in _scalars(value):
        match one:
            case bool():
                if bool not in kinds and not kinds & {Any, dict}:
                    return f"cannot be {str(one).lower()}"
            case int() | float() if abs(one) > LARGEST or math.isnan(one):
                return f"cannot be {one:.3g}" if isinstance(one, float) else "is too large a number"
            case str():
                if len(one) > LONGEST:
                    return f"is a text of {len(one):,} characters"
                odd = next((c for c in one if not c.isprintable() and c not in "\n\t\r"), None)
                if odd is not None and not odd.isspace() and _unfit(odd):
                    return f"holds the character U+{ord(odd):04X}, which no name or path can have"
    return ""


def _unfit(character: str) -> bool:
    """Control characters and halves of surrogate pairs; what only joins or turns letters is text."""
    code = ord(character)
    return code < 0x20 or 0x7F <= code < 0xA0 or 0xD800 <= code < 0xE000


def _scalars(value: Any) -> Iterator[Any]:
    """The plain values in lists, not in mappings: those are sections, with settings of their own."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for each in value:
            yield from _scalars(each)
    else:
        yield value


@functools.cache
def _leaves(annotation: Any) -> frozenset[Any]:
    """The plain types that an annotation is made of."""
    origin = get_origin(annotation)
    if origin is None:
        return frozenset({annotation})
    if origin in (dict, Mapping):
        return frozenset({dict})
    parts = (part for part in get_args(annotation) if part is not ...)
    return frozenset().union(*(_leaves(p) if _is_type(p) else {type(p)} for p in parts))


def _is_type(part: Any) -> bool:
    return isinstance(part, type) or get_origin(part) is not None or part is Any
