"""What base networks give on one sample of the test inputs of their data set: the same inputs and the same steps for all of them.

Legend: M networks, m of one stack, N sampled inputs, R rows (a valid step of a sequence, or an image), B batch, T time, H units, C outputs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dynamo_dist.data import Examples, Output
from dynamo_dist.metamodel.shard import trajectory
from dynamo_dist.networks import Convolutional, Recurrent, Stacked
from dynamo_dist.population import Population

# At most so many inputs and so many rows: what is kept of a network does not grow with the data.
INPUTS, ROWS = 1_000, 4_000
# Networks that run at once.
NETWORKS = 64


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Inputs, and the places in them at which states are compared; `step_R` is None of images, whose rows are the inputs themselves."""

    examples: Examples
    input_R: Tensor
    step_R: Tensor | None

    @classmethod
    def of(cls, examples: Examples, *, seed: int, inputs: int = INPUTS, rows: int = ROWS) -> "Sample":
        """Drawn without replacement: inputs, then rows from all of their valid steps."""
        rng = np.random.default_rng(seed)
        chosen = examples.select(torch.from_numpy(np.sort(rng.permutation(len(examples))[:inputs])))
        if chosen.lengths_N is None:
            return cls(examples=chosen, input_R=torch.arange(len(chosen)), step_R=None)
        places_RN = (torch.arange(chosen.inputs.shape[1]) < chosen.lengths_N[:, None]).nonzero()
        places_RN = places_RN[torch.from_numpy(np.sort(rng.permutation(len(places_RN))[:rows]))]
        return cls(examples=chosen, input_R=places_RN[:, 0], step_R=places_RN[:, 1])


@dataclass(frozen=True, kw_only=True)
class Responses:
    """Of m networks of one architecture that answer with one kind of output."""

    ids: tuple[str, ...]
    output: Output
    # Stages of the trajectory at the rows, float (m, R, H): of sequences one, the hidden states (of LSTMs h, without c); of images the maps,
    # averaged over positions.
    stages: list[np.ndarray]
    # Answers (m, N, C); at every step (m, R, C).
    answers: np.ndarray
    # Whole trajectories (m, N', T, H) of the first N' sequences, those of the sample's about `ROWS` steps; of images None.
    paths: np.ndarray | None


@torch.no_grad()
def respond(population: Population, ids: Sequence[str], data: str, sample: Sample) -> Iterator[Responses]:
    """Responses of these networks, which are fed the data set `data`, a stack at a time."""
    of_output: dict[Output, list[str]] = {}
    for id in ids:
        of_output.setdefault(population.datasets[data].outputs[population.spec(id).target], []).append(id)
    for output, own in of_output.items():
        for stack in population.stacks(own, networks=NETWORKS):
            stages, answers = _run(stack.networks, sample, every_step=output.every_step)
            yield Responses(
                ids=stack.ids,
                output=output,
                stages=[stage.numpy() for stage in stages],
                answers=answers.numpy(),
                paths=None if sample.step_R is None else _paths(stack.networks, first_sequences(sample.examples)).numpy(),
            )


def first_sequences(examples: Examples) -> Examples:
    """The first sequences that have about `ROWS` valid steps together."""
    return examples.select(torch.arange(max(1, int((examples.steps_N.cumsum(0) <= ROWS).sum()))))


def _run(networks: Stacked, sample: Sample, *, every_step: bool) -> tuple[list[Tensor], Tensor]:
    """Stages at the rows and answers, in the order of the sample."""
    examples = sample.examples
    stages: list[Tensor] = []
    answers: Tensor | None = None
    numbers = networks.count * networks.architecture.intermediate(tuple(examples.inputs.shape[1:]))
    for index_B in examples.batches(numbers):
        own, out = _call(networks, examples.select(index_B))
        place = torch.full((len(examples),), -1)
        place[index_B] = torch.arange(len(index_B))
        rows = (place[sample.input_R] >= 0).nonzero()[:, 0]
        input_B = place[sample.input_R[rows]]
        if sample.step_R is None:
            own = [stage[:, input_B] for stage in own]
        else:
            own = [stage[sample.step_R[rows], :, input_B].transpose(0, 1) for stage in own]
        if answers is None:
            count = len(sample.input_R)
            stages = [stage.new_empty(networks.count, count, stage.shape[-1]) for stage in own]
            answers = out.new_empty(networks.count, count if every_step else len(examples), out.shape[-1])
        for stage, part in zip(stages, own, strict=True):
            stage[:, rows] = part
        if every_step:
            assert sample.step_R is not None, "only sequences are answered at every step"
            answers[:, rows] = out[:, input_B, sample.step_R[rows]]
        else:
            answers[:, index_B] = out
    assert answers is not None, "there is an input at least"
    return stages, answers


def _call(networks: Stacked, part: Examples) -> tuple[list[Tensor], Tensor]:
    """The stages that are compared, of sequences (T, m, B, H), of images (m, B, H), and the outputs."""
    inputs = part.inputs.to(networks.dtype) if part.inputs.is_floating_point() else part.inputs
    result, out = networks(inputs[None], None if part.lengths_N is None else part.lengths_N[None])
    stages = trajectory(result, part.lengths_N, networks.architecture.label)
    if isinstance(networks.architecture, Recurrent):
        stages = [stage[..., : networks.architecture.hidden] for stage in stages]
    elif isinstance(networks.architecture, Convolutional):
        stages = stages[:-1]  # the pooled features are the average of the last map
    if part.lengths_N is None:
        stages = [stage.flatten(3).mean(dim=3) if stage.dim() > 3 else stage for stage in stages]
    return stages, out


def _paths(networks: Stacked, examples: Examples) -> Tensor:
    """The hidden states of whole sequences, (m, N, T, H)."""
    (h_TmNH,), _ = _call(networks, examples)
    return h_TmNH.permute(1, 2, 0, 3)
