"""YAML documents that come with kdbench, or are the user's own: suites, judges, rules, claims …"""

import functools
import math
import re
from collections.abc import Hashable
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel

from kdbench.harness.errors import InputError, unknown
from kdbench.harness.files.store import reading, validated
from kdbench.harness.foreign import reason

R = TypeVar("R", bound=BaseModel)
WRITTEN_OUT = 100_000
"""Values of a YAML document, each alias written out, beyond which it is no document of ours."""


class _Loader(yaml.SafeLoader):
    """YAML as people write it: 1e-4 is a number, a repeated key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.MarkedYAMLError(
                    problem="a list or mapping as a key", problem_mark=key_node.start_mark
                )
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key!r} twice", problem_mark=node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def parse_yaml(text: str, where: str) -> Any:
    """YAML text as plain data; InputError names ``where`` and the line."""
    try:
        loader = _Loader(text.removeprefix("\ufeff"))  # a SafeLoader
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > WRITTEN_OUT:
            raise InputError(
                f"{where}: its aliases stand for more than {WRITTEN_OUT:,} values; write it out"
            )
        return loader.construct_document(node)
    except InputError:
        raise
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{where}, line {line}: not valid YAML ({error.problem})") from error
    except yaml.YAMLError as error:
        text = " ".join(str(error).split())
        raise InputError(f"{where}: not valid YAML ({text})") from error
    except RecursionError as error:
        raise InputError(f"{where}: not valid YAML (nested too deeply)") from error
    except Exception as error:  # 2026-13-45 is no date, nor are 5,000 digits a number
        raise InputError(f"{where}: not valid YAML ({reason(error)})") from error


def _size(node: yaml.Node, known: dict[int, float]) -> float:
    """Values that a node stands for with its aliases written out; infinite if it is in itself."""
    if id(node) not in known:
        known[id(node)] = math.inf
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            parts = node.value
        elif isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]


@functools.lru_cache(maxsize=64)  # a study resolves one suite a hundred times
def _parsed(text: str, where: str) -> Any:
    return parse_yaml(text, where)


class Shelf(NamedTuple):
    """Where the documents of a kind lie.

    Attributes:
        kind: what a document is called in messages.
        package, folder: the YAML files in this folder of the package are the documents.
        example: how to give one's own file, for messages.
    """

    kind: str
    package: str
    folder: str
    example: str

    def names(self) -> list[str]:
        """All documents that come with the package."""
        names = (entry.name for entry in self._place().iterdir())
        return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))

    def load(self, name: str, model: type[R]) -> R:
        """A document as ``model``; ``name`` is one of ours or the path of a YAML file.

        Raises:
            InputError: neither, not YAML, or what it says does not fit.
        """
        where, tree = self.tree(name)
        return validated(model, tree, where, self.kind)

    def tree(self, name: str) -> tuple[str, dict[str, Any]]:
        """What messages call a document, and what it says (not to be changed: it is remembered).

        Raises:
            InputError: no such document, not YAML, or no mapping.
        """
        where, text = self._text(name)
        tree = _parsed(text, where)
        if not isinstance(tree, dict):
            raise InputError(f"{where} must be a mapping: the fields of a {self.kind}")
        return where, tree

    def _text(self, name: str) -> tuple[str, str]:
        if name.endswith((".yaml", ".yml")):
            with reading(f"the {self.kind} {name}"):
                return name, Path(name).read_text(encoding="utf-8")
        if name not in (known := self.names()):
            raise unknown(self.kind, name, known, f" (or give a file: {self.example})")
        return f"{self.kind} {name}", (self._place() / f"{name}.yaml").read_text("utf-8")

    def _place(self) -> Traversable:
        return files(self.package) / self.folder


SUITES = Shelf("suite", "kdbench.harness", "suites", "--suite path/to/suite.yaml")
STUDIES = Shelf("study", "kdbench.harness", "studies", "kdbench ablate path/to/study.yaml")
JUDGES = Shelf("judge", "kdbench.harness", "judges", "--judge path/to/judge.yaml")
RULES = Shelf("rulebook", "kdbench.reports", "rules", "--rules path/to/rules.yaml")
CLAIMS = Shelf("book of claims", "kdbench.reports", "claims", "--claims path/to/claims.yaml")
