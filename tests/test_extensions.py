"""What others add without touching this repository: a metric, a task, a claim and a method, one file each."""

import json
import os
from pathlib import Path

import pytest
import runs
from greeting_task import task_yaml

from kdbench.harness.evaluation.stock import documents
from kdbench.harness.files.run_folder import RunFolder
from kdbench.harness.lm.answers import score_stock
from kdbench.tasks.scoring import rouge_l

METRIC = '''
"""A third party's metrics: words of an answer, and the spread of their number over a task."""

import statistics

from kdbench.harness.metrics import Metric


def words(answer, references):
    return float(len(answer.split()))


WORDS = Metric("words", -1, digits=2, about="words of an answer", score=words)
SPREAD = Metric("spread", 1, digits=2, score=words, aggregate=lambda values: statistics.pstdev(values))
'''
METHOD = '''
"""Half of the cross-entropy, as a third party would write it."""

from kdbench.trainers.method import Card, Method
from kdbench.trainers.objectives.divergences import cross_entropy


class Half(Method):
    """0.5 times the cross-entropy."""

    card = Card(title="Half", paper="none", variant="", policy="off", cost="1")

    def loss(self, ctx, stream, micro):
        """The sum over the micro-batch."""
        sums = micro.sum(cross_entropy, teacher=False)
        return sums | {"loss": 0.5 * sums["loss"]}
'''
CLAIM = """
version: mine-1
claims:
  - id: half-is-worse
    paper: Ours
    where: nowhere
    says: half a loss is worse than a whole one
    method: half
    against: [sft]
    metric: rouge_l
    better: lower
    tasks: [dolly]
"""
HOW = """
process_results: !function kdbench.tasks.docs.process_results
generation_kwargs: {until: [], do_sample: true, temperature: 1.0, top_k: 0, max_gen_toks: 8}
metric_list:
  - {metric: rouge_l, aggregation: mean, higher_is_better: true}
"""


def installed(site: Path, name: str, text: str, group: str, points: str) -> dict[str, str]:
    """A package of one module with entry points, on the path of the processes to come."""
    site.mkdir()
    (site / f"{name}.py").write_text(text)
    about = site / f"{name}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{group}]\n{points}\n")
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": path}


def test_a_metric_of_another_package(tmp_path: Path) -> None:
    points = "words = lengths:WORDS\nspread = lengths:SPREAD\nrouge_l = lengths:WORDS"
    site = installed(tmp_path / "site", "lengths", METRIC, "kdbench.metrics", points)
    command = (
        *("eval", "--suite", "mini-test", "--model", "truth", "--tasks", "dolly"),
        *("--runs-dir", str(tmp_path / "runs")),
    )
    plain = runs.finish(*command)
    assert "words" not in plain
    (run,) = map(RunFolder, (tmp_path / "runs").glob("eval-truth-*"))
    (evaluation,) = run.evaluations()
    samples = {p: p.stat().st_mtime_ns for p in evaluation.path.glob("samples.*")}
    runs.finish(*command, **site)  # with the package: scored again, not answered again
    assert {p: p.stat().st_mtime_ns for p in evaluation.path.glob("samples.*")} == samples
    (scores,) = run.summary.read().scores.values()
    lengths = [len(row.response.split()) for row in evaluation.samples()]
    assert scores.metrics["words"].mean == pytest.approx(sum(lengths) / len(lengths))
    spread = scores.metrics["spread"]
    assert spread.low < spread.mean < spread.high and spread.mean != scores.metrics["words"].mean
    assert scores.metrics["rouge_l"].mean > 50  # our own names cannot be taken
    assert (scores.cards["words"].better, scores.cards["spread"].kind) == (-1, "probe")
    assert "+words@" in scores.scorer
    # a board without the package still knows what the metric is called and which way is better
    board = json.loads(runs.finish("leaderboard", str(tmp_path / "runs"), "--format", "json"))
    assert "words" in {column["metric"] for column in board["tables"][0]["columns"]}


def test_a_metric_that_is_none_is_refused(tmp_path: Path) -> None:
    points = "words = lengths:nothing"
    site = installed(tmp_path / "site", "lengths", METRIC, "kdbench.metrics", points)
    process = runs.start(
        *("eval", "--suite", "mini-test", "--model", "truth", "--tasks", "dolly"),
        *("--runs-dir", str(tmp_path / "runs")),
        **site,
    )
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "metric 'words' cannot be loaded from lengths:nothing" in output


def test_a_task_file_is_scored_in_percent_by_our_code_and_by_its_own(
    tmp_path: Path, dataset_cache: None
) -> None:
    data = tmp_path / "rows.jsonl"
    rows = [{"prompt": "Say hello.", "output": ["the hello", "hi"]}] * 2
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ours = task_yaml(data, HOW)
    own = ours.replace("greetings", "shares").replace("kdbench.tasks.docs.", "utils.")
    (tmp_path / "utils.py").write_text(
        "def process_results(doc, results):\n    return {'rouge_l': 0.25}\n"
    )
    for name, text in {"greetings": ours, "shares": own}.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    found = {}
    for name in ("greetings", "shares"):
        targets = [row["output"] for row in rows]
        made = score_stock(name, ["hi", "no"], targets, include_paths=[tmp_path])
        found[name] = [values["rouge_l"] for _, values in documents(made)]
    assert found == {"greetings": [100.0, 0.0], "shares": [25.0, 25.0]}


def test_a_method_a_task_and_a_claim_of_others(tmp_path: Path, dataset_cache: None) -> None:
    (tmp_path / "half.py").write_text(METHOD)
    (tmp_path / "claims.yaml").write_text(CLAIM)
    (tmp_path / "tasks").mkdir()
    rows = [{"prompt": "Say hello.", "output": "the hello"}] * 2
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tasks" / "greetings.yaml").write_text(task_yaml(data, HOW))
    shared = ("--suite", "mini-test", "--runs-dir", str(tmp_path / "runs"))
    runs.finish("run", "--method", "sft", "--tasks", "dolly", *shared)
    said = runs.finish(
        *("run", "--method", str(tmp_path / "half.py"), "--tasks", "dolly,greetings", *shared),
        *("--set", f"tasks.include_path={tmp_path / 'tasks'}"),
    )
    assert "half" in said and "greetings" in said
    (half,) = map(RunFolder, (tmp_path / "runs").glob("half-*"))
    (greetings,) = (e for e in half.evaluations() if e.record.read().task == "greetings")
    of_answers = [rouge_l(row.response, row.references) for row in greetings.samples()]
    (shown,) = (s for s in half.summary.read().scores.values() if s.task == "greetings")
    assert shown.metrics["rouge_l"].mean == pytest.approx(sum(of_answers) / len(of_answers))
    report = json.loads(
        runs.finish(
            *("claims", str(tmp_path / "runs"), "--claims", str(tmp_path / "claims.yaml"), "--json")
        )
    )
    (judged,) = report["claims"]
    assert judged["claim"]["id"] == "half-is-worse"
    (test,) = judged["tests"]
    assert test["rival"] == "sft" and not test["reason"]
