"""Results of another question never overwrite these, and tables say which question they answer."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from study_requests import study_request

from kdbench.harness.errors import InputError
from kdbench.harness.files.records import Missing
from kdbench.harness.study import command
from kdbench.harness.study.definition import changed, load_study
from kdbench.harness.study.question import folder_for, short
from kdbench.reports.figures import renew

ASKED = {"study": "minillm", "tasks": None, "settings": ["train.lr=1e-3"]}


def test_another_question_has_a_folder_of_its_own(tmp_path: Path) -> None:
    default = tmp_path / "studies" / "minillm"
    assert folder_for(ASKED, default, None) == default
    assert folder_for({**ASKED, "settings": ("train.lr=1e-3",)}, default, None) == default
    other = folder_for({**ASKED, "settings": []}, default, None)
    assert other.parent == default.parent and other.name.startswith("minillm-")
    assert folder_for({**ASKED, "settings": []}, default, None) == other
    assert folder_for(ASKED, default, None) == default


def test_a_chosen_folder_of_another_question_is_refused(tmp_path: Path) -> None:
    chosen = tmp_path / "mine"
    assert folder_for(ASKED, tmp_path / "studies" / "minillm", chosen) == chosen
    with pytest.raises(InputError, match=r"another question \(settings: train.lr=1e-3\); give"):
        folder_for({**ASKED, "settings": []}, tmp_path, chosen)
    (chosen / "question.json").unlink()  # as an earlier kdbench left it
    assert folder_for({**ASKED, "settings": []}, tmp_path, chosen) == chosen


def test_seeds_and_places_are_no_other_question(tmp_path: Path) -> None:
    study = load_study("minillm")

    def asked(changes: dict[str, object], *settings: str, runs: str = "runs") -> str:
        request = study_request(tmp_path / runs, name="minillm", changes=changes, settings=settings)
        return json.dumps(command._asked(request, changed(study, changes)))

    assert asked({}) == asked({"seeds": [10]}) == asked({}, runs="elsewhere")
    others = [
        asked({"tasks": ["dolly"]}),
        asked({}, "pair.student=x"),
        asked({"suite": "mini-test"}),
    ]
    assert len({asked({}), *others}) == 4


def test_a_figure_that_cannot_be_drawn_leaves_no_earlier_one(tmp_path: Path) -> None:
    kept = tmp_path / "table.md"
    files = [tmp_path / f"differences{ending}" for ending in (".svg", ".png", ".csv")]
    for file in [kept, *files]:
        file.write_text("of an earlier table")
    renew(Missing(missing="nothing to compare"), tmp_path / "differences")
    assert list(tmp_path.iterdir()) == [kept]


def test_tables_name_no_folders_of_this_machine() -> None:
    assert short("pair.student=/home/me/models/small/") == "pair.student=small"
    assert short("mini-2:teacher") == "mini-2:teacher"
    assert short("train.lr=1e-3") == "train.lr=1e-3"


@pytest.mark.parametrize("verb", ["ablate", "tune"])
def test_a_plan_is_json_and_its_commands_are_whole(
    verb: str, kdbench: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    what = ["minillm"] if verb == "ablate" else ["--methods", "sft,fkd", "--trials", "2"]
    more = ["--suite", "mini-test", "--dry-run", "--json", "--device", "cpu", "--accept-drift"]
    runs = tmp_path / "runs"
    code, out, error = kdbench(verb, *what, *more, "--runs-dir", runs, "--data-dir", tmp_path)
    assert code == 0, error
    said = json.loads(out)
    assert not runs.exists()
    if verb == "tune":
        assert [stage["to_do"] for stage in said["stages"]] == [4, 2, 10]
        return
    for run in said["runs"]:
        words = run["command"]
        for flag, value in (("--runs-dir", runs), ("--data-dir", tmp_path), ("--device", "cpu")):
            assert words[words.index(flag) + 1] == str(value)
        assert "--accept-drift" in words
