"""Token objectives: pure functions of the two distributions at each target position.

Each takes ``student`` and ``teacher`` logits of shape (n, V), float32 or float64, vocabulary
padding already cut off, the ``target`` ids (n,) and ``columns`` (name -> (n,)); it returns named
values of shape (n,). ``"loss"`` is what is optimised, the others are only logged; ``"nll"`` is
always there. Divergences are true divergences (entropies included); a name ending in ``_ce`` is the
cross-entropy form without the target distribution's entropy, which has the same gradient.

``0 * log 0`` is 0, so a token that both models rule out (logit ``-inf``) costs nothing; a token the
left distribution wants and the right one rules out costs infinity, as the formula says.

Notation: p teacher, q student, D(a|b) = sum_v a log(a/b).
"""

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor
from torch.nn import functional as F

Columns = dict[str, Tensor]
Values = dict[str, Tensor]
TokenObjective = Callable[[Tensor, Tensor | None, Tensor, Columns], Values]


def _dot(prob_nV: Tensor, log_nV: Tensor) -> Tensor:
    """sum_v prob * log with 0 * inf = 0. The inside is masked, not the product: a masked product
    would still send ``0 * inf = nan`` backwards.
    """
    return (prob_nV * torch.where(prob_nV > 0, log_nV, 0.0)).sum(-1)


def _kl(log_a_nV: Tensor, log_b_nV: Tensor) -> Tensor:
    """D(a|b) per row from log-probabilities."""
    both_out = torch.isneginf(log_a_nV)
    return _dot(log_a_nV.exp(), torch.where(both_out, 0.0, log_a_nV) - log_b_nV)


def _log_mix(log_a_nV: Tensor, log_b_nV: Tensor, weight_a: float) -> Tensor:
    """log(weight_a * a + (1 - weight_a) * b), exact at the endpoints and where both are 0."""
    if weight_a in (0.0, 1.0):
        return log_a_nV if weight_a == 1.0 else log_b_nV
    a_out, b_out = torch.isneginf(log_a_nV), torch.isneginf(log_b_nV)
    shift_a = torch.tensor(weight_a, dtype=torch.float64).log().item()
    shift_b = torch.tensor(1.0 - weight_a, dtype=torch.float64).log().item()
    # logaddexp(-inf, -inf) has a nan gradient: a finite number stands in, and is cut after.
    floor = torch.finfo(log_a_nV.dtype).min / 4
    mixed = torch.logaddexp(
        torch.where(a_out, floor, log_a_nV) + shift_a, torch.where(b_out, floor, log_b_nV) + shift_b
    )
    return torch.where(a_out & b_out, -torch.inf, mixed)


def _log_probs(logits_nV: Tensor, temperature: float) -> Tensor:
    return F.log_softmax(logits_nV if temperature == 1.0 else logits_nV / temperature, dim=-1)


def _needed(teacher: Tensor | None) -> Tensor:
    if teacher is None:
        raise ValueError("this objective compares with a teacher, but no teacher logits were given")
    return teacher


def _log_both(
    student: Tensor, teacher: Tensor | None, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """(log p, log q), each (n, V)."""
    return _log_probs(_needed(teacher), temperature), _log_probs(student, temperature)


def _nll(log_q_nV: Tensor, target_n: Tensor) -> Tensor:
    return -log_q_nV.gather(-1, target_n[:, None]).squeeze(-1)


def _with_ce(name: str, value: Tensor, log_p_nV: Tensor) -> Values:
    """A divergence from p as the loss; for the log also without the entropy of p."""
    entropy = -_dot(log_p_nV.exp(), log_p_nV)
    return {"loss": value, name: value.detach(), f"{name}_ce": (value + entropy).detach()}


def _logged(student: Tensor, target: Tensor) -> Tensor:
    """-log q(target) for the log only, at temperature 1."""
    with torch.no_grad():
        return torch.logsumexp(student, -1) - student.gather(-1, target[:, None]).squeeze(-1)


def _divergence(function: Callable[..., Values]) -> Callable[..., Values]:
    """A token objective from a function of (log p, log q), both (n, V), and of keywords.

    It also takes ``temperature``, which softens both distributions. What the function names beside
    the loss is logged only, and the negative log-likelihood is added to it.
    """

    @wraps(function)
    def objective(
        student: Tensor,
        teacher: Tensor | None,
        target: Tensor,
        columns: Columns,
        *,
        temperature: float = 1.0,
        **options: float,
    ) -> Values:
        values = function(*_log_both(student, teacher, temperature), **options)
        logged = {name: value.detach() for name, value in values.items() if name != "loss"}
        return {"loss": values["loss"], **logged, "nll": _logged(student, target)}

    return objective


def cross_entropy(
    student: Tensor, teacher: Tensor | None, target: Tensor, columns: Columns
) -> Values:
    """-log q(target): supervised fine-tuning; the teacher is not looked at."""
    nll = _nll(F.log_softmax(student, dim=-1), target)
    return {"loss": nll, "nll": nll.detach()}


@_divergence
def forward_kl(log_p: Tensor, log_q: Tensor) -> Values:
    """D(p|q): word-level distillation (Hinton et al. 2015; Kim & Rush 2016). No T^2 factor.

    Logs ``forward_kl_ce`` = -sum p log q, the form that MiniLLM's and DistiLLM's code prints.
    """
    return _with_ce("forward_kl", _kl(log_p, log_q), log_p)


def word_kd(
    student: Tensor,
    teacher: Tensor | None,
    target: Tensor,
    columns: Columns,
    *,
    kd_ratio: float = 0.5,
) -> Values:
    """(1 - kd_ratio) * cross-entropy + kd_ratio * D(p|q): the KD baseline of MiniLLM's code
    (``kd_ratio`` 0.5 there, 1.0 in DistiLLM's), which prints the ``_ce`` form.
    """
    log_p, log_q = _log_both(student, teacher)
    kl, nll = _kl(log_p, log_q), _nll(log_q, target)
    terms = _with_ce("forward_kl", kl, log_p)
    return terms | {"loss": (1 - kd_ratio) * nll + kd_ratio * kl, "nll": nll.detach()}


@_divergence
def reverse_kl(log_p: Tensor, log_q: Tensor) -> Values:
    """D(q|p), the token-level form of MiniLLM's objective (Gu et al. 2024); gradient through q."""
    kl = _kl(log_q, log_p)
    return {"loss": kl, "reverse_kl": kl}


@_divergence
def top_k_reverse_kl(log_p: Tensor, log_q: Tensor, *, k: int) -> Values:
    """D(q|p) over the teacher's ``k`` likeliest tokens and one bin of all others.

    Merging tokens cannot raise a divergence, so this is at most the full one, and equal to it if
    k is the vocabulary or all but one token of it.
    """
    if k < log_p.shape[-1] - 1:
        top = log_p.topk(k, dim=-1).indices
        log_p, log_q = _binned(log_p, top), _binned(log_q, top)
    kl = _kl(log_q, log_p)
    return {"loss": kl, "top_k_reverse_kl": kl}


def _binned(log_nV: Tensor, kept_nk: Tensor) -> Tensor:
    """Log-probabilities (n, k+1): the kept tokens and the logsumexp of all others."""
    rest = log_nV.scatter(-1, kept_nk, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([log_nV.gather(-1, kept_nk), rest], dim=-1)


@_divergence
def generalised_jsd(log_p: Tensor, log_q: Tensor, *, beta: float) -> Values:
    """Beta D(p|m) + (1-beta) D(q|m), m = beta p + (1-beta) q (GKD, Agarwal et al. 2024, eq. 1).

    The formula is 0 at both ends; as in TRL 1.16, beta 0 means D(p|q) and beta 1 means D(q|p).
    DistiLLM's ``jsd`` with its ``lam`` is ``beta = 1 - lam``.
    """
    if beta == 0.0:
        value = _kl(log_p, log_q)
    elif beta == 1.0:
        value = _kl(log_q, log_p)
    else:
        log_m = _log_mix(log_p, log_q, beta)
        value = beta * _kl(log_p, log_m) + (1 - beta) * _kl(log_q, log_m)
    return {"loss": value, "jsd": value}


@_divergence
def skew_forward_kl(log_p: Tensor, log_q: Tensor, *, alpha: float = 0.1) -> Values:
    """D(p | alpha p + (1-alpha) q) (DistiLLM, Ko et al. 2024, eq. 4)."""
    return _with_ce("skew_forward_kl", _kl(log_p, _log_mix(log_p, log_q, alpha)), log_p)


@_divergence
def skew_reverse_kl(log_p: Tensor, log_q: Tensor, *, alpha: float = 0.1) -> Values:
    """D(q | (1-alpha) p + alpha q) (DistiLLM, section 3.1); gradient through both q."""
    value = _kl(log_q, _log_mix(log_p, log_q, 1 - alpha))
    return {"loss": value, "skew_reverse_kl": value}


def total_variation(
    student: Tensor, teacher: Tensor | None, target: Tensor, columns: Columns
) -> Values:
    """0.5 sum |p - q| (f-distill, Wen et al. 2023), in [0, 1]."""
    value = 0.5 * (F.softmax(_needed(teacher), -1) - F.softmax(student, -1)).abs().sum(-1)
    return {"loss": value, "total_variation": value.detach(), "nll": _logged(student, target)}


@_divergence
def symmetric_kl(log_p: Tensor, log_q: Tensor, *, forward_weight: float = 0.1) -> Values:
    """W D(p|q) + (1-w) D(q|p); w = 0.1 is DistiLLM's ``symmetric`` baseline."""
    forward, reverse = _kl(log_p, log_q), _kl(log_q, log_p)
    value = forward_weight * forward + (1 - forward_weight) * reverse
    return {"loss": value, "forward_kl": forward, "reverse_kl": reverse}


@_divergence
def adaptive_kl(log_p: Tensor, log_q: Tensor, *, mu: float = 0.5) -> Values:
    """AKL (Wu et al., COLING 2025): g_h/(g_h+g_t) D(p|q) + g_t/(g_h+g_t) D(q|p).

    The head is the largest prefix of the tokens, sorted by p, whose mass is at most ``mu`` (the
    first token always belongs to it), the tail is the rest; g sums |p - q| over each, without
    gradient. Defined as 0 where p = q, where the authors' code divides 0 by 0.
    """
    forward, reverse = _kl(log_p, log_q), _kl(log_q, log_p)
    with torch.no_grad():
        p = log_p.exp()
        p_sorted, order = p.sort(dim=-1, descending=True)
        head = p_sorted.cumsum(-1) <= mu
        head[:, 0] = True
        gap = (p - log_q.exp()).abs().gather(-1, order)
        head_gap, total = (gap * head).sum(-1), gap.sum(-1)
        share = torch.where(total > 0, head_gap / total.clamp_min(torch.finfo(p.dtype).tiny), 0.5)
    value = share * forward + (1 - share) * reverse
    return {"loss": value, "adaptive_kl": value, "head_share": share}


@_divergence
def dpkd_token(log_p: Tensor, log_q: Tensor, *, beta: float = 0.1) -> Values:
    """-log sigmoid(beta [(log q(a) - log q(b)) - (log p(a) - log p(b))]); a, b: argmax of p, q.

    What LMOps ``dpkd`` computes under ``--seqKD-DPO``, not what the DPKD paper writes; log-softmax
    in the precision of the logits (theirs: bfloat16). Constant log 2 where the argmaxes agree.
    """
    wanted, chosen = log_p.argmax(-1, keepdim=True), log_q.argmax(-1, keepdim=True)
    margin_q = log_q.gather(-1, wanted) - log_q.gather(-1, chosen)
    margin_p = log_p.gather(-1, wanted) - log_p.gather(-1, chosen)
    value = -F.logsigmoid(beta * (margin_q - margin_p)).squeeze(-1)
    return {"loss": value, "dpkd_token": value, "agree": (wanted == chosen)[:, 0].to(log_q.dtype)}


def taid(
    student: Tensor,
    teacher: Tensor | None,
    target: Tensor,
    columns: Columns,
    *,
    t: float,
    frozen: Tensor | None = None,
) -> Values:
    """D(p_t|q), p_t = softmax((1-t) sg(student) + t teacher) (TAID, Shing et al. 2025, eq. 3).

    Args:
        student: logits (n, V).
        teacher: logits (n, V).
        target: ids (n,).
        columns: not looked at.
        t: interpolation in [0, 1]; 1 is forward KL.
        frozen: (n, V) student logits held fixed inside the target; default: detached ``student``.
    """
    teacher = _needed(teacher)
    held = student.detach() if frozen is None else frozen
    # The ends are taken apart because 0 * -inf is nan.
    mixed = teacher if t == 1.0 else held if t == 0.0 else (1 - t) * held + t * teacher
    log_p, log_q = F.log_softmax(mixed, -1), F.log_softmax(student, -1)
    return _with_ce("taid", _kl(log_p, log_q), log_p) | {"nll": _logged(student, target)}


def mixed(objective: Callable[..., Values], ratio: float) -> Callable[..., Values]:
    """(1 - ratio) * cross-entropy + ratio * objective; its own terms are still logged."""

    def value(
        student: Tensor, teacher: Tensor | None, target: Tensor, columns: Columns, **options: float
    ) -> Values:
        terms = objective(student, teacher, target, columns, **options)
        nll = cross_entropy(student, teacher, target, columns)["loss"]
        return terms | {"loss": (1 - ratio) * nll + ratio * terms["loss"], "nll": nll.detach()}

    return value


def shared(objective: Callable[..., Values]) -> Callable[..., Values]:
    """All values of the objective, each times what column ``share`` says its token weighs."""

    def value(
        student: Tensor, teacher: Tensor | None, target: Tensor, columns: Columns, **options: float
    ) -> Values:
        terms = objective(student, teacher, target, columns, **options)
        return {name: value * columns["share"] for name, value in terms.items()}

    return value


def skewed(
    student: Tensor, teacher: Tensor | None, target: Tensor, columns: Columns, *, reverse: bool
) -> Values:
    """D(p | alpha p + (1-alpha) q) or, reversed, D(q | (1-alpha) p + alpha sg(q)), (n,) each.

    Column ``alpha`` is the skew of each row, in (0, 1). As DistiLLM-2's code has them
    (distillm-2@fe4cf9b): q inside the reverse mixture is held fixed.
    """
    log_p, log_q = _log_both(student, teacher)
    one, other = (log_q, log_p) if reverse else (log_p, log_q)
    inside = log_q.detach() if reverse else log_p
    # the mixture is alpha * inside + (1 - alpha) * other; a floor keeps gradients of log 0 finite
    floor = torch.finfo(student.dtype).min / 4
    share = columns["alpha"].to(student.dtype)[:, None]
    mixture = torch.logaddexp(
        inside.clamp_min(floor) + share.log(), other.clamp_min(floor) + torch.log1p(-share)
    )
    ruled_out = torch.isneginf(inside) & torch.isneginf(other)
    gap = torch.where(torch.isneginf(one), 0.0, one) - torch.where(ruled_out, -torch.inf, mixture)
    value = _dot(one.exp(), gap)
    name = "skew_reverse_kl" if reverse else "skew_forward_kl"
    return {"loss": value, name: value.detach(), "nll": _logged(student, target)}
