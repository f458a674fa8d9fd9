"""Claims as data: ``<version>.yaml`` beside this file, or a file of the user's."""

from typing import Literal

from pydantic import Field

from kdbench.harness.errors import InputError
from kdbench.harness.files.records import Record
from kdbench.harness.files.shipped import CLAIMS

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

    @property
    def methods(self) -> list[str]:
        """The claim's method, then its rivals."""
        return [self.method, *self.against]

    @property
    def names(self) -> set[str]:
        """What the claim may be asked for by."""
        return {self.id, self.paper.lower()}


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
        known = set[str]().union(*(claim.names for claim in self.claims))
        for name in names:
            if name.lower() not in known:
                raise InputError(f"no claim is called {name!r}; choose {', '.join(sorted(known))}")
        wanted = {name.lower() for name in names}
        return self.model_copy(update={"claims": [c for c in self.claims if c.names & wanted]})


def claim_book(name: str = DEFAULT) -> ClaimBook:
    """The claims of a version that comes with kdbench, or of a YAML file.

    Raises:
        InputError: no such version or file, or it is no book of claims.
    """
    return CLAIMS.load(name, ClaimBook)
