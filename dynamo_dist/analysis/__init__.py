"""What a trained meta-model says of its population. Nothing here trains a meta-model or imports Ray."""

from dynamo_dist.analysis.averaging import average, scores_at
from dynamo_dist.analysis.clustering import cluster
from dynamo_dist.analysis.comparison import Averaging, compare_averages
from dynamo_dist.analysis.emulation import Emulation, emulate_shard, emulation, merge
from dynamo_dist.analysis.landscape import Landscape, landscape
from dynamo_dist.analysis.matching import matched, weight_average
from dynamo_dist.analysis.semisupervised import SemiSupervised, semisupervised

__all__ = [
    "Averaging",
    "Emulation",
    "Landscape",
    "SemiSupervised",
    "average",
    "cluster",
    "compare_averages",
    "emulate_shard",
    "emulation",
    "landscape",
    "matched",
    "merge",
    "scores_at",
    "semisupervised",
    "weight_average",
]
