"""One HTML file: no script, no network, pictures inside, light and dark."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from importlib import resources

import jinja2

from kdbench.harness.printing import visible
from kdbench.reports.text.document import Document, Part, Piece
from kdbench.reports.text.style import Footnotes
from kdbench.reports.text.writer import pieces


def web(*names: str) -> str:
    """Files of ``web/`` joined in this order."""
    folder = resources.files("kdbench.reports") / "web"
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)


def policy_hash(text: str) -> str:
    """What a Content-Security-Policy calls a style or a script."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def json_text(value: object) -> str:
    """Compact JSON that any file can hold: half a character becomes a replacement character."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def script_json(value: object) -> str:
    """JSON that no text in it can lead out of a ``<script>`` element."""
    text = json_text(value)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def write_html(document: Document, images: Mapping[str, bytes] | None = None) -> str:
    """The document as a page; its text is escaped, and its policy allows nothing but its own style.

    Args:
        document: what to show.
        images: SVG file of each `Picture` by its name.
    """
    style = web("document.css")
    footnotes = Footnotes()
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    shown = {"pieces": pieces, "visible": visible, "kind": _kind, "letter": footnotes.mark}
    environment.filters |= shown
    return environment.from_string(web("document.html")).render(
        document=document,
        explained=footnotes.explained,
        style=style,
        style_hash=policy_hash(style),
        images={name: base64.b64encode(data).decode() for name, data in (images or {}).items()},
    )


def _kind(thing: Part | Piece) -> str:
    return type(thing).__name__
