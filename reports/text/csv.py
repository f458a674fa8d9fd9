"""Tables as data: pandas frames, and CSV written from them."""

from collections.abc import Mapping, Sequence

import pandas

from kdbench.reports.text.style import visible


def frame(rows: Sequence[Mapping[str, object]]) -> pandas.DataFrame:
    """Rows as a data frame: columns in order of first appearance, absent values missing, lists as text."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pandas.DataFrame(
        {name: pandas.array([_plain(row.get(name)) for row in rows]) for name in names}
    )


def csv_text(table: pandas.DataFrame) -> str:
    """A data frame as CSV that no spreadsheet runs and no terminal obeys."""
    numbers = {name: "Int64" for name, kind in table.dtypes.items() if kind == "boolean"}
    safe = table.astype(numbers).apply(lambda column: column.map(_no_formula, na_action="ignore"))
    return visible(safe.to_csv(index=False, lineterminator="\n"))


def _plain(value: object) -> object:
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _no_formula(value: object) -> object:
    """Text that a spreadsheet would run gets a ``'`` in front, which makes it text there too."""
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    return value if all(map(_is_number, value.split())) else f"'{value}"


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
