"""A membrane that is damped everywhere alike: u_tt + 2 gamma u_t = laplacian u on the unit square, u = 0 on its rim.

A mode with laplacian v = -kappa v has lambda^2 + 2 gamma lambda + kappa = 0: at gamma = sqrt(kappa) a double eigenvalue -gamma with
x0 = [v; -gamma v], a Jordan block that the displacement alone does not show. For five-point differences the lowest mode has
kappa = (8 / h^2) sin^2(pi h / 2).
"""

from __future__ import annotations

import numpy as np

from jordan_dist.problems import Problem
from jordan_dist.problems.grid import diagonal, five_point
from jordan_dist.quadratic import QuadraticPencil


def damped_membrane(m: int) -> Problem:
    h = 1 / (m + 1)
    critical = np.sqrt(8) / h * np.sin(np.pi * h / 2)
    return Problem(
        name="damped-membrane",
        title="A damped membrane: critical damping of the lowest mode (quadratic)",
        cells=m,
        target=-4.3,
        size=2,
        parameter_names=("gamma",),
        start=(4.0,),
        nearby=(4.44,),
        A0=QuadraticPencil(
            mass=diagonal(lambda i, j: np.ones(i.shape), m),
            stiffness=five_point(np.full(m + 1, h**-2), np.ones(m), lambda i, j: 0, m, 1.0),
        ),
        known=((critical,), -critical),
        dA=(QuadraticPencil(damping=diagonal(lambda i, j: np.full(i.shape, 2.0), m)),),
    )
