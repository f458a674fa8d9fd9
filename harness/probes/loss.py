"""The model's loss on reference answers."""

import torch

from kdbench.harness.probes.subject import (
    REFERENCE_TOKENS,
    Report,
    Subject,
    mean_estimate,
    reference_sequences,
)
from kdbench.harness.questions import PreparedTask


def settings(subject: Subject, prompts: PreparedTask) -> Report | None:
    """See `kdbench.harness.probes.subject.Probe`."""
    return {} if subject.load else None


def measure(subject: Subject, prompts: PreparedTask, settings: Report) -> Report:
    """Mean over prompts of the mean nats a token."""
    model = subject.model()
    scores = model.engine.logprobs(reference_sequences(model, prompts))
    losses = [-score.log_q.double() for score in scores]
    return {
        "of": f"mean over prompts of mean nats a token, first {REFERENCE_TOKENS} tokens of the "
        "first reference",
        "loss": mean_estimate([float(loss.mean()) for loss in losses]),
        "per_token": float(torch.cat(losses).mean()),
    }
