"""Built-in problems: a family of pencils each, assembled by rows in parallel, with the search that leads to its exceptional
point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import scipy.sparse

from jordan_dist.pencil import AffineFamily
from jordan_dist.problems.grid import Rows
from jordan_dist.quadratic import QuadraticPencil

CELLS = 212  # per side of the coarsest grid that has the edges of the rectangles between its cells


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A pencil A(p) - lambda B(p), affine in the parameters p, on a grid with as many cells along every axis. The matrices are
    functions that make a range of rows, or a `QuadraticPencil` of such functions."""

    name: str
    title: str
    cells: int
    """Cells (or nodes) per side; the order of the matrices is its power `dimensions`."""
    target: complex
    size: int
    """Of the Jordan block at the exceptional point."""
    parameter_names: tuple[str, ...]
    start: tuple[complex, ...]
    """Where the search starts; its numbers are of type float if the parameters are to stay real."""
    nearby: tuple[complex, ...]
    """A point so near the exceptional point that its Jordan chain can be taken from there."""
    A0: Rows | QuadraticPencil
    dA: tuple[Rows | QuadraticPencil | None, ...] = ()
    B0: Rows | None = None
    dB: tuple[Rows | None, ...] = ()
    dimensions: int = 2
    """1 where the matrices belong to no grid."""
    known: tuple[tuple[complex, ...], complex] | None = None
    """The parameters and the eigenvalue at the exceptional point, where they are known without solving for them here."""

    @property
    def n(self) -> int:
        return int(self.cells**self.dimensions)

    def family(self, comm: Any = None) -> AffineFamily:
        """With scipy matrices, or with PETSc matrices on the communicator; the caller frees these by `destroy`."""
        make = self._maker(comm)
        return AffineFamily(make(self.A0), [make(D) for D in self.dA], make(self.B0), [make(D) for D in self.dB])

    def pencil(self, parameters: Sequence[complex], comm: Any = None) -> tuple[Any, Any, list[Any], list[Any]]:
        """A, B, dA and dB at these parameters, as `family` makes them. B is None where it is the identity."""
        assert self.B0 is not None or not any(self.dB), "an identity matrix has no derivatives in these problems"
        make = self._maker(comm)
        A, B = _moved(self.A0, self.dA, parameters), _moved(self.B0, self.dB, parameters)
        return make(A), make(B), [make(D) for D in self.dA], [make(D) for D in self.dB]

    def _maker(self, comm: Any) -> Callable[[Rows | QuadraticPencil | None], Any]:
        if comm is None:
            start, stop = 0, self.n

            def matrix(rows: Rows) -> Any:
                return rows(start, stop)
        else:
            from jordan_dist.backends.petsc import matrix_from_rows, mpi_comm, owned_rows, require_complex

            require_complex()
            start, stop = owned_rows(self.n, mpi_comm(comm))

            def matrix(rows: Rows) -> Any:
                return matrix_from_rows(rows(start, stop), self.n, comm)

        def make(rows: Rows | QuadraticPencil | None) -> Any:
            if isinstance(rows, QuadraticPencil):
                return QuadraticPencil(*(make(part) for part in rows.parts))
            return None if rows is None else matrix(rows)

        return make


def _moved(base: Any, derivatives: Sequence[Any], parameters: Sequence[complex]) -> Any:
    """base + sum p_i derivative_i, row by row; None if all are."""
    if isinstance(base, QuadraticPencil):
        by_part = zip(*((D or QuadraticPencil()).parts for D in derivatives), strict=True)
        return QuadraticPencil(*(_moved(part, changes, parameters) for part, changes in zip(base.parts, by_part, strict=True)))
    terms = [(p, D) for p, D in zip(parameters, derivatives, strict=bool(derivatives)) if D is not None]
    if not terms:
        return base
    if base is not None:
        terms.append((1.0, base))
    return lambda start, stop: scipy.sparse.csr_array(sum(p * D(start, stop) for p, D in terms))


def destroy(*matrices: Any) -> None:
    """Frees PETSc matrices (collective); does nothing to others."""
    for A in matrices:
        if isinstance(A, QuadraticPencil):
            destroy(*A.parts)
        elif hasattr(A, "destroy"):
            A.destroy()


class Builtin(NamedTuple):
    """How a built-in problem is made."""

    make: Callable[[int], Problem]
    """From the cells (or nodes) per side."""
    grid: int
    """The cells per side unless others are asked for."""
    multiple: int = 1
    """Only grids of a multiple of so many cells keep the geometry."""


def problem(name: str, grid: int | None = None, *, nearest: bool = False) -> Problem:
    """The problem of that name on a grid of so many cells (or nodes) per side, with the same geometry on every grid; `nearest` takes
    the nearest grid that can have it. ValueError with the names for another problem, and for a grid that would change the geometry.
    """
    if name not in PROBLEMS:
        raise ValueError(f"unknown example {name!r}: the examples are {', '.join(PROBLEMS)}")
    make, coarsest, multiple = PROBLEMS[name]
    grid = coarsest if grid is None else grid
    if grid < 2:
        raise ValueError(f"a grid has at least 2 cells per side, not {grid}")
    fitting = max(1, (2 * grid + multiple) // (2 * multiple)) * multiple
    if grid != fitting and not nearest:
        raise ValueError(
            f"a grid of {grid} cells per side would change the geometry of {name}, which needs a multiple of {multiple}: "
            f"the nearest is {fitting} (--grid {fitting}, or --round)"
        )
    return make(fitting)


def descriptions() -> str:
    """A line per problem, for help texts."""
    made = (problem(name) for name in PROBLEMS)
    return "\n".join(f"  {p.name:20} {p.title} (n = {p.n})" for p in made)


from jordan_dist.problems.duct import lined_duct  # noqa: E402 - they are Problems
from jordan_dist.problems.membrane import damped_membrane  # noqa: E402
from jordan_dist.problems.planted import planted_block  # noqa: E402
from jordan_dist.problems.resonators import cubes, resonators  # noqa: E402
from jordan_dist.problems.waveguides import three_waveguides, waveguides  # noqa: E402

PROBLEMS: dict[str, Builtin] = {
    "waveguides": Builtin(waveguides, CELLS, CELLS),
    "resonators": Builtin(resonators, CELLS, CELLS),
    "three-waveguides": Builtin(three_waveguides, CELLS, CELLS),
    "damped-membrane": Builtin(damped_membrane, CELLS),
    "lined-duct": Builtin(lined_duct, CELLS),
    "cubes": Builtin(cubes, 20),
    "planted-block": Builtin(planted_block, 100),
}
