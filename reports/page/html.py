"""A board as one self-contained HTML page: no server, no network, no script but its own.

What runs hold (names, configurations, prompts, answers) is data that nobody vouches for. It goes
into the page as one JSON document with every ``<``, ``>`` and ``&`` escaped, and answers in packed
blocks (see `blocks`); the page's script puts both into the document as text only. The page's
Content-Security-Policy allows the one style and the one script whose hashes it names and no request at
all, so even a slip there would run nothing. Links lead to arXiv only, by an id of arXiv's form.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jinja2

from kdbench.reports.page.blocks import Packed, fitting
from kdbench.reports.page.data import page_data
from kdbench.reports.page.samples import Answers, answers
from kdbench.reports.text.html import policy_hash, script_json, web

if TYPE_CHECKING:
    from kdbench.reports.board import Built

SCRIPTS = (
    "core.js", "state.js", "figure.js", "ranks.js", "scatter.js", "headline.js", "columns.js", "table.js",
    "csv.js", "matrix.js", "diff.js", "answers.js", "samples.js", "card.js", "main.js",
)  # fmt: skip
"""Of ``web/``, in the order in which they are joined."""
MAX_BYTES = 20_000_000
"""Of the whole page; prompts are left out until it is smaller, and it says so."""
ELEMENT = 200
"""Bytes around a block, at most."""


def render_html(built: "Built") -> str:
    """The page: sortable, filterable, with cards and answers, light and dark."""
    found = [
        answers(table, rows) for table, rows in zip(built.board.tables, built.found, strict=True)
    ]
    every = [each for table in found for each in table]
    bare = _page(built, found, [Packed(each, len(each.prompts), "") for each in every])
    room = MAX_BYTES - len(bare.encode()) - ELEMENT * len(every)
    return _page(built, found, fitting(every, room))


def _page(built: "Built", found: Sequence[Sequence[Answers]], packed: Sequence[Packed]) -> str:
    style, script = web("page.css"), web(*SCRIPTS)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    blocks = iter(packed)
    by_table = [[next(blocks) for _ in table] for table in found]
    return environment.from_string(web("page.html")).render(
        title="kdbench leaderboard",
        data=script_json(page_data(built, by_table, MAX_BYTES)),
        blocks=[each.text for each in packed],
        style=style,
        script=script,
        style_hash=policy_hash(style),
        script_hash=policy_hash(script),
    )
