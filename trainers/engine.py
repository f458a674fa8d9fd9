"""A loaded model as everybody uses it: it answers prompts and scores tokens.

Rollouts, evaluation, teacher answers, probes and lm-eval all ask an ``Engine``. ``LoadedModel`` is
the one over our own sampler and tiled head, with the model in this process;
`kdbench.trainers.vllm.engine` answers elsewhere. What an engine
elsewhere cannot give (hidden states, logits, another model mixed in) is asked of ``in_process``.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, Literal, NamedTuple, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from transformers import PreTrainedModel

from kdbench.harness.errors import InputError
from kdbench.trainers.batching import Layout, is_packable, micro_batches
from kdbench.trainers.head.head import Head, backbone_hidden, head_of, sum_dtype
from kdbench.trainers.head.tiles import default_rows, scored
from kdbench.trainers.models import Vocabulary
from kdbench.trainers.parallel.ranks import over_ranks
from kdbench.trainers.sampler.sampler import context_length, generate
from kdbench.trainers.types import Answer, Decoding, Packed, Prompt, Sequence

Writer = Callable[[], AbstractContextManager[PreTrainedModel]] | None
"""The model whose weights write answers, for as long as it does; None: the one that is scored with."""


class TokenLogprobs(NamedTuple):
    """Of a sequence's targets, in order: log-probability in nats (float32, on the CPU), and whether
    each is the likeliest token (of equally likely ones the first).
    """

    log_q: Tensor
    greedy: Tensor


FILLER = (Sequence((0,), (0,)),)
"""Rows of a pass that only keeps step with other processes."""
Use = Callable[[Tensor, Head], Any]
"""What is done with the hidden states (N, D) of rows, and the head."""


class Engine(Protocol):
    """A model that answers and scores, wherever it runs."""

    @property
    def vocabulary(self) -> Vocabulary:
        """Real tokens, end tokens, padding."""

    @property
    def max_length(self) -> int | None:
        """Context length in tokens, prompt and answer together; None if the model names none."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""

    @property
    def dtype(self) -> torch.dtype:
        """Arithmetic of sampling."""

    @property
    def batch_size(self) -> int:
        """Answers written together; changes answers by rounding only."""

    @property
    def chunk(self) -> int:
        """Prompts a chunk, the unit of resume."""

    @property
    def local(self) -> "LoadedModel | None":
        """The model in this process, if it is here (too)."""

    def answers(
        self,
        prompts: Seq[Prompt],
        decoding: Decoding,
        *,
        chunk: int | None = None,
        mix: "tuple[Engine, float] | None" = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> Iterator[list[Answer]]:
        """Answers in prompt order, a chunk at a time.

        Args:
            prompts: what to answer.
            decoding: sampling settings, seed included.
            chunk: prompts a chunk, where the engine's own size does not suit.
            mix: (other engine, share): tokens from (1 - share) * this + share * other.
            on_progress: called for each finished answer with its number of tokens.
        """

    def logprobs(self, sequences: Seq[Sequence]) -> list[TokenLogprobs]:
        """Log-probabilities of the targets of each sequence, without gradient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """An ``Engine`` whose model lies in this process.

    Args:
        model: causal language model on its device; in eval mode where it is not being trained.
        sampling_dtype: arithmetic of sampling; None is the model's own (float64 makes answers
            independent of the batch).
        layout: how sequences become rows; None packs what can be packed into rows of 512.
        micro_tokens: tokens of a forward pass that scores.
        autocast: entered around such a forward pass.
        read: hidden states of rows, where something else than the model's forward gives them (a
            memory of them).
        inside: has hidden states and head of rows used where alone they are whole: within the forward
            pass of a module that is shared among processes.
        in_step: a pass needs all processes, so each makes as many as the others; so does its writer.
        writer: the model that writes answers, for as long as it does, where that is another (the
            same with its adapters merged).
    """

    model: PreTrainedModel
    vocabulary: Vocabulary
    batch_size: int = 32
    chunk: int = 64
    sampling_dtype: torch.dtype | None = None
    layout: Layout | None = None
    micro_tokens: int = 4096
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    read: Callable[[Packed], Tensor] | None = None
    inside: Callable[[Packed, Use], Any] | None = None
    in_step: bool = False
    writer: Writer = None

    @property
    def max_length(self) -> int | None:
        """See ``Engine``."""
        return context_length(self.model.config)

    @property
    def device(self) -> torch.device:
        """See ``Engine``."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """See ``Engine``."""
        return self.sampling_dtype or self.model.dtype

    @property
    def local(self) -> "LoadedModel":
        """See ``Engine``."""
        return self

    @property
    def head(self) -> Head:
        """The model's head over the real tokens."""
        return head_of(self.model, self.vocabulary.size)

    def answers(
        self,
        prompts: Seq[Prompt],
        decoding: Decoding,
        *,
        chunk: int | None = None,
        mix: tuple[Engine, float] | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> Iterator[list[Answer]]:
        """See ``Engine``."""
        write = partial(
            generate,
            prompts=prompts,
            decoding=decoding,
            eos_ids=frozenset(self.vocabulary.eos_ids),
            pad_id=self.vocabulary.pad_id,
            vocab=self.vocabulary.size,
            batch_size=self.batch_size,
            chunk=chunk or self.chunk,
            dtype=self.sampling_dtype,
            on_progress=on_progress,
        )
        other = None if mix is None else in_process(mix[0], "mixing two models")
        return self._written(write, other, mix[1] if mix else 0.0)

    def _written(
        self,
        write: Callable[..., Iterator[list[Answer]]],
        other: "LoadedModel | None",
        share: float,
    ) -> Iterator[list[Answer]]:
        with self._writing() as model:
            if other is None:
                yield from write(model)
                return
            with other._writing() as second:
                yield from write(model, mix=(second, share))

    def _writing(self) -> AbstractContextManager[PreTrainedModel]:
        return nullcontext(self.model) if self.writer is None else self.writer()

    @torch.no_grad()
    def logprobs(self, sequences: Seq[Sequence]) -> list[TokenLogprobs]:
        """See ``Engine``. Sequences that differ in their last token only share a forward pass."""
        alike: dict[object, list[int]] = {}
        for index, s in enumerate(sequences):
            alike.setdefault((s.prompt, s.response[:-1], s.targets), []).append(index)
        groups = iter(alike.values())
        found: dict[int, TokenLogprobs] = {}
        for packed, counts in self._rows([sequences[g[0]] for g in alike.values()]):
            read = [(next(groups) if counts else [], s.targets) for s in packed.sequences]
            owners = [(index, n) for group, n in read for index in group]
            sizes = [n for _, n in owners]
            responses = ((sequences[index].response, n) for index, n in owners)
            target_N = torch.tensor([t for ids, n in responses for t in ids[len(ids) - n :]])

            log_q_N, greedy_N = self._used(
                packed, partial(_scored, read=read, target_N=target_N, tile=self._tile)
            )
            each = zip(log_q_N.float().cpu().split(sizes), greedy_N.cpu().split(sizes), strict=True)
            for (index, _), (log_q, greedy) in zip(owners, each, strict=True):
                found[index] = TokenLogprobs(log_q, greedy)
        return [found[index] for index in range(len(sequences))]

    def _used(self, packed: Packed, use: Use) -> Any:
        with self.autocast():
            if self.inside is not None:
                return self.inside(packed, use)
            hidden_ND = self.read(packed) if self.read else backbone_hidden(self.model, packed)
            return use(hidden_ND, self.head)

    def _rows(self, sequences: Seq[Sequence]) -> Iterator[tuple[Packed, bool]]:
        """The sequences in micro-batches as rows, and whether they count: some only keep step."""
        layout = self.layout or Layout(
            row=512,
            pad_id=self.vocabulary.pad_id,
            packed=is_packable(self.model, self.vocabulary.size),
            device=self.device,
        )
        bare = [replace(s, columns={}) for s in sequences]
        batches = micro_batches(bare, self.micro_tokens)
        most = max(gather_object([len(batches)])) if self.in_step else len(batches)
        for batch in batches:
            yield layout(batch), True
        for _ in range(most - len(batches)):
            yield layout(FILLER), False

    @torch.no_grad()
    def hidden(self, sequences: Seq[Sequence]) -> Iterator[tuple[Packed, Tensor]]:
        """The sequences in micro-batches: their rows, and what predicts each target, (N, D)."""
        for packed, _ in self._rows(sequences):
            with self.autocast():
                hidden_ND = self.read(packed) if self.read else backbone_hidden(self.model, packed)
            yield packed, hidden_ND

    @torch.no_grad()
    def logit_tiles(self, sequences: Seq[Sequence]) -> Iterator[Tensor]:
        """Logits (n, V) of all targets in order, a tile at a time, in float32 or wider."""
        rows = self._tile or default_rows(self.vocabulary.size, self.device)
        for _, hidden_ND in self.hidden(sequences):
            for hidden_nD in hidden_ND.split(rows):
                logits_nV = self.head.logits(hidden_nD)
                yield logits_nV.to(sum_dtype(logits_nV.dtype))

    @property
    def _tile(self) -> int | None:
        return self.layout.tile if self.layout else None


def _scored(
    hidden_ND: Tensor,
    head: Head,
    *,
    read: list[tuple[list[int], int]],
    target_N: Tensor,
    tile: int | None,
) -> tuple[Tensor, Tensor]:
    """Scores of targets, of which several may hang on the same hidden states.

    Args:
        hidden_ND: of the sequences that were read.
        head: the model's.
        read: of each of those, whose targets they predict, and how many targets.
        target_N: of all of them.
        tile: rows a tile.
    """
    owners = sum(len(group) for group, _ in read)
    if not owners:
        return hidden_ND.new_zeros(0), torch.zeros(0, dtype=torch.bool)
    if owners > len(read):
        parts = zip(read, hidden_ND.split([n for _, n in read]), strict=True)
        hidden_ND = torch.cat([part for (group, _), part in parts for _ in group])
    return scored(hidden_ND, head, target_N, tile=tile)


def in_process(engine: Engine, purpose: str) -> LoadedModel:
    """The engine as a model in this process, for what no other can do.

    Raises:
        InputError: the model runs elsewhere.
    """
    if engine.local is None:
        raise InputError(
            f"{purpose} needs the model in this process, but it runs in another engine; leave it "
            "out, or use kdbench's own sampler"
        )
    return engine.local


def mean_nll(scored: Seq[TokenLogprobs]) -> float:
    """Mean negative log-likelihood a response token (end token included), in nats."""
    log_q = torch.cat([each.log_q for each in scored] or [torch.zeros(0)])
    return -float(log_q.double().sum()) / max(1, len(log_q))


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What a training asks of its two models: answers and log-probabilities."""

    student: Engine
    teacher: Engine | None
    accelerator: Accelerator
    meter: Counter[str]

    def answer(
        self,
        prompts: Seq[Prompt],
        decoding: Decoding,
        *,
        model: Literal["student", "teacher"] = "student",
        teacher_mix: float = 0.0,
    ) -> list[Answer]:
        """Answers in prompt order, the same on every rank: prompts are dealt to ranks and gathered.

        Args:
            prompts: what to answer.
            decoding: sampling settings, seed included.
            model: who answers.
            teacher_mix: share of the teacher's distribution at every token (student only).
        """
        who = self.student if model == "student" else _given(self.teacher)
        mix = (_given(self.teacher), teacher_mix) if teacher_mix else None

        def work(mine: list[Prompt]) -> list[Answer]:
            return list(chain.from_iterable(who.answers(mine, decoding, chunk=size, mix=mix)))

        size = self.student.chunk
        asked = [who] if mix is None else [who, mix[0]]
        answers = self._over_ranks(prompts, [len(p.ids) for p in prompts], work, asked)
        self.meter["sampled"] += sum(len(a.ids) for a in answers)
        return answers

    def score(self, sequences: Seq[Sequence], who: str) -> list[Tensor]:
        """Log-probability of each target token under one of the models, without gradient; one
        float32 CPU tensor a sequence.
        """
        engine = self.student if who == "student" else _given(self.teacher)
        self.meter[who] += sum(len(s) for s in sequences)
        return [each.log_q for each in self.logprobs(engine, sequences)]

    def logprobs(self, engine: Engine, sequences: Seq[Sequence]) -> list[TokenLogprobs]:
        """Each rank scores its share; all have all of them. Not booked."""
        return self._over_ranks(sequences, list(map(len, sequences)), engine.logprobs, [engine])

    def _over_ranks(
        self, items: Seq[Any], sizes: list[int], work: Any, asked: Seq[Engine]
    ) -> list[Any]:
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        in_step = any(engine.local is not None and engine.local.in_step for engine in asked)
        return over_ranks(items, sizes, work, rank=rank, world=world, in_step=in_step)


def _given(teacher: Engine | None) -> Engine:
    if teacher is None:
        raise ValueError("this method asks a teacher, but the run has none")
    return teacher
