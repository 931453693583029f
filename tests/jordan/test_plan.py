"""Plans against laws that the test sets, and what a calibration leaves."""

import json
import math

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg

from jordan_dist import memory, plan
from jordan_dist.cli import main
from jordan_dist.problems import problem

LAWS = {2: (lambda n: n * math.log2(n), lambda n: n**1.5), 3: (lambda n: n ** (4 / 3), lambda n: n**2)}


def lawful(ranks=1, **more):
    """A machine on which all laws hold to the last bit: 3 and 2 entries, 60 bytes, .. per unit of them."""
    runs = {}
    for dim, (fill, operations) in LAWS.items():
        for kind, half in (("symmetric", 0.5), ("general", 1.0)):
            runs[f"{dim} {kind}"] = [
                plan.Run(
                    n=n,
                    entries=3 * half * fill(n),
                    memory_bytes=60 * half * fill(n) + 800 * n,
                    columns=30,
                    analysis=1e-7 * n * math.log2(n),
                    factorization=2e-9 * half * operations(n) + 1e-8 * fill(n),
                    solves=30 * 2e-9 * fill(n),
                    rest=1e-6 * n,
                )
                for n in (60_000, 120_000, 250_000)
            ]
    about = {"host": "here", "cores": 2, "backend": "petsc", "date": "2026-01-01", "versions": {}, "base_bytes": 1e8, "ranks": ranks}
    return plan.Calibration(**(about | more), runs=runs)


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize(("kind", "half"), [("symmetric", 0.5), ("general", 1.0)])
def test_laws_are_followed_to_a_thousand_million(dim, kind, half):
    fill, operations = LAWS[dim]
    for n in (10**6, 10**9):
        p = plan.predict(lawful(), n, dim, kind, 1)
        assert p.entries == pytest.approx(3 * half * fill(n))
        assert p.memory_bytes == pytest.approx(60 * half * fill(n) + 800 * n + 1e8, rel=1e-6)
        assert p.seconds["analysis"] == pytest.approx(1e-7 * n * math.log2(n))
        assert p.seconds["factorization"] == pytest.approx(2e-9 * half * operations(n) + 1e-8 * fill(n), rel=1e-6)
        assert p.seconds["solves"] == pytest.approx(30 * 2e-9 * fill(n), rel=1e-6)
        assert p.seconds["total"] == pytest.approx(sum(p.seconds[phase] for phase in plan.PHASES))
        assert max(map(abs, p.errors.values())) < 1e-6
    shared = plan.predict(lawful(), n, dim, kind, 8)
    assert shared.seconds["analysis"] == p.seconds["analysis"]
    assert shared.seconds["solves"] == pytest.approx(p.seconds["solves"] / 8)
    assert shared.memory_bytes == pytest.approx(p.memory_bytes + 7e8)
    assert shared.memory_per_rank_bytes == pytest.approx(shared.memory_bytes / 8)


def test_error_of_the_prediction_is_that_of_the_largest_grid():
    calibration = lawful()
    runs = calibration.runs["2 general"]
    runs[-1] = plan.Run(**(vars(runs[-1]) | {"entries": 2 * runs[-1].entries, "memory_bytes": runs[-1].memory_bytes / 2}))
    errors = plan.predict(calibration, 10**6, 2, "general", 1).errors
    assert errors["entries"] == pytest.approx(-0.5)
    assert errors["memory_bytes"] == pytest.approx(1.0)
    assert errors["seconds"] == pytest.approx(0.0, abs=1e-6)


def test_what_does_not_fit_and_what_to_do():
    calibration, at_hand = lawful(), 8e9
    largest = plan.largest_that_fits(calibration, 3, "general", 2, at_hand)
    assert plan.predict(calibration, largest, 3, "general", 2).memory_bytes < at_hand
    assert plan.predict(calibration, int(1.002 * largest), 3, "general", 2).memory_bytes > at_hand
    fits = plan.predict(calibration, largest, 3, "general", 2)
    assert plan.advice(calibration, fits, 3, "general", 2, at_hand) == []
    words = plan.advice(calibration, plan.predict(calibration, 10**7, 3, "general", 2), 3, "general", 2, at_hand)
    needed = 60 * 10 ** (28 / 3) + 8e9 + 2e8
    assert f"it needs {math.ceil(needed / at_hand)} machines like this one" in words[0]
    assert any("icntl_22 1" in line for line in words)
    assert any("icntl_35 2" in line for line in words)
    assert plan.largest_that_fits(calibration, 2, "general", 2, 1e8) == 0
    assert plan.nearest({1: "one", 2: "two", 8: "eight"}, 4) == "two"
    assert plan.nearest({2: "two", 8: "eight"}, 1) == "two"


def test_calibration_is_kept_used_again_and_checked(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plan, "GRIDS", {2: ("lined-duct", (20, 30, 40)), 3: ("cubes", (6, 8, 10))})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    words = ["plan", "--n", "1e9", "--dim", "2", "--ranks", "4", "--json"]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert "measuring small chains" in captured.err
    result = json.loads(captured.out.splitlines()[-1])
    assert (result["n"], result["ranks"], result["dimensions"]) == (10**9, 4, 2)
    assert result["kinds"].keys() == {"symmetric", "general"}
    for found in result["kinds"].values():
        assert found["seconds"]["total"] > 0
        assert found["memory_bytes"] > 1e11  # of the factors of 10^9 unknowns
        assert "machines like this one" in found["advice"][0]
    (path,) = (tmp_path / "jordan-dist").iterdir()
    assert str(path) == result["calibration"]
    runs = plan.stored(path)[1].runs["3 general"]
    assert [run.n for run in runs] == [216, 512, 1000]
    assert 7 * 1000 < runs[-1].entries < 1000**2
    assert main(words) == 0
    assert "measuring" not in capsys.readouterr().err
    old = json.loads(path.read_text())
    old["calibrations"][0]["versions"]["numpy"] = "1.0"
    path.write_text(json.dumps(old))
    assert main([*words, "--calibration", str(path)]) == 0  # one that is named is believed
    assert "measuring" not in capsys.readouterr().err
    assert main(words) == 0
    assert "measuring" in capsys.readouterr().err
    path.unlink()
    assert main([*words, "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "" and json.loads(captured.out.splitlines()[-1])["n"] == 10**9
    path.write_text("{}")
    assert main(words) == 2
    assert f"{path} is no calibration of jordan-dist" in capsys.readouterr().err
    assert main(["plan", "--n", "1e10", "--dim", "2"]) == 2
    assert "from 2 to 1e9" in capsys.readouterr().err


def test_entries_are_those_of_the_factors():
    from jordan_dist.backends.scipy import ScipyBackend

    A = problem("cubes", 8).A0(0, 512)
    lu = scipy.sparse.linalg.splu(A.tocsc().astype(complex))
    factor = ScipyBackend(512).factor([(1.0, A)], symmetric=False)
    assert factor.entries() == pytest.approx(lu.L.nnz + lu.U.nnz, rel=0.1)  # and the zeros in dense blocks of columns


@pytest.mark.skipif(not memory.forget_peak(), reason="this system keeps the peak of a process")
def test_peak_memory_can_be_taken_again():
    block = np.ones(20_000_000)
    high = memory.peak()
    assert high > block.nbytes
    del block
    memory.forget_peak()
    assert memory.peak() < high - 100_000_000
    assert memory.available() > 0
