"""A dense random pencil with one 2 x 2 Jordan block that is planted at a known parameter, in no relation to any physics.

A(p) = S (J + the other eigenvalues) T + (p - p0) D and B = S T with random S, T and D: at p0 the eigenvalue is EIGENVALUE and the
chain is in the first two columns of T^-1.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import scipy.sparse

from jordan_dist.problems import Problem
from jordan_dist.problems.grid import Rows

EIGENVALUE, PARAMETER = 0.7 + 0.3j, 0.2 - 0.1j


@cache
def matrices(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A(0), D, B and T."""
    rng = np.random.default_rng(n)

    def noise() -> np.ndarray:
        entries: np.ndarray = (rng.standard_normal((n, n)) + 1j * rng.standard_normal((n, n))) / np.sqrt(2 * n)
        return entries

    others = EIGENVALUE + rng.uniform(1.5, 4.0, n - 2) * np.exp(2j * np.pi * rng.random(n - 2))
    core = np.diag([EIGENVALUE, EIGENVALUE, *others])
    core[0, 1] = 1
    S, T, D = np.eye(n) + 0.4 * noise(), np.eye(n) + 0.4 * noise(), noise()
    return S @ core @ T - PARAMETER * D, D, S @ T, T


def planted_block(n: int) -> Problem:
    def rows(which: int) -> Rows:
        return lambda start, stop: scipy.sparse.csr_array(matrices(n)[which][start:stop])

    return Problem(
        name="planted-block",
        title="A dense random pencil with a planted Jordan block",
        cells=n,
        dimensions=1,
        target=0.8 + 0.2j,
        size=2,
        parameter_names=("p",),
        start=(0.22 - 0.09j,),
        nearby=(0.2005 - 0.0998j,),
        A0=rows(0),
        dA=(rows(1),),
        B0=rows(2),
        known=((PARAMETER,), EIGENVALUE),
    )
