"""Built-in problems: a family of pencils each, assembled by rows in parallel, with the search that leads to its exceptional
point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import scipy.sparse

from jordan_dist.pencil import AffineFamily
from jordan_dist.problems.grid import Rows

CELLS = 212  # per side of the unrefined grid


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A pencil A(p) - lambda B(p), affine in the parameters p, on a square grid. The matrices are functions that make a range of
    rows."""

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
        """With scipy matrices, or with PETSc matrices on the communicator; the caller frees these by `destroy`."""
        make = self._maker(comm)
        return AffineFamily(make(self.A0), [make(D) for D in self.dA], make(self.B0), [make(D) for D in self.dB])

    def pencil(self, parameters: Sequence[complex], comm: Any = None) -> tuple[Any, Any, list[Any], list[Any]]:
        """A, B, dA and dB at these parameters, as `family` makes them. B is None where it is the identity."""
        make = self._maker(comm)
        A, B = _moved(self.A0, self.dA, parameters), _moved(self.B0, self.dB, parameters)
        return make(A), make(B), [make(D) for D in self.dA], [make(D) for D in self.dB]

    def _maker(self, comm: Any) -> Callable[[Rows | None], Any]:
        if comm is None:
            return lambda rows: None if rows is None else rows(0, self.n)
        from jordan_dist.backends.petsc import matrix_from_rows, mpi_comm, owned_rows, require_complex

        require_complex()
        start, stop = owned_rows(self.n, mpi_comm(comm))
        return lambda rows: None if rows is None else matrix_from_rows(rows(start, stop), self.n, comm)


def _moved(base: Rows | None, derivatives: Sequence[Rows | None], parameters: Sequence[complex]) -> Rows | None:
    """base + sum p_i derivative_i, row by row. A base that is the identity has no derivatives in these problems."""
    terms = [(p, D) for p, D in zip(parameters, derivatives, strict=bool(derivatives)) if D is not None]
    assert base is not None or not terms
    if base is None or not terms:
        return base
    return lambda start, stop: scipy.sparse.csr_array(sum((p * D(start, stop) for p, D in terms), base(start, stop)))


def destroy(*matrices: Any) -> None:
    """Frees PETSc matrices (collective); does nothing to others."""
    for A in matrices:
        if hasattr(A, "destroy"):
            A.destroy()


def problem(name: str, refine: int = 1) -> Problem:
    """The problem of that name, its grid refined `refine` times with the same geometry. ValueError with the names for another
    one."""
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
