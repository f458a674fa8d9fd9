"""A document as one HTML file: no script, no network, pictures inside, light and dark."""

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources

import jinja2

from kdbench.reports.document import Cell, Code, Document, Part, visible


def render_html(document: Document, images: Mapping[str, bytes]) -> str:
    """The document as a page; its text is escaped, and its policy allows nothing but its own style.

    Args:
        document: what to show.
        images: SVG file of each `Picture` by its name.
    """
    files = resources.files("kdbench.reports") / "web"
    style = (files / "document.css").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"pieces": _pieces, "visible": visible, "kind": _kind}
    environment.tests["code"] = lambda piece: isinstance(piece, Code)
    template = environment.from_string((files / "document.html").read_text(encoding="utf-8"))
    return template.render(
        document=document,
        style=style,
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        images={name: base64.b64encode(data).decode() for name, data in images.items()},
    )


def _pieces(cell: Cell) -> tuple[str | Code, ...]:
    return (cell,) if isinstance(cell, str | Code) else cell


def _kind(part: Part) -> str:
    return type(part).__name__
