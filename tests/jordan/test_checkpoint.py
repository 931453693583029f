"""Solves that are interrupted go on from their last step, and what they find is what an undisturbed solve finds."""

import shutil

import numpy as np
import pytest

from jordan_dist import AffineFamily, QuadraticPencil, find_exceptional_point, jordan_chain
from jordan_dist.checkpoint import Checkpoint
from jordan_dist.cli import main

TARGET = 0.8 + 0.2j


class Interrupted(Exception):
    pass


@pytest.fixture
def interrupt(monkeypatch):
    """Makes solves end after they have written so many steps."""
    save = Checkpoint.save

    def after(steps):
        def interrupted(self, *pair, **more):
            save(self, *pair, **more)
            if self.number == steps:
                raise Interrupted

        monkeypatch.setattr(Checkpoint, "save", interrupted)

    yield after
    monkeypatch.undo()


def interrupted(interrupt, steps, solve, folder):
    interrupt(steps)
    with pytest.raises(Interrupted):
        solve(folder)
    interrupt(None)


def test_chain_goes_on(plant, tmp_path, interrupt):
    planted = plant()
    A, B = planted.at([1e-5])

    def solve(folder=None):
        return jordan_chain(A, B, target=TARGET, checkpoint=folder)

    undisturbed = solve()
    interrupted(interrupt, 1, solve, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000"]
    resumed = solve(tmp_path)
    assert abs(resumed.eigenvalue - undisturbed.eigenvalue) < 1e-13
    assert resumed.vectors == pytest.approx(undisturbed.vectors, abs=1e-11)
    assert resumed.left_vectors == pytest.approx(undisturbed.left_vectors, abs=1e-11)
    assert resumed.cost.factorizations == 2  # one before and one after
    assert resumed.cost.solves < 2 * undisturbed.cost.solves
    assert len(list(tmp_path.iterdir())) == 2
    again = solve(tmp_path)  # of a finished solve nothing but the factorization and the last check is done again
    assert again.cost.solves - resumed.cost.solves <= 8


def search(family, folder, **more):
    return find_exceptional_point(family, [0.02 + 0.01j], **({"target": TARGET} | more), checkpoint=folder)


def test_search_goes_on(plant, tmp_path, interrupt):
    planted = plant()
    undisturbed = search(planted.family, None)
    interrupted(interrupt, 3, lambda folder: search(planted.family, folder), tmp_path)
    resumed = search(planted.family, tmp_path)
    assert resumed.parameters == pytest.approx(undisturbed.parameters, abs=1e-12)
    assert abs(resumed.chain.eigenvalue - undisturbed.chain.eigenvalue) < 1e-12
    assert resumed.chain.vectors == pytest.approx(undisturbed.chain.vectors, abs=1e-9)
    for before, after in zip(undisturbed.history[:3], resumed.history, strict=False):
        assert after.parameters == pytest.approx(before.parameters, abs=1e-12)
        assert after.eigenvalues == pytest.approx(before.eigenvalues, abs=1e-7)  # near the point a root of their errors
        assert after.step == pytest.approx(before.step, rel=1e-6, abs=1e-12)


def test_damaged_step_is_left_aside(plant, tmp_path, interrupt):
    planted = plant()
    interrupted(interrupt, 3, lambda folder: search(planted.family, folder), tmp_path)
    last = tmp_path / "step-0002" / "X.petsc"
    last.write_bytes(last.read_bytes()[:-1] + b"?")
    (tmp_path / ".step-0003.part").mkdir()  # what a killed writer leaves
    resumed = search(planted.family, tmp_path)
    assert np.abs(resumed.parameters).max() < 1e-11  # the block is planted at zero
    assert len(resumed.history) >= 3
    shutil.rmtree(tmp_path)
    assert np.abs(search(planted.family, tmp_path).parameters).max() < 1e-11


def test_steps_of_another_solve_are_refused(plant, tmp_path, interrupt):
    planted = plant()
    interrupted(interrupt, 2, lambda folder: search(planted.family, folder), tmp_path)
    changed = planted.A0.copy()
    changed[3, 5] += 1e-6
    with pytest.raises(ValueError, match="with other matrices"):
        search(AffineFamily(changed, planted.dA, planted.B0, planted.dB), tmp_path)
    with pytest.raises(ValueError, match=r"its target was \[0.8, 0.2\], and now it is \[0.9, 0.2\]"):
        search(planted.family, tmp_path, target=0.9 + 0.2j)
    with pytest.raises(ValueError, match="its size was 2, and now it is 3"):
        search(planted.family, tmp_path, size=3)
    with pytest.raises(ValueError, match="its kind was exceptional point, and now it is chain"):
        jordan_chain(planted.A0, planted.B0, target=TARGET, checkpoint=tmp_path)


def test_quadratic_chain_in_changed_units_goes_on(tmp_path, interrupt):
    """The target is a hundred times the eigenvalue, so that the linearization is scaled again on the way."""
    stiffness = np.diag([1.0, 40.0, 90.0, 160.0])
    pencil = QuadraticPencil(mass=np.eye(4), damping=2.0 * np.eye(4), stiffness=stiffness)

    def solve(folder=None):
        return jordan_chain(pencil, target=-0.01, checkpoint=folder)

    undisturbed = solve()
    assert abs(undisturbed.eigenvalue + 1) < 1e-12
    for steps in range(1, 4):
        folder = tmp_path / str(steps)
        interrupted(interrupt, steps, solve, folder)
        resumed = solve(folder)
        assert abs(resumed.eigenvalue + 1) < 1e-12
        assert resumed.vectors == pytest.approx(undisturbed.vectors, abs=1e-9)


def test_no_answer_leaves_no_steps(tmp_path, capsys):
    np.save(tmp_path / "A.npy", np.diag([1.0, 2.0, 3.0, 4.0]))
    np.save(tmp_path / "D.npy", np.eye(4))
    words = [
        "ep",
        str(tmp_path / "A.npy"),
        "--dA",
        str(tmp_path / "D.npy"),
        "--start",
        "0.5",
        "--target",
        "1.5",
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(words) == 3
    assert not (tmp_path / "o" / "checkpoint").exists()
    assert main(words) == 3  # and not: there is an unfinished run
    capsys.readouterr()
