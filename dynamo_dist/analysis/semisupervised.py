"""Few labels: the meta-model as it is, theta alone optimised on them.

A population that was trained once is a family of networks with D parameters; a few labels choose among them. Compared, on the same
labels and the whole test part:

    base_mean, base_best   the networks of the task: their mean score, and the one with the lowest loss on the labels
    ensemble               mean of their logits; reads no label
    mean_theta             the meta-model at the mean of their vectors; reads no label
    start                  the meta-model at that one of the starts with the lowest loss on the labels: choosing without optimising
    optimised_theta        the meta-model at theta optimised on the labels (`optimise`)
    scratch                a network like most of them trained from scratch on the labels, mean of several
    distillation           one trained on what the ensemble answers on the inputs without labels; reads no label

The labels come from the labelled part, on which the base networks were trained, so `base_best` leans to those that fit it most. No test
label is in any choice. Networks must answer with one class per input.

Legend: M networks, N examples, C classes, D embedding dimensions.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from dynamo_dist.analysis.optimise import FOLDS, Objective, Optimised, optimise
from dynamo_dist.analysis.students import distilled, from_scratch
from dynamo_dist.analysis.tasks import Task, base_answers, stack_answers, task_of, vector_scores
from dynamo_dist.errors import InputError
from dynamo_dist.metamodel import MetaModel
from dynamo_dist.networks import Imported
from dynamo_dist.population import NetworkSpec

FRACTIONS = (0.1, 0.25, 0.5, 1.0)
# Labels of the smallest of these fractions by default: at least so many, and of every class.
LEAST_LABELS, LABELS_PER_CLASS = 20, 4
# Random vectors among the starts, from a normal distribution with the mean and covariance of the embedding.
RANDOM_STARTS = 8
# Networks trained from scratch on each draw of the labels.
SCRATCH_SEEDS = 3
METHODS = ("base_mean", "base_best", "ensemble", "mean_theta", "start", "optimised_theta", "scratch", "distillation")


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One fraction of one draw of the labels."""

    draw: int
    fraction: float
    labels: int
    # Test accuracy by method; None where there is none.
    scores: dict[str, float | None]
    # Id of the network of `base_best`, and the name of the start of `start`.
    best_network: str
    best_start: str
    optimised: Optimised


@dataclass(frozen=True, kw_only=True)
class SemiSupervised:
    """Every fraction of every draw; the labels of a larger fraction hold those of a smaller one."""

    data: str
    target: str
    ids: tuple[str, ...]
    # Test accuracy of the networks of the task, (M,).
    base: np.ndarray
    # Short name of the architecture of `scratch` and `distillation`, and why there are none; "" where there are.
    architecture: str
    without_training: str
    draws: tuple[Draw, ...]

    def summary(self) -> dict[str, Any]:
        """By fraction the mean and standard deviation over draws of every method, and the number of labels."""
        fractions = {}
        for fraction in dict.fromkeys(draw.fraction for draw in self.draws):
            own = [draw for draw in self.draws if draw.fraction == fraction]
            scores = {method: [score for draw in own if (score := draw.scores[method]) is not None] for method in METHODS}
            fractions[f"{fraction:g}"] = {"labels": own[0].labels} | {
                method: {"mean": float(np.mean(found)), "sd": float(np.std(found))} if found else None for method, found in scores.items()
            }
        return {
            "data": self.data,
            "target": self.target,
            "networks": len(self.ids),
            "base": {"mean": float(self.base.mean()), "sd": float(self.base.std()), "max": float(self.base.max())},
            "architecture": self.architecture,
            "without_training": self.without_training or None,
            "fractions": fractions,
        }

    def tables(self) -> dict[str, pa.Table]:
        """`semisupervised`: a row per draw, fraction and method. `semisupervised_theta`: a row per draw and fraction, what was found."""
        scores = [
            {"draw": draw.draw, "fraction": draw.fraction, "labels": draw.labels, "method": method, "score": score}
            for draw in self.draws
            for method, score in draw.scores.items()
        ]
        found = [
            {
                "draw": draw.draw, "fraction": draw.fraction, "labels": draw.labels, "theta": draw.optimised.theta.tolist(),
                "start": draw.optimised.start, "pull": draw.optimised.pull, "loss": draw.optimised.loss,
                "held_out_loss": draw.optimised.held_out_loss, "best_network": draw.best_network, "best_start": draw.best_start,
            }
            for draw in self.draws
        ]  # fmt: skip
        kind = pa.schema(
            [("draw", pa.int64()), ("fraction", pa.float64()), ("labels", pa.int64()), ("method", pa.string()), ("score", pa.float64())]
        )
        return {"semisupervised": pa.Table.from_pylist(scores, schema=kind), "semisupervised_theta": pa.Table.from_pylist(found)}


def semisupervised(
    meta: MetaModel,
    *,
    data: str | None = None,
    target: str | None = None,
    labels: int | None = None,
    fractions: Sequence[float] = FRACTIONS,
    draws: int = 3,
    seed: int = 0,
) -> SemiSupervised:
    """Optimise theta on a few labels of one task, and compare.

    `data`, `target`: the task, needed where the networks learned several; `labels`: what the fractions are of, by default ten times the
    larger of 20 and 4 per class; `draws`: of the labels, each with its own networks from scratch.

    Raises `InputError` where networks do not answer with one class per input, where a fraction leaves a class empty or is smaller than
    the folds of its cross-validation, where there are fewer labels, or where the meta-model has no theta.
    """
    task = task_of(meta, data, target)
    output, base = task.output, task.dataset.base
    if output.kind != "classes" or output.every_step:
        raise InputError(f"target={task.target!r} of {meta.path} is not one class per input: theta is optimised on such labels alone")
    if not meta.config.use_theta or not np.ptp(meta.embedding, axis=0).any():
        raise InputError(f"{meta.path}: all vectors are the same, so there is no theta to optimise; train it with theta, on several networks")
    target_N = base.targets[task.target].numpy()
    known = int((target_N >= 0).sum())
    labels = min(known, 10 * max(LEAST_LABELS, LABELS_PER_CLASS * output.size)) if labels is None else labels
    if not 1 <= labels <= known or draws < 1:
        raise InputError(f"labels={labels}, draws={draws}: expected 1 to {known} labels, as many as there are, and at least one draw")
    orders = [_stratified(target_N, np.random.default_rng([seed, draw])) for draw in range(draws)]
    counts = [_count(fraction, labels, [target_N[order] for order in orders], output.size) for fraction in fractions]

    test = task.dataset.test
    base_test = base_answers(meta.population, task.ids, test, output)
    base_scores = task.score(base_test, test)
    place = {id: row for row, id in enumerate(meta.network_ids)}
    mean_theta = meta.embedding[[place[id] for id in task.ids]].mean(axis=0)
    # What reads no label is the same for all draws, but for the seeds of the distilled networks.
    free: dict[str, float | None] = {
        "base_mean": float(base_scores.mean()),
        "ensemble": float(task.score(base_test.double().mean(dim=0)[None], test)[0]),
        "mean_theta": float(vector_scores(meta, task, mean_theta[None], test)[0]),
    }
    spec = _most_common(meta, task)
    trainable = not isinstance(spec.architecture, Imported)
    distillation: list[float | None] = [None] * draws
    if trainable:
        logits_NC = base_answers(meta.population, task.ids, task.dataset.meta, output).mean(dim=0)
        students = distilled(spec, task.dataset.meta, logits_NC, range(seed, seed + draws))
        distillation = task.score(stack_answers(students, test, output), test).tolist()
    found = []
    for draw, order in enumerate(orders):
        starts = _starts(meta, np.random.default_rng([seed, draw, 1]))
        # Losses of all networks and starts on the labels of the largest fraction, which hold those of the others.
        most = base.select(torch.from_numpy(order[: max(counts)]))
        objective = Objective(meta, task, most)
        base_MN = objective.losses(base_answers(meta.population, task.ids, most, output).double())
        start_SNC = objective.logits(torch.from_numpy(np.stack([theta for _, theta in starts])))
        start_SN = objective.losses(start_SNC)
        for fraction, count in zip(fractions, counts, strict=True):
            few = most.select(torch.arange(count))
            network, start = int(base_MN[:, :count].mean(dim=1).argmin()), int(start_SN[:, :count].mean(dim=1).argmin())
            optimised = optimise(Objective(meta, task, few), starts, start_SNC[:, :count])
            tried = vector_scores(meta, task, np.stack([starts[start][1], optimised.theta]), test)
            scores: dict[str, float | None] = {
                "base_best": float(base_scores[network]), "start": float(tried[0]), "optimised_theta": float(tried[1])
            }  # fmt: skip
            if trainable:
                seeds = [SCRATCH_SEEDS * (seed + draw) + number for number in range(SCRATCH_SEEDS)]
                networks = from_scratch(spec, few, output, seeds)
                scores["scratch"] = float(np.mean(task.score(stack_answers(networks, test, output), test)))
            scores |= free | {"distillation": distillation[draw]}
            in_order = {method: scores.get(method) for method in METHODS}
            found.append(
                Draw(
                    draw=draw, fraction=float(fraction), labels=count, scores=in_order,
                    best_network=task.ids[network], best_start=starts[start][0], optimised=optimised,
                )
            )  # fmt: skip
    label = spec.architecture.label
    return SemiSupervised(
        data=task.data,
        target=task.target,
        ids=task.ids,
        base=base_scores,
        architecture=label,
        without_training="" if trainable else f"{label} was imported as a module: how to start one anew is not known",
        draws=tuple(found),
    )


def _most_common(meta: MetaModel, task: Task) -> NetworkSpec:
    """Of the networks of the task the first one with the architecture that most of them have."""
    specs = [meta.population.spec(id) for id in task.ids]
    architecture = Counter(spec.architecture for spec in specs).most_common(1)[0][0]
    return next(spec for spec in specs if spec.architecture == architecture)


def _stratified(target_N: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """All examples with a label, in an order of which every part is divided into classes as the whole, as far as whole numbers can be."""
    order = generator.permutation(np.flatnonzero(target_N >= 0))
    place = np.empty(len(order))
    for own in np.unique(target_N[order]):
        rows = np.flatnonzero(target_N[order] == own)
        place[rows] = (np.arange(len(rows)) + generator.random()) / len(rows)
    return order[np.argsort(place, kind="stable")]


def _count(fraction: float, labels: int, targets: Sequence[np.ndarray], classes: int) -> int:
    """Labels of a fraction."""
    if not 0 < fraction <= 1:
        raise InputError(f"fractions: {fraction} is not a share of the labels, above 0 and at most 1")
    count = math.floor(fraction * labels + 0.5)
    if count < FOLDS:
        raise InputError(f"fractions: {fraction} of {labels} labels is {count}, and cross-validation needs {FOLDS}: give more labels")
    for target_N in targets:
        absent = sorted(set(range(classes)) - set(target_N[:count].tolist()))
        if absent:
            raise InputError(f"fractions: {fraction} of {labels} labels leaves class {absent[0]} without any: give more labels")
    return count


def _starts(meta: MetaModel, generator: np.random.Generator) -> list[tuple[str, np.ndarray]]:
    """Names and vectors: of all networks, the means of their groups, and random ones."""
    groups: dict[str, list[int]] = {}
    for row, id in enumerate(meta.network_ids):
        groups.setdefault(meta.population.spec(id).group, []).append(row)
    mean, covariance = meta.embedding.mean(axis=0), np.atleast_2d(np.cov(meta.embedding.T, bias=True))
    drawn = generator.multivariate_normal(mean, covariance, size=RANDOM_STARTS, method="svd")
    return [
        *zip(meta.network_ids, meta.embedding, strict=True),
        *((f"mean of {name}", meta.embedding[rows].mean(axis=0)) for name, rows in groups.items()),
        *((f"random {number}", theta) for number, theta in enumerate(drawn)),
    ]
