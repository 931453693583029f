"""Stacked networks against torch's own modules and numerical derivatives."""

import pytest
import torch

from dynamo_dist import InputError
from dynamo_dist.networks import Recurrent, recurrence, stack_class
from dynamo_dist.networks.architecture import CELLS

EPS = torch.finfo(torch.float64).eps


def tensors(*shapes):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


def cell_inputs(networks, time, batch=2, hidden=3):
    """Arguments of every recurrence: input part, recurrent weights, bias inside (GRU only), initial states."""

    def arguments(gates, states, *bias):
        return tensors((time, networks, batch, gates * hidden), (networks, hidden, gates * hidden), *bias, *states)

    state = (networks, batch, hidden)
    return {
        "gru": arguments(3, [state], (networks, 1, hidden)),
        "lstm": arguments(4, [state, state]),
        "ugrnn": arguments(2, [state]),
        "rnn": arguments(1, [state]),
    }


@pytest.mark.parametrize("networks", [1, 3])
def test_written_out_gradients_are_the_numerical_ones(networks):
    for cell, arguments in cell_inputs(networks, 4).items():
        assert torch.autograd.gradcheck(getattr(recurrence, cell), arguments), cell
    assert torch.autograd.gradcheck(lambda *rnn: recurrence.rnn(*rnn, relu=True), cell_inputs(networks, 4)["rnn"])


def test_fast_recurrences_equal_their_oracles():
    time = 12
    # Rounding of one step, amplified by at most the recurrence over `time` steps.
    bound = 100 * time * EPS
    cases = [(cell, arguments, {}) for cell, arguments in cell_inputs(3, time, batch=4, hidden=6).items()]
    for cell, arguments, options in [*cases, ("rnn", cases[-1][1], {"relu": True})]:
        fast, slow = (getattr(recurrence, name)(*arguments, **options) for name in (cell, f"{cell}_reference"))
        for ours, theirs in zip(fast, slow, strict=True) if cell == "lstm" else [(fast, slow)]:
            # A relu network may grow: relative to its size.
            assert torch.allclose(ours, theirs, rtol=bound, atol=bound), (cell, options)


def test_networks_in_groups_give_the_bits_of_all_at_once(monkeypatch):
    # Wider than the layout by step allows, and 5 networks in groups of 2: the last one alone.
    for cell, arguments in cell_inputs(5, 6, batch=64, hidden=24).items():
        results = []
        for cached in (2**30, 2 * 64 * 24):
            monkeypatch.setattr(recurrence, "_CACHED", cached)
            states = getattr(recurrence, cell)(*arguments)
            states = states if isinstance(states, tuple) else (states,)
            gradients = torch.autograd.grad(sum(own.square().sum() for own in states), arguments)
            with torch.no_grad():
                results.append([*states, *gradients, getattr(recurrence, cell)(*arguments)[0]])
        assert all(torch.equal(*same) for same in zip(*results, strict=True)), cell


def test_mixed_states_go_on_from_the_mixture():
    share = torch.tensor([0.0, 0.25, 1.0, 0.5], dtype=torch.float64)
    for cell, (x, *of_network) in cell_inputs(3, 7, batch=4, hidden=5).items():
        constant, start = of_network[: 2 if cell == "gru" else 1], of_network[2 if cell == "gru" else 1 :]

        def run(name, x, *states, constant=constant):
            found = getattr(recurrence, name)(x, *constant, *states)
            return found if isinstance(found, tuple) else (found,)

        mixing = recurrence.Mixing(step=3, share_B=share)
        fast = recurrence.mixed(lambda x, *states, cell=cell: run(cell, x, *states), x, start, mixing)
        slow, states = [], start
        for t in range(7):
            if t == 3:
                before = [h[:, [3, 0, 1, 2]] for h in states]
                states = [(1 - share[:, None]) * h + share[:, None] * other for h, other in zip(states, before, strict=True)]
            states = [h[0] for h in run(f"{cell}_reference", x[t : t + 1], *states)]
            slow.append(states)
        for kind, ours in enumerate(fast):
            assert torch.allclose(ours, torch.stack([states[kind] for states in slow]), rtol=0, atol=1e-13), cell
        every = (x, *of_network)
        expected = torch.autograd.grad(sum(h.square().sum() for states in slow for h in states), every)
        for ours, theirs in zip(torch.autograd.grad(sum(h.square().sum() for h in fast), every), expected, strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-12), cell
        beyond = recurrence.Mixing(step=7, share_B=share)  # a batch of sequences that are all shorter
        assert torch.equal(recurrence.mixed(lambda x, *states, cell=cell: run(cell, x, *states), x, start, beyond)[0], run(cell, x, *start)[0])


@pytest.mark.parametrize(("device", "calls"), [("cpu", [2, 2, 1]), ("meta", [5])])  # meta: any device but a CPU
def test_groups_are_for_the_caches_of_a_cpu(monkeypatch, device, calls):
    monkeypatch.setattr(recurrence, "_CACHED", 2 * 4 * 3)
    seen = []
    states, over_time = torch.zeros(5, 4, 3, device=device), torch.zeros(6, 5, 4, 3, device=device)
    recurrence._in_groups(lambda x, h: seen.append((x.shape[1], len(h))), (over_time,), (states,))
    assert seen == [(count, count) for count in calls]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("every_step", [False, True])
@pytest.mark.parametrize("vocabulary", [9, 400, None])  # fewer words than positions, and more: two ways to the input part; no words
def test_stack_equals_torch_modules(cell, every_step, vocabulary):
    architecture = Recurrent(cell=cell, hidden=7, features=5, vocabulary=vocabulary, outputs=3, every_step=every_step)
    stack = stack_class(architecture).initial(architecture, range(4)).to(torch.float64)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, vocabulary or 1, (4, 6, 8), generator=generator)
    if vocabulary is None:
        inputs = torch.randn(4, 6, 8, 5, generator=generator, dtype=torch.float64)
    lengths = torch.randint(1, 9, (4, 6), generator=generator)
    h_TMBH, outputs = stack(inputs, lengths)
    assert outputs.shape == ((4, 6, 8, 3) if every_step else (4, 6, 3)) and h_TMBH.shape[-1] == architecture.state
    for m in range(4):
        h_BTH, own = stack.network(m)(inputs[m], lengths[m])
        assert torch.allclose(h_TMBH[:, m, :, :7].transpose(0, 1), h_BTH, rtol=0, atol=1e-13)
        assert torch.allclose(outputs[m], own, rtol=0, atol=1e-13)


@pytest.mark.parametrize("vocabulary", [11, None])
def test_wide_lstms_train_by_torchs_own_layers_to_the_same_gradients(monkeypatch, vocabulary):
    architecture = Recurrent(cell="lstm", hidden=128, features=5, vocabulary=vocabulary, outputs=2)
    cpu = torch.device("cpu")
    assert recurrence.prefers_own_layers("lstm", 128, cpu) and not recurrence.prefers_own_layers("gru", 128, cpu)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 4, 6, 5, generator=generator, dtype=torch.float64)
    inputs = inputs if vocabulary is None else torch.randint(0, vocabulary, (3, 4, 6), generator=generator)
    results = []
    for own in (True, False):
        monkeypatch.setattr(recurrence, "prefers_own_layers", lambda *_, own=own: own)
        stack = stack_class(architecture).initial(architecture, range(3)).to(torch.float64)
        for p in stack.parameters.values():
            p.requires_grad_()
        _, outputs = stack(inputs, torch.tensor([[6, 3, 1, 5]]), training=True)
        outputs.square().sum().backward()
        results.append([outputs, *(p.grad for p in stack.parameters.values())])
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_the_state_of_an_lstm_is_h_and_c():
    architecture = Recurrent(cell="lstm", hidden=4, features=3, outputs=2)
    stack = stack_class(architecture).initial(architecture, [0]).to(torch.float64)
    inputs = torch.randn(1, 2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    h_TMBH, _ = stack(inputs, torch.tensor([[5, 5]]))
    _, (_, c) = stack.network(0).recurrent(inputs[0])
    assert torch.allclose(h_TMBH[-1, 0, :, 4:], c[0], rtol=0, atol=1e-14)


def test_gradients_of_a_stack_are_those_of_vmap_over_the_stock_gru():
    architecture = Recurrent(cell="gru", hidden=6, features=4, outputs=2)
    stack = stack_class(architecture).initial(architecture, range(3)).to(torch.float64)
    inputs = torch.randn(3, 5, 7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    module = stack.network(0)
    states = [stack.network(m).state_dict() for m in range(3)]
    stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}

    def loss(parameters, x):
        return torch.func.functional_call(module, parameters, (x,))[1].square().sum()

    theirs = torch.func.vmap(torch.func.grad(loss))(stacked, inputs)
    for p in stack.parameters.values():
        p.requires_grad_()
    _, outputs = stack(inputs, torch.full((3, 5), 7), training=True)
    outputs.square().sum().backward()
    for ours, name in (("w_recurrent", "recurrent.weight_hh_l0"), ("w_input", "recurrent.weight_ih_l0"), ("w_readout", "readout.weight")):
        assert torch.allclose(stack.parameters[ours].grad.transpose(1, 2), theirs[name], rtol=1e-11, atol=1e-12)
    assert torch.allclose(stack.parameters["b_recurrent"].grad[:, 0], theirs["recurrent.bias_hh_l0"], rtol=1e-11, atol=1e-12)


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
