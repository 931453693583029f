"""Fixed and slow points: minima of q(h) = 1/2 |h - F(h)|^2, reached from many states of many maps at once.

Levenberg-Marquardt with a damping that vanishes with the residual, so that the last steps are Newton's and q falls quadratically
(Fan and Yuan, Computing 74, 2005); minima where F(h) stays away from h are reached too, and from there the flow is followed to where it
ends. A fixed number of rows is in work; finished ones make room for the next, so memory does not depend on the number of starts. Where the
linearisation at a point already found predicts what is left, the row belongs to that point and is finished. The points are then polished
by Newton's method.

Legend: M maps, S starts of each, R rows in work, P points, N numbers of one state's neighbours, H numbers of the state.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dynamo_dist.analysis.dynamics.maps import Maps
from dynamo_dist.errors import InputError

# q below which a point is a fixed point: |h - F(h)| < 1.4e-12, some thousand times what rounding leaves at H = 64.
FIXED = 1e-24
# Speed |h - F(h)|, relative to the typical speed, below which a minimum of q is a slow point, and below which any state is one: in long
# flat valleys, which integrators have, the descent ends before it is at a minimum.
SLOW, CRAWLING = 0.05, 1e-3
# Distance, relative to the spread of the starts, within which two fixed points are one, and two slow ones: a flat minimum of q is reached
# less precisely than a fixed point.
SAME, SAME_SLOW = 1e-5, 1e-2
# Numbers of the Jacobians in work: what one step touches stays in a cache of a few MB.
_NUMBERS = 2**19
_ITERATIONS = 100
# Of q: below it a row is left to the polish. Of |A' r| / |r|, r = h - F(h), A its Jacobian: below it the row has come to a minimum of q that
# is no fixed point, or to a fixed point that is nearly degenerate; the polish shows which.
_NEAR, _STATIONARY = 1e-18, 1e-3
# Damping mu = kappa |r| / spread: kappa at the start.
_KAPPA = 0.1
# Of the flow from slow points: first step in time, in steps of the network; what the growth of the next ones is multiplied by; the longest
# way of one step and of all, in units of the spread.
_FIRST_STEP, _FASTER, _LONGEST, _FARTHEST = 10.0, 1.2, 0.25, 2.0
# A row is captured by a known point when the linearisation there predicts its distance within this share.
_CAPTURE = 0.1


@dataclass(frozen=True, kw_only=True)
class Points:
    """P fixed and slow points of M maps, by map and by q within a map; tensors on the CPU, float64 unless said."""

    # Map of every point, int64 (P,).
    map: Tensor
    # (P, H)
    state: Tensor
    # q and the speed |h - F(h)| there, (P,).
    q: Tensor
    speed: Tensor
    # Whether it is a fixed point (q < FIXED) or a slow one, bool (P,); the tolerance of q that accepted it, (P,).
    fixed: Tensor
    tolerance: Tensor
    # Starts that led to it, int64 (P,).
    starts: Tensor
    # Eigenvalues of the Jacobian, complex128 (P, H), the largest first; of the first few eigenvalues the right and left eigenvectors,
    # complex128 (P, H, L), columns, right ones of length 1 and left ones with left' right = 1.
    eigenvalues: Tensor
    right: Tensor
    left: Tensor

    def __len__(self) -> int:
        return len(self.map)

    @property
    def unstable(self) -> Tensor:
        """Unstable directions, eigenvalues outside of the unit circle, int64 (P,)."""
        return (self.eigenvalues.abs() > 1).sum(dim=1)

    @property
    def stable(self) -> Tensor:
        """Whether all eigenvalues are inside, bool (P,)."""
        return (self.eigenvalues.abs() < 1).all(dim=1)

    @property
    def time_constants(self) -> Tensor:
        """tau = 1 / |ln |lambda|| in steps, (P, H); inf on the unit circle, 0 of eigenvalue 0."""
        return 1 / self.eigenvalues.abs().log().abs()

    def select(self, index: Tensor) -> "Points":
        """Those where `index` says, positions or bool."""
        return Points(**{name: value[index] for name, value in vars(self).items()})

    def of(self, m: int, *, fixed: bool | None = None) -> "Points":
        """Those of one map; `fixed`: only fixed, or only slow points."""
        mask = self.map == m
        return self.select(mask if fixed is None else mask & (self.fixed == fixed))

    @staticmethod
    def cat(parts: "list[Points]") -> "Points":
        """Points of the same maps, one after the other."""
        return Points(**{name: torch.cat([vars(part)[name] for part in parts]) for name in vars(parts[0])})


# Eigenvectors that are kept of every point.
MODES = 8


def search(
    maps: Maps, starts_MSH: Tensor, *, typical_speed_M: Tensor | None = None, spread_M: Tensor | None = None, slow: bool = True
) -> Points:
    """All points that are reached from these states, (M, S, H).

    `typical_speed_M`: of the network on its inputs, the unit for slow points, by default the spread; `spread_M`: the unit of distance, by
    default the root mean square distance of the starts from their mean. `slow=False`: fixed points alone.
    Starts that end at a minimum of q with a large speed, or nowhere, give no point. Raises `InputError` where there are no starts.
    """
    starts_MSH = starts_MSH.double()
    if starts_MSH.shape[1] < 1:
        raise InputError(f"starts={starts_MSH.shape[1]}: the search needs at least 1 state to start from")
    if spread_M is None:
        spread_M = spread(starts_MSH)
    m_R = torch.arange(maps.count).repeat_interleave(starts_MSH.shape[1])
    return search_rows(maps, starts_MSH.flatten(0, 1), m_R, spread_M=spread_M, typical_speed_M=typical_speed_M, slow=slow)


def search_rows(
    maps: Maps, h_RH: Tensor, m_R: Tensor, *, spread_M: Tensor, typical_speed_M: Tensor | None = None, slow: bool = True
) -> Points:
    """`search` from rows, each with its map, as many of each map as there are."""
    typical_speed_M = spread_M if typical_speed_M is None else typical_speed_M
    minima = _Descent(maps, spread_M).run(h_RH, m_R)
    h_PH, r_PH = newton(maps, minima.state, minima.map)
    q_P = 0.5 * r_PH.square().sum(dim=1)
    fixed_P = q_P < FIXED
    slow_P = 0.5 * (torch.where(minima.stationary, SLOW, CRAWLING) * typical_speed_M[minima.map]).square()
    keep = fixed_P | (q_P < slow_P) if slow else fixed_P
    if not bool(keep.all()):
        h_PH, q_P, fixed_P, slow_P = h_PH[keep], q_P[keep], fixed_P[keep], slow_P[keep]
        minima = _Minima(state=h_PH, map=minima.map[keep], starts=minima.starts[keep], stationary=minima.stationary[keep])
    if not bool(fixed_P.all()):
        ends, q_E = _ends(maps, minima, ~fixed_P, spread_M)
        minima = _Minima(**{name: torch.cat([value, vars(ends)[name]]) for name, value in vars(minima).items()})
        h_PH, q_P = torch.cat([h_PH, ends.state]), torch.cat([q_P, q_E])
        fixed_P, slow_P = torch.cat([fixed_P, torch.ones(len(q_E), dtype=torch.bool)]), torch.cat([slow_P, torch.full_like(q_E, FIXED)])
    cluster_P = clusters(h_PH, 2 * minima.map + fixed_P, torch.stack([SAME_SLOW * spread_M, SAME * spread_M], dim=1).flatten())
    order = torch.argsort(q_P, stable=True)
    order = order[torch.argsort(cluster_P[order], stable=True)]
    first = torch.ones(len(order), dtype=torch.bool)
    first[1:] = cluster_P[order][1:] != cluster_P[order][:-1]
    starts = torch.zeros(len(order), dtype=torch.int64).index_add_(0, cluster_P, minima.starts)
    best = order[first]
    best = best[torch.argsort(q_P[best], stable=True)]
    best = best[torch.argsort(minima.map[best], stable=True)]
    h_PH, map_P, q_P = h_PH[best], minima.map[best], q_P[best]
    values, right, left = spectrum(maps, h_PH, map_P)
    return Points(
        map=map_P,
        state=h_PH,
        q=q_P,
        speed=(2 * q_P).sqrt(),
        fixed=fixed_P[best],
        tolerance=torch.where(fixed_P[best], torch.full_like(q_P, FIXED), slow_P[best]),
        starts=starts[cluster_P[best]],
        eigenvalues=values,
        right=right,
        left=left,
    )


def _ends(maps: Maps, minima: "_Minima", slow_P: Tensor, spread_M: Tensor) -> tuple["_Minima", Tensor]:
    """The fixed points that the flow from slow points goes to, with the starts of these, and q there."""
    index = slow_P.nonzero()[:, 0]
    map_P = minima.map[index]
    h_PH, r_PH = newton(maps, follow(maps, minima.state[index], map_P, spread_M), map_P)
    q_P = 0.5 * r_PH.square().sum(dim=1)
    # Who goes on for ever, ever slower, is at rest nowhere.
    there = (q_P < FIXED) & ((h_PH - minima.state[index]).norm(dim=1) < _FARTHEST * spread_M[map_P])
    ends = _Minima(state=h_PH[there], map=map_P[there], starts=minima.starts[index[there]], stationary=there[there])
    return ends, q_P[there]


def follow(maps: Maps, h_PH: Tensor, m_P: Tensor, spread_M: Tensor) -> Tensor:
    """States (P, H) that the flow dh/dt = F(h) - h goes to from these, or is on its way to: the stable points at the end of a valley that is
    so flat that a network takes thousands of steps through it, and that a descent of q ends in.

    Pseudo-transient continuation: implicit steps in time, longer as |F(h) - h| falls (Kelley and Keyes, SIAM J. Numer. Anal. 35, 1998), and
    no longer than `spread_M` allows: far from where a network goes it may have fixed points that no flow leads to.
    """
    h_PH = h_PH.clone()
    for rows in torch.arange(len(h_PH)).split(max(16, _NUMBERS // maps.size**2)):
        left, time = rows, torch.full((len(rows),), _FIRST_STEP, dtype=torch.float64)
        r, a = _residual(maps, h_PH[left], m_P[left])
        for _ in range(_ITERATIONS):
            implicit = a.clone()
            implicit.diagonal(dim1=1, dim2=2).add_(1 / time[:, None])
            step, failed = torch.linalg.solve_ex(implicit, r[:, :, None])
            h = h_PH[left] - step[:, :, 0]
            r_new, a_new = _residual(maps, h, m_P[left])
            near = step[:, :, 0].norm(dim=1) < _LONGEST * spread_M[m_P[left]]
            taken = near & (failed == 0) & r_new.isfinite().all(dim=1)
            h_PH[left[taken]] = h[taken]
            faster = (r.norm(dim=1) / r_new.norm(dim=1)).clamp(0.5, 2) * _FASTER
            time = time * torch.where(taken, faster, torch.full_like(time, 0.25))
            r, a = torch.where(taken[:, None], r_new, r), torch.where(taken[:, None, None], a_new, a)
            going = 0.5 * r.square().sum(dim=1) > _NEAR
            if not bool(going.any()):
                break
            left, time, r, a = left[going], time[going], r[going], a[going]
    return h_PH


def spread(h_MSH: Tensor) -> Tensor:
    """Root mean square distance from the mean, (M,); 1 where all are the same."""
    size = (h_MSH - h_MSH.mean(dim=1, keepdim=True)).square().sum(dim=2).mean(dim=1).sqrt()
    return torch.where(size > 0, size, torch.ones_like(size))


@dataclass(frozen=True, kw_only=True)
class _Minima:
    """Where rows ended: states (P, H), maps (P,), starts that led there (P,), and whether q is stationary (P,)."""

    state: Tensor
    map: Tensor
    starts: Tensor
    stationary: Tensor


class _Descent:
    """The rows in work."""

    def __init__(self, maps: Maps, spread_M: Tensor) -> None:
        self._maps, self._spread = maps, spread_M
        self._rows = max(16, _NUMBERS // maps.size**2)
        size = maps.size
        # What has been found: states, inverses of I - J there, maps, starts that ended there, stationarity.
        self._states, self._inverses = torch.empty(0, size, dtype=torch.float64), torch.empty(0, size, size, dtype=torch.float64)
        self._owner, self._starts = torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
        self._stationary = torch.empty(0, dtype=torch.bool)

    def run(self, h_RH: Tensor, m_R: Tensor) -> _Minima:
        work: dict[str, Tensor] = {}
        taken = 0
        while taken < len(h_RH) or len(work["h"]):
            room = self._rows - (len(work["h"]) if work else 0)
            # New rows come in batches: evaluating a few at a time costs as much as many.
            if taken < len(h_RH) and (not work or room >= self._rows // 4):
                new = self._enter(h_RH[taken : taken + room], m_R[taken : taken + room])
                work = {name: torch.cat([work[name], new[name]]) for name in work} if work else new
                taken += room
                work = self._leave(work)
            if len(work["h"]):
                self._step(work)
                work = self._leave(work)
        return _Minima(state=self._states, map=self._owner, starts=self._starts, stationary=self._stationary)

    def _enter(self, h_RH: Tensor, m_R: Tensor) -> dict[str, Tensor]:
        r_RH, a_RHH = _residual(self._maps, h_RH, m_R)
        one = torch.ones(len(h_RH), dtype=torch.float64)
        return {
            "h": h_RH.clone(), "m": m_R, "r": r_RH, "a": a_RHH, "q": 0.5 * r_RH.square().sum(dim=1), "kappa": _KAPPA * one, "growth": 2 * one,
            "age": torch.zeros(len(h_RH), dtype=torch.int64), "gradient": torch.bmm(r_RH[:, None], a_RHH)[:, 0],
        }  # fmt: skip

    def _step(self, work: dict[str, Tensor]) -> None:
        """One step of all rows; those whose q would grow stay and get more damping."""
        a, q, gradient = work["a"], work["q"], work["gradient"]
        normal = torch.bmm(a.mT, a)
        damping = work["kappa"] * (2 * q).sqrt() / self._spread[work["m"]]
        normal.diagonal(dim1=1, dim2=2).add_(damping.clamp(min=1e-14)[:, None])
        factor, failed = torch.linalg.cholesky_ex(normal)
        step = torch.cholesky_solve(gradient[:, :, None], factor)[:, :, 0]
        h_new = work["h"] - step
        r_new, a_new = _residual(self._maps, h_new, work["m"])
        q_new = 0.5 * r_new.square().sum(dim=1)
        predicted = 0.5 * (step * (gradient + damping[:, None] * step)).sum(dim=1)
        gain = (q - q_new) / predicted
        better = (q_new < q) & (failed == 0)
        # Nielsen's rule for the damping (Madsen, Nielsen, Tingleff, Methods for non-linear least squares problems, 2004).
        shrink = (1 - (2 * gain - 1) ** 3).clamp(1 / 3, 2)
        work["kappa"] *= torch.where(better, shrink, work["growth"])
        work["growth"] = torch.where(better, torch.full_like(gain, 2.0), 2 * work["growth"])
        work["age"] += 1
        index = better.nonzero()[:, 0]
        if len(index) == len(better):
            work["h"], work["r"], work["a"], work["q"] = h_new, r_new, a_new, q_new
        else:
            for name, new in (("h", h_new), ("r", r_new), ("a", a_new), ("q", q_new)):
                work[name][index] = new[index]
        work["gradient"] = torch.bmm(work["r"][:, None], work["a"])[:, 0]

    def _leave(self, work: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take out what is finished, and keep where it came to."""
        size = (2 * work["q"]).sqrt()
        near = work["q"] < _NEAR
        stationary = work["gradient"].norm(dim=1) < _STATIONARY * size
        stuck = (work["age"] >= _ITERATIONS) | (work["growth"] > 2**20) | ~work["q"].isfinite()
        finished = near | stationary | stuck
        captured = self._capture(work, finished)
        if bool(finished.any()):
            self._record(work, finished, near | stationary)
            finished_or_captured = finished | captured
        else:
            finished_or_captured = captured
        if not bool(finished_or_captured.any()):
            return work
        keep = (~finished_or_captured).nonzero()[:, 0]
        return {name: value[keep] for name, value in work.items()}

    def _capture(self, work: dict[str, Tensor], finished: Tensor) -> Tensor:
        """Rows that the linearisation at a known point predicts; that point gets their starts."""
        m = work["m"]
        known = ((self._owner >= m.min()) & (self._owner <= m.max())).nonzero()[:, 0]
        if not len(known):
            return torch.zeros_like(finished)
        states = self._states[known]
        # |h - z|^2 by products: only the nearest is wanted.
        distance = states.square().sum(dim=1) - 2 * work["h"] @ states.T
        distance.masked_fill_(self._owner[known] != m[:, None], math.inf)
        least, nearest = distance.min(dim=1)
        offset = work["h"] - states[nearest]
        point = known[nearest]
        predicted = torch.bmm(self._inverses[point], work["r"][:, :, None])[:, :, 0]
        captured: Tensor = (predicted - offset).norm(dim=1) <= _CAPTURE * offset.norm(dim=1)
        captured &= least.isfinite() & ~finished
        self._starts.index_add_(0, point[captured], torch.ones_like(point[captured]))
        return captured

    def _record(self, work: dict[str, Tensor], finished: Tensor, sound: Tensor) -> None:
        index = finished.nonzero()[:, 0]
        # Of rows that came to one place in this step one is kept, with the starts of all.
        cluster = clusters(work["h"][index], work["m"][index], SAME * self._spread)
        count = int(cluster.max()) + 1
        first = torch.full((count,), len(index)).scatter_reduce_(0, cluster, torch.arange(len(index)), "amin")
        starts = torch.bincount(cluster, minlength=count)
        index = index[first]
        inverse, failed = torch.linalg.inv_ex(work["a"][index])
        # A slow point captures nothing: its residual does not vanish.
        inverse[(failed != 0) | (work["q"][index] >= _NEAR)] = math.nan
        self._states = torch.cat([self._states, work["h"][index]])
        self._inverses = torch.cat([self._inverses, inverse])
        self._owner = torch.cat([self._owner, work["m"][index]])
        self._starts = torch.cat([self._starts, starts])
        self._stationary = torch.cat([self._stationary, sound[index]])


def _residual(maps: Maps, h_RH: Tensor, m_R: Tensor) -> tuple[Tensor, Tensor]:
    """h - F(h), and its Jacobian I - J."""
    new_RH, j_RHH = maps.jacobian(h_RH, m_R)
    a_RHH = j_RHH.neg()
    a_RHH.diagonal(dim1=1, dim2=2).add_(1)
    return h_RH - new_RH, a_RHH


def newton(maps: Maps, h_PH: Tensor, m_P: Tensor, *, steps: int = 10) -> tuple[Tensor, Tensor]:
    """Newton's method for h = F(h) where it lowers q: states and what is left, (P, H) both."""
    h_PH = h_PH.clone()
    r_PH = torch.empty_like(h_PH)
    block = max(16, _NUMBERS // maps.size**2)
    for rows in torch.arange(len(h_PH)).split(block):
        h, m = h_PH[rows], m_P[rows]
        r, a = _residual(maps, h, m)
        for _ in range(steps):
            step, failed = torch.linalg.solve_ex(a, r[:, :, None])
            h_new = h - step[:, :, 0]
            r_new, a_new = _residual(maps, h_new, m)
            better = (r_new.norm(dim=1) < r.norm(dim=1)) & (failed == 0)
            if not bool(better.any()):
                break
            h, r, a = torch.where(better[:, None], h_new, h), torch.where(better[:, None], r_new, r), torch.where(better[:, None, None], a_new, a)
        h_PH[rows], r_PH[rows] = h, r
    return h_PH, r_PH


def clusters(h_PH: Tensor, m_P: Tensor, radius_M: Tensor) -> Tensor:
    """Number of the cluster of every point, int64 (P,): points of one kind (map), `m_P`, within its radius are linked."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = []
    for rows in torch.arange(len(h_PH)).split(512):
        # The candidates by products, whose rounding is of the order 1e-8; then exactly.
        square = h_PH.square().sum(dim=1)
        near = (square[rows, None] + square - 2 * h_PH[rows] @ h_PH.T) < radius_M[m_P[rows], None] ** 2 + 1e-10 * (1 + square)
        a, b = (near & (m_P[rows, None] == m_P)).nonzero(as_tuple=True)
        a = rows[a]
        close = (h_PH[a] - h_PH[b]).norm(dim=1) <= radius_M[m_P[a]]
        links.append(torch.stack([a[close], b[close]]))
    if not links:
        return torch.empty(0, dtype=torch.int64)
    a, b = torch.cat(links, dim=1).numpy()
    graph = coo_array((torch.ones(len(a)).numpy(), (a, b)), shape=(len(h_PH), len(h_PH)))
    return torch.from_numpy(connected_components(graph, directed=False)[1].astype("int64"))


def spectrum(maps: Maps, h_PH: Tensor, m_P: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues (P, H), the largest first, and the first right and left eigenvectors (P, H, L) of the Jacobian at points.

    Left ones are rows of the inverse of the right ones, conjugated; NaN where the Jacobian is defective.
    """
    size, modes = maps.size, min(MODES, maps.size)
    values = torch.empty(len(h_PH), size, dtype=torch.complex128)
    right, left = (torch.empty(len(h_PH), size, modes, dtype=torch.complex128) for _ in range(2))
    for rows in torch.arange(len(h_PH)).split(256):
        found, vectors = torch.linalg.eig(maps.jacobian(h_PH[rows], m_P[rows])[1])
        order = found.abs().argsort(dim=1, descending=True, stable=True)
        vectors = vectors.gather(2, order[:, None].expand_as(vectors))
        inverse, failed = torch.linalg.inv_ex(vectors)
        inverse[failed != 0] = math.nan
        values[rows] = found.gather(1, order)
        right[rows], left[rows] = vectors[:, :, :modes], inverse[:, :modes].mH
    return values, right, left
