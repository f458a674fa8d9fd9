"""ULD: distillation across tokenizers by sorted probabilities."""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from kdbench.trainers.method import Card, Context, Method, MethodConfig, MicroBatch, Stream, Sums
from kdbench.trainers.objectives.divergences import cross_entropy

ROWS = 256


class ULD(Method):
    """L = CE + λ·Σ_spans ‖sort↓ p_s − sort↓ q_s‖₁, the shorter vector padded with zeros.

    A span is what lies between two byte offsets at which tokens of both tokenizers end; the end
    tokens are a span. Its distribution is that of its first token, the observed token's entry split
    into "and the rest of the span as it is" (times the probability of the rest) and "otherwise". A
    span weighs as many tokens as the student has in it. With one tokenizer every token is a span.

    Source: Boizard et al., TMLR 2025, arXiv:2402.12030, eq. 4, λ = 1 as in llm-recipes@ab6e798,
    which cuts both sequences to the shorter and pairs positions. Span alignment by byte offset is
    TRL's GOLD idea; splitting the observed entry, so that probabilities still add up to 1, is
    ours.
    """

    class Config(MethodConfig):
        """Fields of ``uld``."""

        weight: float = Field(1.0, ge=0, description="λ, weight of the distance")
        ce: float = Field(1.0, ge=0, description="weight of the cross-entropy")

    card = Card(
        title="ULD",
        paper="arXiv:2402.12030",
        variant="byte-offset spans",
        cost="1 + teacher forward + two sorts",
        teacher_logits=True,
        same_tokenizer=False,
    )

    def window(self, ctx: Context, step: int) -> tuple[Stream, ...]:
        """The step's training examples, with their text in the teacher's tokens."""
        return (Stream.of("response", ctx.paired_batch(step)),)

    def loss(self, ctx: Context, stream: Stream, micro: MicroBatch) -> Sums:
        """Summed cross-entropy and distance."""
        sums = micro.sum(cross_entropy, teacher=False)
        nll = sums["loss"]
        mine = spans(micro.packed, micro.logprobs())
        theirs = spans(micro.packed.twin or micro.packed, micro.teacher_logprobs())
        distance = nll.new_zeros(())
        for part in torch.arange(len(mine["first"]), device=nll.device).split(ROWS):
            distance = distance + self._distance(micro, mine, theirs, part)
        value = self.config.ce * nll + self.config.weight * distance
        return sums | {"loss": value, "uld": distance}

    def _distance(
        self, micro: MicroBatch, mine: dict[str, Tensor], theirs: dict[str, Tensor], part: Tensor
    ) -> Tensor:
        def distance(student_nV: Tensor, teacher_nV: Tensor) -> Tensor:
            q = span_probabilities(student_nV, mine["token"][part], mine["rest"][part])
            p = span_probabilities(teacher_nV, theirs["token"][part], theirs["rest"][part])
            return (mine["tokens"][part] * sorted_distance(q, p)).sum()

        return micro.together(distance, mine["first"][part], theirs["first"][part])


def spans(packed: Any, logprob_N: Tensor) -> dict[str, Tensor]:
    """Spans of a micro-batch in order: ``first`` row and its ``token``, number of ``tokens``, and
    ``rest``, the log-probability of the tokens after the first; (S,) each.
    """
    count = len(packed.target_N)
    place = torch.arange(count, device=packed.target_N.device)
    span_N = packed.columns.get("span", packed.place_N)
    new = torch.ones(count, dtype=torch.bool, device=place.device)
    new[1:] = (packed.owner_N[1:] != packed.owner_N[:-1]) | (span_N[1:] != span_N[:-1])
    number = new.cumsum(0) - 1
    first = place[new]
    tokens = torch.bincount(number, minlength=len(first)).to(logprob_N.dtype)
    rest = torch.zeros_like(tokens).index_add(0, number, torch.where(new, 0.0, logprob_N))
    return {"first": first, "token": packed.target_N[first], "tokens": tokens, "rest": rest}


def span_probabilities(logits_nV: Tensor, token_n: Tensor, rest_n: Tensor) -> Tensor:
    """Softmax with the observed token's entry split by the probability of the rest, (n, V + 1)."""
    p = torch.softmax(logits_nV, -1)
    own = p.gather(-1, token_n[:, None])
    kept = rest_n.to(p.dtype).exp()[:, None]
    return torch.cat([p.scatter(-1, token_n[:, None], own * kept), own * (1 - kept)], -1)


def sorted_distance(q_nV: Tensor, p_nW: Tensor) -> Tensor:
    """‖sort↓ q − sort↓ p‖₁ a row, (n,); widths may differ."""
    width = max(q_nV.shape[-1], p_nW.shape[-1])
    q, p = (functional.pad(x, (0, width - x.shape[-1])) for x in (q_nV, p_nW))
    return (q.sort(-1, descending=True).values - p.sort(-1, descending=True).values).abs().sum(-1)
