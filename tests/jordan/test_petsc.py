"""The PETSc backend on any number of ranks against known numbers and against the scipy backend. Collective: all ranks run all of it."""

import numpy as np
import pytest
import scipy.sparse

from jordan_dist import AffineFamily, NotConvergedError, QuadraticPencil, find_exceptional_point, io, jordan_chain
from jordan_dist.backends import BlockVectors
from jordan_dist.problems import destroy, problem

pytestmark = pytest.mark.mpi
TARGET = 0.8 + 0.2j
MEMBRANE = np.sqrt(8) * 213 * np.sin(np.pi / 426)  # critical damping of the lowest mode of five-point differences


@pytest.fixture
def block(world):
    """A backend's vectors of uneven length: the last rank owns everything that the others leave, rank 0 one row."""
    n = 37
    edges = [0, *(min(1 + 2 * r, n) for r in range(world.size - 1)), n]
    return BlockVectors(n, edges[world.rank], edges[world.rank + 1], world)


def whole(block, X):
    return np.vstack(block.comm.allgather(X))


def test_random_block_does_not_depend_on_the_ranks(block):
    assert np.array_equal(whole(block, block.random_block(3)), BlockVectors(37, 0, 37).random_block(3))
    assert not np.array_equal(block.random_block(3, seed=1), block.random_block(3, seed=2))


def test_block_arithmetic(block):
    X, Y = block.random_block(3), block.random_block(3, seed=5)
    X_whole, Y_whole = whole(block, X), whole(block, Y)
    assert block.inner(X, Y) == pytest.approx(X_whole.conj().T @ Y_whole, abs=1e-14)
    assert block.norm(X) == pytest.approx(np.linalg.norm(X_whole))
    Q, R = block.qr(X)
    Q_whole = whole(block, Q)
    assert Q_whole @ R == pytest.approx(X_whole, abs=1e-14)
    assert Q_whole.conj().T @ Q_whole == pytest.approx(np.eye(3), abs=1e-14)


@pytest.mark.parametrize("angle", [1.0, 1e-3, 1e-6, 1e-12, 0.0])
def test_orthogonalisation_by_cholesky_beside_that_by_householder(block, angle):
    """Of columns of all sizes, the last of which is near to the others; what is too near goes to the reflections."""
    X = block.random_block(3) * [1e-120, 1.0, 1e120]
    X[:, 2] = 1e120 * (X[:, 0] * 1e120 + X[:, 1] + angle * block.random_block(1, seed=5)[:, 0])
    fast, slow = block._cholesky_qr(X), block._householder_qr(X)
    assert (fast is None) == (angle < 1e-4)
    for Q, R in [slow] if fast is None else [slow, fast]:
        Q_whole = whole(block, Q)
        assert Q_whole.conj().T @ Q_whole == pytest.approx(np.eye(3), abs=1e-14)
        assert Q_whole @ R / [1e-120, 1.0, 1e120] == pytest.approx(whole(block, X) / [1e-120, 1.0, 1e120], abs=1e-14)
        assert not np.tril(R, -1).any() and Q.flags.f_contiguous
    assert block._cholesky_qr(np.zeros_like(X)) is None
    assert block.norm2(X) == pytest.approx(np.linalg.norm(whole(block, X), 2), rel=1e-14)


def test_pivot_is_the_first_large_component(block):
    x = np.linspace(0, 1, 37) * np.exp(1j * np.arange(37))
    first = np.flatnonzero(np.abs(x) >= 0.5)[0]
    assert block.pivot(x[block.start : block.stop]) == x[first]


@pytest.mark.parametrize(
    ("name", "parameters", "eigenvalue"),
    [
        ("waveguides", [0.0051183567223], 35.331376319721),
        ("resonators", [-0.1242688633583 + 0.2747672294421j], 7.604797839043 - 0.208653421906j),
        ("three-waveguides", [0.0072804509204, 0.0002100387072], 35.330739815332),
        ("damped-membrane", [MEMBRANE], -MEMBRANE),
        ("planted-block", [0.2 - 0.1j], 0.7 + 0.3j),
    ],
)
def test_known_points(world, name, parameters, eigenvalue):
    p = problem(name)
    family = p.family(world)
    ep = find_exceptional_point(family, p.start, target=p.target, size=p.size)
    assert ep.parameters == pytest.approx(np.array(parameters), abs=1e-11)
    assert abs(ep.chain.eigenvalue - eigenvalue) < 1e-11
    assert ep.chain.subspace_residual < 1e-11
    assert max(ep.chain.chain_residuals) < 1e-11
    assert ep.chain.cost.factorizations == 1
    assert len(set(world.allgather(ep.chain.eigenvalue))) == 1  # the same bits everywhere
    destroy(family.A0, *family.dA, family.B0, *family.dB, ep.chain.vectors, ep.chain.left_vectors, ep.chain.original_vectors)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("grid", "parameter", "eigenvalue"),
    [
        (424, -0.125314533312 + 0.276155767794j, 7.627528817587 - 0.210924553594j),
        (848, -0.125577708034 + 0.276503654927j, 7.633235463333 - 0.211496709731j),
    ],
)
def test_refined_resonators(world, grid, parameter, eigenvalue):
    if grid == 848 and world.size > 1:
        pytest.skip("the factors of 848^2 are for one rank: several are slower on one machine")
    p = problem("resonators", grid)
    family = p.family(world)
    ep = find_exceptional_point(family, p.start, target=p.target)
    assert p.n == grid**2
    assert abs(ep.parameters[0] - parameter) < 1e-8
    assert abs(ep.chain.eigenvalue - eigenvalue) < 1e-8
    coarse = -0.1242688633583 + 0.2747672294421j
    if grid == 848:  # of second order in h: four times smaller differences each time
        assert (coarse - (-0.125314533312 + 0.276155767794j)) / (-0.125314533312 + 0.276155767794j - ep.parameters[0]) == pytest.approx(
            4, abs=0.1
        )
    assert ep.chain.cost.factorizations == 1
    destroy(family.A0, *family.dA, family.B0, *family.dB, ep.chain.vectors, ep.chain.left_vectors)


def test_assembly_does_not_depend_on_the_ranks(world):
    p = problem("resonators")
    for mat, rows in zip((p.family(world).A0, p.family(world).B0), (p.A0, p.B0), strict=True):
        start, stop = mat.getOwnershipRange()
        indptr, indices, data = mat.getValuesCSR()
        mine = scipy.sparse.csr_array((data, indices, indptr), shape=(stop - start, p.n))
        assert abs(mine - rows(0, p.n)[start:stop]).max() == 0


@pytest.mark.parametrize("symmetric", [False, True])
def test_whole_matrices_on_every_rank_agree_with_scipy(world, plant, symmetric):
    planted = plant(symmetric=symmetric)
    A, B = planted.at(1e-4)
    derivatives = {"dA": planted.dA, "dB": planted.dB}
    for more in ({}, derivatives):
        alone = jordan_chain(A, B, target=TARGET, **more)
        together = jordan_chain(A, B, target=TARGET, **more, comm=world)
        assert isinstance(together.vectors, np.ndarray)
        assert together.eigenvalue == pytest.approx(alone.eigenvalue, abs=1e-12)
        assert together.vectors == pytest.approx(alone.vectors, abs=1e-10)
        assert together.left_vectors == pytest.approx(alone.left_vectors, abs=1e-10)
        assert together.singular_values == pytest.approx(alone.singular_values, abs=1e-12)
        assert together.gap == pytest.approx(alone.gap, rel=1e-3)
        assert (together.verdict, together.order) == (alone.verdict, alone.order)


def test_distributed_matrices_agree_with_scipy(world, plant):
    from jordan_dist.backends.petsc import matrix_from_rows, owned_rows

    A, B = plant().at(1e-4)
    start, stop = owned_rows(80, world)
    mats = [matrix_from_rows(scipy.sparse.csr_array(M[start:stop]), 80, world) for M in (A, B)]
    alone, together = jordan_chain(A, B, target=TARGET), jordan_chain(*mats, target=TARGET)
    X, first, n = io.local_block(together.vectors)
    assert (first, n, X.shape) == (start, 80, (stop - start, 2))
    assert X == pytest.approx(alone.vectors[start:stop], abs=1e-10)
    W = io.local_block(together.left_vectors)[0]
    assert W == pytest.approx(alone.left_vectors[start:stop], abs=1e-10)
    assert np.abs(mats[0].norm() - np.linalg.norm(A)) < 1e-10  # the user's matrices are as they were
    destroy(*mats, together.vectors, together.left_vectors)


@pytest.fixture
def distributed(world):
    """Makes PETSc matrices of dense ones, and frees them."""
    from jordan_dist.backends.petsc import matrix_from_rows, owned_rows

    made = []

    def make(M):
        start, stop = owned_rows(len(M), world)
        made.append(matrix_from_rows(scipy.sparse.csr_array(M[start:stop]), len(M), world))
        return made[-1]

    yield make
    destroy(*made)


def test_resolvent_of_distributed_vectors(world, plant, distributed):
    planted = plant()
    mats = [distributed(planted.A0), distributed(planted.B0)]
    alone, together = jordan_chain(planted.A0, planted.B0, target=TARGET), jordan_chain(*mats, target=TARGET)
    sources = np.random.default_rng(5).standard_normal((80, 2)) + 0j
    source, right = mats[0].createVecs("left"), together.vectors.duplicate()
    start, stop = source.getOwnershipRange()
    source.setArray(sources[start:stop, 0])
    right.getDenseArray()[:] = sources[start:stop]
    z = planted.eigenvalue + 1e-2
    expected = alone.resolvent(z, sources)[start:stop]
    one, two = together.resolvent(z, source), together.resolvent(z, right)
    assert one.getArray() == pytest.approx(expected[:, 0], rel=1e-9)
    assert two.getDenseArray() == pytest.approx(expected, rel=1e-9)
    replicated = jordan_chain(planted.A0, planted.B0, target=TARGET, comm=world)
    assert replicated.resolvent(z, sources)[start:stop] == pytest.approx(expected, rel=1e-9)
    destroy(source, right, one, two, together.vectors, together.left_vectors)


def test_accuracy_of_distributed_vectors(world, plant, distributed):
    planted = plant()
    A, B = planted.at(1e-4)
    mats = [distributed(A), distributed(B)]
    alone, together = jordan_chain(A, B, target=TARGET), jordan_chain(*mats, target=TARGET)
    expected, found = alone.forward_bounds(A, B), together.forward_bounds(*mats)
    assert found.separation == pytest.approx(expected.separation, rel=0.05)
    assert (found.eigenvalue, *found.vectors) == pytest.approx((expected.eigenvalue, *expected.vectors), rel=0.05)
    E = together.backward_perturbation(*mats)
    assert E.norm == pytest.approx(alone.backward_perturbation(A, B).norm, rel=1e-6)
    x = mats[0].createVecs("left")
    X, start, _ = io.local_block(together.vectors)
    x.setArray(X[:, 1])
    Ex, residual = E.times(x), mats[0].createVecs("left")
    mats[0].mult(x, residual)
    whole = np.concatenate(world.allgather(X))
    mine = slice(start, start + len(X))
    relation = residual.getArray() + Ex.getArray() - (B @ (together.eigenvalue * whole[:, 1] + whole[:, 0]))[mine]
    assert np.linalg.norm(relation) < 1e-12 * np.linalg.norm(A, 2) * np.linalg.norm(whole[:, 1])
    destroy(x, Ex, residual, E.U, E.V, together.vectors, together.left_vectors)


@pytest.mark.parametrize("symmetric", [False, True])
def test_quadratic_pencils_agree_with_scipy(world, plant, distributed, symmetric):
    """Mass, damping and stiffness that have nothing to do with each other: an ordinary pair, but the same one everywhere; and a
    critically damped mode."""
    rng = np.random.default_rng(6)
    diagonals = (np.ones(30), np.full(30, 0.3), np.concatenate([[1.0, 1.2], np.arange(9.0, 37.0)]))
    general = [np.diag(d) + 0.03 * rng.standard_normal((30, 30)) for d in diagonals]
    damped = [np.eye(30), 3 * np.eye(30), np.diag([2.25, *np.arange(5.0, 34.0)]) + np.diag([0.0, *np.full(28, 0.3)], 1)]
    if symmetric:
        general, damped = ([M + M.T for M in three] for three in (general, damped))
    for matrices, target in ((general, -0.1 + 1.1j), (damped, -1.6)):
        alone = jordan_chain(QuadraticPencil(*matrices), target=target)
        whole = jordan_chain(QuadraticPencil(*matrices), target=target, comm=world)
        parts = jordan_chain(QuadraticPencil(*(distributed(M) for M in matrices)), target=target)
        assert alone.verdict == whole.verdict == parts.verdict == ("block" if matrices is damped else "not-defective")
        assert whole.eigenvalue == pytest.approx(alone.eigenvalue, abs=1e-11)
        assert parts.eigenvalue == pytest.approx(alone.eigenvalue, abs=1e-11)
        original, start, n = io.local_block(parts.original_vectors)
        X = io.local_block(parts.vectors)[0]
        stop = start + len(original)
        assert (n, len(X)) == (30, 2 * len(original))
        assert np.array_equal(X[: stop - start], original)
        if alone.verdict == "block":
            assert abs(alone.eigenvalue + 1.5) < 1e-11
            assert whole.vectors == pytest.approx(alone.vectors, abs=1e-10)
            assert whole.left_vectors == pytest.approx(alone.left_vectors, abs=1e-10)
            assert whole.original_vectors == pytest.approx(alone.original_vectors, abs=1e-10)
            assert original == pytest.approx(alone.original_vectors[start:stop], abs=1e-10)
            assert X[stop - start :] == pytest.approx(alone.vectors[30 + start : 30 + stop], abs=1e-10)
        destroy(parts.vectors, parts.left_vectors, parts.original_vectors)


def test_planted_point_of_a_general_pencil(world, plant):
    planted = plant()
    family = AffineFamily(planted.A0, planted.dA, planted.B0, planted.dB)
    ep = find_exceptional_point(family, 0.01 + 0.01j, target=TARGET, comm=world)
    assert abs(ep.parameters[0]) < 1e-12
    assert planted.errors(ep.chain.vectors).max() < 1e-10


def test_fewer_rows_than_ranks_want(world):
    A = np.array([[2.0, 1.0, 0], [0, 2.0, 0], [0, 0, 5.0]])
    chain = jordan_chain(A, target=1.9, comm=world)
    assert chain.eigenvalue == pytest.approx(2, abs=1e-13)
    assert np.abs(chain.vectors) == pytest.approx(np.eye(3, 2), abs=1e-12)


def test_chain_file_is_written_by_all_ranks(world, shared_folder):
    from jordan_dist.backends.petsc import owned_rows

    n = 101
    start, stop = owned_rows(n, world)
    expected = BlockVectors(n, 0, n).random_block(2)
    path = shared_folder / "chain.npy"
    if world.rank == 0:
        path.write_bytes(b"x" * 10_000)  # longer than the new file
    world.Barrier()

    class Columns:  # what a dense PETSc matrix offers
        def getDenseArray(self):
            return expected[start:stop]

        def getOwnershipRange(self):
            return start, stop

        def getSize(self):
            return n, 2

    io.write_chain(path, Columns(), world)
    world.Barrier()
    assert np.array_equal(np.load(path), expected)


def test_fields_and_linearized_vectors_are_written_by_all_ranks(world, shared_folder):
    from jordan_dist.backends.petsc import owned_rows

    start, stop = owned_rows(81, world)
    X = BlockVectors(162, 0, 162).random_block(2)

    class Halves:
        """The rows of the first half above those of the second, as CompanionBackend has them."""

        def getDenseArray(self):
            return np.vstack([X[start:stop], X[81 + start : 81 + stop]])

        def getOwnershipRange(self):
            return 2 * start, 2 * stop

        def getSize(self):
            return 162, 2

    class Columns:
        def getDenseArray(self):
            return X[start:stop]

        def getOwnershipRange(self):
            return start, stop

        def getSize(self):
            return 81, 2

    io.write_linearized(shared_folder / "linearized.npy", Halves(), world)
    io.write_fields(shared_folder / "fields.vtk", Columns(), 9, 2, "nine by nine", world)
    if world.rank == 0:
        io.write_fields(shared_folder / "alone.vtk", X[:81], 9, 2, "nine by nine")
    world.Barrier()
    assert np.array_equal(np.load(shared_folder / "linearized.npy"), X)
    assert (shared_folder / "fields.vtk").read_bytes() == (shared_folder / "alone.vtk").read_bytes()


def test_input_of_one_rank_is_refused_on_all(world, plant):
    """Every rank brings the whole matrix; what one of them may not bring would leave the others waiting."""
    planted = plant()
    A = planted.A0.copy()
    last = world.rank == world.size - 1
    if last:
        A[3, 5] = np.nan
    with pytest.raises(ValueError, match="A has an entry that is infinite or not a number, in row 3"):
        jordan_chain(A, planted.B0, target=TARGET, comm=world)
    with pytest.raises(ValueError, match="B is of size 4"):
        jordan_chain(planted.A0, np.eye(4) if last else planted.B0, target=TARGET, comm=world)
    if world.size > 1:
        with pytest.raises(ValueError, match="every rank must bring the same whole matrix A"):
            jordan_chain(np.eye(4) if last else planted.A0, target=TARGET, comm=world)


def test_mode_pictures(world):
    from jordan_dist.backends.petsc import owned_rows

    p = problem("waveguides", 424)
    field = np.random.default_rng(0).standard_normal((p.cells, p.cells)) + 0j
    start, stop = owned_rows(p.n, world)

    class Columns:
        def getDenseArray(self):
            return field.reshape(-1, 1)[start:stop]

        def getOwnershipRange(self):
            return start, stop

        def getSize(self):
            return p.n, 1

    pictures = io.mode_pictures(Columns(), p.cells, world)
    if world.rank == 0:
        expected = np.sqrt((np.abs(field) ** 2).reshape(212, 2, 212, 2).mean(axis=(1, 3)))
        assert pictures.shape == (1, 212, 212)
        assert pictures[0] == pytest.approx(expected, rel=1e-12)
    else:
        assert pictures is None


def test_errors_are_raised_on_every_rank(world):
    A = np.diag(2.0 + np.exp(2j * np.pi * np.arange(120) / 120))
    A[0, 5] = 0.5
    with pytest.raises(NotConvergedError):
        jordan_chain(A, target=2.0, comm=world)
    with pytest.raises(ValueError, match="B is of size 4"):
        jordan_chain(A, np.eye(4), target=2.0, comm=world)


def test_wrong_communicator(world):
    from mpi4py import MPI
    from petsc4py import PETSc

    mat = PETSc.Mat().createAIJ((8, 8), nnz=1, comm=MPI.COMM_SELF)
    mat.assemble()
    if world.size > 1:
        with pytest.raises(ValueError, match="comm is not the communicator of A"):
            jordan_chain(mat, target=1.0, comm=world)
    mat.destroy()


def test_real_scalars_are_refused(world, monkeypatch):
    from jordan_dist.backends import petsc

    monkeypatch.setattr(petsc.PETSc, "ScalarType", np.float64)
    with pytest.raises(ValueError, match="built with real scalars"):
        jordan_chain(np.eye(5), target=1.0, comm=world)
