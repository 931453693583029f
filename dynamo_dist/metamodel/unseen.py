"""Networks that the meta-model has not seen: theta and V of each, fitted with everything else as it is."""

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dynamo_dist.errors import InputError
from dynamo_dist.metamodel.folder import interface_of
from dynamo_dist.metamodel.metamodel import MetaModel
from dynamo_dist.metamodel.private import StateMap
from dynamo_dist.metamodel.shard import Alone, Shard, members
from dynamo_dist.population import Population


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """Where unseen networks lie; every entry in the order of `ids`."""

    ids: tuple[str, ...]
    # Float64 (m, D).
    theta: np.ndarray
    # V of every network, a map per stage of its trajectory.
    state_maps: tuple[tuple[StateMap, ...], ...]
    # Hidden and output term of the loss on the held-out inputs, float64 (m,); with hidden_scale="variance" the first is 1 - R^2.
    hidden: np.ndarray
    output: np.ndarray


def embed_modules(
    meta: MetaModel,
    modules: nn.Module | Mapping[str, nn.Module] | Sequence[nn.Module],
    *,
    like: str | None = None,
    hidden: Sequence[str] | None = None,
    arguments: Mapping[str, Any] | None = None,
    steps: int = 500,
) -> Embedded:
    """Theta and V of trained modules. `like`: id of a network of the population whose inputs and outputs they have, needed where those
    differ; `hidden`, `arguments`: as for `Population.from_modules`."""
    if isinstance(modules, nn.Module):
        modules = {"network": modules}
    spec = meta.population.spec(like if like is not None else meta.only_task())
    with tempfile.TemporaryDirectory() as folder:
        options = {} if hidden is None else {"hidden": hidden}
        if arguments is not None:
            options["arguments"] = {id: arguments for id in modules} if isinstance(modules, Mapping) else [arguments] * len(modules)
        population = Population.from_modules(
            modules, data=meta.population.datasets[spec.data], out=Path(folder) / "population", target=spec.target, **options
        )
        return embed_population(meta, population, data={"data": spec.data}, steps=steps)


def embed_population(
    meta: MetaModel,
    population: Population,
    ids: Sequence[str] | None = None,
    *,
    data: Mapping[str, str] | None = None,
    steps: int = 500,
) -> Embedded:
    """Theta and V of the networks of another population, or of those named. `data`: names of its data sets, and of those of the
    meta-model's population that have the same inputs; by default each has the same name."""
    ids = population.sound_ids() if ids is None else tuple(ids)
    names = {population.spec(id).data for id in ids}
    known = {name: (data or {}).get(name, name) for name in names}
    for own, name in known.items():
        if name not in meta.population.header["data"]:
            raise InputError(
                f"data set {own!r} of {population.path} is not known to {meta.path}: say which it is with data={{{own!r}: NAME}}"
            )
    used = {name: population.dataset(own) for own, name in known.items()}
    fits = interface_of(population, ids, dataclasses.replace(meta.config, unlike_tasks="pad"))
    there = meta.interface
    if fits.outputs > there.outputs or fits.features > there.features or fits.channels > there.channels:
        raise InputError(
            f"{population.path}: its networks have more inputs or outputs than those of {meta.path}: they cannot be embedded there"
        )
    for own, name in known.items():
        if used[name].kind != (other := meta.population.datasets[name]).kind or used[name].vocabulary != other.vocabulary:
            raise InputError(
                f"data set {own!r} of {population.path} has other inputs than {name!r} of {meta.path}: they cannot be embedded there"
            )
    config = dataclasses.replace(meta.config, steps=steps, use_theta=True)
    shard = Shard(
        (dataclasses.replace(member, data=known[member.data]) for member in members(population, ids)),
        {name: own.meta for name, own in used.items()},
        there,
        config,
        dtype=meta.dtype,
        dynamics=meta.dynamics,
    )
    for step in range(steps):
        shard.backward(step, Alone("cpu"))
        shard.update(step)
    terms = shard.held_out_terms()
    place = {id: row for row, id in enumerate(shard.private.ids)}
    maps = {
        id: tuple(stage.select(row) for stage in stages)
        for cohort, stages in zip(shard.private.cohorts, shard.private.maps, strict=True)
        for row, id in enumerate(cohort.ids)
    }
    found = tuple(id for id in ids if id in place)
    rows = torch.tensor([place[id] for id in found])
    return Embedded(
        ids=found,
        theta=shard.private.theta.detach()[rows].double().numpy(),
        state_maps=tuple(maps[id] for id in found),
        hidden=terms[0][rows].numpy(),
        output=terms[1][rows].numpy(),
    )
