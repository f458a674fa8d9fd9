"""Teacher stores: exact, shared, found damaged, continued after a kill, and what they are not for."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import runs
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from kdbench.harness.config import Request, RunConfig
from kdbench.harness.errors import Damaged, InputError
from kdbench.harness.files.records import ModelRef
from kdbench.harness.identity import Contents, run_id, run_parts, store_id
from kdbench.harness.own_methods import METHODS
from kdbench.harness.registry import find_method
from kdbench.harness.resolve import resolve
from kdbench.harness.runner import capturing
from kdbench.harness.runner.disk import check_store
from kdbench.trainers.batching import Layout, pack
from kdbench.trainers.head.head import head_of
from kdbench.trainers.head.partial import completed, known_part
from kdbench.trainers.loop import Loop
from kdbench.trainers.method import Method
from kdbench.trainers.objectives.divergences import forward_kl
from kdbench.trainers.proof import gradient
from kdbench.trainers.store.shelf import ROWS, Shelf
from kdbench.trainers.store.states import (
    Captor,
    StoredStates,
    known_head,
    read_head,
    write_head,
)
from kdbench.trainers.teacher import TeacherSide
from kdbench.trainers.types import Sequence

CPU = torch.device("cpu")


def made(name: str, **options: Any) -> Method:
    method = find_method(name).method
    return method(method.Config.model_validate(options))


def rows() -> list[Sequence]:
    """What `tiny.loop` trains on, and 70 rows more, so that there are two shards."""
    return [*tiny.sequences(24, seed=1), *tiny.sequences(ROWS + 6, seed=9)]


def captor(teacher: PreTrainedModel, kind: str = "hidden") -> Captor:
    layout = Layout(row=64, pad_id=0, packed=True, device=CPU)
    side = TeacherSide(teacher, head_of(teacher, tiny.VOCAB))
    return Captor(side=side, layout=layout, micro_tokens=64, kind=kind, vocab=tiny.VOCAB)


def stored(folder: Path, teacher: PreTrainedModel, kind: str = "hidden") -> StoredStates:
    shelf, fills = Shelf(folder / "shelf", "id", rows()), captor(teacher, kind)
    for number in range(len(shelf)):
        shelf.write(number, fills.tensors(shelf.rows_of(number)))
    (folder / "head").mkdir(parents=True)
    write_head(fills.side.head, folder / "head")
    return StoredStates([shelf], read_head(folder / "head", CPU))


def test_of_equal_rows_one_that_is_filled_is_read(tmp_path: Path) -> None:
    """Training rows may be there twice, and a short training fills the shards that it reads."""
    teacher = tiny.model("llama", seed=2)
    several = [
        *tiny.sequences(ROWS, seed=1),
        *tiny.sequences(1, seed=1),
        *tiny.sequences(3, seed=9),
    ]
    shelf, fills = Shelf(tmp_path, "id", several), captor(teacher)
    assert several[0].response == several[ROWS].response and len(shelf) == 2
    shelf.write(1, fills.tensors(shelf.rows_of(1)))
    packed = pack(several[ROWS : ROWS + 1], max_tokens=64, pad_id=0)
    states = StoredStates([shelf], fills.side.head, shards=[{1}])
    expected = fills.tensors(several[ROWS : ROWS + 1])["hidden"]
    torch.testing.assert_close(states.hidden(packed), expected)
    with pytest.raises(Damaged, match="is gone"):
        StoredStates([shelf], fills.side.head).hidden(packed)


def loop(name: str, out: Path, teacher: PreTrainedModel, **more: Any) -> Loop:
    student = tiny.model("llama", seed=1).to(torch.float64)
    precise = {"dtype": torch.float64, "precision": "fp64", "micro_tokens": 10_000}
    return tiny.loop(made(name), student=student, teacher=teacher, out=out, **precise | more)


def off_line() -> list[str]:
    """Our methods that can read a store of gold answers."""
    return [name for name in METHODS if made(name).reads() == ("data",)]


def test_methods_say_what_they_read() -> None:
    assert {"fkd", "rkd", "jsd", "akl", "taid", "sinkd", "cr-ild", "dskd"} <= set(off_line())
    assert made("fkd", responses="teacher-greedy").reads() == ("teacher-greedy",)
    assert made("dpkd-token").reads() == ("teacher",)
    assert made("seqkd").reads() == () and made("seqkd", word_kd=0.5).reads() == ("teacher",)
    for name in ("sft", "minillm", "gkd", "opd", "distillm", "distillm2", "dpkd", "mrkd", "lsrkd"):
        assert made(name).reads() == (), name


@pytest.mark.parametrize("name", off_line())
def test_gradients_are_those_of_the_teacher_in_memory(name: str, tmp_path: Path) -> None:
    """With no values in the teacher but its head's: nothing else of it can have been asked."""
    tied = off_line().index(name) % 2 == 0
    teacher = tiny.model("llama", seed=2, tied=tied, width=48, layers=3).to(torch.float64)
    live, terms = gradient(loop(name, tmp_path / "live", teacher), 10_000)
    states = stored(tmp_path, teacher)
    shell = tiny.model("llama", seed=2, tied=tied, width=48, layers=3).to(torch.float64).to("meta")
    read, again = gradient(loop(name, tmp_path / "read", shell, stored=states), 10_000)
    assert float((read - live).norm() / live.norm()) < 1e-12
    assert again["total"] == pytest.approx(terms["total"], rel=1e-12)


@pytest.mark.parametrize(
    ("family", "dtype"),
    [("llama", torch.bfloat16), ("gpt2", torch.float32), ("opt", torch.bfloat16)],
)
def test_what_is_stored_is_what_the_teacher_gives_to_the_bit(
    family: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    teacher = tiny.model(family, seed=2, tied=False).to(dtype)
    states = stored(tmp_path, teacher)
    assert torch.equal(states.head.weight, teacher.get_output_embeddings().weight)
    again = captor(teacher)
    for number in range(2):
        part = states.shelves[0].rows_of(number)
        packed = again.layout(part)
        found = states.hidden(packed)
        assert found.dtype == dtype and torch.equal(found, again.tensors(part)["hidden"])
    twice = Shelf(tmp_path / "again", "id", rows())
    twice.write(1, again.tensors(twice.rows_of(1)))
    assert twice.file(1).read_bytes() == states.shelves[0].file(1).read_bytes()


def test_rounded_states_are_half_as_large(tmp_path: Path) -> None:
    teacher = tiny.model("llama", seed=2)
    states = stored(tmp_path, teacher, "hidden-bf16")
    found = states.hidden(captor(teacher).layout(rows()[:3]))
    exact = captor(teacher).tensors(rows()[:3])["hidden"]
    assert found.dtype == torch.bfloat16
    assert 0 < float((found - exact).norm() / exact.norm()) < 2**-8


def test_likeliest_tokens_and_a_bin_are_the_divergence_over_them(tmp_path: Path) -> None:
    """Forward KL over k + 1 outcomes, and its gradient, by brute force; k = all but one is exact."""
    torch.manual_seed(0)
    q, p = (torch.randn(5, 11, dtype=torch.float64) * 2 for _ in range(2))
    part = known_part(p, 3).double()
    ids, q = part[:, 3:6].long(), q.requires_grad_()

    def binned(log: torch.Tensor) -> torch.Tensor:
        others = log.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)
        return torch.cat([log.gather(-1, ids), others], -1)

    log_p, log_q = binned(p.log_softmax(-1)), binned(q.log_softmax(-1))
    (wanted,) = torch.autograd.grad((log_p.exp() * (log_p - log_q)).sum(), q, retain_graph=True)
    target = torch.zeros(5, dtype=torch.long)
    made = completed(part, q)
    assert torch.allclose(made.exp().sum(-1), torch.ones(5, dtype=torch.float64), atol=1e-6)
    found = forward_kl(q, made, target, {})["loss"].sum()
    (got,) = torch.autograd.grad(found, q)
    value = (log_p.exp() * (log_p - log_q)).sum().detach()
    assert float(found.detach()) == pytest.approx(float(value), rel=1e-5)
    assert torch.allclose(got, wanted, atol=1e-6)


def test_a_store_of_likeliest_tokens(tmp_path: Path) -> None:
    teacher = tiny.model("llama", seed=2, width=48, layers=3)
    live, _ = gradient(loop("fkd", tmp_path / "live", teacher.double()), 10_000)
    shell = tiny.model("llama", seed=2, width=48, layers=3).to("meta")
    gaps = []
    for known in (4, tiny.VOCAB - 1):
        states = stored(tmp_path / str(known), teacher, f"top-{known}")
        head = known_head(f"top-{known}", tiny.VOCAB)
        states = StoredStates(states.shelves, head)
        read, _ = gradient(loop("fkd", tmp_path / f"read{known}", shell, stored=states), 10_000)
        gaps.append(float((read - live).norm() / live.norm()))
    assert 1e-3 < gaps[0] < 1 and gaps[1] < 1e-5
    assert [n for n in METHODS if find_method(n).method.partial] == ["fkd", "seqkd"]


def test_a_row_that_is_on_no_shelf_is_a_sentence(tmp_path: Path) -> None:
    teacher = tiny.model("llama", seed=2)
    states = stored(tmp_path, teacher)
    other = captor(teacher).layout([Sequence((3, 4), (5, 1))])
    with pytest.raises(InputError, match=r"in no store .*teacher.store=none"):
        states.hidden(other)
    with pytest.raises(InputError, match="in no store"):  # a method that samples, forced onto one
        loop("imitkd", tmp_path, teacher.to("meta"), stored=states)._step()


@pytest.mark.parametrize("accident", ["bit", "cut", "gone", "another"])
def test_damage_is_named_and_made_again(accident: str, tmp_path: Path) -> None:
    teacher = tiny.model("llama", seed=2)
    shelf = stored(tmp_path, teacher).shelves[0]
    file, whole = shelf.file(1), shelf.file(1).read_bytes()
    if accident == "bit":
        file.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    elif accident == "cut":
        file.write_bytes(whole[:-40])
    elif accident == "another":  # a whole file, of other states
        save_file({"hidden": load_file(file)["hidden"] * 2}, file)
    else:
        file.unlink()
    assert shelf.ready(0)
    with pytest.raises(Damaged, match=r"000001.safetensors (is not as it was written|is gone)"):
        Shelf(shelf.folder, "id", rows()).read(1, 0, 4)
    said: list[str] = []
    assert not shelf.ready(1, said.append) and "000001.safetensors" in said[0]
    shelf.write(1, captor(teacher).tensors(shelf.rows_of(1)))
    assert shelf.ready(1) and file.read_bytes() == whole


def test_shards_of_other_rows_or_of_another_store_do_not_match(tmp_path: Path) -> None:
    shelf = stored(tmp_path, tiny.model("llama", seed=2)).shelves[0]
    others = Shelf(shelf.folder, "id", [*rows()[1:], rows()[0]])
    for wrong in (others, Shelf(shelf.folder, "another", rows())):
        with pytest.raises(Damaged, match="holds other rows"):
            wrong.read(0, 0, 4)


# -- identities -----------------------------------------------------------------------------------


def config(**settings: Any) -> RunConfig:
    precise = {"train.precision": "fp32", "init_sft.precision": "fp32"}
    given = [f"{k}={v}" for k, v in (precise | settings).items()]
    return resolve(suite="mini-test", method="fkd", assignments=given)


CONTENTS = Contents("t", "s", "rows", "dev", "")
TEACHER = ModelRef(name="same name", fingerprint="one", parameters=1, tokenizer="tok")


def test_an_exact_store_is_no_part_of_a_run_and_a_rounded_one_is() -> None:
    ids = {
        kind: run_id(run_parts(config(**{"teacher.store": kind}), CONTENTS))
        for kind in ("none", "hidden", "hidden-bf16")
    }
    assert ids["none"] == ids["hidden"] == run_id(run_parts(config(), CONTENTS))
    assert ids["hidden-bf16"] != ids["none"]


def test_a_store_is_named_by_all_that_decides_it() -> None:
    base = store_id(config(), CONTENTS, TEACHER, "tok")
    other = TEACHER.model_copy(update={"fingerprint": "two"})
    assert store_id(config(), CONTENTS, other, "tok") != base  # of the same name
    assert store_id(config(), CONTENTS, TEACHER, "another") != base
    assert store_id(config(), CONTENTS, TEACHER, "tok", "answers") != base
    assert store_id(config(), CONTENTS._replace(train="others"), TEACHER, "tok") != base
    for change in (
        {"pair.template": "alpaca"},
        {"train.max_prompt": 40},
        {"train.precision": "bf16"},
        {"teacher.store": "hidden-bf16"},
    ):
        assert store_id(config(**change), CONTENTS, TEACHER, "tok") != base, change
    for change in ({"train.seed": 3}, {"train.micro_tokens": 99}, {"data.dev_limit": 3}):
        assert store_id(config(**change), CONTENTS, TEACHER, "tok") == base, change
    assert store_id(config(), CONTENTS._replace(dev="x", student="y"), TEACHER, "tok") == base


def test_a_small_disk_is_a_sentence(tmp_path: Path) -> None:
    check_store(tmp_path / "not" / "yet", 1)
    with pytest.raises(InputError, match=r"takes 1048576.0 GiB more in .* KDBENCH_CACHE"):
        check_store(tmp_path / "not" / "yet", 2**50)


# -- whole commands -------------------------------------------------------------------------------

PLACE = ("--suite", "mini-test", "--device", "cpu")
GOLD = ("--set", "method.responses=data", "--set", "teacher.store=hidden")


def fresh_cache(folder: Path) -> dict[str, str]:
    """A cache of one's own with the world's teacher that other tests trained."""
    cache = folder / "cache"
    teachers = Path(os.environ["KDBENCH_CACHE"]) / "teachers"
    if teachers.is_dir():
        shutil.copytree(teachers, cache / "teachers")
    return {"KDBENCH_CACHE": str(cache)}


def shards(cache: dict[str, str]) -> dict[str, bytes]:
    files = Path(cache["KDBENCH_CACHE"]).glob("teacher-store/*/*.safetensors")
    return {str(file.relative_to(cache["KDBENCH_CACHE"])): file.read_bytes() for file in files}


def test_the_run_that_capture_names_is_of_its_pair(
    kdbench: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def captured(request: Request) -> dict[str, Any]:
        asked.append(request.config)
        made = {
            "exact": True,
            "bytes": 8,
            "rows": 2,
            "positions": 4,
            "folders": [],
            "kind": "hidden",
        }
        return {**made, "is_main": True}

    monkeypatch.setattr(capturing, "capture_command", captured)
    models = ("--teacher", str(tmp_path / "a teacher"), "--student", "prune:2", "--seed", "7")
    code, out, _ = kdbench("capture", *PLACE, *models, "--set", "train.lr=1e-4")
    assert code == 0
    (said,) = (line.removeprefix("next: ") for line in out.splitlines() if "next: " in line)
    words = shlex.split(said)
    assert words[:6] == ["kdbench", "run", "--method", "fkd", "--suite", "mini-test"]
    assert words[-4:] == ["--set", "train.lr=1e-4", "--set", "teacher.store=hidden"]
    assert kdbench("capture", *words[2:])[0] == 0
    (first, again) = asked
    store = first.teacher.model_copy(update={"store": "hidden"})
    assert again == first.model_copy(update={"teacher": store})
    assert words[words.index("--device") :][:2] == ["--device", "cpu"]


@pytest.mark.slow
def test_capture_killed_and_continued_then_read_by_a_run(tmp_path: Path) -> None:
    """SIGKILL, then two processes go on: the same bytes, a run without the teacher, the same student."""
    whole, killed = fresh_cache(tmp_path / "whole"), fresh_cache(tmp_path / "killed")
    capture = ("capture", *PLACE, *GOLD[:2], "--runs-dir", str(tmp_path / "runs"))
    found = json.loads(runs.finish(*capture, "--quiet", "--json", **whole))
    assert (
        found["exact"] and found["planned_bytes"] < found["bytes"] < found["planned_bytes"] * 1.01
    )
    folder = Path(killed["KDBENCH_CACHE"]) / "teacher-store"
    process = runs.start(*capture, **killed)
    assert runs.kill_when(process, lambda: len(list(folder.glob("*/*.done"))) >= 2)
    assert 2 <= len(shards(killed)) < len(shards(whole))
    two = [sys.executable, "-m", "kdbench.harness.study.executors.ranks", "--processes", "2", "--"]
    subprocess.run([*two, *capture], env={**os.environ, **killed}, check=True)
    assert shards(killed) == shards(whole)

    train = ("train", "--method", "fkd", *PLACE)
    said = runs.finish(*train, *GOLD, "--runs-dir", str(tmp_path / "read"), **killed)
    assert "all there" in said and "teacher store: " not in said
    runs.finish(*train, *GOLD[:2], "--runs-dir", str(tmp_path / "live"), **whole)
    (read,), (live,) = (list((tmp_path / name).glob("fkd-*")) for name in ("read", "live"))
    assert read.name == live.name
    manifest = json.loads((read / "manifest.json").read_text())
    assert manifest["extra"]["teacher_store"]["exact"]
    assert "teacher_store" not in json.loads((live / "manifest.json").read_text())["extra"]
    one, other = (
        load_file(run / "train" / "student" / "model.safetensors") for run in (read, live)
    )
    gap = max(float((one[name] - other[name]).abs().max()) for name in one)
    assert gap < 1e-4  # rows had other company in the teacher's pass

    store = next(folder.glob("*/000001.safetensors"))
    store.write_bytes(store.read_bytes()[:-3])
    said = runs.finish(*capture, **killed)
    assert "000001.safetensors is not as it was written" in said and shards(killed) == shards(whole)


@pytest.mark.slow
def test_who_cannot_read_a_store_is_told_before_anything_is_made(tmp_path: Path) -> None:
    cache = fresh_cache(tmp_path)
    place = ("--runs-dir", str(tmp_path / "runs"), *PLACE)
    for arguments, words in [
        (("capture", "--method", "minillm"), "nothing to capture"),
        (
            ("train", "--method", "gkd", "--set", "teacher.store=hidden-bf16"),
            "leave that out",
        ),
        (("train", "--method", "rkd", "--set", "teacher.store=top-64"), "hardly ever says"),
        (("train", "--method", "fkd", "--set", "teacher.store=disk"), "teacher.store"),
    ]:
        process = runs.start(*arguments, *place, **cache)
        said = process.communicate(timeout=300)[0]
        assert process.returncode == 2 and words in said, said
    steps = ("--set", "train.steps=1", "--set", "teacher.store=hidden")
    said = runs.finish("train", "--method", "gkd", *place, *steps, **cache)
    assert "the teacher is in memory" in said
