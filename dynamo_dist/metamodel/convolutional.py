"""The shared half of a convolutional meta-model: F~, a residual network whose blocks read theta, and the readout G~.

Depth plays the role of time: the hidden trajectory is the outputs of the stages, then the pooled features. Normalisation is by groups
of channels of one image, because running statistics over networks of different theta are those of none of them.

Legend: M networks, B batch, N of the networks whose maps already differ (M, or 1: what no theta has reached is computed once), F
channels, K those of the first stage, D embedding dimensions, Y X rows and columns of the image (small letters: of a stage), C outputs.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from dynamo_dist.errors import InputError
from dynamo_dist.metamodel.config import MetaModelConfig
from dynamo_dist.networks.convolutional import channels_last_convolution

CONDITIONING = ("concat", "film")


def _groups(channels: int) -> int:
    """The largest divisor of the channels up to 8 that leaves no group of one channel.

    Its norm would subtract what theta adds: for K=8 and 32x32 images theta of order one then moves the middle of the first stage by
    0.03 of its size, and 0.3 with groups of two.
    """
    return max(groups for groups in range(1, 9) if channels % groups == 0 and (groups == 1 or channels > groups))


def _norm(x_BFyx: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Group normalisation in plain arithmetic, for `reference`."""
    groups = x_BFyx.unflatten(1, (norm.num_groups, -1))
    mean, var = groups.mean(dim=(2, 3, 4), keepdim=True), groups.var(dim=(2, 3, 4), keepdim=True, correction=0)
    x_BFyx = ((groups - mean) / (var + norm.eps).sqrt()).flatten(1, 2)
    return x_BFyx * norm.weight[:, None, None] + norm.bias[:, None, None]


class _Draw:
    """Initial parameters, drawn in float64, so that models of every precision start the same."""

    def __init__(self, generator: torch.Generator, dtype: torch.dtype) -> None:
        self.generator, self.dtype = generator, dtype

    def normal(self, *shape: int, scale: float) -> nn.Parameter:
        return nn.Parameter((torch.randn(shape, generator=self.generator, dtype=torch.float64) * scale).to(self.dtype))

    def convolution(self, outputs: int, inputs: int, size: int = 3) -> nn.Parameter:
        """Kaiming: inputs behind a relu keep their variance."""
        return self.normal(outputs, inputs, size, size, scale=(2 / (inputs * size * size)) ** 0.5)

    def norm(self, channels: int) -> nn.GroupNorm:
        return nn.GroupNorm(_groups(channels), channels, dtype=self.dtype)


class _Block(nn.Module):
    """Pre-activation block (He et al., arXiv 1603.05027): shortcut + second(relu(norm(first(a)))), a = relu(norm(x)). theta is
    concatenated to a, or scales and shifts norm(x). Where the shape changes, the shortcut is a 1x1 convolution of x.
    """

    # Against post-activation (with a norm behind the 1x1 convolution), on four ResNet8-8 of digits, K=16, theta concatenated, Adam, 600
    # steps: loss 0.264, 0.259 here and 0.270, 0.278 there (seeds 1, 2; learning rate 0.01), with three blocks a stage 0.301 and 0.355
    # (seed 0; 0.005); a step takes 0.84 of the time. From 0.002 to 0.02 this form is ahead, at 0.05 behind (0.279, 0.270).

    def __init__(self, inputs: int, outputs: int, *, stride: int, config: MetaModelConfig, draw: _Draw) -> None:
        super().__init__()
        self.stride, self.conditioning = stride, config.conditioning
        self.norm_first, self.norm_second = draw.norm(inputs), draw.norm(outputs)
        self.w_first, self.w_second = draw.convolution(outputs, inputs), draw.convolution(outputs, outputs)
        same = stride == 1 and inputs == outputs
        self.w_shortcut = None if same else draw.normal(outputs, inputs, 1, 1, scale=inputs**-0.5)
        # theta starts at 0 and is to move maps by their natural size: half of it per unit of theta, the sum of 3x3 entries.
        if self.conditioning == "concat":
            self.w_theta = draw.normal(outputs, config.dimensions, 3, 3, scale=0.5 / 3)
        else:
            self.w_scale = draw.normal(config.dimensions, inputs, scale=0.5)
            self.w_shift = draw.normal(config.dimensions, inputs, scale=0.5)

    def theta_map(self, theta_MD: Tensor, like: Tensor) -> Tensor:
        """What constant channels theta, zero outside of the image, add to `first` on maps like (.., y, x): (M, F, y', x').

        Linear in theta, so one convolution of one channel of ones serves all networks and dimensions.
        """
        ones = like.new_ones(1, 1, *like.shape[-2:])
        basis = functional.conv2d(ones, self.w_theta.flatten(0, 1)[:, None], stride=self.stride, padding=1)
        # Formed with the channels last, as the maps that it is added to.
        return torch.einsum("md,fdyx->myxf", theta_MD, basis[0].unflatten(0, self.w_theta.shape[:2])).permute(0, 3, 1, 2)

    def forward(self, x: Tensor, theta_MD: Tensor, batch: int) -> Tensor:
        """(N B, F, y, x) to (M B, F', y', x')."""
        a = self.norm_first(x)
        if self.conditioning == "film":
            scale, shift = 1 + theta_MD @ self.w_scale, theta_MD @ self.w_shift
            a = torch.addcmul(shift[:, None, :, None, None], a.unflatten(0, (-1, batch)), scale[:, None, :, None, None]).flatten(0, 1)
        y = channels_last_convolution(a.relu_(), self.w_first, self.stride)
        if self.conditioning == "concat":
            y = (y.unflatten(0, (-1, batch)) + self.theta_map(theta_MD, x)[:, None]).flatten(0, 1)
        y = channels_last_convolution(self.norm_second(y).relu_(), self.w_second)
        shortcut = x if self.w_shortcut is None else channels_last_convolution(x, self.w_shortcut, self.stride)
        new: Tensor = (y.unflatten(0, (-1, batch)) + shortcut.unflatten(0, (-1, batch))).flatten(0, 1)
        return new

    def reference(self, x_BFyx: Tensor, theta_D: Tensor) -> Tensor:
        """One network, as the class says it."""
        channels = theta_D[:, None, None].expand(len(x_BFyx), -1, *x_BFyx.shape[2:])
        a = _norm(x_BFyx, self.norm_first)
        first: Tensor = self.w_first
        if self.conditioning == "film":
            a = a * (1 + theta_D @ self.w_scale)[:, None, None] + (theta_D @ self.w_shift)[:, None, None]
        a = functional.relu(a)
        if self.conditioning == "concat":
            a, first = torch.cat([a, channels], dim=1), torch.cat([first, self.w_theta], dim=1)
        y = functional.conv2d(a, first, stride=self.stride, padding=1)
        y = functional.conv2d(functional.relu(_norm(y, self.norm_second)), self.w_second, padding=1)
        return y + (x_BFyx if self.w_shortcut is None else functional.conv2d(x_BFyx, self.w_shortcut, stride=self.stride))


class ConvolutionalDynamics(nn.Module):
    """F~ and G~: a 3x3 stem without theta, three stages of `config.blocks` residual blocks that read it (widths K, 2K, 4K; the second
    and third halve rows and columns, rounded up), norm, relu, average pooling, and a linear readout without theta.

    All parameters are float64 draws of `generator`, cast to `dtype`. Raises `InputError` where `config.conditioning` is neither
    concat (theta as constant channels of the input of a block's first convolution) nor film (theta scales and shifts the channels).
    """

    def __init__(self, *, channels: int, outputs: int, config: MetaModelConfig, generator: torch.Generator, dtype: torch.dtype) -> None:
        super().__init__()
        if config.conditioning not in CONDITIONING:
            raise InputError(
                f"MetaModelConfig.conditioning={config.conditioning!r}: a meta-model of images offers {' and '.join(CONDITIONING)}; set one of them"
            )
        draw = _Draw(generator, dtype)
        width, self.dimensions = config.hidden, config.dimensions
        # Channels of the stages, then of the pooled features.
        self.stages = (width, 2 * width, 4 * width, 4 * width)
        self.w_stem = draw.convolution(width, channels)
        self.blocks = nn.ModuleList()
        inputs = width
        for stage, own in enumerate(self.stages[:3]):
            blocks = nn.ModuleList()
            for block in range(config.blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(_Block(inputs, own, stride=stride, config=config, draw=draw))
                inputs = own
            self.blocks.append(blocks)
        self.norm = draw.norm(inputs)
        self.w_readout = draw.normal(inputs, outputs, scale=inputs**-0.5)
        self.b_readout = nn.Parameter(torch.zeros(outputs, dtype=dtype))

    def forward(
        self,
        theta_MD: Tensor,
        images_B: Tensor,
        lengths_B: None = None,
        *,
        every_step: bool = False,
        products: torch.dtype | None = None,
    ) -> tuple[list[Tensor], Tensor]:
        """Images (B, channels, Y, X), the same for all networks, of any size: the hidden trajectory and the outputs (M, B, C).

        The trajectory: stages (M, B, K, Y, X), (M, B, 2K, Y/2, X/2), (M, B, 4K, Y/4, X/4), sides rounded up and channels last in memory,
        and pooled features (M, B, 4K). Images and theta have the dtype of the parameters. `products`: a lower precision for the
        convolutions, for example bfloat16. Images have no lengths and no steps; those arguments are there for what sequences need.
        """
        assert lengths_B is None and not every_step, "images have no steps"
        with torch.autocast(images_B.device.type, products or torch.bfloat16, enabled=products is not None):
            stages, outputs = self._run(theta_MD, images_B)
        return [stage.to(images_B.dtype) for stage in stages], outputs.to(images_B.dtype)

    def _run(self, theta_MD: Tensor, images_B: Tensor) -> tuple[list[Tensor], Tensor]:
        batch, hidden = len(images_B), []
        # Channels last: the stages leave as (positions, channels), which the state maps multiply, and a training step on a CPU takes 0.92
        # (concat) and 0.98 (film) of the time.
        x = channels_last_convolution(images_B, self.w_stem)
        for stage in self.blocks:
            for block in stage.children():
                x = block(x, theta_MD, batch)
            hidden.append(x.unflatten(0, (-1, batch)))
        pooled = self.norm(x).relu_().mean(dim=(2, 3)).unflatten(0, (-1, batch))
        return [*hidden, pooled], pooled @ self.w_readout + self.b_readout

    def reference(self, theta_D: Tensor, images_B: Tensor) -> tuple[list[Tensor], Tensor]:
        """One network, written as it is defined, with theta repeated over all positions: what `forward` must equal, without axis M."""
        x, hidden = functional.conv2d(images_B, self.w_stem, padding=1), []
        for stage in self.blocks:
            for block in stage.children():
                assert isinstance(block, _Block)
                x = block.reference(x, theta_D)
            hidden.append(x)
        hidden.append(functional.relu(_norm(x, self.norm)).mean(dim=(2, 3)))
        return hidden, functional.linear(hidden[-1], self.w_readout.T, self.b_readout)
