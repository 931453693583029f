"""What a stack of recurrent networks gains over a loop of torch's own layers, on one CPU core.

    python -m cluster.experiments.recurrent_stack [--quick]

One row per cell and shape (M networks, B sequences, T steps, I features, H hidden units): a training step (forward, backward, Adam) of
the stack in ms, how many times as long the loop of `torch.nn` layers with `torch.optim.Adam` takes (foreach or not, whichever is faster),
and which fraction of the stack's time `torch.bmm` alone would need for the same floating-point work. The ways of a row are taken in
turn in one run and compared by their medians, so that a slow moment of the machine hits all.
"""

import argparse

import torch
from torch import Tensor, nn

from cluster.experiments.timing import Step, measure, processor
from dynamo_dist.allocator import keep_memory
from dynamo_dist.networks import Recurrent, stack_class
from dynamo_dist.networks.architecture import GATES
from dynamo_dist.networks.modules import SequenceNetwork
from dynamo_dist.population.training import StackedAdam, clip_per_network

# cell, M, B, T, I, H
SHAPES = [
    ("gru", 256, 32, 32, 16, 16),
    ("gru", 64, 32, 50, 32, 64),
    ("gru", 16, 64, 50, 64, 256),
    ("gru", 4, 32, 50, 32, 64),
    ("gru", 1, 32, 50, 32, 64),
    ("gru", 8, 32, 160, 32, 48),
    ("gru", 4, 64, 50, 64, 512),
    ("lstm", 64, 32, 50, 32, 64),
    ("lstm", 16, 64, 50, 64, 256),
    ("rnn", 64, 32, 50, 32, 64),
    ("rnn", 16, 64, 50, 64, 256),
    ("ugrnn", 64, 32, 50, 32, 64),
]


def stack_step(architecture: Recurrent, x_MBTI: Tensor) -> Step:
    stack = stack_class(architecture).initial(architecture, range(len(x_MBTI)))
    parameters = [p.requires_grad_() for p in stack.parameters.values()]
    optimiser = StackedAdam(parameters)
    rate_M, clip_M = torch.full((stack.count,), 1e-3, dtype=torch.float64), torch.ones(stack.count)
    lengths_MB = torch.full(x_MBTI.shape[:2], x_MBTI.shape[2])

    def step() -> None:
        for p in parameters:
            p.grad = None
        _, outputs_MBC = stack(x_MBTI, lengths_MB, training=True)
        outputs_MBC.square().mean(dim=(1, 2)).sum().backward()
        clip_per_network(parameters, clip_M)
        optimiser.step(rate_M)

    return step


def loop_step(architecture: Recurrent, x_MBTI: Tensor, *, foreach: bool) -> Step:
    modules = [SequenceNetwork(architecture) for _ in x_MBTI]
    optimisers = [torch.optim.Adam(module.parameters(), foreach=foreach) for module in modules]

    def step() -> None:
        for module, optimiser, x_BTI in zip(modules, optimisers, x_MBTI, strict=True):
            optimiser.zero_grad()
            module(x_BTI)[1].square().mean().backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0, foreach=foreach)
            optimiser.step()

    return step


def product_step(architecture: Recurrent, x_MBTI: Tensor) -> Step:
    """The matrix products of a training step alone: per time step two with the recurrent weights, then the gradients of both weights
    and the input part over all rows."""
    networks, batch, time, features = x_MBTI.shape
    hidden = architecture.hidden
    gates, rows = GATES[architecture.cell] * hidden, time * batch
    h, w, g = torch.randn(networks, batch, hidden), torch.randn(networks, hidden, gates), torch.randn(networks, batch, gates)
    w_T, w_input = w.transpose(1, 2).contiguous(), torch.randn(networks, features, gates)
    h_rows, g_rows, x_rows = (torch.randn(networks, rows, width) for width in (hidden, gates, features))

    def step() -> None:
        torch.bmm(x_rows, w_input)
        for _ in range(time):
            torch.bmm(h, w)
            torch.bmm(g, w_T)
        torch.bmm(h_rows.transpose(1, 2), g_rows)
        torch.bmm(x_rows.transpose(1, 2), g_rows)

    return step


def row(cell: str, networks: int, batch: int, time: int, features: int, hidden: int, seconds: float) -> str:
    architecture = Recurrent(cell=cell, hidden=hidden, features=features, outputs=2)
    x_MBTI = torch.randn(networks, batch, time, features, generator=torch.Generator().manual_seed(0))
    times = measure(
        {
            "stack": stack_step(architecture, x_MBTI),
            "loop": loop_step(architecture, x_MBTI, foreach=False),
            "loop-foreach": loop_step(architecture, x_MBTI, foreach=True),
            "products": product_step(architecture, x_MBTI),
        },
        seconds,
    )
    stack, loop = times["stack"], min(times["loop"], times["loop-foreach"])
    shape = f"{cell:<6} M={networks:<3} B={batch:<2} T={time:<3} I={features:<2} H={hidden:<3}"
    return f"{shape} stack {stack:6.0f} ms | loop {loop / stack:5.2f} | products alone {times['products'] / stack:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cluster.experiments.recurrent_stack", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the first three shapes, about half a minute")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    keep_memory()
    print(f"torch {torch.__version__}, {processor()}, one thread; times as multiples of the stack's")
    for shape in SHAPES[:3] if quick else SHAPES:
        print(row(*shape, seconds=10), flush=True)


if __name__ == "__main__":
    main()
