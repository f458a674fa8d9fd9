"""Whether a model computes numbers at all."""

import inspect
from collections.abc import Iterator

import torch

from kdbench.harness.foreign import reason
from kdbench.harness.preflight.finding import Finding
from kdbench.harness.preflight.subject import Subject


@torch.no_grad()
def check(subject: Subject) -> Iterator[Finding]:
    """Two tokens through the model, at the last position it will be asked for too: finite logits."""
    model = subject.whole
    ids = torch.tensor([[0, subject.vocabulary.size - 1]], device=subject.device)
    logits = model(input_ids=ids, use_cache=False).logits[0, :, : subject.vocabulary.size]
    if not bool(torch.isfinite(logits).all()):
        yield Finding(
            "forward",
            f"{subject.name} gives logits that are not finite (nan or inf) for two tokens: its weights "
            "are damaged or overflow in this precision; take the original weights, or try --set "
            "train.precision=fp32",
            "fail",
        )
        return
    cut = subject.cut
    positioned = "position_ids" in inspect.signature(cut.forward).parameters
    if positioned and subject.device.type == "cpu":  # on a GPU the question itself would end us
        last = torch.tensor([[0, subject.tokens - 1]], device=subject.device)
        try:
            cut(input_ids=ids, position_ids=last, use_cache=False)
        except (IndexError, RuntimeError) as error:
            yield Finding(
                "forward",
                f"{subject.name} cannot read position {subject.tokens} ({reason(error)}): its position "
                "embeddings end before; lower train.max_length, or choose a model with a longer "
                "context",
                "fail",
            )
            return
    spread = float(logits.float().std(-1).mean())
    yield Finding("forward", f"finite logits, spread {spread:.3g}")
