"""Students shared among processes are those of one process; a killed process costs nothing but time."""

from pathlib import Path

import pytest
import ranks
import tiny
import zoo
from safetensors.torch import load_file, save_file

from kdbench.harness.files.store import read_json

FAMILIES = ["minillm", "cr-ild", "mrkd", "mrkd+lora"]
"""One method each: with rollouts and the teacher, with modules of its own, with copies of the student."""


LAST = "model.layers.1.mlp.down_proj.weight"
"""Of its last row, which the second process reads."""


def whole(out: Path, names: list[str], family: str = "llama", tied: bool = True) -> Path:
    """The same trainings in this process."""
    for name in names:
        (out / name).mkdir(parents=True)
        ranks.build(name, out / name, {}, family, tied).run()
    return out


def test_shared_students_are_those_of_one_process(tmp_path: Path) -> None:
    """Read by shares, in which a damaged folder is refused by both processes, whichever reads it."""
    good, lacks, nan = (tmp_path / name for name in ("good", "lacks", "nan"))
    for place, change in (
        (good, {}),
        (lacks, {"model.norm.weight": None}),
        (nan, {LAST: float("nan")}),
    ):
        tiny.model("llama", tied=False).save_pretrained(place)
        found = load_file(place / "model.safetensors")
        for name, value in change.items():
            if value is None:
                del found[name]
            else:
                found[name][-1, -1] = value
        save_file(found, place / "model.safetensors", {"format": "pt"})
    pairs = {"lacks": [lacks, lacks], "second": [good, lacks], "nan": [nan, nan]}
    refused = {what: [str(folder) for folder in both] for what, both in pairs.items()}
    ranks.trained(tmp_path / "two", FAMILIES, world=2, refused=refused)
    first, second = (read_json(tmp_path / f"two/said-{rank}.json") for rank in (0, 1))
    assert first["lacks"] == second["lacks"] and "missing: model.norm.weight" in first["lacks"]
    assert first["second"] == f"another process failed: {second['second']}"
    assert first["nan"] == second["nan"] and f"(in {LAST})" in first["nan"]
    one = whole(tmp_path / "one", FAMILIES)
    for name in FAMILIES:
        mine, theirs = (ranks.student(folder, name) for folder in (tmp_path / "two", one))
        assert ranks.gap(mine, theirs) <= 1e-6, name
    state = read_json(tmp_path / "two/mrkd/checkpoints/step-00000006/state.json")
    assert state["loop"]["processes"] == [{"from_step": 0, "count": 2, "shard": "fsdp2"}]


MODELS = [("llama", True), ("llama", False), ("gpt2", True), ("qwen2", True)]


@pytest.mark.long
@pytest.mark.parametrize(("family", "tied"), MODELS)
def test_every_method(family: str, tied: bool, tmp_path: Path) -> None:
    ranks.trained(tmp_path / "two", zoo.NAMES, world=2, family=family, tied=tied, seconds=3600.0)
    one = whole(tmp_path / "one", zoo.NAMES, family, tied)
    gaps = {
        n: ranks.gap(*(ranks.student(f, n) for f in (tmp_path / "two", one))) for n in zoo.NAMES
    }
    print({name: f"{value:.1e}" for name, value in gaps.items()})
    assert max(gaps.values()) <= 1e-6, gaps


@pytest.mark.long
@pytest.mark.parametrize("name", ["fkd", "minillm", "mrkd+lora", "distillm"])
def test_a_kill_and_other_numbers_of_processes(name: str, tmp_path: Path) -> None:
    """Killed after the checkpoint of step 4; gone on with two, one and four processes."""
    ranks.trained(tmp_path / "two", [name], world=2)
    expected = ranks.student(tmp_path / "two", name)
    for killed in (0, 1):
        place = tmp_path / f"killed-{killed}"
        codes = ranks.trained(place, [name], world=2, dies=(killed, 5))
        assert -9 in codes and 0 not in codes
        ranks.trained(place, [name], world=2)
        assert ranks.student(place, name).read_bytes() == expected.read_bytes()
    for world, parallel in ((1, {}), (4, None), (2, {})):
        place = tmp_path / f"to-{world}-{parallel is None}"
        ranks.trained(place, [name], world=2, dies=(1, 5))
        ranks.trained(place, [name], world=world, parallel=parallel)
        assert ranks.gap(ranks.student(place, name), expected) <= 1e-6


@pytest.mark.long
@pytest.mark.parametrize("full", [0, 1])
def test_a_process_that_cannot_write_its_part(full: int, tmp_path: Path) -> None:
    """The training goes on while parts are written; at the next checkpoint both say what happened."""
    codes = ranks.trained(tmp_path, ["fkd"], world=2, full=full)
    assert codes == [1, 1]
    for rank in (0, 1):
        said = (tmp_path / f"ended-{rank}.txt").read_text()
        assert "step-00000002" in said and "file too large" in said.lower(), said
    assert [p.name for p in (tmp_path / "fkd/checkpoints").iterdir()] == []
