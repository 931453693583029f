"""Dense pencils with planted Jordan blocks. Eigenvalue, chains and dual vectors come from the construction, never from a solver,
so that they are the truth for every test of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

from jordan_dist.pencil import AffineFamily


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A(p) - lambda B(p) = A0 + sum p_i dA[i] - lambda (B0 + sum p_i dB[i]), of which the blocks at p = 0 are known."""

    A0: np.ndarray
    B0: np.ndarray | None
    """None is the identity."""
    dA: tuple[np.ndarray, ...]
    dB: tuple[np.ndarray, ...]
    """Empty in a standard problem."""
    eigenvalue: complex
    blocks: tuple[int, ...]
    vectors: np.ndarray
    """(n, sum of the blocks): the chain of the first block, then that of the next. Of a single block in the unit gauge, but for the
    phase."""
    left_vectors: np.ndarray
    """The dual ones: left_vectors^H B0 vectors = I."""

    @property
    def family(self) -> AffineFamily:
        return AffineFamily(self.A0, self.dA, self.B0, self.dB)

    def at(self, p: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """A and B at the parameters p."""
        p = np.atleast_1d(p)
        B = self.B0 if not self.dB else self.B0 + np.tensordot(p, self.dB, axes=1)
        return self.A0 + np.tensordot(p, self.dA, axes=1), B

    def errors(self, vectors: np.ndarray, left_vectors: np.ndarray | None = None) -> np.ndarray:
        """(k,) or, with the left vectors, (2 k,): relative error of every column, after the one common phase is aligned. For a single
        block."""
        phase = np.vdot(self.vectors[:, 0], vectors[:, 0])
        pairs = [(self.vectors, vectors)] + ([] if left_vectors is None else [(self.left_vectors, left_vectors)])
        return np.concatenate(
            [np.linalg.norm(V * (abs(phase) / phase) - truth, axis=0) / np.linalg.norm(truth, axis=0) for truth, V in pairs]
        )


def planted_pencil(
    *blocks: int,
    n: int = 80,
    generalized: bool = True,
    real: bool = False,
    symmetric: bool = False,
    parameters: int = 1,
    seed: int = 0,
) -> Planted:
    """A dense pencil with Jordan blocks of these sizes at one eigenvalue, 0.7 + 0.3i or, if real, 0.7; blocks of size 1 make it
    semisimple. The other eigenvalues are simple and from 1.5 to 4 away.

    real: real matrices and derivatives; symmetric: all of them equal their transposes. ValueError for real, symmetric standard
    problems, which are never defective.
    """
    if real and symmetric and not generalized:
        raise ValueError("a real symmetric matrix has no Jordan blocks: leave out real or symmetric, or set generalized")
    rng = np.random.default_rng(seed)
    k = sum(blocks)

    def noise() -> np.ndarray:
        entries = rng.standard_normal((n, n)) + (0 if real else 1j * rng.standard_normal((n, n)))
        scaled: np.ndarray = entries / np.sqrt(n if real else 2 * n)
        return scaled

    eigenvalue = 0.7 if real else 0.7 + 0.3j
    directions = rng.choice([-1.0, 1.0], n - k) if real else np.exp(1j * rng.uniform(0, 2 * np.pi, n - k))
    others = eigenvalue + rng.uniform(1.5, 4.0, n - k) * directions
    J = scipy.linalg.block_diag(*(eigenvalue * np.eye(m) + np.eye(m, k=1) for m in blocks), np.diag(others))
    # The flip of every block makes its Jordan matrix symmetric: A0 = S G J T and B0 = S G T with S = T^T are then symmetric too.
    G = scipy.linalg.block_diag(*(np.eye(m)[::-1] for m in blocks), np.eye(n - k)) if symmetric else np.eye(n)
    if generalized:
        T = np.eye(n) + 0.4 * noise()
        S = T.T if symmetric else np.eye(n) + 0.4 * noise()
    elif symmetric:
        # T^T G T = I from a complex orthogonal matrix and a square root of the inverse of G, by F^2 = i G and F^-1 = conj(F)
        K = noise()
        orthogonal = np.linalg.solve(np.eye(n) - 0.1 * (K - K.T), np.eye(n) + 0.1 * (K - K.T))
        roots = (np.exp(0.25j * np.pi) * (np.eye(m) - 1j * np.eye(m)[::-1]) / np.sqrt(2) for m in blocks)
        T = scipy.linalg.block_diag(*roots, np.eye(n - k)) @ orthogonal
        S = T.T
    else:
        T = np.eye(n) + 0.4 * noise()
        S = np.asarray(np.linalg.inv(T))

    def derivative(size: float) -> np.ndarray:
        D = size * noise()
        return D + D.T if symmetric else D

    V = np.linalg.inv(T)[:, :k]
    W = np.linalg.inv(S @ G).conj().T[:, :k]
    if len(blocks) == 1:
        C = _unit_gauge(V)
        V, W = V @ C, W @ np.linalg.inv(C).conj().T
    A0 = S @ G @ J @ T
    return Planted(
        A0=(A0 + A0.T) / 2 if symmetric else A0,
        B0=S @ G @ T if generalized else None,
        dA=tuple(derivative(1.0) for _ in range(parameters)),
        dB=tuple(derivative(0.5) for _ in range(parameters)) if generalized else (),
        eigenvalue=eigenvalue,
        blocks=tuple(blocks),
        vectors=V,
        left_vectors=W,
    )


def _unit_gauge(V: np.ndarray) -> np.ndarray:
    """C such that V C is a chain with ||x0|| = 1 and x0^H j_i = 0: a number, and multiples of the chain moved by i."""
    k = V.shape[1]
    C: np.ndarray = np.eye(k, dtype=V.dtype) / np.linalg.norm(V[:, 0])
    for i in range(1, k):
        X = V @ C
        C = C - C @ (np.vdot(X[:, 0], X[:, i]) * np.eye(k, k=i))
    return C
