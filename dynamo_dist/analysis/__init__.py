"""What a trained meta-model says of its population. Nothing here trains anything or imports Ray."""

from dynamo_dist.analysis.averaging import accuracies_at, average
from dynamo_dist.analysis.clustering import cluster
from dynamo_dist.analysis.emulation import Emulation, emulate_shard, emulation, merge

__all__ = ["Emulation", "accuracies_at", "average", "cluster", "emulate_shard", "emulation", "merge"]
