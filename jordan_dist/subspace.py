"""The deflating subspaces of the k eigenvalues nearest a target, from one approximate factorization of A - sigma B.

A block Krylov space finds them roughly; sweeps in residual form then converge to rounding whatever the accuracy of the
factorization:

    M = (Y^H B X)^-1 Y^H A X,    R = A X - B X M,    X <- qr(X - LU^-1 R)

because the fixed point is R = 0 with the true A and B. The factors may be inexact, or made at other parameter values, and sigma
may be an eigenvalue. (Plain inverse iteration stalls at the accuracy of its factors, and near a Jordan block far above rounding.)
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import scipy.linalg

from jordan_dist.backends import BlockVectors, Factor, SingularFactorError
from jordan_dist.pencil import Pencil

log = logging.getLogger("jordan_dist")

EPS = np.finfo(float).eps
GUARDS = 2  # columns beyond k in the first Krylov block: they carry the eigenvalues next to the wanted ones
MAX_COLUMNS = 60  # of a Krylov space for up to three eigenvalues; 20 for each of more
KRYLOV = 1e-13  # residual at which it ends: what is left, if anything, costs a sweep
WELL = 1e-6  # residual at which Ritz values serve to tell whether the wanted eigenvalues stand clear of the next
COMPETING = 0.5  # of the k-th modulus: Ritz values above it may yet be among the k largest
TRIAL = 16  # columns before a shift is judged
MAX_SHIFTS = 3
RITZ_SHOWS = 0.05  # residual at which Ritz values show where a better shift is
LARGEST_SIZE = 6  # that is found by itself
# A set of eigenvalues is torn from its neighbours if one is nearer than this part of the set's own diameter, and clear of them if
# all are further than this multiple of it.
TORN, CLEAR = 0.1, 2.0
ROUNDED = 1e3 * EPS  # of the largest: a smaller distance of eigenvalues is none
LARGEST = 1e150  # the square of a norm must be a number


class NotConvergedError(RuntimeError):
    """An iteration ended without an answer that can be trusted; the message says why."""

    history: tuple[Any, ...] = ()
    """The steps of a search up to there."""


class TornClusterError(NotConvergedError):
    """The eigenvalues nearest the target do not belong together."""

    def __init__(self, message: str, instead: complex | None):
        super().__init__(message)
        self.instead = instead  # the mean of as many eigenvalues nearby that stand clear of all others


class PoorShiftError(NotConvergedError):
    """The shift is so far from the eigenvalues that a factorization at another is cheaper than the solves with this one."""

    def __init__(self, instead: complex, X: np.ndarray | None = None):
        super().__init__(f"the shift is far from the eigenvalues, which are near {instead:.6g}")
        self.instead, self.X = instead, X


@dataclass
class DeflatingPair:
    """A X = B X M, Y^H A = M Y^H B, Y^H B X = I, with X orthonormal; X and Y are (n_local, k), M is (k, k)."""

    X: np.ndarray
    Y: np.ndarray
    M: np.ndarray
    residual: float  # the larger of ||A X - B X M|| / (||A X|| + ||B X M||) and the same of Y
    uncertainty: float  # how far rounding errors may move the entries of M
    others: np.ndarray  # estimates of the next eigenvalues

    @property
    def mean(self) -> complex:
        """The mean of the k eigenvalues."""
        return complex(np.trace(self.M) / self.M.shape[0])

    @property
    def gap(self) -> float:
        """Estimated distance from the mean to the rest of the spectrum; infinite if there is none."""
        return float(np.abs(self.others - self.mean).min()) if self.others.size else np.inf


def start(
    pencil: Pencil,
    factor: Factor,
    sigma: complex,
    k: int,
    *,
    tolerance: float = KRYLOV,
    target: complex | None = None,
    begin: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rough X and Y for the k eigenvalues nearest sigma, and estimates of the other eigenvalues nearby.

    PoorShiftError with a better shift if that pays. Where sigma is that better shift itself, in place of `target`, with `begin` for an X
    to begin with, only if it turns out that others are nearer to the target.
    """
    backend = pencil.backend
    if not 2 <= k <= backend.n:
        raise ValueError(f"size must be from 2 to the order of the matrices, {backend.n}; it is {k}")
    hasty = target is None
    found = _krylov(backend, lambda Q: factor.solve(pencil.times_B(Q)), sigma, k, tolerance=tolerance, begin=begin, hasty=hasty)
    values = sigma + 1 / found.ritz
    others = values[k:]
    if found.slow:
        raise PoorShiftError(complex(values[:k].mean()), found.X)
    if target is not None:
        known = np.concatenate([values[:k], others[found.good[k:]]])
        nearest = np.argsort(np.abs(known - target))[:k]
        if np.any(nearest >= k):
            mean = complex(known[nearest].mean())
            # Not on the eigenvalues, which are known well by now: beside what a solve amplifies without bounds all else is rounding.
            raise PoorShiftError(mean + 0.1 * (sigma - mean))
    check_cluster(values[: k + GUARDS][found.good[: k + GUARDS]], sigma, k)
    if pencil.symmetric:
        return found.X, found.X.conj(), others
    left = _krylov(backend, lambda Q: factor.solve_adjoint(pencil.adjoint_B(Q)), np.conj(sigma), k, tolerance=tolerance)
    return found.X, left.X, others


def check_cluster(values: np.ndarray, sigma: complex, k: int) -> None:
    """Raises TornClusterError if the first k of the eigenvalues, which are in the order of their distance from sigma, tear a group of
    near ones apart."""
    if values.size <= k or quality(values, tuple(range(k))) >= TORN:
        return
    best = max(combinations(range(values.size), k), key=lambda chosen: quality(values, chosen))
    instead = complex(values[list(best)].mean()) if quality(values, best) >= CLEAR else None
    near = ", ".join(format(complex(v), ".6g") for v in values)
    raise TornClusterError(
        f"the {k} eigenvalues nearest {sigma:.6g} do not stand clear of the next ({near}): choose another target or size", instead
    )


def cluster_size(pencil: Pencil, factor: Factor, sigma: complex) -> int:
    """How many of the eigenvalues nearest sigma belong together: as many, from 2 to LARGEST_SIZE, as stand clearest of the next,
    their distance to it relative to the diameter of the group. TornClusterError if no group stands clear."""
    backend = pencil.backend
    largest = min(LARGEST_SIZE, backend.n)
    if largest < 2:
        raise ValueError(f"size must be from 2 to the order of the matrices, {backend.n}; it is None")
    found = _krylov(backend, lambda Q: factor.solve(pencil.times_B(Q)), sigma, largest)
    values = sigma + 1 / found.ritz[: largest + GUARDS][found.good[: largest + GUARDS]]
    clear = {k: quality(values, tuple(range(k))) for k in range(2, min(LARGEST_SIZE, values.size - 1) + 1)}
    if backend.n == 2:
        return 2
    best = max(clear, key=clear.__getitem__, default=0)
    if not best or clear[best] < CLEAR:
        near = ", ".join(format(complex(v), ".6g") for v in values)
        raise TornClusterError(f"no group of the eigenvalues nearest {sigma:.6g} ({near}) stands clear of the next: name a size", None)
    log.info("%d eigenvalues belong together, %.1e times nearer to each other than the next", best, clear[best])
    return best


def quality(values: np.ndarray, chosen: tuple[int, ...]) -> float:
    """How clear the chosen values stand of the others: their distance to these, in diameters of the chosen."""
    inside, outside = values[list(chosen)], np.delete(values, chosen)
    diameter = max(np.abs(inside[:, None] - inside).max(), ROUNDED * np.abs(values).max())
    return float(np.abs(inside[:, None] - outside).min() / (diameter or 1.0))


@dataclass
class _Rough:
    """What a Krylov space says about the dominant eigenvalues of an operator."""

    X: np.ndarray  # (n_local, k), columns that span the invariant subspace of the k dominant ones
    ritz: np.ndarray  # all Ritz values but zero, descending in modulus
    good: np.ndarray  # which of these are good approximations
    slow: bool  # whether the shift is so poor that another one is cheaper than going on


def _krylov(
    backend: BlockVectors,
    operator: Callable[[np.ndarray], np.ndarray],
    shift: complex,
    k: int,
    *,
    tolerance: float = KRYLOV,
    begin: np.ndarray | None = None,
    hasty: bool = False,
) -> _Rough:
    """The invariant subspace of the k dominant eigenvalues of the operator (A - shift B)^-1 B, by block Arnoldi from a random block, or
    from `begin`, down to a relative residual of A X - B X M that is below `tolerance`; if `hasty`, no farther than to where it shows that
    this will take long.

    The first two blocks are wider than k, which shows eigenvalues of higher multiplicity; then the space grows in the directions of the
    residuals alone, of those Ritz vectors whose values compete for the first k places. A Schur form picks the invariant subspace, never
    eigenvectors: near a Jordan block these are parallel. Of this subspace X it returns the image, which is at hand: where the operator
    makes X T + R of X, the image X + R T^-1 has A (X + R T^-1) - B (X + R T^-1) (shift + T^-1) = -B R T^-2. Unlike the residual of X itself,
    this has no factor of ||A|| in it, and it is smaller by the nearness of the shift: two passes through the factors less.
    """
    width = min(k + GUARDS, backend.n)
    first = backend.random_block(width)
    if begin is not None:
        first[:, : begin.shape[1]] = begin
    # operator(space[:, :done]) = space[:, :known] H, all columns orthonormal; pages that are not written take no memory
    limit = max(MAX_COLUMNS, 20 * k)
    space = np.empty((first.shape[0], limit + 2 * width), dtype=complex, order="F")
    space[:, :width] = backend.qr(first)[0]
    done, known, chosen = 0, width, width
    H = np.zeros((width, 0), dtype=complex)
    history: list[tuple[int, float]] = []
    while True:
        Z = operator(space[:, done : done + chosen])
        V = space[:, :known]
        column = np.zeros((known, chosen), dtype=complex)
        for _ in range(2):  # twice is enough for orthogonality to rounding
            Z, C = backend.split(V, Z)
            column += C
        Q, R = backend.qr(Z)
        if np.linalg.norm(R, -2) < 1e-3 * np.linalg.norm(np.vstack([column, R])):
            # of a rank below their width the last columns of Q are rounding errors, and these may lie in the space already
            Q, again = backend.qr(backend.split(V, Q)[0])
            R = again @ R
        room = min(chosen, backend.n - known)
        space[:, known : known + room] = Q[:, :room]
        H = np.block([[H, column], [np.zeros((room, done)), R[:room]]])
        done, known = done + chosen, known + room

        square, below = H[:done], H[done:]
        moduli = np.sort(np.abs(np.linalg.eigvals(square)))[::-1]
        if moduli[k - 1] <= 1e3 * EPS * moduli[0] and known == done:
            count = int(np.sum(moduli > 1e3 * EPS * moduli[0]))
            raise NotConvergedError(f"{count} finite eigenvalue(s) found where size asks for {k}: B is singular; choose a smaller size")
        T, U = _dominant(square, moduli, k)
        R = below @ U[:, :k]
        residual = float(np.linalg.norm(R) / np.linalg.norm(T[:k, :k]))
        inverse = np.linalg.pinv(T[:k, :k])
        M = shift * np.eye(k) + inverse
        image_residual = float(np.linalg.norm(R @ inverse @ inverse) / (2 * np.linalg.norm(M) or 1.0))
        log.info("block Krylov space of %d columns: residual %.1e, of its image %.1e", done, residual, image_residual)
        history.append((done, residual))
        # for the residual of X, which tells as well how good the Ritz values are of those eigenvalues that are next to the wanted ones
        enough = min(tolerance * max(1.0, residual / image_residual), WELL) if image_residual else WELL
        slow = hasty and _is_slow(history, enough, limit)
        if residual < enough or done >= limit or known == done or slow:
            theta, E = np.linalg.eig(square)
            order = np.argsort(-np.abs(theta))[: np.count_nonzero(theta)]
            good = np.linalg.norm(below @ E[:, order], axis=0) <= 1e-4 * np.abs(theta[order])
            X = space[:, :done] @ U[:, :k] + space[:, done:known] @ (R @ inverse)
            return _Rough(np.asfortranarray(X), theta[order], good, slow)

        competing = min(width, int(np.sum(moduli >= COMPETING * moduli[k - 1])))
        directions = below @ (U if competing == k else _dominant(square, moduli, competing)[1])[:, :competing]
        W = np.linalg.qr(directions, mode="complete")[0]
        space[:, done:known] = space[:, done:known] @ W
        H[done:] = W.conj().T @ below
        # The second block is whole: only what the operator was applied to shows in Ritz values.
        chosen = known - done if len(history) == 1 else min(competing, known - done)


def _dominant(H: np.ndarray, moduli: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """A Schur form H = U T U^H with the k eigenvalues of largest modulus first; `moduli` are those of all, descending."""
    cut = np.sqrt(moduli[k - 1] * moduli[k]) if moduli.size > k else 0.0
    T, U, _ = scipy.linalg.schur(H, output="complex", sort=lambda t: abs(t) >= cut)
    return T, U


def _is_slow(history: list[tuple[int, float]], tolerance: float, limit: int) -> bool:
    """Whether a Krylov space, by the residuals at its last columns, will need more than `limit`, while the Ritz values are accurate
    enough to show where a better shift is."""
    done, residual = history[-1]
    if done < TRIAL or not tolerance < residual < RITZ_SHOWS:
        return False
    then, before = next((c, r) for c, r in reversed(history) if c <= done - TRIAL // 2)
    fall = np.log(max(before / residual, 1.01)) / (done - then)  # per column
    return bool(np.log(residual / tolerance) / fall > limit - done)


def refine(
    pencil: Pencil,
    factor: Factor,
    X: np.ndarray,
    Y: np.ndarray,
    others: np.ndarray,
    *,
    tolerance: float = 0.0,
    sweeps: int = 60,
    each: Callable[[DeflatingPair], None] | None = None,
) -> tuple[DeflatingPair, int, bool]:
    """Sweeps until the residual is below `tolerance`, or cannot be lowered any more. Returns the pair, the number of sweeps made
    and whether the pair is good: below the tolerance or at the level of rounding. `each` sees the pair before every sweep and the last."""
    backend = pencil.backend
    norm_A, norm_B = pencil.norm_A(), pencil.norm_B()
    best, idle = np.inf, 0
    X = backend.qr(X)[0]
    for sweep in range(sweeps + 1):
        AX, BX = pencil.times_A(X), pencil.times_B(X)
        if pencil.symmetric:
            Y = X.conj()
        G = backend.inner(Y, BX)
        if not np.linalg.cond(G) < 1e12:
            raise NotConvergedError("the right and left subspaces do not belong together: try another target")
        Y = Y @ np.linalg.inv(G).conj().T
        M = backend.inner(Y, AX)
        BXM = BX @ M
        R = AX - BXM
        scale = backend.norm(AX) + backend.norm(BXM)
        scale = scale or 1.0  # A X = 0 is an eigenvalue 0 without an error
        residual = backend.norm(R) / scale
        rounding = EPS * (norm_A + np.linalg.norm(M) * norm_B) * np.sqrt(X.shape[1])
        floor = rounding / scale  # where rounding errors put the residual
        if not pencil.symmetric:
            AY, BYM = pencil.adjoint_A(Y), pencil.adjoint_B(Y) @ M.conj().T
            R_left = AY - BYM
            residual = max(residual, backend.norm(R_left) / ((backend.norm(AY) + backend.norm(BYM)) or 1.0))
        idle = 0 if residual < 0.7 * best else idle + 1
        best = min(best, residual)
        settled = idle >= 3 and residual <= 1e3 * floor  # no longer falling: rounding, if it is anywhere near that
        log.info("sweep %d: residual %.1e", sweep, residual)
        pair = DeflatingPair(X, Y, M, float(residual), float(10 * rounding * backend.norm(Y)), others)
        if each is not None:
            each(pair)
        if residual <= max(tolerance, floor) or settled:
            return pair, sweep, True
        if sweep == sweeps or idle >= 10 or not np.isfinite(residual):
            return pair, sweep, False
        X = backend.qr(X - factor.solve(R))[0]
        if not pencil.symmetric:
            Y = backend.qr(Y - factor.solve_adjoint(R_left))[0]
    raise AssertionError("unreachable: the last sweep returns")


def factored_pair(
    pencil: Pencil,
    sigma: complex,
    k: int | None,
    *,
    tolerance: float = 0.0,
    begun: DeflatingPair | None = None,
    each: Callable[[DeflatingPair], None] | None = None,
) -> tuple[Factor, DeflatingPair]:
    """A factorization of A - sigma B and the deflating pair of the k eigenvalues nearest sigma (k = None: of as many as belong together),
    down to `tolerance`, or to rounding.
    If these would tear apart eigenvalues that belong together while k others nearby stand clear, the others are taken, from a
    factorization at their mean, with a warning. From a shift that is far from them compared with the next ones, too, a factorization at
    their mean follows. A pair that was `begun` before is completed, from a factorization at its mean; `each` is that of `refine`.
    """
    for name, norm in (("A", pencil.norm_A()), ("B", pencil.norm_B())):
        if norm and not 1 / LARGEST < norm < LARGEST:
            raise ValueError(f"{name} has the norm {norm:.1e}, of which double precision has no square: choose other units")
    sigma = sigma if begun is None else begun.mean
    for shift in (sigma, *pencil.beside(sigma)):
        try:
            return _factored_pair(pencil, shift, k, tolerance, begun, each)
        except SingularFactorError as error:  # that of A - shift B went well, and the solves with it overflow
            failure = error
    raise pencil.singular(sigma, failure)


def _factored_pair(
    pencil: Pencil,
    sigma: complex,
    k: int | None,
    tolerance: float,
    begun: DeflatingPair | None,
    each: Callable[[DeflatingPair], None] | None,
) -> tuple[Factor, DeflatingPair]:
    factor = pencil.factor(sigma)
    elsewhere: dict[str, Any] = {}
    shift, shifts = sigma, 1
    try:
        if begun is not None:
            return factor, _refined(pencil, factor, (begun.X, begun.Y, begun.others), sigma, len(begun.M), tolerance, each)
        if k is None:
            k = cluster_size(pencil, factor, sigma)
        while True:
            try:
                rough = start(pencil, factor, shift, k, tolerance=max(tolerance, KRYLOV), **elsewhere)
                return factor, _refined(pencil, factor, rough, shift, k, tolerance, each)
            except TornClusterError as torn:
                if torn.instead is None or elsewhere:
                    raise
                log.warning("%s; taking the %d around %s, which do", torn, k, format(torn.instead, ".6g"))
                shift, elsewhere = torn.instead, {"target": torn.instead}
            except PoorShiftError as poor:
                if shifts == MAX_SHIFTS:
                    raise NotConvergedError(f"which {k} eigenvalues are nearest {sigma:.6g} is not clear: choose a nearer target") from poor
                log.info("%s: a new factorization there", poor)
                shifts += 1
                shift, elsewhere = poor.instead, {"target": sigma, "begin": poor.X}
            factor.destroy()
            factor = pencil.factor(shift)
    except BaseException:
        factor.destroy()
        raise


def _refined(
    pencil: Pencil,
    factor: Factor,
    rough: tuple[np.ndarray, np.ndarray, np.ndarray],
    sigma: complex,
    k: int,
    tolerance: float,
    each: Callable[[DeflatingPair], None] | None,
) -> DeflatingPair:
    """A rough X, Y and other eigenvalues, refined. NotConvergedError says why not."""
    pair, sweeps, good = refine(pencil, factor, *rough, tolerance=tolerance, each=each)
    log.info("subspace residual %.1e after %d sweeps", pair.residual, sweeps)
    if not good:
        raise NotConvergedError(
            f"the subspace of the {k} eigenvalues nearest {sigma:.6g} did not converge: residual {pair.residual:.1e} after "
            f"{sweeps} sweeps; the next eigenvalue is probably about as near: choose another target or size"
        )
    return pair
