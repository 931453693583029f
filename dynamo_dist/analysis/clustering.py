"""Does the embedding sort networks by what they compute?"""

import warnings
from collections.abc import Sequence

import numpy as np

from dynamo_dist.metamodel import MetaModel

RESTARTS = 20


def adjusted_rand(embedding: np.ndarray, labels: Sequence[str], *, seed: int = 0) -> float:
    """Adjusted Rand index of k-means (k = number of distinct labels, 20 restarts) against the labels; `embedding`: (M, D)."""
    # Imported here: every actor imports this package, none of them clusters, and scikit-learn takes 1.5 s.
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import adjusted_rand_score

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than clusters: the index shows it
        clusters = KMeans(len(set(labels)), n_init=RESTARTS, random_state=seed).fit_predict(embedding)
    return float(adjusted_rand_score(labels, clusters))


def cluster(meta: MetaModel) -> dict[str, float]:
    """Adjusted Rand index of the embedding against the computation, and, as information, against the architecture."""
    specs = [meta.population.spec(id) for id in meta.network_ids]
    return {
        "adjusted_rand": adjusted_rand(meta.embedding, [spec.computation for spec in specs]),
        "adjusted_rand_architecture": adjusted_rand(meta.embedding, [spec.architecture.label for spec in specs]),
    }
