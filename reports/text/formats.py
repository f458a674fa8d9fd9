"""The formats that a document is written in."""

from collections.abc import Callable, Mapping

from kdbench.harness.errors import InputError
from kdbench.reports.text.document import Document

FILE_WIDTH = 120
"""Columns of the terminal format in a file."""


def write(document: Document, format: str, *, width: int = FILE_WIDTH) -> str:
    """A document as text.

    Args:
        document: what to write.
        format: terminal, md, latex, csv or html.
        width: columns of the terminal format.

    Raises:
        InputError: no such format.
    """
    if format not in FORMATS:
        raise InputError(
            f"unknown format {format!r}; choose one of {', '.join((*FORMATS, 'json'))}"
        )
    return FORMATS[format](document, width)


def _terminal(document: Document, width: int) -> str:
    from kdbench.reports.text.terminal import Terminal  # rich only when it is drawn on

    return Terminal(width).write(document)


def _markdown(document: Document, width: int) -> str:
    from kdbench.reports.text.markdown import Markdown

    return Markdown().write(document)


def _latex(document: Document, width: int) -> str:
    from kdbench.reports.text.latex import Latex

    return Latex().write(document)


def _csv(document: Document, width: int) -> str:
    from kdbench.reports.text.csv import csv_text, frame

    return csv_text(frame(document.rows))


def _html(document: Document, width: int) -> str:
    from kdbench.reports.text.html import write_html

    return write_html(document)


FORMATS: Mapping[str, Callable[[Document, int], str]] = {
    "terminal": _terminal,
    "md": _markdown,
    "latex": _latex,
    "csv": _csv,
    "html": _html,
}
