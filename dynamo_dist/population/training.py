"""Training of one stacked chunk. Everything that is per network is per network in the stack too: initial parameters, order of the
data, clipping, learning rate, and what happens when one of them turns NaN. Legend as in `networks/stacked.py`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dynamo_dist.data import Examples
from dynamo_dist.networks import Stacked, stack_class
from dynamo_dist.population.specs import NetworkSpec


@dataclass(frozen=True, kw_only=True)
class TrainedChunk:
    """Trained networks and, in the same order, what is recorded of each."""

    networks: Stacked
    # Mean training loss over the last tenth of the steps.
    loss: list[float]
    # Step at which its gradient was not finite and it was frozen, or -1.
    failed_at: list[int]


class StackedAdam:
    """Adam (torch's defaults) for stacked parameters with a learning rate per network. Equal to `torch.optim.Adam` per network."""

    def __init__(self, parameters: Sequence[Tensor], betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        self.parameters, self.betas, self.eps = list(parameters), betas, eps
        self.mean = [torch.zeros_like(p) for p in self.parameters]
        self.square = [torch.zeros_like(p) for p in self.parameters]
        self.step_count = 0

    @torch.no_grad()
    def step(self, learning_rate_M: Tensor) -> None:
        self.step_count += 1
        one, two = self.betas
        scale = 1 / math.sqrt(1 - two**self.step_count)
        rate_M = learning_rate_M / (1 - one**self.step_count)
        for p, mean, square in zip(self.parameters, self.mean, self.square, strict=True):
            mean.lerp_(p.grad, 1 - one)
            square.mul_(two).addcmul_(p.grad, p.grad, value=1 - two)
            update = mean / square.sqrt().mul_(scale).add_(self.eps)
            p.sub_(update.mul_(rate_M.view(-1, *[1] * (p.dim() - 1)).to(p.dtype)))


def clip_per_network(parameters: Sequence[Tensor], clip_M: Tensor) -> Tensor:
    """Clip each network's gradient to its own norm; zero the gradient of those that are not finite. Returns which are finite, (M,)."""
    square_M = sum(p.grad.flatten(1).square().sum(dim=1) for p in parameters)
    finite_M = torch.isfinite(square_M)
    scale_M = (clip_M / (square_M.sqrt() + 1e-6)).clamp(max=1.0)
    for p in parameters:
        shape = (-1, *[1] * (p.dim() - 1))
        p.grad.mul_(scale_M.view(shape).to(p.dtype))
        if not finite_M.all():  # 0 * NaN is NaN: replace, do not scale
            p.grad.masked_fill_(~finite_M.view(shape), 0.0)
    return finite_M


def batch_order(spec: NetworkSpec, available: int) -> np.ndarray:
    """Indices of the sequences of every step, int64 of shape (steps, batch): a function of the network's seed alone."""
    rng = np.random.default_rng([spec.seed, 1])
    own = rng.permutation(available)[: spec.samples]
    per_epoch = spec.samples // spec.batch * spec.batch
    return np.concatenate([rng.permutation(own)[:per_epoch] for _ in range(spec.epochs)]).reshape(-1, spec.batch)


def schedule(step: int, steps: int) -> float:
    """Factor of the learning rate: a tenth of the steps up, then half a cosine down to 2 %."""
    warm_up = max(1, steps // 10)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def train_chunk(
    specs: Sequence[NetworkSpec],
    data: Examples,
    *,
    dtype: torch.dtype = torch.float32,
    progress: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> TrainedChunk:
    """Train the networks of one chunk on the labelled part of a data set.

    `progress(step, steps, mean loss)` is called now and then. A network whose gradient is not finite keeps the parameters that it
    had before that step, and its neighbours do not notice.
    """
    networks = stack_class(specs[0].architecture).initial(specs[0].architecture, [spec.seed for spec in specs]).to(dtype)
    parameters = [p.requires_grad_() for p in networks.parameters.values()]
    optimiser = StackedAdam(parameters)
    order_MSB = torch.from_numpy(np.stack([batch_order(spec, len(data)) for spec in specs]))
    labels_MN = torch.stack([data.targets[spec.target] for spec in specs])
    rate_M = torch.tensor([spec.learning_rate for spec in specs], dtype=torch.float64)
    clip_M = torch.tensor([spec.clip for spec in specs], dtype=dtype)
    steps = specs[0].steps
    failed_at = torch.full((len(specs),), -1)
    tail_loss_M, tail = torch.zeros(len(specs), dtype=dtype), max(1, steps // 10)
    for step in range(steps):
        index_MB = order_MSB[:, step]
        lengths_MB = data.lengths_N[index_MB]
        tokens_MBT = data.inputs[index_MB][..., : int(lengths_MB.max())]
        _, logits_MBC = networks(tokens_MBT, lengths_MB, training=True)
        target_MB = labels_MN.gather(1, index_MB)
        loss_MB = logits_MBC.logsumexp(dim=-1) - logits_MBC.gather(2, target_MB[..., None])[..., 0]
        loss_M = loss_MB.mean(dim=1)
        for p in parameters:
            p.grad = None
        loss_M.sum().backward()
        finite_M = clip_per_network(parameters, clip_M)
        failed_at[~finite_M & (failed_at < 0)] = step
        optimiser.step(torch.where(failed_at < 0, rate_M * schedule(step, steps), 0.0))
        if step >= steps - tail:
            tail_loss_M += loss_M.detach() / tail
        if step % 20 == 0 or step == steps - 1:
            progress(step + 1, steps, float(loss_M.detach()[failed_at < 0].mean()) if bool((failed_at < 0).any()) else math.nan)
    return TrainedChunk(networks=networks.detach(), loss=tail_loss_M.tolist(), failed_at=failed_at.tolist())


@torch.no_grad()
def predictions(networks: Stacked, data: Examples, *, batch: int = 500) -> Tensor:
    """Class that each network gives each sequence, int64 of shape (M, N)."""
    parts = []
    for index in torch.arange(len(data)).split(batch):
        part = data.select(index)
        _, logits_MBC = networks(part.inputs[None], part.lengths_N[None])
        parts.append(logits_MBC.argmax(dim=-1))
    return torch.cat(parts, dim=1)
