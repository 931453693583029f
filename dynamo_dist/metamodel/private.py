"""The private half of a meta-model: theta_n and the state map V_n of every network of one worker.

Legend: M networks, R rows (steps and sequences, or positions and images), K meta units, H units of a base network, D embedding
dimensions; m networks of one cohort.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynamo_dist.metamodel.config import MetaModelConfig


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Networks whose trajectories have the same shape, in the order in which a worker keeps them."""

    ids: tuple[str, ...]
    # Units or channels H of every stage of their trajectory.
    widths: tuple[int, ...]
    # The stage of the meta-model that each of them is mapped from, and the units K there.
    sources: tuple[int, ...]
    source_widths: tuple[int, ...]


class StateMap(nn.Module):
    """V of m networks at one stage: meta states (m, R, K) to base states (m, R, H), one batched product.

    linear: h~ weight; affine: h~ weight + bias; mlp: tanh(h~ inner_weight + inner_bias) weight + bias. Shapes (m, K, H), (m, 1, H),
    (m, K, K), (m, 1, K).
    """

    weight: nn.Parameter
    bias: nn.Parameter
    inner_weight: nn.Parameter
    inner_bias: nn.Parameter

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_parameter(name, nn.Parameter(tensor))

    @staticmethod
    def initial(kind: str, source: int, width: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Tensors of one network's map, float64, without the axis m."""

        def scaled(columns: int) -> Tensor:
            drawn: Tensor = torch.randn(source, columns, generator=generator, dtype=torch.float64) * source**-0.5
            return drawn

        tensors = {"weight": scaled(width)}
        if kind != "linear":
            tensors["bias"] = torch.zeros(1, width, dtype=torch.float64)
        if kind == "mlp":
            tensors |= {"inner_weight": scaled(source), "inner_bias": torch.zeros(1, source, dtype=torch.float64)}
        return tensors

    def select(self, row: int) -> "StateMap":
        """The map of one network, (1, ...)."""
        return StateMap({name: p.detach()[row : row + 1].clone() for name, p in self.named_parameters()}).requires_grad_(False)

    def forward(self, h_mRK: Tensor) -> Tensor:
        own = self._parameters
        if "inner_weight" in own:
            h_mRK = torch.baddbmm(self.inner_bias, h_mRK, self.inner_weight).tanh()
        return torch.baddbmm(self.bias, h_mRK, self.weight) if "bias" in own else torch.bmm(h_mRK, self.weight)


class Private(nn.Module):
    """theta and V of the networks of one worker, V stacked by cohort.

    What a network starts from is a function of the seed and of its id, so it does not depend on which worker has it.
    """

    def __init__(self, cohorts: Sequence[Cohort], *, config: MetaModelConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.cohorts = tuple(cohorts)
        self.ids = tuple(id for cohort in cohorts for id in cohort.ids)
        self.theta = nn.Parameter(torch.zeros(len(self.ids), config.dimensions, dtype=dtype), requires_grad=config.use_theta)
        # maps[c][s]: cohort c, stage s of its trajectory; state_maps: the same, told as what they are
        self.state_maps: list[list[StateMap]] = []
        for cohort in cohorts:
            networks = []
            for id in cohort.ids:
                generator = torch.Generator().manual_seed(_seed_of(config.seed, id))
                stages = zip(cohort.source_widths, cohort.widths, strict=True)
                networks.append([StateMap.initial(config.state_map, source, width, generator) for source, width in stages])
            self.state_maps.append(
                [
                    StateMap({name: torch.stack([tensors[name] for tensors in same]).to(dtype) for name in same[0]})
                    for same in zip(*networks, strict=True)
                ]
            )
        self.maps = nn.ModuleList(nn.ModuleList(maps) for maps in self.state_maps)

    def rows(self) -> list[tuple[str, nn.Parameter, tuple[str, ...]]]:
        """(name, stacked parameter, ids of its rows) of everything private."""
        rows = [("theta", self.theta, self.ids)]
        for cohort, maps in zip(self.cohorts, self.state_maps, strict=True):
            rows += [(f"map{s}.{name}", p, cohort.ids) for s, one in enumerate(maps) for name, p in one.named_parameters()]
        return rows


def _seed_of(seed: int, id: str) -> int:
    """A 63-bit seed from the run's seed and a network's id, the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{id}".encode()).digest()[:8], "big") >> 1
