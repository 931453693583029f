"""What a trained meta-model says of its population. Nothing here trains a meta-model or imports Ray."""

from dynamo_dist.analysis.averages import Averaging, compare_averages
from dynamo_dist.analysis.averaging import average, scores_at
from dynamo_dist.analysis.clustering import cluster
from dynamo_dist.analysis.dynamics import CentrePath, FixedPoints, centre_path, fixed_points, fixed_points_of, theta_path
from dynamo_dist.analysis.emulation import Emulation, emulate_shard, emulation, merge
from dynamo_dist.analysis.landscape import Landscape, landscape
from dynamo_dist.analysis.matching import matched, weight_average
from dynamo_dist.analysis.memory import Memories, memories
from dynamo_dist.analysis.reparameterize import CopyRatio, copy_ratio, permuted, reparameterized, widened
from dynamo_dist.analysis.semisupervised import SemiSupervised, semisupervised
from dynamo_dist.analysis.similarity import Similarity, similarity
from dynamo_dist.analysis.stability import Stability, stability
from dynamo_dist.analysis.trajectory import Trajectories, trajectories

__all__ = [
    "Averaging",
    "CentrePath",
    "CopyRatio",
    "Emulation",
    "FixedPoints",
    "Landscape",
    "Memories",
    "SemiSupervised",
    "Similarity",
    "Stability",
    "Trajectories",
    "average",
    "centre_path",
    "cluster",
    "compare_averages",
    "copy_ratio",
    "emulate_shard",
    "emulation",
    "fixed_points",
    "fixed_points_of",
    "landscape",
    "matched",
    "memories",
    "merge",
    "permuted",
    "reparameterized",
    "scores_at",
    "semisupervised",
    "similarity",
    "stability",
    "theta_path",
    "trajectories",
    "weight_average",
    "widened",
]
