"""DPKD: the teacher's answer preferred to the student's, with the teacher as reference model."""

import torch
from pydantic import Field

from kdbench.trainers.method import Card, Context, Method, MethodConfig, MicroBatch, Stream, Sums
from kdbench.trainers.objectives.divergences import cross_entropy
from kdbench.trainers.objectives.preference import Form, cpo, dpo, ipo, simpo
from kdbench.trainers.sources import plain_text, student_responses


class DPKD(Method):
    """−log σ(β·[(q̄(y_t) − p̄(y_t)) − (q̄(y_s) − p̄(y_s))]) + λ·LM loss on plain text.

    y_t is a teacher answer, y_s an answer of the current student to the same prompt; q̄, p̄ are
    log-probabilities of the whole answer under student and teacher, divided by its length.

    Source: Li et al. 2024, arXiv:2406.19774, eq. 9 and algorithm 1. The paper gives neither β nor λ:
    the defaults are ours. With 1/|y| the term β log Z(x) no longer cancels, so this is not exactly a
    Bradley–Terry likelihood; and a small β on *mean* log-probabilities leaves the sigmoid near 1/2.
    ``form`` selects the paper's preference ablation. Logged: NLL of chosen and rejected answers a
    pair (the known failure is that the rejected one explodes), the margin, and ``slope``, the size of
    the preference term's derivative by the margin.
    """

    class Config(MethodConfig):
        """Fields of ``dpkd``."""

        beta: float = Field(1.0, gt=0, description="β; ours, chosen on the mini world's dev set")
        form: Form = Field("dpo", description="preference form: dpo, ipo, cpo or simpo")
        length_norm: bool = Field(True, description="divide log-probabilities by |y|")
        lm_coef: float = Field(1.0, ge=0, description="λ, weight of the plain-text loss")
        gamma: float = Field(0.5, ge=0, description="target margin (simpo only)")

    card = Card(
        title="DPKD",
        paper="arXiv:2406.19774",
        policy="mixed",
        cost="2 + 2 teacher forwards + plain text + sampling each step",
        teacher_logits=True,
        teacher_samples=True,
        student_samples=True,
        plain_text=True,
    )

    def window(self, ctx: Context, step: int) -> tuple[Stream, ...]:
        """Pairs (teacher answer, fresh student answer), and plain text."""
        chosen = ctx.teacher_batch(step)
        pairs = tuple(zip(chosen, student_responses(ctx, step, chosen), strict=True))
        return (Stream("pair", pairs, "group"), *plain_text(ctx, step, self.config.lm_coef))

    def loss(self, ctx: Context, stream: Stream, micro: MicroBatch) -> Sums:
        """Summed preference loss over pairs, or cross-entropy on text."""
        if stream.name == "text":
            return micro.sum(cross_entropy, teacher=False)
        lengths = micro.lengths()
        q = micro.sum_by_sequence(micro.logprobs())
        p = micro.sum_by_sequence(micro.teacher_logprobs())
        nll = -q / lengths
        if self.config.length_norm or self.config.form == "simpo":
            q, p = q / lengths, p / lengths
        margin = (q[0::2] - p[0::2]) - (q[1::2] - p[1::2])
        return {
            "loss": self.preference(q, nll, margin).sum(),
            "chosen_nll": nll[0::2].sum(),
            "rejected_nll": nll[1::2].sum(),
            "margin": margin.sum(),
            "slope": (self.config.beta * torch.sigmoid(-self.config.beta * margin)).sum(),
        }

    def preference(self, q: torch.Tensor, nll: torch.Tensor, margin: torch.Tensor) -> torch.Tensor:
        """The configured form, one value a pair; of ``q`` and ``nll`` chosen and rejected in turn."""
        beta, form, q_pair = self.config.beta, self.config.form, (q[0::2], q[1::2])
        if form == "cpo":
            return cpo(*q_pair, nll[0::2], beta=beta)
        if form == "simpo":
            return simpo(*q_pair, beta=beta, gamma=self.config.gamma)
        return (dpo if form == "dpo" else ipo)(margin, beta=beta)
