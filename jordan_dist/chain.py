"""jordan_chain(): the Jordan chain of a large, nearly defective pencil.

Hernandez, Pick and Johnson (arXiv 1704.05837) show that the invariant subspace, by block inverse iteration, is enough to find the
chain with an error O(eps) where eps is the distance to an exactly defective matrix, and O(eps^2) when the derivative of the
matrix is known. The formulas here are a derivation of our own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from numbers import Complex, Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from jordan_dist import accuracy
from jordan_dist.accuracy import ForwardBounds, LowRank
from jordan_dist.backends import Cost, backend_for
from jordan_dist.checkpoint import Checkpoint
from jordan_dist.derivative import ep_step, projected_derivatives, subspace_derivative
from jordan_dist.pencil import Pencil, approximation_of, pencil, settle_symmetry
from jordan_dist.projected import NearestDefective, nearest_defective, segre, verdict
from jordan_dist.resolvent import singular_part
from jordan_dist.subspace import DeflatingPair, factored_pair

GAUGES = ("unit", "biorthogonal")


@dataclass(frozen=True, kw_only=True)
class JordanChain:
    """A Jordan chain of size k, or what there is in its place. Blocks are n x k of the kind that the user brought, complex128.

    In the verdict `block` the columns of `vectors` are x0, j1, .., j_{k-1} with (A - l B) x0 = 0 and (A - l B) j_i = B j_{i-1}
    for the nearest defective pencil; in the verdict `blocks` they are such chains one after another, of the sizes `blocks`. In the
    other verdicts they are an orthonormal basis of the deflating subspace, since no Jordan vector exists there, and
    `chain_residuals` is empty.
    """

    eigenvalue: complex
    """The k-fold eigenvalue: the mean of the k eigenvalues of the pencil, to first or second order that of the defective one."""
    vectors: Any
    original_vectors: Any = field(default=None, repr=False)
    """Of a `QuadraticPencil`, in its own variables: the x in the first half of `vectors`. None for A - l B."""
    left_vectors: Any
    """The dual block W: W^H B vectors = I. In the verdict `block` its last column is the left eigenvector. First order in any
    case unless the pencil is symmetric."""
    matrix: np.ndarray
    """(k, k): the pencil restricted to the subspace. Of a `QuadraticPencil`, here and in what is derived from it, in variables in which
    both halves of a vector are of the same size (`jordan_dist.quadratic`)."""
    verdict: str
    """`block`, `semisimple` (k independent eigenvectors), `blocks` (several Jordan blocks, k > 2) or `not-defective`."""
    weyr: tuple[int, ...]
    """The Weyr characteristic; empty if not defective."""
    singular_values: np.ndarray
    """(k,), of `matrix` minus its mean eigenvalue, descending. For k = 2 the last is the distance to the nearest defective
    matrix."""
    subspace_residual: float
    """||A X - B X M|| / (||A X|| + ||B X M||), the larger of right and left."""
    chain_residuals: tuple[float, ...]
    """One per vector of the chain, in the nearest defective pencil A + E - l B, relative to ||A j_i|| + ||l B j_i|| + ||B
    j_{i-1}||."""
    backward_error: float
    """||E||_2 (at most): this far is a pencil that has exactly this chain."""
    gap: float
    """Estimated distance from the eigenvalue to the rest of the spectrum."""
    projector_norm: float
    """||X Y^H B||_2: how much the subspace amplifies a perturbation."""
    puiseux: tuple[complex, ...]
    """Per parameter, c in eigenvalue +- (c t)^(1/k) + .. when the parameter moves by t from the exceptional point; empty without
    derivatives."""
    order: int
    """1, or 2 with derivatives: then the chain is that at the exceptional point `step` away from the given pencil."""
    step: np.ndarray | None
    """(parameters,), complex; None without derivatives."""
    cost: Cost = field(repr=False)

    @property
    def blocks(self) -> tuple[int, ...]:
        """The sizes of the Jordan blocks, descending; empty if not defective."""
        return segre(self.weyr)

    @property
    def eigenvector(self) -> np.ndarray:
        """x0 alone, of an n x k array. ValueError unless there is a chain."""
        return self._column(0)

    @property
    def jordan_vector(self) -> np.ndarray:
        """The first Jordan vector. ValueError unless there is a chain."""
        return self._column(1)

    def resolvent(self, z: complex, source: Any) -> Any:
        """The Green's function near the exceptional point: the singular part of (A - z B)^-1 source, which is all but a term that
        stays bounded for z -> eigenvalue. It costs k inner products and no solve.

        source: (n,) or (n, m), for PETSc chains a vector or a dense matrix; the result is of the same kind, complex128. ValueError
        unless there is a chain, and at z = eigenvalue. The formula is in `jordan_dist.resolvent`.
        """
        self._require_chain()
        return singular_part(self.vectors, self.left_vectors, self.eigenvalue, z, source)

    def backward_perturbation(self, A: Any, B: Any = None) -> LowRank:
        """E of rank k with (A + E) x0 = l B x0 and (A + E) j_i = l B j_i + B j_{i-1}: the smallest in the 2-norm. A, B: the pencil
        of the chain, distributed as it was. With second order: that at the parameters which the chain belongs to. ValueError
        unless there is a chain."""
        self._require_chain()
        return accuracy.backward_perturbation(self, A, B)

    def forward_bounds(self, A: Any, B: Any = None, *, perturbation: float | None = None) -> ForwardBounds:
        """First-order bounds of the errors of the eigenvalue and of the vectors. Costs one factorization and some tens of solves.

        A, B: as in `backward_perturbation`. perturbation: how far the pencil may be from the one that was meant, which has an
        exact block: ||A - A*|| + |l| ||B - B*|| in the 2-norm. The pencil itself cannot say it. The default is the backward error:
        as if the pencil that was meant were the nearest one with a block, which gives an estimate and no bound. ValueError unless
        there is a chain. The derivation is in `jordan_dist.accuracy`.
        """
        self._require_chain()
        return accuracy.forward_bounds(self, A, B, perturbation)

    def _require_chain(self) -> None:
        if self.verdict == "blocks":
            raise ValueError(f"there are several Jordan chains, of the sizes {self.blocks}: `vectors` holds them one after another")
        if self.verdict != "block":
            raise ValueError(f"there is no Jordan chain: the verdict is {self.verdict}, and `vectors` spans the deflating subspace")

    def _column(self, i: int) -> np.ndarray:
        self._require_chain()
        vectors = self.vectors if isinstance(self.vectors, np.ndarray) else self.vectors.getDenseArray()
        return vectors[:, i]


def jordan_chain(
    A: Any,
    B: Any = None,
    *,
    target: complex,
    size: int | None = 2,
    dA: Any = None,
    dB: Any = None,
    symmetric: bool | None = None,
    gauge: str = "unit",
    perturbation: float | None = None,
    tolerance: float = 0.0,
    approximation: Any = None,
    checkpoint: str | Path | None = None,
    comm: Any = None,
) -> JordanChain:
    """The Jordan chain of the `size` eigenvalues of A - lambda B nearest `target`; size = None takes as many, from 2 to 6, as stand
    clearest of the next, which costs some more solves.

    A, B: n x n, numpy, scipy sparse (one process) or PETSc matrices; B = None is the identity. A may be a `QuadraticPencil` of such
    matrices, whose chain is that of the linearized problem of order 2 n. With `comm`, an MPI communicator,
    every rank brings the whole numpy or scipy matrix, PETSc solves, and every rank receives the whole vectors.
    dA, dB: derivatives by the parameters, a matrix or a list of one per parameter; with them the chain is that at the predicted
    exceptional point and its error is O(eps^2) instead of O(eps), eps being the distance to it.
    symmetric: whether A and B equal their transposes (without conjugation). Found by a probe; False forces the general path.
    gauge: `unit` (||x0|| = 1, x0^H j_i = 0, and the phase makes the first component of x0 of at least half the largest modulus
    real and positive) or `biorthogonal` (symmetric pencils, size 2: x0^T B x0 = 0, x0^T B j = 1, j^T B j = 0).
    perturbation: how far the pencil may be from a degenerate one, in units of the eigenvalue, for the verdict; default 1e-3 of
    the gap.
    tolerance: of `subspace_residual`, where the solve ends; 0 goes on to rounding, for a sweep or two more.
    approximation: assembled matrices near A and B, a pair or one for A, which are factorized in their place; A and B may then be shells that
    know products alone. The chain is that of A and B: how near they are decides the number of sweeps, or, with
    PETSC_OPTIONS="-jordan_ksp_type fgmres", of inner iterations.
    checkpoint: a folder in which the state is kept after each sweep (`jordan_dist.checkpoint`). A solve that finds the state of the same
    request there goes on from it, on any number of ranks; that of another one is a ValueError.

    Raises ValueError for arguments that do not fit and NotConvergedError when there is no trustworthy answer.
    """
    sigma = check_request(target, size, perturbation)
    if not (isinstance(tolerance, Real) and 0 <= tolerance < 1e-3):
        raise ValueError(f"tolerance must be from 0 to 1e-3, a relative residual; it is {tolerance!r}")
    backend = backend_for(A, comm, frequency=abs(sigma))
    factor = steps = begun = each = frequency = None
    try:
        if checkpoint is not None:
            steps = Checkpoint(checkpoint, backend, {"kind": "chain", "n": backend.n, "target": sigma, "size": size})
            if steps.state is not None and (frequency := steps.state["frequency"]):
                backend.rescale(frequency)
        while True:
            problem = pencil(backend, A, B, dA, dB)
            settle_symmetry(problem, symmetric)
            if approximation is not None:
                problem.near = approximation_of(problem, approximation)
            check_gauge(gauge, problem, size)
            if steps is not None:
                begun = steps.begin(problem)
                each = partial(steps.save, frequency=frequency)
            factor, pair = factored_pair(problem, sigma, size, tolerance=float(tolerance), begun=begun, each=each)
            size = len(pair.M)
            check_gauge(gauge, problem, size)
            frequency = float(np.linalg.norm(np.linalg.eigvals(pair.M)) / np.sqrt(size))
            if not backend.rescale(frequency):
                break
            factor.destroy()
            factor = None
        near = nearest_defective(pair.M)
        kind = classify(pair, near, perturbation)
        if problem.dA and kind[0] == "block":
            return _second_order(problem, factor, pair, kind, gauge)
        return assemble_chain(problem, pair, near, kind, gauge, pair.M)
    finally:
        if factor is not None:
            factor.destroy()
        backend.destroy()


def check_request(target: Any, size: Any, perturbation: Any) -> complex:
    """The target as a number. ValueError for one that is none, and for a size or a perturbation that cannot be meant."""
    if not isinstance(target, Complex) or not np.isfinite(complex(target)):
        raise ValueError(f"target must be one finite number, real or complex; it is {target!r}")
    if size is not None and (not isinstance(size, Integral) or isinstance(size, bool)):
        raise ValueError(f"size must be a whole number, the order of the Jordan block, or None; it is {size!r}")
    if perturbation is not None and not (isinstance(perturbation, Real) and 0 <= float(perturbation) < np.inf):
        raise ValueError(f"perturbation must be a finite number that is not negative; it is {perturbation!r}")
    return complex(target)


def check_gauge(gauge: str, problem: Pencil, size: int | None) -> None:
    if gauge not in GAUGES:
        raise ValueError(f"gauge must be one of {', '.join(GAUGES)}; it is {gauge!r}")
    if gauge == "biorthogonal" and not (problem.symmetric and size in (2, None)):
        raise ValueError("gauge='biorthogonal' needs a pencil that equals its transpose, and size=2")


def classify(pair: DeflatingPair, near: NearestDefective, perturbation: float | None) -> tuple[str, tuple[int, ...]]:
    if perturbation is None:
        perturbation = 1e-3 * (pair.gap if np.isfinite(pair.gap) else abs(pair.mean))
    return verdict(near, pair.M - pair.mean * np.eye(len(pair.M)), perturbation, pair.uncertainty)


def _second_order(problem: Pencil, factor: Any, pair: DeflatingPair, kind: tuple[str, tuple[int, ...]], gauge: str) -> JordanChain:
    """Moves the subspace and M along their derivatives to the exceptional point, and takes the chain there."""
    F, dM = projected_derivatives(problem, pair)
    delta = ep_step(pair.M, dM, real=False, uncertainty=pair.uncertainty).delta
    moves = [subspace_derivative(problem, factor, pair, f, d, abs(s)) for f, d, s in zip(F, dM, delta, strict=True)]
    X = pair.X + sum(d * dX for d, dX in zip(delta, moves, strict=True))
    M = pair.M + sum(d * D for d, D in zip(delta, dM, strict=True))
    there = Pencil(
        problem.backend,
        [*problem.A, *((d * c, D) for d, terms in zip(delta, problem.dA, strict=True) for c, D in terms)],
        [*problem.B, *((d * c, D) for d, terms in zip(delta, problem.dB, strict=True) for c, D in terms)],
        problem.dA,
        problem.dB,
        problem.symmetric,
    )
    X, R = problem.backend.qr(X)
    M = R @ M @ np.linalg.inv(R)
    Y = X.conj() if problem.symmetric else pair.Y
    Y = Y @ np.linalg.inv(problem.backend.inner(Y, there.times_B(X))).conj().T
    moved = DeflatingPair(X, Y, M, pair.residual, pair.uncertainty, pair.others)
    return assemble_chain(there, moved, nearest_defective(M), kind, gauge, pair.M, step=delta)


def assemble_chain(
    problem: Pencil,
    pair: DeflatingPair,
    near: NearestDefective,
    kind: tuple[str, tuple[int, ...]],
    gauge: str,
    given: np.ndarray,
    step: np.ndarray | None = None,
) -> JordanChain:
    """The chain of `near` in the subspace of `pair`, with its residuals. `given` is M of the pencil that the user gave."""
    backend, X, Y, M = problem.backend, pair.X, pair.Y, pair.M
    k = len(M)
    eigenvalue = near.eigenvalue
    chained = kind[0] in ("block", "blocks")
    if kind[0] == "blocks":
        near = nearest_defective(M, kind[1])
    Q, R = backend.qr(backend.users_right(X))
    if chained:
        C = near.chain()
        C = C @ _unit_gauge(R @ C, near.shift)
        pivot = backend.pivot(Q @ (R @ C[:, 0]))
        C = C * (abs(pivot) / pivot)
        if gauge == "biorthogonal":
            C = C @ _biorthogonal(backend.inner((X @ C).conj(), problem.times_B(X @ C)))
    else:
        C = np.linalg.inv(R).astype(complex)
    V, W = np.asfortranarray(X @ C), np.asfortranarray(Y @ np.linalg.inv(C).conj().T)
    AV, BV, BX = problem.times_A(V), problem.times_B(V), problem.times_B(X)

    # E X = -(R + B X (M - M0)) makes M0 exact in X; its two parts are measured apart because the chain is to be checked in A, not
    # in A X.
    shift = BX @ (M - near.matrix)
    residual = problem.times_A(X) - BX @ M
    backward_error = sum(backend.norm2(backend.users_image(Z @ np.linalg.inv(R))) for Z in (shift, residual))
    chain_residuals: tuple[float, ...] = ()
    if chained:
        previous = BV @ near.shift
        out = AV - eigenvalue * BV - previous - shift @ C
        column = [np.sqrt(backend.sum(np.sum(np.abs(backend.users_image(Z)) ** 2, axis=0))) for Z in (out, AV, eigenvalue * BV, previous)]
        chain_residuals = tuple(float(r) for r in column[0] / (column[1] + column[2] + column[3]))
    puiseux: tuple[complex, ...] = ()
    if problem.dA and kind[0] == "block":
        left, right = W[:, -1:], V[:, :1]
        puiseux = tuple(
            complex(backend.inner(left, problem.derivative(i, right, np.array([[eigenvalue]])))[0, 0]) for i in range(len(problem.dA))
        )
    N = given - np.trace(given) / k * np.eye(k)
    V, W = backend.users_right(V), backend.users_left(W)
    return JordanChain(
        eigenvalue=eigenvalue,
        vectors=backend.export(V),
        original_vectors=backend.original(V),
        left_vectors=backend.export(W),
        matrix=given,
        verdict=kind[0],
        weyr=kind[1],
        singular_values=np.linalg.svd(N, compute_uv=False),
        subspace_residual=pair.residual,
        chain_residuals=chain_residuals,
        backward_error=backward_error,
        gap=pair.gap,
        projector_norm=backend.norm2(problem.adjoint_B(Y)),
        puiseux=puiseux,
        order=1 if step is None else 2,
        step=step,
        cost=backend.cost,
    )


def _unit_gauge(V: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """C such that the chains in V C begin with vectors of norm 1, and a single one is orthogonal to its first: a number per chain,
    and for a single one multiples of the chain moved by i."""
    k = len(shift)
    starts = np.cumsum(shift.sum(axis=0) == 0) - 1
    first = np.linalg.norm(V[:, shift.sum(axis=0) == 0], axis=0)
    C = np.diag(1 / first[starts]).astype(complex)
    for i in range(1, k) if len(first) == 1 else ():
        VC = V @ C
        C = C - C @ (np.vdot(VC[:, 0], VC[:, i]) / np.linalg.norm(VC[:, 0]) ** 2 * np.eye(k, k=i))
    return C


def _biorthogonal(G: np.ndarray) -> np.ndarray:
    """The transformation [x0, j] = [x0, j0] C, from G = [x0, j0]^T B [x0, j0]; G[0, 0] is zero at an exceptional point."""
    a = 1 / np.sqrt(complex(G[0, 1]))
    return np.array([[a, -a * G[1, 1] / (2 * G[0, 1])], [0, a]])
