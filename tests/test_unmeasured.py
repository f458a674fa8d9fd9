"""A metric that cannot measure says so: no number, a reason, and another rule that selects."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from evaluations import SEEDS
from fakes import make_run

from kdbench.harness import cli, metrics
from kdbench.harness.config import RunConfig
from kdbench.harness.evaluation.estimates import evaluation_scores
from kdbench.harness.files.records import Estimate, Missing, SampleRow, ScoreRow
from kdbench.harness.files.run_folder import RunFolder
from kdbench.harness.identity import training_parts
from kdbench.reports.columns import Entry
from kdbench.reports.paired import row_sample
from kdbench.reports.runs import finished_runs, prompt_scores
from kdbench.tasks import scoring, words

SCRIPTS = {
    "Chinese": "我喜欢喝绿茶，不加糖",
    "Japanese": "私は緑茶がすきです",
    "Russian": "Я люблю зелёный чай",
    "Arabic": "أحب الشاي الأخضر",
    "Hindi": "मुझे हरी चाय पसंद है",
    "Korean": "나는 녹차를 좋아해요",
    "Thai": "ฉันชอบชาเขียว",
    "Greek": "Μου αρέσει το τσάι",
}


def sample(seed: int = 10) -> SampleRow:
    return SampleRow(
        doc_id=0,
        prompt_hash="0" * 16,
        seed=seed,
        prompt="p",
        references=["the red fox"],
        response="a red fox",
        response_tokens=4,
        finished=True,
        reference_tokens=3,
    )


def rouge(answer: str, references: list[str], tokenizer: words.Tokenizer) -> float | str:
    (value,) = scoring.TextScorer(tokenizer).rouge_l([answer], [references])
    return value


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS)
def test_other_scripts_have_no_rouge_by_the_papers_and_one_by_unicode(text: str) -> None:
    assert "a-z and 0-9 only" in str(rouge(text, [text], "rouge"))
    assert "a-z and 0-9 only" in str(rouge(text, [f"OK {text}"], "rouge"))  # two letters of many
    assert rouge(text, [text], "unicode") == 100
    half = rouge(text[: len(text) // 2], [text], "unicode")
    assert isinstance(half, float) and 30 < half < 90
    assert rouge("green tea", [text], "unicode") == rouge(text, ["green tea"], "rouge") == 0
    with pytest.raises(metrics.Unmeasured):
        scoring.rouge_l(text, [text])


def test_what_is_written_alike_is_alike() -> None:
    assert rouge("ＡＢＣ ﬁsh", ["abc fish"], "unicode") == 100
    assert rouge("cafe\u0301", ["CAFÉ"], "unicode") == 100
    assert rouge("Straße", ["STRASSE"], "unicode") == 100
    assert rouge("running_dogs", ["run dog"], "unicode") == 100
    assert rouge("", ["words"], "unicode") == rouge("", ["words"], "rouge") == 0


def test_exact_match_of_all_scripts_takes_no_notice_of_punctuation() -> None:
    def exact(answer: str, reference: str, tokenizer: words.Tokenizer) -> float:
        row = sample().model_copy(update={"response": answer, "references": [reference]})
        return scoring.TextScorer(tokenizer)([row])[0].values["exact_match"]

    for answer, reference in {
        "我喜欢喝绿茶。": "我喜欢喝绿茶",
        "«Да», сказал он…": "да, сказал он",
        "ＡＢＣ， d": "abc d!",
        "$5 = five": "5 five",
    }.items():
        assert exact(answer, reference, "unicode") == 100
    assert exact("我喜欢喝绿茶。", "我喜欢喝绿茶", "rouge") == 0  # as the papers have it
    assert exact("我喜欢喝红茶", "我喜欢喝绿茶", "unicode") == 0
    assert scoring.scorer_of("rouge") == scoring.SCORER


def test_no_reference_and_none_with_a_word() -> None:
    for tokenizer in words.TOKENIZERS:
        assert rouge("words", [], tokenizer) == "no reference"
        assert isinstance(rouge("words", ["😌!"], tokenizer), str)
        assert rouge("some words", ["😌!", "some words"], tokenizer) == 100
    with pytest.raises(metrics.Unmeasured, match="no reference"):
        scoring.exact_match("words", [])


def test_a_metric_that_is_not_finite_or_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Callable[..., float]] = [lambda *_: math.nan, lambda *_: math.inf]
    for score in found:
        monkeypatch.setattr(
            scoring, "others", lambda s=score: {"odd": metrics.Metric("o", 1, score=s)}
        )
        (row,) = scoring.score_rows([sample(), sample(seed=20)])
        assert "odd" not in row.metrics and "the metric is" in row.missing["odd"]
        assert ScoreRow.model_validate_json(row.model_dump_json()) == row

    def broken(*_: object) -> float:
        raise KeyError("x")

    monkeypatch.setattr(scoring, "others", lambda: {"odd": metrics.Metric("o", 1, score=broken)})
    with pytest.raises(Exception, match="metric 'odd' cannot score the answer to prompt 0"):
        scoring.score_rows([sample()])


# -- evaluations ----------------------------------------------------------------------------------


def score_row(doc: int, value: float | None) -> ScoreRow:
    missing = {} if value is not None else {"rouge_l": "because"}
    found = {"rouge_l": [value] * 2} if value is not None else {}
    return ScoreRow(
        doc_id=doc,
        prompt_hash=f"{doc:016x}",
        reference_tokens=3,
        seeds=[10, 20],
        metrics={**found, "cut": [0.0, 0.0]},
        missing=missing,
    )


def test_few_unmeasured_prompts_are_left_out_and_many_leave_no_number() -> None:
    values = [float(i) for i in range(20)]
    whole = evaluation_scores([score_row(i, v) for i, v in enumerate(values)])
    rows = [score_row(i, v) for i, v in enumerate([*values[:18], None, None])]
    some, none = evaluation_scores(rows), evaluation_scores([score_row(i, None) for i in range(4)])
    assert isinstance(some["rouge_l"], Estimate) and isinstance(some["cut"], Estimate)
    assert (some["rouge_l"].n_prompts, some["rouge_l"].mean) == (18, 8.5)
    assert some["cut"].n_prompts == 20 and some["cut"] == whole["cut"]
    assert none["rouge_l"] == Missing(missing="4 of 4 prompts: because")
    three = evaluation_scores([*rows[:17], *(score_row(i, None) for i in (17, 18, 19))])
    assert three["rouge_l"] == Missing(missing="3 of 20 prompts: because")


def test_pairs_are_of_measured_prompts(tmp_path: Path) -> None:
    folder = RunFolder(make_run(tmp_path, "fkd", prompts=20))
    (evaluation,) = folder.evaluations()
    rows = evaluation.scores()
    gap = rows[3].model_copy(
        update={"missing": {"rouge_l": "because"}, "metrics": {"cut": [0.0] * len(SEEDS)}}
    )
    info = evaluation.scored.info()
    evaluation.keep_scores([*rows[:3], gap, *rows[4:]], info)
    found = prompt_scores(evaluation)
    assert np.isnan(found.values["rouge_l"]).tolist() == [i == 3 for i in range(20)]
    ((run,), _) = finished_runs([folder.path])
    values = dict(run.summary.scores[evaluation.key].metrics)
    paired = row_sample([Entry(run, evaluation.key, values)], "rouge_l")
    assert len(paired.ids) == 19 and np.isfinite(paired.values_SP).all()


# -- training -------------------------------------------------------------------------------------


def test_the_tokenizer_is_part_of_a_training_that_it_decides() -> None:
    config = RunConfig.model_validate(
        {
            "suite": "s",
            "pair": {"teacher": "t", "student": "u"},
            "data": {"train": "dolly"},
            "method": {"name": "sft"},
            "train": {"steps": 1},
        }
    ).train
    by_loss = config.model_copy(update={"select": "min:dev_loss"})
    assert training_parts(config, "rouge") == training_parts(config)
    assert training_parts(config, "unicode") != training_parts(config)
    assert training_parts(by_loss, "unicode") == training_parts(by_loss)


def test_another_rule_selects_where_rouge_cannot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def rows(split: str, output: str) -> None:
        file = tmp_path / "data" / "dolly" / f"{split}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        row = {"instruction": "Tell me the home of Quim Rushby.", "input": "", "output": output}
        file.write_text((json.dumps(row) + "\n") * 4)

    rows("train", "at home an inn in Issel.")
    rows("dev", SCRIPTS["Chinese"])

    with pytest.raises(SystemExit) as ended:
        cli.main(
            [
                *("train", "--suite", "mini-test", "--method", "sft"),
                *("--runs-dir", str(tmp_path / "runs"), "--data-dir", str(tmp_path / "data")),
                *("--set", "data.train=dolly", "--set", "data.dev=dolly"),
                *("--set", "train.steps=2", "--set", "train.eval_every=1"),
                *("--set", "train.response_tokens=null", "--set", "train.init=pretrained"),
            ]
        )
    said = capsys.readouterr().err
    assert ended.value.code == 0, said
    (folder,) = (tmp_path / "runs").glob("sft-*")
    run = RunFolder(folder)
    info = run.training.stage.info()
    assert info["selection"].startswith("min:dev_loss instead of max:dev_rouge_l: ROUGE-L cannot")
    assert "4 of 4 development rows" in said and info["selection"] in said
    losses = {int(step): each for step, each in info["evaluations"].items() if step != "0"}
    assert info["best_step"] == min(losses, key=lambda step: losses[step]["dev_loss"])
    assert all("dev_rouge_l" not in each for each in losses.values())
    assert run.summary.read().run.selection == info["selection"]
    assert "min:dev\\_loss instead" in (run.training.student / "README.md").read_text()
    with pytest.raises(SystemExit):
        cli.main(["show", str(run.path)])
    assert "min:dev_loss instead of" in capsys.readouterr().out
