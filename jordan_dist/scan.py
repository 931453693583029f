"""scan_exceptional_points(): all exceptional points in a window of the parameters, with the count that proves that none is missing.

The discriminant of a group of eigenvalues, the product of all (l_i - l_j)^2, is an analytic function of a complex parameter where
other eigenvalues join no eigenvalue of the group. It has a simple zero at every exceptional point of two of them, so that its
winding number along the boundary of a cell is their number inside. Cells are searched, and divided, until the numbers agree.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.linalg

from jordan_dist.backends import backend_for, is_petsc
from jordan_dist.chain import check_request
from jordan_dist.exceptional import ExceptionalPoint, Search, Window, find_exceptional_point
from jordan_dist.pencil import Family, ParametricPencil, matrices_of
from jordan_dist.quadratic import QuadraticPencil
from jordan_dist.subspace import NotConvergedError

log = logging.getLogger("jordan_dist")

LARGEST_DENSE = 200  # the order up to which all eigenvalues are followed, by LAPACK
NEAR = 0.3  # of its distance to the next eigenvalue: how far one may move from sample to sample
SHORTEST = 1e-11  # of the window: nearer samples do not tell more
DEEPEST = 20  # divisions of the window
EVEN = 2  # divisions of a window of two real parameters where nothing is found: there zeros of opposite sign cancel
TRIES = 2  # points missing from a cell that are searched before the cell is divided
# Where a cell is cut; the next one is for an exceptional point on the line.
CUTS = (0.5, 0.4763, 0.5391, 0.4517)
FOLLOWED = 1e-8  # residual of subspaces whose eigenvalues are only compared


Point = tuple[float, float]  # of the window, whose sides are [0, 1]
Cell = tuple[float, float, float, float]  # x0, x1, y0, y1 in it


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What a window holds."""

    points: tuple[ExceptionalPoint, ...]
    """In the order of their parameters."""
    count: int
    """The winding number of the discriminant along the boundary: of one complex parameter the number of exceptional points inside,
    semisimple pairs and points of third order counting twice. Of two real parameters each counts as 1 or -1."""
    unresolved: tuple[np.ndarray, ...]
    """Parameters of cells in which the discriminant has zeros that no search led to: semisimple pairs, points of higher order, or
    points too near each other."""
    failed: tuple[str, ...]
    """Why searches ended without a new point in the window, such as that they left it."""

    @property
    def complete(self) -> bool:
        """Whether every zero of the discriminant is one of `points`, and the eigenvalues swap around each. With two real parameters
        a pair of points in one cell may hide from this."""
        return not self.unresolved and all(point.loop is not None for point in self.points)


def scan_exceptional_points(
    family: Family,
    window: Any,
    *,
    target: complex | None = None,
    group: int = 2,
    symmetric: bool | None = None,
    comm: Any = None,
) -> Scan:
    """All exceptional points of two eigenvalues in a window of one complex or two real parameters.

    family: as in `find_exceptional_point`. window: the lower left and the upper right corner, a complex number each, or two real
    numbers each.
    target: without one, all pairs of eigenvalues of matrices of order up to 200 (numpy or scipy). With one, the pairs of the `group`
    eigenvalues nearest the target, followed through the window in their deflating subspace; no other eigenvalue may join one of
    them in the window.
    symmetric, comm: as in `jordan_chain`.

    Raises ValueError for arguments that do not fit, and NotConvergedError where the group cannot be followed, as when an exceptional
    point lies on the boundary.
    """
    plane = _Plane(window)
    A = matrices_of(family, plane.parameters((0.5, 0.5)))[0]
    target = None if target is None else check_request(target, group, None)
    backend = backend_for(A, comm, frequency=None if target is None else abs(target))
    followed: _Group | _AllEigenvalues | None = None
    try:
        pencils = ParametricPencil(backend, family, plane.count)
        if target is not None:
            followed = _Group(pencils, plane, target, group, symmetric)
        elif is_petsc(A) or isinstance(A, QuadraticPencil) or comm is not None or backend.n > LARGEST_DENSE:
            raise ValueError(
                f"a scan of all eigenvalues is for numpy and scipy matrices of order up to {LARGEST_DENSE}; name a target near the "
                f"eigenvalues that merge"
            )
        else:
            followed = _AllEigenvalues(pencils, plane)
        scanner = _Scanner(family, plane, followed, symmetric, comm)
        return scanner.run()
    finally:
        if followed is not None:
            followed.destroy()
        backend.destroy()


class _Plane:
    """The window as the unit square."""

    def __init__(self, window: Any):
        self.window = Window.between(window)
        lower, upper = self.window.lower, self.window.upper
        self.count = lower.size
        flat = self.count == 1 and (upper - lower).real[0] > 0 and (upper - lower).imag[0] > 0
        self.complex = self.count == 1
        if not flat and not (self.count == 2 and not np.concatenate([lower, upper]).imag.any()):
            raise ValueError(f"a scan needs a window of one complex or of two real parameters, with an area; it is {window!r}")

    def parameters(self, z: tuple[float, float]) -> np.ndarray:
        lower, size = self.window.lower, self.window.upper - self.window.lower
        if self.complex:
            return np.asarray(lower + size.real * z[0] + 1j * size.imag * z[1])
        return np.asarray((lower + size * np.array(z)).real)

    def coordinates(self, p: np.ndarray) -> np.ndarray:
        size, offset = self.window.upper - self.window.lower, np.asarray(p) - self.window.lower
        if self.complex:
            return np.array([offset[0].real / size[0].real, offset[0].imag / size[0].imag])
        return np.asarray((offset / size).real)


class _AllEigenvalues:
    """Of a small pencil, by LAPACK. The discriminant is that of the polynomial det(A - l B), which has no poles where B is singular:
    hence B among the samples."""

    def __init__(self, pencils: ParametricPencil, plane: _Plane):
        self.pencils, self.plane = pencils, plane

    def at(self, z: tuple[float, float]) -> tuple[np.ndarray, np.ndarray | None]:
        """All eigenvalues, and B where it depends on the parameters."""
        pencil = self.pencils.at(self.plane.parameters(z))
        n = pencil.backend.n
        A, B = (np.asarray(sum(c * _dense(D, n) for c, D in terms)) for terms in (pencil.A, pencil.B))
        identity = all(D is None for _, D in pencil.B)
        values = scipy.linalg.eigvals(A) if identity else scipy.linalg.eigvals(A, B)
        if not np.isfinite(values).all():
            raise NotConvergedError("B is singular, which gives infinite eigenvalues: name a target near the ones that merge")
        return values, B if any(pencil.dB) else None

    def destroy(self) -> None:
        pass


def _dense(D: Any, n: int) -> np.ndarray:
    return np.eye(n) if D is None else D.toarray() if hasattr(D, "toarray") else D


class _Group:
    """The eigenvalues nearest a target, followed in their deflating subspace with a frozen factorization."""

    def __init__(self, pencils: ParametricPencil, plane: _Plane, target: complex, group: int, symmetric: bool | None):
        self.plane = plane
        self.search = Search(pencils, plane.parameters((0.5, 0.5)), target, group, symmetric, [])

    def at(self, z: tuple[float, float]) -> tuple[np.ndarray, None]:
        self.search.p = self.plane.parameters(z)
        self.search.follow(FOLLOWED)
        return np.linalg.eigvals(self.search.pair.M), None

    def destroy(self) -> None:
        self.search.destroy()


class _Unsettled(Exception):
    """The eigenvalues cannot be followed past this place."""

    def __init__(self, z: tuple[float, float]):
        self.z = z


class _Scanner:
    def __init__(self, family: Any, plane: _Plane, followed: Any, symmetric: bool | None, comm: Any):
        self.family, self.plane, self.followed, self.symmetric, self.comm = family, plane, followed, symmetric, comm
        self.samples: dict[tuple[float, float], tuple[np.ndarray, np.ndarray | None]] = {}
        self.edges: dict[tuple[Point, Point], float] = {}
        self.points: list[ExceptionalPoint] = []
        self.unresolved: list[np.ndarray] = []
        self.failed: list[str] = []

    def run(self) -> Scan:
        whole = (0.0, 1.0, 0.0, 1.0)
        try:
            count = self._winding(whole)
        except _Unsettled as lost:
            raise NotConvergedError(
                f"the eigenvalues cannot be followed along the boundary of the window past {self.plane.parameters(lost.z)}: an "
                f"exceptional point lies there, or another eigenvalue joins the group; choose another window or group"
            ) from None
        log.info("the discriminant winds %d times around the window", count)
        self._resolve(whole, count, 0)
        points = sorted((self._certified(point) for point in self.points), key=lambda p: [(v.real, v.imag) for v in p.parameters])
        return Scan(points=tuple(points), count=count, unresolved=tuple(self.unresolved), failed=tuple(self.failed))

    def _resolve(self, cell: Cell, count: int, depth: int) -> None:
        """Finds the zeros in a cell; of a complex parameter, exactly `count` of them."""
        if 0 < self._missing(cell, count) <= TRIES:
            x0, x1, y0, y1 = cell
            for u, v in ((0.25, 0.25), (0.75, 0.75), (0.25, 0.75), (0.75, 0.25)):
                self._search((x0 + u * (x1 - x0), y0 + v * (y1 - y0)))
                if not self._missing(cell, count):
                    break
        if not self._missing(cell, count) and (self.plane.complex or depth >= EVEN):
            return
        cells = self._divided(cell) if depth < DEEPEST else None
        if cells is None:
            centre = (cell[0] + cell[1]) / 2, (cell[2] + cell[3]) / 2
            self.unresolved.append(self.plane.parameters(centre))
            return
        for part, number in cells:
            self._resolve(part, number, depth + 1)

    def _missing(self, cell: Cell, count: int) -> int:
        x0, x1, y0, y1 = cell
        inside = [z for z in (self.plane.coordinates(p.parameters) for p in self.points) if x0 <= z[0] < x1 and y0 <= z[1] < y1]
        return max(abs(count) - len(inside), 0)

    def _divided(self, cell: Cell) -> list[tuple[Cell, int]] | None:
        """Four cells with their winding numbers; None if there is no cut along which the eigenvalues can be followed."""
        x0, x1, y0, y1 = cell
        for cut in CUTS:
            x, y = x0 + cut * (x1 - x0), y0 + cut * (y1 - y0)
            try:
                return [(c, self._winding(c)) for c in ((x0, x, y0, y), (x, x1, y0, y), (x0, x, y, y1), (x, x1, y, y1))]
            except _Unsettled:
                continue
        return None

    def _search(self, z: tuple[float, float]) -> None:
        """From the two nearest eigenvalues there."""
        values = self._sample(z)[0]
        distance = np.abs(values[:, None] - values) + np.diag(np.full(len(values), np.inf))
        i, j = np.unravel_index(np.argmin(distance), distance.shape)
        start, window = self.plane.parameters(z), (self.plane.window.lower, self.plane.window.upper)
        try:
            point = find_exceptional_point(
                self.family, start, target=(values[i] + values[j]) / 2, symmetric=self.symmetric, window=window, comm=self.comm
            )
        except NotConvergedError as error:
            self.failed.append(f"from {start}: {error}")
            log.info("no point from %s: %s", start, error)
            return
        if not any(self._same(point, known) for known in self.points):
            self.points.append(point)

    def _same(self, a: ExceptionalPoint, b: ExceptionalPoint) -> bool:
        apart = np.abs(self.plane.coordinates(a.parameters) - self.plane.coordinates(b.parameters)).max()
        near = abs(a.chain.eigenvalue - b.chain.eigenvalue) <= 1e-6 * (abs(a.chain.eigenvalue) + np.linalg.norm(a.chain.matrix))
        return bool(apart < 1e-8 and near)

    def _certified(self, point: ExceptionalPoint) -> ExceptionalPoint:
        """With the ellipse around which two eigenvalues swap, if there is one."""
        centre = self.plane.coordinates(point.parameters)
        others = [np.abs(self.plane.coordinates(p.parameters) - centre).max() for p in self.points if p is not point]
        radius = min([0.05, *(0.3 * d for d in others if d > 0)])
        for _ in range(5):
            try:
                if self._swapped(centre, radius, point.chain.eigenvalue):
                    return replace(point, loop=radius)
            except _Unsettled:
                pass
            radius /= 4
        return point

    def _swapped(self, centre: np.ndarray, radius: float, eigenvalue: complex) -> bool:
        def at(t: float) -> tuple[float, float]:
            return centre[0] + radius * np.cos(t), centre[1] + radius * np.sin(t)

        begin = self._sample(at(0.0))[0]
        order = np.arange(len(begin))
        for t in range(8):
            order = self._walk(lambda s: at(s), t * np.pi / 4, (t + 1) * np.pi / 4)[1][order]
        # the walk ends at cos(2 pi), which differs from its start by rounding
        end = self._sample(at(2 * np.pi))[0][order]
        home = np.abs(begin[:, None] - end).argmin(axis=0)
        nearest = set(np.argsort(np.abs(begin - eigenvalue))[:2].tolist())
        moved = np.flatnonzero(home != np.arange(len(home)))
        return set(moved.tolist()) == nearest

    def _winding(self, cell: Cell) -> int:
        x0, x1, y0, y1 = cell
        corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
        total = sum(self._edge(a, b) for a, b in zip(corners, [*corners[1:], corners[0]], strict=True))
        return round(total / (2 * np.pi))

    def _edge(self, a: tuple[float, float], b: tuple[float, float]) -> float:
        """The phase that the discriminant gains from a to b."""
        if (b, a) in self.edges:
            return -self.edges[b, a]
        if (a, b) not in self.edges:

            def at(s: float) -> tuple[float, float]:
                return a[0] + s * (b[0] - a[0]), a[1] + s * (b[1] - a[1])

            length = max(abs(b[0] - a[0]), abs(b[1] - a[1]))
            # four pieces at least: a symmetry of the family may give the same eigenvalues at both ends
            self.edges[a, b] = sum(self._walk(at, s, s + 0.25, SHORTEST / length)[0] for s in (0.0, 0.25, 0.5, 0.75))
        return self.edges[a, b]

    def _walk(self, at: Callable[[float], Point], s: float, t: float, shortest: float = SHORTEST) -> tuple[float, np.ndarray]:
        """From at(s) to at(t) in steps so short that every eigenvalue knows itself again: the phase that the discriminant gains, and
        where each eigenvalue of the start is at the end."""
        (v, B), (w, D) = self._sample(at(s)), self._sample(at(t))
        distance = np.abs(v[:, None] - w)
        order = distance.argmin(axis=1)
        room = np.minimum(_room(v), _room(w)[order])
        # between two affine pencils every factor of det(D) / det(B) goes straight from 1 to its value
        turned = np.zeros(1) if B is None else np.angle(scipy.linalg.eigvals(D, B))
        known = room.min() > 0 and np.unique(order).size == v.size and np.all(distance.min(axis=1) <= NEAR * room)
        if known and np.abs(turned).max() < 0.75 * np.pi:
            before, after = (u[:, None] - u for u in (v, w[order]))
            above = np.triu_indices(v.size, 1)
            return float(2 * np.angle(after[above] / before[above]).sum() + 2 * (v.size - 1) * turned.sum()), order
        if t - s < shortest:
            raise _Unsettled(at(s))
        middle = (s + t) / 2
        first, there = self._walk(at, s, middle, shortest)
        second, back = self._walk(at, middle, t, shortest)
        return first + second, back[there]

    def _sample(self, z: tuple[float, float]) -> tuple[np.ndarray, np.ndarray | None]:
        if z not in self.samples:
            self.samples[z] = self.followed.at(z)
        return self.samples[z]


def _room(values: np.ndarray) -> np.ndarray:
    """The distance of every eigenvalue from the next."""
    return np.asarray((np.abs(values[:, None] - values) + np.diag(np.full(values.size, np.inf))).min(axis=1))
