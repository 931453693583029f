"""Networks averaged in the embedding space: the meta-model at a mean vector, a network that nobody trained, and its score.

Scores are accuracies, or R^2 against the targets where networks answer with values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch

from dynamo_dist.analysis.scores import TaskScore, answers, targets
from dynamo_dist.metamodel import MetaModel

RANDOM_VECTORS = 8


@dataclass(frozen=True, kw_only=True)
class Vector:
    """A vector to score on one task: a data set and one of its targets."""

    # `within`, `across` or `random_theta`.
    kind: str
    name: str
    data: str
    target: str
    theta: np.ndarray


@torch.no_grad()
def scores_at(meta_path: str, data: str, target: str, theta_PD: np.ndarray) -> list[float]:
    """Test score of the meta-model at every vector, on one task."""
    meta = MetaModel.open(meta_path)
    test, output = meta.population.datasets[data].test, meta.population.datasets[data].outputs[target]
    score = TaskScore(output)
    for index in meta.batches(test, len(theta_PD)):
        part = test.select(index)
        _, out = meta.emulate(theta_PD, part.inputs, part.lengths_N, data=data, every_step=output.every_step)
        wanted = targets(part, target, output)
        score.add(answers(out, part.lengths_N, output), wanted.expand(len(theta_PD), *wanted.shape))
    return score.values()


def average_vectors(meta: MetaModel, *, seed: int = 0) -> list[Vector]:
    """What to evaluate.

    `within`: mean vector of a group. `across`: mean over two groups that learned the same task (mean of the two group means,
    so that the larger group does not dominate). `random_theta`: isotropic normal with the embedding's root mean square radius:
    the control against a meta-model that solves the task at every theta.
    """
    specs = [meta.population.spec(id) for id in meta.network_ids]
    groups = {spec.group: spec for spec in specs}
    mean = {name: meta.embedding[[spec.group == name for spec in specs]].mean(axis=0) for name in groups}

    def of(kind: str, name: str, spec: Any, theta: np.ndarray) -> Vector:
        return Vector(kind=kind, name=name, data=spec.data, target=spec.target, theta=theta)

    vectors = [of("within", name, groups[name], mean[name]) for name in groups]
    for a, b in combinations(groups, 2):
        if (groups[a].data, groups[a].target) == (groups[b].data, groups[b].target):
            vectors.append(of("across", f"{a} + {b}", groups[a], (mean[a] + mean[b]) / 2))
    radius = np.sqrt((meta.embedding**2).mean())
    drawn = np.random.default_rng(seed).normal(scale=radius, size=(RANDOM_VECTORS, meta.embedding.shape[1]))
    tasks = {(spec.data, spec.target): spec for spec in specs}
    several = len({data for data, _ in tasks}) > 1
    for data, target in sorted(tasks):
        name = f"{data}: {target}" if several else target
        vectors += [of("random_theta", name, tasks[data, target], theta) for theta in drawn]
    return vectors


def jobs(meta: MetaModel, vectors: Sequence[Vector], pieces: int) -> list[tuple[tuple[str, str, str, np.ndarray], list[int]]]:
    """Arguments of `scores_at`, and the positions of the vectors that each scores: tasks apart, each in so many pieces."""
    by_task: dict[tuple[str, str], list[int]] = {}
    for position, vector in enumerate(vectors):
        by_task.setdefault((vector.data, vector.target), []).append(position)
    return [
        ((str(meta.path.resolve()), data, target, np.stack([vectors[position].theta for position in piece])), piece.tolist())
        for (data, target), positions in by_task.items()
        for piece in np.array_split(np.array(positions), min(len(positions), pieces))
    ]


def summarize(vectors: Sequence[Vector], scores: Sequence[float]) -> dict[str, Any]:
    """The scores of the vectors as `result.json` shows them."""
    result: dict[str, Any] = {"within": {}, "across": {}, "random_theta": {}}
    drawn: dict[str, list[float]] = {}
    for vector, score in zip(vectors, scores, strict=True):
        if vector.kind == "random_theta":
            drawn.setdefault(vector.name, []).append(score)
        else:
            result[vector.kind][vector.name] = score
    result["random_theta"] = {name: {"mean": float(np.mean(v)), "sd": float(np.std(v)), "max": max(v)} for name, v in drawn.items()}
    return result


def average(meta: MetaModel) -> dict[str, Any]:
    """Test score at the mean vectors of groups, of pairs of groups, and at random vectors."""
    vectors = average_vectors(meta)
    scores = [0.0] * len(vectors)
    for arguments, positions in jobs(meta, vectors, 1):
        for position, score in zip(positions, scores_at(*arguments), strict=True):
            scores[position] = score
    return summarize(vectors, scores)
