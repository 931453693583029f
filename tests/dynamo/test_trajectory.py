"""Paths along training: scores of known paths, p-values of random ones, networks that are one on its way."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from small_meta import train_meta
from small_population import make_specs

from dynamo_dist import InputError, Population, analysis, train_population
from dynamo_dist.analysis.trajectory import against_orders, path_scores, trajectories
from dynamo_dist.population.training import ChunkTraining


def test_scores_of_a_line_of_a_detour_and_of_one_point():
    line = path_scores(np.outer(np.arange(6.0), [3.0, 4.0]))
    assert (line.length, line.smoothness, line.monotonicity) == pytest.approx((1, 1, 1))
    # Out along x and back along the same way: every point but the turn is passed twice.
    back = path_scores(np.array([[0.0, 0], [1, 0], [2, 0], [1, 0], [0, 0]]))
    assert back.length == pytest.approx(2) and back.smoothness == pytest.approx((1 - 1 + 1) / 3) and back.monotonicity == pytest.approx(0)
    corner = path_scores(np.array([[0.0, 0], [1, 0], [1, 1]]))
    assert corner.length == pytest.approx(2**0.5) and corner.smoothness == pytest.approx(0)
    assert path_scores(np.ones((5, 3))).length == 0


def test_a_noisy_line_is_told_from_its_random_orders_and_random_points_are_not():
    rng = np.random.default_rng(0)
    own, shuffled, p = against_orders(np.outer(np.arange(8.0), [1, 0, 0]) + 0.1 * rng.standard_normal((8, 3)), rng, 999)
    assert max(p.length, p.smoothness, p.monotonicity) <= 0.005
    assert own.length < shuffled.length and own.smoothness > shuffled.smoothness and own.monotonicity > shuffled.monotonicity
    found = [against_orders(rng.standard_normal((7, 3)), rng, 199)[2] for _ in range(120)]
    for score in ("length", "smoothness", "monotonicity"):
        assert kstest([getattr(p, score) for p in found], "uniform").pvalue > 0.001, score


@pytest.fixture(scope="module")
def along(valence, tmp_path_factory):
    """Three networks after one, two, three and four epochs, and three others."""
    specs = make_specs(valence, networks=1, samples=64)
    for epochs in (2, 4, 1, 3):
        earlier = make_specs(valence, networks=1, samples=128, schedule="constant", epochs=epochs)
        specs += [replace(spec, id=f"{spec.id}, {epochs}") for spec in earlier]
    out = tmp_path_factory.mktemp("along")
    population = train_population(Population.create(out / "population", specs, valence))
    return population, train_meta(population, out / "meta")


def test_fewer_epochs_at_a_constant_rate_are_the_same_network_on_its_way(along):
    population, _ = along
    data, spec = population.datasets["data"], population.spec("perfect gru #0, 4")
    training = ChunkTraining([spec], data.base, data.outputs["perfect"])
    for step in range(3 * spec.steps_per_epoch):
        training.step(step)
    (stack,) = population.stacks(["perfect gru #0, 3"])
    for name, tensor in stack.networks.parameters.items():
        assert torch.allclose(tensor, training.networks.parameters[name], rtol=1e-4, atol=1e-6), name


def test_paths_of_a_population(along):
    _, meta = along
    found = trajectories([meta, meta], orders=99)
    assert [path.meta for path in found.paths] == [0, 0, 0, 1, 1, 1]
    for path in found.paths:
        assert path.epochs == (1, 2, 3, 4) and [id.rpartition(", ")[2] for id in path.ids] == ["1", "2", "3", "4"]
        assert np.array_equal(path.theta, np.stack([meta.embedding[meta.network_ids.index(id)] for id in path.ids]))
        assert path.scores == path_scores(path.theta)
    summary, tables = found.summary(), found.tables()
    assert summary["paths"] == 6 and summary["length"]["mean"] == pytest.approx(np.mean(tables["paths"]["length"].to_numpy()))
    assert tables["trajectory"].num_rows == 24 and tables["trajectory"]["theta"].to_pylist()[0] == found.paths[0].theta[0].tolist()


def test_populations_without_paths_are_refused(along, tmp_path):
    population, _ = along
    some = [id for id in population.network_ids if not id.endswith(", 3")]
    own = train_population(Population.create(tmp_path / "few", [population.spec(id) for id in some], population.datasets["data"]))
    with pytest.raises(InputError, match=r"holds no network at 4 or more moments of its training: .* schedule='constant'"):
        analysis.trajectories([train_meta(own, tmp_path / "meta", steps=2)])
