"""How long a run would take: by its own method's past, for its own budget, never by a plain average."""

from pathlib import Path

import pytest

from kdbench.harness.files.records import RunCard, StageCost, Summary
from kdbench.harness.files.run_folder import Config, RunFolder
from kdbench.harness.plan.work import work_of
from kdbench.harness.study.definition import Cell, Study, StudyRow, expand
from kdbench.harness.study.estimates import Estimates, relative_cost

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


def past(place: Path, method: str, seconds: float, tokens: int = 1000) -> None:
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
    run.config.write(Config.model_validate({"train": {"response_tokens": tokens}}))


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
