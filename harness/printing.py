"""What is printed, and the one filter that it passes.

Names of runs, models and files, answers, error texts of libraries: whatever others wrote may hold escape
sequences that move the cursor, signs that turn the direction of text, or line ends that fake a line of
ours. While the command runs, `guarded` stands in for standard output and error, so that ``print``, log
lines and tracebacks of anybody's are filtered where they leave the process. Only `draw` goes past it,
for drawings whose words were made `printable` one by one.
"""

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from typing import TextIO


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


def visible_json(value: object, *, indent: int | None = None) -> str:
    """JSON with every invisible character as an escape; it reads back as the same value."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return "".join(c if c.isprintable() or c == "\n" else _json_escape(c) for c in text)


def shortened(text: str, length: int) -> str:
    """``text`` on one line, printable and of bounded length; what is invisible is left out."""
    return elided(" ".join("".join(c if c.isprintable() else " " for c in text).split()), length)


def elided(text: str, length: int) -> str:
    """``text``, its end left out where it is longer."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def one_line(text: str) -> str:
    """Text on one line, safe inside a code span or a comment."""
    return " ".join(visible(text).replace("`", "'").split())


def _json_escape(character: str) -> str:
    escaped = json.dumps(character)[1:-1]
    return escaped if escaped != character else f"\\u{ord(character):04x}"  # DEL


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


# -- the edge -------------------------------------------------------------------------------------


class Guarded(io.TextIOBase):
    """A stream that shows what is invisible, and what the stream behind it cannot encode.

    Args:
        raw: where the text goes.
    """

    def __init__(self, raw: TextIO) -> None:
        self.raw = raw

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """That of the stream behind."""
        return self.raw.encoding or "utf-8"

    def write(self, text: str, /) -> int:
        """Writes the text, made `visible`; a bar of a library that returns to its line begins a new one."""
        shown = visible(text.replace("\r\n", "\n").replace("\r", "\n"))
        self.raw.write(shown.encode(self.encoding, "backslashreplace").decode(self.encoding))
        return len(text)

    def flush(self) -> None:
        """Passes on what is written."""
        self.raw.flush()

    def isatty(self) -> bool:
        """Whether a person looks."""
        return self.raw.isatty()

    def fileno(self) -> int:
        """That of the stream behind, for processes that inherit it."""
        return self.raw.fileno()

    def writable(self) -> bool:
        """Yes."""
        return True

    def close(self) -> None:
        """Leaves the stream behind open: it belongs to whoever made it."""


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Standard output and error are filtered while the block runs."""
    out, error = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Guarded(unguarded(out)), Guarded(unguarded(error))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = out, error
        for stream in (out, error):
            _emptied(unguarded(stream))


def _emptied(stream: TextIO) -> None:
    """Flushes; where nobody reads any more, the rest goes nowhere instead of failing at exit."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def unguarded(stream: TextIO) -> TextIO:
    """The stream behind the filter, for drawings with colours and a cursor."""
    return stream.raw if isinstance(stream, Guarded) else stream


def draw(text: str) -> None:
    """Prints a drawing past the filter; its words are `printable` already."""
    unguarded(sys.stdout).write(text)
