"""Matrices from files: Matrix Market (.mtx, .mtx.gz), scipy sparse (.npz), numpy (.npy) and PETSc binary (any other name).

A PETSc binary file is read here and not by PETSc, so that it serves the scipy backend, every rank reads its own rows only, and a
header that does not fit the length of the file is found before anything is allocated. Its integers may have 4 or 8 bytes and its
numbers may be real or complex: the length tells.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import scipy.sparse

from jordan_dist.backends import check_finite

PETSC_MATRIX = 1211216  # PETSc's MAT_FILE_CLASSID
DENSE = -1  # in the place of the number of nonzeros


def read_matrix(path: str | Path, comm: Any = None) -> Any:
    """A square matrix from a file: numpy or scipy sparse, or with an MPI communicator a parallel PETSc matrix, which the caller frees
    (collective). ValueError with one sentence for a file that holds none, or one with an entry that is infinite or not a number."""
    path = Path(path)
    if comm is None:
        return read_rows(path, None)[0]
    from jordan_dist.backends.petsc import agreed, matrix_from_rows, mpi_comm, owned_rows, require_complex

    require_complex()
    comm = mpi_comm(comm)
    rows, n = agreed(comm, lambda: read_rows(path, lambda n: owned_rows(n, comm)))
    return matrix_from_rows(scipy.sparse.csr_array(rows), n, comm)


def read_rows(path: Path, owned: Any) -> tuple[Any, int]:
    """The rows owned(n) = (start, stop) of the matrix in a file, or with None all of them, and its order n."""
    try:
        if path.stat().st_size == 0:
            raise ValueError(f"{path} is empty")
        read = next((read for suffix, read in READERS.items() if path.name.endswith(suffix)), None)
        if read is None:
            return _petsc_rows(path, owned)
        A = read(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    shape, dtype = getattr(A, "shape", ()), getattr(A, "dtype", np.dtype(object))
    if not (np.issubdtype(dtype, np.number)):
        raise ValueError(f"{path} holds no matrix of numbers")
    n = _order(path, shape)
    A = A.astype(np.result_type(dtype, np.float64))
    A = scipy.sparse.csr_array(A) if scipy.sparse.issparse(A) else A
    check_finite(A, str(path))
    return (A if owned is None else A[slice(*owned(n))]), n


def _order(path: Path, shape: tuple[int, ...]) -> int:
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] == 0:
        raise ValueError(f"{path} holds no square matrix: its shape is {tuple(map(int, shape))}")
    return int(shape[0])


def _matrix_market(path: Path) -> Any:
    try:
        return scipy.io.mmread(str(path))
    except (ValueError, EOFError, OverflowError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is no complete Matrix Market file: {str(error).splitlines()[0]}") from error


def _scipy_sparse(path: Path) -> Any:
    try:
        with open(path, "rb") as file:
            return scipy.sparse.load_npz(file)
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no complete .npz file of scipy.sparse.save_npz ({error})") from error


def _numpy(path: Path) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, allow_pickle=False)
        return array
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is no complete .npy file of numbers ({error})") from error


READERS = {".mtx": _matrix_market, ".mtx.gz": _matrix_market, ".npz": _scipy_sparse, ".npy": _numpy}


def _petsc_rows(path: Path, owned: Any) -> tuple[Any, int]:
    length = path.stat().st_size
    for integer in (np.dtype(">i4"), np.dtype(">i8")):
        head = np.fromfile(path, integer, 4)
        if head.size == 4 and head[0] == PETSC_MATRIX:
            break
    else:
        known = ", ".join(READERS)
        raise ValueError(f"{path} is no PETSc binary matrix (its first number is not {PETSC_MATRIX}); by their names are known {known}")
    _, rows, columns, nonzeros = map(int, head)
    n = _order(path, (rows, columns))
    dense = nonzeros == DENSE
    if nonzeros < 0 and not dense:
        raise ValueError(f"{path} has a wrong header: {nonzeros} nonzeros")
    count = n * n if dense else nonzeros
    before = 4 * integer.itemsize + (0 if dense else (n + nonzeros) * integer.itemsize)
    number = next((t for t in (np.dtype(">c16"), np.dtype(">f8")) if before + count * t.itemsize == length), None)
    if number is None:
        sizes = " or ".join(str(before + count * size) for size in (8, 16))
        raise ValueError(f"{path} is cut off or damaged: it has {length} bytes, but its header tells of {sizes}")
    start, stop = (0, n) if owned is None else owned(n)
    if dense:
        values = np.fromfile(path, number, (stop - start) * n, offset=before + start * n * number.itemsize)
        A = values.astype(number.newbyteorder("=")).reshape(-1, n)
        check_finite(A, str(path), start)
        return A, n
    lengths = np.fromfile(path, integer, stop, offset=4 * integer.itemsize).astype(np.int64)
    first, mine = int(lengths[:start].sum()), int(lengths[start:].sum())
    index = np.fromfile(path, integer, mine, offset=(4 + n + first) * integer.itemsize).astype(np.int64)
    values = np.fromfile(path, number, mine, offset=before + first * number.itemsize)
    wrong = lengths.min(initial=0) < 0 or first + mine > nonzeros or (stop == n and first + mine != nonzeros)
    if wrong or index.size != mine or values.size != mine or (mine and not 0 <= index.min() <= index.max() < n):
        raise ValueError(f"{path} is damaged: its row lengths or column indices do not fit {nonzeros} nonzeros of order {n}")
    indptr = np.concatenate([[0], np.cumsum(lengths[start:])])
    A = scipy.sparse.csr_array((values.astype(number.newbyteorder("=")), index, indptr), shape=(stop - start, n))
    A.sum_duplicates()
    check_finite(A, str(path), start)
    return A, n


def petsc_dense_header(n: int, columns: int) -> bytes:
    """Of an n x columns dense matrix in PETSc's binary format; the numbers follow row by row, complex and big-endian."""
    return np.array([PETSC_MATRIX, n, columns, DENSE], ">i4").tobytes()
