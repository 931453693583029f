"""The conformance kit: a backend or a problem of your own runs the tests of this package.

    from jordan_dist.testing import check_backend, check_problem

    def test_my_backend():
        check_backend(lambda A: MyBackend(len(A)))

    def test_my_problem():
        point = check_problem(my_family, start=[0.1 + 0.2j], target=7.6 - 0.2j)

Both are collective under MPI. An AssertionError says what does not hold. `planted_pencil` makes dense pencils whose Jordan chains are
known from their construction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg

from jordan_dist import io
from jordan_dist.backends import Backend, BlockVectors, SingularFactorError, backend_for
from jordan_dist.chain import assemble_chain, classify
from jordan_dist.exceptional import ExceptionalPoint, find_exceptional_point, parameters_of
from jordan_dist.pencil import Family, ParametricPencil, Pencil, matrices_of, pencil, settle_symmetry
from jordan_dist.planted import Planted, planted_pencil
from jordan_dist.projected import nearest_defective
from jordan_dist.subspace import EPS, factored_pair

__all__ = ["Planted", "check_backend", "check_problem", "planted_pencil"]

BOUND = 1e-10  # relative, of what conditioning magnifies: the pencils here have condition numbers up to 1e4


def check_backend(make_backend: Callable[[np.ndarray], Backend]) -> None:
    """Everything that the algorithms ask of a `Backend`, against numpy.

    make_backend(A): a new backend for pencils of the order of A, a numpy matrix that every rank brings whole.
    """
    for n in (1, 3, 40):  # of three rows some ranks may own none
        for symmetric in (False, True):
            _check_arithmetic(make_backend, n, symmetric)
    _check_refusals(make_backend)
    for blocks in ((2,), (3,), (2, 1), (1, 1)):
        for symmetric in (False, True):
            _check_chain(make_backend, planted_pencil(*blocks, n=40, symmetric=symmetric))


def _near(found: Any, expected: Any, what: str, bound: float = 1e-12) -> None:
    """Relative to the largest entry."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, f"{what}: the shape is {found.shape}, not {expected.shape}"
    error = np.abs(found - expected).max(initial=0.0) / max(np.abs(expected).max(initial=0.0), np.finfo(float).tiny)
    assert error <= bound, f"{what}: relative error {error:.1e}"


def _check_arithmetic(make_backend: Callable[[Any], Backend], n: int, symmetric: bool) -> None:
    rng = np.random.default_rng(n)

    def matrix() -> np.ndarray:
        A = rng.standard_normal((n, n)) + 1j * rng.standard_normal((n, n))
        return A + A.T if symmetric else A

    A, D = matrix() + 3 * np.sqrt(n) * np.eye(n), matrix()
    kept = A.copy()
    backend = make_backend(A)
    try:
        assert backend.n == n, f"the order is {backend.n}, not {n}"
        mine = slice(backend.start, backend.stop)
        assert backend.sum(np.array([float(backend.stop - backend.start)]))[0] == n, "the ranks do not own every row once"
        X, Y = (np.asfortranarray(rng.standard_normal((n, 3)) + 1j * rng.standard_normal((n, 3))) for _ in range(2))
        x, y = X[mine].copy(order="F"), Y[mine].copy(order="F")
        known_A, known_D = backend.matrix(A, "A"), backend.matrix(D, "D")
        _near(backend.product(known_A, x), (A @ X)[mine], "product")
        _near(backend.adjoint_product(known_A, x), (A.conj().T @ X)[mine], "adjoint_product")
        for product in (backend.product, backend.adjoint_product):
            _near(product(None, x), x, "product with None, the identity", 0)
        _near(backend.matrix_norm(known_A), np.linalg.norm(A, np.inf), "matrix_norm, the infinity norm")
        _near(backend.matrix_norm(None), 1.0, "matrix_norm of None, the identity", 0)
        _near(backend.inner(x, y), X.conj().T @ Y, "inner")
        _near(backend.norm(x), np.linalg.norm(X), "norm")
        _near(backend.random_block(3), BlockVectors(n, 0, n).random_block(3)[mine], "random_block", 0)
        if n >= 3:
            Q, R = backend.qr(x)
            _near(Q @ R, x, "Q R of qr")
            _near(backend.inner(Q, Q), np.eye(3), "Q^H Q of qr")
        _near(io.local_block(backend.export(x))[0][_exported(backend, x)], x, "export", 0)

        before = backend.cost.factorizations, backend.cost.solves
        terms = [(2.0, known_A), (0.0, known_D), (0.5j, known_D), (1.0 - 1j, None)]
        total = 2 * A + 0.5j * D + (1 - 1j) * np.eye(n)
        factor = backend.factor(terms, symmetric=symmetric)
        try:
            _near(factor.solve(x), np.linalg.solve(total, X)[mine], "solve", BOUND)
            _near(factor.solve_adjoint(x), np.linalg.solve(total.conj().T, X)[mine], "solve_adjoint", BOUND)
            _near(x, X[mine], "the right-hand side after a solve", 0)
        finally:
            factor.destroy()
        spent = backend.cost.factorizations - before[0], backend.cost.solves - before[1]
        assert spent == (1, 6), f"cost: one factorization and six solves were counted as {spent}"
        assert np.array_equal(A, kept), "the user's matrix was changed"
    finally:
        backend.destroy()


def _exported(backend: Backend, x: np.ndarray) -> slice:
    """The rows of this rank in what `export` gives: whole arrays, or the rank's rows."""
    rows = io.local_block(backend.export(x))[0].shape[0]
    return slice(backend.start, backend.stop) if rows == backend.n else slice(None)


def _check_refusals(make_backend: Callable[[Any], Backend]) -> None:
    backend = make_backend(np.eye(4))
    try:
        wrong = [np.ones((4, 3)), np.eye(5), np.diag([1.0, 2.0, np.nan, 3.0]), np.diag([1.0, np.inf, 2.0, 3.0]), "matrix"]
        for A in wrong:
            try:
                backend.matrix(A, "M")
            except ValueError as error:
                assert "M" in str(error), f"the message does not name the matrix: {error}"
            else:
                raise AssertionError(f"matrix accepts {A!r} in a pencil of order 4")
        try:
            factor = backend.factor([(1.0, backend.matrix(np.diag([1.0, 0.0, 2.0, 3.0]), "M"))], symmetric=False)
        except SingularFactorError:
            return
        factor.destroy()  # approximate factors of a nearby matrix are allowed
    finally:
        backend.destroy()


def _check_chain(make_backend: Callable[[Any], Backend], planted: Planted) -> None:
    """The whole algorithm, with sigma beside the eigenvalue and on it."""
    k = sum(planted.blocks)
    for sigma in (planted.eigenvalue + 0.1, planted.eigenvalue):
        backend = make_backend(planted.A0)
        factor = None
        try:
            problem = pencil(backend, planted.A0, planted.B0)
            settle_symmetry(problem, None)
            factor, pair = factored_pair(problem, sigma, k)
            near = nearest_defective(pair.M)
            kind = classify(pair, near, None)
            chain = assemble_chain(problem, pair, near, kind, "unit", pair.M)
            where = f"blocks {planted.blocks}, sigma {sigma}"
            _near(chain.eigenvalue, planted.eigenvalue, f"eigenvalue, {where}", BOUND)
            blocks = chain.blocks if kind[0] == "blocks" else (k,) if kind[0] == "block" else (1,) * k
            assert kind[0] != "not-defective", f"the verdict is not-defective, {where}"
            assert blocks == planted.blocks, f"the verdict is {kind}, {where}"
            rows = slice(backend.start, backend.stop)
            V, W = (io.local_block(Z)[0][_exported(backend, pair.X)] for Z in (chain.vectors, chain.left_vectors))
            _near(backend.inner(W, problem.times_B(V)), np.eye(k), f"W^H B V, {where}", BOUND)
            # chains of several blocks are not unique: the spectral projector is
            P = planted.vectors @ planted.left_vectors.conj().T
            _near(V @ backend.inner(W, _local(np.eye(backend.n), rows)), P[rows], f"V W^H, {where}", BOUND)
            _check_relations(problem, chain, V, W, BOUND)
        finally:
            if factor is not None:
                factor.destroy()
            backend.destroy()


def _local(X: np.ndarray, rows: slice) -> np.ndarray:
    return np.asfortranarray(X[rows], dtype=complex)


def _check_relations(problem: Pencil, chain: Any, V: np.ndarray, W: np.ndarray, bound: float) -> None:
    """(A - l B) V = B V J and W^H (A - l B) = J W^H B, relative to the size of their terms."""
    backend, z = problem.backend, chain.eigenvalue
    chained = chain.verdict in ("block", "blocks")
    J = scipy.linalg.block_diag(*(np.eye(m, k=1) for m in chain.blocks)) if chained else np.zeros((V.shape[1],) * 2)
    AV, BV = problem.times_A(V), problem.times_B(V)
    right = backend.norm(AV - z * BV - BV @ J) / (backend.norm(AV) + backend.norm(z * BV) + backend.norm(BV @ J))
    assert right <= bound, f"the chain relations have a relative residual of {right:.1e}"
    AW, BW = problem.adjoint_A(W), problem.adjoint_B(W)
    left = backend.norm(AW - np.conj(z) * BW - BW @ J.T) / (backend.norm(AW) + backend.norm(z * BW) + backend.norm(BW @ J.T))
    assert left <= bound, f"the relations of the left vectors have a relative residual of {left:.1e}"


def check_problem(family: Family, start: Any, *, target: complex, size: int = 2, comm: Any = None) -> ExceptionalPoint:
    """A family of pencils as in `find_exceptional_point`: its derivatives are those of its matrices, the search from `start` ends at an
    exceptional point, the chain holds in the family's own matrices there, and the eigenvalues beside it split as the chain predicts.
    Returns the exceptional point."""
    p = parameters_of(start)
    backend = backend_for(matrices_of(family, p)[0], comm)
    factor = None
    try:
        pencils = ParametricPencil(backend, family, p.size)
        _check_derivatives(pencils, p)
        point = find_exceptional_point(family, start, target=target, size=size, comm=comm)
        chain, there = point.chain, pencils.at(point.parameters)
        rows = _exported(backend, backend.random_block(size))
        V, W = (io.local_block(Z)[0][rows] for Z in (chain.vectors, chain.left_vectors))
        _check_relations(there, chain, V, W, BOUND)
        _near(backend.inner(W, there.times_B(V)), np.eye(size), "W^H B V", BOUND * backend.norm(V) * backend.norm(W))
        for i, c in enumerate(chain.puiseux):
            # so near that the next term of the series is a hundredth of the first, or less
            t = (0.01 * min(chain.gap, chain.singular_values[size - 2])) ** size / max(abs(c), EPS)
            moved = point.parameters.copy()
            moved[i] += t
            beside = pencils.at(moved)
            settle_symmetry(beside, None)
            factor, pair = factored_pair(beside, chain.eigenvalue, size)
            split = np.abs(np.linalg.eigvals(pair.M) - pair.mean)
            factor.destroy()
            factor = None
            _near(split, np.full(size, abs(c * t) ** (1 / size)), f"splitting of the eigenvalues by parameter {i}", 0.1)
        return point
    finally:
        if factor is not None:
            factor.destroy()
        backend.destroy()


def _check_derivatives(pencils: ParametricPencil, p: np.ndarray) -> None:
    """Against central differences of the products with a random block."""
    here = pencils.at(p)
    X = pencils.backend.random_block(2)
    zero = np.zeros((2, 2))
    for i in range(p.size):
        h = 1e-4 * max(abs(p[i]), 1e-2)
        low, high = p.copy(), p.copy()
        low[i], high[i] = p[i] - h, p[i] + h
        before, after = pencils.at(low), pencils.at(high)
        found = [here.derivative(i, X, zero), here.derivative(i, X, np.eye(2)) - here.derivative(i, X, zero)]
        expected = [(after.times_A(X) - before.times_A(X)) / (2 * h), -(after.times_B(X) - before.times_B(X)) / (2 * h)]
        scale = [here.norm_A(), here.norm_B()]
        for name, a, b, norm in zip(("dA", "dB"), found, expected, scale, strict=True):
            allowed = 1e-5 * pencils.backend.norm(b) + 1e3 * EPS * norm * pencils.backend.norm(X) / h
            error = pencils.backend.norm(a - b)
            assert error <= allowed, f"{name}[{i}] is not the derivative of the matrix: differences deviate by {error:.1e}"
