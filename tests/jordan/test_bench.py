"""The lines of jordan-dist bench."""

import json
from statistics import median

import numpy as np
import pytest

from jordan_dist import bench, problems
from jordan_dist.cli import main


def test_a_line_per_case(capsys):
    assert (
        main(["bench", "planted-block", "--grid", "60", "100", "--repeat", "2", "--methods", "chain", "second-order", "search", "scipy"])
        == 0
    )
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["name"], line["n"], line["repeat"]) for line in lines] == [("planted-block", 60, 2), ("planted-block", 100, 2)]
    for line in lines:
        assert line["ranks"] == 1
        assert line["versions"].keys() >= {"numpy", "scipy", "python"}
        found = line["methods"]
        assert list(found) == ["chain", "second-order", "search", "scipy"]
        for method in found.values():
            assert len(method["totals"]) == 2
            assert method["seconds"]["total"] == median(method["totals"])
            assert method["peak_memory_bytes"] > 1e7
        assert found["chain"]["factorizations"] == 1
        assert found["chain"]["subspace_residual"] < bench.TOLERANCE
        assert found["search"]["errors"]["parameters"] < 1e-11  # the point was planted
        assert found["search"]["errors"]["eigenvalue"] < 1e-11
        assert 0 < found["second-order"]["errors"]["eigenvalue"] < 1e-4
        ratio = line["ratios"]["chain / scipy"]
        assert ratio["time"] == pytest.approx(found["chain"]["seconds"]["total"] / found["scipy"]["seconds"]["total"])


def test_peers_find_the_same_two_eigenvalues():
    p = problems.problem("cubes", 10)
    found = bench.measure(p, ["chain", "scipy"], 1)["methods"]
    ours, theirs = (np.sort_complex(found[method]["eigenvalues"]) for method in ("chain", "scipy"))
    A, B, _, _ = p.pencil(p.nearby)
    values = np.linalg.eigvals(np.linalg.solve(B.toarray(), A.toarray()))
    exact = np.sort_complex(values[np.argsort(abs(values - p.target))[:2]])
    assert ours == pytest.approx(exact, abs=1e-9)
    assert np.sum(theirs) != pytest.approx(np.sum(exact), abs=1e-9)  # as its documentation says of a B that is not Hermitian


def test_what_cannot_be_measured_is_refused(capsys):
    assert main(["bench", "damped-membrane", "--methods", "scipy"]) == 2
    assert (
        "--methods scipy: not for damped-membrane with n = 44944 here; possible are chain, second-order, search" in capsys.readouterr().err
    )
    assert main(["bench", "waveguides", "--grid", "300"]) == 2
    assert "change the geometry" in capsys.readouterr().err
    assert main(["bench", "waveguides", "--repeat", "0"]) == 2
    assert "at least one run" in capsys.readouterr().err
    assert bench.methods_for(problems.problem("waveguides", 212)) == ("chain", "second-order", "search", "scipy")
    assert "scipy" not in bench.methods_for(problems.problem("waveguides", 848))
