"""A teacher of which only the likeliest tokens are known: those, and one bin of all others.

What is known of a position is a row (2k + 1): k log-probabilities, their k token ids, and the log-probability
of all other tokens together, float32 (ids below 2^24 are whole in it).
"""

import torch
from torch import Tensor


def known_part(logits_NV: Tensor, k: int) -> Tensor:
    """The row of each position, (N, 2k + 1), of a teacher's logits (N, V)."""
    log_p_NV = logits_NV.float().log_softmax(-1)
    top = log_p_NV.topk(k, -1)
    others = log_p_NV.scatter(-1, top.indices, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([top.values, top.indices.float(), others], -1)


def completed(part_nK: Tensor, student_nV: Tensor) -> Tensor:
    """Logits (n, V) of a teacher that shares the bin out among the other tokens as the student does.

    With these, the forward KL and its gradient are exactly those over k + 1 outcomes, the k tokens and the
    bin: inside the bin, teacher and student agree, so nothing is learnt about it.

    Args:
        part_nK: rows of `known_part`.
        student_nV: the student's logits.
    """
    k = part_nK.shape[1] // 2
    log_p_nk, ids_nk, bin_n1 = part_nK[:, :k], part_nK[:, k : 2 * k].long(), part_nK[:, 2 * k :]
    own_nV = student_nV.detach()
    inside_n1 = own_nV.scatter(-1, ids_nk, -torch.inf).logsumexp(-1, keepdim=True)
    return (own_nV + (bin_n1 - inside_n1).to(own_nV)).scatter_(-1, ids_nk, log_p_nk.to(own_nV))
