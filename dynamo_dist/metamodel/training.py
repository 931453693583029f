"""Training of one shard of a meta-model. The whole population in one process is the case of one shard.

A worker owns theta, V, their optimiser moments and the base networks of its shard; F~, G~ and the initial state are replicated.
Every worker divides its sum of losses by the number of networks of the whole population and the shared gradients are summed, so
the gradient is that of one process with all networks, for any number of workers and unequal shards.
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dynamo_dist.commit import read_lines, seal, temporary_beside
from dynamo_dist.errors import InputError
from dynamo_dist.metamodel import checkpoint
from dynamo_dist.metamodel.config import MetaModelConfig
from dynamo_dist.metamodel.loss import hidden_error, hidden_scale, output_error, state_variance, valid_steps
from dynamo_dist.metamodel.model import Cohort, Dynamics, Private
from dynamo_dist.networks import Recurrent
from dynamo_dist.population import Population
from dynamo_dist.population.training import schedule

PROGRESS = "progress.jsonl"
# Sequences from which the variance of a network's states is measured.
VARIANCE_SEQUENCES = 512


class Group(Protocol):
    """The workers that train one meta-model together."""

    rank: int
    size: int

    def sum_(self, tensor: Tensor) -> None:
        """Replace the tensor by its sum over workers."""

    def barrier(self) -> None: ...

    def share(self, text: str) -> str:
        """Worker 0's text, on every worker."""


class Alone:
    """A group of one."""

    rank, size = 0, 1

    def sum_(self, tensor: Tensor) -> None: ...

    def barrier(self) -> None: ...

    def share(self, text: str) -> str:
        return text


class Diverged(RuntimeError):
    """The loss or its gradient is not finite. The last checkpoint is from before that."""


def partition(population: Population, workers: int) -> list[tuple[str, ...]]:
    """Networks of every worker, balanced by cost (their width), each in the population's order. Networks that failed are left out."""
    _check_population(population)
    table = population.table()
    sound = [id for id, failed in zip(table["id"].to_pylist(), table["failed_at"].to_pylist(), strict=True) if failed < 0]
    if not 1 <= workers <= len(sound):
        raise InputError(f"{workers} workers for {len(sound)} networks: a worker needs at least one network; use fewer workers")
    shards: list[list[str]] = [[] for _ in range(workers)]
    load = [0] * workers
    for id in sorted(sound, key=lambda id: -population.spec(id).architecture.hidden):  # stable: ties keep their order
        lightest = load.index(min(load))
        shards[lightest].append(id)
        load[lightest] += population.spec(id).architecture.hidden
    place = {id: index for index, id in enumerate(population.network_ids)}
    return [tuple(sorted(shard, key=place.__getitem__)) for shard in shards]


def _check_population(population: Population) -> None:
    """Raise `InputError` for a population that the meta-model cannot emulate."""
    others = [spec.id for spec in population.specs if not isinstance(spec.architecture, Recurrent) or spec.architecture.every_step]
    data = population.data
    if others or data.kind != "tokens" or any(output.kind != "classes" for output in data.outputs.values()):
        example = f"network {others[0]!r} is of another kind" if others else f"its data are {data.kind}"
        raise InputError(
            f"{population.path}: the meta-model emulates recurrent networks that read tokens and answer with one class at the end; {example}"
        )


def batch_index(config: MetaModelConfig, step: int, available: int) -> Tensor:
    """Indices of the sequences of a step: a function of seed and step alone, the same on every worker and after a resume."""
    rng = np.random.default_rng([config.seed, 2, step])
    return torch.from_numpy(rng.choice(available, size=min(config.batch, available), replace=False))


class Shard:
    """The networks of one worker, their private parameters, and a replica of what is shared."""

    def __init__(self, population: Population, ids: Sequence[str], config: MetaModelConfig, *, networks: int, dtype: torch.dtype) -> None:
        self.config, self.networks = config, networks
        data = population.data
        self.data = data.meta
        stacks = list(population.stacks(ids))
        self.stacks = [stack.networks.to(dtype) for stack in stacks]
        self.private = Private(
            [Cohort(ids=stack.ids, hidden=stack.networks.architecture.state) for stack in stacks], config=config, dtype=dtype
        )
        generator = torch.Generator().manual_seed(config.seed)
        self.dynamics = Dynamics(vocabulary=data.vocabulary, classes=next(iter(data.outputs.values())).size, config=config, generator=generator, dtype=dtype)
        self.shared = list(self.dynamics.parameters())
        self.own = [p for p in self.private.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adam([*self.shared, *self.own], lr=config.learning_rate, foreach=True)
        self.scales = self._scales()

    @torch.no_grad()
    def _scales(self) -> list[Tensor]:
        part = self.data.select(torch.arange(min(VARIANCE_SEQUENCES, len(self.data))))
        scales = []
        for networks in self.stacks:
            h_TMBH, _ = networks(part.inputs[None], part.lengths_N[None])
            variance_M = state_variance(h_TMBH, valid_steps(part.lengths_N, h_TMBH.shape[0]))
            scales.append(hidden_scale(self.config, variance_M, networks.architecture.state))
        return scales

    def losses(self, step: int) -> tuple[Tensor, Tensor]:
        """Hidden and output term of every network of the shard, two tensors of shape (m,), in the order of `private.ids`."""
        part = self.data.select(batch_index(self.config, step, len(self.data)))
        with torch.no_grad():
            base = [networks(part.inputs[None], part.lengths_N[None]) for networks in self.stacks]
        h_TMBK, meta_MBC = self.dynamics(self.private.theta, part.inputs, part.lengths_N)
        mask_R = valid_steps(part.lengths_N, h_TMBK.shape[0], burn_in=self.config.burn_in)
        mapped = self.private.map_states(h_TMBK)
        hidden_M = torch.cat([hidden_error(v, h, mask_R, s) for v, (h, _), s in zip(mapped, base, self.scales, strict=True)])
        output_M = output_error(torch.cat([logits for _, logits in base]), meta_MBC)
        return hidden_M, output_M

    def backward(self, step: int, group: Group) -> Tensor:
        """Gradients of the population's loss into every `.grad`; returns (loss, hidden, output) of the whole population."""
        self.optimiser.zero_grad()
        hidden_M, output_M = self.losses(step)
        loss = (hidden_M + self.config.output_weight * output_M).sum() / self.networks
        loss.backward()
        terms = torch.stack([loss.detach(), hidden_M.detach().sum() / self.networks, output_M.detach().sum() / self.networks])
        # One message for everything that is summed.
        flat = torch.cat([*(p.grad.flatten() if p.grad is not None else torch.zeros_like(p).flatten() for p in self.shared), terms])
        group.sum_(flat)
        for p, summed in zip(self.shared, flat.split([*(p.numel() for p in self.shared), len(terms)])[:-1], strict=True):
            p.grad = summed.view_as(p).clone()
        return flat[-len(terms) :]

    def update(self, step: int) -> None:
        """Clip, one step of Adam, decay of theta. What is private is clipped per network: a neighbour must not change its step."""
        config = self.config
        torch.nn.utils.clip_grad_norm_(self.shared, config.clip)
        offset = 0
        for cohort, weight, bias in zip(self.private.cohorts, self.private.weight, self.private.bias, strict=True):
            rows = slice(offset, offset := offset + len(cohort.ids))
            gradients = [weight.grad, bias.grad] + ([self.private.theta.grad[rows]] if config.use_theta else [])
            # The loss is a mean over networks: undo that, so that clipping does not depend on how many there are.
            norm_m = sum(g.flatten(1).square().sum(dim=1) for g in gradients).sqrt() * self.networks
            factor_m = (config.clip / (norm_m + 1e-6)).clamp(max=1.0)
            for g in gradients:
                g.mul_(factor_m.view(-1, *[1] * (g.dim() - 1)))
        rate = config.learning_rate * schedule(step, config.steps)
        for parameters in self.optimiser.param_groups:
            parameters["lr"] = rate
        self.optimiser.step()
        if config.use_theta:
            with torch.no_grad():
                self.private.theta.mul_(1 - rate * config.theta_decay)


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """One meta-model to train: where its population lies, where it goes, and how. Small: this is what travels to workers."""

    population: str
    out: str
    config: MetaModelConfig
    # "float32" or "float64".
    dtype: str = "float32"


def train_shard(job: TrainingJob, *, group: Group, after_step: Callable[[int], None] = lambda step: None) -> None:
    """Train one worker's shard to the end, from the newest verified checkpoint in `job.out` if there is one.

    Raises `Diverged` before the update that would have used a gradient that is not finite; the last checkpoint stays.
    """
    path, config = Path(job.out), job.config
    population = Population.open(job.population)
    shards = partition(population, group.size)
    shard = Shard(population, shards[group.rank], config, networks=sum(map(len, shards)), dtype=getattr(torch, job.dtype))

    # Worker 0 looks, all follow: they must not resume from different steps.
    newest = group.share(str(checkpoint.newest_verified(path) or "") if group.rank == 0 else "")
    start = 0
    if newest:
        start = json.loads((Path(newest) / "state.json").read_text())["step"]
        checkpoint.restore(Path(newest), start, shard.dynamics, shard.private, shard.optimiser)
    record = path / PROGRESS
    if group.rank == 0 and record.exists():
        kept = [line for line in read_lines(record) if line["step"] <= start]
        record.write_text("".join(json.dumps(line) + "\n" for line in kept))

    began = time.monotonic()
    for step in range(start, config.steps):
        terms = shard.backward(step, group)
        if not bool(torch.isfinite(terms).all()):
            raise Diverged(
                f"the meta-model's loss is not finite at step {step}: nothing was updated; the newest checkpoint in {path} is sound. "
                f"Lower learning_rate={config.learning_rate} and train again"
            )
        shard.update(step)
        done = step + 1
        if group.rank == 0 and (done % 25 == 0 or done == config.steps):
            loss, hidden, output = terms.tolist()
            line = {"step": done, "steps": config.steps, "loss": loss, "hidden": hidden, "output": output}
            with open(record, "a") as file:
                file.write(json.dumps({**line, "seconds": round(time.monotonic() - began, 3)}) + "\n")
        if done % config.checkpoint_every == 0 or done == config.steps:
            _commit(path, done, config, shard, group)
        after_step(done)


def _commit(path: Path, step: int, config: MetaModelConfig, shard: Shard, group: Group) -> None:
    """Every worker writes its networks into one temporary folder; worker 0 writes what is shared and commits."""
    final = checkpoint.step_path(path, step)
    temporary = Path(group.share(str(temporary_beside(final)) if group.rank == 0 else ""))
    checkpoint.save_private(temporary, group.rank, shard.private, shard.optimiser)
    if group.rank == 0:
        checkpoint.save_shared(temporary, shard.dynamics, shard.optimiser)
        (temporary / "state.json").write_text(json.dumps({"step": step, "workers": group.size}))
    group.barrier()
    if group.rank == 0:
        if final.exists():  # a damaged one that was passed over at the start
            shutil.rmtree(final)
        seal(temporary, final)
        checkpoint.remove_old(path)
    group.barrier()


def worst_difference(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Largest relative difference between two lists of tensors, norm-wise per tensor."""
    return max(float((x - y).norm() / y.norm().clamp(min=math.ulp(1.0))) for x, y in zip(a, b, strict=True))
