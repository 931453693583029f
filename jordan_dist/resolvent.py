"""The Green's function near an exceptional point, from the Jordan chain alone.

    (A - z B)^-1 = V (J - z)^-1 W^H + regular,    J = l0 I + ones above the diagonal,    A V = B V J,    W^H B V = I

because (A - z B) V = B V (J - z). For k = 2 and V = [x0, j0], W = [y1, y0] the singular part is

    (x0 y1^H + j0 y0^H) / (l0 - z) - x0 y0^H / (l0 - z)^2

and in the basis X, Y of the deflating subspaces it is X (M0 - z)^-1 Y^H with the nearest defective matrix M0: the same thing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg

from jordan_dist.backends import like, own_rows, vectors_of


def singular_part(vectors: Any, left_vectors: Any, eigenvalue: complex, z: complex, source: Any) -> Any:
    """V (J - z)^-1 W^H source, of the kind and shape of `source`."""
    z = complex(z)
    if z == eigenvalue or not np.isfinite(z):
        raise ValueError(f"the resolvent has its pole at the eigenvalue {eigenvalue}: z must be another finite number, not {z}")
    V, W, b, blocks = own_rows(vectors), own_rows(left_vectors), own_rows(source), vectors_of(vectors)
    if blocks.sum(np.array([float(len(b) != len(V))]))[0]:
        raise ValueError(f"source must have the {blocks.n} rows of the chain, distributed in the same way")
    k = V.shape[1]
    shifted = (eigenvalue - z) * np.eye(k) + np.eye(k, k=1)
    return like(source, V @ scipy.linalg.solve_triangular(shifted, blocks.inner(W, b)))
