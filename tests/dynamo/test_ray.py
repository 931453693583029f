"""Ray against one process: the same networks, the same meta-model; lost workers lose nothing."""

import dataclasses
import os
import signal
from pathlib import Path

import pytest
import torch

from dynamo_dist import InputError, MetaModelConfig, Population
from dynamo_dist.jobs import JobFailed, map_jobs
from dynamo_dist.metamodel import checkpoint, folder
from dynamo_dist.metamodel.shard import Alone
from dynamo_dist.metamodel.training import TrainingJob, train_shard
from dynamo_dist.population.scheduling import train_remaining
from dynamo_dist.runtime import open_runtime

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # Ray's own warnings are not ours to fix

# Without clipping, the first moment of Adam after one step is a tenth of the gradient.
CONFIG = MetaModelConfig(dimensions=3, hidden=8, embedding=4, steps=20, batch=6, clip=1e9)


@pytest.fixture(scope="module")
def runtime():
    with open_runtime(2) as active:
        yield active


def _die_once(marker: str, value: int) -> int:
    """Kill the worker process on the first call of each marker."""
    if not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return value * value


def _die_always() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _wrong_input() -> None:
    raise InputError("the data are wrong")


def test_population_on_ray_is_bitwise_that_of_one_process(runtime, population, valence, tmp_path):
    from small_population import make_specs  # here: workers import this module by its path, and not its neighbours

    # The same plan as the fixture's: a chunk's result depends on its specs alone.
    store = Population.create(tmp_path / "population", make_specs(valence), valence)
    train_remaining(store, runtime)
    ours = {id: (stack.networks, row) for stack in Population.open(store.path).stacks() for row, id in enumerate(stack.ids)}
    for stack in population.stacks():
        for row, id in enumerate(stack.ids):
            networks, position = ours[id]
            assert all(torch.equal(p[row], networks.parameters[name][position]) for name, p in stack.networks.parameters.items())


def test_two_ray_train_workers_are_one_process(runtime, population, tmp_path):
    results = {}
    for steps in (1, 20):
        config = dataclasses.replace(CONFIG, steps=steps)
        for name, train in (("one", lambda job: train_shard(job, group=Alone())), ("two", lambda job: runtime.train([job]))):
            out = tmp_path / f"{name}-{steps}"
            folder.prepare(out, population, config)
            train(TrainingJob(population=str(population.path), out=str(out), config=config, precision="float64", activations="recompute"))
            step = checkpoint.step_path(out, steps)
            results[name, steps] = {**checkpoint.read_shared(step), **checkpoint.read_private(step)}
    assert len(list(checkpoint.step_path(tmp_path / "two-20", 20).glob("networks-*"))) == 2
    for name, moment in results["one", 1].items():
        # theta starts at zero, so only its own moments can be compared relatively; every gradient is one of them.
        if name.startswith("mean."):
            assert (results["two", 1][name] - moment).norm() <= 1e-13 * moment.norm(), name
    for name, parameter in results["one", 20].items():
        if not name.startswith(("mean.", "square.")):
            assert (results["two", 20][name] - parameter).norm() <= 1e-9 * parameter.norm(), name


def test_a_job_whose_worker_dies_is_done_by_another(runtime, tmp_path):
    jobs = [(str(tmp_path / f"marker-{value}"), value) for value in range(4)]
    assert dict(map_jobs(runtime, _die_once, jobs, print)) == {0: 0, 1: 1, 2: 4, 3: 9}


def test_a_job_that_always_kills_its_worker_is_given_up_by_name(runtime):
    with pytest.raises(JobFailed, match="job 1 of 1 lost its worker 3 times"):
        list(map_jobs(runtime, _die_always, [()], print))


def test_wrong_input_found_by_a_worker_is_not_tried_again(runtime):
    with pytest.raises(InputError, match="the data are wrong"):
        list(map_jobs(runtime, _wrong_input, [()], print))
