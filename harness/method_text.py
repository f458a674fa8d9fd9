"""What a method says in words that it minimises: the beginning of its docstring."""

import ast
import inspect
from importlib.util import find_spec
from pathlib import Path

from kdbench.harness.own_methods import METHODS

LONGEST = 900
"""Characters of such a text that are kept."""


def objective(doc: str | None) -> str:
    """The paragraphs of a method's docstring before the one that names its source.

    Args:
        doc: the docstring; None: there is none.

    Returns:
        Plain text, paragraphs apart by an empty line; cut at a paragraph where it is too long.
    """
    kept: list[str] = []
    for paragraph in inspect.cleandoc(doc or "").split("\n\n"):
        if paragraph.startswith("Source:") or len("\n\n".join([*kept, paragraph])) > LONGEST:
            break
        kept.append(paragraph)
    return "\n\n".join(kept)


def objective_of(name: str) -> str:
    """The same of one of our own methods, read from its file without importing it (no torch).

    For runs of a kdbench that did not keep it. Empty for a name that is not ours.
    """
    module, _, attribute = METHODS.get(name, "").partition(":")
    spec = find_spec(module) if module else None
    if spec is None or spec.origin is None:
        return ""
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    classes = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == attribute]
    return objective(ast.get_docstring(classes[0])) if classes else ""
