"""How the answer of a recurrent network forgets its inputs, and whether the meta-model at its theta forgets alike.

The outputs at the last valid step are regressed on what was read k steps before it, k = 0 .. L - 1: values as they are, tokens as
indicators. The leading singular vector of the coefficients over (step, feature and output) is the kernel, and c exp(-k / tau) fitted to it
gives the time constant tau. Unlike an eigenvalue at a fixed point, which is of one input held for ever, this is of the inputs as they come:
a leaky integrator of planted tau has that kernel.

Legend: N sequences, T time, L lags, F features, C outputs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from dynamo_dist.data import Dataset, Examples, Output
from dynamo_dist.errors import InputError
from dynamo_dist.metamodel import MetaModel
from dynamo_dist.metamodel.shard import members
from dynamo_dist.networks import Stacked

LAGS, FEWEST_LAGS = 16, 3
# Sequences per coefficient at least, so that noise stays out of the kernel.
SEQUENCES_PER_COEFFICIENT = 10
# Sequences at most, and of these in one call.
_MOST, _AT_ONCE = 20_000, 1000


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Of one network, or of the meta-model at its theta."""

    # Response to an input k steps before the end, (L,); its sign is that which makes the sum positive.
    kernel: np.ndarray
    # 1 / tau per step; 0: nothing is forgotten, negative: what is older counts more.
    rate: float
    # R^2 of the regression: 1 where the answer is a linear function of the last L inputs.
    linear: float

    @property
    def time_constant(self) -> float:
        """tau in steps; infinite where nothing is forgotten."""
        return 1 / self.rate if self.rate > 0 else math.inf


@dataclass(frozen=True, kw_only=True)
class Memories:
    """Every network beside the meta-model at its theta."""

    ids: tuple[str, ...]
    computations: tuple[str, ...]
    base: tuple[Memory, ...]
    meta: tuple[Memory, ...]

    def summary(self) -> dict[str, Any]:
        """JSON values by computation: median time constants, median and extremes of the ratio of forgetting rates (meta-model / network),
        and the share of networks where that is within 10 %."""
        found: dict[str, Any] = {}
        for computation in dict.fromkeys(self.computations):
            rows = [row for row, own in enumerate(self.computations) if own == computation]
            base, meta = (np.array([part[row].rate for row in rows]) for part in (self.base, self.meta))
            ratio = meta / np.where(base == 0, np.nan, base)
            found[computation] = {
                "networks": len(rows),
                "base_time_constant": _known(np.median([self.base[row].time_constant for row in rows])),
                "meta_time_constant": _known(np.median([self.meta[row].time_constant for row in rows])),
                "rate_ratio_median": _known(np.median(ratio)),
                "rate_ratio_lowest": _known(ratio.min()),
                "rate_ratio_highest": _known(ratio.max()),
                "within_10_percent": float(np.mean(np.abs(ratio - 1) <= 0.1)),
                "linear_lowest": float(min(part[row].linear for part in (self.base, self.meta) for row in rows)),
            }
        return found

    def tables(self) -> dict[str, pa.Table]:
        """`memory`: a row per network."""
        columns: dict[str, Any] = {"id": list(self.ids), "computation": list(self.computations)}
        for name, part in (("base", self.base), ("meta", self.meta)):
            columns |= {
                f"{name}_time_constant": [_known(one.time_constant) for one in part],
                f"{name}_rate": [one.rate for one in part],
                f"{name}_linear": [one.linear for one in part],
                f"{name}_kernel": [one.kernel.tolist() for one in part],
            }
        return {"memory": pa.table(columns)}


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def memories(meta: MetaModel, ids: Sequence[str] | None = None, *, lags: int = LAGS) -> Memories:
    """Kernels of networks and of the meta-model at their thetas, on the test part.

    `ids`: some of the meta-model's networks, by default all; `lags`: input steps, fewer where sequences are shorter or few. Raises `InputError` for
    meta-models of images, unknown ids, and data with too few sequences for so many coefficients.
    """
    if meta.interface.images:
        raise InputError(f"{meta.path}: memory is of networks that read sequences; these read images")
    ids = tuple(meta.network_ids if ids is None else ids)
    place = {id: row for row, id in enumerate(meta.network_ids)}
    unknown = next((id for id in ids if id not in place), None)
    if unknown is not None:
        raise InputError(f"{meta.path} has no network {unknown!r}; its networks are {', '.join(meta.network_ids[:5])}, ...")
    found: dict[str, tuple[Memory, Memory]] = {}
    inputs: dict[str, tuple[Examples, np.ndarray]] = {}
    for member in members(meta.population, ids):
        if member.data not in inputs:
            data = meta.population.datasets[member.data]
            part = data.test.select(torch.arange(min(len(data.test), _MOST)))
            inputs[member.data] = part, lagged(data, part, lags)
        part, x_NLF = inputs[member.data]
        networks = member.stack.networks.detach()
        base_MNC = _outputs(partial(_of_base, networks), part)
        for row, id in enumerate(member.stack.ids):
            theta_1D = meta.embedding[None, place[id]]
            meta_NC = _outputs(partial(_of_meta, meta, theta_1D, member.data), part)[0]
            size = member.output.size
            of_base, of_meta = (memory(x_NLF, answers(outputs, member.output)) for outputs in (base_MNC[row], meta_NC[:, :size]))
            found[id] = of_base, of_meta
    return Memories(
        ids=ids,
        computations=tuple(meta.population.spec(id).computation for id in ids),
        base=tuple(found[id][0] for id in ids),
        meta=tuple(found[id][1] for id in ids),
    )


def _of_base(networks: Stacked, part: Examples) -> Tensor:
    inputs = part.inputs.to(networks.dtype) if part.inputs.is_floating_point() else part.inputs
    return networks(inputs[None], part.steps_N[None])[1]


def _of_meta(meta: MetaModel, theta_1D: np.ndarray, data: str, part: Examples) -> Tensor:
    return meta.emulate(theta_1D, part.inputs, part.lengths_N, data=data)[1]


@torch.no_grad()
def _outputs(run: Callable[[Examples], Tensor], part: Examples) -> np.ndarray:
    """Outputs at the last valid step, float64 (M, N, C)."""
    found = []
    for index_B in torch.arange(len(part)).split(_AT_ONCE):
        own = part.select(index_B)
        outputs = run(own)
        if outputs.dim() == 4:
            outputs = outputs[:, torch.arange(len(index_B)), own.steps_N - 1]
        found.append(outputs.double())
    return torch.cat(found, dim=1).numpy()


def answers(outputs_NC: np.ndarray, output: Output) -> np.ndarray:
    """What is regressed: values as they are, of classes the logits less their mean, which is all that the class depends on."""
    return outputs_NC - outputs_NC.mean(axis=1, keepdims=True) if output.kind == "classes" else outputs_NC


def lagged(data: Dataset, part: Examples, lags: int) -> np.ndarray:
    """What was read k steps before the last valid one, float64 (N, L, F)."""
    features = data.input_shape[0] if data.vocabulary is None else data.vocabulary
    lags = min(lags, int(part.steps_N.min()), len(part) // (SEQUENCES_PER_COEFFICIENT * features))
    if lags < FEWEST_LAGS:
        raise InputError(
            f"kernels of {FEWEST_LAGS} steps of {features} {'words' if data.kind == 'tokens' else 'features'} need "
            f"{SEQUENCES_PER_COEFFICIENT * FEWEST_LAGS * features} test sequences of {FEWEST_LAGS} steps or more; there are {len(part)}, the "
            f"shortest of {int(part.steps_N.min())}"
        )
    at_NL = part.steps_N[:, None] - 1 - torch.arange(lags)
    read = part.inputs[torch.arange(len(part))[:, None], at_NL]
    if data.kind == "tokens":
        read = torch.nn.functional.one_hot(read, features)
    return read.double().numpy()


def memory(x_NLF: np.ndarray, y_NC: np.ndarray) -> Memory:
    """The kernel of answers (N, C) to inputs (N, L, F), by least squares of smallest norm; 0 where the answers are constant."""
    count, lags, _ = x_NLF.shape
    x = x_NLF.reshape(count, -1)
    x, y = x - x.mean(axis=0), y_NC - y_NC.mean(axis=0)
    # The normal equations, which are as many as coefficients and are the same for all networks of a data set.
    coefficients = np.linalg.lstsq(x.T @ x, x.T @ y, rcond=1e-10)[0]
    total = (y**2).sum()
    if not total:
        return Memory(kernel=np.zeros(lags), rate=0.0, linear=1.0)
    left, size, _ = np.linalg.svd(coefficients.reshape(lags, -1), full_matrices=False)
    kernel_L = left[:, 0] * size[0]
    kernel_L = kernel_L * (1 if kernel_L.sum() >= 0 else -1)
    return Memory(kernel=kernel_L, rate=forgetting_rate(kernel_L), linear=float(1 - ((y - x @ coefficients) ** 2).sum() / total))


def forgetting_rate(kernel_L: np.ndarray) -> float:
    """The r of the c exp(-r k) that is nearest to a kernel in the mean square, k = 0 .. L - 1."""
    from scipy.optimize import minimize_scalar

    k_L = np.arange(len(kernel_L))

    def unexplained(rate: float) -> float:
        shape_L = np.exp(-rate * k_L)
        value: float = -((shape_L @ kernel_L) ** 2) / (shape_L @ shape_L)  # c is the projection's
        return value

    rates = np.linspace(-1, 3, 81)  # of the grid's best the neighbours bracket the minimum
    best = rates[np.argmin([unexplained(rate) for rate in rates])]
    return float(minimize_scalar(unexplained, bounds=(best - 0.05, best + 0.05), method="bounded", options={"xatol": 1e-8}).x)
