"""A run folder of somebody else: nothing in it is run, and nothing outside it is written.

A real run and all verbs that read one are behind the marker ``long``; ``score`` of a run written by
hand stands for them here.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
import runs
from fakes import edit
from report_runs import trained_run

from kdbench.harness import cli
from kdbench.harness.errors import InputError
from kdbench.harness.files.inside import inside, sealed
from kdbench.harness.files.run_folder import RunFolder
from kdbench.harness.files.store import append_rows, keep_rows, write_json
from kdbench.harness.lm.tasks import load, manager_of
from kdbench.harness.registry import find_method, recorded_method

METHOD = '''
"""Half of the cross-entropy."""

from pathlib import Path

from kdbench.trainers.method import Card, Method

Path({trace!r}).write_text("ran")


class Half(Method):
    """0.5 times the cross-entropy."""

    card = Card(title="Half", paper="none", cost="1")
'''


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small finished run."""
    folder = tmp_path_factory.mktemp("made")
    runs.finish(
        *("run", "--method", "sft", "--suite", "mini-test", "--tasks", "dolly", "--limit", "4"),
        *("--set", "train.steps=1", "--set", "init_sft.steps=1", "--runs-dir", str(folder)),
    )
    (made,) = folder.glob("sft-*")
    return made


@pytest.fixture
def received(run: Path, tmp_path: Path) -> Path:
    """The run, as unpacked from an archive."""
    return Path(shutil.copytree(run, tmp_path / "runs" / run.name))


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A run written by hand, its answers finished."""
    folder = trained_run(tmp_path / "runs")
    for evaluation in RunFolder(folder).evaluations():
        evaluation.generated.mark(
            [evaluation.samples_file(seed) for seed in evaluation.seeds()],
            {"wall_s": 1.0, "sampled": 1},
        )
    return folder


def said(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """What a command prints that ends with a user's error."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(command)
    output = capsys.readouterr()
    assert stopped.value.code == 2, output
    last = output.err.rstrip("\n").split("\n")[-1]
    assert last.startswith("kdbench: ") and "Traceback" not in output.err, output.err
    return last


def verbs(run: Path, work: Path) -> dict[str, tuple[str, ...]]:
    """Command lines of the verbs that read a run."""
    place = str(run)
    ask = ("--judge-base-url", "http://127.0.0.1:9/v1", "--max-cost", "0")
    return {
        "score": ("score", place),
        "eval": ("eval", place, "--tasks", "vicuna", "--limit", "2"),
        "judge": ("judge", place, *ask),
        "board": ("leaderboard", place, "--out", str(work / "board.md")),
        "report": ("report", place),
        "show": ("show", place),
        "check": ("check", place),
    }


# -- code -------------------------------------------------------------------------------------------


def test_score_runs_no_method_and_no_task_file_of_a_run(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace, file = tmp_path / "trace", written / "half.py"
    file.write_text(METHOD.format(trace=str(trace)))
    method = {"name": str(file), "source": str(file), "options": {}, "fingerprint": "0" * 64}
    edit(written / "config.json", {"method": method})
    with pytest.raises(SystemExit) as stopped:
        cli.main(["score", str(written)])
    output = capsys.readouterr()
    assert stopped.value.code == 0, output
    card = (written / "train" / "student" / "README.md").read_text()
    assert "method not installed here" in card and not trace.exists()
    (evaluation,) = (written / "eval").glob("*@*")
    asked = {"task": str(file), "source": "lm-eval", "place": str(written)}
    edit(evaluation / "evaluation.json", asked)
    assert "--include-path" in said(capsys, "score", str(written))
    assert not trace.exists()


@pytest.mark.parametrize("name", ["lock", "train/student", "eval", "eval/{task}/scores.jsonl"])
def test_score_follows_no_link(
    name: str, written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = replaced_by_link(written, name, tmp_path)
    before = contents(outside)
    assert "symbolic link" in said(capsys, "score", str(written))
    assert contents(outside) == before


@pytest.mark.long
@pytest.mark.parametrize("name", ["half", "half.py", "{file}", "sft"])
def test_a_method_file_in_a_run_folder_is_never_run(
    name: str, received: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace, file = tmp_path / "trace", received / "half.py"
    file.write_text(METHOD.format(trace=str(trace)))
    method = {"name": name.format(file=file), "source": str(file), "options": {}, "departures": {}}
    edit(received / "config.json", {"method": {**method, "fingerprint": "0" * 64}})
    edit(received / "prepare.json", {"method": None})
    for command in (
        *verbs(received, tmp_path).values(),
        ("ls", "runs", "--runs-dir", str(tmp_path / "runs")),
    ):
        with pytest.raises(SystemExit):
            cli.main(command)
        assert "Traceback" not in capsys.readouterr().err
        assert not trace.exists(), command


def test_recorded_methods_are_known_by_their_content(tmp_path: Path) -> None:
    trace, file = tmp_path / "trace", tmp_path / "half.py"
    file.write_text(METHOD.format(trace=str(trace)))
    with pytest.raises(InputError, match=r"--method path/to/file\.py"):
        recorded_method("half", "0" * 64)
    with pytest.raises(InputError, match="runs no code that a run folder names"):
        recorded_method(str(file), "")
    assert not trace.exists()
    found = find_method(str(file))  # the command line names it
    assert trace.exists() and recorded_method("half", found.fingerprint) is found
    assert recorded_method("fkd", "").name == "fkd"


TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: !function evil.text
doc_to_target: "{{{{output}}}}"
generation_kwargs: {{until: [], max_gen_toks: 4}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


@pytest.mark.long
def test_task_files_are_read_from_the_command_line_only(
    received: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace, data = tmp_path / "trace", received / "rows.jsonl"
    data.write_text('{"prompt": "Say it.", "output": "it"}\n')
    (received / "evil.py").write_text(f"open({str(trace)!r}, 'w')\ndef text(doc): return 'a'\n")
    (received / "evil.yaml").write_text(TASK.format(name="evil", data=data))
    (evaluation,) = (received / "eval").glob("dolly@*")
    for task in ("evil", str(received / "evil.yaml")):
        asked = {"task": task, "source": "lm-eval", "place": str(received)}
        edit(evaluation / "evaluation.json", asked)
        assert "--include-path" in said(capsys, "score", str(received))
        edit(evaluation / "evaluation.json", {"place": ""})
        assert "no lm-eval task is called" in said(capsys, "score", str(received))
    edit(received / "config.json", {"tasks.names": ["evil"], "tasks.include_path": str(received)})
    assert "--include-path" in said(capsys, "eval", str(received))
    with pytest.raises(InputError, match="no lm-eval task is called"):
        load(manager_of("evil", [received]), str(received / "evil.yaml"))
    assert not trace.exists()


# -- paths ------------------------------------------------------------------------------------------

LINKED = (
    *("lock", "train/student", "train", "eval", "eval/{task}", "summary.json", "config.json"),
    *("eval/{task}/samples.seed10.jsonl", "eval/{task}/scores.jsonl", "eval/{task}/judge"),
    *("eval/{task}/score.done", "eval/{task}/probe-text.json", "report", "train/metrics.jsonl"),
    *("train/student/model.safetensors", "manifest.json"),
)


def replaced_by_link(run: Path, name: str, work: Path) -> Path:
    """Puts a link where a file or folder was; returns the folder outside that it leads into."""
    (evaluation,) = (run / "eval").glob("*@*")
    path = run / name.format(task=evaluation.name)
    outside = work / "outside"
    outside.mkdir()
    if path.exists():
        path.rename(outside / path.name)
    elif name == "lock":
        (outside / path.name).write_text("mine\n")
    else:
        (outside / path.name).mkdir()
    path.symlink_to(outside / path.name)
    return outside


@pytest.mark.long
@pytest.mark.parametrize("name", LINKED)
def test_links_lead_nowhere(
    name: str, received: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = replaced_by_link(received, name, tmp_path)
    before = contents(outside)
    for verb, command in verbs(received, tmp_path).items():
        with pytest.raises(SystemExit) as stopped:
            cli.main(command)
        output = capsys.readouterr()
        assert "Traceback" not in output.err and output.err.count("\n") <= 8, (verb, output.err)
        if verb in ("score", "eval") and name in ("lock", "train/student", "eval", "train"):
            assert stopped.value.code == 2 and "symbolic link" in output.err, (verb, output)
    assert contents(outside) == before


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(f.relative_to(folder)): (f.read_bytes(), f.stat().st_mtime_ns) for f in files}


@pytest.mark.parametrize(
    "name", ["../a", "a/../../b", "/etc/passwd", "", "a\0b", "link", "link/a", "pipe"]
)
def test_what_is_outside_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"outside|symbolic link|neither"):
        inside(tmp_path, name)
    with pytest.raises(InputError, match=r"symbolic link|neither"):
        sealed(tmp_path)
    assert inside(tmp_path, "a/b") == tmp_path / "a" / "b"


def test_files_that_grow_are_no_links(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text('{"a": 1}\n{"a": 2}\n')
    link.symlink_to(target)
    for change in (lambda: append_rows(link, [{"b": 1}]), lambda: keep_rows(link, 1)):
        with pytest.raises(InputError, match="cannot write"):
            change()
    assert target.read_text() == '{"a": 1}\n{"a": 2}\n'


def test_a_marker_names_no_file_outside(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    marker = written / "train" / "train.done"
    edit(marker, {"outputs": {"../../../secret": {"sha256": "0" * 64, "size": 3}}})
    assert "lies outside" in said(capsys, "score", str(written))


CLIMBING = "x/../../../../../outside/victim"


@pytest.mark.parametrize(
    "planted",
    [
        {"probes": {CLIMBING: {"calibration": {"bins": []}}}},
        {"probes": {"é" * 130: {"calibration": {}}}},
        {"judge": {"gpt": {"evaluations": {CLIMBING: {"metrics": {}}}}}},
        {"scores": {CLIMBING: {}}},
        {"scores": {"..": {}}},
        {"scores": {"a\nb@12345678": {}}},
    ],
)
def test_a_summary_names_no_evaluation_outside(
    planted: dict[str, dict[str, object]],
    written: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = written / "summary.json"
    tree = json.loads(file.read_text())
    ((what, entries),) = planted.items()
    if what == "scores":
        entries = dict.fromkeys(entries, next(iter(tree["scores"].values())))
    edit(file, {what: tree[what] | entries})
    write_json(file, {k: v for k, v in json.loads(file.read_text()).items() if k != "digest"})
    before = contents(tmp_path)
    assert "cannot be the name of a folder" in said(capsys, "report", str(written))
    assert contents(tmp_path) == before
