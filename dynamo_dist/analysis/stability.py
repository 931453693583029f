"""Do meta-models that differ in their seeds embed a population alike? Vectors are known up to a change of coordinates only, so they are
compared after the best rotation, and by their distances.

Legend: M networks, D embedding dimensions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa

from dynamo_dist.analysis.similarity import check_alike
from dynamo_dist.errors import InputError
from dynamo_dist.metamodel import MetaModel


@dataclass(frozen=True, kw_only=True)
class Stability:
    """Every pair of meta-models; NaN where all vectors of one are equal."""

    # Positions among the meta-models given.
    pairs: tuple[tuple[int, int], ...]
    # Correlation of all coordinates after the rotation (reflections too), scale and shift that fit them best.
    aligned_correlation: np.ndarray
    # Rank correlation (Spearman) of the distances between networks.
    distance_correlation: np.ndarray

    def summary(self) -> dict[str, Any]:
        """JSON values: mean and standard deviation over pairs."""
        result: dict[str, Any] = {"pairs": len(self.pairs)}
        for name in ("aligned_correlation", "distance_correlation"):
            values = getattr(self, name)
            for key, value in ((name, values.mean()), (f"{name}_sd", values.std())):
                result[key] = None if math.isnan(value) else float(value)
        return result

    def tables(self) -> dict[str, pa.Table]:
        """`stability`: a row per pair of meta-models."""
        first, second = zip(*self.pairs, strict=True)
        scores = {
            name: pa.array(getattr(self, name), pa.float64(), from_pandas=True) for name in ("aligned_correlation", "distance_correlation")
        }
        return {"stability": pa.table({"first": pa.array(first, pa.int64()), "second": pa.array(second, pa.int64()), **scores})}


def stability(metas: Sequence[MetaModel]) -> Stability:
    """Agreement of the embeddings of two or more meta-models of one population, of any D.

    Raises `InputError` for a single one, meta-models of unlike populations or networks, and fewer than 3 networks.
    """
    check_alike(metas)
    if len(metas) < 2:
        raise InputError(f"one meta-model ({metas[0].path}) cannot be compared with itself: train another one with another seed")
    pairs = tuple(combinations(range(len(metas)), 2))
    both = [(metas[a].embedding, metas[b].embedding) for a, b in pairs]
    return Stability(
        pairs=pairs,
        aligned_correlation=np.array([aligned_correlation(a_MD, b_MD) for a_MD, b_MD in both]),
        distance_correlation=np.array([distance_correlation(a_MD, b_MD) for a_MD, b_MD in both]),
    )


def aligned_correlation(a_MD: np.ndarray, b_MD: np.ndarray) -> float:
    """Of points (M, D) and (M, D'), the one with fewer dimensions padded with zeros: what scaled and centred Procrustes analysis leaves,
    as a correlation. 1: the same up to rotation, reflection, scale and shift."""
    from scipy.linalg import orthogonal_procrustes

    width = max(a_MD.shape[1], b_MD.shape[1])
    a, b = (np.pad(x - x.mean(axis=0), ((0, 0), (0, width - x.shape[1]))) for x in (a_MD, b_MD))
    if not (a.any() and b.any()):
        return math.nan
    # The sum of the singular values of A^T B is the inner product of A and the rotated B.
    return float(orthogonal_procrustes(a / np.linalg.norm(a), b / np.linalg.norm(b))[1])


def distance_correlation(a_MD: np.ndarray, b_MD: np.ndarray) -> float:
    """Spearman's correlation of the distances between all pairs of points."""
    from scipy.spatial.distance import pdist
    from scipy.stats import spearmanr

    a, b = pdist(a_MD), pdist(b_MD)
    return float(spearmanr(a, b).statistic) if np.ptp(a) and np.ptp(b) else math.nan
