"""Networks that the meta-model has not seen: where they land, against plain numpy; and what cannot be embedded."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from own_networks import Attention, EveryStep, Packed
from torch import nn

from dynamo_dist import InputError, MetaModel, MetaModelConfig, Population
from dynamo_dist.data.attractors import ClassIntegrationTask, FlipFlopTask
from dynamo_dist.data.images import DigitsTask
from dynamo_dist.data.tasks import make
from dynamo_dist.data.valence import ValenceTask
from dynamo_dist.metamodel import folder
from dynamo_dist.metamodel.shard import Alone, Shard, members
from dynamo_dist.metamodel.training import TrainingJob, train_shard
from dynamo_dist.metamodel.unseen import START_INPUTS, least_squares, start
from dynamo_dist.population.groups import Group, specs_of
from dynamo_dist.population.scheduling import train_remaining
from dynamo_dist.runtime import LocalRuntime

SMALL = MetaModelConfig(dimensions=3, hidden=8, embedding=4, steps=3, batch=6, checkpoint_every=3)
PARTS = {"base": 64, "meta": 60, "test": 20}


def train(population, out, config=SMALL, precision="float64", **fields):
    config = dataclasses.replace(config, **fields)
    folder.prepare(out, population, config)
    train_shard(TrainingJob(population=str(population.path), out=str(out), config=config, precision=precision), group=Alone("cpu"))
    return MetaModel.open(out)


def populate(path, data, groups, seed=0):
    store = Population.create(path, list(specs_of(groups, data, seed=seed)), data)
    train_remaining(store, LocalRuntime())
    return Population.open(path)


def integrators(networks):
    """Perfect and leaky GRUs and perfect vanilla RNNs."""
    return [
        Group(
            name=f"{kind} {cell}", computation=kind, target=kind, networks=networks,
            architecture={"family": "recurrent", "cell": cell, "hidden": hidden, "features": 8},
            training={"epochs": 8, "batch": 32, "learning_rate": rate},
        )
        for kind, cell, hidden, rate in (("perfect", "gru", 16, 1e-2), ("leaky", "gru", 16, 1e-2), ("perfect", "rnn", 24, 3e-3))
    ]  # fmt: skip


@pytest.fixture(scope="module")
def words():
    return make(ValenceTask(base=1600, meta=600, test=200, longest=20))


@pytest.fixture(scope="module")
def known(words, tmp_path_factory):
    """Four networks of each group, trained."""
    return populate(tmp_path_factory.mktemp("known") / "population", words, integrators(4))


@pytest.fixture(scope="module")
def unseen(words, tmp_path_factory):
    """Two more of each, of other seeds."""
    return populate(tmp_path_factory.mktemp("unseen") / "population", words, integrators(2), seed=1)


@pytest.fixture(scope="module")
def meta(known, tmp_path_factory):
    return train(known, tmp_path_factory.mktemp("meta"), dimensions=4, hidden=32, embedding=8, steps=400, batch=16, checkpoint_every=400)


@pytest.fixture(scope="module")
def embedded(meta, unseen):
    return meta.embed(unseen, steps=100)


@pytest.fixture(scope="module")
def small(population, tmp_path_factory):
    """Hardly trained: for what has to be refused."""
    return train(population, tmp_path_factory.mktemp("small"))


def modules_in(path, data, modules, **options):
    return Population.from_modules(modules, data=data, out=path, **options)


def same(one, two):
    assert one.ids == two.ids
    for name in ("theta", "hidden", "output"):
        assert np.array_equal(getattr(one, name), getattr(two, name)), name
    for ours, theirs in zip(one.state_maps, two.state_maps, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a.state_dict().keys() == b.state_dict().keys()
            assert all(torch.equal(t, b.state_dict()[name]) for name, t in a.state_dict().items())


# ---- where they land -----------------------------------------------------------------------------------------------------------


def test_unseen_networks_land_with_their_own_group(meta, unseen, embedded):
    assert embedded.ids == unseen.network_ids
    assert embedded.theta.shape == (6, 4) and embedded.theta.dtype == np.float64
    for id, theta in zip(embedded.ids, embedded.theta, strict=True):
        nearest = meta.network_ids[np.linalg.norm(meta.embedding - theta, axis=1).argmin()]
        assert meta.population.spec(nearest).group == unseen.spec(id).group, (id, nearest)


def test_emulated_there_they_answer_as_they_do(meta, unseen, embedded):
    """On inputs that trained neither them nor the meta-model."""
    test = unseen.data.test
    for id, theta in zip(embedded.ids, embedded.theta, strict=True):
        _, logits = unseen.network(id)(test.inputs, test.lengths_N)
        _, emulated = meta.emulate(theta, test.inputs, test.lengths_N)
        assert (logits.argmax(dim=1) == emulated.argmax(dim=1)).double().mean() > 0.95, id


def held_out_hidden(meta, population, id, theta, weight_KH, bias_H):
    """The hidden term in plain numpy, on the last tenth of the inputs without labels."""
    data = population.datasets[population.spec(id).data].meta
    held = len(data) // 10
    batches = torch.arange(len(data) - held, len(data)).split(meta.config.batch)
    network = population.network(id).double()

    def module(inputs, lengths):
        return network(inputs.double() if inputs.is_floating_point() else inputs, lengths)

    with torch.no_grad():
        first = data.select(torch.arange(min(512, len(data))))
        h_BTH = module(first.inputs, first.lengths_N)[0].numpy()
        valid = np.concatenate([h[:length] for h, length in zip(h_BTH, first.lengths_N, strict=True)])
        scale, total = valid.var(axis=0).mean() * valid.shape[1], 0.0
        for index in batches:
            part = data.select(index)
            h_BTH = module(part.inputs, part.lengths_N)[0].numpy()
            mapped_BTH = meta.emulate(theta, part.inputs, part.lengths_N)[0].numpy() @ weight_KH + bias_H
            errors = [((a - b)[:length] ** 2).sum(axis=1) for a, b, length in zip(mapped_BTH, h_BTH, part.lengths_N, strict=True)]
            total += np.concatenate(errors).mean() / scale * len(index) / held
    return total


def test_the_hidden_term_is_that_of_its_theta_and_map(meta, unseen, embedded):
    rng = np.random.default_rng(0)
    for row in (0, 3, 5):
        id, theta, ((state_map,), reported) = embedded.ids[row], embedded.theta[row], (embedded.state_maps[row], embedded.hidden[row])
        weight, bias = state_map.weight[0].numpy(), state_map.bias[0, 0].numpy()
        assert reported == pytest.approx(held_out_hidden(meta, unseen, id, theta, weight, bias), rel=1e-9)
        # A tenth of the variance stays unexplained at most; a random map of the same size explains none.
        assert 0 < reported < 0.1
        drawn = rng.normal(size=weight.shape) * weight.std()
        assert held_out_hidden(meta, unseen, id, theta, drawn, bias) > 1
    assert np.isfinite(embedded.hidden).all() and np.isfinite(embedded.output).all()


def test_a_network_of_the_population_lands_where_it_is(meta, known):
    ids = known.network_ids[::3]
    found = meta.embed({id: known.network(id) for id in ids}, steps=100)
    assert found.ids == ids
    # Of GRUs and vanilla RNNs that compute the same the vectors may lie together.
    computations = np.array([known.spec(id).computation for id in meta.network_ids])
    for id, theta in zip(ids, found.theta, strict=True):
        other = meta.embedding[computations != known.spec(id).computation]
        own = meta.embedding[meta.network_ids.index(id)]
        assert np.linalg.norm(theta - own) < 0.5 * np.linalg.norm(other - own, axis=1).min()


def test_a_module_is_embedded_as_the_network_of_a_population(meta, unseen):
    ids = unseen.network_ids[1:4:2]
    by_population = meta.embed(unseen, ids=ids, steps=20)
    assert by_population.ids == ids
    modules = [unseen.network(id) for id in ids]
    same(meta.embed(dict(zip(ids, modules, strict=True)), steps=20), by_population)
    in_order = meta.embed(modules, steps=20)
    assert in_order.ids == ("#0", "#1") and np.array_equal(in_order.theta, by_population.theta)
    alone = meta.embed(modules[1], steps=20)
    assert alone.ids == ("network",) and alone.theta.shape == (1, 4)
    # Without its neighbour the gradient is twice as large, which Adam takes out but for its epsilon.
    assert np.allclose(alone.theta[0], by_population.theta[1], rtol=0, atol=1e-5)
    assert meta.embed(unseen, ids=ids[::-1], steps=20).ids == ids[::-1]


def test_it_is_the_same_every_time_and_leaves_the_meta_model_as_it_was(meta, unseen):
    before = {name: t.clone() for name, t in meta.dynamics.state_dict().items()}
    embedding = meta.embedding.copy()
    ids = unseen.network_ids[:3]
    torch.manual_seed(0)
    one = meta.embed(unseen, ids=ids, steps=20)
    torch.manual_seed(1)
    same(meta.embed(unseen, ids=ids, steps=20), one)
    assert all(torch.equal(t, before[name]) for name, t in meta.dynamics.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in meta.dynamics.parameters())
    assert np.array_equal(meta.embedding, embedding)
    assert not any(p.requires_grad for maps in one.state_maps for own in maps for p in own.parameters())


# ---- where they start ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
def test_least_squares_is_numpys(bias):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 5)) + 1, rng.normal(size=(3, 200, 4)) - 2
    v_mKH, error_m = least_squares(torch.from_numpy(x), torch.from_numpy(y), bias=bias)
    extended = np.hstack([x, np.ones((200, 1))]) if bias else x
    assert v_mKH.shape == (3, 5 + bias, 4)
    for m in range(3):
        theirs, squares, *_ = np.linalg.lstsq(extended, y[m])
        # The ridge is 1e-6 of the mean square, and the condition of these is below 100.
        assert np.allclose(v_mKH[m], theirs, rtol=0, atol=1e-4)
        assert error_m[m] == pytest.approx(squares.sum() / 200, rel=1e-6)


@pytest.mark.parametrize("state_map", ["affine", "linear"])
def test_a_network_starts_where_its_loss_is_lowest(meta, unseen, state_map):
    config = dataclasses.replace(meta.config, state_map=state_map)
    examples = {name: data.meta for name, data in unseen.datasets.items()}
    shard = Shard(
        members(unseen, unseen.network_ids), examples, meta.interface, config, dtype=torch.float64, dynamics=copy.deepcopy(meta.dynamics)
    )
    start(shard, meta.embedding)
    data = unseen.data.meta
    part, scaled = data.select(torch.arange(START_INPUTS)), data.select(torch.arange(512))
    valid = np.arange(part.inputs.shape[1]) < part.lengths_N.numpy()[:, None]
    for row, id in enumerate(shard.private.ids):
        module = unseen.network(id).double()
        with torch.no_grad():
            h_BTH, logits = module(part.inputs, part.lengths_N)
            every = module(scaled.inputs, scaled.lengths_N)[0]
        every = np.concatenate([h[:length] for h, length in zip(every.numpy(), scaled.lengths_N, strict=True)])
        scale, p = every.var(axis=0).mean() * every.shape[1], logits.softmax(dim=1)
        losses = []
        for theta in meta.embedding:
            states, emulated = meta.emulate(theta, part.inputs, part.lengths_N)
            x = states.numpy()[valid]
            if state_map == "affine":
                x = np.hstack([x, np.ones((len(x), 1))])
            y = h_BTH.numpy()[valid]
            v = np.linalg.lstsq(x, y)[0]
            divergence = (p * (logits.log_softmax(dim=1) - emulated.log_softmax(dim=1))).sum(dim=1).mean().item()
            losses.append(((x @ v - y) ** 2).sum(axis=1).mean() / scale + divergence)
        chosen = np.flatnonzero((meta.embedding == shard.private.theta[row].detach().numpy()).all(axis=1))
        assert len(chosen) == 1
        # The ridge costs a little.
        assert losses[chosen[0]] <= min(losses) * (1 + 1e-2)


def test_adam_goes_on_from_there(meta, unseen, embedded):
    first = meta.embed(unseen, steps=1)
    loss = first.hidden + first.output
    assert (embedded.hidden + embedded.output < loss).all()


@pytest.mark.parametrize(
    "fields",
    [
        {"state_map": "mlp"},
        {"state_map": "linear"},
        {"held_out": 0.0},
        {"conditioning": "film"},
        {"mix_states": True, "conjugacy_weight": 0.2},
    ],
    ids=str,
)
def test_every_configuration_embeds(population, tmp_path, fields):
    meta = train(population, tmp_path, **fields)
    found = meta.embed(population, steps=5)
    assert found.ids == population.network_ids and np.isfinite(found.theta).all() and np.isfinite(found.hidden + found.output).all()
    assert found.theta.any(axis=1).all()
    later = meta.embed(population, steps=60)
    assert (later.hidden + later.output).mean() < (found.hidden + found.output).mean()


def test_without_theta_only_the_map_is_fitted(population, tmp_path):
    meta = train(population, tmp_path, use_theta=False)
    found = meta.embed(population, ids=population.network_ids[:2], steps=20)
    assert not found.theta.any() and (found.hidden < 1).all()


def test_images_are_embedded(tmp_path):
    data = make(DigitsTask())

    def groups(networks):
        return [
            Group(
                name="resnet", networks=networks, fraction=0.1, training={"batch": 32},
                architecture={"family": "convolutional", "kind": "resnet", "depth": 8, "width": 4},
            )
        ]  # fmt: skip

    known, unseen = populate(tmp_path / "known", data, groups(2)), populate(tmp_path / "unseen", data, groups(1), seed=1)
    meta = train(known, tmp_path / "meta", dimensions=2, hidden=4, batch=32, steps=20, checkpoint_every=20)
    found = meta.embed(unseen, steps=50)
    assert found.theta.shape == (1, 2) and len(found.state_maps[0]) == 4
    # Its states are explained better than by their mean.
    assert 0 < found.hidden[0] < 1 and np.isfinite(found.output).all()


def test_data_sets_of_other_names(tmp_path):
    """Two of them are one of the meta-model's; each network reads its own."""
    task = FlipFlopTask(bits=3, steps=9, **PARTS)
    data, other = make(task), make(dataclasses.replace(task, seed=1))
    torch.manual_seed(0)
    modules = [EveryStep(nn.GRU, batch_first=True) for _ in range(3)]
    meta = train(modules_in(tmp_path / "known", data, modules[:2]), tmp_path / "meta")
    group = Group(name="gru", architecture={"family": "recurrent", "cell": "gru", "hidden": 5}, networks=1, training={"batch": 32})
    groups = [dataclasses.replace(group, name=name, data=name) for name in ("one", "two")]
    both = populate(tmp_path / "both", {"one": data, "two": other}, groups)
    with pytest.raises(InputError, match=r"data set 'one' of .* is not known to .*: say which it is with data=\{'one': NAME\}, of data"):
        meta.embed(both)
    found = meta.embed(both, data={"one": "data", "two": "data"}, steps=5)
    assert found.ids == both.network_ids
    for id, theta, (state_map,), hidden in zip(found.ids, found.theta, found.state_maps, found.hidden, strict=True):
        expected = held_out_hidden(meta, both, id, theta, state_map.weight[0].numpy(), state_map.bias[0, 0].numpy())
        assert hidden == pytest.approx(expected, rel=1e-9)


# ---- what cannot be embedded ---------------------------------------------------------------------------------------------------


def test_unlike_tasks_need_a_network_to_be_like(tmp_path):
    bits = {f"{bits} bits": make(FlipFlopTask(bits=bits, steps=9, **PARTS)) for bits in (2, 3)}
    group = Group(name="", architecture={"family": "recurrent", "cell": "gru", "hidden": 5}, networks=1, training={"batch": 32})
    population = populate(tmp_path / "population", bits, [dataclasses.replace(group, name=name, data=name) for name in bits])
    # The last module takes no state, so its states could not be mixed as those of the population were.
    meta = train(population, tmp_path / "meta", unlike_tasks="pad", mix_states=True)
    torch.manual_seed(0)
    module = EveryStep(nn.GRU, batch_first=True)
    with pytest.raises(InputError, match="unlike inputs or outputs: say like=ID, for example like='2 bits #0'"):
        meta.embed(module)
    found = meta.embed(module, like="3 bits #0", steps=5)
    assert found.ids == ("network",) and np.isfinite(found.hidden).all()
    with pytest.raises(InputError, match="no network 'nobody'"):
        meta.embed(module, like="nobody")
    layers = meta.embed({"attention": Attention(4)}, like="3 bits #0", hidden=["mix"], arguments={"width": 4}, steps=5)
    assert layers.ids == ("attention",) and layers.state_maps[0][0].weight.shape == (1, 8, 4)


def test_modules_that_do_not_fit_the_data(small):
    vocabulary = small.population.data.vocabulary
    narrow, wide = Packed(vocabulary - 1), Packed(vocabulary)
    wide.fc = nn.Linear(6, 3)
    for module, message in (
        (narrow, f"its embedding has {vocabulary - 1} tokens, and the data have {vocabulary}"),
        (wide, "outputs=3, but its data set has 2"),
        (nn.Linear(3, 2), "does not give the outputs of one recurrent layer"),
        ("runs/mine", "str is not a torch.nn.Module"),
        ([], "there are no modules"),
    ):
        with pytest.raises(InputError, match=message):
            small.embed(module)


def test_populations_that_do_not_fit(small, tmp_path):
    torch.manual_seed(0)
    vocabulary = small.population.data.vocabulary
    three = Packed(vocabulary)
    three.fc = nn.Linear(6, vocabulary - 2)
    classes = modules_in(tmp_path / "classes", make(ClassIntegrationTask(classes=vocabulary - 2, **PARTS)), [three])
    tokens = modules_in(tmp_path / "tokens", make(ClassIntegrationTask(classes=2, **PARTS)), [Packed(4)])
    values = modules_in(tmp_path / "values", make(FlipFlopTask(bits=3, steps=9, **PARTS)), [EveryStep(nn.GRU, batch_first=True)])
    for population, options, message in (
        (classes, {}, "its networks have more inputs or outputs than those of"),
        (tokens, {}, "data set 'data' of .* has other inputs than 'data' of .*: they cannot be embedded there"),
        (values, {}, "data set 'data' of .* has other inputs than 'data' of"),
        (classes, {"data": {"data": "nowhere"}}, r"is not known to .*: say which it is with data=\{'data': NAME\}, of data"),
        (classes, {"data": {"nowhere": "data"}}, "data names 'nowhere', and .* has the data sets data"),
        (classes, {"ids": ["nobody"]}, "no network 'nobody'"),
        (classes, {"ids": []}, "no networks to embed"),
        (small.population, {"steps": 0}, "steps=0: expected a positive number"),
    ):
        with pytest.raises(InputError, match=message) as refused:
            small.embed(population, **options)
        assert "\n" not in str(refused.value)


def test_networks_that_are_not_finite_are_left_out(tmp_path, capsys):
    """On the inputs without labels one of them overflows; on those of its proof it does not."""
    data = make(FlipFlopTask(bits=3, steps=9, **PARTS))
    data.meta.inputs[0, 0, 0] = 1e30
    torch.manual_seed(0)
    modules = {"sound": EveryStep(nn.RNN, batch_first=True), "other": EveryStep(nn.RNN, batch_first=True)}
    meta = train(modules_in(tmp_path / "known", data, modules), tmp_path / "meta", precision="float32")
    overflow = EveryStep(nn.RNN, batch_first=True, nonlinearity="relu")
    nn.init.constant_(overflow.layer.weight_ih_l0, 1e10)
    unseen = modules_in(tmp_path / "unseen", data, {"overflow": overflow, "sound": modules["sound"]})
    found = meta.embed(unseen, steps=5)
    assert found.ids == ("sound",) and found.theta.shape == (1, 3)
    assert "left out: overflow: its states or outputs are not finite numbers" in capsys.readouterr().err
    with pytest.raises(InputError, match="no network has finite states and outputs"):
        meta.embed(unseen, ids=["overflow"])
