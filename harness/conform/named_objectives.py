"""Which objective computes which entry of a reference file of token objectives.

The names are those of ``token_objectives.json``: numbers that the authors' own code gives for
random logits. ``kdbench conform`` and the tests recompute them.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from kdbench.trainers.objectives import divergences as obj
from kdbench.trainers.objectives.divergences import TokenObjective


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
    "forward_kl_cross_entropy": lambda: NamedObjective(obj.forward_kl, "forward_kl_ce"),
    "reverse_kl": lambda: NamedObjective(obj.reverse_kl),
    "total_variation": lambda: NamedObjective(obj.total_variation),
    "gkd_jsd_beta#_T#": lambda b, t: NamedObjective(
        partial(obj.generalised_jsd, beta=b, temperature=t)
    ),
    # DistiLLM weights the mixture the other way round: m = (1 - lam) p + lam q
    "jsd_mix_#": lambda x: NamedObjective(partial(obj.generalised_jsd, beta=1 - x)),
    "skew_forward_kl_cross_entropy_#": lambda x: NamedObjective(
        partial(obj.skew_forward_kl, alpha=x), "skew_forward_kl_ce"
    ),
    "skew_reverse_kl_#": lambda x: NamedObjective(partial(obj.skew_reverse_kl, alpha=x)),
    "dpkd_token_beta#": lambda x: NamedObjective(partial(obj.dpkd_token, beta=x)),
    "adaptive_kl_mu#": lambda x: NamedObjective(partial(obj.adaptive_kl, mu=x)),
    "taid_t#": lambda x: NamedObjective(partial(obj.taid, t=x), "taid_ce"),
}
