"""``kdbench new-method``: a method file that runs, and its test."""

import keyword
import re
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from kdbench.harness.errors import InputError


def new_method(
    name: Annotated[str, typer.Argument(help="Name of the method: letters, digits, - and _.")],
    folder: Annotated[Path, typer.Option(help="Where to write.", file_okay=False)] = Path(),
) -> None:
    """Write a method (forward KL, to be changed) and a test that runs the conformance suite on it."""
    stem = name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", stem) or keyword.iskeyword(stem):
        raise InputError(
            f"{name!r} cannot be a file name of Python; use small letters, digits, - and _"
        )
    method, test = folder / f"{name}.py", folder / f"test_{stem}.py"  # called as it was typed
    for path in (method, test):
        if path.exists():
            raise InputError(f"{path} exists already; choose another name or --folder")
    words = {
        "name": name,
        "class": "".join(part.capitalize() for part in stem.split("_")),
        "file": method.name,
    }
    folder.mkdir(parents=True, exist_ok=True)
    method.write_text(_filled("method.py.jinja", words), encoding="utf-8")
    test.write_text(_filled("test_method.py.jinja", words), encoding="utf-8")
    typer.echo(f"wrote {method} and {test}")
    typer.echo(f"check it: pytest {test}")
    typer.echo(f"run it:   kdbench run --suite mini-test --method {method}")


def _filled(template: str, words: dict[str, str]) -> str:
    text = (files("kdbench.harness") / "templates" / template).read_text("utf-8")
    for key, word in words.items():
        text = text.replace("{{" + key + "}}", word)
    return text
