"""What a run leaves in its folder: result.json, the chain as chain.npy or chain.petsc, and of problems on a grid pictures of the modes
as modes.npz and the vectors as fields.vtk; of a quadratic problem also the chain of the linearized one, as linearized.npy."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jordan_dist.matrices import petsc_dense_header
from jordan_dist.problems import CELLS

PROGRAM = "jordan-dist"
RESULT, CHAIN, PETSC_CHAIN, MODES, REPORT = "result.json", "chain.npy", "chain.petsc", "modes.npz", "report.html"
FIELDS, LINEARIZED = "fields.vtk", "linearized.npy"
CHECKPOINT = "checkpoint"  # a folder, while the run is not finished
FILES = (RESULT, CHAIN, PETSC_CHAIN, MODES, REPORT, FIELDS, LINEARIZED)  # the first says which program wrote the folder
SCAN_FILES = ("scan.json",)
VERIFY_FILES = ("verify.json", "verify.png", "verify.svg")


def jsonable(value: Any) -> Any:
    """Numbers and arrays as JSON knows them: a complex number is [re, im], what is not finite is null."""
    if isinstance(value, dict):
        return {k: jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [jsonable(v) for v in value]
    if isinstance(value, complex | np.complexfloating):
        return [jsonable(value.real), jsonable(value.imag)]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def check_folder(folder: Path, overwrite: bool, files: tuple[str, ...] = FILES) -> None:
    """Makes the folder. ValueError if it holds a run, or files of the same names that no run of this program wrote."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder} is a file: name a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {folder} cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"--out {folder} is not writable")
    there = [name for name in files if (folder / name).exists()]
    if not there:
        return
    if not _is_run(folder / files[0]):
        raise ValueError(f"--out {folder} holds {', '.join(there)} that no {PROGRAM} run wrote: name another folder")
    if not overwrite:
        raise ValueError(f"--out {folder} holds another run: name another folder, or replace it with --overwrite")


def _is_run(result: Path) -> bool:
    try:
        return bool(json.loads(result.read_text()).get("program") == PROGRAM)
    except (OSError, ValueError, AttributeError):
        return False


def local_block(vectors: Any) -> tuple[np.ndarray, int, int]:
    """The rows that this rank holds of an n x k block (numpy or dense PETSc), the first of them, and n."""
    if isinstance(vectors, np.ndarray):
        return vectors, 0, vectors.shape[0]
    return vectors.getDenseArray(), vectors.getOwnershipRange()[0], vectors.getSize()[0]


def write_chain(path: Path, vectors: Any, comm: Any = None, *, petsc: bool = False) -> None:
    """An n x k block as an .npy file of complex128 in Fortran order, or as a dense matrix in PETSc's binary format; every rank writes
    its rows (collective)."""
    X, start, n = local_block(vectors)
    k = X.shape[1]
    if petsc:
        _write(path, [(petsc_dense_header(n, k), n * k, start * k, X.astype(">c16", order="C"))], comm)
        return
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<c16", "fortran_order": True, "shape": (n, k)})
    columns = [(head.getvalue() if j == 0 else b"", n, start, X[:, j].astype("<c16", copy=False)) for j in range(k)]
    _write(path, columns, comm)


def write_block(path: Path, X: np.ndarray, backend: Any) -> None:
    """The block of a backend, of which X (n_local, k) are the rows of this rank, as a dense matrix in PETSc's binary format (collective)."""
    pieces, k = backend.parts(X), X.shape[1]
    n, start = backend.n // len(pieces), backend.start // len(pieces)
    heads = [petsc_dense_header(backend.n, k), *(b"" for _ in pieces[1:])]
    _write(
        path, [(head, n * k, start * k, piece.astype(">c16", order="C")) for head, piece in zip(heads, pieces, strict=True)], backend.comm
    )


def read_block(path: Path, backend: Any) -> np.ndarray:
    """The rows of this rank of a block that `write_block` wrote on any number of ranks."""
    n, k = np.fromfile(path, ">i4", 4)[1:3]
    whole = np.memmap(path, ">c16", "r", offset=16, shape=(n, k))
    count = len(backend.parts(np.empty(backend.stop - backend.start)))
    rows = slice(backend.start // count, backend.stop // count)
    return np.asfortranarray(np.vstack([half[rows] for half in np.split(whole, count)]), dtype=complex)


def write_linearized(path: Path, vectors: Any, comm: Any = None) -> None:
    """The vectors [x; y] of a linearized problem, of which a dense PETSc matrix has the rows of x above those of y on every rank, as an
    .npy file like that of `write_chain`, with all of x first."""
    X, start, n = local_block(vectors)
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<c16", "fortran_order": True, "shape": (n, X.shape[1])})
    halves = [half.astype("<c16", copy=False) for x in X.T for half in np.split(x, 2)]
    _write(path, [(b"" if i else head.getvalue(), n // 2, start // 2, half) for i, half in enumerate(halves)], comm)


def write_fields(path: Path, vectors: Any, cells: int, dimensions: int, title: str, comm: Any = None) -> None:
    """The vectors x0, j1, .. on a grid of `cells` per side as a VTK file (legacy, binary, structured points; ParaView reads it): an array
    per vector with the components real and imaginary part. The last index of an unknown, which runs fastest, is the x of VTK."""
    X, start, n = local_block(vectors)
    sides = " ".join(str(cells if axis < dimensions else 1) for axis in range(3))
    name = title.encode("ascii", "replace").decode().replace("\n", " ")[:200]
    head = (
        f"# vtk DataFile Version 3.0\n{name}\nBINARY\nDATASET STRUCTURED_POINTS\nDIMENSIONS {sides}\nORIGIN 0 0 0\nSPACING 1 1 1\n"
        f"POINT_DATA {n}\nFIELD chain {X.shape[1]}\n"
    )
    arrays = [
        (f"{'' if i else head}{f'j{i}' if i else 'x0'} 2 {n} double\n".encode(), n, start, x.astype(">c16")) for i, x in enumerate(X.T)
    ]
    _write(path, arrays, comm)


def _write(path: Path, arrays: list[tuple[bytes, int, int, np.ndarray]], comm: Any) -> None:
    """A file of arrays of complex numbers with a header each: the header, how many numbers there are, and those of this rank with the
    place of their first (collective)."""
    if comm is None:
        path.write_bytes(b"".join(header + part.tobytes() for header, _, _, part in arrays))
        return
    from jordan_dist.backends.petsc import write_parts

    parts, end = [], 0
    for header, count, start, part in arrays:
        parts.append((end, header, end + len(header) + 16 * start, part))
        end += len(header) + 16 * count
    write_parts(str(path), parts, end, comm)


def mode_pictures(vectors: Any, cells: int, comm: Any = None) -> np.ndarray | None:
    """Root mean square of every column over squares of cells, at most 212 of these per side, and over the third axis of a 3-D grid. Shape
    (k, side, side), or (k, side, 1) for vectors without a grid (n = cells). On rank 0, None elsewhere."""
    X, start, n = local_block(vectors)
    side = min(cells, CELLS)
    width = side if n > cells else 1
    square_of = np.arange(cells) * side // cells  # of a cell along one axis
    index = np.arange(start, start + len(X))
    square = square_of[index // (n // cells)]
    share = np.bincount(square_of)  # cells per square along one axis
    counts = share[:, None] * (share[None] * (n / cells**2) if n > cells else 1)
    if n > cells:
        square = square * side + square_of[index // (n // cells**2) % cells]
    pictures: np.ndarray | None = np.stack([np.bincount(square, np.abs(x) ** 2, side * width) for x in X.T])
    if comm is not None:
        local, pictures = pictures, np.empty((X.shape[1], side * width)) if comm.rank == 0 else None
        comm.Reduce(local, pictures)
    return None if pictures is None else np.sqrt(pictures.reshape(-1, side, width) / counts)


def publish(
    folder: Path,
    result: dict[str, Any],
    vectors: Any,
    cells: int | None = None,
    comm: Any = None,
    *,
    dimensions: int = 1,
    linearized: Any = None,
    petsc: bool = False,
) -> None:
    """Writes a run (collective). An older run goes first and result.json comes last, so that a folder with one is complete. Without
    `cells`, those per side of a grid, there are no pictures; `linearized` are the vectors of which `vectors` are the first half."""
    root = comm is None or comm.rank == 0
    files: dict[str, Callable[[Path], None]] = {PETSC_CHAIN if petsc else CHAIN: lambda path: write_chain(path, vectors, comm, petsc=petsc)}
    if cells is not None and dimensions > 1:
        files[FIELDS] = lambda path: write_fields(path, vectors, cells, dimensions, result["title"], comm)
    if linearized is not None:
        files[LINEARIZED] = lambda path: write_linearized(path, linearized, comm)
    parts = {name: folder / f".{name}.part" for name in files}
    if root:
        for part in parts.values():
            part.unlink(missing_ok=True)
    if comm is not None:
        comm.Barrier()  # nobody may open a file before the old one is gone
    for name, write in files.items():
        write(parts[name])
    pictures = None if cells is None else mode_pictures(vectors, cells, comm)
    if root:
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
        for name, part in parts.items():
            part.rename(folder / name)
        if pictures is not None:
            np.savez_compressed(folder / MODES, modes=pictures.astype(np.float32))
        write_json(folder / RESULT, result)
    if comm is not None:
        comm.Barrier()  # when this returns on any rank, the run is there


def write_json(path: Path, value: dict[str, Any]) -> None:
    """All or nothing: to a temporary file that is renamed when it is on the disk."""
    part = path.with_name(f".{path.name}.part")
    with open(part, "w") as file:
        json.dump(jsonable(value), file, indent=1, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)


def read_result(folder: str | Path) -> dict[str, Any]:
    """result.json of a run. ValueError if the folder holds none."""
    folder = Path(folder)
    if not _is_run(folder / RESULT):
        raise ValueError(f"{folder} holds no {PROGRAM} run (no {RESULT} of this program)")
    result: dict[str, Any] = json.loads((folder / RESULT).read_text())
    return result


def load_chain(folder: str | Path) -> tuple[dict[str, Any], np.ndarray]:
    """The result of a run and its vectors, an n x k array that is mapped from the file."""
    result, folder = read_result(folder), Path(folder)
    if (folder / CHAIN).exists():
        return result, np.load(folder / CHAIN, mmap_mode="r", allow_pickle=False)
    n, k = np.fromfile(folder / PETSC_CHAIN, ">i4", 4)[1:3]
    return result, np.memmap(folder / PETSC_CHAIN, ">c16", "r", offset=16, shape=(n, k))
