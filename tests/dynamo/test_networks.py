"""Stacked networks against torch's own modules and numerical derivatives."""

import pytest
import torch

from dynamo_dist import InputError
from dynamo_dist.networks import Recurrent, recurrence, stack_class

EPS = torch.finfo(torch.float64).eps


def tensors(*shapes):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("networks", [1, 3])
def test_written_out_gradients_are_the_numerical_ones(networks):
    time, batch, hidden = 4, 2, 3
    gru = tensors((time, networks, batch, 3 * hidden), (networks, hidden, 3 * hidden), (networks, 1, hidden), (networks, batch, hidden))
    rnn = tensors((time, networks, batch, hidden), (networks, hidden, hidden), (networks, batch, hidden))
    assert torch.autograd.gradcheck(recurrence.gru, gru)
    assert torch.autograd.gradcheck(recurrence.rnn, rnn)


def test_fast_recurrences_equal_their_oracles():
    time, networks, batch, hidden = 12, 3, 4, 6
    gru = tensors((time, networks, batch, 3 * hidden), (networks, hidden, 3 * hidden), (networks, 1, hidden), (networks, batch, hidden))
    rnn = tensors((time, networks, batch, hidden), (networks, hidden, hidden), (networks, batch, hidden))
    # Rounding of one step, amplified by at most the recurrence over `time` steps.
    bound = 100 * time * EPS
    assert torch.allclose(recurrence.gru(*gru), recurrence.gru_reference(*gru), rtol=0, atol=bound)
    assert torch.allclose(recurrence.rnn(*rnn), recurrence.rnn_reference(*rnn), rtol=0, atol=bound)


@pytest.mark.parametrize("cell", ["gru", "rnn"])
@pytest.mark.parametrize("vocabulary", [9, 400])  # fewer words than positions, and more: two ways to the input part
def test_stack_equals_torch_modules(cell, vocabulary):
    architecture = Recurrent(cell=cell, hidden=7, features=5, vocabulary=vocabulary, outputs=3)
    stack = stack_class(architecture).initial(architecture, range(4)).to(torch.float64)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, vocabulary, (4, 6, 8), generator=generator)
    lengths = torch.randint(1, 9, (4, 6), generator=generator)
    h_TMBH, logits_MBC = stack(tokens, lengths)
    for m in range(4):
        h_BTH, logits_BC = stack.network(m)(tokens[m], lengths[m])
        assert torch.allclose(h_TMBH[:, m].transpose(0, 1), h_BTH, rtol=0, atol=1e-13)
        assert torch.allclose(logits_MBC[m], logits_BC, rtol=0, atol=1e-13)


def test_initial_parameters_depend_on_the_own_seed_alone():
    architecture = Recurrent(cell="gru", hidden=4, features=3, vocabulary=6, outputs=2)
    together = stack_class(architecture).initial(architecture, [5, 6, 7])
    alone = stack_class(architecture).initial(architecture, [6])
    for name, p in together.parameters.items():
        assert torch.equal(p[1], alone.parameters[name][0])
        assert not torch.equal(p[0], p[1])


def test_wrong_architecture_is_refused_with_the_field():
    with pytest.raises(InputError, match=r"cell='lstn'.*gru, lstm, ugrnn, rnn, rnn-relu"):
        Recurrent(cell="lstn", hidden=4, features=3, vocabulary=6, outputs=2)
    with pytest.raises(InputError, match="hidden=-4"):
        Recurrent(cell="gru", hidden=-4, features=3, vocabulary=6, outputs=2)
