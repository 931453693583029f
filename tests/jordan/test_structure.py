"""Blocks of every structure against planted chains; shifts and factorizations that are as bad as they may be."""

import logging

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse

from jordan_dist import NotConvergedError, jordan_chain
from jordan_dist.backends.scipy import ScipyBackend, ScipyFactor
from jordan_dist.pencil import pencil
from jordan_dist.planted import planted_pencil
from jordan_dist.projected import nearest_defective, segre
from jordan_dist.subspace import check_cluster, factored_pair

KINDS = [
    {"generalized": False, "real": True},
    {"generalized": False},
    {"generalized": True, "real": True},
    {"generalized": True},
    {"generalized": False, "symmetric": True},
    {"generalized": True, "symmetric": True},
]


def projector(V, W):
    return V @ W.conj().T


def nilpotent(blocks):
    return scipy.linalg.block_diag(*(np.eye(m, k=1) for m in blocks))


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_planted_block(k, kind):
    planted = planted_pencil(k, n=40, **kind)
    chain = jordan_chain(planted.A0, planted.B0, target=planted.eigenvalue + 0.1, size=k)
    assert (chain.verdict, chain.weyr, chain.blocks) == ("block", (1,) * k, (k,))
    assert abs(chain.eigenvalue - planted.eigenvalue) < 1e-10
    assert planted.errors(chain.vectors, chain.left_vectors).max() < 1e-10
    assert max(chain.chain_residuals) < 1e-10


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("blocks", [(2, 1), (2, 2), (3, 1), (3, 2), (2, 1, 1)])
def test_several_blocks(blocks, kind):
    """Their chains are not unique; the relations, the eigenspace and the spectral projector are."""
    planted = planted_pencil(*blocks, n=40, **kind)
    A, B, k = planted.A0, np.eye(40) if planted.B0 is None else planted.B0, sum(blocks)
    chain = jordan_chain(planted.A0, planted.B0, target=planted.eigenvalue + 0.1, size=k)
    assert (chain.verdict, chain.blocks) == ("blocks", blocks)
    assert segre(chain.blocks) == chain.weyr
    assert abs(chain.eigenvalue - planted.eigenvalue) < 1e-10
    V, W, J = chain.vectors, chain.left_vectors, chain.eigenvalue * np.eye(k) + nilpotent(blocks)
    assert np.linalg.norm(A @ V - B @ V @ J) < 1e-10 * np.linalg.norm(A @ V)
    assert np.linalg.norm(W.conj().T @ A - J @ W.conj().T @ B) < 1e-10 * np.linalg.norm(W.conj().T @ A)
    assert np.linalg.norm(W.conj().T @ B @ V - np.eye(k)) < 1e-10
    P = projector(planted.vectors, planted.left_vectors)
    assert np.linalg.norm(projector(V, W) - P) < 1e-10 * np.linalg.norm(P)
    first = np.cumsum([0, *blocks[:-1]])
    assert np.linalg.norm(V[:, first], axis=0) == pytest.approx(np.ones(len(blocks)), rel=1e-12)
    E = np.linalg.qr(planted.vectors[:, first])[0]
    assert np.linalg.norm(V[:, first] - E @ (E.conj().T @ V[:, first])) < 1e-10
    assert max(chain.chain_residuals) < 1e-10
    with pytest.raises(ValueError, match="there are several Jordan chains, of the sizes"):
        _ = chain.eigenvector


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("k", [2, 3])
def test_diabolic_points_have_no_jordan_vector(k, kind):
    planted = planted_pencil(*[1] * k, n=40, **kind)
    chain = jordan_chain(planted.A0, planted.B0, target=planted.eigenvalue + 0.1, size=k)
    assert (chain.verdict, chain.weyr) == ("semisimple", (k,))
    assert abs(chain.eigenvalue - planted.eigenvalue) < 1e-10
    P = projector(planted.vectors, planted.left_vectors)
    assert np.linalg.norm(projector(chain.vectors, chain.left_vectors) - P) < 1e-10 * np.linalg.norm(P)
    assert chain.chain_residuals == ()
    for name in ("eigenvector", "jordan_vector"):
        with pytest.raises(ValueError, match="there is no Jordan chain: the verdict is semisimple"):
            getattr(chain, name)


@pytest.mark.parametrize("seed", range(3))
def test_ordinary_pairs_have_no_jordan_vector(seed):
    rng = np.random.default_rng(seed)
    values = np.concatenate([[0.7, 0.9 + 0.1j], 0.8 + rng.uniform(1.5, 4, 38) * np.exp(2j * np.pi * rng.random(38))])
    T = np.eye(40) + 0.3 * rng.standard_normal((40, 40)) / np.sqrt(40)
    chain = jordan_chain(T @ np.diag(values) @ np.linalg.inv(T), target=0.8)
    assert (chain.verdict, chain.weyr, chain.blocks) == ("not-defective", (), ())
    assert abs(chain.eigenvalue - (0.8 + 0.05j)) < 1e-12
    assert np.sort_complex(np.linalg.eigvals(chain.matrix)) == pytest.approx(values[:2], abs=1e-10)
    with pytest.raises(ValueError, match="not-defective"):
        _ = chain.jordan_vector


@pytest.mark.parametrize("blocks", [(2, 1), (2, 2), (3, 1), (3, 2), (3, 3, 1)])
def test_perturbed_structure_is_recovered(blocks):
    """The block staircase against the planted structure: what it drops is as large as the perturbation."""
    rng = np.random.default_rng(len(blocks))
    k = sum(blocks)
    T = np.eye(k) + 0.3 * rng.standard_normal((k, k))
    N = T @ nilpotent(blocks) @ np.linalg.inv(T)
    weyr = segre(blocks)
    for eps in (0.0, 1e-10, 1e-6):
        E = rng.standard_normal((k, k))
        near = nearest_defective(N + 2 * np.eye(k) + eps * E / np.linalg.norm(E), weyr)
        assert near.distance <= 50 * eps + 1e-13
        assert abs(near.eigenvalue - 2) <= eps + 1e-14
        C, M0 = near.chain(), near.matrix - near.eigenvalue * np.eye(k)
        assert np.linalg.norm(M0 @ C - C @ near.shift) <= 1e-13 * np.linalg.norm(M0) * np.linalg.norm(C)
        assert np.linalg.cond(C) < 1e4
        for power in range(1, len(weyr) + 1):
            s = np.linalg.svd(np.linalg.matrix_power(M0, power), compute_uv=False)
            assert int(np.sum(s < 1e-9)) == sum(weyr[:power])


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("blocks", [(2,), (3,), (5,), (2, 1), (1, 1)])
def test_noise_in_every_factorized_entry(blocks, kind):
    """The subspaces are as good as with exact factors: the projector onto them is known."""
    planted, k = planted_pencil(*blocks, n=40, **kind), sum(blocks)

    class Noisy(ScipyBackend):
        def factor(self, terms, *, symmetric, true=None):
            exact = sum(c * (np.eye(self.n) if A is None else A) for c, A in terms)
            noise = 1 + 1e-4 * np.random.default_rng(0).standard_normal(exact.shape)
            return ScipyFactor(exact * noise, self.cost, symmetric=False)

    problem = pencil(Noisy(40), planted.A0, planted.B0)
    _, pair = factored_pair(problem, planted.eigenvalue + 0.1, k)
    X, Y = (np.linalg.qr(Z)[0] for Z in (planted.vectors, planted.left_vectors))
    assert np.linalg.norm(pair.X - X @ (X.conj().T @ pair.X)) < 1e-12
    Q = np.linalg.qr(pair.Y)[0]
    assert np.linalg.norm(Q - Y @ (Y.conj().T @ Q)) < 1e-12


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("blocks", [(2,), (3,), (5,), (2, 2), (1, 1)])
def test_shift_on_the_eigenvalue(blocks, kind):
    planted, k = planted_pencil(*blocks, n=40, **kind), sum(blocks)
    _, pair = factored_pair(pencil(ScipyBackend(40), planted.A0, planted.B0), planted.eigenvalue, k)
    X = np.linalg.qr(planted.vectors)[0]
    assert np.linalg.norm(pair.X - X @ (X.conj().T @ pair.X)) < 1e-12


@pytest.mark.parametrize("kind", [np.asarray, scipy.sparse.csr_array])
def test_a_nearer_eigenvalue_that_would_tear_the_pair(kind, caplog):
    """The target is nearest an ordinary eigenvalue; the pair that merges lies behind it."""
    values = np.concatenate([[1.0, 2.0, 2.0], np.arange(6.0, 40.0)])
    T = np.eye(37) + 0.2 * np.random.default_rng(0).standard_normal((37, 37)) / np.sqrt(37)
    J = np.diag(values)
    J[1, 2] = 1.0
    A = T @ J @ np.linalg.inv(T)
    with caplog.at_level(logging.WARNING, logger="jordan_dist"):
        chain = jordan_chain(kind(A), target=1.3)
    assert "do not stand clear" in caplog.text
    assert "taking the 2 around 2" in caplog.text
    assert abs(chain.eigenvalue - 2) < 1e-12
    assert chain.verdict == "block"
    x = T[:, 1] / np.linalg.norm(T[:, 1])
    assert abs(abs(np.vdot(x, chain.eigenvector)) - 1) < 1e-12
    assert chain.cost.factorizations == 2


def test_no_group_stands_clear():
    A = np.diag([1.0, 2.0, 2.0, 2.0, 6.0, 7.0, 8.0])
    A[1, 2] = 1.0
    with pytest.raises(NotConvergedError, match=r"do not stand clear of the next .*: choose another target or size"):
        jordan_chain(A, target=1.3)
    assert jordan_chain(A, target=2.1, size=3).blocks == (2, 1)


@pytest.mark.parametrize(
    ("values", "torn", "instead"),
    [
        ([1.0, 2.0, 5.0, 6.0], False, None),
        ([1.0, 2.0], False, None),
        ([1.0, 2.0, 2.0 + 1e-8, 6.0], True, 2.0),
        ([1.0, 2.0, 2.01, 2.02], True, None),
        ([0.0, 0.0, 0.0], True, None),
        ([2.0, 2.0 + 1e-8, 1.0, 6.0], False, None),
    ],
)
def test_cluster(values, torn, instead):
    if not torn:
        return check_cluster(np.array(values, dtype=complex), 1.2, 2)
    with pytest.raises(NotConvergedError) as caught:
        check_cluster(np.array(values, dtype=complex), 1.2, 2)
    assert caught.value.instead == (None if instead is None else pytest.approx(instead, abs=1e-7))


@pytest.mark.parametrize("kind", [np.asarray, scipy.sparse.csr_array])
def test_zero_rows_of_B(kind):
    """Constraints: B has rows and columns of zeros, and the pencil as many infinite eigenvalues."""
    planted = planted_pencil(2, n=40)
    rng = np.random.default_rng(1)
    S, T = (np.eye(50) + 0.3 * rng.standard_normal((50, 50)) / np.sqrt(50) for _ in range(2))
    S[:40, 40:] = 0  # the last ten rows of S diag(B0, 0) T are not zero, hence S and T are triangular by blocks
    S[40:, :40] = 0
    A = S @ scipy.linalg.block_diag(planted.A0, np.eye(10)) @ T
    B = S @ scipy.linalg.block_diag(planted.B0, np.zeros((10, 10))) @ T
    assert not B[40:].any()
    chain = jordan_chain(kind(A), kind(B), target=0.8 + 0.2j)
    assert chain.verdict == "block"
    assert abs(chain.eigenvalue - planted.eigenvalue) < 1e-11
    X = np.linalg.qr(np.linalg.solve(T, np.vstack([planted.vectors, np.zeros((10, 2))])))[0]
    Q = np.linalg.qr(chain.vectors)[0]
    assert np.linalg.norm(Q - X @ (X.conj().T @ Q)) < 1e-12


def test_B_without_two_finite_eigenvalues_is_refused():
    A, B = np.diag([1.0, 2.0, 3.0, 4.0]), np.zeros((4, 4))
    B[0, 0] = 1.0
    with pytest.raises((ValueError, NotConvergedError), match="finite eigenvalue"):
        jordan_chain(A, B, target=0.9)


def shifted_laplacian(n=400):
    """The 1-D Laplacian, whose eigenvalues are all on one side, with a Jordan block apart from them by a gap of 1."""
    A = scipy.sparse.lil_array(scipy.sparse.diags_array([np.full(n, -2.0), np.ones(n - 1), np.ones(n - 1)], offsets=[0, -1, 1]))
    A[:2, :] = 0
    A[:, :2] = 0
    A[0, 0] = A[1, 1] = 1.0
    A[0, 1] = 1e-2
    return scipy.sparse.csr_array(A)


@pytest.mark.parametrize("copies", [3, 4])
def test_an_eigenvalue_of_higher_multiplicity_than_the_size_is_seen(copies):
    """Of three or four equal drums, in what a Krylov space from one vector would take for one."""
    n = 500
    drum = scipy.sparse.diags_array([np.full(n, -2.0), np.ones(n - 1), np.ones(n - 1)], offsets=[0, -1, 1]) * (n + 1) ** 2
    A = scipy.sparse.csr_array(scipy.sparse.block_diag([drum] * copies))
    for symmetric in (None, False):
        with pytest.raises(NotConvergedError, match="do not stand clear of the next"):
            jordan_chain(A, target=-(np.pi**2) + 0.5, symmetric=symmetric)


def test_the_solves_do_not_grow_with_the_distance_of_the_shift():
    costs = {}
    for gaps in (0.05, 0.5, 10.0):
        chain = jordan_chain(shifted_laplacian(), target=1 + gaps, symmetric=False)
        assert abs(chain.eigenvalue - 1) < 1e-12
        assert chain.verdict == "block"
        assert chain.subspace_residual < 1e-13
        costs[gaps] = chain.cost
    assert [costs[gaps].factorizations for gaps in costs] == [1, 1, 2]
    assert costs[0.5].solves < 2 * costs[0.05].solves
    assert costs[10.0].solves < 3 * costs[0.05].solves


def test_a_new_shift_among_other_eigenvalues_is_left_again(monkeypatch):
    """From far away the Ritz values may be pushed beyond the block, to where others are nearer."""
    from jordan_dist import subspace

    def misled(self, instead, X=None):
        NotConvergedError.__init__(self, "")
        self.instead, self.X = (instead if X is None else 0.3), X

    A = np.diag(np.concatenate([[1.0, 1.0, -0.1, -0.2], np.linspace(-6, -1, 200)]))
    A[0, 1] = 1e-2
    monkeypatch.setattr(subspace.PoorShiftError, "__init__", misled)
    chain = jordan_chain(A, target=40.0)
    assert abs(chain.eigenvalue - 1) < 1e-12
    assert chain.cost.factorizations == 3
    monkeypatch.setattr(subspace, "MAX_SHIFTS", 2)
    with pytest.raises(NotConvergedError, match=r"which 2 eigenvalues are nearest 40\+0j is not clear: choose a nearer target"):
        jordan_chain(A, target=40.0)


@pytest.mark.parametrize("tolerance", [1e-6, 1e-10])
def test_a_tolerance_ends_earlier_and_is_kept(plant, tolerance):
    planted = plant()
    full = jordan_chain(planted.A0, planted.B0, target=planted.eigenvalue + 0.1)
    chain = jordan_chain(planted.A0, planted.B0, target=planted.eigenvalue + 0.1, tolerance=tolerance)
    assert full.subspace_residual < chain.subspace_residual < tolerance
    assert chain.cost.solves < full.cost.solves
    assert abs(chain.eigenvalue - planted.eigenvalue) < tolerance


@pytest.mark.parametrize("kind", [None, False])
def test_no_sweep_follows_where_the_image_of_the_krylov_space_is_good_enough(kind, caplog):
    """And how good it is was known, from small matrices alone; ||A|| is two thousand times the eigenvalues."""
    n = 100
    A = scipy.sparse.diags_array([np.full(n, 2.0), -np.ones(n - 1), -np.ones(n - 1)], offsets=[0, -1, 1]) * (n + 1.0) ** 2
    with caplog.at_level(logging.INFO, logger="jordan_dist"):
        chain = jordan_chain(scipy.sparse.csr_array(A), target=20.0, symmetric=kind, tolerance=1e-10, perturbation=1.0)
    said = [record.getMessage() for record in caplog.records]
    assert not any(line.startswith("sweep 1") for line in said)
    right = next(line for before, line in zip(said[1:], said, strict=False) if not before.startswith("block Krylov") or "of 4 columns" in before)
    expected = float(right.rsplit(" ", 1)[1])
    assert chain.subspace_residual < 1e-10 and (kind is False or chain.subspace_residual == pytest.approx(expected, rel=0.1))


def test_a_tolerance_that_is_none(plant):
    for tolerance in (-1e-3, 0.1, "small"):
        with pytest.raises(ValueError, match="tolerance must be from 0 to 1e-3, a relative residual; it is"):
            jordan_chain(plant().A0, target=0.0, tolerance=tolerance)


def test_an_approximation_is_factorized_in_place_of_the_pencil(plant):
    planted = plant()
    noise = 1 + 1e-3 * np.random.default_rng(0).standard_normal(planted.A0.shape)
    for approximation in (planted.A0 * noise, (planted.A0 * noise, planted.B0)):
        chain = jordan_chain(planted.A0, planted.B0, target=planted.eigenvalue + 0.1, approximation=approximation)
        assert abs(chain.eigenvalue - planted.eigenvalue) < 1e-12
        assert planted.errors(chain.vectors).max() < 1e-11
    with pytest.raises(ValueError, match="A is of size 3"):
        jordan_chain(planted.A0, planted.B0, target=planted.eigenvalue + 0.1, approximation=np.eye(3))
