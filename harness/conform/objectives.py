"""Token objectives, MiniLLM's pieces and TAID's schedule against the authors' numbers."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch

from kdbench.harness.conform.value import Value, compared, flat
from kdbench.trainers.methods.minillm_code import MiniLLMCode
from kdbench.trainers.methods.taid import Schedule
from kdbench.trainers.objectives import divergences
from kdbench.trainers.objectives.divergences import TokenObjective
from kdbench.trainers.objectives.policy import (
    code_returns,
    code_rewards,
    importance_weight,
    whiten,
)

PARTS = ("loss", "grad_l2", "grad_row")


def token_objectives(data: dict[str, Any]) -> Iterator[Value]:
    """Loss (mean over target tokens), gradient norm and first target token's gradient row."""
    for number, case in enumerate(data["cases"]):
        student = torch.tensor(case["student_logits"], dtype=torch.float64)
        teacher = torch.tensor(case["teacher_logits"], dtype=torch.float64)
        labels = torch.tensor(case["labels"])
        picked = labels != -100
        for name, expected in case["expected"].items():
            entry = f"{name}[{number}]"
            found = named_objective(name)
            if found is None:
                yield from compared(entry, {part: expected[part] for part in PARTS}, {})
                continue
            leaf = student.clone().requires_grad_(True)
            values = found.objective(leaf[picked], teacher[picked], labels[picked], {})
            count = int(picked.sum())
            values["loss"].sum().div(count).backward()
            gradient = leaf.grad
            assert gradient is not None
            shown = float(values[found.value].detach().sum() / count)
            yield Value(f"{entry}.loss", [expected["loss"]], [shown])
            yield Value(f"{entry}.grad_l2", [expected["grad_l2"]], [float(gradient.norm())])
            first = gradient[picked][0].tolist()
            largest = float(gradient.abs().max())
            yield Value(f"{entry}.grad_row", flat(expected["grad_row"]), first, largest)


def minillm(data: dict[str, Any]) -> Iterator[Value]:
    """The authors' rewards, weights, returns, advantages and both losses with gradient norms."""
    for number, case in enumerate(data["cases"]):
        yield from compared(f"minillm[{number}]", case["expected"], _minillm_case(case))


def _minillm_case(case: dict[str, Any]) -> dict[str, torch.Tensor]:
    settings = case["settings"]
    ids = torch.tensor(case["ids"])
    mask = torch.tensor(case["mask"], dtype=torch.float64)
    new, old, teacher = (
        torch.tensor(case[f"{who}_logits"], dtype=torch.float64)
        for who in ("new", "old", "teacher")
    )
    log_q, log_p = (mask * _picked(logits, ids) for logits in (old, teacher))
    weight = torch.where(
        mask > 0, importance_weight(log_q, log_p, settings["teacher_mixed_alpha"]), 1.0
    )
    rewards = mask * code_rewards(
        log_q, log_p, scaling=settings["reward_scaling"], clip=settings["reward_clip"]
    )
    returns = code_returns(rewards, mask, gamma=settings["gamma"])
    advantages = whiten(returns)
    method = MiniLLMCode(
        MiniLLMCode.Config(
            gamma=settings["gamma"],
            reward_scaling=settings["reward_scaling"],
            reward_clip=settings["reward_clip"],
            teacher_mix=settings["teacher_mixed_alpha"],
            ppo={"clip": settings["cliprange"]},
        )
    )
    picked = mask > 0
    leaf = new.clone().requires_grad_(True)
    columns = {"log_q": log_q, "weight": weight, "advantage": advantages}
    columns = {name: values[picked] for name, values in columns.items()}
    count = mask.sum()
    both = method.token_loss(leaf[picked], teacher[picked], ids[picked], columns)["loss"]
    single = (
        divergences.reverse_kl(leaf[picked], teacher[picked], ids[picked], {})["loss"].sum() / count
    )
    policy = both.sum() / count - single
    (policy_gradient,) = torch.autograd.grad(policy, leaf, retain_graph=True)
    (single_gradient,) = torch.autograd.grad(single, leaf)
    return {
        "logprobs_old": log_q,
        "teacher_logprobs": log_p,
        "importance_weight": weight,
        "rewards": rewards,
        "returns_length_normalised": returns,
        "advantages_whitened": advantages,
        "pg_loss": policy.detach(),
        "pg_grad_l2": policy_gradient.norm(),
        "single_step_reg_loss": single.detach(),
        "reg_grad_l2": single_gradient.norm(),
    }


def taid_schedule(data: dict[str, Any]) -> Iterator[Value]:
    """T after each step of a given loss curve."""
    for number, case in enumerate(data["cases"]):
        settings, total = case["settings"], case["num_train_steps"]
        schedule = Schedule(
            settings["t_start"], settings["t_end"], settings["alpha"], settings["beta"]
        )
        ours = [schedule.update(loss, step / total) for step, loss in enumerate(case["losses"])]
        yield Value(f"taid_schedule[{number}].t", flat(case["expected_t"]), ours)


def _picked(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(logits, -1).gather(-1, ids[..., None]).squeeze(-1)


# -- which objective computes which entry of a reference file of token objectives --------------------

# The names are those of ``token_objectives.json``: numbers that the authors' own code gives for random
# logits. ``kdbench conform`` and the tests recompute them.


class NamedObjective(NamedTuple):
    """An objective, and the name of the value that the reference prints as its loss."""

    objective: TokenObjective
    value: str = "loss"


def named_objective(name: str) -> NamedObjective | None:
    """The objective of a reference entry, or None if we do not implement it.

    Args:
        name: e.g. ``"jsd_mix_0.1"``, ``"gkd_jsd_beta0.5_T2.0"``, ``"taid_t0.4"``.
    """
    for pattern, build in _ENTRIES.items():
        if found := re.fullmatch(pattern.replace("#", r"([0-9.]+)"), name):
            return build(*map(float, found.groups()))
    return None


# by name, with # for a number
_ENTRIES: dict[str, Callable[..., NamedObjective]] = {
    "forward_kl_cross_entropy": lambda: NamedObjective(divergences.forward_kl, "forward_kl_ce"),
    "reverse_kl": lambda: NamedObjective(divergences.reverse_kl),
    "total_variation": lambda: NamedObjective(divergences.total_variation),
    "gkd_jsd_beta#_T#": lambda b, t: NamedObjective(
        partial(divergences.generalised_jsd, beta=b, temperature=t)
    ),
    # DistiLLM weights the mixture the other way round: m = (1 - lam) p + lam q
    "jsd_mix_#": lambda x: NamedObjective(partial(divergences.generalised_jsd, beta=1 - x)),
    "skew_forward_kl_cross_entropy_#": lambda x: NamedObjective(
        partial(divergences.skew_forward_kl, alpha=x), "skew_forward_kl_ce"
    ),
    "skew_reverse_kl_#": lambda x: NamedObjective(partial(divergences.skew_reverse_kl, alpha=x)),
    "dpkd_token_beta#": lambda x: NamedObjective(partial(divergences.dpkd_token, beta=x)),
    "adaptive_kl_mu#": lambda x: NamedObjective(partial(divergences.adaptive_kl, mu=x)),
    "taid_t#": lambda x: NamedObjective(partial(divergences.taid, t=x), "taid_ce"),
}
