"""The oracle of stacked training: one network at a time, with torch's own module, optimiser and clipping."""

import torch
from torch.nn.functional import cross_entropy, mse_loss

from dynamo_dist.data import Examples, Output
from dynamo_dist.data.augmentation import augment, own_stream
from dynamo_dist.networks import stack_class
from dynamo_dist.population.specs import NetworkSpec
from dynamo_dist.population.training import batch_order, schedule


def train_alone(spec: NetworkSpec, data: Examples, output: Output, *, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """Train one network without early stopping; returns its module."""
    module = stack_class(spec.architecture).initial(spec.architecture, [spec.seed]).to(dtype).network(0).train()
    optimiser = torch.optim.AdamW(module.parameters(), lr=spec.learning_rate, weight_decay=spec.weight_decay)
    for step, index in enumerate(torch.from_numpy(batch_order(spec, len(data)))):
        part = data.select(index)
        inputs, target = part.inputs, part.targets[spec.target]
        partner = None
        if part.lengths_N is None:
            inputs, partner, weight = augment(inputs, spec.augmentation, own_stream(spec.seed, step))
        inputs = inputs.to(dtype) if inputs.is_floating_point() else inputs
        _, outputs = module(inputs) if part.lengths_N is None else module(inputs, part.lengths_N)
        loss = _loss(outputs, target, part, output)
        if partner is not None and weight is not None:
            each, other = (cross_entropy(outputs, answers, reduction="none") for answers in (target, target[partner]))
            loss = (weight * each + (1 - weight) * other).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), spec.clip)
        factor = schedule(step, spec.steps) if spec.schedule == "cosine" else 1.0
        optimiser.param_groups[0]["lr"] = spec.learning_rate * factor
        optimiser.step()
    return module.eval()


def _loss(outputs: torch.Tensor, target: torch.Tensor, part: Examples, output: Output) -> torch.Tensor:
    if output.every_step:  # only the valid steps
        valid = torch.arange(outputs.shape[1]) < part.steps_N[:, None]
        outputs, target = outputs[valid], target[valid]
    if output.kind == "classes":
        return cross_entropy(outputs, target, ignore_index=-1)
    known = ~target.isnan()
    return mse_loss(outputs[known], target[known].to(outputs.dtype))
