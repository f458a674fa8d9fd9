"""Exposure bias: the authors' numbers, brute force, and what must be zero."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from transformers import PreTrainedModel

from kdbench.harness.conform import recompute
from kdbench.harness.errors import InputError
from kdbench.harness.files.store import read_records
from kdbench.harness.probes.exposure import (
    ContextRow,
    averaged,
    context_errors,
    exposure_curves,
    refuse_unlike,
    sequence_errors,
    table,
)
from kdbench.harness.questions import PromptDoc
from kdbench.harness.runner.probing import check_probes
from kdbench.harness.text_model import TextModel
from kdbench.tasks import mini
from kdbench.tasks.protocols import MINILLM_COMPAT, STRICT, Protocol
from kdbench.trainers.batching import Layout, is_packable
from kdbench.trainers.engine import LoadedModel
from kdbench.trainers.exposure import curves, prompt_errors
from kdbench.trainers.models import Vocabulary, initialise
from kdbench.trainers.types import Decoding, Prompt, Sequence

LENGTH = 12
SHORT = STRICT.limited(max_prompt=40, max_length=40 + LENGTH)


def test_the_authors_numbers(reference_dir: Path) -> None:
    values = recompute(reference_dir / "exposure_bias.json")
    assert len(values) == 6
    assert all(value.passed for value in values)


def test_curves_by_hand() -> None:
    found = curves([[1.0, 2.0], [3.0, 0.0]], [[1.0, 1.0], [1.0, 0.0]])
    assert found.R_T.tolist() == [2.0, 3.0]
    assert found.L_eps_T.tolist() == [1.0, 1.5]
    assert found.excess_T.tolist() == [100.0, 100.0]


def test_both_ways_to_average_samples() -> None:
    errors, mask = [[1.0, 2.0], [3.0, float("nan")]], [[1, 1], [1, 0]]
    assert prompt_errors(errors, mask).tolist() == [2.0, 1.0]
    live = prompt_errors(errors, mask, live_offset=1e-3)
    assert live == pytest.approx([4 / 2.001, 2 / 1.001])


def test_the_first_token_counts_in_strict_only() -> None:
    errors = [torch.tensor([8.0, 1.0, 3.0]), torch.tensor([4.0, 1.0])]
    assert averaged(errors, STRICT).tolist() == [6.0, 1.0, 1.5]
    assert averaged(errors, MINILLM_COMPAT) == pytest.approx([2 / 2.001, 3 / 1.001])
    assert averaged([torch.zeros(0)], STRICT).tolist() == []


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_token_errors_equal_brute_force(family: str) -> None:
    student, teacher = tiny.model(family, seed=0), tiny.model(family, seed=1)
    layout = Layout(
        row=64, pad_id=0, packed=is_packable(student, tiny.VOCAB), device=student.device, tile=5
    )
    pair = [
        LoadedModel(
            model=m, vocabulary=Vocabulary(tiny.VOCAB, (1,), 0), layout=layout, micro_tokens=64
        )
        for m in (student, teacher)
    ]
    sequences = [*tiny.sequences(7), Sequence((3, 4), ())]
    found = sequence_errors(*(TextModel(m, None) for m in pair), sequences)  # type: ignore[arg-type]
    for sequence, errors in zip(sequences, found, strict=True):
        assert len(errors) == len(sequence.response)
        if len(errors):
            assert errors.tolist() == pytest.approx(
                brute_force(student, teacher, sequence), abs=1e-4
            )


def brute_force(
    student: PreTrainedModel, teacher: PreTrainedModel, sequence: Sequence
) -> list[float]:
    ids = torch.tensor([[*sequence.prompt, *sequence.response]])
    with torch.no_grad():
        log_q, log_p = (
            m(ids).logits[0, len(sequence.prompt) - 1 : -1].double().log_softmax(-1)
            for m in (student, teacher)
        )
    return (log_p.exp() * (log_p - log_q)).sum(-1).tolist()


# --- with models that write their own contexts


@pytest.fixture(scope="module")
def pair() -> list[TextModel]:
    """A student and a teacher of the mini world, both random, the teacher sure of itself."""
    tokenizer = mini.build_tokenizer()
    vocab = Vocabulary(len(tokenizer), (tokenizer.eos_token_id,), tokenizer.pad_token_id)
    made = []
    for seed in (0, 1):
        model = initialise(mini.model_config("student", "mini-test"), seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(4.0 if parameter.ndim > 1 else 1.0)
        engine = LoadedModel(
            model=model,
            vocabulary=vocab,
            batch_size=16,
            chunk=16,
            sampling_dtype=torch.float64,
        )
        made.append(TextModel(engine, tokenizer))
    return made


def test_added_tokens_without_a_place_in_either_model_do_not_part_them(
    pair: list[TextModel],
) -> None:
    more = mini.build_tokenizer()
    more.add_tokens(["<picture>"])
    student, teacher = (replace(model, tokenizer=more) for model in pair)
    refuse_unlike(student, teacher)
    engine = student.engine
    assert isinstance(engine, LoadedModel)
    wider = replace(engine, vocabulary=replace(engine.vocabulary, size=len(more)))
    with pytest.raises(
        InputError, match=f"a place for {len(more)} ids, the teacher for {len(more) - 1}"
    ):
        refuse_unlike(replace(student, engine=wider), teacher)


def docs(count: int) -> list[PromptDoc]:
    texts = [f"Instruction : {'Who' if i % 2 else 'Where'} is {i} ? " for i in range(count)]
    tokenizer = mini.build_tokenizer()
    return [
        PromptDoc(i, text, f"{i:016x}", i, tuple(tokenizer(text)["input_ids"]), ("a",), None, 1)
        for i, text in enumerate(texts)
    ]


def errors(
    pair: list[TextModel],
    writer: TextModel,
    path: Path,
    *,
    count: int = 24,
    seed: int = 0,
    protocol: Protocol = SHORT,
) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    rows = context_errors(
        writer,
        *pair,
        docs(count),
        path=path,
        protocol=protocol,
        decoding=Decoding(max_new_tokens=LENGTH, seed=seed),
        samples=2,
    )
    return table(rows, LENGTH)


def test_a_student_that_is_its_teacher_has_none_and_the_ratio_is_undefined(
    pair: list[TextModel], tmp_path: Path
) -> None:
    same = [pair[0], pair[0]]
    student = errors(same, pair[0], tmp_path / "a.jsonl", count=6)
    teacher = errors(same, pair[0], tmp_path / "b.jsonl", count=6)
    found = exposure_curves(student, teacher)
    assert set(found["R"]["value"]) == set(found["eps"]["high"]) == {0.0}
    assert found["ex_acc_err"]["value"] == [None] * LENGTH
    assert "eps is 0" in found["undefined"]


def test_contexts_of_the_teacher_on_both_sides_give_no_exposure_bias(
    pair: list[TextModel], tmp_path: Path
) -> None:
    # the null test: whatever the student, what is left is sampling noise, inside its interval
    one = errors(pair, pair[1], tmp_path / "a.jsonl", seed=1)
    other = errors(pair, pair[1], tmp_path / "b.jsonl", seed=2)
    assert not np.array_equal(one, other)
    found = exposure_curves(one, other)
    assert "undefined" not in found
    for curve in ("difference", "ex_acc_err"):
        for low, high in zip(found[curve]["low"][1:], found[curve]["high"][1:], strict=True):
            assert low < 0 < high
    assert found["ex_acc_err"]["value"][0] == pytest.approx(0, abs=1e-4)  # there is no context yet


def test_the_interval_of_the_null_holds_its_level() -> None:
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(100):
        both = rng.gamma(1.0, 1.0, size=(2, 40, 2)) + rng.gamma(1.0, 1.0, size=(40, 1))
        last = exposure_curves(*both)["at_length"]["ex_acc_err"]
        missed += not last["low"] < 0 < last["high"]
    assert 1 <= missed <= 11


def test_what_is_stored_is_not_sampled_again(
    pair: list[TextModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    whole = errors(pair, pair[0], path)
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:11]) + lines[11][:9])  # a group of 8, and what a kill left
    asked = []
    answers = LoadedModel.answers

    def counted(self: LoadedModel, prompts: list[Prompt], *args: object, **how: object) -> object:
        asked.append(len(prompts))
        return answers(self, prompts, *args, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(LoadedModel, "answers", counted)
    assert np.array_equal(errors(pair, pair[0], path), whole)
    assert asked == [16, 16]
    assert path.read_bytes() == content
    assert len(read_records(path, ContextRow)) == 24
    with pytest.raises(InputError, match="other prompts"):
        errors(pair, pair[0], path, count=5)


def test_a_teacher_must_be_named() -> None:
    check_probes(("calibration",), teacher=None)
    with pytest.raises(InputError, match="--teacher PATH"):
        check_probes(("exposure",), teacher=None)
    with pytest.raises(InputError, match="unknown probe 'exposures'"):
        check_probes(("exposures",), teacher="x")
