"""Probes against brute force, and a run with probes, classification and a third-party task."""

import importlib
import json
import math
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import lm_eval
import numpy as np
import pytest
import runs
import torch
from lm_eval.tasks import TaskManager

from kdbench.harness.config import TasksConfig
from kdbench.harness.errors import InputError
from kdbench.harness.evaluation import names as task_names
from kdbench.harness.evaluation import texts
from kdbench.harness.evaluation.evaluate import answering_truth
from kdbench.harness.evaluation.names import Asked, include_folders, tasks_of
from kdbench.harness.files.costs import Spent
from kdbench.harness.files.records import SampleRow, ScoreRow, Summary
from kdbench.harness.files.run_folder import Evaluation
from kdbench.harness.files.store import read_json, read_record
from kdbench.harness.probes import PROBES, Row, loss, self_bleu
from kdbench.harness.probes.calibration import next_tokens
from kdbench.harness.probes.subject import Subject, of_itself
from kdbench.harness.probes.truth import against_truth
from kdbench.harness.progress import Progress
from kdbench.harness.questions import PreparedTask
from kdbench.harness.resolve import resolve
from kdbench.harness.runner import probing
from kdbench.harness.text_model import TextModel
from kdbench.tasks import mini, text_stats
from kdbench.tasks.protocols import STRICT
from kdbench.trainers.engine import LoadedModel, in_process
from kdbench.trainers.models import Vocabulary, initialise
from kdbench.trainers.types import Decoding
from tests.support.prompts import prepare_task

PROTOCOL = STRICT.limited(max_prompt=64, max_length=128)
PAGE = Path(__file__).parent.parent / "CONTRIBUTING.md"


def student(scale: float = 3.0) -> TextModel:
    tokenizer = mini.build_tokenizer()
    vocab = Vocabulary(len(tokenizer), (tokenizer.eos_token_id,), tokenizer.pad_token_id)
    model = initialise(mini.model_config("student", "mini-test"), 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale if parameter.ndim > 1 else 1.0)
    engine = LoadedModel(
        model=model, vocabulary=vocab, batch_size=16, chunk=16, sampling_dtype=torch.float64
    )
    return TextModel(engine, tokenizer)


@dataclass(frozen=True, slots=True)
class Stored(Evaluation):
    """An evaluation whose answers are at hand."""

    rows: tuple[SampleRow, ...]

    def samples(self, seed: int | None = None) -> list[SampleRow]:
        return list(self.rows)


def subject(model: TextModel, samples: list[SampleRow] | None = None) -> Subject:
    return Subject(
        load=lambda: model,
        teacher=None,
        decoding=lambda seed: Decoding(max_new_tokens=8, seed=seed),
        seed=0,
        samples=None,
        first=True,
        evaluation=Stored(Path("nowhere"), tuple(samples or ())),
        stage=lambda title, prompts: nullcontext(),  # type: ignore[arg-type,return-value]
    )


def prepared(task: str, model: TextModel, limit: int) -> PreparedTask:
    return prepare_task(
        task,
        "mini-test",
        protocol=PROTOCOL,
        tokenizer=model.tokenizer,
        template="mini",
        limit=limit,
    )


def test_reference_tokens_equal_brute_force() -> None:
    model = student()
    prompts = prepared("dolly", model, 5)
    found = next_tokens(model, prompts)
    expected, tokens = [], 0
    network = in_process(model.engine, "").model
    for place, doc in enumerate(prompts.docs):
        prompt = model.tokenizer(doc.prompt)["input_ids"]
        answer = [*model.tokenizer(doc.references[0])["input_ids"], model.tokenizer.eos_token_id]
        with torch.no_grad():
            logits = network(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        q = logits.softmax(-1)
        own = q[range(len(answer)), answer]
        best = q.max(-1)
        expected.append(float(-own.log().mean()))
        mine = found.owner_N == place
        assert found.confidence_N[mine] == pytest.approx(best.values.tolist(), abs=1e-5)
        assert found.correct_N[mine].tolist() == (best.indices == torch.tensor(answer)).tolist()
        one_hot = torch.nn.functional.one_hot(torch.tensor(answer), q.shape[-1])
        brier = (q - one_hot).square().sum(-1).tolist()
        assert found.brier_N[mine] == pytest.approx(brier, abs=1e-5)
        tokens += len(answer)
    report = loss.measure(subject(model), prompts, {})
    assert report["loss"]["mean"] == pytest.approx(sum(expected) / 5, abs=1e-4)
    assert report["loss"]["n_prompts"] == 5
    lengths = np.bincount(found.owner_N)
    assert report["per_token"] == pytest.approx(float(lengths @ expected) / tokens, abs=1e-4)


def test_a_student_that_knows_nothing_is_as_far_from_the_truth_as_can_be_computed() -> None:
    model = student(scale=0.0)  # every word is as likely as any other
    docs = prepared("selfinst", model, 3).docs
    decoding = Decoding(max_new_tokens=16, seed=7)
    rows = against_truth(mini.truth_of("mini-test"), model, docs, decoding=decoding, samples=3)
    truth = mini.truth_of("mini-test")
    words = math.log(model.engine.vocabulary.size)
    for row, doc in zip(rows, docs, strict=True):
        expected = []
        for sample in range(3):
            ids = truth.sample(doc.prompt, 7 + sample, doc.key, 16)
            p = truth.log_probs(doc.prompt, ids[:-1])
            expected.append(float((np.exp(p) * (p + words)).sum()))
        assert row.kl_true_student == pytest.approx(sum(expected) / 3, rel=1e-5)
        modes = truth.modes(doc.prompt)
        assert modes is not None
        lengths = [len(model.tokenizer(text)["input_ids"]) + 1 for text in modes]
        mass = 100 * sum(math.exp(-words * n) for n in lengths)
        assert row.valid_mass == pytest.approx(mass, rel=1e-4)
        assert (row.modes_covered, row.invalid) == (0.0, 100.0)
        assert row.kl_student_true > 0
        assert row.category


def test_probes_sample_the_model_itself_whatever_the_evaluation_does() -> None:
    asked = Decoding(
        max_new_tokens=9, temperature=0.0, top_p=0.9, top_k=5, no_repeat_ngram=6, seed=3
    )
    own = Decoding(max_new_tokens=9, temperature=1.0, top_p=1.0, top_k=0, no_repeat_ngram=6, seed=3)
    assert of_itself(asked) == own


def test_another_tokenizer_has_no_truth() -> None:
    model = student()
    model.tokenizer.add_tokens(["another"])
    with pytest.raises(InputError, match="another tokenizer"):
        against_truth(
            mini.truth_of("mini-test"), model, (), decoding=Decoding(max_new_tokens=4), samples=1
        )


def rows() -> tuple[list[SampleRow], list[ScoreRow]]:
    texts = ["a red dog", "a red cat", "it runs"]
    samples = [
        SampleRow(
            doc_id=i, prompt_hash=str(i), seed=10, prompt="p", references=["w " * n], response=text,
            response_tokens=4, finished=i > 0, reference_tokens=n,
        )
        for i, (text, n) in enumerate(zip(texts, (5, 6, 70), strict=True))
    ]  # fmt: skip
    scores = [
        ScoreRow(
            doc_id=i, prompt_hash=str(i), reference_tokens=n, seeds=[10],
            metrics={"rouge_l": [10.0 * i]},
        )
        for i, n in enumerate((5, 6, 70))
    ]  # fmt: skip
    return samples, scores


def test_texts_by_length_and_by_both_tokenizers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "gpt2_tokenizer", lambda: None)
    samples, scores = rows()
    report = texts.text_report([texts.Told.of([samples])], scores)
    buckets = report["buckets"]["student"]
    assert {k: v["n"] for k, v in buckets["minillm"].items()} == {
        "[0,5]": 1,
        "[6,10]": 1,
        "[11,∞)": 1,
    }
    assert {k: v["n"] for k, v in buckets["dpkd"].items()} == {
        "(0,30)": 2,
        "[30,70)": 0,
        "[70,∞)": 1,
    }
    assert buckets["dpkd"]["(0,30)"]["metrics"]["rouge_l"]["mean"] == 5.0
    assert buckets["dpkd"]["[30,70)"]["metrics"]["rouge_l"] == {"missing": "no prompt was scored"}
    assert "not in this machine's" in report["buckets"]["gpt2"]["missing"]
    assert report["cut_share"] == pytest.approx(100 / 3)
    assert report["distinct"]["distinct_1"] == pytest.approx(100 * 6 / 8)

    def letters(texts: list[str], add_special_tokens: bool) -> dict[str, list[list[int]]]:
        return {"input_ids": [[0] * len(text) for text in texts]}

    monkeypatch.setattr(texts, "gpt2_tokenizer", lambda: letters)
    papers = texts.text_report([texts.Told.of([samples])], scores)["buckets"]["gpt2"]
    assert {k: v["n"] for k, v in papers["dpkd"].items()} == {
        "(0,30)": 2,
        "[30,70)": 0,
        "[70,∞)": 1,
    }
    assert papers["minillm"]["[6,10]"]["n"] == 1  # "w w w w w " has ten letters
    assert "gpt2" in papers["signature"]


def test_self_bleu_of_equal_and_of_different_answers() -> None:
    bleu = text_stats.self_bleu
    tea = ["我喜欢喝绿茶不加糖", "我喜欢喝红茶不加糖"]
    assert 20 < bleu(tea, "zh") < 80
    assert bleu(["the same five words here"] * 3) == pytest.approx(100.0)
    assert bleu(["one two three four", "five six seven eight"]) == pytest.approx(0.0)
    assert bleu(["alone"]) is None
    model = student()
    alone = subject(model, rows()[0][:1])
    assert self_bleu.measure(alone, prepared("dolly", model, 1), {}).keys() == {"missing"}


OWN = """
ran = []

def settings(subject, prompts):
    return {"samples": subject.samples} if prompts.task == "dolly" else None

def measure(subject, prompts, settings):
    ran.append(settings)
    with subject.stage("own", len(prompts.docs)) as live:
        live.update(len(prompts.docs))
    return {"of": "prompts", "count": len(prompts.docs), **settings}
"""


def test_a_probe_is_one_file_and_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_probe.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(PROBES, "own", Row("own_probe"))
    probing.check_probes(("own", "loss"), teacher=None)
    done = Evaluation(tmp_path / "dolly@0")
    for samples, task in ((3, "dolly"), (3, "dolly"), (2, "dolly"), (2, "selfinst")):
        tasks = {"tasks.probes": ["own"], "tasks.probe_samples": samples}
        session = SimpleNamespace(
            config=resolve(suite="mini-test", method="sft", flags=tasks),
            progress=Progress(quiet=True),
            spent=Spent,
        )
        prober = probing.Prober(session, answering_truth("mini-test", 4), None)  # type: ignore[arg-type]
        prober(done, prepared(task, student(), 2))
    assert importlib.import_module("own_probe").ran == [{"samples": 3}, {"samples": 2}]
    assert done.probes() == {"own": {"of": "prompts", "count": 2, "samples": 2}}


# --- third-party tasks


def write_task(folder: Path) -> None:
    """The example of CONTRIBUTING.md, to the letter but for the place of its data."""
    text = PAGE.read_text()
    page = text[text.index("```yaml") + 8 :]
    data = folder / "greetings.jsonl"
    words = [{"prompt": "Instruction : Say hello . Response : ", "output": ["hello", "the"]}] * 3
    data.write_text("".join(json.dumps(row) + "\n" for row in words))
    yaml = page[: page.index("```")].replace("/data/greetings.jsonl", str(data))
    (folder / "greetings.yaml").write_text(yaml)


def test_the_example_task_works_with_plain_lm_eval(tmp_path: Path, dataset_cache: None) -> None:
    write_task(tmp_path)
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model="dummy", tasks=["my_greetings"], task_manager=manager, bootstrap_iters=0
    )
    results = found["results"]["my_greetings"]
    assert results["rouge_l,none"] == results["exact_match,none"] == 0.0


def test_packages_offer_task_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("own", "kdbench.tasks.yaml", "kdbench.tasks")]
    monkeypatch.setattr(task_names, "entry_points", lambda group: points)
    assert [folder.name for folder in include_folders()] == ["yaml"]
    config = TasksConfig(names=("kdbench_dolly_full", "dolly", "sst2-cal"))
    assert tasks_of(config) == [
        Asked("kdbench_dolly_full", "lm-eval"),
        Asked("dolly", "text"),
        Asked("sst2-cal", "labels"),
    ]
    points[0] = EntryPoint("own", "no.such.package", "kdbench.tasks")
    with pytest.raises(InputError, match="no package with task files"):
        include_folders()


def test_real_sets_and_the_world_do_not_mix() -> None:
    with pytest.raises(InputError, match="sst2-cal does not exist in edition 'mini-2'"):
        tasks_of(TasksConfig(names=("sst2-cal",), edition="mini-2"))
    with pytest.raises(InputError, match="can have sst2-cal, boolq-cal"):
        tasks_of(TasksConfig(names=("cls",), edition="full"))
    with pytest.raises(InputError, match="did you mean sst2-cal"):
        tasks_of(TasksConfig(names=("sst-cal",), edition="full"))


def test_a_run_with_everything(tmp_path: Path) -> None:
    write_task(tmp_path)
    command = [
        "run", "--suite", "mini-test", "--method", "sft", "--tasks", "dolly,cls,my_greetings",
        "--set", f"tasks.include_path={tmp_path}", "--set", "tasks.probe_samples=2",
        "--set", "tasks.probes=[exposure,calibration,loss,truth,self_bleu]",
        "--runs-dir", str(tmp_path / "runs"),
    ]  # fmt: skip
    environment = {"HF_DATASETS_CACHE": str(tmp_path / "cache")}
    output = runs.finish(*command, **environment)
    assert "my_greetings" in output
    (folder,) = (tmp_path / "runs").glob("sft-*")
    summary = read_record(folder / "summary.json", Summary)
    by_task = {scores.task: (key, scores) for key, scores in summary.scores.items()}
    assert set(by_task) == {"dolly", "cls", "my_greetings"}
    assert by_task["cls"][1].metrics.keys() == {"ece", "acc", "brier"}
    assert by_task["my_greetings"][1].metrics.keys() == {"rouge_l", "exact_match"}
    stock = read_json(folder / "eval" / by_task["my_greetings"][0] / "results.json")
    assert stock["versions"] == {"my_greetings": 1.0}
    probes = summary.probes[by_task["dolly"][0]]
    assert probes.keys() == {"text", "exposure", "calibration", "loss", "truth", "self_bleu"}
    assert probes["exposure"]["teacher_name"] == "mini-test:teacher"
    assert probes["exposure"]["at_length"]["eps"]["value"] > 0
    assert probes["truth"]["kl_true_student"]["mean"] > 0
    before = {p: p.stat().st_mtime_ns for p in folder.glob("eval/*/probe-*.json")}
    # what is done stays as it is; another number of samples is another measurement
    again = [part.replace("probe_samples=2", "probe_samples=1") for part in command]
    runs.finish(*again, **environment)
    changed = {p.name for p, t in before.items() if p.stat().st_mtime_ns != t}
    assert changed == {"probe-exposure.json", "probe-truth.json"}
