"""The conformance kit on our own backends and problems, and on broken ones that it must catch."""

import numpy as np
import pytest
import scipy.sparse

from jordan_dist import AffineFamily
from jordan_dist.backends import backend_for
from jordan_dist.backends.scipy import ScipyBackend, ScipyFactor
from jordan_dist.problems import problem
from jordan_dist.testing import check_backend, check_problem, planted_pencil


@pytest.mark.parametrize("kind", [np.asarray, scipy.sparse.csr_array])
def test_scipy_backend(kind):
    class Kind(ScipyBackend):
        def matrix(self, A, name):
            return super().matrix(kind(A) if isinstance(A, np.ndarray) and A.ndim == 2 else A, name)

    check_backend(lambda A: Kind(len(A)))


@pytest.mark.mpi
def test_petsc_backend(world):
    check_backend(lambda A: backend_for(A, world))


def broken(**methods):
    kind = type("Broken", (ScipyBackend,), methods)
    return lambda A: kind(len(A))


class WrongAdjoint(ScipyFactor):
    def solve_adjoint(self, R):
        return self.solve(R)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (broken(adjoint_product=lambda self, A, X: X if A is None else A.T @ X), "adjoint_product"),
        (broken(product=lambda self, A, X: A @ X if A is not None else 0 * X), "the identity"),
        (broken(matrix_norm=lambda self, A: 1.0 if A is None else np.linalg.norm(A)), "infinity norm"),
        (broken(export=lambda self, X: X[::-1]), "export"),
        (broken(random_block=lambda self, k, seed=0: np.ones((self.n, k), complex)), "random_block"),
        (broken(matrix=lambda self, A, name: A), "matrix accepts"),
        (broken(factor=lambda self, terms, *, symmetric: WrongAdjoint(_total(self, terms), self.cost, symmetric=symmetric)), "adjoint"),
        (broken(factor=lambda self, terms, *, symmetric: ScipyFactor(_total(self, terms[:1]), self.cost, symmetric=False)), "solve:"),
    ],
    ids=range(8),
)
def test_broken_backends_are_caught(make, message):
    with pytest.raises(AssertionError, match=message):
        check_backend(make)


def _total(backend, terms):
    return sum(c * (np.eye(backend.n) if A is None else A) for c, A in terms)


@pytest.mark.parametrize("name", ["waveguides", "resonators", "three-waveguides"])
def test_built_in_problems(name):
    p = problem(name)
    point = check_problem(p.family(), p.start, target=p.target, size=p.size)
    assert point.chain.verdict == "block"


@pytest.mark.parametrize("k", [2, 3])
def test_planted_family(k):
    planted = planted_pencil(k, parameters=k - 1)
    point = check_problem(planted.family, np.full(k - 1, 0.001 + 0.001j), target=planted.eigenvalue, size=k)
    assert np.abs(point.parameters).max() < 1e-10


@pytest.mark.mpi
def test_planted_family_on_all_ranks(world):
    planted = planted_pencil(2)
    check_problem(planted.family, 0.01 + 0.01j, target=planted.eigenvalue, comm=world)


@pytest.mark.parametrize("which", ["dA", "dB"])
def test_wrong_derivatives_are_caught(which):
    planted = planted_pencil(2)

    def family(p):
        A, B = planted.at(np.sin(p))
        right = {"dA": [np.cos(p[0]) * planted.dA[0]], "dB": [np.cos(p[0]) * planted.dB[0]]}
        return A, B, *({**right, which: [1.01 * right[which][0]]}).values()

    with pytest.raises(AssertionError, match=rf"{which}\[0\] is not the derivative"):
        check_problem(family, 0.02 + 0.01j, target=planted.eigenvalue)


def test_a_family_without_a_point_is_caught():
    planted = planted_pencil(1, 1)
    with pytest.raises(RuntimeError):
        check_problem(AffineFamily(planted.A0, [np.zeros_like(planted.A0)]), 0.1 + 0j, target=planted.eigenvalue)
