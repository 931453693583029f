"""All exceptional points of a window: numbers known from algebra, and the two of the resonators."""

import json

import numpy as np
import pytest
import scipy.sparse

from jordan_dist import AffineFamily, NotConvergedError, cli, find_exceptional_point, scan_exceptional_points
from jordan_dist.problems import problem

RESONATORS = -0.1242688633583 + 0.2747672294421j


def random_family(n, seed=0, kind=np.asarray):
    rng = np.random.default_rng(seed)
    A0, A1 = (kind(rng.standard_normal((n, n)) + 1j * rng.standard_normal((n, n))) for _ in range(2))
    return AffineFamily(A0, [A1])


def nearest_pair(family, p):
    values = np.linalg.eigvals(family.A0 + p * family.dA[0])
    return np.sort(np.abs(values[:, None] - values)[np.triu_indices(len(values), 1)])


@pytest.mark.parametrize("seed", range(2))
def test_all_56_points_of_a_random_family(seed):
    """The discriminant of det(A0 + p A1 - l) in l has the degree n (n - 1) in p."""
    family = random_family(8, seed)
    scan = scan_exceptional_points(family, (-200 - 200j, 200 + 200j))
    assert scan.count == len(scan.points) == 56
    assert scan.complete
    assert not scan.unresolved
    found = np.array([point.parameters[0] for point in scan.points])
    apart = np.abs(found[:, None] - found) + np.eye(56)
    assert apart.min() > 1e-6
    for p, point in zip(found, scan.points, strict=True):
        first, second = nearest_pair(family, p)[:2]
        assert first < 1e-5 * (1 + abs(p)) * np.linalg.norm(family.A0)  # the root of rounding
        assert first < second
        values = np.linalg.eigvals(family.A0 + p * family.dA[0])
        assert np.sort(np.abs(values - point.chain.eigenvalue))[1] < 1e-4 * (1 + abs(p))


def test_points_of_two_by_two_pencils_are_the_roots_of_their_discriminants():
    """n = 2: (a - d)^2 + 4 b c is quadratic in p."""
    for seed in range(5):
        family = random_family(2, seed)
        (a, b), (c, d) = (np.array([[family.dA[0][i, j], family.A0[i, j]] for j in (0, 1)]) for i in (0, 1))
        roots = np.roots(np.polyadd(np.polymul(a - d, a - d), 4 * np.polymul(b, c)))
        scan = scan_exceptional_points(family, (-50 - 50j, 50 + 50j))
        found = [point.parameters[0] for point in scan.points]
        assert sorted(found, key=abs) == pytest.approx(sorted(roots, key=abs), rel=1e-9)
        assert scan.complete


def test_a_window_holds_what_lies_in_it():
    family = random_family(4)
    everything = scan_exceptional_points(family, (-100 - 100j, 100 + 100j))
    assert everything.count == len(everything.points) == 12
    part = scan_exceptional_points(family, (-0.5 - 0.6j, 0.7 + 0.4j))
    inside = [p for p in (q.parameters[0] for q in everything.points) if -0.5 < p.real < 0.7 and -0.6 < p.imag < 0.4]
    assert len(inside) == part.count == len(part.points)
    assert [q.parameters[0] for q in part.points] == pytest.approx(inside, abs=1e-8)


def test_generalized_family_whose_B_becomes_singular():
    """Where an eigenvalue goes to infinity the discriminant of the values has a pole; the count is that of the polynomial."""
    rng = np.random.default_rng(4)
    A0, A1, B0, B1 = (rng.standard_normal((3, 3)) for _ in range(4))
    family = AffineFamily(A0, [A1], B0, [B1])
    scan = scan_exceptional_points(family, (-100 - 101j, 102 + 100j))
    # the discriminant of a cubic is of degree 4 in its coefficients, which are of degree 3 in p
    assert scan.count == len(scan.points) == 12
    assert scan.complete


def test_two_real_parameters():
    """[[x, 1], [y + i x, -x]] ..: (l^2 = x^2 + y + i x - 1) merges where x = 0 and y = 1, to be found off the middle."""
    A0 = np.array([[0, 1.0, 0], [-1.0, 0, 0], [0, 0, 9.0]])
    dx = np.array([[1.0, 0, 0], [1j, -1.0, 0], [0, 0, 0]])
    dy = np.array([[0, 0, 0], [1.0, 0, 0], [0, 0, 0.0]])
    scan = scan_exceptional_points(AffineFamily(A0, [dx, dy]), ([-0.9, 0.1], [0.8, 1.7]))
    assert len(scan.points) == 1
    assert scan.points[0].parameters == pytest.approx([0, 1], abs=1e-10)
    assert scan.points[0].loop is not None
    assert abs(scan.count) == 1


def test_semisimple_pair_is_no_point_and_is_reported():
    A0 = np.diag([1.0, 1.0, 5.0, 6.0])
    A1 = np.diag([1.0, -1.0, 0.3, 0.2])  # a crossing at p = 0.1 and no coupling
    scan = scan_exceptional_points(AffineFamily(A0 - 0.1 * A1, [A1]), (-0.5 - 0.6j, 0.7 + 0.5j))
    assert scan.points == ()
    assert scan.count == 2
    assert not scan.complete
    assert scan.unresolved
    assert np.abs(np.array(scan.unresolved) - 0.1).max() < 1e-3
    assert any("verdict: semisimple" in reason for reason in scan.failed)


def test_a_point_on_the_boundary_is_an_error():
    family = AffineFamily(np.array([[0, 1.0], [0, 0]]), [np.array([[0, 0], [1.0, 0]])])  # l^2 = p
    with pytest.raises(NotConvergedError, match="cannot be followed along the boundary of the window past"):
        scan_exceptional_points(family, (-1.0, 1 + 1j))


def test_both_points_of_the_resonators():
    p = problem("resonators")
    scan = scan_exceptional_points(p.family(), (-0.2 - 0.35j, 0.22 + 0.37j), target=p.target)
    assert scan.count == len(scan.points) == 2
    assert scan.complete
    found = [point.parameters[0] for point in scan.points]
    assert found == pytest.approx([RESONATORS, -RESONATORS], abs=1e-10)
    for point in scan.points:
        assert abs(point.chain.eigenvalue - (7.604797839043 - 0.208653421906j)) < 1e-10
        assert point.loop > 0


def test_a_search_that_leaves_its_window_is_an_error():
    family = AffineFamily(np.array([[0, 1.0], [0, 0]]), [np.array([[0, 0], [1.0, 0]])])
    with pytest.raises(NotConvergedError, match="step 0 of the search left the window") as caught:
        find_exceptional_point(family, 0.5 + 0.1j, target=0.0, window=(0.2 - 1j, 1 + 1j))
    assert len(caught.value.history) == 1
    assert abs(find_exceptional_point(family, 0.5 + 0.1j, target=0.0, window=(-0.2 - 1j, 1 + 1j)).parameters[0]) < 1e-12


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ((1 + 1j, 0j), "window must run from its lower left to its upper right corner"),
        ((0.0, 1.0), "a window of one complex or of two real parameters"),
        (([0, 0, 0], [1, 1, 1]), "a window of one complex or of two real parameters"),
        ((0j, np.nan), "window must be two opposite corners"),
        ("here", "window must be two opposite corners"),
        (3.0, "window must be two opposite corners"),
        (([0, 0], [1, 1]), "the family has 1"),
    ],
)
def test_bad_windows(window, message):
    with pytest.raises(ValueError, match=message):
        scan_exceptional_points(random_family(3), window)


def test_bad_families():
    with pytest.raises(ValueError, match="of order up to 200; name a target"):
        scan_exceptional_points(AffineFamily(scipy.sparse.eye_array(501), [scipy.sparse.eye_array(501)]), (0j, 1 + 1j))
    family = random_family(3)
    with pytest.raises(ValueError, match="is not in the window"):
        find_exceptional_point(family, 2.0 + 0j, target=0.0, window=(0j, 1 + 1j))


def test_command(tmp_path, capsys):
    family = random_family(3)
    np.save(tmp_path / "A0.npy", family.A0)
    np.save(tmp_path / "A1.npy", family.dA[0])
    words = ["scan", str(tmp_path / "A0.npy"), "--dA", str(tmp_path / "A1.npy"), "--window", "-100-100i:100+101i"]
    assert cli.main([*words, "--out", str(tmp_path / "out"), "--json"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    result = json.loads((tmp_path / "out" / "scan.json").read_text())
    assert json.loads(lines[-1]) == result
    assert len(lines) == 6 + 2
    assert sum("swap around it" in line for line in lines) == 6
    assert result["complete"]
    # One screen at the end, as of the other commands.
    end = captured.err[captured.err.rindex("\n\n") :]
    assert f"A0.npy in {tmp_path / 'out'}" in end and "6 in the window, 6 certified by a loop" in end
    assert "6: all zeros are accounted for" in end and "next" in end and str(tmp_path / "out" / "scan.json") in end
    for point in result["points"]:
        assert nearest_pair(family, complex(*point["parameters"][0]))[0] < 1e-4
    assert cli.main([*words, "--out", str(tmp_path / "out")]) == 2
    assert "holds another run" in capsys.readouterr().err
    words[-1] = "1:2:3"
    assert cli.main([*words, "--out", str(tmp_path / "new")]) == 2
    assert "two corners with a colon between them" in capsys.readouterr().err
