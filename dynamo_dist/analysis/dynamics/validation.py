"""Whether the meta-model's dynamics at theta_n are those of network n, and whether distances in theta go with them.

A fixed point of the meta-model at theta_n is mapped by V_n to a fixed point of the network, and the slow eigenvalues are the same, as far
as V_n makes the two conjugate. Legend: M networks, P points, S states, K meta units, H numbers of a network's state, C outputs.
"""

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dynamo_dist.analysis.dynamics.maps import Maps
from dynamo_dist.analysis.dynamics.networks import Dynamics
from dynamo_dist.analysis.dynamics.points import Points, spread
from dynamo_dist.metamodel import MetaModel
from dynamo_dist.metamodel.private import StateMap

_PERMUTATIONS = 999
# Steps over which the outputs' decay is measured, and after which they are taken to rest.
_DECAY, _REST = 10, 300


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """One network at one fixed input: the meta-model at theta_n against the network itself. NaN: nothing to compare."""

    id: str
    input: str
    # Speed of the network at the mapped fixed points, relative to its typical speed: median over all points, and over stable ones.
    mapped_speed: float
    mapped_speed_stable: float
    # Chamfer distance of the mapped points from the network's own, all and stable ones, in units of the spread of its states.
    chamfer: float
    chamfer_stable: float
    # Over pairs of a mapped stable point and the nearest of the network's own: median of the ratio of their slowest time constants, and
    # median difference of their three largest |eigenvalues|, both within the subspace that the network's states visit.
    time_constant_ratio: float
    eigenvalue_difference: float
    # Steps in which the outputs' distance from where they come to rest falls by 1/e.
    meta_relaxation: float
    base_relaxation: float
    # Fixed points, stable and unstable.
    meta_stable: int
    meta_unstable: int
    base_stable: int
    base_unstable: int

    @property
    def stable_equal(self) -> bool:
        """Whether both have as many stable points."""
        return self.meta_stable == self.base_stable

    @property
    def equal(self) -> bool:
        """Whether both have as many stable and as many unstable points."""
        return self.stable_equal and self.meta_unstable == self.base_unstable


def agreement(
    meta: MetaModel, input: str, meta_side: tuple[Dynamics, Points], base_side: tuple[Dynamics, Points], id: str
) -> Agreement:
    """Of one network, given its dynamics and points in the meta-model and its own."""
    (meta_dynamics, meta_points), (base_dynamics, base_points) = meta_side, base_side
    m, n = meta_dynamics.ids.index(id), base_dynamics.ids.index(id)
    found, own = meta_points.of(m, fixed=True), base_points.of(n, fixed=True)
    maps = base_dynamics.maps[input]
    state_map = copy.deepcopy(meta.state_map(id)).double()
    mapped_PH = state_map(found.state[None])[0]
    visited = base_dynamics.visited[n : n + 1, :, base_dynamics.visible]
    own_PH, scale = own.state[:, base_dynamics.visible], float(spread(visited))
    # An imported network may show a part of its state, or several layers.
    whole, comparable = mapped_PH.shape[1] == maps.size, mapped_PH.shape[1] == own_PH.shape[1]
    speed_P = torch.full((len(found),), torch.nan, dtype=torch.float64)
    if whole:
        speed_P = (maps.step(mapped_PH, torch.full((len(found),), n)) - mapped_PH).norm(dim=1) / base_dynamics.speed[n]
    ratio, difference = math.nan, math.nan
    both = bool(found.stable.any()) and bool(own.stable.any())
    if whole and both:
        near = torch.cdist(mapped_PH[found.stable], own_PH[own.stable]).argmin(dim=1)
        of_meta, of_base = found.select(found.stable), own.select(own.stable).select(near)
        sizes = _tangent_sizes(input, meta_dynamics, m, of_meta.state, base_dynamics, n, of_base.state, state_map)
        ratio = float((sizes[1][:, 0].log() / sizes[0][:, 0].log()).abs().median())
        difference = float((sizes[0][:, :3] - sizes[1][:, :3]).abs().median())
    return Agreement(
        id=id,
        input=input,
        mapped_speed=_median(speed_P),
        mapped_speed_stable=_median(speed_P[found.stable]),
        chamfer=chamfer(mapped_PH, own_PH) / scale if comparable else math.nan,
        chamfer_stable=chamfer(mapped_PH[found.stable], own_PH[own.stable]) / scale if comparable else math.nan,
        time_constant_ratio=ratio,
        eigenvalue_difference=difference,
        meta_relaxation=_relaxation(meta_dynamics, input, m),
        base_relaxation=_relaxation(base_dynamics, input, n),
        meta_stable=int(found.stable.sum()),
        meta_unstable=int((~found.stable).sum()),
        base_stable=int(own.stable.sum()),
        base_unstable=int((~own.stable).sum()),
    )


def _tangent_sizes(
    input: str, meta: Dynamics, m: int, meta_PK: Tensor, base: Dynamics, n: int, base_PH: Tensor, state_map: StateMap
) -> tuple[Tensor, Tensor]:
    """|eigenvalues| of both Jacobians at paired points within the subspace of the network's states, (P, d) both, the largest first.

    The meta-model has more directions than a network shows: where A J~ = J A, those that A maps to 0 are free. So both are compared on the
    d principal components that hold 95 % of the variance of the network's states, lifted to the meta-model's states by the regression of
    these on the network's: visited states come in pairs, at the same steps of the same inputs.
    """
    states_SH, lifted_SK = base.visited[n] - base.visited[n].mean(dim=0), meta.visited[m] - meta.visited[m].mean(dim=0)
    _, size, axes_HH = torch.linalg.svd(states_SH, full_matrices=False)
    held = size.square().cumsum(0) / size.square().sum().clamp(min=torch.finfo(torch.float64).tiny)
    axes_Hd = axes_HH[: int((held < 0.95).sum()) + 1].T
    lift_dK = torch.linalg.lstsq(states_SH @ axes_Hd, lifted_SK).solution
    j_PKK = meta.maps[input].jacobian(meta_PK, torch.full((len(meta_PK),), m))[1]
    j_PHH = base.maps[input].jacobian(base_PH, torch.full((len(base_PH),), n))[1]
    # Rows that are multiplied from the right, as the state map does.
    small = (lift_dK @ j_PKK.mT @ _slope(state_map, meta_PK) @ axes_Hd, axes_Hd.T @ j_PHH @ axes_Hd)
    of_meta, of_base = (torch.linalg.eigvals(j).abs().sort(dim=1, descending=True).values for j in small)
    return of_meta, of_base


def _slope(state_map: StateMap, h_PK: Tensor) -> Tensor:
    """Derivative of V at meta states, (P, K, H), or (1, K, H) where it is the same everywhere."""
    own = dict(state_map.named_parameters())
    if "inner_weight" not in own:
        return own["weight"]
    t = torch.tanh(h_PK @ own["inner_weight"][0] + own["inner_bias"][0])
    return (own["inner_weight"] * (1 - t * t)[:, None]) @ own["weight"]


def _median(values: Tensor) -> float:
    return float(values.median()) if len(values) else math.nan


def chamfer(a_PH: Tensor, b_PH: Tensor) -> float:
    """Mean of the mean distances to the nearest of the other set, both ways; NaN where a set is empty."""
    if not len(a_PH) or not len(b_PH):
        return math.nan
    distance = torch.cdist(a_PH, b_PH, compute_mode="donot_use_mm_for_euclid_dist")
    return float(distance.amin(dim=1).mean() + distance.amin(dim=0).mean()) / 2


def _relaxation(dynamics: Dynamics, input: str, m: int) -> float:
    if dynamics.readout is None:
        return math.nan
    return relaxation_time(dynamics.maps[input], m, dynamics.visited[m, :100], dynamics.readout[m])


def relaxation_time(maps: Maps, m: int, h_SH: Tensor, readout_HC: Tensor) -> float:
    """Time constant of the outputs y of a map at its fixed input, from visited states (S, H): tau = -1 / ln k with y' - y_rest = k (y -
    y_rest) in least squares over 10 steps; inf where they do not decay, NaN where they do not move.

    Fixed points have a time constant for every eigenvalue; this is the one that the outputs show.
    """
    m_S, outputs = torch.full((len(h_SH),), m), []
    for _ in range(_DECAY + 1):
        outputs.append(h_SH @ readout_HC)
        h_SH = maps.step(h_SH, m_S)
    for _ in range(_REST):
        h_SH = maps.step(h_SH, m_S)
    away = torch.stack(outputs) - h_SH @ readout_HC
    before, after = away[:-1], away[1:]
    square = float(before.square().sum())
    if not square > 0:
        return math.nan
    kept = float((before * after).sum()) / square
    return -1 / math.log(kept) if 0 < kept < 1 else math.inf if kept >= 1 else 0.0


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Spearman's rank correlation of distances, and its p-value: the share of shuffles of the networks with one as large."""

    rho: float
    p: float


def distance_correlation(theta_MD: np.ndarray, summary_MF: np.ndarray, *, seed: int) -> Correlation:
    """Do networks that are far apart in theta have unlike fixed points? (Mantel's test, 999 shuffles.)

    `summary_MF`: what describes the fixed points of every network; features are divided by their standard deviation, NaN counts as the
    mean. NaN where there are fewer than 4 networks or all are alike.
    """
    from scipy.spatial.distance import pdist, squareform
    from scipy.stats import rankdata

    if len(theta_MD) < 4:
        return Correlation(rho=math.nan, p=math.nan)
    centred = np.nan_to_num(summary_MF - np.nanmean(summary_MF, axis=0))
    size = centred.std(axis=0)
    centred = centred[:, size > 1e-12] / size[size > 1e-12]
    if not centred.shape[1]:
        return Correlation(rho=math.nan, p=math.nan)
    upper = np.triu_indices(len(theta_MD), 1)
    first, second = (rankdata(pdist(points)) for points in (theta_MD, centred))
    if first.std() == 0 or second.std() == 0:
        return Correlation(rho=math.nan, p=math.nan)
    first, second = ((ranks - ranks.mean()) / ranks.std() for ranks in (first, second))
    square, rng = squareform(second), np.random.default_rng(seed)
    rho = float((first * second).mean())
    shuffled = []
    for _ in range(_PERMUTATIONS):
        order = rng.permutation(len(theta_MD))
        shuffled.append((first * square[order][:, order][upper]).mean())
    return Correlation(rho=rho, p=(1 + int((np.array(shuffled) >= rho - 1e-12).sum())) / (1 + _PERMUTATIONS))


def fixed_point_summary(points: Points) -> list[float]:
    """Of one map: log(1 + number) of stable and of unstable points; means over the stable points (all, if none is stable) of the three
    largest |eigenvalues| and of the number of eigenvalues above exp(-1/5), a time constant of 5 steps."""
    own = points.select(points.fixed)
    used = own.select(own.stable) if bool(own.stable.any()) else own
    size = used.eigenvalues.abs()
    largest = torch.full((3,), torch.nan, dtype=torch.float64)
    if len(used):
        leading = size[:, :3].mean(dim=0)
        largest[: len(leading)] = leading
    slow = float((size > math.exp(-0.2)).sum(dim=1).double().mean()) if len(used) else math.nan
    return [math.log1p(int(own.stable.sum())), math.log1p(int((~own.stable).sum())), *largest.tolist(), slow]
