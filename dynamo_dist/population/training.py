"""Training of one stacked chunk. Everything that is per network is per network in the stack too: initial parameters, order of the
data, augmentation, clipping, learning rate, early stopping, and what happens when one of them turns NaN.

Legend: M networks, B batch, T time, C outputs, S steps.
"""

import dataclasses
import math
import operator
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from dynamo_dist.data import Dataset, Examples, Output
from dynamo_dist.data.augmentation import augment_stack
from dynamo_dist.networks import Stacked, stack_class
from dynamo_dist.population.memory import peak_bytes
from dynamo_dist.population.specs import NetworkSpec, own_samples

# Points of the recorded training curve.
CURVE = 20


@dataclass(frozen=True, kw_only=True)
class TrainedChunk:
    """Trained networks and, in the same order, what is recorded of each."""

    networks: Stacked
    # Mean training loss over the last tenth of the planned steps; NaN if it stopped before.
    loss: list[float]
    # Mean training loss over each of `CURVE` equal spans of the planned steps.
    curve: list[list[float]]
    # Steps that it trained: fewer than planned where it stopped early or failed.
    steps: list[int]
    # Step at which its gradient was not finite and it was frozen, or -1.
    failed_at: list[int]


class StackedAdam:
    """Adam (torch's defaults, decoupled weight decay) for stacked parameters with a learning rate and a decay per network. Equal to
    `torch.optim.AdamW` per network."""

    def __init__(self, parameters: Sequence[Tensor], betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        self.parameters, self.betas, self.eps = list(parameters), betas, eps
        self.mean = [torch.zeros_like(p) for p in self.parameters]
        self.square = [torch.zeros_like(p) for p in self.parameters]
        self.steps = 0

    def corrections(self, step: int) -> tuple[float, float]:
        """Of the bias of both moments at a step (from 0): factor of the learning rate, factor of the root of the second moment."""
        one, two = self.betas
        return 1 / (1 - one ** (step + 1)), 1 / math.sqrt(1 - two ** (step + 1))

    @torch.no_grad()
    def step(
        self, rate_M: Tensor, *, decay_M: Tensor | None = None, corrections: tuple[float | Tensor, float | Tensor] | None = None
    ) -> None:
        """`rate_M`: learning rates; `decay_M`: weight decay, None for none; `corrections`: as tensors, where the step is recorded in a
        graph and cannot count for itself."""
        one, two = self.betas
        first, second = corrections or self.corrections(self.steps)
        self.steps += 1
        corrected_M = rate_M * first
        for p, mean, square in zip(self.parameters, self.mean, self.square, strict=True):
            shape = (-1, *[1] * (p.dim() - 1))
            if decay_M is not None:
                p.mul_((1 - rate_M * decay_M).view(shape).to(p.dtype))
            gradient = gradient_of(p)
            mean.lerp_(gradient, 1 - one)
            square.mul_(two).addcmul_(gradient, gradient, value=1 - two)
            update = mean / square.sqrt().mul_(second).add_(self.eps)
            p.sub_(update.mul_(corrected_M.view(shape).to(p.dtype)))


def gradient_of(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None, "a backward pass has left one at every parameter"
    return parameter.grad


def clip_per_network(parameters: Sequence[Tensor], clip_M: Tensor) -> Tensor:
    """Clip each network's gradient to its own norm; zero the gradient of those that are not finite. Returns which are finite, (M,)."""
    square_M = reduce(operator.add, (gradient_of(p).flatten(1).square().sum(dim=1) for p in parameters))
    finite_M = torch.isfinite(square_M)
    scale_M = (clip_M / (square_M.sqrt() + 1e-6)).clamp(max=1.0)
    # On a GPU asking would wait for it (and cannot be recorded in a graph); filling in is cheap there.
    replace = finite_M.is_cuda or not bool(finite_M.all())
    for p in parameters:
        shape = (-1, *[1] * (p.dim() - 1))
        gradient = gradient_of(p)
        gradient.mul_(scale_M.view(shape).to(p.dtype))
        if replace:  # 0 * NaN is NaN: replace, do not scale
            gradient.masked_fill_(~finite_M.view(shape), 0.0)
    return finite_M


def batch_order(spec: NetworkSpec, available: int) -> np.ndarray:
    """Indices of the examples of every step, int64 of shape (S, B): a function of the network's seed alone."""
    own, _, rng = own_samples(spec, available)
    per_epoch = spec.steps_per_epoch * spec.batch
    return np.concatenate([rng.permutation(own)[:per_epoch] for _ in range(spec.epochs)]).reshape(-1, spec.batch)


def schedule(step: int, steps: int) -> float:
    """Factor of the learning rate: a tenth of the steps up, then half a cosine down to 2 %."""
    warm_up = max(1, steps // 10)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def example_losses(outputs: Tensor, target: Tensor, output: Output) -> Tensor:
    """Loss of every answer that could be asked for: cross-entropy or squared error summed over values; the shape of `outputs` without
    its last axis. Where no answer is asked for it is 0."""
    if output.kind == "classes":
        chosen = outputs.gather(-1, target.clamp(min=0)[..., None])[..., 0]
        return (outputs.logsumexp(dim=-1) - chosen) * (target >= 0)
    return torch.where(target.isnan(), 0.0, outputs - target.nan_to_num()).square().sum(dim=-1)


def asked(target: Tensor, lengths_MB: Tensor | None, output: Output) -> Tensor:
    """How many numbers of every answer count: 1 for a class, up to O for values; 0 on padding; float32 (M, B) or (M, B, T)."""
    count = (target >= 0).float() if output.kind == "classes" else (~target.isnan()).sum(dim=-1).float()
    if output.every_step:
        assert lengths_MB is not None, "only sequences are answered at every step"
        count = count * (torch.arange(target.shape[2], device=target.device) < lengths_MB[..., None])
    return count


def masked_mean(loss: Tensor, count: Tensor) -> Tensor:
    """Sum of the losses that count over how many count, per network, (M,)."""
    weighted = loss * (count > 0)
    return weighted.flatten(1).sum(dim=1) / count.flatten(1).sum(dim=1).clamp(min=1).to(loss.dtype)


# Of a step: inputs, lengths, targets, and of mixed images the other target and the weight of the first.
_Batch = tuple[Tensor, Tensor | None, Tensor, Tensor | None, Tensor | None]
# What `ChunkTraining._compute` takes: the step's numbers and its batch.
_Values = tuple[Tensor, *_Batch]


class ChunkTraining:
    """The state of a chunk while it trains. `step(s)` is the whole of one step: batch, gradient, clipping, update.

    On a CUDA device the computation of a step is recorded once as a graph and replayed: of a small network's step almost all is the
    time to launch kernels. For that, nothing in `_compute` asks the device for a value, and every batch has the same shape.
    """

    def __init__(
        self,
        specs: Sequence[NetworkSpec],
        data: Examples,
        output: Output,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.specs, self.output, self.device = specs, output, torch.device(device)
        self.data = data.to(self.device)
        architecture = specs[0].architecture
        self.networks = stack_class(architecture).initial(architecture, [spec.seed for spec in specs]).to(self.device, dtype)
        self.parameters = [p.requires_grad_() for p in self.networks.parameters.values()]
        self.optimiser = StackedAdam(self.parameters)
        self.steps, self.per_epoch = specs[0].steps, specs[0].steps_per_epoch
        self.order_MSB = self._tensor(np.stack([batch_order(spec, len(data)) for spec in specs]))
        self.target = torch.stack([self.data.targets[spec.target] for spec in specs])
        self.clip_M = self._tensor([spec.clip for spec in specs], dtype)
        # Rates in float64: a float32 rate times a factor would round once more than torch's optimiser does.
        self.rate_M = self._tensor([spec.learning_rate for spec in specs], torch.float64)
        self.decay_M = self._tensor([spec.weight_decay for spec in specs], torch.float64) if any(s.weight_decay for s in specs) else None
        self.cosine_M = self._tensor([spec.schedule == "cosine" for spec in specs])
        # What changes from step to step and is the same for all networks: step, factor of the rate, the optimiser's corrections.
        self.numbers_S4 = self._tensor(
            [[step, schedule(step, self.steps), *self.optimiser.corrections(step)] for step in range(self.steps)], torch.float64
        )
        self.failed_at, self.stopped_at = (torch.full((len(specs),), -1, device=self.device) for _ in range(2))
        self._graph: tuple[torch.cuda.CUDAGraph, _Values, Tensor] | None = None

    def _tensor(self, values: object, dtype: torch.dtype | None = None) -> Tensor:
        return torch.as_tensor(values, dtype=dtype, device=self.device)

    @property
    def active_M(self) -> Tensor:
        """Networks that still train, bool."""
        return (self.failed_at < 0) & (self.stopped_at < 0)

    def step(self, step: int) -> Tensor:
        """One step of training; returns the loss of every network before it, (M,)."""
        return self._run((self.numbers_S4[step], *self._batch(step)))

    def gather(self, index_MB: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Inputs, lengths and targets of every network's own examples."""
        inputs = self.data.inputs[index_MB]
        target = self.target[torch.arange(len(self.specs), device=self.device)[:, None], index_MB]
        if self.data.lengths_N is None:
            return inputs.float().div_(255) if inputs.dtype == torch.uint8 else inputs, None, target
        lengths_MB = self.data.lengths_N[index_MB]
        if self.device.type != "cuda":  # a graph needs batches of one shape
            time = int(lengths_MB.max())
            inputs, target = inputs[:, :, :time], target[:, :, :time] if self.output.every_step else target
        return inputs, lengths_MB, target

    def _batch(self, step: int) -> _Batch:
        inputs, lengths_MB, target = self.gather(self.order_MSB[:, step])
        kinds = [spec.augmentation for spec in self.specs]
        if set(kinds) == {"none"}:
            return inputs, lengths_MB, target, None, None
        inputs, partner_MB, weight_MB = augment_stack(inputs, kinds, [spec.seed for spec in self.specs], step)
        return inputs, lengths_MB, target, None if partner_MB is None else target.gather(1, partner_MB), weight_MB

    def _run(self, values: _Values) -> Tensor:
        """`_compute`, on a CUDA device by replaying the graph that the first call records."""
        if self.device.type != "cuda":
            return self._compute(*values)
        if self._graph is None:
            self._graph = self._record(values)
        graph, static, loss_M = self._graph
        for place, value in zip(static, values, strict=True):
            if place is not None and value is not None:
                place.copy_(value)
        graph.replay()
        return loss_M

    def _record(self, values: _Values) -> tuple[torch.cuda.CUDAGraph, _Values, Tensor]:
        """Record one step. The three trial steps that CUDA needs before are undone."""
        numbers, inputs, lengths_MB, target, other, weight = values
        lengths_MB, other, weight = (None if value is None else value.clone() for value in (lengths_MB, other, weight))
        static = (numbers.clone(), inputs.clone(), lengths_MB, target.clone(), other, weight)
        state = [*self.networks.tensors.values(), *self.optimiser.mean, *self.optimiser.square, self.failed_at]
        saved = [tensor.detach().clone() for tensor in state]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._compute(*static)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss_M = self._compute(*static)
        with torch.no_grad():
            for tensor, value in zip(state, saved, strict=True):
                tensor.copy_(value)
        return graph, static, loss_M

    def _compute(
        self, numbers: Tensor, inputs: Tensor, lengths_MB: Tensor | None, target: Tensor, other: Tensor | None, weight: Tensor | None
    ) -> Tensor:
        """Gradient and update on one batch; returns the loss of every network, (M,). Asks the device for no value."""
        step, factor, first, second = numbers.unbind()
        dtype = self.networks.dtype
        _, outputs = self.networks(inputs.to(dtype) if inputs.is_floating_point() else inputs, lengths_MB, training=True)
        loss = example_losses(outputs, target, self.output)
        if other is not None and weight is not None:
            loss = weight * loss + (1 - weight) * example_losses(outputs, other, self.output)
        loss_M = masked_mean(loss, asked(target, lengths_MB, self.output))
        for p in self.parameters:
            p.grad = None
        loss_M.sum().backward()
        finite_M = clip_per_network(self.parameters, self.clip_M)
        self.failed_at.copy_(torch.where(~finite_M & self.active_M, step.long(), self.failed_at))
        rate_M = torch.where(self.cosine_M, self.rate_M * factor, self.rate_M)
        self.optimiser.step(torch.where(self.active_M, rate_M, 0.0), decay_M=self.decay_M, corrections=(first, second))
        self.networks.update_buffers(self.active_M)
        return loss_M.detach()


class _EarlyStopping:
    """Watches the loss on what every network has held out, at the end of every epoch, and keeps the best parameters of each."""

    def __init__(self, training: ChunkTraining) -> None:
        self.training = training
        held_out = [own_samples(spec, len(training.data))[1] for spec in training.specs]
        most = max(map(len, held_out))
        # Networks that hold out fewer are filled up with -1: no example.
        self.index_MV = torch.from_numpy(np.stack([np.pad(own, (0, most - len(own)), constant_values=-1) for own in held_out]))
        self.index_MV = self.index_MV.to(training.device)
        self.patience_M = torch.tensor([spec.patience for spec in training.specs], device=training.device)
        self.best_M = torch.full_like(self.patience_M, math.inf, dtype=torch.float64)
        self.since_M = torch.zeros_like(self.patience_M)
        self.kept = {name: t.detach().clone() for name, t in training.networks.tensors.items()}

    @torch.no_grad()
    def look(self, steps: int) -> None:
        """At the end of an epoch, after so many steps."""
        watched_M = self.training.active_M & (self.patience_M > 0)
        loss_M = self._losses()
        better_M = watched_M & (loss_M < self.best_M)
        self.best_M = torch.where(better_M, loss_M, self.best_M)
        self.since_M = torch.where(better_M, 0, self.since_M + 1)
        for name, tensor in self.training.networks.tensors.items():
            self.kept[name] = torch.where(better_M.view(-1, *[1] * (tensor.dim() - 1)), tensor, self.kept[name])
        stopped_at = self.training.stopped_at
        stopped_at.copy_(torch.where(watched_M & (self.since_M >= self.patience_M), steps, stopped_at))

    def _losses(self) -> Tensor:
        """Mean loss on what is held out, float64 (M,); infinite where it is not a number."""
        training = self.training
        total_M, count_M = (torch.zeros_like(self.best_M) for _ in range(2))
        for index_MB in self.index_MV.split(training.specs[0].batch, dim=1):
            inputs, lengths_MB, target = training.gather(index_MB.clamp(min=0))
            _, outputs = training.networks(inputs.to(training.networks.dtype) if inputs.is_floating_point() else inputs, lengths_MB)
            answers = asked(target, lengths_MB, training.output)
            answers = answers * (index_MB >= 0).view(*index_MB.shape, *[1] * (answers.dim() - 2))
            loss = example_losses(outputs, target, training.output) * (answers > 0)
            total_M, count_M = total_M + loss.double().flatten(1).sum(dim=1), count_M + answers.double().flatten(1).sum(dim=1)
        return (total_M / count_M.clamp(min=1)).nan_to_num(nan=math.inf)

    @torch.no_grad()
    def restore(self) -> None:
        """Give the watched networks their best parameters back."""
        for name, tensor in self.training.networks.tensors.items():
            watched = (self.patience_M > 0).view(-1, *[1] * (tensor.dim() - 1))
            tensor.copy_(torch.where(watched, self.kept[name], tensor))


def train_chunk(
    specs: Sequence[NetworkSpec],
    data: Examples,
    output: Output,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> TrainedChunk:
    """Train the networks of one chunk on the labelled part of a data set.

    `progress(step, steps, mean loss)` is called every 20 steps, and every 10 s where steps take long. A network whose gradient is not
    finite keeps the parameters that it had before that step, and its neighbours do not notice. The networks stay on the device.
    """
    training = ChunkTraining(specs, data, output, dtype=dtype, device=device)
    stopping = _EarlyStopping(training) if any(spec.patience for spec in specs) else None
    steps, points = training.steps, min(CURVE, training.steps)
    curve_MP, count_P = torch.zeros(len(specs), points, dtype=torch.float64, device=training.device), np.zeros(points)
    told = time.monotonic()
    for step in range(steps):
        loss_M = training.step(step)
        point = step * points // steps
        curve_MP[:, point] += torch.where(training.active_M, loss_M.double(), math.nan)
        count_P[point] += 1
        done = step + 1
        if stopping and done % training.per_epoch == 0:
            stopping.look(done)
            if not bool(training.active_M.any()):
                break
        if step % 20 == 0 or done == steps or time.monotonic() - told > 10:
            told, active_M = time.monotonic(), training.active_M
            progress(done, steps, float(loss_M[active_M].mean()) if bool(active_M.any()) else math.nan)
    if stopping:
        stopping.restore()
    failed_at, stopped_at = training.failed_at.tolist(), training.stopped_at.tolist()
    curve = [[value for value in row if value == value] for row in (curve_MP.cpu() / torch.from_numpy(count_P)).tolist()]
    return TrainedChunk(
        networks=training.networks.detach(),
        loss=[row[-1] if row else math.nan for row in curve],
        curve=curve,
        steps=[failed if failed >= 0 else stopped if stopped >= 0 else steps for failed, stopped in zip(failed_at, stopped_at, strict=True)],
        failed_at=failed_at,
    )


def measured_bytes(spec: NetworkSpec, data: Dataset) -> int:
    """Bytes that one more network adds to the training of a stack, measured on one step of one and of two networks (on the CPU:
    tensors are as large on any device)."""
    few = dataclasses.replace(spec, samples=spec.batch, epochs=1, validation=0.0, patience=0)

    def peak(networks: int) -> int:
        def step() -> None:
            ChunkTraining([few] * networks, data.base, data.outputs[spec.target]).step(0)

        return peak_bytes(step)

    return peak(2) - peak(1)


@torch.no_grad()
def evaluate(
    specs: Sequence[NetworkSpec], networks: Stacked, data: Examples, output: Output, *, each: Callable[[], None] = lambda: None
) -> list[float]:
    """Score of every network: accuracy of classes, R^2 = 1 - SSE / SST of values, over all answers asked for. `each` is called after
    every batch."""
    device = networks.device
    target = torch.stack([data.targets[spec.target] for spec in specs])
    right, count = (torch.zeros(len(specs), dtype=torch.float64, device=device) for _ in range(2))
    # Numbers, sum and sum of squares of the target.
    moments = torch.zeros(3, len(specs), output.size, dtype=torch.float64, device=device)
    for index in data.batches(len(specs) * specs[0].architecture.intermediate(tuple(data.inputs.shape[1:]))):
        part = data.select(index).to(device)
        inputs = part.inputs.to(networks.dtype) if part.inputs.is_floating_point() else part.inputs
        lengths_1B = None if part.lengths_N is None else part.lengths_N[None]
        _, outputs = networks(inputs[None], lengths_1B)
        truth = target[:, index].to(device)
        truth = truth[:, :, : part.inputs.shape[1]] if output.every_step else truth
        answers = asked(truth, lengths_1B, output)
        each()
        if output.kind == "classes":
            right += ((outputs.argmax(dim=-1) == truth) & (answers > 0)).flatten(1).sum(dim=1)
            count += (answers > 0).flatten(1).sum(dim=1)
            continue
        counted = (~truth.isnan()) & (answers > 0)[..., None]
        known = torch.where(counted, truth.nan_to_num(), 0.0).double()
        right += torch.where(counted, outputs.double() - known, 0.0).square().flatten(1).sum(dim=1)
        for moment, value in zip(moments, (counted.double(), known, known.square()), strict=True):
            moment += value.flatten(1, -2).sum(dim=1)
    if output.kind == "classes":
        score_M = right / count
    else:
        numbers, total, square = moments
        score_M = 1 - right / (square - total.square() / numbers.clamp(min=1)).sum(dim=1)
    scores: list[float] = score_M.tolist()
    return scores
