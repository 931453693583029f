"""The k x k problem: the nearest defective matrix, and what the singular values say about the structure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

# Distance to the nearest single Jordan block, relative to the smallest singular value that the block must have.
BLOCK_RATIO = 0.05


@dataclass(frozen=True, kw_only=True)
class NearestDefective:
    """M0 = eigenvalue I + Q T Q^H with T strictly upper triangular: one Jordan block near M.

    For k = 2 it is the nearest one in the Frobenius norm, and `distance` is the smaller singular value of N = M - eigenvalue I;
    for larger k the staircase makes `distance` an upper bound.
    """

    eigenvalue: complex
    Q: np.ndarray  # (k, k) unitary
    T: np.ndarray  # (k, k)
    distance: float
    singular_values: np.ndarray  # of N, descending

    @property
    def matrix(self) -> np.ndarray:
        return self.eigenvalue * np.eye(len(self.Q)) + self.Q @ self.T @ self.Q.conj().T

    def chain(self) -> np.ndarray:
        """Columns c_0, c_1, ..: (M0 - eigenvalue) c_0 = 0, (M0 - eigenvalue) c_i = c_{i-1}, ||c_0|| = 1 and c_0^H c_i = 0."""
        k = len(self.Q)
        C = np.zeros((k, k), dtype=complex)
        C[0, 0] = 1
        for i in range(1, k):
            C[1:, i] = scipy.linalg.solve_triangular(self.T[:-1, 1:], C[:-1, i - 1])
        return self.Q @ C


def nearest_defective(M: np.ndarray) -> NearestDefective:
    """One Jordan block near M, by a staircase: the right singular vector of the smallest singular value leads each trailing
    block."""
    k = len(M)
    eigenvalue = complex(np.trace(M) / k)
    N = M - eigenvalue * np.eye(k)
    T, Q = N.astype(complex), np.eye(k, dtype=complex)
    for i in range(k - 1):
        V = np.linalg.svd(T[i:, i:])[2].conj().T
        turn = np.eye(k, dtype=complex)
        turn[i:, i:] = V[:, ::-1]  # any unitary matrix with the last singular vector in front
        T, Q = turn.conj().T @ T @ turn, Q @ turn
    strict = np.triu(T, 1)
    return NearestDefective(
        eigenvalue=eigenvalue,
        Q=Q,
        T=strict,
        distance=float(np.linalg.norm(T - strict) if k > 2 else np.linalg.norm(N, -2)),
        singular_values=np.linalg.svd(N, compute_uv=False),
    )


def weyr(N: np.ndarray, tolerance: float) -> tuple[int, ...]:
    """Weyr characteristic of a nearly nilpotent N: how many Jordan vectors of rank 1, 2, .. there are, singular values below the
    tolerance being zero. Incomplete (its sum below k) if N is not nilpotent at that tolerance."""
    counts: list[int] = []
    T = N
    while T.size:
        _, s, Vh = np.linalg.svd(T)
        null = int(np.sum(s <= tolerance))
        if null == 0:
            break
        counts.append(null)
        V = Vh.conj().T[:, ::-1]
        T = (V.conj().T @ T @ V)[null:, null:]
    return tuple(counts)


def verdict(near: NearestDefective, N: np.ndarray, perturbation: float, uncertainty: float) -> tuple[str, tuple[int, ...]]:
    """`block`, `semisimple`, `blocks` (several) or `not-defective`, and the Weyr characteristic where it is known.

    `perturbation` is how far the pencil may be from the degenerate one, in units of the eigenvalue: no ratio of singular values
    can tell a semisimple pair that was perturbed from two ordinary eigenvalues.
    """
    k, s = len(N), near.singular_values
    if near.distance <= BLOCK_RATIO * s[k - 2] and s[k - 2] > uncertainty:  # a ratio of rounding errors says nothing
        return "block", (1,) * k
    if s[0] <= perturbation:
        return "semisimple", (k,)
    counts = weyr(N, perturbation) if k > 2 else ()
    if sum(counts) == k:
        return ("block" if counts == (1,) * k else "blocks"), counts
    return "not-defective", ()
