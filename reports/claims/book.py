"""Claims as data."""

from importlib.resources import files
from typing import Literal

import yaml
from pydantic import Field

from kdbench.harness.errors import InputError
from kdbench.harness.files.records import Record

DEFAULT = "claims-v1"


class Claim(Record):
    """One claim and the family of tests it makes; the fields are explained in the YAML file."""

    id: str
    paper: str
    where: str
    says: str
    method: str
    against: list[str] = Field(min_length=1)
    metric: str
    better: Literal["higher", "lower"]
    tasks: list[str] = Field(min_length=1)
    references: tuple[int, int | None] | None = None
    pairs: int = 1


class ClaimBook(Record):
    """A version of the claims."""

    version: str
    claims: list[Claim]

    def only(self, names: list[str] | None) -> "ClaimBook":
        """The claims with these ids or of these papers; None: all.

        Raises:
            InputError: a name is neither.
        """
        if names is None:
            return self
        known = {claim.id for claim in self.claims} | {claim.paper.lower() for claim in self.claims}
        for name in names:
            if name.lower() not in known:
                raise InputError(f"no claim is called {name!r}; choose {', '.join(sorted(known))}")
        wanted = {name.lower() for name in names}
        kept = [c for c in self.claims if c.id in wanted or c.paper.lower() in wanted]
        return self.model_copy(update={"claims": kept})


def claim_book(version: str = DEFAULT) -> ClaimBook:
    """The claims that come with kdbench."""
    text = (files("kdbench.reports.claims") / f"{version}.yaml").read_text(encoding="utf-8")
    return ClaimBook.model_validate(yaml.safe_load(text))
