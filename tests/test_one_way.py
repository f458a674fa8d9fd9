"""Every task goes one way: a user's file and an lm-eval task get what the suite's own tasks get."""

import json
from pathlib import Path
from typing import Any

import forks
import pytest
import runs as processes
import torch
from judge_server import JudgeServer, say
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, LlamaConfig

from kdbench.harness import cli
from kdbench.harness.files.records import EvaluationScores
from kdbench.harness.files.run_folder import RunFolder
from kdbench.tasks import mini

pytestmark = pytest.mark.usefixtures("dataset_cache")

CHAT = (
    "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)
ROWS = [
    {
        "instruction": f"Tell me the home of {name}.",
        "input": "",
        "output": ["at home an inn in Issel."],
    }
    for name in ("Quim Rushby", "Tilda Rushby", "Greta Rushby", "Rasmin Rushby")
]
SUITE = """
suite: chats
pair: {teacher: none, student: none, template: chat}
data: {train: dolly}
train: {steps: 1, max_length: 128, max_prompt: 96, precision: fp32}
generate: {seeds: [10, 20], batch_size: 4, chunk: 2, dtype: fp64, max_new_tokens: 12}
tasks: {names: [dolly], edition: full, protocol: strict}
"""


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat model of random weights, a suite for it, and rows both as DollyEval and as a file."""
    folder = tmp_path_factory.mktemp("chats")
    tokenizer = mini.build_tokenizer()
    tokenizer.chat_template = CHAT
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = LlamaConfig(vocab_size=len(tokenizer), **sizes, **heads, **ends)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (folder / "data" / "dolly").mkdir(parents=True)
    (folder / "data" / "dolly" / "valid.jsonl").write_text(lines)
    (folder / "own.jsonl").write_text(lines)
    (folder / "chats.yaml").write_text(SUITE)
    return folder


def command(chats: Path, runs_dir: Path, tasks: str, *more: object) -> list[str]:
    """The command line that evaluates the chat model."""
    model = ("eval", "--model", chats / "model", "--suite", chats / "chats.yaml", "--tasks", tasks)
    return [*map(str, (*model, "--data-dir", chats / "data", "--runs-dir", runs_dir, *more))]


def evaluated(chats: Path, runs_dir: Path, tasks: str, *more: object) -> RunFolder:
    """The chat model evaluated on some tasks."""
    forks.finish(*command(chats, runs_dir, tasks, *more))
    (folder,) = runs_dir.glob("eval-model-*")
    return RunFolder(folder)


def again(chats: Path, runs_dir: Path, tasks: str, *more: object) -> None:
    """The same command in this process, where functions can be replaced."""
    with pytest.raises(SystemExit) as ended:
        cli.main(command(chats, runs_dir, tasks, *more))
    assert ended.value.code == 0


def by_task(run: RunFolder) -> dict[str, EvaluationScores]:
    return {scores.task: scores for scores in run.summary.read().scores.values()}


def test_a_file_of_rows_is_a_task_like_the_suites_own(chats: Path, tmp_path: Path) -> None:
    run = evaluated(chats, tmp_path / "runs", f"dolly,mine={chats / 'own.jsonl'}")
    scores = by_task(run)
    shared = scores["dolly"].metrics  # a file has chrF and BLEU besides
    assert shared and {name: scores["mine"].metrics[name] for name in shared} == shared
    assert (scores["mine"].template, scores["mine"].edition) == ("chat", "file")
    own, ours = (next(e for e in run.evaluations() if e.task == t) for t in ("mine", "dolly"))
    assert own.samples() == ours.samples()
    assert own.samples()[0].prompt == "user : Tell me the home of Quim Rushby. assistant : "
    # shown, judged, scored again, compared
    shown = processes.finish("show", str(run.path), "--sample", "1", "--task", "mine")
    assert own.samples(10)[1].response in shown
    with JudgeServer(lambda body, number: say("Good.\nSCORE: 7")) as server:
        forks.finish(
            *("judge", run.path, "--tasks", "mine", "--judge-base-url", server.url),
            *("--set", "sanity_prompts=0"),
        )
        assert len(server.requests) >= 4
    (judged,) = run.summary.read().judge.values()
    assert {e["task"] for e in judged["evaluations"].values()} == {"mine"}
    before = own.scores_file.read_bytes()
    processes.finish("score", str(run.path))
    assert own.scores_file.read_bytes() == before
    board = json.loads(processes.finish("leaderboard", str(tmp_path / "runs"), "--format", "json"))
    assert {c["task"] for c in board["tables"][0]["columns"]} == {"dolly", "mine"}


def test_two_models_are_compared_on_a_users_file(chats: Path, tmp_path: Path) -> None:
    runs_dir = tmp_path / "runs"
    command = (
        "eval",
        "--suite",
        "mini-test",
        "--runs-dir",
        runs_dir,
        "--tasks",
        chats / "own.jsonl",
    )
    for label in ("teacher", "init"):
        forks.finish(*command, "--model", label)
    said = processes.finish("compare", "teacher", "sft-init", "--runs-dir", str(runs_dir))
    assert "own[file:8]" in said
    process = processes.start(*map(str, command), "--model", "truth")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2 and "the prompts of its own world only" in output


# -- scores are not samples -----------------------------------------------------------------------


def test_another_scorer_scores_again_and_generates_nothing(
    chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdbench.harness.evaluation import evaluate
    from kdbench.tasks import scoring

    run = evaluated(chats, tmp_path / "runs", "dolly")
    (evaluation,) = run.evaluations()
    answers = {p: p.stat().st_mtime_ns for p in evaluation.path.glob("samples.*")}
    scored = evaluation.scored.marker()

    def no_answers(*_: object, **__: object) -> None:
        raise AssertionError("an answer was generated")

    monkeypatch.setattr(scoring, "SCORER", "kdbench-text-99")
    monkeypatch.setattr(evaluate, "collect", no_answers)
    again(chats, tmp_path / "runs", "dolly")
    assert {p: p.stat().st_mtime_ns for p in evaluation.path.glob("samples.*")} == answers
    assert evaluation.scored.info()["scorer"] == "kdbench-text-99"
    assert scored is not None and evaluation.scored.marker() != scored
    assert by_task(run)["dolly"].scorer == "kdbench-text-99"


# -- lm-eval's generation tasks -------------------------------------------------------------------

STOCK = """
task: own_generation
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{instruction}}}}"
doc_to_target: "{{{{output[0]}}}}"
generation_kwargs: {{until: ["."], do_sample: {sampled}, temperature: {temperature}, max_gen_toks: 12}}
repeats: {repeats}
filter_list: [{{name: first, filter: [{{function: take_first}}]}}]
num_fewshot: 0
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}}
  - {{metric: !function {folder}.words, aggregation: mean, higher_is_better: false}}
"""


def stock(folder: Path, data: Path, *, sampled: bool, repeats: int = 1) -> Path:
    """A third party's generation task that counts words, fewer being better."""
    folder.mkdir()
    (folder / "lengths.py").write_text(
        "def words(predictions, references, **_):\n    return {'words': float(len(predictions[0].split()))}\n"
    )
    temperature = "1.0" if sampled else "0.0"
    text = STOCK.format(
        data=data,
        sampled=str(sampled).lower(),
        temperature=temperature,
        repeats=repeats,
        folder="lengths",
    )
    (folder / "own.yaml").write_text(text)
    return folder


def plain_lm_eval(chats: Path, folder: Path, chat: bool) -> dict[str, Any]:
    """What lm-eval itself gives with its own model and sampler."""
    found = simple_evaluate(
        model=HFLM(pretrained=str(chats / "model"), dtype="float64", batch_size=2, device="cpu"),
        tasks=["own_generation"],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
        apply_chat_template=chat,
        log_samples=True,
    )
    return dict(found)


@pytest.mark.parametrize("template", ["none", "chat"])
def test_greedy_answers_and_scores_are_lm_evals_own(
    template: str, chats: Path, tmp_path: Path
) -> None:
    folder = stock(tmp_path / "tasks", chats / "own.jsonl", sampled=False)
    run = evaluated(
        *(chats, tmp_path / "runs", "own_generation", "--include-path", folder),
        *("--set", f"tasks.template={template}"),
    )
    (evaluation,) = run.evaluations()
    assert evaluation.seeds() == [10]  # greedy: one seed says it all
    theirs = plain_lm_eval(chats, folder, template == "chat")
    logged = sorted(theirs["samples"]["own_generation"], key=lambda s: s["doc_id"])
    rows = evaluation.samples()
    assert [row.prompt for row in rows] == [s["arguments"][0][0] for s in logged]
    assert [row.response for row in rows] == [s["resps"][0][0] for s in logged]
    scores = by_task(run)["own_generation"]
    for name in ("exact_match", "words"):
        assert scores.metrics[name].mean == pytest.approx(
            theirs["results"]["own_generation"][f"{name},first"]
        )
    assert scores.cards["words"].better == -1  # lm-eval's own direction


def test_a_finished_task_of_lm_evals_loads_no_model(
    chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdbench.harness.runner import together

    folder = stock(tmp_path / "tasks", chats / "own.jsonl", sampled=False)
    asked = (chats, tmp_path / "runs", "own_generation", "--include-path", folder)
    run = evaluated(*asked)
    before = run.summary.read()
    monkeypatch.setattr(together, "text_model", lambda *_: pytest.fail("the model was loaded"))
    again(*asked)
    assert run.summary.read() == before


def test_a_sampled_task_has_seeds_repeats_and_can_be_scored_again(
    chats: Path, tmp_path: Path
) -> None:
    folder = stock(tmp_path / "tasks", chats / "own.jsonl", sampled=True, repeats=2)
    run = evaluated(chats, tmp_path / "runs", "own_generation", "--include-path", folder)
    (evaluation,) = run.evaluations()
    assert evaluation.seeds() == [10, 20]
    rows = evaluation.samples(10)
    assert [row.prompt_hash for row in rows[0::2]] == [row.prompt_hash for row in rows[1::2]]
    assert any(a.response != b.response for a, b in zip(rows[0::2], rows[1::2], strict=True))
    assert rows[0].prompt.startswith("user : ") and rows[0].references == [
        "at home an inn in Issel."
    ]
    assert len(evaluation.scores()) == len(ROWS)
    before = evaluation.scores_file.read_bytes()
    processes.finish("score", str(run.path), "--include-path", str(folder))
    assert evaluation.scores_file.read_bytes() == before
    # other rows under the same name: the stored answers are none to those
    data = tmp_path / "other.jsonl"
    data.write_text("".join(json.dumps(row | {"output": ["x"]}) + "\n" for row in ROWS))
    text = (folder / "own.yaml").read_text().replace(str(chats / "own.jsonl"), str(data))
    (folder / "own.yaml").write_text(text)
    process = processes.start("score", str(run.path), "--include-path", str(folder))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2 and "other documents than were answered" in output
