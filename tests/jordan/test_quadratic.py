"""Quadratic eigenproblems: analytic chains at critical damping, planted ones, and the dense companion pencil as oracle."""

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse

from jordan_dist import AffineFamily, QuadraticPencil, find_exceptional_point, jordan_chain
from jordan_dist.backends import scipy as scipy_backend


def laplacian(m):
    """-d2/dx2 on (0, 1) with Dirichlet ends, m unknowns."""
    off = np.full(m - 1, -1.0)
    return scipy.sparse.csr_array(scipy.sparse.diags_array([off, np.full(m, 2.0), off], offsets=[-1, 0, 1]) * (m + 1.0) ** 2)


def critically_damped(dimensions, m):
    """The matrices of u_tt + 2 a u_t = laplacian u, whose lowest mode is critically damped; a, that mode, and its whole chain."""
    h, grid = 1 / (m + 1), np.arange(1, m + 1) / (m + 1)
    K, v, square = laplacian(m), np.sin(np.pi * grid), 4 / h**2 * np.sin(np.pi * h / 2) ** 2
    if dimensions == 2:
        eye = scipy.sparse.eye_array(m)
        K, v, square = scipy.sparse.csr_array(scipy.sparse.kron(K, eye) + scipy.sparse.kron(eye, K)), np.kron(v, v), 2 * square
    a, v, eye = np.sqrt(square), v / np.linalg.norm(v), scipy.sparse.eye_array(len(v), format="csr")
    # (l + a)^2 = 0 on this mode: x0 = [v; -a v], j0 = [0; v] plus a multiple of x0; then ||x0|| = 1 and x0^H j0 = 0
    s = 1 / np.sqrt(1 + square)
    c = a * s / (1 + square)
    chain = np.array([np.concatenate([s * v, -a * s * v]), np.concatenate([c * v, (s - a * c) * v])]).T
    chain = -chain  # the first large component, one of -a v, is positive
    left = chain @ np.linalg.inv(chain.T @ chain)  # mass = 1 and symmetric matrices: the left subspace is the right one
    return QuadraticPencil(eye, 2 * a * eye, K), a, v, chain, left


@pytest.mark.parametrize(("dimensions", "m"), [(1, 80), (2, 20)])
@pytest.mark.parametrize("dense", [False, True])
def test_critical_damping_to_rounding(dimensions, m, dense):
    Q, a, v, V, W = critically_damped(dimensions, m)
    if dense:
        Q = QuadraticPencil(*(D.toarray() for D in Q.parts))
    chain = jordan_chain(Q, target=-a - 0.1)
    assert chain.verdict == "block"
    assert abs(chain.eigenvalue + a) < 1e-10 * a
    assert np.linalg.norm(chain.vectors - V, axis=0) == pytest.approx([0, 0], abs=1e-10 * np.linalg.norm(V[:, 1]))
    assert np.linalg.norm(chain.left_vectors - W, axis=0) == pytest.approx([0, 0], abs=1e-10 * np.linalg.norm(W))
    assert chain.original_vectors == pytest.approx(chain.vectors[: len(v)])
    # in the original variables both vectors are multiples of the mode
    assert np.linalg.matrix_rank(chain.original_vectors, tol=1e-9) == 1
    assert max(chain.chain_residuals) < 1e-10
    assert chain.cost.factorizations == 1


class Planted:
    """S D(l) T with D = [[(l - l0)(l - a), g], [0, (l - l0)(l - b)]] + diag((l - a_i)(l - b_i)): one 2 x 2 Jordan block at l0, the
    chain of which needs a Jordan vector in the original variables too."""

    def __init__(self, n=24, symmetric=False, seed=1):
        rng = np.random.default_rng(seed)

        def mixing():
            return np.eye(n) + 0.3 * (rng.standard_normal((n, n)) + 1j * rng.standard_normal((n, n))) / np.sqrt(2 * n)

        self.l0, self.g = 0.4 + 0.2j, 1.3
        roots = self.l0 + rng.uniform(1.5, 3, (2, n)) * np.exp(2j * np.pi * rng.random((2, n)))
        roots[0, :2] = self.l0
        self.roots, self.n = roots, n
        self.T = mixing()
        coupling = np.zeros((n, n), dtype=complex)
        if symmetric:  # (l - l0)^2 on one mode, whose Jordan vector vanishes in the original variables
            roots[:, 0], roots[0, 1] = self.l0, self.l0 + 2
            self.S = self.T.T
        else:
            coupling[0, 1] = self.g
            self.S = mixing()
        self.symmetric = symmetric
        self.mass = self.S @ self.T
        self.damping = self.S @ np.diag(-roots.sum(axis=0)) @ self.T
        self.stiffness = self.S @ (np.diag(roots.prod(axis=0)) + coupling) @ self.T

    @property
    def pencil(self):
        return QuadraticPencil(self.mass, self.damping, self.stiffness)

    def companion(self):
        n, eye, zero = self.n, np.eye(self.n), np.zeros((self.n, self.n))
        A = np.block([[zero, eye], [-self.stiffness, -self.damping]])
        return A, scipy.linalg.block_diag(np.eye(n), self.mass)

    def chain(self):
        """Right and left, before the gauge."""
        e, l0 = np.eye(self.n), self.l0
        jordan = np.zeros(self.n) if self.symmetric else -(l0 - self.roots[1, 0]) / self.g * e[1]
        first, second = np.linalg.solve(self.T, e[0]), np.linalg.solve(self.T, jordan)
        V = np.array([np.concatenate([first, l0 * first]), np.concatenate([second, l0 * second + first])]).T
        last = e[0] if self.symmetric else e[1]
        before = np.zeros(self.n) if self.symmetric else -(l0 - self.roots[1, 1]) / self.g * e[0]
        u0, u1 = np.linalg.solve(self.S.T, last), np.linalg.solve(self.S.T, before)  # rows
        D = self.damping + l0 * self.mass
        return V, np.array([np.concatenate([u1 @ D + u0 @ self.mass, u1]), np.concatenate([u0 @ D, u0])]).conj().T


def check_planted(planted, chain):
    """Eigenvalue, right and left chain: the computed one must be the known one times a polynomial in the block."""
    V, left = planted.chain()
    B = planted.companion()[1]
    assert abs(chain.eigenvalue - planted.l0) < 1e-10 * abs(planted.l0)
    p = np.linalg.lstsq(V, chain.vectors, rcond=None)[0]
    assert np.linalg.norm(V @ p - chain.vectors) < 1e-10 * np.linalg.norm(chain.vectors)
    assert p == pytest.approx(np.array([[p[0, 0], p[0, 1]], [0, p[0, 0]]]), abs=1e-10)
    W = left @ np.linalg.inv(left.conj().T @ B @ (V @ p)).conj().T
    assert np.linalg.norm(chain.left_vectors - W) < 1e-10 * np.linalg.norm(W)
    assert np.linalg.norm(chain.vectors[:, 0]) == pytest.approx(1, rel=1e-12)
    assert abs(np.vdot(*chain.vectors.T)) < 1e-12


@pytest.mark.parametrize("symmetric", [False, True])
def test_planted_chain(symmetric):
    planted = Planted(symmetric=symmetric)
    chain = jordan_chain(planted.pencil, target=planted.l0 + 0.1)
    assert chain.verdict == "block"
    check_planted(planted, chain)


def test_eigenvalues_of_the_dense_companion():
    rng = np.random.default_rng(4)
    M, C, K = rng.standard_normal((3, 30, 30))
    zero, eye = np.zeros((30, 30)), np.eye(30)
    values = scipy.linalg.eig(np.block([[zero, eye], [-K, -C]]), scipy.linalg.block_diag(eye, M), right=False)
    # the pair that is best separated from the others
    middles = [(v + w) / 2 for i, v in enumerate(values) for w in values[:i]]
    target = max(middles, key=lambda z: np.divide(*np.sort(np.abs(values - z))[[2, 1]]))
    nearest = sorted(values[np.argsort(np.abs(values - target))[:2]], key=lambda z: (z.real, z.imag))
    chain = jordan_chain(QuadraticPencil(M, C, K), target=target)
    found = sorted(np.linalg.eigvals(chain.matrix), key=lambda z: (z.real, z.imag))
    assert found == pytest.approx(nearest, rel=1e-10)


def test_only_matrices_of_the_size_of_the_problem_are_factorized(monkeypatch):
    shapes = []

    class Recorded(scipy_backend.ScipyFactor):
        def __init__(self, matrix, cost, *, symmetric):
            shapes.append((matrix.shape, symmetric))
            super().__init__(matrix, cost, symmetric=symmetric)

    monkeypatch.setattr(scipy_backend, "ScipyFactor", Recorded)
    Q, a, *_ = critically_damped(1, 40)
    jordan_chain(Q, target=-a - 0.1)
    jordan_chain(Planted().pencil, target=0.5)
    assert shapes == [((40, 40), True), ((24, 24), False)]


def test_solves_against_the_dense_companion():
    for symmetric in (False, True):
        planted = Planted(symmetric=symmetric)
        A, B = planted.companion()
        from jordan_dist.backends import backend_for
        from jordan_dist.pencil import pencil

        backend = backend_for(planted.pencil)
        problem = pencil(backend, planted.pencil)
        X = backend.random_block(3)
        assert problem.times_A(X) == pytest.approx(A @ X, abs=1e-12)
        assert problem.times_B(X) == pytest.approx(B @ X, abs=1e-12)
        assert problem.adjoint_A(X) == pytest.approx(A.conj().T @ X, abs=1e-12)
        assert problem.adjoint_B(X) == pytest.approx(B.conj().T @ X, abs=1e-12)
        sigma = 0.3 - 0.4j
        factor = problem.factor(sigma)
        assert factor.solve(X) == pytest.approx(np.linalg.solve(A - sigma * B, X), rel=1e-9)
        assert factor.solve_adjoint(X) == pytest.approx(np.linalg.solve((A - sigma * B).conj().T, X), rel=1e-9)
        assert problem.norm_A() >= np.linalg.norm(A, np.inf) / 2
        factor.destroy()


def test_critical_damping_is_found_in_a_family():
    Q, a, *_ = critically_damped(1, 60)
    eye = Q.mass
    family = AffineFamily(QuadraticPencil(eye, None, Q.stiffness), [QuadraticPencil(damping=2 * eye)])
    ep = find_exceptional_point(family, 0.9 * a, target=-0.9 * a)
    assert ep.parameters.dtype == np.float64
    assert abs(ep.parameters[0] - a) < 1e-9
    assert abs(ep.chain.eigenvalue + a) < 1e-9
    # l = -p +- sqrt(p^2 - a^2) = -a +- sqrt(2 a t)
    assert abs(ep.chain.puiseux[0] - 2 * a) < 1e-8
    near = jordan_chain(QuadraticPencil(eye, 2.001 * a * eye, Q.stiffness), target=-a, dA=QuadraticPencil(damping=2 * eye))
    assert near.order == 2
    assert near.step[0] == pytest.approx(-0.0005 * a, rel=1e-2)


@pytest.mark.parametrize("derivatives", [False, True])
def test_family_as_a_function(derivatives):
    planted = Planted()
    rng = np.random.default_rng(8)
    D, F = rng.standard_normal((2, 24, 24)) / 5

    def family(p):
        Q = QuadraticPencil(planted.mass + np.sin(p[0]) * D, planted.damping, planted.stiffness + np.sin(p[0]) * F)
        return (Q, None, [QuadraticPencil(np.cos(p[0]) * D, None, np.cos(p[0]) * F)], None) if derivatives else (Q, None)

    ep = find_exceptional_point(family, 0.003 + 0.002j, target=planted.l0 + 0.1)
    assert abs(ep.parameters[0]) < 1e-10
    check_planted(planted, ep.chain)


def test_singular_mass():
    """Massless degrees of freedom: as many infinite eigenvalues."""
    planted = Planted(n=10)

    def padded(D, corner):
        return scipy.linalg.block_diag(D, corner * np.eye(3))

    Q = QuadraticPencil(padded(planted.mass, 0), padded(planted.damping, 0), padded(planted.stiffness, 1))
    chain = jordan_chain(Q, target=planted.l0 + 0.1)
    assert chain.verdict == "block"
    assert abs(chain.eigenvalue - planted.l0) < 1e-10


def test_what_goes_with_a_chain_goes_with_this_one():
    planted = Planted()
    chain = jordan_chain(planted.pencil, target=planted.l0 + 0.1)
    A, B = planted.companion()
    rng = np.random.default_rng(2)
    force = rng.standard_normal(24)
    z = planted.l0 + 1e-4
    response = np.linalg.solve(z**2 * planted.mass + z * planted.damping + planted.stiffness, force)
    assert chain.resolvent(z, np.concatenate([0 * force, -force]))[:24] == pytest.approx(response, rel=1e-3, abs=1e-3 * abs(response).max())
    assert chain.backward_perturbation(planted.pencil).norm == pytest.approx(chain.backward_perturbation(A, B).norm, abs=1e-13)
    moved = QuadraticPencil(planted.mass, planted.damping, planted.stiffness + 1e-4 * rng.standard_normal((24, 24)))
    near = jordan_chain(moved, target=planted.l0 + 0.1)
    E = near.backward_perturbation(moved)
    assert E.norm <= near.backward_error * (1 + 1e-8)
    assert near.backward_error <= 2 * E.norm
    assert 1e-7 < E.norm < 1e-3
    ours, dense = chain.forward_bounds(planted.pencil, perturbation=1e-6), chain.forward_bounds(A, B, perturbation=1e-6)
    assert ours.vectors == pytest.approx(dense.vectors, rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"A": QuadraticPencil(np.eye(4), np.eye(4))}, "needs a mass and a stiffness matrix"),
        ({"B": np.eye(4)}, "stands for A and B: leave B and dB out"),
        ({"dB": np.eye(4)}, "stands for A and B: leave B and dB out"),
        ({"dA": np.eye(4)}, r"dA\[0\] must be a QuadraticPencil, as A is one, not ndarray"),
        ({"A": QuadraticPencil(np.eye(4), np.eye(3), np.eye(4))}, "damping of A is of size 3, but A is of size 4"),
        ({"A": QuadraticPencil(np.eye(4), None, "stiff")}, "A must be a numpy array"),
        ({"size": 9}, "size must be from 2 to the order of the matrices, 8; it is 9"),
        ({"symmetric": True}, "does not equal its transpose"),
    ],
)
def test_bad_input_is_named(arguments, message):
    Q = QuadraticPencil(np.eye(4), np.eye(4), np.diag([1.0, 2.0, 3.0, 4.0]))
    with pytest.raises(ValueError, match=message):
        jordan_chain(**{"A": Q, "target": 1.1} | arguments)


@pytest.mark.parametrize("force", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("frequency", [1e-6, 1.0, 1e6])
def test_units_of_time_and_force_change_nothing(frequency, force):
    """A pair 0.3 +- 0.4i of its size apart is none at any unit; and the planted block is one, in the user's own variables."""
    for planted in (Planted(), Planted(symmetric=True)):
        Q = QuadraticPencil(planted.mass * force / frequency**2, planted.damping * force / frequency, planted.stiffness * force)
        chain = jordan_chain(Q, target=(planted.l0 + 0.1) * frequency)
        assert chain.verdict == "block"
        assert abs(chain.eigenvalue / frequency - planted.l0) < 1e-10
        n, (x, j), z = planted.n, chain.vectors.T, chain.eigenvalue
        assert np.linalg.norm(x) == pytest.approx(1, rel=1e-12)
        # what is solved for are the halves in the same units
        assert abs(np.vdot(x, j)) < 1e-13 * max(1, frequency) * np.hypot(np.linalg.norm(j[:n]), np.linalg.norm(j[n:]) / frequency)
        assert x[n:] == pytest.approx(z * x[:n], abs=1e-10 * np.linalg.norm(x[n:]))
        assert j[n:] == pytest.approx(z * j[:n] + x[:n], abs=1e-12 * (np.linalg.norm(z * j[:n]) + np.linalg.norm(x[:n])))
        V, _ = planted.chain()
        known = np.vstack([V[:n], V[n:] * frequency])
        known = known / np.linalg.norm(known, axis=0)
        p = np.linalg.lstsq(known, chain.vectors, rcond=None)[0]
        assert np.all(np.linalg.norm(known @ p - chain.vectors, axis=0) < 1e-9 * np.linalg.norm(chain.vectors, axis=0))
        B = scipy.linalg.block_diag(np.eye(n), Q.mass)
        assert chain.left_vectors.conj().T @ B @ chain.vectors == pytest.approx(np.eye(2), abs=1e-8)
        assert max(chain.chain_residuals) < 1e-10
    pair = QuadraticPencil(
        *(force * frequency**-power * np.diag(d) for power, d in ((2, np.ones(6)), (1, np.full(6, 0.6)), (0, [0.25, 9, 16, 25, 36, 49.0])))
    )
    for target in (-0.3 * frequency, 0.0):  # and without a target that tells the size of the eigenvalues
        chain = jordan_chain(pair, target=target)
        assert chain.verdict == "not-defective"
        assert sorted(np.linalg.eigvals(chain.matrix) / frequency, key=np.imag) == pytest.approx([-0.3 - 0.4j, -0.3 + 0.4j], abs=1e-10)
