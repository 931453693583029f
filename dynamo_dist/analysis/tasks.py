"""What several analyses need: one task of a population, and the answers and scores of networks and of vectors on it.

Legend: M networks, P vectors, N answers (inputs, or their valid steps), D embedding dimensions, C outputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dynamo_dist.analysis.scores import TaskScore, answers, places, targets
from dynamo_dist.data import Dataset, Examples, Output
from dynamo_dist.errors import InputError
from dynamo_dist.metamodel import MetaModel
from dynamo_dist.networks import Stacked
from dynamo_dist.population import Population

# Vectors of one pass: more would leave a batch of a single input, and the states of all of them at once in memory.
PASS_VECTORS = 256


@dataclass(frozen=True, kw_only=True)
class Task:
    """A data set and one of its targets, with the embedded networks that learned it, in the order of the embedding."""

    data: str
    target: str
    dataset: Dataset
    ids: tuple[str, ...]

    @property
    def output(self) -> Output:
        return self.dataset.outputs[self.target]

    def score(self, answers_mNC: Tensor, part: Examples) -> np.ndarray:
        """Accuracy, or R^2 of values, of every row of answers to these examples: (m,)."""
        score, wanted = TaskScore(self.output), targets(part, self.target, self.output)
        score.add(answers_mNC, wanted.expand(len(answers_mNC), *wanted.shape))
        return np.array(score.values())


def task_of(meta: MetaModel, data: str | None = None, target: str | None = None) -> Task:
    """The task with these names; None: the only one that the networks learned.

    Raises `InputError` where it is unknown, or where there are several and none is named.
    """
    members: dict[tuple[str, str], list[str]] = {}
    for id in meta.network_ids:
        spec = meta.population.spec(id)
        members.setdefault((spec.data, spec.target), []).append(id)
    found = [names for names in members if data in (None, names[0]) and target in (None, names[1])]
    if len(found) != 1:
        known = ", ".join(f"data={own!r} target={wanted!r}" for own, wanted in members)
        which = "names no task" if not found else "fits several tasks"
        raise InputError(f"data={data!r}, target={target!r} {which} of the networks of {meta.path}: name one of {known}")
    (names,) = found
    return Task(data=names[0], target=names[1], dataset=meta.population.datasets[names[0]], ids=tuple(members[names]))


def sample(part: Examples, most: int, generator: np.random.Generator) -> Examples:
    """At most so many of the examples, drawn without replacement and kept in their order."""
    if len(part) <= most:
        return part
    return part.select(torch.from_numpy(np.sort(generator.choice(len(part), most, replace=False))))


@torch.no_grad()
def stack_answers(networks: Stacked, part: Examples, output: Output) -> Tensor:
    """Answers of stacked networks to all examples, in their order: (M, N, C)."""
    parts, order = [], []
    for index in part.batches(networks.count * networks.architecture.intermediate(tuple(part.inputs.shape[1:]))):
        few = part.select(index)
        inputs = few.inputs.to(networks.dtype) if few.inputs.is_floating_point() else few.inputs
        _, out = networks(inputs[None], None if few.lengths_N is None else few.lengths_N[None])
        parts.append(answers(out, few.lengths_N, output))
        order.append(places(index, part, output))
    return torch.cat(parts, dim=1)[:, torch.argsort(torch.cat(order))]


def base_answers(population: Population, ids: Sequence[str], part: Examples, output: Output) -> Tensor:
    """Answers of trained networks of any architectures to all examples, (M, N, C) in the order of `ids` and of the examples."""
    found: dict[str, Tensor] = {}
    for stack in population.stacks(ids):
        found |= zip(stack.ids, stack_answers(stack.networks, part, output), strict=True)
    return torch.stack([found[id] for id in ids])


@torch.no_grad()
def vector_scores(meta: MetaModel, task: Task, theta_PD: np.ndarray, part: Examples) -> np.ndarray:
    """Score of the meta-model at every vector on these examples of a task, (P,)."""
    found = []
    for theta in np.split(theta_PD, range(PASS_VECTORS, len(theta_PD), PASS_VECTORS)):
        score = TaskScore(task.output)
        for index in meta.batches(part, len(theta)):
            few = part.select(index)
            _, out = meta.emulate(theta, few.inputs, few.lengths_N, data=task.data, every_step=task.output.every_step)
            wanted = targets(few, task.target, task.output)
            score.add(answers(out, few.lengths_N, task.output), wanted.expand(len(theta), *wanted.shape))
        found += score.values()
    return np.array(found)
