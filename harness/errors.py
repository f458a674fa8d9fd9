"""Our exceptions. A user's mistake is one of these and is printed as one sentence (with what lay below
it by ``--debug``); a bug keeps its traceback.

To add one: subclass the category whose exit code fits, write the message as *what, where, what to do*.
"""

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

LISTED = 20
"""Names that a sentence lists at most."""
DIVERGED = "training diverged"
"""How the sentence of a training begins that ended because its numbers left the finite ones."""


class KdbenchError(Exception):
    """Root of everything kdbench raises on purpose.

    Attributes:
        exit_code: process exit status of the command line (0 done, 1 a cell failed, 2 input error,
            3 a rule or number check failed, 130 interrupted).
    """

    exit_code = 1


class InputError(KdbenchError, ValueError):
    """The user asked for something that cannot be done: bad option, missing or malformed file."""

    exit_code = 2


class Damaged(InputError):
    """A file that kdbench wrote is not as it was written."""


class RunLocked(InputError):
    """Another live process is writing the same run folder."""


class DriftError(InputError):
    """Code, or a model that is trained from, changed since the run folder was begun."""


class CellFailed(KdbenchError):
    """One cell of a larger job failed; the others are kept."""


class CheckFailed(KdbenchError):
    """A fair-comparison rule, a reference number or a regenerated file does not match."""

    exit_code = 3


def unknown(kind: str, name: str, known: Iterable[str], where: str = "") -> InputError:
    """The error for a name that is not there: offers the nearest ones, else lists what there is."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    near += [n for n in names if n not in near and len(name) >= 3 and name in n][: 3 - len(near)]
    more = ", …" if len(names) > LISTED else ""
    listed = f"choose from {', '.join(names[:LISTED])}{more}"
    hint = f"did you mean {' or '.join(near)}?" if near else listed
    return InputError(f"no {kind} is called {name!r}{where}; {hint}")


def unfit(where: object, error: "ValidationError", whole: str = "document") -> InputError:
    """The error for a value that does not fit its model: the place, the field, what was given.

    Args:
        where: file, flag or whatever holds the value.
        error: of pydantic; its first problem is said.
        whole: what the document is called if it is wrong as a whole.
    """
    problem = error.errors(include_url=False)[0]
    field = ".".join(map(str, problem["loc"])) or whole
    message = problem["msg"].removeprefix("Value error, ")
    given = _brief(problem["input"])
    said = problem["type"] not in ("missing", "value_error") and len(given) <= 60
    got = f" (got {given})" if said else ""
    return InputError(f"{where}: {field}: {message[:1].lower()}{message[1:]}{got}")


def _brief(value: object) -> str:
    """A value as Python writes it, if that can be had and is short enough to say."""
    try:
        return repr(value)
    except (RecursionError, ValueError):  # nested too deeply, or an integer of 5,000 digits
        return "…" * 61


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU's memory was full, which says nothing of the model that was tried; without torch."""
    return type(error).__name__ == "OutOfMemoryError"
