"""A board as text. Equal boards give equal bytes, whatever the renderer."""

from kdbench.reports.data import render_csv, render_json
from kdbench.reports.latex import render_latex
from kdbench.reports.markdown import render_markdown
from kdbench.reports.terminal import render_terminal

__all__ = ["render_csv", "render_json", "render_latex", "render_markdown", "render_terminal"]
