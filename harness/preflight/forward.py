"""Whether a model computes numbers at all."""

from collections.abc import Iterator

import torch

from kdbench.harness.preflight.finding import Finding
from kdbench.harness.preflight.subject import Subject


@torch.no_grad()
def check(subject: Subject) -> Iterator[Finding]:
    """Two tokens through the model: finite logits, and not all alike."""
    ids = torch.tensor([[0, subject.vocabulary.size - 1]], device=subject.device)
    logits = subject.model(input_ids=ids, use_cache=False).logits[0, :, : subject.vocabulary.size]
    if not bool(torch.isfinite(logits).all()):
        yield Finding(
            "forward",
            f"{subject.name} gives logits that are not finite (nan or inf) for two tokens: its weights "
            "are damaged or overflow in this precision; take the original weights, or try --set "
            "train.precision=fp32",
            "fail",
        )
        return
    spread = float(logits.float().std(-1).mean())
    yield Finding("forward", f"finite logits, spread {spread:.3g}")
