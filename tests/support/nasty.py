"""What the fuzzer feeds kdbench: values that no setting wants, accidents of files, and how a trial ended.

Everything is a function of the trial's number, so that a failure is run again by it.
"""

import contextlib
import io
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kdbench.harness import cli

SECONDS = 10.0
"""Of a processor, within which a refusal comes, on a warm cache."""
VALUES = (
    *(
        "null",
        "true",
        "no",
        "''",
        "' '",
        "-1",
        "0",
        "1",
        "-0.0",
        "1.5",
        "'1'",
        "x",
        "0x10",
        "1_000",
    ),
    *(
        ".inf",
        "-.inf",
        ".nan",
        "1e400",
        "1e308",
        "-1e308",
        "1e-320",
        "9" * 30,
        "9" * 5000,
        "-" + "9" * 30,
    ),
    *(
        "[]",
        "{}",
        "[[]]",
        "[null]",
        "[true]",
        "[1, 1]",
        "[.nan]",
        "[x, x]",
        "{a: b}",
        "{1: 2}",
        "{x: [1]}",
    ),
    *("2026-11-29", "2026-13-45", "!!binary aGk=", "!!set {a}", "!!omap [a: 1]", "!!int x"),
    *(
        r'"a\0b"',
        r'"\ud800"',
        r'"\x1b[31m"',
        r'"\u202e"',
        r'"a\nb"',
        "é" * 300,
        "x" * 300,
        "x/" * 3000,
    ),
    *(
        "../../etc/passwd",
        "/dev/null",
        "/",
        ".",
        "~/x",
        "nothing.jsonl",
        "nothing.yaml",
        "nothing.gguf",
    ),
    *(
        "http://x/y",
        "a/b",
        "prune:0",
        "prune:-1",
        "prune:99",
        "prune:x",
        "mini:nobody",
        "nothing.json",
    ),
    *(
        "[" * 3000,
        "&a [*a]",
        "*a",
        "!!python/object/apply:os.system [id]",
        "a: b: c",
        '"',
        "{",
        "@x",
        "%",
    ),
)
PIECES = (
    *(
        b"null",
        b"NaN",
        b"Infinity",
        b"1e999",
        b"-1",
        b"{}",
        b"[]",
        b"[[",
        b"true",
        b"\\ud800",
        b'"',
        b"'",
    ),
    *(
        b"\n",
        b"\r",
        b"\t",
        b"\x00",
        b"\xff",
        b"\xef\xbb\xbf",
        b": ",
        b"- ",
        b"&a",
        b"*a",
        b"9" * 5000,
    ),
    *(
        b"!!python/name:os.system",
        b"{{",
        b"}}",
        b"\\u0000",
        b"[" * 3000,
        "\u2028∞\u202e".encode(),
        b"# ",
    ),
)


class Ended(NamedTuple):
    """How a command ended: its kind, what it said, and how long that took."""

    kind: str
    said: str
    seconds: float

    @property
    def clear(self) -> bool:
        """One sentence of ours in time, or the work itself."""
        return self.kind in ("accepted", "done") or (
            self.kind == "refused" and self.seconds < SECONDS
        )


class Accepted(BaseException):
    """Raised where the costly work would begin."""


def accept(*_: object, **__: object) -> None:
    """Stands where the costly work begins."""
    raise Accepted


def trial(arguments: Sequence[str]) -> Ended:
    """Runs a command line in this process; see `Ended`."""
    out, error = io.StringIO(), io.StringIO()
    began = time.process_time()  # others may be busy on this machine
    kind = "traceback"
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            cli.main(arguments)
        except Accepted:
            kind = "accepted"
        except SystemExit as stopped:
            kind = "done" if stopped.code in (0, 1, 3) else "refused"
        except BaseException as escaped:
            error.write(f"Traceback: {type(escaped).__name__}: {escaped}")
    said = error.getvalue()
    last = said.rstrip("\n").rpartition("\n")[2]
    if "Traceback" in said:
        kind = "traceback"
    elif kind == "refused" and (not last.startswith("kdbench: ") or len(last) > 2000):
        kind = "no sentence"
    elif any(not c.isprintable() and c not in "\n\t" for c in said + out.getvalue()):
        kind = "raw signs"
    return Ended(kind, said, time.process_time() - began)


def damaged(random_: random.Random, content: bytes, pieces: Sequence[bytes] = PIECES) -> bytes:
    """A file after one to four accidents."""
    text = bytearray(content)
    for _ in range(random_.randint(1, 4)):
        place = random_.randrange(len(text) + 1)
        kind = random_.randrange(6)
        if kind == 0:
            del text[place : place + random_.randint(1, 20)]
        elif kind == 1:
            text[place:place] = random_.choice(pieces)
        elif kind == 2:
            text[place : place + 1] = random_.randbytes(1)
        elif kind == 3:
            end = place + random_.randint(1, 30)
            text[place:place] = text[place:end]
        elif kind == 4:
            lines = bytes(text).split(b"\n")
            random_.shuffle(lines)
            text = bytearray(b"\n".join(lines))
        else:  # the disk was full, or the download broke off
            del text[place:]
    return bytes(text)


def leftovers(folder: Path) -> list[str]:
    """What lies in a folder of runs, locks included."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*")) if folder.is_dir() else []
