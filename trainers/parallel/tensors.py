"""Tensors of which each process may hold a part."""

from collections.abc import Mapping

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def is_shared(model: nn.Module) -> bool:
    """Whether some of a model's weights lie on other processes."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its values; of a shared one every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors on the host of the first process, one after another; nothing in the others."""
    first = dist.get_rank() == 0
    found = ((name, whole(tensor)) for name, tensor in tensors.items())
    return {name: tensor.cpu() for name, tensor in found if first}


def own_part(tensor: Tensor) -> tuple[Tensor, slice]:
    """This process's part of a tensor, and which rows of it they are."""
    if not isinstance(tensor, DTensor):
        return tensor, slice(None)
    mine: Tensor = tensor.to_local()
    # as FSDP deals rows: equally many, the last processes fewer or none
    most = -(-tensor.shape[0] // tensor.device_mesh.size())
    begin = most * tensor.device_mesh.get_local_rank()
    return mine, slice(begin, begin + mine.shape[0])


def copy_part(target: Tensor, source: Tensor) -> None:
    """Copies this process's part of the values; of a shared source that the target has whole a collective."""
    mine, rows = own_part(target)
    if not isinstance(source, DTensor):
        mine.copy_(source[rows])
    elif isinstance(target, DTensor):
        mine.copy_(source.to_local())
    else:
        mine.copy_(source.full_tensor())


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers, tied ones once."""
    kept = model.state_dict(keep_vars=True).keys()
    return {n: t for n, t in [*model.named_parameters(), *model.named_buffers()] if n in kept}
