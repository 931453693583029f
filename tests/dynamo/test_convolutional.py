"""Stacked convolutional networks against loops over plain torch modules, float64."""

import dataclasses
import os
import subprocess
import sys

import pytest
import torch
from torch.nn import functional

from dynamo_dist import InputError
from dynamo_dist.networks import Convolutional, ResNet, SmallCNN, StackedConvolutional, stack_class
from dynamo_dist.networks.convolutional import PASS_BYTES, convolution_method
from dynamo_dist.population.training import StackedAdam, clip_per_network

EPS = torch.finfo(torch.float64).eps
# Width 5: no multiple of any vector register, where a kernel that pads or merges groups would show.
RESNET = Convolutional(kind="resnet", depth=8, width=5, channels=3, outputs=4)
CNN = Convolutional(kind="cnn", depth=3, width=5, channels=3, outputs=4)
DEEP = Convolutional(kind="resnet", depth=34, width=2, channels=1, outputs=3)


def rounding(architecture):
    """Bound on the relative difference of two orders of summation: a layer sums at most 9 * 8w products, every step of a sum
    rounds once, and normalisation keeps maps at unit size, so layers add up; backward as many again."""
    return 2 * architecture.depth * 9 * 8 * architecture.width * EPS


def near(a, b, bound):
    return torch.allclose(a, b, rtol=0, atol=bound * max(1.0, float(b.detach().abs().max())))


def make(architecture, networks=4, *, batch=6, shape=(9, 8), at_once=None):
    """A stack with parameters of no special value, images and labels."""
    stack = StackedConvolutional.initial(architecture, range(networks)).to(torch.float64)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in stack.tensors.items():
        if ".norm." in name:  # fresh ones are 0 and 1
            tensor.add_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64))
    for parameter in stack.parameters.values():
        parameter.requires_grad_()
    stack.at_once = at_once
    images = torch.randn(networks, batch, architecture.channels, *shape, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, architecture.outputs, (networks, batch), generator=generator)
    return stack, images, labels


def loss_of(outputs_BC, labels_B):
    return functional.cross_entropy(outputs_BC, labels_B)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("at_once", [1, 3, 4])  # one by one, with a rest, all
@pytest.mark.parametrize("architecture", [RESNET, CNN, DEEP], ids=lambda a: a.label)
def test_stack_equals_plain_modules(architecture, at_once, training):
    stack, images, labels = make(architecture, at_once=at_once)
    bound = rounding(architecture)
    modules = [stack.network(m).train(training) for m in range(4)]
    hidden, outputs = stack(images, None, training=training)
    sum(loss_of(o, y) for o, y in zip(outputs, labels, strict=True)).backward()
    if training:
        stack.update_buffers(torch.tensor([True, True, False, True]))
    for m, module in enumerate(modules):
        before = {name: b.clone() for name, b in module.named_buffers()}
        hidden_m, outputs_m = module(images[m])
        loss_of(outputs_m, labels[m]).backward()
        assert near(outputs[m], outputs_m, bound)
        assert len(hidden) == len(hidden_m)
        assert all(near(a[m], b, bound) for a, b in zip(hidden, hidden_m, strict=True))
        for name, p in module.named_parameters():
            assert near(stack.parameters[name].grad[m], p.grad, bound), name
        after = dict(module.named_buffers()) if m != 2 else before
        for name, b in stack.buffers.items():
            assert near(b[m], after[name], bound), name
            assert m != 2 or torch.equal(b[m], before[name])


@pytest.mark.parametrize("architecture", [RESNET, CNN], ids=lambda a: a.label)
def test_images_that_all_share_are_as_good_as_copies(architecture):
    stack, images, _ = make(architecture)
    for training in (False, True):
        shared = stack(images[:1], None, training=training)[1]
        assert near(shared, stack(images[:1].expand_as(images), None, training=training)[1], rounding(architecture))


@pytest.mark.parametrize("at_once", [1, 4])
@pytest.mark.parametrize("architecture", [RESNET, CNN], ids=lambda a: a.label)
def test_training_equals_a_loop_of_torch_modules(architecture, at_once):
    """Adam moves a parameter by rate * g / (|g| + 1e-8), so an error e of g moves it by at most rate * e / 1e-8 more a step."""
    steps, rate = 5, 1e-3
    stack, images, labels = make(architecture, at_once=at_once)
    modules = [stack.network(m).train() for m in range(4)]
    optimisers = [torch.optim.Adam(module.parameters(), lr=rate) for module in modules]
    parameters = list(stack.parameters.values())
    optimiser = StackedAdam(parameters)
    for step in range(steps):
        x, y = images.roll(step, 1)[:, :5], labels.roll(step, 1)[:, :5]
        for p in parameters:
            p.grad = None
        sum(loss_of(o, t) for o, t in zip(stack(x, None, training=True)[1], y, strict=True)).backward()
        finite_M = clip_per_network(parameters, torch.full((4,), 0.5, dtype=torch.float64))
        optimiser.step(torch.full((4,), rate, dtype=torch.float64))
        stack.update_buffers(finite_M)
        for m, module in enumerate(modules):
            optimisers[m].zero_grad()
            loss_of(module(x[m])[1], y[m]).backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 0.5)
            optimisers[m].step()
    bound = steps * rate * rounding(architecture) / 1e-8
    assert bound < 0.01 * steps * rate  # of the way that parameters go
    for m, module in enumerate(modules):
        state = module.state_dict()
        for name, tensor in stack.tensors.items():
            assert near(tensor[m], state[name], bound), name


@pytest.mark.parametrize("poisoned", ["images", "parameters"])
@pytest.mark.parametrize("width", [5, 8])  # 8 fills a vector register: other kernels in float32
@pytest.mark.parametrize("at_once", [2, 4])
@pytest.mark.parametrize("architecture", [RESNET, CNN], ids=lambda a: a.label)
def test_a_network_that_turns_nan_leaves_its_neighbours_bitwise_unchanged(architecture, at_once, width, poisoned):
    architecture = dataclasses.replace(architecture, width=width)

    def fresh():
        stack = make(architecture)[0].detach().to(torch.float32)
        stack.at_once = at_once
        return stack

    def trained(poison):
        stack, (_, images, labels) = fresh(), make(architecture)
        images = images.float()
        (images if poisoned == "images" else stack.parameters["readout.weight"])[1].flatten()[0] = poison
        parameters = [p.requires_grad_() for p in stack.parameters.values()]
        optimiser = StackedAdam(parameters)
        for _ in range(3):
            for p in parameters:
                p.grad = None
            sum(loss_of(o, y) for o, y in zip(stack(images, None, training=True)[1], labels, strict=True)).backward()
            finite_M = clip_per_network(parameters, torch.ones(4))
            optimiser.step(torch.where(finite_M, 1e-3, 0.0))
            stack.update_buffers(finite_M)
        return stack.detach().tensors, finite_M

    (healthy, all_finite_M), (tensors, finite_M) = trained(0.5), trained(float("nan"))
    assert all_finite_M.all() and finite_M.tolist() == [True, False, True, True]
    start = fresh().tensors
    for name, tensor in tensors.items():
        assert torch.equal(tensor[finite_M], healthy[name][finite_M]), name
        assert name == "readout.weight" or torch.equal(tensor[1], start[name][1]), name


def test_initial_parameters_depend_on_the_own_seed_alone():
    together, alone = StackedConvolutional.initial(RESNET, [5, 6, 7]), StackedConvolutional.initial(RESNET, [6])
    for name, tensor in together.tensors.items():
        assert torch.equal(tensor[1], alone.tensors[name][0])
    for name in ("stem.convolution.weight", "stages.2.0.shortcut.convolution.weight", "readout.weight", "readout.bias"):
        assert not torch.equal(together.tensors[name][0], together.tensors[name][1])


@pytest.mark.parametrize("architecture", [RESNET, CNN], ids=lambda a: a.label)
def test_initial_parameters_are_distributed_as_torchs(architecture):
    """Largest and mean square of a uniform law, over 60 networks of each."""
    stack = StackedConvolutional.initial(architecture, range(60))
    torch.manual_seed(0)
    plain = [type(stack.network(0))(architecture).state_dict() for _ in range(60)]
    for name, tensor in stack.tensors.items():
        theirs = torch.stack([state[name] for state in plain])
        assert tensor.shape == theirs.shape
        # Of n draws the mean square has the relative standard deviation sqrt(4/5 / n), the difference of two sqrt(2) times that:
        # 4.5 of them. The largest of n is nearer to the end.
        slack = 4 * (2 / tensor.numel()) ** 0.5
        assert float(tensor.abs().max()) == pytest.approx(float(theirs.abs().max()), rel=slack, abs=1e-9)
        assert float(tensor.square().mean()) == pytest.approx(float(theirs.square().mean()), rel=slack, abs=1e-9)


@pytest.mark.parametrize("architecture", [RESNET, CNN, DEEP], ids=lambda a: a.label)
def test_exported_state_loads_strictly(architecture):
    stack, images, _ = make(architecture)
    module = stack.network(2)
    other = type(module)(architecture).double().eval()
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(images[2])[1], module(images[2])[1])
    assert stack_class(architecture) is StackedConvolutional


def test_trajectory_of_the_digits_and_of_odd_sizes():
    def shapes(architecture, *size):
        images = torch.zeros(2, 3, architecture.channels, *size)
        return [tuple(h.shape) for h in StackedConvolutional.initial(architecture, range(2))(images)[0]]

    assert shapes(CNN, 8, 8) == [(2, 3, 5, 4, 4), (2, 3, 10, 2, 2), (2, 3, 20, 1, 1), (2, 3, 20)]
    assert shapes(CNN, 5, 7) == [(2, 3, 5, 2, 3), (2, 3, 10, 1, 1), (2, 3, 20, 1, 1), (2, 3, 20)]
    assert shapes(RESNET, 8, 8) == [(2, 3, 5, 8, 8), (2, 3, 10, 4, 4), (2, 3, 20, 2, 2), (2, 3, 20)]
    assert shapes(RESNET, 7, 5) == [(2, 3, 5, 7, 5), (2, 3, 10, 4, 3), (2, 3, 20, 2, 2), (2, 3, 20)]
    assert shapes(DEEP, 8, 8) == [(2, 3, 2, 8, 8), (2, 3, 4, 4, 4), (2, 3, 8, 2, 2), (2, 3, 16, 1, 1), (2, 3, 16)]


def test_networks_in_one_pass_are_as_many_as_the_bytes_allow():
    def method(width, *shape, networks=32):
        architecture = Convolutional(kind="resnet", depth=8, width=width, channels=shape[2], outputs=10)
        return convolution_method(architecture, torch.empty(shape), networks)

    assert method(8, 32, 32, 1, 8, 8) == 32  # 64 KB each: all
    assert 1 < method(16, 32, 64, 1, 8, 8) < 32  # 256 KB each: some
    assert method(16, 32, 64, 3, 32, 32) == 1  # 4 MB: a loop
    for batch in (1, 7, 64, 1000):
        at_once = method(8, 1, batch, 3, 32, 32)
        assert at_once == 1 or at_once * batch * 8 * 32 * 32 * 4 <= PASS_BYTES
        assert 1 <= method(8, 1, batch, 3, 32, 32, networks=2) <= 2


def parameters_of(**fields):
    return sum(p.numel() for p in ResNet(Convolutional(kind="resnet", **fields)).parameters())


def test_parameter_counts_are_the_published_ones():
    # Table 6 of arXiv 1512.03385: 0.27M for ResNet-20, whose shortcuts have no parameters (option A). Ours are 1x1 convolutions
    # with batch normalisation (option B), twice: 16 * 32 + 2 * 32 and 32 * 64 + 2 * 64.
    ours = parameters_of(depth=20, width=16, channels=3, outputs=10)
    assert ours - (16 * 32 + 2 * 32) - (32 * 64 + 2 * 64) == 269_722
    # torchvision's resnet34 has 21,797,672 and a 7x7 stem instead of 3x3.
    assert parameters_of(depth=34, width=64, channels=3, outputs=1000) == 21_797_672 - (49 - 9) * 3 * 64
    cnn = SmallCNN(Convolutional(kind="cnn", depth=3, width=8, channels=1, outputs=10))
    assert sum(p.numel() for p in cnn.parameters()) == 9 * (8 + 8 * 16 + 16 * 32) + 2 * (8 + 16 + 32) + 33 * 10


def test_wrong_architectures_are_refused_with_the_field():
    good = {"kind": "resnet", "depth": 8, "width": 4, "channels": 1, "outputs": 2}
    for field, value, expected in (
        ("kind", "vgg", r"kind='vgg'.*resnet or cnn"),
        ("depth", 18, r"depth=18.*8, 20, 34.*'resnet'"),
        ("width", 0, "width=0"),
        ("channels", -1, "channels=-1"),
        ("outputs", 2.5, r"outputs=2\.5"),
    ):
        with pytest.raises(InputError, match=expected):
            Convolutional(**{**good, field: value})
    with pytest.raises(InputError, match=r"depth=8: expected one of 3 for kind='cnn'"):
        Convolutional(**{**good, "kind": "cnn"})


GRADIENTS = """
import torch
from dynamo_dist.networks.convolutional import channels_last_convolution
for channels, stride, size in [(4, 2, 1), (4, 2, 3), (6, 2, 1), (1, 1, 3), (4, 1, 1)]:
    for _ in range(4):
        x, w = torch.randn(32, channels, 8, 8, requires_grad=True), torch.randn(8, channels, size, size, requires_grad=True)
        y = channels_last_convolution(x, w, stride)
        torch.testing.assert_close(y, torch.nn.functional.conv2d(x, w, stride=stride, padding=size // 2), rtol=1e-4, atol=1e-4)
        y.backward(torch.randn_like(y))
        del x, w, y
"""


def test_gradients_of_few_channels_leave_the_heap_whole():
    # Where the library of the checked malloc is missing the loader only warns, and values alone are compared.
    checked = {"LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_CHECK_": "3"} if sys.platform == "linux" else {}
    done = subprocess.run([sys.executable, "-c", GRADIENTS], env=os.environ | checked, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
