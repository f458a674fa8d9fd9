"""Calibration: closed forms, scikit-learn, lm-eval, and the classification tasks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lm_eval.api.metrics import brier_score
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
from sklearn.calibration import calibration_curve

from kdbench.harness.errors import InputError
from kdbench.harness.lm.likelihoods import ModelLM, label_likelihoods
from kdbench.harness.lm.tasks import undisturbed
from kdbench.harness.probes.calibration import calibration
from kdbench.harness.text_model import TextModel
from kdbench.tasks import mini
from kdbench.tasks.calibration import BINS, bin_edges, ece, predict, reliability
from kdbench.tasks.catalogue import YAML_FOLDER
from kdbench.tasks.labels import LABEL_TASKS, label_docs
from kdbench.trainers.engine import LoadedModel, in_process
from kdbench.trainers.models import Vocabulary, initialise


def test_a_perfectly_calibrated_predictor_has_no_error() -> None:
    # of the predictions made with confidence k / 20, exactly that share is right
    confidence = np.repeat(np.arange(1, 21) / 20, 20)
    correct = np.concatenate([np.arange(20) < k for k in range(1, 21)]).astype(float)
    assert ece(confidence, correct) == pytest.approx(0, abs=1e-15)
    assert ece(confidence, correct, binning="mass") == pytest.approx(0, abs=1e-15)
    assert all(b.confidence == pytest.approx(b.accuracy) for b in reliability(confidence, correct))


@pytest.mark.parametrize("binning", ["width", "mass"])
def test_a_known_miscalibration_is_measured(binning: str) -> None:
    # over-confident by 0.3 on half of the predictions, under-confident by 0.1 on the others
    confidence = np.repeat([0.9, 0.5], 10)
    correct = np.concatenate([np.arange(10) < 6, np.arange(10) < 6]).astype(float)
    assert ece(confidence, correct, binning=binning) == pytest.approx(0.5 * 0.3 + 0.5 * 0.1)  # type: ignore[arg-type]


def test_a_biased_coin_of_known_error() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 200_000)
    correct = (rng.uniform(size=len(confidence)) < confidence - 0.2).astype(float)
    assert ece(confidence, correct) == pytest.approx(0.2, abs=0.005)
    found = calibration(confidence[:2000], correct[:2000])
    assert found["ece"]["low"] < 0.2 < found["ece"]["high"]
    assert found["ece"]["high"] - found["ece"]["low"] < 0.1
    calm = calibration(confidence[:500], (rng.uniform(size=500) < confidence[:500]).astype(float))
    assert calm["ece"]["low"] < calm["ece"]["mean"] < calm["ece"]["high"]


@pytest.mark.parametrize(("binning", "strategy"), [("width", "uniform"), ("mass", "quantile")])
def test_bins_equal_scikit_learns(binning: str, strategy: str) -> None:
    rng = np.random.default_rng(1)
    confidence, correct = rng.beta(3, 2, 150), rng.integers(0, 2, 150)
    accuracy, mean = calibration_curve(correct, confidence, n_bins=BINS, strategy=strategy)
    bins = [b for b in reliability(confidence, correct, binning=binning) if b.count]  # type: ignore[arg-type]
    assert [b.accuracy for b in bins] == pytest.approx(accuracy.tolist())
    assert [b.confidence for b in bins] == pytest.approx(mean.tolist())
    if binning == "mass":
        assert {b.count for b in bins} == {10}


def test_confidences_on_bounds_and_ties() -> None:
    bins = reliability([0.0, 1 / 3, 2 / 3, 1.0], [0, 0, 1, 1], bins=3)
    assert [b.count for b in bins] == [2, 1, 1]
    assert len(bin_edges([0.5] * 9, bins=3, binning="mass")) == 3  # bounds that coincide are one
    with pytest.raises(ValueError, match="at least one"):
        ece([], [])


def test_predictions_are_a_softmax_over_labels_and_brier_is_lm_evals() -> None:
    scores, gold = [[-1.0, -3.0, -2.0], [-900.0, -901.0, -float("inf")]], [0, 1]
    found = [predict(s, g) for s, g in zip(scores, gold, strict=True)]
    assert found[0].confidence == pytest.approx(1 / (1 + np.exp(-2) + np.exp(-1)))
    assert [p.correct for p in found] == [1.0, 0.0]
    expected = brier_score([(g, list(p.probabilities)) for g, p in zip(gold, found, strict=True)])
    assert np.mean([p.brier for p in found]) == pytest.approx(expected)


def test_predictions_of_a_prompt_are_resampled_together() -> None:
    rng = np.random.default_rng(2)
    confidence = rng.uniform(0.3, 1, 60)
    correct = np.repeat(rng.uniform(size=6) < 0.5, 10).astype(float)  # a prompt is all or nothing
    alone = calibration(confidence, correct)["ece"]
    together = calibration(confidence, correct, clusters_N=np.repeat(np.arange(6), 10))["ece"]
    assert together["mean"] == alone["mean"]
    assert together["n_prompts"] == 6
    assert together["high"] - together["low"] > alone["high"] - alone["low"]


def text_model(seed: int = 0) -> TextModel:
    tokenizer = mini.build_tokenizer()
    vocab = Vocabulary(len(tokenizer), (tokenizer.eos_token_id,), tokenizer.pad_token_id)
    model = initialise(mini.model_config("student", "mini-test"), seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0 if parameter.ndim > 1 else 1.0)
    return TextModel(LoadedModel(model=model, vocabulary=vocab), tokenizer)


def test_the_worlds_classification_runs_through_lm_eval() -> None:
    docs = label_docs("cls", edition="mini-test")
    assert len(docs) >= 14
    assert all(0 <= doc["gold"] < len(doc["choices"]) for doc in docs)
    model = text_model()
    name = LABEL_TASKS["cls"].lm_eval_name
    with undisturbed():  # our task's file in plain lm-eval
        manager = TaskManager(
            include_path=str(YAML_FOLDER), include_defaults=False, metadata={"rows": docs}
        )
        results = evaluate(ModelLM(model), manager.load([name]), bootstrap_iters=0)
    samples = sorted(results["samples"][name], key=lambda sample: sample["doc_id"])
    found = [
        predict([float(pair[0]) for pair in sample["filtered_resps"]], doc["gold"])
        for sample, doc in zip(samples, docs, strict=True)
    ]
    ours, _ = label_likelihoods(model, docs)
    assert found == [predict(each, doc["gold"]) for each, doc in zip(ours, docs, strict=True)]
    aggregate = results["results"][name]
    assert aggregate["acc,none"] == pytest.approx(np.mean([p.correct for p in found]))
    assert aggregate["brier,none"] == pytest.approx(np.mean([p.brier for p in found]))
    own = ece([p.confidence for p in found], [p.correct for p in found])
    assert aggregate["ece,none"] == pytest.approx(own)
    # brute force: the label's log-probability after the prompt
    ids = model.tokenizer(docs[0]["prompt"])["input_ids"]
    labels = [model.tokenizer(choice)["input_ids"][0] for choice in docs[0]["choices"]]
    with torch.no_grad():
        logits = in_process(model.engine, "").model(torch.tensor([ids])).logits[0, -1, labels]
    assert found[0].probabilities == pytest.approx(logits.softmax(-1).tolist(), abs=1e-5)


def test_real_sets_are_read_from_local_files(tmp_path: Path) -> None:
    for name, row in (
        ("sst2", {"sentence": "a dull film ", "label": 0}),
        ("boolq", {"question": "is water wet", "passage": "Water is wet.", "answer": True}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "validation.jsonl").write_text(json.dumps(row) + "\n")
    film = label_docs("sst2-cal", data_dir=tmp_path)[0]
    assert (film["choices"], film["gold"]) == (["negative", "positive"], 0)
    assert film["prompt"].endswith("### Input:\na dull film\n\n### Response:\n")
    water = label_docs("boolq-cal", data_dir=tmp_path, template="mini")[0]
    assert (water["choices"], water["gold"]) == (["no", "yes"], 1)
    assert "Question: is water wet?" in water["prompt"]
    bare = label_docs("boolq-cal", data_dir=tmp_path, template="none")[0]
    assert bare["prompt"].endswith("wet.") and bare["choices"] == [" no", " yes"]
    (tmp_path / "sst2/validation.jsonl").write_text('{"sentence": "x", "label": 2}\n')
    with pytest.raises(InputError, match="a label of 0/1"):
        label_docs("sst2-cal", data_dir=tmp_path)


def test_real_rows_have_labels(data_dir: Path) -> None:
    assert len(label_docs("sst2-cal", data_dir=data_dir)) == 872
    assert len(label_docs("boolq-cal", data_dir=data_dir)) == 500
