"""Pencils and families of pencils, as sums of matrices: products with A0 + p A1 never need the assembled sum, only a
factorization does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jordan_dist.backends import Backend, Factor, SingularFactorError

_UNEVEN = "dA has {} matrices, dB has {}: one per parameter is needed (None where zero)"

Sum = list[tuple[complex, Any]]  # coefficient * matrix; the matrix None is the identity


@dataclass(frozen=True)
class AffineFamily:
    """The pencils A(p) - lambda B(p) with A(p) = A0 + sum_i p_i dA[i] and B(p) = B0 + sum_i p_i dB[i].

    All matrices are n x n and of one kind (numpy, scipy sparse or PETSc). B0 = None is the identity; an entry None in `dA` or
    `dB` is zero, and an empty `dB` means that B does not depend on p.
    """

    A0: Any
    dA: Sequence[Any] = ()
    B0: Any = None
    dB: Sequence[Any] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "dA", tuple(self.dA))
        object.__setattr__(self, "dB", tuple(self.dB))
        if self.dA and self.dB and len(self.dA) != len(self.dB):
            raise ValueError(_UNEVEN.format(len(self.dA), len(self.dB)))
        if not any(D is not None for D in (*self.dA, *self.dB)):
            raise ValueError("the family depends on no parameter: dA and dB hold no matrix")

    @property
    def parameters(self) -> int:
        return max(len(self.dA), len(self.dB))


# A family of pencils: affine, or a function of the parameters that returns (A, B) or (A, B, dA, dB).
Family = AffineFamily | Callable[[np.ndarray], tuple[Any, ...]]


@dataclass
class Pencil:
    """A - lambda B of one backend, with the derivatives of A and B per parameter (empty when not known)."""

    backend: Backend
    A: Sum
    B: Sum
    dA: list[Sum] = field(default_factory=list)
    dB: list[Sum] = field(default_factory=list)
    symmetric: bool = False
    near: Pencil | None = None
    """Another pencil, which is factorized in the place of this one."""

    def times_A(self, X: np.ndarray) -> np.ndarray:
        return apply_sum(self.backend, self.A, X)

    def times_B(self, X: np.ndarray) -> np.ndarray:
        return apply_sum(self.backend, self.B, X)

    def adjoint_A(self, Y: np.ndarray) -> np.ndarray:
        return apply_sum(self.backend, self.A, Y, adjoint=True)

    def adjoint_B(self, Y: np.ndarray) -> np.ndarray:
        return apply_sum(self.backend, self.B, Y, adjoint=True)

    def derivative(self, i: int, X: np.ndarray, M: np.ndarray) -> np.ndarray:
        """A' X - B' X M for the parameter i."""
        out = apply_sum(self.backend, self.dA[i], X) if self.dA[i] else np.zeros_like(X)
        return out - apply_sum(self.backend, self.dB[i], X) @ M if self.dB[i] else out

    def norm_A(self) -> float:
        """An upper bound of the infinity norm of A."""
        return sum(abs(c) * self.backend.matrix_norm(A) for c, A in self.A)

    def norm_B(self) -> float:
        return sum(abs(c) * self.backend.matrix_norm(B) for c, B in self.B)

    def factor(self, sigma: complex) -> Factor:
        """A factorization of A - sigma B. If sigma is an eigenvalue to the last bit it moves by 1e-8 of itself: how accurate the
        factors are changes the number of sweeps only."""
        factored = self.near or self
        for shift in (sigma, *self.beside(sigma)):
            true = None if self.near is None else _shifted(self, shift)
            try:
                return self.backend.factor(_shifted(factored, shift), symmetric=factored.symmetric, true=true)
            except SingularFactorError as error:
                failure = error
        raise self.singular(sigma, failure)

    def beside(self, sigma: complex) -> tuple[complex, complex]:
        """Shifts that serve as well as one on an eigenvalue."""
        size = max(abs(sigma), np.finfo(float).eps * self.norm_A() / max(self.norm_B(), np.finfo(float).tiny))
        return sigma + 1e-8 * size, sigma + 1e-6j * size

    @staticmethod
    def singular(sigma: complex, failure: Exception) -> ValueError:
        return ValueError(f"A - sigma B is singular at and near sigma = {sigma}: is the pencil regular? ({failure})")


def _shifted(pencil: Pencil, sigma: complex) -> Sum:
    return [*pencil.A, *((-sigma * c, B) for c, B in pencil.B)]


def apply_sum(backend: Backend, terms: Sum, X: np.ndarray, *, adjoint: bool = False) -> np.ndarray:
    """The sum, or its adjoint, times X."""
    product = backend.adjoint_product if adjoint else backend.product
    total: np.ndarray | None = None
    for c, A in terms:
        c = np.conj(c) if adjoint else c
        if c != 0 or total is None:
            term = product(A, X) if c == 1 else c * product(A, X)
            total = term if total is None else total + term
    assert total is not None, "a sum has a term"
    return total


def pencil(backend: Backend, A: Any, B: Any = None, dA: Any = None, dB: Any = None) -> Pencil:
    """The user's matrices; dA and dB are a matrix or a list of one per parameter."""
    from jordan_dist.quadratic import CompanionBackend, QuadraticPencil, linearized

    dA, dB = _listed(dA), _listed(dB)
    if isinstance(A, QuadraticPencil):
        if B is not None or any(D is not None for D in dB):
            raise ValueError("a QuadraticPencil stands for A and B: leave B and dB out")
        assert isinstance(backend, CompanionBackend), "backend_for(A) is one"
        return linearized(backend, A, dA)
    if dA and dB and len(dA) != len(dB):
        raise ValueError(_UNEVEN.format(len(dA), len(dB)))
    count = max(len(dA), len(dB))

    def derivative(D: list[Any], name: str) -> list[Sum]:
        named = [(m, f"{name}[{i}]") for i, m in enumerate(D or [None] * count)]
        return [[] if m is None else [(1.0, backend.matrix(m, label))] for m, label in named]

    identity_or_B = None if B is None else backend.matrix(B, "B")
    return Pencil(backend, [(1.0, backend.matrix(A, "A"))], [(1.0, identity_or_B)], derivative(dA, "dA"), derivative(dB, "dB"))


def _listed(D: Any) -> list[Any]:
    return [] if D is None else list(D) if isinstance(D, list | tuple) else [D]


def is_symmetric(pencil: Pencil) -> bool:
    """Whether A, B and their derivatives equal their transposes."""
    return all(equals_transpose(pencil.backend, A) for terms in (pencil.A, pencil.B, *pencil.dA, *pencil.dB) for _, A in terms)


def equals_transpose(backend: Backend, A: Any) -> bool:
    """By a random probe: X^T A X must equal its transpose."""
    if A is None:
        return True
    X = backend.random_block(4)
    AX = backend.product(A, X)
    S = backend.inner(X.conj(), AX)
    # rounding of the n products that are summed, not of the possibly cancelled sum
    scale = backend.norm(X) * backend.norm(AX)
    return bool(np.abs(S - S.T).max() <= 100 * np.finfo(float).eps * scale)


def approximation_of(made: Pencil, approximation: Any) -> Pencil:
    """The pencil to factorize in place of `made`: of a pair for A and B, or of a matrix for A with B as it is."""
    if isinstance(approximation, tuple | list):
        near = pencil(made.backend, *approximation)
    else:
        near = pencil(made.backend, approximation)
        near.B = made.B
    settle_symmetry(near, None)
    return near


def settle_symmetry(pencil: Pencil, asked: bool | None) -> None:
    """Sets `pencil.symmetric`: what the matrices are, unless the user wants the general path."""
    found = asked is not False and is_symmetric(pencil)
    if asked and not found:
        raise ValueError("symmetric=True, but the pencil does not equal its transpose (A^T = A, B^T = B without conjugation)")
    pencil.symmetric = found


class ParametricPencil:
    """A family as the search sees it: the pencil with its derivatives at any parameters."""

    def __init__(self, backend: Backend, family: Family, count: int):
        self.backend, self.family, self.count = backend, family, count
        if isinstance(family, AffineFamily):
            if family.parameters != count:
                raise ValueError(f"start has {count} parameters, the family has {family.parameters}")
            self._affine = pencil(backend, family.A0, family.B0, family.dA, family.dB)

    def at(self, p: np.ndarray) -> Pencil:
        if isinstance(self.family, AffineFamily):
            base = self._affine
            A = [*base.A, *((p[i], D) for i, terms in enumerate(base.dA) for _, D in terms)]
            B = [*base.B, *((p[i], D) for i, terms in enumerate(base.dB) for _, D in terms)]
            return Pencil(self.backend, A, B, base.dA, base.dB)
        A, B, *derivatives = matrices_of(self.family, p)
        if derivatives:
            made = pencil(self.backend, A, B, *derivatives)
            if len(made.dA) != self.count:
                raise ValueError(f"the family returned {len(made.dA)} derivatives for {self.count} parameters")
            return made
        here = pencil(self.backend, A, B)
        for i in range(self.count):
            # One-sided differences: an error of 1e-7 in the derivative makes Newton's steps contract by 1e-7, which is as good as
            # exact.
            h = 1e-7 * max(abs(p[i]), 1e-3)
            moved = p.copy()
            moved[i] += h
            A_h, B_h = matrices_of(self.family, moved)
            there = pencil(self.backend, A_h, B_h)
            here.dA.append([(1 / h, there.A[0][1]), (-1 / h, here.A[0][1])])
            here.dB.append([] if here.B[0][1] is None else [(1 / h, there.B[0][1]), (-1 / h, here.B[0][1])])
        return here


def matrices_of(family: Family, p: np.ndarray) -> tuple[Any, ...]:
    """A, B and, if the family knows them, dA and dB; of an affine family at p = 0."""
    if isinstance(family, AffineFamily):
        return family.A0, family.B0, family.dA, family.dB
    made = family(p.copy())
    if not isinstance(made, tuple) or len(made) not in (2, 4):
        raise ValueError("a family given as a function must return (A, B) or (A, B, dA, dB); B = None is the identity")
    return made
