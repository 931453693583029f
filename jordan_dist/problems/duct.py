"""The cross-section of an acoustic duct of which one wall is lined: (laplacian + k^2) p = beta^2 p on the unit square, with
dp/dn = i k A p at the lined wall y = 1 and dp/dn = 0 at the others, for p exp(i beta x - i omega t). A is the admittance of the
lining in units of 1/(rho c); the axial wavenumbers beta are complex, and a wave that decays has Im beta^2 > 0.

With p = cos(mu y) the wall demands mu tan(mu) = -i k A. Two modes merge where the derivative of the left side vanishes, sin(2 mu)
+ 2 mu = 0: for the lowest pair mu = 2.1062 - 1.1254i, and A = i mu tan(mu) / k is the admittance that damps the least damped mode
most (Cremer's optimum).

Unknowns at the nodes, half cells at the walls: p_j = cos(theta j) on m + 1 nodes, h = 1/m, satisfies the difference equations
exactly with beta^2 = k^2 - (2 - 2 cos theta) / h^2 and i k A = -sin(theta) tan(m theta) / h, and the modes merge where
cos(theta) sin(2 m theta) / 2 + m sin(theta) = 0.
"""

from __future__ import annotations

import numpy as np

from jordan_dist.problems import Problem
from jordan_dist.problems.grid import diagonal, five_point

WAVENUMBER = 5.0  # k, times the side of the duct


def lined_duct(nodes: int) -> Problem:
    h = 1 / (nodes - 1)
    faces = np.full(nodes + 1, h**-2)
    faces[[0, -1]] = 0  # nothing flows through the walls by itself
    s = np.ones(nodes)
    s[[0, -1]] = 0.5
    return Problem(
        name="lined-duct",
        title="A lossy acoustic duct: two modes merge at Cremer's optimal wall",
        cells=nodes,
        target=21.5 + 4.5j,
        size=2,
        parameter_names=("admittance",),
        start=(0.40 - 0.30j,),
        nearby=(0.412 - 0.330j,),
        A0=five_point(faces, s, lambda i, j: WAVENUMBER**2 * s[i] * s[j], nodes, -1.0),
        dA=(diagonal(lambda i, j: 1j * WAVENUMBER / h * s[i] * (j == nodes - 1), nodes),),
        B0=diagonal(lambda i, j: s[i] * s[j], nodes),
    )
