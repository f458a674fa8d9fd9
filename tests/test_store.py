"""Files, markers, folders and locks, with real processes where a process is what matters."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kdbench.harness.errors import Damaged, InputError, RunLocked, unknown
from kdbench.harness.files.folders import build_once, new_folder, open_cache, settle_folder
from kdbench.harness.files.locks import Holder, RunLock, lock_holder
from kdbench.harness.files.owners import namespace, sweep, temporary
from kdbench.harness.files.records import StageCost
from kdbench.harness.files.selfcheck import checked, checked_row, row_with_digest, with_digest
from kdbench.harness.files.stages import Stage
from kdbench.harness.files.store import (
    append_rows,
    keep_rows,
    make_folder,
    read_json,
    read_records,
    read_rows,
    validated,
    write_json,
    write_text,
)

Spawn = Callable[..., subprocess.Popen[str]]


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_json_survives_and_leaves_no_temporary(tmp_path: Path) -> None:
    write_json(tmp_path / "a" / "x.json", {"b": 1, "a": "é"})
    assert read_json(tmp_path / "a" / "x.json") == {"b": 1, "a": "é"}
    assert leftovers(tmp_path / "a") == []
    assert (tmp_path / "a" / "x.json").stat().st_mode & 0o044, "colleagues may read it"


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert read_json(tmp_path / "x.json") == {"a": 1}
    assert leftovers(tmp_path) == []


def test_unwritable_place_is_one_sentence(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "x")
    for act in (make_folder, lambda p: write_text(p, "y"), lambda p: append_rows(p, [{}])):
        with pytest.raises(InputError, match=r"cannot write .*; choose a writable place"):
            act(tmp_path / "file" / "below")


def test_torn_last_line_is_cut_on_load_and_on_append(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_rows(path, [{"n": 1}, {"n": 2}])
    with path.open("ab") as file:
        file.write(b'{"n": 3, "text": "' + b"x" * 100_000)
    assert [row["n"] for row in read_rows(path)] == [1, 2]
    append_rows(path, [{"n": 4}])
    assert [row["n"] for row in read_rows(path)] == [1, 2, 4]
    assert path.read_bytes().count(b"\n") == 3


def test_file_of_one_torn_line_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"n": 3')
    assert read_rows(path) == []
    append_rows(path, [])
    assert path.read_bytes() == b""


def test_bad_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"n": 1}\nnot json\n{"n": 3}\n')
    with pytest.raises(InputError, match=r"rows\.jsonl:2 "):
        read_rows(path)


def test_records_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_rows(path, [StageCost(wall_s=1.5), {"wall_s": "soon"}])
    with pytest.raises(InputError, match=r"rows\.jsonl:2: wall_s"):
        read_records(path, StageCost)


def test_keep_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_rows(path, [{"n": n} for n in range(5)])
    keep_rows(path, 3)
    assert [row["n"] for row in read_rows(path)] == [0, 1, 2]
    with pytest.raises(ValueError, match="fewer than 4"):
        keep_rows(path, 4)
    assert len(read_rows(path)) == 3


APPENDER = """
import sys
from kdbench.harness.files.store import append_rows
batch = 0
while True:
    append_rows(sys.argv[1], [{"batch": batch, "row": r, "text": "x" * 20000} for r in range(16)])
    batch += 1
    print(batch, flush=True)
"""


def test_kill_while_appending_loses_no_whole_batch(tmp_path: Path, spawn: Spawn) -> None:
    path = tmp_path / "rows.jsonl"
    for turn in range(3):
        path.unlink(missing_ok=True)
        process = spawn(APPENDER, path)
        assert process.stdout is not None
        confirmed = 0
        while confirmed < 3 + turn:
            confirmed = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        confirmed = max([confirmed, *map(int, process.stdout.read().split())])
        process.wait()
        rows = read_rows(path)
        assert len(rows) >= confirmed * 16
        assert [(r["batch"], r["row"]) for r in rows] == [divmod(i, 16) for i in range(len(rows))]
        keep_rows(path, len(rows) // 16 * 16)
        append_rows(path, [{"batch": -1}])
        assert read_rows(path)[-1] == {"batch": -1}


def test_marker_notices_missing_resized_and_changed_outputs(tmp_path: Path) -> None:
    write_text(tmp_path / "student" / "model.bin", "abc")
    write_text(tmp_path / "log.txt", "log")
    stage = Stage(tmp_path, "train")
    assert not stage.done()
    stage.mark(["student", "log.txt"], {"steps": 20})
    assert stage.done()
    marker = stage.marker()
    assert marker is not None
    assert sorted(marker.outputs) == ["log.txt", "student/model.bin"]
    assert marker.info == {"steps": 20}
    for text, problem in (("LOG", "its content changed"), ("longer", "6 bytes instead of 3")):
        write_text(tmp_path / "log.txt", text)
        with pytest.raises(Damaged, match=rf"log\.txt is not as it was written \({problem}\)$"):
            stage.done()
    (tmp_path / "log.txt").unlink()
    with pytest.raises(Damaged, match=r"log\.txt is gone; train again$"):
        Stage(tmp_path, "train", "train again").done()
    said: list[str] = []
    assert not stage.done(said.append)
    assert said == [f"note: {tmp_path / 'log.txt'} is gone: it is made again"]
    assert stage.marker() is None


def test_a_change_that_keeps_size_and_time_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    write_text(path, "log")
    stage = Stage(tmp_path, "train")
    stage.mark([path])
    time.sleep(0.06)  # from now on the hash is remembered
    assert stage.done() and stage.done()
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"L")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    with pytest.raises(Damaged, match="its content changed"):
        stage.done()


@pytest.mark.parametrize("document", [True, False])
def test_no_byte_of_a_sealed_document_or_row_changes_unseen(document: bool) -> None:
    value = {"é": [1.5, None], "digest of": {"a": "b"}}
    data = with_digest(value).encode() if document else row_with_digest(value)
    undo = checked if document else checked_row
    assert undo(data, json.loads(data)) == value
    for place in range(len(data)):
        for flip in (1, 8, 64, 255):
            changed = bytearray(data)
            changed[place] ^= flip
            with pytest.raises(ValueError):
                undo(bytes(changed), json.loads(changed.decode()))


def test_documents_without_a_digest_are_taken_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": 1}')
    assert read_json(tmp_path / "x.json") == {"a": 1}


@pytest.mark.parametrize("base", ["run", "."])
def test_marker_of_a_relative_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_text(Path(base, "log.txt"), "log")
    for output in (Path("log.txt"), Path(base, "log.txt")):
        stage = Stage(Path(base), "train")
        stage.mark([output])
        marker = stage.marker()
        assert marker is not None
        assert list(marker.outputs) == ["log.txt"]
        assert stage.done()


def test_what_does_not_fit_is_named_and_the_nearest_field_offered() -> None:
    with pytest.raises(InputError, match=r"^x: pid: input should be .* \(got 'a'\)$"):
        validated(Holder, {"host": "h", "pid": "a", "heartbeat": 0}, "x")
    with pytest.raises(InputError, match="no field is called 'hots' in x; did you mean host"):
        validated(Holder, {"host": "h", "hots": "h", "pid": 1, "heartbeat": 0}, "x")


def test_a_sentence_lists_no_thousand_names() -> None:
    said = str(unknown("task", "zzz", [f"name{n:04}" for n in range(1000)]))
    assert said.endswith("name0019, …") and "name0020" not in said


def test_new_folder_replaces_or_leaves_alone(tmp_path: Path) -> None:
    target = tmp_path / "student"
    with new_folder(target) as temporary:
        write_text(temporary / "weights", "1")
    with pytest.raises(RuntimeError), new_folder(target) as temporary:
        write_text(temporary / "weights", "2")
        raise RuntimeError
    assert (target / "weights").read_text() == "1"
    with new_folder(target) as temporary:
        write_text(temporary / "weights", "3")
    assert (target / "weights").read_text() == "3"
    assert leftovers(tmp_path) == []


def test_settle_folder_restores_what_a_kill_left(tmp_path: Path, spawn: Spawn) -> None:
    write_text(tmp_path / ".student.old" / "weights", "1")
    spawn(KILLED, tmp_path / "student").wait()
    assert len(leftovers(tmp_path)) == 2
    settle_folder(tmp_path / "student")
    assert (tmp_path / "student" / "weights").read_text() == "1"
    assert leftovers(tmp_path) == []


KILLED = """
import os, sys, time
from pathlib import Path
from kdbench.harness.files.owners import temporary
unfinished = temporary(Path(sys.argv[1]))
unfinished.mkdir(parents=True)
(unfinished / "weights").touch()
if len(sys.argv) > 2:
    print("made", flush=True)
    time.sleep(60)
os._exit(9)
"""


def test_who_takes_the_lock_sweeps_what_the_dead_left_and_nothing_of_the_living(
    tmp_path: Path, spawn: Spawn
) -> None:
    spawn(KILLED, tmp_path / "eval" / "dead").wait()
    living = spawn(KILLED, tmp_path / "eval" / "living", "and waits")
    assert living.stdout is not None
    assert living.stdout.readline() == "made\n"
    mine = temporary(tmp_path / "eval" / "mine")
    mine.touch()
    with RunLock(tmp_path):
        left = {path.name.split(".")[1] for path in (tmp_path / "eval").iterdir()}
    assert left == {"living", "mine"}


def test_who_may_write_a_folder_takes_away_what_any_host_left_of_it(tmp_path: Path) -> None:
    for name in ("student.elsewhere-1-5-0123abcd", "student.elsewhere+77-1-5-0123abcd"):
        (tmp_path / f".{name}.tmp" / "half").mkdir(parents=True)
    other = tmp_path / ".student.init.elsewhere+77-1-5-0123abcd.tmp"
    other.mkdir()
    with new_folder(tmp_path / "student"):
        assert len(leftovers(tmp_path)) == 2  # its own and the other's
    assert leftovers(tmp_path) == [other.name]


CONTAINER = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def test_containers_of_one_host_name_do_not_take_each_other_for_dead(tmp_path: Path) -> None:
    """Each has process ids of its own, as its first process."""
    if subprocess.run([*CONTAINER, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespaces may be made here")
    sweeping = "import sys; from kdbench.harness.files.owners import sweep; sweep(sys.argv[1])"
    with subprocess.Popen(
        [*CONTAINER, sys.executable, "-c", KILLED, str(tmp_path / "eval" / "living"), "and waits"],
        stdout=subprocess.PIPE,
        text=True,
    ) as living:
        assert living.stdout is not None
        assert living.stdout.readline() == "made\n"
        for where in (CONTAINER, []):
            subprocess.run([*where, sys.executable, "-c", sweeping, str(tmp_path)], check=True)
            assert len(leftovers(tmp_path / "eval")) == 1
        living.kill()


@pytest.mark.parametrize(
    ("host", "stays"), [("{host}", False), ("{host}+{within}", False), ("{host}+77", True)]
)
def test_names_of_an_older_kdbench_are_of_this_host(tmp_path: Path, host: str, stays: bool) -> None:
    said = host.format(host=socket.gethostname(), within=namespace())
    file = tmp_path / f".scores.jsonl.{said}-{2**22 + 1}-5-0123abcd.tmp"
    file.touch()
    sweep(tmp_path)
    assert file.exists() is stays


@pytest.mark.parametrize(
    ("host", "age", "stays"), [("elsewhere", 60, True), ("elsewhere", 90000, False)]
)
def test_what_another_host_left_goes_by_its_age(
    tmp_path: Path, host: str, age: float, stays: bool
) -> None:
    file = tmp_path / f".scores.jsonl.{host}-1-5-0123abcd.tmp"
    file.touch()
    os.utime(file, (0, time.time() - age))
    sweep(tmp_path)
    assert file.exists() is stays


def test_opening_the_cache_clears_dead_locks_and_leaves_living_ones(
    tmp_path: Path, spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path))
    for name in ("dead", "living"):
        write_text(tmp_path / "teachers" / name / "config.json", "{}")
        process = spawn(HOLDER, tmp_path / "teachers" / name)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        if name == "dead":
            process.kill()
            process.wait()
    lock_file(tmp_path / "base", host=socket.gethostname(), pid=1, start="long ago")
    (tmp_path / "base" / "lock").rename(tmp_path / "base" / ".0123.lock")
    open_cache()
    assert [path.parent.name for path in tmp_path.rglob("*lock")] == ["living"]


BUILDER = """
import sys, time
from pathlib import Path
from kdbench.harness.files.folders import build_once
def build(folder):
    time.sleep(0.3)
    (folder / "by").write_text(sys.argv[2])
    with open(sys.argv[1] + ".log", "a") as log:
        log.write(sys.argv[2])
print((build_once(Path(sys.argv[1]), build) / "by").read_text())
"""


def test_build_once_builds_once(tmp_path: Path, spawn: Spawn) -> None:
    processes = [spawn(BUILDER, tmp_path / "teacher", name) for name in "abc"]
    answers = {process.communicate()[0].strip() for process in processes}
    assert len(answers) == 1
    assert len((tmp_path / "teacher.log").read_text()) == 1
    assert leftovers(tmp_path) == []
    assert build_once(tmp_path / "teacher", lambda _: pytest.fail("built twice")).is_dir()


HOLDER = """
import sys, time
from kdbench.harness.files.locks import RunLock
with RunLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""

CONTENDER = """
import sys, time
from kdbench.harness.errors import RunLocked
from kdbench.harness.files.locks import RunLock
while time.time() < float(sys.argv[2]):
    pass
try:
    with RunLock(sys.argv[1]):
        print("won", flush=True)
        time.sleep(1.5)
except RunLocked:
    print("refused", flush=True)
"""


def test_live_lock_is_refused_and_dead_one_taken_over(tmp_path: Path, spawn: Spawn) -> None:
    process = spawn(HOLDER, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(RunLocked, match=f"written by process {process.pid} on"), RunLock(tmp_path):
        pass
    holder = lock_holder(tmp_path)
    assert holder is not None
    assert holder.pid == process.pid
    process.kill()
    process.wait()
    assert (tmp_path / "lock").exists()
    assert lock_holder(tmp_path) is None
    with RunLock(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "lock").exists()


def test_one_of_many_takes_over(tmp_path: Path, spawn: Spawn) -> None:
    process = spawn(HOLDER, tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.wait()
    contenders = [spawn(CONTENDER, tmp_path, time.time() + 1.0) for _ in range(4)]
    answers = sorted(c.communicate()[0].strip() for c in contenders)
    assert answers == ["refused", "refused", "refused", "won"]


def test_waiting_for_the_holder(tmp_path: Path, spawn: Spawn) -> None:
    process = spawn(HOLDER, tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    threading.Timer(0.3, process.kill).start()
    with RunLock(tmp_path, wait=30):
        pass
    process.wait()


def lock_file(folder: Path, **changes: object) -> None:
    content = {"host": socket.gethostname(), "pid": os.getppid(), "heartbeat": time.time()}
    write_text(folder / "lock", json.dumps(content | changes))


def test_other_host_lives_by_its_heartbeat(tmp_path: Path) -> None:
    lock_file(tmp_path, host="elsewhere", pid=1)
    with pytest.raises(RunLocked, match="on elsewhere"), RunLock(tmp_path):
        pass
    lock_file(tmp_path, host="elsewhere", pid=1, heartbeat=time.time() - 3600)
    with RunLock(tmp_path):
        pass


@pytest.mark.parametrize("other", [{"host": "elsewhere"}, {"namespace": "77"}])
def test_equal_process_ids_elsewhere_are_others(tmp_path: Path, other: dict[str, str]) -> None:
    lock_file(tmp_path, pid=os.getpid(), **other)
    assert lock_holder(tmp_path) is not None
    with pytest.raises(RunLocked, match="is being written by"), RunLock(tmp_path):
        pass
    lock_file(tmp_path, pid=os.getpid(), heartbeat=time.time() - 3600, **other)
    with RunLock(tmp_path):
        pass


def test_a_lock_that_a_file_system_keeps_for_a_dead_machine(tmp_path: Path, spawn: Spawn) -> None:
    process = spawn(HOLDER, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    process.send_signal(signal.SIGSTOP)  # its heart, too
    holder = json.loads((tmp_path / "lock").read_text())
    changed = {"host": "elsewhere", "heartbeat": time.time() - 600}
    (tmp_path / "lock").write_text(json.dumps(holder | changed))
    assert lock_holder(tmp_path) is None
    words = f"on elsewhere, last heard of 600 s ago.* remove {tmp_path / 'lock'} "
    with pytest.raises(RunLocked, match=words) as caught, RunLock(tmp_path):
        pass
    assert "is being written by" not in str(caught.value)  # nobody need wait for it
    (tmp_path / "lock").unlink()
    with RunLock(tmp_path):
        pass


@pytest.mark.parametrize("by_another", [False, True])
def test_a_lock_given_back_while_it_is_asked_for_is_taken_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_another: bool
) -> None:
    real, times = fcntl.lockf, [0]

    def released(descriptor: int, how: int) -> None:
        real(descriptor, how)
        times[0] += 1
        if times[0] == 1:
            (tmp_path / "lock").unlink()
            if by_another:
                (tmp_path / "lock").touch()

    monkeypatch.setattr(fcntl, "lockf", released)
    with RunLock(tmp_path):
        assert times == [2]


def test_this_host_lives_by_its_pid(tmp_path: Path) -> None:
    lock_file(tmp_path)
    with pytest.raises(RunLocked), RunLock(tmp_path):
        pass
    lock_file(tmp_path, start="a former owner of this pid")
    with RunLock(tmp_path):
        pass


def test_one_process_cannot_hold_it_twice(tmp_path: Path, spawn: Spawn) -> None:
    with RunLock(tmp_path):
        with pytest.raises(RunLocked, match="this very process"), RunLock(tmp_path):
            pass
        assert spawn(CONTENDER, tmp_path, 0).communicate()[0] == "refused\n"
    with RunLock(tmp_path):
        pass


def test_unreadable_lock_is_no_lock(tmp_path: Path) -> None:
    write_text(tmp_path / "lock", "")
    with RunLock(tmp_path):
        pass


def test_whoever_writes_in_a_folder_takes_away_what_the_dead_left(tmp_path: Path) -> None:
    target = tmp_path / "table.tex"
    code = (
        "import os, sys; from pathlib import Path; from kdbench.harness.files.owners import temporary; "
        "path = temporary(Path(sys.argv[1])); path.write_text('half'); print(path, flush=True); "
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdout is not None
        left = Path(writer.stdout.readline().strip())
        subprocess.run([sys.executable, "-c", WRITE, str(target)], check=True)
        assert left.exists(), "its writer lives"
        writer.kill()
    subprocess.run([sys.executable, "-c", WRITE, str(target)], check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["table.tex"]


WRITE = (
    "import sys; from kdbench.harness.files.store import write_text; write_text(sys.argv[1], 'x')"
)
