"""What is found out about a model and a pair before anything is made for them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import arch_trials
import architectures
import pytest
import torch

from kdbench.harness.data.templates import PromptFormat
from kdbench.harness.errors import InputError
from kdbench.harness.files.records import ModelRef
from kdbench.harness.preflight.finding import Finding
from kdbench.harness.preflight.flight import fly, model_flight
from kdbench.harness.preflight.subject import Subject
from kdbench.trainers.models import load_model
from kdbench.trainers.pruning import load_first_layers, shortest


def subject(name: str, folder: Path, **changes: object) -> Subject:
    """An architecture of the table as the teacher of a run."""
    architectures.model(name).save_pretrained(folder)
    arch_trials.tokenizer().save_pretrained(folder)
    made = Subject(
        role="teacher",
        ref=str(folder),
        card=ModelRef(name="one", fingerprint="f", parameters=0, tokenizer="t"),
        dtype=torch.float32,
        device=torch.device("cpu"),
        tokens=64,
        form=PromptFormat("chat"),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_what_passed_is_remembered_by_content(tmp_path: Path) -> None:
    one = subject("gpt2", tmp_path / "model")
    first, again = (model_flight(one, tmp_path / "cache") for _ in range(2))
    assert first.failure is None and not first.remembered and again.remembered
    assert again.findings == first.findings
    changed = replace(one, card=one.card.model_copy(update={"fingerprint": "g"}))
    assert not model_flight(changed, tmp_path / "cache").remembered


def test_too_few_positions_are_said_before_the_model_is_loaded(tmp_path: Path) -> None:
    flight = model_flight(subject("gpt2", tmp_path / "model", tokens=129), tmp_path / "cache")
    assert flight.failure is not None and [f.what for f in flight.findings] == ["positions"]
    assert "128 positions" in flight.failure.found and "max_length=128" in flight.failure.found
    assert not (tmp_path / "cache").exists()


def test_what_a_check_raises_is_a_sentence(tmp_path: Path) -> None:
    def broken() -> Iterator[Finding]:
        raise RuntimeError("shapes\n do not fit")
        yield

    flight = fly({"rows": broken}, whose="the model", parts={}, cache=tmp_path)
    assert flight.failure is not None
    said = flight.failure.found
    assert "the model fails its check 'rows' (shapes do not fit)" in said and "\n" not in said


@pytest.mark.parametrize("name", ["llama", "gpt_neo", "jamba", "qwen2_moe"])
def test_a_stand_in_has_every_kind_of_layer_and_its_weights(name: str, tmp_path: Path) -> None:
    one = subject(name, tmp_path / "model")
    keep = shortest(one.config)
    assert keep == 2
    cut = load_first_layers(one.ref, one.config, keep)
    whole = dict(load_model(one.ref).named_parameters())
    for key, weight in cut.named_parameters():
        torch.testing.assert_close(weight, whole[key])


@pytest.mark.filterwarnings("ignore:the logits of")
def test_a_method_that_cannot_train_the_pair_is_found_out(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    subject("modernbert-decoder", folder)
    with pytest.raises(InputError, match="Dual-space KD compares hidden states"):
        arch_trials.train("dskd", folder)
