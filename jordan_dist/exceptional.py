"""find_exceptional_point(): the parameters at which k eigenvalues merge into one Jordan block, usually with one factorization.

The subspace follows the parameters in residual form with factors frozen at the start, so that a step costs a few block solves; a
new factorization is made only when the frozen one has become so bad that a step needs more than `PATIENCE` sweeps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jordan_dist.backends import SingularFactorError, backend_for
from jordan_dist.chain import JordanChain, assemble_chain, check_gauge, check_request, classify
from jordan_dist.derivative import ep_step, projected_derivatives
from jordan_dist.pencil import AffineFamily, ParametricPencil, matrices_of, settle_symmetry
from jordan_dist.projected import nearest_defective
from jordan_dist.subspace import EPS, DeflatingPair, NotConvergedError, factored_pair, refine

log = logging.getLogger("jordan_dist")

MAX_STEPS = 40
MAX_FACTORIZATIONS = 8
PATIENCE = 20  # sweeps with a frozen factorization before a new one is cheaper
LOOSE = 1e-6  # residual after the first step, which is rough anyway: M is accurate to its square


@dataclass(frozen=True, kw_only=True)
class SearchStep:
    """One step of the search."""

    parameters: np.ndarray
    eigenvalues: np.ndarray
    """(k,), at these parameters."""
    step: float
    """||delta||: how far the next parameters are."""
    residual: float
    sweeps: int


@dataclass(frozen=True, kw_only=True)
class ExceptionalPoint:
    """Where it is, and the Jordan chain there."""

    parameters: np.ndarray
    """(parameters,), float64 or complex128 as `start`."""
    chain: JordanChain
    history: tuple[SearchStep, ...]
    loop: float | None = None
    """After a scan: the half axes, in units of the window's sides, of an ellipse in the parameters around which the two eigenvalues
    swap and no others do."""


@dataclass(frozen=True)
class Window:
    """The parameters between two opposite corners, by real and imaginary parts; `lower` and `upper` are of shape (parameters,)."""

    lower: np.ndarray
    upper: np.ndarray

    @classmethod
    def between(cls, window: Any) -> Window:
        try:
            lower, upper = (np.atleast_1d(np.asarray(corner, dtype=complex)) for corner in window)
        except (TypeError, ValueError):
            lower = upper = np.array([])
        if lower.ndim != 1 or lower.shape != upper.shape or not lower.size or not np.isfinite([lower, upper]).all():
            raise ValueError(f"window must be two opposite corners, each of one finite number per parameter, not {window!r}")
        if not (np.all(lower.real <= upper.real) and np.all(lower.imag <= upper.imag) and np.all(lower != upper)):
            raise ValueError(f"window must run from its lower left to its upper right corner; it is {window!r}")
        return cls(lower, upper)

    def holds(self, p: np.ndarray) -> bool:
        p = np.asarray(p, dtype=complex)
        low, high = p - self.lower, self.upper - p
        return bool(np.all((low.real >= 0) & (low.imag >= 0) & (high.real >= 0) & (high.imag >= 0)))


def find_exceptional_point(
    family: AffineFamily | Callable,
    start: Any,
    *,
    target: complex,
    size: int = 2,
    symmetric: bool | None = None,
    gauge: str = "unit",
    perturbation: float | None = None,
    window: Any = None,
    comm: Any = None,
) -> ExceptionalPoint:
    """The exceptional point of `size` eigenvalues near `target`, from `start`.

    family: an `AffineFamily`, or a function of the parameters, an array of shape (parameters,), that returns (A, B, dA, dB), dA
    and dB being lists of one matrix per parameter, or (A, B), whose derivatives are then taken by differences. B = None is the
    identity; A and dA may be of the kind `QuadraticPencil`, then without B. start: one number per parameter. If all are real the
    parameters stay real; a pencil without a symmetry needs two real parameters for size 2 (or one complex one), in general
    2 (size - 1).
    window: two opposite corners, each of one number per parameter; a search that leaves it ends.
    The other arguments are those of `jordan_chain`.

    Raises ValueError for arguments that do not fit, and NotConvergedError, with the steps in its `history`, when there is no
    exceptional point to be found.
    """
    p, target = parameters_of(start), check_request(target, size, perturbation)
    window = None if window is None else Window.between(window)
    if window is not None and (window.lower.size != p.size or not window.holds(p)):
        raise ValueError(f"start = {p} is not in the window from {window.lower} to {window.upper}")
    backend = backend_for(matrices_of(family, p)[0], comm, frequency=abs(target))
    search = None
    history: list[SearchStep] = []
    try:
        search = Search(ParametricPencil(backend, family, p.size), p, target, size, symmetric, history)
        check_gauge(gauge, search.problem, size)
        pair = search.run(window)
        near = nearest_defective(pair.M)
        kind = classify(pair, near, perturbation)
        if kind[0] != "block":
            raise NotConvergedError(f"the search ended at {search.p} in a degeneracy that is no single Jordan block (verdict: {kind[0]})")
        chain = assemble_chain(search.problem, pair, near, kind, gauge, pair.M)
        return ExceptionalPoint(parameters=search.p, chain=chain, history=tuple(history))
    except SingularFactorError as error:
        failure = NotConvergedError(f"the search came to parameters {p if search is None else search.p} where A - sigma B cannot be factorized: {error}")
        failure.history = tuple(history)
        raise failure from error
    except NotConvergedError as error:
        error.history = tuple(history)
        raise
    finally:
        if search is not None:
            search.destroy()
        backend.destroy()


def parameters_of(start: Any) -> np.ndarray:
    p = np.atleast_1d(np.asarray(start))
    if p.ndim != 1 or p.size == 0 or not np.issubdtype(p.dtype, np.number) or not np.isfinite(p).all():
        raise ValueError(f"start must be one finite number per parameter, not {start!r}")
    return p.astype(complex if np.iscomplexobj(p) else float)


class Search:
    """The state of a search: parameters, pencil there, subspaces, and the frozen factorization."""

    def __init__(self, family: ParametricPencil, p: np.ndarray, target: complex, size: int, symmetric: bool | None, history: list):
        self.family, self.p, self.history = family, p, history
        self.real = not np.iscomplexobj(p)
        self.problem = family.at(p)
        settle_symmetry(self.problem, symmetric)
        self.factorizations = 1
        self.factor, self.pair = factored_pair(self.problem, target, size)

    def destroy(self) -> None:
        self.factor.destroy()

    def run(self, window: Window | None = None) -> DeflatingPair:
        """Steps until the next one is down to rounding; returns the pair at the exceptional point."""
        sweeps, previous = 0, np.inf
        for number in range(MAX_STEPS):
            pair = self.pair
            step = ep_step(pair.M, projected_derivatives(self.problem, pair)[1], real=self.real, uncertainty=pair.uncertainty)
            size = float(np.linalg.norm(step.delta))
            values = np.linalg.eigvals(pair.M)
            self.history.append(SearchStep(parameters=self.p, eigenvalues=values, step=size, residual=pair.residual, sweeps=sweeps))
            log.info("step %d: |delta| %.1e, residual %.1e, %d sweeps", number, size, pair.residual, sweeps)
            if not np.isfinite(size):
                raise NotConvergedError(f"step {number} is not finite")
            noise = max(step.noise, 4 * EPS * float(np.linalg.norm(self.p)))
            if number != 1 and (size <= noise / 10 or previous / 2 <= size <= 10 * noise):  # number 1 is at a loose residual
                if step.unresolved > 1e3 * noise:
                    raise NotConvergedError(
                        f"no exceptional point at real parameters: the nearest approach is {self.p}, {step.unresolved:.2e} away "
                        f"in the complex plane; start from complex parameters, or vary more of them"
                    )
                return pair
            self.p, previous = self.p + step.delta, size
            if window is not None and not window.holds(self.p):
                raise NotConvergedError(f"step {number} of the search left the window, to {self.p}")
            sweeps = self.follow(LOOSE if number == 0 else 0.0)
        raise NotConvergedError(f"no exceptional point within {MAX_STEPS} steps; the last one was {size:.1e}")

    def follow(self, tolerance: float) -> int:
        """Carries the subspaces to the present parameters; returns the number of sweeps."""
        was = self.problem
        self.problem = self.family.at(self.p)
        self.problem.symmetric = was.symmetric
        total = 0
        while True:
            pair, sweeps, good = refine(
                self.problem, self.factor, self.pair.X, self.pair.Y, self.pair.others, tolerance=tolerance, sweeps=PATIENCE
            )
            total += sweeps
            if good:
                self.pair = pair
                return total
            if self.factorizations == MAX_FACTORIZATIONS:
                raise NotConvergedError(
                    f"the subspace could not follow the parameters to {self.p}: residual {pair.residual:.1e} after "
                    f"{self.factorizations} factorizations; the next eigenvalue is probably too near"
                )
            shift = self.pair.mean
            log.info("residual %.1e after %d sweeps: a new factorization, at %s", pair.residual, sweeps, format(shift, ".6g"))
            self.factor.destroy()
            self.factor = self.problem.factor(shift)
            self.factorizations += 1
