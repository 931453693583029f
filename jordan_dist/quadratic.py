"""Quadratic eigenproblems (l^2 mass + l damping + stiffness) x = 0 as pencils of twice the size that are never formed.

With y = [x; l x] the problem is the companion pencil

    [     0         I    ]         [ I   0   ]
    [ -stiffness  -damping ] y = l [ 0  mass ] y

What is solved is that pencil in the variables [x; (l / w) x] with w of the size of the eigenvalues, and with its second row divided
by w m, m = ||mass||:

    [          0                w I        ]             [ I     0     ]
    [ -stiffness / (w m)    -damping / m   ] y_w  =  l   [ 0  mass / m ] y_w

because distances mean nothing unless both halves of y_w are of the same size: for large l two modes that differ in x alone would
look as far apart as the x are, or for small l two eigenvalues that share one x as one Jordan block. (It is the scaling l = w mu of
Fan, Lin and Van Dooren, SIAM J. Matrix Anal. Appl. 26 (2004) 252-270, but they take w = (||stiffness|| / ||mass||)^(1/2), the
size of the largest eigenvalues: 600 for a membrane of which the lowest mode is at 4.4.) w and m are powers of two, so that
scaling makes no rounding errors, and l is not scaled. Vectors and residuals are returned for the unscaled pencil, in which the
gauge holds.

The matrices, derivatives and A - sigma B all have the form [[a I, b I], [P, Q]], of which only P and Q are kept, as sums of
the user's matrices. A solve eliminates the second half of y: what is factorized is P - (a/b) Q, of the size of the problem, and
that is -(stiffness + sigma damping + sigma^2 mass) for A - sigma B. A left eigenvector is [(damping + l mass)^H u; u] with
u^H (l^2 mass + l damping + stiffness) = 0.

Every rank holds its rows of x above its rows of l x, so that a block has 2 n_local local rows, and the arithmetic of blocks is that
of the problem's own backend.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jordan_dist.backends import Backend, Factor, backend_for
from jordan_dist.pencil import Pencil, Sum, apply_sum, equals_transpose


@dataclass(frozen=True)
class QuadraticPencil:
    """lambda^2 mass + lambda damping + stiffness, in the place of A in `jordan_chain` and `find_exceptional_point` (without B).

    The matrices are n x n and of one kind (numpy, scipy sparse or PETSc); None is zero. Derivatives by the parameters, `dA`, are
    QuadraticPencils too. The vectors of a chain then are those of the linearized problem, [x; lambda x + the x before in the
    chain], of length 2 n, in which they are a chain in the gauge asked for; `JordanChain.original_vectors` has the x alone, where
    a Jordan vector may be zero or a multiple of the eigenvector. Numpy vectors hold all of x first; of a dense PETSc matrix the
    rows of every rank are its rows of x and then those of the rest.

    The forced problem (z^2 mass + z damping + stiffness) x = f is the first half of (A - z B) y = [0; -f].
    """

    mass: Any = None
    damping: Any = None
    stiffness: Any = None

    @property
    def parts(self) -> tuple[Any, Any, Any]:
        return self.mass, self.damping, self.stiffness


@dataclass(frozen=True, kw_only=True)
class Companion:
    """[[a I, b I], [P, Q]]; an empty sum is zero."""

    a: complex
    b: complex
    P: Sum
    Q: Sum
    symmetric: bool
    """Whether P and Q equal their transposes."""


class CompanionBackend(Backend):
    """The linearized problem over the backend of the user's matrices, `base`."""

    def __init__(self, base: Backend):
        super().__init__(2 * base.n, 2 * base.start, 2 * base.stop, base.comm)
        self.base, self.cost = base, base.cost
        self.column = self.row = 1.0
        """w and w m: what the second half of the vectors and the second row of the pencil are divided by."""

    @classmethod
    def around(cls, A: QuadraticPencil, comm: Any = None, frequency: float | None = None) -> CompanionBackend:
        if A.mass is None or A.stiffness is None:
            raise ValueError("a QuadraticPencil needs a mass and a stiffness matrix; only its damping may be left out")
        made = cls(backend_for(A.stiffness, comm))
        if frequency is not None:
            mass, stiffness = (
                made.base.matrix_norm(made.base.matrix(D, f"{part} of A")) for D, part in ((A.mass, "mass"), (A.stiffness, "stiffness"))
            )
            mass = mass or 1.0
            made.column = _power_of_two(frequency or np.sqrt(stiffness / mass) or 1.0)
            made.row = made.column * _power_of_two(mass)
        return made

    def rescale(self, frequency: float) -> bool:
        if not 0 < frequency < np.inf or 0.25 <= frequency / self.column <= 4:
            return False
        was, self.column = self.column, _power_of_two(frequency)
        self.row *= self.column / was
        return True

    def users_right(self, X: np.ndarray) -> np.ndarray:
        return _lower_times(self.column, X)

    def users_left(self, Y: np.ndarray) -> np.ndarray:
        return _lower_times(1 / self.row, Y)

    def users_image(self, R: np.ndarray) -> np.ndarray:
        return _lower_times(self.row, R)

    def parts(self, x: np.ndarray) -> list[np.ndarray]:
        return np.split(x, 2)

    def random_block(self, k: int, seed: int = 20170419) -> np.ndarray:
        return np.vstack([self.base.random_block(k, seed), self.base.random_block(k, seed + 1)])

    def matrix(self, A: Any, name: str) -> Companion:
        if not isinstance(A, Companion):
            raise ValueError(f"{name} must be a QuadraticPencil, as A is one, not {type(A).__name__}")
        return A

    def product(self, A: Companion, X: np.ndarray) -> np.ndarray:
        top, bottom = np.split(X, 2)
        return np.vstack([A.a * top + A.b * bottom, self._below(A.P, top) + self._below(A.Q, bottom)])

    def adjoint_product(self, A: Companion, X: np.ndarray) -> np.ndarray:
        top, bottom = np.split(X, 2)
        return np.vstack(
            [
                np.conj(A.a) * top + self._below(A.P, bottom, adjoint=True),
                np.conj(A.b) * top + self._below(A.Q, bottom, adjoint=True),
            ]
        )

    def _below(self, terms: Sum, X: np.ndarray, *, adjoint: bool = False) -> np.ndarray:
        return apply_sum(self.base, terms, X, adjoint=adjoint) if terms else np.zeros_like(X)

    def matrix_norm(self, A: Companion) -> float:
        return max(abs(A.a) + abs(A.b), sum(abs(c) * self.base.matrix_norm(D) for c, D in (*A.P, *A.Q)))

    def factor(self, terms: list[tuple[complex, Companion]], *, symmetric: bool, true: Any = None) -> CompanionFactor:
        a, b = sum(c * A.a for c, A in terms), sum(c * A.b for c, A in terms)
        P = [(c * d, D) for c, A in terms for d, D in A.P]
        Q = [(c * d, D) for c, A in terms for d, D in A.Q]
        assert b != 0, "A - sigma B has the identity in its upper right corner"
        return CompanionFactor(self, Companion(a=a, b=b, P=P, Q=Q, symmetric=all(A.symmetric for _, A in terms)))

    def export(self, X: np.ndarray) -> Any:
        if self.base.replicated:
            return np.vstack([self.base.export(half) for half in np.split(X, 2)])
        return self.base.export(X)

    def original(self, X: np.ndarray) -> Any:
        return self.base.export(np.split(X, 2)[0])

    def destroy(self) -> None:
        self.base.destroy()


def _power_of_two(size: float) -> float:
    return float(2.0 ** np.round(np.log2(size)))


def _lower_times(c: float, X: np.ndarray) -> np.ndarray:
    top, bottom = np.split(X, 2)
    return np.asfortranarray(np.vstack([top, c * bottom]))


class CompanionFactor:
    """Solves with [[a I, b I], [P, Q]] from a factorization of P - (a/b) Q."""

    def __init__(self, backend: CompanionBackend, matrix: Companion):
        self.backend, self.matrix, self.ratio = backend, matrix, matrix.a / matrix.b
        terms = [*matrix.P, *((-self.ratio * c, D) for c, D in matrix.Q)]
        self.inner: Factor = backend.base.factor(terms, symmetric=matrix.symmetric)

    def solve(self, R: np.ndarray) -> np.ndarray:
        top, bottom = np.split(R, 2)
        b = self.matrix.b
        x = self.inner.solve(bottom - self.backend._below(self.matrix.Q, top) / b)
        return np.asfortranarray(np.vstack([x, (top - self.matrix.a * x) / b]))

    def solve_adjoint(self, R: np.ndarray) -> np.ndarray:
        top, bottom = np.split(R, 2)
        right = top - np.conj(self.ratio) * bottom
        # the factors of a matrix that equals its transpose serve both ways, in one block
        w = self.inner.solve(right.conj()).conj() if self.matrix.symmetric else self.inner.solve_adjoint(right)
        below = self.backend._below(self.matrix.Q, w, adjoint=True)
        return np.asfortranarray(np.vstack([(bottom - below) / np.conj(self.matrix.b), w]))

    def entries(self) -> float:
        return self.inner.entries()

    def destroy(self) -> None:
        self.inner.destroy()


def linearized(backend: CompanionBackend, A: QuadraticPencil, dA: list[QuadraticPencil | None]) -> Pencil:
    """The companion pencil with its derivatives."""

    def matrices(Q: QuadraticPencil, name: str, one: float) -> tuple[Companion, Companion]:
        """What Q contributes to A and to B."""
        mass, damping, stiffness = (
            [] if D is None else [(1.0, backend.base.matrix(D, f"{part} of {name}"))]
            for part, D in zip(("mass", "damping", "stiffness"), Q.parts, strict=True)
        )
        symmetric = all(equals_transpose(backend.base, D) for _, D in (*mass, *damping, *stiffness))
        w, row = backend.column, backend.row
        parts: list[Sum] = [
            [(c * factor, D) for c, D in terms] for terms, factor in ((stiffness, -1 / row), (damping, -w / row), (mass, w / row))
        ]
        P, below, below_of_B = parts
        return (
            Companion(a=0.0, b=one * w, P=P, Q=below, symmetric=symmetric),
            Companion(a=one, b=0.0, P=[], Q=below_of_B, symmetric=symmetric),
        )

    pairs = []
    for i, D in enumerate(dA):
        if D is not None and not isinstance(D, QuadraticPencil):
            raise ValueError(f"dA[{i}] must be a QuadraticPencil, as A is one, not {type(D).__name__}")
        pairs.append(matrices(D or QuadraticPencil(), f"dA[{i}]", 0.0))
    here = matrices(A, "A", 1.0)
    return Pencil(backend, [(1.0, here[0])], [(1.0, here[1])], [[(1.0, a)] for a, _ in pairs], [[(1.0, b)] for _, b in pairs])
