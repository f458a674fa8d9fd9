"""What a check of a machine, a model or a pair says."""

from typing import Literal, NamedTuple


class Finding(NamedTuple):
    """One thing that was looked at. ``fail`` stops runs, ``warn`` some of them.

    Attributes:
        what: was looked at, a word.
        found: a sentence without a full stop; of a failure: what, where, what to do.
        state: what follows.
    """

    what: str
    found: str
    state: Literal["ok", "warn", "fail"] = "ok"
