"""What a trained meta-model says of its population. Nothing here trains anything or imports Ray."""

from dynamo_dist.analysis.averaging import average, scores_at
from dynamo_dist.analysis.clustering import cluster
from dynamo_dist.analysis.emulation import Emulation, emulate_shard, emulation, merge
from dynamo_dist.analysis.reparameterize import CopyRatio, copy_ratio, permuted, reparameterized, widened
from dynamo_dist.analysis.similarity import Similarity, similarity
from dynamo_dist.analysis.stability import Stability, stability

__all__ = [
    "CopyRatio",
    "Emulation",
    "Similarity",
    "Stability",
    "average",
    "cluster",
    "copy_ratio",
    "emulate_shard",
    "emulation",
    "merge",
    "permuted",
    "reparameterized",
    "scores_at",
    "similarity",
    "stability",
    "widened",
]
