"""Convolutional networks, stacked: G networks are one network of G times the channels whose convolutions have G groups.

Legend: M networks, G of them at once, B batch, Y X rows and columns of the image (small letters: of a stage), C output units,
channels of a map where it is one.
"""

import torch
from torch import Tensor
from torch.nn import functional

from dynamo_dist.networks.architecture import Convolutional
from dynamo_dist.networks.convolutional_modules import RESNET_BLOCKS, ResNet, SmallCNN, empty_network, pool, state_shapes
from dynamo_dist.networks.stacked import Stacked

# Bytes of the widest map of one pass, all its networks together, on a CPU. A training step on one core against the loop of plain
# modules, times faster by networks in one pass (loop-last: that loop in channels_last; torch 2.13.0+cpu, AMD EPYC with AVX2;
# python -m cluster.experiments.resnet_stack):
#
#     resnet8-8   1x8x8   M=16 B=32   64 KB each | loop-last 1.21 | 1 1.37 | 2 2.13 | 4 2.87 | 8 3.17 | 16 3.58
#     cnn3-8      1x8x8   M=16 B=32   64 KB      | loop-last 1.19 | 1 1.26 | 2 2.15 | 4 3.07 | 8 3.71 | 16 4.09
#     resnet8-16  1x8x8   M=16 B=32  128 KB      | loop-last 1.08 | 1 1.26 | 2 1.64 | 4 1.87 | 8 1.98 | 16 1.94
#     resnet8-16  1x8x8   M=16 B=64  256 KB      | loop-last 1.27 | 1 1.35 | 2 1.40 | 4 1.67 | 8 1.51 | 16 1.47
#     resnet8-8   3x32x32 M=16 B=32    1 MB      | loop-last 1.30 | 1 1.40 | 2 1.37 | 4 1.14 | 8 1.08 | 16 1.11
#     resnet8-16  3x32x32 M=4  B=64    4 MB      | loop-last 1.12 | 1 1.20 | 2 0.91 | 4 0.88
#
# Small maps gain from fewer calls; of large ones a pass over many leaves the cache before the next layer reads it.
PASS_BYTES = 2**21


def convolution_method(architecture: Convolutional, images: Tensor, networks: int) -> int:
    """How many of M networks go through one pass, as groups of one convolution: on a CPU as many as `PASS_BYTES` hold, at least
    one (then a pass is the plain network, and the stack a loop over networks); elsewhere all.

    `images`: (M or 1, B, channels, Y, X); only the shape and the device are read.
    """
    if images.device.type != "cpu":
        return networks
    _, batch, _, rows, columns = images.shape
    return min(networks, max(1, PASS_BYTES // (4 * batch * architecture.width * rows * columns)))


def channels_last_convolution(x: Tensor, w: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
    """A convolution in the layout channels_last that keeps the size of maps but for its stride."""
    if w.shape[-1] == 1 and stride > 1:
        # It reads every other pixel. Taken at its word, torch 2.13's kernel for AVX2 (oneDNN, `jit_1x1`) writes past the end of its workspace
        # in the gradient by fewer than eight channels, and the process dies later of a corrupted heap.
        x, stride = x[:, :, ::stride, ::stride], 1
    x = x.contiguous(memory_format=torch.channels_last)
    return functional.conv2d(x, w, stride=stride, padding=w.shape[-1] // 2, groups=groups)


class Fold:
    """G networks folded into the channels: maps are (B, G * channels, y, x), tensors (G, ...)."""

    def __init__(self, architecture: Convolutional, tensors: dict[str, Tensor], *, training: bool) -> None:
        # In training the running statistics in `tensors` are zero and take those of the batch.
        self.architecture, self.tensors, self.training = architecture, tensors, training

    def convolution(self, x: Tensor, w: Tensor, stride: int) -> Tensor:
        # Images that all networks share are not repeated: one convolution with all filters, one group.
        groups = x.shape[1] // w.shape[2]
        if x.device.type == "cpu":
            # A training step is 1.0-1.3 times faster than in the usual layout, batch normalisation alone twice. (Unfold and one matrix
            # product per network instead of groups: 0.3-0.5 of this speed. Both are ways of the benchmark.)
            return channels_last_convolution(x, w.flatten(0, 1), stride, groups)
        return functional.conv2d(x, w.flatten(0, 1), stride=stride, padding=w.shape[-1] // 2, groups=groups)

    def convolution_norm(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        p = self.tensors
        w = p[f"{name}.convolution.weight"]
        x = self.convolution(x, w, stride)
        mean, var, weight, bias = (p[f"{name}.norm.{part}"].flatten() for part in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, mean, var, weight, bias, self.training, momentum=1.0)

    def block(self, name: str, x: Tensor, stride: int) -> Tensor:
        y = self.convolution_norm(f"{name}.first", x, stride).relu_()
        y = self.convolution_norm(f"{name}.second", y)
        projected = f"{name}.shortcut.convolution.weight" in self.tensors
        return y.add_(self.convolution_norm(f"{name}.shortcut", x, stride) if projected else x).relu_()

    def stages(self, x: Tensor) -> list[Tensor]:
        """The outputs of the stages, (B, G * channels, y, x) each."""
        stages = []
        if self.architecture.kind == "cnn":
            for stage in range(3):
                x = pool(self.convolution_norm(f"stages.{stage}", x).relu_())
                stages.append(x)
            return stages
        x = self.convolution_norm("stem", x).relu_()
        for stage, blocks in enumerate(RESNET_BLOCKS[self.architecture.depth]):
            for block in range(blocks):
                x = self.block(f"stages.{stage}.{block}", x, 2 if stage > 0 and block == 0 else 1)
            stages.append(x)
        return stages

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Stage outputs (G, B, channels, y, x), pooled features (G, B, channels), outputs (G, B, C)."""
        w, bias = self.tensors["readout.weight"], self.tensors["readout.bias"]
        networks = len(w)
        hidden = [x.unflatten(1, (networks, -1)).transpose(0, 1) for x in self.stages(images.transpose(0, 1).flatten(1, 2))]
        hidden.append(hidden[-1].mean(dim=(3, 4)))
        return [*hidden, torch.baddbmm(bias[:, None], hidden[-1], w.transpose(1, 2))]


class StackedConvolutional(Stacked):
    """M ResNets or small CNNs. Tensors have the names of the plain module's state, and a leading axis M.

    Training uses the statistics of each network's own batch; `update_buffers` then moves the running ones.
    """

    architecture: Convolutional
    BUFFERS = frozenset({"running_mean", "running_var"})
    # Of the running statistics, torch's default.
    MOMENTUM = 0.1
    # How a pass is computed and how many networks it takes, None: as `convolution_method` says. Tests and the benchmark set others.
    pass_of: type[Fold] = Fold
    at_once: int | None = None

    @classmethod
    def initial_tensors(cls, architecture: Convolutional, generator: torch.Generator) -> dict[str, Tensor]:
        tensors, shapes = {}, state_shapes(architecture)
        for name, shape in shapes.items():
            if ".norm." in name:
                tensors[name] = torch.ones(shape) if name.endswith(("weight", "running_var")) else torch.zeros(shape)
            else:  # torch's Kaiming uniform with a = sqrt(5): the bound is the inverse root of the inputs of one unit
                inputs = shapes[name.replace("bias", "weight")][1:].numel()
                tensors[name] = torch.empty(shape).uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator)
        return tensors

    def __call__(self, images: Tensor, lengths_MB: Tensor | None = None, *, training: bool = False) -> tuple[list[Tensor], Tensor]:
        """Hidden trajectory: stage outputs (M, B, channels, y, x), then pooled features (M, B, channels); outputs (M, B, C).

        `images`: (M, B, channels, Y, X), or (1, B, ...), which feeds all networks the same. `training` normalises with the statistics
        of the batch and leaves them in `self.statistics`, mean and unbiased variance as `buffers`, for `update_buffers`.
        """
        tensors = self.tensors
        if training:
            self.statistics = {name: t.new_zeros(t.shape) for name, t in self.buffers.items()}
            tensors |= self.statistics
        at_once = self.at_once or convolution_method(self.architecture, images, self.count)
        images_of = [images] * -(-self.count // at_once) if len(images) == 1 else images.split(at_once)
        parts = {name: t.split(at_once) for name, t in tensors.items()}
        results = [
            self.pass_of(self.architecture, {name: part[k] for name, part in parts.items()}, training=training)(images_k)
            for k, images_k in enumerate(images_of)
        ]
        *hidden, outputs = results[0] if len(results) == 1 else (torch.cat(same) for same in zip(*results, strict=True))
        return hidden, outputs

    @torch.no_grad()
    def update_buffers(self, active_M: Tensor) -> None:
        """Move the running statistics of the networks where `active_M` (bool) towards those of the last batch trained on."""
        for name, batch_MC in self.statistics.items():
            running_MC = self.buffers[name]
            # Selected before it is scaled: 0 * NaN is NaN.
            running_MC.lerp_(torch.where(active_M[:, None], batch_MC, running_MC), self.MOMENTUM)

    def network(self, position: int) -> ResNet | SmallCNN:
        tensors = {name: tensor[position].detach().clone() for name, tensor in self.tensors.items()}
        module, device = empty_network(self.architecture), tensors["readout.bias"].device
        counters = {name: torch.zeros_like(b, device=device) for name, b in module.named_buffers() if name not in tensors}
        module.load_state_dict(tensors | counters, assign=True)
        return module.eval()
