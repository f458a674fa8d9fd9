"""lm-eval's own tasks offline from a local file, and foreign tasks refused before any training."""

import importlib.util
import json
from pathlib import Path

import forks
import own_task
import pytest

from kdbench.harness.config import TasksConfig
from kdbench.harness.errors import InputError
from kdbench.harness.evaluation.estimates import evaluation_scores
from kdbench.harness.evaluation.rehearsal import check_task_data
from kdbench.harness.evaluation.stock import score_samples
from kdbench.harness.files.records import EvaluationRecord, Missing, SampleRow, Summary
from kdbench.harness.files.run_folder import RunFolder
from kdbench.harness.files.store import read_json, read_record
from kdbench.harness.resolve import resolve

pytestmark = pytest.mark.usefixtures("dataset_cache")


@pytest.fixture
def arc(tmp_path: Path) -> Path:
    """A folder with arc_easy as lm-eval defines it, on three questions of a local file."""
    spec = importlib.util.find_spec("lm_eval")
    assert spec is not None and spec.submodule_search_locations
    stock = Path(spec.submodule_search_locations[0]) / "tasks" / "arc" / "arc_easy.yaml"
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [
        {
            "id": f"q{number}",
            "question": question,
            "choices": {"text": ["red", "blue", "loud"], "label": ["A", "B", "C"]},
            "answerKey": "ABC"[number],
        }
        for number, question in enumerate(("Rust is", "Sky is", "Thunder is"))
    ]
    data = folder / "arc.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {split: str(data) for split in ("train", "validation", "test")}
    (folder / "arc_easy.yaml").write_text(
        f"include: {stock}\ntask: arc_easy\ntag: null\ndataset_path: json\ndataset_name: null\n"
        f"dataset_kwargs: {json.dumps({'data_files': files})}\n"
    )
    return folder


def test_a_stock_task_runs_offline_from_a_local_file(arc: Path, tmp_path: Path) -> None:
    runs_dir = tmp_path / "runs"
    command = (
        *("eval", "--suite", "mini-test", "--model", "teacher", "--tasks", "dolly,arc_easy"),
        *("--include-path", arc, "--runs-dir", runs_dir),
    )
    forks.finish(*command)
    (folder,) = runs_dir.glob("eval-teacher-*")
    scores = {s.task: s for s in read_record(folder / "summary.json", Summary).scores.values()}
    assert scores.keys() == {"dolly", "arc_easy"}
    assert scores["arc_easy"].edition == "lm-eval:8"
    accuracy = scores["arc_easy"].metrics["acc"]
    (out,) = (folder / "eval").glob("arc_easy@*")
    stock = read_json(out / "results.json")
    assert stock["versions"] == {"arc_easy": 1.0}
    assert stock["n-samples"]["arc_easy"] == {"original": 3, "effective": 3}
    assert stock["results"]["arc_easy"]["acc,none"] == pytest.approx(accuracy.mean)
    assert accuracy.n_prompts == 3 and 3 * accuracy.mean == pytest.approx(round(3 * accuracy.mean))


REFUSED = {
    "no data": ("dataset_path: nobody/nothing\n", "cannot load lm-eval task 'own'"),
    "no file": (
        "dataset_path: json\ndataset_kwargs: {data_files: {test: nowhere.jsonl}}\n",
        "cannot load lm-eval task 'own'",
    ),
    "no such field": ("doc_to_target: golden\n", "document 0: the right answer 'golden' is none"),
    "no such metric": ("metric_list: [{metric: accurancy}]\n", "lm-eval task 'own'"),
    "broken template": ('doc_to_text: "{{question.nope.deeper}}"\n', "lm-eval task 'own'"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_foreign_task_that_cannot_work_is_refused_before_training(
    reason: str, tmp_path: Path
) -> None:
    changed, said = REFUSED[reason]
    own_task.write(tmp_path, changed)
    config = resolve(suite="mini-test", method="sft", flags={"tasks.names": ["dolly", "own"]})
    tasks = TasksConfig(**{**config.tasks.model_dump(), "include_path": str(tmp_path)})
    with pytest.raises(InputError, match=said) as caught:
        check_task_data(config.model_copy(update={"tasks": tasks}), None, print)
    assert "\n" not in str(caught.value)


def test_nothing_is_written_for_a_task_whose_data_is_out_of_reach(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kdbench.harness import cli

    own_task.write(tmp_path, REFUSED["no file"][0])
    runs_dir = tmp_path / "runs"
    with pytest.raises(SystemExit) as ended:
        cli.main(
            [
                *("run", "--suite", "mini-test", "--method", "sft", "--tasks", "dolly,own"),
                *("--set", f"tasks.include_path={tmp_path}", "--runs-dir", str(runs_dir)),
            ]
        )
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("kdbench: cannot load lm-eval task 'own'") and error.count("\n") == 1
    assert not runs_dir.exists() or not [*runs_dir.iterdir()]


def test_real_sets_are_looked_for_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KDBENCH_DATA", raising=False)
    for name, said in (("vicuna", "no vicuna test data"), ("sst2-cal", "sst2/validation.jsonl")):
        config = resolve(suite="smollm2", method="sft", flags={"tasks.names": [name]})
        with pytest.raises(InputError, match=said):
            check_task_data(config, tmp_path, print)


ODD = """
def results(doc, answers):
    return {"odd": float(answers[0]), "fine": 1.0}
"""
SHOWN = "aggregation: mean, higher_is_better: true"
GENERATED = f"""output_type: generate_until
doc_to_target: "a"
generation_kwargs: {{until: [], max_gen_toks: 4}}
process_results: !function odd.results
metric_list: [{{metric: odd, {SHOWN}}}, {{metric: fine, {SHOWN}}}]"""


def test_a_document_without_a_number_is_left_out_with_its_reason(tmp_path: Path) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    own_task.write(folder, GENERATED)
    (folder / "odd.py").write_text(ODD)
    record = EvaluationRecord(
        task="own",
        source="lm-eval",
        place=str(folder),
        edition="lm-eval",
        protocol="strict",
        template="none",
        model="f" * 64,
        tokenizer="e" * 64,
        data_sha256="0" * 64,
        dtype="fp32",
        batch_size=8,
        chunk=4,
        seeds=[10, 20],
    )
    said = {10: ("1", "nan", "0.5"), 20: ("1", "1", "0.5")}
    samples = [
        SampleRow(
            doc_id=doc,
            prompt_hash=f"{doc:016x}",
            seed=seed,
            prompt=f"Word {doc}",
            references=["a"],
            response=said[seed][doc],
            response_tokens=1,
            finished=True,
            reference_tokens=1,
        )
        for seed in record.seeds
        for doc in range(3)
    ]
    evaluation = RunFolder(tmp_path / "run").evaluation("own@01234567")
    rows, info = score_samples(record, evaluation, samples, str(folder))
    assert [row.missing for row in rows] == [{}, {"odd": "the metric is nan for an answer"}, {}]
    evaluation.keep_scores(rows, info)
    assert evaluation.scores() == rows, "what was written can be read"
    found = evaluation_scores(rows)
    assert found["fine"].n_prompts == 3
    assert found["odd"] == Missing(missing="1 of 3 prompts: the metric is nan for an answer")
