"""The k x k problem: the nearest defective matrix, and what the singular values say about the structure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

# Distance to the nearest single Jordan block, relative to the smallest singular value that the block must have.
BLOCK_RATIO = 0.05


@dataclass(frozen=True, kw_only=True)
class NearestDefective:
    """M0 = eigenvalue I + Q T Q^H with T strictly upper triangular in blocks: a matrix of one eigenvalue with a given Jordan structure,
    near M.

    For k = 2 it is the nearest one in the Frobenius norm, and `distance` is the smaller singular value of N = M - eigenvalue I;
    for larger k the staircase makes `distance` an upper bound.
    """

    eigenvalue: complex
    Q: np.ndarray  # (k, k) unitary
    T: np.ndarray  # (k, k)
    weyr: tuple[int, ...]  # sizes of the blocks of T: the first j of them span the kernel of (M0 - eigenvalue I)^j
    distance: float
    singular_values: np.ndarray  # of N, descending

    @property
    def matrix(self) -> np.ndarray:
        M: np.ndarray = self.eigenvalue * np.eye(len(self.Q)) + self.Q @ self.T @ self.Q.conj().T
        return M

    @property
    def shift(self) -> np.ndarray:
        """(k, k): ones where a column of `chain` follows the one before it, so that (M0 - eigenvalue) C = C shift."""
        shift, starts = np.eye(len(self.Q), k=1), np.cumsum(segre(self.weyr))[:-1]
        shift[starts - 1, starts] = 0
        return shift

    def chain(self) -> np.ndarray:
        """Columns c_0, c_1, ..: (M0 - eigenvalue) c_0 = 0, (M0 - eigenvalue) c_i = c_{i-1}, ||c_0|| = 1. Several blocks follow each
        other, the longest chain first; of a single one c_0^H c_i = 0."""
        if max(self.weyr) > 1:
            chains: np.ndarray = self.Q @ self._chains()
            return chains
        k = len(self.Q)
        C = np.zeros((k, k), dtype=complex)
        C[0, 0] = 1
        for i in range(1, k):
            C[1:, i] = scipy.linalg.solve_triangular(self.T[:-1, 1:], C[:-1, i - 1])
        return self.Q @ C

    def _chains(self) -> np.ndarray:
        """From the longest chains down: what the images of longer chains leave free of a step of the staircase starts new ones."""
        edges = np.concatenate([[0], np.cumsum(self.weyr)])
        chains: list[list[np.ndarray]] = []
        for start, stop in zip(edges[-2::-1], edges[:0:-1], strict=True):
            for chain in chains:
                chain.append(self.T @ chain[-1])
            taken = np.array([chain[-1][start:stop] for chain in chains], dtype=complex).reshape(len(chains), stop - start)
            for free in np.linalg.svd(taken)[2][len(chains) :].conj():
                top = np.zeros(len(self.T), dtype=complex)
                top[start:stop] = free
                chains.append([top])
        return np.array([x / np.linalg.norm(chain[-1]) for chain in chains for x in reversed(chain)]).T


def nearest_defective(M: np.ndarray, weyr: tuple[int, ...] | None = None) -> NearestDefective:
    """A matrix near M that is one Jordan block or has the given Weyr characteristic, by a staircase: the right singular vectors of the
    smallest singular values lead each trailing block."""
    k = len(M)
    weyr = weyr or (1,) * k
    eigenvalue = complex(np.trace(M) / k)
    N = M - eigenvalue * np.eye(k)
    T, Q = N.astype(complex), np.eye(k, dtype=complex)
    strict, i = np.zeros((k, k), dtype=bool), 0
    for step in weyr:
        V = np.linalg.svd(T[i:, i:])[2].conj().T
        turn = np.eye(k, dtype=complex)
        turn[i:, i:] = V[:, ::-1]  # any unitary matrix with the last singular vectors in front
        if i + step < k:
            T, Q = turn.conj().T @ T @ turn, Q @ turn
        strict[i : i + step, i + step :] = True
        i += step
    singular_values = np.linalg.svd(N, compute_uv=False)
    return NearestDefective(
        eigenvalue=eigenvalue,
        Q=Q,
        T=np.where(strict, T, 0),
        weyr=tuple(weyr),
        distance=float(singular_values[1] if weyr == (1, 1) else np.linalg.norm(np.where(strict, 0, T))),
        singular_values=singular_values,
    )


def segre(weyr: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes of the Jordan blocks, descending: the partition conjugate to the Weyr characteristic."""
    return tuple(sum(count > i for count in weyr) for i in range(max(weyr, default=0)))


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
