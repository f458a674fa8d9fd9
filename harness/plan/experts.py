"""The experts of a mixture, from its config.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
ACTIVE = ("num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_topk", "moe_k")
SHARED = ("n_shared_experts", "moe_num_shared_experts", "num_shared_expert")
SHARED_WIDTH = ("shared_expert_intermediate_size", "shared_intermediate_size")
STEPS = ("decoder_sparse_step", "moe_layer_interval", "interleave_moe_layer_step")
FIRST = ("first_k_dense_replace", "moe_layer_start_index")
"""Names that configurations have for these: how many experts, how many a token goes through, …"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """The feed-forward parts of a mixture of experts, each gated.

    Attributes:
        count: of one layer.
        active: how many a token goes through.
        width: of one.
        shared: of what every token goes through beside them; 0: nothing.
        weighed: that has a gate of its own, a column wide.
        dense: layers with one ordinary feed-forward part instead.
    """

    count: int
    active: int
    width: int
    shared: int = 0
    weighed: bool = False
    dense: int = 0


def experts_of(config: Mapping[str, Any], layers: int, ffn: int) -> Experts | None:
    """The experts that a configuration states; None: it is no mixture.

    Args:
        config: a config.json.
        layers: of the model.
        ffn: width of experts that have none of their own.

    Raises:
        KeyError: it is a mixture and lacks a number, or has it under a name that is not known.
    """

    def named(names: tuple[str, ...]) -> int:
        return next((int(config[name]) for name in names if config.get(name)), 0)

    count = named(COUNTS)
    if count < 2:
        other = [k for k, v in config.items() if "expert" in k and type(v) is int and v > 1]
        if other and not any(name in config for name in COUNTS):
            raise KeyError(f"{COUNTS[0]} (its {other[0]} says that it is a mixture of experts)")
        return None
    if not named(ACTIVE):
        raise KeyError(ACTIVE[0])
    width = int(config.get("moe_intermediate_size") or ffn)
    kinds = config.get("mlp_layer_types")
    first, step, plain = named(FIRST), named(STEPS) or 1, config.get("mlp_only_layers") or ()
    mixed = [i >= first and i not in plain and (i + 1) % step == 0 for i in range(layers)]
    return Experts(
        count=count,
        active=named(ACTIVE),
        width=width,
        shared=named(SHARED_WIDTH) or width * named(SHARED),
        weighed=bool(config.get(SHARED_WIDTH[0])),
        dense=kinds.count("dense") if isinstance(kinds, list) else layers - sum(mixed),
    )
