"""Measures of representations against their definitions, written out for two matrices, and what each must not see."""

import importlib.util

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes

from dynamo_dist.analysis import dsa, representation

ROWS = 40


def measured(folder, *representations):
    """All measures between (R, H) matrices of any widths."""
    blocks = [representation.factor(x[None], folder, f"{n}") for n, x in enumerate(representations)]
    return representation.distances(blocks)


def between(folder, x, y):
    return {name: distance[0, 1] for name, distance in measured(folder, x, y).items()}


def drawn(seed, width=5, rows=ROWS):
    """Units of unlike variance that are correlated."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, width)) @ rng.normal(size=(width, width)) + rng.normal(size=width)


def related(x, seed, width):
    rng = np.random.default_rng(seed)
    return np.tanh(x @ rng.normal(size=(x.shape[1], width)) / 3) + 0.3 * rng.normal(size=(len(x), width))


# ---- definitions -----------------------------------------------------------------------------------------------------------


def unbiased_cka(x, y):
    def hsic(k, l):
        n = len(k)
        k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))
        one = np.ones(n)
        trace = np.trace(k @ l) + (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ k @ l @ one)
        return trace / (n * (n - 3))

    k, l = x @ x.T, y @ y.T
    return 1 - hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l))


def whitened(x):
    values, vectors = np.linalg.eigh(x.T @ x)
    return x @ vectors / np.sqrt(values)


def svcca(x, y):
    def reduced(z):
        z = z - z.mean(axis=0)
        values, vectors = np.linalg.eigh(z.T @ z)
        order = np.argsort(values)[::-1]
        share = np.cumsum(values[order]) / values.sum()
        return z @ vectors[:, order[: int(np.argmax(share >= 0.99)) + 1]]

    return 1 - np.linalg.svd(whitened(reduced(x)).T @ whitened(reduced(y)))[1].mean()


def pwcca_of(x, y):
    """Morcos et al., equations 1 and 2: canonical variables of x, weighted by what they account for in x."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    a, b = whitened(x), whitened(y)
    directions, correlations, _ = np.linalg.svd(a.T @ b, full_matrices=False)
    variables = a @ directions
    weights = np.array([sum(abs(h @ unit) for unit in x.T) for h in variables.T])
    return (weights * correlations).sum() / weights.sum()


def pwcca(x, y):
    return 1 - (pwcca_of(x, y) + pwcca_of(y, x)) / 2


def angular_procrustes(x, y):
    width = max(x.shape[1], y.shape[1])
    x, y = (np.pad(z - z.mean(axis=0), ((0, 0), (0, width - z.shape[1]))) for z in (x, y))
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    rotation, _ = orthogonal_procrustes(x, y)
    return np.arccos((x @ rotation * y).sum())


DEFINED = {"cka": unbiased_cka, "svcca": svcca, "pwcca": pwcca, "procrustes": angular_procrustes}


@pytest.mark.parametrize("widths", [(5, 5), (4, 7), (9, 3)])
def test_measures_are_what_they_are_defined_to_be(tmp_path, widths):
    x = drawn(1, widths[0])
    y = related(x, 2, widths[1])
    for name, distance in between(tmp_path, x, y).items():
        assert distance == pytest.approx(DEFINED[name](x, y), abs=1e-9), name
        assert 0 < distance < 1.5


def test_many_networks_in_blocks_are_compared_as_pairs(tmp_path):
    rng = np.random.default_rng(0)
    base = drawn(3)
    networks = [related(base, seed, width) for seed, width in enumerate([4, 4, 4, 7, 7, 3])]
    blocks = [
        representation.factor(np.stack(networks[part]), tmp_path, str(n)) for n, part in enumerate((slice(0, 3), slice(3, 5), slice(5, 6)))
    ]
    for name, distance in representation.distances(blocks).items():
        assert distance.shape == (6, 6) and (distance == distance.T).all() and (np.diag(distance) == 0).all()
        for m, n in zip(*np.triu_indices(6, 1), strict=True):
            assert distance[m, n] == pytest.approx(DEFINED[name](networks[m], networks[n]), abs=1e-9)
    # The same, all of one block, in single precision.
    same = rng.permutation(3)
    again = representation.distances([representation.factor(np.stack(networks[:3])[same].astype(np.float32), tmp_path, "s")])
    whole = representation.distances(blocks)
    for name in again:
        assert np.allclose(again[name], whole[name][np.ix_(same, same)], atol=1e-4)


def test_rotations_scales_and_shifts_are_no_difference(tmp_path):
    x = drawn(0, 6)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    for name, distance in between(tmp_path, x, 3.0 * x @ rotation + 7.0).items():
        assert distance == pytest.approx(0, abs=1e-6), name


def test_canonical_correlations_do_not_see_invertible_maps_and_the_others_do(tmp_path):
    x = drawn(0, 4)
    y = x @ np.random.default_rng(5).normal(size=(4, 4))
    found = between(tmp_path, x, y)
    assert found["pwcca"] == pytest.approx(0, abs=1e-9)
    assert found["cka"] > 0.01 and found["procrustes"] > 0.1
    # SVCCA where all directions are kept: equal variances before, any orthonormal ones after.
    isotropic = np.linalg.qr(x - x.mean(axis=0))[0]
    assert between(tmp_path, isotropic, isotropic @ np.diag([1, 0.8, 1.2, 1]) @ np.linalg.qr(y[:4])[0])["svcca"] == pytest.approx(
        0, abs=1e-9
    )


def test_unbiased_cka_of_unrelated_networks_is_zero_in_the_mean(tmp_path):
    rng = np.random.default_rng(0)
    networks = rng.normal(size=(24, 30, 20))
    distance = representation.distances([representation.factor(networks, tmp_path, "x")])["cka"]
    cka = 1 - distance[np.triu_indices(24, 1)]
    # The biased estimator would give 0.4 here.
    assert abs(cka.mean()) < 4 * cka.std() / np.sqrt(len(cka)) + 1e-3


def test_units_that_repeat_others_or_say_nothing_are_no_trouble(tmp_path):
    x = drawn(0, 4)
    doubled = np.concatenate([x, x[:, :1], np.ones((ROWS, 2))], axis=1)
    y = related(x, 1, 3)
    full, ranked = between(tmp_path, x, y), between(tmp_path, doubled, y)
    assert ranked["pwcca"] == pytest.approx(full["pwcca"], abs=0.2) and all(np.isfinite(list(ranked.values())))
    assert between(tmp_path, x, doubled)["pwcca"] == pytest.approx(0, abs=1e-9)


def test_constant_representations_have_no_distance(tmp_path):
    for distance in measured(tmp_path, drawn(0), np.ones((ROWS, 3)), drawn(1)).values():
        assert np.isnan(distance[[0, 1, 1, 2], [1, 0, 2, 1]]).all() and np.isfinite(distance[0, 2])


# ---- dynamics --------------------------------------------------------------------------------------------------------------


def simulated(a_HH, seed=0, trials=20, steps=30, noise=0.3):
    rng = np.random.default_rng(seed)
    h = rng.normal(size=(trials, len(a_HH)))
    states = []
    for _ in range(steps):
        h = h @ a_HH.T + noise * rng.normal(size=h.shape)
        states.append(h)
    return np.stack(states, axis=1)


def rotating(angle, decay, width=4, seed=0):
    """Two planes that turn and shrink, in a random basis."""
    turn = decay * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))[0]
    return basis @ np.kron(np.diag([1.0, 0.7]), turn) @ basis.T


def test_dynamics_that_differ_by_a_rotation_are_the_same_and_other_spectra_are_not():
    full = np.full(20, 30)
    h = simulated(rotating(0.3, 0.95))
    basis = np.linalg.qr(np.random.default_rng(9).normal(size=(4, 4)))[0]
    operators = [
        dsa.operator(states, full, delays=1, rank=4)
        for states in (h, h @ basis.T, simulated(rotating(0.3, 0.95, seed=4), seed=5), simulated(rotating(1.2, 0.6), seed=6))
    ]
    distance = dsa.distances(operators)
    assert distance[0, 1] < 1e-5  # the same states, turned
    assert distance[0, 2] < 0.1  # other states of the same system, in other coordinates: what sampling leaves
    assert distance[0, 3] > 0.5 and distance[2, 3] > 0.5
    assert (distance == distance.T).all() and (np.diag(distance) == 0).all()


def test_the_operator_of_a_linear_system_has_its_spectrum():
    a = rotating(0.3, 0.95)
    operator = dsa.operator(simulated(a, trials=200), np.full(200, 30), delays=1, rank=4)
    assert np.allclose(np.sort(np.abs(np.linalg.eigvals(operator))), np.sort(np.abs(np.linalg.eigvals(a))), atol=0.02)


def test_padding_and_short_sequences_are_left_out_of_the_operator():
    h, lengths = simulated(rotating(0.3, 0.95), trials=6), np.array([30, 12, 3, 4, 20, 30])
    padded = h.copy()
    for trial, length in enumerate(lengths):
        padded[trial, length:] = 1e3
    found = dsa.operator(padded, lengths, delays=4, rank=6)
    assert np.allclose(found, dsa.operator(h[[0, 1, 4, 5]], lengths[[0, 1, 4, 5]], delays=4, rank=6))
    assert np.isnan(dsa.operator(h[:1], np.array([4]), delays=4, rank=6)).all()
    assert np.isnan(dsa.distances([found, np.full((6, 6), np.nan)])[0, 1])


def test_the_angle_of_two_by_two_matrices_is_that_of_a_search_over_all_orthogonal_ones():
    rng = np.random.default_rng(0)
    for _ in range(5):
        a, b = rng.normal(size=(2, 2, 2))
        turns = np.linspace(0, 2 * np.pi, 20_001)
        c = np.array([[np.cos(turns), -np.sin(turns)], [np.sin(turns), np.cos(turns)]])
        every = np.concatenate([c.transpose(2, 0, 1), c.transpose(2, 0, 1) @ np.diag([1, -1])])
        best = (a * (every @ b @ every.transpose(0, 2, 1))).sum(axis=(1, 2)).max() / np.linalg.norm(a) / np.linalg.norm(b)
        assert dsa.distances([a, b])[0, 1] == pytest.approx(np.arccos(best), abs=1e-4)


def test_networks_of_smaller_operators_are_compared_too():
    small, large = np.diag([0.9, 0.5]), np.diag([0.9, 0.5, 0.0])
    assert dsa.distances([small, large])[0, 1] == pytest.approx(0, abs=1e-5)


needs_package = pytest.mark.skipif(importlib.util.find_spec("DSA") is None, reason="the package dsa-metric is not installed")


@needs_package
@pytest.mark.filterwarnings("ignore")
def test_operators_are_those_of_the_authors_package():
    from DSA.dmd import DMD

    h = simulated(rotating(0.3, 0.95, width=4), trials=12)
    theirs = DMD(h, n_delays=3, rank=6)
    theirs.fit()
    ours = dsa.operator(h, np.full(12, 30), delays=3, rank=6)
    # Coordinates have arbitrary signs.
    assert np.allclose(np.abs(ours), np.abs(theirs.A_v.numpy()), atol=1e-4)


@needs_package
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_angles_are_those_of_the_authors_package():
    """Both search and neither is sure to find the smallest angle: theirs start once, ours several times."""
    from DSA.simdist import SimilarityTransformDist

    rng = np.random.default_rng(0)
    operators = [np.diag(rng.uniform(0.6, 1, 6)) + 0.2 * rng.normal(size=(6, 6)) for _ in range(4)]
    ours, theirs = dsa.distances(operators)[np.triu_indices(4, 1)], []
    for m, n in zip(*np.triu_indices(4, 1), strict=True):
        torch.manual_seed(0)
        a, b = (torch.tensor(operators[k], dtype=torch.float32) for k in (m, n))
        theirs.append(float(SimilarityTransformDist(iters=1000, lr=0.01, score_method="angular").fit_score(a, b)))
    assert ours.mean() < np.mean(theirs) + 1e-3
    assert (ours < 1.05 * np.array(theirs)).all() and (ours > 0.7 * np.array(theirs)).all()
