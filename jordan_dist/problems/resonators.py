"""Two dielectric resonators in open space, detuned by a complex permittivity.

-[d/dx (s_y / s_x) d/dx + d/dy (s_x / s_y) d/dy] u = omega^2 (s_x s_y eps) u with a perfectly matched layer (complex stretching s)
on each side: a generalized, complex symmetric pencil, lambda = omega^2.
"""

from __future__ import annotations

import numpy as np

from jordan_dist.problems import CELLS, Problem
from jordan_dist.problems.grid import diagonal, five_point, inside

LAYER = 0.5  # thickness of the absorbing layer
STRENGTH = -4 * np.log(1e-10) / (2 * LAYER)
FREQUENCY = 2.76  # at which the layer is made to absorb
LINES = (91, 120)
LEFT, RIGHT = (54, 93), (118, 157)


def resonators(refine: int = 1) -> Problem:
    m, h = CELLS * refine, 0.025 / refine
    width = m * h

    def stretching(x):
        depth = np.maximum(np.maximum(LAYER - x, x - (width - LAYER)), 0)
        return 1 + 1j * STRENGTH * (depth / LAYER) ** 3 / FREQUENCY

    s = stretching((np.arange(m) + 0.5) * h)
    faces = stretching(np.arange(m + 1) * h)

    def eps(i, j):
        return 1 + 11 * (inside(i, j, LEFT, LINES, refine) + inside(i, j, RIGHT, LINES, refine))

    def detuning(i, j):
        return inside(i, j, LEFT, LINES, refine) - inside(i, j, RIGHT, LINES, refine)

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
    )
