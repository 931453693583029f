"""Second order: how the deflating subspaces and M move with the parameters, and the step to the exceptional point that this
predicts.

    F = A' X - B' X M,   M' = Y^H F,   A X' - B X' M = -(F - B X M'),   Y^H B X' = 0
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jordan_dist.backends import Factor
from jordan_dist.pencil import Pencil
from jordan_dist.subspace import EPS, DeflatingPair, NotConvergedError

BESIDE_SECOND = 0.01  # of the second-order term, which is left out: an error that does not show


def projected_derivatives(pencil: Pencil, pair: DeflatingPair) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """F (n_local, k) and M' (k, k) for every parameter; costs products only."""
    F = [pencil.derivative(i, pair.X, pair.M) for i in range(len(pencil.dA))]
    return F, [pencil.backend.inner(pair.Y, f) for f in F]


def subspace_derivative(
    pencil: Pencil, factor: Factor, pair: DeflatingPair, F: np.ndarray, dM: np.ndarray, step: float = 0.0
) -> np.ndarray:
    """X' (n_local, k), the solution of a singular Sylvester equation with the same factorization as the subspaces: as accurately as a
    step of this length needs it."""
    inside = pencil.times_B(pair.X) @ dM
    right, scale = inside - F, pencil.backend.norm(F) + pencil.backend.norm(inside)
    if pencil.backend.norm(right) <= 100 * EPS * scale:  # the subspace stays where it is, and what is left are rounding errors
        return np.zeros_like(pair.X)
    return complementary_solve(pencil, factor, pair.X, pair.Y, pair.M, right, step=step)


def complementary_solve(
    pencil: Pencil,
    factor: Factor,
    X: np.ndarray,
    Y: np.ndarray,
    M: np.ndarray,
    right: np.ndarray,
    *,
    adjoint: bool = False,
    tolerance: float = 0.0,
    step: float = 0.0,
) -> np.ndarray:
    """Z with A Z - B Z M = right and Y^H B Z = 0, for a right side with Y^H right = 0; with `adjoint`, Z with A^H Z - B^H Z M^H =
    right and X^H B^H Z = 0, for X^H right = 0. `tolerance` is for the last change, relative to Z. Z may be meant for a
    `step` along it: then an error of step Z is enough that is small beside (step Z)^2, which is not there."""
    backend = pencil.backend
    times_A, times_B = (pencil.adjoint_A, pencil.adjoint_B) if adjoint else (pencil.times_A, pencil.times_B)
    solve = factor.solve_adjoint if adjoint else factor.solve
    if adjoint:
        X, Y, M = Y, X, M.conj().T
    Z: np.ndarray = np.zeros_like(X)
    size, previous = 0.0, np.inf
    for _ in range(100):
        D = solve(right - times_A(Z) + times_B(Z) @ M)
        D = D - X @ backend.inner(Y, times_B(D))
        Z = Z + D
        change, size = backend.norm(D), backend.norm(Z)
        # the second: down to rounding
        if change <= max(10 * EPS, tolerance, BESIDE_SECOND * step * size) * size or (change > 0.7 * previous and change <= 1e-9 * size):
            return Z
        previous = change
    raise NotConvergedError(f"the derivative of the subspace did not converge: last change {change / size:.1e} after 100 sweeps")


@dataclass(frozen=True)
class Step:
    """A step towards the exceptional point in the parameters."""

    delta: np.ndarray  # (parameters,): real when the parameters are
    unresolved: float  # the part that real parameters cannot make
    noise: float  # how much of the step rounding errors account for


def ep_step(M: np.ndarray, dM: list[np.ndarray], *, real: bool, uncertainty: float) -> Step:
    """The parameters' step that makes M + sum delta_i dM_i one Jordan block: tr(N^m) = 0 for m = 2..k.

    Newton's method (minimum norm if there are more parameters than equations); for k = 2 the equation is quadratic along Newton's
    direction, and its root of smallest modulus has a much larger basin of attraction. `uncertainty` is the error of M.
    """
    k = len(M)
    N = M - np.trace(M) / k * np.eye(k)
    dN = [D - np.trace(D) / k * np.eye(k) for D in dM]
    if np.linalg.norm(N) <= 100 * uncertainty:  # k equal eigenvalues without a block: there is nowhere to go
        return Step(np.zeros(len(dM)), 0.0, uncertainty)
    powers = [np.linalg.matrix_power(N, m) for m in range(k + 1)]
    f = np.array([np.trace(powers[m]) / m for m in range(2, k + 1)])
    J = np.array([[np.trace(powers[m - 1] @ D) for D in dN] for m in range(2, k + 1)])
    rounding = uncertainty * max(np.linalg.norm(D) for D in dN) * max(np.linalg.norm(N) ** m for m in range(k - 1))
    if not np.linalg.norm(J) > 10 * rounding:
        raise NotConvergedError("the parameters do not move the eigenvalues apart or together: no step towards an exceptional point")
    inverse = np.linalg.pinv(np.vstack([J.real, J.imag])) if real else np.linalg.pinv(J)
    delta = -inverse @ (np.concatenate([f.real, f.imag]) if real else f)
    noise = uncertainty * float(np.linalg.norm(np.linalg.pinv(J)) * max(np.linalg.norm(N) ** (m - 1) for m in range(2, k + 1)))
    unresolved = float(np.linalg.norm(f + J @ delta) / np.linalg.norm(J)) if real else 0.0
    if k == 2:
        direction = np.ones(1) if len(dN) == 1 else delta
        D = np.tensordot(direction, dN, axes=1)
        a, b, c = np.trace(D @ D) / 2, np.trace(N @ D), np.trace(N @ N) / 2
        root = np.sqrt(complex(b * b - 4 * a * c))
        denominator = b + root if abs(b + root) >= abs(b - root) else b - root
        t = -2 * c / denominator if denominator != 0 else 0.0
        if real and len(dN) == 1:
            unresolved = abs(complex(t).imag)
        delta = direction * (complex(t).real if real else t)
    return Step(delta, unresolved, noise)
