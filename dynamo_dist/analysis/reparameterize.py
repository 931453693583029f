"""The same function with other weights: exact copies of networks, whose embedding vectors should be those of the originals.

Hidden units in another order, through all layers; and recurrent networks with more units, some twice and their outgoing weights halved.

Legend: M networks, I features, H hidden units, G = gates * H, F channels.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from dynamo_dist import storage
from dynamo_dist.analysis import units
from dynamo_dist.analysis.distances import EMBEDDED, MEASURES, baselines, check_measures, of_embedding
from dynamo_dist.analysis.similarity import check_alike, check_labels
from dynamo_dist.analysis.units import taken, unit_sizes
from dynamo_dist.errors import InputError
from dynamo_dist.metamodel import MetaModel
from dynamo_dist.networks import Convolutional, Recurrent, Stacked, StackedRecurrent
from dynamo_dist.networks.architecture import GATES
from dynamo_dist.population import NetworkSpec, Population
from dynamo_dist.population.imported import Adopted, check_new, write_population
from dynamo_dist.population.specs import Specs

# Units of a widened network, times those of the original.
WIDER = 1.5


def permuted(networks: Stacked, generator: torch.Generator) -> Stacked:
    """The same networks with hidden units (and the features of their token embedding), or channels, in a random order, another one for each
    network and layer.

    Outputs are the same up to the order of summation. Raises `InputError` for imported networks, whose layers are not known.
    """
    _check_known(networks)
    sizes = unit_sizes(networks)
    return units.permuted(networks, {name: _orders(networks, size, generator) for name, size in sizes.items()})


def widened(networks: StackedRecurrent, hidden: int, generator: torch.Generator) -> StackedRecurrent:
    """The same recurrent networks with `hidden` units: some are split into two that do the same, each with half of the outgoing weights.

    Halves lose no digit, so outputs are the same up to the order of summation. Raises `InputError` for fewer units than there are, and
    for networks that are not recurrent.
    """
    _check_known(networks)
    if not isinstance(networks.architecture, Recurrent):
        raise InputError(f"{networks.architecture.label} cannot be widened: only recurrent networks can")
    if hidden < networks.architecture.hidden:
        raise InputError(f"hidden={hidden}: {networks.architecture.label} has {networks.architecture.hidden} units; give as many or more")
    unit_MH = torch.arange(networks.architecture.hidden).repeat(networks.count, 1)
    share_MH = torch.ones(unit_MH.shape)
    for _ in range(hidden - networks.architecture.hidden):
        split_M1 = torch.randint(unit_MH.shape[1], (networks.count, 1), generator=generator)
        share_MH.scatter_(1, split_M1, share_MH.gather(1, split_M1) / 2)
        unit_MH = torch.cat([unit_MH, unit_MH.gather(1, split_M1)], dim=1)
        share_MH = torch.cat([share_MH, share_MH.gather(1, split_M1)], dim=1)
    return _with_units(networks, unit_MH, share_MH)


def _check_known(networks: Stacked) -> None:
    if not isinstance(networks.architecture, (Recurrent, Convolutional)):
        raise InputError(
            f"{networks.architecture.label} is a class of its own, whose layers are not known: only recurrent networks, ResNets and small CNNs "
            "can be copied with other weights"
        )


def _orders(networks: Stacked, count: int, generator: torch.Generator) -> Tensor:
    """A random order of so many units for each network, (M, count)."""
    return torch.stack([torch.randperm(count, generator=generator) for _ in range(networks.count)])


def _with_units(networks: StackedRecurrent, unit_MH: Tensor, share_MH: Tensor) -> StackedRecurrent:
    """Recurrent networks whose unit number k is unit `unit_MH[:, k]` of these, with this share of its outgoing weights."""
    architecture = networks.architecture
    gates = torch.arange(GATES[architecture.cell])[:, None] * architecture.hidden
    column_MG = (gates + unit_MH[:, None]).flatten(1)
    tensors = dict(networks.tensors)
    for name in ("w_recurrent", "w_readout"):  # from units
        tensors[name] = taken(tensors[name], 1, unit_MH) * share_MH[..., None].to(tensors[name])
    for name in ("w_input", "b_input", "w_recurrent", "b_recurrent"):  # to gates
        tensors[name] = taken(tensors[name], 2, column_MG)
    return StackedRecurrent(replace(architecture, hidden=unit_MH.shape[1]), tensors)


# ---- a population of originals and copies ----------------------------------------------------------------------------------


def reparameterized(population: Population, out: str | Path, *, copies: int = 1, wider: int = 0, seed: int = 0) -> Population:
    """A population of the sound networks of this one and of exact copies of each, written to `out`, a new or empty folder.

    `copies`: with hidden units in another order, of each network; `wider`: with half as many units again, of each recurrent one.
    The group of a network is the id of its original, which is in the group as well; computations stay. All count as imported: copies of
    trained networks are not trained again.

    Raises `InputError` where there would be no copies, and for networks whose layers are not known.
    """
    out = storage.local(out).resolve()
    check_new(out)
    if copies < 0 or wider < 0 or copies + wider == 0:
        raise InputError(f"copies={copies}, wider={wider}: expected no negative number, and one copy at least")
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, tuple[NetworkSpec, Adopted]] = {}

    def add(ids: Collection[str], networks: Stacked, suffix: str) -> None:
        for row, original in enumerate(ids):
            old, tensors = population.spec(original), {key: tensor[row] for key, tensor in networks.tensors.items()}
            spec = NetworkSpec(
                id=original + suffix, group=original, computation=old.computation, architecture=networks.architecture,
                data=old.data, target=old.target, seed=0, samples=0, epochs=0,
            )  # fmt: skip
            made[spec.id] = spec, Adopted(architecture=networks.architecture, tensors=tensors)

    for stack in population.stacks(population.sound_ids()):
        networks = stack.networks
        add(stack.ids, networks, "")
        for copy in range(copies):
            add(stack.ids, permuted(networks, generator), f", permuted {copy + 1}")
        if isinstance(networks, StackedRecurrent):
            hidden = math.ceil(WIDER * networks.architecture.hidden)
            for copy in range(wider):
                wide = permuted(widened(networks, hidden, generator), generator)
                add(stack.ids, wide, f", widened {copy + 1}")
    specs = Specs.of(spec for spec, _ in made.values())
    return write_population(out, specs, population.datasets, {id: adopted for id, (_, adopted) in made.items()})


@dataclass(frozen=True, kw_only=True)
class CopyRatio:
    """How far copies are from their originals, against networks of different computations.

    0: a measure sees what a network computes and not its weights. 1: a copy is as far away as a network that computes something else.
    """

    # By measure: mean distance of original and copy, mean distance between computations, and their ratio; NaN where not defined.
    copy_distance: dict[str, float]
    between_distance: dict[str, float]
    ratio: dict[str, float]
    # Pairs of an original and its copy.
    pairs: int

    def summary(self) -> dict[str, Any]:
        """JSON values: the ratio by measure."""
        return {"pairs": self.pairs, "ratio": {measure: None if math.isnan(value) else value for measure, value in self.ratio.items()}}

    def tables(self) -> dict[str, pa.Table]:
        """`copies`: a row per measure."""
        columns = {
            name: pa.array(list(getattr(self, name).values()), pa.float64(), from_pandas=True)
            for name in ("copy_distance", "between_distance", "ratio")
        }
        return {"copies": pa.table({"measure": list(self.ratio), **columns})}


def copy_ratio(meta: MetaModel, *, measures: Collection[str] = MEASURES, seed: int = 0) -> CopyRatio:
    """Of a meta-model of a population that `reparameterized` made, by every measure of `distances`.

    A measure that is not defined between some networks, such as `weights` of unlike widths, is averaged over the others.
    Raises `InputError` for fewer than 3 networks, networks that all compute the same, and a population without copies.
    """
    check_measures(measures)
    check_alike([meta])
    specs = [meta.population.spec(id) for id in meta.network_ids]
    check_labels(meta, [spec.computation for spec in specs])
    row = {spec.id: number for number, spec in enumerate(specs)}
    pairs = np.array([(row[spec.group], row[spec.id]) for spec in specs if spec.group in row and spec.group != spec.id])
    if not len(pairs):
        raise InputError(
            f"{meta.population_path} holds no copies of its networks: make them with analysis.reparameterized, and embed those"
        )
    computation_M = np.array([spec.computation for spec in specs])
    other_MM = computation_M[:, None] != computation_M
    found = {measure: of_embedding(meta, measure, seed=seed) for measure in EMBEDDED if measure in measures}
    found |= baselines(meta.population, meta.network_ids, measures, seed=seed)
    near = {measure: _mean(distance[pairs[:, 0], pairs[:, 1]]) for measure, distance in found.items()}
    far = {measure: _mean(distance[other_MM]) for measure, distance in found.items()}
    ratio = {measure: near[measure] / far[measure] if far[measure] else math.nan for measure in found}
    return CopyRatio(copy_distance=near, between_distance=far, ratio=ratio, pairs=len(pairs))


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else math.nan
