"""The built-in problems that are not in the design's table, against equations that the test solves by itself."""

import io as io_bytes

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse.linalg

from jordan_dist import find_exceptional_point, io, jordan_chain
from jordan_dist.cli import main
from jordan_dist.problems import PROBLEMS, planted, problem


def exceptional_point(name, grid=None):
    p = problem(name, grid)
    return p, find_exceptional_point(p.family(), p.start, target=p.target, size=p.size)


def test_critical_damping_of_the_membrane():
    p, ep = exceptional_point("damped-membrane")
    h = 1 / 213
    gamma = np.sqrt(8) / h * np.sin(np.pi * h / 2)
    assert ep.parameters == pytest.approx([gamma], rel=1e-10)
    assert abs(ep.chain.eigenvalue + gamma) < 1e-10 * gamma
    sine = np.sin(np.pi * np.arange(1, 213) * h)
    v = np.kron(sine, sine) / np.linalg.norm(np.kron(sine, sine))
    s = 1 / np.sqrt(1 + gamma**2)
    c = gamma * s / (1 + gamma**2)
    expected = np.array([[s * v, c * v], [-gamma * s * v, (s - gamma * c) * v]]).transpose(0, 2, 1).reshape(-1, 2)
    expected = -expected  # the first large component, one of -gamma v, is positive
    assert ep.chain.vectors == pytest.approx(expected, abs=1e-9 * np.abs(expected).max())
    assert ep.chain.original_vectors == pytest.approx(ep.chain.vectors[: p.n])
    assert ep.chain.cost.factorizations == 1


def root(f, start):
    """Of an analytic function, by Newton's method with differences in the complex plane."""
    z = start
    for _ in range(50):
        step = f(z) * 2e-6 / (f(z + 1e-6) - f(z - 1e-6))
        z = z - step
        if abs(step) < 1e-15 * abs(z):
            break
    return z


def cremer(k, m=None):
    """Admittance and beta^2 where the lowest two modes merge: on m + 1 nodes, or without discretization."""
    mu = root(lambda u: np.sin(2 * u) + 2 * u, 2.1 - 1.1j)
    if m is None:
        return 1j * mu * np.tan(mu) / k, k**2 - mu**2
    theta = root(lambda t: np.cos(t) * np.sin(2 * m * t) / 2 + m * np.sin(t), mu / m)
    return -np.sin(theta) * np.tan(m * theta) * m / (1j * k), k**2 - (2 - 2 * np.cos(theta)) * m**2


def test_optimal_wall_of_the_duct():
    _, ep = exceptional_point("lined-duct")
    admittance, square = cremer(5.0, m=211)
    assert abs(ep.parameters[0] - admittance) < 1e-10 * abs(admittance)
    assert abs(ep.chain.eigenvalue - square) < 1e-10 * abs(square)
    assert admittance.real > 0  # the wall takes energy, and the wave decays along the duct
    assert square.imag > 0
    errors = [abs(cremer(5.0, m=m)[0] - cremer(5.0)[0]) for m in (211, 422)]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.02)  # of second order in h, as a wall in half cells must be
    # Cremer's optimal impedance of a duct with one lined wall is known as (0.929 - 0.744i) k h / pi for exp(+i omega t)
    assert 1 / cremer(5.0)[0] == pytest.approx((0.929 + 0.744j) * 5.0 / np.pi, abs=2e-3)
    cosines = np.cos(root(lambda t: np.cos(t) * np.sin(422 * t) / 2 + 211 * np.sin(t), 0.01 - 0.005j) * np.arange(212))
    x = np.kron(np.ones(212), cosines)
    assert abs(np.vdot(x, ep.chain.vectors[:, 0])) == pytest.approx(np.linalg.norm(x), rel=1e-9)


def test_cubes_against_another_eigensolver():
    """The square of half the splitting is analytic in gamma and vanishes at the exceptional point."""
    p, ep = exceptional_point("cubes")
    gamma = ep.parameters[0]
    assert ep.parameters.dtype == np.float64
    assert p.n == 8000

    def pair(g):
        A, B, _, _ = p.pencil([g])
        operator = scipy.sparse.diags_array(1 / B.diagonal()) @ A
        return scipy.sparse.linalg.eigs(operator.tocsc(), k=2, sigma=ep.chain.eigenvalue + 0.01, return_eigenvectors=False)

    points = gamma + np.array([-0.02, -0.01, 0.01, 0.02])
    pairs = [pair(g) for g in points]
    assert np.abs(np.imag(pairs[:2])).max() < 1e-9  # PT-symmetric, then broken
    assert pairs[2][0] == pytest.approx(pairs[2][1].conj(), abs=1e-9)
    squares = [np.diff(values)[0] ** 2 / 4 for values in pairs]
    means = [values.mean() for values in pairs]
    roots = np.roots(np.polyfit(points - gamma, np.real(squares), 3))
    assert np.abs(roots).min() < 1e-7
    assert np.polyval(np.polyfit(points - gamma, np.real(means), 3), 0) == pytest.approx(ep.chain.eigenvalue.real, abs=1e-8)
    assert np.polyfit(points - gamma, np.real(squares), 3)[-2] == pytest.approx(ep.chain.puiseux[0].real, rel=1e-4)


@pytest.mark.parametrize("grid", [16, 23, 20])
def test_every_grid_keeps_the_cubes(grid):
    """Volume, place and symmetry of the cubes, whatever cells their faces cut."""
    p = problem("cubes", grid)
    eps = p.B0(0, p.n).diagonal().reshape(grid, grid, grid)
    cell, centres = (2.0 / grid) ** 3, (np.arange(grid) + 0.5) * 2.0 / grid
    chi = (eps - 1) / 11
    assert chi.sum() * cell == pytest.approx(2 * 0.6**3, rel=1e-12)
    assert np.array_equal(eps, eps[::-1])
    assert np.array_equal(eps, eps.transpose(0, 2, 1))
    assert np.einsum("ijk,j->", chi, centres) / chi.sum() == pytest.approx(1.0)
    assert np.einsum("ijk,i->", chi, np.abs(centres - 1)) / chi.sum() == pytest.approx(0.4, abs=2e-3)


def test_grids_that_keep_the_geometry():
    assert problem("waveguides").cells == 212
    assert problem("waveguides", 1060).n == 1060**2
    assert problem("lined-duct", 300).cells == 300
    with pytest.raises(ValueError, match=r"1000 cells per side would change the geometry of waveguides, .* nearest is 1060"):
        problem("waveguides", 1000)
    assert [problem("resonators", grid, nearest=True).cells for grid in (2, 317, 319, 424)] == [212, 212, 424, 424]


def test_planted_block():
    _, ep = exceptional_point("planted-block")
    assert abs(ep.parameters[0] - (0.2 - 0.1j)) < 1e-11
    assert abs(ep.chain.eigenvalue - (0.7 + 0.3j)) < 1e-11
    A0, D, B, T = planted.matrices(100)
    values = scipy.linalg.eigvals(A0 + (0.2 - 0.1j) * D, B)
    assert np.sort(np.abs(values - (0.7 + 0.3j)))[:3] == pytest.approx([0, 0, 1.5], abs=0.1)
    known = np.linalg.inv(T)[:, :2]
    p = np.linalg.lstsq(known, ep.chain.vectors, rcond=None)[0]
    assert np.linalg.norm(known @ p - ep.chain.vectors) < 1e-10
    assert p == pytest.approx(np.array([[p[0, 0], p[0, 1]], [0, p[0, 0]]]), abs=1e-10)


@pytest.mark.parametrize("name", [name for name in PROBLEMS if name not in ("resonators", "waveguides", "three-waveguides")])
def test_example_from_the_command_line(name, tmp_path, capsys):
    found = {}
    for mode in ([], ["--ep"]):
        out = tmp_path / (mode[0] if mode else "chain")
        assert main(["example", name, "--out", str(out), *mode]) == 0
        result, vectors = io.load_chain(out)
        found[bool(mode)] = result
        assert result["verdict"] == "block"
        assert not mode or max(result["chain_residuals"]) < 1e-10  # of a predicted point they are of second order
        assert vectors.shape == (problem(name).n, 2)
        assert (out / "report.html").stat().st_size > 10_000
        assert (out / "fields.vtk").exists() == (problem(name).dimensions > 1)
        assert (out / "linearized.npy").exists() == (name == "damped-membrane")
        if name == "damped-membrane":  # [x; l x + the x before]
            y, z = np.load(out / "linearized.npy"), complex(*result["eigenvalue"])
            assert y[: len(vectors)] == pytest.approx(vectors, abs=1e-14)
            second = z * vectors + np.column_stack([0 * vectors[:, 0], vectors[:, 0]])
            assert y[len(vectors) :] == pytest.approx(second, abs=1e-9 if mode else 1e-3)
    near, point = found[False], found[True]
    there = complex(*near["parameters"][0]) if isinstance(near["parameters"][0], list) else near["parameters"][0]
    there += complex(*near["step"][0])
    exact = complex(*point["parameters"][0]) if isinstance(point["parameters"][0], list) else point["parameters"][0]
    distance = abs(complex(*near["step"][0]))
    assert abs(there - exact) < 30 * distance**2
    assert abs(complex(*near["eigenvalue"]) - complex(*point["eigenvalue"])) < 300 * distance**2
    capsys.readouterr()
    assert main(["example", "--help"]) == 0
    assert f"  {name} " in capsys.readouterr().out


def test_pictures_of_every_kind_of_grid():
    rng = np.random.default_rng(0)
    cube = rng.standard_normal((6, 6, 6))
    assert io.mode_pictures(cube.reshape(-1, 1), 6)[0] == pytest.approx(np.sqrt((cube**2).mean(axis=2)))
    double = rng.standard_normal(424)
    assert io.mode_pictures(double.reshape(-1, 1), 424)[0] == pytest.approx(
        np.sqrt((double.reshape(212, 2) ** 2).mean(axis=1)).reshape(-1, 1)
    )
    square = rng.standard_normal((424, 424))
    assert io.mode_pictures(square.reshape(-1, 1), 424)[0] == pytest.approx(
        np.sqrt((square.reshape(212, 2, 212, 2) ** 2).mean(axis=(1, 3)))
    )
    assert io.mode_pictures(np.ones((223**2, 1)), 223)[0] == pytest.approx(np.ones((212, 212)))  # uneven squares


def read_vtk(path):
    """The dimensions and the arrays of a legacy VTK file of structured points, with nothing but its format description."""
    file = io_bytes.BytesIO(path.read_bytes())
    lines = [file.readline().decode().split() for _ in range(9)]
    assert [lines[2], lines[3]] == [["BINARY"], ["DATASET", "STRUCTURED_POINTS"]]
    sides = tuple(map(int, lines[4][1:]))
    assert lines[7] == ["POINT_DATA", str(np.prod(sides))]
    arrays = {}
    for _ in range(int(lines[8][2])):
        name, components, points, kind = file.readline().split()
        assert (int(components), kind) == (2, b"double")
        pairs = np.frombuffer(file.read(16 * int(points)), ">f8").reshape(*sides[::-1], 2)
        arrays[name.decode()] = pairs[..., 0] + 1j * pairs[..., 1]
    assert file.read() == b""
    return sides, arrays


@pytest.mark.parametrize(("cells", "dimensions"), [(7, 2), (5, 3)])
def test_fields_for_paraview(cells, dimensions, tmp_path):
    rng = np.random.default_rng(0)
    n = cells**dimensions
    X = rng.standard_normal((n, 2)) + 1j * rng.standard_normal((n, 2))
    io.write_fields(tmp_path / "f.vtk", X, cells, dimensions, "Zwei W\u00e4nde\nin a box", None)
    sides, arrays = read_vtk(tmp_path / "f.vtk")
    assert sides == (cells, cells, cells if dimensions == 3 else 1)
    assert list(arrays) == ["x0", "j1"]
    for x, field in zip(X.T, arrays.values(), strict=True):
        assert np.array_equal(field.reshape((cells,) * dimensions), x.reshape((cells,) * dimensions))


def test_assembly_by_ranges_of_rows():
    for name in ("cubes", "lined-duct", "planted-block"):
        p = problem(name)
        for part in (p.A0, p.B0, *p.dA, *p.dB):
            if part is not None:
                whole, cut = part(0, p.n), p.n // 3 + 1
                assert abs(scipy.sparse.vstack([part(0, cut), part(cut, p.n)]) - whole).max() == 0


def test_moved_quadratic_problem():
    p = problem("damped-membrane")
    Q, B, (D,), _ = p.pencil([3.0])
    assert B is None
    assert abs(Q.damping - 3.0 * D.damping).max() == 0
    assert (D.mass, D.stiffness) == (None, None)
    assert Q.stiffness.shape == (p.n, p.n)
    kappa = 8 * 213**2 * np.sin(np.pi / 426) ** 2
    below = jordan_chain(Q, target=-3.0, dA=[D])
    assert below.verdict == "not-defective"
    assert sorted(np.linalg.eigvals(below.matrix), key=np.imag) == pytest.approx(-3 + np.array([-1j, 1j]) * np.sqrt(kappa - 9), rel=1e-10)
    critical, _, dA, _ = p.pencil([np.sqrt(kappa)])
    at = jordan_chain(critical, target=-4.4, dA=dA)
    assert at.verdict == "block"
    assert abs(at.eigenvalue + np.sqrt(kappa)) < 1e-10 * np.sqrt(kappa)
