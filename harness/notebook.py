"""A stage's line as a bar in a notebook: one output that is replaced, in any front end of Jupyter."""

import html
import sys
from typing import Any

ID = "kdbench"


def in_notebook() -> bool:
    """Whether a kernel runs this process: IPython is there only then, and nothing is imported for it."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


class Bar:
    """One output of a cell.

    It needs no widgets and so works in every front end; a stored notebook keeps the last state.
    """

    def __init__(self) -> None:
        from IPython.display import display

        self._handle: Any = display(self._drawn("", None), raw=True, display_id=True)

    def show(self, line: str, share: float | None) -> None:
        """Replaces what is shown.

        Args:
            line: what is done, how far, how long it will take.
            share: how much of it is done, in [0, 1]; None: unknown.
        """
        self._handle.update(self._drawn(line, share), raw=True)

    @staticmethod
    def _drawn(line: str, share: float | None) -> dict[str, str]:
        value = "" if share is None else f' value="{min(max(share, 0.0), 1.0):.4f}"'
        bar = f"<progress max=1{value}></progress> " if line else ""
        return {"text/plain": line, "text/html": f"<code>{bar}{html.escape(line)}</code>"}
