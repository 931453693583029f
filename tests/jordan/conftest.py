"""Pencils with a planted Jordan block, of which the chain is known without the code under test, and collective fixtures for MPI."""

import shutil
import tempfile
from pathlib import Path

import pytest
from threadpoolctl import threadpool_limits

from jordan_dist.planted import planted_pencil


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """The blocks here are narrow: threads of the BLAS only get into each other's way, above all under mpirun."""
    with threadpool_limits(limits=1):
        yield


@pytest.fixture(scope="session")
def plant():
    """Makes a dense pencil with one planted block."""
    return lambda k=2, **more: planted_pencil(k, **{"seed": 3} | more)


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
