"""The demo end to end, with the smallest population."""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_demo_shows_both_halves_on_one_page(tmp_path):
    out = tmp_path / "demo"
    command = [sys.executable, "-m", "cluster", "demo", "--size", "tiny", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    page = (out / "report.html").read_text()
    assert json.loads((out / "valence" / "result.json").read_text())["population"]["networks"] == 8
    for name in ("resonators", "waveguides"):
        result = json.loads((out / name / "result.json").read_text())
        assert result["n"] == 212 * 212 and result["ranks"] == 2 and result["factorizations"] == 1
        assert result["title"] in page
    assert page.count("<!DOCTYPE html>") == 1 and "Emulation" in page


def test_a_step_that_fails_stops_the_demo_with_its_status(tmp_path):
    (tmp_path / "valence").mkdir()
    (tmp_path / "valence" / "mine.txt").write_text("not a run")
    command = [sys.executable, "-m", "cluster", "demo", "--size", "tiny", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and "is not empty and holds no run" in done.stderr
    assert not (tmp_path / "report.html").exists()
