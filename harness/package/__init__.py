"""kdbench: knowledge distillation of language models, compared honestly.

What a notebook or a program calls; the command line (``kdbench``, ``python -m kdbench``) calls the same::

    import kdbench

    best = kdbench.distill("my-teacher", "prune:12", "rows.jsonl")
    best.student                    # the best student, an ordinary Hugging Face folder

    made = kdbench.run("fkd", suite="mini-test")
    made.table                      # a pandas DataFrame: truth, teacher, init and student

Nothing heavy is imported before the first call. A mistake of the caller raises
`kdbench.InputError` (a ``ValueError``) with one sentence: what, where, what to do.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdbench.harness.api.boards import leaderboard as leaderboard
    from kdbench.harness.api.boards import load_run as load_run
    from kdbench.harness.api.distilling import Distilled as Distilled
    from kdbench.harness.api.distilling import distill as distill
    from kdbench.harness.api.results import Board as Board
    from kdbench.harness.api.results import Made as Made
    from kdbench.harness.api.running import evaluate as evaluate
    from kdbench.harness.api.running import run as run
    from kdbench.harness.errors import InputError as InputError
    from kdbench.harness.errors import KdbenchError as KdbenchError

    __version__: str

PLACES = {
    "distill": "api.distilling",
    "run": "api.running",
    "evaluate": "api.running",
    "leaderboard": "api.boards",
    "load_run": "api.boards",
    "Distilled": "api.distilling",
    "Made": "api.results",
    "Board": "api.results",
    "InputError": "errors",
    "KdbenchError": "errors",
}
"""Public name -> where in ``kdbench.harness`` it is made."""

__all__ = ["__version__", *PLACES]  # all are text


def __getattr__(name: str) -> Any:
    """Public names, made when they are first asked for."""
    if name == "__version__":
        from importlib.metadata import version

        found: Any = version("kdbench")
    elif name in PLACES:
        found = getattr(import_module(f"kdbench.harness.{PLACES[name]}"), name)
    else:
        raise AttributeError(f"module 'kdbench' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Public names, those that nobody asked for yet too."""
    return sorted({*globals(), *__all__})
