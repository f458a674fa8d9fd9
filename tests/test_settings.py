"""What no setting is taken for, and YAML that is no document."""

from typing import Annotated, Any

import pytest
from pydantic import Field, ValidationError

from kdbench.harness.errors import InputError
from kdbench.harness.files.shipped import parse_yaml
from kdbench.harness.resolve import resolve
from kdbench.harness.settings import Settings


class Some(Settings):
    number: int = 1
    real: float | None = 1.0
    flag: bool = False
    several: tuple[float, ...] = ()
    name: str = ""
    free: dict[str, Any] = Field({})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("number", value) for value in (True, 2**54, float("nan"), float("inf"), [True])),
        *(("real", value) for value in (False, float("-inf"), float("nan"), 1e300)),
        *(("several", value) for value in ([True], [float("nan")], [[True]])),
        *(("name", value) for value in ("a\0b", "\x1b[31m", "\x7f", "\ud800", "x" * (1 << 21))),
    ],
)
def test_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        Some.model_validate({name: value})


def test_taken() -> None:
    made = Some.model_validate(
        {"number": 2**52, "real": -0.0, "flag": True, "several": [1, 2], "name": "é\u200d\n∞"}
    )
    assert made.flag is True and made.several == (1.0, 2.0)
    assert Some.model_validate({"free": {"a": True, "b": 10**40}}).free["a"] is True
    assert Some(real=None).real is None


class Lists(Settings):
    names: tuple[str, ...] = ()
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = ()
    betas: tuple[float, float] = (0.0, 0.0)
    free: tuple[str, ...] | None = None


def test_lists_as_people_write_them() -> None:
    taken = {
        "names": ("a, b", "x.jsonl", ["c"]),
        "seeds": (10, "10,20", "10", [1]),
        "betas": ("0.9, 0.95",),
    }
    made = [
        getattr(Lists.model_validate({name: value}), name)
        for name, values in taken.items()
        for value in values
    ]
    assert made == [("a", "b"), ("x.jsonl",), ("c",), (10,), (10, 20), (10,), (1,), (0.9, 0.95)]
    assert Lists.model_validate({"free": None}).free is None
    wrong = {"names": ("", "[a", {}, None), "seeds": (None, ","), "betas": (0.9, "1,2,3")}
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(ValidationError, match=rf"{name} is a list; write \[a,b\]"):
                Lists.model_validate({name: value})
    with pytest.raises(ValidationError, match="seeds cannot be true"):
        Lists.model_validate({"seeds": True})
    changes = ["tasks.probes=exposure,calibration", "tasks.names=dolly", "generate.seeds=10"]
    config = resolve(suite="mini", method="sft", assignments=changes)
    assert config.tasks.probes == ("exposure", "calibration") and config.tasks.names == ("dolly",)
    assert config.generate.seeds == (10,)


ALIASES = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))


@pytest.mark.parametrize(
    "text",
    [
        *("[" * 5000, "a: 2026-13-45", "a: " + "9" * 6000, "? [a]: b", "&a [*a]", "a: \0", "*a"),
        *(
            "!!python/object/apply:os.system [id]",
            "!!int x",
            "!!timestamp x",
            "a: 1\na: 2",
            "{[1]: 2}",
        ),
        "a0: &a0 [x]\n" + ALIASES,
    ],
)
def test_no_yaml(text: str) -> None:
    with pytest.raises(InputError, match=r"^here.*(not valid YAML|write it out)") as caught:
        parse_yaml(text, "here")
    assert "\n" not in str(caught.value)


def test_yaml_as_people_write_it() -> None:
    assert parse_yaml("\ufeffa: &x 1e-4\nb: [*x, *x]", "here") == {"a": 1e-4, "b": [1e-4, 1e-4]}
    assert parse_yaml("", "here") is None
