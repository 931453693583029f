"""Bifurcations of maps whose place and kind are known."""

import math

import pytest
import torch

from dynamo_dist import InputError
from dynamo_dist.analysis.dynamics import Cells, FunctionMaps, continue_points


def family(function, size=1):
    """Maps of one function (h (R, H), s (R, 1)) at parameters s."""
    return lambda s_P: FunctionMaps(lambda h, m: function(h, s_P[m][:, None]), count=len(s_P), size=size)


def starts(steps, size=1, box=2.0):
    return (torch.rand(steps, 50, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1) * box


def neimark_sacker(h, s):
    """Turned by 0.7 and stretched by 1 + s - |h|^2."""
    u, v = h[:, :1], h[:, 1:]
    stretch = 1 + s - h.square().sum(dim=1, keepdim=True)
    return stretch * torch.cat([math.cos(0.7) * u - math.sin(0.7) * v, math.sin(0.7) * u + math.cos(0.7) * v], dim=1)


CASES = {
    # name: function, size, from, to, where, kind, points before and after (stable, unstable)
    "saddle-node": (lambda h, s: h + s - 0.3 * h**2, 1, -1.03, 1.0, 0.0, "saddle-node", (0, 0), (1, 1)),
    "saddle-node backwards": (lambda h, s: h - s - 0.3 * h**2, 1, -1.0, 1.03, 0.0, "saddle-node", (1, 1), (0, 0)),
    "supercritical pitchfork": (lambda h, s: h + s * h - h**3, 1, -0.5, 0.53, 0.0, "pitchfork", (1, 0), (2, 1)),
    "subcritical pitchfork": (lambda h, s: h + s * h + h**3, 1, -0.5, 0.53, 0.0, "pitchfork", (1, 2), (0, 1)),
    "tanh(w h)": (lambda h, s: torch.tanh(s * h), 1, 0.5, 1.53, 1.0, "pitchfork", (1, 0), (2, 1)),
    "flip": (lambda h, s: -(1 + s) * h + h**3, 1, -0.5, 0.53, 0.0, "flip", (1, 2), (0, 3)),
    "logistic map": (lambda h, s: s * h * (1 - h), 1, 2.0, 3.43, 3.0, "flip", (1, 1), (0, 2)),
    "Neimark-Sacker": (neimark_sacker, 2, -0.5, 0.53, 0.0, "Neimark-Sacker", (1, 0), (0, 1)),
}


@pytest.mark.parametrize("name", CASES)
def test_bifurcations_are_found_where_they_are(name):
    function, size, low, high, where, kind, before, after = CASES[name]
    parameter = torch.linspace(low, high, 21, dtype=torch.float64)
    path = continue_points(family(function, size), parameter, starts(21, size))
    (found,) = path.bifurcations
    assert (found.kind, found.before, found.after) == (kind, before, after)
    assert abs(found.at - where) <= 1e-6 * (high - low)
    # Next to it, the eigenvalue has come to the unit circle: to the root of the distance at a saddle-node.
    assert abs(abs(found.eigenvalue) - 1) < 0.01
    expected = {"flip": -1, "Neimark-Sacker": complex(math.cos(0.7), abs(math.sin(0.7)))}.get(kind, 1)
    assert abs(complex(found.eigenvalue.real, abs(found.eigenvalue.imag)) - expected) < 0.01
    counts = path.counts()
    assert tuple(counts[0].tolist()) == before and tuple(counts[-1].tolist()) == after


def test_branches_follow_the_points():
    """h^2 = s: two branches from 0 on, and their positions are the roots."""
    parameter = torch.linspace(-0.5, 1.0, 31, dtype=torch.float64) + 0.01
    path = continue_points(family(lambda h, s: h + 0.3 * (s - h**2)), parameter, starts(31))
    assert len(path.branch.unique()) == 2
    for branch in path.branch.unique():
        own = path.points.select(path.branch == branch)
        root = parameter[own.map].sqrt()
        sign = own.state[0, 0].sign()
        torch.testing.assert_close(own.state[:, 0], sign * root, rtol=1e-8, atol=1e-9)
        assert bool(own.stable.all()) == (sign > 0)


def test_what_the_starts_of_a_step_miss_comes_by_continuation():
    """Starts at all steps but one lie where the lower point draws them; the upper point is handed on from that step, both ways."""
    parameter = torch.linspace(1.2, 2.0, 9, dtype=torch.float64)
    own = torch.full((9, 5, 1), -1.0, dtype=torch.float64) + 0.01 * torch.arange(5)[:, None]
    own[4] = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    path = continue_points(family(lambda h, s: torch.tanh(s * h)), parameter, own)
    assert path.counts().tolist() == [[2, 1]] * 9
    assert not bool(path.cold.all()) and not path.bifurcations
    assert bool(path.continued[~path.cold].all())


def test_several_bifurcations_between_two_steps_are_told_apart():
    """Two units with thresholds at 0.501 and 0.507, between the steps 0.5 and 0.55."""

    def function(h, s):
        return torch.cat([h[:, :1] + (s - 0.501) * h[:, :1] - h[:, :1] ** 3, h[:, 1:] + (s - 0.507) * h[:, 1:] - h[:, 1:] ** 3], dim=1)

    parameter = torch.linspace(0.3, 0.8, 11, dtype=torch.float64)
    path = continue_points(family(function, 2), parameter, starts(11, 2, box=1.0))
    assert [one.kind for one in path.bifurcations] == ["pitchfork", "pitchfork"]
    assert [one.at for one in path.bifurcations] == pytest.approx([0.501, 0.507], abs=1e-6)
    assert path.counts()[-1].tolist() == [4, 5]


def test_a_pitchfork_of_a_vanilla_network():
    """h' = tanh(h w) with eigenvalue s of w: the origin splits at s = 1, along the eigenvector."""
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]

    def weights(s_P):
        spectrum = torch.cat([s_P[:, None], torch.full((len(s_P), 5), 0.3, dtype=torch.float64)], dim=1)
        w = turn @ (spectrum[:, :, None] * turn.T)
        none = torch.zeros(len(s_P), 1, 6, dtype=torch.float64)
        return Cells(cell="rnn", w_input=none, b_input=none[:, 0], w_recurrent=w).at(none[:, 0, :1])

    parameter = torch.linspace(0.7, 1.35, 14, dtype=torch.float64)
    path = continue_points(weights, parameter, starts(14, 6, box=1.0))
    (found,) = path.bifurcations
    assert found.kind == "pitchfork" and found.at == pytest.approx(1, abs=1e-6)
    last = path.points.of(13)
    away = last.state[last.stable]
    assert len(away) == 2
    cosine = (away @ turn[:, 0]).abs() / away.norm(dim=1)
    assert float(cosine.min()) > 0.9


def test_a_path_that_goes_back_is_refused():
    with pytest.raises(InputError, match="increasing"):
        continue_points(family(lambda h, s: s * h), torch.tensor([0.0, 1.0, 0.5]), starts(3))
