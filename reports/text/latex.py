"""LaTeX; the booktabs package is all it needs."""

import re
from collections.abc import Sequence
from itertools import groupby

from kdbench.harness.printing import one_line, visible
from kdbench.reports.text import document as doc
from kdbench.reports.text.writer import Marked, plain, split

MOST = 6
"""Columns a tabular beside those that name a row: what a page in landscape holds."""
FLOAT = 7
"""Columns of a float in its usual size."""
LONGEST = 40
"""Characters of a cell from which on its column breaks lines."""
MARKS = {
    doc.Code: "\\texttt{%s}",
    doc.Strong: "\\textbf{%s}",
    doc.Small: " {\\scriptsize %s}",
    doc.Note: "\\textsuperscript{\\,%s}",
}


class Latex(Marked):
    """Writes tables to be put into a paper; titles are comments."""

    def __init__(self) -> None:
        super().__init__(tex, MARKS)

    def heading(self, text: str, level: int) -> str:
        """A comment."""
        return f"% {one_line(text)}"

    def paragraph(self, paragraph: doc.Paragraph) -> str:
        """A paragraph."""
        return self.cell(paragraph.content)

    def table(self, table: doc.Table) -> str:
        """As many tabulars as it takes; with a caption one float."""
        if table.caption:
            return self._float(table)
        parts = (
            split(table, lambda part: len(part.head) - part.keys <= MOST) if table.head else [table]
        )
        return "\n\n".join(map(self._tabular, parts))

    def _float(self, table: doc.Table) -> str:
        """A whole table as a paper prints it; a wide one is set smaller."""
        size = (
            "\\small" if len(table.head) <= FLOAT else "\\scriptsize\\setlength{\\tabcolsep}{3pt}"
        )
        lines = ["\\begin{table}[t]", "\\centering", size]
        lines += [f"\\caption{{{self.plain(table.caption)}}}", self._tabular(table)]
        return "\n".join([*lines, "\\end{table}"])

    def _tabular(self, table: doc.Table) -> str:
        columns = range(len(table.head) or max((len(row) for row in table.rows), default=0))
        kinds = "".join(_kind(table, place) for place in columns)
        lines = [f"\\begin{{tabular}}{{{kinds}}}", "\\toprule"]
        lines += self._groups(table.groups) if table.groups else []
        lines += [self._line(table.head), "\\midrule"] if table.head else []
        for place, row in enumerate(table.rows):
            lines += ["\\midrule"] if 0 < place == table.references else []
            lines.append(self._line(row))
        return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"])

    def _line(self, row: Sequence[doc.Cell]) -> str:
        return _guarded(" & ".join(map(self.cell, row))) + " \\\\"

    def _groups(self, groups: Sequence[str]) -> list[str]:
        """The line of what columns have in common, with a rule under each."""
        heads, rules, start = [], [], 1
        for name, members in groupby(groups):
            size = len(list(members))
            heads.append(f"\\multicolumn{{{size}}}{{c}}{{{self.plain(name)}}}")
            rules += [f"\\cmidrule(lr){{{start}-{start + size - 1}}}"] if name else []
            start += size
        return [" & ".join(heads) + " \\\\", " ".join(rules)]

    def notes(self, notes: doc.Notes) -> str:
        """Small lines."""
        signature = [f"Signature: {notes.signature}"] if notes.signature else []
        lines = [_guarded(self.cell(line)) for line in [*self.lines(notes), *signature]]
        return "\\par{\\footnotesize " + " \\\\ ".join(lines) + "\\par}"

    def block(self, block: doc.Block) -> str:
        """Lines of a typewriter."""
        lines = [_guarded(self.plain(line)) or "~" for line in visible(block.text).split("\n")]
        return "\\par{\\ttfamily " + " \\\\ ".join(lines) + "\\par}"


def _kind(table: doc.Table, column: int) -> str:
    longest = max((len(plain(row[column])) for row in table.rows), default=0)
    return "r" if column in table.right else "l" if longest <= LONGEST else "p{0.35\\linewidth}"


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
    "±": "$\\pm$",
    "†": "\\dag{}",
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
    plain = " " <= character <= "~" or ("À" <= character <= "ÿ" and character not in "ÐÞðþ×÷")
    number = f"{{\\ttfamily U+{ord(character):04X}}}"
    return _TEX.get(character, character if plain else number)
