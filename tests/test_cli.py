"""The command line from outside: exit codes, sentences, streams."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, NamedTuple

import fakes
import pytest
import typer.main
from typer.testing import CliRunner

from kdbench.harness import cli
from kdbench.harness.files.records import SampleRow
from kdbench.harness.files.store import append_rows, write_json
from kdbench.harness.foreign import foreign
from kdbench.harness.progress import Progress, duration
from kdbench.harness.resolve import resolve, training_changes
from kdbench.harness.runner import commands
from kdbench.harness.runner.models import Located
from kdbench.harness.shorthand import expanded
from kdbench.harness.verbs import conform, options

Spawn = Callable[..., subprocess.Popen[str]]
KDBENCH = str(Path(sys.executable).with_name("kdbench"))


class Done(NamedTuple):
    """What a command left: its exit code and both streams."""

    returncode: int
    stdout: str
    stderr: str


Kdbench = Callable[..., Done]


@pytest.fixture
def kdbench(capsys: pytest.CaptureFixture[str]) -> Kdbench:
    """Runs a command line inside this process (a new one would import torch each time)."""

    def run(*arguments: object) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main([str(argument) for argument in arguments])
        return Done(int(caught.value.code or 0), *capsys.readouterr())

    return run


def installed(*arguments: object) -> Done:
    """Runs the installed command in a process of its own."""
    done = subprocess.run(
        [KDBENCH, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )
    return Done(done.returncode, done.stdout, done.stderr)


def one_sentence(done: Done) -> str:
    """The only line of an input error, which is on standard error, and exit code 2."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("kdbench: ")
    return lines[0]


def test_help_names_every_verb(kdbench: Kdbench) -> None:
    done = installed("--help")
    assert done.returncode == 0
    for verb in ("run", "train", "eval", "score", "leaderboard", "ls", "show", "conform", "doctor"):
        assert re.search(rf"^  {verb} ", done.stdout, re.MULTILINE), verb
    assert kdbench("--version") == (0, f"kdbench {version('kdbench')}\n", "")
    assert kdbench().stdout.startswith("Usage: kdbench")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; import kdbench.harness.cli; "
        "print([m for m in ('torch', 'transformers', 'lm_eval', 'numpy', 'pydantic', 'yaml', "
        "'pandas', 'matplotlib', 'openai') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_verbs_have_at_most_16_flags() -> None:
    group = typer.main.get_command(cli.app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        flags = [p for p in command.params if p.param_type_name == "option"]
        assert len(flags) <= 16, (name, len(flags))
        assert command.help, name


def test_help_is_whole_and_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = CliRunner().invoke(cli.app, ["--help"]).output
    assert "..." not in said.replace("[ARGS]...", "") and "\nMake runs:\n" in said
    said = CliRunner().invoke(cli.app, ["run", "--help"]).output
    assert "\nModels and seed:\n" in said and "--lr VALUE" in said and "..." not in said
    assert max(map(len, said.splitlines())) <= 80


def test_an_option_is_the_same_in_all_verbs() -> None:
    group = typer.main.get_command(cli.app)
    kinds: dict[str, set[tuple[str, bool]]] = {}
    for command in group.commands.values():  # type: ignore[attr-defined]
        for param in command.params:
            for name in param.opts if param.param_type_name == "option" else ():
                kinds.setdefault(name, set()).add((str(param.bare_type()), param.is_flag))
    assert {name: found for name, found in kinds.items() if len(found) > 1} == {}


def test_short_names_are_settings() -> None:
    short = ["run", "--method", "sft", "--lr=1e-4", "--batch-size", "8", "--output", "there"]
    assert expanded(short) == [
        *("run", "--method", "sft", "--set", "train.lr=1e-4"),
        *("--set", "train.batch_size=8", "--runs-dir", "there"),
    ]
    assert training_changes(expanded(short)) == ("train.batch_size=8", "train.lr=1e-4")
    assert expanded(["tune", "--seed", "1"]) == ["tune", "--seeds", "1"]
    assert expanded(["eval", "--batch-size", "2"]) == ["eval", "--set", "generate.batch_size=2"]


def test_a_row_says_what_short_names_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "locate", lambda *_: Located("there", fakes.INIT))
    run = SimpleNamespace(id="0" * 12, training=SimpleNamespace(student="there"))
    prepared: Any = SimpleNamespace(run=run, settings="s")
    config = resolve(suite="mini-test", method="fkd")
    typed = ("kdbench", "run", "--method", "fkd", "--lr", "1e-4", "--epochs=3", "--seed", "2")
    session: Any = SimpleNamespace(config=config, request=SimpleNamespace(argv=typed))
    card = commands.run_card(session, prepared, fakes.TEACHER, {})
    assert card.changes == ["train.epochs=3", "train.lr=1e-4"]
    session.request.argv = ()  # of a call that names no command line
    assert commands.run_card(session, prepared, fakes.TEACHER, {}).changes == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("run --method dpdk", "no method is called 'dpdk'.*did you mean dpkd"),
        ("run --method sft --suite mimi", "no suite is called 'mimi'.*did you mean mini"),
        ("run --method sft --set train.learning_rate=1", "did you mean train.lr"),
        ("run --method sft --set train.lr=fast", r"train\.lr: .*\(got 'fast'\)"),
        ("run --method sft --protocol loose", r"tasks\.protocol: .*'strict'.*\(got 'loose'\)"),
        ("run --method sft --tasks ,", "--tasks names nothing"),
        ("run --method sft --template chatty", r"tasks\.template: .*'chat'.*\(got 'chatty'\)"),
        ("run --method sft --limit 0", r"tasks\.limit: .*greater than 0"),
        ("run --method sft --limit some", "limit"),
        ("run --method sft --data-dir nowhere", "no data folder nowhere"),
        ("run --method sft --runs-dir FILE/runs", "cannot write FILE/runs: not a directory"),
        ("run --method sft --methud x", "no such option: --methud"),
        ("run --method sft --learning_rate 1e-4", "another tool's; here it is --lr"),
        ("train --method sft --num_train_epochs 3", "another tool's; here it is --epochs"),
        ("run --method sft --dataset_name x", "kdbench distill --data"),
        ("run --method sft --batch_size 8", "--batch_size is written --batch-size here"),
        ("run --method sft --lr", "--lr needs a value"),
        ("run --method sft --lr fast", r"train\.lr: .*\(got 'fast'\)"),
        ("eval --model hf --model_args pretrained=a/b,x=1", "here: kdbench eval --model a/b"),
        ("eval --model a/b --apply_chat_template", "here it is --template chat"),
        ("eval --model a/b --output_path x", "here it is --output"),
        ("eval --model a/b --epochs 3", "belongs to a training"),
        ("view logs", "another tool's word; here it is kdbench show"),
        ("score --model_outputs x.json", "kdbench score --outputs"),
        ("run", "missing option '--method'"),
        ("ruin", "no such command 'ruin'"),
        ("eval", "give either a run folder or --model"),
        ("eval nowhere", "nowhere is no run folder"),
        ("leaderboard nowhere", "no folder nowhere"),
        ("leaderboard --runs-dir EMPTY --format word", "word"),
        ("show nothing --runs-dir EMPTY", "no run folder nothing"),
        ("conform nowhere.json", "nowhere.json"),
        ("ls everything", "everything"),
    ],
)
def test_user_errors_are_one_sentence(
    tmp_path: Path, arguments: str, sentence: str, kdbench: Kdbench
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    places = {"FILE": str(tmp_path / "file"), "EMPTY": str(tmp_path / "empty")}
    for name, place in places.items():
        arguments = arguments.replace(name, place)
        sentence = sentence.replace(name, re.escape(place))
    assert re.search(sentence, one_sentence(kdbench(*arguments.split()))), arguments
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]


def test_an_option_of_a_group_is_declared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KDBENCH_DATA", raising=False)

    @dataclass(frozen=True, kw_only=True)
    class More(options.Workplace):
        polite: Annotated[bool, typer.Option("--polite"), options.Sets("tasks.polite")] = False

    seen: list[More] = []

    def verb(*, name: Annotated[str, typer.Argument()], work: More) -> None:
        seen.append(work)

    app = typer.Typer()
    app.command()(options.grouped(verb))
    assert CliRunner().invoke(app, ["x", "--polite", "--device", "cpu", "--quiet"]).exit_code == 0
    assert seen == [More(polite=True, device="cpu", quiet=True)]
    assert seen[0].settings() == {"tasks.polite": True}


def test_verbs_that_evaluate_take_the_same_options() -> None:
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    flags = {n: {o for p in c.params for o in p.opts} for n, c in commands.items()}
    for verb in ("run", "eval"):
        assert {"--tasks", "--limit", "--template"} <= flags[verb]
    for verb in ("run", "train", "eval", "ablate"):
        assert {"--runs-dir", "--data-dir", "--device", "--accept-drift", "--json"} <= flags[verb]
    asked = options.Asked(tasks="dolly, own.jsonl", template="chat").settings()
    assert asked["tasks.names"] == ["dolly", "own.jsonl"]
    assert (asked["tasks.template"], asked["tasks.limit"]) == ("chat", None)


def test_a_full_gpu_is_one_sentence_and_nobodys_fault(
    kdbench: Kdbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a bug, nor the model's that was tried, nor the file's that was read."""
    import torch

    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore of it.")

    def fill(*args: object, **options: object) -> None:
        with foreign("cannot go on from here", "take the folder away"):
            raise full

    monkeypatch.setattr("kdbench.harness.verbs.ls.tasks", fill)
    result = kdbench("ls", "tasks")
    assert result.returncode == 1
    assert "Tried to allocate 2.00 GiB. More of it.; lower train.micro_tokens" in result.stderr
    assert "Traceback" not in result.stderr and "take the folder away" not in result.stderr


def test_a_bug_keeps_its_traceback(kdbench: Kdbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdbench.harness.verbs.ls.tasks", lambda: 1 / 0)
    done = kdbench("ls", "tasks")
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr


# Stands for the runner: what is tested is what the command line makes of its end.
RUNNER = """
runner = types.ModuleType("kdbench.harness.runner.commands")
runner.run_command = run_command
sys.modules[runner.__name__] = runner
cli.main(sys.argv[1:])
"""
SLEEPER = f"""
import sys, time, types
from kdbench.harness import cli
from kdbench.harness.files.locks import RunLock

def run_command(request):
    with RunLock(request.runs_dir / "some-run"):
        print("working", flush=True)
        time.sleep(60)
{RUNNER}"""


@pytest.mark.parametrize(
    ("number", "how", "code"),
    [(signal.SIGINT, "interrupted", 130), (signal.SIGTERM, "terminated", 143)],
)
def test_a_signal_says_how_to_continue(
    number: signal.Signals, how: str, code: int, tmp_path: Path
) -> None:
    arguments = ["run", "--method", "sft", "--runs-dir", str(tmp_path / "my runs"), "--quiet"]
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert errors.strip() == (
        f"{how}; continue with: kdbench run --method sft "
        f"--runs-dir '{tmp_path / 'my runs'}' --quiet"
    )
    assert not (tmp_path / "my runs" / "some-run" / "lock").exists()
    assert "end: interrupted" in (tmp_path / "my runs" / "some-run" / "run.log").read_text()


IMPORTER = f"""
import os, sys, time, types
from kdbench.harness import cli

def run_command(request):
    try:
        import slow_to_import
    except KeyboardInterrupt:
        os.abort()  # as compiled code does, which an exception leaves half set up
    time.sleep(60)
{RUNNER}"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_waits_for_the_end_of_an_import(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    slow = "import time\nprint('importing', flush=True)\ntime.sleep(0.3)\nprint('through', flush=True)\n"
    (tmp_path / "slow_to_import.py").write_text(slow, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-c", IMPORTER, "run", "--method", "sft", "--quiet"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(number)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert rest == "through\n"
    assert "continue with: kdbench run --method sft --quiet" in errors


def test_second_process_on_a_run_is_refused(tmp_path: Path, spawn: Spawn) -> None:
    holder = spawn(
        "import sys, time\nfrom kdbench.harness.files.locks import RunLock\n"
        "with RunLock(sys.argv[1]):\n    print('held', flush=True)\n    time.sleep(60)",
        tmp_path / "some-run",
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    done = subprocess.run(
        [sys.executable, "-c", SLEEPER, "run", "--method", "sft", "--runs-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    refused = one_sentence(Done(done.returncode, done.stdout, done.stderr))
    assert f"is being written by process {holder.pid}" in refused


def test_broken_pipe_is_no_traceback() -> None:
    process = subprocess.Popen(
        [KDBENCH, "ls", "suites", "--json"],
        # unbuffered, nothing would be left to write at exit
        env={k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=60) == 1


def test_ls_as_table_and_json(kdbench: Kdbench) -> None:
    assert "minillm-gpt2-120m" in kdbench("ls", "suites").stdout
    rows = json.loads(kdbench("ls", "methods", "--json").stdout)
    assert [row["method"] for row in rows][:3] == ["sft", "fkd", "seqkd"]
    assert all("cannot be loaded" not in row["title"] for row in rows)
    tasks = {row["task"]: row for row in json.loads(kdbench("ls", "tasks", "--json").stdout)}
    assert {"dolly", "selfinst", "vicuna", "sni", "unni", "sst2-cal", "boolq-cal"} <= set(tasks)
    assert tasks["cls"]["mini"] and not tasks["cls"]["full"]
    assert any("own/test.jsonl" in name for name in tasks)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run that stopped after generating."""
    folder = tmp_path / "fkd-mini-student-0123456789ab"
    write_json(folder / "config.json", resolve(suite="mini", method="fkd"))
    for seed in (10, 20):
        row = SampleRow(
            doc_id=3,
            prompt_hash="0" * 16,
            seed=seed,
            prompt="What is the capital?",
            references=["Oslo"],
            response=f"answer {seed}",
            response_tokens=2,
            finished=seed == 10,
            reference_tokens=1,
        )
        append_rows(folder / "eval" / "dolly@01234567" / f"samples.seed{seed}.jsonl", [row])
    write_json(folder / "train/train.done", {"stage": "train", "finished": 0, "outputs": {}})
    return folder


def test_ls_runs_and_show(run_folder: Path, kdbench: Kdbench) -> None:
    place = ("--runs-dir", run_folder.parent)
    (row,) = json.loads(kdbench("ls", "runs", *place, "--json").stdout)
    assert (row["method"], row["state"], row["about"], row["evaluations"]) == (
        "fkd",
        "unfinished",
        "stopped after train",
        ["dolly"],
    )
    card = json.loads(kdbench("show", "fkd-mini", *place, "--json").stdout)
    assert (card["run"], card["stages"]) == (run_folder.name, ["train"])
    assert "kd_ratio 0.5" in kdbench("show", run_folder).stdout
    shown = kdbench("show", run_folder, "--sample", 3).stdout
    for text in ("What is the capital?", "Oslo", "answer 10", "answer 20", "cut at the length"):
        assert text in shown
    missing = one_sentence(kdbench("show", run_folder, "--sample", 4))
    assert "has no sample 4; it has doc_id 3 to 3" in missing


def test_doctor_reports_and_fails(tmp_path: Path, kdbench: Kdbench) -> None:
    done = kdbench("doctor", "--json", "--no-network", "--runs-dir", tmp_path)
    findings = {row["what"]: row for row in json.loads(done.stdout)}
    assert done.returncode == 0
    assert "torch" in findings["versions"]["found"]
    assert "GFLOP/s" in findings["bf16"]["found"]
    (tmp_path / "file").write_text("")
    done = kdbench("doctor", "--no-network", "--runs-dir", tmp_path / "file" / "runs")
    assert done.returncode == 1
    assert re.search(r"^fail  runs .*cannot be written", done.stdout, re.MULTILINE)


def test_doctor_does_not_hang_without_network(kdbench: Kdbench) -> None:
    began = time.monotonic()
    done = kdbench("doctor", "--json")
    states = {row["what"]: row["state"] for row in json.loads(done.stdout)}
    assert states["hub"] == "warn"
    assert time.monotonic() - began < 60


REFERENCE = {
    "rows": [
        {"prediction": "a b c", "references": ["a b c"], "rougeL": 1.0, "exact_match": 1.0},
    ],
    "expected_aggregate": {},
}


def test_conform_exit_codes(tmp_path: Path, kdbench: Kdbench) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    write_json(good, REFERENCE)
    rows = [REFERENCE["rows"][0] | {"rougeL": 0.9}]  # type: ignore[index]
    write_json(bad, REFERENCE | {"rows": rows})
    done = kdbench("conform", good, "--require", "rougeL,exact_match")
    assert done.returncode == 0, done.stderr
    assert "2 agree, 0 do not, 0 not implemented" in done.stdout
    assert kdbench("conform", good, "--require", "dkd").returncode == 3
    done = kdbench("conform", bad)
    assert done.returncode == 3
    assert "1 of 2 values are off, most of all rougeL[0]" in done.stderr


@pytest.mark.parametrize("name", ["fkd", "fkd.loss", "fkd[0].loss", "loss"])
def test_conform_names(name: str) -> None:
    from kdbench.harness.conform.value import Value

    assert conform.called(Value("fkd[0].loss", [], []), name)
    assert not conform.called(Value("skd[0].norm", [], []), name)


def test_plain_progress_is_rate_limited(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    with progress.stage("train", 1000) as stage:
        for step in range(1, 1001):
            stage.update(step, loss=1 / step, tokens=step * 100)
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"train: 1000 steps in 0\.\d s, loss 0\.001", line)


def test_a_long_plain_stage_is_heard(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with Progress().stage("train", 60) as stage:
        for step in range(1, 61):
            now += 0.5
            stage.update(step)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "train: step 4/60, 28 s left"
    assert len(lines) == 1 + 2 + 1  # after 2, 12 and 22 of 30 seconds, and the summary


def test_progress_line_has_rate_and_time_left() -> None:
    with Progress(quiet=True).stage("train", 400, done=100) as stage:
        time.sleep(0.05)
        stage.update(110, tokens=5000, loss=2.0)
        assert re.fullmatch(
            r"train: step 110/400, loss 2, [\d,]+ tokens/s, [\d.]+ s left", stage.line()
        )
        assert stage.summary().startswith("train: 10 steps (after 100 before) in")


def test_what_others_did_is_in_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with Progress(quiet=True).stage("train", 700) as stage:
        now += 5  # loading
        stage.resumed(600, 601_000)
        assert stage.line() == "train: step 600/700"
        for step in range(601, 611):
            now += 1.0
            stage.update(step, tokens=601_000 + 100 * (step - 600))
        assert stage.line() == "train: step 610/700, 100 tokens/s, 1 min 30 s left"
        assert stage.summary() == "train: 10 steps (after 600 before) in 15 s"


def test_quiet_progress_says_warnings_only(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(quiet=True)
    with progress.stage("train", 1):
        progress.say("hidden")
        progress.warn("bfloat16 samples depend on the batch")
    captured = capsys.readouterr()
    assert captured.err == "warning: bfloat16 samples depend on the batch\n"
    assert captured.out == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.44, "0.4 s"),
        (42.4, "42 s"),
        (185, "3 min 05 s"),
        (7620, "2 h 07 min"),
        (59.7, "1 min 00 s"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
