"""Networks of one architecture whose hidden units are brought into the same order, so that their weights can be averaged.

The order of hidden units is arbitrary: a permutation of them, applied to all weights that read or write them, leaves the function as
it is. Weight matching (Ainsworth, Hayase, Srinivasa, Git Re-Basin, arXiv 2209.04836, section 3.2) looks for the permutations that
make the inner product of the parameters with those of another network largest, one set of units after the other; each step is a
linear assignment problem. The steps of a recurrent matrix hold the permutation twice (rows and columns): there the assignment solves
the problem linearised at the last permutation, and is kept only if the inner product grows.

Legend: M networks, N units of one set.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from dynamo_dist.analysis.units import Permutations, permuted, unfolded, unit_axes
from dynamo_dist.data import Examples
from dynamo_dist.networks import Architecture, Stacked, StackedConvolutional

# Passes over all sets of units, and over all networks of a mean; both end sooner, when nothing changes.
PASSES = 50
# Inputs from which the statistics of batch normalisation are taken.
STATISTICS_INPUTS = 1024

class _Pair:
    """The parameters of a reference and of the network that is matched to it, both in float64."""

    def __init__(self, architecture: Architecture, reference: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
        self.reference, self.own = (
            {name: t.double() for name, t in unfolded(architecture, tensors).items()} for tensors in (reference, own)
        )
        self.axes = {name: axes for name, axes in unit_axes(architecture).items() if name in self.own}
        self.units = {
            units: self.own[name].shape[axis] for name, axes in self.axes.items() for axis, units in enumerate(axes) if units is not None
        }

    def inner_product(self, permutations: Permutations) -> float:
        """Of all parameters, with the units of `own` in this order."""
        return sum(float((self.reference[name] * self._ordered(name, permutations)).sum()) for name in self.own)

    def _ordered(self, name: str, permutations: Permutations, *, without: int | None = None) -> Tensor:
        tensor = self.own[name]
        for axis, units in enumerate(self.axes[name]):
            if units is not None and axis != without:
                tensor = tensor.index_select(axis, permutations[units])
        return tensor

    def gains(self, units: str, permutations: Permutations) -> Tensor:
        """What is gained by unit j of `own` in place i, (N, N), the other axes of every tensor in the order of `permutations`; tensors
        with an axis whose order is not among them are left out."""
        gain_NN = torch.zeros(self.units[units], self.units[units], dtype=torch.float64)
        for name, axes in self.axes.items():
            for axis, there in enumerate(axes):
                others = {other for place, other in enumerate(axes) if place != axis and other is not None}
                if there == units and others <= set(permutations):
                    own = self._ordered(name, permutations, without=axis)
                    rows, own_rows = (t.movedim(axis, 0).reshape(len(gain_NN), -1) for t in (self.reference[name], own))
                    gain_NN += rows @ own_rows.T
        return gain_NN

    def start(self) -> Permutations:
        """One set of units after the other, from the inputs on, each by the tensors whose other units are ordered already. A permuted
        copy is found by this alone."""
        permutations: Permutations = {}
        for units in self.units:
            permutations[units] = _assignment(self.gains(units, permutations))
        return permutations

    def climb(self, permutations: Permutations) -> Permutations:
        """Coordinate ascent of the inner product."""
        best = self.inner_product(permutations)
        for _ in range(PASSES):
            before = best
            for units in self.units:
                trial = permutations | {units: _assignment(self.gains(units, permutations))}
                found = self.inner_product(trial)
                # By more than rounding: an equally good order is no reason to go on.
                if found > best + 1e-12 * abs(best):
                    permutations, best = trial, found
            if best == before:
                break
        return permutations


def _assignment(gain_NN: Tensor) -> Tensor:
    """The permutation p with the largest sum of gain[i, p[i]], int64 (N,)."""
    from scipy.optimize import linear_sum_assignment

    return torch.from_numpy(linear_sum_assignment(gain_NN.numpy(), maximize=True)[1])


def match(networks: Stacked, reference: Mapping[str, Tensor], position: int) -> Permutations:
    """Permutations of one of the networks that bring its parameters close to `reference`, tensors of one network of its architecture.

    Never further away than they are: of what is reached from the order as it is and from one of `_Pair.start`, the better.
    """
    own = {name: t[position] for name, t in networks.parameters.items()}
    pair = _Pair(networks.architecture, {name: reference[name] for name in own}, own)
    unchanged = {units: torch.arange(size) for units, size in pair.units.items()}
    return max((pair.climb(start) for start in (unchanged, pair.start())), key=pair.inner_product)


def matched(networks: Stacked) -> Stacked:
    """The networks, each with its units in an order that brings all of them close to each other: first to the first of them, then each to
    the mean of the others, until none changes. Their outputs stay what they are.

    Raises `InputError` for imported networks, whose weights mean nothing here.
    """
    unit_axes(networks.architecture)  # refuses what it does not know
    count = networks.count
    stacks = [networks.select([0])]
    first = {name: t[0] for name, t in networks.parameters.items()}
    for position in range(1, count):
        stacks.append(permuted(networks.select([position]), match(networks, first, position)))
    for _ in range(PASSES if count > 2 else 0):
        changed = False
        for position, own in enumerate(stacks):
            others = [stack for place, stack in enumerate(stacks) if place != position]
            mean = {name: torch.stack([stack.parameters[name][0].double() for stack in others]).mean(dim=0) for name in first}
            permutations = match(own, mean, 0)
            if any(bool((p != torch.arange(len(p))).any()) for p in permutations.values()):
                stacks[position], changed = permuted(own, permutations), True
        if not changed:
            break
    return type(networks)(networks.architecture, {name: torch.cat([s.tensors[name] for s in stacks]) for name in networks.tensors})


def weight_average(networks: Stacked, share_M: np.ndarray | None = None, *, inputs: Examples | None = None) -> Stacked:
    """One network, the mean of the weights of all, or with these shares of sum 1.

    `inputs`: where networks have batch normalisation, its running statistics are taken anew on these (no label is read): those of the
    networks are not those of the average.
    """
    unit_axes(networks.architecture)  # refuses what it does not know
    weight_M = torch.from_numpy(np.full(networks.count, 1 / networks.count) if share_M is None else share_M)
    tensors = {name: torch.einsum("m,m...->...", weight_M, t.double())[None].to(t.dtype) for name, t in networks.tensors.items()}
    average = type(networks)(networks.architecture, tensors)
    if inputs is not None and isinstance(average, StackedConvolutional):
        part = inputs.select(torch.arange(min(len(inputs), STATISTICS_INPUTS)))
        with torch.no_grad():
            average(part.inputs[None].to(average.dtype), training=True)
        average = type(networks)(networks.architecture, tensors | average.statistics)
    return average
