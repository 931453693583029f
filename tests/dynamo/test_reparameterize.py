"""Copies with other weights give what their originals give; the ratio of distances is what it is defined to be."""

import numpy as np
import pytest
import torch
from own_networks import Convolutions
from random_population import make_population, spec

from dynamo_dist import InputError, MetaModel, MetaModelConfig, Population
from dynamo_dist.analysis import copy_ratio, permuted, reparameterized, widened
from dynamo_dist.data.attractors import FlipFlopTask, SineTask, make_flip_flop, make_sine
from dynamo_dist.data.images import DigitsTask, make_digits
from dynamo_dist.metamodel import folder
from dynamo_dist.metamodel.shard import Alone
from dynamo_dist.metamodel.training import TrainingJob, train_shard
from dynamo_dist.networks import Convolutional, Recurrent, stack_class
from dynamo_dist.networks.architecture import CELLS


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def initial(architecture, count=3):
    return stack_class(architecture).initial(architecture, range(count)).to(torch.float64)


def recurrent(cell, *, vocabulary=None, every_step=False):
    return initial(Recurrent(cell=cell, hidden=6, features=3, vocabulary=vocabulary, outputs=2, every_step=every_step))


def sequences(networks):
    torch.manual_seed(0)
    lengths = torch.tensor([9, 4, 7, 1])
    if networks.architecture.vocabulary:
        return torch.randint(networks.architecture.vocabulary, (4, 9))[None], lengths[None]
    return torch.randn(4, 9, 3, dtype=torch.float64)[None], lengths[None]


def plain_outputs(networks, inputs, lengths):
    """By plain torch modules, one network after the other: they know nothing of stacks."""
    with torch.no_grad():
        return torch.stack([networks.network(m)(inputs[0], *([] if lengths is None else [lengths[0]]))[1] for m in range(networks.count)])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("vocabulary", [None, 11])
def test_recurrent_copies_give_the_outputs_of_their_originals(cell, vocabulary):
    networks = recurrent(cell, vocabulary=vocabulary, every_step=vocabulary is None)
    inputs, lengths = sequences(networks)
    truth = plain_outputs(networks, inputs, lengths)
    for copy in (
        permuted(networks, generator()),
        widened(networks, 13, generator()),
        permuted(widened(networks, 8, generator(1)), generator()),
    ):
        assert (plain_outputs(copy, inputs, lengths) - truth).abs().max() < 1e-12
        assert (copy(inputs, lengths)[1] - truth).abs().max() < 1e-12


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_hidden_states_of_a_copy_are_those_of_the_original_in_another_order(cell):
    networks = recurrent(cell)
    inputs, lengths = sequences(networks)
    copy = permuted(networks, generator())
    own, theirs = (n(inputs, lengths)[0] for n in (networks, copy))
    for m in range(3):
        a, b = (h[:, m].flatten(0, 1).sort(dim=0).values for h in (own, theirs))
        order = torch.cdist(a.T, b.T).argmin(dim=1)
        assert sorted(order.tolist()) == list(range(a.shape[1])) and order.tolist() != list(range(a.shape[1]))
        assert (own[:, m] - theirs[:, m][..., order]).abs().max() < 1e-12
        assert not torch.equal(networks.parameters["w_recurrent"][m], copy.parameters["w_recurrent"][m])


def test_widened_networks_repeat_units_and_split_their_weights():
    networks = recurrent("rnn")
    wide = widened(networks, 20, generator())
    inputs, lengths = sequences(networks)
    assert wide.architecture.hidden == 20 and wide.architecture.cell == "rnn"
    h = wide(inputs, lengths)[0]
    for m in range(3):
        assert len(np.unique(np.round(h[:, m].flatten(0, 1).numpy(), 9), axis=1).T) == 6
    total = wide.parameters["w_readout"].sum(dim=1)
    assert torch.allclose(total, networks.parameters["w_readout"].sum(dim=1), atol=1e-12)
    # Halves are exact in single precision too.
    single = networks.to(torch.float32)
    sums = [n.parameters["w_readout"].double().sum(dim=1) for n in (single, widened(single, 20, generator()))]
    assert torch.allclose(*sums, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    "architecture",
    [
        Convolutional(kind="resnet", depth=8, width=4, channels=2, outputs=3),
        Convolutional(kind="resnet", depth=20, width=2, channels=1, outputs=3),
        Convolutional(kind="resnet", depth=34, width=2, channels=1, outputs=2),
        Convolutional(kind="cnn", depth=3, width=4, channels=2, outputs=3),
    ],
)
def test_convolutional_copies_give_the_outputs_of_their_originals(architecture):
    networks = initial(architecture, count=2)
    torch.manual_seed(0)
    for name, tensor in networks.tensors.items():  # statistics and scales as training leaves them: no two channels alike
        if ".norm." in name:
            tensor.uniform_(0.5, 1.5)
    images = torch.randn(1, 3, architecture.channels, 8, 8, dtype=torch.float64)
    copy = permuted(networks, generator())
    truth = plain_outputs(networks, images, None)
    assert (plain_outputs(copy, images, None) - truth).abs().max() < 1e-12
    assert (truth[0] - truth[1]).abs().max() > 1e-3
    for own, theirs in zip(networks(images)[0], copy(images)[0], strict=True):
        # Every stage holds the same channels in another order.
        assert not torch.allclose(own, theirs)
        assert torch.allclose(own.sort(dim=2).values, theirs.sort(dim=2).values)


def test_copies_are_drawn_from_the_seed_and_differ_between_networks():
    networks = recurrent("gru")
    same = networks.select([0, 0])
    copy = permuted(same, generator(3))
    assert not torch.equal(copy.parameters["w_readout"][0], copy.parameters["w_readout"][1])
    assert torch.equal(copy.parameters["w_readout"], permuted(same, generator(3)).parameters["w_readout"])


# ---- populations -----------------------------------------------------------------------------------------------------------


def test_a_population_of_copies_says_whose_they_are_and_answers_alike(population, tmp_path):
    both = reparameterized(population, tmp_path / "copies", copies=2, wider=1)
    assert len(both) == 6 * 4 and set(population.network_ids) < set(both.network_ids)
    test, table = population.data.test, both.table().to_pylist()
    for row in table:
        original = row["group"]
        assert original in population.network_ids and original in both.network_ids
        assert row["computation"] == population.spec(original).computation and row["target"] == population.spec(original).target
        with torch.no_grad():
            truth = population.network(original).double()(test.inputs, test.lengths_N)[1]
            found = both.network(row["id"]).double()(test.inputs, test.lengths_N)[1]
        assert (truth - found).abs().max() < 1e-12
        assert row["epochs"] == 0 and row["accuracy"] == pytest.approx(
            population.table()["accuracy"][population.specs.row(original)].as_py()
        )
    widths = {row["id"]: row["architecture"] for row in table}
    assert widths["leaky gru #1, widened 1"] == "gru-11" and widths["leaky gru #1, permuted 2"] == "gru-7"
    assert [row["group"] for row in table].count("perfect rnn #0") == 4


def test_copies_of_networks_of_several_data_sets_and_of_images(tmp_path):
    parts = {"base": 8, "meta": 8, "test": 6}
    data = {"flips": make_flip_flop(FlipFlopTask(**parts, steps=9)), "sine": make_sine(SineTask(**parts, steps=8))}
    specs = [spec("a", data["flips"], name="flips", cell="lstm"), spec("b", data["sine"], name="sine", cell="ugrnn")]
    both = reparameterized(make_population(tmp_path / "p", specs, data), tmp_path / "copies")
    assert both.network_ids == ("a", "a, permuted 1", "b", "b, permuted 1")
    for id, name in (("a", "flips"), ("b", "sine")):
        test = data[name].test
        with torch.no_grad():
            own, copy = (both.network(one).double()(test.inputs.double(), test.lengths_N)[1] for one in (id, f"{id}, permuted 1"))
        assert (own - copy).abs().max() < 1e-12 and both.spec(f"{id}, permuted 1").data == name


def test_networks_whose_layers_are_not_known_are_refused(tmp_path):
    digits = make_digits(DigitsTask())
    torch.manual_seed(0)
    own = Population.from_modules([Convolutions()], data=digits, out=tmp_path / "p", hidden=["stage1"])
    with pytest.raises(InputError, match=r"Convolutions is a class of its own"):
        reparameterized(own, tmp_path / "copies")
    assert not (tmp_path / "copies").exists()


def test_wrong_requests_are_refused(population, tmp_path):
    with pytest.raises(InputError, match="copies=0, wider=0"):
        reparameterized(population, tmp_path / "p", copies=0)
    with pytest.raises(InputError, match="not an empty folder"):
        reparameterized(population, population.path)
    with pytest.raises(InputError, match="cannot be widened"):
        widened(initial(Convolutional(kind="cnn", depth=3, width=2, channels=1, outputs=2)), 9, generator())
    with pytest.raises(InputError, match="hidden=5"):
        widened(recurrent("gru"), 5, generator())


def trained(population, out, **fields):
    config = MetaModelConfig(**{"dimensions": 3, "hidden": 16, "embedding": 4, "steps": 40, "batch": 16, **fields})
    folder.prepare(out, population, config)
    train_shard(TrainingJob(population=str(population.path), out=str(out), config=config), group=Alone())
    return MetaModel.open(out)


def test_the_ratio_is_that_of_copies_to_other_computations(population, tmp_path):
    both = reparameterized(population, tmp_path / "copies", wider=1)
    meta = trained(both, tmp_path / "meta")
    found = copy_ratio(meta, measures=("theta", "pulled_back", "cka", "procrustes", "outputs", "weights"))
    place = {id: m for m, id in enumerate(meta.network_ids)}
    near, far = [], []
    for id, m in place.items():
        one = both.spec(id)
        if id != one.group:
            near.append(np.linalg.norm(meta.embedding[m] - meta.embedding[place[one.group]]))
        far += [
            np.linalg.norm(meta.embedding[m] - meta.embedding[n])
            for other, n in place.items()
            if both.spec(other).computation != one.computation
        ]
    assert found.pairs == len(near) == 12
    assert found.ratio["theta"] == pytest.approx(np.mean(near) / np.mean(far))
    # A copy gives the same answers, and its weights are as far away as any others. What sees unit variances sees that units are doubled.
    assert found.ratio["outputs"] == 0 and found.ratio["weights"] > 0.8
    assert 0 < found.ratio["cka"] < 1 and 0 < found.ratio["procrustes"] < 1
    summary = found.summary()
    assert summary["pairs"] == 12 and set(summary["ratio"]) == set(found.ratio)
    table = found.tables()["copies"].to_pylist()
    assert {row["measure"]: row["ratio"] for row in table} == pytest.approx(found.ratio, nan_ok=True)


def test_permuted_copies_are_no_distance_away_for_measures_that_ignore_the_order(population, tmp_path):
    meta = trained(reparameterized(population, tmp_path / "copies"), tmp_path / "meta", steps=2)
    found = copy_ratio(meta, measures=("cka", "svcca", "pwcca", "procrustes", "dsa", "outputs"))
    assert set(found.ratio) == {"cka", "svcca", "pwcca", "procrustes", "dsa", "outputs"}
    assert all(ratio < 0.01 for ratio in found.ratio.values())


@pytest.mark.slow
def test_vectors_of_copies_are_those_of_their_originals_after_training(population, tmp_path):
    meta = trained(reparameterized(population, tmp_path / "copies"), tmp_path / "meta", hidden=32, steps=2400)
    found = copy_ratio(meta, measures=("theta", "weights"))
    assert found.ratio["theta"] < 0.05 < 0.8 < found.ratio["weights"]


def test_populations_without_copies_or_with_one_computation_have_no_ratio(population, tmp_path):
    meta = trained(population, tmp_path / "meta", steps=2)
    with pytest.raises(InputError, match="holds no copies"):
        copy_ratio(meta)
    alike = make_population(tmp_path / "p", [spec(str(n), population.data) for n in range(3)], population.data)
    both = reparameterized(alike, tmp_path / "copies")
    with pytest.raises(InputError, match="all compute 'gru'"):
        copy_ratio(trained(both, tmp_path / "meta2", steps=2))
    with pytest.raises(InputError, match="there is no measure 'cca'"):
        copy_ratio(meta, measures=("cca",))
