"""One training step of a meta-model: against a loop over networks, by number of networks, and on two workers against one.

    python -m cluster.experiments.meta_step [--workers-too]

Tokens of a small alphabet, T = 30, B = 16, K = 64, D = 4; two thirds of the networks GRU-32, one third vanilla RNN-48, fresh ones: what
they compute costs the same. "loop": the same step written per network, with `torch.nn.GRU` on tokens concatenated with theta, the base
network as a plain module, `torch.nn.Linear` as state map, and one `torch.optim.Adam`. "products": the matrix products of the step alone.
"""

import argparse
import json
import resource
import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from cluster.experiments.timing import Step, measure, processor
from dynamo_dist.allocator import keep_memory
from dynamo_dist.data import Dataset, Output
from dynamo_dist.data.valence import ValenceTask, make_valence
from dynamo_dist.metamodel import MetaModelConfig, folder
from dynamo_dist.metamodel.interface import Interface
from dynamo_dist.metamodel.shard import Alone, Member, Shard, batch_index
from dynamo_dist.metamodel.training import TrainingJob
from dynamo_dist.networks import Recurrent, Stacked, stack_class
from dynamo_dist.population import NetworkSpec, Population
from dynamo_dist.population.store import Results, Stack
from dynamo_dist.runtime import open_runtime

OUTPUT = Output(kind="classes", size=2)
CONFIG = MetaModelConfig(dimensions=4, hidden=64, embedding=16, batch=16)
SIZES = (16, 64, 256, 1024)


def stacks_of(networks: int, vocabulary: int) -> list[Stacked]:
    """Fresh GRU-32 and vanilla RNN-48."""
    shapes = (("gru", 32, networks - networks // 3), ("rnn", 48, networks // 3))
    kinds = [(Recurrent(cell=cell, hidden=hidden, features=16, vocabulary=vocabulary, outputs=2), count) for cell, hidden, count in shapes]
    return [stack_class(kind).initial(kind, range(count)) for kind, count in kinds]


def shard_of(networks: int, data: Dataset) -> Shard:
    assert data.vocabulary is not None, "its inputs are words"
    members = [
        Member(
            data="data",
            output=OUTPUT,
            stack=Stack(ids=tuple(f"{stack.architecture.label} {n}" for n in range(stack.count)), networks=stack),
        )
        for stack in stacks_of(networks, data.vocabulary)
    ]
    return Shard(members, {"data": data.meta}, Interface.of({"data": data}, [("all", OUTPUT)], CONFIG), CONFIG)


def shard_step(shard: Shard) -> Step:
    counter = iter(range(10**9))

    def step() -> None:
        number = next(counter) % CONFIG.steps
        shard.backward(number, Alone("cpu"))
        shard.update(number)

    return step


def loop_step(shard: Shard) -> Step:
    """The same mathematics, network by network."""
    config, data = CONFIG, shard.examples["data"]
    gru = nn.GRU(config.embedding + config.dimensions, config.hidden, batch_first=True)
    embedding, readout = nn.Embedding(shard.interface.vocabulary, config.embedding), nn.Linear(config.hidden, 2)
    start = nn.Parameter(torch.zeros(config.hidden))
    networks = [(base.networks.network(m), float(scale)) for base in shard.bases for m, scale in enumerate(base.hidden_scales[0])]
    widths = []
    for base in shard.bases:
        assert isinstance(base.networks.architecture, Recurrent)
        widths += [base.networks.architecture.hidden] * len(base.hidden_scales[0])
    thetas = nn.ParameterList(torch.zeros(config.dimensions) for _ in networks)
    maps = nn.ModuleList(nn.Linear(config.hidden, width) for width in widths)
    parameters = [*gru.parameters(), *embedding.parameters(), *readout.parameters(), start, *thetas, *maps.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=config.learning_rate)
    counter = iter(range(10**9))

    def step() -> None:
        part = data.select(batch_index(config, next(counter), 0, len(data)))
        batch, time = part.inputs.shape
        assert part.lengths_N is not None, "texts have lengths"
        mask_BT = torch.arange(time) < part.lengths_N[:, None]
        optimiser.zero_grad()
        for (network, scale), theta, state_map in zip(networks, thetas, maps, strict=True):
            with torch.no_grad():
                h_BTH, base_BC = network(part.inputs, part.lengths_N)
            x_BTF = torch.cat([embedding(part.inputs), theta.expand(batch, time, -1)], dim=-1)
            meta_BTK, _ = gru(x_BTF, start.expand(1, batch, -1).contiguous())
            hidden = (state_map(meta_BTK) - h_BTH).square().sum(dim=-1)[mask_BT].mean() / scale
            meta_BC = readout(meta_BTK[torch.arange(batch), part.lengths_N - 1])
            output = functional.kl_div(meta_BC.log_softmax(-1), base_BC.log_softmax(-1), log_target=True, reduction="batchmean")
            ((hidden + output) / len(networks)).backward()
        nn.utils.clip_grad_norm_(parameters, config.clip)
        optimiser.step()

    return step


def product_step(shard: Shard, time: int) -> Step:
    """The matrix products of a step: the base networks' recurrence; the meta-model's, forward, backward and for its weights; the state
    maps' three."""
    rows, hidden = shard.networks * CONFIG.batch, CONFIG.hidden
    h, g = torch.randn(rows, hidden), torch.randn(rows, 3 * hidden)
    w, w_T = torch.randn(hidden, 3 * hidden), torch.randn(3 * hidden, hidden)
    all_h, all_g = torch.randn(time * rows, hidden), torch.randn(time * rows, 3 * hidden)
    base, maps = [], []
    for own in shard.bases:
        count, width = len(own.cohort.ids), own.cohort.widths[0]
        recurrent = own.networks.parameters["w_recurrent"]
        base.append((torch.randn(count, CONFIG.batch, width), recurrent))
        maps.append(
            (
                torch.randn(count, time * CONFIG.batch, hidden),
                torch.randn(count, hidden, width),
                torch.randn(count, time * CONFIG.batch, width),
            )
        )

    def step() -> None:
        for _ in range(time):
            for state, weight in base:
                torch.bmm(state, weight)
            h @ w
            g @ w_T
        all_h.T @ all_g
        for states, weight, targets in maps:
            torch.bmm(states, weight)
            torch.bmm(targets, weight.transpose(1, 2))
            torch.bmm(states.transpose(1, 2), targets)

    return step


def trained(path: Path, networks: int, data: Dataset) -> Population:
    """A population on disk of networks that nobody trained: their steps cost what those of trained ones cost."""
    assert data.vocabulary is not None, "its inputs are words"
    stacks = stacks_of(networks, data.vocabulary)
    specs = [
        NetworkSpec(
            id=f"{stack.architecture.label} {n}", group="all", computation="all", architecture=stack.architecture, target="perfect",
            seed=n, samples=64, batch=32, epochs=1, learning_rate=1e-3,
        )
        for stack in stacks
        for n in range(stack.count)
    ]  # fmt: skip
    population = Population.create(path, specs, data, bytes_per_network=lambda spec, data: 10**6)
    for chunk in population.remaining():
        own = population.chunk_specs(chunk)
        stack = next(stack for stack in stacks if stack.architecture == own[0].architecture)
        first = int(own[0].id.rpartition(" ")[2])
        name, count = population.chunk_name(own), len(own)
        results = Results(
            loss=[None] * count, curve=[[]] * count, steps=[0] * count, accuracy=[None] * count, r2=[None] * count, failed_at=[-1] * count,
            failure=[None] * count,
        )  # fmt: skip
        population.commit(name, own, stack.select(range(first, first + count)), results)
        population.record(name, chunk)
    return population


def seconds_per_step(population: Population, out: Path, workers: int, steps: int) -> float:
    """On Ray Train, between the second record and the last: starts are not counted."""
    config = MetaModelConfig(dimensions=4, hidden=64, embedding=16, batch=16, steps=steps, checkpoint_every=10**6, held_out=0)
    folder.prepare(out, population, config)
    with open_runtime(workers) as runtime:
        runtime.train([TrainingJob(population=str(population.path), out=str(out), config=config, activations="recompute")])
    lines = [json.loads(line) for line in (out / folder.PROGRESS).read_text().splitlines()]
    first, last = lines[1], lines[-2]
    return float((last["seconds"] - first["seconds"]) / (last["step"] - first["step"]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cluster.experiments.meta_step", description=__doc__.partition("\n")[0])
    parser.add_argument("--workers-too", action="store_true", help="two Ray Train workers against one as well, about 3 minutes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    print(f"torch {torch.__version__}, {processor()}, one thread", flush=True)
    data = make_valence(ValenceTask(base=64, meta=2_000, test=64))
    time = data.meta.inputs.shape[1]
    shard = shard_of(18, data)
    times = measure({"shard": shard_step(shard), "loop": loop_step(shard), "products": product_step(shard, time)}, 20)
    print(
        f"18 networks: {times['shard']:.1f} ms a step; loop over networks {times['loop'] / times['shard']:.2f} times as long; "
        f"products alone {times['products'] / times['shard']:.2f}",
        flush=True,
    )
    for networks in SIZES:
        shard = shard_of(networks, data)
        took = measure({"step": shard_step(shard)}, 8)["step"]
        private = sum(p.numel() for p in shard.private.parameters()) * 12 / 2**20  # with both moments
        shared = sum(p.numel() for p in shard.dynamics.parameters()) * 12 / 2**20
        print(
            f"{networks} networks: {took:.1f} ms a step, {1e3 * took / networks:.0f} us a network; private {private:.1f} MiB, shared {shared:.2f} MiB "
            f"with moments; largest resident so far {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MiB",
            flush=True,
        )
    if arguments.workers_too:
        with tempfile.TemporaryDirectory() as scratch:
            population = trained(Path(scratch) / "population", 256, data)
            by_workers: dict[int, list[float]] = {}
            for turn in range(2):
                for workers in (1, 2):
                    seconds = seconds_per_step(population, Path(scratch) / f"meta-{workers}-{turn}", workers, 200)
                    by_workers.setdefault(workers, []).append(seconds)
                    print(f"256 networks, {workers} workers: {1e3 * seconds:.1f} ms a step", flush=True)
            print(f"two workers against one: {min(by_workers[1]) / min(by_workers[2]):.2f} (fastest of two each)")


if __name__ == "__main__":
    main()
