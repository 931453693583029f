"""The backward error as a matrix, and the forward bounds against true errors."""

import numpy as np
import pytest
import scipy.linalg

from jordan_dist import jordan_chain

EPS = np.finfo(float).eps
TARGET = 0.8 + 0.2j


def standard(planted, eps):
    """The planted pencil, perturbed, with B = I."""
    A, B = planted.at(np.full(len(planted.dA), eps))
    return np.linalg.solve(B, A)


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("identity", [False, True])
def test_perturbation_makes_the_chain_exact(plant, k, identity):
    planted = plant(k=k)
    A, B = (standard(planted, 1e-3), None) if identity else planted.at(1e-3)
    chain = jordan_chain(A, B, target=TARGET, size=k)
    E = chain.backward_perturbation(A, B)
    V, l, norm_A = chain.vectors, chain.eigenvalue, np.linalg.norm(A, 2)
    BV = V if B is None else B @ V
    for i in range(k):
        previous = BV[:, i - 1] if i else 0
        residual = A @ V[:, i] + E.times(V[:, i]) - l * BV[:, i] - previous
        assert np.linalg.norm(residual) < 1e-12 * norm_A * np.linalg.norm(V[:, i])
    whole = E.times(np.eye(len(A)))
    assert np.linalg.matrix_rank(whole, tol=1e-10) < k + 1
    assert np.linalg.norm(whole, 2) == pytest.approx(E.norm, rel=1e-10)
    assert E.norm <= chain.backward_error * (1 + 1e-6)
    J = l * np.eye(k) + np.eye(k, k=1)
    smallest = -(A @ V - BV @ J) @ np.linalg.pinv(V)
    assert whole == pytest.approx(smallest, abs=1e-12)
    if identity and k == 2:
        assert E.norm == pytest.approx(chain.singular_values[1], rel=1e-8)


def test_perturbation_of_a_second_order_chain_is_of_second_order(plant):
    planted = plant()
    sizes = np.array([1e-2, 1e-3, 1e-4])
    norms = []
    for eps in sizes:
        A, B = planted.at(eps)
        chain = jordan_chain(A, B, target=TARGET, dA=planted.dA, dB=planted.dB)
        norms.append(chain.backward_perturbation(*planted.at(eps + chain.step[0])).norm)
    assert np.polyfit(np.log(sizes), np.log(norms), 1)[0] == pytest.approx(2, abs=0.1)


def true_errors(planted, chain):
    return np.array([abs(chain.eigenvalue - planted.eigenvalue), *planted.errors(chain.vectors)])


@pytest.mark.parametrize(("k", "symmetric", "factor"), [(2, False, 50), (2, True, 50), (3, False, 100)])
def test_bounds_hold_and_are_not_much_larger_than_the_errors(plant, k, symmetric, factor):
    """A bound is for the worst perturbation of that norm, and a random one does about sqrt(n) = 5.5 times less to each vector."""
    ratios = []
    for seed in range(8):
        planted = plant(n=30, k=k, symmetric=symmetric, seed=seed)
        for eps in (3e-3, 1e-4, 1e-6, 1e-9, 0.0):
            A, B = planted.at(eps)
            moved = eps * (np.linalg.norm(planted.dA[0], 2) + abs(planted.eigenvalue) * np.linalg.norm(planted.dB[0], 2))
            chain = jordan_chain(A, B, target=TARGET, size=k)
            if chain.verdict != "block":
                continue  # at the largest eps a third-order block may be gone
            bounds = chain.forward_bounds(A, B, perturbation=moved)
            bound, error = np.array([bounds.eigenvalue, *bounds.vectors]), true_errors(planted, chain)
            assert (error <= bound).all(), (seed, eps, error, bound)
            if eps and np.isfinite(bound).all():
                ratios.append(bound / error)
    assert len(ratios) > 20
    assert (np.median(ratios, axis=0) < factor).all()


def test_bound_of_the_eigenvalue_is_attained(plant):
    planted = plant(n=30)
    chain = jordan_chain(planted.A0, planted.B0, target=TARGET)
    X = scipy.linalg.orth(chain.vectors)
    Y = chain.left_vectors @ (X.conj().T @ chain.vectors).conj().T
    U, _, Vh = np.linalg.svd(Y, full_matrices=False)
    A = planted.A0 + 1e-5 * U @ Vh @ X.conj().T
    near = jordan_chain(A, planted.B0, target=TARGET)
    error, bound = abs(near.eigenvalue - planted.eigenvalue), near.forward_bounds(A, planted.B0, perturbation=1e-5).eigenvalue
    assert 0.9 < error / bound <= 1


def test_a_pencil_may_be_far_away_along_the_defective_ones(plant):
    """A + d I has the same chain, an eigenvalue d away and no backward error: only the user can know d."""
    A0, d = standard(plant(n=30), 0.0), 1e-5
    A = A0 + d * np.eye(30)
    chain = jordan_chain(A, target=TARGET)
    assert chain.backward_error < 1e-12
    assert abs(chain.eigenvalue - plant(n=30).eigenvalue) == pytest.approx(d, rel=1e-6)
    assert chain.forward_bounds(A).eigenvalue < 1e-10
    assert chain.forward_bounds(A, perturbation=d).eigenvalue >= d


def test_separation_against_the_dense_operator(plant):
    planted = plant(n=12)
    A, B = planted.at(1e-3)
    chain = jordan_chain(A, B, target=TARGET)
    X = scipy.linalg.orth(chain.vectors)
    Y = chain.left_vectors @ (X.conj().T @ chain.vectors).conj().T
    M = Y.conj().T @ A @ X
    operator = np.kron(np.eye(2), A) - np.kron(M.T, B)  # of Z, column after column
    side = np.kron(np.eye(2), Y.conj().T @ B)
    project = np.kron(np.eye(2), np.eye(12) - B @ X @ Y.conj().T)
    F_to_Z = np.linalg.lstsq(np.vstack([operator, side]), np.vstack([project, np.zeros((4, 24))]), rcond=None)[0]
    assert chain.forward_bounds(A, B).separation == pytest.approx(1 / np.linalg.norm(F_to_Z, 2), rel=0.05)


def test_too_large_a_perturbation_and_the_whole_space(plant):
    planted = plant(n=30)
    chain = jordan_chain(planted.A0, planted.B0, target=TARGET)
    assert chain.forward_bounds(planted.A0, planted.B0, perturbation=3.0).vectors == (np.inf, np.inf)
    block = np.array([[2.0, 1.0], [0.0, 2.0]])
    bounds = jordan_chain(block, target=1.9).forward_bounds(block, perturbation=1e-8)
    assert np.isinf(bounds.separation)
    assert bounds.eigenvalue == pytest.approx(1e-8, rel=1e-5)


def test_what_cannot_be_bounded(plant):
    planted = plant(n=30)
    chain = jordan_chain(planted.A0, planted.B0, target=TARGET)
    with pytest.raises(ValueError, match="perturbation must be a norm"):
        chain.forward_bounds(planted.A0, planted.B0, perturbation=-1.0)
    with pytest.raises(ValueError, match="A is of size 5, which is not that of the chain"):
        chain.backward_perturbation(np.eye(5))
    ordinary = jordan_chain(np.diag([1.0, 1.5, 4.0, 5.0, 6.0, 7.0]), target=1.2)
    for ask in (ordinary.backward_perturbation, ordinary.forward_bounds):
        with pytest.raises(ValueError, match="no Jordan chain: the verdict is not-defective"):
            ask(np.eye(6))
