"""The k x k problem: nearest defective matrix and verdicts."""

import numpy as np
import pytest
from scipy.optimize import minimize

from jordan_dist.projected import nearest_defective, verdict, weyr


def random_matrix(k, seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((k, k)) + 1j * rng.standard_normal((k, k))


def jordan(k, eigenvalue=0.0):
    return eigenvalue * np.eye(k) + np.eye(k, k=1)


@pytest.mark.parametrize("seed", range(4))
def test_no_defective_2x2_matrix_is_nearer(seed):
    M = random_matrix(2, seed)
    near = nearest_defective(M)

    def distance(z):  # every 2 x 2 matrix with a double eigenvalue l is l I + a (c, d) (-d, c)^T
        l, a, c, d = z[:4] + 1j * z[4:]
        return np.linalg.norm(M - l * np.eye(2) - a * np.outer([c, d], [-d, c]))

    rng = np.random.default_rng(seed)
    best = min(minimize(distance, rng.standard_normal(8), method="BFGS").fun for _ in range(12))
    assert np.linalg.norm(M - near.matrix) == pytest.approx(near.distance, rel=1e-12)
    assert near.distance == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("k", [2, 3, 4])
def test_chain_of_the_nearest_matrix(k):
    rng = np.random.default_rng(k)
    T = np.eye(k) + 0.3 * random_matrix(k, k)
    M = T @ jordan(k, 2 - 1j) @ np.linalg.inv(T) + 1e-7 * rng.standard_normal((k, k))
    near = nearest_defective(M)
    C, N = near.chain(), near.matrix - near.eigenvalue * np.eye(k)
    size = np.linalg.norm(C, axis=0)
    assert np.linalg.norm(N @ C[:, 0]) <= 100 * np.finfo(float).eps
    for i in range(1, k):
        assert np.linalg.norm(N @ C[:, i] - C[:, i - 1]) <= 100 * np.finfo(float).eps * size[i]
    assert np.linalg.norm(C[:, 0]) == pytest.approx(1, rel=1e-14)
    assert np.abs(C[:, 0].conj() @ C[:, 1:]).max() <= 100 * np.finfo(float).eps * size[-1]
    assert near.distance < 1e-5


def test_trace_is_the_eigenvalue_sum_and_splitting_is_the_product_of_the_singular_values():
    M = jordan(2, 1.5) + 1e-3 * random_matrix(2, 0)
    near = nearest_defective(M)
    values = np.linalg.eigvals(M)
    assert near.eigenvalue == pytest.approx(values.mean(), rel=1e-14)
    assert abs(values[0] - values[1]) ** 2 / 4 == pytest.approx(np.prod(near.singular_values), rel=1e-10)


@pytest.mark.parametrize(
    ("N", "expected", "characteristic"),
    [
        (jordan(2), "block", (1, 1)),
        (np.zeros((2, 2)), "semisimple", (2,)),
        (np.diag([1.0, -1.0]), "not-defective", ()),
        (jordan(3), "block", (1, 1, 1)),
        (np.zeros((3, 3)), "semisimple", (3,)),
        (np.diag([1.0, 0.0, -1.0]), "not-defective", ()),
        (np.array([[0, 1, 0], [0, 0, 0], [0, 0, 0.0]]), "blocks", (2, 1)),
        (np.kron(np.eye(2), jordan(2)), "blocks", (2, 2)),
        (np.diag([1.0, 0, 0], k=1), "blocks", (3, 1)),
    ],
)
@pytest.mark.parametrize("size", [0.0, 1e-6])
def test_verdict(N, expected, characteristic, size):
    k = len(N)
    Q = np.linalg.qr(random_matrix(k, 5))[0]
    E = random_matrix(k, 6)
    M = Q @ N @ Q.conj().T + size * E / np.linalg.norm(E)
    M = M - np.trace(M) / k * np.eye(k)
    assert verdict(nearest_defective(M), M, perturbation=1e-4, uncertainty=1e-14) == (expected, characteristic)


def test_rounding_errors_are_no_block():
    # two singular values of the size of rounding, whose ratio would pass for a block
    N = 1e-16 * jordan(2)
    assert verdict(nearest_defective(N), N, perturbation=1e-3, uncertainty=1e-14)[0] == "semisimple"


def test_weyr_is_incomplete_when_the_matrix_is_not_nilpotent():
    assert weyr(np.diag([0.0, 1.0]), 1e-8) == (1,)
