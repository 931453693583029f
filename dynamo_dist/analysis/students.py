"""Base networks trained anew, for comparison: from scratch on few labels, or on what an ensemble answers.

Both take the architecture and the training of a network of the population, and as many steps.

Legend: M networks, B batch, N inputs, C classes.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dynamo_dist.data import Examples, Output
from dynamo_dist.networks import Stacked, stack_class
from dynamo_dist.population import NetworkSpec
from dynamo_dist.population.training import StackedAdam, clip_per_network, schedule, train_chunk

# Steps where the network was trained elsewhere, and nobody knows how many it took.
STEPS = 500


def from_scratch(spec: NetworkSpec, few: Examples, output: Output, seeds: Sequence[int]) -> Stacked:
    """Networks like `spec`, one per seed, trained on these labelled examples alone."""
    batch = min(spec.batch, len(few))
    epochs = -(-(spec.steps or STEPS) // (len(few) // batch))
    own = dataclasses.replace(spec, samples=len(few), batch=batch, epochs=epochs, validation=0.0, patience=0)
    return train_chunk([dataclasses.replace(own, seed=seed) for seed in seeds], few, output).networks


def distilled(spec: NetworkSpec, inputs: Examples, logits_NC: Tensor, seeds: Sequence[int]) -> Stacked:
    """Networks like `spec`, one per seed, trained to answer as `logits_NC` on these inputs, by the cross-entropy of their softmax
    (Hinton, Vinyals, Dean, arXiv 1503.02531, temperature 1). No label is read; images are not augmented."""
    networks = stack_class(spec.architecture).initial(spec.architecture, seeds)
    parameters = [p.requires_grad_() for p in networks.parameters.values()]
    optimiser, steps, batch = StackedAdam(parameters), spec.steps or STEPS, min(spec.batch, len(inputs))
    p_NC, generators = logits_NC.float().softmax(dim=-1), [np.random.default_rng([seed, 1]) for seed in seeds]
    every_M = torch.ones(len(seeds), dtype=torch.bool)
    for step in range(steps):
        index_MB = torch.from_numpy(np.stack([rng.choice(len(inputs), batch, replace=False) for rng in generators]))
        part = inputs.select(index_MB)
        _, out_MBC = networks(part.inputs, part.lengths_N, training=True)
        for p in parameters:
            p.grad = None
        (-(p_NC[index_MB] * out_MBC.log_softmax(dim=-1)).sum(dim=-1).mean(dim=1)).sum().backward()
        clip_per_network(parameters, torch.full((len(seeds),), spec.clip))
        rate = spec.learning_rate * (schedule(step, steps) if spec.schedule == "cosine" else 1.0)
        optimiser.step(
            torch.full((len(seeds),), rate, dtype=torch.float64),
            decay_M=torch.full((len(seeds),), spec.weight_decay, dtype=torch.float64) if spec.weight_decay else None,
        )
        networks.update_buffers(every_M)
    return networks.detach()
