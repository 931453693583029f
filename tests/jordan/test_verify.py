"""Planted pencils against dense linear algebra, and the command that measures slopes on them."""

import json

import numpy as np
import pytest
import scipy.linalg

from jordan_dist import cli, io, verify
from jordan_dist.planted import planted_pencil

KINDS = [(g, r, s) for g in (False, True) for r in (False, True) for s in (False, True) if (g, r, s) != (False, True, True)]


@pytest.mark.parametrize(("generalized", "real", "symmetric"), KINDS)
@pytest.mark.parametrize("blocks", [(2,), (5,), (2, 1), (2, 2), (1, 1)])
def test_planted_chains_hold_by_definition(blocks, generalized, real, symmetric):
    planted = planted_pencil(*blocks, n=30, generalized=generalized, real=real, symmetric=symmetric, parameters=2)
    A, B = planted.at([0, 0])
    assert (B is None) == (not generalized)
    assert np.isrealobj(A) == real
    B = np.eye(30) if B is None else B
    matrices = [A, B, *planted.dA, *planted.dB]
    assert all(np.linalg.norm(D - D.T) < 1e-13 * np.linalg.norm(D) for D in matrices) == symmetric
    V, W = planted.vectors, planted.left_vectors
    J = scipy.linalg.block_diag(*(planted.eigenvalue * np.eye(m) + np.eye(m, k=1) for m in blocks))
    assert np.linalg.norm(A @ V - B @ V @ J) < 1e-12 * np.linalg.norm(A) * np.linalg.norm(V)
    assert np.linalg.norm(W.conj().T @ A - J @ W.conj().T @ B) < 1e-12 * np.linalg.norm(A) * np.linalg.norm(W)
    assert np.linalg.norm(W.conj().T @ B @ V - np.eye(len(J))) < 1e-12 * np.linalg.norm(V) * np.linalg.norm(W)
    if len(blocks) == 1:
        assert np.linalg.norm(V[:, 0]) == pytest.approx(1, rel=1e-12)
        assert np.abs(V[:, 0].conj() @ V[:, 1:]).max() < 1e-12 * np.linalg.norm(V)
    others = np.sort(np.abs(scipy.linalg.eigvals(A, B) - planted.eigenvalue))
    assert others[len(J) - 1] < 0.05  # rounding to the power 1 / 5
    assert others[len(J)] > 1.4


def test_real_symmetric_matrices_have_no_block():
    with pytest.raises(ValueError, match="a real symmetric matrix has no Jordan blocks"):
        planted_pencil(2, generalized=False, real=True, symmetric=True)


def test_slopes_and_floors(tmp_path, capsys):
    assert cli.main(["verify", "--out", str(tmp_path / "v"), "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    result = json.loads((tmp_path / "v" / "verify.json").read_text())
    assert json.loads(lines[-1]) == result
    assert lines[-2] == str(tmp_path / "v" / "verify.json")
    assert result["passed"]
    assert len(result["cases"]) == 14
    assert len({case["name"] for case in result["cases"]}) == 14
    for case in result["cases"]:
        assert any(case["name"] in line for line in lines)
        for method, slope in (("naive", 1 / case["size"]), ("first", 1), ("second", 2)):
            assert list(case["slopes"][method].values()) == pytest.approx([slope] * len(case["slopes"][method]), abs=0.05)
        assert case["slopes"]["second"].keys() == {"eigenvalue", "x0", "j1", "j2"} - ({"j2"} if case["size"] == 2 else set())
        assert max(e for found in case["floors"].values() for e in found.values()) < 1e-12
        assert case["distances"]["first"] == [1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-10]
        assert all(errors[-1] < 1e-7 for errors in case["errors"]["first"].values())
    pytest.importorskip("matplotlib")
    assert (tmp_path / "v" / "verify.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "v" / "verify.svg").read_text()


def test_a_wrong_slope_is_status_1(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(verify, "TOLERANCE", 1e-9)
    monkeypatch.setattr(cli.verify, "verify", lambda comm: [verify.measure(2, False, False, False, n=12)])
    assert cli.main(["verify", "--out", str(tmp_path), "--quiet"]) == 1
    captured = capsys.readouterr()
    assert "FAILED" in captured.out and captured.err == ""
    assert not json.loads((tmp_path / "verify.json").read_text())["passed"]


def test_another_measurement_is_kept_unless_overwrite(tmp_path, capsys):
    (tmp_path / "verify.json").write_text("{}")
    assert cli.main(["verify", "--out", str(tmp_path)]) == 2
    assert "holds verify.json that no jordan-dist run wrote" in capsys.readouterr().err
    io.write_json(tmp_path / "verify.json", {"program": "jordan-dist"})
    assert cli.main(["verify", "--out", str(tmp_path)]) == 2
    assert "holds another run" in capsys.readouterr().err
