"""The meta-model at a mean vector against every other way to make one network of several, and against its controls.

For every group, and for every two groups that learned the same task, on the test part of their task:

    base             the networks themselves
    meta             the meta-model at each one's theta
    mean_theta       the meta-model at theta-bar, the mean vector; of two groups the mean of their two means
    random_theta     at random vectors of the embedding's size: does it solve the task everywhere?
    other_theta      at the mean vectors of the other groups: would any group's do?
    control          a meta-model trained without theta: does it solve the task alone?
    weight_average   the mean of the weights
    matched_average  the same after the hidden units were brought into one order (`matching`)
    ensemble         the mean of the networks' logits, or values: as many networks to run as it averages

In every mean over two groups both count the same, however many networks they have. Networks of unlike architectures have no mean of
weights. After a mean of weights the statistics of batch normalisation are taken anew, on the inputs without labels.

Legend: M networks, N answers, D embedding dimensions, C outputs.
"""

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from dynamo_dist.analysis.averaging import Vector, average_vectors
from dynamo_dist.analysis.matching import matched, weight_average
from dynamo_dist.analysis.tasks import Task, base_answers, stack_answers, task_of, vector_scores
from dynamo_dist.errors import InputError
from dynamo_dist.metamodel import MetaModel
from dynamo_dist.networks import Imported


@dataclass(frozen=True, kw_only=True)
class Average:
    """One group, or two, averaged in every way; scores are accuracies, or R^2 of values, on the test part."""

    # The group's name, or two joined by " + ".
    name: str
    groups: tuple[str, ...]
    data: str
    target: str
    ids: tuple[str, ...]
    # theta-bar, float64 (D,): `meta.network(theta)` is it as a module, with `like=ids[0]` where the tasks of the population differ.
    theta: np.ndarray
    # Of every network, float64 (M,).
    base: np.ndarray
    meta: np.ndarray
    mean_theta: float
    random_theta: np.ndarray
    # By group.
    other_theta: dict[str, float]
    control: float | None
    weight_average: float | None
    matched_average: float | None
    # Why there is no average of weights; "" where there is.
    without_weights: str
    ensemble: float

    def methods(self) -> dict[str, list[float]]:
        """The scores of every method, as many as it has."""
        single = {
            "mean_theta": self.mean_theta, "control": self.control, "weight_average": self.weight_average,
            "matched_average": self.matched_average, "ensemble": self.ensemble,
        }  # fmt: skip
        several: dict[str, Iterable[float]] = {
            "base": self.base, "meta": self.meta, "random_theta": self.random_theta, "other_theta": self.other_theta.values(),
        }  # fmt: skip
        return {name: list(map(float, scores)) for name, scores in several.items()} | {
            name: [] if score is None else [score] for name, score in single.items()
        }


@dataclass(frozen=True, kw_only=True)
class Averaging:
    """Every group and every two groups of one task, averaged in every way."""

    rows: tuple[Average, ...]

    def summary(self) -> dict[str, Any]:
        """By name of the group or groups: mean, standard deviation and highest of every method with several scores, the score of the others;
        None where there is none."""
        result = {}
        for row in self.rows:
            scores: dict[str, Any] = {}
            for method, found in row.methods().items():
                if method in ("base", "meta", "random_theta", "other_theta"):
                    scores[method] = (
                        {"mean": float(np.mean(found)), "sd": float(np.std(found)), "max": max(found)} if found else None
                    )
                else:
                    scores[method] = found[0] if found else None
            result[row.name] = scores | {"without_weights": row.without_weights or None}
        return result

    def tables(self) -> dict[str, pa.Table]:
        """`averaging`: a row per group or pair, method and score, with what was scored: the network, the group of another theta, or the
        number of a random one. `averaging_theta`: theta-bar of every group and pair."""
        columns: dict[str, list[Any]] = {name: [] for name in ("name", "groups", "data", "target", "method", "of", "score")}
        for row in self.rows:
            of = {"base": row.ids, "meta": row.ids, "other_theta": tuple(row.other_theta)}
            for method, found in row.methods().items():
                for number, score in enumerate(found):
                    what = of[method][number] if method in of else str(number)
                    values = (row.name, len(row.groups), row.data, row.target, method, what, score)
                    for column, value in zip(columns.values(), values, strict=True):
                        column.append(value)
        vectors = {"name": [row.name for row in self.rows], "theta": [row.theta.tolist() for row in self.rows]}
        return {"averaging": pa.table(columns), "averaging_theta": pa.table(vectors)}


def compare_averages(meta: MetaModel, *, control: MetaModel | None = None, seed: int = 0) -> Averaging:
    """Every group and every two groups of one task of `meta`, averaged in every way.

    `control`: a meta-model of the same population trained with `use_theta=False`; `seed`: of the random vectors.

    Raises `InputError` where `control` has a theta, or does not know the data sets.
    """
    if control is not None and (control.config.use_theta or list(control.population.header["data"]) != list(meta.population.header["data"])):
        raise InputError(f"{control.path} is no control of {meta.path}: give a meta-model of its population trained with use_theta=False")
    vectors = average_vectors(meta, seed=seed)
    rows = []
    for data, target in dict.fromkeys((vector.data, vector.target) for vector in vectors):
        rows += _of_task(meta, task_of(meta, data, target), vectors, control)
    order = {vector.name: place for place, vector in enumerate(vectors)}
    return Averaging(rows=tuple(sorted(rows, key=lambda row: order[row.name])))


def _of_task(meta: MetaModel, task: Task, vectors: Sequence[Vector], control: MetaModel | None) -> list[Average]:
    """All averages on one task."""
    test, output = task.dataset.test, task.output
    here = [vector for vector in vectors if (vector.data, vector.target) == (task.data, task.target)]
    averages = [vector for vector in here if vector.kind != "random_theta"]
    members = {name: ids for vector in averages for name, ids in vector.groups.items()}
    # Means of groups that learned something else are vectors like any other, where networks answer with as many classes or values.
    means = {vector.name: vector for vector in vectors if vector.kind == "within" and _same_output(meta, vector, task)}
    drawn = [vector.theta for vector in here if vector.kind == "random_theta"]
    place = {id: row for row, id in enumerate(meta.network_ids)}
    own = meta.embedding[[place[id] for id in task.ids]]
    parts = [own, np.stack([vector.theta for vector in averages]), np.stack(drawn), np.stack([mean.theta for mean in means.values()])]
    scores = np.split(vector_scores(meta, task, np.concatenate(parts), test), np.cumsum([len(part) for part in parts])[:-1])
    meta_score, theta_score = (dict(zip(names, found, strict=True)) for names, found in ((task.ids, scores[0]), (means, scores[3])))
    alone = None if control is None else float(vector_scores(control, task, np.zeros((1, control.config.dimensions)), test)[0])
    base_score: dict[str, float] = {}
    logits: dict[str, Tensor] = {}
    for group, ids in members.items():
        answers_mNC = base_answers(meta.population, ids, test, output)
        base_score |= zip(ids, task.score(answers_mNC, test), strict=True)
        logits[group] = answers_mNC.double().mean(dim=0)
    rows = []
    for vector, mean_theta in zip(averages, scores[1], strict=True):
        groups, ids = tuple(vector.groups), tuple(id for own in vector.groups.values() for id in own)
        weights, without = _weight_averages(meta, task, tuple(vector.groups.values()))
        rows.append(
            Average(
                name=vector.name,
                groups=groups,
                data=task.data,
                target=task.target,
                ids=ids,
                theta=vector.theta,
                base=np.array([base_score[id] for id in ids]),
                meta=np.array([meta_score[id] for id in ids]),
                mean_theta=float(mean_theta),
                random_theta=scores[2],
                other_theta={name: float(score) for name, score in theta_score.items() if name not in groups},
                control=alone,
                weight_average=weights[0],
                matched_average=weights[1],
                without_weights=without,
                ensemble=float(task.score(reduce(operator.add, (logits[group] for group in groups))[None] / len(groups), test)[0]),
            )
        )
    return rows


def _same_output(meta: MetaModel, vector: Vector, task: Task) -> bool:
    return meta.population.datasets[vector.data].outputs[vector.target] == task.output


def _weight_averages(meta: MetaModel, task: Task, groups: Sequence[Sequence[str]]) -> tuple[tuple[float | None, float | None], str]:
    """Scores of the mean of the weights as they are and matched, and why there are none."""
    ids = [id for group in groups for id in group]
    stacks = list(meta.population.stacks(ids))
    if len(stacks) > 1:
        labels = " and ".join(dict.fromkeys(stack.networks.architecture.label for stack in stacks))
        return (None, None), f"{labels} have no weights in common"
    (stack,) = stacks
    networks = stack.networks
    if isinstance(networks.architecture, Imported):
        return (None, None), f"which weights of {networks.architecture.label} share units is not known"
    size = {id: len(group) for group in groups for id in group}
    shares = np.array([1 / (len(groups) * size[id]) for id in stack.ids])
    averages = [weight_average(own, shares, inputs=task.dataset.meta) for own in (networks, matched(networks))]
    scores = [float(task.score(stack_answers(average, task.dataset.test, task.output), task.dataset.test)[0]) for average in averages]
    return (scores[0], scores[1]), ""
