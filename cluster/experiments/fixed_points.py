"""All fixed points of one trained GRU-64 from 1,000 visited states: the batched search against the method of FixedPointFinder; then time
and memory of 1,000 starts for each of 48 networks.

    python -m cluster.experiments.fixed_points [--starts 1000] [--networks 48]

The network learns the 3-bit flip-flop here (20 s). FixedPointFinder (Golub and Sussillo, JOSS 3(31), 2018) is written anew with its published
defaults for torch: float32, Adam on the mean of q from all starts jointly, learning rate 0.05 that falls to 0.7 of it every 500 steps, at
most 5,000 steps, done when every q < 1e-12 or changes by less than 1e-20; points are one when no coordinate differs by 1e-3, and those
farther from the starts' centre than 10 times their mean distance are left out. In the count of its points only those with q < 1e-12 are
fixed points. Times are of the processor, one thread, so that other work on the machine does not count.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from cluster.experiments.timing import processor
from dynamo_dist.allocator import keep_memory
from dynamo_dist.analysis.dynamics.networks import Dynamics, base_dynamics, stacked_cells
from dynamo_dist.analysis.dynamics.points import FIXED, search
from dynamo_dist.data.attractors import FlipFlopTask, make_flip_flop
from dynamo_dist.networks import StackedRecurrent
from dynamo_dist.population import Population
from dynamo_dist.population.groups import Group, specs_of
from dynamo_dist.population.scheduling import train_remaining
from dynamo_dist.runtime import LocalRuntime

HIDDEN = 64


def trained(folder: Path) -> Population:
    """One GRU-64 that remembers 3 bits."""
    data = make_flip_flop(FlipFlopTask(bits=3, base=4_000, meta=1_000, test=400))
    group = Group(
        name="gru-64", networks=1, architecture={"family": "recurrent", "cell": "gru", "hidden": HIDDEN},
        training={"batch": 32, "epochs": 10, "learning_rate": 5e-3},
    )  # fmt: skip
    population = Population.create(folder, specs_of([group], data), data)
    train_remaining(population, LocalRuntime())
    return Population.open(folder)


def adam_points(cell: nn.GRUCell, starts_SH: Tensor, inputs: int) -> tuple[Tensor, Tensor, int]:
    """Unique points (P, H), their q (P,), and the steps that were taken."""
    starts_SH, x_F = starts_SH.float(), torch.zeros(len(starts_SH), inputs)
    h_SH = starts_SH.clone().requires_grad_()
    optimiser = torch.optim.Adam([h_SH], lr=0.05)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, step_size=500, gamma=0.7)
    before = torch.full((len(starts_SH),), torch.nan)
    steps = 0
    while steps < 5_000:
        steps += 1
        optimiser.zero_grad()
        q = 0.5 * (h_SH - cell(x_F, h_SH)).square().sum(dim=1)
        q.mean().backward()
        optimiser.step()
        schedule.step()
        after = q.detach()
        if bool((((after - before).abs() < 1e-20) | (after < 1e-12)).all()):
            break
        before = after
    h_SH = h_SH.detach()
    centre = starts_SH.mean(dim=0)
    inside = (h_SH - centre).norm(dim=1) <= 10 * (starts_SH - centre).norm(dim=1).mean()
    h_SH, after = h_SH[inside], after[inside]
    order = after.argsort()
    h_SH, after = h_SH[order], after[order]
    first = (torch.cdist(h_SH, h_SH, p=torch.inf) < 1e-3).int().argmax(dim=1)
    unique = first == torch.arange(len(h_SH))
    return h_SH[unique], after[unique], steps


def compare(dynamics: Dynamics, network: nn.Module) -> None:
    maps, starts = dynamics.maps["zero"], dynamics.visited
    took = []
    for _ in range(3):
        begin = time.process_time()
        points = search(maps, starts, typical_speed_M=dynamics.speed)
        took.append(time.process_time() - begin)
    fixed = points.select(points.fixed)
    print(
        f"batched search: {min(took):.2f} s (fastest of 3), {len(fixed)} fixed points ({int(fixed.stable.sum())} stable), {len(points) - len(fixed)} "
        f"slow; largest q {float(fixed.q.max()):.1e} (all below {FIXED:g})",
        flush=True,
    )
    recurrent = network.recurrent
    assert isinstance(recurrent, nn.GRU)
    cell = nn.GRUCell(recurrent.input_size, HIDDEN).requires_grad_(False)
    cell.load_state_dict({name.removesuffix("_l0"): tensor for name, tensor in recurrent.state_dict().items()})
    begin = time.process_time()
    states, q, steps = adam_points(cell, starts[0], recurrent.input_size)
    seconds = time.process_time() - begin
    good = q < 1e-12
    near = torch.cdist(states[good].double(), fixed.state).amin(dim=1)
    print(
        f"Adam from all starts: {seconds:.1f} s, {steps} steps, {len(q)} unique points, {int(good.sum())} with q < 1e-12 ({int((near < 1e-2).sum())} of "
        f"them within 0.01 of one of the search); median q {float(q.median()):.1e}, largest {float(q.max()):.1e}; {seconds / min(took):.0f} times as long",
        flush=True,
    )


def many(dynamics: Dynamics, network: StackedRecurrent, networks: int) -> None:
    """The same for so many networks: copies with weights of their own, each 1 % from the trained ones."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: t.double() * (1 + 0.01 * torch.randn(networks, *t.shape[1:], generator=generator, dtype=torch.float64))
        for name, t in network.tensors.items()
    }
    cells = stacked_cells(StackedRecurrent(network.architecture, tensors))
    maps = cells.at(torch.zeros(networks, network.architecture.features, dtype=torch.float64))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    begin = time.process_time()
    points = search(maps, dynamics.visited.expand(networks, -1, -1), typical_speed_M=dynamics.speed.expand(networks))
    seconds = time.process_time() - begin
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    starts = networks * dynamics.visited.shape[1]
    print(
        f"{networks} networks, {starts} starts: {seconds:.1f} s, {1e6 * seconds / starts:.0f} us a start; {int(points.fixed.sum())} fixed points, "
        f"{int((~points.fixed).sum())} slow; memory {after:.0f} MiB at most, {after - before:.0f} more than before",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cluster.experiments.fixed_points", description=__doc__.partition("\n")[0])
    parser.add_argument("--starts", type=int, default=1_000)
    parser.add_argument("--networks", type=int, default=48)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    print(f"torch {torch.__version__}, {processor()}, one thread", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        population = trained(Path(scratch) / "population")
        (id,) = population.network_ids
        (dynamics,) = base_dynamics(population, [id], starts=arguments.starts, seed=0)
        (stack,) = population.stacks()
        compare(dynamics, population.network(id))
        assert isinstance(stack.networks, StackedRecurrent)
        many(dynamics, stack.networks, arguments.networks)


if __name__ == "__main__":
    main()
