"""The path in embedding space between the two computations that lie farthest apart, and what happens to fixed points on it."""

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa

from dynamo_dist.analysis.dynamics.continuation import Path, theta_path
from dynamo_dist.analysis.dynamics.networks import check_meta
from dynamo_dist.errors import InputError
from dynamo_dist.metamodel import MetaModel

STEPS = 30
# Time constants of every point, and coordinates in the principal components of all of them, in the table.
_TIME_CONSTANTS, _COMPONENTS = 3, 3


@dataclass(frozen=True, kw_only=True)
class CentrePath:
    """Fixed points at zero input on the straight line from the mean vector of one computation to that of another."""

    first: str
    second: str
    # Vectors of the steps, (P, D).
    theta: np.ndarray
    path: Path

    def summary(self) -> dict[str, Any]:
        """The ends, stable and unstable points there, and the bifurcations between."""
        counts = self.path.counts().tolist()
        ends = {name: {"stable": found[0], "unstable": found[1]} for name, found in ((self.first, counts[0]), (self.second, counts[-1]))}
        return {
            "from": self.first,
            "to": self.second,
            "ends": ends,
            "bifurcations": [{"kind": one.kind, "at": one.at} for one in self.path.bifurcations],
        }

    def tables(self) -> dict[str, pa.Table]:
        """`path`: a row per point of every step, with its branch, and its place in the principal components of all of them; `theta_path`: a
        row per step; `bifurcations`: a row each, `at` from 0 to 1 along the path."""
        points = self.path.points
        centred = (points.state - points.state.mean(dim=0)).numpy()
        axes = np.linalg.svd(centred, full_matrices=False)[2][:_COMPONENTS]
        place, times = centred @ axes.T, points.time_constants.numpy()
        columns: dict[str, Any] = {
            "step": points.map.numpy(),
            "at": self.path.parameter[points.map].numpy(),
            "branch": self.path.branch.numpy(),
            "stable": points.stable.numpy(),
            "unstable_directions": points.unstable.numpy(),
        }
        for name, values, count in (("time_constant", times, _TIME_CONSTANTS), ("component", place, _COMPONENTS)):
            for k in range(count):
                columns[f"{name}_{k + 1}"] = values[:, k] if k < values.shape[1] else np.full(len(values), np.nan)
        found = self.path.bifurcations
        return {
            "path": pa.table(columns),
            "theta_path": pa.table({"at": self.path.parameter.numpy(), "theta": self.theta.tolist()}),
            "bifurcations": pa.table(
                {"kind": pa.array([b.kind for b in found], pa.string()), "at": pa.array([b.at for b in found], pa.float64())}
            ),
        }


def centre_path(meta: MetaModel, *, steps: int = STEPS, seed: int = 0) -> CentrePath:
    """The path between those two computations, of networks that read one data set, whose mean vectors are farthest apart.

    `steps`: vectors on the path; `seed`: of the states from which points are searched. Raises `InputError` for convolutional networks and
    where all networks of every data set compute the same.
    """
    check_meta(meta)
    members: dict[tuple[str, str], list[np.ndarray]] = {}
    for id, theta in zip(meta.network_ids, meta.embedding, strict=True):
        spec = meta.population.spec(id)
        members.setdefault((spec.data, spec.computation), []).append(theta)
    centres = {key: np.mean(own, axis=0) for key, own in members.items()}
    pairs = [(a, b) for a, b in combinations(centres, 2) if a[0] == b[0]]
    if not pairs:
        raise InputError(f"{meta.path}: a path needs two computations on one data set, and all networks of each compute the same")
    first, second = max(pairs, key=lambda pair: float(np.linalg.norm(centres[pair[0]] - centres[pair[1]])))
    theta_PD = np.linspace(centres[first], centres[second], steps)
    return CentrePath(first=first[1], second=second[1], theta=theta_PD, path=theta_path(meta, theta_PD, data=first[0], seed=seed))
