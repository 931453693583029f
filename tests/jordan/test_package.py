"""What the package needs and what it does not."""

import subprocess
import sys

import numpy as np
import pytest

from jordan_dist import io


def python(code):
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)


def test_import_needs_neither_petsc_nor_mpi_nor_torch():
    blocked = "import sys\nfor name in ('petsc4py', 'mpi4py', 'torch', 'matplotlib', 'ray'): sys.modules[name] = None\n"
    solve = "import numpy as np, jordan_dist; c = jordan_dist.jordan_chain(np.array([[2.0, 1], [0, 2]]), target=2.1); print(c.verdict)"
    done = python(blocked + solve)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "block"


def test_import_loads_neither():
    done = python("import sys, jordan_dist; print([m for m in ('petsc4py', 'mpi4py', 'torch', 'matplotlib') if m in sys.modules])")
    assert done.stdout.strip() == "[]"


def test_missing_petsc_names_the_extra():
    code = """
import sys
sys.modules["petsc4py"] = None
import numpy, jordan_dist
try:
    jordan_dist.jordan_chain(numpy.eye(4), target=1.0, comm=object())
except jordan_dist.MissingExtraError as error:
    print(error)
"""
    assert 'pip install "dynamo-jordan[petsc]"' in python(code).stdout


def test_public_names():
    import jordan_dist

    for name in jordan_dist.__all__:
        assert getattr(jordan_dist, name).__doc__


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1 + 2j, [1.0, 2.0]),
        (np.complex128(1j), [0.0, 1.0]),
        (np.array([1.5, 2.5]), [1.5, 2.5]),
        (np.array([1j]), [[0.0, 1.0]]),
        (float("inf"), None),
        (np.int64(3), 3),
        ({"a": (True, None, "x")}, {"a": [True, None, "x"]}),
    ],
)
def test_json_values(value, expected):
    assert io.jsonable(value) == expected
