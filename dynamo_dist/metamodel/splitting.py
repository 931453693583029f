"""What is shared by all networks, split over the workers: for a meta-model whose parameters, gradients and moments do not fit on each.

torch's `fully_shard`: between steps a worker holds its rows of every parameter, of its gradient and of its moments. The parameters are
whole from a step's first pass to the end of its last one, which sums the gradients and leaves each worker its part: passes differ in
number between workers, and a message that only some of them send would never arrive. Checkpoints hold whole tensors and do not show
how they were split.
"""

import operator
from functools import reduce
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def split_(dynamics: nn.Module, device: torch.device, workers: int) -> None:
    """Split the parameters over all workers of the default process group: residual blocks one by one, then what is left."""
    # Imported here: every worker and command imports this file, few of them split anything, and it takes a second.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (workers,))
    blocks = [block for stage in getattr(dynamics, "blocks", ()) for block in stage]
    for module in (*blocks, dynamics):
        fully_shard(module, mesh=mesh, reshard_after_forward=False)
        # The sum over workers, not its mean: losses are divided by the networks of the whole population.
        (getattr(module, "set_gradient_divide_factor", None) or module.set_reduce_scatter_divide_factor)(1.0)


def last_pass(dynamics: nn.Module, last: bool) -> None:
    """Say before a pass whether its backward is the last of the step."""
    from torch.distributed.fsdp import FSDPModule

    assert isinstance(dynamics, FSDPModule), "what is shared was split"
    dynamics.set_requires_gradient_sync(last)
    dynamics.set_reshard_after_backward(last)
    dynamics.set_is_last_backward(last)


def reshard(dynamics: nn.Module) -> None:
    """Split again after passes without a backward."""
    from torch.distributed.fsdp import FSDPModule

    for module in dynamics.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def nothing(dynamics: nn.Module) -> Tensor:
    """Zero, with a gradient of zeros for every parameter: one that the networks of a worker do not use must still be summed there."""
    return 0.0 * reduce(operator.add, (parameter.flatten()[0] for parameter in dynamics.parameters()))


def whole(tensor: Tensor) -> Tensor:
    """A tensor or moment as if it had never been split. Every worker must ask for it."""
    return tensor.full_tensor() if _is_split(tensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """What of it this worker holds."""
    return tensor.to_local() if _is_split(tensor) else tensor


def like(value: Tensor, parameter: Tensor) -> Tensor:
    """A new tensor with these whole values, split as the parameter is, on its device."""
    value = value.to(parameter.device, copy=True)
    if not _is_split(parameter):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, parameter.device_mesh, parameter.placements)


def _is_split(tensor: Tensor) -> "TypeGuard[DTensor]":
    return hasattr(tensor, "full_tensor")
