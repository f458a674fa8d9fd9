"""Whether sequences get the same log-probabilities laid out in rows as each gets in a plain forward pass."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from kdbench.harness.preflight.finding import Finding
from kdbench.harness.preflight.subject import Subject
from kdbench.trainers.batching import Layout, crossing, is_packable
from kdbench.trainers.engine import LoadedModel
from kdbench.trainers.sampler.trial import agreement, plain
from kdbench.trainers.types import Sequence


def check(subject: Subject) -> Iterator[Finding]:
    """Packed as training does it, and padded, against each sequence alone."""
    model, vocabulary = subject.cut, subject.vocabulary
    packs = is_packable(model, vocabulary.size)
    sequences = samples(vocabulary.size, crossing(model))
    expected = torch.cat(
        [plain(model, (*s.prompt, *s.response)[:-1], s.targets) for s in sequences]
    )[:, : vocabulary.size]
    layout = Layout(row=64, pad_id=vocabulary.pad_id, packed=packs, device=subject.device)
    for packed in (True, False) if packs else (False,):
        how = "packed" if packed else "padded"
        engine = LoadedModel(
            model=model, vocabulary=vocabulary, layout=replace(layout, packed=packed)
        )
        found = agreement(expected, logits(engine, sequences))
        if not found.holds(model.dtype):
            yield Finding(
                "rows",
                f"{subject.name} gives other log-probabilities to {how} sequences than to each alone (by "
                f"up to {found.worst:.2g} nats, {found.mean:.2g} on average): its layers look across "
                "sequences or at padding, so kdbench cannot train or score it in batches; choose "
                "another model",
                "fail",
            )
            return
        yield Finding("rows", f"{how} as alone, to {found.worst:.1g} nats")


def logits(engine: LoadedModel, sequences: list[Sequence]) -> Tensor:
    """Of all targets, (N, V), as training lays them out."""
    return torch.cat(list(engine.logit_tiles(sequences)))


def samples(vocab: int, longest: int) -> list[Sequence]:
    """Random sequences of different lengths, one of them of ``longest`` tokens."""
    generator = torch.Generator().manual_seed(1)
    drawn = [torch.randint(vocab, (n,), generator=generator).tolist() for n in (5, 12, longest, 8)]
    return [Sequence(tuple(ids[:3]), tuple(ids[3:])) for ids in drawn]
