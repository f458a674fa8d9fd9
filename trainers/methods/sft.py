"""Supervised fine-tuning on the data set's responses (the papers' "SFT w/o KD")."""

from kdbench.trainers.method import Card, Context, Method, MicroBatch, Stream, Sums
from kdbench.trainers.objectives.divergences import cross_entropy


class SFT(Method):
    """Cross-entropy on the gold responses, end token included.

    L = −Σ_t log q(y_t | x, y_<t) / number of response tokens of the optimiser step. MiniLLM's scripts
    divide a micro-batch at a time; we divide by the global count.
    """

    card = Card(
        title="Supervised fine-tuning",
        paper="baseline (SFT w/o KD) of MiniLLM, arXiv:2306.08543",
        cost="1",
        same_tokenizer=False,
    )

    def loss(self, ctx: Context, stream: Stream, micro: MicroBatch) -> Sums:
        """Summed cross-entropy."""
        return micro.sum(cross_entropy, teacher=False)
