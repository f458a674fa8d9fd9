"""YAML documents that come with kdbench, or are the user's own: suites, studies, judges, rules."""

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NamedTuple

from kdbench.harness.errors import InputError, unknown


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

    def text(self, name: str) -> tuple[str, str]:
        """Where a document is and its text. ``name`` is one of ours or the path of a YAML file.

        Raises:
            InputError: neither, or a file that cannot be read.
        """
        if name.endswith((".yaml", ".yml")):
            try:
                return name, Path(name).read_text(encoding="utf-8")
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
                raise InputError(f"cannot read the {self.kind} {name}: {reason}") from error
            except UnicodeDecodeError as error:
                raise InputError(
                    f"the {self.kind} {name} is not UTF-8; save it as UTF-8"
                ) from error
        if name not in (known := self.names()):
            raise unknown(self.kind, name, known, f" (or give a file: {self.example})")
        return f"{self.kind} {name}", (self._place() / f"{name}.yaml").read_text("utf-8")

    def _place(self) -> Traversable:
        return files(self.package) / self.folder


SUITES = Shelf("suite", "kdbench.harness", "suites", "--suite path/to/suite.yaml")
STUDIES = Shelf("study", "kdbench.harness", "studies", "kdbench ablate path/to/study.yaml")
JUDGES = Shelf("judge", "kdbench.harness", "judges", "--judge path/to/judge.yaml")
RULES = Shelf("rulebook", "kdbench.reports", "rules", "--rules path/to/rules.yaml")
