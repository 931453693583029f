"""The factorizations of the PETSc backend on any number of ranks: which library, what is kept of them and where. Collective: all ranks run all of it."""

import numpy as np
import pytest

from jordan_dist import jordan_chain
from jordan_dist.problems import destroy, problem

pytestmark = pytest.mark.mpi
TARGET = 0.8 + 0.2j


@pytest.mark.parametrize("library", ["mumps", "petsc"])
def test_both_factorizations(world, plant, library, monkeypatch):
    """Which one is used depends on size and ranks only; both must serve."""
    from jordan_dist.backends import petsc

    if library == "petsc" and world.size > 1:
        pytest.skip("PETSc's own factorizations run on one rank")
    monkeypatch.setattr(petsc, "LARGEST_FOR_PETSC", 10**9 if library == "petsc" else 0)
    for symmetric in (False, True):
        planted = plant(symmetric=symmetric)
        chain = jordan_chain(planted.A0, planted.B0, target=TARGET, comm=world)
        assert abs(chain.eigenvalue - planted.eigenvalue) < 1e-12
        assert planted.errors(chain.vectors).max() < 1e-11


def test_shift_on_the_eigenvalue(world, plant):
    planted = plant()
    chain = jordan_chain(planted.A0, planted.B0, target=planted.eigenvalue, comm=world)
    assert abs(chain.eigenvalue - planted.eigenvalue) < 1e-12


def test_options_of_the_user_win(world, plant):
    from petsc4py import PETSc

    planted, options = plant(), PETSc.Options()
    options["jordan_pc_type"] = "jacobi"
    try:
        with pytest.raises(ValueError, match="jordan_pc_type must be lu or cholesky, not jacobi"):
            jordan_chain(planted.A0, planted.B0, target=TARGET, comm=world)
    finally:
        options.delValue("jordan_pc_type")
    options["jordan_pc_factor_mat_solver_type"] = "mumps"
    options["jordan_mat_mumps_icntl_7"] = 0
    try:
        chain = jordan_chain(planted.A0, planted.B0, target=TARGET, comm=world)
        assert abs(chain.eigenvalue - planted.eigenvalue) < 1e-12
    finally:
        options.delValue("jordan_pc_factor_mat_solver_type")
        options.delValue("jordan_mat_mumps_icntl_7")


def test_superlu_dist_where_it_serves_and_a_refusal_where_it_does_not(world, plant):
    """Its interface in PETSc solves with A in place of A^T: a pencil that equals its transpose does not need that."""
    from petsc4py import PETSc

    symmetric, general, options = plant(symmetric=True), plant(), PETSc.Options()
    options["jordan_pc_factor_mat_solver_type"] = "superlu_dist"
    try:
        chain = jordan_chain(symmetric.A0, symmetric.B0, target=TARGET, comm=world)
        assert symmetric.errors(chain.vectors).max() < 1e-11
        with pytest.raises(ValueError, match=r"superlu_dist does not solve with transposed matrices.*such as mumps"):
            jordan_chain(general.A0, general.B0, target=TARGET, comm=world)
    finally:
        options.delValue("jordan_pc_factor_mat_solver_type")


def test_another_shift_needs_no_other_analysis(world):
    from jordan_dist.backends.petsc import PETSc

    waveguides = problem("waveguides")
    A, B, dA, dB = waveguides.pencil(waveguides.nearby, world)
    PETSc.Log.begin()
    events = [PETSc.Log.Event(f"MatCholFctr{phase}") for phase in ("Sym", "Num")]
    before = [event.getPerfInfo()["count"] for event in events]
    chain = jordan_chain(A, B, target=waveguides.target + 9)  # ten times as far away as the next eigenvalues
    assert [event.getPerfInfo()["count"] - count for event, count in zip(events, before, strict=True)] == [1, 2]
    assert chain.cost.factorizations == 2
    assert abs(chain.eigenvalue - jordan_chain(A, B, target=waveguides.target).eigenvalue) < 1e-10
    destroy(A, B, *dA, *dB)


@pytest.mark.parametrize("method", ["preonly", "fgmres"])
def test_a_shell_with_the_factors_of_a_matrix_nearby(world, method):
    """The chain is that of the shell, whatever was factorized; better solves cost inner iterations and save sweeps."""
    from petsc4py import PETSc

    waveguides, options = problem("waveguides"), PETSc.Options()
    A, _, dA, _ = waveguides.pencil(waveguides.nearby, world)
    expected = jordan_chain(A, target=waveguides.target)

    class Product:
        def mult(self, shell, x, y):
            A.mult(x, y)

    shell = PETSc.Mat().createPython(A.getSizes(), Product(), comm=world)
    shell.setUp()
    near = A.copy()
    diagonal = near.getDiagonal()
    diagonal.getArray()[:] *= 1 + 1e-4 * np.random.default_rng(world.rank).standard_normal(diagonal.getLocalSize())
    near.setDiagonal(diagonal)
    options["jordan_ksp_type"], options["jordan_ksp_rtol"] = method, 1e-4
    try:
        with pytest.raises(ValueError, match="a matrix-free shell cannot be factorized: name assembled matrices"):
            jordan_chain(shell, target=waveguides.target)
        chain = jordan_chain(shell, target=waveguides.target, approximation=near)
    finally:
        options.delValue("jordan_ksp_type")
        options.delValue("jordan_ksp_rtol")
    assert abs(chain.eigenvalue - expected.eigenvalue) < 1e-11
    x = chain.vectors.getDenseArray()[:, 0]
    overlap = world.allreduce(np.vdot(expected.vectors.getDenseArray()[:, 0], x))
    assert abs(overlap) == pytest.approx(1, abs=1e-9)
    assert chain.cost.factorizations == 1
    destroy(shell, near, A, *dA, chain.vectors, chain.left_vectors, expected.vectors, expected.left_vectors)


def test_factors_that_were_freed_are_not_taken_up_again(world):
    """Whoever replaces factors may let go of the old ones twice, if the new ones cannot be made."""
    from jordan_dist.backends.petsc import PetscBackend

    A = np.diag(np.arange(1.0, 9.0)) + np.eye(8, k=1)
    backend = PetscBackend.around(A, world)
    terms = [(1.0, backend.matrix(A, "A"))]
    old = backend.factor(terms, symmetric=False)
    old.destroy()
    other = backend.factor(terms, symmetric=True)  # of another kind: the old ones are of no use, and freed
    old.destroy()
    other.destroy()
    again = backend.factor(terms, symmetric=False)
    X = backend.random_block(2)
    assert backend.product(terms[0][1], again.solve(X)) == pytest.approx(X, abs=1e-12)
    again.destroy()
    backend.destroy()


def test_nothing_of_a_chain_stays_in_memory(world):
    """What Python forgets is not freed by itself on more than one rank: a factorization is 30 MB here."""
    from jordan_dist import memory

    waveguides = problem("waveguides")
    A, B, dA, dB = waveguides.pencil(waveguides.nearby, world)

    def resident():
        memory.forget_peak()
        return world.allreduce(memory.peak())

    sizes = []
    for _ in range(4):
        chain = jordan_chain(A, B, target=waveguides.target)
        destroy(chain.vectors, chain.left_vectors)
        sizes.append(resident())
    destroy(A, B, *dA, *dB)
    assert sizes[-1] - sizes[1] < 20e6


@pytest.fixture
def mumps(monkeypatch):
    """Factors by MUMPS of a small problem too; returns the module, the storages that were tried and what became of each."""
    from jordan_dist.backends import petsc

    tried = []
    attempt = petsc.PetscFactor._attempt

    def recorded(self, library, workspace, storage):
        tried.append((storage, attempt(self, library, workspace, storage), [self.factors.getMumpsInfog(i) for i in (16, 26)]))
        return tried[-1][1]

    monkeypatch.setattr(petsc, "LARGEST_FOR_PETSC", 0)
    monkeypatch.setattr(petsc.PetscFactor, "_attempt", recorded)
    return petsc, tried


def chain_of(name, grid, world):
    p = problem(name, grid)
    A, B, *_ = p.pencil(p.nearby, world)
    chain = jordan_chain(A, B, target=p.target, tolerance=1e-10)
    destroy(A, B)
    return chain


def test_factors_that_do_not_fit_into_the_memory(world, mumps, monkeypatch, caplog):
    petsc, tried = mumps
    expected = chain_of("waveguides", 212, world)
    whole, on_disk = tried[0][2]  # MB that MUMPS estimates for the rank with most, with the factors in memory and on the disk
    tried.clear()
    monkeypatch.setattr(petsc.PetscFactor, "_allowed", lambda self: on_disk + (whole - on_disk) // 3)
    chain = chain_of("waveguides", 212, world)
    assert [outcome[:2] for outcome in tried] == [("whole", "memory"), ("compressed", "memory"), ("disk", "done")]
    assert "the factors as they are would not fit into the" in caplog.text and "they go to the disk" in caplog.text
    assert abs(chain.eigenvalue - expected.eigenvalue) < 1e-9 * abs(expected.eigenvalue) and chain.subspace_residual < 1e-10
    monkeypatch.setattr(petsc.PetscFactor, "_allowed", lambda self: 1)
    with pytest.raises(MemoryError, match="do not fit into the 1 MB that a rank can have here, not even with the disk"):
        chain_of("waveguides", 212, world)


@pytest.mark.parametrize("serves", [0.1, 0.0])
def test_compressed_factors_serve_or_go_to_the_disk(world, mumps, monkeypatch, serves):
    petsc, tried = mumps
    expected = chain_of("cubes", 20, world)
    tried.clear()
    attempt = petsc.PetscFactor._attempt
    monkeypatch.setattr(
        petsc.PetscFactor, "_attempt", lambda self, *args: "memory" if args[-1] == "whole" else attempt(self, *args)
    )
    monkeypatch.setattr(petsc, "SERVES", serves)
    chain = chain_of("cubes", 20, world)
    assert [outcome[:2] for outcome in tried] == [("compressed", "done")] + ([] if serves else [("disk", "done")])
    assert abs(chain.eigenvalue - expected.eigenvalue) < 1e-9 * abs(expected.eigenvalue) and chain.subspace_residual < 1e-10


def test_what_mumps_may_have_is_a_share_of_the_host(world, monkeypatch):
    from jordan_dist import memory
    from jordan_dist.backends import petsc

    monkeypatch.setattr(memory, "available", lambda: 10**10)
    p = problem("waveguides", 212)
    A, *_ = p.pencil(p.nearby, world)
    backend = petsc.PetscBackend.around(A)
    factor = backend.factor([(1.0, A)], symmetric=True)
    rows = -(-A.getSize()[0] // world.size)
    assert factor._allowed() == pytest.approx((1e10 / world.size - 40 * 16 * rows) / 1e6, abs=1)
    factor.destroy()
    backend.destroy()
    destroy(A)
