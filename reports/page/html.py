"""A board as one self-contained HTML page: no server, no network, no script but its own.

What runs hold (names, configurations, prompts, answers) is data that nobody vouches for. It goes
into the page as one JSON document with every ``<``, ``>`` and ``&`` escaped, and the page's script
puts it into the document as text only. The page's Content-Security-Policy allows the one style and
the one script whose hashes it names and no request at all, so even a slip there would run nothing.
"""

import json
import re
from typing import TYPE_CHECKING

import jinja2

from kdbench.reports.page.data import page_data
from kdbench.reports.text.html import policy_hash, web

if TYPE_CHECKING:
    from kdbench.reports.board import Built

SCRIPTS = ("core.js", "headline.js", "table.js", "matrix.js", "samples.js", "card.js", "main.js")
"""Of ``web/``, in the order in which they are joined."""
MAX_BYTES = 19_000_000
"""Of the whole page; prompts are left out until it is smaller."""
PROMPTS = (24, 16, 12, 8, 6, 4, 3, 2, 1, 0)
"""Prompts a task of the sample viewer: the largest of these numbers that the page has room for."""


def render_html(built: "Built") -> str:
    """The page: sortable, filterable, with cards and samples, light and dark."""
    text = ""
    for prompts in PROMPTS:
        text = _page(script_json(page_data(built, prompts)))
        if len(text.encode()) <= MAX_BYTES:
            break
    return text


def script_json(value: object) -> str:
    """JSON that no text in it can lead out of a ``<script>`` element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = re.sub("[\ud800-\udfff]", "\ufffd", text)  # half a character: no file can hold it
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _page(data: str) -> str:
    style, script = web("page.css"), web(*SCRIPTS)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(web("page.html")).render(
        title="kdbench leaderboard",
        data=data,
        style=style,
        script=script,
        style_hash=policy_hash(style),
        script_hash=policy_hash(script),
    )
