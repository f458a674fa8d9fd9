"""LaTeX; the booktabs package is all it needs."""

import re
from collections.abc import Sequence
from itertools import groupby

from kdbench.reports.text.document import Block, Notes, Paragraph, Table, plain
from kdbench.reports.text.style import one_line, visible
from kdbench.reports.text.writer import Marked, split

MOST = 6
"""Columns a tabular beside those that name a row: what a page in landscape holds."""
LONGEST = 40
"""Characters of a cell from which on its column breaks lines."""


class Latex(Marked):
    """Writes tables to be put into a paper; titles are comments."""

    def heading(self, text: str, level: int) -> str:
        """A comment."""
        return f"% {one_line(text)}"

    def paragraph(self, paragraph: Paragraph) -> str:
        """A paragraph."""
        text = self.cell(paragraph.content)
        return f"\\par{{\\footnotesize {text}\\par}}" if paragraph.note else text

    def table(self, table: Table) -> str:
        """As many tabulars as it takes."""
        parts = (
            split(table, lambda part: len(part.head) - part.keys <= MOST) if table.head else [table]
        )
        return "\n\n".join(map(self._tabular, parts))

    def _tabular(self, table: Table) -> str:
        columns = len(table.head) or max((len(row) for row in table.rows), default=0)
        rows = [" & ".join(map(self.cell, row)) for row in table.rows]
        if 0 < table.references < len(rows):
            rows[table.references] = f"\\midrule\n{_guarded(rows[table.references])}"
        lines = [
            f"\\begin{{tabular}}{{{''.join(_kind(table, place) for place in range(columns))}}}",
            "\\toprule",
        ]
        if any(table.groups):
            lines += self._groups(table.groups)
        if table.head:
            lines += [_guarded(" & ".join(map(self.plain, table.head))) + " \\\\", "\\midrule"]
        lines += [f"{_guarded(row)} \\\\" for row in rows]
        return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"])

    def _groups(self, groups: Sequence[str]) -> list[str]:
        """The line of what columns have in common, with a rule under each."""
        heads, rules, start = [], [], 1
        for name, members in groupby(groups):
            end = start + len(list(members)) - 1
            heads += [f"\\multicolumn{{{end - start + 1}}}{{c}}{{{self.plain(name)}}}"]
            rules += [f"\\cmidrule(lr){{{start}-{end}}}"] if name else []
            start = end + 1
        return [" & ".join(heads) + " \\\\", " ".join(rules)]

    def notes(self, notes: Notes) -> str:
        """Small lines."""
        lines = [self.cell(line) for line in self.note_lines(notes)]
        lines += [f"Signature: {self.plain(notes.signature)}"] if notes.signature else []
        return "\\par{\\footnotesize " + " \\\\ ".join(map(_guarded, lines)) + "\\par}"

    def block(self, block: Block) -> str:
        """Lines of a typewriter."""
        lines = [_guarded(self.plain(line)) or "~" for line in visible(block.text).split("\n")]
        return "\\par{\\ttfamily " + " \\\\ ".join(lines) + "\\par}"

    def escape(self, text: str) -> str:
        """See `tex`."""
        return tex(text)

    def code(self, text: str) -> str:
        """Letters of a typewriter."""
        return f"\\texttt{{{self.plain(text)}}}"

    def strong(self, marked: str) -> str:
        """Bold."""
        return f"\\textbf{{{marked}}}"

    def small(self, marked: str) -> str:
        """In the script size."""
        return f" {{\\scriptsize {marked}}}"

    def letter(self, letter: str) -> str:
        """Raised."""
        return f"\\textsuperscript{{{letter}}}"


def _kind(table: Table, column: int) -> str:
    if column in table.right:
        return "r"
    longest = max((len(plain(row[column])) for row in table.rows), default=0)
    return "l" if longest <= LONGEST else "p{0.35\\linewidth}"


def _guarded(line: str) -> str:
    r"""A line that the ``\\`` before it cannot take for its argument or its star."""
    return f"{{}}{line}" if line.startswith(("[", "*")) else line


_TEX = {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "→": "$\\rightarrow$",
    "×": "$\\times$",
    "–": "\\textendash{}",
    "−": "$-$",
    "α": "$\\alpha$",
    "β": "$\\beta$",
    "‖": "$\\Vert$",
    "‘": "`",
    "’": "'",
    "“": "``",
    "”": "''",
    "…": "\\ldots{}",
    "·": "$\\cdot$",
    "∞": "$\\infty$",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def tex(text: str) -> str:
    """Text that LaTeX shows as it is, on one line."""
    shown = "".join(map(_character, " ".join(text.split())))
    return re.sub("-(?=-)", "-{}", shown)  # two hyphens are no dash


def _character(character: str) -> str:
    """What pdflatex knows without further packages; any other character by its number."""
    known = _TEX.get(character)
    if known is None:
        plain = " " <= character <= "~" or ("À" <= character <= "ÿ" and character not in "ÐÞðþ×÷")
        known = character if plain else f"{{\\ttfamily U+{ord(character):04X}}}"
    return known
