"""Sets of hidden units: which axes of a network's tensors count the same units, so that another order of them is the same function.

Of a recurrent network the hidden units (one order for all gates, for rows and columns of the recurrent weights, for the readout), and the
features of a token embedding. Of a ResNet the channels of each residual stream, which all blocks of a stage share and a 1x1 shortcut
starts anew, and those inside of every block. Of the small CNN the channels of every layer.

Legend: M networks, N units of one set.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from dynamo_dist.errors import InputError
from dynamo_dist.networks import Architecture, Convolutional, Imported, Recurrent, Stacked
from dynamo_dist.networks.architecture import GATES
from dynamo_dist.networks.convolutional_modules import state_shapes

# The set of units along every axis of a tensor; None: an axis whose order means something.
Axes = dict[str, tuple[str | None, ...]]
# For every set of units the unit that takes each place, int64 (N,) for all networks or (M, N).
Permutations = dict[str, Tensor]


def unit_axes(architecture: Architecture) -> Axes:
    """Sets of units of the tensors of one network, recurrent ones with the gates on an axis of their own."""
    if isinstance(architecture, Recurrent):
        features = None if architecture.vocabulary is None else "features"
        axes: Axes = {} if features is None else {"embedding": (None, features)}
        return axes | {
            "w_input": (features, None, "hidden"),
            "b_input": (None, None, "hidden"),
            "w_recurrent": ("hidden", None, "hidden"),
            "b_recurrent": (None, None, "hidden"),
            "w_readout": ("hidden", None),
            "b_readout": (None, None),
        }
    if isinstance(architecture, Imported):
        raise InputError(f"{architecture.label}: which of its weights share units is not known here; only its outputs can be averaged")
    axes, before = {}, None
    for name, shape in state_shapes(architecture).items():
        layer = name.split(".")
        if layer[-2:] == ["convolution", "weight"]:
            written = _written(architecture, layer)
            # A shortcut reads what the block reads, not what the layer before it in the file writes.
            read = f"stream {int(layer[1]) - 1}" if "shortcut" in layer else before
            axes[name] = (written, read, None, None)
            before = axes[name][0] if "shortcut" not in layer else before
        elif name.startswith("readout"):
            axes[name] = (None, before) if len(shape) == 2 else (None,)
        else:
            axes[name] = (_written(architecture, layer),)
    return axes


def _written(architecture: Convolutional, layer: list[str]) -> str:
    """The set of channels that a convolution and its norm write, from the parts of the tensor's name."""
    if architecture.kind == "cnn" or layer[0] == "stem":
        return f"stream {layer[1]}" if layer[0] == "stages" else "stream 0"
    stage, block, place = layer[1:4]
    return f"inside {stage}.{block}" if place == "first" else f"stream {stage}"


def unfolded(architecture: Architecture, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of one network with gates on an axis of their own, as `unit_axes` counts them."""
    gates = GATES[architecture.cell] if isinstance(architecture, Recurrent) else 0
    split = ("w_input", "b_input", "w_recurrent", "b_recurrent") if gates else ()
    return {name: t.unflatten(-1, (gates, -1)) if name in split else t for name, t in tensors.items()}


def unit_sizes(networks: Stacked) -> dict[str, int]:
    """How many units every set has."""
    axes = unit_axes(networks.architecture)
    whole = unfolded(networks.architecture, networks.tensors)
    return {units: whole[name].shape[axis] for name in whole for axis, units in enumerate(axes[name], 1) if units is not None}


def permuted(networks: Stacked, permutations: Permutations) -> Stacked:
    """The networks with their units in another order: unit `p[i]` of each set takes place i. Their outputs stay what they are."""
    axes, tensors = unit_axes(networks.architecture), {}
    for name, tensor in networks.tensors.items():
        (own,) = unfolded(networks.architecture, {name: tensor}).values()
        for axis, units in enumerate(axes[name], 1):
            if units in permutations:
                own = taken(own, axis, torch.atleast_2d(permutations[units]))
        tensors[name] = own.reshape(tensor.shape)
    return type(networks)(networks.architecture, tensors)


def taken(tensor: Tensor, axis: int, index_MN: Tensor) -> Tensor:
    """Entries along an axis of stacked tensors, of every network its own."""
    shape = [1] * tensor.dim()
    shape[0], shape[axis] = index_MN.shape
    return tensor.take_along_dim(index_MN.view(shape).to(tensor.device), dim=axis)
