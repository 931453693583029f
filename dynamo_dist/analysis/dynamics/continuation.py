"""Fixed points along a path: continued from step to step and also searched cold, and the bifurcations on the way.

A path is a family of maps over a parameter s. From step to step points follow their tangent dh/ds = (I - J)^-1 dF/ds and Newton's method;
what a cold search finds at a step and the continuation did not is a birth. Where number or stability changes between two steps, the
place is found by bisection and named by the eigenvalue that crosses the unit circle (Kuznetsov, Elements of Applied Bifurcation Theory,
chapters 4 and 7):

    saddle-node      +1, two points appear or vanish          flip              -1
    pitchfork        +1, a point changes stability and        Neimark-Sacker    a complex pair
                     two appear or vanish around it

Legend: P steps of the path, S starts, R rows, N points of all steps, H numbers of the state, D embedding dimensions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dynamo_dist.analysis.dynamics.maps import Maps
from dynamo_dist.analysis.dynamics.networks import dynamics_at, input_features, meta_cells
from dynamo_dist.analysis.dynamics.points import FIXED, SAME, Points, newton, search, search_rows, spread
from dynamo_dist.errors import InputError
from dynamo_dist.metamodel import MetaModel

# Width, relative to the path, to which a bifurcation is bracketed.
LOCATED = 1e-6
# How far from the unit circle an eigenvalue may be there: beside a saddle-node it is off by the root of the bracket's width.
_CROSSING = 0.05
# Step of the difference that gives dF/ds, relative to the path.
_DIFFERENCE = 1e-6
# Bifurcations between two steps that are told apart.
_MOST = 16

Family = Callable[[Tensor], Maps]


@dataclass(frozen=True, kw_only=True)
class Bifurcation:
    # saddle-node, pitchfork, flip or Neimark-Sacker; "unresolved" where points come or go and none of these explains it.
    kind: str
    # Parameter, to LOCATED of the path; the point (H,) and its eigenvalue next to the unit circle.
    at: float
    state: Tensor
    eigenvalue: complex
    # Stable and unstable points before and after.
    before: tuple[int, int]
    after: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Path:
    """The fixed points at every step of a path."""

    # Parameters (P,), in order; `points.map` is the step.
    parameter: Tensor
    points: Points
    # Number of the branch of every point, int64 (N,): points that are continued into each other.
    branch: Tensor
    # Whether a point was found by the cold search of its step, and whether by continuation, bool (N,).
    cold: Tensor
    continued: Tensor
    bifurcations: tuple[Bifurcation, ...]

    def counts(self) -> Tensor:
        """Stable and unstable points at every step, int64 (P, 2)."""
        steps = len(self.parameter)
        kinds = (self.points.stable, ~self.points.stable)
        return torch.stack([torch.bincount(self.points.map[kind], minlength=steps) for kind in kinds], dim=1)


def continue_points(family: Family, parameter_P: Tensor, starts_PSH: Tensor) -> Path:
    """Fixed points of `family`, which gives the maps at parameters (P,), at increasing parameters from starts (P, S, H) at every step."""
    parameter_P, starts_PSH = parameter_P.double(), starts_PSH.double()
    if len(parameter_P) < 2 or not bool((parameter_P.diff() > 0).all()):
        raise InputError("a path needs at least 2 steps with increasing parameters")
    scale = spread(starts_PSH.flatten(0, 1)[None])
    maps, length = family(parameter_P), float(parameter_P[-1] - parameter_P[0])
    step_M = scale.expand(maps.count)
    cold = search(maps, starts_PSH, spread_M=step_M, slow=False)
    slope = _Slope(family, parameter_P, length * _DIFFERENCE)
    h_NH, m_N, continued_N = cold.state, cold.map, torch.zeros(len(cold), dtype=torch.bool)
    # Forwards and then backwards, so that a point that one step missed comes from the next.
    for direction in (1, -1):
        for step in range(len(parameter_P))[::direction][1:]:
            before, here = m_N == step - direction, (m_N == step).nonzero()[:, 0]
            landed = _follow(maps, slope, parameter_P, h_NH[before], m_N[before], direction)
            near = _nearest(landed, h_NH[here], SAME * scale)
            continued_N[here[near[near >= 0]]] = True
            new = _unique(landed[near < 0], SAME * scale)
            h_NH, m_N = torch.cat([h_NH, new]), torch.cat([m_N, torch.full((len(new),), step)])
            continued_N = torch.cat([continued_N, torch.ones(len(new), dtype=torch.bool)])
    points = search_rows(maps, h_NH, m_N, spread_M=step_M, slow=False)
    source = torch.cat(
        [_nearest(points.state[points.map == k], h_NH[m_N == k], SAME * scale, (m_N == k).nonzero()[:, 0]) for k in range(maps.count)]
    )
    is_cold = torch.arange(len(h_NH)) < len(cold)
    return Path(
        parameter=parameter_P,
        points=points,
        branch=_branches(maps, slope, parameter_P, points, SAME * scale),
        cold=is_cold[source],
        continued=continued_N[source],
        bifurcations=_bifurcations(family, parameter_P, points, scale, length * LOCATED),
    )


def theta_path(
    meta: MetaModel, theta_PD: np.ndarray | Tensor, *, data: str | None = None, input: str = "zero", starts: int = 100, seed: int = 0
) -> Path:
    """Fixed points of the meta-model along a path through embedding space, for example a straight line between two groups' centres.

    `theta_PD`: 20 to 50 vectors; between them theta is interpolated, and the parameter runs from 0 to 1 in equal steps. `data`: whose
    inputs it reads, needed where there are several data sets; `input`: zero, mean or neutral; `starts`: visited states at every step.
    """
    theta_PD = torch.as_tensor(theta_PD).double()
    data = meta.data_name(data)
    dynamics = dynamics_at(meta, theta_PD, data, ids=[str(step) for step in range(len(theta_PD))], starts=starts, seed=seed)
    if input not in dynamics.maps:
        raise InputError(f"input={input!r}: expected one of {', '.join(dynamics.maps)}")
    x_F = input_features(meta, data, input, dynamics.neutral)

    def family(parameter: Tensor) -> Maps:
        place = (parameter.clamp(0, 1) * (len(theta_PD) - 1)).clamp(max=len(theta_PD) - 1 - 1e-12)
        left = place.long()
        theta = torch.lerp(theta_PD[left], theta_PD[left + 1], (place - left)[:, None])
        return meta_cells(meta, theta, data).at(x_F.expand(len(theta), -1))

    return continue_points(family, torch.linspace(0, 1, len(theta_PD), dtype=torch.float64), dynamics.visited)


class _Slope:
    """dF/ds at points of the path's maps, by a central difference."""

    def __init__(self, family: Family, parameter_P: Tensor, width: float) -> None:
        self._above, self._below, self._width = family(parameter_P + width), family(parameter_P - width), width

    def __call__(self, h_RH: Tensor, m_R: Tensor) -> Tensor:
        return (self._above.step(h_RH, m_R) - self._below.step(h_RH, m_R)) / (2 * self._width)


def _follow(maps: Maps, slope: _Slope, parameter_P: Tensor, h_RH: Tensor, m_R: Tensor, direction: int) -> Tensor:
    """Where fixed points (R, H) lead to one step on; NaN where Newton's method does not arrive."""
    if not len(h_RH):
        return h_RH
    _, j = maps.jacobian(h_RH, m_R)
    tangent, failed = torch.linalg.solve_ex(torch.eye(maps.size, dtype=torch.float64) - j, slope(h_RH, m_R)[:, :, None])
    tangent[failed != 0] = 0
    ahead = m_R + direction
    landed, left = newton(maps, h_RH + tangent[:, :, 0] * (parameter_P[ahead] - parameter_P[m_R])[:, None], ahead, steps=20)
    # Beside a bifurcation the tangent leads far away: there the point itself is the better guess.
    lost = (0.5 * left.square().sum(dim=1) >= FIXED).nonzero()[:, 0]
    landed[lost], left[lost] = newton(maps, h_RH[lost], ahead[lost], steps=20)
    landed[0.5 * left.square().sum(dim=1) >= FIXED] = torch.nan
    return landed


def _nearest(h_AH: Tensor, h_BH: Tensor, radius: Tensor, index_B: Tensor | None = None) -> Tensor:
    """For every state the number of the nearest of others within the radius, or its entry in `index_B`; -1 where there is none."""
    if not len(h_BH) or not len(h_AH):
        return torch.full((len(h_AH),), -1)
    distance, near = torch.cdist(h_AH, h_BH, compute_mode="donot_use_mm_for_euclid_dist").nan_to_num(torch.inf).min(dim=1)
    return torch.where(distance <= radius, near if index_B is None else index_B[near], -1)


def _unique(h_RH: Tensor, radius: Tensor) -> Tensor:
    """Finite states, one of each group within the radius."""
    h_RH = h_RH[h_RH.isfinite().all(dim=1)]
    if not len(h_RH):
        return h_RH
    first = torch.cdist(h_RH, h_RH, compute_mode="donot_use_mm_for_euclid_dist").le(radius).int().argmax(dim=1)
    return h_RH[first == torch.arange(len(h_RH))]


def _branches(maps: Maps, slope: _Slope, parameter_P: Tensor, points: Points, radius: Tensor) -> Tensor:
    """Points are on one branch that lead to each other, forwards and backwards."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    leads = {}
    for direction in (1, -1):
        inside = ((points.map + direction >= 0) & (points.map + direction < maps.count)).nonzero()[:, 0]
        landed = _follow(maps, slope, parameter_P, points.state[inside], points.map[inside], direction)
        to = torch.full((len(points),), -1)
        for step in points.map[inside].unique():
            rows, there = points.map[inside] == step, (points.map == step + direction).nonzero()[:, 0]
            to[inside[rows]] = _nearest(landed[rows], points.state[there], radius, there)
        leads[direction] = to
    ahead = leads[1]
    here = ((ahead >= 0) & (leads[-1][ahead] == torch.arange(len(points)))).nonzero()[:, 0].numpy()
    links = coo_array((np.ones(len(here)), (here, ahead[here].numpy())), shape=(len(points), len(points)))
    return torch.from_numpy(connected_components(links, directed=False)[1].astype(np.int64))


def _signature(points: Points) -> list[int]:
    return sorted(points.unstable.tolist())


def _bifurcations(family: Family, parameter_P: Tensor, points: Points, scale: Tensor, width: float) -> tuple[Bifurcation, ...]:
    """Those between steps whose points differ in number or stability."""
    ends = [points.of(step) for step in range(len(parameter_P))]
    open_ = [
        (float(parameter_P[k]), float(parameter_P[k + 1]), ends[k], ends[k + 1])
        for k in range(len(parameter_P) - 1)
        if _signature(ends[k]) != _signature(ends[k + 1])
    ]
    found: list[Bracket] = []
    # Of several between two steps the first is found, then the first of what is left.
    for _ in range(_MOST):
        if not open_:
            break
        left = []
        for (_, end, _, last), (low, high, before, after) in zip(open_, _bisect(family, open_, scale, width), strict=True):
            found.append((low, high, before, after))
            if _signature(after) != _signature(last) and end > high:
                left.append((high, end, after, last))
        open_ = left
    named: list[tuple[Bracket, Bifurcation]] = []
    for low, high, before, after in sorted(found, key=lambda one: one[0]):
        if named and named[-1][1].kind == "unresolved" and low - named[-1][0][1] <= 2 * width:
            # At a pitchfork the stability of a point may be seen to change a step of the bisection before those beside it are seen.
            low, _, before, _ = named.pop()[0]
        named.append(((low, high, before, after), _classified(before, after, (low + high) / 2, scale)))
    return tuple(one for _, one in named)


Bracket = tuple[float, float, Points, Points]


def _bisect(family: Family, brackets: list[Bracket], scale: Tensor, width: float) -> list[Bracket]:
    """The first change in each, to the width; all of them at once."""
    brackets = list(brackets)
    while any(high - low > width for low, high, _, _ in brackets):
        maps = family(torch.tensor([(low + high) / 2 for low, high, _, _ in brackets], dtype=torch.float64))
        sides = [torch.cat([before.state, after.state]) for _, _, before, after in brackets]
        m_R = torch.arange(len(sides)).repeat_interleave(torch.tensor([len(side) for side in sides]))
        middles = search_rows(maps, torch.cat(sides), m_R, spread_M=scale.expand(len(sides)), slow=False)
        for i, (low, high, before, after) in enumerate(brackets):
            middle, own = (low + high) / 2, middles.of(i)
            brackets[i] = (middle, high, own, after) if _signature(own) == _signature(before) else (low, middle, before, own)
    return brackets


def _classified(before: Points, after: Points, at: float, scale: Tensor) -> Bifurcation:
    """What happens between two sets of points that are a bracket's width apart."""
    counts = [(int(side.stable.sum()), int((~side.stable).sum())) for side in (before, after)]
    few, many = (before, after) if len(before) <= len(after) else (after, before)
    # Each point of the smaller set goes on as the nearest of the larger.
    partner = _nearest(few.state, many.state, torch.full((1,), torch.inf, dtype=torch.float64))
    new = torch.ones(len(many), dtype=torch.bool)
    new[partner] = False
    changed = few.unstable != many.unstable[partner]

    def made(kind: str, points: Points, near: str) -> Bifurcation:
        """Of the points the one whose eigenvalue is nearest to 1, or to the unit circle."""
        away = (points.eigenvalues - 1).abs() if near == "one" else (points.eigenvalues.abs() - 1).abs()
        row, column = divmod(int(away.argmin()), away.shape[1])
        if float(away[row, column]) > _CROSSING:
            kind = "unresolved"
        state = points.state.mean(dim=0) if kind == "saddle-node" and len(points) == 2 else points.state[row]
        eigenvalue = complex(points.eigenvalues[row, column])
        return Bifurcation(kind=kind, at=at, state=state, eigenvalue=eigenvalue, before=counts[0], after=counts[1])

    if bool(new.any()):
        born, persisting = many.select(new), few.select(changed)
        if len(persisting) and len(born) >= 2:
            around = torch.cdist(persisting.state, born.state).amin(dim=1) < 0.1 * scale
            if bool(around.any()):
                return made("pitchfork", persisting.select(around), "one")
        return made("saddle-node", born, "one")
    own = few.select(changed)
    crossing = made("", own, "circle")
    if abs(crossing.eigenvalue.imag) > 1e-6:
        return made("Neimark-Sacker", own, "circle")
    return made("flip" if crossing.eigenvalue.real < 0 else "unresolved", own, "circle")
