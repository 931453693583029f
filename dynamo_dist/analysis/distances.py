"""Distances between all networks of a meta-model: of their embedding vectors, and of the base networks themselves.

Legend: M networks, m of one stack, B inputs, R places in them, T time, K meta hidden units, D embedding dimensions, H units, C outputs.
"""

import operator
import tempfile
from collections.abc import Collection, Sequence
from functools import reduce
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dynamo_dist.analysis import dsa, representation
from dynamo_dist.analysis.responses import Sample, respond
from dynamo_dist.data import Output
from dynamo_dist.errors import InputError
from dynamo_dist.metamodel import MetaModel
from dynamo_dist.metamodel.recurrent import RecurrentDynamics
from dynamo_dist.networks import recurrence
from dynamo_dist.population import Population

EMBEDDED = ("theta", "pulled_back")
BASELINES = (*representation.MEASURES, "dsa", "outputs", "weights")
MEASURES = (*EMBEDDED, *BASELINES)
# Inputs on which the meta-model is run for the pulled-back distance, and pairs of networks times places at which it is evaluated at most.
PULLED_BACK_INPUTS, PULLED_BACK_PLACES = 64, 2**22


def check_measures(measures: Collection[str]) -> None:
    for measure in measures:
        if measure not in MEASURES:
            raise InputError(f"there is no measure {measure!r}: they are {', '.join(MEASURES)}")


def of_embedding(meta: MetaModel, measure: str, *, seed: int = 0) -> np.ndarray:
    """`theta`: Euclidean distance of the embedding vectors. `pulled_back`: distance of what the meta-model does at them, on states that it
    visits. Symmetric float64 (M, M), rows in the order of `meta.network_ids`."""
    return _theta(meta.embedding) if measure == "theta" else pulled_back(meta, seed=seed)


def _theta(theta_MD: np.ndarray) -> np.ndarray:
    from scipy.spatial.distance import pdist, squareform

    distance_MM: np.ndarray = squareform(pdist(theta_MD))
    return distance_MM


# ---- the meta-model's own dynamics -----------------------------------------------------------------------------------------


def pulled_back(meta: MetaModel, *, seed: int = 0) -> np.ndarray:
    """Sequences: E || F~(theta_m, x, h~) - F~(theta_n, x, h~) || over inputs x and the states h~ that are visited there, half of them at
    theta_m and half at theta_n. Images: mean over stages of the expected distance of the stages on the same images, each divided by
    the root mean square deviation of that stage over networks and images.

    The inputs are test inputs of the data sets of m and of n, equally many of each. Symmetric float64 (M, M).
    """
    specs = [meta.population.spec(id) for id in meta.network_ids]
    theta = torch.from_numpy(meta.embedding).to(meta.dtype)
    on = _on_images if meta.interface.images else _on_sequences
    found = np.zeros((len(specs), len(specs)))
    for data in dict.fromkeys(spec.data for spec in specs):
        sample = Sample.of(
            meta.population.datasets[data].test,
            seed=seed,
            inputs=PULLED_BACK_INPUTS,
            rows=int(np.clip(PULLED_BACK_PLACES // len(specs) ** 2, 16, 256)),
        )
        own_M = np.array([spec.data == data for spec in specs]) / 2.0
        with torch.no_grad():
            found += (own_M[:, None] + own_M) * on(meta, theta, data, sample)
    return found


def _on_sequences(meta: MetaModel, theta_MD: Tensor, data: str, sample: Sample) -> np.ndarray:
    examples, dynamics = sample.examples, meta.dynamics
    assert isinstance(dynamics, RecurrentDynamics), "`pulled_back` asks"
    inputs = meta.interface.inputs(data, examples.inputs, meta.dtype)
    # The state before the step at every place, of every network, (M, R, K): before the first step the meta-model's own.
    before_MRK = torch.cat(
        [
            functional.pad(dynamics.states(part, inputs), (0, 0, 0, 0, 0, 0, 1, 0))[sample.step_R, :, sample.input_R].transpose(0, 1)
            for part in theta_MD.split(16)
        ]
    )
    before_MRK[:, sample.step_R == 0] = dynamics.initial_state
    own = [dynamics.weights_at(theta_D) for theta_D in theta_MD]
    x = inputs[sample.input_R, sample.step_R]
    tokens = not x.is_floating_point()
    w_MFG = torch.stack([weights.w_inputs(tokens=tokens) for weights in own])
    b_M1G, bias_M1K = (torch.stack([getattr(weights, name) for weights in own])[:, None] for name in ("b_input", "b_candidate"))
    gates_MRG = (dynamics.words[x] if tokens else x) @ w_MFG + b_M1G
    w_MKG = torch.stack([weights.w_recurrent for weights in own])
    visited = np.zeros((len(own), len(own)))
    for m, h_RK in enumerate(before_MRK):
        after_MRK = recurrence.gru_step(gates_MRG, w_MKG, bias_M1K, h_RK.expand(len(own), *h_RK.shape))
        visited[m] = (after_MRK - after_MRK[m]).double().norm(dim=-1).mean(dim=1).numpy()
    return (visited + visited.T) / 2


def _on_images(meta: MetaModel, theta_MD: Tensor, data: str, sample: Sample) -> np.ndarray:
    networks, examples = len(theta_MD), sample.examples
    sums: list[Tensor] = []
    moments: list[Tensor] = []
    for index_B in meta.batches(examples, networks):
        stages, _ = meta.dynamics(theta_MD, meta.interface.inputs(data, examples.select(index_B).inputs, meta.dtype))
        rows = [stage.transpose(0, 1).flatten(2).double() for stage in stages]  # (B, M, F)
        sums = _added(sums, [torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").sum(dim=0) for x in rows])
        moments = _added(moments, [torch.cat([x.sum(dim=(0, 1)), x.square().sum(dim=(0, 1))]) for x in rows])
    found = torch.zeros(networks, networks, dtype=torch.float64)
    for distance_MM, moment in zip(sums, moments, strict=True):
        mean_F, square_F = (moment / (networks * len(examples))).chunk(2)
        found += distance_MM / len(examples) / (square_F - mean_F.square()).sum().sqrt()
    return (found / len(sums)).numpy()


def _added(sums: list[Tensor], new: list[Tensor]) -> list[Tensor]:
    return [a + b for a, b in zip(sums, new, strict=True)] if sums else new


# ---- the base networks -----------------------------------------------------------------------------------------------------


def baselines(population: Population, ids: Sequence[str], measures: Collection[str] = BASELINES, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Distances between these base networks on a sample of the test inputs of their data set, each symmetric float64 (M, M).

    Of representations as `representation` says, of images the mean over stages; `dsa`: of the dynamics, of sequences alone; `outputs`:
    share of answers with another class, or of values 1 - concordance correlation (Lin, 1989): the mean squared difference over the sum
    of both variances and the squared difference of the means; `weights`: Euclidean distance of all parameters.

    NaN where a measure is not defined: `weights` between unlike architectures, `outputs` between unlike outputs, and all but `dsa` and
    `weights` between networks that are fed unlike data sets. A measure that is defined for none is left out.
    """
    place = {id: row for row, id in enumerate(ids)}
    found = {measure: np.full((len(ids), len(ids)), np.nan) for measure in BASELINES if measure in measures}
    if "weights" in found:
        for stack in population.stacks(ids):
            rows = [place[id] for id in stack.ids]
            found["weights"][np.ix_(rows, rows)] = _weights(stack.networks.parameters)
    operators: dict[str, np.ndarray] = {}
    if set(found) - {"weights"}:
        of_data: dict[str, list[str]] = {}
        for id in ids:
            of_data.setdefault(population.spec(id).data, []).append(id)
        for data, own in of_data.items():
            rows = [place[id] for id in own]
            on_data, own_operators = _on_data(population, own, data, found.keys(), seed)
            operators |= own_operators
            for measure, distance in on_data.items():
                found[measure][np.ix_(rows, rows)] = distance
    if operators:
        found["dsa"] = dsa.distances([operators[id] for id in ids], seed=seed)
    else:
        found.pop("dsa", None)
    for distance in found.values():
        np.fill_diagonal(distance, 0.0)
    return found


def _on_data(
    population: Population, ids: Sequence[str], data: str, measures: Collection[str], seed: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Of networks that are fed one data set: distances by every measure that needs common inputs, rows in the order of `ids`, and by id the
    operators of `dsa`."""
    sample = Sample.of(population.datasets[data].test, seed=seed)
    ran: list[str] = []
    stages: list[list[representation.Block]] = []
    answers: dict[Output, tuple[list[str], list[np.ndarray]]] = {}
    operators: dict[str, np.ndarray] = {}
    found: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for number, own in enumerate(respond(population, ids, data, sample)):
            ran += own.ids
            if set(measures) & set(representation.MEASURES):
                stages.append([representation.factor(x_mRH, Path(temporary), f"{number}-{s}") for s, x_mRH in enumerate(own.stages)])
            answering, given = answers.setdefault(own.output, ([], []))
            answering += own.ids
            given.append(own.answers.argmax(axis=-1).astype(np.int32) if own.output.kind == "classes" else own.answers)
            if own.paths is not None and "dsa" in measures:
                lengths = sample.examples.steps_N.numpy()[: own.paths.shape[1]]
                operators |= {id: dsa.operator(h_BTH, lengths) for id, h_BTH in zip(own.ids, own.paths, strict=True)}
        if stages:
            found = {name: _placed(distance, ran, ids) for name, distance in _over_stages(stages).items() if name in measures}
    if "outputs" in measures:
        found["outputs"] = np.full((len(ids), len(ids)), np.nan)
        for output, (answering, given) in answers.items():
            own_MN = np.concatenate(given)
            apart = _placed(disagreement(own_MN) if output.kind == "classes" else discordance(own_MN), answering, ids)
            found["outputs"] = np.where(np.isnan(apart), found["outputs"], apart)
    return found, operators


def _placed(distance: np.ndarray, ran: Sequence[str], ids: Sequence[str]) -> np.ndarray:
    """A matrix whose rows are the networks `ran`, with a row for each of `ids`, NaN where there was none."""
    place = {id: row for row, id in enumerate(ids)}
    rows = [place[id] for id in ran]
    found = np.full((len(ids), len(ids)), np.nan)
    found[np.ix_(rows, rows)] = distance
    return found


def _over_stages(stages: Sequence[Sequence[representation.Block]]) -> dict[str, np.ndarray]:
    """Mean over as many stages as all networks have; of those with more, the stages of the same relative depth."""
    fewest = min(map(len, stages))
    found = [representation.distances([own[-(-(depth + 1) * len(own) // fewest) - 1] for own in stages]) for depth in range(fewest)]
    return {measure: np.mean([distance[measure] for distance in found], axis=0) for measure in found[0]}


def disagreement(class_MN: np.ndarray) -> np.ndarray:
    """Share of answers with another class, (M, M)."""
    return np.stack([(class_MN != own_N).mean(axis=1) for own_N in class_MN])


def discordance(answers_MNC: np.ndarray) -> np.ndarray:
    """1 - concordance correlation of values, (M, M): 0 of equal answers, 1 of unrelated ones; NaN of two that are the same constant."""
    own = answers_MNC.astype(np.float64)
    mean_MC, variance_M = own.mean(axis=1), own.var(axis=1).sum(axis=-1)
    means_MM = ((mean_MC[:, None] - mean_MC) ** 2).sum(axis=-1)
    square_MM = np.stack([((own - one) ** 2).mean(axis=1).sum(axis=-1) for one in own])
    with np.errstate(invalid="ignore"):
        apart_MM: np.ndarray = square_MM / (variance_M[:, None] + variance_M + means_MM)
        return apart_MM


def _weights(parameters: dict[str, Tensor]) -> np.ndarray:
    """Euclidean distance of all parameters of networks of one architecture, (m, m)."""
    squares = (
        torch.cdist(own, own, compute_mode="donot_use_mm_for_euclid_dist").square()
        for own in (tensor.flatten(1).double() for tensor in parameters.values() if tensor.is_floating_point())
    )
    return reduce(operator.add, squares).sqrt().numpy()
