"""The path of one network through the embedding space along its training, against the same points in a random order.

A network and itself some epochs earlier are two networks of a population whose specifications differ in `epochs` alone, at a constant
learning rate: same seed, same order of examples, so the one is on the way of the other.

Legend: E points of a path, D embedding dimensions, R random orders.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa

from dynamo_dist.analysis.similarity import check_alike
from dynamo_dist.errors import InputError
from dynamo_dist.metamodel import MetaModel
from dynamo_dist.population import NetworkSpec

# Points of a path at least: there are 12 orders of 4 that no reversal makes equal, so p can be below 0.1.
LEAST = 4
ORDERS = 9999


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Of one path. All are the same for the reversed path but `monotonicity`, whose modulus is."""

    # Sum of the distances of successive points, over the distance of the two that lie furthest apart: at least 1.
    length: float
    # Mean cosine of the angle between successive steps: 1 along a line, 0 on average in a random walk of many dimensions.
    smoothness: float
    # Rank correlation (Spearman) of the epoch and the distance from the first point.
    monotonicity: float


@dataclass(frozen=True, kw_only=True)
class Path:
    """One network along its training, in one meta-model."""

    # Position of the meta-model among those given.
    meta: int
    ids: tuple[str, ...]
    # Of every point, ascending.
    epochs: tuple[int, ...]
    # Embedding vectors (E, D).
    theta: np.ndarray
    scores: Scores
    # Mean over random orders of the same points, and how often they are as short, as smooth, as monotonous (by modulus): p-values.
    shuffled: Scores
    p: Scores


@dataclass(frozen=True, kw_only=True)
class Trajectories:
    """All paths in all meta-models."""

    paths: tuple[Path, ...]

    def summary(self) -> dict[str, Any]:
        """JSON values: by score the mean over paths and meta-models, its standard deviation, the mean of random orders, the largest p."""
        result: dict[str, Any] = {"paths": len(self.paths), "points": [len(path.ids) for path in self.paths]}
        for field in fields(Scores):
            own, shuffled, p = (
                np.array([getattr(part, field.name) for part in parts])
                for parts in zip(*((path.scores, path.shuffled, path.p) for path in self.paths), strict=True)
            )
            result[field.name] = {
                "mean": float(own.mean()), "sd": float(own.std()), "shuffled": float(shuffled.mean()), "largest_p": float(p.max()),
            }  # fmt: skip
        return result

    def tables(self) -> dict[str, pa.Table]:
        """`trajectory`: a row per point; `paths`: a row per path."""
        points = [
            {"meta": path.meta, "path": path.ids[-1], "network": id, "epochs": epochs, "theta": theta_D.tolist()}
            for path in self.paths
            for id, epochs, theta_D in zip(path.ids, path.epochs, path.theta, strict=True)
        ]
        rows = []
        for path in self.paths:
            row: dict[str, Any] = {"meta": path.meta, "path": path.ids[-1], "points": len(path.ids)}
            for field in fields(Scores):
                row[field.name] = getattr(path.scores, field.name)
                row[f"{field.name}_shuffled"] = getattr(path.shuffled, field.name)
                row[f"{field.name}_p"] = getattr(path.p, field.name)
            rows.append(row)
        return {"trajectory": pa.Table.from_pylist(points), "paths": pa.Table.from_pylist(rows)}


def trajectories(metas: Sequence[MetaModel], *, orders: int = ORDERS, seed: int = 0) -> Trajectories:
    """Every path of at least 4 networks that differ in their epochs alone. `orders`: random orders that each is compared with.

    Raises `InputError` where there is no such path, and for meta-models of unlike populations or networks.
    """
    check_alike(metas)
    paths: list[Path] = []
    for number, meta in enumerate(metas):
        row = {id: place for place, id in enumerate(meta.network_ids)}
        for specs in _paths([meta.population.spec(id) for id in meta.network_ids]):
            theta_ED = meta.embedding[[row[spec.id] for spec in specs]]
            scores, shuffled, p = against_orders(theta_ED, np.random.default_rng([seed, number, len(paths)]), orders)
            paths.append(
                Path(
                    meta=number,
                    ids=tuple(spec.id for spec in specs),
                    epochs=tuple(spec.epochs for spec in specs),
                    theta=theta_ED,
                    scores=scores,
                    shuffled=shuffled,
                    p=p,
                )
            )
    if not paths:
        raise InputError(
            f"{metas[0].population_path} holds no network at {LEAST} or more moments of its training: networks that differ in `epochs` alone, "
            "with schedule='constant'"
        )
    return Trajectories(paths=tuple(paths))


def _paths(specs: Sequence[NetworkSpec]) -> list[list[NetworkSpec]]:
    """Networks that are one on its way, in the order of their epochs."""
    differs = {"id", "group", "computation", "epochs"}
    found: dict[tuple[object, ...], list[NetworkSpec]] = {}
    for spec in specs:
        if spec.schedule == "constant" and not spec.imported and not spec.patience:
            found.setdefault(tuple(getattr(spec, f.name) for f in fields(NetworkSpec) if f.name not in differs), []).append(spec)
    ordered = (sorted(own, key=lambda spec: spec.epochs) for own in found.values())
    return [own for own in ordered if len({spec.epochs for spec in own}) == len(own) >= LEAST]


def against_orders(theta_ED: np.ndarray, rng: np.random.Generator, orders: int = ORDERS) -> tuple[Scores, Scores, Scores]:
    """Scores of a path, their means over random orders of its points, and p-values, the path itself counted among the orders."""
    own = path_scores(theta_ED)
    random = [path_scores(theta_ED[rng.permutation(len(theta_ED))]) for _ in range(orders)]
    length_R, smoothness_R, monotonicity_R = (np.array([getattr(scores, f.name) for scores in random]) for f in fields(Scores))

    def p(as_extreme_R: np.ndarray) -> float:
        return float((1 + as_extreme_R.sum()) / (1 + orders))

    # Equal but for rounding counts as equal: reversed paths do.
    slack = 1e-9
    return (
        own,
        Scores(length=float(length_R.mean()), smoothness=float(smoothness_R.mean()), monotonicity=float(np.abs(monotonicity_R).mean())),
        Scores(
            length=p(length_R <= own.length * (1 + slack)),
            smoothness=p(smoothness_R >= own.smoothness - slack),
            monotonicity=p(np.abs(monotonicity_R) >= abs(own.monotonicity) - slack),
        ),
    )


def path_scores(theta_ED: np.ndarray) -> Scores:
    """Of points in the order of a path; all 0 where all points are one."""
    distance_EE = np.linalg.norm(theta_ED[:, None] - theta_ED[None], axis=-1)
    extent = distance_EE.max()
    if not extent:
        return Scores(length=0.0, smoothness=0.0, monotonicity=0.0)
    step_SD = np.diff(theta_ED, axis=0)
    size_S = np.linalg.norm(step_SD, axis=1)
    product = size_S[1:] * size_S[:-1]
    cosine = (step_SD[1:] * step_SD[:-1]).sum(axis=1) / np.where(product > 0, product, 1)
    return Scores(
        length=float(size_S.sum() / extent),
        smoothness=float(cosine.mean()),
        monotonicity=_rank_correlation(distance_EE[0]),
    )


def _rank_correlation(values_E: np.ndarray) -> float:
    """Spearman's, of values and their order (no ties in the order; ties of values by the mean of their ranks)."""
    from scipy.stats import rankdata

    rank_E = rankdata(values_E)
    return float(np.corrcoef(rank_E, np.arange(len(rank_E)))[0, 1]) if np.ptp(rank_E) else 0.0
