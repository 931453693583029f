"""What a stack of convolutional networks gains over a loop of plain modules, on one CPU core.

    python -m cluster.experiments.resnet_stack [--quick]

One row per shape: a training step (forward, cross entropy, backward, Adam) of M networks of batch B, in ms for the loop of plain
modules with `torch.optim.Adam` (foreach or not, whichever is faster), then how many times faster every other way is. All ways of
a row are taken in turn in one run and compared by their medians, so that a slow moment of the machine hits all.

    loop-last   the same loop, modules and images in channels_last
    1, 2, 4, .. the stack, as many networks in one pass as that
    plain       the stack, all networks in one pass, maps in the usual layout
    unfold      the stack, all networks in one pass, every convolution one matrix product per network over copied neighbourhoods
    chosen      the stack as the library runs it, with the number of networks in one pass
"""

import argparse
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cluster.experiments.timing import Step, measure, processor
from dynamo_dist.allocator import keep_memory
from dynamo_dist.networks import Convolutional, StackedConvolutional
from dynamo_dist.networks.convolutional import Fold, convolution_method
from dynamo_dist.population.training import StackedAdam

# kind, depth, width, image (channels, Y, X), M, B
SHAPES = [
    ("resnet", 8, 8, (1, 8, 8), 4, 32),
    ("resnet", 8, 8, (1, 8, 8), 16, 32),
    ("resnet", 8, 8, (1, 8, 8), 32, 32),
    ("resnet", 8, 8, (1, 8, 8), 16, 64),
    ("resnet", 8, 16, (1, 8, 8), 4, 32),
    ("resnet", 8, 16, (1, 8, 8), 16, 32),
    ("resnet", 8, 16, (1, 8, 8), 16, 64),
    ("cnn", 3, 8, (1, 8, 8), 16, 32),
    ("cnn", 3, 16, (1, 8, 8), 16, 64),
    ("resnet", 8, 8, (3, 32, 32), 4, 32),
    ("resnet", 8, 8, (3, 32, 32), 16, 32),
    ("resnet", 8, 16, (3, 32, 32), 4, 64),
    ("cnn", 3, 16, (3, 32, 32), 8, 32),
    ("resnet", 20, 16, (3, 32, 32), 4, 32),
]
QUICK = [SHAPES[1], SHAPES[7], SHAPES[9]]


class Plain(Fold):
    """Maps in the usual layout, (B, G * channels, y, x)."""

    def convolution(self, x: Tensor, w: Tensor, stride: int) -> Tensor:
        return functional.conv2d(x, w.flatten(0, 1), stride=stride, padding=w.shape[-1] // 2, groups=x.shape[1] // w.shape[2])


def neighbourhoods(x: Tensor, size: int, stride: int) -> Tensor:
    """(G, channels * size^2, B * y * x) of maps (G, channels, B, y, x)."""
    if size == 1:
        return x[..., ::stride, ::stride].flatten(2)
    padded = functional.pad(x, (1, 1, 1, 1))
    windows = padded.unfold(3, 3, stride).unfold(4, 3, stride)
    return windows.permute(0, 1, 5, 6, 2, 3, 4).reshape(x.shape[0], 9 * x.shape[1], -1)


class Product(torch.autograd.Function):
    """A convolution as one matrix product per network. The gradient of the maps is a convolution too, with the filters turned."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, stride: int) -> Tensor:
        columns = neighbourhoods(x, w.shape[-1], stride)
        ctx.save_for_backward(columns, w)
        ctx.shape, ctx.stride = x.shape, stride
        size = [(n - 1) // stride + 1 for n in x.shape[3:]]
        return torch.bmm(w.flatten(2), columns).view(*w.shape[:2], x.shape[2], *size)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:
        columns, w = ctx.saved_tensors
        d_w = torch.bmm(gradient.flatten(2), columns.transpose(1, 2)).view_as(w)
        if not ctx.needs_input_grad[0]:
            return None, d_w, None
        spread = gradient.new_zeros(*gradient.shape[:3], *ctx.shape[3:])
        spread[..., :: ctx.stride, :: ctx.stride] = gradient
        turned = w.flip(3, 4).transpose(1, 2).flatten(2)
        return torch.bmm(turned, neighbourhoods(spread, w.shape[-1], 1)).view(ctx.shape), d_w, None


class Unfold(Fold):
    """Maps (G * channels, B, y, x)."""

    def convolution_norm(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        p = self.tensors
        w = p[f"{name}.convolution.weight"]
        y = Product.apply(x.unflatten(0, (len(w), -1)), w, stride)  # type: ignore[no-untyped-call]  # torch's own
        mean, var, weight, bias = (p[f"{name}.norm.{part}"].flatten() for part in ("running_mean", "running_var", "weight", "bias"))
        rows = y.reshape(1, mean.numel(), -1)
        return functional.batch_norm(rows, mean, var, weight, bias, self.training, momentum=1.0).view(-1, *y.shape[2:])

    def stages(self, x: Tensor) -> list[Tensor]:
        return [stage.transpose(0, 1) for stage in super().stages(x.transpose(0, 1))]


def loop_step(architecture: Convolutional, images: Tensor, labels: Tensor, *, foreach: bool, last: bool = False) -> Step:
    """A step of plain modules, one after the other; `foreach` as of `torch.optim.Adam`."""
    stack = StackedConvolutional.initial(architecture, range(len(images)))
    memory_format = torch.channels_last if last else torch.contiguous_format
    networks = [stack.network(m).train().to(memory_format=memory_format) for m in range(stack.count)]  # type: ignore[call-overload]  # not in torch's stubs
    batches = [x.contiguous(memory_format=memory_format) for x in images]
    optimisers = [torch.optim.Adam(network.parameters(), foreach=foreach) for network in networks]

    def step() -> None:
        for network, optimiser, x, y in zip(networks, optimisers, batches, labels, strict=True):
            optimiser.zero_grad()
            functional.cross_entropy(network(x)[1], y).backward()
            optimiser.step()

    return step


def stack_step(architecture: Convolutional, images: Tensor, labels: Tensor, *, at_once: int | None, kind: type[Fold] = Fold) -> Step:
    stack = StackedConvolutional.initial(architecture, range(len(images)))
    stack.at_once, stack.pass_of = at_once, kind
    parameters = [p.requires_grad_() for p in stack.parameters.values()]
    optimiser = StackedAdam(parameters)
    active_M, rate_M = torch.ones(stack.count, dtype=torch.bool), torch.full((stack.count,), 1e-3)

    def step() -> None:
        for p in parameters:
            p.grad = None
        outputs_MBC = stack(images, None, training=True)[1]
        functional.cross_entropy(outputs_MBC.flatten(0, 1), labels.flatten(), reduction="sum").div(labels.shape[1]).backward()
        optimiser.step(rate_M)
        stack.update_buffers(active_M)

    return step


def row(kind: str, depth: int, width: int, image: tuple[int, int, int], networks: int, batch: int, seconds: float) -> str:
    architecture = Convolutional(kind=kind, depth=depth, width=width, channels=image[0], outputs=10)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(networks, batch, *image, generator=generator)
    labels = torch.randint(0, 10, (networks, batch), generator=generator)
    steps = {
        "loop": loop_step(architecture, images, labels, foreach=False),
        "loop-foreach": loop_step(architecture, images, labels, foreach=True),
        "loop-last": loop_step(architecture, images, labels, foreach=True, last=True),
        **{str(g): stack_step(architecture, images, labels, at_once=g) for g in (1, 2, 4, 8, 16, 32) if g <= networks},
        "plain": stack_step(architecture, images, labels, at_once=networks, kind=Plain),
        "unfold": stack_step(architecture, images, labels, at_once=networks, kind=Unfold),
        "chosen": stack_step(architecture, images, labels, at_once=None),
    }
    times = measure(steps, seconds)
    loop = min(times.pop("loop"), times.pop("loop-foreach"))
    chosen = convolution_method(architecture, images, networks)
    ratios = [f"{name} {loop / value:.2f}" for name, value in times.items()]
    shape = f"{architecture.label:<12}{'x'.join(map(str, image)):<8} M={networks:<2} B={batch:<2}"
    return f"{shape} loop {loop:6.1f} ms | {' | '.join(ratios)} ({chosen} at once)"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cluster.experiments.resnet_stack", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="three shapes, about half a minute")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    keep_memory()
    print(f"torch {torch.__version__}, {processor()}, one thread; ratios to the loop, above 1 is faster")
    for shape in QUICK if quick else SHAPES:
        print(row(*shape, seconds=5 if quick else 14), flush=True)


if __name__ == "__main__":
    main()
