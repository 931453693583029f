"""A population that takes a while, for tests that disturb its training, and what it must come out as."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from small_population import make_specs

from dynamo_dist import Population
from dynamo_dist.commit import read_lines
from dynamo_dist.data.valence import ValenceTask, make_valence
from dynamo_dist.population.scheduling import train_remaining
from dynamo_dist.runtime import LocalRuntime

# Trained where a cluster is, in a process of its own.
TRAIN = """
import sys
from dynamo_dist import InputError, Population, train_population
try:
    train_population(Population(sys.argv[1]), workers=2, address=sys.argv[2])
except InputError as error:
    sys.exit(str(error))
"""
COUNT = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False); print(ray.available_resources().get('CPU', 0))"


def lay_down(path):
    """Chunks of four networks, of seconds each: more than a worker trains while a node that was killed is noticed and replaced."""
    data = make_valence(ValenceTask(base=400, meta=20, test=200, longest=40))
    specs = make_specs(data, networks=12, samples=400, epochs=45)
    return Population.create(path, specs, data, workers=2, bytes_per_network=lambda spec, data: 10**9 // 4)


def calm(path):
    """The undisturbed run."""
    torch.set_num_threads(1)
    store = lay_down(path)
    train_remaining(store, LocalRuntime())
    return store.path


def train(path, address, *, before=(), environment):
    """The process that trains the population on a cluster."""
    command = [*before, sys.executable, "-c", TRAIN, str(path), address]
    return subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True)


def chunks_recorded(path):
    return len(read_lines(Path(path) / "journal.jsonl"))


def weights(path):
    stacks = Population.open(path).stacks()
    return {(id, name): p[row] for stack in stacks for row, id in enumerate(stack.ids) for name, p in stack.networks.tensors.items()}


def assert_same(path, reference):
    """Every network exactly once, bit for bit."""
    ours, theirs = weights(path), weights(reference)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], p) for key, p in theirs.items())
    assert sum(line["networks"] for line in read_lines(Path(path) / "journal.jsonl")) == len(Population(reference))
