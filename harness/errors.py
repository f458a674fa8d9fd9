"""Our exceptions. A user's mistake is one of these and is printed as one sentence; a bug keeps its
traceback.

To add one: subclass the category whose exit code fits, write the message as *what, where, what to do*.
"""

import difflib
from collections.abc import Iterable


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


class RunLocked(InputError):
    """Another live process is writing the same run folder."""


class DriftError(InputError):
    """Code, configuration or data changed since the run folder was begun."""


class CellFailed(KdbenchError):
    """One cell of a larger job failed; the others are kept."""


class CheckFailed(KdbenchError):
    """A fair-comparison rule, a reference number or a regenerated file does not match."""

    exit_code = 3


def unknown(kind: str, name: str, known: Iterable[str], where: str = "") -> InputError:
    """The error for a name that is not there: offers the nearest ones, else lists all."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    near += [n for n in names if n not in near and len(name) >= 3 and name in n][: 3 - len(near)]
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(names)}"
    return InputError(f"no {kind} is called {name!r}{where}; {hint}")
