"""All answers over four tokens and at most three steps, and the exact gradient over them."""

import itertools
from collections.abc import Callable

import torch

V, L = 4, 3  # token 0 ends an answer


def answers() -> list[tuple[int, ...]]:
    """All answers of at most three tokens; those that do not end are cut at the third."""
    out = []
    for length in range(1, L + 1):
        for body in itertools.product(range(1, V), repeat=length - 1):
            out.append((*body, 0))
    out += list(itertools.product(range(1, V), repeat=L))
    return out


class Table:
    """A model with a free logit for each (prefix, token)."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        prefixes = [p for n in range(L) for p in itertools.product(range(1, V), repeat=n)]
        self.row = {p: i for i, p in enumerate(prefixes)}
        self.logits = torch.randn(len(prefixes), V, generator=generator, dtype=torch.float64)

    def of(self, answer: tuple[int, ...], logits: torch.Tensor) -> torch.Tensor:
        return logits[[self.row[answer[:t]] for t in range(len(answer))]]


def picked(logits: torch.Tensor, answer: tuple[int, ...]) -> torch.Tensor:
    return torch.log_softmax(logits, -1).gather(-1, torch.tensor(answer)[:, None]).squeeze(-1)


def exact_gradient(student: Table, teacher: Table) -> torch.Tensor:
    """∇ Σ_y q(y) log q(y)/p(y) over whole answers."""
    leaf = student.logits.clone().requires_grad_(True)
    total = torch.zeros((), dtype=torch.float64)
    for answer in answers():
        log_q = picked(student.of(answer, leaf), answer).sum()
        log_p = picked(teacher.of(answer, teacher.logits), answer).sum()
        total = total + log_q.exp() * (log_q - log_p)
    (gradient,) = torch.autograd.grad(total, leaf)
    return gradient


def mean_gradient(
    student: Table, teacher: Table, loss: Callable[..., torch.Tensor]
) -> torch.Tensor:
    """Σ_y q(y)·∇loss(y); ``loss`` gets logits of q and p, ids, and both log-probabilities."""
    leaf = student.logits.clone().requires_grad_(True)
    total = torch.zeros((), dtype=torch.float64)
    for answer in answers():
        q, p = student.of(answer, leaf), teacher.of(answer, teacher.logits)
        log_q = picked(q, answer)
        value = loss(q, p, torch.tensor(answer), log_q, picked(p, answer))
        total = total + log_q.detach().sum().exp() * value
    (gradient,) = torch.autograd.grad(total, leaf)
    return gradient
