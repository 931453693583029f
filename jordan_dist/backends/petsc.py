"""The backend for PETSc matrices, on any number of MPI ranks. Nothing else in the package imports petsc4py or mpi4py.

The direct solver reads the options under the prefix `jordan_` last (for example `-jordan_mat_mumps_icntl_14 200` in
PETSC_OPTIONS), so that a user's options win over the defaults here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse

from jordan_dist import memory
from jordan_dist.backends import (
    PETSC_HINT,
    Backend,
    MissingExtraError,
    SingularFactorError,
    check_finite,
    infinite,
    is_petsc,
    order_of,
)

try:
    from mpi4py import MPI as MPI  # before PETSc, which then uses the MPI that is already up
    from petsc4py import PETSc
except ImportError as error:
    raise MissingExtraError(f"PETSc matrices and MPI need petsc4py and mpi4py ({error}): {PETSC_HINT}") from error

log = logging.getLogger("jordan_dist")

# PETSc's own factors beat those of MUMPS on one rank while they are small (n = 44,944 in 2-D, L D L^T: 0.27 s against 0.51 s, and 6 ms
# a column against 11 to 50); they neither pivot nor run in parallel.
LARGEST_FOR_PETSC = 200_000
# MUMPS estimates its workspace before it pivots, and touches what it has: so much more room (in percent), then again with more. (80 in place of
# 20 is a fifth of the memory of a solve at n = 1.1e6.)
WORKSPACE = (30, 100, 300, 1000)
# How MUMPS keeps factors that do not fit into the memory as they are: in turn.
STORAGES = ("whole", "compressed", "disk")
LOW_RANK = 1e-4  # tolerance of compressed factors (BLR)
SERVES = 0.1  # relative residual of a solve with compressed factors up to which the sweeps converge
ROOM = 40  # columns for which memory is kept free beside the factors: a Krylov space and what MUMPS copies of a block
ZERO_PIVOT = 71  # PETSC_ERR_MAT_LU_ZRPVT


def require_complex() -> None:
    """ValueError unless PETSc was built with complex scalars."""
    if not np.issubdtype(PETSc.ScalarType, np.complexfloating):
        raise ValueError(
            "this PETSc was built with real scalars, but the eigenvalues here are complex: use a PETSc configured with "
            "--with-scalar-type=complex (Debian: libpetsc-complex-dev) and petsc4py built against it"
        )


def versions() -> dict[str, str]:
    import mpi4py
    import petsc4py

    return {"petsc": ".".join(map(str, PETSc.Sys.getVersion())), "petsc4py": petsc4py.__version__, "mpi4py": mpi4py.__version__}


def mpi_comm(comm: Any) -> Any:
    """The mpi4py communicator behind an mpi4py or PETSc one."""
    return comm.tompi4py() if isinstance(comm, PETSc.Comm) else comm


@contextmanager
def mumps_measured(symmetric: bool) -> Iterator[Callable[[], float]]:
    """MUMPS whatever the size, unless the options name another solver. Yields a function that tells the seconds which this rank has
    spent since in the analysis of matrices."""
    options = PETSc.Options("jordan_")
    chosen = {"pc_type": "cholesky" if symmetric else "lu", "pc_factor_mat_solver_type": "mumps"}
    added = {name: value for name, value in chosen.items() if not options.hasName(name)}
    PETSc.Log.begin()
    events = [PETSc.Log.Event(name) for name in ("MatLUFactorSym", "MatCholFctrSym")]

    def spent() -> float:
        return float(sum(event.getPerfInfo()["time"] for event in events))

    before = spent()
    for name, value in added.items():
        options.setValue(name, value)
    try:
        yield lambda: spent() - before
    finally:
        for name in added:
            options.delValue(name)


def direct_solver(n: int, comm: Any) -> str:
    """The library that factorizes a matrix of order n fastest, unless the options name another."""
    return "petsc" if comm.size == 1 and n <= LARGEST_FOR_PETSC else "mumps"


def owned_rows(n: int, comm: Any) -> tuple[int, int]:
    """The rows of this rank, as even as can be."""
    share, extra = divmod(n, comm.size)
    start = comm.rank * share + min(comm.rank, extra)
    return start, start + share + (comm.rank < extra)


def agreed(comm: Any, check: Callable[[], Any]) -> Any:
    """What a check of this rank's input returns. The ValueError of one rank is raised on all of them, which would wait for it for ever
    (collective)."""
    found, message = None, None
    try:
        found = check()
    except ValueError as error:
        message = str(error)
    messages = comm.allgather(message)
    first = next((rank for rank, m in enumerate(messages) if m is not None), None)
    if first is not None:
        alone = messages.count(messages[first]) < comm.size
        raise ValueError(f"{messages[first]} (on rank {first})" if alone else messages[first])
    return found


def matrix_from_rows(rows: scipy.sparse.csr_array, n: int, comm: Any) -> PETSc.Mat:
    """A parallel n x n matrix of which every rank brings its own rows, an array of shape (n_local, n)."""
    index = (rows.indptr.astype(PETSc.IntType), rows.indices.astype(PETSc.IntType))
    mat = PETSc.Mat().createAIJ(((rows.shape[0], n), (rows.shape[0], n)), csr=(*index, rows.data.astype(complex)), comm=comm)
    mat.assemble()
    return mat


def write_parts(path: str, parts: list[tuple[int, bytes, int, np.ndarray]], size: int, comm: Any) -> None:
    """Every rank writes its parts into one file of `size` bytes (collective, no gather; as many parts on every rank). A part is where a
    header begins, the header, where the complex numbers of this rank begin, and these in the byte order of the file."""
    file = MPI.File.Open(comm, path, MPI.MODE_CREATE | MPI.MODE_WRONLY)
    try:
        file.Set_size(size)
        for at, header, begin, part in parts:
            if comm.rank == 0 and header:
                file.Write_at(at, header)
            file.Write_at_all(begin, np.ascontiguousarray(part).view(np.float64))
    finally:
        file.Close()


def _is_shell(A: PETSc.Mat) -> bool:
    """Whether it knows products alone."""
    return A.getType() in ("python", "shell", "mffd")


class _Sum:
    """What a PETSc matrix of the kind `python` does: products with a sum of coefficient * matrix, None being the identity."""

    def __init__(self, terms: list[tuple[complex, Any]]):
        self.terms = terms

    def mult(self, matrix: PETSc.Mat, x: PETSc.Vec, y: PETSc.Vec) -> None:
        y.set(0.0)
        part = y.duplicate()
        for c, A in self.terms:
            if c != 0:
                x.copy(part) if A is None else A.mult(x, part)
                y.axpy(c, part)
        part.destroy()


class PetscBackend(Backend):
    def __init__(self, n: int, start: int, stop: int, comm: Any, *, replicated: bool):
        require_complex()
        super().__init__(n, start, stop, comm)
        self.replicated = replicated
        self._made: list[PETSc.Mat] = []
        self.retired: PetscFactor | None = None
        """The last factorization that was done with: the analysis of its pattern serves for other values."""

    @classmethod
    def around(cls, A: Any, comm: Any = None) -> PetscBackend:
        """For a PETSc matrix: its communicator and row ranges. For another one: `comm`, with the rows dealt out evenly."""
        if not is_petsc(A):
            comm = mpi_comm(comm)
            n = agreed(comm, lambda: order_of(A, "A"))
            orders = comm.allgather(n)
            if len(set(orders)) > 1:
                raise ValueError(f"every rank must bring the same whole matrix A; the orders on the ranks are {orders}")
            start, stop = owned_rows(n, comm)
            return cls(n, start, stop, comm, replicated=True)
        own = mpi_comm(A.getComm())
        if comm is not None and MPI.Comm.Compare(own, mpi_comm(comm)) not in (MPI.IDENT, MPI.CONGRUENT):
            raise ValueError("comm is not the communicator of A: leave it out, a PETSc matrix brings its own")
        n, columns = A.getSize()
        if n != columns:
            raise ValueError(f"A must be a square matrix, not one of shape {(n, columns)}")
        start, stop = A.getOwnershipRange()
        return cls(n, start, stop, own, replicated=False)

    @cached_property
    def ranks_here(self) -> int:
        """How many ranks share this host (collective the first time)."""
        host = self.comm.Split_type(MPI.COMM_TYPE_SHARED)
        count = int(host.size)
        host.Free()
        return count

    def matrix(self, A: Any, name: str) -> PETSc.Mat:
        if not is_petsc(A):
            agreed(self.comm, lambda: self._check_whole(A, name))
            mat = matrix_from_rows(scipy.sparse.csr_array(scipy.sparse.csr_array(A)[self.start : self.stop]), self.n, self.comm)
            self._made.append(mat)
            return mat
        if A.getSize() != (self.n, self.n):
            raise ValueError(f"{name} is of shape {A.getSize()}, but A is of size {self.n}")
        fits = A.getOwnershipRange() == (self.start, self.stop)
        if not self.comm.allreduce(fits, MPI.LAND):
            raise ValueError(f"{name} and A are distributed differently: create them with the same local sizes")
        self._check_finite(A, name)
        return A

    def _check_whole(self, A: Any, name: str) -> None:
        if order_of(A, name) != self.n:
            raise ValueError(f"{name} is of size {A.shape[0]}, but A is of size {self.n}")
        check_finite(A, name)

    def _check_finite(self, A: PETSc.Mat, name: str) -> None:
        if _is_shell(A) or np.isfinite(A.norm(PETSc.NormType.FROBENIUS)):
            return
        rows = (row for row in range(self.start, self.stop) if not np.isfinite(A.getRow(row)[1]).all())
        row = self.comm.allreduce(next(rows, self.n), MPI.MIN)
        if row < self.n:  # otherwise only the norm overflows
            raise ValueError(infinite(name, row))

    def product(self, A: PETSc.Mat | None, X: np.ndarray) -> np.ndarray:
        return X if A is None else self._by_columns(A, A.mult, X)

    def adjoint_product(self, A: PETSc.Mat | None, X: np.ndarray) -> np.ndarray:
        return X if A is None else self._by_columns(A, A.multHermitian, X)

    def _by_columns(self, A: PETSc.Mat, multiply: Any, X: np.ndarray) -> np.ndarray:
        out = np.empty(X.shape, dtype=complex, order="F")
        for k in range(X.shape[1]):
            x, y = self._vec(np.ascontiguousarray(X[:, k])), self._vec(out[:, k])
            multiply(x, y)
            x.destroy()
            y.destroy()
        return out

    def _vec(self, x: np.ndarray) -> PETSc.Vec:
        return PETSc.Vec().createWithArray(x, size=(self.stop - self.start, self.n), comm=self.comm)

    def matrix_norm(self, A: PETSc.Mat | None) -> float:
        if A is None:
            return 1.0
        if _is_shell(A):  # a bound from below, which serves as well to tell where rounding errors lie
            X = self.random_block(4)
            return self.norm(self.product(A, X)) / self.norm(X)
        return float(A.norm(PETSc.NormType.NORM_INFINITY))

    def factor(self, terms: list[tuple[complex, Any]], *, symmetric: bool, true: Any = None) -> PetscFactor:
        total = self._sum(terms)
        operator = None if true is None else self._unassembled(true)
        retired, self.retired = self.retired, None
        if retired is not None:
            if retired.revive(total, symmetric, operator):
                return retired
            retired.free()
        return PetscFactor(self, total, symmetric=symmetric, operator=operator)

    def _unassembled(self, terms: list[tuple[complex, Any]]) -> PETSc.Mat:
        """The sum as an operator, whether its matrices are assembled or shells."""
        size = (self.stop - self.start, self.n)
        operator = PETSc.Mat().createPython((size, size), _Sum(terms), comm=self.comm)
        operator.setUp()
        return operator

    def _sum(self, terms: list[tuple[complex, Any]]) -> PETSc.Mat:
        if any(A is not None and _is_shell(A) for _, A in terms):
            raise ValueError("a matrix-free shell cannot be factorized: name assembled matrices that are near by `approximation`")
        first = next(i for i, (_, A) in enumerate(terms) if A is not None)
        total = terms[first][1].copy()
        total.scale(terms[first][0])
        for i, (c, A) in enumerate(terms):
            if i == first or c == 0:
                continue
            if A is None:
                total.shift(c)
            else:
                total.axpy(c, A, structure=PETSc.Mat.Structure.DIFFERENT_NONZERO_PATTERN)
        if "aij" not in total.getType():
            total.convert("aij")  # what the sparse direct solvers take
        if self.comm.size == 1:
            self._store_diagonal(total)
        return total

    def _store_diagonal(self, A: PETSc.Mat) -> None:
        """PETSc's own LU refuses a matrix that does not store its whole diagonal, be it of zeros."""
        indptr, indices, _ = A.getValuesCSR()
        diagonal = np.arange(self.n, dtype=PETSc.IntType)
        if np.sum(indices == np.repeat(diagonal, np.diff(indptr))) < self.n:
            csr = (np.arange(self.n + 1, dtype=PETSc.IntType), diagonal, np.zeros(self.n, dtype=complex))
            zeros = PETSc.Mat().createAIJ(((self.n, self.n), (self.n, self.n)), csr=csr, comm=self.comm)
            zeros.assemble()
            A.axpy(1.0, zeros, structure=PETSc.Mat.Structure.DIFFERENT_NONZERO_PATTERN)
            zeros.destroy()

    def export(self, X: np.ndarray) -> Any:
        """A dense PETSc matrix, or the whole n x k array on every rank if the user brought whole arrays to every rank."""
        if not self.replicated:
            return self.dense(X.copy(order="F"))
        whole = np.empty((X.shape[1], self.n), dtype=complex)
        counts = self.comm.allgather(self.stop - self.start)
        for k in range(X.shape[1]):
            self.comm.Allgatherv(np.ascontiguousarray(X[:, k]), (whole[k], counts))
        return whole.T

    def dense(self, X: np.ndarray) -> PETSc.Mat:
        """A dense matrix that works on the memory of X, the rows of this rank."""
        mat = PETSc.Mat().createDense(((X.shape[0], None), (None, X.shape[1])), array=X, comm=self.comm)
        mat.assemble()
        return mat

    def destroy(self) -> None:
        if self.retired is not None:
            self.retired.free()
            self.retired = None
        while self._made:
            self._made.pop().destroy()


class PetscFactor:
    """One factorization of a matrix, which it takes over. L D L^T when the matrix equals its transpose: half the memory of LU.

    With an iterative method in the options (-jordan_ksp_type fgmres) the factors are its preconditioner: for factors that are compressed,
    or of another matrix than `operator`, which it then solves with.
    """

    def __init__(self, backend: PetscBackend, matrix: PETSc.Mat, *, symmetric: bool, operator: PETSc.Mat | None = None):
        self.operator = operator
        self.backend, self.cost, self.matrix, self.symmetric = backend, backend.cost, matrix, symmetric
        self.transposes = False  # known to solve with the transpose
        self.large = backend.n >= LARGEST_FOR_PETSC  # 10 ms are nothing, and 10 % of the memory are something
        matrix.setOption(PETSc.Mat.Option.SYMMETRIC, symmetric)
        # otherwise PETSc takes a complex symmetric matrix for a Hermitian one
        matrix.setOption(PETSc.Mat.Option.HERMITIAN, False)
        self.ksp: PETSc.KSP = None
        self.pc: PETSc.PC = None
        self.factors: PETSc.Mat = None
        try:
            with self.cost.factoring():
                self._factorize(direct_solver(backend.n, backend.comm))
        except BaseException:
            self.free()
            raise

    def revive(self, matrix: PETSc.Mat, symmetric: bool, operator: PETSc.Mat | None) -> bool:
        """Factorizes another matrix of the same pattern, which it takes over then, without another analysis. False if it is not of that
        pattern, or if MUMPS wants more workspace."""
        same = symmetric == self.symmetric and all(
            np.array_equal(mine, other) for mine, other in zip(self.matrix.getValuesCSR()[:2], matrix.getValuesCSR()[:2], strict=True)
        )
        if not self.backend.comm.allreduce(same, MPI.LAND):
            return False
        matrix.copy(self.matrix, structure=PETSc.Mat.Structure.SAME_NONZERO_PATTERN)
        self._free_operator()
        self.operator = operator
        self.ksp.setOperators(operator or self.matrix, self.matrix)  # or it takes its set-up for done
        try:
            with self.cost.factoring():
                done = self._compute() == "done"
        except BaseException:
            self.free()
            matrix.destroy()
            raise
        if done:
            matrix.destroy()
        else:
            self.operator = None  # it is for who comes next
        return done

    def _factorize(self, library: str) -> None:
        for storage in STORAGES:
            for workspace in WORKSPACE:
                outcome = self._attempt(library, workspace, storage)
                if outcome != "workspace":
                    break
            else:
                raise MemoryError(f"MUMPS asks for more than {WORKSPACE[-1]} % of its estimated workspace")
            if outcome == "done" and (storage != "compressed" or self._serves()):
                return
            why = "would not serve" if outcome == "done" else f"would not fit into the {self._allowed()} MB that a rank can have here"
            if storage == "whole":
                log.warning("the factors as they are %s: trying to compress them", why)
            elif storage == "compressed":
                log.warning("compressed factors %s: they go to the disk, where solves take longer", why)
        raise MemoryError(
            f"the factors do not fit into the {self._allowed()} MB that a rank can have here, not even with the disk "
            "(`jordan-dist plan` says what they need): take more machines"
        )

    def _allowed(self) -> int:
        """MB that MUMPS may have on any rank: an even share of what is available on the host with the least, less what vectors take."""
        backend = self.backend
        mine = memory.available() // backend.ranks_here - 16 * ROOM * (backend.stop - backend.start)
        return max(1, int(backend.comm.allreduce(mine, MPI.MIN)) // 10**6)

    def _serves(self) -> bool:
        """Whether compressed factors are near enough to the matrix."""
        x, b, residual = (self.matrix.createVecLeft() for _ in range(3))
        b.setArray(self.backend.random_block(1)[:, 0])
        self.factors.solve(b, x)
        self.matrix.mult(x, residual)
        residual.axpy(-1.0, b)
        error = residual.norm() / b.norm()
        for vec in (x, b, residual):
            vec.destroy()
        log.info("compressed factors: relative residual %.1e of a solve", error)
        return bool(error < SERVES)

    def _attempt(self, library: str, workspace: int, storage: str) -> str:
        """What came of it: "done", or what MUMPS wants more of, "workspace" or "memory"."""
        self._free_factors()
        self.ksp = PETSc.KSP().create(self.backend.comm)
        self.ksp.setOptionsPrefix("jordan_")
        self.ksp.setOperators(self.operator or self.matrix, self.matrix)
        self.ksp.setType("preonly")
        pc = self.pc = self.ksp.getPC()
        pc.setType("cholesky" if self.symmetric else "lu")
        pc.setFactorSolverType(library)
        if library == "petsc":
            pc.setFactorOrdering("nd")
            pc.setFactorShift(PETSc.Mat.FactorShiftType.NONZERO)  # a shift that is an eigenvalue must not stop it
        self.ksp.setFromOptions()
        if pc.getType() not in ("lu", "cholesky"):
            raise ValueError(f"-jordan_pc_type must be lu or cholesky, not {pc.getType()}: incomplete factors do not serve here")
        pc.setFactorSetUpSolverType()
        self.factors = pc.getFactorMatrix()
        if pc.getFactorSolverType() == "mumps":
            self.factors.setMumpsIcntl(14, workspace)
            self.factors.setMumpsIcntl(23, self._allowed())
            if storage == "compressed":
                self.factors.setMumpsIcntl(35, 2)
                self.factors.setMumpsCntl(7, LOW_RANK)
            elif storage == "disk":
                self.factors.setMumpsIcntl(22, 1)
        return self._compute()

    def _compute(self) -> str:
        try:
            self.ksp.setUp()
        except PETSc.Error as error:
            if error.ierr != ZERO_PIVOT:
                raise
            raise SingularFactorError("PETSc met a pivot that is zero") from error
        if self.large:
            memory.give_back()  # what the analysis has left
        status = self.factors.getMumpsInfog(1) if self.pc.getFactorSolverType() == "mumps" else 0
        if status in (-8, -9, -14, -15, -17, -20):  # an estimated workspace or buffer was too small
            return "workspace"
        if status in (-13, -19):  # it was not given what it asked for, or did not ask because it was more than it may
            return "memory"
        if status == -10:
            raise SingularFactorError("MUMPS found the matrix numerically singular")
        if status < 0:
            detail = self.factors.getMumpsInfog(2)
            raise MemoryError(f"MUMPS could not factorize the matrix: INFOG(1) = {status}, INFOG(2) = {detail}")
        return "done"

    def solve(self, R: np.ndarray) -> np.ndarray:
        if self.ksp.getType() != "preonly":
            return self._by_columns(self._iterate(self.ksp.solve), np.asarray(R, dtype=complex), through=0)
        if self.pc.getFactorSolverType() == "superlu_dist":
            # PETSc's interface keeps the buffers of its first block, which overflow when a wider one follows
            return self._by_columns(self.factors.solve, np.asarray(R, dtype=complex))
        right = np.asfortranarray(R, dtype=complex)
        out = np.zeros(right.shape, dtype=complex, order="F")
        b, x = self.backend.dense(right), self.backend.dense(out)
        with self.cost.solving(right.shape[1]):
            self.factors.matSolve(b, x)
        b.destroy()
        x.destroy()
        if self.large:
            memory.give_back()  # MUMPS has had some copies of the block
        return self._finite(out)

    def solve_adjoint(self, R: np.ndarray) -> np.ndarray:
        # The libraries solve with the transpose: conjugate in and out. petsc4py binds no transposed solve of a block.
        if self.ksp.getType() != "preonly":
            return self._by_columns(self._iterate(self.ksp.solveTranspose), R.conj(), through=0).conj()

        def solve(b: PETSc.Vec, x: PETSc.Vec) -> None:
            self.factors.solveTranspose(b, x)
            if not self.transposes:
                self._check_transposed(x, b)

        return self._by_columns(solve, R.conj()).conj()

    def _iterate(self, solve: Callable[[PETSc.Vec, PETSc.Vec], None]) -> Callable[[PETSc.Vec, PETSc.Vec], None]:
        """A solve that need not come to its end: what it leaves costs a sweep."""

        def iterated(b: PETSc.Vec, x: PETSc.Vec) -> None:
            solve(b, x)
            self.cost.solves += max(1, self.ksp.getIterationNumber())

        return iterated

    def _by_columns(self, solve: Callable[[PETSc.Vec, PETSc.Vec], None], R: np.ndarray, through: int = 1) -> np.ndarray:
        out = np.zeros(R.shape, dtype=complex, order="F")
        with self.cost.solving(through * R.shape[1]):
            for k in range(R.shape[1]):
                b, x = self.backend._vec(np.ascontiguousarray(R[:, k])), self.backend._vec(out[:, k])
                solve(b, x)
                b.destroy()
                x.destroy()
        return self._finite(out)

    def _check_transposed(self, x: PETSc.Vec, b: PETSc.Vec) -> None:
        """ValueError if x is the solution with the matrix itself: that is what PETSc's interface of SuperLU_DIST returns, without a word.
        (At a shift on an eigenvalue neither residual need be small.)"""
        residual, errors = b.duplicate(), []
        for multiply in (self.matrix.mult, self.matrix.multTranspose):
            multiply(x, residual)
            residual.axpy(-1.0, b)
            errors.append(residual.norm())
        residual.destroy()
        if errors[0] < 1e-3 * errors[1]:
            raise ValueError(
                f"the direct solver {self.pc.getFactorSolverType()} does not solve with transposed matrices, which a pencil that differs from "
                "its transpose needs: choose another by -jordan_pc_factor_mat_solver_type, such as mumps"
            )
        self.transposes = True

    def entries(self) -> float:
        """How many entries the factors have, over all ranks; those of L where they are L D L^T."""
        if self.pc.getFactorSolverType() != "mumps":
            return float(self.factors.getInfo()["nz_used"])
        count = float(self.factors.getMumpsInfog(29))
        return count if count >= 0 else -1e6 * count  # in millions where it is negative

    def _finite(self, X: np.ndarray) -> np.ndarray:
        if not np.isfinite(self.backend.norm(X)):
            raise SingularFactorError("the triangular solves overflow: the factorized matrix is singular")
        return X

    def destroy(self) -> None:
        """Leaves the factors to the backend, for the analysis that is in them."""
        if self.matrix is None:  # freed since: whoever replaces factors lets go of the old ones before the new ones are there
            return
        if self.backend.retired is not None and self.backend.retired is not self:
            self.backend.retired.free()
        self.backend.retired = self

    def free(self) -> None:
        self._free_factors()
        self._free_operator()
        if self.matrix is not None:
            self.matrix.destroy()
            self.matrix = None

    def _free_operator(self) -> None:
        if self.operator is not None:
            self.operator.destroy()
            self.operator = None

    def _free_factors(self) -> None:
        """All three hold them: what Python only forgets, petsc4py leaves in memory on more than one rank, since freeing
        it is collective."""
        for name in ("factors", "pc", "ksp"):
            if getattr(self, name) is not None:
                getattr(self, name).destroy()
                setattr(self, name, None)
