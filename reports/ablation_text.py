"""A study's table on a terminal, as Markdown, LaTeX (booktabs), CSV and JSON."""

import io
import json

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from kdbench.harness.files.records import Missing
from kdbench.harness.metrics import info
from kdbench.reports.ablation import Ablation, AblationCell, AblationRow, Claim, Effect
from kdbench.reports.latex import tex
from kdbench.reports.markdown import escape
from kdbench.reports.model import Cell, Column
from kdbench.reports.text import Footnotes, code, interval, number

MINUS = "−"


def render_terminal(ablation: Ablation) -> str:
    """A block a task: value, difference, interval and corrected p of each headline metric."""
    footnotes = Footnotes()
    shown = [i for i, c in enumerate(ablation.columns) if info(c.metric).headline]
    shown = shown or list(range(len(ablation.columns)))
    parts = [ablation.title]
    for index in shown:
        column = ablation.columns[index]
        drawn = RichTable(box=None, pad_edge=False, padding=(0, 2), header_style="bold")
        drawn.add_column(Text(f"{column.heading} {info(column.metric).label}"))
        papers = any(row[index].paper for row in ablation.cells)
        heads = ["", "", "difference", "95%", "p (Holm)", *(["paper"] if papers else [])]
        for head in heads[1:]:
            drawn.add_column(head, justify="right", no_wrap=True)
        for row, cells in zip(ablation.rows, ablation.cells, strict=True):
            texts = _fields(cells[index], column, footnotes, papers)
            drawn.add_row(Text(_label(row, ablation)), *map(Text, texts))
        parts.append(_draw(drawn))
    parts.append(
        "\n".join([*_footer(ablation, footnotes, "*"), f"signature: {ablation.signature}"])
    )
    return "\n".join(parts) + "\n"


def _draw(drawn: RichTable) -> str:
    sink = io.StringIO()
    Console(file=sink, width=120, highlight=False, color_system=None).print(drawn)
    return "\n".join(line.rstrip() for line in sink.getvalue().splitlines()) + "\n"


def _fields(cell: AblationCell, column: Column, notes: Footnotes, papers: bool) -> list[str]:
    """Value, difference, interval, p and the paper's difference as texts."""
    value, effect = cell.value, cell.effect
    if isinstance(value, Missing):
        texts = [f"– {notes.mark(value.missing)}", "", "", ""]
    else:
        mark = f" {notes.mark(value.note)}" if value.note else ""
        texts = [f"{number(value.mean, column.metric)}{mark}", "", "", ""]
    if effect:
        star = "*" if effect.significant else ""
        texts[1:] = [
            f"{signed(effect.difference, column.metric)}{star}",
            _bounds(effect, column.metric),
            p_value(effect.p_holm),
        ]
    return [*texts, _paper(cell.paper, column.metric)] if papers else texts


def render_markdown(ablation: Ablation) -> str:
    """One pipe table: a column a metric, with a second line for the difference."""
    footnotes = Footnotes()
    heads = [f"{escape(c.heading)}<br>{escape(info(c.metric).label)}" for c in ablation.columns]
    lines = [
        f"### {escape(ablation.title)}",
        "",
        "| " + " | ".join(["row", *heads]) + " |",
        "|:---|" + "---:|" * len(heads),
    ]
    for row, cells in zip(ablation.rows, ablation.cells, strict=True):
        texts = [_md_cell(c, k, footnotes) for c, k in zip(cells, ablation.columns, strict=True)]
        lines.append("| " + " | ".join([escape(_label(row, ablation)), *texts]) + " |")
    lines += ["", *(f"{escape(line)}  " for line in _footer(ablation, footnotes, "bold"))]
    return "\n".join([*lines, f"`{code(ablation.signature)}`"]) + "\n"


def _md_cell(cell: AblationCell, column: Column, footnotes: Footnotes) -> str:
    if isinstance(cell.value, Missing):
        text = f"– <sup>{footnotes.mark(cell.value.missing)}</sup>"
    else:
        note = f" <sup>{footnotes.mark(cell.value.note)}</sup>" if cell.value.note else ""
        text = f"{number(cell.value.mean, column.metric)}{note}"
        if cell.effect is None:
            text += f" {interval(cell.value, column.metric)}"
    if cell.effect:
        difference = signed(cell.effect.difference, column.metric)
        shown = f"**{difference}**" if cell.effect.significant else difference
        bounds = _bounds(cell.effect, column.metric)
        text += f"<br>{shown} {bounds} p {p_value(cell.effect.p_holm)}"
    if cell.paper:
        text += f"<br>paper {escape(_paper(cell.paper, column.metric))}"
    return text


def render_latex(ablation: Ablation) -> str:
    """A table a task; the booktabs package is all it needs."""
    parts, footnotes = [], Footnotes()
    for index, column in enumerate(ablation.columns):
        papers = any(row[index].paper for row in ablation.cells)
        heads = [info(column.metric).label, "Difference", "95\\%", "$p$ (Holm)"]
        heads += ["Paper"] if papers else []
        lines = [
            f"% {code(ablation.title)}: {code(column.heading)}",
            f"\\begin{{tabular}}{{l{'r' * len(heads)}}}",
            "\\toprule",
            " & ".join([tex(column.heading), tex(heads[0]), *heads[1:]]) + " \\\\",
            "\\midrule",
        ]
        for row, cells in zip(ablation.rows, ablation.cells, strict=True):
            lines.append(_latex_row(row, cells[index], column, ablation, footnotes, papers))
        parts.append("\n".join([*lines, "\\bottomrule", "\\end{tabular}"]))
    below = [*_footer(ablation, footnotes, "bold"), f"Signature: {ablation.signature}"]
    parts.append("\\par{\\footnotesize " + " \\\\ ".join(map(tex, below)) + "\\par}")
    return "\n\n".join(parts) + "\n"


def _latex_row(
    row: AblationRow,
    cell: AblationCell,
    column: Column,
    ablation: Ablation,
    footnotes: Footnotes,
    papers: bool,
) -> str:
    if isinstance(cell.value, Missing):
        value = f"--\\textsuperscript{{{footnotes.mark(cell.value.missing)}}}"
    else:
        note = footnotes.mark(cell.value.note) if cell.value.note else ""
        mark = f"\\textsuperscript{{{note}}}" if note else ""
        value = f"{number(cell.value.mean, column.metric)}{mark}"
    texts = [value, "", "", ""]
    if cell.effect:
        difference = tex(signed(cell.effect.difference, column.metric))
        texts[1:] = [
            f"\\textbf{{{difference}}}" if cell.effect.significant else difference,
            tex(_bounds(cell.effect, column.metric)),
            tex(p_value(cell.effect.p_holm)),
        ]
    if papers:
        texts.append(tex(_paper(cell.paper, column.metric)))
    return " & ".join([tex(_label(row, ablation)), *texts]) + " \\\\"


def render_csv(ablation: Ablation) -> str:
    """One line a cell, so that a data frame reads it as it is."""
    from kdbench.reports.plotting import csv_text

    return csv_text(
        [
            _flat(row, cell, column, ablation)
            for row, cells in zip(ablation.rows, ablation.cells, strict=True)
            for column, cell in zip(ablation.columns, cells, strict=True)
        ]
    )


def _flat(
    row: AblationRow, cell: AblationCell, column: Column, ablation: Ablation
) -> dict[str, object]:
    value, effect, paper = cell.value, cell.effect, cell.paper
    found = value if isinstance(value, Cell) else None
    return {
        "row": row.label,
        "is_base": int(row.label == ablation.base),
        "training_seeds": " ".join(map(str, row.training_seeds)),
        "runs": " ".join(row.runs),
        "task": column.task,
        "edition": column.edition,
        "protocol": column.protocol,
        "metric": column.metric,
        "mean": found.mean if found else "",
        "low": found.low if found and found.low is not None else "",
        "high": found.high if found and found.high is not None else "",
        "difference": effect.difference if effect else "",
        "difference_low": effect.low if effect else "",
        "difference_high": effect.high if effect else "",
        "p": effect.p if effect else "",
        "p_holm": effect.p_holm if effect else "",
        "n_prompts": effect.n_prompts if effect else found.n_prompts if found else "",
        "paper_difference": paper.difference if paper else "",
        "same_sign": "" if paper is None or paper.same_sign is None else int(paper.same_sign),
        "reason": found.note if found else value.missing if isinstance(value, Missing) else "",
        "signature": ablation.signature,
    }


def render_json(ablation: Ablation) -> str:
    """The table as it is (``ablation.Ablation``)."""
    return json.dumps(ablation.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"


# -- what they share ------------------------------------------------------------------------------


def signed(value: float, metric: str) -> str:
    """A difference with its sign, a real minus."""
    text = number(value, metric)
    return text.replace("-", MINUS) if text.startswith("-") else f"+{text}"


def p_value(p: float) -> str:
    """A p-value in three digits."""
    return "<.001" if p < 0.001 else "1" if p >= 0.9995 else f"{p:.3f}".removeprefix("0")


def _bounds(effect: Effect, metric: str) -> str:
    return f"[{signed(effect.low, metric)}, {signed(effect.high, metric)}]"


def _paper(claim: Claim | None, metric: str) -> str:
    if claim is None:
        return ""
    words = {True: ", same sign", False: ", opposite sign", None: ""}[claim.same_sign]
    unsure = "" if claim.same_sign is None or claim.significant else " (n.s.)"
    return f"{signed(claim.difference, metric)}{words}{unsure}"


def _label(row: AblationRow, ablation: Ablation) -> str:
    seeds = f" ×{len(row.training_seeds)}" if len(row.training_seeds) > 1 else ""
    return f"{row.label}{' (base)' if row.label == ablation.base else ''}{seeds}"


def _footer(ablation: Ablation, footnotes: Footnotes, mark: str) -> list[str]:
    lines = [
        f"difference: row minus {ablation.base} [95% interval]; {mark}: p below .05 after Holm's "
        "correction"
    ]
    if any(cell.paper for row in ablation.cells for cell in row):
        sources = ", ".join(filter(None, (ablation.paper, ablation.published_pair)))
        lines.append(f"paper: difference of its own numbers ({sources}); n.s.: ours may be noise")
    lines += [f"{letter}: {reason}" for reason, letter in footnotes.letters.items()]
    return lines + ablation.notes
