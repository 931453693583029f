"""Base networks: stacked along a leading network axis M for speed, and as the plain modules that they are."""

from collections.abc import Mapping

from torch import Tensor

from dynamo_dist.networks.architecture import Architecture, Convolutional, Imported, Recurrent
from dynamo_dist.networks.convolutional import StackedConvolutional
from dynamo_dist.networks.convolutional_modules import ResNet, SmallCNN
from dynamo_dist.networks.imported import StackedImported
from dynamo_dist.networks.modules import SequenceNetwork
from dynamo_dist.networks.recurrent import StackedRecurrent
from dynamo_dist.networks.stacked import Stacked

_STACKS: dict[type, type[Stacked]] = {Recurrent: StackedRecurrent, Convolutional: StackedConvolutional, Imported: StackedImported}


def stack_class(architecture: Architecture) -> type[Stacked]:
    """The kind of stack that holds networks of this architecture."""
    return _STACKS[type(architecture)]


def stack_of(architecture: Architecture, tensors: Mapping[str, Tensor]) -> Stacked:
    """Networks from their stored tensors, each with a leading axis M."""
    return stack_class(architecture)(architecture, tensors)


__all__ = [
    "Architecture",
    "Convolutional",
    "Imported",
    "Recurrent",
    "ResNet",
    "SequenceNetwork",
    "SmallCNN",
    "Stacked",
    "StackedConvolutional",
    "StackedImported",
    "StackedRecurrent",
    "stack_class",
    "stack_of",
]
