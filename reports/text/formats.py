"""The formats that a document is written in."""

from collections.abc import Callable

from kdbench.harness.errors import InputError
from kdbench.reports.text.document import Document
from kdbench.reports.text.latex import Latex
from kdbench.reports.text.markdown import Markdown
from kdbench.reports.text.terminal import Terminal, for_screen
from kdbench.reports.text.writer import Writer

FILE_WIDTH = 120
"""Columns of the terminal format in a file."""


def write(document: Document, format: str, *, width: int | None = FILE_WIDTH) -> str:
    """A document as text.

    Args:
        document: what to write.
        format: terminal, md, latex, csv or html.
        width: columns of the terminal format; None: those of the screen, and bold if it is one.

    Raises:
        InputError: no such format.
    """
    if format == "csv":
        from kdbench.reports.text.csv import csv_text, frame  # pandas takes a while to load

        return csv_text(frame(document.rows))
    if format == "html":
        from kdbench.reports.text.html import write_html

        return write_html(document)
    writers: dict[str, Callable[[], Writer]] = {
        "terminal": lambda: Terminal(width) if width else for_screen(),
        "md": Markdown,
        "latex": Latex,
    }
    if format not in writers:
        known = ", ".join((*writers, "csv", "html", "json"))
        raise InputError(f"unknown format {format!r}; choose one of {known}")
    return writers[format]().write(document)
