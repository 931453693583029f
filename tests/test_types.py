"""The packages are typed: a program that uses them passes the strictest check without a cast."""

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ["cluster", "dynamo_dist", "jordan_dist"]


@pytest.mark.slow
def test_use_of_the_public_interface_is_typed(tmp_path):
    pytest.importorskip("mypy", reason="mypy is not installed: pip install 'dynamo-jordan[test]'")
    root = Path(__file__).parents[1]
    # Of the packages their annotations alone are read, as they are of what is installed.
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports", "silent", "--cache-dir", str(tmp_path), "tests/typed_use.py"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_code_itself_is_typed(tmp_path):
    """To the last file, as strictly: pyproject.toml says so."""
    pytest.importorskip("mypy", reason="mypy is not installed: pip install 'dynamo-jordan[test]'")
    command = [sys.executable, "-m", "mypy", "--follow-imports", "silent", "--cache-dir", str(tmp_path), *PACKAGES]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
