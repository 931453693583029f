"""Backends: what the algorithms ask of a linear-algebra library.

A block of k vectors of length n is, on every backend, a local array of shape `(n_local, k)`, complex128, in Fortran order: the
rows `start:stop` of this rank. Small `k x k` matrices are replicated: they come out of sums over the ranks, so that every rank
holds the same numbers and takes the same decisions.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy.linalg.blas import zgemm, zgemv
from scipy.sparse import issparse  # `scipy` is the name of a backend here

LONG = 10_000  # order from which the arithmetic of vectors is what takes the time, not the calls
PETSC_HINT = 'pip install "dynamo-jordan[petsc]"'


class MissingExtraError(ImportError):
    """A library of an optional extra is not installed; the message names the extra."""


class SingularFactorError(ArithmeticError):
    """The factorization met an exactly (or hopelessly) singular matrix: the shift sits on an eigenvalue."""


@dataclass(slots=True)
class Cost:
    """What a computation has cost so far on this rank; a solve is one column through the triangular factors."""

    factorizations: int = 0
    solves: int = 0
    factor_seconds: float = 0.0
    solve_seconds: float = 0.0
    reductions: int = 0
    """Sums and gathers over all ranks, beside those of the matrix products and of the direct solver; 0 on one rank."""
    reduced_bytes: int = 0
    """What this rank has sent in them."""

    @contextmanager
    def factoring(self) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.factorizations += 1
        self.factor_seconds += time.perf_counter() - begun

    @contextmanager
    def solving(self, columns: int) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.solves += columns
        self.solve_seconds += time.perf_counter() - begun


class Factor(Protocol):
    """An approximate factorization of A - sigma B. How accurate it is changes the number of sweeps, not the result."""

    def solve(self, R: np.ndarray) -> np.ndarray: ...

    def solve_adjoint(self, R: np.ndarray) -> np.ndarray: ...

    def entries(self) -> float:
        """How many entries the factors have."""

    def destroy(self) -> None: ...


class BlockVectors:
    """The arithmetic of distributed n x k blocks, the same for every backend; `comm` is an mpi4py communicator, or None on one
    process."""

    replicated = True
    """Whether every rank brings whole matrices and receives whole vectors."""

    def __init__(self, n: int, start: int, stop: int, comm: Any = None):
        self.n, self.start, self.stop, self.comm = n, start, stop, comm
        self.cost = Cost()

    def sum(self, local: np.ndarray) -> np.ndarray:
        """The sum over the ranks of a small array, on every rank."""
        if self.comm is None or self.comm.size == 1:
            return local
        # Reduce and broadcast: an all-reduce may add in another order on every rank, and ranks that differ in the last bit may
        # decide differently and wait for each other for ever.
        self._count(local)
        total = np.empty_like(local, order="C")
        self.comm.Reduce(np.ascontiguousarray(local), total)
        self.comm.Bcast(total)
        return total

    def inner(self, X: np.ndarray, Y: np.ndarray) -> np.ndarray:
        """X^H Y."""
        if not len(X):  # a rank without rows, which the BLAS refuses
            return self.sum(np.zeros((X.shape[1], Y.shape[1]), dtype=complex))
        return self.sum(zgemm(1.0, X, Y, trans_a=2))  # without a conjugated copy of X: a third of the time

    def split(self, X: np.ndarray, Y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Y - X C, in the memory of Y, and C = X^H Y: the part of Y outside of the orthonormal columns X, and the coefficients of the part
        inside."""
        C = self.inner(X, Y)
        if len(X):
            for j in range(Y.shape[1]):  # for so few columns several times faster than a product of matrices, and without a copy
                Y[:, j] = zgemv(-1.0, X, C[:, j], 1.0, Y[:, j], overwrite_y=1)
        return Y, C

    def norm(self, X: np.ndarray) -> float:
        """Frobenius norm."""
        x = X.ravel(order="K")  # without a copy, which `vdot` makes of a block in Fortran order
        return float(np.sqrt(self.sum(np.array([np.vdot(x, x).real]))[0]))

    def norm2(self, X: np.ndarray) -> float:
        """Spectral norm."""
        return float(np.sqrt(max(np.linalg.eigvalsh(self.inner(X, X))[-1], 0.0)))

    def qr(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Q (n_local, k) with orthonormal columns and R (k, k), to rounding whatever the columns are.

        Long columns that are far from dependent by Cholesky factorizations of X^H X, twice (CholeskyQR2): half the time of Householder's
        reflections, which take all others, and are the oracle.
        """
        fast = self._cholesky_qr(X) if self.n >= LONG else None
        return self._householder_qr(X) if fast is None else fast

    def _cholesky_qr(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """None where the columns are too near to dependent ones: the error of the first pass is EPS over `smallest`."""
        Q, R = X, np.eye(X.shape[1], dtype=complex)
        for _ in range(2):
            G = self.inner(Q, Q)
            size = np.sqrt(np.diag(G).real)
            if not (np.isfinite(size).all() and size.all()):
                return None
            G = G / np.outer(size, size)
            smallest = np.linalg.eigvalsh(G)[0]
            if not smallest > 1e-8:
                return None
            U = np.linalg.cholesky(G).conj().T * size  # upper triangular, G = U^H U
            Q = (np.linalg.inv(U).T @ Q.T).T  # in Fortran order
            R = U @ R
        return Q, R

    def _householder_qr(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The small R of the ranks are stacked and factorized again (TSQR)."""
        Q, R = np.linalg.qr(X)
        if self.comm is None or self.comm.size == 1:
            return np.asfortranarray(Q), R
        k, mine = X.shape[1], len(R)  # a rank may own fewer than k rows
        padded = np.zeros((k + 1, k), dtype=complex)
        padded[:mine] = R
        padded[k] = mine
        self._count(padded)
        stacked = np.empty((self.comm.size, k + 1, k), dtype=complex)
        self.comm.Allgather(padded, stacked)
        rows = stacked[:, k, 0].real.astype(int)
        # Rows of zeros must not be among them: where columns are nearly dependent a part of Q would lie there.
        Q_small, R = np.linalg.qr(np.concatenate([part[:count] for part, count in zip(stacked, rows, strict=True)]))
        first = rows[: self.comm.rank].sum()
        return np.asfortranarray(Q @ Q_small[first : first + mine]), R

    def random_block(self, k: int, seed: int = 20170419) -> np.ndarray:
        """Uniform complex entries that depend on the global row only: a counter-based generator is set to the first row of this
        rank."""
        draws = -(-2 * k // 4) * 4  # one step of the counter yields four draws
        bits = np.random.Philox(key=seed)
        bits.advance(self.start * draws // 4)
        u = np.random.Generator(bits).random((self.stop - self.start, draws))[:, : 2 * k] - 0.5
        return np.asfortranarray(u[:, :k] + 1j * u[:, k:])

    def pivot(self, x: np.ndarray) -> complex:
        """The component of lowest global index whose modulus is at least half of the largest. (The largest one is often tied by a
        symmetry of the problem, and rounding would then decide.)"""
        largest = self._every_rank(np.array([np.abs(x).max(initial=0.0)])).max()
        mine = []
        for part in self.parts(x):
            hits = np.flatnonzero(np.abs(part) >= 0.5 * largest)
            mine.append(part[hits[0]] if hits.size else 0.0)
        first = self._every_rank(np.array(mine, dtype=complex)).reshape(-1, len(mine)).T.ravel()
        return complex(first[np.flatnonzero(first)[0]])  # ranks are in the order of their rows

    def parts(self, x: np.ndarray) -> list[np.ndarray]:
        """The local rows in pieces that are consecutive over the ranks: all ranks' first pieces come before all second ones."""
        return [x]

    def rescale(self, frequency: float) -> bool:
        """Adapts the variables of a linearization to eigenvalues of this modulus; True if they change, which makes everything in
        the old ones invalid."""
        return False

    def users_right(self, X: np.ndarray) -> np.ndarray:
        """Right vectors in the user's variables: this and the two below undo the scaling of a linearization."""
        return X

    def users_left(self, Y: np.ndarray) -> np.ndarray:
        """Left vectors in the user's variables."""
        return Y

    def users_image(self, R: np.ndarray) -> np.ndarray:
        """What A or B make of right vectors, with the user's A and B."""
        return R

    def original(self, X: np.ndarray) -> Any:
        """The vectors of the problem that a linearization stands for, exported; None if this is none."""
        return None

    def _count(self, sent: np.ndarray) -> None:
        self.cost.reductions += 1
        self.cost.reduced_bytes += sent.nbytes

    def _every_rank(self, local: np.ndarray) -> np.ndarray:
        if self.comm is None or self.comm.size == 1:
            return local
        self._count(local)
        gathered = np.empty((self.comm.size, *local.shape), dtype=local.dtype)
        self.comm.Allgather(local, gathered)
        return gathered


class Backend(BlockVectors, ABC):
    """A `BlockVectors` that also knows one library's matrices. None stands for the identity matrix."""

    @abstractmethod
    def matrix(self, A: Any, name: str) -> Any:
        """The user's matrix as this library wants it; ValueError if it is not a square matrix of size n."""

    @abstractmethod
    def product(self, A: Any, X: np.ndarray) -> np.ndarray:
        """A X."""

    @abstractmethod
    def adjoint_product(self, A: Any, X: np.ndarray) -> np.ndarray:
        """A^H X."""

    @abstractmethod
    def matrix_norm(self, A: Any) -> float:
        """Infinity norm."""

    @abstractmethod
    def factor(self, terms: list[tuple[complex, Any]], *, symmetric: bool, true: list[tuple[complex, Any]] | None = None) -> Factor:
        """Factorizes the sum of coefficient * matrix; `symmetric` means equal to its transpose. SingularFactorError if it
        cannot. `true`: the sum that these factors are to serve for, if it is another one; a backend may use it to improve the solves."""

    @abstractmethod
    def export(self, X: np.ndarray) -> Any:
        """The block as the kind of matrix that the user brought."""

    @abstractmethod
    def destroy(self) -> None:
        """Frees what this backend has made (collective); nothing that the user brought."""


def is_petsc(A: Any) -> bool:
    return type(A).__module__.partition(".")[0] == "petsc4py"


def own_rows(block: Any) -> np.ndarray:
    """The rows of this rank, shape (n_local, m), of an array of shape (n,) or (n, m), a PETSc vector or a dense PETSc matrix."""
    if is_petsc(block):
        rows = block.getDenseArray() if hasattr(block, "getDenseArray") else block.getArray()
    else:
        rows = np.asarray(block)
    own: np.ndarray = rows.reshape(len(rows), -1)
    return own


def like(block: Any, rows: np.ndarray) -> Any:
    """A new block of the same kind and shape with these rows on this rank."""
    if not is_petsc(block):
        return rows.reshape(np.shape(block))
    out = block.duplicate()
    own_rows(out)[:] = rows
    out.assemble()
    return out


def vectors_of(block: Any) -> BlockVectors:
    """The arithmetic of blocks that are distributed as this one."""
    if not is_petsc(block):
        return BlockVectors(len(block), 0, len(block))
    from jordan_dist.backends.petsc import mpi_comm

    size = block.getSize()
    start, stop = block.getOwnershipRange()
    return BlockVectors(size[0] if isinstance(size, tuple) else size, start, stop, mpi_comm(block.getComm()))


def backend_for(A: Any, comm: Any = None, *, frequency: float | None = None) -> Backend:
    """PETSc for a PETSc matrix or when `comm` is given (every rank then brings the whole matrix), scipy on one process
    otherwise. frequency: modulus of the eigenvalues for which the linearization of a `QuadraticPencil` is scaled; None leaves
    it as it is, 0 takes one from the norms of its matrices."""
    from jordan_dist.quadratic import CompanionBackend, QuadraticPencil

    if isinstance(A, QuadraticPencil):
        return CompanionBackend.around(A, comm, frequency)
    if is_petsc(A) or comm is not None:
        from jordan_dist.backends.petsc import PetscBackend

        return PetscBackend.around(A, comm)
    from jordan_dist.backends.scipy import ScipyBackend

    return ScipyBackend(order_of(A, "A"))


def order_of(A: Any, name: str) -> int:
    """The order of a square numpy or scipy matrix of numbers."""
    shape, dtype = getattr(A, "shape", None), getattr(A, "dtype", None)
    if dtype is None or shape is None or not np.issubdtype(dtype, np.number):
        kinds = "a numpy array, a scipy sparse matrix or a PETSc matrix"
        raise ValueError(f"{name} must be {kinds} of numbers, not {type(A).__name__}")
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] == 0:
        raise ValueError(f"{name} must be a square matrix, not one of shape {tuple(shape)}")
    return int(shape[0])


def check_finite(A: Any, name: str, start: int = 0) -> None:
    """ValueError with the first row of a numpy or scipy matrix that holds something infinite or not a number; its rows count from
    `start`."""
    row = bad_row(A)
    if row is not None:
        raise ValueError(infinite(name, start + row))


def bad_row(A: Any) -> int | None:
    if not issparse(A):
        rows = np.flatnonzero(~np.isfinite(A).all(axis=1))
    else:
        A = A.tocsr()
        rows = np.searchsorted(A.indptr, np.flatnonzero(~np.isfinite(A.data))[:1], side="right") - 1
    return int(rows[0]) if rows.size else None


def infinite(name: str, row: int) -> str:
    return f"{name} has an entry that is infinite or not a number, in row {row} (the first is row 0)"
