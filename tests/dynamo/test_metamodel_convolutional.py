"""The convolutional meta-model against one network at a time with theta written out as channels, float64."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional

from dynamo_dist import InputError, MetaModelConfig
from dynamo_dist.metamodel import convolutional
from dynamo_dist.metamodel.convolutional import ConvolutionalDynamics

CONFIG = MetaModelConfig(dimensions=3, hidden=8)
CONDITIONING = pytest.mark.parametrize("conditioning", ["concat", "film"])
SHAPES = pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 7)], ids=str)


def make(conditioning="concat", *, channels=1, dtype=torch.float64, trained=True, **fields):
    """A meta-model, as if trained: with norms and biases that are not 1 and 0."""
    config = dataclasses.replace(CONFIG, **{"conditioning": conditioning} | fields)
    dynamics = ConvolutionalDynamics(channels=channels, outputs=4, config=config, generator=torch.Generator().manual_seed(3), dtype=dtype)
    if trained:
        generator = torch.Generator().manual_seed(4)
        with torch.no_grad():
            for p in dynamics.parameters():
                if p.dim() == 1:
                    p.add_(torch.rand(p.shape, generator=generator, dtype=torch.float64))
    return dynamics


def inputs(shape=(1, 8, 8), networks=3, batch=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(networks, CONFIG.dimensions, generator=generator, dtype=torch.float64)
    return theta.to(dtype), torch.randn(batch, *shape, generator=generator, dtype=torch.float64).to(dtype)


def total(hidden, outputs):
    """A number that depends on every stage and on the outputs, not symmetric in anything."""
    parts = [*hidden, outputs]
    return sum((part * torch.linspace(-1, 1, part.numel(), dtype=part.dtype).view(part.shape)).sum() for part in parts)


@CONDITIONING
@SHAPES
@pytest.mark.parametrize("blocks", [1, 2])
def test_all_networks_at_once_are_the_definition_one_at_a_time(conditioning, shape, blocks):
    dynamics = make(conditioning, channels=shape[0], blocks=blocks)
    theta, images = inputs(shape)
    hidden, outputs = dynamics(theta, images)
    _, rows, columns = shape
    halves = [(rows, columns), (-(-rows // 2), -(-columns // 2)), (-(-rows // 4), -(-columns // 4))]
    assert [h.shape for h in hidden] == [(3, 5, k, *size) for k, size in zip((8, 16, 32), halves, strict=True)] + [(3, 5, 32)]
    assert tuple(h.shape[2] for h in hidden) == dynamics.stages
    assert outputs.shape == (3, 5, 4)
    for m in range(3):
        hidden_m, outputs_m = dynamics.reference(theta[m], images)
        for ours, theirs in zip([*hidden, outputs], [*hidden_m, outputs_m], strict=True):
            assert torch.allclose(ours[m], theirs, rtol=0, atol=1e-12)


@CONDITIONING
@SHAPES
def test_gradients_are_those_of_the_definition(conditioning, shape):
    dynamics = make(conditioning, channels=shape[0])
    theta, images = inputs(shape)
    wanted = [theta.requires_grad_(), *dynamics.parameters()]
    ours = torch.autograd.grad(total(*dynamics(theta, images)), wanted)
    single = [dynamics.reference(theta_D, images) for theta_D in theta]
    stacked = [torch.stack(same) for same in zip(*(hidden for hidden, _ in single), strict=True)]
    theirs = torch.autograd.grad(total(stacked, torch.stack([outputs for _, outputs in single])), wanted)
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).norm() <= 1e-12 * b.norm()


@CONDITIONING
def test_gradients_are_finite_differences(conditioning):
    dynamics = make(conditioning, hidden=4)
    theta, images = inputs((1, 5, 6), networks=2, batch=2)
    block, name = dynamics.blocks[1][0], "w_theta" if conditioning == "concat" else "w_scale"
    weight = getattr(block, name).detach()

    def loss(theta, weight):
        delattr(block, name)
        setattr(block, name, weight)
        return total(*dynamics(theta, images))

    assert torch.autograd.gradcheck(loss, (theta.requires_grad_(), weight.requires_grad_()))


def test_the_definition_is_torchs_own_layers():
    """`reference` itself: one block in the words of torch.nn."""
    dynamics = make()
    theta, images = inputs()
    block = dynamics.blocks[0][0]
    first = nn.Conv2d(8 + 3, 8, 3, padding=1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        first.weight.copy_(torch.cat([block.w_first, block.w_theta], dim=1))
        x = functional.conv2d(images, dynamics.w_stem, padding=1)
        constant = theta[1].view(1, 3, 1, 1).expand(5, 3, 8, 8)
        y = first(torch.cat([block.norm_first(x).relu(), constant], dim=1))
        expected = x + functional.conv2d(block.norm_second(y).relu(), block.w_second, padding=1)
        assert torch.allclose(dynamics.reference(theta[1], images)[0][0], expected, rtol=0, atol=1e-12)


@CONDITIONING
def test_theta_learns_from_the_first_step(conditioning):
    dynamics = make(conditioning, trained=False)
    _, images = inputs()
    for stage in range(4):
        theta = torch.zeros(3, CONFIG.dimensions, dtype=torch.float64, requires_grad=True)
        own = dynamics(theta, images)[0][stage]
        (gradient,) = torch.autograd.grad(((own / own.detach().std()) ** 3).mean(), theta)
        assert (gradient.abs() > 1e-4).all()


@CONDITIONING
@pytest.mark.parametrize("hidden", [4, 8, 16])
def test_theta_acts_far_from_the_border(conditioning, hidden):
    """A norm of single channels subtracts what constant channels add, and all that is left is at the border."""
    dynamics = make(conditioning, trained=False, hidden=hidden)
    theta, images = inputs((1, 32, 32), networks=6)
    with torch.no_grad():
        own, plain = (dynamics(t, images)[0][0][..., 14:18, 14:18] for t in (theta, torch.zeros_like(theta)))
    assert (own - plain).std() > 0.1 * plain.std()


@CONDITIONING
def test_theta_selects_the_network_and_does_not_blow_up(conditioning):
    dynamics = make(conditioning, trained=False, blocks=3)
    theta, images = inputs(networks=6)
    with torch.no_grad():
        hidden, outputs = dynamics(theta, images)
        at_zero, _ = dynamics(torch.zeros_like(theta[:1]), images)
    for own, plain in zip(hidden, at_zero, strict=True):
        # Theta of order one changes maps by less than an order of magnitude and by more than a tenth.
        assert own.std() < 3 * plain.std()
        assert (own - plain).std() > 0.1 * plain.std()
    assert all((outputs[a] - outputs[b]).abs().max() > 1e-2 for a in range(6) for b in range(a))


@CONDITIONING
def test_networks_do_not_see_each_other(conditioning):
    dynamics = make(conditioning)
    theta, images = inputs()
    with torch.no_grad():
        hidden, outputs = dynamics(theta, images)
        for m in range(3):
            alone, outputs_m = dynamics(theta[m : m + 1], images)
            for ours, theirs in zip([*hidden, outputs], [*alone, outputs_m], strict=True):
                assert torch.allclose(ours[m], theirs[0], rtol=0, atol=1e-12)
            # Nor do images: nothing is normalised over the batch.
            assert torch.allclose(dynamics(theta, images[m : m + 1])[1], outputs[:, m : m + 1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("conditioning, shared", [("concat", 2), ("film", 1)])
def test_what_theta_has_not_reached_is_computed_once(monkeypatch, conditioning, shared):
    images_of = []
    convolution = convolutional.channels_last_convolution

    def recorded(x, *args):
        images_of.append(len(x))
        return convolution(x, *args)

    monkeypatch.setattr(convolutional, "channels_last_convolution", recorded)
    theta, images = inputs()
    make(conditioning)(theta, images)
    # The stem, and with concatenation the part of the first block's first convolution that reads the images.
    assert images_of[:shared] == [5] * shared and set(images_of[shared:]) == {15}


@CONDITIONING
def test_models_of_both_precisions_start_the_same(conditioning):
    single, double = make(conditioning, dtype=torch.float32, trained=False), make(conditioning, trained=False)
    for (name, a), (same, b) in zip(single.named_parameters(), double.named_parameters(), strict=True):
        assert name == same and a.dtype == torch.float32 and torch.equal(a, b.float())
    theta, images = inputs()
    a, b = single(theta.float(), images.float())[1], double(theta, images)[1]
    assert torch.allclose(a.double(), b, rtol=0, atol=1e-4)


def test_the_generator_alone_decides_where_it_starts():
    torch.manual_seed(0)
    one = make(trained=False)
    torch.manual_seed(1)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), make(trained=False).parameters(), strict=True))


@CONDITIONING
def test_the_network_at_one_theta_exports(conditioning):
    theta, images = inputs(dtype=torch.float32)

    class At(nn.Module):
        def __init__(self):
            super().__init__()
            self.dynamics = copy.deepcopy(dynamics)
            self.register_buffer("theta", theta[1])

        def forward(self, images_B):
            hidden, outputs = self.dynamics(self.theta[None], images_B)
            return [stage[0] for stage in hidden], outputs[0]

    dynamics = make(conditioning, dtype=torch.float32)
    exported = torch.export.export(At().eval(), (images,)).module()
    with torch.no_grad():
        hidden, outputs = exported(images)
        expected, outputs_1 = dynamics.reference(theta[1], images)
    for ours, theirs in zip([*hidden, outputs], [*expected, outputs_1], strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-4)


def test_it_says_what_images_are_offered():
    with pytest.raises(InputError, match=r"conditioning='lowrank'.*concat and film"):
        make("lowrank")
