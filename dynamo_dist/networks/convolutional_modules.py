"""Convolutional base networks as the plain torch modules that they are: how users take one home, and the truth of the tests.

Legend: B batch, Y X rows and columns of the image (small letters: of a stage), C output units, channels of a map where it is one.
"""

import functools
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from dynamo_dist.networks.architecture import Convolutional

# Blocks of every stage, by depth: 6n + 2 layers in three stages, and the 3-4-6-3 blocks of the ImageNet network.
RESNET_BLOCKS = {8: (1, 1, 1), 20: (3, 3, 3), 34: (3, 4, 6, 3)}


class ConvolutionNorm(nn.Module):
    """A convolution without bias (the normalisation has one) and batch normalisation."""

    def __init__(self, inputs: int, outputs: int, *, size: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x_BCyx: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.convolution(x_BCyx))
        return normed


class Block(nn.Module):
    """Basic block: relu(two convolutions + shortcut). The shortcut is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.first = ConvolutionNorm(inputs, outputs, stride=stride)
        self.second = ConvolutionNorm(outputs, outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else ConvolutionNorm(inputs, outputs, size=1, stride=stride)

    def forward(self, x_BCyx: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(x_BCyx).relu()) + self.shortcut(x_BCyx)
        return out.relu()


class ResNet(nn.Module):
    """CIFAR-style ResNet (He et al., arXiv 1512.03385, section 4.2), with projection shortcuts (their option B; they used A on CIFAR).

    `forward(images_BCYX)` returns the hidden trajectory, a list of the stage outputs (B, C, y, x) and the pooled features (B, C), and
    the logits (B, C).
    """

    def __init__(self, architecture: Convolutional) -> None:
        super().__init__()
        self.architecture = architecture
        width = architecture.width
        self.stem = ConvolutionNorm(architecture.channels, width)
        self.stages = nn.ModuleList()
        inputs = width
        for stage, blocks in enumerate(RESNET_BLOCKS[architecture.depth]):
            outputs = width * 2**stage
            first = Block(inputs, outputs, stride=1 if stage == 0 else 2)
            self.stages.append(nn.Sequential(first, *(Block(outputs, outputs, stride=1) for _ in range(blocks - 1))))
            inputs = outputs
        self.readout = nn.Linear(inputs, architecture.outputs)

    def forward(self, images_BCYX: Tensor) -> tuple[list[Tensor], Tensor]:
        x, hidden = self.stem(images_BCYX).relu(), []
        for stage in self.stages:
            x = stage(x)
            hidden.append(x)
        hidden.append(x.mean(dim=(2, 3)))
        return hidden, self.readout(hidden[-1])


def pool(x: Tensor) -> Tensor:
    """2x2 max pooling where the map has two rows and columns: 8x8 digits are one pixel after three."""
    return max_pool2d(x, 2) if min(x.shape[-2:]) >= 2 else x


class SmallCNN(nn.Module):
    """Three 3x3 convolutions of widths w, 2w, 4w with batch normalisation and relu, each followed by `pool`. `forward` as of `ResNet`."""

    def __init__(self, architecture: Convolutional) -> None:
        super().__init__()
        self.architecture = architecture
        widths = (architecture.channels, architecture.width, 2 * architecture.width, 4 * architecture.width)
        self.stages = nn.ModuleList(ConvolutionNorm(*pair) for pair in pairwise(widths))
        self.readout = nn.Linear(widths[-1], architecture.outputs)

    def forward(self, images_BCYX: Tensor) -> tuple[list[Tensor], Tensor]:
        x, hidden = images_BCYX, []
        for stage in self.stages:
            x = pool(stage(x).relu())
            hidden.append(x)
        hidden.append(x.mean(dim=(2, 3)))
        return hidden, self.readout(hidden[-1])


def plain_network(architecture: Convolutional) -> ResNet | SmallCNN:
    """A fresh network of this architecture, drawn from torch's global generator."""
    return ResNet(architecture) if architecture.kind == "resnet" else SmallCNN(architecture)


def empty_network(architecture: Convolutional) -> ResNet | SmallCNN:
    """One that has shapes and no numbers yet, and draws none: for `load_state_dict(..., assign=True)`."""
    with torch.device("meta"):
        return plain_network(architecture)


@functools.cache
def state_shapes(architecture: Convolutional) -> dict[str, torch.Size]:
    """Names and shapes of its state, without the step counters of the normalisation: with a fixed momentum nothing reads them."""
    state = empty_network(architecture).state_dict()
    return {name: tensor.shape for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
