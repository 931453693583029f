"""What a trained meta-model says of its population. Nothing here trains anything or imports Ray."""

from dynamo_dist.analysis.averaging import average, scores_at
from dynamo_dist.analysis.clustering import cluster
from dynamo_dist.analysis.emulation import Emulation, emulate_shard, emulation, merge

__all__ = ["Emulation", "average", "cluster", "emulate_shard", "emulation", "merge", "scores_at"]
