"""The rules as data: ``<version>.yaml`` beside this file, or a file of the user's."""

from typing import Literal, Self

from pydantic import model_validator

from kdbench.harness.files.records import Record
from kdbench.harness.files.shipped import RULES

DEFAULT = "closed-v1"
TESTS = ("same", "within", "one_of", "at_most", "stated")


class Rule(Record):
    """One test of one fact (`kdbench.reports.rules.facts`); what each means is in the YAML file."""

    name: str
    says: str
    fact: str
    same: bool = False
    per: Literal["training_seed"] | None = None
    within: float | None = None
    one_of: list[str] = []
    at_most: float | None = None
    stated: bool = False
    unrecorded: Literal["breaks", "passes"] = "breaks"

    @property
    def compares(self) -> bool:
        """Whether it compares runs with each other; of a run alone it says nothing."""
        return self.same or self.within is not None

    @model_validator(mode="after")
    def _one_test(self) -> Self:
        given = [name for name in TESTS if name in self.model_fields_set]
        if len(given) != 1:
            raise ValueError(f"rule {self.name!r} needs exactly one of {', '.join(TESTS)}")
        return self


class Rulebook(Record):
    """A division's rules."""

    version: str
    rules: list[Rule]


def rulebook(name: str = DEFAULT) -> Rulebook:
    """The rules of a version that comes with kdbench, or of a YAML file.

    Raises:
        InputError: no such version or file, or it is no rulebook.
    """
    return RULES.load(name, Rulebook)
