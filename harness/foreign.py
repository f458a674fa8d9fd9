"""The one wrapper around what we did not write: parsers, loaders, model code, plug-ins.

Whatever goes wrong in there is the input's doing as far as a user can tell, so it ends in one sentence:
what, why in its own words, what to do. The exception itself stays as the cause, for ``--debug``.
"""

import contextlib
from collections.abc import Iterator

from kdbench.harness.errors import InputError, KdbenchError, is_out_of_memory
from kdbench.harness.printing import elided, shortened

REASON = 200
"""Characters of a foreign message that a sentence repeats."""


@contextlib.contextmanager
def foreign(what: str, remedy: str = "") -> Iterator[None]:
    """Runs foreign code; any exception but our own becomes an `InputError` of one sentence.

    Args:
        what: what was tried, with its place: ``cannot load a tokenizer from 'folder'``.
        remedy: what to do, without a full stop.

    Raises:
        InputError: the code inside raised; a panic of Rust code and ``sys.exit`` count.
    """
    try:
        yield
    except KdbenchError:
        raise
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        if is_out_of_memory(error):  # not the input's doing
            raise
        raise InputError(f"{what} ({reason(error)}){remedy and f'; {remedy}'}") from error


def reason(error: BaseException) -> str:
    """What an exception says, on one line and of bounded length; its type where the text says nothing."""
    said = shortened(str(error), REASON)
    kind = type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    bare = isinstance(error, KeyError | IndexError | AssertionError | SystemExit) or len(said) < 8
    return elided(f"{kind}: {said}" if bare and said else said or kind, REASON)
