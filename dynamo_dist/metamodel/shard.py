"""The networks of one worker in training: their losses, the gradient of the whole population's loss, one step.

A worker owns theta, V, their optimiser moments and the base networks of its shard; F~, G~ and the initial state are replicated.
Every worker divides its sum of losses by the number of networks of the whole population and the shared gradients are summed, so
the gradient is that of one process with all networks, for any number of workers and unequal shards.

Legend: M networks, m networks of one stack, B batch, T time, R rows, C outputs.
"""

import dataclasses
import hashlib
import json
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from dynamo_dist.data import Examples, Output
from dynamo_dist.errors import InputError
from dynamo_dist.metamodel import loss, splitting
from dynamo_dist.metamodel.activations import Activations, Cached, Recomputed, choose
from dynamo_dist.metamodel.config import MetaModelConfig
from dynamo_dist.metamodel.convolutional import ConvolutionalDynamics
from dynamo_dist.metamodel.interface import Interface
from dynamo_dist.metamodel.private import Cohort, Private
from dynamo_dist.metamodel.recurrent import RecurrentDynamics
from dynamo_dist.networks import Stacked, StackedRecurrent
from dynamo_dist.networks.recurrence import Mixing
from dynamo_dist.population import Population
from dynamo_dist.population.store import Stack
from dynamo_dist.population.training import gradient_of, schedule

# Inputs from which the variances of a network's states and outputs are measured.
VARIANCE_INPUTS = 512
# On a CPU, rows (networks x inputs) of the meta-model's state at one step of one pass: more networks go through in several, so that what a
# step writes is still in cache when the next one reads it; fewer make thin matrix products. A training step of 256 GRU-32, T = 30, B = 16,
# K = 64, by networks in a pass: 8 303 ms, 16 270, 32 298, 64 316, 256 363; of 64: 8 77, 16 73, 32 76, 64 84 (one run, one core of an Intel
# Xeon). Of 12 networks, T = 160, B = 12: K = 192, 6 in a pass 347 ms, 12 328; K = 256, 4 in a pass 566, 12 492 (AMD EPYC; torch 2.13.0).
PASS_ROWS = 256
# Inputs held out at most: enough to compare checkpoints.
HELD_OUT_MOST = 512


class Group(Protocol):
    """The workers that train one meta-model together."""

    rank: int
    size: int
    device: torch.device

    def sum_(self, tensor: Tensor) -> None:
        """Replace the tensor by its sum over workers."""

    def gather(self, text: str) -> list[str]:
        """Every worker's text, in the order of ranks, on every worker; and none goes on before all have come here."""

    def split_(self, module: nn.Module) -> None:
        """Leave on every worker only its part of the module's parameters, as `splitting.split_`."""


class Alone:
    """A group of one."""

    rank, size = 0, 1

    def __init__(self, device: torch.device | str | None = None) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def sum_(self, tensor: Tensor) -> None: ...

    def gather(self, text: str) -> list[str]:
        return [text]

    def split_(self, module: nn.Module) -> None:
        raise AssertionError("refused before anything started: there is nobody to split with")


def make_dynamics(
    interface: Interface, config: MetaModelConfig, generator: torch.Generator, dtype: torch.dtype
) -> RecurrentDynamics | ConvolutionalDynamics:
    """What is shared by all networks: recurrent for sequences, convolutional for images."""
    if interface.images:
        return ConvolutionalDynamics(
            channels=interface.channels, outputs=interface.outputs, config=config, generator=generator, dtype=dtype
        )
    return RecurrentDynamics(interface, config, generator, dtype)


def run(
    dynamics: RecurrentDynamics | ConvolutionalDynamics, theta_MD: Tensor, inputs: Tensor, lengths_B: Tensor | None, **how: Any
) -> tuple[list[Tensor], Tensor]:
    """The meta-model at these thetas, as `dynamics` gives it. Networks at one theta are one network: where all are, as in the control, it runs
    once and its results are views, one for each. (A theta that is trained may differ after the next step, and has gradients of its own.)"""
    networks, alike = len(theta_MD), not theta_MD.requires_grad and bool((theta_MD == theta_MD[:1]).all())
    stages, outputs = dynamics(theta_MD[:1] if alike else theta_MD, inputs, lengths_B, **how)
    if not alike:
        return stages, outputs
    axis = 0 if lengths_B is None else 1  # of networks in a stage
    stages = [stage.expand(*stage.shape[:axis], networks, *stage.shape[axis + 1 :]) for stage in stages]
    return stages, outputs.expand(networks, *outputs.shape[1:])


def batch_index(config: MetaModelConfig, step: int, data: int, available: int) -> Tensor:
    """Indices of the inputs of a step, of the data set number `data`: a function of these and the seed alone, the same on every worker
    and after a resume."""
    rng = np.random.default_rng([config.seed, 2, step, data])
    return torch.from_numpy(rng.choice(available, size=min(config.batch, available), replace=False))


def mixing(config: MetaModelConfig, step: int, data: int, *, steps: int, batch: int) -> Mixing:
    """How the states of the inputs of a step are mixed, drawn as `batch_index` is."""
    rng = np.random.default_rng([config.seed, 3, step, data])
    return Mixing(step=int(rng.integers(1, steps)), share_B=torch.from_numpy(rng.random(batch)))


def split(config: MetaModelConfig, count: int) -> tuple[Tensor, Tensor]:
    """Indices of the inputs that train, and of those that are held out (the last ones; none for `held_out=0`)."""
    held = min(int(count * config.held_out), HELD_OUT_MOST)
    return torch.arange(count - held), torch.arange(count - held, count)


def trajectory(result: Tensor | list[Tensor], lengths_B: Tensor | None, label: str) -> list[Tensor]:
    """What a stack of base networks gives, as stages: of sequences one (T, M, B, H), the layers of an imported network side by side."""
    if isinstance(result, Tensor):
        return [result]
    if lengths_B is None:
        return result
    if any(layer.dim() != 4 for layer in result) or len({layer.shape[2] for layer in result}) > 1:
        found = ", ".join(str(tuple(layer.shape[1:])) for layer in result)
        raise InputError(
            f"{label}: its hidden layers give {found} (inputs first): of sequences expected (inputs, steps, units) of every layer"
        )
    return [torch.cat(result, dim=-1).permute(2, 0, 1, 3)]


@dataclass(frozen=True, kw_only=True)
class Member:
    """Networks of one architecture that are fed one data set and answer with one output."""

    data: str
    output: Output
    stack: Stack


def members(population: Population, ids: Sequence[str]) -> Iterator[Member]:
    """These networks, stacked by data set, output and architecture."""
    outputs = {name: data.outputs for name, data in population.datasets.items()}
    kinds: dict[tuple[str, Output], list[str]] = {}
    for id in ids:
        spec = population.spec(id)
        kinds.setdefault((spec.data, outputs[spec.data][spec.target]), []).append(id)
    for (data, output), own in kinds.items():
        for stack in population.stacks(own):
            yield Member(data=data, output=output, stack=stack)


def asked(config: MetaModelConfig, member: Member) -> Output:
    """The output that the loss compares. Raises `InputError` where it is to be at all steps and the networks cannot give it there."""
    own, label = member.output, member.stack.networks.architecture.label
    if config.output_steps == "own" or own.every_step:
        return own
    if not isinstance(member.stack.networks, StackedRecurrent):
        raise InputError(
            f"{label}: output_steps='all' asks for answers at every step, which recurrent networks with a known readout give; use 'own'"
        )
    return dataclasses.replace(own, every_step=True)


def check_mixing(config: MetaModelConfig, member: Member) -> None:
    """Raise `InputError` where states are to be mixed and nobody knows how to put a state into these networks."""
    if config.mix_states and not isinstance(member.stack.networks, StackedRecurrent):
        raise InputError(
            f"{member.stack.networks.architecture.label}: mix_states=True puts mixed states into recurrent networks with a known cell; "
            "leave it out"
        )


def answers(member: Member, output: Output, stages: Sequence[Tensor], outputs: Tensor, networks: Stacked) -> Tensor:
    """What networks of a member answer to what is asked, given their trajectory and their own outputs."""
    if output == member.output:
        return outputs
    assert isinstance(networks, StackedRecurrent), "`asked` refuses others"
    h_TMBH = stages[0][..., : networks.architecture.hidden]  # of an LSTM without its cell state
    return networks.readout(h_TMBH.permute(1, 2, 0, 3))


@dataclass(frozen=True, kw_only=True)
class _Base:
    """The sound networks of a member, and what their errors are divided by."""

    member: Member
    # What the loss asks them for.
    output: Output
    networks: Stacked
    cohort: Cohort
    # Of every stage of the trajectory, (m,); and of the output, (m,).
    hidden_scales: tuple[Tensor, ...]
    output_scale: Tensor


@dataclass(frozen=True, kw_only=True)
class Feed:
    """Networks that are fed the same inputs: one call of the meta-model."""

    data: str
    # Of the data set among all of the population, by name.
    number: int
    # Whether some of them are asked for an output at every step.
    every_step: bool
    # Rows of theta; positions of the cohorts.
    rows: slice
    cohorts: slice


class Shard:
    """The networks of one worker, their private parameters, and a replica of what is shared.

    `examples`: of every data set of the population the inputs without labels; `products`: a lower precision for the meta-model's
    recurrence, None for that of the parameters; `dynamics`: what is shared, as it is and not to be trained.
    """

    def __init__(
        self,
        networks: Iterable[Member],
        examples: dict[str, Examples],
        interface: Interface,
        config: MetaModelConfig,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        products: torch.dtype | None = None,
        dynamics: RecurrentDynamics | ConvolutionalDynamics | None = None,
    ) -> None:
        self.config, self.interface, self.dtype, self.products = config, interface, dtype, products
        self.device = torch.device(device)
        self.examples = {name: part.to(self.device) for name, part in examples.items()}
        self.training, self.held_out = {}, {}
        for name, part in self.examples.items():
            self.training[name], self.held_out[name] = split(config, len(part))
        generator = torch.Generator().manual_seed(config.seed)
        self.dynamics = (dynamics or make_dynamics(interface, config, generator, dtype)).to(self.device)
        # Networks whose states or outputs are not finite, left out: one sentence for each.
        self.excluded: list[str] = []
        bases = [base for member in networks for part in self._passes(member) if (base := self._measure(part)) is not None]
        # Neighbours go through the meta-model together, and those of one body are recomputed together then.
        self.bases = sorted(bases, key=lambda base: (base.member.data, str(base.networks.body)))
        self.private = Private([base.cohort for base in self.bases], config=config, dtype=dtype).to(self.device)
        self.feeds = list(self._feeds())
        self.activations: list[Activations] = [Recomputed([base.networks for base in self.bases[feed.cohorts]]) for feed in self.feeds]
        self.shared = [] if dynamics is not None else list(self.dynamics.parameters())
        self.own = [p for p in self.private.parameters() if p.requires_grad]
        self.optimisers = self._optimisers()
        # Whether this worker has only its part of what is shared.
        self.split = False
        # Of the whole population. Who trains with other workers sets the sum over them.
        self.networks = len(self.private.ids)

    def _optimisers(self) -> list[torch.optim.Optimizer]:
        return [
            torch.optim.Adam(parameters, lr=self.config.learning_rate, fused=True) for parameters in (self.shared, self.own) if parameters
        ]

    def split_shared(self, group: Group) -> None:
        """From here on this worker keeps only its part of the shared parameters, of their gradients and of their moments."""
        group.split_(self.dynamics)
        self.shared, self.split = list(self.dynamics.parameters()), True
        self.optimisers = self._optimisers()

    @torch.no_grad()
    def _measure(self, member: Member) -> _Base | None:
        """What the networks' errors are divided by; networks that are not finite are left out."""
        examples, label, output = self.examples[member.data], member.stack.networks.architecture.label, asked(self.config, member)
        check_mixing(self.config, member)
        networks = member.stack.networks.to(self.device, self.dtype)
        part = examples.select(torch.arange(min(VARIANCE_INPUTS, len(examples)), device=self.device))
        ((result, outputs),) = Recomputed([networks])(torch.empty(0), part)
        stages = trajectory(result, part.lengths_N, label)
        outputs = answers(member, output, stages, outputs, networks)
        if part.lengths_N is None:
            rows = [loss.image_rows(stage) for stage in stages]
        else:
            rows = [loss.sequence_rows(stages[0])[:, loss.valid_steps(part.lengths_N, len(stages[0]))]]
        sources = loss.match_stages(stages, len(self.dynamics.stages))
        sound_m = torch.stack([torch.isfinite(own).flatten(1).all(dim=1) for own in (*rows, outputs)]).all(dim=0)
        ids = member.stack.ids
        self.excluded += [
            f"{id}: its states or outputs are not finite numbers" for id, sound in zip(ids, sound_m.tolist(), strict=True) if not sound
        ]
        if not sound_m.any():
            return None
        kept = sound_m.nonzero().flatten()
        rows, outputs = [own[kept] for own in rows], outputs[kept]
        return _Base(
            member=member,
            output=output,
            networks=networks.select(kept.tolist()),
            cohort=Cohort(
                ids=tuple(ids[position] for position in kept.tolist()),
                widths=tuple(own.shape[-1] for own in rows),
                sources=sources,
                source_widths=tuple(self.dynamics.stages[source] for source in sources),
            ),
            hidden_scales=tuple(loss.hidden_scale(self.config, loss.variance(own), own.shape[-1]) for own in rows),
            output_scale=loss.output_scale(self.config, outputs, output, part.lengths_N),
        )

    def _at_once(self) -> int:
        """Networks of one pass."""
        return max(1, PASS_ROWS // self.config.batch) if self.device.type == "cpu" else 2**31

    def _passes(self, member: Member) -> Iterator[Member]:
        """The networks of a member in parts, as equal as can be, of at most one pass."""
        ids, networks = member.stack.ids, member.stack.networks
        for piece in np.array_split(np.arange(len(ids)), -(-len(ids) // self._at_once())):
            own = piece.tolist()
            stack = member.stack if len(own) == len(ids) else Stack(ids=tuple(ids[row] for row in own), networks=networks.select(own))
            yield dataclasses.replace(member, stack=stack)

    def _feeds(self) -> Iterator[Feed]:
        """Neighbouring stacks with the same inputs go through the meta-model together, up to what one pass takes."""
        numbers = {name: number for number, name in enumerate(sorted(self.examples))}
        row = first = 0
        while first < len(self.bases):
            data = self.bases[first].member.data
            end, networks = first, 0
            while end < len(self.bases):
                own = self.bases[end]
                count = len(own.cohort.ids)
                if own.member.data != data or (networks and networks + count > self._at_once()):
                    break
                end, networks = end + 1, networks + count
            yield Feed(
                data=data,
                number=numbers[data],
                every_step=any(own.output.every_step for own in self.bases[first:end]),
                rows=slice(row, row := row + networks),
                cohorts=slice(first, first := end),
            )

    def choose_activations(self, how: str, folder: Path, steps: int) -> tuple[str, str]:
        """Recompute base activations or read them from caches in `folder`, as `how` says ("auto": the faster, measured on the first
        feed); returns what was chosen and why."""
        why = ""
        for number, feed in enumerate(self.feeds):
            bases = self.bases[feed.cohorts]
            names = (json.dumps([feed.data, str(self.dtype), *base.cohort.ids]) for base in bases)
            self.activations[number], said = choose(
                [base.networks for base in bases],
                self.examples[feed.data],
                keys=[hashlib.sha256(name.encode()).hexdigest()[:32] for name in names],
                folder=folder,
                batch=self.config.batch,
                steps=steps,
                how=how,
            )
            how = "cache" if isinstance(self.activations[number], Cached) else "recompute"
            why = why or said
        return how, why

    def losses(self, feed: int, index_B: Tensor, mixing: Mixing | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden, output and conjugacy term of the networks of a feed on these inputs, three tensors (m,); the last is 0 where its weight is."""
        of, config = self.feeds[feed], self.config
        part = self.examples[of.data].select(index_B)
        with torch.no_grad():
            base = self.activations[feed](index_B, part, mixing)
        meta_stages, meta_outputs = run(
            self.dynamics,
            self.private.theta[of.rows],
            self.interface.inputs(of.data, part.inputs, self.dtype),
            part.lengths_N,
            every_step=of.every_step,
            products=self.products,
            **({} if mixing is None else {"mixing": mixing}),
        )
        sequences = part.lengths_N is not None
        mask_R = None if part.lengths_N is None else loss.valid_steps(part.lengths_N, len(meta_stages[0]), burn_in=config.burn_in)
        hidden, outputs, conjugacy, first = [], [], [], 0
        for own, maps, (result, given) in zip(self.bases[of.cohorts], self.private.state_maps[of.cohorts], base, strict=True):
            rows = slice(first, first := first + len(own.cohort.ids))
            stages = trajectory(result, part.lengths_N, own.networks.architecture.label)
            terms, beside = [], []
            for stage, source, state_map, scale_m in zip(stages, own.cohort.sources, maps, own.hidden_scales, strict=True):
                source_rows, target_rows = loss.paired_rows(meta_stages[source], stage, rows=rows, sequences=sequences)
                terms.append(loss.hidden_error(state_map(source_rows), target_rows, scale_m, mask_R))
                if config.conjugacy_weight:
                    beside.append(loss.conjugacy_error(source_rows, target_rows, mask_R))
            hidden.append(torch.stack(terms).mean(dim=0))
            conjugacy.append(torch.stack(beside).mean(dim=0) if beside else torch.zeros_like(hidden[-1]))
            base_outputs = answers(own.member, own.output, stages, given, own.networks)
            outputs.append(
                loss.output_error(base_outputs, meta_outputs[rows], own.output, lengths_B=part.lengths_N, scale_M=own.output_scale)
            )
        return torch.cat(hidden), torch.cat(outputs), torch.cat(conjugacy)

    def _mixing(self, step: int, feed: Feed, index_B: Tensor) -> Mixing | None:
        if not self.config.mix_states:
            return None
        steps = self.examples[feed.data].inputs.shape[1]
        return mixing(self.config, step, feed.number, steps=steps, batch=len(index_B)) if steps > 1 else None

    def backward(self, step: int, group: Group) -> Tensor:
        """Gradients of the population's loss into every `.grad`; returns (loss, hidden, output) of the whole population."""
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        terms = torch.zeros(3, dtype=self.dtype, device=self.device)
        for number, feed in enumerate(self.feeds):
            training = self.training[feed.data]
            index_B = training[batch_index(self.config, step, feed.number, len(training))].to(self.device)
            if self.split:
                splitting.last_pass(self.dynamics, number == len(self.feeds) - 1)
            hidden_m, output_m, conjugacy_m = self.losses(number, index_B, self._mixing(step, feed, index_B))
            weighted_m = hidden_m + self.config.output_weight * output_m + self.config.conjugacy_weight * conjugacy_m
            loss_ = weighted_m.sum() / self.networks
            (loss_ + splitting.nothing(self.dynamics) if self.split else loss_).backward()
            terms += torch.stack([loss_.detach(), hidden_m.detach().sum() / self.networks, output_m.detach().sum() / self.networks])
        if self.split:  # the gradients were summed on the way
            group.sum_(terms)
            return terms
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
        self._clip_private()
        rate = config.learning_rate * schedule(step, config.steps)
        for optimiser in self.optimisers:
            optimiser.param_groups[0]["lr"] = rate
            optimiser.step()
        if config.use_theta:
            with torch.no_grad():
                self.private.theta.mul_(1 - rate * config.theta_decay)

    def _clip_private(self) -> None:
        first = 0
        for cohort, maps in zip(self.private.cohorts, self.private.maps, strict=True):
            rows = slice(first, first := first + len(cohort.ids))
            gradients = [gradient_of(p) for p in maps.parameters()] + ([gradient_of(self.private.theta)[rows]] if self.config.use_theta else [])
            # The loss is a mean over networks: undo that, so that clipping does not depend on how many there are.
            norm_m = reduce(operator.add, (g.flatten(1).square().sum(dim=1) for g in gradients)).sqrt() * self.networks
            factor_m = (self.config.clip / (norm_m + 1e-6)).clamp(max=1.0)
            for g in gradients:
                g.mul_(factor_m.view(-1, *[1] * (g.dim() - 1)))

    @torch.no_grad()
    def held_out_terms(self) -> tuple[Tensor, Tensor]:
        """Hidden and output term of every network of the shard on the inputs that train nothing, two float64 tensors (m,)."""
        terms: list[tuple[Tensor, ...]] = []
        for number, feed in enumerate(self.feeds):
            held = self.held_out[feed.data].to(self.device)
            parts = [
                torch.stack(self.losses(number, index_B)[:2]).double() * (len(index_B) / len(held)) for index_B in held.split(self.config.batch)
            ]
            terms.append(torch.stack(parts).sum(dim=0).unbind())
        if self.split:
            splitting.reshard(self.dynamics)
        hidden_m, output_m = (torch.cat(same) for same in zip(*terms, strict=True))
        return hidden_m, output_m

    def held_out_loss(self, group: Group) -> tuple[float, float, float]:
        """(loss, hidden, output) of the whole population on the inputs that train nothing, states unmixed and without the conjugacy term:
        how well it emulates."""
        hidden, output = (term.sum() / self.networks for term in self.held_out_terms())
        sums = torch.stack([hidden + self.config.output_weight * output, hidden, output])
        group.sum_(sums)
        return tuple(sums.tolist())
