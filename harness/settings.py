"""What all settings have in common, whoever owns them: of runs, of methods, of judges, of studies."""

import contextlib
import functools
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, cast, get_args, get_origin

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
        if not isinstance(given, Mapping):
            return given
        meant = {**given}
        for name, field in cls.model_fields.items():
            if name in given:
                kind = cast(Hashable, field.annotation)
                meant[name] = _listed(name, given[name], kind)
                if problem := _problem(meant[name], _leaves(kind)):
                    raise ValueError(f"{name} {problem}")
        return meant


def _listed(name: str, value: Any, annotation: Any) -> Any:
    """A list where one is wanted: of one number or text, or of what commas part.

    Raises:
        ValueError: it can be meant as none.
    """
    items = _items(annotation)
    if items is None or isinstance(value, bool | list | tuple):
        return value
    found: list[Any] = [value] if isinstance(value, int | float) else []
    if isinstance(value, str) and not set(value) & set("[]{}"):
        parts = [part.strip() for part in value.split(",") if part.strip()]
        found = parts if str in items else [_number(part) for part in parts]
    wanted = get_args(annotation)
    if not found or (
        get_origin(annotation) is tuple and ... not in wanted and len(found) != len(wanted)
    ):
        raise ValueError(f"{name} is a list; write [a,b]")
    return found


def _number(text: str) -> Any:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


@functools.cache
def _items(annotation: Any) -> frozenset[Any] | None:
    """What the items of a list are made of; None: it is no list of plain values, or need not be one."""
    if get_origin(annotation) not in (tuple, list):
        return None
    leaves = _leaves(annotation)
    nested = any(get_origin(part) in (tuple, list, dict) for part in get_args(annotation))
    plain = leaves <= {str, int, float}
    return leaves if plain and not nested else None


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
    if origin is Annotated:
        return _leaves(get_args(annotation)[0])
    parts = (part for part in get_args(annotation) if part is not ...)
    return frozenset().union(*(_leaves(p) if _is_type(p) else {type(p)} for p in parts))


def _is_type(part: Any) -> bool:
    return isinstance(part, type) or get_origin(part) is not None or part is Any
