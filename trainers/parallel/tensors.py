"""Tensors of which each process may hold a part."""

from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def is_shared(model: nn.Module) -> bool:
    """Whether some of a model's weights lie on other processes."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its values; of a shared one every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers, tied ones once."""
    kept = model.state_dict(keep_vars=True).keys()
    return {n: t for n, t in [*model.named_parameters(), *model.named_buffers()] if n in kept}
