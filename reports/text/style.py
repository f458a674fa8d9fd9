"""How numbers, differences, p-values and foreign characters are written, whatever the format."""

import json
from collections.abc import Callable
from typing import Protocol

from kdbench.harness.files.records import Missing
from kdbench.harness.metrics import info
from kdbench.reports.text.document import Cell, Note, Piece, Small, Strong


class Bounded(Protocol):
    """Whatever has an interval, or None where none was measured."""

    @property
    def low(self) -> float | None:
        """Its lower end."""

    @property
    def high(self) -> float | None:
        """Its upper end."""


class Measured(Bounded, Protocol):
    """A mean with its interval."""

    @property
    def mean(self) -> float:
        """The mean."""


class Difference(Bounded, Protocol):
    """A difference with its interval."""

    @property
    def difference(self) -> float:
        """First minus second."""


def fixed(value: float, digits: int) -> str:
    """A value with so many digits; no negative zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def number(value: float, metric: str) -> str:
    """A value with the metric's digits."""
    return fixed(value, info(metric).digits)


def signed(value: float, metric: str) -> str:
    """A difference with its sign, a real minus."""
    text = number(value, metric)
    return text.replace("-", "−") if text.startswith("-") else f"+{text}"


def interval(bounds: Bounded, metric: str, written: Callable[[float, str], str] = number) -> str:
    """``[low, high]``; nothing where no interval was measured."""
    if bounds.low is None or bounds.high is None:
        return ""
    return f"[{written(bounds.low, metric)}, {written(bounds.high, metric)}]"


def p_value(p: float) -> str:
    """A p-value; below a table's head, or behind ``p``."""
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"


def value_cell(
    value: Measured | Missing, metric: str, *, bold: bool = False, note: str = ""
) -> Cell:
    """A mean with its interval and a footnote; a dash with the reason as its footnote."""
    if isinstance(value, Missing):
        return ("–", Note(value.missing))
    cell = _with_interval(number(value.mean, metric), interval(value, metric), bold)
    return (*cell, Note(note)) if note else cell


def difference_cell(value: Difference, metric: str, *, bold: bool = False) -> Cell:
    """A difference with its interval, all with signs."""
    return _with_interval(signed(value.difference, metric), interval(value, metric, signed), bold)


def _with_interval(shown: str, bounds: str, bold: bool) -> tuple[Piece, ...]:
    return (Strong(shown, "*") if bold else shown, *([Small(bounds)] if bounds else []))


class Footnotes:
    """Letters for the reasons of empty and partial cells, in order of appearance."""

    def __init__(self) -> None:
        self.letters: dict[str, str] = {}

    def index(self, reason: str) -> int:
        """The place of a reason; equal reasons share one."""
        self.mark(reason)
        return list(self.letters).index(reason)

    def mark(self, reason: str) -> str:
        """The letter of a reason; equal reasons share one."""
        first, second = divmod(len(self.letters), 26)
        return self.letters.setdefault(reason, chr(96 + first) * bool(first) + chr(97 + second))

    def explained(self) -> list[str]:
        """A line for each letter; those that follow begin anew."""
        lines = [f"{letter}: {reason}" for reason, letter in self.letters.items()]
        self.letters = {}
        return lines


def printable(text: str) -> str:
    r"""``text`` on one line; every control, format and direction character as an escape (``\x1b``).

    Line ends and tabs become the signs ⏎ and ⇥, so that the text's shape stays visible.
    """
    # also false for Cf: bidirectional overrides, zero-width signs
    return text if text.isprintable() else "".join(map(_shown, text.replace("\r\n", "\n")))


def visible(text: str) -> str:
    """The text with every invisible character but line ends and tabs written as an escape."""
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in lines)


def visible_json(value: object, *, indent: int) -> str:
    """JSON with every invisible character as an escape; it reads back as the same value."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """Text on one line, safe inside a code span or a comment."""
    return " ".join(visible(text).replace("`", "'").split())


def _shown(character: str) -> str:
    code = ord(character)
    if character.isprintable():
        return character
    if character in "\n\t":
        return "⏎" if character == "\n" else "⇥"
    if character.isspace() and code > 0xFF:
        return " "
    return (
        character.encode("ascii", "backslashreplace").decode() if code > 0x7F else f"\\x{code:02x}"
    )
