"""Pairs of dielectric resonators: two in open space, and two cubes in a box.

-[d/dx (s_y / s_x) d/dx + d/dy (s_x / s_y) d/dy] u = omega^2 (s_x s_y eps) u with a perfectly matched layer (complex stretching s)
on each side: a generalized, complex symmetric pencil, lambda = omega^2.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse

from jordan_dist.problems import CELLS, Problem
from jordan_dist.problems.grid import Rows, diagonal, five_point, inside, seven_point

LAYER = 0.5  # thickness of the absorbing layer
STRENGTH = -4 * np.log(1e-10) / (2 * LAYER)
FREQUENCY = 2.76  # at which the layer is made to absorb
LINES = (91, 120)
LEFT, RIGHT = (54, 93), (118, 157)
POINTS = {  # by cells per side, to the digits given
    212: ((-0.1242688633583 + 0.2747672294421j,), 7.604797839043 - 0.208653421906j),
    424: ((-0.125314533312 + 0.276155767794j,), 7.627528817587 - 0.210924553594j),
    848: ((-0.125577708034 + 0.276503654927j,), 7.633235463333 - 0.211496709731j),
}


def resonators(m: int) -> Problem:
    h = 0.025 / (m / CELLS)
    width = m * h

    def stretching(x: np.ndarray) -> np.ndarray:
        depth = np.maximum(np.maximum(LAYER - x, x - (width - LAYER)), 0)
        return np.asarray(1 + 1j * STRENGTH * (depth / LAYER) ** 3 / FREQUENCY)

    s = stretching((np.arange(m) + 0.5) * h)
    faces = stretching(np.arange(m + 1) * h)

    def chi(i: np.ndarray, j: np.ndarray, columns: tuple[int, int]) -> np.ndarray:
        return np.asarray(inside(i, columns, m, CELLS) * inside(j, LINES, m, CELLS))

    def eps(i: np.ndarray, j: np.ndarray) -> np.ndarray:
        return np.asarray(1 + 11 * (chi(i, j, LEFT) + chi(i, j, RIGHT)))

    def detuning(i: np.ndarray, j: np.ndarray) -> np.ndarray:
        return np.asarray(chi(i, j, LEFT) - chi(i, j, RIGHT))

    return Problem(
        name="resonators",
        title="Two open dielectric resonators, detuned",
        cells=m,
        target=2.75**2 - 0.35j,
        size=2,
        parameter_names=("tau",),
        start=(-0.10 + 0.30j,),
        nearby=(-0.1243 + 0.2748j,),
        A0=five_point(1 / (faces * h**2), s, lambda i, j: 0, m, 1.0),
        dA=(None,),
        B0=diagonal(lambda i, j: s[i] * s[j] * eps(i, j), m),
        dB=(diagonal(lambda i, j: s[i] * s[j] * detuning(i, j), m),),
        known=POINTS.get(m),
    )


CUBE_CELLS = 20  # per side of the box, of 0.1 each
CUBES = ((3, 8), (11, 16))  # the cells of the two cubes in i; in j and k both have those of ACROSS
ACROSS = (7, 12)


def cubes(m: int) -> Problem:
    """Two cubes with gain and loss in a closed box, in three dimensions: -laplacian u = omega^2 eps u with eps = 12 -+ i gamma in the
    cubes and 1 around them, u = 0 on the walls. PT-symmetric, so that the exceptional point lies at a real gamma. A cell that a face
    of a cube cuts has the mean of eps over it, as finite volumes have, so that every grid keeps the geometry."""
    h = 0.1 / (m / CUBE_CELLS)

    def chi(i: np.ndarray, jk: np.ndarray, cube: int) -> np.ndarray:
        j, k = np.divmod(jk, m)
        return np.asarray(inside(i, CUBES[cube], m, CUBE_CELLS) * inside(j, ACROSS, m, CUBE_CELLS) * inside(k, ACROSS, m, CUBE_CELLS))

    def permittivity(values: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Rows:
        """The diagonal matrix of a function of the first cube's chi and the second's."""

        def rows(start: int, stop: int) -> scipy.sparse.csr_array:
            i, jk = np.divmod(np.arange(start, stop), m * m)
            d = values(chi(i, jk, 0), chi(i, jk, 1))
            mine = np.flatnonzero(d)
            return scipy.sparse.csr_array((d[mine], (mine, mine + start)), shape=(stop - start, m**3))

        return rows

    return Problem(
        name="cubes",
        title="Two coupled dielectric cubes in a box, in three dimensions, with balanced gain and loss",
        cells=m,
        dimensions=3,
        target=1.9,
        size=2,
        parameter_names=("gamma",),
        start=(3.0,),
        nearby=(3.24,),
        A0=seven_point(h**-2, m, 1.0),
        dA=(None,),
        B0=permittivity(lambda first, second: 1 + 11 * (first + second)),
        dB=(permittivity(lambda first, second: 1j * (second - first)),),
    )
