"""Tables as data: pandas frames, and CSV written from them."""

import re
from collections.abc import Iterator, Mapping, Sequence

import pandas

from kdbench.harness.printing import visible

NUMBER = r"[-+]?\d+(\.\d*)?(e[-+]?\d+)?"
NUMBERS = re.compile(f"{NUMBER}( {NUMBER})*")
"""Text that is no formula although it may begin like one."""
STARTS = tuple("=+-@＝＋－＠")
"""What a formula begins with."""


def frame(rows: Sequence[Mapping[str, object]]) -> pandas.DataFrame:
    """Rows as a data frame: columns in order of first appearance, absent values missing.

    A mapping in a row becomes a column for each of its keys, a list one text.
    """
    flat = [dict(_flat(row)) for row in rows]
    names = dict.fromkeys(name for row in flat for name in row)
    return pandas.DataFrame({name: pandas.array([row.get(name) for row in flat]) for name in names})


def csv_text(table: pandas.DataFrame) -> str:
    """A data frame as CSV that no spreadsheet runs and no terminal obeys."""
    numbers = {name: "Int64" for name, kind in table.dtypes.items() if kind == "boolean"}
    safe = table.astype(numbers).apply(lambda column: column.map(_no_formula, na_action="ignore"))
    safe = safe.rename(columns=_no_formula)
    return visible(safe.to_csv(index=False, lineterminator="\n"))


def _flat(row: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            text = " ".join(map(str, value)) if isinstance(value, list) else value
            yield f"{prefix}{name}", text


def _no_formula(value: object) -> object:
    """Text that a spreadsheet would run gets a ``'`` in front, which makes it text there too."""
    if not isinstance(value, str) or NUMBERS.fullmatch(value):
        return value
    # blanks in front are dropped, and full-width signs read as signs, before it is looked at
    runs = value.startswith(("\t", "\r", "\n")) or value.lstrip().startswith(STARTS)
    return f"'{value}" if runs else value
