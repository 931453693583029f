"""What the base networks give on the examples of a training step."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from dynamo_dist.data import Examples
from dynamo_dist.networks import Stacked


class Activations(Protocol):
    """What every stack gives on examples of the meta part."""

    def __call__(self, index_B: Tensor, part: Examples) -> list[tuple[Tensor | list[Tensor], Tensor]]: ...


class Recomputed:
    """The stacks run on every call."""

    def __init__(self, stacks: Sequence[Stacked]) -> None:
        self.stacks = stacks

    @torch.no_grad()
    def __call__(self, index_B: Tensor, part: Examples) -> list[tuple[Tensor | list[Tensor], Tensor]]:
        lengths = None if part.lengths_N is None else part.lengths_N[None]
        return [networks(part.inputs[None], lengths) for networks in self.stacks]
