"""Slow sets: states that hardly move at a fixed input, the attractors of integrators, and how many dimensions such a set has.

Visited states are brought down to them by steps that relax the fast directions and leave slow ones where they are: Gauss-Newton with a
constant damping mu moves a direction in which h - F(h) has slope s by a share s^2 / (s^2 + mu).

Legend: M maps, S states of each, R rows, K neighbours, H numbers of the state, C outputs.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dynamo_dist.analysis.dynamics.maps import Maps
from dynamo_dist.analysis.dynamics.points import SLOW, spread

# Of a direction with a time constant of 10 steps (slope 0.1) 1/250 is left, of one with 50 steps three quarters.
_DAMPING, _STEPS = 0.01, 8
# A state whose step is this part of the typical speed is where it will be.
_RELAXED = 1e-3
_NUMBERS = 2**19
# States of a set that are compared: of those nearer than RESOLUTION (of the spread of the visited states) one is kept.
_RESOLUTION, _MOST = 0.02, 600
# Of these, whose spectrum is looked at.
_SPECTRA = 16
# A neighbourhood is a state and its 20 nearest; where the farthest is beyond this part of the spread, the state is isolated.
_NEIGHBOURS, _REACH = 20, 0.5
# Time constant in steps from which a direction counts as slow.
SLOW_STEPS = 20


@dataclass(frozen=True, kw_only=True)
class SlowSet:
    """The slow states of one map."""

    # Of the starts, the share that reached a speed below SLOW of the typical one.
    share: float
    # Median dimension of the neighbourhoods (participation ratio of the local covariance), 0 of isolated points; NaN of an empty set.
    dimension: float
    # Longest way inside of the set, from neighbour to neighbour, in units of the spread of the visited states.
    length: float
    # Median number of directions with a time constant of SLOW_STEPS and more.
    slow_directions: float
    # Share of the slow directions (as many as the dimension says, at least 1) that lies in the span of the readout's weights, 0 to 1, and
    # what random directions would give; NaN where the readout is not known.
    alignment: float
    chance: float
    # The states, (N, H), at most 600.
    states: np.ndarray


def slow_states(maps: Maps, starts_MSH: Tensor, speed_M: Tensor) -> tuple[Tensor, Tensor]:
    """States that the starts relax to, (M, S, H), and whether they are slow, speed below SLOW of `speed_M`, bool (M, S)."""
    h_RH, m_R = starts_MSH.flatten(0, 1).clone(), torch.arange(maps.count).repeat_interleave(starts_MSH.shape[1])
    slow_R = torch.zeros(len(h_RH), dtype=torch.bool)
    for rows in torch.arange(len(h_RH)).split(max(16, _NUMBERS // maps.size**2)):
        left = rows
        for _ in range(_STEPS):
            h, m = h_RH[left], m_R[left]
            new, j = maps.jacobian(h, m)
            a = -j
            a.diagonal(dim1=1, dim2=2).add_(1)
            normal = torch.bmm(a.mT, a)
            normal.diagonal(dim1=1, dim2=2).add_(_DAMPING)
            step = torch.cholesky_solve(torch.bmm(a.mT, (h - new)[:, :, None]), torch.linalg.cholesky(normal))[:, :, 0]
            h_RH[left] = h - step
            left = left[step.norm(dim=1) > _RELAXED * speed_M[m]]
            if not len(left):
                break
        h, m = h_RH[rows], m_R[rows]
        slow_R[rows] = (h - maps.step(h, m)).norm(dim=1) < SLOW * speed_M[m]
    return h_RH.view_as(starts_MSH), slow_R.view(starts_MSH.shape[:2])


def slow_sets(maps: Maps, starts_MSH: Tensor, speed_M: Tensor, readout_MHC: Tensor | None = None) -> list[SlowSet]:
    """The slow set of every map, from visited states (M, S, H). `speed_M`: the typical speed; `readout_MHC`: weights of the readout."""
    states_MSH, slow_MS = slow_states(maps, starts_MSH, speed_M)
    sets = []
    for m, scale in enumerate(spread(starts_MSH).tolist()):
        states = _thinned(states_MSH[m, slow_MS[m]].numpy(), _RESOLUTION * scale)
        dimension, length, directions, alignment, chance = (math.nan,) * 5
        if len(states):
            dimension, length = intrinsic_dimension(states, scale), geodesic_length(states, scale) / scale
            h_RH = torch.from_numpy(states[np.linspace(0, len(states) - 1, min(_SPECTRA, len(states))).astype(int)])
            values, vectors = torch.linalg.eig(maps.jacobian(h_RH, torch.full((len(h_RH),), m))[1])
            directions = float((values.abs() > math.exp(-1 / SLOW_STEPS)).sum(dim=1).double().median())
            if readout_MHC is not None:
                alignment, chance = _alignment(values, vectors, readout_MHC[m], max(1, round(dimension)))
        sets.append(
            SlowSet(
                share=float(slow_MS[m].double().mean()),
                dimension=dimension,
                length=length,
                slow_directions=directions,
                alignment=alignment,
                chance=chance,
                states=states,
            )
        )
    return sets


def intrinsic_dimension(states_NH: np.ndarray, scale: float) -> float:
    """Median over states of the participation ratio (sum l)^2 / sum l^2 of the eigenvalues l of the covariance of a neighbourhood.

    Both sums are corrected for the number of neighbours as for normal samples, else 20 points of a plane have 1.8 dimensions. A state
    without 20 neighbours within half of `scale`, the spread of what is visited, is isolated: dimension 0.
    """
    if len(states_NH) <= _NEIGHBOURS:
        return 0.0
    from sklearn.neighbors import NearestNeighbors

    distance, index = NearestNeighbors(n_neighbors=_NEIGHBOURS + 1).fit(states_NH).kneighbors(states_NH)
    local = states_NH[index] - states_NH[index].mean(axis=1, keepdims=True)
    # The Gram matrix has the covariance's eigenvalues.
    gram = local @ local.transpose(0, 2, 1) / _NEIGHBOURS
    n = _NEIGHBOURS
    square, squares = np.trace(gram, axis1=1, axis2=2) ** 2, (gram**2).sum(axis=(1, 2))
    squares = (squares - square / n) / (1 + 1 / n - 2 / n**2)
    ratio = (square - 2 * squares / n) / squares
    return float(np.median(np.where(distance[:, -1] > _REACH * scale, 0.0, ratio)))


def geodesic_length(states_NH: np.ndarray, scale: float) -> float:
    """Longest of the shortest ways between states that go from a state to one of its 10 nearest, no farther than half of `scale`."""
    if len(states_NH) < 2:
        return 0.0
    from scipy.sparse.csgraph import shortest_path
    from sklearn.neighbors import kneighbors_graph

    graph = kneighbors_graph(states_NH, min(10, len(states_NH) - 1), mode="distance")
    graph.data[graph.data > _REACH * scale] = 0
    graph.eliminate_zeros()
    way = shortest_path(graph, directed=False)
    return float(way[np.isfinite(way)].max())


def _thinned(states_NH: np.ndarray, resolution: float) -> np.ndarray:
    """One state of each cell of a grid over the first principal components, at most 600."""
    if len(states_NH) < 2:
        return states_NH
    centred = states_NH - states_NH.mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:4]
    # A cell's diagonal is the resolution.
    cells = np.round(centred @ axes.T / (resolution / 2))
    first = np.sort(np.unique(cells, axis=0, return_index=True)[1])
    kept_NH: np.ndarray = states_NH[first[np.linspace(0, len(first) - 1, min(_MOST, len(first))).round().astype(int)]]
    return kept_NH


def _alignment(values: Tensor, vectors: Tensor, readout_HC: Tensor, dimension: int) -> tuple[float, float]:
    """Share of the slowest directions in the span of the readout, mean over states, and rank / H, what random directions give."""
    u, s, _ = torch.linalg.svd(readout_HC, full_matrices=False)
    basis_HC = u[:, s > 1e-9 * s.max().clamp(min=1e-300)]
    order = values.abs().argsort(dim=1, descending=True)[:, None, :dimension].expand(-1, vectors.shape[1], -1)
    slowest = vectors.gather(2, order)
    # Of a complex pair both are conjugates: real and imaginary parts span the same plane.
    basis, size, _ = torch.linalg.svd(torch.cat([slowest.real, slowest.imag], dim=2), full_matrices=False)
    weight = (torch.arange(size.shape[1]) < dimension).double() * (size > 1e-9)
    inside = (basis_HC.T @ basis).square().sum(dim=1)
    return float(((inside * weight).sum(dim=1) / weight.sum(dim=1)).mean()), basis_HC.shape[1] / len(readout_HC)
