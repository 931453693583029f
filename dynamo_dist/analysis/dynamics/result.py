"""Fixed points, slow sets and limit cycles of all networks of a meta-model and of the networks themselves, in one result.

Legend: M networks, S visited states, P points, H numbers of the state.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from dynamo_dist.analysis.dynamics.cycles import Cycle, limit_cycles
from dynamo_dist.analysis.dynamics.networks import Dynamics, base_dynamics, check_meta, meta_dynamics
from dynamo_dist.analysis.dynamics.points import Points, search, spread
from dynamo_dist.analysis.dynamics.slow import SlowSet, slow_sets
from dynamo_dist.analysis.dynamics.validation import Agreement, Correlation, agreement, distance_correlation, fixed_point_summary
from dynamo_dist.errors import InputError
from dynamo_dist.metamodel import MetaModel
from dynamo_dist.population import Population

STARTS = 256
# Visited states from which long runs look for limit cycles.
_RUNS = 4
# Time constants and eigenvalues of every point in the table.
_TIME_CONSTANTS, _EIGENVALUES, _COMPONENTS = 3, 4, 3


@dataclass(frozen=True, kw_only=True)
class Found:
    """What networks of one state size do at one fixed input."""

    # `meta` or `base`; the name of the input.
    which: str
    input: str
    dynamics: Dynamics
    points: Points
    # One per network.
    slow_sets: list[SlowSet]
    cycles: list[list[Cycle]]


@dataclass(frozen=True, kw_only=True)
class FixedPoints:
    """All that was found. `agreements` and `correlations` are empty for base networks alone."""

    found: tuple[Found, ...]
    agreements: tuple[Agreement, ...]
    # By (whose fixed points, input): of distances in theta with distances of fixed-point summaries.
    correlations: dict[tuple[str, str], Correlation]

    def points(self, id: str, *, which: str = "meta", input: str = "zero") -> Points:
        """Fixed and slow points of one network. Raises `InputError` where it was not analysed so."""
        for found in self.found:
            if (found.which, found.input) == (which, input) and id in found.dynamics.ids:
                return found.points.of(found.dynamics.ids.index(id))
        known = ", ".join(sorted({f"{found.which}/{found.input}" for found in self.found if id in found.dynamics.ids})) or "nothing"
        raise InputError(f"{id!r}: no points of which={which!r} at input={input!r}; there is {known}")

    def summary(self) -> dict[str, Any]:
        """Counts, agreement and correlations by input, medians over networks; JSON values, NaN as None."""
        inputs = list(dict.fromkeys(found.input for found in self.found))
        result: dict[str, Any] = {"networks": len({id for found in self.found for id in found.dynamics.ids}), "inputs": {}}
        for name in inputs:
            own: dict[str, Any] = {}
            for which in ("meta", "base"):
                groups = [found for found in self.found if (found.which, found.input) == (which, name)]
                if groups:
                    own[which] = {
                        "fixed": sum(int(found.points.fixed.sum()) for found in groups),
                        "stable": sum(int((found.points.stable & found.points.fixed).sum()) for found in groups),
                        "slow": sum(int((~found.points.fixed).sum()) for found in groups),
                        "limit_cycles": sum(cycle.closed for found in groups for cycles in found.cycles for cycle in cycles),
                        "slow_set_dimension": _number(np.median([one.dimension for found in groups for one in found.slow_sets])),
                    }
            agreements = [one for one in self.agreements if one.input == name]
            if agreements:
                own["agreement"] = {
                    "stable_equal": float(np.mean([one.stable_equal for one in agreements])),
                    "equal": float(np.mean([one.equal for one in agreements])),
                    **{field: _nanmedian([getattr(one, field) for one in agreements]) for field in _COMPARED},
                    "relaxation_ratio": _nanmedian([one.meta_relaxation / one.base_relaxation for one in agreements if one.base_relaxation]),
                }
            own["theta_correlation"] = {
                which: {"rho": _number(one.rho), "p": _number(one.p)} for (which, at), one in self.correlations.items() if at == name
            }
            result["inputs"][name] = own
        return result

    def topology(self, input: str = "zero") -> list[dict[str, Any]]:
        """By network: stable and unstable points of the meta-model at its theta and of its own, and whether they are as many."""
        fields = ("id", "meta_stable", "meta_unstable", "base_stable", "base_unstable", "stable_equal", "equal")
        return [{field: getattr(one, field) for field in fields} for one in self.agreements if one.input == input]

    def tables(self) -> dict[str, pa.Table]:
        """`points`, `slow_sets`, `limit_cycles`, `agreement`, `theta_correlation`; a row per point, per network and input, and so on.
        `trajectories`: a row per step of a few trajectories of every network, in the coordinates of its points."""
        rows: dict[str, list[dict[str, Any]]] = {"points": [], "slow_sets": [], "limit_cycles": [], "trajectories": []}
        for found in self.found:
            if found.input == "zero":  # trajectories are the same whatever the fixed input
                rows["trajectories"] += _trajectory_rows(found.which, found.dynamics)
            rows["points"] += _point_rows(found)
            for id, slow, cycles in zip(found.dynamics.ids, found.slow_sets, found.cycles, strict=True):
                key = {"id": id, "which": found.which, "input": found.input}
                fields = ("share", "dimension", "length", "slow_directions", "alignment", "chance")
                rows["slow_sets"].append(key | {field: getattr(slow, field) for field in fields})
                fields = ("period", "amplitude", "drift", "closure", "closed", "share")
                rows["limit_cycles"] += [key | {field: getattr(cycle, field) for field in fields} for cycle in cycles]
        rows["agreement"] = [vars(one) | {"stable_equal": one.stable_equal, "equal": one.equal} for one in self.agreements]
        rows["theta_correlation"] = [
            {"which": which, "input": name, "rho": one.rho, "p": one.p} for (which, name), one in self.correlations.items()
        ]
        return {name: pa.Table.from_pylist(own) for name, own in rows.items()}


_COMPARED = ("mapped_speed", "mapped_speed_stable", "chamfer", "chamfer_stable", "time_constant_ratio", "eigenvalue_difference")


def fixed_points(
    meta: MetaModel, ids: Sequence[str] | None = None, *, starts: int = STARTS, seed: int = 0, neutral: int | None = None
) -> FixedPoints:
    """Fixed points of the meta-model at the vectors of its networks (all, or `ids`) and of the networks themselves, compared.

    At the fixed inputs zero, mean and, of tokens, neutral (see `dynamics.networks`), from `starts` visited states each, drawn by `seed`.
    `neutral`: id of the neutral word, by default the one that moves the meta-model least, and the same for the networks.

    Raises `InputError` for convolutional networks, unknown ids, a word that there is not, or fewer than 1 start.
    """
    check_meta(meta)
    ids = meta.network_ids if ids is None else tuple(ids)
    for id in ids:
        if id not in meta.network_ids:
            raise InputError(f"no network {id!r} in {meta.path}: name some of its {len(meta.network_ids)} networks")
    if not ids:
        raise InputError(f"{meta.path}: no networks to analyse: name at least one")
    metas = list(meta_dynamics(meta, ids, starts=starts, seed=seed, neutral=neutral))
    words = {dynamics.data: dynamics.neutral for dynamics in metas}
    found = [one for dynamics in metas for one in _analyse("meta", dynamics)]
    bases = base_dynamics(meta.population, ids, starts=starts, seed=seed, neutral=words)
    found += [one for dynamics in bases for one in _analyse("base", dynamics)]
    sides = {(one.which, one.input, id): (one.dynamics, one.points) for one in found for id in one.dynamics.ids}
    inputs = list(dict.fromkeys(one.input for one in found))
    agreements = tuple(
        agreement(meta, name, sides["meta", name, id], sides["base", name, id], id)
        for name in inputs
        for id in ids
        if ("base", name, id) in sides
    )
    correlations = {}
    for name in inputs:
        own = [id for id in ids if ("meta", name, id) in sides]
        theta = meta.embedding[[meta.network_ids.index(id) for id in own]]
        for which in ("meta", "base"):
            summaries = []
            for id in own:
                dynamics, points = sides[which, name, id]
                summaries.append(fixed_point_summary(points.of(dynamics.ids.index(id))))
            correlations[which, name] = distance_correlation(theta, np.array(summaries), seed=seed)
    return FixedPoints(found=tuple(found), agreements=agreements, correlations=correlations)


def fixed_points_of(population: Population, id: str, *, starts: int = STARTS, seed: int = 0, neutral: int | None = None) -> FixedPoints:
    """Fixed points of one base network, trained here or imported, as `fixed_points` finds them.

    Raises `InputError` for a network that is convolutional or has no recurrent layer to iterate, and as `fixed_points` does.
    """
    (dynamics,) = base_dynamics(population, [id], starts=starts, seed=seed, neutral=neutral)
    return FixedPoints(found=tuple(_analyse("base", dynamics)), agreements=(), correlations={})


def _analyse(which: str, dynamics: Dynamics) -> list[Found]:
    found = []
    for name, maps in dynamics.maps.items():
        visited, speed = dynamics.visited, dynamics.speed
        found.append(
            Found(
                which=which,
                input=name,
                dynamics=dynamics,
                points=search(maps, visited, typical_speed_M=speed),
                slow_sets=slow_sets(maps, visited, speed, dynamics.readout),
                cycles=limit_cycles(maps, visited[:, :_RUNS], spread(visited)),
            )
        )
    return found


def _point_rows(found: Found) -> list[dict[str, Any]]:
    points, dynamics = found.points, found.dynamics
    place = _components(dynamics.visited, points.state[:, None], points.map)[:, 0]
    index = torch.arange(len(points)) - torch.searchsorted(points.map, points.map)
    columns: dict[str, list[Any]] = {
        "id": [dynamics.ids[m] for m in points.map.tolist()],
        "which": [found.which] * len(points),
        "input": [found.input] * len(points),
        "index": index.tolist(),
        "kind": ["fixed" if fixed else "slow" for fixed in points.fixed.tolist()],
        "q": points.q.tolist(),
        "speed": (points.speed / dynamics.speed[points.map]).tolist(),
        "tolerance": points.tolerance.tolist(),
        "starts": points.starts.tolist(),
        "distance": _distance(dynamics.visited, points).tolist(),
        "stable": points.stable.tolist(),
        "unstable_directions": points.unstable.tolist(),
    }

    def spread_out(name: str, values: Tensor, count: int, part: Callable[[Tensor], Tensor] = lambda values: values) -> None:
        for k in range(count):
            there = part(values[:, k]).tolist() if k < values.shape[1] else [math.nan] * len(points)
            columns[name.format(k + 1)] = there

    spread_out("time_constant_{}", points.time_constants, _TIME_CONSTANTS)
    spread_out("eigenvalue_{}_real", points.eigenvalues, _EIGENVALUES, torch.real)
    spread_out("eigenvalue_{}_imag", points.eigenvalues, _EIGENVALUES, torch.imag)
    spread_out("component_{}", place, _COMPONENTS)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _distance(visited_MSH: Tensor, points: Points) -> Tensor:
    """From points to the nearest of the states that their network visits, in units of the spread of these, (P,)."""
    distance = torch.empty(len(points), dtype=torch.float64)
    for m, scale in enumerate(spread(visited_MSH)):
        own = points.map == m
        distance[own] = torch.cdist(points.state[own], visited_MSH[m]).amin(dim=1) / scale
    return distance


def _components(visited_MSH: Tensor, state_PRH: Tensor, map_P: Tensor) -> Tensor:
    """Coordinates of states, R of the network `map_P` each, in the first principal components of the states that their network visits,
    (P, R, 3 or less)."""
    mean = visited_MSH.mean(dim=1, keepdim=True)
    _, axes_MHH = torch.linalg.eigh((visited_MSH - mean).mT @ (visited_MSH - mean))
    axes = axes_MHH[:, :, -_COMPONENTS:].flip(2)
    # The sign is free: the largest entry is positive.
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    axes = axes * torch.where(largest < 0, -1.0, 1.0)
    return torch.bmm(state_PRH - mean[map_P], axes[map_P])


def _trajectory_rows(which: str, dynamics: Dynamics) -> list[dict[str, Any]]:
    place_MRC = _components(dynamics.visited, dynamics.trajectories.flatten(1, 2), torch.arange(len(dynamics.ids)))
    place_MBTC = place_MRC.unflatten(1, dynamics.trajectories.shape[1:3])
    return [
        {"id": id, "which": which, "trajectory": number, "step": step}
        | {f"component_{k + 1}": place[k] if k < len(place) else math.nan for k in range(_COMPONENTS)}
        for id, place_BTC in zip(dynamics.ids, place_MBTC, strict=True)
        for number, place_TC in enumerate(place_BTC)
        for step, place in enumerate(place_TC[~place_TC[:, 0].isnan()].tolist())
    ]


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _nanmedian(values: Sequence[float]) -> float | None:
    known = [value for value in values if math.isfinite(value)]
    return float(np.median(known)) if known else None
