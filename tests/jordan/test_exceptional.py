"""find_exceptional_point on one process: planted points, the built-in problems' known numbers, and searches that must fail."""

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg

from jordan_dist import AffineFamily, NotConvergedError, find_exceptional_point, jordan_chain
from jordan_dist.planted import planted_pencil
from jordan_dist.problems import problem

# Known to these digits from independent computations.
WAVEGUIDES = {"parameters": 0.0051183567223, "eigenvalue": 35.331376319721, "s1": 0.1098435, "j0": 9.103862, "c": -1.1748774}
RESONATORS = {
    "parameters": -0.1242688633583 + 0.2747672294421j,
    "eigenvalue": 7.604797839043 - 0.208653421906j,
    "s1": 0.373869,
    "j0": 2.674734,
    "c": -0.0622726 + 0.2067989j,
    "projector": 2.14,
}


@pytest.fixture(scope="module")
def solved():
    """Each problem's exceptional point, with scipy matrices, from its usual start."""

    def solve(name, start=None):
        p = problem(name)
        return find_exceptional_point(p.family(), p.start if start is None else start, target=p.target, size=p.size)

    cache = {}
    return lambda name: cache.setdefault(name, None) or cache.update({name: solve(name)}) or cache[name]


@pytest.mark.parametrize(("name", "known"), [("waveguides", WAVEGUIDES), ("resonators", RESONATORS)])
def test_known_points(solved, name, known):
    ep = solved(name)
    assert abs(ep.parameters[0] - known["parameters"]) < 1e-12
    assert abs(ep.chain.eigenvalue - known["eigenvalue"]) < 2e-12
    assert ep.chain.singular_values[0] == pytest.approx(known["s1"], rel=1e-5)
    assert ep.chain.singular_values[1] < 1e-10
    assert np.linalg.norm(ep.chain.vectors[:, 1]) == pytest.approx(known["j0"], rel=1e-6)
    assert abs(ep.chain.puiseux[0] - known["c"]) < 2e-7
    assert ep.chain.verdict == "block"
    assert ep.chain.subspace_residual < 1e-11
    assert max(ep.chain.chain_residuals) < 1e-11
    assert ep.chain.cost.factorizations == 1
    assert ep.parameters.dtype == (np.float64 if name == "waveguides" else np.complex128)
    if "projector" in known:
        assert ep.chain.projector_norm == pytest.approx(known["projector"], abs=0.005)
    steps = [s.step for s in ep.history]
    assert steps[-1] < 1e-11
    assert steps[0] > 1e-4


def test_residuals_measured_from_outside(solved):
    """The chain relations themselves, with matrices that the test assembles at the point found."""
    p, ep = problem("resonators"), solved("resonators")
    A, B, _, _ = p.pencil(ep.parameters)
    x, j = ep.chain.vectors.T
    z = ep.chain.eigenvalue
    assert np.linalg.norm(A @ x - z * (B @ x)) < 1e-11 * np.linalg.norm(A @ x)
    assert np.linalg.norm(A @ j - z * (B @ j) - B @ x) < 1e-11 * np.linalg.norm(A @ j)


def test_resolvent_near_the_point(solved):
    """The Green's function of a unit source in a resonator: relative errors 7.8e-3 and 7.8e-5 at distances 1e-2 and 1e-3 are known."""
    p, ep = problem("resonators"), solved("resonators")
    A, B, _, _ = p.pencil(ep.parameters)
    (x, j), (w0, w1) = ep.chain.vectors.T, ep.chain.left_vectors.T
    source = np.zeros(p.n, dtype=complex)
    source[74 * 212 + 106] = 1
    a, b = w0.conj() @ source, w1.conj() @ source  # the dual vectors of x and of j
    errors = []
    for distance in (1e-2, 1e-3):
        z = ep.chain.eigenvalue + distance
        exact = scipy.sparse.linalg.splu((A - z * B).tocsc()).solve(source)
        found = ep.chain.resolvent(z, source)
        assert found == pytest.approx((x * a + j * b) / -distance - x * b / distance**2, rel=1e-10)
        errors.append(np.linalg.norm(found - exact) / np.linalg.norm(exact))
    assert errors == pytest.approx([7.8e-3, 7.8e-5], rel=0.1)
    assert np.log10(errors[0] / errors[1]) == pytest.approx(2, abs=0.05)


def test_far_start_of_the_resonators():
    p = problem("resonators")
    ep = find_exceptional_point(p.family(), [0.15 + 0.30j], target=p.target)
    assert abs(ep.parameters[0] - RESONATORS["parameters"]) < 1e-11
    assert ep.chain.cost.factorizations == 1


def test_mirror_image_is_an_exceptional_point_too():
    p = problem("resonators")
    ep = find_exceptional_point(p.family(), [0.10 - 0.30j], target=p.target)
    assert abs(ep.parameters[0] + RESONATORS["parameters"]) < 1e-11
    assert abs(ep.chain.eigenvalue - RESONATORS["eigenvalue"]) < 1e-11


def test_third_order_point():
    p = problem("three-waveguides")
    ep = find_exceptional_point(p.family(), p.start, target=p.target, size=3)
    assert ep.parameters == pytest.approx([0.0072804509204, 0.0002100387072], abs=1e-12)
    assert abs(ep.chain.eigenvalue - 35.330739815332) < 2e-12
    assert ep.chain.singular_values == pytest.approx([0.114990, 0.106305, 0], abs=1e-6)
    assert np.linalg.norm(ep.chain.vectors, axis=0) == pytest.approx([1, 9.04756, 82.0588], rel=1e-6)
    assert ep.chain.weyr == (1, 1, 1)
    assert ep.chain.cost.factorizations == 1


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("kind", [np.asarray, scipy.sparse.csr_array])
def test_planted_point(plant, symmetric, kind):
    planted = plant(symmetric=symmetric)
    p0 = 0.4 - 0.1j  # the family is shifted so that the point is not at zero
    family = AffineFamily(
        kind(planted.A0 - p0 * planted.dA[0]),
        [kind(planted.dA[0])],
        kind(planted.B0 - p0 * planted.dB[0]),
        [kind(planted.dB[0])],
    )
    ep = find_exceptional_point(family, p0 + 0.01j, target=0.8 + 0.2j)
    assert abs(ep.parameters[0] - p0) < 1e-11
    assert abs(ep.chain.eigenvalue - planted.eigenvalue) < 1e-11
    assert planted.errors(ep.chain.vectors).max() < 1e-10


def test_point_at_zero_parameters(plant):
    planted = plant()
    family = AffineFamily(planted.A0, planted.dA, planted.B0, planted.dB)
    ep = find_exceptional_point(family, 0.01 + 0.01j, target=0.8 + 0.2j)
    assert abs(ep.parameters[0]) < 1e-12


@pytest.mark.parametrize("derivatives", [True, False])
def test_family_as_a_function(plant, derivatives):
    planted = plant()

    def family(p):  # not affine: the parameter enters as sin(p)
        A, B = planted.at(np.sin(p))
        if not derivatives:
            return A, B
        return A, B, [np.cos(p[0]) * planted.dA[0]], [np.cos(p[0]) * planted.dB[0]]

    ep = find_exceptional_point(family, np.pi + 0.01j, target=0.8 + 0.2j)
    assert abs(ep.parameters[0] - np.pi) < 1e-11
    assert planted.errors(ep.chain.vectors).max() < 1e-10


def test_two_real_parameters_serve_as_one_complex_one(plant):
    planted = plant(parameters=1)
    D, F = planted.dA[0], planted.dB[0]
    family = AffineFamily(planted.A0, [D, 1j * D], planted.B0, [F, 1j * F])
    ep = find_exceptional_point(family, [0.01, -0.008], target=0.8 + 0.2j)
    assert ep.parameters.dtype == np.float64
    assert ep.parameters == pytest.approx([0, 0], abs=1e-11)


def test_more_parameters_than_equations(plant):
    planted = plant(parameters=2)
    ep = find_exceptional_point(AffineFamily(planted.A0, planted.dA, planted.B0, planted.dB), [0.01 + 0j, -0.005j], target=0.8 + 0.2j)
    A, B = planted.at(ep.parameters)
    x, j = ep.chain.vectors.T
    assert np.linalg.norm(A @ j - ep.chain.eigenvalue * (B @ j) - B @ x) < 1e-12 * np.linalg.norm(A @ j)


def test_far_walk_makes_new_factorizations(plant, caplog):
    """The rest of the spectrum moves by as much as its distance: the factors of the start cannot serve to the end."""
    planted = plant()
    Z = planted.A0 - planted.eigenvalue * planted.B0
    rest = Z @ np.linalg.solve(planted.B0, Z)  # zero on the block, (l - l0)^2 on the other eigenvalues l
    family = AffineFamily(planted.A0, [planted.dA[0] + 100 * rest], planted.B0, planted.dB)
    with caplog.at_level("INFO", logger="jordan_dist"):
        ep = find_exceptional_point(family, 0.02 + 0j, target=0.7 + 0.3j)
    assert "a new factorization, at 0." in caplog.text
    assert abs(ep.parameters[0]) < 1e-10
    assert ep.chain.cost.factorizations > 1


def test_point_off_the_real_line_is_an_error(plant):
    planted = plant()
    p0 = 0.2 + 0.03j
    family = AffineFamily(planted.A0 - p0 * planted.dA[0], planted.dA, planted.B0 - p0 * planted.dB[0], planted.dB)
    with pytest.raises(NotConvergedError, match="no exceptional point at real parameters") as caught:
        find_exceptional_point(family, 0.21, target=0.8 + 0.2j)
    assert len(caught.value.history) > 1
    assert abs(find_exceptional_point(family, 0.21 + 0j, target=0.8 + 0.2j).parameters[0] - p0) < 1e-11


def test_diabolic_point_is_an_error():
    """[[1, p], [p, -1]] + p-independent rest: at p = 0 made equal by the second parameter, two eigenvalues cross without a block."""
    rest = np.diag([4.0, 5.0, 6.0, 7.0])

    def whole(block):
        out = np.zeros((6, 6))
        out[:2, :2] = block
        return out

    A0 = whole(np.zeros((2, 2)))
    A0[2:, 2:] = rest
    family = AffineFamily(A0, [whole(np.diag([1.0, -1.0])), whole(np.array([[0, 1.0], [1.0, 0]]))])
    with pytest.raises(NotConvergedError):
        find_exceptional_point(family, [0.01, 0.02], target=0.1)


def test_parameters_without_effect_are_an_error(plant):
    planted = plant()
    with pytest.raises(NotConvergedError, match="do not move the eigenvalues"):
        find_exceptional_point(AffineFamily(planted.at(1e-2)[0], [0 * planted.A0], planted.B0), 0.0, target=0.8 + 0.2j)


@pytest.mark.parametrize(
    ("start", "message"),
    [([0.1, 0.2], "start has 2 parameters, the family has 1"), ([np.nan], "one finite number"), ("here", "one finite number")],
)
def test_bad_start(plant, start, message):
    planted = plant()
    with pytest.raises(ValueError, match=message):
        find_exceptional_point(AffineFamily(planted.A0, planted.dA, planted.B0), start, target=0.8)


def test_bad_families(plant):
    planted = plant()
    with pytest.raises(ValueError, match="depends on no parameter"):
        AffineFamily(planted.A0)
    with pytest.raises(ValueError, match="dA has 1 matrices, dB has 2"):
        AffineFamily(planted.A0, planted.dA, planted.B0, [None, planted.dB[0]])
    with pytest.raises(ValueError, match=r"must return \(A, B\)"):
        find_exceptional_point(lambda p: planted.A0, 0.0, target=0.8)


def two_symmetries(seed=0):
    """Modes of two symmetries, mixed by a similarity: in one l = 2 p +- sqrt(p), with an exceptional point at p = 0; in the other a
    pair near 0.9 + 0.6i, with one at p = 0.45, which is nearer the mean 2 p on the way from p = 1 than the pair itself. The eigenvectors of
    the first lie in the first two columns of the matrix returned."""
    A0, A1 = np.zeros((8, 8), dtype=complex), np.zeros((8, 8), dtype=complex)
    A0[:2, :2], A1[:2, :2] = [[0, 1], [0, 0]], [[2, 0], [1, 2]]
    A0[2:4, 2:4], A1[2:4, 2:4] = [[0.9 + 0.6j, 0.05], [-0.45, 0.9 + 0.6j]], [[0, 0], [1, 0]]
    A0[4:, 4:] = np.diag([5.0, 6.0, 7.0, 8.0])
    T = np.eye(8) + 0.3 * np.random.default_rng(seed).standard_normal((8, 8)) / np.sqrt(8)
    return AffineFamily(T @ A0 @ np.linalg.inv(T), [T @ A1 @ np.linalg.inv(T)]), T


@pytest.mark.parametrize("start", [1.0, 0.8 - 0.1j])
def test_far_search_stays_with_its_modes(start):
    family, T = two_symmetries()
    ep = find_exceptional_point(family, start, target=2 * start)
    assert abs(ep.parameters[0]) < 1e-10
    assert abs(ep.chain.eigenvalue) < 1e-10
    outside = np.linalg.solve(T, ep.chain.vectors)[2:]
    assert np.linalg.norm(outside, axis=0) == pytest.approx([0, 0], abs=1e-9 * np.linalg.norm(ep.chain.vectors[:, 1]))
    fractions = [step.fraction for step in ep.history]
    assert fractions[0] < 1  # too far for one step
    assert fractions[-1] == 1
    assert all(0 < f <= 1 for f in fractions)


def test_other_modes_are_not_taken_for_the_sought_ones(monkeypatch):
    """If the subspace after every step is another one, the search says so instead of following it."""
    from jordan_dist import exceptional

    family, _ = two_symmetries()
    follow = exceptional.Search.follow

    def jump(self, tolerance):
        sweeps = follow(self, tolerance)
        other = exceptional.factored_pair(self.problem, 0.9 + 0.6j, 2)
        other[0].destroy()
        self.pair = other[1]
        return sweeps

    monkeypatch.setattr(exceptional.Search, "follow", jump)
    with pytest.raises(NotConvergedError, match="other modes take over") as caught:
        find_exceptional_point(family, 1.0, target=2.0)
    assert len(caught.value.history) == 1


def test_size_from_the_gap():
    for blocks in ((2,), (3,), (4,), (2, 1), (2, 2), (1, 1)):
        known = planted_pencil(*blocks, n=40)
        found = jordan_chain(known.A0, known.B0, target=known.eigenvalue + 0.1, size=None)
        assert len(found.singular_values) == sum(blocks)
        assert found.verdict == ("semisimple" if max(blocks) == 1 else "block" if len(blocks) == 1 else "blocks")
        assert abs(found.eigenvalue - known.eigenvalue) < 1e-10
    with pytest.raises(NotConvergedError, match=r"no group of the eigenvalues .* stands clear of the next: name a size"):
        jordan_chain(np.diag(np.arange(1.0, 30.0)), target=10.1, size=None)
    p = problem("three-waveguides")
    A, B, dA, dB = p.pencil(p.nearby)
    found = jordan_chain(A, B, target=p.target, size=None, dA=dA, dB=dB)
    assert len(found.singular_values) == 3
    assert abs(found.eigenvalue - 35.330739815332) < 1e-6
