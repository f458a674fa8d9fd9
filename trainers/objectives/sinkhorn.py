"""Entropic optimal transport between two small sets of distributions."""

import torch
from torch import Tensor


def sinkhorn_cost(
    student_nV: Tensor,
    teacher_nV: Tensor,
    *,
    temperature: float = 2.0,
    epsilon: float = 0.1,
    rounds: int = 20,
) -> Tensor:
    """sum_ij P_ij D_ij, D_ij = ‖q_i − p_j‖₁, P from ``rounds`` of normalising exp(−D/ε), a scalar.

    SinKD (Cui et al. 2024, arXiv:2402.17110, section 3). Rows of P sum to 1 up to convergence, so
    the cost grows with n. The gradient goes through P as well, as in the authors' code.

    Args:
        student_nV: logits of n rows.
        teacher_nV: logits of the same rows.
        temperature: of both softmaxes.
        epsilon: entropic regularisation.
        rounds: row-and-column normalisations.
    """
    q = torch.softmax(student_nV / temperature, -1)
    p = torch.softmax(teacher_nV / temperature, -1)
    cost = torch.cdist(q, p, p=1.0)
    log_plan = -cost / epsilon
    for _ in range(rounds):  # in logarithms: exp(−2/ε) underflows for small ε
        log_plan = log_plan - log_plan.logsumexp(1, keepdim=True)
        log_plan = log_plan - log_plan.logsumexp(0, keepdim=True)
    return (log_plan.exp() * cost).sum()
