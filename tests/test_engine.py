"""The engine: scores equal brute force, shared contexts are read once, and what is asked of whom."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from types import FunctionType, SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from kdbench.harness.errors import InputError
from kdbench.trainers import cpu, engine
from kdbench.trainers.batching import Layout, pad
from kdbench.trainers.engine import (
    Engine,
    LoadedModel,
    Services,
    TokenLogprobs,
    in_process,
    mean_nll,
)
from kdbench.trainers.head.head import Head, backbone_hidden, matmul_dtypes
from kdbench.trainers.head.tiles import scored, token_logprobs
from kdbench.trainers.models import Vocabulary
from kdbench.trainers.parallel import ranks
from kdbench.trainers.parallel.spread import Spread
from kdbench.trainers.sampler.choice import decoder_for
from kdbench.trainers.standin import Standin
from kdbench.trainers.types import Answer, Decoding, Packed, Prompt, Sequence

CPU = torch.device("cpu")
VOCABULARY = Vocabulary(tiny.VOCAB, (tiny.EOS,), 0)


def loaded(model: PreTrainedModel, **options: object) -> LoadedModel:
    return LoadedModel(model=model, vocabulary=VOCABULARY, **options)  # type: ignore[arg-type]


def brute_force(model: PreTrainedModel, sequence: Sequence) -> tuple[torch.Tensor, torch.Tensor]:
    ids = (*sequence.prompt, *sequence.response)
    target = torch.tensor(ids[len(ids) - sequence.targets :], dtype=torch.long)
    if not sequence.targets:
        return torch.zeros(0), torch.zeros(0, dtype=torch.bool)
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1 - sequence.targets : -1]
    return logits.log_softmax(-1).gather(-1, target[:, None])[:, 0], logits.argmax(-1) == target


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("packed", [True, False])
def test_logprobs_equal_brute_force(family: str, packed: bool) -> None:
    model = tiny.model(family)
    plain = Sequence((), (5, 6, 7, 8))
    empty = [Sequence((3, 4), ()), Sequence((3, 4), (5,)), Sequence((), (9,))]
    sequences = [*tiny.sequences(9), plain, *empty]
    layout = Layout(row=64, pad_id=0, packed=packed, device=CPU, tile=5)
    found = loaded(model, layout=layout, micro_tokens=64).logprobs(sequences)
    for sequence, got in zip(sequences, found, strict=True):
        log_q, best = brute_force(model, sequence)
        assert got.log_q.dtype == torch.float32
        torch.testing.assert_close(got.log_q, log_q, rtol=1e-4, atol=1e-5)
        assert torch.equal(got.greedy, best)
    (greedy_answer,) = next(
        loaded(model).answers([Prompt((3, 4), 0)], Decoding(max_new_tokens=5, temperature=0.0))
    )
    assert loaded(model).logprobs([Sequence((3, 4), greedy_answer.ids)])[0].greedy.all()


def test_sequences_that_differ_in_their_last_token_are_read_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[int] = []

    def counted(model: PreTrainedModel, packed: Packed) -> torch.Tensor:
        read.append(len(packed.sequences))
        return backbone_hidden(model, packed)

    monkeypatch.setattr(engine, "backbone_hidden", counted)
    layout = Layout(row=1, pad_id=0, packed=False, device=CPU)
    model = loaded(tiny.model(), layout=layout, micro_tokens=16)
    contexts = [(3, 4, 5, 6), (7, 8, 9, 10, 11)]
    choices = [Sequence(c, (last,)) for last in range(20, 26) for c in contexts]
    longer = [Sequence(contexts[0], (20, last)) for last in (30, 31)]
    sequences = [*choices, *longer, choices[0]]
    together = model.logprobs(sequences)
    assert sum(read) == 3  # both contexts, and the longer one
    for sequence, got in zip(sequences, together, strict=True):
        (alone,) = model.logprobs([sequence])
        torch.testing.assert_close(got.log_q, alone.log_q)
        assert torch.equal(got.greedy, alone.greedy)


def test_of_equally_likely_tokens_the_first_is_greedy() -> None:
    hidden, weight = torch.ones(4, 2), torch.zeros(6, 2)
    weight[2] = weight[4] = 1.0
    target = torch.tensor([2, 4, 0, 4])
    for head in (Head(weight, None, 1.0, None, 6), Head(weight, None, 1.0, 5.0, 6)):
        log_q, greedy = scored(hidden, head, target, tile=3)
        assert greedy.tolist() == [True, False, False, False]
        assert torch.equal(log_q, token_logprobs(hidden, head, target, tile=3))
    assert scored(hidden, Head(weight, None, 1.0, None, 4), target.clamp(max=3))[1].tolist()[0]


def test_mean_nll_is_a_mean_over_all_tokens() -> None:
    model, sequences = tiny.model(), tiny.sequences(7)
    both = torch.cat([brute_force(model, s)[0] for s in sequences])
    assert mean_nll(loaded(model).logprobs(sequences)) == pytest.approx(
        -float(both.mean()), abs=1e-5
    )
    assert mean_nll([]) == 0.0


class Elsewhere:
    """An engine without a model in this process."""

    vocabulary, max_length, device, dtype = VOCABULARY, 64, CPU, torch.float32
    batch_size, chunk, local = 4, 3, None

    def __init__(self) -> None:
        self.asked: list[tuple[int, object]] = []

    def answers(
        self,
        prompts: list[Prompt],
        decoding: Decoding,
        *,
        chunk: int,
        mix: object = None,
        **_: object,
    ) -> Iterator[list[Answer]]:
        for start in range(0, len(prompts), chunk):
            part = prompts[start : start + chunk]
            self.asked.append((len(part), mix))
            yield [Answer((prompt.key, tiny.EOS), True) for prompt in part]

    def logprobs(self, sequences: list[Sequence]) -> list[TokenLogprobs]:
        return [
            TokenLogprobs(torch.zeros(s.targets), torch.ones(s.targets, dtype=torch.bool))
            for s in sequences
        ]


def test_training_services_work_over_any_engine() -> None:
    student, teacher, meter = Elsewhere(), Elsewhere(), Counter[str]()
    services = Services(
        student=student, teacher=teacher, accelerator=Accelerator(cpu=True), meter=meter
    )
    prompts = [Prompt((3,), key=10 + i) for i in range(7)]
    decoding = Decoding(max_new_tokens=4)
    assert [a.ids[0] for a in services.answer(prompts, decoding)] == list(range(10, 17))
    assert [size for size, _ in student.asked] == [3, 3, 1]
    services.answer(prompts[:2], decoding, model="teacher")
    services.answer(prompts[:2], decoding, teacher_mix=0.5)
    assert teacher.asked == [(2, None)]
    assert student.asked[-1] == (2, (teacher, 0.5))
    assert meter["sampled"] == 22
    scores = replace(services, teacher=None).score
    assert [len(s) for s in scores([Sequence((3,), (4, 1))], "student")] == [2]
    assert meter["student"] == 3
    with pytest.raises(ValueError, match="the run has none"):
        scores([], "teacher")


@pytest.mark.parametrize("in_step", [True, False])
def test_who_fails_amid_the_work_of_all_does_not_wait_for_them(
    in_step: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in a shared model's collectives, and would take what is asked here for one of these."""
    asked = []

    def gathered(mine: list[object]) -> list[object]:
        asked.append(mine)
        return mine

    def full(*_: object) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(ranks, "gather_object", gathered)
    shared = loaded(tiny.model(), in_step=in_step, read=full, writer=full)
    services = Services(
        student=Elsewhere(),
        teacher=shared,
        accelerator=SimpleNamespace(num_processes=2, process_index=0),  # type: ignore[arg-type]
        meter=Counter(),
    )
    prompts, decoding = [Prompt((3,), key) for key in range(4)], Decoding(max_new_tokens=2)
    for work in (
        lambda: services.answer(prompts, decoding, model="teacher"),
        lambda: replace(services, student=shared).answer(prompts, decoding, teacher_mix=0.5),
        lambda: services.score([Sequence((3,), (4, 1))] * 4, "teacher"),
    ):
        asked.clear()
        with pytest.raises(torch.OutOfMemoryError):
            work()
        assert bool(asked) is not in_step


@pytest.mark.parametrize("front", [Standin, partial(Spread, rank=0, world=1)])
def test_what_stands_in_front_of_an_engine_passes_everything_on(front: Any) -> None:
    behind = Elsewhere()
    before: Engine = front(behind=behind)
    for name in ("vocabulary", "max_length", "device", "dtype", "batch_size", "chunk", "local"):
        assert getattr(before, name) == getattr(behind, name)
    prompts, decoding = [Prompt((3,), key) for key in range(5)], Decoding(max_new_tokens=4)
    chunks = list(before.answers(prompts, decoding))
    assert [[a.ids[0] for a in chunk] for chunk in chunks] == [[0, 1, 2], [3, 4]]
    list(before.answers(prompts, decoding, chunk=5, mix=(behind, 0.5)))
    assert behind.asked == [(3, None), (2, None), (5, (behind, 0.5))]
    (scored_one,) = before.logprobs([Sequence((3,), (4, 1))])
    assert len(scored_one.log_q) == 2


def test_what_needs_the_model_itself_is_refused_elsewhere() -> None:
    with pytest.raises(InputError, match="calibration needs the model in this process"):
        in_process(Elsewhere(), "calibration")
    with pytest.raises(InputError, match="mixing two models"):
        mix = (Elsewhere(), 0.5)
        loaded(tiny.model()).answers([Prompt((3,), 0)], Decoding(max_new_tokens=2), mix=mix)


def test_a_gpu_never_enters_the_cpus_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """On tensors that are on no CPU (nor anywhere else), none of its functions runs."""

    def entered(*_: object, **__: object) -> None:
        raise AssertionError("code for CPUs on another device")

    for name, value in vars(cpu).items():
        if isinstance(value, (FunctionType, type)) and value.__module__ == cpu.__name__:
            monkeypatch.setattr(cpu, name, entered)
    model = tiny.model("llama", width=256).to(torch.bfloat16).to("meta")
    model.set_attn_implementation("eager")  # transformers looks into the masks of others
    packed = pad(tiny.sequences(4), pad_id=0)
    assert backbone_hidden(model, packed).device.type == "meta"
    on_gpu: Any = SimpleNamespace(device=torch.device("cuda"), dtype=torch.bfloat16)
    assert matmul_dtypes(on_gpu, on_gpu) == (torch.bfloat16, torch.bfloat16)
    decoder = decoder_for(model, dtype=None, vocab=tiny.VOCAB, pad_id=0, longest=32)
    decoder.reset(2, 32)
    decoder.fill([0, 1], [(3, 4, 5), (6, 7)])
    assert decoder.step(torch.zeros(2, dtype=torch.long, device="meta")).shape == (2, tiny.VOCAB)
    with pytest.raises(AssertionError, match="code for CPUs"):
        backbone_hidden(tiny.model(), packed)
