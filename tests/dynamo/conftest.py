import pytest
import torch
from small_population import make_specs

from dynamo_dist.data.valence import ValenceTask, make_valence
from dynamo_dist.population import Population
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
