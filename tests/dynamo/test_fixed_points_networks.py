"""Meta-models, base networks and imported networks as maps, against the networks themselves run step by step; and the whole result."""

import dataclasses
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from own_networks import Attention, EveryStep, Packed
from random_population import make_population, spec
from torch import nn

from dynamo_dist import InputError, MetaModel, MetaModelConfig, Population
from dynamo_dist.analysis import centre_path, fixed_points, fixed_points_of, theta_path
from dynamo_dist.analysis.dynamics import FunctionMaps, search
from dynamo_dist.analysis.dynamics.imported import layer_dynamics
from dynamo_dist.analysis.dynamics.networks import Draw, Dynamics, base_dynamics, dynamics_at, meta_cells, meta_dynamics
from dynamo_dist.analysis.dynamics.validation import agreement
from dynamo_dist.data.attractors import ClassIntegrationTask, FlipFlopTask, SineTask
from dynamo_dist.data.images import DigitsTask
from dynamo_dist.data.tasks import make
from dynamo_dist.metamodel import folder
from dynamo_dist.metamodel.private import StateMap
from dynamo_dist.metamodel.shard import Alone
from dynamo_dist.metamodel.training import TrainingJob, train_shard
from dynamo_dist.networks.architecture import CELLS, Imported
from dynamo_dist.population.groups import Group, specs_of
from dynamo_dist.population.scheduling import train_remaining
from dynamo_dist.runtime import LocalRuntime

CONFIG = MetaModelConfig(dimensions=3, hidden=8, embedding=4, steps=3, batch=6, checkpoint_every=3, unlike_tasks="pad")
PARTS = {"base": 64, "meta": 60, "test": 20}


def train(population, out, **fields):
    config = dataclasses.replace(CONFIG, **fields)
    folder.prepare(out, population, config)
    train_shard(TrainingJob(population=str(population.path), out=str(out), config=config, precision="float64"), group=Alone("cpu"))
    return MetaModel.open(out)


@pytest.fixture(scope="module")
def words():
    return make(ClassIntegrationTask(classes=3, shortest=4, longest=9, **PARTS))


@pytest.fixture(scope="module")
def pulses():
    return make(FlipFlopTask(bits=2, steps=12, **PARTS))


@pytest.fixture(scope="module")
def mixed(words, pulses, tmp_path_factory):
    """Networks of every cell on tokens, and GRUs on real values."""
    specs = [spec(f"words {cell}", words, cell=cell, name="words") for cell in CELLS]
    specs += [spec("pulses gru", pulses, name="pulses"), spec("pulses rnn", pulses, cell="rnn", hidden=9, name="pulses")]
    return make_population(tmp_path_factory.mktemp("mixed") / "population", specs, {"words": words, "pulses": pulses})


@pytest.fixture(scope="module")
def meta(mixed, tmp_path_factory):
    return train(mixed, tmp_path_factory.mktemp("mixed") / "meta")


def mean_embedding(data, table_WF):
    """Over all words of the inputs without labels, one by one."""
    total, count = torch.zeros(table_WF.shape[1], dtype=torch.float64), 0
    for tokens, length in zip(data.meta.inputs, data.meta.lengths_N.tolist(), strict=True):
        for token in tokens[:length].tolist():
            total, count = total + table_WF[token].double(), count + 1
    return total / count


@pytest.mark.parametrize("conditioning", ["concat", "film", "lowrank"])
def test_the_meta_model_at_theta_is_its_map(mixed, words, pulses, tmp_path, conditioning):
    meta = train(mixed, tmp_path, conditioning=conditioning)
    theta = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for name, data in (("words", words), ("pulses", pulses)):
        inputs = data.test.inputs[:1, :4]
        expected, _ = meta.emulate(theta, inputs if name == "words" else inputs.to(meta.dtype), data=name)
        cells, first = meta_cells(meta, theta, name), meta.interface.first_id.get(name)
        h = meta.dynamics.initial_state.double().expand(4, -1)
        for t in range(4):
            x = meta.dynamics.embedding[inputs[0, t] + first] if name == "words" else inputs[0, t].to(meta.dtype)
            h = cells.at(x.double().expand(4, -1)).step(h, torch.arange(4))
            torch.testing.assert_close(h, expected[:, 0, t], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("cell", CELLS)
def test_a_base_network_is_its_map(mixed, words, cell):
    id = f"words {cell}"
    (dynamics,) = base_dynamics(mixed, [id], starts=40, seed=3)
    network = mixed.network(id).double()
    # Visited states are states of the network on inputs without labels.
    with torch.no_grad():
        states = network(words.meta.inputs)[0].flatten(0, 1)
    hidden = dynamics.visited[0][:, : states.shape[1]]
    assert hidden.shape[0] == 40
    assert float(torch.cdist(hidden, states).amin(dim=1).max()) < 1e-6
    # A neutral word: the network's own step from there on that word.
    table = network.embedding.weight.detach()
    layer, word = network.recurrent, dynamics.neutral
    h = dynamics.visited[0]
    m = torch.zeros(40, dtype=torch.int64)

    def advance(x_F):
        if cell == "lstm":
            parts = tuple(part[None].contiguous() for part in h.chunk(2, dim=1))
            return torch.cat(layer(x_F.expand(40, 1, -1), parts)[1], dim=2)[0]
        if cell == "ugrnn":
            g, c = (x_F @ layer.weight_ih_l0.T + layer.bias_ih_l0 + layer.bias_hh_l0 + h @ layer.weight_hh_l0.T).chunk(2, dim=1)
            return g.sigmoid() * h + (1 - g.sigmoid()) * c.tanh()
        return layer(x_F.expand(40, 1, -1), h[None].contiguous())[1][0]

    with torch.no_grad():
        for name, x in (("zero", torch.zeros(5)), ("mean", mean_embedding(words, table)), ("neutral", table[word])):
            torch.testing.assert_close(dynamics.maps[name].step(h, m), advance(x.double()), rtol=1e-9, atol=1e-9)
    # Of the words that occur, no other moves the first visited states less.
    with torch.no_grad():
        moved = {token: float((advance(table[token]) - h)[:8].norm(dim=1).mean()) for token in range(1, words.vocabulary)}
    assert min(moved, key=moved.get) == word


def test_draws_depend_on_the_seed_alone(mixed):
    draws = [next(base_dynamics(mixed, ["words gru"], starts=20, seed=seed)).visited for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    first, second = (fixed_points_of(mixed, "words gru", starts=20, seed=4).tables()["points"] for _ in range(2))
    assert first.equals(second)


def test_a_neutral_word_can_be_named(mixed, words):
    (dynamics,) = base_dynamics(mixed, ["words gru"], starts=5, seed=0, neutral=2)
    assert dynamics.neutral == 2
    with pytest.raises(InputError, match="neutral=99"):
        list(base_dynamics(mixed, ["words gru"], starts=5, seed=0, neutral=99))


def run_layer(module, layer, inputs, lengths):
    seen = []
    hook = layer.register_forward_hook(lambda _, arguments, output: seen.append(output[0]))
    with torch.no_grad():
        module(inputs, lengths) if lengths is not None else module(inputs)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
@pytest.mark.parametrize("layers", [1, 2])
def test_imported_networks_step_as_their_layer_does(tmp_path, kind, layers):
    data = make(FlipFlopTask(bits=3, steps=12, **PARTS))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = EveryStep(kind, batch_first=True, hidden=4, num_layers=layers)
    architecture = Imported(module="own_networks:EveryStep", arguments="{}", hidden=("layer",), outputs=3)
    part = data.meta.select(torch.arange(5))
    found = layer_dynamics(module, architecture, part)
    expected = run_layer(module.double(), module.layer, part.inputs.double(), None)
    torch.testing.assert_close(found.states[:, :, found.visible], expected, rtol=1e-9, atol=1e-12)
    assert found.states.shape[2] == layers * 4 * (2 if kind is nn.LSTM else 1)
    x = part.inputs[0, 3].double()
    new, jacobian = found.at(x).jacobian(found.states[:, 2], torch.zeros(5, dtype=torch.int64))
    h, width = found.states[:, 2], 1e-6
    difference = torch.stack(
        [(found.at(x).step(h + width * e, None) - found.at(x).step(h - width * e, None)) / (2 * width) for e in torch.eye(h.shape[1]).double()],
        dim=2,
    )
    torch.testing.assert_close(jacobian, difference, atol=1e-8, rtol=1e-6)
    assert not new.requires_grad and not jacobian.requires_grad


def test_imported_networks_have_fixed_points(words, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        data = make(FlipFlopTask(bits=3, steps=12, **PARTS))
        deep, shallow, text = EveryStep(batch_first=True, hidden=4, num_layers=2), Packed(5), Packed(5, layers=2)
    arguments = {"deep": {"batch_first": True, "hidden": 4, "num_layers": 2}}
    population = Population.from_modules({"deep": deep}, data=data, out=tmp_path / "p", hidden=["layer"], arguments=arguments)
    found = fixed_points_of(population, "deep", starts=30)
    points = found.points("deep", which="base")
    assert int(points.fixed.sum()) >= 1
    step = deep.double().layer(torch.zeros(1, 1, 3).double(), points.state[0].view(2, 1, 4))[1]
    torch.testing.assert_close(step.flatten().detach(), points.state[0], atol=1e-9, rtol=1e-9)
    two_classes = make(ClassIntegrationTask(classes=2, shortest=4, longest=9, **PARTS))
    texts = Population.from_modules(
        {"shallow": shallow.eval(), "text": text.eval()}, data=two_classes, out=tmp_path / "t", hidden={"text": ["rnn"], "shallow": None},
        arguments={"text": {"words": 5, "layers": 2}, "shallow": None},
    )  # fmt: skip
    for id in ("shallow", "text"):
        assert {found.input for found in fixed_points_of(texts, id, starts=20).found} == {"zero", "mean", "neutral"}


def test_networks_without_a_map_are_refused(tmp_path):
    data = make(FlipFlopTask(bits=3, steps=12, **PARTS))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Attention(5)
    population = Population.from_modules([network], data=data, out=tmp_path / "p", hidden=["mix"], arguments=[{"width": 5}])
    with pytest.raises(InputError, match="one recurrent layer of torch"):
        fixed_points_of(population, "#0")
    digits = make(DigitsTask())
    group = Group(name="cnn", networks=1, architecture={"family": "convolutional", "kind": "cnn", "width": 2, "depth": 3}, training={"epochs": 1})
    images = Population.create(tmp_path / "images", list(specs_of([group], digits)), digits)
    train_remaining(images, LocalRuntime())
    images = Population.open(tmp_path / "images")
    with pytest.raises(InputError, match="no map to iterate"):
        fixed_points_of(images, "cnn #0")
    meta = train(images, tmp_path / "meta", hidden=4, steps=1, checkpoint_every=1, unlike_tasks="refuse", conditioning="concat")
    with pytest.raises(InputError, match=r"convolutional meta-model.*no map to iterate"):
        fixed_points(meta)


def test_wrong_arguments_are_refused(meta):
    with pytest.raises(InputError, match="at least 1"):
        fixed_points(meta, starts=0)
    with pytest.raises(InputError, match="'nobody'"):
        fixed_points(meta, ["nobody"])
    with pytest.raises(InputError, match=r"shape \(2, 4\)"):
        theta_path(meta, np.zeros((2, 4)), data="words")
    with pytest.raises(InputError, match="input='loud'"):
        theta_path(meta, np.zeros((2, 3)), data="words", input="loud", starts=5)
    with pytest.raises(InputError, match="which='base' at input='quiet'"):
        fixed_points(meta, ["pulses gru"], starts=5).points("pulses gru", which="base", input="quiet")


def test_the_whole_result(meta, mixed):
    found = fixed_points(meta, starts=30)
    tables, summary = found.tables(), found.summary()
    json.dumps(summary, allow_nan=False)
    assert summary["networks"] == len(mixed) == 7
    assert set(summary["inputs"]) == {"zero", "mean", "neutral"}
    points = tables["points"].to_pylist()
    assert {row["which"] for row in points} == {"meta", "base"}
    assert {(row["id"], row["input"]) for row in points if row["input"] == "neutral"} <= {(f"words {cell}", "neutral") for cell in CELLS}
    for row in points:
        own = found.points(row["id"], which=row["which"], input=row["input"])
        index = row["index"]
        assert (row["kind"] == "fixed") == (row["q"] < 1e-24) and row["q"] <= row["tolerance"]
        assert row["stable"] == bool(own.stable[index]) and row["unstable_directions"] == int(own.unstable[index])
        leading = complex(row["eigenvalue_1_real"], row["eigenvalue_1_imag"])
        assert abs(leading) == pytest.approx(float(own.eigenvalues[index].abs().max()))
        if abs(leading) not in (0, 1):
            assert row["time_constant_1"] == pytest.approx(1 / abs(math.log(abs(leading))))
        assert all(math.isfinite(row[f"component_{k}"]) for k in (1, 2, 3)) and 0 <= row["distance"] < 100
    assert tables["agreement"].num_rows == 5 * 3 + 2 * 2
    assert len(found.topology("zero")) == 7
    for row in found.topology("neutral"):
        own = found.points(row["id"], which="base", input="neutral")
        assert row["base_stable"] == int((own.stable & own.fixed).sum())
    assert set(found.correlations) == {(which, name) for which in ("meta", "base") for name in ("zero", "mean", "neutral")}
    alone = fixed_points_of(mixed, "pulses rnn", starts=30)
    assert alone.tables()["agreement"].num_rows == 0
    torch.testing.assert_close(alone.points("pulses rnn", which="base").state, found.points("pulses rnn", which="base").state)


def test_components_are_those_of_the_visited_states(meta):
    """Coordinates are numpy's principal components of the visited states, up to sign."""
    found = fixed_points(meta, ["pulses gru"], starts=50)
    (dynamics,) = meta_dynamics(meta, ["pulses gru"], starts=50, seed=0)
    visited = dynamics.visited[0].numpy()
    axes = np.linalg.svd(visited - visited.mean(axis=0), full_matrices=False)[2]
    rows = [row for row in found.tables()["points"].to_pylist() if row["which"] == "meta" and row["input"] == "zero"]
    states = found.points("pulses gru").state.numpy()
    expected = (states - visited.mean(axis=0)) @ axes[:3].T
    np.testing.assert_allclose(np.abs([[row[f"component_{k}"] for k in (1, 2, 3)] for row in rows]), np.abs(expected), atol=1e-7)


def test_trajectories_are_emulated_states_in_the_coordinates_of_the_points(meta, words):
    """Of texts, which end at different steps."""
    found = fixed_points(meta, ["words gru"], starts=30)
    (dynamics,) = meta_dynamics(meta, ["words gru"], starts=30, seed=0)
    visited = dynamics.visited[0].numpy()
    axes = np.linalg.svd(visited - visited.mean(axis=0), full_matrices=False)[2]
    part = Draw.of(words.meta, 30, 0).part
    states, _ = meta.emulate(meta.theta(["words gru"])[0], part.inputs[:3], part.lengths_N[:3], data="words")
    rows = [row for row in found.tables()["trajectories"].to_pylist() if row["which"] == "meta"]
    assert len(rows) == int(part.lengths_N[:3].sum())
    for row in rows:
        expected = (states[row["trajectory"], row["step"]].double().numpy() - visited.mean(axis=0)) @ axes[:3].T
        np.testing.assert_allclose(np.abs([row[f"component_{k}"] for k in (1, 2, 3)]), np.abs(expected), atol=1e-6)
    assert {row["which"] for row in found.tables()["trajectories"].to_pylist()} == {"meta", "base"}


def test_the_path_between_centres(mixed, tmp_path_factory):
    """Two computations on the words, one network of each, so that the centres are the networks' vectors; another data set has one alone."""
    named = [dataclasses.replace(mixed.spec(id), computation=id) for id in ("words gru", "words rnn")] + [mixed.spec("pulses gru")]
    out = tmp_path_factory.mktemp("centres")
    population = make_population(out / "population", named, dict(mixed.datasets))
    meta = train(population, out / "meta")
    found = centre_path(meta, steps=4)
    assert (found.first, found.second) == ("words gru", "words rnn")
    np.testing.assert_allclose(found.theta, np.linspace(meta.embedding[0], meta.embedding[1], 4), atol=1e-12)
    tables, counts = found.tables(), found.path.counts()
    assert [row["theta"] for row in tables["theta_path"].to_pylist()] == found.theta.tolist()
    assert [sum(step == row["step"] for row in tables["path"].to_pylist()) for step in range(4)] == counts.sum(dim=1).tolist()
    assert found.summary()["ends"]["words gru"] == {"stable": int(counts[0, 0]), "unstable": int(counts[0, 1])}
    alone = train(make_population(out / "alone", named[1:], dict(mixed.datasets)), out / "meta-alone")
    with pytest.raises(InputError, match="a path needs two computations on one data set"):
        centre_path(alone)


def test_a_path_through_theta_ends_at_the_networks(meta):
    ids = ["words gru", "words rnn"]
    ends = meta.embedding[[meta.network_ids.index(id) for id in ids]]
    path = theta_path(meta, np.linspace(ends[0], ends[1], 5), data="words", input="mean", starts=40)
    assert path.parameter.tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    for step, theta in ((0, ends[:1]), (4, ends[1:])):
        dynamics = dynamics_at(meta, torch.from_numpy(theta), "words", ids=["there"], starts=40, seed=0)
        expected = search(dynamics.maps["mean"], dynamics.visited, slow=False)
        assert len(expected) == len(path.points.of(step))
        torch.testing.assert_close(expected.state.sort(dim=0).values, path.points.of(step).state.sort(dim=0).values, atol=1e-8, rtol=1e-8)


def test_networks_that_are_conjugate_agree():
    """A network whose states are twice the meta-model's, with the state map that says so; and one with another attractor."""
    gains = torch.tensor([[2.0, 1.5], [0.5, 1.5]], dtype=torch.float64)
    visited = torch.randn(1, 100, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def side(function, id, scale):
        maps = FunctionMaps(function, count=1, size=2)
        one = torch.ones(1, dtype=torch.float64)
        dynamics = Dynamics(
            ids=(id,), data="data", maps={"zero": maps}, neutral=None, visited=scale * visited, speed=scale * one,
            trajectories=scale * visited[:, None, :5], readout=torch.eye(2, dtype=torch.float64)[None],
        )  # fmt: skip
        return dynamics, search(maps, dynamics.visited)

    double = StateMap({"weight": 2 * torch.eye(2)[None]}).requires_grad_(False)
    fake = SimpleNamespace(state_map=lambda id: double)
    meta_side = side(lambda h, m: torch.tanh(gains[0] * h), "n", 1.0)
    same = agreement(fake, "zero", meta_side, side(lambda h, m: 2 * torch.tanh(gains[0] * h / 2), "n", 2.0), "n")
    assert same.equal and same.stable_equal and (same.meta_stable, same.meta_unstable) == (4, 5)
    assert max(same.mapped_speed, same.chamfer, same.chamfer_stable, same.eigenvalue_difference) < 1e-9
    assert same.time_constant_ratio == pytest.approx(1) and same.meta_relaxation == pytest.approx(same.base_relaxation)
    other = agreement(fake, "zero", meta_side, side(lambda h, m: 2 * torch.tanh(gains[1] * h / 2), "n", 2.0), "n")
    assert not other.equal and not other.stable_equal and (other.base_stable, other.base_unstable) == (2, 1)
    assert other.chamfer > 0.1 and other.mapped_speed > 0.1


def trained(path, task, *, epochs):
    """A GRU-32 that learned a task, and what it does at every fixed input."""
    data = {"data": make(dataclasses.replace(task, base=4000, meta=500, test=100))}
    group = Group(
        name="gru", networks=1, architecture={"family": "recurrent", "cell": "gru", "hidden": 32},
        training={"batch": 32, "epochs": epochs, "learning_rate": 5e-3},
    )  # fmt: skip
    population = Population.create(path, list(specs_of([group], data)), data)
    train_remaining(population, LocalRuntime())
    return {found.input: found for found in fixed_points_of(Population.open(path), "gru #0").found}, data["data"]


@pytest.mark.slow
@pytest.mark.parametrize("bits", [1, 2, 3])
def test_a_trained_flip_flop_has_a_stable_point_for_every_memory(tmp_path, bits):
    found, _ = trained(tmp_path, FlipFlopTask(bits=bits), epochs=8)
    points = found["zero"].points
    assert int((points.stable & points.fixed).sum()) == 2**bits


@pytest.mark.slow
def test_a_trained_integrator_of_three_classes_has_a_slow_plane(tmp_path):
    found, _ = trained(tmp_path, ClassIntegrationTask(classes=3), epochs=12)
    # Word 4 is evidence for no class.
    assert found["neutral"].dynamics.neutral == 4
    (plane,) = found["neutral"].slow_sets
    assert round(plane.dimension) == 2
    assert plane.alignment > 3 * plane.chance


@pytest.mark.slow
def test_a_trained_sine_generator_has_a_limit_cycle(tmp_path):
    task = SineTask()
    found, data = trained(tmp_path, task, epochs=30)
    (cycle,) = found["mean"].cycles[0]
    assert cycle.closed and cycle.share == 1
    # The mean input, about 0.75, asks for about 0.06 cycles a step.
    mean = float(data.meta.inputs.double().mean())
    frequency = task.lowest + (mean - 0.25) * (task.highest - task.lowest)
    assert cycle.period == pytest.approx(1 / frequency, rel=0.05)
