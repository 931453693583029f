"""jordan_chain on dense and sparse pencils with a planted block: errors, structure, gauges, bad input."""

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse

from jordan_dist import NotConvergedError, jordan_chain
from jordan_dist.backends.scipy import ScipyBackend, ScipyFactor
from jordan_dist.pencil import pencil
from jordan_dist.subspace import factored_pair

EPS = np.finfo(float).eps
TARGET = 0.8 + 0.2j


def slope(sizes, errors):
    return np.polyfit(np.log(sizes), np.log(errors), 1)[0]


@pytest.mark.parametrize("symmetric", [False, True])
def test_errors_are_first_order_and_second_order_with_derivatives(plant, symmetric):
    planted = plant(symmetric=symmetric)
    sizes = np.array([1e-2, 1e-3, 1e-4, 1e-5])
    naive, first, second, distance = [], [], [], []
    for eps in sizes:
        A, B = planted.at(eps)
        values = scipy.linalg.eig(A, B, right=False)
        naive.append(np.abs(values - planted.eigenvalue).min())
        chain = jordan_chain(A, B, target=TARGET)
        assert chain.order == 1
        assert chain.verdict == "block"
        first.append([abs(chain.eigenvalue - planted.eigenvalue), *planted.errors(chain.vectors)])
        distance.append(chain.singular_values[1])
        chain = jordan_chain(A, B, target=TARGET, dA=planted.dA, dB=planted.dB)
        assert chain.order == 2
        assert chain.step[0] == pytest.approx(-eps, rel=30 * eps)
        second.append([abs(chain.eigenvalue - planted.eigenvalue), *planted.errors(chain.vectors)])
    assert slope(sizes, naive) == pytest.approx(0.5, abs=0.05)
    assert slope(sizes, distance) == pytest.approx(1, abs=0.05)
    for error in np.transpose(first):
        assert slope(sizes, error) == pytest.approx(1, abs=0.05)
    for error in np.transpose(second):  # at 1e-6 and below they are rounding errors
        assert slope(sizes, error) == pytest.approx(2, abs=0.1)


def test_errors_of_a_third_order_block(plant):
    planted = plant(k=3, parameters=2)
    sizes = np.array([1e-3, 1e-4, 1e-5])
    naive, first, second = [], [], []
    for eps in sizes:
        A, B = planted.at([eps, 0.5j * eps])
        values = scipy.linalg.eig(A, B, right=False)
        naive.append(np.abs(values - planted.eigenvalue).min())
        chain = jordan_chain(A, B, target=TARGET, size=3)
        first.append([abs(chain.eigenvalue - planted.eigenvalue), *planted.errors(chain.vectors)])
        chain = jordan_chain(A, B, target=TARGET, size=3, dA=planted.dA, dB=planted.dB)
        second.append([abs(chain.eigenvalue - planted.eigenvalue), *planted.errors(chain.vectors)])
    assert slope(sizes, naive) == pytest.approx(1 / 3, abs=0.05)
    for error in np.transpose(first):
        assert slope(sizes, error) == pytest.approx(1, abs=0.05)
    for error in np.transpose(second):
        assert slope(sizes, error) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("kind", [np.asarray, scipy.sparse.csr_array, scipy.sparse.coo_matrix])
def test_exact_block_is_found_to_rounding(plant, kind):
    """A single eigenvalue would be lost to sqrt(eps) = 1e-8."""
    planted = plant()
    chain = jordan_chain(kind(planted.A0), kind(planted.B0), target=TARGET)
    # the condition of the pencil and of the block is about 1e3 in all
    assert abs(chain.eigenvalue - planted.eigenvalue) < 1e4 * EPS
    assert planted.errors(chain.vectors).max() < 1e4 * EPS
    assert chain.vectors.shape == (80, 2)
    assert chain.vectors.dtype == np.complex128
    assert chain.singular_values[1] < 1e4 * EPS
    assert chain.backward_error < 1e4 * EPS
    assert chain.subspace_residual < 100 * EPS
    assert max(chain.chain_residuals) < 100 * EPS
    assert chain.weyr == (1, 1)


@pytest.mark.parametrize("symmetric", [False, True])
def test_chain_is_one_of_a_pencil_within_the_backward_error(plant, symmetric):
    planted = plant(symmetric=symmetric)
    A, B = planted.at(1e-3)
    chain = jordan_chain(A, B, target=TARGET)
    V, W = chain.vectors, chain.left_vectors
    J = np.array([[chain.eigenvalue, 1], [0, chain.eigenvalue]])
    E = -(A @ V - B @ V @ J) @ np.linalg.pinv(V)  # the smallest E with (A + E) V = B V J
    assert np.linalg.norm(E, 2) <= chain.backward_error * (1 + 1e-8)
    assert np.linalg.norm(E, 2) >= 0.1 * chain.backward_error
    assert np.linalg.norm(W.conj().T @ B @ V - np.eye(2)) < 1e-12
    assert chain.projector_norm == pytest.approx(np.linalg.norm(V @ W.conj().T @ B, 2), rel=1e-10)
    assert chain.eigenvector == pytest.approx(V[:, 0])
    assert chain.jordan_vector == pytest.approx(V[:, 1])


def test_general_path_agrees_with_the_symmetric_one(plant):
    A, B = plant(symmetric=True).at(1e-4)
    fast, general = jordan_chain(A, B, target=TARGET), jordan_chain(A, B, target=TARGET, symmetric=False)
    assert general.eigenvalue == pytest.approx(fast.eigenvalue, rel=1e-12)
    assert general.vectors == pytest.approx(fast.vectors, abs=1e-10)
    assert general.left_vectors == pytest.approx(fast.left_vectors, abs=1e-10)
    assert fast.cost.solves < general.cost.solves
    assert fast.cost.factorizations == general.cost.factorizations == 1


def test_unit_gauge(plant):
    chain = jordan_chain(*plant().at(1e-4), target=TARGET)
    x, j = chain.vectors.T
    assert np.linalg.norm(x) == pytest.approx(1, rel=1e-14)
    assert abs(np.vdot(x, j)) < 1e-13 * np.linalg.norm(j)
    pivot = x[np.flatnonzero(np.abs(x) >= 0.5 * np.abs(x).max())[0]]
    assert pivot.real > 0
    assert abs(pivot.imag) < 1e-15


def test_biorthogonal_gauge(plant):
    planted = plant(symmetric=True)
    chain = jordan_chain(planted.A0, planted.B0, target=TARGET, gauge="biorthogonal")
    V = chain.vectors
    assert V.T @ planted.B0 @ V == pytest.approx(np.array([[0, 1], [1, 0]]), abs=1e-11)
    assert max(chain.chain_residuals) < 100 * EPS


@pytest.mark.parametrize(("k", "symmetric"), [(2, False), (2, True), (3, False)])
def test_resolvent_is_the_inverse_but_for_a_bounded_term(plant, k, symmetric):
    planted = plant(k=k, symmetric=symmetric)
    chain = jordan_chain(planted.A0, planted.B0, target=TARGET, size=k)
    sources = np.random.default_rng(5).standard_normal((80, 3))
    distances = np.array([1e-1, 3e-2, 1e-2])  # nearer, rounding errors are amplified by distance^-k
    sizes, rest = [], []
    for t in distances:
        z = planted.eigenvalue + t
        exact = np.linalg.solve(planted.A0 - z * planted.B0, sources)
        found = chain.resolvent(z, sources)
        assert found[:, 0] == pytest.approx(chain.resolvent(z, sources[:, 0]), rel=1e-12)
        sizes.append(np.linalg.norm(exact))
        rest.append(np.linalg.norm(found - exact))
    assert slope(distances, sizes) == pytest.approx(-k, abs=0.15)
    assert rest == pytest.approx([rest[0]] * 3, rel=0.2)


def test_resolvent_needs_a_chain_a_source_and_another_point(plant):
    planted = plant()
    chain = jordan_chain(planted.A0, planted.B0, target=TARGET)
    with pytest.raises(ValueError, match="pole at the eigenvalue"):
        chain.resolvent(chain.eigenvalue, np.ones(80))
    with pytest.raises(ValueError, match="the 80 rows of the chain"):
        chain.resolvent(2.0, np.ones(79))
    ordinary = jordan_chain(np.diag([1.0, 1.5, 4.0, 5.0, 6.0, 7.0]), target=1.2)
    with pytest.raises(ValueError, match="no Jordan chain: the verdict is not-defective"):
        ordinary.resolvent(2.0, np.ones(6))


def test_shift_on_the_eigenvalue_and_next_to_it(plant):
    planted = plant()
    for offset in (0.0, 1e-13, 1e-8, 1e-3):
        chain = jordan_chain(planted.A0, planted.B0, target=planted.eigenvalue + offset)
        assert abs(chain.eigenvalue - planted.eigenvalue) < 1e4 * EPS
        assert planted.errors(chain.vectors).max() < 1e4 * EPS


def test_exactly_singular_shift():
    A = scipy.sparse.diags_array(np.arange(40.0)).tolil()
    A[0, 1] = 1.0
    A[1, 1] = 0.0  # the block [[0, 1], [0, 0]]; A - 0 I is singular to the last bit
    for matrix in (scipy.sparse.csr_array(A), A.toarray()):
        chain = jordan_chain(matrix, target=0.0)
        assert abs(chain.eigenvalue) < 1e-13
        assert chain.verdict == "block"
        assert np.abs(chain.vectors[:2]) == pytest.approx(np.eye(2), abs=1e-12)


@pytest.mark.parametrize("noise", [1e-6, 1e-4, 1e-3])
def test_inaccurate_factors_cost_sweeps_and_not_accuracy(plant, noise):
    planted = plant()

    class Inaccurate(ScipyBackend):
        def factor(self, terms, *, symmetric, true=None):
            exact = sum(c * A for c, A in terms)
            rough = exact * (1 + noise * np.random.default_rng(0).standard_normal(exact.shape))
            return ScipyFactor(rough, self.cost, symmetric=symmetric)

    problem = pencil(Inaccurate(80), planted.A0, planted.B0)
    _, pair = factored_pair(problem, TARGET, 2)
    assert abs(pair.mean - planted.eigenvalue) < 1e4 * EPS


def test_random_start_at_a_real_pencil_gives_real_numbers():
    A = np.diag(np.arange(3.0, 30.0))
    A[:2, :2] = [[1.0, 1.0], [0.0, 1.0]]
    T = np.eye(27) + 0.1 * np.random.default_rng(1).standard_normal((27, 27))
    chain = jordan_chain(T @ A @ np.linalg.inv(T), target=1.1)
    assert abs(chain.eigenvalue - 1) < 1e-12
    assert np.abs(chain.vectors.imag).max() < 1e-10


def test_semisimple_pair_has_no_jordan_vector():
    values = np.concatenate([[1.0, 1.0], np.arange(3.0, 40.0)])
    T = np.eye(39) + 0.1 * np.random.default_rng(2).standard_normal((39, 39))
    A = T @ np.diag(values) @ np.linalg.inv(T)
    chain = jordan_chain(A, target=1.1)
    assert chain.verdict == "semisimple"
    assert chain.weyr == (2,)
    assert chain.chain_residuals == ()
    assert np.linalg.norm(A @ chain.vectors - chain.vectors) < 1e-12
    with pytest.raises(ValueError, match="no Jordan chain: the verdict is semisimple"):
        _ = chain.jordan_vector


def test_ordinary_pair_has_no_jordan_vector():
    chain = jordan_chain(np.diag([1.0, 1.5, 4.0, 5.0, 6.0, 7.0]), target=1.2)
    assert chain.verdict == "not-defective"
    with pytest.raises(ValueError, match="not-defective"):
        _ = chain.eigenvector


def test_perturbation_decides_what_a_ratio_cannot():
    A = np.diag([1.0, 1.01, 4.0, 5.0, 6.0, 7.0])
    assert jordan_chain(A, target=1.1).verdict == "not-defective"
    assert jordan_chain(A, target=1.1, perturbation=0.02).verdict == "semisimple"


def test_two_blocks_and_their_weyr_characteristic():
    J = scipy.linalg.block_diag([[1.0, 1.0], [0.0, 1.0]], [[1.0]], np.diag(np.arange(3.0, 40.0)))
    T = np.eye(40) + 0.1 * np.random.default_rng(3).standard_normal((40, 40))
    chain = jordan_chain(T @ J @ np.linalg.inv(T), target=1.1, size=3)
    assert chain.verdict == "blocks"
    assert chain.weyr == (2, 1)


def test_gap(plant):
    planted = plant()
    values = scipy.linalg.eigvals(planted.A0, planted.B0)
    gaps = np.sort(np.abs(values - planted.eigenvalue))
    chain = jordan_chain(planted.A0, planted.B0, target=TARGET)
    assert chain.gap == pytest.approx(gaps[2], rel=0.2)  # an estimate


def test_smallest_pencil():
    chain = jordan_chain(np.array([[2.0, 1.0], [0.0, 2.0]]), target=1.9)
    assert chain.eigenvalue == pytest.approx(2, abs=1e-14)
    assert chain.verdict == "block"
    assert np.isinf(chain.gap)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"A": np.ones((3, 4))}, r"A must be a square matrix, not one of shape \(3, 4\)"),
        ({"A": "waveguide"}, "A must be a numpy array, a scipy sparse matrix or a PETSc matrix"),
        ({"A": np.diag([1.0, np.nan, 2.0])}, "A has an entry that is infinite or not a number, in row 1"),
        ({"B": np.eye(4)}, "B is of size 4, but A is of size 5"),
        ({"target": np.nan}, "target must be one finite number, real or complex; it is nan"),
        ({"target": "near"}, "target must be one finite number, real or complex; it is 'near'"),
        ({"size": 2.5}, "size must be a whole number, the order of the Jordan block, or None; it is 2.5"),
        ({"perturbation": -1.0}, "perturbation must be a finite number that is not negative; it is -1.0"),
        ({"A": 1e200 * np.diag(np.arange(1.0, 6.0))}, r"A has the norm 5.0e\+200, of which double precision has no square"),
        ({"B": 1e-200 * np.eye(5)}, "B has the norm 1.0e-200, of which double precision has no square"),
        ({"size": 1}, "size must be from 2 to the order of the matrices, 5; it is 1"),
        ({"size": 6}, "size must be from 2"),
        ({"gauge": "lorenz"}, "gauge must be one of unit, biorthogonal; it is 'lorenz'"),
        ({"gauge": "biorthogonal"}, "needs a pencil that equals its transpose"),
        ({"symmetric": True}, "does not equal its transpose"),
        ({"dA": [np.eye(5)], "dB": [None, None]}, "dA has 1 matrices, dB has 2"),
        ({"dA": [np.eye(3)]}, r"dA\[0\] is of size 3"),
        ({"A": np.zeros((5, 5)), "B": np.zeros((5, 5))}, "is the pencil regular"),
    ],
)
def test_bad_input_is_named(arguments, message):
    A = np.diag(np.arange(1.0, 6.0))
    A[0, 3] = 1.0
    with pytest.raises(ValueError, match=message):
        jordan_chain(**{"A": A, "target": 1.1} | arguments)


def test_no_separated_subspace_is_an_error_and_not_a_number():
    # 120 eigenvalues on a circle around the target: no two of them are the nearest
    values = 2.0 + np.exp(2j * np.pi * np.arange(120) / 120)
    A = np.diag(values)
    A[0, 5] = 0.5
    with pytest.raises(NotConvergedError, match="choose another target or size"):
        jordan_chain(A, target=2.0)


def test_part_of_a_multiple_eigenvalue_is_refused():
    """Rounding errors must not tell the five eigenvalues of an identity matrix apart."""
    for target in (1.0, 1.5):
        with pytest.raises(NotConvergedError, match="do not stand clear of the next"):
            jordan_chain(np.eye(5), target=target)
    chain = jordan_chain(np.zeros((2, 2)), target=0.5)
    assert (chain.verdict, chain.eigenvalue, chain.subspace_residual) == ("semisimple", 0, 0)


def test_parameters_that_only_scale_the_eigenvalues_lead_nowhere(plant):
    """dB = B multiplies all eigenvalues: it cannot take a pair to another exceptional point, whatever rounding errors say."""
    planted = plant(generalized=False)
    with pytest.raises(NotConvergedError, match="do not move the eigenvalues apart or together"):
        jordan_chain(planted.A0, target=TARGET, dB=[np.eye(80)])


def test_solves_that_overflow_are_met_with_another_shift(plant, monkeypatch):
    """As after a factorization of a matrix that is singular to the last bit, which some libraries do not notice."""
    solve, failed = ScipyFactor.solve, []

    def overflowing(self, R):
        if not failed:
            failed.append(self)
            return ScipyFactor._counted(self, R * np.inf, adjoint=False)
        return solve(self, R)

    monkeypatch.setattr(ScipyFactor, "solve", overflowing)
    planted = plant()
    chain = jordan_chain(planted.A0, planted.B0, target=TARGET)
    assert chain.cost.factorizations == 2
    assert abs(chain.eigenvalue - planted.eigenvalue) < 1e4 * EPS
