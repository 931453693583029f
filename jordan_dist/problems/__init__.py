"""Built-in problems: a family of pencils each, assembled by rows in parallel, with the search that leads to its exceptional point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import scipy.sparse

from jordan_dist.pencil import AffineFamily
from jordan_dist.problems.grid import Rows

CELLS = 212  # per side of the unrefined grid


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A pencil A(p) - lambda B(p), affine in the parameters p, on a square grid. The matrices are functions that make a range of rows."""

    name: str
    title: str
    cells: int
    """Cells per side; the order of the matrices is its square."""
    target: complex
    size: int
    """Of the Jordan block at the exceptional point."""
    parameter_names: tuple[str, ...]
    start: tuple[complex, ...]
    """Where the search starts; its numbers are of type float if the parameters are to stay real."""
    nearby: tuple[complex, ...]
    """A point so near the exceptional point that its Jordan chain can be taken from there."""
    A0: Rows
    dA: tuple[Rows | None, ...] = ()
    B0: Rows | None = None
    dB: tuple[Rows | None, ...] = ()

    @property
    def n(self) -> int:
        return self.cells**2

    def family(self, comm: Any = None) -> AffineFamily:
        """With scipy matrices, or with PETSc matrices on the communicator; the caller destroys these (`destroy_family`)."""
        if comm is None:

            def make(rows: Rows | None) -> Any:
                return None if rows is None else rows(0, self.n)
        else:
            from jordan_dist.backends.petsc import matrix_from_rows, mpi_comm, owned_rows, require_complex

            require_complex()
            start, stop = owned_rows(self.n, mpi_comm(comm))

            def make(rows: Rows | None) -> Any:
                return None if rows is None else matrix_from_rows(scipy.sparse.csr_array(rows(start, stop)), self.n, comm)

        return AffineFamily(make(self.A0), [make(D) for D in self.dA], make(self.B0), [make(D) for D in self.dB])


def destroy_family(family: AffineFamily) -> None:
    """Frees the PETSc matrices of a family (collective); does nothing to others."""
    for A in (family.A0, *family.dA, family.B0, *family.dB):
        if hasattr(A, "destroy"):
            A.destroy()


def problem(name: str, refine: int = 1) -> Problem:
    """The problem of that name, its grid refined `refine` times with the same geometry. ValueError with the names for another one."""
    if name not in PROBLEMS:
        raise ValueError(f"unknown example {name!r}: the examples are {', '.join(PROBLEMS)}")
    if refine < 1:
        raise ValueError(f"refine must be at least 1; it is {refine}")
    return PROBLEMS[name](refine)


from jordan_dist.problems.resonators import resonators  # noqa: E402 - they are Problems
from jordan_dist.problems.waveguides import three_waveguides, waveguides  # noqa: E402

PROBLEMS: dict[str, Callable[[int], Problem]] = {
    "waveguides": waveguides,
    "resonators": resonators,
    "three-waveguides": three_waveguides,
}
