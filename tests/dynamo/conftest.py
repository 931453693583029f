import pytest
import torch
from small_population import make_specs

from dynamo_dist.data.valence import ValenceTask, make_valence
from dynamo_dist.population import Population
from dynamo_dist.population.plan import plan_chunks
from dynamo_dist.population.work import train_and_commit


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
    for chunk in plan_chunks(store.specs, data=store.header["data_sha256"], workers=1):
        train_and_commit(str(folder), chunk.name, [spec.id for spec in chunk.specs])
        store.record(chunk.name, len(chunk.specs))
    return Population.open(folder)
