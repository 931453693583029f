"""Many networks of one architecture in one set of tensors with a leading network axis: what all kinds of them share.

Legend: M networks, B batch, T time, C output units.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from dynamo_dist.networks.architecture import Architecture


class Stacked(ABC):
    """M networks. `parameters[name]` and `buffers[name]` have shape (M, *shape of one network's)."""

    # Names of tensors that are kept and not trained, for example running means.
    BUFFERS: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, architecture: Architecture, tensors: Mapping[str, Tensor]) -> None:
        self.architecture = architecture
        buffers = {name for name in tensors if name.rpartition(".")[2] in self.BUFFERS}
        self.parameters = {name: t for name, t in tensors.items() if name not in buffers}
        self.buffers = {name: t for name, t in tensors.items() if name in buffers}

    @classmethod
    def initial(cls, architecture: Any, seeds: Iterable[int]) -> Self:
        """Fresh networks, each a function of its own seed alone."""
        networks = [cls.initial_tensors(architecture, torch.Generator().manual_seed(seed)) for seed in seeds]
        return cls(architecture, {name: torch.stack([network[name] for network in networks]) for name in networks[0]})

    @classmethod
    @abstractmethod
    def initial_tensors(cls, architecture: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Parameters and buffers of one fresh network, distributed as torch's own modules start."""

    @abstractmethod
    def __call__(self, inputs: Tensor, lengths_MB: Tensor | None, *, training: bool = False) -> tuple[Any, Tensor]:
        """The hidden trajectory, and the outputs: (M, B, C) at the last valid step, or (M, B, T, C) at every step.

        `inputs`: (M, B, ...), or (1, B, ...), which feeds all networks the same. The trajectory of recurrent networks is one tensor
        (T, M, B, H); of others a list of tensors (M, B, ...), one per stage. `training`: where training differs from use.
        """

    def update_buffers(self, active_M: Tensor) -> None:  # noqa: B027 - most have no buffers
        """After a training step, bring the buffers of the networks where `active_M` (bool) up to date with its batch."""

    @abstractmethod
    def network(self, position: int) -> nn.Module:
        """One of them as a plain `torch.nn.Module` with the same outputs."""

    @property
    def body(self) -> Architecture:
        """What stacks share whose networks make their trajectories alike."""
        return self.architecture

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Everything that is stored."""
        return {**self.parameters, **self.buffers}

    @property
    def count(self) -> int:
        return next(iter(self.parameters.values())).shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """Of the numbers that are not whole."""
        return next(t.dtype for t in self.parameters.values() if t.is_floating_point())

    @property
    def device(self) -> torch.device:
        return next(iter(self.parameters.values())).device

    def _with(self, tensors: Mapping[str, Tensor]) -> Self:
        return type(self)(self.architecture, tensors)

    def select(self, index: Sequence[int]) -> Self:
        """The networks at these positions."""
        return self._with({name: t[list(index)] for name, t in self.tensors.items()})

    def detach(self) -> Self:
        return self._with({name: t.detach() for name, t in self.tensors.items()})

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """As `torch.nn.Module.to`: whole numbers change their device alone."""
        moved = {name: t.to(*args, **kwargs) for name, t in self.tensors.items()}
        return self._with({name: new if (old := self.tensors[name]).is_floating_point() else old.to(new.device) for name, new in moved.items()})


def last_state(h_TMBH: Tensor, lengths_MB: Tensor) -> Tensor:
    """States at the last valid step, (M, B, H); `lengths_MB` may be (1, B)."""
    _, networks, batch, hidden = h_TMBH.shape
    index = (lengths_MB - 1).expand(networks, batch)[None, ..., None].expand(1, networks, batch, hidden)
    return h_TMBH.gather(0, index)[0]
