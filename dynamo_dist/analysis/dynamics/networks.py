"""Recurrent networks as maps: the meta-model at thetas and base networks, at named fixed inputs, with the states that they visit.

Fixed inputs:
    zero     0 in every input feature; of tokens, an embedding of 0
    mean     the mean over all valid steps of the inputs without labels, of tokens the mean of their words' embeddings
    neutral  tokens only: the word that is given, or the one that moves the visited states least, relative to how fast the network moves
             on its inputs, on average over the networks and among the 1,000 most frequent words

Legend: M networks, P thetas, S visited states, T time, B sequences, W words, F input features, G gates, H numbers of the state, C outputs.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from dynamo_dist.analysis.dynamics.imported import layer_dynamics
from dynamo_dist.analysis.dynamics.maps import Cells, Maps
from dynamo_dist.data import Dataset, Examples
from dynamo_dist.errors import InputError
from dynamo_dist.metamodel import MetaModel
from dynamo_dist.metamodel.recurrent import RecurrentDynamics
from dynamo_dist.networks import Convolutional, Imported, StackedRecurrent
from dynamo_dist.population import Population

# Words among which the neutral one is looked for, and the states that it is to leave in place.
_CANDIDATES, _CANDIDATE_STATES = 1000, 8
# Numbers of states that are made at a time when networks run on their inputs.
_NUMBERS = 2**25
# Sequences whose states are kept in order.
_TRAJECTORIES = 3


@dataclass(frozen=True, kw_only=True)
class Dynamics:
    """M networks of one state size that read one data set."""

    ids: tuple[str, ...]
    data: str
    # By the name of the fixed input.
    maps: Mapping[str, Maps]
    # Id of the neutral word; None where inputs are not tokens.
    neutral: int | None
    # States on their inputs, drawn at random, float64 (M, S, H); and root mean square of |h' - h| there, (M,).
    visited: Tensor
    speed: Tensor
    # States on a few of the inputs, step by step, float64 (M, 3 or less, T, H), NaN after the last valid step.
    trajectories: Tensor
    # The part of the state that the trajectory and the readout of an imported network show; all of it for others.
    visible: slice = field(default_factory=lambda: slice(None))
    # Weights of linear readouts, (M, H, C), for an LSTM 0 for its cell state; None where they are not known.
    readout: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Sequences, and random valid steps of them: positions among (sequence, step), int64 (S,)."""

    part: Examples
    steps: Tensor

    @classmethod
    def of(cls, examples: Examples, starts: int, seed: int) -> "Draw":
        """`starts` different steps, of about twice as many; some come twice where there are fewer. Raises `InputError` below 1."""
        if starts < 1:
            raise InputError(f"starts={starts}: the search needs at least 1 state to start from")
        rng = np.random.default_rng(seed)
        count = min(len(examples), max(16, round(2 * starts / float(examples.steps_N.double().mean()))))
        part = examples.select(torch.from_numpy(rng.choice(len(examples), size=count, replace=False)))
        valid = (torch.arange(part.inputs.shape[1]) < part.steps_N[:, None]).flatten().nonzero()[:, 0].numpy()
        return cls(part=part, steps=torch.from_numpy(rng.choice(valid, size=starts, replace=starts > len(valid))))

    def visited(self, h_MBTH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of the states of networks on `part`: those that were drawn, float64 (M, S, H), the typical speed (M,), and the trajectories of
        the first sequences, as `Dynamics` has them."""
        moved_MBT = (h_MBTH[:, :, 1:] - h_MBTH[:, :, :-1]).double().square().sum(dim=3)
        both = torch.arange(1, h_MBTH.shape[2]) < self.part.steps_N[:, None]
        speed = moved_MBT[:, both].mean(dim=1).sqrt() if bool(both.any()) else torch.zeros(len(h_MBTH), dtype=torch.float64)
        valid_BT = torch.arange(h_MBTH.shape[2]) < self.part.steps_N[:_TRAJECTORIES, None]
        trajectories = h_MBTH[:, :_TRAJECTORIES].double().masked_fill(~valid_BT[..., None], float("nan"))
        return h_MBTH.flatten(1, 2)[:, self.steps].double(), torch.where(speed > 0, speed, torch.ones_like(speed)), trajectories


def meta_cells(meta: MetaModel, theta_PD: Tensor, data: str) -> Cells:
    """The GRUs that the meta-model is at these thetas, on inputs of a data set."""
    dynamics = copy.deepcopy(check_meta(meta)).double()
    at = [dynamics.weights_at(theta) for theta in theta_PD.double()]
    tokens = data in meta.interface.first_id
    # With theta concatenated to the input it moves one bias alone.
    shared = slice(0, 1) if dynamics.conditioning == "concat" else slice(None)
    return Cells(
        cell="gru",
        w_input=torch.stack([own.w_inputs(tokens=tokens) for own in at[shared]]),
        b_input=torch.stack([own.b_input for own in at]),
        w_recurrent=torch.stack([own.w_recurrent for own in at[shared]]),
        b_candidate=torch.stack([own.b_candidate for own in at[shared]]),
    )


def meta_features(meta: MetaModel, data: str) -> tuple[Tensor | None, Tensor]:
    """Embeddings of the words of a data set (W, F), None for real values; and the mean input (F,)."""
    dataset = meta.population.datasets[data]
    if dataset.vocabulary is None:
        values = meta.interface.inputs(data, dataset.meta.inputs, torch.float64)
        return None, values[_valid(dataset.meta)].mean(dim=0)
    first = meta.interface.first_id[data]
    table = check_meta(meta).words[first : first + dataset.vocabulary].double()
    return table, _word_shares(dataset) @ table


def input_features(meta: MetaModel, data: str, name: str, neutral: int | None) -> Tensor:
    """A fixed input of the meta-model by its name, (F,)."""
    table, mean = meta_features(meta, data)
    if name == "neutral":
        assert table is not None and neutral is not None, "only words can be neutral, and one of them is"
        return table[neutral]
    return {"zero": torch.zeros_like(mean), "mean": mean}[name]


def meta_dynamics(meta: MetaModel, ids: Sequence[str], *, starts: int, seed: int, neutral: int | None = None) -> Iterator[Dynamics]:
    """The meta-model at the thetas of these networks, by data set."""
    check_meta(meta)
    for data, own in _by_data(meta.population, ids).items():
        theta_MD = meta.theta(own).double()
        yield dynamics_at(meta, theta_MD, data, ids=own, starts=starts, seed=seed, neutral=neutral)


def dynamics_at(
    meta: MetaModel, theta_PD: Tensor, data: str, *, ids: Sequence[str], starts: int, seed: int, neutral: int | None = None
) -> Dynamics:
    """The meta-model at any thetas, on inputs of a data set."""
    dynamics = copy.deepcopy(check_meta(meta)).double()
    if theta_PD.dim() != 2 or theta_PD.shape[1] != meta.config.dimensions:
        raise InputError(f"theta has shape {tuple(theta_PD.shape)}: expected (P, {meta.config.dimensions}) for {meta.path}")
    dataset = meta.population.datasets[data]
    draw = Draw.of(dataset.meta, starts, seed)
    inputs = meta.interface.inputs(data, draw.part.inputs, torch.float64)
    runs = [draw.visited(dynamics.states(theta, inputs).permute(1, 2, 0, 3)) for theta in theta_PD.double().split(_chunk(inputs, dynamics.hidden))]
    visited, speed, trajectories = (torch.cat(parts) for parts in zip(*runs, strict=True))
    table, mean = meta_features(meta, data)
    cells = meta_cells(meta, theta_PD, data)
    table_MWF = None if table is None else table.expand(len(theta_PD), -1, -1)
    maps, neutral = _at_inputs(cells, dataset, table_MWF, mean.expand(len(theta_PD), -1), visited, speed, neutral)
    readout = dynamics.w_readout.expand(len(theta_PD), -1, -1)
    return Dynamics(
        ids=tuple(ids), data=data, maps=maps, neutral=neutral, visited=visited, speed=speed, trajectories=trajectories, readout=readout
    )


def base_dynamics(
    population: Population, ids: Sequence[str], *, starts: int, seed: int, neutral: int | Mapping[str, int | None] | None = None
) -> Iterator[Dynamics]:
    """Base networks, by data set and architecture; imported networks one by one. `neutral`: for all data sets, or by data set.

    Raises `InputError` for a network that is not recurrent.
    """
    for data, own in _by_data(population, ids).items():
        word = neutral.get(data) if isinstance(neutral, Mapping) else neutral
        dataset = population.datasets[data]
        for stack in population.stacks(own):
            networks, architecture = stack.networks, stack.networks.architecture
            if isinstance(architecture, Convolutional):
                raise InputError(f"{stack.ids[0]!r} is convolutional: {_NO_MAP}")
            draw = Draw.of(dataset.meta, starts, seed)
            if isinstance(architecture, Imported):
                for position, id in enumerate(stack.ids):
                    yield _imported(networks.network(position), architecture, id, data, dataset, draw, word)
            else:
                assert isinstance(networks, StackedRecurrent), "there are three kinds"
                yield _stacked(networks.to(torch.float64), stack.ids, data, dataset, draw, word)


_NO_MAP = "depth plays the role of time there and every layer is another map, so there is no map to iterate; choose recurrent networks"


def check_meta(meta: MetaModel) -> RecurrentDynamics:
    """What its networks share. Raises `InputError` for a meta-model of images."""
    if not isinstance(meta.dynamics, RecurrentDynamics):
        raise InputError(f"{meta.path} is a convolutional meta-model: {_NO_MAP}")
    return meta.dynamics


def _stacked(networks: StackedRecurrent, ids: tuple[str, ...], data: str, dataset: Dataset, draw: Draw, neutral: int | None) -> Dynamics:
    inputs = draw.part.inputs if dataset.vocabulary else draw.part.inputs.double()
    runs = []
    for chunk in torch.arange(networks.count).split(_chunk(inputs, networks.architecture.state)):
        h_TMBH, _ = networks.select(chunk.tolist())(inputs[None], draw.part.steps_N[None])
        runs.append(draw.visited(h_TMBH.permute(1, 2, 0, 3)))
    visited, speed, trajectories = (torch.cat(parts) for parts in zip(*runs, strict=True))
    table_MWF = networks.parameters.get("embedding")
    if table_MWF is None:
        mean_MF = dataset.meta.inputs.double()[_valid(dataset.meta)].mean(dim=0).expand(networks.count, -1)
    else:
        # An imported table may have more words than the data.
        table_MWF = table_MWF[:, : dataset.vocabulary]
        mean_MF = torch.einsum("w,mwf->mf", _word_shares(dataset), table_MWF)
    maps, neutral = _at_inputs(stacked_cells(networks), dataset, table_MWF, mean_MF, visited, speed, neutral)
    readout = networks.parameters["w_readout"]
    readout = torch.nn.functional.pad(readout, (0, 0, 0, networks.architecture.state - readout.shape[1]))
    return Dynamics(ids=ids, data=data, maps=maps, neutral=neutral, visited=visited, speed=speed, trajectories=trajectories, readout=readout)


def stacked_cells(networks: StackedRecurrent) -> Cells:
    """Stacked recurrent networks, without embedding and readout."""
    p, units = networks.to(torch.float64).parameters, networks.architecture.hidden
    b_input, b_recurrent = p["b_input"][:, 0], p["b_recurrent"][:, 0]
    gru = networks.architecture.cell == "gru"
    # Of the recurrent biases of a GRU only the candidate's stands inside the reset gate; all others add to the input part.
    outside = torch.cat([b_recurrent[:, : 2 * units], torch.zeros_like(b_recurrent[:, 2 * units :])], dim=1) if gru else b_recurrent
    return Cells(
        cell=networks.architecture.cell,
        w_input=p["w_input"],
        b_input=b_input + outside,
        w_recurrent=p["w_recurrent"],
        b_candidate=b_recurrent[:, 2 * units :] if gru else None,
    )


def _imported(
    module: torch.nn.Module, architecture: Imported, id: str, data: str, dataset: Dataset, draw: Draw, neutral: int | None
) -> Dynamics:
    layer = layer_dynamics(module, architecture, draw.part)
    visited, speed, trajectories = draw.visited(layer.states[None])
    valid = torch.arange(layer.inputs.shape[1]) < draw.part.steps_N[:, None]
    features = {"zero": torch.zeros_like(layer.inputs[0, 0]), "mean": layer.inputs[valid].mean(dim=0)}
    if dataset.vocabulary is not None:
        of_word = {int(word): layer.inputs[valid & (draw.part.inputs == word)].mean(dim=0) for word in draw.part.inputs[valid].unique()}
        if neutral is None:
            moved = {word: float(_movement(layer.at(x), visited, speed)) for word, x in of_word.items()}
            neutral = min(moved, key=moved.__getitem__)
        if neutral not in of_word:
            raise InputError(f"{id!r}: neutral={neutral}: this word does not occur in the inputs that were drawn; name one that does")
        features["neutral"] = of_word[neutral]
    maps = {name: layer.at(x) for name, x in features.items()}
    return Dynamics(
        ids=(id,), data=data, maps=maps, neutral=neutral, visited=visited, speed=speed, trajectories=trajectories, visible=layer.visible
    )


def _at_inputs(
    cells: Cells, dataset: Dataset, table_MWF: Tensor | None, mean_MF: Tensor, visited: Tensor, speed: Tensor, neutral: int | None
) -> tuple[dict[str, Maps], int | None]:
    """The maps at every fixed input, and the neutral word."""
    maps: dict[str, Maps] = {"zero": cells.at(torch.zeros_like(mean_MF)), "mean": cells.at(mean_MF)}
    if table_MWF is None or dataset.vocabulary is None:
        return maps, None
    if neutral is None:
        count_W = _word_counts(dataset)
        words = count_W.argsort(descending=True, stable=True)[: min(_CANDIDATES, int((count_W > 0).sum()))].sort().values
        moved = torch.stack([_movement(cells.at(table_MWF[:, word]), visited, speed) for word in words])
        neutral = int(words[moved.argmin()])
    if not 0 <= neutral < dataset.vocabulary:
        raise InputError(f"neutral={neutral}: expected the id of a word, 0 to {dataset.vocabulary - 1}")
    return maps | {"neutral": cells.at(table_MWF[:, neutral])}, neutral


def _movement(maps: Maps, visited: Tensor, speed: Tensor) -> Tensor:
    """How far a step goes from visited states, relative to the typical speed, on average."""
    states = visited[:, :_CANDIDATE_STATES]
    moved: Tensor = ((maps.step_all(states) - states).norm(dim=2) / speed[:, None]).mean()
    return moved


def _valid(examples: Examples) -> Tensor:
    """Valid steps, bool (N, T)."""
    return torch.arange(examples.inputs.shape[1]) < examples.steps_N[:, None]


def _word_counts(dataset: Dataset) -> Tensor:
    """How often every word is there at the valid steps of the inputs without labels, int64 (W,)."""
    assert dataset.vocabulary is not None, "only data sets of tokens have words"
    return torch.bincount(dataset.meta.inputs[_valid(dataset.meta)], minlength=dataset.vocabulary)


def _word_shares(dataset: Dataset) -> Tensor:
    """Share of every word among the valid steps of the inputs without labels, float64 (W,)."""
    count_W = _word_counts(dataset).double()
    return count_W / count_W.sum()


def _by_data(population: Population, ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for id in ids:
        found.setdefault(population.spec(id).data, []).append(id)
    return {data: tuple(own) for data, own in found.items()}


def _chunk(inputs: Tensor, size: int) -> int:
    """Networks that run at a time."""
    return max(1, _NUMBERS // (inputs.shape[0] * inputs.shape[1] * size))
