"""How well a matrix of distances between networks tells what they compute.

Legend: M networks, m of one comparable set, G labels, P permutations, Q coordinates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynamo_dist.analysis.clustering import adjusted_rand

PERMUTATIONS = 999


@dataclass(frozen=True, kw_only=True)
class Scores:
    """A distance matrix against labels. NaN where no label can be told from another.

    A measure that is not defined between all networks is scored within each set of networks between which it is, where that set has two
    labels and three networks, and these scores are averaged, weighted by networks.
    """

    # Mean over networks of (b - a) / max(a, b), a: mean distance to the own label, b: to the nearest other one (Rousseeuw, 1987).
    silhouette: float
    # Of k-means on the coordinates of `mds`, k the number of labels.
    adjusted_rand: float
    # Share of networks whose nearest other network has their label.
    nearest_neighbour: float
    # Share of the shufflings of the labels, the given one counted, whose silhouette is as high as the given one.
    p_value: float
    # How many networks were scored.
    networks: int


def score(distance_MM: np.ndarray, labels: Sequence[str], *, seed: int = 0) -> Scores:
    """`distance_MM`: symmetric, NaN where the measure is not defined; labels (M,). `seed`: of k-means and of the shufflings."""
    codes_M = np.unique(labels, return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    sets = [rows for rows in comparable(distance_MM) if len(rows) >= 3 and len(set(codes_M[rows])) > 1]
    if not sets:
        return Scores(silhouette=np.nan, adjusted_rand=np.nan, nearest_neighbour=np.nan, p_value=np.nan, networks=0)
    total, shuffled_P = np.zeros(3), np.zeros(PERMUTATIONS)
    for rows in sets:
        own_mm, codes_m = distance_MM[np.ix_(rows, rows)], np.unique(codes_M[rows], return_inverse=True)[1]
        given = silhouettes(own_mm, codes_m[None])[0]
        shuffled_P += len(rows) * silhouettes(own_mm, rng.permuted(np.tile(codes_m, (PERMUTATIONS, 1)), axis=1))
        nearest_m = np.argmin(own_mm + np.diag(np.full(len(rows), np.inf)), axis=1)
        near = np.mean(codes_m[nearest_m] == codes_m)
        # Equal networks have no clusters, and k-means warns of it.
        rand = adjusted_rand(mds(own_mm), codes_m.tolist(), seed=seed) if own_mm.any() else 0.0
        total += len(rows) * np.array([given, rand, near])
    networks = sum(map(len, sets))
    # A shuffling that gives the same grouping may differ in the last digits.
    as_high = (shuffled_P >= total[0] - 1e-9 * networks).sum()
    silhouette, rand, near = (total / networks).tolist()
    return Scores(
        silhouette=silhouette,
        adjusted_rand=rand,
        nearest_neighbour=near,
        p_value=float((1 + as_high) / (1 + PERMUTATIONS)),
        networks=networks,
    )


def comparable(distance_MM: np.ndarray) -> list[np.ndarray]:
    """Sets of networks between which the measure is defined, as their positions in increasing order; (M,) in all."""
    known_MM = np.isfinite(distance_MM)
    np.fill_diagonal(known_MM, True)
    first_M = np.argmax(known_MM, axis=1)
    return [np.flatnonzero(first_M == first) for first in np.unique(first_M)]


def silhouettes(distance_mm: np.ndarray, codes_Pm: np.ndarray) -> np.ndarray:
    """Mean silhouette for each of P labellings, whole numbers from 0 (P, m), float64 (P,). A network alone in its label counts 0."""
    labels = int(codes_Pm.max()) + 1
    # Sums of distances to the networks of each label, a block of labellings at a time: (m, p, G).
    found = []
    for codes_pm in np.array_split(codes_Pm, max(1, codes_Pm.size * labels // 2**22)):
        member_mpG = codes_pm.T[..., None] == np.arange(labels)
        sums_mpG = np.einsum("mn,npg->mpg", distance_mm, member_mpG.astype(np.float64), optimize=True)
        count_pG = member_mpG.sum(axis=0)
        own_mp = codes_pm.T[..., None]
        alone_mp = np.take_along_axis(count_pG[None], own_mp, axis=2)[..., 0] == 1
        with np.errstate(divide="ignore", invalid="ignore"):
            a_mp = np.take_along_axis(sums_mpG / (count_pG - 1), own_mp, axis=2)[..., 0]
            b_mp = np.where(member_mpG | (count_pG == 0), np.inf, sums_mpG / count_pG).min(axis=2)
            value_mp = np.where(alone_mp, 0.0, (b_mp - a_mp) / np.maximum(a_mp, b_mp))
        found.append(np.nan_to_num(value_mp).mean(axis=0))
    return np.concatenate(found)


def mds(distance_mm: np.ndarray) -> np.ndarray:
    """Coordinates (m, Q) from distances (Torgerson, 1952): classical multidimensional scaling, with every direction of positive variance, the
    largest first, at least two columns. Of Euclidean distances the points themselves, up to a rotation."""
    count = len(distance_mm)
    centre = np.eye(count) - 1 / count
    values, vectors = np.linalg.eigh(-0.5 * centre @ distance_mm**2 @ centre)
    values, vectors = values[::-1], vectors[:, ::-1]
    # The sign of an eigenvector is arbitrary: the largest entry is positive, so that figures do not flip.
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(count)])
    kept = max(2, int((values > values[0] * count * np.finfo(np.float64).eps).sum()))
    return np.pad(vectors * np.sqrt(values.clip(min=0)), ((0, 0), (0, max(0, 2 - count))))[:, :kept]
