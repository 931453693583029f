"""Sums over batches from which R^2 and task scores follow, for m networks at once, in float64.

Legend: m networks, R rows, H units, B batch, T time, N answers, C outputs.
"""

import torch
from torch import Tensor

from dynamo_dist.data import Examples, Output


class R2:
    """R^2 = 1 - SSE / SST over all rows and units, of every network."""

    def __init__(self) -> None:
        self._error, self._count, self._sum, self._square = (torch.zeros((), dtype=torch.float64) for _ in range(4))

    def add(self, guess_mRH: Tensor, truth_mRH: Tensor, mask: Tensor | None = None) -> None:
        """Rows of a batch; `mask` (bool, broadcast to (m, R, H)): what counts."""
        if mask is not None:
            guess_mRH, truth_mRH = torch.where(mask, guess_mRH, 0), torch.where(mask, truth_mRH, 0)
        counts = torch.ones_like(truth_mRH[:, 0]) * truth_mRH.shape[1] if mask is None else mask.expand_as(truth_mRH).sum(dim=1)
        self._error = self._error + (guess_mRH - truth_mRH).square().sum(dim=(1, 2)).double()
        self._count = self._count + counts.double()
        self._sum = self._sum + truth_mRH.sum(dim=1).double()
        self._square = self._square + truth_mRH.square().sum(dim=1).double()

    def values(self) -> list[float]:
        r2_m = 1 - self._error / (self._square - self._sum.square() / self._count.clamp(min=1)).sum(dim=1)
        values: list[float] = r2_m.tolist()
        return values


class TaskScore:
    """Share of the right answers of networks that answer with classes, R^2 against the targets of those that answer with values."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._right, self._asked = (torch.zeros((), dtype=torch.int64) for _ in range(2))
        self._r2 = R2()

    def add(self, answers_mNC: Tensor, target_mN: Tensor) -> None:
        """`target_mN`: (m, N) classes with -1 where nothing is asked, or (m, N, C) values with NaN there."""
        if self._output.kind == "classes":
            self._right = self._right + ((answers_mNC.argmax(dim=-1) == target_mN) & (target_mN >= 0)).sum(dim=1)
            self._asked = self._asked + (target_mN >= 0).sum(dim=1)
        else:
            self._r2.add(answers_mNC, target_mN, ~target_mN.isnan())

    def values(self) -> list[float]:
        if self._output.kind != "classes":
            return self._r2.values()
        shares: list[float] = (self._right.double() / self._asked).tolist()
        return shares


def answers(out: Tensor, lengths_B: Tensor | None, output: Output) -> Tensor:
    """Outputs (m, B, C), or (m, B, T, C) at every step, one answer a row: (m, N, C) with padding left out and the output's own units."""
    out = out[..., : output.size]
    if not output.every_step:
        return out
    assert lengths_B is not None, "only sequences are answered at every step"
    return out.flatten(1, 2)[:, _valid(lengths_B, out.shape[2])]


def targets(part: Examples, name: str, output: Output) -> Tensor:
    """Targets in the order of `answers`: (N,) classes or (N, C) values."""
    target = part.targets[name]
    return target.flatten(0, 1)[_valid(part.steps_N, target.shape[1])] if output.every_step else target


def places(index_B: Tensor, test: Examples, output: Output) -> Tensor:
    """Numbers by which the answers of a batch are brought into the order of the examples, (N,)."""
    if not output.every_step:
        return index_B
    time, longest = test.inputs.shape[1], int(test.steps_N[index_B].max())
    steps_BT = index_B[:, None] * time + torch.arange(longest)
    return steps_BT.flatten()[_valid(test.steps_N[index_B], longest)]


def _valid(lengths_B: Tensor, time: int) -> Tensor:
    return (torch.arange(time) < lengths_B[:, None]).flatten()
