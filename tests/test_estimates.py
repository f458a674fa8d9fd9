"""How long a run would take: by its own method's past, for its own budget, never by a plain average."""

from pathlib import Path

import pytest

from kdbench.harness.files.records import RunCard, StageCost, Summary
from kdbench.harness.files.run_folder import Config, RunFolder
from kdbench.harness.plan.work import work_of
from kdbench.harness.study.definition import Cell, Study, StudyRow, expand
from kdbench.harness.study.estimates import Estimate, Estimates, relative_cost
from kdbench.harness.study.plan import Plan, PlannedCell
from kdbench.harness.study.state import State

SETTINGS = ("train.response_tokens=1000", "train.steps=null")


def cell(method: str, *settings: str, asked: bool = True) -> Cell:
    study = Study(
        title="One",
        suite="mini-test",
        seeds=(10,),
        rows=(StudyRow(label="one", method=method, set=(*SETTINGS, *settings)),),
        tasks=("dolly",) if asked else (),
    )
    return expand(study)[0]


PAIR = {"teacher": "mini-test:teacher", "student": "mini-test:student"}


def past(
    place: Path, method: str, seconds: float, tokens: int = 1000, student: str = PAIR["student"]
) -> None:
    """A finished run that took so long to train, and ten seconds to ask."""
    run = RunFolder(place / f"{method}-{tokens}-0")
    card = RunCard.model_validate(
        {"id": "0", "kind": "run", "method": method, "suite": "mini-test", "regime": "matched"}
        | {"teacher": None, "student": None, "training_seed": 1, "division": "closed"}
    )
    cost = {"train": StageCost(wall_s=seconds), "generate": StageCost(wall_s=10.0)}
    scores = {
        "dolly@0": {"task": "dolly", "edition": "x", "protocol": "x", "metrics": {}}
        | {"column": "0", "scorer": "1"}
    }
    summary = Summary.model_validate({"run": card, "scores": scores, "cost": cost})
    run.summary.write(summary)
    tree = {"train": {"response_tokens": tokens}, "pair": PAIR | {"student": student}}
    run.config.write(Config.model_validate(tree))


def test_a_method_takes_what_it_took_and_a_trial_its_share_of_it(tmp_path: Path) -> None:
    past(tmp_path, "sft", 50)
    past(tmp_path, "minillm", 1800)
    found = Estimates(tmp_path)
    assert found.of(cell("minillm")).seconds == pytest.approx(1810)
    trial = found.of(cell("minillm", "train.response_tokens=250", asked=False))
    assert trial.seconds == pytest.approx(450)
    assert trial.source == "mean of 1 finished run of the method, for this budget"


def test_a_method_without_a_past_is_weighed_by_what_it_does(tmp_path: Path) -> None:
    past(tmp_path, "sft", 100)
    found = Estimates(tmp_path).of(cell("minillm", asked=False))
    weight = relative_cost(work_of("minillm", {}))
    assert weight > 3
    assert found.seconds == pytest.approx(100 * weight)
    assert found.source.endswith("each weighed by what a step of it does")
    nothing = Estimates(tmp_path / "empty").of(cell("minillm", asked=False))
    plain = Estimates(tmp_path / "empty").of(cell("sft", asked=False))
    assert nothing.seconds > plain.seconds and nothing.source.startswith("guess")


def test_a_short_trial_says_what_a_whole_training_takes(tmp_path: Path) -> None:
    past(tmp_path, "gkd", 30, tokens=250)
    assert Estimates(tmp_path).of(cell("gkd", asked=False)).seconds == pytest.approx(120)


def test_another_pair_says_nothing_of_this_one(tmp_path: Path) -> None:
    past(tmp_path, "sft", 5000, student="mini-2:student-gpt2")
    assert Estimates(tmp_path).of(cell("sft")).source.startswith("guess")
    assert Estimates(tmp_path).of(cell("sft", "pair.student=mini-2:student-gpt2")).seconds == 5010


def test_of_a_trained_run_only_the_asking_is_left(tmp_path: Path) -> None:
    past(tmp_path, "sft", 5000)
    assert Estimates(tmp_path).of(cell("sft"), trained=True).seconds == 10
    assert Estimates(tmp_path).of(cell("sft", asked=False), trained=True).seconds == 0
    assert Estimates(tmp_path / "none").of(cell("sft"), trained=True).seconds is None
    assert State("partial", None, None, ("dolly",)).trained
    assert not State("partial", None, None, ("training",)).trained
    assert not State("to do", None, None).trained


def test_what_is_not_known_is_not_said_to_take_no_time(tmp_path: Path) -> None:
    epochs = cell("sft", "train.response_tokens=null", "train.epochs=2")
    unknown = Estimates(tmp_path).of(epochs)
    assert unknown.seconds is None
    todo, known = State("to do", None, None), Estimate(60.0, "guess")
    assert Plan([PlannedCell(epochs, todo, unknown)]).about(1) == "nobody knows how long"
    both = Plan([PlannedCell(epochs, todo, unknown), PlannedCell(cell("sft"), todo, known)])
    assert both.about(1) == "about 1 min 00 s and 1 run of unknown length"
    assert Plan([both.cells[1]]).about(1) == "about 1 min 00 s"
