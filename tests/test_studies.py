"""Studies: what they stand for, who runs them, what is retried and what never repeated."""

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import runs
from own_models import chat_model, chats

from kdbench.harness import cli
from kdbench.harness.contents import Circumstances
from kdbench.harness.errors import DIVERGED, InputError
from kdbench.harness.files.locks import RunLock, lock_holder
from kdbench.harness.files.run_folder import RunFolder
from kdbench.harness.files.shipped import STUDIES
from kdbench.harness.own_methods import METHODS
from kdbench.harness.study import driver as driving
from kdbench.harness.study.definition import Cell, Study, expand, load_study
from kdbench.harness.study.driver import Driver, shared
from kdbench.harness.study.executors import local, make_executor, worker
from kdbench.harness.study.plan import make_cells
from kdbench.harness.study.state import Place, State, missing_of

SMALL = """
title: Two methods
suite: mini-test
tasks: [dolly]
seeds: [10]
set: [train.steps=40, train.save_every=4]
base: plain
rows:
  - {label: plain, method: sft}
  - {label: taught, method: fkd}
published_pair: somewhere else
published: {plain: {dolly/rouge_l: 20.0}, taught: {dolly/rouge_l: 21.5}}
"""


# -- what a study stands for ----------------------------------------------------------------------


@pytest.mark.parametrize("name", STUDIES.names())
def test_every_row_of_a_shipped_study_is_a_valid_run(name: str) -> None:
    study = load_study(name)
    for suite in ("mini", "mini-test"):
        cells = expand(study.model_copy(update={"suite": suite, "seeds": (10,)}))
        assert {cell.config.suite for cell in cells} == {suite}
        assert len({cell.key for cell in cells}) == len(cells), "two rows are the same run"
    assert study.seeds == (10, 20, 30)


def test_zoo_has_every_method() -> None:
    study = load_study("zoo")
    assert [row.method for row in study.all_rows()][: len(METHODS)] == list(METHODS)
    cells = expand(study.model_copy(update={"methods": ("sft", "fkd")}))
    named = [(c.label, c.seed) for c in cells[:4]]
    assert named == [("sft", 10), ("fkd", 10), ("fkd without CE", 10), ("sft", 20)]
    assert cells[0].config.tasks.probes == ("truth",)


def test_axes_are_all_combinations() -> None:
    study = load_study("sampling-divergence")
    cells = expand(study.model_copy(update={"seeds": (10,)}))
    assert len(cells) == 12
    options = {cell.label: cell.config.method.options for cell in cells}
    assert options["teacher, reverse KL"]["others"] == "teacher"
    assert options["teacher, reverse KL"]["beta"] == 1
    assert options["data set and student, JSD 0.5"]["student_share"] == 0.5


def test_a_cell_is_the_run_of_its_command_line() -> None:
    from kdbench.harness.resolve import resolve

    cell = expand(load_study("dpkd"), ["train.lr=1e-3"])[1]
    assert cell.arguments[:6] == ("--suite", "mini", "--method", "dpkd", "--seed", "10")
    settings = [b for a, b in zip(cell.arguments, cell.arguments[1:], strict=False) if a == "--set"]
    assert settings[-2:] == ["train.lr=1e-3", "method.lm_coef=0"]
    again = resolve(suite="mini", method="dpkd", assignments=settings, flags={"train.seed": 10})
    assert cell.config == again


def test_shared_parts_are_those_of_the_run() -> None:
    cells = expand(load_study("minillm").model_copy(update={"seeds": (10, 20)}))
    teachers = {shared(cell.config)[0] for cell in cells}
    inits = {shared(cell.config)[1] for cell in cells}
    assert (len(teachers), len(inits)) == (1, 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("base: plain", ["base", "no row"]),
        ("label: taught", ["label 'plain' twice"]),
        ("method: fkd", ["no method is called 'fkdd'", "row 'taught'"]),
        ("seeds: [10]", ["seeds"]),
        ("published: {plain", ["'plan' is no row"]),
        ("title: Two methods", ["title"]),
    ],
)
def test_a_bad_study_is_one_sentence(change: str, words: list[str], tmp_path: Path) -> None:
    bad = {
        "base: plain": "base: nothing",
        "label: taught": "label: plain",
        "method: fkd": "method: fkdd",
        "seeds: [10]": "seeds: []",
        "published: {plain": "published: {plan",
        "title: Two methods": "titel: Two methods",
    }[change]
    path = tmp_path / "study.yaml"
    path.write_text(SMALL.replace(change, bad))
    with pytest.raises(InputError) as caught:
        expand(load_study(str(path)))
    sentence = str(caught.value)
    assert "\n" not in sentence
    for word in words:
        assert word in sentence


def test_rows_may_not_differ_in_how_they_are_evaluated(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    row = "{label: taught, method: fkd, set: [generate.temperature=0]}"
    path.write_text(SMALL.replace("{label: taught, method: fkd}", row))
    with pytest.raises(InputError, match="evaluated alike"):
        load_study(str(path))


def test_expansion_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = load_study("dpkd")
    first = make_cells(study, [], tmp_path)
    monkeypatch.setattr("kdbench.harness.study.plan.expand", None)
    assert make_cells(study, [], tmp_path) == first
    with pytest.raises(TypeError):
        make_cells(study, ["train.lr=1e-3"], tmp_path)


def test_suite_own_is_measured_again(tmp_path: Path) -> None:
    study = Study(title="t", suite="own", seeds=(10,), methods=("sft",), tasks=())
    model, data = chat_model(tmp_path / "model"), tmp_path / "rows.jsonl"
    named = (f"pair.teacher={model}", "pair.student=prune:1", f"data.train={data}")
    budgets = []
    for count in (20, 40):
        chats(data, count)
        (cell,) = make_cells(study, named, tmp_path / "cache")
        budgets.append(cell.config.train.response_tokens)
    assert budgets[0] < budgets[1]


def test_a_study_asks_its_workers_for_files_by_their_whole_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = load_study("dpkd").model_copy(update={"tasks": ("dolly", "own.jsonl")})
    asked = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        monkeypatch.chdir(folder)
        arguments = make_cells(study, [], tmp_path)[0].arguments
        asked.append(arguments[arguments.index("--tasks") + 1])
    assert asked == [f"dolly,own={tmp_path / where / 'own.jsonl'}" for where in ("one", "two")]


def test_an_edited_installed_method_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "theirs.py"
    module.write_text("from kdbench.trainers.methods.sft import SFT\nclass Theirs(SFT): pass\n")
    package = tmp_path / "theirs-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[kdbench.methods]\ntheirs = theirs:Theirs\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    study = Study(title="t", suite="mini-test", method="sft", seeds=(10,), methods=("theirs",))
    (before,) = make_cells(study, [], tmp_path / "cache")
    module.write_text(module.read_text() + "# edited\n")
    (after,) = make_cells(study, [], tmp_path / "cache")
    assert after.config.method.fingerprint != before.config.method.fingerprint


def test_a_remembered_plan_needs_no_torch(spawn: Callable[..., Any], tmp_path: Path) -> None:
    code = (
        "import sys; from kdbench.harness import cli\n"
        "code = cli._run(['ablate', 'zoo', '--dry-run', '--json', '--runs-dir', sys.argv[1]])\n"
        "sys.exit(code or ('torch' in sys.modules and sys.argv[2] == 'again'))"
    )
    for turn in ("first", "again"):
        process = spawn(code, tmp_path / "runs", turn)
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        assert len(json.loads(out)["runs"]) == 3 * len(load_study("zoo").all_rows())
    assert not (tmp_path / "runs").exists()  # looking changes nothing


# -- who runs what, with processes that only pretend -----------------------------------------------

WORKER = """
import os, pathlib, signal, sys, time
folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
script = folder / f"{name}.script"
acts = script.read_text().split()
script.write_text(" ".join(acts[1:]))
if acts[0] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open(folder / "order", "a") as file:
    file.write(f"+{name} ")
time.sleep(0.3)
act = acts[0]
if act == "kill":
    os.kill(os.getpid(), 9)
if act == "deaf":
    time.sleep(60)
if act.isdecimal():  # as the launcher of several processes says what became of one
    sys.exit(int(act))
if act == "elsewhere":  # the process that speaks is on the second node
    with open(os.readlink("/proc/self/fd/1") + ".node1", "a") as file:
        file.write("kdbench: training diverged at step 3\\nSignal 15 received\\n")
    time.sleep(0.05)
    sys.exit("torch: a process failed")
if act == "refuse":
    sys.exit("kdbench: no data folder x; give an existing one")
if act == "diverge":
    sys.exit("kdbench: training diverged at step 3")
if act == "locked":
    print("kdbench: a is being written by process 1 on b; wait for it or stop it first")
    sys.exit(2)
if act == "crash":
    raise ValueError("what a bug says")
if act in ("finish", "evaluate"):
    (folder / f"{name}.done").touch()
if act == "evaluate":  # killed after its own folder was whole, before the references were
    os.kill(os.getpid(), 9)
with open(folder / "order", "a") as file:
    file.write(f"-{name} ")
sys.exit(2 if act == "refuse" else 0)
"""


@pytest.fixture
def pretended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Driver, list[str]]]:
    """Runs cells by scripted processes; returns the driver and the lines it said."""

    def run(
        cells: list[Cell],
        scripts: dict[str, str],
        *,
        jobs: int = 1,
        keep_going: bool = True,
        look: Callable[[Cell, Place], State] | None = None,
        said: list[str] | None = None,
        results: tuple[str, ...] = (),
    ) -> tuple[Driver, list[str]]:
        for name, script in scripts.items():
            (tmp_path / f"{name}.script").write_text(script)

        command = (sys.executable, "-c", WORKER, str(tmp_path))

        def by_name(cell: Cell, place: Place) -> State:
            done = (tmp_path / f"{cell.label}.done").exists()
            return State("cached" if done else "to do", None, RunFolder(tmp_path / cell.label))

        monkeypatch.setattr(worker, "COMMAND", command)
        monkeypatch.setattr(driving, "state_of", look or by_name)
        monkeypatch.setattr(driving, "LOOK_EVERY", 0.1)
        place = Place(tmp_path, Circumstances(tmp_path, "cpu", None))
        said = [] if said is None else said
        executor = make_executor("local", jobs, tmp_path)
        made = Driver(place, executor, lambda cell: [cell.label], said.append, keep_going)
        made.results = results
        made.run(cells, tmp_path / "logs")
        return made, said

    return run


def cells_named(*names: str) -> list[Cell]:
    """Cells that share teacher and init, as those of one seed do."""
    study = Study.model_validate(
        {"title": "t", "suite": "mini-test", "method": "sft", "seeds": [10], "base": names[0]}
        | {"rows": [{"label": n, "set": [f"train.lr={i + 1}e-3"]} for i, n in enumerate(names)]}
    )
    return expand(study)


def test_lost_workers_are_tried_again_and_errors_are_sentences(
    pretended: Callable[..., tuple[Driver, list[str]]], tmp_path: Path
) -> None:
    scripts = {
        "killed": "kill finish",
        "hopeless": "kill kill kill",
        "refused": "refuse",
        "aborted": "134 139 finish",
        "interrupted": "130",
        "busy": "locked finish",
        "never": "locked locked locked locked",
        "buggy": "crash",
        "lazy": "nothing",
    }
    driver, said = pretended(cells_named(*scripts), scripts)
    failures = {failure.name.partition(",")[0]: failure.reason for failure in driver.failures}
    assert set(failures) == {"hopeless", "interrupted", "never", "refused", "buggy", "lazy"}
    assert "is being written by process 1 on b" in failures["never"]
    assert (tmp_path / "never.script").read_text() == "locked"  # after three tries nobody held it
    assert failures["hopeless"].startswith("lost 3 times")
    assert failures["refused"] == "no data folder x; give an existing one"
    assert failures["buggy"] == "ValueError: what a bug says"
    assert "left undone" in failures["lazy"]
    assert any("killed" in line and "starting it again" in line for line in said)
    assert (tmp_path / "killed.done").exists() and (tmp_path / "busy.done").exists()
    for failure in driver.failures:
        assert failure.log.is_file()


def test_the_reason_of_a_failure_is_read_from_the_node_that_says_it(
    pretended: Callable[..., tuple[Driver, list[str]]], tmp_path: Path
) -> None:
    driver, _ = pretended(cells_named("a[1]"), {"a[1]": "elsewhere"})
    (failure,) = driver.failures
    assert failure.reason == "training diverged at step 3"
    assert failure.log.name.endswith(".log.node1") and failure.log.is_file()
    log = failure.log.with_suffix("")
    old = {path: path.stat().st_size for path in driving.logs_of(log)}
    assert len(old) == 2  # what an earlier try said is not what this one does
    assert driving.last_words(log, old) == ("it printed nothing", log)
    with open(failure.log, "a") as file:
        file.write("train sft: step 4\n")
    assert driving.last_words(log, old).text == "train sft: step 4"


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # nobody waits for it
def test_what_does_not_end_is_named(
    pretended: Callable[..., tuple[Driver, list[str]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(self: Driver) -> None:
        if (tmp_path / "order").exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(Driver, "_tell", interrupted)
    monkeypatch.setattr(driving, "STOP_WAIT", 1.0)
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        pretended(cells_named("a"), {"a": "deaf"}, said=said)
    found = re.search(
        r"a, seed 10: asked to end 1 s ago and still there \(process (\d+)\)", said[-1]
    )
    assert found, said
    os.kill(int(found[1]), signal.SIGKILL)


def test_a_driver_in_the_background_of_a_shell_ends_its_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a shell has SIGINT ignored, and what it starts inherits that."""
    monkeypatch.setattr(worker, "COMMAND", (sys.executable, "-c", "import time; time.sleep(60)"))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        handle = make_executor("local", 1, tmp_path).start([], tmp_path / "log", 0)
    finally:
        signal.signal(signal.SIGINT, before)
    time.sleep(0.5)
    handle.stop()
    assert ended(handle) == -signal.SIGTERM


STOPPABLE = """
import sys, time
from kdbench.harness.stopping import stoppable
with stoppable() as came:
    try:
        print("begun", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("ended", flush=True)
        sys.exit(143 if came else 130)
"""
SCHEDULED = """
import sys
from kdbench.harness.study.executors import worker
worker.LAUNCH = "this_launcher"
print(worker.run_worker([], sys.argv[1], sys.argv[2], {"PYTHONPATH": sys.argv[2]}), flush=True)
"""


def test_a_job_that_slurm_ends_is_lost(tmp_path: Path, spawn: Callable[..., Any]) -> None:
    """By scancel, for another's sake, or because its time is over: SIGTERM."""
    (tmp_path / "this_launcher.py").write_text(STOPPABLE)
    log = tmp_path / "log"
    job = spawn(SCHEDULED, log, tmp_path)
    deadline = time.monotonic() + 100
    while not (log.exists() and "begun" in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    code = int(job.communicate(timeout=100)[0])
    assert code == 143 and worker.lost(code)
    assert log.read_text().splitlines() == ["begun", "ended"]


@pytest.mark.parametrize(
    ("codes", "code", "is_lost"),
    [
        ([0, 0], 0, False),
        ([1, 137], 137, True),
        ([-9, 1], -9, True),
        ([1, 134, 2], 134, True),
        ([1, 0, 2], 2, False),
        ([130, 1], 130, False),
    ],
)
def test_the_code_of_several_nodes(codes: list[int], code: int, is_lost: bool) -> None:
    assert worker.code_of_all(codes) == code and worker.lost(code) is is_lost


def ended(handle: worker.Handle) -> int | None:
    """Its exit code, once it has one."""
    deadline = time.monotonic() + 100
    while handle.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return handle.poll()


def test_a_run_whose_files_are_not_seen_here_is_a_sentence(
    pretended: Callable[..., tuple[Driver, list[str]]],
) -> None:
    driver, _ = pretended(
        cells_named("away"), {"away": "nothing"}, look=lambda *_: State("to do", None, None)
    )
    assert "does not see the models" in driver.failures[0].reason


def test_a_run_lost_while_it_evaluated_references_is_run_again(
    pretended: Callable[..., tuple[Driver, list[str]]], tmp_path: Path
) -> None:
    driver, said = pretended(cells_named("a"), {"a": "evaluate finish"})
    assert driver.failures == []
    assert (tmp_path / "order").read_text().split() == ["+a", "+a", "-a"]
    assert not any("done by another process" in line for line in said)


def test_the_first_failure_ends_it_unless_told_otherwise(
    pretended: Callable[..., tuple[Driver, list[str]]], tmp_path: Path
) -> None:
    driver, _ = pretended(
        cells_named("bad", "good"), {"bad": "refuse", "good": "finish"}, keep_going=False
    )
    assert [failure.name for failure in driver.failures] == ["bad, seed 10"]
    assert not (tmp_path / "good.done").exists()


def test_a_failure_that_is_a_result_ends_nothing(
    pretended: Callable[..., tuple[Driver, list[str]]],
) -> None:
    made, _ = pretended(
        cells_named("wild", "good", "bad", "last"),
        {"wild": "diverge", "good": "finish", "bad": "refuse", "last": "finish"},
        keep_going=False,
        results=(DIVERGED,),
    )
    assert [failure.name for failure in made.failures] == ["wild, seed 10", "bad, seed 10"]


def test_one_makes_what_the_others_share(
    pretended: Callable[..., tuple[Driver, list[str]]], tmp_path: Path
) -> None:
    pretended(cells_named("a", "b", "c"), dict.fromkeys("abc", "finish"), jobs=3)
    order = (tmp_path / "order").read_text().split()
    assert order[:2] == ["+a", "-a"]  # alone until it is done: it never left a prepare.json
    assert set(order[2:4]) == {"+b", "+c"}  # together


def test_a_run_that_somebody_writes_is_waited_for(
    pretended: Callable[..., tuple[Driver, list[str]]],
    tmp_path: Path,
    spawn: Callable[..., object],
) -> None:
    holder = (
        "import sys, time, pathlib; from kdbench.harness.files.locks import RunLock\n"
        "with RunLock(sys.argv[1]):\n"
        "    print('held', flush=True); time.sleep(1.5)\n"
        "    pathlib.Path(sys.argv[2]).touch()\n"
    )
    process = spawn(holder, tmp_path / "held", tmp_path / "held.done")
    assert process.stdout.readline() == "held\n"  # type: ignore[attr-defined]
    driver, said = pretended(
        cells_named("held", "free"), {"held": "finish", "free": "finish"}, jobs=1
    )
    assert driver.failures == []
    assert any("is making it; waiting" in line for line in said)
    done = next(i for i, line in enumerate(said) if "done by another process" in line)
    began = next(i for i, line in enumerate(said) if "free, seed 10: started" in line)
    assert said[done].startswith("held") and done < began  # there is one place, and it was taken
    assert (tmp_path / "order").read_text().split() == ["+free", "-free"]


def test_a_run_that_is_refused_waits_for_those_that_run(
    pretended: Callable[..., tuple[Driver, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    start, handles = local.LocalExecutor.start, list[Any]()

    def limited(self: Any, *asked: Any) -> Any:
        if any(handle.poll() is None for handle in handles):
            raise InputError("Slurm refuses the job: one is allowed")
        handles.append(start(self, *asked))
        return handles[-1]

    monkeypatch.setattr(local.LocalExecutor, "start", limited)
    scripts = {"a": "finish", "b": "finish", "c": "kill finish"}
    driver, said = pretended(cells_named(*scripts), scripts, jobs=2)
    assert driver.failures == [] and len(handles) == 4
    assert sum("one is allowed" in line for line in said) == 1

    monkeypatch.setattr(local.LocalExecutor, "start", lambda *_: limited(None))
    handles[:] = [worker.Handle(lambda: None, lambda: None)]
    with pytest.raises(InputError, match="one is allowed"):
        pretended(cells_named("d"), {"d": "finish"})


def test_the_places_of_workers_that_outlived_their_driver(
    spawn: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = []
    for gpus in ("1", "somewhere"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
        process = spawn("import sys, time; print(flush=True); time.sleep(60)")
        process.stdout.readline()
        pids.append(process.pid)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    executor = local.LocalExecutor(2, {}, "auto")
    assert executor.slots_of(pids) == [1, 0] and executor.slots_of(pids[1:]) == [0]
    assert local.LocalExecutor(2, {}, "cpu").slots_of(pids) == [0, 1]
    assert local.LocalExecutor(1, {}, "cpu").slots_of(pids) == [0, 0]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sun", "choose from local, ray, slurm"),
        ("local:cores=2", "no setting 'cores'"),
        ("local:threads", "key=value"),
        ("local:threads=many", "must be a number"),
    ],
)
def test_unknown_executors_are_sentences(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        make_executor(name, 1, tmp_path)


def test_gpus_of_a_container_are_counted_as_cuda_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It shows the host's cards 2 and 3, which CUDA calls 0 and 1."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(local, "DEVICES", tmp_path)
    for name in ("nvidia2", "nvidia3", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert local.visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert local.visible_gpus() == ["3"]


VISIBLE = "import os; print(os.environ.get('CUDA_VISIBLE_DEVICES'))"


@pytest.mark.parametrize(
    ("device", "places"), [("auto", ["4", "7"]), ("cuda", ["4", "7"]), ("cuda:1", ["4,7", "4,7"])]
)
def test_gpus_are_divided_unless_one_is_named(
    device: str, places: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.setattr(worker, "COMMAND", (sys.executable, "-c", VISIBLE))
    executor = make_executor("local", 2, tmp_path, device)
    assert seen(executor, 2, tmp_path) == places


def seen(executor: Any, slots: int, folder: Path) -> list[str]:
    """What a worker in each place prints."""
    found = []
    for slot in range(slots):
        log = folder / f"{slot}.log"
        handle = executor.start([], log, slot)
        while handle.poll() is None:
            time.sleep(0.01)
        found.append(log.read_text().strip())
    return found


@pytest.mark.parametrize(
    ("settings", "places"),
    [
        ("gpus=2", ["4,5", "6,7"]),
        ("gpus=2,processes=1", ["4,5", "6,7"]),
        ("gpus=3,processes=1", ["4,5,GPU-6"]),  # what is left over rests
        ("gpus=1", ["4", "5", "6", "7"]),
    ],
)
def test_places_of_several_gpus(
    settings: str, places: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,GPU-6,7" if "3" in settings else "4,5,6,7")
    monkeypatch.setattr(worker, "COMMAND", (sys.executable, "-c", VISIBLE))
    # several processes are started by torchrun, which is asked what it was told instead
    monkeypatch.setattr(worker, "LAUNCH", "this_launcher")
    (tmp_path / "this_launcher.py").write_text(VISIBLE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    executor = make_executor(f"local:{settings}", None, tmp_path, "auto")
    assert executor.jobs == len(places)
    assert seen(executor, len(places), tmp_path) == places


@pytest.mark.parametrize(
    ("name", "jobs", "device", "words"),
    [
        ("local:nodes=2", 1, "auto", "has no nodes"),
        ("local:gpus=3", 1, "auto", r"asks for 3 GPUs a run, but this machine has 2 \(4,7\)"),
        ("local:gpus=2", 2, "auto", "needs 4 GPUs, .* use --jobs 1"),
        ("local:gpus=2,processes=3", 1, "auto", "takes a GPU of its own"),
        ("local:processes=3", 1, "auto", "takes a GPU of its own, but this machine has 2"),
        ("local:gpus=1", 1, "cpu", "exclude each other"),
        ("local:processes=0", 1, "cpu", "whole number of at least 1"),
        ("local:gpus=half", 1, "auto", "whole number of at least 0"),
    ],
)
def test_what_a_machine_has_not_is_a_sentence(
    name: str,
    jobs: int,
    device: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    with pytest.raises(InputError, match=words):
        make_executor(name, jobs, tmp_path, device)
    make_executor("local:processes=3", 1, tmp_path, "cpu")


# -- real runs --------------------------------------------------------------------------------------


def start(study: Path, folder: Path, *more: str) -> "runs.subprocess.Popen[str]":
    """A driver in a process of its own. What is tested is not drift: the code may change meanwhile."""
    return runs.start(
        *("ablate", str(study), "--runs-dir", str(folder / "runs"), "--out", str(folder / "out")),
        *("--device", "cpu", "--accept-drift", *more),
    )


def until(ready: Callable[[], bool], process: "runs.subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 300
    while not ready():
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < deadline, "it never got there"
        time.sleep(0.005)


@pytest.mark.slow
def test_kills_lose_nothing_and_repeat_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "small.yaml"
    study.write_text(SMALL)

    def run_folder(method: str) -> Path | None:
        return next((tmp_path / "runs").glob(f"{method}-*"), None)

    def training(method: str) -> bool:
        folder = run_folder(method)
        return folder is not None and runs.lines(folder / "train" / "metrics.jsonl") >= 6

    # a worker is killed in the middle: the driver starts it again, and it continues
    driver = start(study, tmp_path)
    until(lambda: training("sft"), driver)
    first = run_folder("sft")
    assert first is not None
    holder = lock_holder(first)
    assert holder is not None
    os.kill(holder.pid, signal.SIGKILL)

    # the driver is killed in the middle of the second run, whose worker outlives it
    until(lambda: training("fkd"), driver)
    made = {path: path.stat().st_mtime_ns for path in first.rglob("*") if path.is_file()}
    os.kill(driver.pid, signal.SIGKILL)
    said = driver.communicate()[0]
    assert "lost" in said and "(try 2)" in said

    driver = start(study, tmp_path)
    said = driver.communicate(timeout=300)[0]
    assert driver.returncode == 0, said[-3000:]
    assert "1 cached, 1 to do" in said
    after = {path: path.stat().st_mtime_ns for path in first.rglob("*") if path.is_file()}
    assert after == made  # a finished run is not touched again
    (log,) = (tmp_path / "out" / "logs").glob("taught-*.log")
    trained = [line for line in log.read_text().splitlines() if line.startswith("train fkd:")]
    assert sum("step" in line and " in " in line for line in trained) == 1

    # everything is there: the same command only draws the table
    with pytest.raises(SystemExit) as caught:
        cli.main(
            [
                *("ablate", str(study), "--runs-dir", str(tmp_path / "runs"), "--json"),
                *("--out", str(tmp_path / "out"), "--device", "cpu"),
            ]
        )
    assert caught.value.code == 0
    table = json.loads(capsys.readouterr().out)["table"]
    assert [row["label"] for row in table["rows"]] == ["plain", "taught"]
    (cell,) = [
        c
        for c, k in zip(table["cells"][1], table["columns"], strict=True)
        if k["metric"] == "rouge_l"
    ]
    assert cell["paper"]["difference"] == 1.5
    assert cell["effect"]["low"] <= cell["effect"]["difference"] <= cell["effect"]["high"]
    out = {path.name for path in (tmp_path / "out").iterdir()}
    assert {
        "table.md",
        "table.tex",
        "table.csv",
        "table.json",
        "differences.svg",
        "differences.png",
        "differences.csv",
    } <= out

    # the plan knows the ids, and that asking for more makes a run partial
    with pytest.raises(SystemExit):
        cli.main(
            [
                *("ablate", str(study), "--runs-dir", str(tmp_path / "runs"), "--json"),
                *("--dry-run", "--device", "cpu", "--tasks", "dolly,selfinst"),
            ]
        )
    plan = json.loads(capsys.readouterr().out)["runs"]
    assert [run["state"] for run in plan] == ["partial", "partial"]
    assert plan[0]["missing"] == ["selfinst"]
    assert (tmp_path / "runs" / Path(plan[0]["folder"]).name) == first
    cells = expand(load_study(str(study)))
    assert missing_of(RunFolder(first), cells[0].config) == []
    with RunLock(first):  # nobody holds it
        pass
