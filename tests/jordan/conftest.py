"""Pencils with a planted Jordan block, of which the chain is known without the code under test, and collective fixtures for MPI."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """The blocks here are narrow: threads of the BLAS only get into each other's way, above all under mpirun."""
    with threadpool_limits(limits=1):
        yield


@dataclass
class Planted:
    """A(p) - lambda B(p) = A0 + sum p_i dA[i] - lambda (B0 + sum p_i dB[i]) with one k x k Jordan block at `eigenvalue` when p = 0."""

    A0: np.ndarray
    B0: np.ndarray
    dA: list
    dB: list
    eigenvalue: complex
    chain: np.ndarray  # (n, k): in the unit gauge, but for the phase

    def at(self, p):
        p = np.atleast_1d(p)
        return (
            self.A0 + np.tensordot(p, self.dA, axes=1),
            self.B0 + np.tensordot(p, self.dB, axes=1),
        )

    def errors(self, vectors):
        """Relative error of every column, after the one common phase is aligned."""
        phase = np.vdot(self.chain[:, 0], vectors[:, 0])
        aligned = vectors * (abs(phase) / phase)
        return np.linalg.norm(aligned - self.chain, axis=0) / np.linalg.norm(self.chain, axis=0)


def unit_gauge(V):
    """The chain times a number, plus multiples of its earlier vectors, so that ||x0|| = 1 and x0^H j_i = 0."""
    V = V / np.linalg.norm(V[:, 0])
    for i in range(1, V.shape[1]):
        shift = np.vdot(V[:, 0], V[:, i])
        # adding -shift * (the chain moved by i) keeps it a chain
        V[:, i:] = V[:, i:] - shift * V[:, : V.shape[1] - i]
    return V


@pytest.fixture(scope="session")
def plant():
    """Makes a dense pencil with a planted block; symmetric pencils equal their transposes."""

    def make(n=80, k=2, parameters=1, symmetric=False, seed=3):
        rng = np.random.default_rng(seed)

        def noise(*shape):
            return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2 * n)

        eigenvalue = 0.7 + 0.3j
        angles = rng.uniform(0, 2 * np.pi, n - k)
        others = eigenvalue + rng.uniform(1.5, 4.0, n - k) * np.exp(1j * angles)
        core = np.diag(np.concatenate([np.full(k, eigenvalue), others]))
        T = np.eye(n) + 0.4 * noise(n, n)
        chain_in_core = np.zeros((n, k), dtype=complex)
        if symmetric:
            assert k == 2
            v = np.array([1, 1j])  # v^T v = 0, so that v v^T is nilpotent and symmetric
            core[:2, :2] += np.outer(v, v)
            chain_in_core[:2] = np.array([v, v.conj() / 2]).T
            S = T.T
        else:
            core[range(k - 1), range(1, k)] = 1
            chain_in_core[:k] = np.eye(k)
            S = np.eye(n) + 0.4 * noise(n, n)

        def derivative(size):
            D = size * noise(n, n)
            return D + D.T if symmetric else D

        return Planted(
            A0=S @ core @ T,
            B0=S @ T,
            dA=[derivative(1.0) for _ in range(parameters)],
            dB=[derivative(0.5) for _ in range(parameters)],
            eigenvalue=eigenvalue,
            chain=unit_gauge(np.linalg.solve(T, chain_in_core)),
        )

    return make


@pytest.fixture
def world():
    """MPI.COMM_WORLD; tests with it are collective."""
    pytest.importorskip("petsc4py")
    MPI = pytest.importorskip("mpi4py.MPI")
    MPI.COMM_WORLD.Barrier()  # no rank runs ahead into the next test
    return MPI.COMM_WORLD


@pytest.fixture
def shared_folder(world):
    """A temporary folder that all ranks see."""
    path = world.bcast(tempfile.mkdtemp() if world.rank == 0 else None)
    yield Path(path)
    world.Barrier()
    if world.rank == 0:
        shutil.rmtree(path)
