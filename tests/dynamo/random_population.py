"""Populations whose networks are as they start: nothing is trained, so they are there at once."""

import math

from dynamo_dist import Population
from dynamo_dist.networks import Recurrent, stack_class
from dynamo_dist.population import NetworkSpec
from dynamo_dist.population.store import Results


def spec(id, data, *, cell="gru", hidden=7, target=None, name="data"):
    """A network for a data set of sequences."""
    target = target or next(iter(data.outputs))
    output = data.outputs[target]
    features = 5 if data.vocabulary else data.input_shape[0]
    architecture = Recurrent(
        cell=cell, hidden=hidden, features=features, vocabulary=data.vocabulary, outputs=output.size, every_step=output.every_step
    )
    return NetworkSpec(
        id=id, group=cell, computation=cell, architecture=architecture, target=target, data=name, seed=sum(id.encode()), samples=1, batch=1
    )


def make_population(path, specs, data, *, nan=(), commit=lambda id: True):
    """A population of these specifications; `nan`: ids of networks with a recurrent weight that is NaN; `commit`: false of an id leaves the chunk
    that it is in missing."""
    population = Population.create(path, specs, data, bytes_per_network=lambda spec, data: 1000)
    for chunk in population.remaining():
        own = population.chunk_specs(chunk)
        if not all(commit(one.id) for one in own):
            continue
        networks = stack_class(own[0].architecture).initial(own[0].architecture, [one.seed for one in own])
        for row, one in enumerate(own):
            if one.id in nan:
                networks.parameters["w_recurrent"][row, 0, 0] = math.nan
        none = [None] * len(own)
        results = Results(
            loss=none, curve=[[]] * len(own), steps=[0] * len(own), accuracy=none, r2=none, failed_at=[-1] * len(own), failure=none
        )
        name = population.chunk_name(own)
        population.commit(name, own, networks, results)
        population.record(name, chunk)
    return population
