"""DSKD: distillation in the hidden spaces of both models, for one tokenizer or two."""

from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from kdbench.trainers.method import Card, Context, Method, MethodConfig, MicroBatch, Stream, Sums
from kdbench.trainers.objectives.divergences import Values, _kl, _log_probs, cross_entropy

ROWS = 256


class DSKD(Method):
    """L = (1−ρ)·CE + ρ·[CE(t2s) + D_KL(sg t2s ‖ q) + D_KL(p ‖ s2t)], divergences at temperature T.

    t2s: teacher states projected to the student's space, read by the student's head (held fixed);
    s2t: student states projected to the teacher's space, read by the teacher's head. With two
    tokenizers, cross-model attention first brings states to the other's tokens: queries from the
    student's, keys from the teacher's input and target embeddings, within each sequence; t2s then
    starts from teacher states plus target embeddings, and D_KL(sg t2s ‖ q) counts only where t2s
    has the target as its likeliest token.

    Source: Zhang et al., EMNLP 2024, arXiv:2406.17328, and songmzhang/DSKD@077337a (ρ 0.5, T 2).
    Ours: embeddings are divided by the spread of all the teacher's, states by their own (theirs:
    both by that of the micro-batch); one learning rate for projectors and student; the s2t term of
    a sequence is rescaled from the teacher's to the student's number of tokens.
    """

    class Config(MethodConfig):
        """Fields of ``dskd``; defaults from the authors' scripts."""

        kd_ratio: float = Field(0.5, ge=0, le=1, description="ρ, share of the KD terms")
        temperature: float = Field(2.0, gt=0, description="T, of the divergences")

    card = Card(
        title="Dual-space KD",
        paper="arXiv:2406.17328",
        variant="paper (with cross-model attention where tokenizers differ)",
        cost="1 + teacher forward + two more heads",
        teacher_logits=True,
        same_tokenizer=False,
    )

    def parameters(self, student_width: int, teacher_width: int) -> dict[str, nn.Module]:
        """Projectors t2s, s2t, and the query of the cross-model attention."""
        self.modules: dict[str, nn.Module] = {
            "t2s": nn.Linear(teacher_width, student_width),
            "s2t": nn.Linear(student_width, teacher_width),
            "query": nn.Linear(2 * student_width, 2 * teacher_width),
        }
        return self.modules

    def window(self, ctx: Context, step: int) -> tuple[Stream, ...]:
        """The step's training examples, with their text in the teacher's tokens."""
        return (Stream.of("response", ctx.paired_batch(step)),)

    def loss(self, ctx: Context, stream: Stream, micro: MicroBatch) -> Sums:
        """Summed cross-entropy and both spaces' terms."""
        sums = micro.sum(cross_entropy, teacher=False)
        own, other = micro.student_hidden_ND, micro.teacher_hidden()
        other, s2t = other.to(own.dtype), self.modules["s2t"](own)
        packed, twin = micro.packed, micro.packed.twin
        weight = torch.ones_like(packed.target_N, dtype=own.dtype)
        if twin is None:
            idle = 0 * sum(p.sum() for p in self.modules["query"].parameters())
            t2s = self.modules["t2s"](other) + idle
        else:
            to_teacher = self._attention(micro)
            said = micro.embed(twin.target_N, teacher=True).detach() / _spread(micro)
            values = other / other.std(-1, keepdim=True) + said.to(own.dtype)
            t2s = to_teacher.softmax(-1) @ self.modules["t2s"](values)
            s2t = to_teacher.T.softmax(-1) @ s2t
            counts = [torch.bincount(x.owner_N, minlength=len(x.sequences)) for x in (packed, twin)]
            weight = (counts[0] / counts[1]).to(own.dtype)[twin.owner_N]
        terms = self._student_space(micro, t2s) | self._teacher_space(micro, s2t, weight)
        kd = sum(terms.values(), torch.zeros_like(sums["loss"]))
        value = (1 - self.config.kd_ratio) * sums["loss"] + self.config.kd_ratio * kd
        return sums | terms | {"loss": value}

    def _student_space(self, micro: MicroBatch, t2s: Tensor) -> Values:
        head: Any = micro.student_head
        bias = None if head.bias is None else head.bias.detach()
        fixed = replace(head, weight=head.weight.detach(), bias=bias)
        sums: list[tuple[Tensor, Tensor]] = []
        for rows in torch.arange(len(t2s), device=t2s.device).split(ROWS):
            seen = fixed.logits(t2s[rows])
            nll = cross_entropy(seen, None, micro.packed.target_N[rows], {})["loss"]
            kl = self._divergence(seen.detach(), head.logits(micro.student_hidden_ND[rows]))
            if micro.packed.twin is not None:  # what the attention got wrong teaches nothing
                kl = kl * (seen.argmax(-1) == micro.packed.target_N[rows])
            sums.append((nll.sum(), kl.sum()))
        ce, kl = (torch.stack(list(x)).sum() for x in zip(*sums, strict=True))
        return {"t2s_nll": ce, "t2s_kl": kl}

    def _teacher_space(self, micro: MicroBatch, s2t: Tensor, weight: Tensor) -> Values:
        head, hidden = micro.teacher.head, micro.teacher_hidden()
        sums = []
        for rows in torch.arange(len(s2t), device=s2t.device).split(ROWS):
            p, q = head.logits(hidden[rows]), head.logits(s2t[rows].to(hidden.dtype))
            sums.append((weight[rows] * self._divergence(p, q)).sum())
        return {"s2t_kl": torch.stack(sums).sum()}

    def _divergence(self, p: Tensor, q: Tensor) -> Tensor:
        wide = torch.promote_types(q.dtype, torch.float32)
        log_p, log_q = (_log_probs(x.to(wide), self.config.temperature) for x in (p, q))
        return _kl(log_p, log_q)

    def _attention(self, micro: MicroBatch) -> Tensor:
        """Scores of each student target (rows) for each teacher target of its sequence (columns)."""
        packed, twin = micro.packed, micro.packed.twin
        assert twin is not None
        query = self.modules["query"](_tokens(micro, packed, False))
        key = (_tokens(micro, twin, True) / _spread(micro)).to(query.dtype)
        scores = query @ key.T / key.shape[-1] ** 0.5
        apart = packed.owner_N[:, None] != twin.owner_N[None, :]
        return scores.masked_fill(apart, -torch.inf)


def _tokens(micro: MicroBatch, packed: Any, teacher: bool) -> Tensor:
    """Input and target embeddings side by side, held fixed, (N, 2D)."""
    inputs = packed.input_ids_RT.flatten()[packed.source_N]
    parts = [micro.embed(ids, teacher=teacher) for ids in (inputs, packed.target_N)]
    return torch.cat(parts, -1).detach()


def _spread(micro: MicroBatch) -> Tensor:
    """Standard deviation of all the teacher's embedding weights."""
    embeddings: Any = micro.teacher.model.get_input_embeddings()
    return embeddings.weight.std()
