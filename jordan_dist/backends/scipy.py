"""The backend for numpy arrays and scipy sparse matrices, on one process: the oracle of the parallel one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg

from jordan_dist.backends import Backend, Cost, SingularFactorError, check_finite, order_of


class ScipyBackend(Backend):
    def __init__(self, n: int):
        super().__init__(n, 0, n)

    def matrix(self, A: Any, name: str) -> Any:
        if order_of(A, name) != self.n:
            raise ValueError(f"{name} is of size {A.shape[0]}, but A is of size {self.n}")
        dtype = np.result_type(A.dtype, np.float64)
        A = scipy.sparse.csr_array(A, dtype=dtype) if scipy.sparse.issparse(A) else np.asarray(A, dtype=dtype)
        check_finite(A, name)
        return A

    def product(self, A: Any, X: np.ndarray) -> np.ndarray:
        out: np.ndarray = X if A is None else A @ X
        return out

    def adjoint_product(self, A: Any, X: np.ndarray) -> np.ndarray:
        out: np.ndarray = X if A is None else A.conj().T @ X
        return out

    def matrix_norm(self, A: Any) -> float:
        return 1.0 if A is None else float(abs(A).sum(axis=1).max())

    def factor(self, terms: list[tuple[complex, Any]], *, symmetric: bool, true: Any = None) -> ScipyFactor:
        sparse = all(A is None or scipy.sparse.issparse(A) for _, A in terms)
        identity = scipy.sparse.eye_array(self.n, format="csr") if sparse else np.eye(self.n)
        total = sum(c * (identity if A is None else A if sparse or isinstance(A, np.ndarray) else A.toarray()) for c, A in terms)
        return ScipyFactor(total, self.cost, symmetric=symmetric)

    def export(self, X: np.ndarray) -> np.ndarray:
        return X

    def destroy(self) -> None:
        pass


class ScipyFactor:
    """SuperLU for a sparse matrix, LAPACK for a dense one."""

    def __init__(self, matrix: Any, cost: Cost, *, symmetric: bool):
        self.cost = cost
        with cost.factoring():
            try:
                if isinstance(matrix, np.ndarray):
                    self._solve, self._entries = _dense(matrix), matrix.size
                else:
                    # An ordering of A + A^T and few row exchanges keep the fill of a symmetric pattern low; what accuracy this
                    # loses the residual form gives back.
                    options = {"permc_spec": "MMD_AT_PLUS_A", "diag_pivot_thresh": 0.01, "options": {"SymmetricMode": True}}
                    lu = scipy.sparse.linalg.splu(matrix.astype(complex).tocsc(), **(options if symmetric else {}))
                    self._solve = lambda R, adjoint: lu.solve(R, "H" if adjoint else "N")
                    self._entries = lu.nnz
            except (RuntimeError, scipy.linalg.LinAlgError) as error:  # both libraries: exactly singular
                raise SingularFactorError(str(error)) from error

    def solve(self, R: np.ndarray) -> np.ndarray:
        return self._counted(R, adjoint=False)

    def solve_adjoint(self, R: np.ndarray) -> np.ndarray:
        return self._counted(R, adjoint=True)

    def entries(self) -> float:
        """How many entries L and U have."""
        return self._entries

    def _counted(self, R: np.ndarray, *, adjoint: bool) -> np.ndarray:
        with self.cost.solving(R.shape[1]):
            X: np.ndarray = self._solve(np.asfortranarray(R, dtype=complex), adjoint)
        if not np.isfinite(X).all():
            raise SingularFactorError("the triangular solves overflow: the factorized matrix is singular")
        return X

    def destroy(self) -> None:
        pass


def _dense(matrix: np.ndarray) -> Callable[[np.ndarray, bool], np.ndarray]:
    getrf, getrs = scipy.linalg.get_lapack_funcs(("getrf", "getrs"), (matrix.astype(complex),))
    lu, pivots, info = getrf(matrix.astype(complex))
    if info > 0:
        raise scipy.linalg.LinAlgError(f"pivot {info} is exactly zero")
    return lambda R, adjoint: getrs(lu, pivots, R, trans=2 if adjoint else 0)[0]
