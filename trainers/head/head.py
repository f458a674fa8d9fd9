"""The language-model head in tiles: losses over the vocabulary without (batch, time, vocabulary).

Hidden states at target positions stream through both heads some hundred rows at a time; a token
objective is evaluated on each tile and the gradients of hidden states and head weight are
accumulated there and then. One ``autograd.Function`` returns them in its backward, so a tied
embedding gets both of its contributions and gradient hooks fire as usual.
"""

import warnings
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from kdbench.trainers.cpu.arithmetic import fast_products
from kdbench.trainers.cpu.attention import packed_attention
from kdbench.trainers.head import kernels
from kdbench.trainers.head.projection import Parts, sum_dtype
from kdbench.trainers.objectives.divergences import TokenObjective
from kdbench.trainers.types import Packed


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """How hidden states become logits: ``softcap * tanh(scale * (h W' + b) / softcap)``.

    Args:
        weight: (V', D); None if the "hidden" states are logits already (the dense path).
        bias: (V',) or None.
        scale: multiplies the logits.
        softcap: bound of the logits, or None.
        vocab: number of real tokens; columns from here on are padding and never take part.
    """

    weight: Tensor | None
    bias: Tensor | None
    scale: float
    softcap: float | None
    vocab: int

    @property
    def dense(self) -> bool:
        """Whether this head could not be taken apart from its model."""
        return self.weight is None

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Logits (N, vocab) of the real tokens, differentiable; for small N."""
        if self.weight is None:
            return hidden_ND[:, : self.vocab]
        bias = None if self.bias is None else self.bias[: self.vocab]
        logits_NV = functional.linear(hidden_ND, self.weight[: self.vocab], bias) * self.scale
        if self.softcap is None:
            return logits_NV
        return self.softcap * torch.tanh(logits_NV / self.softcap)

    @property
    def parts(self) -> Parts:
        """What tile arithmetic needs."""
        return Parts(self.weight, self.bias, self.scale, self.softcap, self.vocab)


_takes_apart: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()
"""Whether a model's logits are its head applied to its hidden states; probed once a model."""


def head_of(model: PreTrainedModel, vocab: int) -> Head:
    """The head of a causal language model; cheap after the first call, which runs a probe.

    Args:
        model: any causal language model of transformers.
        vocab: number of real tokens (the tokenizer's), at most the width of the head.

    Returns:
        A head whose logits equal the model's. If the model transforms its logits in a way we cannot
        express, a dense head (with a warning): ``backbone_hidden`` then runs the whole model.

    Raises:
        ValueError: the head is narrower than ``vocab``.
    """
    embedding = model.get_output_embeddings()
    text = model.config.get_text_config()
    scale = float(getattr(text, "logit_scale", None) or 1.0)  # Cohere multiplies,
    scale /= float(getattr(text, "logits_scaling", None) or 1.0)  # Granite divides.
    softcap = getattr(text, "final_logit_softcapping", None)
    weight: Tensor = embedding.weight
    if weight.shape[0] < vocab:
        raise ValueError(f"the head has {weight.shape[0]} columns for {vocab} tokens")
    head = Head(weight, getattr(embedding, "bias", None), scale, softcap, vocab)
    if model not in _takes_apart:
        _takes_apart[model] = _agrees(model, head, weight)
        if not _takes_apart[model]:
            warnings.warn(
                f"the logits of {type(model).__name__} are not its head applied to its hidden "
                "states: falling back to the dense path, which needs more memory",
                stacklevel=2,
            )
    return head if _takes_apart[model] else Head(None, None, 1.0, None, vocab)


@torch.no_grad()
def _agrees(model: PreTrainedModel, head: Head, weight: Tensor) -> bool:
    ids = torch.arange(1, 9, device=weight.device).remainder(head.vocab)[None]
    was_training = model.training
    model.eval()
    try:
        with torch.autocast(ids.device.type, enabled=False):
            expected = model(input_ids=ids, use_cache=False).logits[0, :, : head.vocab].float()
            got = head.logits(model.base_model(input_ids=ids, use_cache=False)[0][0]).float()
    finally:
        model.train(was_training)
    if expected.shape != got.shape:
        return False
    half = weight.dtype in (torch.bfloat16, torch.float16)
    scale = expected.abs().max().clamp_min(1e-12)
    return bool((expected - got).abs().max() <= (0.02 if half else 1e-4) * scale)


def backbone_hidden(model: PreTrainedModel, packed: Packed) -> Tensor:
    """Final hidden states (N, D) at the positions that predict ``packed.target_N``.

    For a model whose ``head_of`` is dense: its logits (N, V') there.

    Args:
        model: causal language model; its head is not run.
        packed: where to read; moved to the model's device if it is elsewhere.
    """
    device = next(model.parameters()).device
    arguments = {
        "input_ids": packed.input_ids_RT.to(device),
        "position_ids": packed.position_ids_RT.to(device),
        "use_cache": False,  # with a cache, packed rows would see each other
    }
    if packed.attention_mask_RT is not None:
        arguments["attention_mask"] = packed.attention_mask_RT.to(device)
    with packed_attention(model, packed), fast_products(device):
        if _takes_apart.get(model, True):
            output_RTD = model.base_model(**arguments)[0]
        else:
            output_RTD = model(**arguments).logits
    return output_RTD.flatten(0, 1).index_select(0, packed.source_N.to(device))


def tiled_sum(
    objective: TokenObjective,
    student_hidden_ND: Tensor,
    head: Head,
    target_N: Tensor,
    *,
    teacher_hidden_ND: Tensor | None = None,
    teacher_head: Head | None = None,
    columns: dict[str, Tensor] | None = None,
    tile: int | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum a token objective over all targets, tile by tile.

    Args:
        objective: pure function of a tile's logits; those of ``objectives`` that have an analytic
            gradient take a faster road to the same values.
        student_hidden_ND: (N, D), gets a gradient.
        head: the student's; weight and bias get gradients if they require them.
        target_N: ids (N,).
        teacher_hidden_ND: (N, D'), never gets a gradient.
        teacher_head: the teacher's; same ``vocab``.
        columns: name -> (N,), cut into tiles for the objective.
        tile: rows a tile; default by vocabulary size. Results do not depend on it.

    Returns:
        The scalar sum of ``"loss"`` (differentiable once), and the detached float64 sums of all
        values the objective names.
    """
    if (teacher_hidden_ND is None) != (teacher_head is None):
        raise ValueError("teacher_hidden_ND and teacher_head go together")
    if teacher_head is not None and teacher_head.vocab != head.vocab:
        raise ValueError(f"vocabularies differ: {head.vocab} and {teacher_head.vocab} tokens")
    job = kernels.Job(
        objective=objective,
        student=head.parts,
        teacher=None if teacher_head is None else teacher_head.parts,
        teacher_hidden_ND=None if teacher_hidden_ND is None else teacher_hidden_ND.detach(),
        target_N=target_N.to(student_hidden_ND.device),
        columns={n: c.to(student_hidden_ND.device) for n, c in (columns or {}).items()},
        rows=tile or kernels.default_rows(head.vocab),
    )
    tensors = (student_hidden_ND, head.weight, head.bias)
    learning = torch.is_grad_enabled()
    wanted = kernels.Wanted(*(learning and t is not None and t.requires_grad for t in tensors))
    loss, named = _TiledSum.apply(job, wanted, *tensors)
    return loss, named


class _TiledSum(torch.autograd.Function):
    """Gradients are computed in forward, where the logits are, and handed out in backward."""

    @staticmethod
    def forward(ctx, job, wanted, hidden_ND, weight, bias):  # type: ignore[no-untyped-def]
        result = kernels.run(job, hidden_ND.detach(), wanted)
        ctx.grads = (result.grad_hidden, result.grad_weight, result.grad_bias)
        loss = result.sums["loss"].to(sum_dtype(hidden_ND.dtype), copy=True)
        return loss, result.sums

    @staticmethod
    def backward(ctx, grad_loss, _):  # type: ignore[no-untyped-def]
        grads, ctx.grads = ctx.grads, None
        if grads is None:
            raise RuntimeError("tiled_sum can be differentiated only once")
        for grad in grads:
            if grad is not None and grad_loss != 1:
                grad.mul_(grad_loss.to(grad.dtype))
        return None, None, *grads


def token_logprobs(
    hidden_ND: Tensor, head: Head, target_N: Tensor, *, tile: int | None = None
) -> Tensor:
    """Log q(target) for each row, (N,), differentiable; tiles are recomputed in backward.

    For objectives that need whole sequences before they know a token's weight.
    """
    target_N = target_N.to(hidden_ND.device)
    rows = tile or kernels.default_rows(head.vocab)
    job = kernels.Job(kernels.weighted_logprob, head.parts, None, None, target_N, {}, rows)
    return _TokenLogprobs.apply(job, hidden_ND, head.weight, head.bias)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, job, hidden_ND, weight, bias):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(hidden_ND)
        ctx.job = job
        # Backward runs outside the caller's autocast, but must repeat the same arithmetic.
        device = hidden_ND.device.type
        ctx.autocast = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
        return kernels.target_logprobs(hidden_ND.detach(), job)

    @staticmethod
    def backward(ctx, grad_N):  # type: ignore[no-untyped-def]
        (hidden_ND,) = ctx.saved_tensors
        enabled, dtype = ctx.autocast
        job = replace(ctx.job, columns={"weight": grad_N})
        with torch.autocast(hidden_ND.device.type, enabled=enabled, dtype=dtype):
            wanted = kernels.Wanted(*ctx.needs_input_grad[1:])
            result = kernels.run(job, hidden_ND.detach(), wanted)
        return None, result.grad_hidden, result.grad_weight, result.grad_bias
