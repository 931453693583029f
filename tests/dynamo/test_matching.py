"""Matched networks against permuted copies, against every permutation there is, and against torch."""

from itertools import permutations as every_order

import numpy as np
import pytest
import torch
from own_networks import Convolutions

from dynamo_dist import InputError, Population
from dynamo_dist.analysis import matched, weight_average
from dynamo_dist.analysis.matching import permuted, unit_axes
from dynamo_dist.data import Examples
from dynamo_dist.networks import Convolutional, Recurrent, StackedRecurrent, stack_class

CELLS = pytest.mark.parametrize("cell", ["gru", "lstm", "ugrnn", "rnn", "rnn-relu"])
VOCABULARY = pytest.mark.parametrize("vocabulary", [None, 11])
ARCHITECTURES = pytest.mark.parametrize(
    "architecture",
    [Convolutional(kind=kind, depth=depth, width=3, channels=2, outputs=4) for kind, depth in (("resnet", 8), ("resnet", 20), ("resnet", 34), ("cnn", 3))],
    ids=lambda architecture: architecture.label,
)  # fmt: skip


def recurrent(cell, vocabulary=None, hidden=7, **fields):
    return Recurrent(cell=cell, hidden=hidden, vocabulary=vocabulary, features=3, outputs=4, **fields)


def initial(architecture, *seeds):
    """Random networks in float64, their norms and running statistics not 1 and 0."""
    networks = stack_class(architecture).initial(architecture, seeds).to(torch.float64)
    for name, tensor in networks.tensors.items():
        if ".norm." in name:
            tensor.add_(torch.rand(tensor.shape, generator=torch.Generator().manual_seed(sum(name.encode())), dtype=torch.float64))
    return networks


def shuffled(networks, seed):
    """The networks with every set of units in a random order."""
    architecture = networks.architecture
    if isinstance(architecture, Recurrent):
        sizes = {"hidden": architecture.hidden} | ({"features": architecture.features} if architecture.vocabulary else {})
    else:
        axes = unit_axes(architecture)
        pairs = [pair for name, tensor in networks.tensors.items() for pair in zip(axes[name], tensor.shape[1:], strict=True)]
        sizes = {units: size for units, size in pairs if units is not None}
    generator = torch.Generator().manual_seed(seed)
    return permuted(networks, {units: torch.randperm(size, generator=generator) for units, size in sizes.items()})


def outputs(networks, seed=0):
    """States and outputs of all of them on the same random inputs."""
    generator, architecture = torch.Generator().manual_seed(seed), networks.architecture
    if isinstance(architecture, Convolutional):
        return networks(torch.rand(1, 5, 2, 9, 8, generator=generator, dtype=torch.float64))[1]
    inputs = torch.randn(1, 5, 6, 3, generator=generator, dtype=torch.float64)
    if architecture.vocabulary:
        inputs = torch.randint(architecture.vocabulary, (1, 5, 6), generator=generator)
    return networks(inputs, torch.tensor([[6, 5, 3, 1, 6]]))[1]


def stack(*networks):
    tensors = {name: torch.cat([own.tensors[name] for own in networks]) for name in networks[0].tensors}
    return type(networks[0])(networks[0].architecture, tensors)


def check_copies(architecture):
    network = initial(architecture, 1)
    copies = [shuffled(network, seed) for seed in (1, 2)]
    for copy in copies:
        assert not all(torch.equal(copy.tensors[name], tensor) for name, tensor in network.tensors.items())
        assert torch.allclose(outputs(copy), outputs(network), rtol=0, atol=1e-12)
    together = stack(network, *copies)
    back = matched(together)
    for name, tensor in network.tensors.items():
        for copy in back.tensors[name]:
            assert torch.equal(copy, tensor[0])
    assert torch.allclose(outputs(weight_average(back)), outputs(network), rtol=0, atol=1e-12)
    assert not torch.allclose(outputs(weight_average(together)), outputs(network), rtol=0, atol=1e-3)


@CELLS
@VOCABULARY
def test_permuted_recurrent_copies_are_matched_back(cell, vocabulary):
    check_copies(recurrent(cell, vocabulary))


@ARCHITECTURES
def test_permuted_convolutional_copies_are_matched_back(architecture):
    check_copies(architecture)


@CELLS
@VOCABULARY
def test_matching_leaves_outputs_as_they_are_and_brings_weights_together(cell, vocabulary):
    networks = initial(recurrent(cell, vocabulary, every_step=True), 1, 2)
    ordered = matched(networks)
    assert torch.allclose(outputs(ordered), outputs(networks), rtol=0, atol=1e-12)
    assert distance(ordered) < distance(networks)


@ARCHITECTURES
def test_matching_of_convolutional_networks(architecture):
    networks = initial(architecture, 1, 2)
    ordered = matched(networks)
    assert torch.allclose(outputs(ordered), outputs(networks), rtol=0, atol=1e-12)
    assert distance(ordered) < distance(networks)
    three = initial(architecture, 1, 2, 3)
    assert torch.allclose(outputs(matched(three)), outputs(three), rtol=0, atol=1e-12)


def distance(networks):
    return sum(float((t[0] - t[1]).square().sum()) for t in networks.parameters.values())


def all_distances(networks):
    """Of two networks of four units, by every order of the units of the second, written out by indices."""
    first, second = ({name: t[row].numpy() for name, t in networks.tensors.items()} for row in (0, 1))
    found = []
    for order in map(list, every_order(range(4))):
        gates = [gate * 4 + unit for gate in range(first["w_input"].shape[1] // 4) for unit in order]
        own = {name: second[name][:, gates] for name in ("w_input", "b_input", "b_recurrent")}
        own |= {"w_recurrent": second["w_recurrent"][order][:, gates], "w_readout": second["w_readout"][order]}
        found.append(sum(np.square(first[name] - value).sum() for name, value in own.items()))
    biases = np.square(first["b_readout"] - second["b_readout"]).sum()
    return np.array(found) + biases


@pytest.mark.parametrize("seed", range(6))
@CELLS
def test_the_best_order_of_four_units_is_found_where_the_problem_is_linear(cell, seed):
    networks = initial(recurrent(cell, hidden=4), 2 * seed, 2 * seed + 1)
    networks.tensors["w_recurrent"].zero_()
    assert distance(matched(networks)) == pytest.approx(all_distances(networks).min(), rel=1e-12)


@CELLS
def test_with_recurrent_weights_most_orders_found_are_the_best_and_none_is_worse_than_before(cell):
    """The problem is then quadratic: there is no guarantee."""
    best = 0
    for seed in range(30):
        networks = initial(recurrent(cell, hidden=4), 2 * seed, 2 * seed + 1)
        every, found = all_distances(networks), distance(matched(networks))
        assert every.min() * (1 - 1e-12) <= found <= every[0] * (1 + 1e-12)
        best += found <= every.min() * (1 + 1e-12)
    assert best > 15


def test_a_weight_average_is_the_mean_with_these_shares():
    networks = initial(recurrent("gru"), 1, 2, 3)
    average = weight_average(networks, np.array([0.5, 0.25, 0.25]))
    for name, tensor in networks.tensors.items():
        assert torch.allclose(average.tensors[name][0], tensor[0] / 2 + tensor[1] / 4 + tensor[2] / 4, rtol=1e-14, atol=1e-15)
    assert average.count == 1 and isinstance(average, StackedRecurrent)


def test_statistics_of_an_average_are_those_of_the_inputs():
    networks = initial(Convolutional(kind="cnn", depth=3, width=3, channels=2, outputs=4), 1, 2)
    images = torch.rand(40, 2, 9, 8, generator=torch.Generator().manual_seed(0))
    part = Examples(inputs=images, targets={})
    average = weight_average(networks, inputs=part)
    maps = torch.nn.functional.conv2d(images.double(), average.tensors["stages.0.convolution.weight"][0], padding=1)
    norm = {name: average.tensors[f"stages.0.norm.{name}"][0] for name in ("running_mean", "running_var", "weight")}
    assert torch.allclose(norm["running_mean"], maps.mean(dim=(0, 2, 3)), rtol=1e-12)
    assert torch.allclose(norm["running_var"], maps.var(dim=(0, 2, 3)), rtol=1e-12)
    assert torch.allclose(norm["weight"], networks.tensors["stages.0.norm.weight"].mean(dim=0), rtol=1e-12)
    # In use it normalises by these: the maps that leave a norm have its bias as mean.
    alone = average.network(0)
    normalised = alone.stages[0](images.double())
    assert torch.allclose(normalised.mean(dim=(0, 2, 3)), alone.stages[0].norm.bias, atol=1e-12)


def test_imported_networks_are_refused(image_population, tmp_path):
    population = Population.from_modules([Convolutions()], data=image_population.data, hidden=["stage1"], out=tmp_path / "p")
    (own,) = population.stacks()
    for function in (matched, weight_average):
        with pytest.raises(InputError, match="Convolutions: which of its weights share units is not known"):
            function(own.networks)
