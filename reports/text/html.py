"""One HTML file: no script, no network, pictures inside, light and dark."""

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources

import jinja2

from kdbench.reports.text.document import Document, Part, Piece
from kdbench.reports.text.style import Footnotes, visible
from kdbench.reports.text.writer import pieces


def write_html(document: Document, images: Mapping[str, bytes] | None = None) -> str:
    """The document as a page; its text is escaped, and its policy allows nothing but its own style.

    Args:
        document: what to show.
        images: SVG file of each `Picture` by its name.
    """
    files = resources.files("kdbench.reports") / "web"
    style = (files / "document.css").read_text(encoding="utf-8")
    footnotes = Footnotes()
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "pieces": pieces,
        "visible": visible,
        "kind": _kind,
        "letter": footnotes.mark,
    }
    template = environment.from_string((files / "document.html").read_text(encoding="utf-8"))
    return template.render(
        document=document,
        explained=footnotes.explained,
        style=style,
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        images={name: base64.b64encode(data).decode() for name, data in (images or {}).items()},
    )


def _kind(thing: Part | Piece) -> str:
    return type(thing).__name__
