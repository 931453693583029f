"""The task score of the meta-model over a plane of embedding space: are there better networks than those it was made from?

The plane goes through theta-bar, the mean of all vectors; by default along the first two principal axes of the embedding. On it the
test score at every point of a grid. The best point is chosen on labelled examples of the part that trained the base networks, and its
test score reported, so that no test label chooses.

Legend: M networks, P points, U V points along the two directions, D embedding dimensions.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from dynamo_dist.analysis.tasks import base_answers, sample, task_of, vector_scores
from dynamo_dist.errors import InputError
from dynamo_dist.metamodel import MetaModel

# Share of their range that the grid goes beyond the outermost networks, on every side.
MARGIN = 0.25
# What is shorter than this share of what it belongs to counts as nothing: a direction across another, the spread along a direction.
ACROSS = 1e-6


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """Scores are accuracies, or R^2 of values. A point (u, v) of the plane is theta-bar + u directions[0] + v directions[1]."""

    data: str
    target: str
    # theta-bar (D,), and two directions of length 1 at a right angle, (2, D).
    mean: np.ndarray
    directions: np.ndarray
    # Share of the variance of the embedding in the plane.
    variance: float
    # The grid's coordinates (U,) and (V,), and the scores at its points (U, V) on the test part and on the labelled part.
    u: np.ndarray
    v: np.ndarray
    test: np.ndarray
    labelled: np.ndarray
    # Of all embedded networks: id, group, their coordinates on the plane (M, 2) and distance from it (M,).
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    coordinates: np.ndarray
    distance: np.ndarray
    # Test score of every network (NaN: it learned another task), of the meta-model at its theta and at its place on the plane, (M,).
    base: np.ndarray
    meta: np.ndarray
    projected: np.ndarray
    # Test score at theta-bar.
    mean_score: float
    test_inputs: int
    labelled_inputs: int

    @property
    def best(self) -> tuple[int, int]:
        """The grid's point with the highest score on the labelled part; of several the one closest to theta-bar."""
        near = -np.hypot(self.u[:, None], self.v)
        order = np.lexsort((near.ravel(), self.labelled.ravel()))
        row, column = np.unravel_index(order[-1], self.labelled.shape)
        return int(row), int(column)

    def theta(self, row: int, column: int) -> np.ndarray:
        """The vector at a point of the grid, (D,)."""
        theta: np.ndarray = self.mean + self.u[row] * self.directions[0] + self.v[column] * self.directions[1]
        return theta

    def summary(self) -> dict[str, Any]:
        """The best point against theta-bar, the networks, and the meta-model at their vectors; `base` and `meta` of the task's networks."""
        row, column = self.best
        own = ~np.isnan(self.base)

        def of(scores: np.ndarray) -> dict[str, float]:
            return {"mean": float(scores.mean()), "sd": float(scores.std()), "max": float(scores.max())}

        return {
            "data": self.data,
            "target": self.target,
            "plane_variance": self.variance,
            "test_inputs": self.test_inputs,
            "labelled_inputs": self.labelled_inputs,
            "mean_theta": self.mean_score,
            "best": {
                "u": float(self.u[row]), "v": float(self.v[column]), "theta": self.theta(row, column).tolist(),
                "labelled": float(self.labelled[row, column]), "test": float(self.test[row, column]),
            },
            "grid": {"min": float(self.test.min()), "median": float(np.median(self.test)), "max": float(self.test.max())},
            "base": of(self.base[own]),
            "meta": of(self.meta[own]),
            # Networks of the task that the chosen point beats.
            "better_than": float((self.base[own] < self.test[row, column]).mean()),
        }  # fmt: skip

    def tables(self) -> dict[str, pa.Table]:
        """`landscape`: a row per point of the grid, `best` marks the chosen one. `landscape_networks`: a row per network."""
        u, v = np.meshgrid(self.u, self.v, indexing="ij")
        best = np.zeros(self.test.shape, dtype=bool)
        best[self.best] = True
        columns = {"u": u, "v": v, "test": self.test, "labelled": self.labelled, "best": best}
        return {
            "landscape": pa.table({name: column.ravel() for name, column in columns.items()}),
            "landscape_networks": pa.table(
                {
                    "id": list(self.ids), "group": list(self.groups), "u": self.coordinates[:, 0], "v": self.coordinates[:, 1],
                    "distance": self.distance, "base": pa.array(self.base, from_pandas=True), "meta": self.meta,
                    "projected": self.projected,
                }
            ),
        }  # fmt: skip


def landscape(
    meta: MetaModel,
    *,
    data: str | None = None,
    target: str | None = None,
    directions: np.ndarray | None = None,
    points: int = 25,
    inputs: int = 1000,
    seed: int = 0,
) -> Landscape:
    """The score on one task over the plane through theta-bar along two `directions` (2, D), by default the first principal axes.

    `data`, `target`: the task, needed where the networks learned several; `points`: of the grid, along each direction; `inputs`: at most so
    many of the test part, and of the labelled part to choose by; `seed`: of which.

    Raises `InputError` for directions of another shape or parallel ones, and for fewer than three networks or one dimension, which have no
    plane.
    """
    task = task_of(meta, data, target)
    if points < 2 or inputs < 1:
        raise InputError(f"points={points}, inputs={inputs}: expected at least 2 points along each direction and one input")
    mean = meta.embedding.mean(axis=0)
    centred = meta.embedding - mean
    plane = _plane(meta, centred, directions)
    coordinates = centred @ plane.T
    low, high = coordinates.min(axis=0), coordinates.max(axis=0)
    # Directions in which the networks do not differ have a grid all the same.
    spread = np.linalg.norm(centred, axis=1).max()
    margin = MARGIN * np.where(high - low > ACROSS * spread, high - low, spread)
    u, v = (np.linspace(start, stop, points) for start, stop in zip(low - margin, high + margin, strict=True))
    on_plane = mean + np.stack(np.meshgrid(u, v, indexing="ij"), axis=-1).reshape(-1, 2) @ plane
    generator = np.random.default_rng(seed)
    test, labelled = (sample(part, inputs, generator) for part in (task.dataset.test, task.dataset.base))
    base = dict(zip(task.ids, task.score(base_answers(meta.population, task.ids, test, task.output), test), strict=True))
    networks = np.concatenate([meta.embedding, mean + coordinates @ plane, mean[None]])
    at_networks = vector_scores(meta, task, networks, test)
    count = len(meta.network_ids)
    return Landscape(
        data=task.data,
        target=task.target,
        mean=mean,
        directions=plane,
        variance=float((coordinates**2).sum() / (centred**2).sum()),
        u=u,
        v=v,
        test=vector_scores(meta, task, on_plane, test).reshape(points, points),
        labelled=vector_scores(meta, task, on_plane, labelled).reshape(points, points),
        ids=meta.network_ids,
        groups=tuple(meta.population.spec(id).group for id in meta.network_ids),
        coordinates=coordinates,
        distance=np.linalg.norm(centred - coordinates @ plane, axis=1),
        base=np.array([base.get(id, np.nan) for id in meta.network_ids]),
        meta=at_networks[:count],
        projected=at_networks[count:-1],
        mean_score=float(at_networks[-1]),
        test_inputs=len(test),
        labelled_inputs=len(labelled),
    )


def _plane(meta: MetaModel, centred: np.ndarray, directions: np.ndarray | None) -> np.ndarray:
    """Two directions of length 1 at a right angle that span the plane, (2, D); the first is along the first that was given."""
    networks, dimensions = centred.shape
    if networks < 3 or dimensions < 2:
        raise InputError(f"{meta.path}: {networks} networks in {dimensions} dimensions lie in no plane; it takes 3 networks, 2 dimensions")
    if not centred.any():
        raise InputError(f"{meta.path}: all vectors are the same, so there is nothing to see; train it with theta, on unlike networks")
    if directions is None:
        axes = np.linalg.svd(centred, full_matrices=False)[2]
        # Signs of principal axes mean nothing: the largest entry is positive, on every machine.
        plane: np.ndarray = axes[:2] * np.sign(axes[np.arange(2), np.abs(axes[:2]).argmax(axis=1)])[:, None]
        return plane
    directions = np.asarray(directions, dtype=np.float64)
    if directions.shape != (2, dimensions):
        raise InputError(f"directions have shape {directions.shape}: expected (2, {dimensions})")
    if not np.isfinite(directions).all():
        raise InputError("directions are not all finite numbers: give two vectors")
    first, second = directions
    length, other = np.linalg.norm(first), np.linalg.norm(second)
    first = first / length if length else first
    across = second - (second @ first) * first
    if not length or np.linalg.norm(across) <= ACROSS * other:
        raise InputError("directions are parallel or zero, so they span no plane: give two that differ")
    return np.stack([first, across / np.linalg.norm(across)])
