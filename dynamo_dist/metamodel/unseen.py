"""Networks that the meta-model has not seen: theta and V of each, fitted with everything else as it is.

At a given theta the meta-model's states are given, and the best affine V is a least-squares solution. So every network starts from the
vector of that network of the population whose states and outputs fit it best, with V solved there, and theta and V then go on by Adam.

Legend: M networks, m networks of one stack, R rows (steps and sequences, or positions and images), K meta units and the 1 of the bias,
H units of a base network, D embedding dimensions.
"""

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dynamo_dist.errors import InputError
from dynamo_dist.metamodel import loss
from dynamo_dist.metamodel.config import MetaModelConfig
from dynamo_dist.metamodel.folder import interface_of
from dynamo_dist.metamodel.metamodel import MetaModel
from dynamo_dist.metamodel.private import StateMap
from dynamo_dist.metamodel.shard import Alone, Shard, answers, members, trajectory
from dynamo_dist.population import Population
from dynamo_dist.progress import say

# Networks of the population whose vectors are tried as a start, and the inputs on which they are judged.
START_VECTORS, START_INPUTS = 32, 256
# Of the mean square of the meta-model's states: what is added to the normal equations, whose states are often nearly dependent.
RIDGE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """Where unseen networks lie; every entry in the order of `ids`."""

    # Those whose states and outputs are finite numbers.
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
    """Theta and V of trained modules: one (its id is then `network`), several by id, or a sequence (`#0`, `#1`, ...).

    `like`: id of a network of the population whose inputs and outputs they have, needed where those differ; `hidden`, `arguments`: of all
    of them, as for `Population.from_modules`; `steps`: of Adam.

    Raises `InputError` as `Population.from_modules` and `embed_population` do.
    """
    if isinstance(modules, nn.Module):
        modules = {"network": modules}
    spec = meta.population.spec(like if like is not None else meta.only_task())
    with tempfile.TemporaryDirectory() as folder:
        each: dict[str, Mapping[str, Any]] | list[Mapping[str, Any]] | None = None
        if arguments is not None:
            each = {id: arguments for id in modules} if isinstance(modules, Mapping) else [arguments] * len(modules)
        population = Population.from_modules(
            modules, data=meta.population.datasets[spec.data], out=Path(folder) / "population", target=spec.target, hidden=hidden, arguments=each
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
    """Theta and V of the networks of another population, or of those named.

    `data`: its data sets, by name, and those of the meta-model's population that have the same inputs; by default each has the same name.
    `steps`: of Adam. Where the meta-model has no theta (`use_theta=False`), theta stays 0.

    Raises `InputError` where inputs or outputs do not fit, or where no network has finite states and outputs.
    """
    ids = population.sound_ids() if ids is None else tuple(ids)
    if not ids:
        raise InputError(f"{population.path}: no networks to embed: name at least one that was trained to its end")
    known = _known_data(meta, population, ids, data or {})
    fits, there = interface_of(population, ids, dataclasses.replace(meta.config, unlike_tasks="pad")), meta.interface
    if fits.outputs > there.outputs or fits.features > there.features or fits.channels > there.channels:
        raise InputError(
            f"{population.path}: its networks have more inputs or outputs than those of {meta.path}: they cannot be embedded there"
        )
    # Without inputs held out there would be nothing to judge the fit by.
    # Not every module takes a state, so none are mixed.
    config = dataclasses.replace(meta.config, steps=steps, held_out=meta.config.held_out or MetaModelConfig.held_out, mix_states=False)
    shard = Shard(
        members(population, ids),
        {own: population.datasets[own].meta for own in known},
        # Its data sets keep their names: two may be one of the meta-model's.
        dataclasses.replace(there, first_id={own: there.first_id[name] for own, name in known.items() if name in there.first_id}),
        config,
        dtype=meta.dtype,
        dynamics=meta.dynamics,
    )
    if not shard.networks:
        raise InputError(f"{population.path}: no network has finite states and outputs on the inputs without labels")
    for sentence in shard.excluded:
        say(f"embed: left out: {sentence}")
    if config.state_map != "mlp":  # which has no closed form
        # On networks like those of the population (valence, 12 embedded, 3 groups, 2 unseen of each; loss on held-out inputs, of a
        # meta-model with 400 | 1,500 steps): from theta 0 and random V, Adam reaches 0.235 | 0.252 in 50 steps, 0.116 | 0.096 in 150 and
        # 0.069 | 0.040 in 500 (3 to 5 s); from here 0.049 | 0.024 in 50 (0.35 s with this start), 0.047 | 0.024 in 500; theta 0 with V
        # solved for it is worse than from here: 0.055 | 0.032 in 500. All but that one find the right group in 6 of 6 at every number of
        # steps. A ResNet8-4 of digits (hidden term alone; meta-model of 200 steps, K=4): 7.34 and 0.69 in 50 steps, 1.11 and 0.68 in 200.
        start(shard, meta.embedding)
    for step in range(steps):
        shard.backward(step, Alone("cpu"))
        shard.update(step)
    terms = shard.held_out_terms()
    place = {id: row for row, id in enumerate(shard.private.ids)}
    maps = {
        id: tuple(stage.select(row) for stage in stages)
        for cohort, stages in zip(shard.private.cohorts, shard.private.state_maps, strict=True)
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


def _known_data(meta: MetaModel, population: Population, ids: Sequence[str], data: Mapping[str, str]) -> dict[str, str]:
    """The data sets of these networks, and for each that of the meta-model's population that has the same inputs."""
    for own in data:
        if own not in population.header["data"]:
            raise InputError(f"data names {own!r}, and {population.path} has the data sets {', '.join(population.header['data'])}")
    known = {own: data.get(own, own) for own in dict.fromkeys(population.spec(id).data for id in ids)}
    for own, name in known.items():
        if name not in meta.population.header["data"]:
            raise InputError(
                f"data set {own!r} of {population.path} is not known to {meta.path}: say which it is with data={{{own!r}: NAME}}, of "
                f"{', '.join(meta.population.header['data'])}"
            )
        ours, theirs = population.datasets[own], meta.population.datasets[name]
        if (ours.kind, ours.vocabulary) != (theirs.kind, theirs.vocabulary):
            raise InputError(
                f"data set {own!r} of {population.path} has other inputs than {name!r} of {meta.path}: they cannot be embedded there"
            )
    return known


@torch.no_grad()
def start(shard: Shard, vectors: np.ndarray) -> None:
    """Put every network of the shard at the vector of `vectors` (P, D), or of `START_VECTORS` of them, where its loss is lowest with V
    solved by least squares, linear or affine, and V to that solution."""
    chosen = np.unique(vectors[np.linspace(0, len(vectors) - 1, min(len(vectors), START_VECTORS)).astype(int)], axis=0)
    thetas = torch.as_tensor(chosen, dtype=shard.dtype, device=shard.device)
    config, private = shard.config, shard.private
    for number, feed in enumerate(shard.feeds):
        index = shard.training[feed.data][:START_INPUTS].to(shard.device)
        part = shard.examples[feed.data].select(index)
        inputs, sequences = shard.interface.inputs(feed.data, part.inputs, shard.dtype), part.lengths_N is not None
        base = shard.activations[number](index, part)
        lowest_m = torch.full((feed.rows.stop - feed.rows.start,), torch.inf, dtype=torch.float64, device=shard.device)
        for theta_1D in thetas.split(1):
            meta_stages, meta_outputs = shard.dynamics(theta_1D, inputs, part.lengths_N, every_step=feed.every_step)
            mask_R = None if part.lengths_N is None else loss.valid_steps(part.lengths_N, len(meta_stages[0]), burn_in=config.burn_in)
            first = 0
            for own, maps, (result, given) in zip(shard.bases[feed.cohorts], private.state_maps[feed.cohorts], base, strict=True):
                rows = slice(first, first := first + len(own.cohort.ids))
                stages = trajectory(result, part.lengths_N, own.networks.architecture.label)
                solved = []
                for stage, source, scale_m in zip(stages, own.cohort.sources, own.hidden_scales, strict=True):
                    source_1RK, target_mRH = loss.paired_rows(meta_stages[source], stage, rows=slice(0, 1), sequences=sequences)
                    valid = slice(None) if mask_R is None else mask_R
                    v_mKH, error_m = least_squares(source_1RK[0, valid], target_mRH[:, valid], bias=config.state_map == "affine")
                    solved.append((v_mKH, error_m / scale_m))
                base_outputs = answers(own.member, own.output, stages, given, own.networks)
                outputs_m = loss.output_error(base_outputs, meta_outputs, own.output, lengths_B=part.lengths_N, scale_M=own.output_scale)
                loss_m = torch.stack([error_m for _, error_m in solved]).mean(dim=0) + config.output_weight * outputs_m
                better = (loss_m < lowest_m[rows]).nonzero().flatten()
                lowest_m[rows][better] = loss_m[better].double()
                private.theta[feed.rows][rows][better] = theta_1D
                for state_map, (v_mKH, _) in zip(maps, solved, strict=True):
                    units = state_map.weight.shape[1]
                    state_map.weight[better] = v_mKH[better, :units].to(shard.dtype)
                    if config.state_map == "affine":
                        state_map.bias[better] = v_mKH[better, units:].to(shard.dtype)


def least_squares(source_RK: Tensor, target_mRH: Tensor, *, bias: bool) -> tuple[Tensor, Tensor]:
    """V of m networks from the same states, float64 (m, K, H), the row of the bias last, and the mean over rows of |V h~ - h|^2, (m,)."""
    x_RK, y_mRH = source_RK.double(), target_mRH.double()
    if bias:
        x_RK = torch.cat([x_RK, x_RK.new_ones(len(x_RK), 1)], dim=1)
    gram_KK, moments_mKH = x_RK.T @ x_RK / len(x_RK), x_RK.T @ y_mRH / len(x_RK)
    ridge_KK = RIDGE * gram_KK.diagonal().mean() * torch.eye(len(gram_KK), dtype=gram_KK.dtype, device=gram_KK.device)
    v_mKH = torch.linalg.solve(gram_KK + ridge_KK, moments_mKH)
    return v_mKH, (x_RK @ v_mKH - y_mRH).square().sum(dim=-1).mean(dim=1)
