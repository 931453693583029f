"""Networks averaged in the embedding space: the meta-model at a mean vector, a network that nobody trained, and its score.

Scores are accuracies, or R^2 against the targets where networks answer with values.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from dynamo_dist import storage
from dynamo_dist.analysis.tasks import sample, task_of, vector_scores
from dynamo_dist.metamodel import MetaModel

RANDOM_VECTORS = 8
# Inputs of the test part that a vector is scored on, at most: an accuracy is known to 0.7 % then.
TESTED = 5000


@dataclass(frozen=True, kw_only=True)
class Vector:
    """A vector to score on one task: a data set and one of its targets."""

    # `within`, `across` or `random_theta`.
    kind: str
    name: str
    data: str
    target: str
    # Ids of the networks whose vectors it averages, by group; empty for a random one.
    groups: dict[str, tuple[str, ...]]
    theta: np.ndarray


def scores_at(meta_path: str, data: str, target: str, theta_PD: np.ndarray) -> list[float]:
    """Test score of the meta-model at every vector, on one task; the same inputs for all."""
    meta = MetaModel.open(meta_path)
    task = task_of(meta, data, target)
    scores: list[float] = vector_scores(meta, task, theta_PD, sample(task.dataset.test, TESTED, np.random.default_rng(0))).tolist()
    return scores


def average_vectors(meta: MetaModel, *, seed: int = 0) -> list[Vector]:
    """What to evaluate.

    `within`: mean vector of a group. `across`: mean over two groups that learned the same task (mean of the two group means,
    so that the larger group does not dominate). `random_theta`: isotropic normal with the embedding's root mean square radius:
    the control against a meta-model that solves the task at every theta.
    """
    groups = _groups(meta)
    mean = {name: meta.embedding[rows].mean(axis=0) for members in groups.values() for name, rows in members.items()}

    def of(kind: str, name: str, task: tuple[str, str], theta: np.ndarray, *averaged: str) -> Vector:
        ids = {own: tuple(meta.network_ids[row] for row in groups[task][own]) for own in averaged}
        return Vector(kind=kind, name=name, data=task[0], target=task[1], groups=ids, theta=theta)

    vectors = [of("within", name, task, mean[name], name) for task, members in groups.items() for name in members]
    for task, members in groups.items():
        vectors += [of("across", f"{a} + {b}", task, (mean[a] + mean[b]) / 2, a, b) for a, b in combinations(members, 2)]
    radius = np.sqrt((meta.embedding**2).mean())
    drawn = np.random.default_rng(seed).normal(scale=radius, size=(RANDOM_VECTORS, meta.embedding.shape[1]))
    for task in sorted(groups):
        vectors += [of("random_theta", _task_name(task, groups), task, theta) for theta in drawn]
    return vectors


def _groups(meta: MetaModel) -> dict[tuple[str, str], dict[str, list[int]]]:
    """By task (data, target) and by group the rows of the embedding. Networks of one group that learned different tasks are different
    groups here."""
    rows: dict[tuple[str, str], dict[str, list[int]]] = {}
    for row, id in enumerate(meta.network_ids):
        spec = meta.population.spec(id)
        rows.setdefault((spec.data, spec.target), {}).setdefault(spec.group, []).append(row)
    tasks_of = Counter(group for members in rows.values() for group in members)
    return {
        task: {group if tasks_of[group] == 1 else f"{group} ({_task_name(task, rows)})": own for group, own in members.items()}
        for task, members in rows.items()
    }


def _task_name(task: tuple[str, str], tasks: Iterable[tuple[str, str]]) -> str:
    data, target = task
    return f"{data}: {target}" if len({name for name, _ in tasks}) > 1 else target


def jobs(meta: MetaModel, vectors: Sequence[Vector], pieces: int) -> list[tuple[tuple[str, str, str, np.ndarray], list[int]]]:
    """Arguments of `scores_at`, and the positions of the vectors that each scores: tasks apart, each in so many pieces."""
    by_task: dict[tuple[str, str], list[int]] = {}
    for position, vector in enumerate(vectors):
        by_task.setdefault((vector.data, vector.target), []).append(position)
    return [
        ((storage.address(meta.path.resolve()), data, target, np.stack([vectors[position].theta for position in piece])), piece.tolist())
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
