"""Whether our sampler writes what the model would: its log-probabilities against a plain forward pass."""

from collections.abc import Iterator
from itertools import chain

import torch

from kdbench.harness.preflight.finding import Finding
from kdbench.harness.preflight.subject import Subject
from kdbench.trainers.engine import LoadedModel
from kdbench.trainers.sampler.choice import decoder_for, reach, way_of
from kdbench.trainers.sampler.trial import plain, tried
from kdbench.trainers.types import Decoding, Prompt

TOKENS = 6


def check(subject: Subject) -> Iterator[Finding]:
    """Answers batched with a longer row, greedy and token by token, against a plain forward pass."""
    model, vocabulary = subject.cut, subject.vocabulary
    asked = {"vocab": vocabulary.size, "pad_id": vocabulary.pad_id, "longest": subject.tokens}
    decoder = decoder_for(model, dtype=None, **asked)
    window = reach(model.config, subject.tokens).window
    found = tried(decoder, model, vocab=vocabulary.size, window=window)
    lost = greedy_loss(subject)
    if not found.holds(model.dtype) or lost > 0.05 * found.spread:
        worst = max(found.worst, lost)
        yield Finding(
            "sampling",
            f"answers of {subject.name} are not what a plain forward pass of it gives (log-probabilities "
            f"differ by up to {worst:.2g} nats); choose another model, or report it with its config.json",
            "fail",
        )
        return
    way = way_of(decoder)
    slow = way != "answers side by side"
    said = f"{way}; as a plain forward pass, to {found.worst:.1g} nats"
    yield Finding("sampling", said, "warn" if slow else "ok")


def greedy_loss(subject: Subject) -> float:
    """How much less likely a greedy answer's token is than the likeliest, at worst, in nats."""
    model, vocabulary = subject.cut, subject.vocabulary
    engine = LoadedModel(model=model, vocabulary=vocabulary, batch_size=2)
    generator = torch.Generator().manual_seed(2)
    prompts = [
        Prompt(tuple(torch.randint(vocabulary.size, (n,), generator=generator).tolist()), key=n)
        for n in (3, 14, 6)
    ]
    decoding = Decoding(max_new_tokens=TOKENS, temperature=0)
    lost = 0.0
    answers = chain.from_iterable(engine.answers(prompts, decoding))
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = (*prompt.ids, *answer.ids)
        logits = plain(model, ids[:-1], len(answer.ids))[:, : vocabulary.size].float()
        chosen = logits.gather(1, torch.tensor(answer.ids, device=logits.device)[:, None])[:, 0]
        lost = max(lost, float((logits.max(-1).values - chosen).max()))
    return lost
