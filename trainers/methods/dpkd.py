"""DPKD: the teacher's answer preferred to the student's, with the teacher as reference model."""

from collections.abc import Sequence as Seq
from typing import Literal

import torch
from pydantic import Field

from kdbench.trainers.method import (
    Card,
    Context,
    Dimension,
    Method,
    MethodConfig,
    MicroBatch,
    Responses,
    Stream,
    Sums,
)
from kdbench.trainers.objectives.divergences import cross_entropy
from kdbench.trainers.objectives.preference import Form, cpo, dpo, ipo, simpo
from kdbench.trainers.sources import plain_text, student_responses
from kdbench.trainers.types import Sequence

CHOSEN: dict[str, Responses] = {"sample": "teacher", "greedy": "teacher-greedy", "gold": "data"}


class DPKD(Method):
    """−log σ(β·[(q̄(y_t) − p̄(y_t)) − (q̄(y_s) − p̄(y_s))]) + c·CE(y_t) + λ·LM loss on plain text.

    y_t is a teacher answer, y_s an answer of the student to the same prompt; q̄, p̄ are
    log-probabilities of the whole answer under student and teacher, divided by its length.

    Source: Li et al. 2024, arXiv:2406.19774, eq. 9 and algorithm 1. The paper gives neither β nor λ:
    the defaults are ours. With 1/|y| the term β log Z(x) no longer cancels, so this is not exactly a
    Bradley–Terry likelihood; and a small β on *mean* log-probabilities leaves the sigmoid near 1/2.
    ``form`` selects the paper's preference ablation. Logged: NLL of chosen and rejected answers a
    pair (the known failure is that the rejected one explodes), the margin, and ``slope``, the size of
    the preference term's derivative by the margin.

    With fresh answers the rejected branch is nearly noise: y_s is drawn from q, so the gradient of
    log q(y_s) has mean zero (it is the score function) and only what varies with y_s in the sigmoid's
    slope is left. The plain equation is therefore close to training on teacher answers with noise
    added. Ours, and off by default: ``ce_coef`` c adds the mean token loss of y_t (the authors' script
    has such an anchor), ``chosen`` takes greedy teacher answers or gold ones for y_t, ``refresh`` keeps
    answers y_s, which are then no draws of the student that is trained.
    """

    class Config(MethodConfig):
        """Fields of ``dpkd``."""

        beta: float = Field(1.0, gt=0, description="β; ours, chosen on the mini world's dev set")
        form: Form = Field("dpo", description="preference form: dpo, ipo, cpo or simpo")
        length_norm: bool = Field(True, description="divide log-probabilities by |y|")
        lm_coef: float = Field(1.0, ge=0, description="λ, weight of the plain-text loss")
        gamma: float = Field(0.5, ge=0, description="target margin (simpo only)")
        ce_coef: float = Field(0.0, ge=0, description="c, weight of the chosen answer's token loss")
        chosen: Literal["sample", "greedy", "gold"] = Field(
            "sample", description="y_t: of the teacher, sampled or greedy; or the data set's"
        )
        refresh: int = Field(
            1, ge=0, description="steps whose y_s are sampled together; 0: all by the init, once"
        )

    card = Card(
        title="DPKD",
        paper="arXiv:2406.19774",
        policy="mixed",
        cost="2 + 2 teacher forwards + plain text + sampling each step",
        teacher_logits=True,
        teacher_samples=True,
        student_samples=True,
        plain_text=True,
        space=(
            Dimension(name="method.beta", low=0.3, high=3.0, log=True),
            Dimension(name="method.ce_coef", choices=(0.0, 0.5, 1.0)),
            Dimension(name="method.chosen", choices=("sample", "greedy")),
        ),
    )

    remembers = ("rejected",)

    rejected: Seq[Sequence] = ()

    @property
    def asks(self) -> Responses:
        """See `Method`."""
        return CHOSEN[self.config.chosen]

    def window(self, ctx: Context, step: int) -> tuple[Stream, ...]:
        """Pairs (chosen answer, student answer), and plain text."""
        pairs = tuple(zip(self._chosen(ctx, step), self._rejected(ctx, step), strict=True))
        return (Stream("pair", pairs, "group"), *plain_text(ctx, step, self.config.lm_coef))

    def _chosen(self, ctx: Context, step: int) -> list[Sequence]:
        return ctx.responses(step, self.asks)

    def _asked(self, ctx: Context, step: int) -> list[int]:
        return ctx.indices(step) if self.config.chosen == "gold" else ctx.asked(step)

    def _rejected(self, ctx: Context, step: int) -> list[Sequence]:
        """Student answers to the step's prompts, sampled when their turn comes."""
        prompts, every = (
            (ctx.train if self.config.chosen == "gold" else ctx.prompts),
            self.config.refresh,
        )
        if not every:
            if not self.rejected:
                self.rejected = student_responses(ctx, step, list(prompts))
            return [self.rejected[i] for i in self._asked(ctx, step)]
        inside, size = step % every, ctx.batch_size
        if not inside:
            ahead = [i for s in range(step, step + every) for i in self._asked(ctx, s)]
            asked = [prompts[i] for i in ahead]
            self.rejected = student_responses(ctx, step, asked)
        return list(self.rejected[inside * size : (inside + 1) * size])

    def loss(self, ctx: Context, stream: Stream, micro: MicroBatch) -> Sums:
        """Summed preference loss over pairs, or cross-entropy on text."""
        if stream.name == "text":
            return micro.sum(cross_entropy, teacher=False)
        lengths = micro.lengths()
        q = self.answers_logprobs(micro)
        p = micro.sum_by_sequence(micro.teacher_logprobs())
        nll = -q / lengths
        if self.config.length_norm or self.config.form == "simpo":
            q, p = q / lengths, p / lengths
        margin = (q[0::2] - p[0::2]) - (q[1::2] - p[1::2])
        return {
            "loss": (self.preference(q, nll, margin) + self.config.ce_coef * nll[0::2]).sum(),
            "chosen_nll": nll[0::2].sum(),
            "rejected_nll": nll[1::2].sum(),
            "margin": margin.sum(),
            "slope": (self.config.beta * torch.sigmoid(-self.config.beta * margin)).sum(),
        }

    def answers_logprobs(self, micro: MicroBatch) -> torch.Tensor:
        """Log q of whole answers, chosen and rejected in turn; (2 · pairs,), in nats."""
        return micro.sum_by_sequence(micro.logprobs())

    def preference(self, q: torch.Tensor, nll: torch.Tensor, margin: torch.Tensor) -> torch.Tensor:
        """The configured form, one value a pair; of ``q`` and ``nll`` chosen and rejected in turn."""
        beta, form, q_pair = self.config.beta, self.config.form, (q[0::2], q[1::2])
        if form == "cpo":
            return cpo(*q_pair, nll[0::2], beta=beta)
        if form == "simpo":
            return simpo(*q_pair, beta=beta, gamma=self.config.gamma)
        return (dpo if form == "dpo" else ipo)(margin, beta=beta)
