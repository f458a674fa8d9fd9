"""Nothing that others wrote reaches the terminal as anything but text."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import make_run

from kdbench.harness import cli
from kdbench.harness.files.store import write_json
from kdbench.harness.printing import draw, guarded, visible_json
from kdbench.harness.progress import Progress
from kdbench.reports.text.csv import csv_text, frame

NASTY = "a\x1b[31m\x07\x9b\u202eb\r\nfake: line\x00\ud800\x7f"


def invisible(text: str) -> list[str]:
    return [c for c in text if not c.isprintable() and c not in "\n\t"]


def test_whatever_is_printed_is_filtered(capsys: pytest.CaptureFixture[str]) -> None:
    with guarded():
        print(NASTY)
        print(NASTY, file=sys.stderr)
        sys.stderr.write("\r10%\r20%")
        progress = Progress()
        progress.say(NASTY)
        progress.warn(NASTY)
        with progress.stage(NASTY, 1) as live:
            live.update(1, note=NASTY)
    for text in capsys.readouterr():
        assert "\\x1b[31m" in text and invisible(text) == []
    assert not hasattr(sys.stdout, "raw") or sys.stdout is not sys.stderr


def test_drawings_pass(capsys: pytest.CaptureFixture[str]) -> None:
    with guarded():
        draw("\x1b[1mbold\x1b[0m\n")
    assert capsys.readouterr().out == "\x1b[1mbold\x1b[0m\n"


@pytest.mark.parametrize(
    "command",
    [
        ("show", NASTY),
        ("eval", NASTY.replace("\x00", "")),
        ("score", NASTY),
        (NASTY,),
        ("ls", NASTY),
    ],
)
def test_errors_are_one_clean_line(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(command)
    output = capsys.readouterr()
    assert stopped.value.code == 2 and output.out == ""
    assert invisible(output.err) == [] and output.err.count("\n") == 1, output.err


def test_runs_with_nasty_names_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = NASTY.replace("\x00", "").replace("\ud800", "")
    run = tmp_path / f"sft-{name}-0123456789ab"
    write_json(run / "config.json", {"method": {"name": name}, "pair": {"student": name}})
    (run / "lock").write_text("{")
    make_run(tmp_path, "sft", tasks={"dolly": 20.0})
    for options in ((), ("--json",)):
        with pytest.raises(SystemExit):
            cli.main(["ls", "runs", "--runs-dir", str(tmp_path), *options])
        text = capsys.readouterr().out
        assert "x1b[31m" in text or "u001b[31m" in text
        assert invisible(text) == []
    assert any(row["run"].startswith("sft-a") for row in json.loads(text))


def test_json_reads_back(capsys: pytest.CaptureFixture[str]) -> None:
    with guarded():
        print(visible_json({"text": NASTY}))
    text = capsys.readouterr().out
    assert invisible(text) == [] and json.loads(text) == {"text": NASTY}


def test_what_the_stream_cannot_encode_is_escaped() -> None:
    code = "from kdbench.harness.printing import guarded\nwith guarded(): print('∞ é')"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONIOENCODING": "latin-1"}, capture_output=True
    )
    assert done.stdout == b"\\u221e \xe9\n", done


@pytest.mark.parametrize(
    "text", ["=1", " =1", "\n=1", "+1+1", "-1-1", "@a", "\t=1", "＝1", "=cmd|' /C calc'!A1"]
)
def test_no_csv_holds_a_formula(text: str) -> None:
    header, cell = csv_text(frame([{text: text}])).split("'", 1)
    assert header in ("", '"') and "'" in cell
    assert csv_text(frame([{"a": "-1.5"}, {"a": "a=1"}])) == "a\n-1.5\na=1\n"


def test_debug_shows_what_lies_below(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = tmp_path / "s.yaml"
    suite.write_text("a: [\n")
    for options in ([], ["--debug"]):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["run", *options, "--method", "sft", "--suite", str(suite)])
        error = capsys.readouterr().err
        assert stopped.value.code == 2
        assert ("Traceback" in error) == bool(options)
        assert error.splitlines()[-1].startswith("kdbench: ")
