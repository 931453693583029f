"""How well the meta-model at theta_n does what network n does, on inputs that neither was trained on.

A shard of networks can be scored on its own (`emulate_shard`), so this runs on any number of workers; `merge` puts the parts
together. Legend: m networks, N answers (test inputs, or their valid steps), B batch, T time, R rows, C outputs.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch

from dynamo_dist.analysis.scores import R2, TaskScore, answers, places, targets
from dynamo_dist.data import Examples, Output
from dynamo_dist.metamodel import MetaModel, loss
from dynamo_dist.metamodel.shard import Member, members, run, split, trajectory


@dataclass(frozen=True, kw_only=True)
class NetworkScores:
    """One network against the meta-model at its theta."""

    id: str
    # Networks of one task have the same inputs and outputs: data set, kind and size of the output.
    task: tuple[str, str, int]
    # R^2 = 1 - SSE / SST over valid steps (or positions) and units, of every stage of the trajectory.
    stage_r2: tuple[float, ...]
    # Classes: mean KL(base || meta) of the outputs. Values: NaN.
    output_kl: float
    # Classes: share of the answers with the same class. Values: R^2 of the meta-model's outputs against the network's.
    agreement: float
    # The meta-model at theta_n on the task itself: accuracy, or R^2 against the targets.
    score: float
    # Classes: which the network and the meta-model give, int32 (N,) both. Values: empty.
    base_class: np.ndarray
    meta_class: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Emulation:
    """Scores of m networks; every array has one entry per network, in the order of `ids`."""

    networks: tuple[NetworkScores, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(network.id for network in self.networks)

    @property
    def hidden_r2(self) -> np.ndarray:
        """Mean over stages of R^2 of the trajectory, (m,)."""
        return np.array([np.mean(network.stage_r2) for network in self.networks])

    @property
    def agreement(self) -> np.ndarray:
        return np.array([network.agreement for network in self.networks])

    @property
    def output_kl(self) -> np.ndarray:
        return np.array([network.output_kl for network in self.networks])

    @property
    def score(self) -> np.ndarray:
        return np.array([network.score for network in self.networks])

    @property
    def disputed(self) -> dict[tuple[str, str, int], np.ndarray]:
        """By task, the answers on which its base networks do not all agree, bool (N,)."""
        disputed: dict[tuple[str, str, int], np.ndarray] = {}
        first: dict[tuple[str, str, int], np.ndarray] = {}
        for network in self.networks:
            if network.base_class.size:
                reference = first.setdefault(network.task, network.base_class)
                found = disputed.setdefault(network.task, np.zeros(len(reference), dtype=bool))
                found |= network.base_class != reference
        return disputed

    @property
    def disputed_agreement(self) -> np.ndarray:
        """Agreement on the disputed answers of the network's task alone, (m,); NaN where there are none, and for values."""
        disputed = self.disputed
        share = np.full(len(self.networks), np.nan)
        for position, network in enumerate(self.networks):
            where = disputed.get(network.task)
            if where is not None and where.any():
                share[position] = (network.base_class == network.meta_class)[where].mean()
        return share


def emulate_shard(meta_path: str, ids: Sequence[str], examples: str = "test") -> Emulation:
    """Scores of these networks on the whole test part of their data sets; `examples="held-out"`: on the inputs without labels that
    trained nothing; those count as unlabelled, so leave `score` alone there."""
    meta = MetaModel.open(meta_path)
    networks: list[NetworkScores] = []
    for (data, output), group in groupby(members(meta.population, ids), key=lambda member: (member.data, member.output)):
        networks += _score(meta, data, output, list(group), _examples(meta, data, examples))
    place = {network.id: network for network in networks}
    return Emulation(networks=tuple(place[id] for id in ids))


def _examples(meta: MetaModel, data: str, part: str) -> Examples:
    """The test part of a data set, or what is held out of its inputs without labels."""
    dataset = meta.population.datasets[data]
    if part == "test":
        return dataset.test
    return dataset.meta.select(split(meta.config, len(dataset.meta))[1])


@torch.no_grad()
def _score(meta: MetaModel, data: str, output: Output, group: Sequence[Member], test: Examples) -> Iterator[NetworkScores]:
    """Scores of networks with the same inputs and the same output."""
    stacks = [member.stack.networks.to(meta.dtype) for member in group]
    names = tuple(id for member in group for id in member.stack.ids)
    theta = meta.theta(names)
    learned = [meta.population.spec(id).target for id in names]
    maps = [meta.stage_maps(member.stack.ids) for member in group]
    stages = [[R2() for _ in own] for own in maps]
    agreement, score = R2(), TaskScore(output)
    kl, classes, order = torch.zeros(len(names), dtype=torch.float64), [], []
    for index in meta.batches(test, len(names)):
        part = test.select(index)
        lengths = part.lengths_N
        base = [networks(part.inputs[None], None if lengths is None else lengths[None]) for networks in stacks]
        inputs = meta.interface.inputs(data, part.inputs, meta.dtype)
        meta_stages, meta_out = run(meta.dynamics, theta, inputs, lengths, every_step=output.every_step)
        mask = None if lengths is None else loss.valid_steps(lengths, len(meta_stages[0]))[:, None]
        first = 0
        for own_maps, own_r2, networks, (result, _) in zip(maps, stages, stacks, base, strict=True):
            rows = slice(first, first := first + networks.count)
            own = trajectory(result, lengths, networks.architecture.label)
            sources = loss.match_stages(own, len(meta_stages))
            for stage, source, state_map, r2 in zip(own, sources, own_maps, own_r2, strict=True):
                source_rows, target_rows = loss.paired_rows(meta_stages[source], stage, rows=rows, sequences=lengths is not None)
                r2.add(state_map(source_rows), target_rows, mask)
        base_mNC = answers(torch.cat([out for _, out in base]), lengths, output)
        meta_mNC = answers(meta_out, lengths, output)
        score.add(meta_mNC, torch.stack([targets(part, name, output) for name in learned]))
        order.append(places(index, test, output))
        if output.kind == "classes":
            log_base, log_meta = base_mNC.double().log_softmax(-1), meta_mNC.double().log_softmax(-1)
            kl += (log_base.exp() * (log_base - log_meta)).sum(dim=(1, 2))
            classes.append((base_mNC.argmax(-1).int(), meta_mNC.argmax(-1).int()))
        else:
            agreement.add(meta_mNC, base_mNC)
    stage_r2 = [values for own in stages for values in zip(*(r2.values() for r2 in own), strict=True)]
    empty = np.empty((len(names), 0), dtype=np.int32)
    base_class, meta_class, alike = empty, empty, agreement.values() if output.kind != "classes" else []
    if output.kind == "classes":
        place = torch.argsort(torch.cat(order))  # into the order of the test part
        base_class, meta_class = (torch.cat(same, dim=1)[:, place].numpy() for same in zip(*classes, strict=True))
        alike, kl = (base_class == meta_class).mean(axis=1).tolist(), kl / len(place)
    for row, id in enumerate(names):
        yield NetworkScores(
            id=id,
            task=(data, output.kind, output.size),
            stage_r2=stage_r2[row],
            output_kl=float(kl[row]) if output.kind == "classes" else math.nan,
            agreement=alike[row],
            score=score.values()[row],
            base_class=base_class[row],
            meta_class=meta_class[row],
        )


def merge(parts: Sequence[Emulation], ids: Sequence[str]) -> Emulation:
    """The scores of several shards as one, in the order of `ids`."""
    place = {network.id: network for part in parts for network in part.networks}
    return Emulation(networks=tuple(place[id] for id in ids))


def emulation(meta: MetaModel) -> Emulation:
    """Scores of the whole population, in one process."""
    return emulate_shard(str(meta.path), meta.network_ids)
