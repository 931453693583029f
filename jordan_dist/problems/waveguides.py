"""Square optical waveguides side by side with gain and loss: (laplacian + k0^2 eps) u = beta^2 u, Dirichlet walls, lengths in
micrometres."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from jordan_dist.problems import CELLS, Problem
from jordan_dist.problems.grid import Rows, diagonal, five_point, inside

K0 = 2 * np.pi / 1.55  # vacuum wavenumber at a wavelength of 1.55
CLADDING, CORE = 1.45**2, 1.50**2
LINES = (96, 115)  # the cores' cells in j
# The exceptional points of the two on 212 cells per side, to the digits given.
POINT = ((0.0051183567223,), 35.331376319721)
POINT_OF_THREE = ((0.0072804509204, 0.0002100387072), 35.330739815332)


def _parts(m: int, cores: list[tuple[int, int]]) -> tuple[Rows, Callable[[Sequence[complex]], Rows]]:
    """The operator without gain and loss, and a function that makes diag(k0^2 sum_c a_c chi_c)."""
    h = 0.1 / (m / CELLS)

    def chi(i: np.ndarray, j: np.ndarray, core: tuple[int, int]) -> np.ndarray:
        return np.asarray(inside(i, core, m, CELLS) * inside(j, LINES, m, CELLS))

    def extra(i: np.ndarray, j: np.ndarray) -> np.ndarray:
        return np.asarray(K0**2 * (CLADDING + (CORE - CLADDING) * sum(chi(i, j, core) for core in cores)) + 0j)

    def perturbation(amplitudes: Sequence[complex]) -> Rows:
        def values(i: np.ndarray, j: np.ndarray) -> np.ndarray:
            return np.asarray(K0**2 * sum(a * chi(i, j, core) for a, core in zip(amplitudes, cores, strict=True)))

        return diagonal(values, m)

    return five_point(np.full(m + 1, h**-2), np.ones(m), extra, m, -1.0), perturbation


def waveguides(m: int) -> Problem:
    """Two guides, one with gain and one with as much loss: PT-symmetric, so that its exceptional point lies at a real gain."""
    A0, perturbation = _parts(m, [(76, 95), (116, 135)])
    return Problem(
        name="waveguides",
        title="Two coupled waveguides with balanced gain and loss",
        cells=m,
        target=35.38,
        size=2,
        parameter_names=("gamma",),
        start=(0.0045,),
        nearby=(0.0051,),
        A0=A0,
        dA=(perturbation([1j, -1j]),),
        known=POINT if m == CELLS else None,
    )


def three_waveguides(m: int) -> Problem:
    """Gain, detuning and loss: three modes merge."""
    A0, perturbation = _parts(m, [(56, 75), (96, 115), (136, 155)])
    return Problem(
        name="three-waveguides",
        title="Three coupled waveguides: an exceptional point of third order",
        cells=m,
        target=35.40,
        size=3,
        parameter_names=("gamma", "delta"),
        start=(0.0055, 0.0002),
        nearby=(0.00728, 0.00021),
        A0=A0,
        dA=(perturbation([1j, 0, -1j]), perturbation([0, 1, 0])),
        known=POINT_OF_THREE if m == CELLS else None,
    )
