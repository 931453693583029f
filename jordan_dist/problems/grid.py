"""Five-point difference operators on a cell-centred square grid with Dirichlet walls, by rows: every rank makes its own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse

Rows = Callable[[int, int], scipy.sparse.csr_array]  # (start, stop) -> those rows of the matrix, shape (stop - start, n)


def cells(start: int, stop: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """The cells (i, j) of the unknowns start..stop-1; the unknown of cell (i, j) is i m + j, its centre ((i + 1/2) h, (j + 1/2)
    h)."""
    return np.divmod(np.arange(start, stop), m)


def diagonal(values: Callable[[np.ndarray, np.ndarray], np.ndarray], m: int) -> Rows:
    """The diagonal matrix of a function of the cell; only its nonzero entries are stored."""

    def rows(start: int, stop: int) -> scipy.sparse.csr_array:
        d = values(*cells(start, stop, m))
        mine = np.flatnonzero(d)
        return scipy.sparse.csr_array((d[mine], (mine, mine + start)), shape=(stop - start, m * m))

    return rows


def five_point(w: np.ndarray, s: np.ndarray, extra: Callable[[np.ndarray, np.ndarray], np.ndarray | float], m: int, sign: float) -> Rows:
    """sign * (D (x) S + S (x) D) + diag(extra), where D is the 1-D operator with w_i + w_{i+1} on the diagonal and -w_{i+1}
    beside it.

    w: (m + 1,), at the faces; s: (m,), the diagonal of S, at the centres. The first factor acts on i, the second on j.
    """

    def rows(start: int, stop: int) -> scipy.sparse.csr_array:
        i, j = cells(start, stop, m)
        row = np.arange(stop - start)
        centre = sign * ((w[i] + w[i + 1]) * s[j] + s[i] * (w[j] + w[j + 1])) + extra(i, j)
        entries = [(row, row + start, centre)]
        for there, offset, value in (
            (i > 0, -m, w[i] * s[j]),
            (i < m - 1, m, w[i + 1] * s[j]),
            (j > 0, -1, s[i] * w[j]),
            (j < m - 1, 1, s[i] * w[j + 1]),
        ):
            entries.append((row[there], row[there] + start + offset, -sign * value[there]))
        r, c, v = (np.concatenate(part) for part in zip(*entries, strict=True))
        out = scipy.sparse.csr_array((v, (r, c)), shape=(stop - start, m * m))
        out.sort_indices()
        return out

    return rows


def seven_point(w: float, m: int, sign: float) -> Rows:
    """sign * w * (6 on the diagonal, -1 beside it in i, j and k), on a cube of m cells per side with Dirichlet walls; the unknown of
    the cell (i, j, k) is (i m + j) m + k."""

    def rows(start: int, stop: int) -> scipy.sparse.csr_array:
        index, row = np.arange(start, stop), np.arange(stop - start)
        entries = [(row, index, np.full(stop - start, 6 * sign * w))]
        for step in (m * m, m, 1):
            along = index // step % m
            for there, offset in ((along > 0, -step), (along < m - 1, step)):
                entries.append((row[there], index[there] + offset, np.full(there.sum(), -sign * w)))
        r, c, v = (np.concatenate(part) for part in zip(*entries, strict=True))
        out = scipy.sparse.csr_array((v, (r, c)), shape=(stop - start, m**3))
        out.sort_indices()
        return out

    return rows


def inside(i: np.ndarray, edges: tuple[int, int], m: int, coarse: int) -> np.ndarray:
    """The share of cell i of m that lies in the cells edges[0]..edges[1] (both inclusive) of `coarse` ones along the same side. What
    is exactly 0 or 1 is so to the last bit."""
    begin, end = edges[0] * m, (edges[1] + 1) * m
    share: np.ndarray = np.clip(np.minimum((i + 1) * coarse, end) - np.maximum(i * coarse, begin), 0, coarse) / coarse
    return share
