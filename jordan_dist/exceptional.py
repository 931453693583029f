"""find_exceptional_point(): the parameters at which k eigenvalues merge into one Jordan block, usually with one factorization.

The subspace follows the parameters in residual form with factors frozen at the start, so that a step costs a few block solves; a
new factorization is made only when the frozen one has become so bad that a step needs more than `PATIENCE` sweeps.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jordan_dist.backends import SingularFactorError, backend_for
from jordan_dist.chain import JordanChain, assemble_chain, check_gauge, check_request, classify
from jordan_dist.checkpoint import Checkpoint, complex_array
from jordan_dist.derivative import ep_step, projected_derivatives
from jordan_dist.pencil import Family, ParametricPencil, matrices_of, settle_symmetry
from jordan_dist.projected import nearest_defective
from jordan_dist.subspace import EPS, DeflatingPair, NotConvergedError, factored_pair, refine

log = logging.getLogger("jordan_dist")

MAX_STEPS = 60
MAX_FACTORIZATIONS = 3  # per step: if the next eigenvalue is so near that new factors do not help, a shorter step will
REACH = 1.0  # of the gap: farther, the projected pencil of here says nothing about there
SHORTEST = 2.0**-8  # part of a step below which damping gives up
SECTOR = 0.3  # cosine of the angle between the subspaces before and after a step, below which another mode has taken over
PATIENCE = 20  # sweeps with a frozen factorization before a new one is cheaper
LOOSE = 1e-6  # residual before and after the first step, which is rough anyway: M is accurate to its square


@dataclass(frozen=True, kw_only=True)
class SearchStep:
    """One step of the search."""

    parameters: np.ndarray
    eigenvalues: np.ndarray
    """(k,), at these parameters."""
    step: float
    """||delta||: how far the next parameters would be."""
    fraction: float
    """The part of the step that was taken, below 1 where it was too long to follow."""
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
    family: Family,
    start: Any,
    *,
    target: complex,
    size: int | None = 2,
    symmetric: bool | None = None,
    gauge: str = "unit",
    perturbation: float | None = None,
    window: Any = None,
    checkpoint: str | Path | None = None,
    comm: Any = None,
) -> ExceptionalPoint:
    """The exceptional point of `size` eigenvalues near `target`, from `start`.

    family: an `AffineFamily`, or a function of the parameters, an array of shape (parameters,), that returns (A, B, dA, dB), dA
    and dB being lists of one matrix per parameter, or (A, B), whose derivatives are then taken by differences. B = None is the
    identity; A and dA may be of the kind `QuadraticPencil`, then without B. start: one number per parameter. If all are real the
    parameters stay real; a pencil without a symmetry needs two real parameters for size 2 (or one complex one), in general
    2 (size - 1).
    window: two opposite corners, each of one number per parameter; a search that leaves it ends.
    checkpoint: as in `jordan_chain`, the state being kept after each step of the search.
    The other arguments are those of `jordan_chain`.

    A step that would move the eigenvalues farther than the next one is away is shortened, and so is one that the subspace cannot
    follow, or after which it is another one: the modes of another symmetry are not what the search is for.

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
        steps = None
        if checkpoint is not None:
            request = {"kind": "exceptional point", "n": backend.n, "target": target, "size": size, "start": p}
            steps = Checkpoint(checkpoint, backend, request)
        search = Search(ParametricPencil(backend, family, p.size), p, target, size, symmetric, history, steps)
        check_gauge(gauge, search.problem, len(search.pair.M))
        pair = search.run(window)
        near = nearest_defective(pair.M)
        kind = classify(pair, near, perturbation)
        if kind[0] != "block":
            raise NotConvergedError(f"the search ended at {search.p} in a degeneracy that is no single Jordan block (verdict: {kind[0]})")
        chain = assemble_chain(search.problem, pair, near, kind, gauge, pair.M)
        return ExceptionalPoint(parameters=search.p, chain=chain, history=tuple(history))
    except SingularFactorError as error:
        failure = NotConvergedError(
            f"the search came to parameters {p if search is None else search.p} where A - sigma B cannot be factorized: {error}"
        )
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

    def __init__(
        self,
        family: ParametricPencil,
        p: np.ndarray,
        target: complex,
        size: int | None,
        symmetric: bool | None,
        history: list[SearchStep],
        steps: Checkpoint | None = None,
    ):
        self.family, self.p, self.history, self.steps = family, p, history, steps
        self.real = not np.iscomplexobj(p)
        self.sweeps = 0  # of the last step
        self.problem = family.at(p)
        settle_symmetry(self.problem, symmetric)
        state = None if steps is None else steps.state
        begun = None if steps is None else steps.begin(self.problem)
        if begun is None:
            self.factor, self.pair = factored_pair(self.problem, target, size, tolerance=LOOSE)
            self.reach = REACH * self.pair.gap
            return
        assert state is not None, "the pair that begins was saved with it"
        self.p, self.sweeps, self.reach = self._numbers(state["parameters"]), state["sweeps"], state["reach"] or np.inf
        self.history += [self._restored(step) for step in state["history"]]
        self._move()
        self.pair, self.factor = begun, self.problem.factor(begun.mean)

    def _move(self) -> None:
        """Makes the pencil that of the present parameters."""
        symmetric = self.problem.symmetric
        self.problem = self.family.at(self.p)
        self.problem.symmetric = symmetric

    def _numbers(self, values: list[Any]) -> np.ndarray:
        return np.array(values, dtype=float) if self.real else complex_array(values)

    def _restored(self, step: dict[str, Any]) -> SearchStep:
        arrays = {"parameters": self._numbers(step["parameters"]), "eigenvalues": complex_array(step["eigenvalues"])}
        return SearchStep(**(step | arrays))

    def destroy(self) -> None:
        self.factor.destroy()

    def run(self, window: Window | None = None) -> DeflatingPair:
        """Steps until the next one is down to rounding; returns the pair at the exceptional point."""
        previous = self.history[-1].step if self.history else np.inf
        for number in range(len(self.history), MAX_STEPS):
            pair = self.pair
            if self.steps is not None:
                state = {"parameters": self.p, "sweeps": self.sweeps, "reach": self.reach, "history": [vars(h) for h in self.history]}
                self.steps.save(pair, **state)
            dM = projected_derivatives(self.problem, pair)[1]
            step = ep_step(pair.M, dM, real=self.real, uncertainty=pair.uncertainty)
            size = float(np.linalg.norm(step.delta))
            values = np.linalg.eigvals(pair.M)
            moves = float(np.linalg.norm(np.tensordot(step.delta, dM, axes=1), 2)) if np.isfinite(size) else np.inf
            fraction = min(1.0, self.reach / moves) if moves else 1.0
            self.history.append(
                SearchStep(parameters=self.p, eigenvalues=values, step=size, fraction=fraction, residual=pair.residual, sweeps=self.sweeps)
            )
            log.info("step %d: |delta| %.1e, residual %.1e, %d sweeps", number, size, pair.residual, self.sweeps)
            if not np.isfinite(size):
                raise NotConvergedError(f"step {number} is not finite")
            noise = max(step.noise, 4 * EPS * float(np.linalg.norm(self.p)))
            if number > 1 and (size <= noise / 10 or previous / 2 <= size <= 10 * noise):  # the first two are at a loose residual
                if step.unresolved > 1e3 * noise:
                    raise NotConvergedError(
                        f"no exceptional point at real parameters: the nearest approach is {self.p}, {step.unresolved:.2e} away "
                        f"in the complex plane; start from complex parameters, or vary more of them"
                    )
                return pair
            if window is not None and not window.holds(self.p + fraction * step.delta):
                raise NotConvergedError(f"step {number} of the search left the window, to {self.p + fraction * step.delta}")
            previous = size
            self.sweeps, fraction = self.advance(step.delta, fraction, LOOSE if number == 0 else 0.0)
            self.history[-1] = replace(self.history[-1], fraction=fraction)
        raise NotConvergedError(f"no exceptional point within {MAX_STEPS} steps; the last one was {size:.1e}")

    def advance(self, delta: np.ndarray, fraction: float, tolerance: float) -> tuple[int, float]:
        """Makes the given part of a step, or half of it, or a quarter ..: the first after which the subspace is that of before,
        turned a little. Returns the number of sweeps and the part."""
        before, shortest = (self.p, self.problem, self.pair), SHORTEST * fraction
        while True:
            self.p = before[0] + fraction * delta
            try:
                sweeps = self.follow(tolerance)
                cosine = float(np.linalg.svd(self.problem.backend.inner(before[2].X, self.pair.X), compute_uv=False)[-1])
                if cosine >= SECTOR:
                    return sweeps, fraction
                raise NotConvergedError(
                    f"on the way from {before[0]} to {self.p} other modes take over (cosine of the angle between the subspaces "
                    f"{cosine:.2g}): start nearer, or at another target"
                )
            except NotConvergedError as error:
                self.p, self.problem, self.pair = before
                fraction /= 2
                if fraction < shortest:
                    raise
                log.info("%s; trying %.2g of the step", error, fraction)

    def follow(self, tolerance: float) -> int:
        """Carries the subspaces to the present parameters; returns the number of sweeps."""
        self._move()
        total = factorizations = 0
        while True:
            pair, sweeps, good = refine(
                self.problem, self.factor, self.pair.X, self.pair.Y, self.pair.others, tolerance=tolerance, sweeps=PATIENCE
            )
            total += sweeps
            if good:
                self.pair = pair
                return total
            if factorizations == MAX_FACTORIZATIONS:
                raise NotConvergedError(
                    f"the subspace could not follow the parameters to {self.p}: residual {pair.residual:.1e} after "
                    f"{factorizations} new factorizations; the next eigenvalue is probably too near"
                )
            shift = self.pair.mean
            log.info("residual %.1e after %d sweeps: a new factorization, at %s", pair.residual, sweeps, format(shift, ".6g"))
            self.factor.destroy()
            self.factor = self.problem.factor(shift)
            factorizations += 1
