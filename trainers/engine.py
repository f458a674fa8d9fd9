"""What the loop lends to methods: sampled answers and log-probabilities, the same on every rank."""

from collections import Counter
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from kdbench.trainers.batching import Layout, micro_batches
from kdbench.trainers.head.head import backbone_hidden, head_of, token_logprobs
from kdbench.trainers.models import Vocabulary
from kdbench.trainers.sampler.sampler import generate
from kdbench.trainers.teacher import TeacherSide
from kdbench.trainers.types import Answer, Decoding, Prompt, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollouts:
    """Samples answers during training; chunks of prompts are dealt to ranks and gathered.

    Args:
        dtype: arithmetic of sampling (float64 makes answers independent of the batch).
        batch_size: rows decoded together; ``chunk``: prompts whose rows refill each other.
    """

    student: PreTrainedModel
    teacher: PreTrainedModel | None
    vocabulary: Vocabulary
    accelerator: Accelerator
    batch_size: int
    chunk: int
    dtype: torch.dtype | None
    meter: Counter[str]

    def __call__(
        self,
        prompts: Seq[Prompt],
        decoding: Decoding,
        *,
        model: Literal["student", "teacher"] = "student",
        teacher_mix: float = 0.0,
    ) -> list[Answer]:
        """Answers in prompt order.

        Args:
            prompts: what to answer.
            decoding: sampling settings, seed included.
            model: who answers.
            teacher_mix: share of the teacher's distribution at every token (student only).
        """
        if (model == "teacher" or teacher_mix) and self.teacher is None:
            raise ValueError("this method samples from a teacher, but the run has none")
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        who = self.student if model == "student" else self.teacher
        mix = (self.teacher, teacher_mix) if teacher_mix else None
        chunks = [prompts[i : i + self.chunk] for i in range(0, len(prompts), self.chunk)]
        sampled = self._sample(who, [p for c in chunks[rank::world] for p in c], decoding, mix)
        if world > 1:
            parts: list[Any] = [None] * world
            torch.distributed.all_gather_object(parts, sampled)
            sampled = [parts[i % world][i // world] for i in range(len(chunks))]
        answers = [a for chunk in sampled for a in chunk]
        self.meter["sampled"] += sum(len(a.ids) for a in answers)
        return answers

    def local(self, prompts: Seq[Prompt], decoding: Decoding) -> list[Answer]:
        """The student's answers, sampled on this rank alone."""
        return [a for chunk in self._sample(self.student, prompts, decoding, None) for a in chunk]

    def _sample(
        self, model: Any, prompts: Seq[Prompt], decoding: Decoding, mix: Any
    ) -> list[list[Answer]]:
        return list(
            generate(
                model,
                list(prompts),
                decoding,
                eos_ids=frozenset(self.vocabulary.eos_ids),
                pad_id=self.vocabulary.pad_id,
                vocab=self.vocabulary.size,
                batch_size=self.batch_size,
                chunk=self.chunk,
                mix=mix,
                dtype=self.dtype,
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """Log-probabilities of responses without gradient, computed in micro-batches."""

    student: PreTrainedModel
    teacher: TeacherSide | None
    vocab: int
    layout: Layout
    micro_tokens: int
    accelerator: Accelerator
    meter: Counter[str]

    @torch.no_grad()
    def __call__(self, sequences: Seq[Sequence], who: str) -> list[torch.Tensor]:
        """log-probability of each target token, one float32 CPU tensor a sequence."""
        student = TeacherSide(self.student, head_of(self.student, self.vocab))
        side = student if who == "student" else self.teacher
        assert side is not None, "this method needs a teacher"
        self.meter[who] += sum(len(s) for s in sequences)
        bare = [replace(s, columns={}) for s in sequences]
        out: list[torch.Tensor] = []
        for batch in micro_batches(bare, self.micro_tokens):
            packed = self.layout(batch)
            with self.accelerator.autocast():
                hidden = side.hidden(packed)
                values = token_logprobs(hidden, side.head, packed.target_N, tile=self.layout.tile)
            out += split_by_owner(values, packed.owner_N, len(batch))
        return out


def split_by_owner(
    values_N: torch.Tensor, owner_N: torch.Tensor, sequences: int
) -> list[torch.Tensor]:
    """Token values as one CPU tensor a sequence, in response order."""
    values, owners = values_N.float().cpu(), owner_N.cpu()
    return [values[owners == i] for i in range(sequences)]


@torch.no_grad()
def reference_loss(
    model: PreTrainedModel,
    sequences: Seq[Sequence],
    *,
    vocab: int,
    layout: Layout,
    micro_tokens: int,
    autocast: Any,
) -> float:
    """Mean negative log-likelihood a response token (end token included), in nats."""
    head = head_of(model, vocab)
    total, count = 0.0, 0
    for batch in micro_batches(sequences, micro_tokens):
        packed = layout(batch)
        with autocast():
            hidden = backbone_hidden(model, packed)
            values = token_logprobs(hidden, head, packed.target_N, tile=layout.tile)
        total -= float(values.double().sum())
        count += len(packed.target_N)
    return total / max(1, count)
