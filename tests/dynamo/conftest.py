import dataclasses

import pytest
import torch
from small_meta import train_meta
from small_population import make_specs

from dynamo_dist.data.images import DigitsTask, make_digits
from dynamo_dist.data.valence import ValenceTask, make_valence
from dynamo_dist.population import Population
from dynamo_dist.population.groups import Group, specs_of
from dynamo_dist.population.scheduling import train_remaining
from dynamo_dist.runtime import LocalRuntime


@pytest.fixture(autouse=True)
def one_thread():
    """As in an actor; and two tests on two cores do not fight."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def valence():
    return make_valence(ValenceTask(base=400, meta=300, test=200, longest=18))


@pytest.fixture(scope="session")
def population(valence, tmp_path_factory):
    """Six small trained networks on disk. Tests must not change it."""
    folder = tmp_path_factory.mktemp("population") / "population"
    store = Population.create(folder, make_specs(valence), valence)
    train_remaining(store, LocalRuntime())
    return Population.open(folder)


@pytest.fixture(scope="session")
def sequence_meta(population, tmp_path_factory):
    """A briefly trained meta-model of the six networks."""
    return train_meta(population, tmp_path_factory.mktemp("sequence_meta"))


@pytest.fixture(scope="session")
def sequence_control(population, tmp_path_factory):
    """The same without theta."""
    return train_meta(population, tmp_path_factory.mktemp("sequence_control"), use_theta=False)


@pytest.fixture(scope="session")
def image_population(tmp_path_factory):
    """Two small ResNets and two small CNNs of digits."""
    digits = make_digits(DigitsTask())
    parts = {name: getattr(digits, name).select(torch.arange(count)) for name, count in (("base", 300), ("meta", 200), ("test", 150))}
    groups = [
        Group(
            name=kind, networks=2, architecture={"family": "convolutional", "kind": kind, "depth": depth, "width": 4},
            training={"batch": 32, "epochs": 4, "learning_rate": 1e-2},
        )
        for kind, depth in (("resnet", 8), ("cnn", 3))
    ]  # fmt: skip
    data = dataclasses.replace(digits, **parts)
    store = Population.create(tmp_path_factory.mktemp("image_population") / "population", specs_of(groups, data), data)
    train_remaining(store, LocalRuntime())
    return Population.open(store.path)


@pytest.fixture(scope="session")
def image_meta(image_population, tmp_path_factory):
    """A briefly trained meta-model of the four networks of digits."""
    return train_meta(image_population, tmp_path_factory.mktemp("image_meta"), hidden=4, learning_rate=1e-2)
