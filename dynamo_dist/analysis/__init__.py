"""What a trained meta-model says of its population. Nothing here trains anything or imports Ray."""

from dynamo_dist.analysis.averaging import average, scores_at
from dynamo_dist.analysis.clustering import cluster
from dynamo_dist.analysis.dynamics import FixedPoints, fixed_points, fixed_points_of, theta_path
from dynamo_dist.analysis.emulation import Emulation, emulate_shard, emulation, merge

__all__ = [
    "Emulation",
    "FixedPoints",
    "average",
    "cluster",
    "emulate_shard",
    "emulation",
    "fixed_points",
    "fixed_points_of",
    "merge",
    "scores_at",
    "theta_path",
]
