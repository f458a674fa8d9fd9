"""Trials are equal and the same everywhere; the best on the development set wins."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from study_requests import study_request

from kdbench.harness.config import TuningConfig
from kdbench.harness.contents import Circumstances
from kdbench.harness.errors import InputError
from kdbench.harness.files.run_folder import Config, RunFolder
from kdbench.harness.resolve import resolve
from kdbench.harness.study import trials, tune, tuning
from kdbench.harness.study.command import StudyRequest
from kdbench.harness.study.definition import Cell, Study, expand
from kdbench.harness.study.driver import Failure
from kdbench.harness.study.plan import DONE, Plan, PlannedCell
from kdbench.harness.study.state import Place, State
from kdbench.harness.study.tune import trials_and_share
from kdbench.harness.study.tuning import Trial, Tried
from kdbench.harness.study.winners import winners_yaml
from kdbench.reports.documents.tuning import TrialRow, tuning_document
from kdbench.reports.text.formats import write


def make(method: str, *sets: str):
    return resolve(suite="mini-test", method=method, assignments=sets)


def test_every_method_gets_as_many_different_trials_and_the_suites_own_first() -> None:
    for method in ("sft", "gkd", "dpkd", "tvd"):
        trials = tuning.trials_of(method, make(method), 8)
        assert trials[0].settings == ()
        assert len({trial.settings for trial in trials}) == 8
        assert [trial.number for trial in trials] == list(range(1, 9))
        for trial in trials:  # every one is a run that can be asked for
            make(method, *trial.settings)


def test_the_same_trials_come_again_and_more_trials_begin_with_them() -> None:
    few, more = (tuning.trials_of("gkd", make("gkd"), n) for n in (4, 8))
    assert few == more[:4]


def test_rates_are_factors_of_the_suites_and_cover_the_range() -> None:
    rates = []
    for trial in tuning.trials_of("sft", make("sft", "train.lr=2e-3"), 33)[1:]:
        (setting,) = trial.settings
        rates.append(float(setting.removeprefix("train.lr=")) / 2e-3)
    assert 0.25 <= min(rates) < 0.3
    assert 3.4 < max(rates) <= 4.0


def test_a_trial_has_its_share_of_the_budget() -> None:
    train = make("sft", "train.response_tokens=1000").train
    assert (train.warmup, train.eval_every) == (2, 10)
    assert tuning.budget_settings(train, 0.5) == (
        *("train.response_tokens=500", "train.warmup=1", "train.eval_every=5"),
    )
    never = ("train.steps=null", "train.epochs=3", "train.warmup=0", "train.eval_every=epoch")
    assert tuning.budget_settings(make("sft", *never).train, 0.5) == ("train.epochs=1.5",)
    (cell, *_) = expand(
        tuning.trial_study(
            "mini",
            tuning.trials_of("sft", resolve(suite="mini", method="sft"), 1),
            {"sft": tuning.budget_settings(resolve(suite="mini", method="sft").train, 0.25)},
            10,
        )
    )
    trial = cell.config.train
    assert (trial.response_tokens, trial.warmup, trial.eval_every) == (80_000, 5, 25)


def test_the_best_wins_and_of_equals_the_first() -> None:
    tried = [Tried(Trial("sft", i, ()), s) for i, s in enumerate((1.0, None, 3.0, 3.0), start=1)]
    assert tuning.winner(tried, 1) is tried[2]
    assert tuning.winner(tried, -1) is tried[0]
    assert tuning.winner(tried[1:2], 1) is None


def test_the_best_trial_meets_the_suites_own_settings_at_the_whole_budget() -> None:
    made = tuning.trials_of("sft", make("sft"), 3)
    scores = [Tried(trial, score) for trial, score in zip(made, (0.2, 0.4, 0.3), strict=True)]
    assert tuning.finalists(scores, 0.25, 1) == [made[0], made[1]]
    assert tuning.finalists(scores, 1.0, 1) == [made[1]]  # they had it
    assert tuning.finalists(scores, 0.25, -1) == [made[0]]  # the best already
    nothing = [Tried(made[0], None, "failed"), *scores[1:]]
    assert tuning.finalists(nothing, 0.25, 1) == [made[1]]
    assert tuning.finalists([Tried(t, None) for t in made], 0.25, 1) == []
    study = tuning.final_study("mini", made[:2], 10)
    assert [row.set for row in study.rows] == [t.settings for t in made[:2]]
    assert tuning.how_tuned(3, 0.25)["finalists"] == 2 and "finalists" not in tuning.how_tuned(3, 1)


def test_the_table_marks_what_is_kept_at_the_whole_budget() -> None:
    rows = [
        TrialRow("sft", 1, [], 0.2, 0.6, "", True),
        TrialRow("sft", 2, ["train.lr=1"], 0.4, 0.5, "", False),
        TrialRow("sft", 3, ["train.lr=2"], None, None, "failed", False),
    ]
    said = write(tuning_document(rows, "dev_rouge_l", 0.25), "md")
    assert "| 0.20 | **0.60** | as the suite says |" in said and "| 0.40 | 0.50 |" in said
    alone = write(tuning_document([rows[1]._replace(whole=None, won=True)], "dev_loss", 1.0), "md")
    assert "**0.40**" in alone and "whole" not in alone.splitlines()[2]


def test_the_expected_best_is_the_mean_of_maxima_over_all_draws() -> None:
    scores = [4.0, 1.0, 3.0]
    pairs = [max(a, b) for a in scores for b in scores]
    curve = tuning.expected_best(scores, 1)
    assert curve[0] == pytest.approx(sum(scores) / 3)
    assert curve[1] == pytest.approx(sum(pairs) / 9)
    assert tuning.expected_best(scores, -1)[1] == pytest.approx(
        sum(min(a, b) for a in scores for b in scores) / 9
    )


def test_what_cannot_be_judged_or_tried_is_said() -> None:
    with pytest.raises(InputError, match=r"--set train.select=max:dev_rouge_l"):
        tuning.criterion({"fkd": make("fkd"), "sft": make("sft", "train.select=last")})
    loss = make("sft", "train.select=min:dev_loss")
    with pytest.raises(
        InputError, match="selects by max:dev_rouge_l for fkd and min:dev_loss for sft"
    ):
        tuning.criterion({"fkd": make("fkd"), "sft": loss})
    assert tuning.criterion({"sft": loss}) == ("dev_loss", -1)
    assert trials_and_share("8") == (8, 0.25)
    assert trials_and_share("3:1") == (3, 1.0)
    for bad in ("0", "8:2", "8:0", "many", "8:x", ""):
        with pytest.raises(InputError, match=r"as in 8:0\.25"):
            trials_and_share(bad)


@pytest.mark.parametrize(
    ("settings", "flags", "label"),
    [
        ([], {}, "tuned (8 trials)"),
        (["train.seed=20", "generate.seeds=[1]"], {"tasks.names": ["dolly"]}, "tuned (8 trials)"),
        (["train.lr=0.0126"], {}, "tuned (8 trials)"),  # what the suite says
        (["train.lr=0.01"], {}, "default"),
        (["method.answers=sample"], {}, "default"),
        ([], {"pair.student": "mini-2:student-gpt2"}, "default"),
        (["init_sft.steps=10"], {}, "default"),
        (["train.lr=0.01", "tuning.by=search", "tuning.trials=4"], {}, "tuned (4 trials)"),
    ],
)
def test_a_search_speaks_for_the_settings_and_the_pair_it_was_made_for(
    settings: list[str], flags: dict[str, object], label: str
) -> None:
    assert resolve(suite="mini", method="seqkd", assignments=settings, flags=flags).tuned == label


Scores = dict[str, float | str]
"""Label of a trial, or of a final -> its score, or why it has none."""


class Searched(NamedTuple):
    """What a search left: its exit code, the winners it wrote, and what it trained under every seed."""

    code: int
    winners: dict[str, Any] | None
    final: Study | None


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Searched]:
    """Runs ``tune`` of sft and fkd, four trials each, where trials have the scores that are given."""

    def run(scores: Scores, *, keep_going: bool = True) -> Searched:
        made: list[Study] = []

        def missing(making: StudyRequest, plan: Study, place: object, out: Path) -> list[Failure]:
            made.append(plan)
            said = {row.label: scores.get(row.label, 0.5) for row in plan.rows}
            return [Failure(label, s, out) for label, s in said.items() if isinstance(s, str)]

        def trials(
            making: StudyRequest, study: Study, place: object, out: Path
        ) -> tuple[Study, list[Failure]]:
            return study, missing(making, study, place, out)

        def scored(
            trials: Sequence[Trial], plan: Study, metric: str, failures: Sequence[Failure]
        ) -> list[Tried]:
            found = [scores.get(row.label, 0.5) for row in plan.rows]
            pairs = zip(trials, found, strict=True)
            return [Tried(t, None, s) if isinstance(s, str) else Tried(t, s) for t, s in pairs]

        monkeypatch.setattr(tune, "make_cells", lambda study, *_: study)
        monkeypatch.setattr(tune, "make_plan", lambda study, *_: study)
        monkeypatch.setattr(tune, "make_missing", missing)
        monkeypatch.setattr(tune, "make_trials", trials)
        monkeypatch.setattr(tune, "_scores", scored)
        monkeypatch.setattr(tune, "make_results", lambda *_: None)
        monkeypatch.setattr(tune, "show_results", lambda *_: None)
        making = study_request(tmp_path / "runs", keep_going=keep_going, out=tmp_path)
        request = tune.TuneRequest(
            making=making,
            methods=("sft", "fkd"),
            suite="mini-test",
            trials=4,
            share=0.25,
            seeds=(10,),
        )
        code = tune.tune_command(request, dry_run=False)
        file = tmp_path / "winners.yaml"
        winners = yaml.safe_load(file.read_text())["methods"] if file.is_file() else None
        return Searched(code, winners, made[-1] if made[-1].title.startswith("Tuned") else None)

    return run


def test_a_winner_counts_the_trials_that_were_judged(search: Callable[..., Searched]) -> None:
    failed: Scores = {
        "sft trial 2": "no room on the device",
        "sft trial 3": "training diverged at step 3: loss nan; lower train.lr (now 1)",
    }
    code, winners, final = search({**failed, "sft trial 4": 0.9, "fkd trial 2": 0.9})
    assert code == 1 and winners is not None and final is not None  # of the one without room
    assert winners["sft"]["tuning"]["trials"] == 3 and winners["fkd"]["tuning"]["trials"] == 4
    assert [won["tuning"]["finalists"] for won in winners.values()] == [2, 2]
    assert final.title == "Tuned with 3–4 trials a method"
    assert ["tuning.trials=3" in row.set for row in final.rows] == [True, False]
    assert "tuning.trials=4" in final.rows[1].set


def test_a_trial_that_diverged_is_a_result(search: Callable[..., Searched]) -> None:
    diverged = "training diverged at step 3: loss nan; lower train.lr (now 1)"
    found = search(
        {"sft trial 2": diverged, "fkd trial 3": 0.9, "fkd trial 3 at the whole budget": diverged},
        keep_going=False,
    )
    assert found.code == 0 and found.winners is not None and found.final is not None
    assert found.winners["sft"]["tuning"]["trials"] == 4
    assert found.winners["fkd"].get("train") is None  # the suite's own settings held
    none = search({f"{m} trial {i}": diverged for m in ("sft", "fkd") for i in range(1, 5)})
    assert none.code == 1 and none.final is None


def test_what_the_command_set_is_with_each_winner(tmp_path: Path) -> None:
    file = tmp_path / "my_method.py"
    settings = ["train.lora.r=16", "train.lr=0.5", "train.seed=3", "data.limit=9"]
    winners = [Trial(str(file), 1, ()), Trial("fkd", 2, ("train.lr=0.25", "method.kd_ratio=0.75"))]
    configs = {name: make("sft" if name == str(file) else name) for name, *_ in winners}
    named = configs[str(file)].method.model_copy(update={"name": "my_method"})
    configs[str(file)] = configs[str(file)].model_copy(update={"method": named})
    found = {name: tuning.how_tuned(8, 0.25) for name in configs}
    text = winners_yaml("kdbench tune --set data.limit=9", settings, winners, configs, found)
    assert text.startswith("# Found by: kdbench tune --set data.limit=9\n# It also set")
    assert "data.limit=9" in text.splitlines()[1]
    methods = yaml.safe_load(text)["methods"]
    assert list(methods) == ["my_method", "fkd"]
    assert methods["my_method"]["train"] == {"lora": {"r": 16}, "lr": 0.5}
    assert methods["fkd"]["train"] == {"lora": {"r": 16}, "lr": 0.25}
    assert methods["fkd"]["method"] == {"kd_ratio": 0.75}
    suite = tmp_path / "found.yaml"
    suite.write_text(f"extends: mini-test\n{text}")
    again = resolve(suite=str(suite), method="fkd")
    assert again.train.lora is not None and again.train.lora.r == 16 and again.train.lr == 0.25
    assert again.method.options["kd_ratio"] == 0.75 and again.tuned == "tuned (8 trials)"


@pytest.mark.parametrize("name", ["own/my_method.py", "my_method.py"])
def test_a_suite_calls_a_method_in_a_file_by_its_name(name: str, tmp_path: Path) -> None:
    suite = tmp_path / "mine.yaml"
    suite.write_text(f"extends: mini-test\nmethods:\n  {name}: {{train: {{lr: 1}}}}\n")
    with pytest.raises(InputError, match="a method in a file is called my_method here"):
        resolve(suite=str(suite), method="sft")


def test_a_diverged_trial_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tuning.trial_study(
        "mini-test", tuning.trials_of("sft", make("sft"), 2), {"sft": ()}, 10
    )
    cells = expand(study)
    runs = [RunFolder(tmp_path / "runs" / f"run-{i:012x}") for i in range(2)]
    for run in runs:
        run.config.write(Config())
    states = [State("partial", None, run, ("training",)) for run in runs]
    made: list[list[str]] = []

    def plan(cells: Sequence[Cell], place: object) -> Plan:
        both = zip(cells, states, strict=True)
        return Plan([PlannedCell(cell, state, DONE) for cell, state in both])

    def missing(
        making: object, plan: Plan, place: object, out: Path, results: tuple[str, ...]
    ) -> list[Failure]:
        names = [planned.cell.name for planned in plan.unfinished()]
        made.append(names)
        reasons = {"sft trial 1, seed 10": "no room", "sft trial 2, seed 10": "training diverged"}
        return [Failure(name, reasons[name], out) for name in names]

    monkeypatch.setattr(trials, "make_plan", plan)
    monkeypatch.setattr(trials, "make_missing", missing)
    making, place = (
        study_request(tmp_path / "runs"),
        Place(tmp_path, Circumstances(tmp_path, "cpu", None)),
    )
    for _ in range(2):
        _, failures = trials.make_trials(making, cells, place, tmp_path)
        assert {f.reason for f in failures} == {"no room", "training diverged"}
        assert [f.reason for f in trials.broken(failures)] == ["no room"]
    left, _ = trials.without_diverged(plan(cells, None), tmp_path)  # as --dry-run says it
    assert [planned.cell.name for planned in left.unfinished()] == ["sft trial 1, seed 10"]
    runs[1].config.path.unlink()  # taken away
    trials.make_trials(making, cells, place, tmp_path)
    assert [len(names) for names in made] == [2, 1, 2]


def test_finals_are_said_only_of_what_met_the_suites_settings(
    search: Callable[..., Searched],
) -> None:
    lost = "fkd trial 2 at the whole budget"
    own: Scores = {"sft trial 1": "no room on the device", "fkd trial 2": 0.9, lost: "no room"}
    _, winners, _ = search(own)
    assert winners is not None
    assert all("finalists" not in won["tuning"] for won in winners.values())


def test_a_method_without_a_judged_trial_has_no_winner(search: Callable[..., Searched]) -> None:
    none: Scores = {f"sft trial {i}": "no room on the device" for i in range(1, 5)}
    code, winners, final = search(none)
    assert code == 1 and winners is not None and list(winners) == ["fkd"]
    assert final is not None and [row.method for row in final.rows] == ["fkd"]


def test_a_search_that_stopped_leaves_the_winners_of_another(
    search: Callable[..., Searched], tmp_path: Path
) -> None:
    _, whole, _ = search({"sft trial 2": 0.9})
    for place in ("fkd trial 3", "sft trial 2 at the whole budget"):
        stopped = search({"sft trial 2": 0.9, place: "no room"}, keep_going=False)
        assert stopped.code == 1 and stopped.winners == whole and stopped.final is None
    rows = json.loads((tmp_path / "trials.json").read_text())["trials"]
    assert not any(row["won"] for row in rows)


def test_a_search_is_named_in_suites_of_papers_too() -> None:
    config = make("sft", "regime=paper")
    assert config.model_copy(update={"tuning": None}).tuned == "paper"
    by_hand = TuningConfig(trials=3)
    assert config.model_copy(update={"tuning": by_hand}).tuned == "paper"
    searched = TuningConfig(trials=3, by="search", share=0.25)
    assert config.model_copy(update={"tuning": searched}).tuned == "tuned (3 trials)"
