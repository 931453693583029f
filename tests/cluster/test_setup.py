"""The set-up script on machines where something is wrong: one sentence, exit status 2, nothing changed."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def setup(**environment):
    command = ["bash", "cluster/setup.sh"]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False)


def fake_petsc(path, *, version="3.20.1", complex_scalars=True, mumps=True):
    include = path / "include"
    include.mkdir(parents=True)
    numbers = zip(("MAJOR", "MINOR", "SUBMINOR"), version.split("."), strict=True)
    (include / "petscversion.h").write_text("".join(f"#define PETSC_VERSION_{name}  {number}\n" for name, number in numbers))
    conf = ["#define PETSC_USE_COMPLEX 1"] * complex_scalars + ["#define PETSC_HAVE_MUMPS 1"] * mumps
    (include / "petscconf.h").write_text("\n".join(["#define PETSC_USE_LOG 1", *conf]) + "\n")
    return str(path)


@pytest.mark.parametrize(
    ("petsc", "sentence"),
    [
        ({"complex_scalars": False}, "was built with real scalars"),
        ({"mumps": False}, "has no MUMPS"),
        ({"version": "3.15.2"}, "PETSc 3.15.2 in .* is too old: 3.18 or newer is needed"),
    ],
)
def test_an_unfit_petsc_is_refused(tmp_path, petsc, sentence):
    done = setup(PETSC_DIR=fake_petsc(tmp_path / "petsc", **petsc), PETSC_ARCH="")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("setup: ") and re.search(sentence, line)


def test_a_petsc_dir_that_is_none_is_named(tmp_path):
    done = setup(PETSC_DIR=str(tmp_path), PETSC_ARCH="")
    assert done.returncode == 2 and f"no petscversion.h below PETSC_DIR={tmp_path}" in done.stderr


def test_a_missing_python_is_named():
    done = setup(PYTHON="python-of-nowhere")
    assert done.returncode == 2 and "python-of-nowhere" in done.stderr


def test_a_second_call_finds_everything_ready():
    # In the environment as it is: with another PETSc or interpreter this would install anew under the running tests.
    again = setup()
    assert again.returncode == 0 and "ready" in again.stdout
