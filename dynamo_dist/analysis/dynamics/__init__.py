"""Dynamics of recurrent networks: fixed and slow points, their continuation along paths in theta, slow sets, limit cycles.

Source: the specification's section 6; Sussillo and Barak, Neural Computation 25 (2013), for q and its minima.
"""

from dynamo_dist.analysis.dynamics.centres import CentrePath, centre_path
from dynamo_dist.analysis.dynamics.continuation import Path, continue_points, theta_path
from dynamo_dist.analysis.dynamics.cycles import Cycle, limit_cycles
from dynamo_dist.analysis.dynamics.maps import CellMaps, Cells, FunctionMaps, Maps
from dynamo_dist.analysis.dynamics.points import Points, search
from dynamo_dist.analysis.dynamics.result import FixedPoints, fixed_points, fixed_points_of
from dynamo_dist.analysis.dynamics.slow import SlowSet, slow_sets

__all__ = [
    "CellMaps", "Cells", "CentrePath", "Cycle", "FixedPoints", "FunctionMaps", "Maps", "Path", "Points", "SlowSet", "centre_path",
    "continue_points", "fixed_points", "fixed_points_of", "limit_cycles", "search", "slow_sets", "theta_path",
]  # fmt: skip
