"""Which objective computes which entry of a reference file of token objectives.

The names are those of ``token_objectives.json``: numbers that the authors' own code gives for
random logits. ``kdbench conform`` and the tests recompute them.
"""

import re
from functools import partial
from typing import NamedTuple

from kdbench.trainers.objectives import divergences as objectives
from kdbench.trainers.objectives.divergences import TokenObjective


class Recipe(NamedTuple):
    """An objective, and the name of the value that the reference prints as its loss."""

    objective: TokenObjective
    value: str


_NUMBER = r"([0-9.]+)"


def token_recipe(name: str) -> Recipe | None:
    """The recipe for a reference entry, or None if we do not implement it.

    Args:
        name: e.g. ``"jsd_mix_0.1"``, ``"gkd_jsd_beta0.5_T2.0"``, ``"taid_t0.4"``.
    """
    if name in _PLAIN:
        return _PLAIN[name]
    if found := re.fullmatch(f"gkd_jsd_beta{_NUMBER}_T{_NUMBER}", name):
        beta, temperature = map(float, found.groups())
        objective = partial(objectives.generalised_jsd, beta=beta, temperature=temperature)
        return Recipe(objective, "loss")
    for pattern, build in _PARAMETRIC.items():
        if found := re.fullmatch(pattern + _NUMBER, name):
            return build(float(found.group(1)))
    return None


_PLAIN = {
    "forward_kl_cross_entropy": Recipe(objectives.forward_kl, "forward_kl_ce"),
    "reverse_kl": Recipe(objectives.reverse_kl, "loss"),
    "total_variation": Recipe(objectives.total_variation, "loss"),
}

_PARAMETRIC = {
    # DistiLLM weights the mixture the other way round: m = (1 - lam) p + lam q.
    "jsd_mix_": lambda x: Recipe(partial(objectives.generalised_jsd, beta=1 - x), "loss"),
    "skew_forward_kl_cross_entropy_": lambda x: Recipe(
        partial(objectives.skew_forward_kl, alpha=x), "skew_forward_kl_ce"
    ),
    "skew_reverse_kl_": lambda x: Recipe(partial(objectives.skew_reverse_kl, alpha=x), "loss"),
    "dpkd_token_beta": lambda x: Recipe(partial(objectives.dpkd_token, beta=x), "loss"),
    "adaptive_kl_mu": lambda x: Recipe(partial(objectives.adaptive_kl, mu=x), "loss"),
    "taid_t": lambda x: Recipe(partial(objectives.taid, t=x), "taid_ce"),
}
