"""DPKD as the authors' released code computes it: token level, teacher-forced."""

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
from kdbench.trainers.objectives.divergences import cross_entropy, dpkd_token, mixed
from kdbench.trainers.sources import RESPONSES, plain_text


class DPKDToken(Method):
    """At each position the teacher's argmax a is preferred to the student's argmax b.

    ℓ_t = −log σ(β[(log q(a) − log q(b)) − (log p(a) − log p(b))]); where a = b the term is the
    constant log 2. L = (1 − ρ)·CE + ρ·ℓ, plus ``lm_coef``·CE on plain text.

    Source: microsoft/LMOps@4f2a9de:dpkd, option ``--seqKD-DPO``; the paper's objective
    (arXiv:2406.19774) is ``dpkd``. The authors take the log-softmax in bfloat16; we use float32.
    """

    class Config(MethodConfig):
        """Fields of ``dpkd-token``; defaults from the authors' GPT-2 base script."""

        beta: float = Field(0.1, gt=0, description="β, sharpness of the preference")
        kd_ratio: float = Field(0.5, ge=0, le=1, description="ρ, share of ℓ against CE")
        lm_coef: float = Field(0.5, ge=0, description="weight of the plain-text loss")
        responses: Responses = Field(
            "teacher", description="whose responses are teacher-forced (the script's: pseudo-data)"
        )

    card = Card(
        title="DPKD, token level",
        paper="arXiv:2406.19774",
        variant="authors' code",
        cost="1 + teacher forward + plain text + one teacher answer a prompt",
        teacher_logits=True,
        teacher_samples=True,
        plain_text=True,
        space=(
            Dimension(name="method.beta", low=0.05, high=1.0, log=True),
            Dimension(name="method.kd_ratio", low=0.2, high=0.8),
            RESPONSES,
        ),
    )

    @property
    def asks(self) -> Responses:
        """See `Method`."""
        return self.config.responses

    def window(self, ctx: Context, step: int) -> tuple[Stream, ...]:
        """Teacher-forced responses and a batch of plain text."""
        response = Stream.of("response", ctx.responses(step, self.asks))
        return (response, *plain_text(ctx, step, self.config.lm_coef))

    def reads(self) -> tuple[Responses, ...]:
        """The teacher-forced ones."""
        return (self.asks,)

    def loss(self, ctx: Context, stream: Stream, micro: MicroBatch) -> Sums:
        """Summed mixture, or plain cross-entropy on text."""
        if stream.name == "text":
            return micro.sum(cross_entropy, teacher=False)
        preference = mixed(dpkd_token, self.config.kd_ratio)
        return micro.sum(preference, teacher=True, beta=self.config.beta)
