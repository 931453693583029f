"""The search, spectra, slow sets and limit cycles against maps whose points are known, scipy's roots, numpy's eigenvalues and torch's
Jacobians."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from dynamo_dist import InputError
from dynamo_dist.analysis.dynamics import Cells, FunctionMaps, limit_cycles, search, slow_sets
from dynamo_dist.analysis.dynamics.cycles import period
from dynamo_dist.analysis.dynamics.networks import stacked_cells
from dynamo_dist.analysis.dynamics.points import FIXED, SLOW
from dynamo_dist.analysis.dynamics.slow import intrinsic_dimension
from dynamo_dist.analysis.dynamics.validation import chamfer, distance_correlation, relaxation_time
from dynamo_dist.networks import Recurrent, StackedRecurrent
from dynamo_dist.networks.architecture import CELLS


def double(*shape, seed=0, scale=1.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def networks_of(cell, hidden=5, seeds=(0, 1, 2)):
    """Stacked networks with weights large enough for non-linear dynamics."""
    architecture = Recurrent(cell=cell, hidden=hidden, features=2, outputs=2)
    stack = StackedRecurrent.initial(architecture, seeds).to(torch.float64)
    return StackedRecurrent(architecture, {name: 3 * t for name, t in stack.tensors.items()})


def rnn(w_MHH, b_MH=None):
    """h' = tanh(h w + b)."""
    count, hidden = w_MHH.shape[:2]
    b = torch.zeros(count, hidden, dtype=torch.float64) if b_MH is None else b_MH
    return Cells(cell="rnn", w_input=torch.zeros(count, 1, hidden, dtype=torch.float64), b_input=b, w_recurrent=w_MHH).at(
        torch.zeros(count, 1, dtype=torch.float64)
    )


@pytest.mark.parametrize("cell", CELLS)
def test_a_step_and_its_jacobian_are_those_of_torchs_module(cell):
    networks, x = networks_of(cell), double(3, 2, seed=7)
    maps = stacked_cells(networks).at(x)
    h = double(3, 4, maps.size, seed=8, scale=0.7)
    m = torch.arange(3).repeat_interleave(4)
    new, jacobian = maps.jacobian(h.flatten(0, 1), m)
    for row in range(12):
        layer, own = networks.network(int(m[row])).recurrent, h.flatten(0, 1)[row]

        def step(h, layer=layer, x=x[m[row]]):
            if cell == "lstm":
                parts = (part[None, None] for part in h.chunk(2))
                return torch.cat(layer(x[None, None], tuple(parts))[1], dim=-1)[0, 0]
            if cell == "ugrnn":  # ours has no initial state to give: written out
                g, c = (x @ layer.weight_ih_l0.T + layer.bias_ih_l0 + layer.bias_hh_l0 + h @ layer.weight_hh_l0.T).chunk(2)
                return g.sigmoid() * h + (1 - g.sigmoid()) * c.tanh()
            return layer(x[None, None], h[None, None])[1][0, 0]

        torch.testing.assert_close(new[row], step(own).detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(jacobian[row], torch.func.jacrev(step)(own).detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(maps.step_all(h).flatten(0, 1), new)
    torch.testing.assert_close(maps.step(h.flatten(0, 1), m), new)
    # Rows in any order, and of one map alone, are the same rows.
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(maps.jacobian(h.flatten(0, 1)[order], m[order])[1], jacobian[order])
    torch.testing.assert_close(maps.jacobian(h[1], torch.full((4,), 1))[1], jacobian[4:8])


def test_any_function_is_a_map():
    networks = networks_of("gru")
    maps = stacked_cells(networks).at(double(3, 2))
    w = networks.parameters["w_recurrent"]
    function = FunctionMaps(lambda h, m: torch.tanh(torch.bmm(h[:, None], w[m][:, :, :5])[:, 0]), count=3, size=5)
    h, m = double(6, 5), torch.tensor([0, 0, 1, 2, 2, 2])
    new, jacobian = function.jacobian(h, m)
    for row in range(6):
        expected = torch.func.jacrev(lambda h, own=w[m[row], :, :5]: torch.tanh(h @ own))(h[row])
        torch.testing.assert_close(jacobian[row], expected)
    torch.testing.assert_close(function.step(h, m), new)
    assert function.run(double(3, 2, 5), 4).shape == (4, 3, 2, 5) == maps.run(double(3, 2, 5), 4).shape


def test_all_27_points_of_three_bistable_units():
    gains = (1.3, 2.0, 3.0)
    maps = rnn(torch.diag(torch.tensor(gains, dtype=torch.float64))[None])
    points = search(maps, double(1, 400, 3))
    roots = [brentq(lambda h, w=w: h - math.tanh(w * h), 1e-3, 1) for w in gains]
    known = torch.tensor(list(itertools.product(*((-root, 0.0, root) for root in roots))), dtype=torch.float64)
    assert len(points) == 27 and bool(points.fixed.all()) and float(points.q.max()) < FIXED
    distance, which = torch.cdist(known, points.state, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)
    assert float(distance.max()) < 1e-9 and len(which.unique()) == 27
    # The Jacobian is diagonal: w (1 - h^2) of every unit.
    slopes = torch.tensor(gains, dtype=torch.float64) * (1 - known**2)
    np.testing.assert_allclose(points.eigenvalues[which].real, slopes.sort(dim=1, descending=True).values, atol=1e-9)
    np.testing.assert_array_equal(points.unstable[which], (slopes > 1).sum(dim=1))
    assert int(points.stable.sum()) == 8
    assert int(points.starts.sum()) == 400
    np.testing.assert_allclose(points.tolerance, FIXED)


def test_maps_are_searched_apart():
    """Maps in one batch have the points that each has alone, however different their numbers are."""
    w = torch.stack([torch.eye(2, dtype=torch.float64) * gain for gain in (0.5, 2.0, 1.5)])
    starts = double(3, 100, 2)
    together = search(rnn(w), starts)
    for m, expected in enumerate((1, 9, 9)):
        alone = search(rnn(w[m : m + 1]), starts[m : m + 1])
        assert len(alone) == len(together.of(m)) == expected
        assert chamfer(alone.state, together.of(m).state) < 1e-9


@pytest.mark.parametrize("cell", CELLS)
def test_points_of_random_networks_are_at_rest_and_have_numpys_spectrum(cell):
    networks = networks_of(cell, hidden=6)
    maps = stacked_cells(networks).at(torch.zeros(3, 2, dtype=torch.float64))
    points = search(maps, double(3, 100, maps.size))
    fixed = points.select(points.fixed)
    assert len(fixed)
    new, jacobian = maps.jacobian(fixed.state, fixed.map)
    assert float((new - fixed.state).norm(dim=1).max()) < 2e-12 * max(1, float(fixed.state.abs().max()))
    for row in range(len(fixed)):
        expected = np.linalg.eigvals(jacobian[row].numpy())
        np.testing.assert_allclose(np.sort(np.abs(expected))[::-1], fixed.eigenvalues[row].abs(), atol=1e-7)
        right, left, values = (t[row].numpy() for t in (fixed.right, fixed.left, fixed.eigenvalues))
        modes = right.shape[1]
        np.testing.assert_allclose(jacobian[row].numpy() @ right, right * values[:modes], atol=1e-7)
        if np.isfinite(left).all() and np.linalg.norm(left) < 1e6:
            np.testing.assert_allclose(left.conj().T @ jacobian[row].numpy(), values[:modes, None] * left.conj().T, atol=1e-6)
            np.testing.assert_allclose(left.conj().T @ right, np.eye(modes), atol=1e-7)


def test_a_leaky_integrator_has_its_time_constant():
    tau = torch.tensor([4.4814, 30.0], dtype=torch.float64)
    decay = torch.exp(-1 / tau)
    maps = FunctionMaps(lambda h, m: decay[m][:, None] * h + 0.1, count=2, size=1)
    points = search(maps, double(2, 20, 1))
    assert points.map.tolist() == [0, 1]
    np.testing.assert_allclose(points.time_constants[:, 0], tau, rtol=1e-9)
    np.testing.assert_allclose(points.state[:, 0], 0.1 / (1 - decay), rtol=1e-9)
    assert relaxation_time(maps, 0, double(20, 1), torch.ones(1, 1, dtype=torch.float64)) == pytest.approx(4.4814, rel=1e-6)


def test_slow_points_are_told_apart_from_fixed_ones():
    """h' = h + h^2 + a: beyond the saddle-node, a > 0, the minimum of q at 0 has speed a and is no fixed point."""
    offset = torch.tensor([0.01, -0.01, 0.5], dtype=torch.float64)
    maps = FunctionMaps(lambda h, m: h + h * h + offset[m][:, None], count=3, size=1)
    points = search(maps, double(3, 50, 1), typical_speed_M=torch.ones(3, dtype=torch.float64))
    slow, fixed, fast = (points.of(m) for m in range(3))
    assert slow.fixed.tolist() == [False]
    assert float(slow.state.abs()) < 1e-2 and float(slow.speed) == pytest.approx(0.01, rel=1e-2)
    assert float(slow.tolerance) == pytest.approx(0.5 * SLOW**2)
    assert fixed.fixed.tolist() == [True, True]
    np.testing.assert_allclose(fixed.state[:, 0].sort().values, [-0.1, 0.1], atol=1e-9)
    # A speed of half the typical one is not slow.
    assert not len(fast)
    assert not len(search(maps, double(3, 50, 1), slow=False).of(0))


def test_the_flow_from_a_slow_point_is_followed_to_the_stable_point_at_its_end():
    """y' = y + 1e-4 + y^2 (1 - y) / 10: from y = 0, where a pair of points has just vanished, it creeps to the one that is left, in some 1,000
    steps. Of x, which decays, a tail beyond 5 that no flow from the starts leads to."""

    def function(h, m):
        x, y = h.unbind(dim=1)
        return torch.stack([0.5 * x + 3 * torch.sigmoid(20 * (x - 6)), y + 1e-4 + 0.1 * y**2 * (1 - y)], dim=1)

    starts = torch.stack([double(40, seed=1), torch.linspace(-0.3, 0.3, 40, dtype=torch.float64)], dim=1)[None]
    maps, speed = FunctionMaps(function, count=1, size=2), torch.full((1,), 0.1, dtype=torch.float64)
    found = search(maps, starts, typical_speed_M=speed)
    end = float(np.roots([-0.1, 0.1, 0.0, 1e-4])[0].real)
    assert found.fixed.tolist() == [True, False] and found.stable[0]
    assert torch.allclose(found.state[0], torch.tensor([0.0, end], dtype=torch.float64), rtol=0, atol=1e-9)
    assert found.state[1].abs().max() < 1e-3 and found.starts[0] >= found.starts[1] > 20
    # Without slow points there is nothing to follow.
    assert not len(search(maps, starts[:, 15:25], typical_speed_M=speed, slow=False))


def test_where_the_descent_ends_in_a_flat_valley_is_slow_all_the_same():
    """h' = h + 1e-6 exp(-h): ever slower, and at rest nowhere."""
    maps = FunctionMaps(lambda h, m: torch.stack([h[:, 0] + 1e-6 * torch.exp(-h[:, 0]), 0.5 * h[:, 1]], dim=1), count=1, size=2)
    points = search(maps, double(1, 10, 2), typical_speed_M=torch.ones(1, dtype=torch.float64))
    assert len(points) and not bool(points.fixed.any())
    assert float((points.q / points.tolerance).max()) < 1


def planted(dimension, step):
    """Maps in 10 dimensions, turned at random, that move the first `dimension` coordinates by `step` and halve the others."""
    turn = torch.linalg.qr(double(10, 10, seed=3))[0]

    def function(h, m):
        inner = h @ turn
        return torch.cat([step(inner[:, :dimension]), 0.5 * inner[:, dimension:]], dim=1) @ turn.T

    return FunctionMaps(function, count=1, size=10), turn


@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_the_dimension_of_line_plane_and_solid_attractors(dimension):
    maps, turn = planted(dimension, lambda u: 0.999 * u)
    starts = (torch.rand(1, 800, 10, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 2 - 1) @ turn.T
    readout = turn[None, :, :dimension]
    (found,) = slow_sets(maps, starts, torch.ones(1, dtype=torch.float64), readout)
    assert found.share == 1
    assert abs(found.dimension - dimension) < 0.15 * dimension
    assert found.slow_directions == dimension
    assert found.alignment == pytest.approx(1, abs=1e-6) and found.chance == pytest.approx(dimension / 10)
    (orthogonal,) = slow_sets(maps, starts, torch.ones(1, dtype=torch.float64), turn[None, :, dimension:])
    assert orthogonal.alignment == pytest.approx(0, abs=1e-6)


def test_the_length_of_a_line_and_of_a_ring():
    maps, turn = planted(1, lambda u: 0.999 * u)
    starts = (torch.rand(1, 800, 10, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 2 - 1) @ turn.T
    spread = float((starts[0] - starts[0].mean(dim=0)).square().sum(dim=1).mean().sqrt())
    (line,) = slow_sets(maps, starts, torch.ones(1, dtype=torch.float64))
    assert line.length * spread == pytest.approx(2, rel=0.1)
    assert math.isnan(line.alignment)
    # r' = r + 0.5 r (1 - r^2): every point of the unit circle is fixed, and the farthest way is half of it.
    ring, turn = planted(2, lambda u: u + 0.5 * u * (1 - u.square().sum(dim=1, keepdim=True)))
    # The origin is a fixed point too, and a state or two go there.
    (circle,) = slow_sets(ring, starts, torch.ones(1, dtype=torch.float64))
    assert abs(circle.dimension - 1) < 0.15
    radius = np.linalg.norm(circle.states @ turn.numpy()[:, :2], axis=1)
    assert np.mean(np.abs(radius - 1) < 0.01) > 0.99
    assert circle.length * spread == pytest.approx(math.pi, rel=0.1)


def test_isolated_points_have_dimension_0():
    maps = rnn(3 * torch.eye(3, dtype=torch.float64)[None])
    (found,) = slow_sets(maps, double(1, 500, 3), torch.ones(1, dtype=torch.float64))
    assert found.dimension == 0
    assert intrinsic_dimension(np.zeros((5, 3)), 1.0) == 0


def test_limit_cycles_and_their_periods():
    """Turning by a fixed angle on a stable circle of radius 1; in the second map the circle is a fixed point at the origin."""
    angle, growth = 2 * math.pi / 10.4, torch.tensor([0.5, -0.5], dtype=torch.float64)
    rotation = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]], dtype=torch.float64)

    def function(h, m):
        size = h.square().sum(dim=1, keepdim=True)
        return (h * (1 + growth[m][:, None] * (1 - size) * (growth[m][:, None] > 0)) * torch.where(growth[m] > 0, 1.0, 0.9)[:, None]) @ rotation

    maps = FunctionMaps(function, count=2, size=2)
    turning, resting = limit_cycles(maps, double(2, 4, 2, scale=0.3))
    assert len(turning) == 1 and not resting
    (cycle,) = turning
    assert cycle.closed and cycle.share == 1
    assert cycle.period == pytest.approx(10.4, rel=1e-3)
    assert cycle.drift == pytest.approx(1, abs=1e-3) and cycle.closure < 0.02


def test_a_slow_decay_is_no_limit_cycle():
    angle = 2 * math.pi / 20
    rotation = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    maps = FunctionMaps(lambda h, m: 0.9995 * h @ rotation, count=1, size=2)
    (found,) = limit_cycles(maps, double(1, 3, 2))
    assert found and not any(cycle.closed for cycle in found)


@pytest.mark.parametrize("steps", [7.0, 16.53, 40.2])
def test_the_period_of_a_wave_with_harmonics(steps):
    t = torch.arange(512, dtype=torch.float64)
    phase = 2 * math.pi * t / steps
    wave = torch.stack([phase.sin(), 0.5 * (2 * phase).cos(), 0.2 * (3 * phase + 1).sin()], dim=1)
    assert period(wave) == pytest.approx(steps, rel=2e-3)


def test_noise_has_no_period():
    assert math.isnan(period(double(512, 3)))


def test_rank_correlation_of_distances_against_shuffled_networks():
    rng = np.random.default_rng(0)
    theta = rng.normal(size=(30, 3))
    related = distance_correlation(theta, 2 * theta + 0.1 * rng.normal(size=(30, 3)), seed=0)
    assert related.rho > 0.8 and related.p == pytest.approx(0.001)
    # Under the null p is uniform: 40 independent pairs, about 2 below 0.05.
    null = [distance_correlation(rng.normal(size=(12, 2)), rng.normal(size=(12, 2)), seed=k).p for k in range(40)]
    assert sum(p < 0.05 for p in null) <= 6 and 0.3 < np.mean(null) < 0.7
    assert math.isnan(distance_correlation(theta, np.ones((30, 2)), seed=0).rho)
    assert math.isnan(distance_correlation(theta[:3], theta[:3], seed=0).p)


def test_the_rank_correlation_is_scipys():
    from scipy.spatial.distance import pdist
    from scipy.stats import spearmanr

    rng = np.random.default_rng(1)
    theta, other = rng.normal(size=(15, 3)), rng.normal(size=(15, 1))
    expected = spearmanr(pdist(theta), pdist(other)).statistic
    assert distance_correlation(theta, other, seed=0).rho == pytest.approx(expected, abs=1e-12)


def test_no_starts_are_refused():
    with pytest.raises(InputError, match="at least 1"):
        search(rnn(torch.eye(2, dtype=torch.float64)[None]), torch.empty(1, 0, 2))
