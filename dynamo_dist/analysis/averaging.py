"""Networks averaged in the embedding space: the meta-model at a mean vector, a network that nobody trained, and its accuracy."""

from itertools import combinations
from typing import Any

import numpy as np
import torch

from dynamo_dist.data import Examples
from dynamo_dist.metamodel import MetaModel

RANDOM_VECTORS = 8


@torch.no_grad()
def classes_at(meta: MetaModel, theta_PD: np.ndarray, data: Examples) -> np.ndarray:
    """Class that the meta-model gives every sequence at every vector, int64 (P, N)."""
    parts, order = [], []
    for index in meta.batches(data, len(theta_PD)):
        order.append(index)
        part = data.select(index)
        _, logits_PBC = meta.emulate(theta_PD, part.inputs, part.lengths_N)
        parts.append(logits_PBC.argmax(dim=-1))
    return torch.cat(parts, dim=1)[:, torch.argsort(torch.cat(order))].numpy()


def accuracies_at(meta_path: str, theta_PD: np.ndarray) -> dict[str, list[float]]:
    """Test accuracy at every vector, for every labelling of the data set."""
    meta = MetaModel.open(meta_path)
    test = meta.population.data.test
    classes_PN = classes_at(meta, theta_PD, test)
    return {name: (classes_PN == labels.numpy()).mean(axis=1).tolist() for name, labels in test.targets.items()}


def average_vectors(meta: MetaModel, *, seed: int = 0) -> list[tuple[str, str, str, np.ndarray]]:
    """What to evaluate: (kind, name, labelling, theta), kinds `within`, `across`, `random_theta`.

    `within`: mean vector of a group. `across`: mean over two groups that learned the same labels (mean of the two group means,
    so that the larger group does not dominate). `random_theta`: isotropic normal with the embedding's root mean square radius:
    the control against a meta-model that solves the task at every theta.
    """
    specs = [meta.population.spec(id) for id in meta.network_ids]
    groups = {spec.group: spec for spec in specs}
    mean = {name: meta.embedding[[spec.group == name for spec in specs]].mean(axis=0) for name in groups}
    vectors = [("within", name, groups[name].target, mean[name]) for name in groups]
    for a, b in combinations(groups, 2):
        if groups[a].target == groups[b].target:
            vectors.append(("across", f"{a} + {b}", groups[a].target, (mean[a] + mean[b]) / 2))
    radius = np.sqrt((meta.embedding**2).mean())
    drawn = np.random.default_rng(seed).normal(scale=radius, size=(RANDOM_VECTORS, meta.embedding.shape[1]))
    for labels in sorted({spec.target for spec in specs}):
        vectors += [("random_theta", labels, labels, theta) for theta in drawn]
    return vectors


def summarize(vectors: list[tuple[str, str, str, np.ndarray]], accuracy: dict[str, list[float]]) -> dict[str, Any]:
    """Accuracies of `accuracies_at` on the stacked vectors, as `result.json` shows them."""
    result: dict[str, Any] = {"within": {}, "across": {}, "random_theta": {}}
    drawn: dict[str, list[float]] = {}
    for position, (kind, name, labels, _) in enumerate(vectors):
        value = accuracy[labels][position]
        if kind == "random_theta":
            drawn.setdefault(name, []).append(value)
        else:
            result[kind][name] = value
    result["random_theta"] = {name: {"mean": float(np.mean(v)), "sd": float(np.std(v)), "max": max(v)} for name, v in drawn.items()}
    return result


def average(meta: MetaModel) -> dict[str, Any]:
    """Test accuracy at the mean vectors of groups, of pairs of groups, and at random vectors."""
    vectors = average_vectors(meta)
    return summarize(vectors, accuracies_at(str(meta.path), np.stack([theta for *_, theta in vectors])))
