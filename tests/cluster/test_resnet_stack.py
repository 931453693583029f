"""The benchmark of convolutional stacks compares ways that compute the same."""

import pytest
import torch

from cluster.experiments.resnet_stack import Plain, Unfold
from dynamo_dist.networks import Convolutional, StackedConvolutional


@pytest.mark.parametrize("way", [Plain, Unfold])
@pytest.mark.parametrize("kind, depth", [("resnet", 8), ("cnn", 3)])
def test_other_ways_have_the_same_outputs_statistics_and_gradients(way, kind, depth):
    architecture = Convolutional(kind=kind, depth=depth, width=5, channels=3, outputs=4)
    images = torch.randn(3, 6, 3, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def results(kind):
        stack = StackedConvolutional.initial(architecture, range(3)).to(torch.float64)
        stack.pass_of = kind
        for parameter in stack.parameters.values():
            parameter.requires_grad_()
        hidden, outputs = stack(images, None, training=True)
        (outputs.square().sum() + hidden[0].square().mean()).backward()
        tensors = [outputs, *hidden, *stack.statistics.values(), *(p.grad for p in stack.parameters.values())]
        return [tensor.detach() for tensor in tensors]

    for ours, theirs in zip(results(StackedConvolutional.pass_of), results(way), strict=True):
        # As in tests/dynamo/test_convolutional.py: layers * products of one sum, forward and backward.
        assert torch.allclose(ours, theirs, rtol=0, atol=2 * depth * 9 * 40 * 2.3e-16 * max(1.0, float(theirs.abs().max())))
